"""The comparison with the best, against other tests and what must hold of every comparison."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats as scipy_stats

from results.statistics.evidence import Evidence
from results.statistics.procedure import compare, compare_models

SCORES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(2, 8), st.integers(1, 2), st.integers(2, 6), st.integers(1, 3)),
    elements=st.floats(0, 1, width=32),
)


def evidence(scores, influence=None, ratio=0.25):
    return Evidence(scores=np.asarray(scores), influence=influence, test_train_ratio=ratio)


def corrected_t_test(differences, n_train, n_test):
    """scikit-learn's example "Statistical comparison of models using grid search", written anew."""
    n = len(differences)
    corrected_std = np.sqrt(np.var(differences, ddof=1) * (1 / n + n_test / n_train))
    t = np.mean(differences) / corrected_std
    return t, 2 * scipy_stats.t.sf(abs(t), n - 1)


def test_two_combinations_without_cases_are_the_nadeau_bengio_test():
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(400):
        k = int(rng.integers(2, 12))
        n_test = int(rng.integers(10, 60))
        n_train = int(rng.integers(60, 400))
        y = rng.normal([[0.8 + rng.choice([0, 0.03, 0.1])], [0.8]], 0.02, (2, k))
        y += rng.normal(0, 0.3, k)  # easy and hard folds leave with the difference
        _, p = corrected_t_test(y[0] - y[1], n_train, n_test)
        compared = compare(evidence(y[:, None, :, None], ratio=n_test / n_train), alpha=0.05)
        assert (compared.winner is not None) == (p < 0.05)
        seen.add(p < 0.05)
    assert seen == {True, False}


@settings(max_examples=80, deadline=None)
@given(scores=SCORES)
def test_what_holds_of_every_comparison(scores):
    compared = compare(evidence(scores), alpha=0.05)
    assert compared.group[compared.best]
    assert (compared.group.sum() == 1) == (compared.winner is not None)
    assert (compared.low <= 0).all()
    assert (compared.high >= 0).all()
    assert (compared.high[~compared.group] == 0).all()
    np.testing.assert_allclose(compared.mean, scores.mean(axis=(1, 2, 3)))
    order = np.random.default_rng(0).permutation(len(scores))
    again = compare(evidence(scores[order]), alpha=0.05)
    np.testing.assert_allclose(again.low, compared.low[order], atol=1e-9)
    np.testing.assert_allclose(again.high, compared.high[order], atol=1e-9)


def test_the_order_of_combinations_decides_nothing_where_three_tie_for_the_lead():
    """Two of the three scatter in one fold, the third in another: whoever comes third leads too."""
    scores = np.zeros((5, 2, 3, 1))
    scores[[0, 1, 2], 0, [0, 0, 1]] = 1
    compared = compare(evidence(scores), alpha=0.05)
    for order in ([2, 4, 3, 0, 1], [1, 0, 2, 3, 4], [4, 3, 2, 1, 0]):
        again = compare(evidence(scores[order]), alpha=0.05)
        np.testing.assert_allclose(again.training, compared.training[order])
        np.testing.assert_allclose(again.low, compared.low[order])


def phi_of_means(case, fold, k):
    """Influence of (m, n) scores of cases on the mean over folds of their means."""
    phi = np.empty_like(case)
    for j in range(k):
        own = case[:, fold == j]
        n_j = own.shape[1]
        centred = own - own.mean(axis=1, keepdims=True)
        phi[:, fold == j] = centred / (k * n_j) * np.sqrt(n_j / (n_j - 1))
    return phi


def test_models_are_compared_as_by_the_paired_t_test():
    """One fold, mean of cases: lead / sqrt(variance) is scipy's paired t on 100 random inputs."""
    rng = np.random.default_rng(5)
    for _ in range(100):
        n = int(rng.integers(5, 60))
        case = rng.normal(0.8, 0.1, (2, n)) + rng.normal(0, 0.1, n)
        phi = phi_of_means(case, np.zeros(n, int), 1)
        made = evidence(case.mean(axis=1)[:, None, None, None], phi[:, None, None, :])
        compared = compare_models(made, alpha=0.05)
        ours = (compared.mean[0] - compared.mean[1]) / np.sqrt(compared.variance[0, 1])
        assert ours == pytest.approx(scipy_stats.ttest_rel(*case).statistic, rel=1e-6)
        assert compared.df[0, 1] == pytest.approx(n - 2)


