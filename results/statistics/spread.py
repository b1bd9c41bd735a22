"""The uncertainty of a mean score: what patients add to it, and what training adds.

m combinations are scored on the same k folds of R repeats with S seeds. Two things make a mean
score uncertain: which patients were sampled, and how training went, including its training set.
What patients add is known from the influence of each patient on the score (`case_covariances`).
What training adds is the scatter of folds beyond that (`training_spread`), with the factor of
Nadeau and Bengio for a fold, since any two training sets share cases.

Every function keeps leading axes: the tests judge many studies at once.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.statistics.evidence import Evidence

Array = NDArray[np.float64]

# A variance this much smaller than the square of the scores is rounding: (2^-53)^2 is about 1e-32.
ROUNDING = 1e-20

# The ratio of the scatter of folds to the part that patients explain is shrunk towards 1, its value
# in real trainings (30 pairs of ten tasks of the Medical Segmentation Decathlon: median 0.9, mean
# 1.4), as if that had been seen with 1.7 degrees of freedom. It is then raised, by 1.2 over the
# power 0.7 of its degrees of freedom (by 0.45 for two combinations and five folds, by 0.05 for 24),
# since a ratio that is too small makes false claims. Chosen by simulation and on those pairs: of
# the powers and factors that keep the half-widths of two combinations at three quarters of Nadeau
# and Bengio's there, these are among those with the fewest false claims.
_PRIOR_FREEDOM, _MARGIN, _MARGIN_FALLS = 1.7, 1.2, 0.7

# Least ratio of the scatter of folds to the part that patients explain: some of what training adds
# is the same in all folds, since they share cases, and the scatter of folds does not show it. By
# simulation of ridge classifiers: with two combinations, with many, for one combination.
_LEAST_TWO, _LEAST_MANY, _LEAST_SINGLE = 1.1, 1.05, 1.25

# Between these two quantiles of the chi-squared of the typical scatter, a combination's own scatter
# gradually replaces the typical one: here for all but the leaders, some of which are far out by
# chance; below for the best and the runner-up, between which a false claim would be made. If
# patients explain part of the scatter, the rest is smaller: the leaders' own scatter then replaces
# it sooner and counts a little more than it is, since it is used only if it looks unsteady. By
# simulation.
_OTHERS = (0.98, 0.998)


@dataclass(frozen=True, kw_only=True)
class OwnScatter:
    """How a leader's own scatter replaces the typical one: from the first quantile to the second.

    `counts`: the factor by which the own scatter counts.
    """

    leaders: tuple[float, float]
    counts: float

    def counted(self, own: Array, typical: Array, share: Array) -> Array:
        """Return the scatter to use, of which `share` is the combination's own."""
        found: Array = typical + share * (self.counts * own - typical)
        return found


OWN_BY_FOLDS = OwnScatter(leaders=(0.9, 0.985), counts=1.0)
OWN_BY_CASES = OwnScatter(leaders=(0.65, 0.95), counts=1.15)

