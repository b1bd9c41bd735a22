"""Losses of whether thin structures hang together, by their skeletons; segmentation.

All take logits (N, C, *spatial) of float32 or float64 and target (N, *spatial) int64, in two or
three dimensions, and return one value a sample (N,), the mean over the classes but the background.
"""

import numpy as np
import torch
from torch import Tensor

from bench.losses.compound import dice_cross_entropy
from bench.losses.overlap import dice
from bench.losses.reductions import one_hot, sample_mean


def dice_cldice(
    logits: Tensor, target: Tensor, *, alpha: float, iterations: int, smooth: float
) -> Tensor:
    """Return (1 - alpha) Dice + alpha (1 - 2 t s / (t + s)), of soft skeletons.

    t is the share of the prediction's skeleton within the reference, s that of the reference's
    within the prediction. A skeleton is what `iterations` erosions by one voxel find: as many as
    the widest structure's radius has voxels.
    """
    # Late: MONAI takes seconds to import, and most commands compute no loss.
    from monai.losses.cldice import soft_skel

    p = torch.softmax(logits, dim=1)
    g = one_hot(target, p)[:, 1:]
    p = p[:, 1:]
    within, found = (_share(soft_skel(of, iterations), by, smooth) for of, by in ((p, g), (g, p)))
    tubes = 1 - 2 * within * found / (within + found)
    return (1 - alpha) * dice(logits, target, smooth=smooth) + alpha * sample_mean(tubes)


def dice_skeleton_recall(
    logits: Tensor,
    target: Tensor,
    *,
    weight: float,
    smooth: float,
    label_smoothing: float,
    derived: Tensor | None = None,
) -> Tensor:
    """Return Dice + cross-entropy + weight (1 - sum(p s) / sum(s)), s the tube along a skeleton.

    `derived` is the tube of all classes together as `tubes` gives it, made here where it is None;
    that of a class is what of it is the class's.
    """
    p = torch.softmax(logits, dim=1)
    along = tubes(target, classes=logits.shape[1]) if derived is None else derived
    s = one_hot(target, p)[:, 1:] * along[:, None].to(p)
    missed = sample_mean(1 - _share(s, p[:, 1:], smooth))
    region = dice_cross_entropy(logits, target, smooth=smooth, label_smoothing=label_smoothing)
    return region + weight * missed


def tubes(target: Tensor, *, classes: int) -> Tensor:
    """Return the voxels within two steps of the skeleton of all that is not background, as 1.

    `target` (N, *spatial) is a label map; uint8 (N, *spatial). The skeleton is scikit-image's, on
    the CPU; steps are along the axes.
    """
    del classes
    # Late: scikit-image takes a second to import, and most commands compute no loss.
    from skimage.morphology import dilation, skeletonize

    masks = (target > 0).cpu().numpy()
    found = np.zeros(masks.shape, np.uint8)
    for mask, place in zip(masks, found, strict=True):
        if mask.any():
            skeleton = skeletonize(mask) > 0  # type: ignore[no-untyped-call]  # it has no types
            place[...] = dilation(dilation(skeleton.astype(np.uint8)))
    return torch.from_numpy(found).to(target.device)


def _share(of: Tensor, within: Tensor, smooth: float) -> Tensor:
    """Return what share (N, K) of `of` (N, K, *spatial) lies within the other."""
    axes = tuple(range(2, of.dim()))
    share: Tensor = ((of * within).sum(axes) + smooth) / (of.sum(axes) + smooth)
    return share
