"""What a planned study is expected to show, from a pilot: two folds of it, or an earlier run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.statistics import critical
from results.statistics.evidence import Evidence
from results.statistics.spread import (
    OWN_BY_CASES,
    OWN_BY_FOLDS,
    OwnScatter,
    Scatter,
    case_covariances,
    field_scatter,
    mean_variance_factor,
    nervousness,
    own_share,
    typical_ratio,
)

Array = NDArray[np.float64]

# The prior of the ratio of the scatter of folds to the part that patients explain: its centre, and
# its standard deviation on the log scale. A pilot's few folds update it. Chosen on 30 pairs of real
# trainings (ten tasks of the Medical Segmentation Decathlon).
_PRIOR_RATIO, _PRIOR_LOG_SD = 1.5, 1.3

# The logarithm of a leader's true scatter is distributed about that of its field's typical one by a
# Student's t of this scale and these degrees of freedom: most are close to it, and a few far off.
# Assumption; scales of 0.4 and 1.0 predict simulated and recorded studies about as well.
_OWN_LOG_SCALE, _OWN_LOG_DF = 0.6, 3.0

# Number of draws of what a planned study may find, and their seed.
_DRAWS, _SEED = 4000, 0

# Power at which a lead counts as one that a study can find, and the coverage of the range.
_POWER, _RANGE = 0.8, 0.8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A planned study: k folds of R repeats with S seeds on n patients."""

    folds: int
    repeats: int
    seeds: int
    patients: int
    test_train_ratio: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The expected half-width of the interval of the best one's lead over the runner-up.

    `half_width`: its median, also the lead that is found in half of all studies; [`low`, `high`]:
    the range that contains it in 80 % of studies. `findable`: the lead found in 80 % of studies.
    """

    half_width: float
    low: float
    high: float
    findable: float


def predict(pilot: Evidence, plan: Plan, *, alpha: float) -> Prediction:
    """Predict the half-width of a planned study from a pilot of two folds or more.

    What patients add falls as their number grows, and is known as precisely as the pilot's patients
    show it. What training adds keeps its ratio to that, which is estimated from the pilot's folds
    and the prior from real trainings. With more than two combinations, the scatter of the leaders'
    own folds replaces it as far as in the verdict. A planned study that is larger than its pilot is
    assumed to contain the pilot's folds. Raises ValueError for fewer than two combinations or folds
    in pilot or plan.
    """
    if pilot.combinations < 2 or pilot.folds < 2 or plan.folds < 2:
        raise ValueError("a prediction needs two combinations, and two folds in pilot and plan")
    rng = np.random.default_rng(_SEED)
    mean = pilot.scores.mean(axis=(1, 2, 3))
    first, second = np.argsort(-mean, kind="stable")[:2]
    pair = pilot.of([first, second])
    factor = mean_variance_factor(plan.folds * plan.repeats, plan.test_train_ratio)
    m = pilot.combinations
    of = _Freedom(
        m=m, before=(pilot.folds - 1) * pilot.repeats, after=(plan.folds - 1) * plan.repeats
    )
    before, after = (m - 1) * of.before, (m - 1) * of.after
    by_repeat = None if pilot.influence is None else case_covariances(pilot.influence)[0]
    field = field_scatter(pilot.scores, by_repeat)
    middle, own = field.middle, field.own[[first, second]]
    if pair.influence is None:
        # There is no prior for the scatter itself: this is the posterior of a variance alone.
        truth = middle * before / rng.chisquare(before, _DRAWS)
        seen = _seen_later(rng, truth, middle, before, after)
        found = _leaders(rng, OWN_BY_FOLDS, own, truth, seen, of)
        both = (found.counted.sum(axis=0) + _seeds(pair, plan)) * factor
        variance = np.maximum(both, 0)
        shared, alone = found.typical.sum(axis=0), found.own.sum(axis=0)
        error = shared**2 / after + alone**2 / of.after
        total = (shared + alone) ** 2
        df = np.divide(total, error, out=np.full(_DRAWS, float(after)), where=alone > 0)
        df = np.maximum(df, plan.folds - 1)
    else:
        truth = _ratios(rng, middle, before)
        seen = _seen_later(rng, truth, middle, before, after)
        patients, spread = _patients(pair.influence, plan.patients)
        known = patients * np.exp(spread * rng.standard_normal(_DRAWS))
        case = plan.folds * known * _parts(field, pair, [first, second])
        found = _leaders(rng, OWN_BY_CASES, own, truth, typical_ratio(seen, m, after), of)
        extra = ((found.counted - 1) * case).sum(axis=0)
        both = np.maximum(extra + _seeds(pair, plan), 0) * factor
        variance = known + both
        most = max(plan.patients - 2, 1)
        shared = (nervousness(seen) * found.typical * case).sum(axis=0) * factor
        alone = (found.own * case).sum(axis=0) * factor
        error = known**2 / most + shared**2 / after + alone**2 / of.after
        df = np.clip(variance**2 / error, max(min(plan.folds - 1, most), 1), most)
    half = critical.two_sided_t(df, alpha) * np.sqrt(variance)
    low, median, high = np.quantile(half, [(1 - _RANGE) / 2, 0.5, (1 + _RANGE) / 2])
    more = stats.norm.ppf(_POWER) * float(np.median(np.sqrt(variance)))
    return Prediction(
        half_width=float(median), low=float(low), high=float(high), findable=float(median + more)
    )


@dataclass(frozen=True, kw_only=True)
class _Freedom:
    """Degrees of freedom of one combination's scatter, in pilot and plan, in a field of m."""

    m: int
    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """(2, draws) scatters used for the best and the runner-up, and their parts.

    `typical` and `own`: the parts from the field and from their own folds, whose errors count
    separately.
    """

    counted: Array
    typical: Array
    own: Array


