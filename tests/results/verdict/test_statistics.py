"""What a verdict takes from results.statistics, against other implementations."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from results.statistics.across import best_across, mean_ranks
from results.statistics.critical import dunnett, simultaneous
from results.statistics.intervals import corrected_interval
from results.statistics.spread import mean_variance_factor
from results.verdict.verdict import _same_price

# ---- the critical value ----------------------------------------------------------------------


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


def test_five_data_sets_allow_no_claim():
    """The smallest p-value there is: every difference has one sign."""
    scores = np.array([[1.0, 2, 3, 4, 5], [0.0, 0, 0, 0, 0]])
    assert best_across(scores)[1][1] == pytest.approx(0.0625)
