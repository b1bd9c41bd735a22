"""The progress of a run, from its folder alone: on any machine, and even if the driver is gone.

The process that runs a study, its driver, writes its progress and the trials in hand to
`status.json` every few seconds. The results of trials are read from the tables. Whether the driver
is alive is seen on its own machine from its process and the lock that it holds, elsewhere from the
time of its last write.
"""

import fcntl
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import gethostname
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from results import text
from results.tables.files import replace_file
from results.tables.schema import ENDED_STATUSES
from results.tables.store import Damage, DamagedError, RunError, find_damage, incomplete, read

FILE = "status.json"
LOCK = ".lock"
# A driver writes every few seconds. One on another machine that has been silent for this long, and
# whose lock is free, is gone. A free lock alone does not show that there, since not every file
# system shares locks. Assumption.
SILENT = timedelta(minutes=2)
# Two readings of the start of one process differ by at most this, from rounding.
_SAME_START_SEC = 2.0
_COLUMNS = ("trial_id", "status", "reason", "finished_at")
_TIMES = ("train_sec", "data_wait_sec", "sample_gradients")


class InHand(BaseModel):
    """A trial in hand: its lane and machine, and its progress.

    `seconds` since it was handed out and `silent_seconds` since its last step, both at the time of
    writing; `score` on inner validation, null before the first look.
    """

    model_config = ConfigDict(frozen=True)

    lane: str
    host: str
    trial_id: str
    label: str
    epoch: int
    epochs: int
    metric: str
    score: float | None
    seconds: float
    silent_seconds: float


class State(BaseModel):
    """What a driver writes about its run: `status.json`.

    `process_started` (seconds since 1970) distinguishes the driver from another process with the
    same id. `ended` is null while it works, then how it ended: "done", or in words. Numbers of
    trials are those of the whole run, including all phases of a search; `reused` trials already had
    a result.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    study: str
    host: str
    process: int
    process_started: float
    written_at: datetime
    ended: str | None
    total: int
    done: int
    reused: int
    statuses: dict[str, int]
    seconds: float
    seconds_left: float | None
    running: tuple[InHand, ...]


def write_state(run: Path, state: State) -> None:
    """Write the state of a run, whole or not at all; raises OSError if that fails."""
    replace_file(run / FILE, state.model_dump_json(indent=1).encode())


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The process that runs a study.

    `state`: "running"; "ended", as `ended` says; "gone", if it stopped without saying so; or
    "unknown", if no driver has written its status. `age_seconds`: since its last write.
    """

    state: str
    host: str | None = None
    process: int | None = None
    written_at: str | None = None
    age_seconds: float | None = None
    ended: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A reason for failures, and how many trials failed for it."""

    reason: str
    trials: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """The progress of a run.

    `lost` counts finished trials whose files are damaged or gone, as a report would find; files are
    not read through for it. Unless a driver is at work, they are not `done`. `total`, `left` and
    `reused` are None if no driver has written them. `statuses` counts the `done` trials; `failed`
    groups those that failed by reason. `running` are the trials in hand, or those that a driver had
    that is gone; their `seconds` and `silent_seconds` are as of now. `hosts` are the machines of
    their `lanes`. `data_wait_share` is the share of training time spent waiting for data,
    `samples_per_sec` the sample-gradients per second of training of one trial; both are over
    finished trials and None before the first. `seconds_left` is the remaining time, None if
    unknown.
    """

    run: str
    study: str
    driver: Driver
    total: int | None
    done: int
    left: int | None
    lost: int
    reused: int | None
    statuses: dict[str, int]
    failed: tuple[Failure, ...]
    running: tuple[InHand, ...]
    lanes: int
    hosts: tuple[str, ...]
    data_wait_share: float | None
    samples_per_sec: float | None
    seconds: float | None
    seconds_left: float | None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values, as `medopt status --json` prints it."""
        plain = {**vars(self), "driver": vars(self.driver)}
        plain["failed"] = [vars(each) for each in self.failed]
        plain["running"] = [each.model_dump() for each in self.running]
        plain["hosts"] = list(self.hosts)
        return plain


