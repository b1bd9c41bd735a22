"""How soon each of several methods reaches a target, over many problems: profiles and a score.

A cost (seconds, steps, sample-gradients) is paid until a run first reaches the target or passes it.
A run that never does has no such cost; it is right-censored. Its cost is written as infinity and
never left out: medians, profiles and scores all treat it as later than any cost that was reached.

Performance profiles: Dolan and More (2002), "Benchmarking optimization software with performance
profiles", Mathematical Programming 91. The score is that of AlgoPerf: Dahl et al. 2023, arXiv
2306.07179, section 4.5: the area under the profile for ratios from 1 to 4, as a share of the
largest possible area.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: The ratios over which AlgoPerf's score is integrated.
TAUS: Array = np.linspace(1.0, 4.0, 100)


def reached(scores: ArrayLike, target: float, *, higher: bool) -> int | None:
    """Return the index of the first of (n,) scores at the target or past it, None if there is none.

    `higher` says whether a larger score is better. nan stands for a look without a score.
    """
    y = np.asarray(scores, np.float64)
    hits = np.flatnonzero(y >= target if higher else y <= target)
    return int(hits[0]) if hits.size else None


def median(costs: ArrayLike) -> float:
    """Return the median of (n,) costs, n > 0, which are infinite if the target was not reached.

    For an even number it is the mean of the middle two, so it is infinite unless more than half
    reached the target.
    """
    return float(np.median(np.asarray(costs, np.float64)))


def ratios(costs: ArrayLike) -> Array:
    """Return (m, n) ratios, >= 1: costs of m methods on n problems over the least for each problem.

    Infinite if a method did not reach the target; for all methods, if none did. Raises ValueError
    for a cost that is nan or not above 0.
    """
    y = np.asarray(costs, np.float64)
    if not (y > 0).all():
        raise ValueError("costs must be above 0, and infinite if the target was not reached")
    best = y.min(axis=0, initial=np.inf)
    found: Array = np.divide(y, best, out=np.full(y.shape, np.inf), where=np.isfinite(y))
    return found


def profile(costs: ArrayLike, taus: ArrayLike = TAUS) -> Array:
    """Return (m, t) shares of the n problems that each method solves within each of (t,) ratios.

    A problem that no method solves counts for none, but stays among the n > 0. Raises ValueError as
    `ratios` does.
    """
    within = ratios(costs)[:, :, None] <= np.asarray(taus, np.float64)
    shares: Array = within.mean(axis=1)
    return shares


def score(costs: ArrayLike, taus: ArrayLike = TAUS) -> Array:
    """Return (m,) scores from 0 to 1: the area under each profile over the span of the ratios."""
    at = np.asarray(taus, np.float64)
    area: Array = np.trapezoid(profile(costs, at), at, axis=1) / (at[-1] - at[0])
    return area
