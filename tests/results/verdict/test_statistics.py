"""The statistics, against tables, other implementations, and simulated studies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats as scipy_stats

from results.verdict import statistics

SCORES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(3, 8), st.integers(3, 6)),
    elements=st.floats(0, 1, width=32),
)


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
    ours = [statistics.dunnett_critical(p, df, 0.05) for p in range(1, 10)]
    np.testing.assert_allclose(ours, row, atol=0.011)  # the table is rounded, some of it upwards


def test_one_comparison_is_students_t():
    for df in (1, 2, 4, 30):
        exact = scipy_stats.t.ppf(0.95, df)
        assert statistics.dunnett_critical(1, df, 0.05) == pytest.approx(exact, rel=1e-5)


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
    ours = statistics.dunnett_critical(groups, df, float(result.pvalue[best]))
    assert ours == pytest.approx(float(result.statistic[best]), rel=2e-3)  # scipy's is quasi-random


def test_the_winner_is_claimed_two_sided():
    """Two or three combinations: the two-sided t is larger than Dunnett's one-sided value."""
    assert statistics.critical_value(2, 4, 0.05) == pytest.approx(scipy_stats.t.ppf(0.975, 4))
    assert statistics.critical_value(3, 8, 0.05) == pytest.approx(scipy_stats.t.ppf(0.975, 8))
    assert statistics.critical_value(6, 20, 0.05) == statistics.dunnett_critical(5, 20, 0.05)


# ---- two combinations: the corrected paired t-test -------------------------------------------


def corrected_t_test(differences, n_train, n_test):
    """scikit-learn's example "Statistical comparison of models using grid search", written anew."""
    n = len(differences)
    corrected_std = np.sqrt(np.var(differences, ddof=1) * (1 / n + n_test / n_train))
    t = np.mean(differences) / corrected_std
    return t, 2 * scipy_stats.t.sf(abs(t), n - 1)


def test_two_combinations_are_the_nadeau_bengio_test():
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(400):
        k = int(rng.integers(2, 12))
        n_test = int(rng.integers(10, 60))
        n_train = int(rng.integers(60, 400))
        y = rng.normal([[0.8 + rng.choice([0, 0.03, 0.1])], [0.8]], 0.02, (2, k))
        y += rng.normal(0, 0.3, k)  # easy and hard folds leave with the difference
        _, p = corrected_t_test(y[0] - y[1], n_train, n_test)
        compared = statistics.hsu_mcb(y, test_train_ratio=n_test / n_train, alpha=0.05)
        assert (compared.candidate.sum() == 1) == (p < 0.05)
        seen.add(p < 0.05)
    assert seen == {True, False}


def test_the_interval_of_one_mean_is_that_tests_turned_round():
    rng = np.random.default_rng(4)
    y = rng.normal(0.8, 0.03, 5)
    mean, low, high = statistics.corrected_interval(y, test_train_ratio=0.25, alpha=0.1)
    assert mean == pytest.approx(y.mean())
    for edge in (low, high):
        assert corrected_t_test(y - edge, 4, 1)[1] == pytest.approx(0.1)


def test_the_factor():
    assert statistics.mean_variance_factor(5, 0.25) == pytest.approx(0.45)
    assert statistics.mean_variance_factor(10, 0) == pytest.approx(0.1)


# ---- variances -------------------------------------------------------------------------------


def test_two_combinations_share_the_variance_of_their_difference():
    y = np.random.default_rng(5).normal(size=(2, 6))
    v = statistics.error_variances(y)
    assert v[0] == pytest.approx(v[1])
    assert v.sum() == pytest.approx(np.var(y[0] - y[1], ddof=1))