def status(run: Path, now: datetime | None = None) -> Status:
    """Return the progress of a run; `now` is the time, by default that of this machine's clock.

    Raises RunError if the folder holds no run, or its content cannot be read.
    """
    if not (run / "study.yaml").exists():
        raise RunError(f"{run} holds no run: there is no study.yaml in it.")
    now = now or datetime.now(UTC)
    state = _read_state(run)
    rows, lost = _rows(run)
    known = {row["trial_id"]: row for row in rows if row["status"] != "skipped"}
    ended = [row for row in rows if row["status"] in ENDED_STATUSES]
    totals = [sum(row[name] or 0 for row in ended) for name in _TIMES]
    trained, waited, samples = totals
    # Trials that failed before this driver began are tried again, so they do not count as done.
    begun = state and state.written_at - timedelta(seconds=state.seconds)
    reasons = Counter(
        row["reason"]
        for row in rows
        if row["status"] == "failed" and (begun is None or row["finished_at"] > begun)
    )
    driver = _driver(run, state, now)
    in_hand, after = _since(state, known)
    statuses = Counter(state.statuses if state else {})
    statuses.update(after if state else (row["status"] for row in known.values()))
    alive = driver.state == "running"
    if lost and not alive:
        # It counted files that have gone since; a driver at work finds out when it begins.
        statuses = min(
            statuses, Counter(row["status"] for row in known.values()), key=Counter.total
        )
    done = statuses.total()
    age = driver.age_seconds or 0.0
    ages = {"seconds": age, "silent_seconds": age}
    left = None if state is None else max(state.total - done, 0)
    return Status(
        run=str(run),
        study=state.study if state else run.name,
        driver=driver,
        total=None if state is None else state.total,
        done=done,
        left=left,
        lost=lost,
        reused=None if state is None else state.reused,
        statuses=dict(sorted(statuses.items())),
        failed=tuple(
            Failure(reason=reason or "unknown", trials=count)
            for reason, count in reasons.most_common()
        ),
        running=tuple(
            one.model_copy(update={name: getattr(one, name) + more for name, more in ages.items()})
            for one in in_hand
        ),
        lanes=len({one.lane for one in in_hand}),
        hosts=tuple(sorted({one.host for one in in_hand if one.host})),
        data_wait_share=waited / trained if trained else None,
        samples_per_sec=samples / trained if trained else None,
        seconds=state.seconds + (age if alive else 0.0) if state else None,
        seconds_left=_left(state, age) if alive and state else None,
    )


def in_words(found: Status) -> list[str]:
    """Return a status as lines for people."""
    of = "" if found.total is None else f" of {found.total}"
    more = [] if found.left is None else [f"{found.left} left"]
    if found.seconds_left is not None:
        more.append(f"about {text.duration(found.seconds_left, clock=True)} to go")
    lines = [", ".join([f"{found.study}: {found.done}{of} trials done", *more])]
    if found.statuses:
        lines.append("  " + ", ".join(f"{n} {status}" for status, n in found.statuses.items()))
    if found.lost:
        lines.append(
            f"  {text.count(found.lost, 'finished trial')} lost files, or their files are damaged; "
            "`medopt report` says which"
        )
    lines.append(f"  {_of_the_driver(found.driver, lost=found.lost > 0)}")
    if found.running:
        where = f" on {text.listed(found.hosts)}" if found.hosts else ""
        had = "had" if found.driver.state == "gone" else "has"
        trials = text.count(len(found.running), "trial")
        lines.append(f"  {had} {trials} in hand, {text.count(found.lanes, 'lane')}{where}")
    for one in found.running:
        told = [f"epoch {one.epoch} of {one.epochs}"]
        if one.score is not None:
            told.append(f"{text.metric(one.metric)} {text.score(one.score)} on inner validation")
        told.append(f"last step {text.duration(one.silent_seconds, clock=True)} ago")
        lines += [f"  {one.lane}: {one.label}", f"    {', '.join(told)}"]
    lines += [
        f"  failed, {text.count(each.trials, 'trial')}: {each.reason}" for each in found.failed
    ]
    if found.data_wait_share is not None:
        lines.append(
            f"  {text.rate(found.samples_per_sec)} samples/s while a trial trains, "
            f"{text.percent(round(found.data_wait_share, 3))} of the time waiting for data"
        )
    return lines


