"""Main effects and interactions, against hand arithmetic and simulated studies."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from results.statistics.evidence import Evidence
from results.statistics.marginal import interaction, main_effect
from results.statistics.procedure import compare
from tests.results.statistics.generators import drawn

OPTIMIZERS, LOSSES = "abcdef", "wxyz"
CELLS = list(product(OPTIMIZERS, LOSSES))


def grid(scores):
    """Evidence without cases of (24, 1, 5, 1) scores."""
    return Evidence(scores=scores, influence=None, test_train_ratio=0.25)


def test_levels_are_compared_by_their_means_over_complete_cells():
    scores = np.random.default_rng(0).normal(0.8, 0.01, (24, 1, 5, 1))
    kept = [i for i, cell in enumerate(CELLS) if cell != ("c", "x")]
    levels, cells = zip(*(CELLS[i] for i in kept), strict=True)
    effect = main_effect(grid(scores[kept]), levels, cells, alpha=0.05)
    assert effect.levels == tuple(OPTIMIZERS)
    assert effect.cells == ("w", "y", "z")
    assert effect.left_out_cells == ("x",)
    assert effect.left_out_levels == ()
    mean = scores.reshape(6, 4, 1, 5, 1)[:, [0, 2, 3]].mean(axis=1)
    np.testing.assert_allclose(effect.comparison.mean, mean.mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(effect.comparison.variance, compare(grid(mean), alpha=0.05).variance)


def test_a_level_without_a_common_cell_is_left_out():
    scores = np.random.default_rng(1).normal(0.8, 0.01, (5, 1, 5, 1))
    effect = main_effect(grid(scores), "aabbc", "wxwxy", alpha=0.05)
    assert effect.left_out_levels == ("c",)
    assert effect.left_out_cells == ("y",)
    assert main_effect(grid(scores[:2]), "ab", "wx", alpha=0.05) is None


def test_labels_must_fit():
    scores = np.random.default_rng(1).normal(0.8, 0.01, (2, 1, 5, 1))
    with pytest.raises(ValueError, match="same labels"):
        main_effect(grid(scores), "aa", "ww", alpha=0.05)
    with pytest.raises(ValueError, match="2 combinations, but 1 and 2"):
        main_effect(grid(scores), "a", "ww", alpha=0.05)


def test_residuals_of_an_interaction_are_what_main_effects_leave():
    rng = np.random.default_rng(2)
    made = np.add.outer(rng.normal(size=6), rng.normal(size=4))
    extra = np.zeros((6, 4))
    extra[0, 0], extra[0, 1], extra[1, 0], extra[1, 1] = 1, -1, -1, 1
    scores = (made + extra).reshape(24, 1, 1, 1) + rng.normal(0, 0.01, (24, 1, 5, 1))
    levels, cells = zip(*CELLS, strict=True)
    found = interaction(grid(scores), levels, cells)
    np.testing.assert_allclose(found.residual, extra, atol=0.03)
    assert found.p_value < 1e-6
    assert interaction(grid(scores[:4]), "aaaa", "wxyz") is None


def plain_interaction(scores, covariance, n, a, b):
    """The test of an interaction written anew: residuals cell by cell, F by its two moments.

    `compare` gives what training adds and, where nothing else errs, the freedom of what it adds.
    """
    mean = scores.mean(axis=(1, 2, 3)).reshape(a, b)
    residual = np.array([
        [mean[i, j] - mean[i].mean() - mean[:, j].mean() + mean.mean() for j in range(b)]
        for i in range(a)
    ])  # fmt: skip
    # How much a mean of one cell moves the residual of another.
    move = np.array([
        [((i == p) - 1 / a) * ((j == q) - 1 / b) for p in range(a) for q in range(b)]
        for i in range(a) for j in range(b)
    ])  # fmt: skip
    moved = move @ covariance @ move.T
    expected = sum(moved[i, i] for i in range(a * b))
    first = expected**2 / sum(moved[i, j] ** 2 for i in range(a * b) for j in range(a * b))
    return residual, (residual**2).sum() / expected, first, expected


@pytest.mark.parametrize("cases", [True, False])
def test_an_interaction_is_the_formulas_written_anew(cases):
    rng = np.random.default_rng(6)
    for _ in range(100):
        a, b = int(rng.integers(2, 5)), int(rng.integers(2, 5))
        m, n = a * b, 60
        scores = 0.8 + rng.normal(0, 0.02, (m, 1, 5, 1)) + rng.normal(0, 0.01, (m, 1, 1, 1))
        influence = rng.normal(0, 0.005 / n**0.5, (m, 1, 1, n)) if cases else None
        made = Evidence(scores=scores, influence=influence, test_train_ratio=0.25)
        levels, cells = zip(*product("abcd"[:a], "wxyz"[:b]), strict=True)
        found = interaction(made, levels, cells)
        whole = compare(made, alpha=0.05)
        patients = influence[:, 0, 0] @ influence[:, 0, 0].T if cases else np.zeros((m, m))
        covariance = patients + np.diag(whole.training)
        residual, f, first, expected = plain_interaction(scores, covariance, n, a, b)
        np.testing.assert_allclose(found.residual, residual, atol=1e-12)
        assert found.f == pytest.approx(f, rel=1e-6)
        assert found.df[0] == pytest.approx(first, rel=1e-6)
        part = (1 - 1 / a) * (1 - 1 / b) * (1 / 5 + 0.25)
        spread = whole.spread
        error = (part * spread.typical_error.sum()) ** 2 / ((m - 1) * 4)
        error += (part * spread.own_error.sum()) ** 2 / 4
        if cases:
            error += (np.trace(patients @ centring(a, b))) ** 2 / (n - 2)
        assert found.df[1] == pytest.approx(expected**2 / error, rel=1e-6)
        assert found.p_value == pytest.approx(stats.f.sf(f, *found.df), rel=1e-6)


def centring(a, b):
    """Take row and column means off the means of a x b cells."""
    one = [np.eye(size) - np.full((size, size), 1 / size) for size in (a, b)]
    return np.kron(*one)


def shares(studies, effect):
    """Return the share of studies with the first optimizer as the right winner, and any other."""
    levels, cells = zip(*CELLS, strict=True)
    winners = [
        main_effect(
            Evidence(scores=s, influence=None, test_train_ratio=0.25), levels, cells, alpha=0.05
        ).comparison.winner
        for s in studies.scores
    ]
    right = np.mean([w == 0 for w in winners]) if effect else 0.0
    return right, np.mean([w is not None for w in winners]) - right


@pytest.mark.slow
def test_a_main_effect_is_found_that_single_combinations_hide():
    """One of six optimizers is ahead by 0.02 with every one of four losses."""
    rng = np.random.default_rng(3)
    level = np.repeat([0.02, 0, 0, 0, 0, 0], 4)
    right, false = shares(drawn(rng, 4000, 24, level=level), effect=True)
    assert right >= 0.85
    assert false <= 0.01
    assert shares(drawn(rng, 600, 24), effect=False)[1] <= 0.02


def test_scores_that_never_vary_have_an_interaction_or_none():
    """Where nothing errs a difference of differences is certain, and rounding is none."""
    levels, cells = "aabb", "wxwx"
    even = np.array([0.1, 0.3, 0.2, 0.1 + 0.3])[:, None, None, None].repeat(3, axis=2)
    assert interaction(grid(even), levels, cells).p_value == 1
    even[3] += 0.1
    assert interaction(grid(even), levels, cells).p_value == 0


def test_an_interaction_is_rarely_found_where_there_is_none():
    levels, cells = zip(*CELLS, strict=True)
    rng = np.random.default_rng(4)
    p = [interaction(grid(s), levels, cells).p_value for s in drawn(rng, 600, 24).scores]
    assert np.mean(np.array(p) < 0.05) <= 0.06
    level = np.zeros(24)
    level[::5] = 0.04  # one loss suits one optimizer
    real = drawn(rng, 100, 24, level=level).scores
    assert np.mean([interaction(grid(s), levels, cells).p_value < 0.05 for s in real]) > 0.9
