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
