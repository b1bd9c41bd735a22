"""The value of a loss on all outputs of a network: logits, coarser levels, presence of classes.

A segmentation network may give logits of coarser levels in training (deep supervision) and, beside
the label map, logits for whether each class occurs in the patch at all.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.losses.table import Criterion, Loss, Total
from models.output import Output

# (output of the network, target, what the loader derived from the target, if it did) -> values (N,)
Supervised = Callable[..., Tensor]

# Level l of deep supervision weighs 1 / 2^l, with weights scaled to a sum of 1: Isensee et al. 2021
# (nnU-Net), supplementary note 2.
LEVEL = 0.5
# Weight of presence relative to the segmentation. Assumption: equal parts.
PRESENCE = 1.0


def logits_of(given: Tensor | Output) -> Tensor:
    """Return the logits (N, C, ...) at full resolution."""
    return given.logits if isinstance(given, Output) else given


def as_target(answers: Tensor) -> Tensor:
    """Return answers in the form of losses: classes and label maps as int64, numbers unchanged."""
    return answers if answers.is_floating_point() else answers.long()


def ignoring(row: Loss, criterion: Criterion, ignored: int) -> Criterion:
    """Return the loss of a row, with its settings, over the voxels whose label is not `ignored`.

    A sample in which no voxel counts costs 0, except for what it shares with the others of its
    batch. Raises ValueError if the row cannot leave voxels out.
    """
    if not row.ignoring:
        raise ValueError(f"loss {row.name} cannot leave out ignored voxels")

    def values(
        logits: Tensor, target: Tensor, class_weights: Tensor | None, total: Total, **made: Any
    ) -> Tensor:
        counted = target != ignored
        if row.ignoring == "counted":
            known = torch.where(counted, target, 0)
            return criterion(logits, known, class_weights, total, counted=counted, **made)
        if bool(counted.all()):
            return criterion(logits, target, class_weights, total, **made)
        each = []
        for own, labels, inside in zip(logits.flatten(2), target.flatten(1), counted, strict=True):
            kept = inside.flatten()
            if kept.any():
                each.append(
                    criterion(own[None, :, kept], labels[None, kept], class_weights, total, **made)
                )
            else:
                # Zero, but still connected to the network.
                each.append((own[None] * 0).sum((1, 2)))
        return torch.cat(each)

    return values


def rescaled(criterion: Criterion, learned: Callable[[Tensor], Tensor]) -> Criterion:
    """Return the loss of targets in the unit that a network learns, `learned(target)`."""

    def values(logits: Tensor, target: Tensor, *more: Any, **made: Any) -> Tensor:
        return criterion(logits, learned(target), *more, **made)

    return values


def supervised(criterion: Criterion, class_weights: Tensor | None, total: Total) -> Supervised:
    """Return the loss of all heads of a network, for each sample (N,).

    Coarser levels are compared with the label map at their own size (nearest voxels); what the
    loader derived from the label map is only for the full size. Presence is scored by binary
    cross-entropy over the classes except the background.
    """

    def values(given: Tensor | Output, target: Tensor, derived: Tensor | None = None) -> Tensor:
        made = {} if derived is None else {"derived": derived}
        if not isinstance(given, Output):
            return criterion(given, target, class_weights, total, **made)
        levels = [given.logits, *given.deep]
        shares = [LEVEL**level for level in range(len(levels))]
        # What each level gets besides its target.
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
    """Return whether each class occurs in each label map (N, *spatial), as float32 (N, C).

    Labels above those of the classes mark ignored voxels and do not count.
    """
    flat = target.reshape(len(target), -1).clamp_max(classes)
    found = torch.zeros(len(target), classes + 1, device=target.device)
    return found.scatter_(1, flat, 1.0)[:, :classes]


def _presence_loss(presence: Tensor, target: Tensor) -> Tensor:
    classes = presence.shape[1]
    occurs = present(target, classes)
    each = F.binary_cross_entropy_with_logits(presence, occurs, reduction="none")
    # A class without a voxel that counts may still be among the ignored voxels.
    whole = (target < classes).flatten(1).all(1, keepdim=True)
    return (each * torch.maximum(occurs, whole.to(occurs)))[:, 1:].mean(1)
