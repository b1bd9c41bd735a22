"""Ranks over data sets, against scipy, enumeration and hand arithmetic."""

from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from results.statistics import across


def test_mean_ranks():
    scores = [[0.9, 0.8, 0.7], [0.9, 0.7, 0.8], [0.1, 0.1, 0.1]]
    np.testing.assert_allclose(across.mean_ranks(scores), [1.5, 1.5, 3.0])


def test_signed_ranks_without_ties_are_scipys_exact_test():
    rng = np.random.default_rng(0)
    for _ in range(100):
        d = rng.normal(rng.choice([0, 0.8]), 1, int(rng.integers(4, 18)))
        exact = scipy_stats.wilcoxon(d, method="exact").pvalue
        assert across.signed_rank_p(d) == pytest.approx(exact, abs=1e-9)


def test_signed_ranks_with_ties_and_zeros_are_counted_over_every_flip():
    """Pratt: zeros are ranked, then dropped."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        d = rng.integers(-2, 4, int(rng.integers(3, 9))).astype(float)
        ranks = scipy_stats.rankdata(np.abs(d))[d != 0]
        signs = np.array(list(product((-1, 1), repeat=ranks.size)))
        flips = np.abs(signs @ ranks) if ranks.size else np.zeros(1)
        seen = abs((np.sign(d[d != 0]) * ranks).sum())
        assert across.signed_rank_p(d) == pytest.approx((flips >= seen - 1e-9).mean())


def test_many_data_sets_are_near_scipys_normal_limit():
    d = np.random.default_rng(2).normal(0.3, 1, 40)
    limit = scipy_stats.wilcoxon(d, method="approx", zero_method="pratt").pvalue
    assert across.signed_rank_p(d) == pytest.approx(limit, rel=1e-6)


def test_the_best_across_data_sets_holm_adjusted():
    rng = np.random.default_rng(9)
    scores = rng.normal([[0.5], [0.0], [0.1], [0.45]], 0.1, (4, 9))
    best, p = across.best_across(scores)
    assert best == 0
    raw = {i: scipy_stats.wilcoxon(scores[0], scores[i]).pvalue for i in (1, 2, 3)}
    running, expected = 0.0, {}
    for step, i in enumerate(sorted(raw, key=raw.__getitem__)):
        running = max(running, min(1.0, raw[i] * (3 - step)))
        expected[i] = running
    assert np.isnan(p[0])
    for i, value in expected.items():
        assert p[i] == pytest.approx(value)


def test_rounding_is_no_difference():
    scores = np.array([[0.1 + 0.2] * 8, [0.3] * 8])
    assert across.best_across(scores)[1].tolist()[1] == 1.0


def test_the_fewest_data_sets_grow_with_the_field():
    """Holm's first step asks (m - 1) 2^(1 - n) < 0.05."""
    fewest = {m: across.fewest_datasets(m, 0.05) for m in (2, 3, 6, 12, 24)}
    assert fewest == {2: 6, 3: 7, 6: 8, 12: 9, 24: 10}
