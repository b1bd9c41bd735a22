"""The queue of trials with leases, for one writer per run folder. Knows no Ray."""

import fcntl
import logging
import shutil
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from bench.core.references import StudyError
from bench.execution.attempts import Attempts
from bench.execution.compaction import Compaction
from bench.execution.provenance import footer
from bench.planning.plan import Plan
from bench.study.trial import Trial, skip_columns, trial_columns
from bench.training.train import Outcome
from results.status import LOCK
from results.tables.axes import key_of
from results.tables.files import replace_file
from results.tables.schema import FINAL_STATUSES
from results.tables.store import Rows, compact, finished, incomplete, write_trials

log = logging.getLogger("medopt.run")

# After a lane has been silent for this long, its machine is asked whether it still answers. Lanes
# report every few seconds.
LEASE_SEC = 60.0
# A trial that has made no step for this long hangs. A step is a batch or a case: seconds, or some
# minutes if a network is compiled or a large volume is scored on a CPU. Assumption.
HUNG_MINUTES = 30.0
# Small files are merged, beside the run, after this many writes: a report needs 2.6 s for a
# thousand of them, 0.4 s for merged ones (measured).
COMPACT_EVERY = 256
# Results that come this soon after others were written wait for more: with a thousand lanes, files
# of fifty trials cost a fifth, per trial, of files of four (measured). If the driver is killed,
# this much is lost and trained again.
GATHER_SEC = 0.25
# Progress is reported again after TELLING times as long as the last report took, but at the latest
# after TELLING_SEC, however slow the terminal or the disk is. Assumption.
TELLING, TELLING_SEC = 20, 5.0
# A trial that ended its process this often is recorded as failed.
KILLS = 2


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A trial in the hands of a lane."""

    trial: Trial
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Running:
    """What a lane is working on, where, for how long, and the seconds since its last step."""

    lane: str
    label: str
    epoch: int
    epochs: int
    metric: str
    score: float | None
    silent: float = 0.0
    trial_id: str = ""
    host: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; `seconds_left` is None until a trial has been finished."""

    total: int
    done: int
    reused: int
    statuses: dict[str, int]
    running: tuple[Running, ...]
    seconds: float
    seconds_left: float | None


@dataclass
class _TrialInHand:
    """A lease, when its lane last reported, when its trial last made a step, and how far it is.

    `stream` is what decides its batches.
    """

    lease: Lease
    begun: float
    heard: float
    moved: float
    stream: tuple[Any, ...]
    epoch: int = 0
    score: float | None = None


