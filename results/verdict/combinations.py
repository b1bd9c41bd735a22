"""Rows of `trials` grouped into combinations, data set by data set, and which of them compete.

A combination is judged if every trial of it is `ok` and has a score. One `failed`, missing or
unscored trial leaves it incomplete. One `diverged` trial puts it out of the running: a recipe that
may blow up is no recommendation, however well its other folds went. Of two trials of one cell
(repeat, fold, seed) the later counts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Key = tuple[str, ...]
Fold = tuple[int, int]

#: The columns of `trials` that make a combination on a data set. A schedule that is constant and a
#: regularizer that is none are empty in a key, and do not stand in a name.
AXES = ("model", "optimizer", "loss", "schedule", "regularizer", "pretrained")
_SAYS_NOTHING = (None, "none", "constant")


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One combination on one data set: its values on AXES, its trials, and why it was skipped."""

    key: Key
    trials: tuple[Row, ...]
    expected: int
    skipped: str | None

    @property
    def name(self) -> str:
        """Return the name that results carry: `resnet18 + adamw + focal`."""
        return " + ".join(part for part in self.key if part)

    @property
    def recipe(self) -> str:
        """Return the name without the model: `adamw + focal`."""
        return " + ".join(part for part in self.key[1:] if part)

    @property
    def scored(self) -> list[Row]:
        """Return the trials that are `ok` and have a finite score."""
        return [r for r in self.trials if r["status"] == "ok" and _is_number(r["test_score"])]

    @property
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
        missing = self.expected - len(self.trials)
        failed = self.count("failed")
        unscored = self.count("ok") - len(self.scored)
        parts = [
            self._in_folds("diverged"),
            self._in_folds("dropped"),
            f"{failed} of {self.expected} trials failed" if failed else "",
            f"{unscored} of {self.expected} trials have no score" if unscored else "",
            f"{missing} of {self.expected} trials are not finished" if missing else "",
        ]
        notes = {"judged": None, "skipped": self.skipped}
        return notes.get(self.state, "; ".join(part for part in parts if part))

    def count(self, status: str) -> int:
        """Return how many trials ended so."""
        return sum(row["status"] == status for row in self.trials)

    def _in_folds(self, status: str) -> str:
        folds = {fold_of(r) for r in self.trials if r["status"] == status}
        every = len({fold_of(r) for r in self.trials})
        return f"{status} in {len(folds)} of {every} folds" if folds else ""

    def by_fold(self, column: str) -> dict[Fold, float]:
        """Return (repeat, fold) -> mean over seeds of a column of the scored trials."""
        values: dict[Fold, list[float]] = {}
        for row in self.scored:
            if _is_number(row[column]):
                values.setdefault(fold_of(row), []).append(row[column])
        return {fold: float(np.mean(values[fold])) for fold in sorted(values)}

    def mean(self, column: str) -> float | None:
        """Return the mean of a column over folds, seeds averaged within; None if never measured."""
        values = self.by_fold(column)
        return float(np.mean(list(values.values()))) if values else None


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The combinations of one data set, and the rule that they are judged by.

    `bounds` are the lowest and highest value that `metric` can take; `sign` is 1 where a larger
    one is better, -1 where a smaller one is; `ratio` is n_test / n_train of a fold.
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

    @property
    def judged(self) -> list[Combination]:
        """Return the combinations that compete."""
        return [c for c in self.combinations if c.state == "judged"]

    @property
    def folds(self) -> list[Fold]:
        """Return the (repeat, fold) pairs that any trial ran on."""
        return sorted({fold_of(r) for r in self.rows if r["fold"] is not None})

    def matrix(self, column: str) -> np.ndarray:
        """Return (m, k) fold means of a column, judged combinations by folds; nan if unmeasured."""
        values = [c.by_fold(column) for c in self.judged]
        return np.array([[v.get(f, math.nan) for f in self.folds] for v in values])


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def fold_of(row: Row) -> Fold:
    """Return (repeat, fold): repeats that split anew are folds of their own."""
    return row["repeat"] or 0, row["fold"]