def _leaders(
    rng: np.random.Generator,
    rule: OwnScatter,
    own: Array,
    truth: Array,
    typical: Array,
    of: _Freedom,
) -> _Counted:
    """Draw the scatters that a verdict will use for the two leaders, as `training_spread` does.

    From the (2,) `own` ones of the pilot, the true one of the field, and the typical one that will
    be used.
    """
    each = np.broadcast_to(typical, (2, typical.size))
    if of.m == 2:
        return _Counted(counted=each, typical=each, own=np.zeros_like(each))
    true = [_true_own(rng, scatter, truth, of.before) for scatter in own]
    later = np.stack(
        [
            _seen_later(rng, drawn, scatter, of.before, of.after)
            for drawn, scatter in zip(true, own, strict=True)
        ]
    )
    lead = np.ones(later.shape, np.bool_)
    share = own_share(later, each, of.after, lead, rule, field=of.m)
    return _Counted(
        counted=rule.counted(later, each, share),
        typical=(1 - share) * each,
        own=share * rule.counts * later,
    )


def _true_own(rng: np.random.Generator, own: float, typical: Array, freedom: int) -> Array:
    """Draw a leader's true scatter, given that of the pilot and the true one of its field."""
    z = np.linspace(-6, 14, 101)
    centre = np.where(typical > 0, typical, own if own > 0 else 1.0)
    grid = centre[:, None] * np.exp(_OWN_LOG_SCALE * z)
    weight = stats.t.logpdf(z, _OWN_LOG_DF) - freedom / 2 * (np.log(grid) + own / grid)
    total = np.exp(weight - weight.max(axis=1, keepdims=True)).cumsum(axis=1)
    at = (total < rng.random((typical.size, 1)) * total[:, -1:]).sum(axis=1)
    return np.asarray(np.take_along_axis(grid, at[:, None], axis=1)[:, 0])


def _parts(field: Scatter, pair: Evidence, at: list[np.intp]) -> Array:
    """Return (2, 1): what patients explain of each leader's scatter, over that of their difference.

    For two combinations it is a half each; in a larger field, what all share is subtracted.
    """
    assert field.case is not None, "needs an influence"
    assert pair.influence is not None, "needs an influence"
    lead = float(((pair.influence[0] - pair.influence[1]).mean(axis=(0, 1)) ** 2).sum())
    if field.case.size == 2 or lead == 0:
        return np.full((2, 1), 0.5)
    return field.case[at][:, None] / (pair.folds * lead)


def _ratios(rng: np.random.Generator, middle: float, freedom: int) -> Array:
    """Draw the true ratio, given the median one of a pilot and its degrees of freedom."""
    grid = np.linspace(-4, 4, 801)
    ratio = _PRIOR_RATIO * np.exp(_PRIOR_LOG_SD * grid)
    weight = stats.norm.pdf(grid) * stats.chi2.pdf(middle * freedom / ratio, freedom) / ratio
    if not weight.sum() > 0:
        weight = stats.norm.pdf(grid)
    return np.asarray(rng.choice(ratio, _DRAWS, p=weight / weight.sum()))


def _seen_later(
    rng: np.random.Generator, truth: Array, middle: float, before: int, after: int
) -> Array:
    """Draw the scatter that the planned study will see: the pilot's folds, and the new ones."""
    if after <= before:
        return truth * rng.chisquare(after, truth.size) / after
    new = truth * rng.chisquare(after - before, truth.size)
    return (middle * before + new) / after


def _patients(influence: Array, planned: int) -> tuple[float, float]:
    """Return the planned variance over patients of a pair's lead, and its relative error."""
    lead = (influence[0] - influence[1]).mean(axis=(0, 1))
    count = lead.size
    square = float((lead**2).sum())
    if square == 0:
        return 0.0, 0.0
    relative = max(float((lead**4).sum()) / square**2 - 1 / count, 0.0)
    new = 1 - count / planned if planned > count else 1.0
    return square * count / planned, float(np.sqrt(relative * new))


def _seeds(pair: Evidence, plan: Plan) -> float:
    """Return how another number of seeds changes a lead's variance of one fold."""
    if pair.seeds < 2:
        return 0.0
    lead = pair.scores[0] - pair.scores[1]  # what a seed does to both cancels
    return float(lead.var(axis=-1, ddof=1).mean()) * (1 / plan.seeds - 1 / pair.seeds)
