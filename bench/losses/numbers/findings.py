"""Losses for several findings at once, each by itself present or absent.

All take logits (N, K) of float32 or float64 and target (N, K) of 1, 0, or nan if an answer is
missing, and return for each sample the mean over its known findings (N,).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.losses.reductions import LEAST


def binary_cross_entropy(logits: Tensor, target: Tensor, *, label_smoothing: float) -> Tensor:
    """Return -g log p - (1 - g) log(1 - p); `label_smoothing` is spread over yes and no."""
    return weighted_binary_cross_entropy(
        logits, target, logits.new_ones(logits.shape[1]), label_smoothing=label_smoothing
    )


def weighted_binary_cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor, *, label_smoothing: float
) -> Tensor:
    """Return -w g log p - (1 - g) log(1 - p), with weights w (K,) of present findings.

    w is torch's `pos_weight`. `label_smoothing` is spread over yes and no.
    """
    known, g = told(logits, target)
    smooth = g * (1 - label_smoothing) + label_smoothing / 2
    each = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights, reduction="none")
    return _mean(each, known)


def binary_focal(logits: Tensor, target: Tensor, *, gamma: float) -> Tensor:
    """Return -(1 - q)^gamma log q, q the probability of the right answer."""
    known, g = told(logits, target)
    surprise = F.binary_cross_entropy_with_logits(logits, g, reduction="none")
    shape = (-torch.expm1(-surprise)).clamp_min(LEAST) ** gamma
    return _mean(shape * surprise, known)


def asymmetric(
    logits: Tensor,
    target: Tensor,
    *,
    gamma_positive: float,
    gamma_negative: float,
    margin: float,
) -> Tensor:
    """Return the asymmetric loss of Ridnik et al. 2021, which discounts easy negatives.

    A present finding costs -(1 - p)^gamma_positive log p, an absent one
    -m^gamma_negative log(1 - m), m = max(p - margin, 0).
    """
    known, g = told(logits, target)
    there = torch.sigmoid(-logits).clamp_min(LEAST) ** gamma_positive * -F.logsigmoid(logits)
    m = (torch.sigmoid(logits) - margin).clamp_min(0)
    if margin == 0:
        # log(1 - p), also for a p that rounds to 1.
        absent = m.clamp_min(LEAST) ** gamma_negative * -F.logsigmoid(-logits)
    else:
        absent = m.clamp_min(LEAST) ** gamma_negative * -torch.log1p(-m)
    return _mean(g * there + (1 - g) * absent, known)


def told(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return which answers are known, and the answers with 0 in place of unknown ones."""
    known = ~target.isnan()
    return known, torch.where(known, target, 0).to(logits)


def _mean(each: Tensor, known: Tensor) -> Tensor:
    """Return the mean (N,) over the known findings; 0 if none is known."""
    return torch.where(known, each, 0).sum(1) / known.sum(1).clamp_min(1)
