"""Places in a chest CT that could be mistaken for a nodule: dense tissue inside the lungs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Aerated lung is near -850 HU and soft tissue near 0; this is about midway (assumption).
TISSUE_HU = -500
# Lungs are far larger; gas in stomach or bowel on a chest CT is usually smaller (assumption).
_LUNG_ML = 10.0
# Cells of 2 mm: a vessel or nodule of 3 mm fills one, and noise averages out (assumption).
_CELL_MM = 2.0
# Closing adds vessels, and nodules at the wall, to the inside of the lung (assumption).
_CLOSE_MM = 5.0


@dataclass(frozen=True, kw_only=True)
class Lung:
    """Cells of a volume: `lung` (z, y, x) bool, those inside the lungs; `dense`, those with tissue.

    A cell covers `step` voxels along each axis.
    """

    lung: NDArray[np.bool_]
    dense: NDArray[np.bool_]
    step: tuple[int, int, int]


def find_lung(array: NDArray[np.int16], spacing: tuple[float, float, float]) -> Lung:
    """Find the lungs in a volume of HU (z, y, x), `spacing` in mm: large regions of enclosed air.

    Air that reaches the sides of the image is outside the body. Vessels and bulges of the wall are
    closed over.
    """
    step = tuple(max(1, round(_CELL_MM / mm)) for mm in spacing)
    cells = _block_mean(array, step)
    air = cells < TISSUE_HU
    parts, count = ndimage.label(air)
    sides = np.concatenate(
        [parts[:, edge].ravel() for edge in (0, -1)] + [parts[:, :, e].ravel() for e in (0, -1)]
    )
    cell_ml = np.prod(np.multiply(step, spacing)) / 1000
    keep = np.bincount(parts.ravel(), minlength=count + 1) * cell_ml >= _LUNG_ML
    keep[sides] = False
    keep[0] = False
    reach = [max(1, round(_CLOSE_MM / (n * mm))) for n, mm in zip(step, spacing, strict=True)]
    lungs = np.pad(keep[parts], [(n, n) for n in reach])
    grid = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    ball = np.asarray(sum((axis / n) ** 2 for axis, n in zip(grid, reach, strict=True))) <= 1
    closed = ndimage.binary_closing(lungs, ball)[tuple(slice(n, -n) for n in reach)]
    return Lung(lung=closed, dense=closed & ~air, step=(step[0], step[1], step[2]))


def _block_mean(array: NDArray[np.int16], step: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the mean of each block of `step` voxels; incomplete blocks at the end are dropped."""
    counts = [size // n for size, n in zip(array.shape, step, strict=True)]
    whole = array[tuple(slice(0, count * n) for count, n in zip(counts, step, strict=True))]
    blocks = whole.reshape([k for pair in zip(counts, step, strict=True) for k in pair])
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return means
