"""Main effects and interactions, against hand arithmetic and simulated studies."""

from itertools import product

import numpy as np
import pytest

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
