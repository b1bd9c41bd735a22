"""Losses for the connectivity of thin structures, by their skeletons; segmentation.

All take logits (N, C, *spatial) of float32 or float64 and target (N, *spatial) int64, in two or
three dimensions, and return one value per sample (N,), the mean over the classes except the
background.
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
    skeleton within the prediction. A skeleton is found by `iterations` erosions by one voxel, as
    many as the radius of the widest structure in voxels.
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

    `derived` is the tube of all classes together as returned by `tubes`, computed here if it is
    None; the tube of a class is the part of it in that class.
    """
    p = torch.softmax(logits, dim=1)
    along = tubes(target, classes=logits.shape[1]) if derived is None else derived
    s = one_hot(target, p)[:, 1:] * along[:, None].to(p)
    missed = sample_mean(1 - _share(s, p[:, 1:], smooth))
    region = dice_cross_entropy(logits, target, smooth=smooth, label_smoothing=label_smoothing)
    return region + weight * missed


def tubes(target: Tensor, *, classes: int) -> Tensor:
    """Return a mask of the voxels within two steps of the skeleton of the whole foreground.

    `target` (N, *spatial) is a label map; the mask is uint8 (N, *spatial). The skeleton is
    scikit-image's, on the CPU; steps are along the axes.
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
    """Return the share (N, K) of `of` (N, K, *spatial) that is within the other."""
    axes = tuple(range(2, of.dim()))
    share: Tensor = ((of * within).sum(axes) + smooth) / (of.sum(axes) + smooth)
    return share
