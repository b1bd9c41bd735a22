"""Smooth random fields from which phantoms are made: seeded, fast, with unit variance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def centred_axes(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> tuple[Array, Array, Array]:
    """Return the coordinates of a grid's points along each axis, 0 at its centre."""
    first, second, third = (
        np.asarray((np.arange(n) - (n - 1) / 2) * step, np.float64)
        for n, step in zip(shape, spacing, strict=True)
    )
    return first, second, third


def smooth_field(random: np.random.Generator, axes: Sequence[Array], length: float) -> Array:
    """Return a Gaussian field on the grid of three `axes`, whose values vary over `length`.

    `axes` are coordinates, `length` is in their unit. The field is a sum of Gaussian bumps on
    knots `length` apart, each point's weights scaled to unit length: mean 0 and variance 1 at every
    point. Summed by einsum, not by a threaded BLAS, so that the bits do not depend on threads.
    """
    weights = []
    for axis in axes:
        knots = np.arange(axis.min() - 2 * length, axis.max() + 2 * length, length)
        bumps = np.exp(-0.5 * ((axis[:, np.newaxis] - knots) / (0.7 * length)) ** 2)
        weights.append(bumps / np.sqrt((bumps**2).sum(axis=1, keepdims=True)))
    field: Array = random.standard_normal([weight.shape[1] for weight in weights])
    # The longest axis comes last, when the other two are still short.
    for weight in weights:
        field = np.einsum("ai,ijk->jka", weight, field)
    return field


def soft_step(distance: Array, width: float) -> Array:
    """Return 1 well inside (negative distance), 0 well outside, and a ramp of `width` between."""
    ramp: Array = np.clip(0.5 - distance / width, 0.0, 1.0)
    return ramp
