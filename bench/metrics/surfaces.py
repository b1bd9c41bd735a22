"""Distances between the surfaces of two masks, in mm, and the metrics computed from them.

A surface voxel has a face neighbour outside the mask or is at the border of the image, as in MONAI.
Voxels are counted, not areas, so elongated voxels weigh as much as cubes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial import cKDTree

from bench.metrics.rates import Flags
from loaders.boxes import bounding_box

# Tolerance of the normalised surface Dice, from the ABCs challenge (2020). As a default for other
# organs it is an assumption: the difference between readers would be right (Nikolov et al. 2018).
TOLERANCE_MM = 2.0

# A search tree takes about as long for one surface voxel as the distance transform for this many
# voxels of the box: 6 if surfaces are smooth, 12 if masks are noise (measured).
_VOXELS_A_QUERY = 8


@dataclass(frozen=True, kw_only=True)
class Surfaces:
    """Distances in mm from each surface voxel of one mask to the nearest of the other's surface."""

    from_pred: NDArray[np.float64]
    from_ref: NDArray[np.float64]

    def hd95(self) -> float:
        """Return the 95th percentile of the distances, in the direction where it is larger."""
        return max(float(np.percentile(d, 95)) for d in (self.from_pred, self.from_ref))

    def assd(self) -> float:
        """Return the mean of the distances of both surfaces together."""
        return float(np.concatenate([self.from_pred, self.from_ref]).mean())

    def surface_dice(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces' voxels within the tolerance of the other surface."""
        return float(
            np.concatenate([self.from_pred <= tolerance_mm, self.from_ref <= tolerance_mm]).mean()
        )


def surfaces(pred: Flags, ref: Flags, spacing: Sequence[float]) -> Surfaces | None:
    """Return the distances between two masks (*spatial), spacing in mm; None if one is empty."""
    if not pred.any() or not ref.any():
        return None
    box = bounding_box(pred | ref)
    edges = [mask[box] & ~binary_erosion(mask[box]) for mask in (pred, ref)]
    voxels = sum(int(edge.sum()) for edge in edges)
    nearest = _by_tree if voxels * _VOXELS_A_QUERY < edges[0].size else _by_transform
    return Surfaces(
        from_pred=nearest(edges[0], edges[1], spacing),
        from_ref=nearest(edges[1], edges[0], spacing),
    )


def _by_tree(here: Flags, there: Flags, spacing: Sequence[float]) -> NDArray[np.float64]:
    tree = cKDTree(np.argwhere(there) * np.asarray(spacing))
    return np.asarray(tree.query(np.argwhere(here) * np.asarray(spacing))[0], dtype=np.float64)


def _by_transform(here: Flags, there: Flags, spacing: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(distance_transform_edt(~there, sampling=spacing)[here], dtype=np.float64)
