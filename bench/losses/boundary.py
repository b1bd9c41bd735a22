"""Losses of how far apart the borders are, on top of the Dice loss; segmentation.

All take logits (N, C, *spatial) of float32 or float64 and target (N, *spatial) int64 and return one
value a sample (N,), the mean over the classes but the background (0). Distances are in voxels. They
come from scipy on the CPU, of each sample and class by itself, and carry no gradient: about 10 ms
for each at 128 x 128 voxels, 0.2 s at 512 x 512 or 64 x 64 x 64 (measured, one core).
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bench.losses.overlap import dice
from bench.losses.reductions import one_hot, sample_mean


def dice_hausdorff(
    logits: Tensor, target: Tensor, *, alpha: float, weight: float, smooth: float
) -> Tensor:
    """Return Dice + weight log(1 + mean((p - g)^2 (d_p^alpha + d_g^alpha))).

    d_g is a voxel's distance to the border of the reference, d_p to that of the prediction cut at
    1/2. The paper balances the two terms anew in every epoch; the logarithm (MONAI's) needs none.
    """
    border = _monai("LogHausdorffDTLoss", alpha=alpha)
    return dice(logits, target, smooth=smooth) + weight * _borders(border, logits, target)


def dice_boundary(
    logits: Tensor, target: Tensor, *, weight: float, smooth: float, derived: Tensor | None = None
) -> Tensor:
    """Return Dice + weight mean(p phi), phi the signed distance to the border of the reference.

    phi is positive outside and negative inside, so that the loss may fall below 0; it is 0 where
    the class is absent or fills the image. The paper raises the weight by 0.01 an epoch. `derived`
    is phi as `signed_distances` gives it, made here where it is None.
    """
    p = torch.softmax(logits, dim=1)[:, 1:]
    phi = signed_distances(target, classes=logits.shape[1]) if derived is None else derived
    # As monai.losses.BoundaryLoss does: the sum by the number, which torch's mean rounds otherwise.
    values = (p * phi).sum(tuple(range(2, p.dim()))) / math.prod(p.shape[2:])
    return dice(logits, target, smooth=smooth) + weight * sample_mean(values)


def signed_distances(target: Tensor, *, classes: int) -> Tensor:
    """Return each voxel's distance to the border of each class but the background, negative inside.

    `target` (N, *spatial) is a label map; float32 (N, classes - 1, *spatial), in voxels.
    """
    labels = torch.arange(1, classes, device=target.device)
    masks = target[:, None] == labels.reshape(-1, *[1] * (target.dim() - 1))
    phi: Tensor = _monai("BoundaryLoss").compute_distance_map(masks.float())
    return phi


def _borders(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor) -> Tensor:
    p = torch.softmax(logits, dim=1)
    return sample_mean(loss(p[:, 1:], one_hot(target, p)[:, 1:]))


@cache
def _monai(name: str, **settings: float) -> Any:
    """Return a loss of MONAI by its name: of probabilities and reference (N, K, *spatial)."""
    # Late: MONAI takes seconds to import, and most commands compute no loss.
    import monai.losses

    return getattr(monai.losses, name)(include_background=True, reduction="none", **settings)
