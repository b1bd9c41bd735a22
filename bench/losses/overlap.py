"""Losses for the overlap of prediction and reference: the Dice family.

All take logits (N, C, ...) of float32 or float64 and target (N, ...) int64 and return one value per
sample (N,): unless stated otherwise, the mean over the classes except the background (0). Sums run
over the voxels of a sample. In classification the class vector takes the voxels' place.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from bench.losses.reductions import LEAST, Total, one_hot, sample_mean


def dice(logits: Tensor, target: Tensor, *, smooth: float) -> Tensor:
    """Return 1 - 2 sum(p g) / (sum(p) + sum(g))."""
    return sample_mean(_monai("DiceLoss", smooth)(*regions(logits, target)))


def squared_dice(logits: Tensor, target: Tensor, *, smooth: float) -> Tensor:
    """Return 1 - 2 sum(p g) / (sum(p^2) + sum(g^2)): paper A's form.

    MONAI's version takes the norm |p - g|, whose second derivative is nan where p = g.
    """
    p, g = regions(logits, target)
    squares = (p * p).sum(2) + (g * g).sum(2)
    return sample_mean(1 - (2 * (p * g).sum(2) + smooth) / (squares + smooth))


def jaccard(logits: Tensor, target: Tensor, *, smooth: float) -> Tensor:
    """Return 1 - sum(p g) / (sum(p) + sum(g) - sum(p g))."""
    return sample_mean(_monai("DiceLoss", smooth, jaccard=True)(*regions(logits, target)))


def log_cosh_dice(logits: Tensor, target: Tensor, *, smooth: float) -> Tensor:
    """Return log cosh of the linear Dice loss: about half its square near 0."""
    return torch.log(torch.cosh(dice(logits, target, smooth=smooth)))


def tversky(logits: Tensor, target: Tensor, *, alpha: float, beta: float, smooth: float) -> Tensor:
    """Return 1 - tp / (tp + alpha fp + beta fn), tp = sum(p g), fp = sum(p) - tp; segmentation."""
    return sample_mean(_tversky(logits, target, alpha, beta, smooth))


def focal_tversky(
    logits: Tensor, target: Tensor, *, alpha: float, beta: float, exponent: float, smooth: float
) -> Tensor:
    """Return the mean over the classes of their Tversky losses to a power; segmentation."""
    each = _tversky(logits, target, alpha, beta, smooth)
    return sample_mean(each.clamp_min(LEAST).pow(exponent))


def _tversky(logits: Tensor, target: Tensor, alpha: float, beta: float, smooth: float) -> Tensor:
    loss = _monai("TverskyLoss", smooth, alpha=alpha, beta=beta)
    return loss(*regions(logits, target))


def dice_batch(
    logits: Tensor,
    target: Tensor,
    total: Total,
    *,
    smooth: float,
    counted: Tensor | None = None,
) -> Tensor:
    """Return linear Dice with sums over all voxels of the global batch; segmentation.

    Every sample gets the same value. MONAI's `batch=True` sums over only one process. `counted`
    (N, ...) says which voxels are summed over, None: all.
    """
    p, g = regions(logits, target)
    if counted is not None:
        inside = counted.flatten(1)[:, None].to(p)
        p, g = p * inside, g * inside
    overlap, size = total(torch.stack([(p * g).sum((0, 2)), (p + g).sum((0, 2))]))
    value: Tensor = 1 - (2 * overlap + smooth) / (size + smooth)
    return value.mean().expand(len(logits))


def generalized_dice(logits: Tensor, target: Tensor, *, smooth: float) -> Tensor:
    """Return 1 - 2 sum_c(w tp) / sum_c(w (sum(p) + sum(g))), background included; segmentation.

    w is 1 over the squared size of the class, times the squared size of the smallest class present;
    an absent class weighs as much as that one. The scale of w matters only for the smoothing: with
    MONAI's w = 1 / size^2, its 1e-5 outweighs what it should smooth if classes are large (an image
    of one class in 512 x 512 voxels costs at most 0.43, however wrong).
    """
    p = torch.softmax(logits, dim=1).flatten(2)
    g = one_hot(target.flatten(1), p)
    size = g.sum(2)  # (N, C)
    smallest = size.where(size > 0, torch.inf).amin(1, keepdim=True)
    weight = (smallest / size.maximum(smallest)) ** 2
    overlap, both = (weight * (p * g).sum(2)).sum(1), (weight * (p.sum(2) + size)).sum(1)
    value: Tensor = 1 - (2 * overlap + smooth) / (both + smooth)
    return value


def lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Return the Lovász extension of the Jaccard loss at the errors |g - p|; segmentation.

    Voxels are taken from the largest error down; the weight of each is the growth of the Jaccard
    loss when it counts as wrong. An absent class costs its largest probability.
    """
    p, g = regions(logits, target)
    error, order = (g - p).abs().sort(dim=2, descending=True, stable=True)
    g = g.gather(2, order)
    size = g.sum(2, keepdim=True)
    loss = 1 - (size - g.cumsum(2)) / (size + (1 - g).cumsum(2))
    growth = loss.diff(dim=2, prepend=torch.zeros_like(size))
    return sample_mean((error * growth).sum(2))


def regions(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities and reference (N, K, voxels) of the K = C - 1 foreground classes.

    In classification both are (N, 1, C).
    """
    p = torch.softmax(logits, dim=1)
    g = one_hot(target, p)
    if p.ndim == 2:
        return p.unsqueeze(1), g.unsqueeze(1)
    return p[:, 1:].flatten(2), g[:, 1:].flatten(2)


@cache
def _monai(
    name: str, smooth: float, **settings: bool | float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss of MONAI by its name, for probabilities and reference (N, K, voxels)."""
    # Late: MONAI takes seconds to import, and most commands compute no loss.
    import monai.losses

    loss: Callable[[Tensor, Tensor], Tensor] = getattr(monai.losses, name)(
        reduction="none", smooth_nr=smooth, smooth_dr=smooth, **settings
    )
    return loss
