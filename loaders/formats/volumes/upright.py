"""Volumes of one case as one image, with axes z, y, x to superior, anterior and right."""

from collections.abc import Sequence

import numpy as np

from loaders.cases import Array
from loaders.formats.nifti import NiftiError, filled, to_ras
from loaders.formats.volumes.volume import Volume


def upright(
    volumes: Sequence[Volume], *, lowest: float | None, fill: bool
) -> tuple[Array, tuple[float, float, float]]:
    """Return an image (C, Z, Y, X) and its spacing, mm along Z, Y, X; raises NiftiError.

    `volumes` are channels on one grid, or one volume with channels in its last axis. Axes are
    swapped and flipped, never resampled. Values below `lowest` are raised to it; if `fill`, NaN
    becomes `lowest`, or 0.
    """
    affine = volumes[0].affine
    parts = []
    for volume in volumes:
        try:
            voxels = volume.load()
        except NiftiError as error:
            raise NiftiError(f"the image {error}") from None
        if fill:
            voxels = filled(voxels, lowest or 0)
        # Before axes are flipped: numpy takes six times as long in reverse order (measured).
        if lowest is not None and voxels.min() < lowest:
            voxels = np.maximum(voxels, voxels.dtype.type(lowest))
        turned, spacing = to_ras(voxels, affine)
        parts.append(turned.T if turned.ndim == 4 else turned.T[np.newaxis])
    image = parts[0] if len(parts) == 1 else np.concatenate(parts)
    x, y, z = spacing
    return image, (z, y, x)
