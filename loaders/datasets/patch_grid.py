"""The grid of a patch in a CT series: linear interpolation for images, nearest for masks.

If the requested spacing along an axis is 0, the grid uses the series' own and falls on its voxels,
so that nothing is interpolated along this axis.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The voxel grid of a patch: its `shape` and its `spacing` in mm, both along z, y, x.

    `native` is the spacing of the series, in mm. Raises ValueError if a number is not positive (a
    `spacing` may be 0: the series' own).
    """

    shape: tuple[int, int, int]
    spacing: Triple
    native: Triple

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.spacing) < 0 or min(self.native) <= 0:
            raise ValueError(f"the shape and both spacings must be positive: {self}")

    @property
    def millimetres(self) -> Triple:
        """Distance between neighbouring voxels of a patch, mm along z, y, x."""
        z, y, x = (
            own if mm == 0 else mm for mm, own in zip(self.spacing, self.native, strict=True)
        )
        return z, y, x

    @property
    def reach(self) -> NDArray[np.float64]:
        """Half the extent of a patch along z, y, x, in voxels of the series; at least 0.5."""
        extent = np.multiply(self.shape, self.millimetres)
        return np.maximum(0.5 * extent / self.native, 0.5)

    def axes(self, centre: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return the patch's coordinates along z, y, x, in voxels of the series."""
        axes = []
        for middle, count, mm, own in zip(
            centre, self.shape, self.spacing, self.native, strict=True
        ):
            if mm == 0:
                axes.append(np.rint(middle - (count - 1) / 2) + np.arange(count))
            else:
                axes.append(middle + (np.arange(count) - (count - 1) / 2) * mm / own)
        return axes

    def cut(
        self, volume: NDArray[np.int16], centre: NDArray[np.float64], *, fill: float
    ) -> NDArray[np.int16]:
        """Sample a patch (shape) around `centre` (z, y, x voxels); `fill` outside the volume."""
        sampled = ndimage.map_coordinates(
            volume,
            np.meshgrid(*self.axes(centre), indexing="ij"),
            output=np.float64,
            order=1,
            mode="constant",
            cval=fill,
        )
        return np.rint(sampled).astype(np.int16)

    def cut_mask(self, mask: NDArray[np.bool_], centre: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the mask on a patch's grid: the value of the voxel at each point, 0 outside."""
        patch = np.zeros(self.shape, np.uint8)
        nearest = [np.floor(axis + 0.5).astype(np.intp) for axis in self.axes(centre)]
        inside = [
            (axis >= 0) & (axis < size) for axis, size in zip(nearest, mask.shape, strict=True)
        ]
        patch[np.ix_(*inside)] = mask[
            np.ix_(*(axis[there] for axis, there in zip(nearest, inside, strict=True)))
        ]
        return patch
