"""Losses for ranking positive cases before negative ones: the area under the ROC curve.

They couple the samples of a batch. All take logits (N, K) of float32 or float64 and a target: (N,)
int64 in classification; for several findings (N, K) of 1, 0, or nan if an answer is missing. They
return the same value for each sample (N,).
"""

import torch
from torch import Tensor

from bench.losses.numbers.findings import told
from bench.losses.reductions import Total, one_hot


def auc_margin(logits: Tensor, target: Tensor, total: Total, *, margin: float) -> Tensor:
    """Return the mean over classes of var(p+) + var(p-) + max(0, margin + mean(p-) - mean(p+))^2.

    p+ are the probabilities of a class for the cases of the global batch whose answer it is, p- for
    the others. That is the AUC margin loss with its auxiliary variables at their optimum for the
    batch: a = mean(p+), b = mean(p-), alpha = max(0, margin + b - a). A term for which the batch
    has no case is 0.
    """
    if target.dim() == logits.dim():
        known, g = told(logits, target)
        p = torch.sigmoid(logits)
    else:
        p = torch.softmax(logits, dim=1)
        known, g = torch.ones_like(p), one_hot(target, p)
    sides = (g * known, (1 - g) * known)
    sums = total(torch.stack([(w * p**k).sum(0) for w in sides for k in range(3)]))
    (n, mean, spread), (m, other, others) = (_moments(sums[i : i + 3]) for i in (0, 3))
    short = (margin + other - mean).clamp_min(0) ** 2
    each = spread + others + torch.where((n > 0) & (m > 0), short, 0)
    return each.mean().expand(len(logits))


def _moments(sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return number, mean and variance (K,) from sums (3, K) of the powers 0, 1 and 2."""
    number = sums[0].clamp_min(1)
    mean = sums[1] / number
    return sums[0], mean, sums[2] / number - mean**2
