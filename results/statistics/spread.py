"""How far a mean score may lie from the truth: what patients add to it, and what training adds.

Setting. m combinations are scored on the same k folds of R repeats with S seeds. Two things make a
mean score uncertain: which patients there are, and how training went, its training set included.
What patients add is known from each patient's influence on the score (`case_covariances`). What
training adds is what the folds scatter beyond that (`training_spread`), and a fold counts for it by
Nadeau and Bengio's factor, since any two training sets share cases.

Every function takes leading axes, which it keeps: many studies are judged at once in the tests.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.statistics.evidence import Evidence

Array = NDArray[np.float64]

# A variance this much smaller than the square of the scores is rounding: (2^-53)^2 is about 1e-32.
_ROUNDING = 1e-20

# What training adds to a fold's variance is at least this part of what its patients add: with two
# combinations, and with many. Chosen by simulation (tests/results/statistics).
_LEAST_FEW, _LEAST_MANY = 1.25, 1.1

# A combination is judged by its own spread, not by the typical one, from the second of these
# quantiles of the typical one's chi-squared; in between by a mixture, so that nothing jumps.
_STEADY, _UNSTEADY = 0.95, 0.99


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What training adds to the variance of one fold, for a field of combinations.

    `extra`: (m,) that variance. `own_share`: (m,) how far it comes from the combination's own
    scatter, 0 (all typical) to 1 (all its own). `freedom`: degrees of freedom of one combination's
    scatter, (k - 1) R. `field`: the number of combinations that the typical one comes from.
    `steady`: (m,) bool, whether none of it is the combination's own. `seeds`: S of these scores.
    """

    extra: Array
    own_share: Array
    freedom: int
    field: int
    seeds: int

    @property
    def steady(self) -> NDArray[np.bool_]:
        """(m,) bool: whose spread is typical."""
        steady: NDArray[np.bool_] = self.own_share == 0
        return steady

    def of(self, indices: NDArray[np.intp]) -> "Spread":
        """Keep some combinations; the field of their typical spread stays as it was."""
        return Spread(
            extra=self.extra[..., indices],
            own_share=self.own_share[..., indices],
            freedom=self.freedom,
            field=self.field,
            seeds=self.seeds,
        )


def mean_variance_factor(folds: int, test_train_ratio: float) -> float:
    """Return 1/k + n_test/n_train, by which a fold's variance becomes that of the mean of k folds.

    Nadeau and Bengio (2003), "Inference for the generalization error", Machine Learning 52, eq. 9.
    `test_train_ratio` is n_test / n_train of one fold. Repeats that split anew count as folds of
    their own in k.
    """
    return 1.0 / folds + test_train_ratio


def case_covariances(influence: Array) -> tuple[Array, Array]:
    """Return (R, m, m) covariances over patients by repeat, and the (m, m) of their mean.

    From an (m, R, S, n) influence, its mean over seeds taken first.
    """
    phi = influence.mean(axis=-2)
    by_repeat = np.einsum("...irn,...lrn->...ril", phi, phi)
    mean = phi.mean(axis=-2)
    return by_repeat, mean @ np.swapaxes(mean, -1, -2)


def training_spread(scores: Array, by_repeat: Array | None) -> Spread:
    """Return what training adds, from (m, R, k, S) scores and (R, m, m) covariances over patients.

    A combination's scatter, `own`, is that of its folds after their means over combinations are
    taken off. Over what patients explain of it, it is a ratio q; the typical ratio is the median
    over the field, and a ratio is drawn to it unless it is far above.
    """
    m, repeats, folds, seeds = scores.shape[-4:]
    freedom = (folds - 1) * repeats
    y = scores.mean(axis=-1)
    residual = y - y.mean(axis=-1, keepdims=True)
    residual = residual - residual.mean(axis=-3, keepdims=True)
    own = (residual**2).sum(axis=(-2, -1)) / (freedom * (1 - 1 / m))
    scale = np.abs(scores).max(axis=(-4, -3, -2, -1))[..., None] ** 2
    folds_alone, share_alone = _drawn_in(own, freedom)
    if by_repeat is None:
        extra, share = folds_alone, share_alone
    else:
        case = folds * _centred_diagonal(by_repeat.mean(axis=-3)) / (1 - 1 / m)
        told = case > _ROUNDING * scale  # else no patient tells anything: the folds alone
        ratio = np.where(told, own, 1.0) / np.where(told, case, 1.0)
        drawn, share = _drawn_in(ratio, freedom, least=_least(m))
        extra = np.where(told, (drawn - 1) * case, folds_alone)
        share = np.where(told, share, share_alone)
    return Spread(extra=extra, own_share=share, freedom=freedom, field=m, seeds=seeds)


def _centred_diagonal(covariance: Array) -> Array:
    """Return the diagonal of C A C for (m, m) A and C that takes the mean over m off."""
    row = covariance.mean(axis=-1)
    diagonal = np.diagonal(covariance, axis1=-2, axis2=-1)
    centred: Array = diagonal - 2 * row + row.mean(axis=-1, keepdims=True)
    return centred


