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
