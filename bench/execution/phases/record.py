"""The record of a search by Ray Tune: its jobs, its rows in the tables, its progress. No Ray."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict

from bench.core.settings import Setting
from bench.execution.trial_queue import Progress, Running, label
from bench.metrics.table import METRICS
from bench.planning.plan import Plan
from bench.planning.points import attempt, space_of
from bench.study.components import Combination
from bench.study.trial import Trial, trial_columns
from bench.training.train import Outcome, settings_as_json
from results.tables.axes import COLUMNS
from results.tables.schema import FINAL_STATUSES
from results.tables.store import read, write_trial

LANE = "search"


class Job(TypedDict):
    """One point to try: its cell (the id of a trial of the plan), its number, and its draws."""

    cell: str
    point: int
    drawn: dict[str, Setting]


@dataclass
class _UnderWay:
    trial: Trial
    epochs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Record:
    """The points of a search, by cell: a combination in a fold, on the study's first seed.

    `plan` is that of the search: its folder holds the tables of points. `changed` is called at each
    step; `footer` goes into every file.
    """

    plan: Plan
    points: int
    search: str
    footer: Mapping[str, Any]
    shared_device: bool
    changed: Callable[[Progress], None]
    cells: dict[str, Trial] = field(init=False)
    # Cell -> its points with a result: point -> (its draws, its score, higher is better).
    done: dict[str, dict[int, tuple[dict[str, Setting], float]]] = field(init=False)
    # Cell -> point -> its draws, and (sample-gradients, score, higher is better) of each of its
    # looks; also for points under way.
    looks: dict[str, dict[int, tuple[dict[str, Setting], list[tuple[int, float]]]]] = field(
        init=False
    )
    _under_way: dict[str, _UnderWay] = field(init=False, default_factory=dict)
    _statuses: Counter[str] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        """Look up the points that have a result already."""
        first = self.plan.study.seeds[0]
        self.cells = {
            trial.trial_id: trial
            for trial in self.plan.trials
            if trial.seed == first and space_of(trial, self.plan)
        }
        self.done = {cell: {} for cell in self.cells}
        self.looks = {cell: {} for cell in self.cells}
        known = {_place(trial_columns(trial)): cell for cell, trial in self.cells.items()}
        places: dict[str, tuple[str, int]] = {}
        for row in read(self.plan.folder, "trials").to_pylist():
            cell = known.get(_place(row))
            if cell is not None and row["status"] in FINAL_STATUSES:
                settings = json.loads(row["hparams"] or "{}")
                drawn = {name: settings[name] for name in space_of(self.cells[cell], self.plan)}
                self.done[cell][row["point"]] = drawn, self.worth(cell, row["val_score"])
                self._statuses[row["status"]] += 1
                places[row["trial_id"]] = cell, row["point"]
                self.looks[cell][row["point"]] = drawn, []
        for epoch in read(self.plan.folder, "epochs", trials=list(places)).to_pylist():
            self._looked(*places[epoch["trial_id"]], epoch)
        for cell, point in places.values():
            self._worst(cell, point)
        self.reused = sum(map(len, self.done.values()))
        self._started = time.monotonic()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Ray Tune pickles all that it is given, for a restore that is never used.
        return dict, ()

    def trial(self, job: Job) -> Trial:
        """Return the trial of a point."""
        return attempt(self.cells[job["cell"]], job["drawn"], job["point"], self.points)

    def missing(self, cell: str) -> list[int]:
        """Return the points of a cell that have no result."""
        return [point for point in range(self.points) if point not in self.done[cell]]

    def worth(self, cell: str, score: float | None) -> float:
        """Return a score in the form that a search compares: higher is better, None is worst."""
        sign = 1 if METRICS[self.cells[cell].primary].higher_is_better else -1
        return -math.inf if score is None else sign * score

    def budget(self, cell: str) -> int:
        """Return the sample-gradients of one point of a cell."""
        trial = self.cells[cell]
        data = self.plan.data(trial.dataset)
        return trial.epochs * len(data.split(trial.repeat, trial.fold).train)

    # ---- reports of a search -----------------------------------------------------------------

    def heard(self, name: str, job: Job, epoch: dict[str, Any] | None) -> None:
        """Note an epoch of the point that the search calls `name`."""
        under_way = self._under_way.setdefault(name, _UnderWay(self.trial(job)))
        self.looks[job["cell"]].setdefault(job["point"], (job["drawn"], []))
        if epoch is not None:
            under_way.epochs.append(epoch)
            self._looked(job["cell"], job["point"], epoch)
        self.changed(self.progress())

    def finish(self, name: str, job: Job, outcome: Outcome) -> None:
        """Write a point that trained to its end."""
        self._write(name, job, outcome.trial, outcome.metrics, outcome.epochs)

    def drop(self, name: str, job: Job) -> None:
        """Write a point that the search stopped, with what it had reached."""
        trial = self.trial(job)
        epochs = self._under_way[name].epochs
        best = max(epochs, key=lambda row: self.worth(job["cell"], row["val_score"]))
        last = epochs[-1]
        settings = Combination(choices=trial.choices, base=self.plan.base, drawn=trial.drawn)
        split = self.plan.data(trial.dataset).split(trial.repeat, trial.fold)
        row = {
            **trial_columns(trial),
            "hparams": settings_as_json(settings.optimizer.settings),
            "batch_size": trial.batch_size,
            "status": "dropped",
            "reason": f"stopped by {self.search} after {last['sample_gradients']} sample-gradients",
            "n_train_cases": len(split.train),
            "n_val_cases": len(split.inner),
            "n_test_cases": len(split.test),
            "val_score": best["val_score"],
            "best_epoch": best["epoch"],
            "epochs_run": last["epoch"],
            "sample_gradients": last["sample_gradients"],
            "gradient_evaluations": last["gradient_evaluations"],
            "train_sec": last["elapsed_sec"],
            "wall_sec": last["elapsed_sec"],
            "finished_at": datetime.now(UTC),
        }
        self._write(name, job, row, [], epochs)

    def fail(self, name: str, job: Job, why: str) -> None:
        """Write a point that failed; it is tried again when the search is resumed."""
        row = {**trial_columns(self.trial(job)), "status": "failed", "reason": why}
        self._write(name, job, row | {"finished_at": datetime.now(UTC)}, [], [])

    def progress(self) -> Progress:
        """Return how far the search is."""
        ended = sum(self._statuses.values())
        total = self.points * len(self.cells)
        seconds = time.monotonic() - self._started
        fresh = ended - self.reused
        return Progress(
            total=total,
            done=ended,
            reused=self.reused,
            statuses=dict(self._statuses),
            running=tuple(self._running(name) for name in sorted(self._under_way)),
            seconds=seconds,
            seconds_left=seconds / fresh * (total - ended) if fresh else None,
        )

    def _running(self, name: str) -> Running:
        under_way = self._under_way[name]
        last: dict[str, Any] = under_way.epochs[-1] if under_way.epochs else {}
        return Running(
            lane=name,
            label=label(under_way.trial),
            epoch=last.get("epoch", 0),
            epochs=under_way.trial.epochs,
            metric=under_way.trial.primary,
            score=last.get("val_score"),
            trial_id=under_way.trial.trial_id,
        )

    def _looked(self, cell: str, point: int, epoch: Mapping[str, Any]) -> None:
        if epoch["val_score"] is not None:
            look = epoch["sample_gradients"], self.worth(cell, epoch["val_score"])
            self.looks[cell][point][1].append(look)

    def _worst(self, cell: str, point: int) -> None:
        """Count a point without a score (it diverged, say) as the worst, with its budget spent."""
        drawn, worth = self.done[cell][point]
        if worth == -math.inf:
            looks = self.looks[cell].setdefault(point, (drawn, []))[1]
            looks.append((self.budget(cell), worth))

    def _write(
        self,
        name: str,
        job: Job,
        row: dict[str, Any],
        metrics: list[dict[str, Any]],
        epochs: list[dict[str, Any]],
    ) -> None:
        about = {"study": self.plan.study.name, "lane": LANE, "attempt": 1}
        own = {"trial_id": row["trial_id"]}
        write_trial(
            self.plan.folder,
            trial={**row, **about, "shared_device": self.shared_device},
            metrics=metrics,
            epochs=[{**epoch, **own} for epoch in epochs],
            cases=[],
            footer=self.footer,
        )
        self._under_way.pop(name, None)
        self._statuses[row["status"]] += 1
        if row["status"] in FINAL_STATUSES:
            worth = self.worth(job["cell"], row.get("val_score"))
            self.done[job["cell"]][job["point"]] = job["drawn"], worth
            self._worst(job["cell"], job["point"])
        self.changed(self.progress())


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the columns of a row of `trials` that identify its cell."""
    return tuple(row[name] for name in ("dataset", *COLUMNS, "repeat", "fold", "seed"))
