"""The next point of a search, by BOHB's model of the points tried before. No Ray.

Falkner, Klein and Hutter (2018), "BOHB: robust and efficient hyperparameter optimization at scale",
arXiv 1807.01774, section 3.2: two densities of settings, of the good and of the other points, at
the most expensive rung that has seen enough points. Of many candidates from the first density, the
one with the largest ratio is tried. Some points are drawn without the model. The rungs are those of
the scheduler beside it, which stops points as they come and not bracket by bracket.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr, ndtri

Array = NDArray[np.float64]

#: The share of points that is drawn without the model. This and the rest are the paper's values.
WITHOUT_MODEL = 1 / 3
_GOOD, _CANDIDATES, _WIDER, _LEAST_BANDWIDTH = 0.15, 64, 3.0, 1e-3


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A point: its (d,) shares of the way through each setting's space, and its scores.

    `looks`: (budget spent, inner score, higher is better) of each look, in order.
    """

    shares: Array
    looks: Sequence[tuple[float, float]]

    def at(self, rung: float) -> float | None:
        """Return the score at the first look that has spent at least `rung`, None before that."""
        return next((score for spent, score in self.looks if spent >= rung), None)


def proposed(
    tried: Sequence[Tried], rungs: Sequence[float], rng: np.random.Generator
) -> Array | None:
    """Return (d,) shares of the settings to try next; None if no rung has enough points yet.

    `rungs`: the budget spent at each, ascending. d + 3 points are enough: each density takes at
    least d + 1.
    """
    for rung in reversed(rungs):
        seen = [(point.shares, score) for point in tried if (score := point.at(rung)) is not None]
        if seen and len(seen) >= seen[0][0].size + 3:
            return _best_candidate(seen, rng)
    return None


def _best_candidate(seen: Sequence[tuple[Array, float]], rng: np.random.Generator) -> Array:
    order = np.argsort([-score for _, score in seen], kind="stable")
    shares = np.stack([seen[i][0] for i in order])
    count, d = shares.shape
    good = shares[: max(d + 1, int(_GOOD * count))]
    rest = shares[-max(d + 1, count - len(good)) :]
    centre = good[rng.integers(len(good), size=_CANDIDATES)]
    width = _WIDER * bandwidth(good)
    # Normal around a good point, truncated to the space.
    low, high = ndtr((0 - centre) / width), ndtr((1 - centre) / width)
    inside = low + (high - low) * rng.random(centre.shape)
    found = np.clip(centre + width * ndtri(inside), 0, 1)
    ratio = log_density(good, found) - log_density(rest, found)
    best: Array = found[ratio.argmax()]
    return best


def bandwidth(points: Array) -> Array:
    """Return (d,) bandwidths for (n, d) points by the normal reference rule (Silverman 1986)."""
    n, d = points.shape
    rule: Array = np.maximum(1.06 * points.std(axis=0) * n ** (-1 / (4 + d)), _LEAST_BANDWIDTH)
    return rule


def log_density(points: Array, at: Array) -> Array:
    """Return the log density (c,) of (n, d) points, with Gaussian kernels, at (c, d) places."""
    width = bandwidth(points)
    z = (at[:, None] - points) / width
    kernels = -(z**2 / 2 + np.log(width * np.sqrt(2 * np.pi))).sum(axis=-1)
    found: Array = logsumexp(kernels, axis=1) - np.log(len(points))
    return found
