"""What a planned study will be able to tell, from a pilot: two folds of it, or an earlier run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.statistics import critical
from results.statistics.evidence import Evidence
from results.statistics.spread import (
    case_covariances,
    mean_variance_factor,
    middle_scatter,
    nervousness,
    typical_ratio,
)

Array = NDArray[np.float64]

# Before a pilot, the ratio of what folds scatter to what patients explain of it is taken to be
# about this, give or take this in its logarithm; a pilot's few folds are seen against that. Chosen
# on 30 pairs of real trainings (ten tasks of the Medical Segmentation Decathlon).
_PRIOR_RATIO, _PRIOR_LOG_SD = 1.5, 1.3

# Draws of what a planned study may find, from this seed.
_DRAWS, _SEED = 4000, 0

# Power at which a lead counts as one that a study can find, and the share that a range holds.
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
    """The half-width to expect for the lead of the best over the runner-up.

    `half_width`: its median, also the lead that is found in half of all cases; [`low`, `high`]: the
    range that holds it in 80 % of cases. `findable`: the lead that is found in 80 % of cases.
    """

    half_width: float
    low: float
    high: float
    findable: float


def predict(pilot: Evidence, plan: Plan, *, alpha: float) -> Prediction:
    """Predict the half-width of a planned study from a pilot of two folds or more.

    What patients add falls as their number grows, and is known as well as the pilot's patients tell
    it; what training adds keeps its ratio to it, which the pilot's folds tell together with what
    real trainings showed. A planned study that is larger than its pilot is taken to hold the
    pilot's folds. Raises ValueError for fewer than two combinations or folds in pilot or plan.
    """
    if pilot.combinations < 2 or pilot.folds < 2 or plan.folds < 2:
        raise ValueError("a prediction needs two combinations, and two folds in pilot and plan")
    rng = np.random.default_rng(_SEED)
    mean = pilot.scores.mean(axis=(1, 2, 3))
    first, second = np.argsort(-mean, kind="stable")[:2]
    pair = pilot.of([first, second])
    factor = mean_variance_factor(plan.folds * plan.repeats, plan.test_train_ratio)
    before = (pilot.combinations - 1) * (pilot.folds - 1) * pilot.repeats
    after = (pilot.combinations - 1) * (plan.folds - 1) * plan.repeats
    by_repeat = None if pilot.influence is None else case_covariances(pilot.influence)[0]
    middle = middle_scatter(pilot.scores, by_repeat)
    if pair.influence is None:
        # Nothing is known beforehand of a scatter itself: the posterior of a variance alone.
        truth = middle * before / rng.chisquare(before, _DRAWS)
        seen = _seen_later(rng, truth, middle, before, after)
        both = (2 * seen + _seeds(pair, plan)) * factor
        variance, df = np.maximum(both, 0), np.full(_DRAWS, float(after))
    else:
        truth = _ratios(rng, middle, before)
        seen = _seen_later(rng, truth, middle, before, after)
        patients, spread = _patients(pair.influence, plan.patients)
        known = patients * np.exp(spread * rng.standard_normal(_DRAWS))
        case = plan.folds * known
        ratio = typical_ratio(seen, pilot.combinations, after)
        both = np.maximum((ratio - 1) * case + _seeds(pair, plan), 0) * factor
        variance = known + both
        error = known**2 / max(plan.patients - 2, 1)
        error += (nervousness(seen) * ratio * case * factor) ** 2 / after
        most = max(plan.patients - 2, 1)
        df = np.clip(variance**2 / error, max(min(plan.folds - 1, most), 1), most)
    half = critical.two_sided_t(df, alpha) * np.sqrt(variance)
    low, median, high = np.quantile(half, [(1 - _RANGE) / 2, 0.5, (1 + _RANGE) / 2])
    more = stats.norm.ppf(_POWER) * float(np.median(np.sqrt(variance)))
    return Prediction(
        half_width=float(median), low=float(low), high=float(high), findable=float(median + more)
    )


def _ratios(rng: np.random.Generator, middle: float, freedom: int) -> Array:
    """Draw the true ratio, given the middle one of a pilot and its degrees of freedom."""
    grid = np.linspace(-4, 4, 801)
    ratio = _PRIOR_RATIO * np.exp(_PRIOR_LOG_SD * grid)
    weight = stats.norm.pdf(grid) * stats.chi2.pdf(middle * freedom / ratio, freedom) / ratio
    if not weight.sum() > 0:
        weight = stats.norm.pdf(grid)
    return np.asarray(rng.choice(ratio, _DRAWS, p=weight / weight.sum()))


def _seen_later(
    rng: np.random.Generator, truth: Array, middle: float, before: int, after: int
) -> Array:
    """Draw what the planned study will see: the pilot's part, and the folds that are new."""
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
    """Return what other numbers of seeds add to a lead's variance of one fold."""
    if pair.seeds < 2:
        return 0.0
    lead = pair.scores[0] - pair.scores[1]  # the luck of a seed that both have leaves with it
    return float(lead.var(axis=-1, ddof=1).mean()) * (1 / plan.seeds - 1 / pair.seeds)