# Between these two typical ratios, the sampling error of the typical ratio gradually comes to count
# in the degrees of freedom: training, not the patients, then dominates.
_NERVOUS = (2.5, 3.0)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What training adds to the variance of one fold, for a field of combinations.

    `extra`: (m,) that variance. `own_error` and `typical_error`: (m,) the variances whose sampling
    error counts in it: of the combination's own scatter, and of the typical one of the field.
    `own_share`: (m,) the share from the combination's own scatter, 0 (all typical) to 1. `freedom`:
    degrees of freedom of one combination's scatter, (k - 1) R. `field`: the number of combinations
    behind the typical scatter. `seeds`: S of these scores.
    """

    extra: Array
    own_error: Array
    typical_error: Array
    own_share: Array
    freedom: int
    field: int
    seeds: int

    @property
    def steady(self) -> NDArray[np.bool_]:
        """(m,) bool: whether the spread is the typical one."""
        steady: NDArray[np.bool_] = self.own_share == 0
        return steady

    def of(self, indices: NDArray[np.intp]) -> "Spread":
        """Return the spread of some combinations; the field of the typical one stays the same."""
        return Spread(
            extra=self.extra[..., indices],
            own_error=self.own_error[..., indices],
            typical_error=self.typical_error[..., indices],
            own_share=self.own_share[..., indices],
            freedom=self.freedom,
            field=self.field,
            seeds=self.seeds,
        )


def mean_variance_factor(folds: int, test_train_ratio: float) -> float:
    """Return 1/k + n_test/n_train, the variance of the mean of k folds over that of one fold.

    Nadeau and Bengio (2003), "Inference for the generalization error", Machine Learning 52, eq. 9.
    `test_train_ratio` is n_test / n_train of one fold. The folds of repeats, which split the data
    anew, all count in k.
    """
    return 1.0 / folds + test_train_ratio


def case_covariances(influence: Array) -> tuple[Array, Array]:
    """Return the (R, m, m) covariances over patients by repeat, and the (m, m) ones of their mean.

    From an (m, R, S, n) influence, which is averaged over seeds first.
    """
    phi = influence.mean(axis=-2)
    by_repeat = np.einsum("...irn,...lrn->...ril", phi, phi)
    mean = phi.mean(axis=-2)
    return by_repeat, mean @ np.swapaxes(mean, -1, -2)


def training_spread(scores: Array, by_repeat: Array | None) -> Spread:
    """Return what training adds, from (m, R, k, S) scores and (R, m, m) covariances over patients.

    A combination's scatter, `own`, is that of its folds after subtracting their means over
    combinations. Divided by the part that patients explain, it is a ratio q. The typical ratio is
    the median over the field, and is used for every combination whose own is not far above it.
    """
    m, repeats, folds, seeds = scores.shape[-4:]
    freedom = (folds - 1) * repeats
    y = scores.mean(axis=-1)
    own, weights = _own_scatter(y)
    # One that ties with the runner-up leads too, or the order of combinations would decide.
    mean = y.mean(axis=(-2, -1))
    leads = mean >= np.sort(mean, axis=-1)[..., [-2]]
    typical = np.median(own, axis=-1, keepdims=True) / _median_of_mean_square(m, freedom)
    share = own_share(own, typical, freedom, leads, OWN_BY_FOLDS, field=m)
    extra = OWN_BY_FOLDS.counted(own, typical, share)
    own_error, typical_error = share * OWN_BY_FOLDS.counts * own, (1 - share) * typical
    if by_repeat is not None:
        scale = np.abs(scores).max(axis=(-4, -3, -2, -1))[..., None] ** 2
        case = _case_scatter(by_repeat, weights, folds)
        explained = case > ROUNDING * scale  # else patients explain nothing, and folds alone decide
        case = np.where(explained, case, 1.0)
        ratio = np.where(explained, own, 1.0) / case
        middle = np.median(ratio, axis=-1, keepdims=True) / _median_of_mean_square(m, freedom)
        typical = typical_ratio(middle, m, (m - 1) * freedom)
        own_part = own_share(ratio, typical, freedom, leads, OWN_BY_CASES, field=m)
        drawn = OWN_BY_CASES.counted(ratio, typical, own_part)
        share = np.where(explained, own_part, share)
        extra = np.where(explained, (drawn - 1) * case, extra)
        own_error = np.where(explained, own_part * OWN_BY_CASES.counts * own, own_error)
        typical_error = np.where(
            explained, nervousness(middle) * (1 - own_part) * typical * case, typical_error
        )
    return Spread(
        extra=extra,
        own_error=own_error,
        typical_error=typical_error,
        own_share=share,
        freedom=freedom,
        field=m,
        seeds=seeds,
    )


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """The scatter of the folds of a field, as `training_spread` judges it.

    `own`: (m,) each one's variance of a fold, or its ratio to the part that patients explain, if
    that is known. `case`: (m,) that part, or None. `middle`: the median of `own`, corrected.
    """

    own: Array
    case: Array | None
    middle: float


def field_scatter(scores: Array, by_repeat: Array | None) -> Scatter:
    """Return the scatter of folds, from (m, R, k, S) scores and (R, m, m) covariances or None.

    The ratio is 1 for a combination whose scatter patients do not explain at all.
    """
    m, repeats, folds, _ = scores.shape
    own, weights = _own_scatter(scores.mean(axis=-1))
    case = None
    if by_repeat is not None:
        case = _case_scatter(by_repeat, weights, folds)
        explained = case > ROUNDING * float(np.abs(scores).max()) ** 2
        own = np.where(explained, own, 1.0) / np.where(explained, case, 1.0)
    middle = float(np.median(own)) / _median_of_mean_square(m, (folds - 1) * repeats)
    return Scatter(own=own, case=case, middle=middle)


def _own_scatter(y: Array) -> tuple[Array, Array]:
    """Return each one's variance of a fold from (m, R, k) scores, without what combinations share.

    What they share is their weighted mean in each fold; the (m,) weights are returned too. They are
    equal first, and then, once, proportional to 1 / variance, since an unsteady combination would
    otherwise leave its error in all residuals. Dividing by 1 - w_i corrects for a combination's own
    part in the mean.
    """
    m, repeats, folds = y.shape[-3:]
    centred = y - y.mean(axis=-1, keepdims=True)
    weights = np.full(y.shape[:-2], 1 / m)
    for last in (False, True):
        residual = centred - (weights[..., None, None] * centred).sum(axis=-3, keepdims=True)
        own: Array = (residual**2).sum(axis=(-2, -1)) / ((folds - 1) * repeats * (1 - weights))
        if last or m == 2:
            break
        steady = np.maximum(own, np.median(own, axis=-1, keepdims=True))
        inverse = np.divide(1.0, steady, out=np.ones_like(steady), where=steady > 0)
        weights = inverse / inverse.sum(axis=-1, keepdims=True)
    return own, weights


def _case_scatter(by_repeat: Array, weights: Array, folds: int) -> Array:
    """Return what patients explain of each variance of a fold, without the same means."""
    covariance = by_repeat.mean(axis=-3)
    row = (covariance @ weights[..., None])[..., 0]
    common = (weights * row).sum(axis=-1, keepdims=True)
    diagonal = np.diagonal(covariance, axis1=-2, axis2=-1)
    scatter: Array = folds * (diagonal - 2 * row + common) / (1 - weights)
    return scatter


def nervousness(middle: Array) -> Array:
    """Return how much the error of the median ratio counts in the degrees of freedom: 0 to 1."""
    first, last = _NERVOUS
    share: Array = np.sqrt(np.clip((middle - first) / (last - first), 0, 1))
    return share


def typical_ratio(middle: Array, m: int, freedom: int) -> Array:
    """Return the ratio to use, from the median one of m and its degrees of freedom."""
    least = _LEAST_MANY + (_LEAST_TWO - _LEAST_MANY) * 2 / m
    drawn = np.maximum(middle, 0) ** (freedom / (freedom + _PRIOR_FREEDOM))
    raised = (1 + _MARGIN / freedom**_MARGIN_FALLS) * drawn
    ratio: Array = np.maximum(np.maximum(raised, middle), least)
    return ratio


@lru_cache(maxsize=256)
def _median_of_mean_square(m: int, freedom: int) -> float:
    """Return the median of a mean square with expectation 1; for m = 2, whose two are equal, 1."""
    return 1.0 if m == 2 else float(stats.chi2.median(freedom) / freedom)


def own_share(
    values: Array,
    typical: Array,
    freedom: int,
    leads: NDArray[np.bool_],
    rule: OwnScatter,
    *,
    field: int,
) -> Array:
    """Return the share, 0 to 1, to which each variance or ratio is its combination's own.

    It rises from one quantile of the typical one's chi-squared to another: `rule.leaders` for the
    best and the runner-up (`leads`), higher ones for the others. In a `field` of two it is 0.
    """
    if field == 2:
        return np.zeros_like(values)
    first, others = (
        np.asarray(stats.chi2.ppf(quantiles, freedom)) / freedom
        for quantiles in (rule.leaders, _OTHERS)
    )
    low, high = np.where(leads, first[0], others[0]), np.where(leads, first[1], others[1])
    above = np.divide(values, typical, out=np.ones_like(values), where=typical > 0)
    above = np.where((typical == 0) & (values > 0), np.inf, above)
    share: Array = np.clip((above - low) / (high - low), 0, 1)
    return share


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The differences of means of all pairs, (m, m), and what training adds to each mean, (m,).

    `patients`: the variance over patients. `variance`: that plus what training adds to both. `df`:
    the degrees of freedom of `variance`.
    """

    patients: Array
    training: Array
    variance: Array
    df: Array


