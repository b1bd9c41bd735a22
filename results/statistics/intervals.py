"""The interval of one combination's score, on the scale on which it is nearly normal."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from results.statistics import critical
from results.statistics.spread import (
    case_covariances,
    mean_variance_factor,
    single_variance,
)

Array = NDArray[np.float64]

# The scale on which a score is nearly normal: the logit of an AUC; Wilson's score interval for a
# share of right answers; any other score as it is.
Scale = Literal["raw", "logit", "wilson"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean score and its two-sided interval."""

    mean: float
    low: float
    high: float


def interval(
    scores: Array,
    influence: Array | None,
    *,
    test_train_ratio: float,
    alpha: float,
    scale: Scale,
    grain: float = 0.0,
) -> Interval:
    """Return the interval of one combination's mean if trained anew on as many similar patients.

    `scores`: (R, k, S); `influence`: (R, S, n) as in `Evidence`, or None, which gives
    `corrected_interval`. The variance is that over patients plus what training adds. One fold does
    not show the latter, so its interval is that of the models trained here. `scale`: "logit" for an
    AUC (by the delta method), "wilson" for a share of right answers, which both stay between 0 and
    1, else "raw". `grain`: as in `Evidence`. Raises ValueError for one fold without influence.
    """
    if influence is None:
        mean, low, high = corrected_interval(
            scores.mean(axis=-1).ravel(), test_train_ratio=test_train_ratio, alpha=alpha
        )
        return Interval(mean=mean, low=low, high=high)
    mean = float(scores.mean())
    patients = influence.shape[-1]
    if scores.shape[1] > 1:
        variance, df = single_variance(scores, influence, test_train_ratio=test_train_ratio)
    else:
        _, covariance = case_covariances(influence[None])
        variance, df = float(covariance[0, 0]), max(patients - 2, 1)
    variance = max(variance, grain**2)
    t = float(critical.two_sided_t(df, alpha))
    if scale == "wilson":
        bare = mean * (1 - mean)
        count = min(patients, bare / variance) if bare > 0 and variance > 0 else patients
        low, high = wilson_interval(mean, count, quantile=t)
    elif scale == "logit":
        # At 0 and 1 the logit is infinite, so the score is kept half a grain inside.
        edge = max(grain, 1 / patients**2) / 2
        inner = float(np.clip(mean, edge, 1 - edge))
        half = t * float(np.sqrt(variance)) / (inner * (1 - inner))
        ends = special.expit(special.logit(inner) + np.array([-half, half]))
        low, high = min(float(ends[0]), mean), max(float(ends[1]), mean)
    else:
        half = t * float(np.sqrt(variance))
        low, high = mean - half, mean + half
    return Interval(mean=mean, low=low, high=high)


def wilson_interval(share: float, count: float, *, quantile: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share of `count` cases.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22. `quantile` is two-sided, 1.96 for 95 %.
    """
    z2 = quantile**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = quantile * np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    # At 0 and 1, rounding would put the share itself outside the interval.
    return min(max(float(centre - half), 0.0), share), max(min(float(centre + half), 1.0), share)


def corrected_interval(
    scores: ArrayLike, *, test_train_ratio: float, alpha: float
) -> tuple[float, float, float]:
    """Return (mean, low, high): a two-sided interval for the mean of (k,) fold scores, k > 1.

    Student's t with k - 1 degrees of freedom and the variance of `mean_variance_factor`. Raises
    ValueError for one fold.
    """
    y = np.asarray(scores, np.float64)
    k = y.size
    if k < 2:
        raise ValueError("one fold has no scatter, so it gives no interval")
    se = np.sqrt(y.var(ddof=1) * mean_variance_factor(k, test_train_ratio))
    half = float(stats.t.ppf(1 - alpha / 2, k - 1) * se)
    mean = float(y.mean())
    return mean, mean - half, mean + half
