"""Losses for the distance between borders, on top of the Dice loss; segmentation.

All take logits (N, C, *spatial) of float32 or float64 and target (N, *spatial) int64 and return one
value per sample (N,), the mean over the classes except the background (0). Distances are in voxels,
or with `mm` in mm, by the `spacing` of the voxels along each axis; coarser levels of deep
supervision use that of the finest. They are computed by scipy on the CPU, for each sample and class
by itself, and carry no gradient: about 10 ms for each at 128 x 128 voxels, 0.2 s at 512 x 512 or
64 x 64 x 64 (measured, one core).
"""

import math
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from bench.core.settings import Setting
from bench.losses.overlap import dice
from bench.losses.reductions import Total, one_hot, sample_mean

Spacing = tuple[float, ...]

# Largest weight of the borders, of 1: the final value in Kervadec et al. 2019, section 3.2.
MOST = 0.99


def dice_hausdorff(
    logits: Tensor,
    target: Tensor,
    total: Total,
    *,
    alpha: float,
    weight: float,
    smooth: float,
    mm: bool,
    balanced: bool,
    spacing: Spacing | None = None,
) -> Tensor:
    """Return Dice + weight log(1 + h), h = mean((p - g)^2 (d_p^alpha + d_g^alpha)).

    d_g is a voxel's distance to the border of the reference, d_p to that of the prediction,
    thresholded at 1/2. MONAI's logarithm brings both terms to the same scale. The paper instead
    weighs them equally, by their means in the epoch before: with `balanced` the logarithm is
    replaced by h D / H, D and H the means of the Dice loss and of h over the global batch.
    """
    p = torch.softmax(logits, dim=1)
    far = _hausdorff(alpha, _known(spacing) if mm else None)
    h = far(p[:, 1:], one_hot(target, p)[:, 1:])
    region = dice(logits, target, smooth=smooth)
    if not balanced:
        return region + weight * sample_mean(torch.log(h + 1))
    h = sample_mean(h)
    ours, theirs = total(torch.stack([region.detach().sum(), h.detach().sum()]))
    # If nothing is wrong, there is nothing to balance.
    return region + weight * torch.where(theirs > 0, ours / theirs.clamp_min(1e-12), 1) * h


def dice_boundary(
    logits: Tensor,
    target: Tensor,
    *,
    weight: float,
    smooth: float,
    mm: bool,
    rise: float,
    rebalance: bool,
    derived: Tensor | None = None,
    spacing: Spacing | None = None,
) -> Tensor:
    """Return Dice + weight mean(p phi), phi the signed distance to the border of the reference.

    phi is positive outside and negative inside, so the loss may fall below 0; it is 0 if the class
    is absent or fills the image. With `rebalance` Dice weighs 1 - weight, and the weight is at most
    MOST. `rise` is the amount by which `risen` raises the weight. `derived` is phi as returned by
    `signed_distances`, computed here if it is None.
    """
    del rise
    p = torch.softmax(logits, dim=1)[:, 1:]
    if derived is None:
        known = _known(spacing) if mm else None
        derived = signed_distances(target, classes=logits.shape[1], spacing=known)
    # As in monai.losses.BoundaryLoss: sum divided by number, since torch's mean rounds differently.
    values = (p * derived).sum(tuple(range(2, p.dim()))) / math.prod(p.shape[2:])
    region = dice(logits, target, smooth=smooth)
    if rebalance:
        weight = min(weight, MOST)
        region = (1 - weight) * region
    return region + weight * sample_mean(values)


def risen(settings: Mapping[str, Setting], epoch: int) -> dict[str, Setting]:
    """Return the settings of `dice_boundary` in an epoch (from 0): the weight grows by `rise`."""
    weight, rise = settings["weight"], settings["rise"]
    assert isinstance(weight, float)
    assert isinstance(rise, float)
    return {**settings, "weight": weight + epoch * rise}


def signed_distances(target: Tensor, *, classes: int, spacing: Spacing | None = None) -> Tensor:
    """Return each voxel's distance to the border of each foreground class, negative inside.

    `target` (N, *spatial) is a label map; the result is float32 (N, classes - 1, *spatial), in
    voxels or in the unit of `spacing`. The border, where it is 0, consists of the class's own
    voxels that touch others along the finest axis.
    """
    labels = torch.arange(1, classes, device=target.device)
    masks = target[:, None] == labels.reshape(-1, *[1] * (target.dim() - 1))
    if spacing is None:
        phi: Tensor = _monai("BoundaryLoss").compute_distance_map(masks.float())
        return phi
    found = torch.zeros(masks.shape)
    for mask, place in zip(masks.flatten(0, 1), found.flatten(0, 1), strict=True):
        if mask.any() and not mask.all():
            inside = _distance(mask, spacing) - min(spacing)
            place[...] = torch.where(mask.cpu(), -inside, _distance(~mask, spacing))
    return found.to(target.device)


def _distance(mask: Tensor, spacing: Spacing) -> Tensor:
    """Return the distance of each voxel of a mask to the nearest voxel outside it, 0 outside."""
    from scipy.ndimage import distance_transform_edt  # late: commands that compute no loss

    found = distance_transform_edt(mask.cpu().numpy(), sampling=spacing)
    return torch.from_numpy(found).float()


def _known(spacing: Spacing | None) -> Spacing:
    if spacing is None:
        raise ValueError("this loss with mm needs the spacing of the voxels along each axis, in mm")
    return spacing


@cache
def _hausdorff(alpha: float, spacing: Spacing | None) -> Any:
    """Return a function for h, (N, K, 1, ...), of probabilities and reference (N, K, *spatial)."""
    loss = _monai("HausdorffDTLoss", alpha=alpha)
    if spacing is not None:
        loss.distance_field = partial(_field, spacing=spacing)
    return loss


def _field(image: Tensor, *, spacing: Spacing) -> Tensor:
    """Return each voxel's distance to the border of what is above 1/2 in (N, 1, *spatial)."""
    field = torch.zeros(image.shape)
    for sample, place in zip(image[:, 0] > 0.5, field[:, 0], strict=True):
        if sample.any() and not sample.all():
            place[...] = _distance(sample, spacing) + _distance(~sample, spacing)
    return field.to(image.device)


def _monai(name: str, **settings: float) -> Any:
    """Return a loss of MONAI by its name, for probabilities and reference (N, K, *spatial)."""
    # Late: MONAI takes seconds to import, and most commands compute no loss.
    import monai.losses

    return getattr(monai.losses, name)(include_background=True, reduction="none", **settings)