@settings(max_examples=60, deadline=None)
@given(scores=SCORES, scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_variances_see_no_levels_folds_units_or_order(scores, scale, seed):
    rng = np.random.default_rng(seed)
    m, k = scores.shape
    order = rng.permutation(m)
    moved = scale * (scores + rng.normal(size=(m, 1)) + rng.normal(size=k))[order]
    before, after = statistics.error_variances(scores), statistics.error_variances(moved)
    tolerance = 1e-9 * (1 + scale**2)
    np.testing.assert_allclose(after, scale**2 * before[order], rtol=1e-4, atol=tolerance)


def test_variances_are_right_on_average_and_unsteady_ones_stand_out():
    rng = np.random.default_rng(6)
    sd = np.array([1, 1, 1, 1, 1, 10.0])
    found = np.mean(
        [
            statistics.error_variances(sd[:, None] * rng.normal(size=(6, 5)) + rng.normal(size=5))
            for _ in range(2000)
        ],
        axis=0,
    )
    # Not below the truth by construction, and not swamped by the sixth (its mean square is 100).
    assert (found[:5] > 1).all()
    assert (found[:5] < 2).all()
    assert 40 < found[5] < 60  # half its own, half the typical


def test_the_typical_variance_is_right_on_average():
    """A median of chi^2 lies below its mean, by 16 % with five folds: that is made good."""
    rng = np.random.default_rng(7)
    floors = [statistics.error_variances(rng.normal(size=(15, 5))).min() for _ in range(1000)]
    assert np.mean(floors) == pytest.approx(1, abs=0.05)


def test_equal_scores_are_a_group_without_width():
    compared = statistics.hsu_mcb(np.ones((4, 5)), test_train_ratio=0.25, alpha=0.05)
    assert compared.candidate.all()
    assert not compared.low.any()
    assert not compared.high.any()


# ---- comparison with the best ----------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(scores=SCORES)
def test_what_holds_of_every_comparison(scores):
    compared = statistics.hsu_mcb(scores, test_train_ratio=0.25, alpha=0.05)
    best = int(compared.mean.argmax())
    assert compared.candidate[best]
    assert (compared.low <= 0).all()
    assert (compared.high >= 0).all()
    assert (compared.high[~compared.candidate] == 0).all()
    np.testing.assert_allclose(compared.mean, scores.mean(axis=1))
    assert (compared.low <= compared.estimate + 1e-12).all()
    assert (compared.estimate <= compared.high + 1e-12).all()
    wider = statistics.hsu_mcb(scores, test_train_ratio=0.25, alpha=0.01)
    assert wider.candidate.sum() >= compared.candidate.sum()
    order = np.random.default_rng(0).permutation(len(scores))
    again = statistics.hsu_mcb(scores[order], test_train_ratio=0.25, alpha=0.05)
    np.testing.assert_allclose(again.low, compared.low[order], atol=1e-9)
    np.testing.assert_allclose(again.high, compared.high[order], atol=1e-9)


def simulate(rng, studies, m, *, k=5, seeds=5, lead=0.0, sd=None, level=None, correlation=0.0):
    """Scores: fold (sd 0.02) + combination x fold (0.01) + noise of the mean of seeds (0.01 each).

    `sd` multiplies the error of each combination, `level` moves its mean, the first one is better
    by `lead`; errors of two folds correlate by `correlation`. Returns (studies, m, k).
    """
    error = np.hypot(0.01, 0.01 / np.sqrt(seeds)) * np.asarray(sd or np.ones(m))[:, None]
    own = np.sqrt(1 - correlation) * rng.standard_normal((studies, m, k))
    shared = np.sqrt(correlation) * rng.standard_normal((studies, m, 1))
    y = 0.02 * rng.standard_normal((studies, 1, k)) + error * (own + shared)
    y += np.asarray(level or np.zeros(m))[:, None]
    y[:, 0] += lead
    return y


def winners(y):
    """Share of studies with a single winner, and with the first as the single winner."""
    k = y.shape[2]
    groups = np.array(
        [statistics.hsu_mcb(s, test_train_ratio=1 / (k - 1), alpha=0.05).candidate for s in y]
    )
    alone = groups.sum(axis=1) == 1
    return alone.mean(), (alone & groups[:, 0]).mean()


@pytest.mark.parametrize("m", [2, 3, 6, 24])
@pytest.mark.parametrize("correlation", [0.0, 0.2])
def test_false_winners_are_rare(m, correlation):
    """Also where folds correlate as the Nadeau-Bengio factor assumes, and two share the lead."""
    rng = np.random.default_rng(m)
    assert winners(simulate(rng, 1000, m, correlation=correlation))[0] <= 0.06
    level = [0, 0] + [-0.2] * (m - 2)
    assert winners(simulate(rng, 1000, m, correlation=correlation, level=level))[0] <= 0.06


def test_a_lead_is_found():
    rng = np.random.default_rng(1)
    assert winners(simulate(rng, 1000, 6, lead=0.04))[1] > 0.83
    assert winners(simulate(rng, 1000, 2, lead=0.04))[1] > 0.80
    assert winners(simulate(rng, 1000, 24, lead=0.04))[1] > 0.42


def test_a_few_unsteady_combinations_do_not_hide_it():
    """One pooled variance finds a lead of 0.04 in 2 % of these studies, with 24 in none."""
    rng = np.random.default_rng(2)
    poor = {"sd": [1] * 5 + [9.0], "level": [0] * 5 + [-0.3]}
    assert winners(simulate(rng, 1000, 6, lead=0.04, **poor))[1] > 0.72
    poor = {"sd": [1] * 20 + [9.0] * 4, "level": [0] * 20 + [-0.3] * 4}
    assert winners(simulate(rng, 1000, 24, lead=0.04, **poor))[1] > 0.30


def test_an_unsteady_candidate_makes_no_false_winner():
    rng = np.random.default_rng(3)
    assert winners(simulate(rng, 1000, 24, sd=[1] * 23 + [9.0]))[0] <= 0.05


def test_the_intervals_cover_the_truth_together():
    """Hsu's promise: all m intervals at once hold mean_i - max_{l != i} mean_l, here with slack."""
    rng = np.random.default_rng(4)
    truth = np.array([0.02, 0.015, 0.0, 0.0, -0.01])
    target = np.array([truth[i] - np.delete(truth, i).max() for i in range(5)])
    held = []
    for y in simulate(rng, 1000, 5, correlation=0.2, level=list(truth)):
        c = statistics.hsu_mcb(y, test_train_ratio=0.25, alpha=0.05)
        held.append(((c.low <= target) & (target <= c.high)).all())
    assert np.mean(held) >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 5, 10])
