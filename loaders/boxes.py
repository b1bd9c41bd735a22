"""Bounding boxes of masks."""

import numpy as np

from loaders.cases import Array


def bounding_box(mask: Array) -> tuple[slice, ...]:
    """Return the smallest box that holds all non-zero elements; an empty one if there are none."""
    axes = range(mask.ndim)
    box = []
    for axis in axes:
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0))
    return tuple(box)
