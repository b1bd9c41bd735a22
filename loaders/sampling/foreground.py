"""Foreground voxels drawn at random, from the masks themselves.

As in nnU-Net (Isensee et al. 2021, 10.1038/s41592-020-01008-z, section "Patch sampling"): one of
the regions of the case, all equally likely, then one of its voxels, all equally likely. A point in
the box of a region would not suffice: between two small lesions far apart there is nothing.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.cases import MAX_CLASSES, Array

Indices = NDArray[np.int64]

# Regions of cases whose counts are kept, some hundred numbers each: enough for the training parts
# of common sets, in a few tens of MiB (assumption).
_KEPT = 1 << 14


class Foreground:
    """The foreground of n cases.

    `mask(case)` gives the label map (*spatial) uint8 of a case, of which only the needed pages are
    read. `boxes` (n, regions, 2, d) int64 are those of the regions, half-open, -1 if a region is
    empty. `regions` lists the labels that each region unites. `held` (n,) is the number of regions
    that a case holds.
    """

    def __init__(
        self,
        *,
        mask: Callable[[int], Array],
        boxes: NDArray[np.integer[Any]],
        regions: Sequence[tuple[int, ...]],
    ) -> None:
        self._mask = mask
        self._boxes: Indices = np.asarray(boxes, dtype=np.int64)
        self._inside = np.zeros((len(regions), MAX_CLASSES), dtype=bool)
        for row, labels in zip(self._inside, regions, strict=True):
            row[list(labels)] = True
        filled = self._boxes[:, :, 0, 0] >= 0
        self.held: Indices = filled.sum(axis=1)
        # Regions with foreground first, so that the k-th of a case is `_order[case, k]`.
        self._order: Indices = np.argsort(~filled, axis=1, kind="stable")
        # A process searches a region once; each further voxel then costs one layer.
        self._counts = lru_cache(maxsize=_KEPT)(self._count)

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """Everything that decides which voxels are drawn, except the masks."""
        return [self._boxes, self._inside]

    def voxel(self, case: int, region: float, place: float) -> Indices:
        """Return a foreground voxel (d,) of a case that holds any.

        `region` and `place`, in [0, 1), choose one of its regions, and one of that region's voxels.
        Raises ValueError if the mask lacks the region of a box.
        """
        which = int(self._order[case, int(region * self.held[case])])
        counts = self._counts(case, which)
        if not counts[-1]:
            raise ValueError(
                f"the mask of case {case} holds no voxel of region {which}, for which the store "
                "has a box: run `medopt verify`"
            )
        nth = int(place * counts[-1])
        layer = int(np.searchsorted(counts, nth, side="right"))
        inside = self._layers(case, which, layer)
        before = int(counts[layer - 1]) if layer else 0
        rest = np.unravel_index(np.flatnonzero(inside)[nth - before], inside.shape)
        voxel: Indices = self._boxes[case, which, 0] + np.array([layer, *rest])
        return voxel

    def _count(self, case: int, which: int) -> Indices:
        """Return the cumulative number of a region's voxels over the layers of its box."""
        inside = self._layers(case, which)
        counts: Indices = np.cumsum(np.count_nonzero(inside.reshape(len(inside), -1), axis=1))
        return counts

    def _layers(self, case: int, which: int, layer: int | None = None) -> NDArray[np.bool_]:
        """Return which voxels of a region's box, or of one of its layers, belong to the region."""
        low, high = self._boxes[case, which]
        box = np.asarray(self._mask(case))[tuple(map(slice, low, high))]
        found: NDArray[np.bool_] = self._inside[which][box if layer is None else box[layer]]
        return found