@dataclass
class Queue:
    """Hands out trials under leases and writes their results to disk before anything else.

    `footer` goes into every Parquet file; `shared_device` says that other trials run on the same
    device at the same time, so that times are not those of a trial alone. `one_memory` says that
    all processes share one machine's memory: a trial that ended its process is tried again alone,
    since all processes together may have used up the memory.
    """

    folder: Path
    study: str
    trials: Sequence[Trial]
    footer: dict[str, Any]
    shared_device: bool
    one_memory: bool = False
    # Lane -> the name of the machine that it runs on.
    hosts: dict[str, str] = field(init=False, default_factory=dict)
    _ready: deque[Trial] = field(init=False)
    _held: dict[str, _TrialInHand] = field(init=False, default_factory=dict)
    # All that was handed out: a lane taken for lost may still bring its result.
    _given: dict[tuple[str, str], Lease] = field(init=False, default_factory=dict)
    _count: dict[str, int] = field(init=False, default_factory=dict)
    _statuses: dict[str, str] = field(init=False, default_factory=dict)
    _seconds: list[float] = field(init=False, default_factory=list)
    _most_lanes: int = field(init=False, default=1)
    _written: int = field(init=False, default=0)
    # Lane, trial and outcome of results that are not on disk yet, and when they are due.
    _received: list[tuple[str, str, Outcome]] = field(init=False, default_factory=list)
    _due: float = field(init=False, default=float("-inf"))
    _compaction: Compaction = field(init=False)

    def __post_init__(self) -> None:
        """Look up the finished trials; a failed trial is tried again."""
        done = {i: s for i, s in finished(self.folder).items() if s in FINAL_STATUSES}
        self._statuses = {t.trial_id: done[t.trial_id] for t in self.trials if t.trial_id in done}
        self.reused = len(self._statuses)
        for trial_id in done:  # left by a driver that died after writing the result
            self._state_file(trial_id).unlink(missing_ok=True)
        self._ready = deque(t for t in self.trials if t.trial_id not in done)
        for trial_id, lost in incomplete(self.folder).items():
            tables = ", ".join(f"{table}/" for table in lost["tables"])
            log.warning("trial %s has lost its file in %s: running it again", trial_id, tables)
        self._started = time.monotonic()
        self.attempts = Attempts(self.folder)
        self._compaction = Compaction(self.folder)

    def take(self, lane: str) -> Lease | None:
        """Hand out a trial, or None if there is none to hand out now (see `pending`)."""
        trial = self._next()
        if trial is None:
            return None
        self._ready.remove(trial)
        before = self._count.get(trial.trial_id, self.attempts.deaths(trial.trial_id))
        lease = Lease(trial=trial, attempt=before + 1)
        self._count[trial.trial_id] = lease.attempt
        now = time.monotonic()
        self._held[lane] = _TrialInHand(
            lease, begun=now, heard=now, moved=now, stream=_stream(trial)
        )
        self._given[lane, trial.trial_id] = lease
        self._most_lanes = max(self._most_lanes, len(self._held))
        return lease

    def _next(self) -> Trial | None:
        """Return the trial to hand out now; None if none is left, or if one must train alone."""
        if not self.one_memory or not self._held:
            return self._beside_others(self._ready)
        if any(self.attempts.deaths(held.lease.trial.trial_id) for held in self._held.values()):
            return None
        return self._beside_others([t for t in self._ready if not self.attempts.deaths(t.trial_id)])

    def _beside_others(self, ready: Iterable[Trial]) -> Trial | None:
        """Return the first trial, or one of its fold and seed whose batches a running one shares.

        As far as is known, the order within a fold and seed does not affect the length of a run.
        """
        first = next(iter(ready), None)
        if first is None or not self.shared_device:
            return first
        in_hand = {held.stream for held in self._held.values()}
        alike = takewhile(lambda trial: _part(trial) == _part(first), ready)
        return next((trial for trial in alike if _stream(trial) in in_hand), first)

    def pending(self) -> int:
        """Return the number of trials without a result: running or waiting."""
        return len(self.trials) - len(self._statuses)

    def renew(self, lane: str, epoch: int | None = None, score: float | None = None) -> None:
        """Note that a lane's trial made a step, and its epoch and score."""
        held = self._held.get(lane)
        if held:
            held.heard = held.moved = time.monotonic()
            if epoch is not None:
                held.epoch, held.score = epoch, score

    def alive(self, lane: str) -> None:
        """Note that a lane is alive, whether or not its trial makes steps."""
        held = self._held.get(lane)
        if held:
            held.heard = time.monotonic()

    def holds(self, lane: str, trial_id: str | None = None) -> bool:
        """Return whether a lane holds this trial, or any."""
        held = self._held.get(lane)
        return held is not None and trial_id in (None, held.lease.trial.trial_id)

    def unheard(self, seconds: float) -> list[str]:
        """Return the lanes that hold a trial and have been silent for this long."""
        until = time.monotonic() - seconds
        return [lane for lane, held in self._held.items() if held.heard < until]

    def still(self, seconds: float) -> list[str]:
        """Return the lanes whose trial has made no step for this long."""
        until = time.monotonic() - seconds
        return [lane for lane, held in self._held.items() if held.moved < until]

    def keep(self, lane: str, trial_id: str, packed: bytes) -> None:
        """Write the state of a trial in training to disk, whole or not at all, for `kept`.

        Only if the lane holds the trial: a lane that was taken for lost may be behind another.
        """
        held = self._held.get(lane)
        if held is None or held.lease.trial.trial_id != trial_id:
            return
        path = self._state_file(trial_id)
        try:
            path.parent.mkdir(exist_ok=True)
            replace_file(path, packed)
        except OSError as error:
            log.warning("the state of trial %s cannot be kept: %s", trial_id, error)

    def kept(self, trial_id: str) -> bytes | None:
        """Return the last state of a trial that was cut off, None if it must start anew."""
        path = self._state_file(trial_id)
        return path.read_bytes() if path.exists() else None

    def in_hand_for(self, lane: str) -> float:
        """Return for how many seconds a lane has held its trial, 0 if it has none."""
        held = self._held.get(lane)
        return time.monotonic() - held.begun if held else 0.0

    def give_back(self, lane: str) -> None:
        """Take back the trial of a lost lane. It is not the trial's fault, so it is not counted."""
        held = self._held.pop(lane, None)
        if held and held.lease.trial.trial_id not in self._statuses:
            trial = held.lease.trial
            log.warning(
                "%s was lost with trial %s (%s) in hand", lane, trial.trial_id, label(trial)
            )
            self._ready.appendleft(trial)

    def died(self, lane: str, why: str) -> None:
        """Take back the trial that ended its process; one that did so KILLS times has failed."""
        held = self._held.pop(lane, None)
        if held and held.lease.trial.trial_id not in self._statuses:
            self._count_death(held.lease, lane, why)

    def died_before(self, lane: str) -> None:
        """Count the deaths of earlier processes of this run that left their trials in hand."""
        left = self.attempts.left()
        for trial in [t for t in self._ready if t.trial_id in left]:
            self._ready.remove(trial)
            lease = Lease(trial=trial, attempt=self.attempts.deaths(trial.trial_id) + 1)
            self._count[trial.trial_id] = lease.attempt
            self._count_death(lease, lane, "the whole run ended abruptly during it")

    def receive(self, done: Sequence[tuple[str, str, Outcome]]) -> None:
        """Take in finished trials (lane, id, outcome), whose lanes may go on.

        `write_due` writes them to disk, and `close` what is left.
        """
        for lane, trial_id, _ in done:
            if self.holds(lane, trial_id):
                del self._held[lane]
        self._received += done

    def write_due(self) -> None:
        """Write what was received, unless other results were written just now and lanes are busy.

        Raises as `flush`.
        """
        if time.monotonic() >= self._due or not self._held:
            self.flush()

    def flush(self) -> None:
        """Write what was received: late results too, unless the trial has a result already.

        Raises OSError if the disk is full: these trials stay unfinished; what is written stays.
        """
        received, self._received = self._received, []
        if received:
            self._finish(received)
            self._due = time.monotonic() + GATHER_SEC

    def _finish(self, done: Sequence[tuple[str, str, Outcome]]) -> None:
        new: dict[str, tuple[str, Lease, Outcome]] = {}
        for lane, trial_id, outcome in done:
            lease = self._given.get((lane, trial_id))
            if lease is None or trial_id in new or self._statuses.get(trial_id) in FINAL_STATUSES:
                log.warning("%s came with trial %s, which has a result already", lane, trial_id)
            else:
                new[trial_id] = lane, lease, outcome
        self._write([self._rows(lane, lease, outcome) for lane, lease, outcome in new.values()])
        for _, _, outcome in new.values():
            self._seconds.append(outcome.trial["wall_sec"])
        self._off_the_list({trial_id for _, trial_id, _ in done})

    def fail(self, lane: str, trial_id: str, reason: str) -> None:
        """Record a failed trial. Its combination is incomplete and will not be judged."""
        held = self._held.get(lane)
        if held and held.lease.trial.trial_id == trial_id:
            if trial_id not in self._statuses:
                self._write_failed(held.lease, lane, reason)
            del self._held[lane]

    def close(self) -> None:
        """Write what is not on disk yet, and wait for the merging of files."""
        try:
            self.flush()
        finally:
            self._compaction.wait()

    def progress(self) -> Progress:
        """Return how far the run is."""
        statuses: dict[str, int] = {}
        for status in self._statuses.values():
            statuses[status] = statuses.get(status, 0) + 1
        left = None
        if self._seconds:
            left = statistics.fmean(self._seconds) * self.pending() / self._most_lanes
        now = time.monotonic()
        return Progress(
            total=len(self.trials),
            done=len(self._statuses),
            reused=self.reused,
            statuses=statuses,
            running=tuple(
                Running(
                    lane=lane,
                    label=label(held.lease.trial),
                    epoch=held.epoch,
                    epochs=held.lease.trial.epochs,
                    metric=held.lease.trial.primary,
                    score=held.score,
                    silent=now - held.moved,
                    trial_id=held.lease.trial.trial_id,
                    host=self.hosts.get(lane, ""),
                    seconds=now - held.begun,
                )
                for lane, held in sorted(self._held.items())
            ),
            seconds=time.monotonic() - self._started,
            seconds_left=left,
        )

    def _state_file(self, trial_id: str) -> Path:
        return self.folder / "checkpoints" / f"{trial_id}.pt"

    def _count_death(self, lease: Lease, lane: str, why: str) -> None:
        trial = lease.trial
        deaths = self.attempts.died(trial.trial_id)
        log.warning("trial %s (%s): %s", trial.trial_id, label(trial), why)
        if deaths < KILLS:
            self._ready.appendleft(trial)
        else:
            self._write_failed(lease, lane, f"{why} {deaths} times")

    def _off_the_list(self, trial_ids: set[str]) -> None:
        """Stop handing out trials with a result, which a lane taken for lost may have brought."""
        if any(t.trial_id in trial_ids for t in self._ready):
            self._ready = deque(t for t in self._ready if t.trial_id not in trial_ids)

    def _write_failed(self, lease: Lease, lane: str, reason: str) -> None:
        now = datetime.now(UTC)
        row = {**trial_columns(lease.trial), "status": "failed", "reason": reason}
        row |= {"batch_size": lease.trial.batch_size, "finished_at": now}
        self._write([(lease, Rows(self._row(lease, lane, row)))])

    def _rows(self, lane: str, lease: Lease, outcome: Outcome) -> tuple[Lease, Rows]:
        """Return the rows of an outcome; write its weights and examples to disk."""
        trial_id = lease.trial.trial_id
        if outcome.weights:
            weights_folder = self.folder / "weights"
            weights_folder.mkdir(exist_ok=True)
            replace_file(weights_folder / f"{trial_id}.pt", outcome.weights)
        if outcome.examples:
            examples_folder = self.folder / "examples"
            examples_folder.mkdir(exist_ok=True)
            replace_file(examples_folder / f"{trial_id}.npz", outcome.examples)
        row = self._row(lease, lane, outcome.trial)
        return lease, Rows(row, outcome.metrics, outcome.epochs, outcome.cases)

    def _row(self, lease: Lease, lane: str, row: dict[str, Any]) -> dict[str, Any]:
        own: dict[str, Any] = {"study": self.study, "attempt": lease.attempt, "lane": lane}
        if self.shared_device:
            own["energy_joules"] = None  # a GPU's meter counts all trials that share it
        return {**row, **own, "shared_device": self.shared_device}

    def _write(self, written: Sequence[tuple[Lease, Rows]]) -> None:
        """Write trials to disk, and then note their statuses."""
        if not written:
            return
        write_trials(self.folder, [rows for _, rows in written], footer=self.footer)
        for lease, rows in written:
            trial, row = lease.trial, rows.trial
            self._statuses[trial.trial_id] = row["status"]
            self.attempts.forget(trial.trial_id)
            self._state_file(trial.trial_id).unlink(missing_ok=True)
            log.info(
                "%s %s %s: %s %s",
                row["status"],
                trial.trial_id,
                label(trial),
                "" if row.get("test_score") is None else f"{row['test_score']:.4f}",
                row["reason"] or "",
            )
        self._written += 1
        if self._written % COMPACT_EVERY == 0:
            self._compaction.begin()


