"""The interval of one combination, against scipy and by real cross-validation near a ceiling."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from results.statistics.intervals import corrected_interval, interval, wilson_interval
from tests.results.statistics.generators import ridge


def test_wilson_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(100):
        n = int(rng.integers(5, 400))
        right = int(rng.integers(0, n + 1))
        ci = scipy_stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        ours = wilson_interval(right / n, n, quantile=scipy_stats.norm.ppf(0.975))
        np.testing.assert_allclose(ours, (ci.low, ci.high), atol=1e-9)


def test_the_interval_of_folds_is_the_corrected_t_test_turned_round():
    y = np.random.default_rng(4).normal(0.8, 0.03, 5)
    mean, low, high = corrected_interval(y, test_train_ratio=0.25, alpha=0.1)
    assert mean == pytest.approx(y.mean())
    for edge in (low, high):
        t = (y.mean() - edge) / np.sqrt(y.var(ddof=1) * (1 / 5 + 1 / 4))
        assert 2 * scipy_stats.t.sf(abs(t), 4) == pytest.approx(0.1)
    found = interval(y[None, :, None], None, test_train_ratio=0.25, alpha=0.1, scale="raw")
    assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high))
    with pytest.raises(ValueError, match="one fold"):
        corrected_interval([0.8], test_train_ratio=0.25, alpha=0.1)


@pytest.mark.parametrize(("scale", "score"), [("logit", 1.0), ("wilson", 1.0), ("wilson", 0.0)])
def test_a_perfect_score_has_an_interval_within_bounds(scale, score):
    found = interval(
        np.full((1, 5, 1), score),
        np.zeros((1, 1, 100)),
        test_train_ratio=0.25,
        alpha=0.05,
        scale=scale,
        grain=1 / 2500,
    )
    assert 0 <= found.low <= score <= found.high <= 1
    if scale == "wilson":  # Wilson's at 0 of 100 is 0 to 3.7 %
        assert found.high - found.low == pytest.approx(0.038, abs=0.002)


@pytest.mark.parametrize("scale", ["raw", "logit", "wilson"])
def test_the_interval_with_cases_is_the_formulas_written_anew(scale):
    """Over patients plus what folds scatter beyond that; a logit by the delta method.

    Wilson's is for as many cases as have that variance, with t in the place of the normal quantile.
    """
    rng = np.random.default_rng(5)
    for _ in range(100):
        repeats, k = int(rng.integers(1, 3)), int(rng.integers(2, 8))
        n = int(rng.integers(30, 200))
        scores = np.clip(rng.normal(0.85, rng.choice([0.005, 0.06]), (repeats, k, 2)), 0.02, 0.98)
        influence = rng.normal(0, 0.3 / n, (repeats, 2, n))
        found = interval(
            scores, influence, test_train_ratio=0.25, alpha=0.05, scale=scale, grain=1e-6
        )
        mean, d = scores.mean(), (k - 1) * repeats
        patients = (influence.mean(axis=(0, 1)) ** 2).sum()
        case = k * np.mean([(r.mean(axis=0) ** 2).sum() for r in influence])
        own = sum(r.mean(axis=1).var(ddof=1) for r in scores) / repeats
        training = max(own - case, 0.25 * case) * (1 / (k * repeats) + 0.25)
        variance = patients + training
        df = variance**2 / (patients**2 / (n - 2) + training**2 / d)
        t = scipy_stats.t.ppf(0.975, min(max(df, min(k - 1, n - 2)), n - 2))
        if scale == "raw":
            ends = mean - t * variance**0.5, mean + t * variance**0.5
        elif scale == "logit":
            half = t * variance**0.5 / (mean * (1 - mean))
            ends = [1 / (1 + np.exp(-(np.log(mean / (1 - mean)) + s * half))) for s in (-1, 1)]
        else:
            count = min(n, mean * (1 - mean) / variance)
            level = 2 * scipy_stats.norm.sf(t)
            # Wilson's ends solve (p - share)^2 = z^2 p (1 - p) / count.
            z = scipy_stats.norm.isf(level / 2)
            ends = np.sort(np.roots([1 + z**2 / count, -(2 * mean + z**2 / count), mean**2]))
        assert (found.mean, found.low, found.high) == pytest.approx((mean, *ends), rel=1e-6)


@pytest.mark.parametrize("name", ["easy", "sim"])
def test_intervals_cover_near_a_ceiling(name):
    """AUC of 0.99 and 0.88, the truth that of the procedure: the mean over training sets."""
    studies = ridge(np.random.default_rng(1), 800, 1, name)
    held = []
    for scores, influence in zip(studies.scores, studies.influence, strict=True):
        found = interval(
            scores[0],
            influence[:, None],
            test_train_ratio=studies.ratio,
            alpha=0.05,
            scale="logit",
            grain=4 / studies.patients**2,
        )
        held.append(found.low <= studies.truth[0] <= found.high)
    assert 0.93 <= np.mean(held) <= 0.995
