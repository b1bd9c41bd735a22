"""A network's answers as log-odds in double precision, by which cases and candidates are ranked.

A probability rounds to 1 (in double precision from log-odds of 37 on, in single from 17 on), and
then the surest cases tie. The log-odds of a class against all others have the same order as its
probability and never saturate.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]

# Voxels worked on at once, so that a volume needs no copy in double precision. Assumption: a block
# of a few classes stays in a core's cache.
_BLOCK = 1 << 16


def against_rest(logits: NDArray[np.floating], labels: Sequence[int]) -> Floats:
    """Return the log-odds (...) that the class is one of `labels`, from logits (C, ...).

    log(sum of exp over `labels`) - log(sum of exp over the others): for two classes, the plain
    difference. `labels` are some of the C classes, not all.
    """
    inside = np.zeros(len(logits), dtype=bool)
    inside[list(labels)] = True
    # A diverged network's logits give nan, which is not worth a warning.
    with np.errstate(invalid="ignore"):
        own, others = (
            np.logaddexp.reduce(logits[part].astype(np.float64), axis=0)
            for part in (inside, ~inside)
        )
        found: Floats = own - others
    return found


def highest(logits: NDArray[np.floating], labels: Sequence[int]) -> float:
    """Return the greatest `against_rest` of logits (C, *spatial) at any voxel.

    Voxels of nan (a diverged network) are ignored; -inf if all are nan.
    """
    flat = logits.reshape(len(logits), -1)
    flat = flat[:, _may_be_highest(flat, labels)]
    blocks = (flat[:, start : start + _BLOCK] for start in range(0, flat.shape[1], _BLOCK))
    return float(
        np.fmax.reduce([np.fmax.reduce(against_rest(b, labels)) for b in blocks], initial=-np.inf)
    )


def _may_be_highest(logits: NDArray[np.floating], labels: Sequence[int]) -> NDArray[np.bool_]:
    """Return a mask (n,) of where the greatest `against_rest` of logits (C, n) may be.

    The logarithm of a sum of k exponentials is at least the largest exponent and at most log(k)
    more, so the difference of the largest exponents is right to within the log(k) of both sums.
    """
    inside = np.zeros(len(logits), dtype=bool)
    inside[list(labels)] = True
    with np.errstate(invalid="ignore"):
        apart = logits[inside].max(0) - logits[~inside].max(0)
        best = float(np.fmax.reduce(apart, initial=-np.inf))
        # A thousandth more for rounding in single precision: thousands of times what it needs.
        slack = np.log(inside.sum()) + np.log((~inside).sum()) + 1e-3 * (1 + abs(best))
        found: NDArray[np.bool_] = apart >= best - slack if np.isfinite(best) else apart == best
    return found


def of_mean(log_odds: Floats) -> Floats:
    """Return the log-odds (C,) of the mean over n probabilities, given as `log_odds` (n, C)."""
    # log p = -log(1 + exp(-z)) and log(1 - p) = -log(1 + exp(z)); the n in both means cancels.
    found: Floats = np.logaddexp.reduce(-np.logaddexp(0, -log_odds)) - np.logaddexp.reduce(
        -np.logaddexp(0, log_odds)
    )
    return found


def probabilities(log_odds: Sequence[float | None]) -> list[float | None]:
    """Return the probability of each; None stays None."""
    return [None if z is None else float(expit(z)) for z in log_odds]
