"""What a few folds can tell: pure functions of arrays, numpy and scipy only.

Setting. m combinations are scored on the same k folds, y_ij with i the combination and j the fold
(seeds of one fold are averaged before: they are no new data). Larger is better; a caller whose
metric is better when smaller passes its negative. The model is

    y_ij = mean_i + fold_j + error_ij,      Var(error_ij) = s_i^2,

so folds may be easy or hard for all, and combinations may be more or less steady.

1. Overlapping training sets. The k errors of a combination are not independent, since any two
   training sets share cases. Nadeau and Bengio (2003), "Inference for the generalization error",
   Machine Learning 52, eq. 9: the variance of their mean is estimated by

       s^2 (1/k + n_test / n_train)                                         (`mean_variance_factor`)

2. A variance for each combination. Pooling one s^2 over all lets a few unsteady combinations hide
   every difference between the good ones; k values alone give each its own variance too few
   degrees of freedom. So each is estimated from its own residuals and drawn towards the typical
   one (`error_variances`).

3. Comparison with the best. Hsu (1984), "Constrained simultaneous confidence intervals for multiple
   comparisons with the best", Annals of Statistics 12: simultaneous intervals for
   mean_i - max_{l != i} mean_l (`hsu_mcb`). The combinations whose interval reaches above
   zero are those that may be the best: the tied group.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]

# Weight of the typical variance against a combination's own where its own is larger: as if the
# typical one had been seen on as many folds again. Chosen by simulation (tests/results): with 6
# combinations, 5 folds and 5 seeds it finds a lead of 0.04 in 86 % of studies. Each one's own, not
# drawn in: 80 %; one pooled variance: 91 %, but 2 % as soon as one of the six is unsteady.
_TYPICAL_WEIGHT = 0.5

# A variance this much smaller than the largest is rounding: (2^-53)^2 is about 1e-32.
_ROUNDING = 1e-20

# Nodes of the two quadratures behind the critical value: right to 1e-5 relative (tests/results).
_NORMAL_NODES, _CHI_NODES = 96, 128


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Simultaneous comparison with the best of m combinations; larger is better.

    `mean`, `estimate`, `low`, `high`: (m,) floats; `estimate` is the mean minus the largest mean
    among the others, and [low, high] its interval, constrained to reach zero. `candidate`: (m,)
    bool, whether the combination may be the best. `error_sd`: (m,) standard deviation of one fold.
    """

    mean: Array
    estimate: Array
    low: Array
    high: Array
    candidate: NDArray[np.bool_]
    error_sd: Array
    critical_value: float
    degrees_of_freedom: int


def mean_variance_factor(folds: int, test_train_ratio: float) -> float:
    """Return 1/k + n_test/n_train, by which a fold's variance becomes that of the mean of k folds.

    Nadeau and Bengio (2003), eq. 9. `test_train_ratio` is n_test / n_train of one fold. Repeats
    that split anew count as folds of their own in k.
    """
    return 1.0 / folds + test_train_ratio


def corrected_interval(
    scores: ArrayLike, *, test_train_ratio: float, alpha: float
) -> tuple[float, float, float]:
    """Return (mean, low, high): a two-sided interval for the mean of (k,) fold scores, k > 1.

    Student's t with k - 1 degrees of freedom and the variance of `mean_variance_factor`.
    """
    y = np.asarray(scores, np.float64)
    k = y.size
    se = np.sqrt(y.var(ddof=1) * mean_variance_factor(k, test_train_ratio))
    half = float(stats.t.ppf(1 - alpha / 2, k - 1) * se)
    mean = float(y.mean())
    return mean, mean - half, mean + half


def error_variances(scores: ArrayLike) -> Array:
    """Return the (m,) error variances of (m, k) scores, m > 1, k > 1, fold effects removed.

    With weights w_i that add up to 1, the residuals are those from the weighted fold means,

        r_ij = c_ij - sum_l w_l c_lj,   c_ij = y_ij - mean_j y_ij,
        own_i = sum_j r_ij^2 / ((k - 1) (1 - w_i)),

    where 1 - w_i undoes what a combination takes from its own residual by its part in the mean
    (exact for w_i proportional to 1 / s_i^2). The weights are equal first and then, once,
    proportional to 1 / variance: otherwise an unsteady combination would leave its error in
    everyone's residuals. The typical variance is the median of own_i, divided by the median of
    chi^2_(k-1) / (k-1), so that it estimates the mean. Each variance is

        typical + (own_i - typical) / 2    where own_i is larger, else typical:

    never below the typical one, since with few folds a small variance is luck. Two combinations
    have one variance between them, and 2 s^2 is that of their paired differences.
    """
    y = np.asarray(scores, np.float64)
    m, k = y.shape
    centred = y - y.mean(axis=1, keepdims=True)
    weights = np.full(m, 1.0 / m)
    for _ in range(2):
        residual = centred - weights @ centred
        own = (residual**2).sum(axis=1) / ((k - 1) * (1 - weights))
        typical = np.median(own)
        if m > 2:
            typical /= stats.chi2.median(k - 1) / (k - 1)
        variance: Array = typical + _TYPICAL_WEIGHT * np.maximum(own - typical, 0)
        if typical <= _ROUNDING * own.max():  # most never err: there is nothing to weigh by
            break
        weights = (1 / variance) / (1 / variance).sum()
    return variance


