"""Degradations of test images, to measure robustness to worse scans: one row each.

A degradation works on a normalised image (its values are in standard deviations of the data, or in
shares of their range with `normalize: range`) and leaves the reference unchanged. Nothing is
trained or chosen on degraded images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from bench.core.settings import Setting, check_bounds, merge

Image = NDArray[np.float32]

# The greatest strength: beyond it nothing of an image is left, and a filter for it would not fit
# into memory. Assumption.
MOST = 100


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """One degradation of the table.

    `function(image, rng, **settings)` returns an image (C, *spatial) float32 of the same shape;
    `rng` is seeded by the case, so that every combination is tested on the same images. A clip's
    time axis in `axes` is left alone.
    """

    name: str
    function: Callable[..., Image]
    defaults: Mapping[str, Setting]
    summary: str
    source: str

    def settings(self, given: Mapping[str, Any]) -> dict[str, Setting]:
        """Return every setting, `given` over the defaults; raises ValueError.

        Every strength is above 0 and at most MOST.
        """
        found = merge(f"degradation {self.name}", self.defaults, given)
        check_bounds(f"degradation {self.name}", found, dict.fromkeys(found, (0, MOST)))
        for name, value in found.items():
            if not isinstance(value, float) or value <= 0:
                raise ValueError(
                    f"degradation setting {self.name}.{name} must be above 0, not {value}"
                )
        return found


def noise(image: Image, rng: np.random.Generator, axes: str, *, deviation: float) -> Image:
    """Return the image with independent Gaussian noise of this deviation, in normalised units."""
    del axes
    return image + np.float32(deviation) * rng.standard_normal(image.shape, dtype=np.float32)


def blur(image: Image, rng: np.random.Generator, axes: str, *, width: float) -> Image:
    """Return the image blurred by a Gaussian of this standard deviation, in pixels or voxels."""
    del rng
    sigma = [0.0, *(0.0 if axis == "t" else width for axis in axes)]
    blurred: Image = gaussian_filter(image, sigma, mode="nearest")
    return blurred


def low_resolution(image: Image, rng: np.random.Generator, axes: str, *, factor: float) -> Image:
    """Return the image reduced to 1 / factor of its resolution and back, by linear interpolation.

    It is blurred first as much as the coarser grid needs, so that nothing is aliased.
    """
    sides = image.shape[1:]
    coarse = [
        side if axis == "t" else max(round(side / factor), 1)
        for axis, side in zip(axes, sides, strict=True)
    ]
    # scikit-image's choice for downsampling: (factor - 1) / 2.
    smooth = blur(image, rng, axes, width=max((factor - 1) / 2, 1e-6))
    finer = [s / c for c, s in zip(coarse, sides, strict=True)]
    # "nearest": a last voxel whose place rounds to just outside must not become 0.
    small = zoom(smooth, [1, *(1 / f for f in finer)], order=1, mode="nearest")
    back: Image = zoom(small, [1, *finer], order=1, mode="nearest")
    return back


DEGRADATIONS: dict[str, Degradation] = {
    row.name: row
    for row in (
        Degradation(
            name="noise",
            function=noise,
            defaults={"deviation": 0.5},
            summary="Gaussian noise of half a standard deviation of the data, or, with `normalize:"
            " range`, of half their range",
            source="Hendrycks and Dietterich 2019, arXiv 1903.12261: Gaussian noise",
        ),
        Degradation(
            name="blur",
            function=blur,
            defaults={"width": 1.0},
            summary="Gaussian blur with a standard deviation of one pixel or voxel",
            source="Hendrycks and Dietterich 2019, arXiv 1903.12261: blur",
        ),
        Degradation(
            name="low_resolution",
            function=low_resolution,
            defaults={"factor": 2.0},
            summary="half the resolution along each axis, then linear interpolation to full size",
            source="Isensee et al. 2021 (nnU-Net), supplementary note 4: low resolution",
        ),
    )
}
