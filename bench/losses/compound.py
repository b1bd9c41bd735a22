"""Losses that add an overlap loss and a voxel-wise loss, in equal parts unless a share is set.

All take logits (N, C, ...) of float32 or float64 and target (N, ...) int64 and return one value per
sample (N,).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.losses.cross_entropy import cross_entropy, focal, top_k_cross_entropy
from bench.losses.overlap import dice, dice_batch
from bench.losses.reductions import LEAST, Total, one_hot


def dice_cross_entropy(
    logits: Tensor, target: Tensor, *, smooth: float, label_smoothing: float
) -> Tensor:
    """Return linear Dice + cross-entropy; labels are smoothed only in the latter."""
    return dice(logits, target, smooth=smooth) + cross_entropy(
        logits, target, label_smoothing=label_smoothing
    )


def dice_batch_cross_entropy(
    logits: Tensor,
    target: Tensor,
    total: Total,
    *,
    smooth: float,
    label_smoothing: float,
    counted: Tensor | None = None,
) -> Tensor:
    """Return linear Dice of the global batch + cross-entropy of each sample; segmentation.

    `counted` (N, ...) says which voxels count, None: all. For a sample with none, the latter is 0.
    """
    region = dice_batch(logits, target, total, smooth=smooth, counted=counted)
    if counted is None:
        return region + cross_entropy(logits, target, label_smoothing=label_smoothing)
    each = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    number = counted.flatten(1).sum(1).clamp_min(1)
    return region + (each * counted).flatten(1).sum(1) / number


def dice_focal(logits: Tensor, target: Tensor, *, smooth: float, gamma: float) -> Tensor:
    """Return linear Dice + Focal loss, both of the softmax probabilities."""
    return dice(logits, target, smooth=smooth) + focal(logits, target, gamma=gamma)


def dice_top_k(
    logits: Tensor, target: Tensor, *, smooth: float, share: float, label_smoothing: float
) -> Tensor:
    """Return linear Dice + cross-entropy of the `share` of voxels that cost most; segmentation."""
    return dice(logits, target, smooth=smooth) + top_k_cross_entropy(
        logits, target, share=share, label_smoothing=label_smoothing
    )


def unified_focal(
    logits: Tensor, target: Tensor, *, balance: float, delta: float, gamma: float, smooth: float
) -> Tensor:
    """Return balance x asymmetric Focal + (1 - balance) x asymmetric focal Tversky; segmentation.

    Every class except the background (0) counts as the paper's rare class. Focal: a voxel of a rare
    class costs -delta log p, one of the background -(1 - delta) (1 - p)^gamma log p; the mean over
    the voxels. Tversky: T = (delta fn + (1 - delta) fp) / (tp + delta fn + (1 - delta) fp) for each
    class, to the power 1 - gamma for the rare ones; the mean over the classes.
    """
    log_p = torch.log_softmax(logits, dim=1).flatten(2)
    p = log_p.exp()
    g = one_hot(target.flatten(1), p)
    easy = (-torch.expm1(log_p[:, 0])).clamp_min(LEAST) ** gamma
    voxels = delta * (log_p * g)[:, 1:].sum(1) + (1 - delta) * easy * (log_p * g)[:, 0]
    overlap, missed, invented = ((p * g).sum(2), ((1 - p) * g).sum(2), (p * (1 - g)).sum(2))
    wrong = delta * missed + (1 - delta) * invented
    each = wrong / (overlap + wrong + smooth)  # (N, C)
    each = torch.cat([each[:, :1], each[:, 1:].clamp_min(LEAST) ** (1 - gamma)], dim=1)
    return -balance * voxels.mean(1) + (1 - balance) * each.mean(1)