@lru_cache(maxsize=256)
def dunnett_critical(comparisons: int, df: int, alpha: float) -> float:
    """Return the one-sided critical value d of Dunnett (1955): P(max_l T_l <= d) = 1 - alpha.

    T_1 ... T_p are Student's t with `df` degrees of freedom and correlation 0.5, as they arise from
    comparing p means with one. By conditioning on the shared mean z and the shared scale s,

        P = E_s [ integral phi(z) Phi(z + sqrt(2) d s)^p dz ],    s^2 ~ chi^2_df / df,

    integrated by Gauss-Hermite in z and by Gauss-Legendre over the quantiles of s.
    """
    z, weight = np.polynomial.hermite_e.hermegauss(_NORMAL_NODES)
    weight = weight / weight.sum()
    node, share = np.polynomial.legendre.leggauss(_CHI_NODES)
    scale = np.sqrt(stats.chi2.ppf((node + 1) / 2, df) / df)

    def excess(d: float) -> float:
        inside = stats.norm.cdf(z[:, None] + np.sqrt(2) * d * scale) ** comparisons
        return float(weight @ inside @ (share / 2)) - (1 - alpha)

    high = 4.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high))


def critical_value(combinations: int, df: int, alpha: float) -> float:
    """Return the critical value of the comparison with the best of m combinations.

    Dunnett's one-sided value gives Hsu's intervals their simultaneous level. It lets a winner be
    named among two equals in up to 2 alpha of studies, since either of them may come out ahead. So
    it is raised to the two-sided t where that is larger (2 or 3 combinations): a single winner is
    then a claim at level alpha whatever the means, and with two combinations exactly the corrected
    paired t-test of Nadeau and Bengio.
    """
    two_sided = float(stats.t.ppf(1 - alpha / 2, df))
    return max(dunnett_critical(combinations - 1, df, alpha), two_sided)


def hsu_mcb(scores: ArrayLike, *, test_train_ratio: float, alpha: float) -> Comparison:
    """Compare m combinations with the best of the others (MCB): (m, k) scores, m > 1, k > 1.

    With d the critical value and SE_il^2 = (v_i + v_l) (1/k + n_test/n_train) for the variances v
    of `error_variances`, Hsu (1984), in the form for unequal errors:

        high_i = max(0, min_{l != i} (mean_i - mean_l + d SE_il))
        candidates = { i : mean_i - mean_l + d SE_il >= 0 for all l }
        low_i = 0 if i is the only candidate, else
                min(0, min over candidates l != i of (mean_i - mean_l - d SE_il))

    Degrees of freedom: (m - 1)(k - 1), those of the residuals. They are those of a pooled variance;
    a variance that may only be raised above the typical one errs on the wide side, which simulation
    confirms (tests/results: false winners stay at or below alpha).
    """
    y = np.asarray(scores, np.float64)
    m, k = y.shape
    df = (m - 1) * (k - 1)
    d = critical_value(m, df, alpha)
    variance = error_variances(y)
    factor = mean_variance_factor(k, test_train_ratio)
    reach = d * np.sqrt((variance[:, None] + variance[None, :]) * factor)
    mean = y.mean(axis=1)
    gap = mean[:, None] - mean[None, :]
    others = ~np.eye(m, dtype=bool)
    above = np.where(others, gap + reach, np.inf).min(axis=1)
    candidate = above >= 0
    rivals = others & candidate[None, :]
    below = np.where(rivals, gap - reach, np.inf).min(axis=1)
    return Comparison(
        mean=mean,
        estimate=np.where(others, gap, np.inf).min(axis=1),
        low=np.minimum(below, 0),  # where there is no rival, below is infinite
        high=np.maximum(above, 0),
        candidate=candidate,
        error_sd=np.sqrt(variance),
        critical_value=d,
        degrees_of_freedom=df,
    )


def same_price(seconds: ArrayLike, cheapest: int, *, alpha: float) -> NDArray[np.bool_]:
    """Return (m,) bool: whose price cannot be told from the cheapest's, (m, k) seconds by fold.

    Paired t-tests on log seconds, Bonferroni over the m - 1 comparisons; one fold tells nothing, so
    all are alike then.
    """
    log = np.log(np.asarray(seconds, np.float64))
    m, k = log.shape
    if k < 2:
        return np.ones(m, bool)
    ratio = log - log[cheapest]
    reach = stats.t.ppf(1 - alpha / (2 * max(m - 1, 1)), k - 1) * ratio.std(axis=1, ddof=1)
    same: NDArray[np.bool_] = ratio.mean(axis=1) <= reach / np.sqrt(k)
    return same


def mean_ranks(scores: ArrayLike) -> Array:
    """Return (m,) mean ranks over n data sets of (m, n) scores; 1 is best, ties share a rank."""
    ranks: Array = stats.rankdata(-np.asarray(scores, np.float64), axis=0).mean(axis=1)
    return ranks


def best_across(scores: ArrayLike) -> tuple[int, Array]:
    """Return the combination with the best mean rank, and (m,) p-values of the others against it.

    (m, n) scores on n data sets. Wilcoxon's signed-rank test, two-sided, over data sets (never over
    folds, which are no new data sets), adjusted by Holm; the best one's own p-value is nan. With 5
    data sets or fewer no such p-value can fall below 0.0625.
    """
    y = np.asarray(scores, np.float64)
    m = y.shape[0]
    best = int(mean_ranks(y).argmin())
    others = [i for i in range(m) if i != best]
    raw = np.array(
        [stats.wilcoxon(y[best], y[i]).pvalue if np.any(y[best] != y[i]) else 1.0 for i in others]
    )
    order = raw.argsort(kind="stable")
    steps = raw[order] * np.arange(len(others), 0, -1)
    adjusted = np.full(m, np.nan)
    adjusted[np.array(others)[order]] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return best, adjusted
