"""Rows of `trials` grouped into combinations, data set by data set, and which of them compete.

A combination is judged if each of its trials is `ok` and has a score. One `failed`, missing or
unscored trial leaves it incomplete. One `diverged` trial rules it out: a recipe that may blow up
cannot be recommended, however well its other folds went. Of two trials of one cell (repeat, fold,
seed) the later one counts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from results import text
from results.tables.axes import AXES, Axis, Key, key_of, label, name_of, planned

Row = Mapping[str, Any]
Fold = tuple[int, int]
# Which trials have no row: none that finished, some that may have, or only finished ones.
OfMissing = Literal["not finished", "perhaps lost", "lost"]


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One combination on one data set: its entry on each axis, its trials, why it was skipped.

    `of_missing` says what became of trials that have no row.
    """

    axes: tuple[Axis, ...]
    key: Key
    trials: tuple[Row, ...]
    expected: int
    skipped: str | None
    of_missing: OfMissing = "not finished"

    @property
    def name(self) -> str:
        """Return the name that results carry: `resnet18 + adamw + focal`."""
        return name_of(self.key)

    @property
    def entries(self) -> dict[str, str]:
        """Return column -> entry, empty for the plain entry of an axis."""
        return dict(zip((axis.column for axis in self.axes), self.key, strict=True))

    @property
    def recipe(self) -> str:
        """Return the name without the model: `adamw + focal`."""
        return name_of(part for column, part in self.entries.items() if column != "model")

    @cached_property
    def scored(self) -> tuple[Row, ...]:
        """Return the trials that are `ok` and have a finite score."""
        return tuple(r for r in self.trials if r["status"] == "ok" and _is_number(r["test_score"]))

    @cached_property
    def state(self) -> str:
        """Return judged, skipped, diverged, dropped or incomplete."""
        found = {row["status"] for row in self.trials}
        if not found and self.skipped is not None:
            return "skipped"
        for status in ("diverged", "dropped"):
            if status in found:
                return status
        return "judged" if len(self.scored) == self.expected else "incomplete"

    @property
    def note(self) -> str | None:
        """Return why the combination is not judged, None if it is."""
        failed = self.count("failed")
        unscored = self.count("ok") - len(self.scored)
        parts = [
            self._in_folds("diverged"),
            self._before(),
            self._in_folds("dropped"),
            f"{failed} of {self.expected} trials failed" if failed else "",
            f"{unscored} of {self.expected} trials have no score" if unscored else "",
            self._missing(),
        ]
        notes = {"judged": None, "skipped": self.skipped}
        return notes.get(self.state, "; ".join(part for part in parts if part))

    def count(self, status: str) -> int:
        """Return how many trials ended with a status."""
        return sum(row["status"] == status for row in self.trials)

    def _missing(self) -> str:
        missing = self.expected - len(self.trials)
        if not missing:
            return ""
        if self.of_missing == "lost":
            has = "has" if missing == 1 else "have"
            return f"of {text.count(self.expected, 'trial')}, {missing} {has} lost or damaged files"
        said = f"{missing} of {self.expected} trials are not finished"
        if self.of_missing == "perhaps lost":
            said += ", or their files are lost or damaged"
        return said

    def _in_folds(self, status: str) -> str:
        folds = {fold_of(r) for r in self.trials if r["status"] == status}
        every = len({fold_of(r) for r in self.trials})
        return f"{status} in {len(folds)} of {every} folds" if folds else ""

    def _before(self) -> str:
        """Return, in words, the score of diverged trials by their weights from before that."""
        found = means_by_fold(
            (fold_of(row), row["test_score_before_diverging"])
            for row in self.trials
            if row["status"] == "diverged" and _is_number(row.get("test_score_before_diverging"))
        )
        if not found:
            return ""
        mean = float(np.mean(list(found.values())))
        return f"it scores {text.score(mean)} there with the weights from before it diverged"

    def by_fold(self, column: str) -> dict[Fold, float]:
        """Return (repeat, fold) -> mean over seeds of a column of the scored trials."""
        return means_by_fold(
            (fold_of(row), row[column]) for row in self.scored if _is_number(row.get(column))
        )

    def mean(self, column: str) -> float | None:
        """Return the mean over folds of a column, averaged over seeds first; None if unmeasured."""
        values = self.by_fold(column)
        return float(np.mean(list(values.values()))) if values else None


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The combinations of one data set, and the rule that they are judged by.

    `bounds` are the lowest and highest possible value of `metric`; `sign` is 1 if larger is better,
    -1 if smaller is; `ratio` is n_test / n_train of a fold. `described` is what the footers say
    about every metric.
    """

    dataset: str
    task: str
    metric: str
    unit: str | None
    bounds: tuple[float, float]
    sign: float
    ratio: float
    expected: int
    rows: tuple[Row, ...]
    combinations: tuple[Combination, ...]
    described: Mapping[str, Mapping[str, Any]]

    @cached_property
    def judged(self) -> tuple[Combination, ...]:
        """Return the combinations that compete."""
        return tuple(c for c in self.combinations if c.state == "judged")

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """Return the (repeat, fold) pairs that any trial ran on."""
        return tuple(sorted({fold_of(r) for r in self.rows if r["fold"] is not None}))

    def matrix(self, column: str) -> np.ndarray:
        """Return (m, k) means of a column, of m judged combinations by k folds; nan if missing."""
        values = [c.by_fold(column) for c in self.judged]
        return np.array([[v.get(f, math.nan) for f in self.folds] for v in values])


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def fold_of(row: Row) -> Fold:
    """Return (repeat, fold): repeats split the data anew, so their folds are different ones."""
    return row["repeat"] or 0, row["fold"]


def means_by_fold(values: Iterable[tuple[Fold, float]]) -> dict[Fold, float]:
    """Return fold -> mean of its values (one per seed), with the folds in order."""
    seeds: dict[Fold, list[float]] = {}
    for fold, value in values:
        seeds.setdefault(fold, []).append(value)
    return {fold: float(np.mean(seeds[fold])) for fold in sorted(seeds)}


def contests(
    rows: Sequence[Row],
    study: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    axes: tuple[Axis, ...] = AXES,
) -> list[Contest]:
    """Group the rows of `trials` by data set and combination.

    `study` is the content of study.yaml ({} if there is none), `metrics` and `axes` are the
    footer's description of each metric and axis. Raises KeyError if that does not say which
    direction of a primary metric is better: nothing is guessed.
    """
    names = dict.fromkeys(row["dataset"] for row in rows)
    return [
        _contest(name, [r for r in rows if r["dataset"] == name], study, metrics, axes)
        for name in names
    ]


def _contest(
    dataset: str,
    rows: Sequence[Row],
    study: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    axes: tuple[Axis, ...],
) -> Contest:
    runs = [row for row in rows if row["status"] != "skipped"]
    task = next((row["task"] for row in rows if row["task"]), "")
    primary = next((row["primary_metric"] for row in runs if row["primary_metric"]), None)
    metric = primary or study.get("primary", {}).get(task, "")
    if runs and metric not in metrics:
        raise KeyError(f"the results do not say whether a larger {metric!r} is better")
    described = metrics.get(metric, {"direction": "max"})
    repeats, seeds = int(study.get("repeats", 1)), len(study.get("seeds", ()))
    planned = _planned_folds(study, dataset) * repeats * seeds
    expected = max(len({cell_of(row) for row in runs}), planned)
    ratios = [
        row["n_test_cases"] / row["n_train_cases"]
        for row in runs
        if row["n_test_cases"] and row["n_train_cases"]
    ]
    folds = len({fold_of(row) for row in runs})
    return Contest(
        dataset=dataset,
        task=task,
        metric=metric,
        unit=described.get("unit"),
        bounds=bounds_of(described.get("range")),
        sign={"max": 1.0, "min": -1.0}[described["direction"]],
        # n_train leaves out the inner validation, which gives the larger, more conservative factor.
        # If no trial counted its cases, k folds of equal size are assumed.
        ratio=float(np.mean(ratios)) if ratios else 1 / max(folds - 1, 1),
        expected=expected,
        rows=tuple(rows),
        combinations=_combinations(rows, _planned(study, dataset, axes), expected, axes),
        described=metrics,
    )


def bounds_of(found: Sequence[float | None] | None) -> tuple[float, float]:
    """Return the lowest and highest value of a metric from its range in a footer."""
    low, high = found or (None, None)
    return -math.inf if low is None else low, math.inf if high is None else high


def cell_of(row: Row) -> tuple[int, int, int]:
    """Return (repeat, fold, seed), which identifies a trial of a combination."""
    return *fold_of(row), row["seed"] or 0


def _combinations(
    rows: Iterable[Row], asked: Sequence[Key], expected: int, axes: tuple[Axis, ...]
) -> tuple[Combination, ...]:
    """Group rows by combination; one that the study asks for but has no rows has no trials.

    They come in the study's order, others after them by name: not in that in which trials ended,
    which differs from run to run, and would decide between equals.
    """
    cells: dict[Key, dict[tuple[int, int, int], Row]] = {key: {} for key in asked}
    skipped: dict[Key, str] = {}
    for row in sorted(rows, key=lambda r: r["finished_at"].timestamp() if r["finished_at"] else 0):
        key = key_of(row, axes)
        mine = cells.setdefault(key, {})
        if row["status"] == "skipped":
            skipped[key] = row["reason"] or "no reason given"
        else:
            mine[cell_of(row)] = row
    places = {key: place for place, key in enumerate(asked)}
    in_order = sorted(cells, key=lambda key: (places.get(key, len(places)), str(key)))
    return tuple(
        Combination(
            axes=axes,
            key=key,
            trials=tuple(cells[key][cell] for cell in sorted(cells[key])),
            expected=expected,
            skipped=skipped.get(key),
        )
        for key in in_order
    )


def _planned_folds(study: Mapping[str, Any], dataset: str) -> int:
    """Return how many folds a data set has, 0 if that is not known.

    With given splits, each data set has its own number.
    """
    folds = study.get("folds", 0)
    if isinstance(folds, int):
        return folds
    known = {label(entry): entry for entry in study.get("data", ()) if isinstance(entry, Mapping)}
    return int(known.get(dataset, {}).get("n_folds") or 0)


def _planned(study: Mapping[str, Any], dataset: str, axes: tuple[Axis, ...]) -> list[Key]:
    """Return the key of each combination that a study asks for on a data set."""
    if dataset not in [label(entry) for entry in study.get("data", ())]:
        return []
    return planned(study, axes)