@pytest.mark.parametrize("m", [2, 3, 4, 6, 24])
def test_false_winners_under_unequal_variances(m, k):
    """Two leaders up to twice as unsteady as the rest, folds as correlated as the factor assumes.

    The most that was found is 9 % (k = 3); the pooled variance reaches 14 %.
    """
    rng = np.random.default_rng(10 * m + k)
    level = [0, 0] + [-0.3] * (m - 2)
    for factor in (1, 1.5, 2):
        sd = [factor, factor] + [1.0] * (m - 2)
        y = simulate(rng, 4000, m, k=k, sd=sd, level=level, correlation=1 / k)
        assert winners(y)[0] <= (0.06 if factor == 1 else 0.09)


# ---- price and ranks -------------------------------------------------------------------------


def test_prices_within_noise_are_alike():
    seconds = np.array(
        [[10.0, 11, 9, 10, 10], [10.4, 10.5, 9.8, 9.7, 10.1], [13.0, 14, 12, 13, 12]]
    )
    alike = statistics.same_price(seconds, 0, alpha=0.05)
    assert alike.tolist() == [True, True, False]
    assert statistics.same_price(seconds[:, :1], 0, alpha=0.05).all()


def test_mean_ranks():
    scores = [[0.9, 0.8, 0.7], [0.9, 0.7, 0.8], [0.1, 0.1, 0.1]]
    np.testing.assert_allclose(statistics.mean_ranks(scores), [1.5, 1.5, 3.0])


def test_the_best_across_data_sets_holm_adjusted():
    rng = np.random.default_rng(9)
    scores = rng.normal([[0.5], [0.0], [0.1], [0.45]], 0.1, (4, 9))
    best, p = statistics.best_across(scores)
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
    assert statistics.best_across(scores)[1][1] == pytest.approx(0.0625)