def contests(
    rows: Sequence[Row], study: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]
) -> list[Contest]:
    """Group the rows of `trials` by data set and combination.

    `study` is the content of study.yaml ({} where there is none), `metrics` the footer's
    description of each metric. Raises KeyError where that does not say which direction of a
    primary metric is better: nothing is guessed.
    """
    names = dict.fromkeys(row["dataset"] for row in rows)
    return [
        _contest(name, [r for r in rows if r["dataset"] == name], study, metrics) for name in names
    ]


def _contest(
    dataset: str,
    rows: Sequence[Row],
    study: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
) -> Contest:
    runs = [row for row in rows if row["status"] != "skipped"]
    task = next((row["task"] for row in rows if row["task"]), "")
    primary = next((row["primary_metric"] for row in runs if row["primary_metric"]), None)
    metric = primary or study.get("primary", {}).get(task, "")
    if runs and metric not in metrics:
        raise KeyError(f"the results do not say whether a larger {metric!r} is better")
    described = metrics.get(metric, {"direction": "max"})
    planned = (
        int(study.get("folds", 0)) * int(study.get("repeats", 1)) * len(study.get("seeds", ()))
    )
    expected = max(len({_cell(row) for row in runs}), planned)
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
        bounds=_bounds(described.get("range")),
        sign={"max": 1.0, "min": -1.0}[described["direction"]],
        # n_train leaves the inner validation out: the larger, more careful factor. Where no trial
        # counted its cases, k folds of one size.
        ratio=float(np.mean(ratios)) if ratios else 1 / max(folds - 1, 1),
        expected=expected,
        rows=tuple(rows),
        combinations=_combinations(rows, _planned(study, dataset), expected),
    )


def _bounds(found: Sequence[float | None] | None) -> tuple[float, float]:
    low, high = found or (None, None)
    return -math.inf if low is None else low, math.inf if high is None else high


def _cell(row: Row) -> tuple[int, int, int]:
    return *fold_of(row), row["seed"] or 0


def _combinations(
    rows: Iterable[Row], planned: Iterable[Key], expected: int
) -> tuple[Combination, ...]:
    """Group rows by combination; those that are planned and have no row yet have no trials."""
    cells: dict[Key, dict[tuple[int, int, int], Row]] = {}
    skipped: dict[Key, str] = {}
    for row in sorted(rows, key=lambda r: r["finished_at"].timestamp() if r["finished_at"] else 0):
        key = tuple("" if row[axis] in _SAYS_NOTHING else row[axis] for axis in AXES)
        mine = cells.setdefault(key, {})
        if row["status"] == "skipped":
            skipped[key] = row["reason"] or "no reason given"
        else:
            mine[_cell(row)] = row
    seen = {key[:3] for key in cells}
    for key in planned:
        if key not in seen:
            cells[(*key, "", "", "")] = {}
    return tuple(
        Combination(
            key=key,
            trials=tuple(by_cell[cell] for cell in sorted(by_cell)),
            expected=expected,
            skipped=skipped.get(key),
        )
        for key, by_cell in cells.items()
    )


def _planned(study: Mapping[str, Any], dataset: str) -> list[Key]:
    """Return (model, optimizer, loss) of each combination a study asks for on a data set."""
    if dataset not in [label(entry) for entry in study.get("data", ())]:
        return []
    axes = [study.get(axis, ()) for axis in ("models", "optimizers", "losses")]
    return list(product(*([label(entry) for entry in axis] for axis in axes)))


def label(entry: Any) -> str:
    """Return how results name an entry of an axis in study.yaml: `adam`, `sgd(lr=0.05)`."""
    if not isinstance(entry, Mapping):
        return str(entry)
    # Of a reference or a path the last part alone.
    name = str(entry["name"]).rpartition(":")[2].rstrip("/").rpartition("/")[2]
    params = entry.get("params") or {}
    if not params:
        return name
    return f"{name}({', '.join(f'{k}={v}' for k, v in sorted(params.items()))})"
