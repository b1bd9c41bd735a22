"""The losses: one row each.

A loss gives one value for each sample, and the loss of a batch is their mean. One that couples the
samples of a batch does so by sums that it takes over all processes of the trial (`total`), and
gives the same value to each sample. Value and gradient are then the same however a global batch is
split between GPUs. Probabilities are softmax probabilities; the number of classes C is at least 2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
import torch.distributed.nn.functional as distributed
import torch.nn.functional as F
from torch import Tensor, nn

from bench.settings import Setting, merge

# Sums a tensor over the processes of a trial, differentiably.
Total = Callable[[Tensor], Tensor]
# A loss with its settings: (logits, target, class weights, total) -> values (N,).
Criterion = Callable[[Tensor, Tensor, Tensor | None, Total], Tensor]

FOCUS = 2.0  # gamma of the Focal loss: Lin et al. 2017, section 5.1
SMOOTH = 1e-5  # MONAI's default: an absent class that is not predicted costs 0


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One loss of the table.

    `function(logits, target, class_weights, total, **settings)` takes logits (N, C) and target (N,)
    for classification, logits (N, C, *spatial) and target (N, *spatial) for segmentation, target
    int64 in 0..C-1: this process's share of a global batch. It returns the values (N,).
    `class_weights` (C,) is for the rows that are `weighted`; the others take None. `total` sums
    over the processes; rows that do not couple samples ignore it. `defaults` names every setting
    that a study may change.
    """

    name: str
    function: Callable[..., Tensor]
    defaults: Mapping[str, Setting] = field(default_factory=dict)
    tasks: tuple[str, ...]
    weighted: bool
    formula: str
    summary: str
    source: str

    def settings(self, params: Mapping[str, Any]) -> dict[str, Setting]:
        """Return every setting, `params` over the defaults; raises ValueError as `merge` does."""
        return merge(f"loss {self.name}", self.defaults, params)

    def bind(self, params: Mapping[str, Any]) -> Criterion:
        """Return the loss with its settings fixed; raises ValueError as `settings` does."""
        return partial(self.function, **self.settings(params))


def alone(value: Tensor) -> Tensor:
    """Return `value`: the sum over the processes where there is one."""
    return value


def over_processes(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes; gradients are summed on the way back."""
    summed: Tensor = distributed.all_reduce(value)
    return summed


def cross_entropy(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, total: Total
) -> Tensor:
    """Return -log p[target] of each sample (N,), the mean over its voxels; no weights."""
    del class_weights, total
    return _sample_mean(F.cross_entropy(logits, target, reduction="none"))


def weighted_cross_entropy(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, total: Total
) -> Tensor:
    """Return -w[target] log p[target] of each sample (N,), the mean over its voxels.

    The sum is divided by the number of voxels, not by the sum of their weights as torch's
    `reduction="mean"` would do: that sum differs from batch to batch and from GPU to GPU.
    Raises ValueError without weights.
    """
    del total
    if class_weights is None:
        raise ValueError("weighted cross-entropy needs the class weights of the training part")
    weights = class_weights.to(logits)
    return _sample_mean(F.cross_entropy(logits, target, weight=weights, reduction="none"))


def squared_dice(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, total: Total
) -> Tensor:
    """Return 1 - 2 sum(p g) / (sum(p^2) + sum(g^2)) of each sample (N,).

    Segmentation: sums over voxels, then the mean over the classes but the background (0).
    Classification: sums over the classes.
    """
    del class_weights, total
    return _dice(torch.softmax(logits, dim=1), target, squared=True)


def focal(logits: Tensor, target: Tensor, class_weights: Tensor | None, total: Total) -> Tensor:
    """Return -(1 - p)^2 log p, p = p[target], of each sample (N,), the mean over its voxels."""
    del class_weights, total
    surprise = F.cross_entropy(logits, target, reduction="none")
    return _sample_mean((-torch.expm1(-surprise)) ** FOCUS * surprise)


def dice_cross_entropy(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, total: Total
) -> Tensor:
    """Return linear Dice plus cross-entropy of each sample (N,), in equal parts.

    Linear: 1 - 2 sum(p g) / (sum(p) + sum(g)), over the same sums and classes as the squared form.
    """
    del class_weights, total
    log_p = torch.log_softmax(logits, dim=1)
    entropy = _sample_mean(F.nll_loss(log_p, target, reduction="none"))
    return entropy + _dice(log_p.exp(), target, squared=False)


def _dice(probability: Tensor, target: Tensor, *, squared: bool) -> Tensor:
    """Return MONAI's Dice loss of each sample (N,) from probabilities (N, C, ...)."""
    one_hot = torch.zeros_like(probability).scatter_(1, target.unsqueeze(1), 1.0)
    if probability.ndim == 2:  # the class vector takes the place of the voxels
        probability, one_hot = probability.unsqueeze(1), one_hot.unsqueeze(1)
    else:
        probability, one_hot = probability[:, 1:], one_hot[:, 1:]
    return _sample_mean(_monai_dice(squared)(probability, one_hot))


@cache
def _monai_dice(squared: bool) -> nn.Module:
    # Late: MONAI takes seconds to import, and most commands compute no loss.
    from monai.losses.dice import DiceLoss

    loss: nn.Module = DiceLoss(
        squared_pred=squared, reduction="none", smooth_nr=SMOOTH, smooth_dr=SMOOTH
    )
    return loss


def _sample_mean(values: Tensor) -> Tensor:
    """Return the mean (N,) over all axes of `values` (N, ...) but the first."""
    return values.reshape(len(values), -1).mean(dim=1)


BOTH = ("classification", "segmentation")

LOSSES: dict[str, Loss] = {
    row.name: row
    for row in (
        Loss(
            name="ce",
            function=cross_entropy,
            tasks=BOTH,
            weighted=False,
            formula="-log p_y",
            summary="cross-entropy",
            source="torch.nn.functional.cross_entropy",
        ),
        Loss(
            name="weighted_ce",
            function=weighted_cross_entropy,
            tasks=BOTH,
            weighted=True,
            formula="-w_y log p_y",
            summary="cross-entropy, each class weighted by its inverse share of the training part",
            source="torch.nn.functional.cross_entropy",
        ),
        Loss(
            name="dice_squared",
            function=squared_dice,
            tasks=BOTH,
            weighted=False,
            formula="1 - (2 sum p g + 1e-5) / (sum p^2 + sum g^2 + 1e-5)",
            summary="Dice loss with squares in the denominator",
            source="Milletari et al. 2016, arXiv 1606.04797, section 3; monai.losses.DiceLoss",
        ),
        Loss(
            name="focal",
            function=focal,
            tasks=BOTH,
            weighted=False,
            formula="-(1 - p_y)^2 log p_y",
            summary="cross-entropy that turns from easy samples or voxels to hard ones",
            source="Lin et al. 2017, arXiv 1708.02002, equation 4",
        ),
        Loss(
            name="dice_ce",
            function=dice_cross_entropy,
            tasks=BOTH,
            weighted=False,
            formula="1 - (2 sum p g + 1e-5) / (sum p + sum g + 1e-5) - mean log p_y",
            summary="linear Dice loss plus cross-entropy",
            source="Isensee et al. 2021 (nnU-Net), doi 10.1038/s41592-020-01008-z; MONAI",
        ),
    )
}