def _least(m: int) -> float:
    """Return the least ratio: from that of two combinations down to that of many."""
    return _LEAST_MANY + (_LEAST_FEW - _LEAST_MANY) * 2 / m


@lru_cache(maxsize=256)
def _median_of_mean_square(m: int, freedom: int) -> float:
    """Return the expected median of m mean squares whose expectation is 1."""
    median = float(stats.chi2.median(freedom) / freedom)
    return 1 - (1 - median) * (1 - 2 / m)  # two have one mean square between them


def _drawn_in(values: Array, freedom: int, least: float = 0.0) -> tuple[Array, Array]:
    """Draw (m,) variances or ratios to the typical one; return them and how far each is its own."""
    m = values.shape[-1]
    middle = np.median(values, axis=-1, keepdims=True) / _median_of_mean_square(m, freedom)
    typical = np.maximum(middle, least)
    low, high = (float(stats.chi2.ppf(q, freedom)) / freedom for q in (_STEADY, _UNSTEADY))
    above = np.divide(values, typical, out=np.ones_like(values), where=typical > 0)
    above = np.where((typical == 0) & (values > 0), np.inf, above)
    share = np.clip((above - low) / (high - low), 0, 1)
    return typical + share * (values - typical), share


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Each pair's difference of means: (m, m) arrays, and (m,) what training adds to each mean.

    `patients`: the variance over patients. `variance`: it, and what training adds to both. `df`:
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

    `factor` is `mean_variance_factor`; `remaining` the part of the spread that is left with more
    seeds than it was measured with.
    """
    training = spread.extra * factor * remaining
    both = training[..., :, None] + training[..., None, :]
    if covariance is None:
        known = np.zeros_like(both)
    else:
        diagonal = np.diagonal(covariance, axis1=-2, axis2=-1)
        known = np.maximum(diagonal[..., :, None] + diagonal[..., None, :] - 2 * covariance, 0)
    # The typical part is one estimate from the whole field; a combination's own is its own.
    own = training * spread.own_share
    shared = training - own
    error = (shared[..., :, None] + shared[..., None, :]) ** 2 / (
        (spread.field - 1) * spread.freedom
    ) + (own[..., :, None] ** 2 + own[..., None, :] ** 2) / spread.freedom
    if patients is not None:
        error = error + known**2 / max(patients - 2, 1)
    variance = known + both
    df = np.divide(variance**2, error, out=np.full_like(variance, np.inf), where=error > 0)
    most = np.inf if patients is None else max(patients - 2, 1)
    df = np.clip(df, max(min(folds - 1, most), 1), most)
    variance = np.maximum(variance, grain**2)
    return Pairs(patients=known, training=training, variance=variance, df=df)


def evidence_pairs(evidence: Evidence, frozen: Spread | None = None) -> tuple[Pairs, Spread]:
    """Return the variances of all pairs of some evidence, and the spread that they rest on.

    `frozen`: the spread that a race measured on the whole field with its seeds; what more seeds
    take from it is estimated from the scatter of seeds within folds.
    """
    by_repeat, mean = (
        (None, None) if evidence.influence is None else case_covariances(evidence.influence)
    )
    spread = training_spread(evidence.scores, by_repeat) if frozen is None else frozen
    remaining = 1.0
    if frozen is not None and evidence.seeds > frozen.seeds and frozen.extra.sum() > 0:
        within = seed_variance(evidence.scores).mean(axis=-1)
        part = min(1.0, float(within.mean() / frozen.seeds / frozen.extra.mean()))
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


def seed_variance(scores: Array) -> Array:
    """Return (m, R) variances over the seeds of a fold, the mean over folds; more than one seed."""
    variance: Array = scores.var(axis=-1, ddof=1).mean(axis=-1)
    return variance


def single_variance(
    scores: Array, influence: Array, *, test_train_ratio: float
) -> tuple[float, float]:
    """Return the variance of one combination's mean and its degrees of freedom.

    From its (R, k, S) scores and (R, S, n) influence: over patients, and what training adds, from
    the scatter of its own folds.
    """
    repeats, folds, _ = scores.shape
    by_repeat, covariance = case_covariances(influence[None])
    patients = influence.shape[-1]
    freedom = (folds - 1) * repeats
    y = scores.mean(axis=-1)
    own = float(((y - y.mean(axis=1, keepdims=True)) ** 2).sum()) / freedom
    case = folds * float(by_repeat.mean())
    known = float(covariance[0, 0])
    factor = mean_variance_factor(folds * repeats, test_train_ratio)
    extra = max(own - case, (_LEAST_FEW - 1) * case) * factor
    variance = known + extra
    error = known**2 / max(patients - 2, 1) + extra**2 / freedom
    df = variance**2 / error if error > 0 else float(patients)
    most = max(patients - 2, 1)
    return variance, float(np.clip(df, max(min(folds - 1, most), 1), most))
