"""Racing: one drop after the first seed at a stated level, and looks that share a level.

The comparison of those left keeps the number of combinations, degrees of freedom and typical spread
of the whole field: judged as a field of their own, they would seem more alike than they are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.statistics.evidence import Evidence
from results.statistics.procedure import compare
from results.statistics.spread import Spread

# Most looks of a study with optional stopping.
MOST_LOOKS = 3


@dataclass(frozen=True, kw_only=True)
class Race:
    """The result of the first seed: `dropped` (m,) bool; `frozen`, the spread of those left."""

    dropped: NDArray[np.bool_]
    frozen: Spread


def race_drop(evidence: Evidence, *, alpha: float) -> Race:
    """Drop those that cannot be the best by the first seed of all folds, jointly at level `alpha`.

    The two best means are always kept, so that a comparison remains. Raises ValueError for fewer
    than two combinations or folds.
    """
    compared = compare(evidence, alpha=alpha)
    gap = compared.mean[:, None] - compared.mean[None, :]
    kept = np.asarray((gap + compared.reach >= 0).all(axis=1))
    kept[[compared.best, compared.runner_up]] = True
    return Race(dropped=~kept, frozen=compared.spread.of(np.flatnonzero(kept)))


def look_level(alpha: float, looks: int) -> float:
    """Return the level of each of at most three looks, so that together they keep `alpha`.

    Raises ValueError for more looks.
    """
    if not 1 <= looks <= MOST_LOOKS:
        raise ValueError(f"looks is {looks}; it must be 1 to {MOST_LOOKS}")
    return alpha / looks
