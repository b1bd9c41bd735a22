"""The comparison of m combinations with the best: which is better, and which may be the best.

1. Variances of differences: `results.statistics.spread`.

2. Better. The one with the best mean is better than all others if its lead over each exceeds the
   two-sided t limit of that pair. That claim needs no correction for multiplicity: Hung and Fithian
   (2019), "Rank verification for exponential families", Annals of Statistics 47.

3. The group of those that may be the best, with simultaneous intervals for each mean minus the
   largest mean of the others: Hsu (1984), "Constrained simultaneous confidence intervals for
   multiple comparisons with the best", Annals of Statistics 12. If one is better than all others,
   it alone is the group.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.statistics import critical
from results.statistics.evidence import Evidence
from results.statistics.spread import (
    Pairs,
    Spread,
    evidence_pairs,
    mean_variance_factor,
)

Array = NDArray[np.float64]

# Means that differ by less than this share of the largest score differ by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Parts of the variance of the best one's lead over the runner-up; they sum to 1.

    `seed` is None if every fold has one seed: it is then part of `training`.
    """

    patients: float
    training: float
    seed: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Simultaneous comparison with the best of m combinations; larger is better.

    `mean`, `estimate`, `low`, `high`: (m,); `estimate` is the mean minus the largest mean of the
    others, and [low, high] its interval, constrained to reach zero. `group`: (m,) bool, whether a
    combination may be the best. `best`: the index of the best mean; `winner`: the same if it is
    better than each of the others, else None. The group has one member if and only if there is a
    winner.
    `variance`, `df`, `patients`: (m, m) variances of differences, their degrees of freedom, and
    what patients add to them; `training`: (m,) what training adds to the variance of each mean.
    `reach`: (m, m) half-widths of the simultaneous intervals of differences; `lead_reach`: that of
    the paired interval of the best one's lead over the runner-up. `floor`: the smallest lead that
    these patients can show, however many seeds, None if no influence is known; `floor_is_about`:
    with one repeat of one seed it contains training noise. `shares`: None if no influence is known.
    `steady`: (m,) bool, whether the spread is the typical one. `spread`: what a race freezes.
    `span`: the largest possible difference of scores, where intervals end.
    """

    mean: Array
    estimate: Array
    low: Array
    high: Array
    group: NDArray[np.bool_]
    best: int
    runner_up: int
    winner: int | None
    variance: Array
    df: Array
    patients: Array
    training: Array
    reach: Array
    lead_reach: float
    span: float
    floor: float | None
    floor_is_about: bool
    shares: Shares | None
    steady: NDArray[np.bool_]
    alpha: float
    spread: Spread


def compare(evidence: Evidence, *, alpha: float, frozen: Spread | None = None) -> Comparison:
    """Compare combinations as procedures: if trained anew on as many similar patients.

    `frozen`: the spread of the whole field before a race dropped some. Raises ValueError for fewer
    than two combinations or folds.
    """
    _two_combinations(evidence)
    if evidence.folds < 2:
        raise ValueError(
            "one fold cannot show what another training set would change; compare_models compares "
            "the models trained here"
        )
    found, spread = evidence_pairs(evidence, frozen)
    return _judge(evidence, found, spread, alpha)


def compare_models(evidence: Evidence, *, alpha: float) -> Comparison:
    """Compare the models trained here on new patients; other training sets may give other answers.

    The variance is that over patients alone: DeLong's for an AUC, the paired one for means of
    cases. Raises ValueError for fewer than two combinations, or if no influence is known.
    """
    _two_combinations(evidence)
    if evidence.influence is None:
        raise ValueError(
            "models can be compared on new patients only by a metric with an influence function"
        )
    m = evidence.combinations
    none = Spread(
        extra=np.zeros(m),
        own_error=np.zeros(m),
        typical_error=np.zeros(m),
        own_share=np.zeros(m),
        freedom=1,
        field=m,
        seeds=evidence.seeds,
    )
    found, _ = evidence_pairs(evidence, none)
    return _judge(evidence, found, none, alpha)


def _two_combinations(evidence: Evidence) -> None:
    if evidence.combinations < 2:
        raise ValueError("a comparison needs two combinations or more")


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Which is better and which may be the best; arrays as in `Comparison`, with leading axes."""

    best: NDArray[np.intp]
    claimed: NDArray[np.bool_]
    group: NDArray[np.bool_]
    estimate: Array
    low: Array
    high: Array
    reach: Array


