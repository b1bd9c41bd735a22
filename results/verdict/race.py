"""A race as the verdict sees it: who was left behind after the first seed, and what that leaves.

The first seed of the first repeat decides, by every combination that has it in all folds. Those
left are compared with what the whole field showed of training's spread, at what the drop left of
the level: judged as a field of their own they would seem more alike than they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from results.statistics.race import race_drop
from results.statistics.spread import Spread
from results.verdict.combinations import Contest
from results.verdict.doubts import RowsOf
from results.verdict.evidence import Measure, known, tested


@dataclass(frozen=True, kw_only=True)
class Race:
    """Who of a race is left and who is dropped, by name, and the spread of those left.

    That spread is what the whole field showed of it.
    """

    left: tuple[str, ...]
    dropped: tuple[str, ...]
    spread: Spread

    def of(self, names: Sequence[str]) -> Spread | None:
        """Return the spread of some of those left; None where one did not race."""
        if not set(names) <= set(self.left):
            return None
        return self.spread.of(np.array([self.left.index(name) for name in names]))


def race(contest: Contest, study: Mapping[str, Any], rows_of: RowsOf) -> Race | None:
    """Return how the first seed of a contest ends; None where fewer than two have it in all folds.

    `study` is the content of study.yaml, whose `race` is the level of the drop.
    """
    first = _first_round(contest, int(study["seeds"][0]))
    field = first.judged
    if len(field) < 2 or len(first.folds) < 2:
        return None
    measure = Measure.of(first.metric, first.described[first.metric])
    found = known(
        first, field, measure, tested(field, rows_of), lambda row: float(row["test_score"])
    )
    ended = race_drop(found.evidence, alpha=float(study["race"]))
    names: dict[bool, list[str]] = {out: [] for out in (False, True)}
    for combination, out in zip(field, ended.dropped.tolist(), strict=True):
        names[out].append(combination.name)
    return Race(left=tuple(names[False]), dropped=tuple(names[True]), spread=ended.frozen)


def dropped(
    every: Sequence[Contest], study: Mapping[str, Any], rows_of: RowsOf
) -> dict[str, tuple[str, ...]]:
    """Return data set -> the names that a race drops there."""
    ended = {contest.dataset: race(contest, study, rows_of) for contest in every}
    return {name: found.dropped if found else () for name, found in ended.items()}


def _first_round(contest: Contest, seed: int) -> Contest:
    """Return a contest as it stood after the first seed of the first repeat."""

    def early(row: Mapping[str, Any]) -> bool:
        return (row["repeat"] or 0, row["seed"]) == (0, seed) and row["status"] != "dropped"

    rows = tuple(row for row in contest.rows if early(row))
    expected = len({row["fold"] for row in rows})
    return replace(
        contest,
        rows=rows,
        expected=expected,
        combinations=tuple(
            replace(c, trials=tuple(filter(early, c.trials)), expected=expected)
            for c in contest.combinations
        ),
    )
