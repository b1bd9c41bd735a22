"""Comparison over data sets: mean ranks, and the best against the others by signed ranks."""

from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

# Up to this many data sets every flip of signs is counted; beyond, the normal limit is close.
_EXACT = 20

# Differences below this part of the largest score are rounding: a tie.
_ROUNDING = 1e-12


def mean_ranks(scores: ArrayLike) -> Array:
    """Return (m,) mean ranks over n data sets of (m, n) scores; 1 is best, ties share a rank."""
    ranks: Array = stats.rankdata(-np.asarray(scores, np.float64), axis=0).mean(axis=1)
    return ranks


def signed_rank_p(differences: ArrayLike) -> float:
    """Return the two-sided p-value of Wilcoxon's signed ranks, zeros by Pratt (1959).

    Zeros take part in the ranking and are then dropped. Up to 20 differences, the distribution over
    all flips of the other signs is exact, ties included; beyond, it is normal without correction.
    """
    d = np.asarray(differences, np.float64)
    ranks = stats.rankdata(np.abs(d))[d != 0]
    if ranks.size == 0:
        return 1.0
    doubled = np.rint(2 * ranks).astype(np.int64)  # midranks are halves
    centred = abs(float((np.sign(d[d != 0]) * ranks).sum()))
    if d.size > _EXACT:
        return float(2 * stats.norm.sf(centred / np.sqrt((ranks**2).sum())))
    ways = np.zeros(int(doubled.sum()) + 1)
    ways[0] = 1.0
    for rank in doubled:
        ways[rank:] = ways[rank:] + ways[:-rank]
    total = doubled.sum()
    distance = np.abs(2 * np.arange(ways.size) - total) / 2
    return float(ways[distance >= centred - 1e-9].sum() / ways.sum())


def best_across(scores: ArrayLike) -> tuple[int, Array]:
    """Return the combination with the best mean rank, and (m,) p-values of the others against it.

    `scores`: (m, n) on n data sets; larger is better. Signed ranks over data sets (never over
    folds, which are not new data sets), adjusted by Holm; the best one's own p-value is nan.
    """
    y = np.asarray(scores, np.float64)
    m = y.shape[0]
    best = int(mean_ranks(y).argmin())
    others = [i for i in range(m) if i != best]
    gaps = y[best] - y
    gaps[np.abs(gaps) <= _ROUNDING * np.abs(y).max()] = 0.0
    raw = np.array([signed_rank_p(gaps[i]) for i in others])
    order = raw.argsort(kind="stable")
    steps = raw[order] * np.arange(len(others), 0, -1)
    adjusted = np.full(m, np.nan)
    adjusted[np.array(others, np.intp)[order]] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return best, adjusted


@lru_cache(maxsize=256)
def fewest_datasets(combinations: int, alpha: float) -> int:
    """Return the fewest data sets on which all m - 1 p-values can be below `alpha` after Holm."""
    return next(n for n in count(1) if (combinations - 1) * signed_rank_p(np.ones(n)) < alpha)