def rank(mean: Array, found: Pairs, *, scale: Array | float, field: int, alpha: float) -> Ranking:
    """Rank (m,) means by the variances of their pairs; leading axes are kept.

    With D the critical value of a pair and reach_il = D sqrt(V_il), Hsu (1984) for unequal errors:

        high_i = max(0, min_{l != i} (mean_i - mean_l + reach_il))
        group  = { i : mean_i - mean_l + reach_il >= 0 for all l }
        low_i  = min(0, min over l != i in the group of (mean_i - mean_l - reach_il))

    `scale`: the largest score; means that differ by less than 1e-12 of it are equal. `field`: the
    number of combinations for which the level holds.
    """
    m = mean.shape[-1]
    others = ~np.eye(m, dtype=bool)
    gap = mean[..., :, None] - mean[..., None, :]
    tiny = _ROUNDING * np.asarray(scale, np.float64)[..., None, None]
    gap = np.where(np.abs(gap) <= tiny, 0.0, gap)
    error = np.sqrt(found.variance)
    best = mean.argmax(axis=-1)
    t = critical.two_sided_t(_row(found.df, best), alpha)
    lead = _row(gap, best)
    beaten = (lead > t * _row(error, best)) & (lead > 0)
    claimed = (beaten | (np.arange(m) == best[..., None])).all(axis=-1)
    reach = critical.simultaneous(field, found.df, alpha) * error
    above = np.where(others, gap + reach, np.inf).min(axis=-1)
    group = np.where(claimed[..., None], np.arange(m) == best[..., None], above >= 0)
    rivals = others & group[..., None, :]
    below = np.where(rivals, gap - reach, np.inf).min(axis=-1)
    return Ranking(
        best=best,
        claimed=claimed,
        group=group,
        estimate=np.where(others, gap, np.inf).min(axis=-1),
        low=np.minimum(below, 0),  # without a rival, below is infinite
        high=np.where(group, np.maximum(above, 0), 0),
        reach=reach,
    )


def _row(matrix: Array, index: NDArray[np.intp]) -> Array:
    """Return one row of each (m, m) matrix, by its index."""
    row: Array = np.take_along_axis(matrix, index[..., None, None], axis=-2)[..., 0, :]
    return row


def _judge(evidence: Evidence, found: Pairs, spread: Spread, alpha: float) -> Comparison:
    mean = evidence.scores.mean(axis=(1, 2, 3))
    scale = float(np.abs(evidence.scores).max())
    ranking = rank(mean, found, scale=scale, field=spread.field, alpha=alpha)
    best = int(ranking.best)
    behind = np.where(np.arange(mean.size) == best, -np.inf, mean)
    runner_up = int(behind.argmax())
    t = float(critical.two_sided_t(found.df[best, runner_up], alpha))
    lasting = None if evidence.influence is None else _lasting(evidence.influence, best)
    return Comparison(
        mean=mean,
        estimate=ranking.estimate,
        low=np.maximum(ranking.low, -evidence.span),
        high=np.minimum(ranking.high, evidence.span),
        group=ranking.group,
        best=best,
        runner_up=runner_up,
        winner=best if ranking.claimed else None,
        variance=found.variance,
        df=found.df,
        patients=found.patients,
        training=found.training,
        reach=ranking.reach,
        lead_reach=t * float(np.sqrt(found.variance[best, runner_up])),
        span=evidence.span,
        floor=None if lasting is None else _floor(evidence, lasting, best, alpha),
        floor_is_about=evidence.seeds * evidence.repeats == 1,
        shares=None if lasting is None else _shares(evidence, found, lasting, best, runner_up),
        steady=spread.steady,
        alpha=alpha,
        spread=spread,
    )


def _lasting(influence: Array, best: int) -> Array:
    """Return (m,) variances over patients of the best one's leads that seeds cannot reduce.

    The mean cross-product of the influences of different seeds or repeats, which share patients but
    not training noise. A single repeat and seed has no such pair; its own product has that noise.
    """
    lead = influence[best] - influence  # (m, R, S, n)
    runs = lead.reshape(lead.shape[0], -1, lead.shape[-1])
    count = runs.shape[1]
    own: Array = (runs**2).sum(axis=(1, 2))
    if count == 1:
        return own
    total = (runs.sum(axis=1) ** 2).sum(axis=1)
    lasting: Array = np.maximum((total - own) / (count * (count - 1)), 0)
    return lasting


def _floor(evidence: Evidence, lasting: Array, best: int, alpha: float) -> float:
    patients = evidence.patients
    assert patients is not None, "the floor needs an influence"
    t = float(critical.two_sided_t(max(patients - 2, 1), alpha))
    return t * float(np.sqrt(np.delete(lasting, best).min()))


def _shares(
    evidence: Evidence, found: Pairs, lasting: Array, best: int, runner_up: int
) -> Shares | None:
    variance = found.patients[best, runner_up] + found.training[best] + found.training[runner_up]
    if variance <= 0:
        return None
    patients = min(1.0, float(lasting[runner_up] / variance))
    if evidence.seeds == 1:
        return Shares(patients=patients, training=1 - patients, seed=None)
    lead = evidence.scores[best] - evidence.scores[runner_up]
    within = float(lead.var(axis=-1, ddof=1).mean()) / evidence.seeds
    factor = mean_variance_factor(evidence.folds * evidence.repeats, evidence.test_train_ratio)
    seed = min(1 - patients, within * factor / float(variance))
    return Shares(patients=patients, training=1 - patients - seed, seed=seed)