def _of_the_driver(driver: Driver, *, lost: bool) -> str:
    where = f"process {driver.process} on {driver.host}"
    ago = f"{text.duration(driver.age_seconds, clock=True)} ago"
    if driver.state == "running":
        return f"{where} runs it and wrote this {ago}"
    if driver.state == "ended":
        done = "all was done" if lost else "all is done"
        said = done if driver.ended == "done" else driver.ended
        return f"{where} ended {ago}: {said}"
    if driver.state == "gone":
        return f"the driver ({where}) wrote this {ago} and is gone; `medopt run` resumes the run"
    return "no driver has written its progress"


def _read_state(run: Path) -> State | None:
    path = run / FILE
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise RunError(
            f"{path} is damaged or from another version ({error.error_count()} errors); `medopt "
            "run` writes it anew."
        ) from error


def _rows(run: Path) -> tuple[list[Mapping[str, Any]], int]:
    """Return the rows of the trials of a run and of its phases, which have folders below it.

    Also return how many finished trials have lost files.
    """
    rows: list[Mapping[str, Any]] = []
    lost = 0
    for trials in sorted({run / "trials", *run.glob("*/trials"), *run.glob("*/*/trials")}):
        if trials.is_dir():
            columns = [*_COLUMNS, *_TIMES]
            damage = Damage()
            try:
                found = read(trials.parent, "trials", columns=columns)
            except DamagedError:  # intact files count; a report says what is damaged
                damage = find_damage(trials.parent)
                found = read(trials.parent, "trials", columns=columns, without=damage)
            rows += found.to_pylist()
            lost += len(damage.trial_ids) + len(incomplete(trials.parent, damage))
    return rows, lost


def _since(
    state: State | None, known: Mapping[str, Mapping[str, Any]]
) -> tuple[list[InHand], list[str]]:
    """Return the trials still in hand, and the statuses of those that ended since the last write.

    Results are on disk before the driver writes its progress, and it may have died in between.
    """
    if state is None:
        return [], []
    ended: dict[str, str] = {}
    in_hand = []
    for one in state.running:
        row = known.get(one.trial_id)
        begun = state.written_at - timedelta(seconds=one.seconds)
        if row is not None and row["finished_at"] is not None and row["finished_at"] > begun:
            ended[one.trial_id] = row["status"]
        else:
            in_hand.append(one)
    for trial_id, row in known.items():
        if row["finished_at"] is not None and row["finished_at"] > state.written_at:
            ended[trial_id] = row["status"]
    return in_hand, list(ended.values())


def _left(state: State, age: float) -> float | None:
    return None if state.seconds_left is None else max(state.seconds_left - age, 0.0)


# ---- the driver ------------------------------------------------------------------------------


def _driver(run: Path, state: State | None, now: datetime) -> Driver:
    if state is None:
        return Driver(state="unknown")
    age = max((now - state.written_at).total_seconds(), 0.0)
    if state.ended is not None:
        which = "ended"
    elif _is_gone(run, state, age):
        which = "gone"
    else:
        which = "running"
    return Driver(
        state=which,
        host=state.host,
        process=state.process,
        written_at=state.written_at.isoformat(),
        age_seconds=age,
        ended=state.ended,
    )


def _is_gone(run: Path, state: State, age: float) -> bool:
    if state.host == gethostname():
        return not _lives(state) or is_free(run / LOCK)
    return age > SILENT.total_seconds() and is_free(run / LOCK)


def _lives(state: State) -> bool:
    try:
        process = psutil.Process(state.process)
        started = process.create_time()
        return (
            abs(started - state.process_started) < _SAME_START_SEC
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def is_free(lock: Path) -> bool:
    """Return whether nobody holds a lock. A driver that starts at this moment may find it held."""
    try:
        with lock.open() as ours:
            fcntl.flock(ours, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True