def delong(score, label):
    """DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44: AUCs and variance of a difference.

    Plain loops over pairs of cases, as the paper has it: psi is 1, 1/2 or 0.
    """
    high, low = score[:, label == 1], score[:, label == 0]
    p, q = high.shape[1], low.shape[1]
    psi = [
        [[1.0 if x > y else 0.5 if x == y else 0.0 for y in low[i]] for x in high[i]]
        for i in range(2)
    ]
    auc = [sum(map(sum, table)) / (p * q) for table in psi]
    v10 = [[sum(row) / q for row in table] for table in psi]
    v01 = [[sum(row[j] for row in table) / p for j in range(q)] for table in psi]

    def s(v, i, other, count):
        return sum((a - auc[i]) * (b - auc[other]) for a, b in zip(v[i], v[other], strict=True)) / (
            count - 1
        )

    def covariance(i, other):
        return s(v10, i, other, p) / p + s(v01, i, other, q) / q

    return auc, covariance(0, 0) + covariance(1, 1) - 2 * covariance(0, 1), v10, v01


def test_models_are_compared_as_by_delong():
    """One fold, AUC with ties, on 100 random inputs."""
    rng = np.random.default_rng(6)
    for _ in range(100):
        label = np.repeat([0, 1], rng.integers(4, 12, 2))
        score = np.round(rng.normal(label, 1, (2, label.size)) + rng.normal(0, 1, label.size), 1)
        auc, variance, v10, v01 = delong(score, label)
        phi = np.empty((2, label.size))
        for values, c in ((np.array(v10), 1), (np.array(v01), 0)):
            count = values.shape[1]
            centred = values - np.array(auc)[:, None]
            phi[:, label == c] = centred / np.sqrt(count * (count - 1))
        made = evidence(np.array(auc)[:, None, None, None], phi[:, None, None, :])
        assert compare_models(made, alpha=0.05).variance[0, 1] == pytest.approx(variance, abs=1e-12)


def plain(case, fold, scores, ratio, alpha):
    """The procedure of two combinations written anew, with plain arithmetic, one repeat and seed.

    Returns the variance of the difference, its degrees of freedom and the half-width.
    """
    k, n = scores.shape[1], case.shape[1]
    gap = scores[0] - scores[1]
    own = sum((g - sum(gap) / k) ** 2 for g in gap) / (k - 1)
    patients = (
        sum(np.var((case[0] - case[1])[fold == j], ddof=1) / (fold == j).sum() for j in range(k))
        / k**2
    )
    seen = own / (k * patients)
    d = k - 1
    q = max((1 + 1.2 / d**0.7) * seen ** (d / (d + 1.7)), seen, 1.1)
    factor = 1 / k + ratio
    variance = patients + (q - 1) * k * patients * factor
    nervous = min(max((seen - 2.5) / 0.5, 0), 1)
    error = patients**2 / (n - 2) + nervous * (q * k * patients * factor) ** 2 / d
    df = min(max(variance**2 / error, min(k - 1, n - 2)), n - 2)
    return variance, df, scipy_stats.t.ppf(1 - alpha / 2, df) * variance**0.5


def test_two_combinations_with_cases_are_the_formulas_written_anew():
    rng = np.random.default_rng(7)
    nervous = 0
    for _ in range(100):
        k = int(rng.integers(2, 8))
        fold = np.arange(k * int(rng.integers(3, 30))) % k
        case = rng.normal(0.8, 0.1, (2, fold.size)) + rng.normal(0, 0.1, fold.size)
        case += rng.choice([0, 0.05]) * rng.normal(size=(2, k))[:, fold]
        scores = np.stack([case[:, fold == j].mean(axis=1) for j in range(k)], axis=1)
        made = evidence(scores[:, None, :, None], phi_of_means(case, fold, k)[:, None, None, :])
        compared = compare(made, alpha=0.05)
        variance, df, half = plain(case, fold, scores, 0.25, 0.05)
        assert compared.variance[0, 1] == pytest.approx(variance, rel=1e-6)
        assert compared.df[0, 1] == pytest.approx(df, rel=1e-6)
        assert compared.lead_reach == pytest.approx(half, rel=1e-6)
        assert compared.reach[0, 1] == pytest.approx(half, rel=1e-6)  # two: Hsu's is the same
        assert (compared.winner is not None) == (abs(scores.mean(axis=1) @ [1, -1]) > half)
        nervous += df < fold.size - 2
    assert 0 < nervous < 100


def clip(value):
    return min(max(value, 0.0), 1.0)