def pairs(
    covariance: Array | None,
    spread: Spread,
    *,
    factor: float,
    remaining: float | Array = 1.0,
    folds: int,
    patients: int | None,
    grain: float = 0.0,
) -> Pairs:
    """Return the variances of all pairs: (m, m) covariance over patients, and the training spread.

    `factor` is `mean_variance_factor`; `remaining` is the share of the spread that is left if there
    are more seeds than it was measured with.
    """
    training = spread.extra * factor * remaining
    both = training[..., :, None] + training[..., None, :]
    if covariance is None:
        known = np.zeros_like(both)
    else:
        diagonal = np.diagonal(covariance, axis1=-2, axis2=-1)
        known = np.maximum(diagonal[..., :, None] + diagonal[..., None, :] - 2 * covariance, 0)
    # The typical part is one estimate from the whole field. A combination's own part has only the
    # degrees of freedom of its folds; two such are counted as one, to be conservative.
    own = spread.own_error * factor * remaining
    shared = spread.typical_error * factor * remaining
    freedom = np.array([(spread.field - 1) * spread.freedom, spread.freedom])
    error = (shared[..., :, None] + shared[..., None, :]) ** 2 / freedom[0] + (
        own[..., :, None] + own[..., None, :]
    ) ** 2 / freedom[1]
    if patients is not None:
        error = error + known**2 / max(patients - 2, 1)
    variance = known + both
    df = np.divide(variance**2, error, out=np.full_like(variance, np.inf), where=error > 0)
    most = np.inf if patients is None else max(patients - 2, 1)
    df = np.clip(df, max(min(folds - 1, most), 1), most)
    variance = np.maximum(variance, grain**2)
    return Pairs(patients=known, training=training, variance=variance, df=df)


