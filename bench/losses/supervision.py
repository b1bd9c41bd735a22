"""The value of a loss on all that a network gives: its logits, coarser levels, presence of classes.

A segmentation network may give logits of coarser levels while it trains (deep supervision) and,
beside the label map, logits of whether each class occurs in the patch at all.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.losses.table import Criterion, Total
from models.output import Output

# (what the network gave, target, and what the loader made of the target, if it did) -> values (N,)
Supervised = Callable[..., Tensor]

# Level l of deep supervision weighs 1 / 2^l, the weights brought to a sum of 1: Isensee et al.
# 2021 (nnU-Net), supplementary note 2.
LEVEL = 0.5
# What presence weighs beside the segmentation. Assumption: equal parts.
PRESENCE = 1.0


def logits_of(given: Tensor | Output) -> Tensor:
    """Return the logits (N, C, ...) at full resolution."""
    return given.logits if isinstance(given, Output) else given


def as_target(answers: Tensor) -> Tensor:
    """Return answers as losses take them: classes and label maps as int64, numbers as they are."""
    return answers if answers.is_floating_point() else answers.long()


def supervised(criterion: Criterion, class_weights: Tensor | None, total: Total) -> Supervised:
    """Return the loss of all heads of a network, for each sample (N,).

    Coarser levels are compared to the label map at their own size, by its nearest voxels; what the
    loader made of the label map is for the full size alone. Presence is scored by binary
    cross-entropy over the classes but the background.
    """

    def values(given: Tensor | Output, target: Tensor, derived: Tensor | None = None) -> Tensor:
        made = {} if derived is None else {"derived": derived}
        if not isinstance(given, Output):
            return criterion(given, target, class_weights, total, **made)
        levels = [given.logits, *given.deep]
        shares = [LEVEL**level for level in range(len(levels))]
        # What each level is given beside its target.
        makings = [made, *({} for _ in given.deep)]
        value = sum(
            share / sum(shares) * criterion(level, _at(target, level), class_weights, total, **own)
            for share, level, own in zip(shares, levels, makings, strict=True)
        )
        assert isinstance(value, Tensor)
        if given.presence is not None:
            value = value + PRESENCE * _presence_loss(given.presence.float(), target)
        return value

    return values


def _at(target: Tensor, level: Tensor) -> Tensor:
    """Return the label map (N, *spatial) at the size of `level` (N, C, *smaller)."""
    if target.shape[1:] == level.shape[2:]:
        return target
    smaller = F.interpolate(target[:, None].float(), size=level.shape[2:], mode="nearest-exact")
    return smaller[:, 0].long()


def present(target: Tensor, classes: int) -> Tensor:
    """Return whether each class occurs in each label map (N, *spatial), as float32 (N, C)."""
    flat = target.reshape(len(target), -1)
    found = torch.zeros(len(target), classes, device=target.device)
    return found.scatter_(1, flat, 1.0)


def _presence_loss(presence: Tensor, target: Tensor) -> Tensor:
    occurs = present(target, presence.shape[1])
    each = F.binary_cross_entropy_with_logits(presence, occurs, reduction="none")
    return each[:, 1:].mean(1)
