"""Rotation and zoom of a patch: one affine map, one interpolation, read from the patch's own box.

Voxel v of the patch is read at origin + c + A (v' - c): v' is v mirrored as the draws say, A their
matrix and c = (patch - 1) / 2. Linear in images, nearest in masks; outside the image is fill, and
between the last voxel and its neighbour outside the two are mixed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample

from loaders.cases import Array
from loaders.sampler import Draws, Floats, Indices

# How far, in voxels, rounding may carry a point out of its box: far more than it can.
_SLACK = 0.01


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """What n patches are read from, and how.

    `low`, `high` (n, d) int64: the part of each image that holds every voxel that its patch needs,
    half-open, never empty. `maps` (n, d, d + 1) float64: a patch's voxel v is read in the box at
    maps @ (v, 1).
    """

    low: Indices
    high: Indices
    maps: Floats


def boxes(draws: Draws, shapes: Indices) -> Boxes:
    """Return where the samples of `draws` are read in images of these `shapes` (n, d)."""
    last = np.array(draws.patch) - 1.0
    middle = last / 2
    mirror = np.where(draws.flip, -1.0, 1.0)
    linear = draws.matrix * mirror[:, None, :]
    shift = draws.origin + middle - linear @ middle
    # The patch's extremes along each axis of the image, of all its corners.
    sides = linear * last
    first = shift + np.minimum(sides, 0).sum(axis=2)
    final = shift + np.maximum(sides, 0).sum(axis=2)
    low = np.clip(np.floor(first - _SLACK).astype(np.int64), 0, shapes - 1)
    high = np.clip(np.floor(final + _SLACK).astype(np.int64) + 2, low + 1, shapes)
    maps = np.concatenate([linear, (shift - low)[:, :, None]], axis=2)
    return Boxes(low=low, high=high, maps=maps)


def grid(affine: Floats, patch: tuple[int, ...], size: tuple[int, ...]) -> torch.Tensor:
    """Return the points of a patch in a box of this `size`, as torch's grid_sample takes them.

    `affine` (d, d + 1) as in `Boxes.maps`; the result (1, *patch, d) float32 runs from -1 to 1 over
    the box's outer edges, the last axis first.
    """
    dims = len(patch)
    points = np.empty((dims, *patch), dtype=np.float32)
    index = np.ix_(*map(np.arange, patch))
    for axis, side in enumerate(size):
        scale = 2 / side
        *slopes, offset = affine[axis] * scale
        # In float64 but for the last sum, the only one over the whole patch.
        plane = sum(
            (slope * at for slope, at in zip(slopes[:-1], index[:-1], strict=True)),
            offset + (scale / 2 - 1),
        )
        np.add(np.float32(plane), np.float32(slopes[-1] * index[-1]), out=points[dims - 1 - axis])
    return torch.from_numpy(points).movedim(0, -1)[None]


def warp(box: Array, points: torch.Tensor, *, mode: str) -> NDArray[np.float32]:
    """Return `box` (C, *size) float32 at `points`, 0 outside: (C, *patch).

    `mode` is "bilinear" (trilinear in 3-D) or "nearest". 4 x 64^3 voxels in 13 ms on one core,
    where scipy takes 51 and DALI 60 (measured).
    """
    # One sample a call: torch then stays in the thread that called.
    whole = grid_sample(
        torch.from_numpy(box)[None], points, mode=mode, padding_mode="zeros", align_corners=False
    )
    found: NDArray[np.float32] = whole[0].numpy()
    return found