class Telling:
    """Reports a queue's progress to `changed`, for a twentieth of the time or every TELLING_SEC.

    With a thousand lanes one report takes as long as ten results, and lanes come first.
    """

    def __init__(self, queue: Queue, changed: Callable[[Progress], None]) -> None:
        self._queue, self._changed = queue, changed
        self._next = float("-inf")

    def __call__(self) -> None:
        """Report, unless that was done a moment ago."""
        begun = time.monotonic()
        if begun >= self._next:
            self._changed(self._queue.progress())
            ended = time.monotonic()
            self._next = ended + min(TELLING * (ended - begun), TELLING_SEC)

    def last(self) -> None:
        """Report in any case: the work has ended."""
        self._changed(self._queue.progress())


def label(trial: Trial) -> str:
    """Return a trial's name for people: combination, fold and seed."""
    said = " · ".join(part for part in (trial.dataset, *key_of(trial.combination)) if part)
    point = f" · point {trial.point}" if trial.inner_only else ""
    return f"{said} · fold {trial.fold} · seed {trial.seed}{point}"


def _part(trial: Trial) -> tuple[Any, ...]:
    return trial.dataset, trial.repeat, trial.fold, trial.seed


def _stream(trial: Trial) -> tuple[Any, ...]:
    """Return what decides a trial's batches, as far as trials of a fold and seed can differ."""
    taught = trial.normalize, trial.balance, trial.flipped, trial.readers
    batch = trial.batch_size, trial.accumulate, trial.patch, str(trial.augment), trial.loader
    return *_part(trial), *batch, *taught


@contextmanager
def opened(plan: Plan, *, shared_device: bool) -> Iterator[Queue]:
    """Open a run for one writer: lock its folder, record the skips, and yield its queue.

    Compacts finished trials at the end if they are many. Raises StudyError if another process is
    running it.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with (plan.folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StudyError(
                f"another process is running {plan.folder.name!r}. "
                f"Wait for it, or choose another run folder."
            ) from error
        # Left by a process that was killed while writing: nobody else writes here.
        shutil.rmtree(plan.folder / ".writing", ignore_errors=True)
        about = footer(plan)
        known = finished(plan.folder)
        skipped = [
            Rows({**skip_columns(skip), "study": plan.study.name})
            for skip in plan.skips
            if skip.trial_id not in known
        ]
        if skipped:
            write_trials(plan.folder, skipped, footer=about)
        queue = Queue(
            folder=plan.folder,
            study=plan.study.name,
            trials=plan.trials,
            footer=about,
            shared_device=shared_device,
        )
        try:
            yield queue
        finally:
            queue.close()
        compact(plan.folder)
