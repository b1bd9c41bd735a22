"""The box around what a mask marks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bounding_box(mask: NDArray[Any]) -> tuple[slice, ...]:
    """Return the smallest box that holds all non-zero elements; an empty one if there are none."""
    axes = range(mask.ndim)
    box = []
    for axis in axes:
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0))
    return tuple(box)
