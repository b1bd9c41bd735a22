"""Losses for each voxel, or each classified image, by itself: the cross-entropy family.

Grades, which are ordered classes, have one more. It uses the same head as classes, unlike a loss of
K - 1 thresholds with shared weights (CORAL: Cao et al. 2020, arXiv 1901.07884).

All take logits (N, C, ...) of float32 or float64 and target (N, ...) int64, and return the mean of
each sample (N,). The background is a class like any other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.losses.reductions import LEAST, one_hot, sample_mean


def cross_entropy(logits: Tensor, target: Tensor, *, label_smoothing: float) -> Tensor:
    """Return -log p[target]; a share `label_smoothing` of the target is spread over all classes."""
    return sample_mean(
        F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    )


def weighted_cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor, *, label_smoothing: float
) -> Tensor:
    """Return -w[target] log p[target], with weights (C,).

    The sum is divided by the number of voxels, not by the sum of their weights, as torch's
    `reduction="mean"` does: that sum differs from batch to batch and from GPU to GPU.
    """
    return sample_mean(
        F.cross_entropy(
            logits, target, weight=weights, reduction="none", label_smoothing=label_smoothing
        )
    )


def focal(logits: Tensor, target: Tensor, *, gamma: float) -> Tensor:
    """Return -(1 - p)^gamma log p, p = p[target]."""
    return sample_mean(_focal(logits, target, gamma))


def weighted_focal(logits: Tensor, target: Tensor, weights: Tensor, *, gamma: float) -> Tensor:
    """Return -w[target] (1 - p)^gamma log p, p = p[target], with weights (C,)."""
    return sample_mean(weights[target] * _focal(logits, target, gamma))


def class_balanced(
    logits: Tensor, target: Tensor, counts: Tensor, *, beta: float, gamma: float
) -> Tensor:
    """Return -w[target] (1 - p)^gamma log p, w = (1 - beta) / (1 - beta^n) for a class's count n.

    `counts` (C,) are how often each class is drawn, at least once; the weights are scaled to a sum
    of C. For gamma = 0 it is cross-entropy.
    """
    share = -torch.expm1(counts * torch.as_tensor(beta).to(counts).log())
    weights = (1 / share) * (len(counts) / (1 / share).sum())
    return sample_mean(weights[target] * _focal(logits, target, gamma))


def _focal(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    surprise = F.cross_entropy(logits, target, reduction="none")
    return (-torch.expm1(-surprise)).clamp_min(LEAST) ** gamma * surprise


def generalized_cross_entropy(logits: Tensor, target: Tensor, *, q: float) -> Tensor:
    """Return (1 - p^q) / q, p = p[target]: cross-entropy for q to 0, 1 - p for q = 1."""
    surprise = F.cross_entropy(logits, target, reduction="none")
    return sample_mean(-torch.expm1(-q * surprise) / q)


def poly_cross_entropy(
    logits: Tensor, target: Tensor, *, epsilon: float, label_smoothing: float
) -> Tensor:
    """Return -log p + epsilon (1 - p), p = p[target]; labels are smoothed in both terms."""
    g = one_hot(target, logits) * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    p = (g * torch.softmax(logits, dim=1)).sum(1)
    surprise = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    return sample_mean(surprise + epsilon * (1 - p))


def asymmetric_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    gamma_positive: float,
    gamma_negative: float,
    label_smoothing: float,
) -> Tensor:
    """Return -sum_c(g_c w_c log p_c), with focal weights w of the true class and of the others.

    w is (1 - p)^gamma_positive for the true class and p^gamma_negative for the others. g is
    smoothed; without smoothing, only the true class remains.
    """
    log_p = torch.log_softmax(logits, dim=1)
    p, g = log_p.exp(), one_hot(target, logits)
    true = (-torch.expm1(log_p)).clamp_min(LEAST) ** gamma_positive
    w = torch.where(g > 0, true, p.clamp_min(LEAST) ** gamma_negative)
    smooth = g * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    return sample_mean(-(smooth * w * log_p).sum(1))


def margin_cross_entropy(
    logits: Tensor, target: Tensor, *, weight: float, margin: float, label_smoothing: float
) -> Tensor:
    """Return -log p[target] + weight mean_c(max(0, max(l) - l_c - margin)), l the logits."""
    surprise = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    beyond = (logits.amax(1, keepdim=True) - logits - margin).clamp_min(0).mean(1)
    return sample_mean(surprise + weight * beyond)


def top_k_cross_entropy(
    logits: Tensor, target: Tensor, *, share: float, label_smoothing: float
) -> Tensor:
    """Return the mean of -log p[target] over the `share` of each sample's voxels that cost most.

    It takes at least one voxel. nnU-Net takes the share from the voxels of the whole batch.
    """
    each = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    each = each.flatten(1)
    return each.topk(max(1, round(share * each.shape[1])), dim=1).values.mean(dim=1)


def squared_earth_movers_distance(logits: Tensor, target: Tensor) -> Tensor:
    """Return the sum of (P - G)^2 over the grades, P and G the cumulative probability and truth."""
    p = torch.softmax(logits, dim=1)
    return (p - one_hot(target, p)).cumsum(1).square().sum(1)