def plain_field(scores, covariance, ratio, n):
    """The spread of a field of m > 2 written anew, one combination after the other.

    From (m, k) scores of one repeat and seed, and the (m, m) covariance over patients or None.
    Returns what training adds to the variance of each mean, and the degrees of freedom of pairs.
    """
    m, k = scores.shape
    d, factor = k - 1, 1 / k + ratio
    apart = [[y - sum(row) / k for y in row] for row in scores]

    def scatter(w):
        common = [sum(w[i] * apart[i][j] for i in range(m)) for j in range(k)]
        return [
            sum((apart[i][j] - common[j]) ** 2 for j in range(k)) / (d * (1 - w[i]))
            for i in range(m)
        ]

    even = scatter([1 / m] * m)
    inverse = [1 / max(own, np.median(even)) for own in even]
    w = [x / sum(inverse) for x in inverse]
    own = scatter(w)
    unit = [1.0] * m  # what the scatter is a multiple of
    if covariance is not None:
        common = sum(w[i] * w[j] * covariance[i][j] for i in range(m) for j in range(m))
        row = [sum(w[j] * covariance[i][j] for j in range(m)) for i in range(m)]
        unit = [k * (covariance[i][i] - 2 * row[i] + common) / (1 - w[i]) for i in range(m)]
    q = [own[i] / unit[i] for i in range(m)]
    middle = np.median(q) / (scipy_stats.chi2.median(d) / d)
    typical, leading, counts, nervous = middle, (0.9, 0.985), 1.0, 1.0
    if covariance is not None:
        f = (m - 1) * d
        least = 1.05 + 0.05 * 2 / m
        typical = max((1 + 1.2 / f**0.7) * middle ** (f / (f + 1.7)), middle, least)
        leading, counts, nervous = (0.65, 0.95), 1.15, clip((middle - 2.5) / 0.5) ** 0.5
    best = sorted(range(m), key=lambda i: -sum(scores[i]))[:2]  # no two tie
    added, from_own, from_all = [], [], []
    for i in range(m):
        low, high = scipy_stats.chi2.ppf(leading if i in best else (0.98, 0.998), d) / d
        share = clip((q[i] / typical - low) / (high - low))
        drawn = (1 - share) * typical + share * counts * q[i]
        added.append((drawn - (covariance is not None)) * unit[i] * factor)
        from_own.append(share * counts * own[i] * factor)
        from_all.append(nervous * (1 - share) * typical * unit[i] * factor)
    df = np.full((m, m), np.nan)
    for i, other in zip(*np.nonzero(~np.eye(m, dtype=bool)), strict=True):
        known = 0.0
        error = (from_all[i] + from_all[other]) ** 2 / ((m - 1) * d)
        error += (from_own[i] + from_own[other]) ** 2 / d
        most = np.inf
        if covariance is not None:
            known = covariance[i, i] + covariance[other, other] - 2 * covariance[i, other]
            error, most = error + known**2 / (n - 2), n - 2
        variance = known + added[i] + added[other]
        df[i, other] = min(max(variance**2 / error, min(d, most)), most)
    return np.array(added), df


@pytest.mark.parametrize("cases", [True, False])
def test_a_field_is_the_formulas_written_anew(cases):
    """3 to 8 combinations, some of them unsteady, some studies with more of training than cases."""
    rng = np.random.default_rng(11)
    steady = set()
    for _ in range(100):
        m, k = int(rng.integers(3, 9)), int(rng.integers(3, 8))
        fold = np.arange(k * int(rng.integers(4, 20))) % k
        case = rng.normal(0.8, 0.1, (m, fold.size)) + rng.normal(0, 0.1, fold.size)
        training = rng.choice([0, 0.03, 0.1]) * rng.choice([1, 1, 5], (m, 1))
        case += training * rng.normal(size=(m, k))[:, fold]
        scores = np.stack([case[:, fold == j].mean(axis=1) for j in range(k)], axis=1)
        phi = phi_of_means(case, fold, k)
        made = evidence(scores[:, None, :, None], phi[:, None, None, :] if cases else None)
        compared = compare(made, alpha=0.05)
        added, df = plain_field(scores, phi @ phi.T if cases else None, 0.25, fold.size)
        np.testing.assert_allclose(compared.training, added, rtol=1e-6)
        others = ~np.eye(m, dtype=bool)
        np.testing.assert_allclose(compared.df[others], df[others], rtol=1e-6)
        lead = phi[:, None] - phi[None] if cases else np.zeros((m, m, 1))
        variance = (lead**2).sum(axis=-1) + added[:, None] + added[None]
        np.testing.assert_allclose(compared.variance[others], variance[others], rtol=1e-6)
        steady.update(compared.steady.tolist())
    assert steady == {True, False}


