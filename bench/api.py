"""The work of the medopt command, to be called from Python: a notebook, a script, the command.

    from bench import api

    api.prepare("medmnist:breastmnist", out="stores/breastmnist")
    planned = api.plan("study.yaml")             # writes nothing
    print(len(planned.plan.trials), "trials,", planned.seconds, "seconds at most")
    ended = api.run("study.yaml")                # again: goes on with what is unfinished
    print(ended.page, ended.verdict["datasets"][0]["reason"])

Nothing is printed: callbacks tell how far the work is. What the work stands on (torch, Ray) is
imported when a function is called, so that the command answers `--help` at once.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.core.references import local_path
from bench.core.undisturbed import undisturbed

if TYPE_CHECKING:
    from bench.execution.trial_queue import Progress
    from bench.planning.plan import Plan
    from bench.planning.scales import Scales
    from loaders.cases import Kind
    from loaders.datasets.recognize import Seems
    from loaders.store.copies import Conflicts
    from loaders.store.dry_run import Counted
    from loaders.store.write import Report
    from results.verdict.schema import Verdict

# Told (things done, things in all) as work goes on.
Told: TypeAlias = Callable[[int, int], None]
# What is counted ("reading") -> a context that gives the callback; bench.display has one.
Counting: TypeAlias = Callable[[str], AbstractContextManager[Told]]

# The threads that this process trains with, once it does.
_begun: list[int | None] = []


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run would do: its plan, and the seconds that it takes at most on its lanes.

    `scales` says how long the gradients of each loss are at the start.
    """

    plan: "Plan"
    seconds: float
    scales: tuple["Scales", ...]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that has ended: its folder, its page `report.html`, and how far it came.

    Trials may have failed: `progress.statuses` counts them, and `log.txt` in the folder says why.
    """

    folder: Path
    page: Path
    progress: "Progress"

    @property
    def verdict(self) -> "Verdict":
        """The verdict, as `verdict.json` has it; results.verdict.schema lists the keys."""
        from results.report.write import load_verdicts

        return load_verdicts(self.folder)


def _uncounted(_what: str) -> AbstractContextManager[Told]:
    return nullcontext(lambda _done, _total: None)


def _unheard(_progress: "Progress") -> None:
    pass


# More processes that read, lanes or GPUs of a trial are a slip of the keyboard. Assumption.
MOST_AT_ONCE = 1024


def _wrong_count(name: str, number: int | None) -> str | None:
    """Return why a number of things to use at once cannot be, None if it can."""
    if number is None or (type(number) is int and 1 <= number <= MOST_AT_ONCE):
        return None
    return f"{name} is {number!r}; it is a whole number from 1 to {MOST_AT_ONCE}."


def check_lanes(ray: str | None, lanes: int | None, gpus_per_trial: int = 1) -> None:
    """Raise StudyError where a run cannot have these lanes, before anything is made or imported."""
    from bench.core.references import StudyError

    for name, number in (("lanes", lanes), ("gpus_per_trial", gpus_per_trial)):
        if wrong := _wrong_count(name, number):
            raise StudyError(wrong)
    if ray is None and (lanes is not None or gpus_per_trial > 1):
        raise StudyError(
            "lanes and several GPUs a trial need Ray: ask for it too, in Python by "
            '`ray="local"`, on the command line by `--ray`.'
        )


def prepare(
    kind: str,
    source: str | Path | None = None,
    *,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    strict: bool = False,
    conflicts: "Conflicts" = "keep",
    workers: int | None = None,
    counting: Counting = _uncounted,
) -> "Report":
    """Turn scans as they were downloaded into the store `out`; a stopped preparation resumes.

    `kind` is a row of `medopt list data`, for medmnist with the set's name (`medmnist:NAME`).
    `source` is the folder or file; None fetches the official file, where it is free. `options` are
    the kind's settings (what a message writes `--set NAME=VALUE` is `options={"NAME": "VALUE"}`
    here, and `--out` is `out`), `workers` the processes that read (None: one a core that this
    process may use). `strict` stops at the first bad case. `conflicts` says what becomes of one
    image under several answers: "keep" its cases in one group, or "reject" them all.

    Returns the number of cases, those that were rejected with their reasons, warnings of copies
    among them, and whether the store was there already. Raises BadSource where the kind, a setting,
    the source or every case is unusable, BadCase for the first bad case where `strict`, StoreError
    where `out` holds something else, and OSError where the disk is full; asking again goes on from
    there.
    """
    from bench.core.references import unknown
    from loaders.cases import BadSource
    from loaders.cores import usable_cores
    from loaders.memory import keep_freed_memory
    from loaders.store.copies import CONFLICTS
    from loaders.store.prepare import prepare as prepare_store
    from loaders.store.pseudonyms import user_key

    if wrong := _wrong_count("workers", workers):
        raise BadSource(wrong)
    store = local_path(out, "--out")
    row, settings = _kind(kind, options)
    if conflicts not in CONFLICTS:
        raise BadSource(unknown("conflicts", conflicts, CONFLICTS))
    if source is None:
        if row.fetch is None:
            raise BadSource(f"{row.name} needs SOURCE, the folder or file as it was downloaded.")
        with counting("fetching, KiB") as told:
            source = row.fetch(settings, lambda done, total: told(done // 1024, total // 1024))
    keep_freed_memory()
    with counting("reading") as told:
        return prepare_store(
            row,
            Path(source),
            store,
            options=settings,
            key=user_key(),
            workers=workers or usable_cores(),
            strict=strict,
            conflicts=conflicts,
            progress=told,
        )


def recognize(source: str | Path) -> "list[Seems]":
    """Say what a folder or file seems to be and what `prepare` needs for it; writes nothing.

    What fits comes first; of the others `missing` says why they do not. Raises BadSource where
    there is no such folder or file, or nothing in it.
    """
    from loaders.datasets.recognize import recognize as recognize_source

    return recognize_source(Path(source))


def count(
    kind: str,
    source: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    counting: Counting = _uncounted,
) -> "Counted":
    """Read a source as `prepare` does and count cases, groups, classes and rejects.

    Writes nothing. `kind`, `source` and `options` are as in `prepare`. Raises BadSource.
    """
    from loaders.store.dry_run import count as count_source

    row, settings = _kind(kind, options)
    with counting("reading") as told:
        return count_source(row, Path(source), settings, told)


def _kind(kind: str, options: Mapping[str, Any] | None) -> "tuple[Kind, dict[str, Any]]":
    """Return the row of a kind and its settings; raises BadSource."""
    from bench.core.references import unknown
    from loaders.cases import BadSource
    from loaders.datasets.table import KINDS

    name, _, part = kind.partition(":")
    if name not in KINDS:
        raise BadSource(unknown("kind", name, KINDS))
    return KINDS[name], {**(options or {}), **({"name": part} if part else {})}


def plan(
    study: str | Path,
    out: str | Path | None = None,
    *,
    lanes: int | None = None,
    counting: Counting = _uncounted,
) -> Planned:
    """Say what a run would do, and measure how long it takes; writes nothing.

    `study` is a study file or the name of a ready study, `out` the run folder to be (None:
    runs/NAME), `lanes` how many trials would run at once (None: one). The time comes from one real
    step and one real evaluation of each model on each data set; early stopping only shortens it.

    Raises StudyError where the study or its data cannot be used, and where it needs other threads
    than an earlier study in this process.
    """
    check_lanes("local", lanes)
    from bench.planning.estimate import estimate
    from bench.planning.plan import resolve
    from bench.planning.scales import gradient_scales
    from bench.study.schema import load_study

    asked, base = load_study(Path(study))
    made = resolve(asked, base, _folder(out, asked.name), lanes=lanes or 1)
    _begin(made.study.threads)
    with counting("measuring") as told, undisturbed():
        seconds = estimate(made, told) / (lanes or 1)
        scales = tuple(gradient_scales(made))
    return Planned(plan=made, seconds=seconds, scales=scales)


def run(
    study: str | Path,
    out: str | Path | None = None,
    *,
    ray: str | None = None,
    lanes: int | None = None,
    gpus_per_trial: int = 1,
    trial: str | None = None,
    hung_minutes: float | None = None,
    changed: Callable[["Progress"], None] = _unheard,
) -> Ended:
    """Run a study, or go on with it: finished trials are not run again. Then write its report.

    `study` is a study file or the name of a ready study, `out` the run folder (None: runs/NAME).
    `ray` None runs in a process beside this one; "local" starts a Ray on this machine, "auto" or
    host:port joins a cluster that is up. There, `lanes` trials run at once (None: as many as there
    is room for), each on `gpus_per_trial` GPUs or CPU workers. `trial` is the id of the one trial
    to run.
    A trial that makes no step for `hung_minutes` (None: 30) is ended. `changed` hears of each step.

    Returns the run as it ended; a trial that broke is counted in it as failed. Raises StudyError
    where the study, its data, its pretrained weights or the machines cannot be used, and where
    another process is running it; RunError where the run folder is damaged; LanesLost, an OSError,
    where no lane is left; OSError where results cannot be written; and KeyboardInterrupt. What is
    finished is on disk in each case, and asking again goes on from there.
    """
    check_lanes(ray, lanes, gpus_per_trial)
    from bench.execution.lanes import run_lanes
    from bench.execution.local import run_here
    from bench.execution.ray_cluster import capacity
    from bench.execution.trial_queue import HUNG_MINUTES, opened
    from bench.planning.plan import resolve, save
    from bench.planning.preflight import fits
    from bench.study.schema import load_study
    from results.report.write import write_report

    address = None if ray == "local" else ray
    asked, base = load_study(Path(study))
    folder = _folder(out, asked.name)
    hung = HUNG_MINUTES if hung_minutes is None else hung_minutes
    if ray is None:
        made = resolve(asked, base, folder)
    else:
        space = capacity(asked, address=address, lanes=lanes, gpus_per_trial=gpus_per_trial)
        lanes = space.lanes
        made = resolve(
            asked,
            base,
            folder,
            lanes=space.workers_a_machine,
            cores=space.cores,
            cuda=space.cuda,
            devices=gpus_per_trial,
        )
    if trial is not None:
        made = made.only(trial)
    fitting = list(fits(made))  # before anything runs: what does not fit would fail every trial
    save(made)
    with _logging(folder / "log.txt"):
        for line in fitting:
            logging.getLogger("medopt.transfer").info(line)
        for data in made.sets:
            for warning in (*data.notes, *data.store.warnings):
                logging.getLogger("medopt.data").warning("%s: %s", data.name, warning)
        if lanes is None:
            with opened(made, shared_device=False) as queue:
                run_here(made, queue, changed, hung_minutes=hung)
                progress = queue.progress()
        else:
            progress = run_lanes(
                made,
                address=address,
                lanes=lanes,
                gpus_per_trial=gpus_per_trial,
                changed=changed,
                hung_minutes=hung,
            )
    return Ended(folder=folder, page=write_report(folder), progress=progress)


def _folder(out: str | Path | None, name: str) -> Path:
    """Return the run folder that is asked for, wherever a user's code may go from here."""
    return (Path("runs") / name if out is None else local_path(out, "--out")).absolute()


def _begin(threads: int | None) -> None:
    """Set this process up for its first study; raise StudyError if a later one differs in threads.

    The command trains once a process, a notebook more often, and threads can be set but once.
    """
    from bench.core.references import StudyError
    from bench.core.startup import begin

    if not _begun:
        begin(threads)
        _begun.append(threads)
    elif _begun != [threads]:
        raise StudyError(
            f"threads: this Python process trains with {_begun[0]}, and the study needs {threads}. "
            f"A second change makes every step many times slower: restart Python (the notebook's "
            f"kernel), write `threads: {_begun[0]}` in the study, or run it with Ray."
        )


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    """Send what the run has to say to `log.txt` beside its results, and nowhere else."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("medopt")
    level, propagate = ours.level, ours.propagate
    ours.setLevel(logging.INFO)
    ours.propagate = False
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
        ours.propagate = propagate
        handler.close()
