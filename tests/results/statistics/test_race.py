"""Racing: what is saved, and that the best is not lost."""

import numpy as np
import pytest

from results.statistics.evidence import Evidence
from results.statistics.procedure import compare
from results.statistics.race import look_level, race_drop


def studies(rng, count, folds=5, seeds=3):
    """24 combinations, six optimizers by four losses, four of them poor and unsteady."""
    optimizers, losses = rng.normal(0, 0.02, (count, 6, 1)), rng.normal(0, 0.01, (count, 1, 4))
    truth = (optimizers + losses).reshape(count, 24)
    truth[:, -4:] -= 0.3
    sd = np.ones(24)
    sd[-4:] = 10
    own = np.sqrt(0.8) * rng.standard_normal((count, 24, folds, 1))
    own += np.sqrt(0.2) * rng.standard_normal((count, 24, 1, 1))
    noise = own + rng.standard_normal((count, 24, folds, seeds))
    y = truth[:, :, None, None] + 0.007 * sd[:, None, None] * noise
    y += 0.02 * rng.standard_normal((count, 1, folds, 1))
    return truth, y[:, :, None]


def evidence(scores):
    return Evidence(scores=scores, influence=None, test_train_ratio=0.25)


def test_a_race_saves_a_third_and_keeps_the_best():
    """Seed 1 through all folds, one drop at level 0.01, then two more seeds of those left."""
    truth, scores = studies(np.random.default_rng(0), 250)
    saved, lost, shrunk, false = [], [], [], []
    for best, y in zip(truth.argmax(axis=1), scores, strict=True):
        race = race_drop(evidence(y[..., :1]), alpha=0.01)
        kept = np.flatnonzero(~race.dropped)
        saved.append(race.dropped.mean() * 2 / 3)
        lost.append(race.dropped[best])
        full = compare(evidence(y), alpha=0.05)
        shrunk.append(bool((full.group & race.dropped).any()))
        after = compare(evidence(y[kept]), alpha=0.04, frozen=race.frozen)
        false.append(after.winner is not None and kept[after.winner] != best)
    assert np.mean(saved) >= 0.30
    assert np.mean(lost) <= 0.01
    assert np.mean(shrunk) <= 0.05
    assert np.mean(false) <= 0.05


def test_those_left_are_judged_as_the_field_they_came_from():
    _, scores = studies(np.random.default_rng(1), 1)
    race = race_drop(evidence(scores[0][..., :1]), alpha=0.01)
    kept = np.flatnonzero(~race.dropped)
    assert 2 <= kept.size < 24
    after = compare(evidence(scores[0][kept]), alpha=0.04, frozen=race.frozen)
    assert after.spread.field == 24
    whole = compare(evidence(scores[0][..., :1]), alpha=0.04)
    assert (after.steady == whole.steady[kept]).all()
    # Two more seeds take from the spread what seeds add to it, and nothing else.
    assert (after.training < whole.training[kept]).all()
    assert (after.training > whole.training[kept] / 3).all()
    alone = compare(evidence(scores[0][kept][..., :1]), alpha=0.04, frozen=race.frozen)
    np.testing.assert_allclose(alone.training, whole.training[kept])


def of_cases(rng, count, *, seeds=3, folds=5, each=40):
    """Yield studies of six, two tied and the rest far behind; seeds change no lead but by case.

    Training's noise is of training sets alone, as large as that of cases. A seed has luck that all
    combinations share, and moves each one's score of a case by half as much variance as it has.
    """
    m, sd = 6, 0.115
    level = np.array([0, 0, -0.3, -0.3, -0.3, -0.3])[:, None, None]
    for _ in range(count):
        case = 0.1 * rng.standard_normal((1, folds, 1, each))
        case = case + sd * rng.standard_normal((m, folds, 1, each))
        case = case + sd * np.sqrt(0.5) * rng.standard_normal((m, folds, seeds, each))
        noise = np.sqrt(0.8) * rng.standard_normal((m, folds, 1))
        noise += np.sqrt(0.2) * rng.standard_normal((m, 1, 1))
        noise = noise + 0.7 * rng.standard_normal((1, folds, seeds))
        scores = case.mean(axis=-1) + sd * np.sqrt(1.5 / each) * noise + level
        phi = (case - case.mean(axis=-1, keepdims=True)) / (folds * np.sqrt(each * (each - 1)))
        yield Evidence(
            scores=scores[:, None],
            influence=np.moveaxis(phi, 2, 1).reshape(m, 1, seeds, folds * each),
            test_train_ratio=0.25,
        )


def first_seed(made):
    return Evidence(
        scores=made.scores[..., :1],
        influence=made.influence[:, :, :1],
        test_train_ratio=made.test_train_ratio,
    )


def test_more_seeds_take_nothing_from_what_training_sets_add():
    """Of two tied, false winners were 10 % where shared luck and noise by case counted as it."""
    false, left = [], []
    for made in of_cases(np.random.default_rng(3), 1500):
        race = race_drop(first_seed(made), alpha=1e-9)
        whole = compare(first_seed(made), alpha=0.05)
        after = compare(made, alpha=0.05, frozen=whole.spread)
        assert not race.dropped[:2].any()
        false.append(after.winner is not None)
        left.append(after.training.sum() / whole.training.sum())
    assert np.mean(false) <= 0.06
    assert np.mean(left) > 0.9


def test_looks_share_the_level():
    assert look_level(0.06, 3) == pytest.approx(0.02)
    with pytest.raises(ValueError, match="looks is 4; it must be 1 to 3"):
        look_level(0.05, 4)


def test_looking_three_times_makes_no_more_false_winners():
    """Repeats are added until one is better, at most twice, with two equals."""
    rng = np.random.default_rng(2)
    wins = 0
    for _ in range(600):
        shared = np.sqrt(0.2) * rng.standard_normal((2, 1, 1, 1))
        y = 0.01 * (shared + np.sqrt(0.8) * rng.standard_normal((2, 3, 5, 1)))
        wins += any(
            compare(evidence(y[:, :r]), alpha=look_level(0.05, 3)).winner is not None
            for r in (1, 2, 3)
        )
    assert wins / 600 <= 0.06
