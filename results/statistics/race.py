"""Racing: one drop after the first seed, at a stated level, and looks that share a level.

The comparison of those left keeps the full field's number of combinations, degrees of freedom and
typical spread: judged as a field of their own they would seem more alike than they are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.statistics.evidence import Evidence
from results.statistics.procedure import compare
from results.statistics.spread import Spread

# An optional stop may look this often.
MOST_LOOKS = 3


@dataclass(frozen=True, kw_only=True)
class Race:
    """Who is left after the first seed: `dropped` (m,) bool; `frozen`, the spread of those left."""

    dropped: NDArray[np.bool_]
    frozen: Spread


def race_drop(evidence: Evidence, *, alpha: float) -> Race:
    """Drop who cannot be the best by the first seed of all folds, all together at level `alpha`.

    The two best means are always kept, so that there is a comparison left to make. Raises
    ValueError for fewer than two combinations or folds.
    """
    compared = compare(evidence, alpha=alpha)
    gap = compared.mean[:, None] - compared.mean[None, :]
    kept = np.asarray((gap + compared.reach >= 0).all(axis=1))
    kept[[compared.best, compared.runner_up]] = True
    return Race(dropped=~kept, frozen=compared.spread.of(np.flatnonzero(kept)))


def look_level(alpha: float, looks: int) -> float:
    """Return the level of each of at most three looks, so that all together keep `alpha`.

    Raises ValueError for more looks.
    """
    if not 1 <= looks <= MOST_LOOKS:
        raise ValueError(f"{looks} looks; an optional stop may look 1 to {MOST_LOOKS} times")
    return alpha / looks
