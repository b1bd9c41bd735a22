"""What a verdict takes from results.statistics, against tables and other implementations."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from results.statistics.across import best_across, mean_ranks
from results.statistics.critical import dunnett, simultaneous
from results.statistics.intervals import corrected_interval
from results.statistics.spread import mean_variance_factor
from results.verdict.verdict import _same_price

# ---- the critical value ----------------------------------------------------------------------

# Dunnett (1955), Journal of the American Statistical Association 50, Table 1a: one-sided 5 %
# points for comparing p treatments with a control; columns p = 1 ... 9, rows degrees of freedom.
DUNNETT_1955 = {
    5: (2.02, 2.44, 2.68, 2.85, 2.98, 3.08, 3.16, 3.24, 3.30),
    10: (1.81, 2.15, 2.34, 2.47, 2.56, 2.64, 2.70, 2.76, 2.81),
    20: (1.72, 2.03, 2.19, 2.30, 2.39, 2.46, 2.51, 2.56, 2.60),
    60: (1.67, 1.95, 2.10, 2.21, 2.28, 2.35, 2.39, 2.44, 2.48),
}


@pytest.mark.parametrize(("df", "row"), DUNNETT_1955.items())
def test_critical_values_are_those_that_dunnett_published(df, row):
    ours = [dunnett(p, df, 0.05) for p in range(1, 10)]
    np.testing.assert_allclose(ours, row, atol=0.011)  # the table is rounded, some of it upwards


def test_one_comparison_is_students_t():
    for df in (1, 2, 4, 30):
        exact = scipy_stats.t.ppf(0.95, df)
        assert dunnett(1, df, 0.05) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("groups", "size", "shift"), [(3, 4, 1.0), (5, 5, 1.5), (10, 3, 2.0)])
def test_critical_values_agree_with_scipys_dunnett_test(groups, size, shift):
    """At the p-value scipy gives the largest statistic, that statistic is the critical value."""
    rng = np.random.default_rng(7)
    samples = rng.standard_normal((groups, size))
    samples[0] += shift
    control = rng.standard_normal(size)
    result = scipy_stats.dunnett(*samples, control=control, alternative="greater", rng=1)
    best = int(np.argmax(result.statistic))
    df = (groups + 1) * (size - 1)
    ours = dunnett(groups, df, float(result.pvalue[best]))
    assert ours == pytest.approx(float(result.statistic[best]), rel=2e-3)  # scipy's is quasi-random


def test_the_winner_is_claimed_two_sided():
    """Two or three combinations: the two-sided t is larger than Dunnett's one-sided value."""
    assert simultaneous(2, 4, 0.05) == pytest.approx(scipy_stats.t.ppf(0.975, 4))
    assert simultaneous(3, 8, 0.05) == pytest.approx(scipy_stats.t.ppf(0.975, 8))
    assert simultaneous(6, 20, 0.05) == pytest.approx(dunnett(5, 20, 0.05), abs=1e-4)


# ---- two combinations: the corrected paired t-test -------------------------------------------


def corrected_t_test(differences, n_train, n_test):
    """scikit-learn's example "Statistical comparison of models using grid search", written anew."""
    n = len(differences)
    corrected_std = np.sqrt(np.var(differences, ddof=1) * (1 / n + n_test / n_train))
    t = np.mean(differences) / corrected_std
    return t, 2 * scipy_stats.t.sf(abs(t), n - 1)


def test_the_interval_of_one_mean_is_that_tests_turned_round():
    rng = np.random.default_rng(4)
    y = rng.normal(0.8, 0.03, 5)
    mean, low, high = corrected_interval(y, test_train_ratio=0.25, alpha=0.1)
    assert mean == pytest.approx(y.mean())
    for edge in (low, high):
        assert corrected_t_test(y - edge, 4, 1)[1] == pytest.approx(0.1)


def test_the_factor():
    assert mean_variance_factor(5, 0.25) == pytest.approx(0.45)
    assert mean_variance_factor(10, 0) == pytest.approx(0.1)


# ---- price and ranks -------------------------------------------------------------------------


def test_prices_within_noise_are_alike():
    seconds = np.array(
        [[10.0, 11, 9, 10, 10], [10.4, 10.5, 9.8, 9.7, 10.1], [13.0, 14, 12, 13, 12]]
    )
    alike = _same_price(seconds, 0, alpha=0.05)
    assert alike.tolist() == [True, True, False]
    assert _same_price(seconds[:, :1], 0, alpha=0.05).all()


def test_mean_ranks():
    scores = [[0.9, 0.8, 0.7], [0.9, 0.7, 0.8], [0.1, 0.1, 0.1]]
    np.testing.assert_allclose(mean_ranks(scores), [1.5, 1.5, 3.0])


def test_the_best_across_data_sets_holm_adjusted():
    rng = np.random.default_rng(9)
    scores = rng.normal([[0.5], [0.0], [0.1], [0.45]], 0.1, (4, 9))
    best, p = best_across(scores)
    assert best == 0
    raw = {i: scipy_stats.wilcoxon(scores[0], scores[i]).pvalue for i in (1, 2, 3)}
    running, expected = 0.0, {}
    for step, i in enumerate(sorted(raw, key=raw.__getitem__)):
        running = max(running, min(1.0, raw[i] * (3 - step)))
        expected[i] = running
    assert np.isnan(p[0])
    for i, value in expected.items():
        assert p[i] == pytest.approx(value)


def test_five_data_sets_allow_no_claim():
    """The smallest p-value there is: every difference has one sign."""
    scores = np.array([[1.0, 2, 3, 4, 5], [0.0, 0, 0, 0, 0]])
    assert best_across(scores)[1][1] == pytest.approx(0.0625)
