"""Iterative stratification: groups whole, findings as frequent in every bin, the seed decides."""

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold

from loaders.sampling.folds import check_splits, make_splits
from loaders.sampling.iterative import iterative


def drawn(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return groups (n,) of one to four cases, and (n, 6) findings from 2 to 50 %."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n), rng.integers(1, 5, n))[:n]
    return group, rng.random((n, 6)) < np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5])


def imbalance(place: np.ndarray, has: np.ndarray, bins: int) -> float:
    """Return the labels distribution of Sechidis et al. 2011, section 4: less is better."""
    odds = has.sum(0) / (~has).sum(0)
    found = [has[place == b].sum(0) / np.maximum((~has[place == b]).sum(0), 1) for b in range(bins)]
    return float(np.abs(np.array(found) - odds).mean())


def test_groups_stay_together_and_findings_are_spread_better_than_by_chance() -> None:
    ours, theirs = [], []
    for seed in range(20):
        group, has = drawn(seed)
        place = iterative(group, has, 5, np.random.default_rng(seed))
        assert all(len(set(place[group == g])) == 1 for g in set(group.tolist()))
        sizes = np.bincount(place, minlength=5)
        assert sizes.max() - sizes.min() <= 12
        by_chance = np.zeros(len(group), int)
        deal = GroupKFold(5, shuffle=True, random_state=seed)
        for number, (_, rows) in enumerate(deal.split(group, groups=group)):
            by_chance[rows] = number
        ours.append(imbalance(place, has, 5))
        theirs.append(imbalance(by_chance, has, 5))
    assert np.mean(ours) < 0.6 * np.mean(theirs)


def test_single_cases_with_one_finding_each_are_dealt_out_exactly() -> None:
    """The paper's goal can be met there: each bin holds its share of each finding."""
    has = np.repeat(np.eye(3, dtype=bool), [4, 8, 12], axis=0)
    place = iterative(np.arange(24), has, 4, np.random.default_rng(0))
    counts = np.array([[(place[own] == b).sum() for b in range(4)] for own in has.T])
    assert counts.tolist() == [[1] * 4, [2] * 4, [3] * 4]


def test_a_seed_decides() -> None:
    group, has = drawn(0)
    one, again, other = (iterative(group, has, 3, np.random.default_rng(s)) for s in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()


@pytest.mark.parametrize("missing", [False, True])
def test_folds_of_findings_hold_both_answers_of_each_where_that_can_be(missing: bool) -> None:
    group, has = drawn(3, 200)
    known = np.random.default_rng(0).random(has.shape) < (0.7 if missing else 2.0)
    present = np.concatenate([has & known, ~has & known], axis=1)
    groups = [f"p{g}" for g in group]
    splits = make_splits(
        labels=None,
        present=present,
        overlap=True,
        groups=groups,
        hashes=[f"{i:064x}" for i in range(200)],
        classes=tuple("abcdef"),
        folds=4,
        repeats=2,
        seed=0,
        inner_fraction=0.2,
    )
    check_splits(splits, groups, None)
    often = present.sum(0) >= 12
    for split in splits:
        for part in (split.train, split.inner, split.test):
            assert present[part].any(0)[often].all()
    tested = {tuple(sorted(s.test.tolist())) for s in splits if s.repeat == 0}
    assert tested != {tuple(sorted(s.test.tolist())) for s in splits if s.repeat == 1}
