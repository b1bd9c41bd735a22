"""A race as the verdict sees it: which combinations were dropped after the first seed.

The first seed of the first repeat decides, among the combinations that have it in all folds. The
remaining ones are compared by the spread of training in the whole field, at the level that the drop
has left: judged as a field of their own, they would seem more alike than they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from results import text
from results.statistics.race import race_drop
from results.statistics.spread import Spread
from results.verdict.combinations import Contest
from results.verdict.doubts import RowsOf
from results.verdict.evidence import by_primary, read_cases


@dataclass(frozen=True, kw_only=True)
class Race:
    """The names of those that a race left and dropped, and the spread of those left.

    The spread is estimated from the whole field. `level` is the part of alpha that the drop used.
    """

    left: tuple[str, ...]
    dropped: tuple[str, ...]
    spread: Spread
    level: float

    def of(self, names: Sequence[str]) -> Spread | None:
        """Return the spread of some of those left; None if one of them did not race."""
        if not set(names) <= set(self.left):
            return None
        return self.spread.of(np.array([self.left.index(name) for name in names]))

    def in_words(self, left: float) -> str:
        """Return what the race did, as a sentence for a verdict whose level is `left`."""
        field, behind = len(self.left) + len(self.dropped), len(self.dropped)
        said = f"{behind or 'none'} of {field} combinations"
        return (
            f"The race dropped {said} after the first seed, at level {text.percent(self.level)}; "
            f"the verdict on those left has level {text.percent(left)}."
        )


def race(contest: Contest, study: Mapping[str, Any], rows_of: RowsOf) -> Race | None:
    """Return how the first seed of a contest ends.

    `study` is the content of study.yaml, whose `race` is the level of the drop. Returns None
    without a race, or if fewer than two combinations have the first seed in all folds.
    """
    level = study.get("race")
    if level is None:
        return None
    first = _first_round(contest, int(study["seeds"][0]))
    field = first.judged
    if len(field) < 2 or len(first.folds) < 2:
        return None
    found = by_primary(first, field, read_cases(field, rows_of))
    ended = race_drop(found.evidence, alpha=float(level))
    names: dict[bool, list[str]] = {out: [] for out in (False, True)}
    for combination, out in zip(field, ended.dropped.tolist(), strict=True):
        names[out].append(combination.name)
    return Race(
        left=tuple(names[False]),
        dropped=tuple(names[True]),
        spread=ended.frozen,
        level=float(level),
    )


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