def evidence_pairs(evidence: Evidence, frozen: Spread | None = None) -> tuple[Pairs, Spread]:
    """Return the variances of all pairs of some evidence, and the spread that they use.

    `frozen`: the spread that a race measured on the whole field with its seeds; how much more seeds
    reduce it is estimated from the scatter of seeds within folds.
    """
    by_repeat, mean = (
        (None, None) if evidence.influence is None else case_covariances(evidence.influence)
    )
    spread = training_spread(evidence.scores, by_repeat) if frozen is None else frozen
    remaining = 1.0
    if frozen is not None and evidence.seeds > frozen.seeds and frozen.extra.sum() > 0:
        of_seed = float(seed_variance(evidence.scores, evidence.influence).mean())
        part = min(1.0, max(of_seed, 0.0) / frozen.seeds / float(frozen.extra.mean()))
        remaining = 1 - (1 - frozen.seeds / evidence.seeds) * part
    found = pairs(
        mean,
        spread,
        factor=mean_variance_factor(evidence.folds * evidence.repeats, evidence.test_train_ratio),
        remaining=remaining,
        folds=evidence.folds,
        patients=evidence.patients,
        grain=evidence.grain,
    )
    return found, spread


def seed_variance(scores: Array, influence: Array | None) -> Array:
    """Return (m,) what one seed adds to a fold's variance, as a part of `Spread.extra`.

    From (m, R, k, S) scores and (m, R, S, n) influence, S > 1: the scatter of seeds within folds.
    The effect of a seed on all combinations is subtracted, as in `_own_scatter`, since all start
    from its weights and see its order. So is its noise for each patient, which is part of what
    patients add. `extra` contains neither.
    """
    _, repeats, folds, seeds = scores.shape
    _, weights = _own_scatter(scores.mean(axis=-1))
    apart = scores - scores.mean(axis=-1, keepdims=True)
    residual = apart - np.tensordot(weights, apart, axes=1)
    freedom = repeats * folds * (seeds - 1)
    variance: Array = (residual**2).sum(axis=(1, 2, 3)) / (freedom * (1 - weights))
    if influence is None:
        return variance
    moved = influence - influence.mean(axis=-2, keepdims=True)
    by_repeat = np.einsum("irsn,lrsn->ril", moved, moved, optimize=True) / (seeds - 1)
    return variance - _case_scatter(by_repeat, weights, folds)


def single_variance(
    scores: Array, influence: Array, *, test_train_ratio: float
) -> tuple[float, float]:
    """Return the variance of one combination's mean and its degrees of freedom.

    From its (R, k, S) scores and (R, S, n) influence: the variance over patients, plus what
    training adds, by the scatter of its own folds. Raises ValueError for one fold.
    """
    repeats, folds, _ = scores.shape
    if folds < 2:
        raise ValueError("one fold has no scatter that shows what training adds")
    by_repeat, covariance = case_covariances(influence[None])
    most = max(influence.shape[-1] - 2, 1)
    freedom = (folds - 1) * repeats
    y = scores.mean(axis=-1)
    own = float(((y - y.mean(axis=1, keepdims=True)) ** 2).sum()) / freedom
    case = folds * float(by_repeat.mean())
    known = float(covariance[0, 0])
    factor = mean_variance_factor(folds * repeats, test_train_ratio)
    extra = max(own - case, (_LEAST_SINGLE - 1) * case) * factor
    variance = known + extra
    error = known**2 / most + extra**2 / freedom
    df = variance**2 / error if error > 0 else float(most)
    return variance, float(np.clip(df, max(min(folds - 1, most), 1), most))