def test_intervals_and_group_are_hsus_formulas_written_anew():
    """Six combinations, from the variances and degrees of freedom that are given with them."""
    rng = np.random.default_rng(8)
    for _ in range(100):
        scores = 0.8 + rng.normal(0, 0.02, (6, 1, 1, 1)) + rng.normal(0, 0.01, (6, 1, 5, 1))
        c = compare(evidence(scores), alpha=0.05)
        mean = scores.mean(axis=(1, 2, 3))
        t = scipy_stats.t.ppf(0.975, c.df)
        best = int(mean.argmax())
        rivals = [i for i in range(6) if i != best]
        wins = all(mean[best] - mean[i] > t[best, i] * c.variance[best, i] ** 0.5 for i in rivals)
        assert (c.winner == best) if wins else (c.winner is None)
        above = [
            min(mean[i] - mean[j] + c.reach[i, j] for j in range(6) if j != i) for i in range(6)
        ]
        group = [i == best for i in range(6)] if wins else [a >= 0 for a in above]
        assert c.group.tolist() == group
        for i in range(6):
            below = [mean[i] - mean[j] - c.reach[i, j] for j in range(6) if j != i and group[j]]
            assert c.low[i] == pytest.approx(min([0, *below]), abs=1e-12)
            assert c.high[i] == pytest.approx(max(0, above[i]) if group[i] else 0, abs=1e-12)


def test_shares_add_up_and_a_floor_is_what_patients_leave():
    rng = np.random.default_rng(9)
    fold = np.arange(100) % 5
    lasting = rng.normal(0, 0.2, (2, 100))  # what a patient does to a combination, each time
    case = 0.8 + lasting[:, None] + rng.normal(0, 0.3, (2, 40, 100))
    scores = np.stack([case[..., fold == j].mean(axis=-1) for j in range(5)], axis=1)
    phi = np.stack([phi_of_means(case[i], fold, 5) for i in range(2)])
    compared = compare(evidence(scores[:, None], phi[:, None]), alpha=0.05)
    parts = compared.shares
    assert parts.patients + parts.training + parts.seed == pytest.approx(1)
    truth = (lasting[0] - lasting[1]).var(ddof=1) / 100
    assert compared.floor == pytest.approx(scipy_stats.t.ppf(0.975, 98) * truth**0.5, rel=0.05)
    assert not compared.floor_is_about
    one = compare(evidence(scores[:, None, :, :1], phi[:, None, :1]), alpha=0.05)
    assert one.floor_is_about
    assert one.shares.seed is None
    assert one.shares.patients + one.shares.training == pytest.approx(1)


def test_a_grain_is_the_least_that_is_known():
    made = Evidence(
        scores=np.ones((2, 1, 5, 1)),
        influence=np.zeros((2, 1, 1, 50)),
        test_train_ratio=0.25,
        grain=0.01,
    )
    compared = compare(made, alpha=0.05)
    assert compared.lead_reach == pytest.approx(0.01 * scipy_stats.t.ppf(0.975, 48))


def test_fewer_patients_than_folds_take_the_lower_limit_of_freedom():
    """n - 2 is then below k - 1."""
    rng = np.random.default_rng(10)
    made = evidence(rng.normal(size=(2, 1, 5, 1)), rng.normal(size=(2, 1, 1, 5)))
    assert compare(made, alpha=0.05).df[0, 1] == 3


def test_equal_scores_are_a_group_without_width():
    compared = compare(evidence(np.ones((4, 1, 5, 1))), alpha=0.05)
    assert compared.group.all()
    assert compared.winner is None
    assert not compared.low.any()
    assert not compared.high.any()


def test_rounding_is_a_tie():
    y = np.empty((2, 1, 5, 1))
    y[0], y[1] = 0.1 + 0.2, 0.3
    assert y[0, 0, 0, 0] != y[1, 0, 0, 0]
    compared = compare(evidence(y), alpha=0.05)
    assert compared.winner is None
    assert compared.group.all()


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        (np.ones((1, 1, 5, 1)), "two combinations or more"),
        (np.ones((2, 1, 1, 1)), "one fold"),
        (np.full((2, 1, 5, 1), np.nan), "10 of 10 numbers are not finite"),
        (np.ones((2, 5)), "combinations, repeats, folds, seeds"),
    ],
)
def test_what_cannot_be_compared_is_said(scores, why):
    with pytest.raises(ValueError, match=why):
        compare(evidence(scores), alpha=0.05)
    if why == "one fold":
        with pytest.raises(ValueError, match="influence"):
            compare_models(evidence(scores), alpha=0.05)
