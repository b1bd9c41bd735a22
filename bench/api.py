"""The Python API, for notebooks and scripts; the command line is built on it too.

    from bench import api

    api.prepare("medmnist:breastmnist", out="stores/breastmnist")
    planned = api.plan("study.yaml")             # writes nothing
    print(len(planned.plan.trials), "trials,", planned.seconds, "seconds")
    ended = api.run("study.yaml")                # again: resumes what is unfinished
    print(ended.page, ended.verdict["datasets"][0]["reason"])

Nothing is printed: callbacks report progress. What the work needs (torch, Ray) is imported when a
function is called, so that the command answers `--help` at once.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.core.references import local_path
from bench.core.undisturbed import undisturbed
from bench.storage.objects import address_of, is_address
from bench.study.ready import find_study

if TYPE_CHECKING:
    from bench.execution.trial_queue import Progress
    from bench.planning.plan import Plan
    from bench.planning.scales import Scales
    from bench.study.schema import Study
    from bench.training.room import Room
    from loaders.cases import Kind
    from loaders.datasets.recognize import Seems
    from loaders.store.copies import Conflicts
    from loaders.store.dry_run import Counted
    from loaders.store.write import Report
    from results.status import Status
    from results.verdict.next_steps import Foreseen
    from results.verdict.schema import Verdict

# Called with (things done, things in all) as work goes on.
Told: TypeAlias = Callable[[int, int], None]
# What is counted ("reading") -> a context that yields the callback; bench.display has one.
Counting: TypeAlias = Callable[[str], AbstractContextManager[Told]]

# The threads that this process trains with, once it has begun to train.
_begun: list[int | None] = []


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run would do: its plan, and the seconds that it takes on its `lanes`.

    `seconds` is the time from its command to its report if no trial ends early. `low` and `high`
    are the ends of its range, from how much the measured rounds differ; `low` also assumes that
    trials end as early as they may. `trial_seconds` are those of each trial, in the plan's order:
    `foretold` of bench.planning.schedule simulates them on GPUs. `eval_sec`: the seconds spent on
    evaluation. `room` explains the number of trials at once, empty if the caller set it. `scales`
    are the gradient norms of each loss at the start. `points` is the number of the plan's trials
    that belong to a search, 0 without one. `foreseen`: from a pilot, what the verdict on each data
    set will be able to tell.
    """

    plan: "Plan"
    seconds: float
    low: float
    high: float
    trial_seconds: tuple[float, ...]
    eval_sec: float
    scales: tuple["Scales", ...]
    lanes: int = 1
    room: str = ""
    points: int = 0
    foreseen: tuple["Foreseen", ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that has ended: its folder, its page `report.html`, and its progress.

    For a run at an address, `folder` is its copy on this machine, and `page` is an address. Trials
    may have failed: `progress.statuses` counts them, and `log.txt` in the folder says why.
    """

    folder: Path
    page: Path | str
    progress: "Progress"

    @property
    def incumbents(self) -> list[dict[str, Any]]:
        """The best settings of a search by Ray Tune, for each combination and fold; else []."""
        from results.report.sections.search import search
        from results.run_folder import made_of

        found = made_of(self.folder, search)
        return found["lines"] if found else []

    @property
    def verdict(self) -> "Verdict":
        """The verdict, as in `verdict.json`; results.verdict.schema lists the keys."""
        from results.report.write import load_verdicts

        return load_verdicts(self.folder)


def _uncounted(_what: str) -> AbstractContextManager[Told]:
    return nullcontext(lambda _done, _total: None)


def _unheard(_progress: "Progress") -> None:
    pass


def _unsaid(_line: str) -> None:
    pass


_MEASURES_SPEED = (
    "speed: the fastest settings of each model that is new to the run are measured first; this "
    "takes some minutes."
)
# More reader processes, lanes or GPUs per trial than this are a typing error. Assumption.
MOST_AT_ONCE = 1024


def _wrong_count(name: str, number: int | None) -> str | None:
    """Return why a number of things to use at once is invalid, None if it is valid."""
    if number is None or (type(number) is int and 1 <= number <= MOST_AT_ONCE):
        return None
    return f"{name} is {number!r}; it must be a whole number from 1 to {MOST_AT_ONCE}."


def check_lanes(ray: str | None, lanes: int | None, gpus_per_trial: int = 1) -> None:
    """Raise StudyError if a run cannot have these lanes, before anything is made or imported."""
    from bench.core.references import StudyError

    for name, number in (("lanes", lanes), ("gpus_per_trial", gpus_per_trial)):
        if wrong := _wrong_count(name, number):
            raise StudyError(wrong)
    if ray is None and gpus_per_trial > 1:
        raise StudyError(
            "several GPUs (or CPU workers) per trial need Ray: ask for it too, in Python by "
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
    """Turn downloaded scans into the store `out`; a stopped preparation resumes.

    `out` is a folder, or an address (s3://BUCKET/PATH): then the store is made in the cache folder
    of this machine and uploaded, `store.json` last. `kind` is a row of `medopt list data`; medmnist
    needs the set's name (`medmnist:NAME`). `source` is the folder or file; None fetches the
    official file, if it is free. `options` are the kind's settings (for NAME=VALUE in a message,
    `options={"NAME": "VALUE"}`); `workers` is the number of reader processes (None: one for each
    core that this process may use). `strict` stops at the first bad case. `conflicts` says what to
    do if the same image has several answers: "keep" its cases in one group, or "reject" them all.

    Returns the number of cases, the rejected ones with their reasons, warnings of copies among the
    cases, and whether the store existed already. Raises BadSource if the kind, a setting, the
    source or every case is unusable, BadCase for the first bad case if `strict`, StoreError if
    `out` holds something else, StudyError or OSError if its storage refuses or does not answer, and
    OSError if the disk is full. The same call resumes from there.
    """
    from bench.core.references import unknown
    from bench.storage.store_copy import made_here, put_store
    from loaders.cases import BadSource
    from loaders.cores import usable_cores
    from loaders.memory import keep_freed_memory
    from loaders.store.copies import CONFLICTS
    from loaders.store.prepare import prepare as prepare_store
    from loaders.store.pseudonyms import user_key

    if wrong := _wrong_count("workers", workers):
        raise BadSource(wrong)
    store = made_here(out) if is_address(out) else local_path(out, "out")
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
        report = prepare_store(
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
    if is_address(out):
        with counting("putting, files") as told:
            put_store(store, out, told)
    return report


def recognize(source: str | Path) -> "list[Seems]":
    """Return the kinds that a folder or file may be and what `prepare` needs; writes nothing.

    Kinds that fit come first; for the others `missing` says why they do not. Raises BadSource if
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


def show(
    store: str | Path,
    out: str | Path | None = None,
    *,
    cases: int = 12,
    seed: int = 0,
    counting: Counting = _uncounted,
) -> tuple[Path, Path]:
    """Write a page of a store, and a picture of some of its cases; return their paths.

    A store at an address is copied to this machine first, as a study's is. `out` is the page,
    NAME.html (None: the store's name, in the working folder); the picture is NAME.png beside it.
    `cases` is the number of cases shown, drawn by `seed` so that every class is included if there
    are enough. The page holds images of patients, but no names. Raises StoreError if the folder is
    not a complete store, StorageError if there is none at the address, StudyError if `out` is not a
    valid name, OSError if it cannot be written.
    """
    from bench.core.references import StudyError
    from bench.storage.store_copy import store_here
    from loaders.store.read import open_store

    path = store_here(store) if is_address(store) else local_path(store, "store")
    page = Path(f"{path.absolute().name}.html") if out is None else local_path(out, "out")
    if page.suffix != ".html":
        raise StudyError(f"out {page}: the name of the page must end in .html.")
    if not (type(cases) is int and cases >= 1 and type(seed) is int and seed >= 0):
        raise StudyError(
            f"cases is {cases!r}, seed {seed!r}; they must be whole numbers, cases at least 1 and "
            f"seed at least 0."
        )
    opened = open_store(path)
    from bench.look import content
    from results.look.write import write_look

    with counting("cases") as told:
        found = content(opened, cases, seed, told)
    return page, write_look(found, page)


def check_kind(kind: str) -> None:
    """Raise BadSource, with the choices, if there is no kind of this name."""
    from bench.core.references import unknown
    from loaders.cases import BadSource
    from loaders.datasets.table import KINDS

    if (name := kind.partition(":")[0]) not in KINDS:
        raise BadSource(unknown("kind", name, KINDS))


def _kind(kind: str, options: Mapping[str, Any] | None) -> "tuple[Kind, dict[str, Any]]":
    """Return the row of a kind and its settings; raises BadSource."""
    from loaders.datasets.table import KINDS

    check_kind(kind)
    name, _, part = kind.partition(":")
    return KINDS[name], {**(options or {}), **({"name": part} if part else {})}


def plan(
    study: str | Path,
    out: str | Path | None = None,
    *,
    lanes: int | None = None,
    points: int | None = None,
    pilot: str | Path | None = None,
    counting: Counting = _uncounted,
) -> Planned:
    """Return what a run would do, and measure how long it takes; writes nothing.

    `study` is a study file or the name of a ready study, `out` the future run folder (None:
    runs/NAME), `lanes` the number of trials at once (None: as many as a run without Ray would
    choose, which `Planned.room` explains). With `points`, or if the study says `tuning`, the plan
    is that of `tune`: the points of the search come first. The time is measured on the work of each
    model on each data set, side by side as in a run. `pilot` is the folder of a run on the same
    data, with at least two folds, from which to say what the verdict will be able to tell.

    Raises RunError if the pilot cannot be read; StudyError if it has other data, if the study or
    its data cannot be used, and if it needs other threads than an earlier study in this process.
    """
    check_lanes("local", lanes)
    asked, base = _asked(study, out)
    from bench.planning.cost.estimate import estimate
    from bench.planning.cost.pilot import foreseen_by
    from bench.planning.plan import resolve
    from bench.planning.points import point_plan
    from bench.planning.scales import gradient_scales
    from bench.storage.run_copy import readable
    from bench.study.schema import with_tuning

    name = asked.name
    if points is not None or asked.tuning:
        asked, name = with_tuning(asked, points), f"{name}-tuned"
    folder = _folder(out, name)
    run, start = readable(folder, begun=False).absolute(), perf_counter()
    with (counting if asked.speed else _uncounted)("trying settings") as tried_settings:
        made = resolve(asked, base, run, lanes=lanes, told=tried_settings)
    # The time spent on measuring settings of speed is not spent again in the run.
    begin_sec = 0.0 if made.found else perf_counter() - start
    here = None if lanes else _room(made)
    tried = point_plan(made).trials if made.study.tuning else ()
    made = replace(made, trials=(*tried, *made.trials))
    _begin(made.study.threads)
    with counting("measuring") as counted, undisturbed():
        at_once = min(here.lanes if here else lanes or 1, len(made.trials))
        found = estimate(made, counted, lanes=at_once, begin_sec=begin_sec)
        scales = tuple(gradient_scales(made))
    told = foreseen_by(made, _read_folder(pilot, "pilot")) if pilot is not None else ()
    return Planned(
        plan=made,
        seconds=found.wall_sec,
        low=found.low,
        high=found.high,
        trial_seconds=found.trials,
        eval_sec=found.eval_sec / at_once,
        scales=scales,
        lanes=at_once,
        room=here.why if here else "",
        points=len(tried),
        foreseen=tuple(told),
    )


def price(
    study: str | Path, out: str | Path | None = None, *, counting: Counting = _uncounted
) -> Path | str:
    """Measure the time of a sample-gradient of each combination undisturbed; return the file.

    Trains each combination of a study twice for two epochs, one after the other, and writes
    `alone.parquet` into the run folder `out` (None: runs/NAME), before the run or after it. The
    report takes prices from it, since times of trials that ran side by side are noisy. Call it
    while nothing else runs on the machine.

    Raises StudyError as `plan` does, OSError, before anything is measured, if the folder cannot be
    written, and the error of a combination that cannot be trained.
    """
    asked, base = _asked(study, out)
    from bench.planning.plan import resolve
    from bench.training.alone import sample_costs
    from results.tables.alone import write_alone
    from results.tables.files import make_writable

    run = _folder(out, asked.name)
    with _driven(run, _unheard) as place:
        made = resolve(asked, base, place.folder, lanes=None)
        make_writable(place.folder)
        _begin(made.study.threads)
        with counting("measuring") as told, undisturbed():
            rows = sample_costs(
                made.trials, made.data, made.base, device=made.study.device, told=told
            )
        file = write_alone(place.folder, rows)
    return f"{address_of(run)}/{file.name}" if is_address(run) else file


def run(
    study: str | Path,
    out: str | Path | None = None,
    *,
    ray: str | None = None,
    lanes: int | None = None,
    gpus_per_trial: int = 1,
    race: bool = False,
    until_decided: bool = False,
    doubled: bool = False,
    trial: str | None = None,
    hung_minutes: float | None = None,
    changed: Callable[["Progress"], None] = _unheard,
    say: Callable[[str], None] = _unsaid,
) -> Ended:
    """Run a study, or resume it: finished trials are not run again. Then write its report.

    - `study`: a study file or the name of a ready study; `out`: the run folder (None: runs/NAME).
    - `ray`: None runs trials in child processes; "local" starts Ray on this machine, "auto" or
      host:port joins a running cluster. With Ray, each trial has `gpus_per_trial` GPUs or CPU
      workers.
    - `lanes`: trials at once; None: as many as there is room for. Without Ray that is as many as
      cores and memory hold, on a GPU several if the steps of one leave it idle; with Ray one for
      each GPU.
    - `race`, here or in the study: drop combinations that cannot be the best after the first seed
      (at the study's level, else 0.01).
    - `until_decided`, here or in the study: add as many repeats again while that can decide what is
      undecided, for at most three looks, which share alpha.
    - `doubled`: also train the first seed with twice the budget, in the folder `doubled` of the
      run, so that the report says whether the ranking holds.
    - `trial`: the id of the only trial to run.
    - `hung_minutes` (None: 30): end a trial that makes no step within this time.
    - `changed` is called at each step; `say` is called before the first trial with the rule by
      which the run will be judged, and with the number of trials at once.

    Returns the run as it ended; a trial that failed is counted in it. Raises StudyError if the
    study, its data, its pretrained weights or the machines cannot be used, or if another process is
    running it; RunError if the run folder is damaged; LanesLost, an OSError, if no lane is left;
    OSError if results cannot be written; and KeyboardInterrupt. Finished trials are on disk in each
    case, and the same call resumes from there.
    """
    from bench.core.references import StudyError

    check_lanes(ray, lanes, gpus_per_trial)
    asked, base = _asked(study, out)
    if asked.tuning:
        raise StudyError("tuning: this study is tuned: use `medopt tune` or api.tune().")
    from bench.execution.phases.race import first_round, raced
    from bench.execution.phases.until_decided import continued
    from bench.execution.phases.until_decided import until_decided as looking
    from bench.execution.watching import watched
    from bench.planning.plan import save
    from bench.study.schema import with_race, with_twice_the_budget, with_until_decided
    from results.report.sections.budgets import DOUBLED
    from results.report.write import write_report

    if race:
        asked = with_race(asked)
    where = _Where(ray=ray, lanes=lanes, gpus=gpus_per_trial, hung_minutes=hung_minutes)
    if asked.speed:
        say(_MEASURES_SPEED)
    with _driven(_folder(out, asked.name), changed) as place:
        if until_decided or asked.until_decided:
            asked = continued(with_until_decided(asked), place.folder)
        made, where = where.resolved(asked, base, place.folder)
        if trial is not None:
            made = made.only(trial)
        elif left_over := _of_an_earlier_study(made):
            say(left_over)

        def trained(plan: "Plan") -> "Progress":
            # A first look may have only one seed of one repeat: then nothing comes after a drop.
            alone = plan.study.until_decided and len(first_round(plan).trials) == len(plan.trials)
            if plan.study.race is None or trial is not None or alone:
                return where.trained(plan, told)
            return raced(plan, where.trained, told)

        def grown(repeats: int) -> "Plan":
            study = asked.model_copy(update={"repeats": repeats})
            more, _ = where.resolved(study, base, place.folder)
            save(more)
            return more

        seen = watched(place.folder, made.study.name, place.changed)
        with _saved(made, say, where.why), seen as told:
            if made.study.until_decided and trial is None:
                progress = looking(made, trained, grown, say)
            else:
                progress = trained(made)
        if doubled and trial is None:
            below = _of_same_folds(place.folder, DOUBLED)
            more, _ = where.resolved(with_twice_the_budget(asked, made.study), base, below)
            seen = watched(below, more.study.name, place.changed)
            with _saved(more, say), seen as told:
                progress = where.trained(more, told)
            write_report(below)
        write_report(place.folder)
    return Ended(folder=place.folder, page=place.page, progress=progress)


def status(run: str | Path) -> "Status":
    """Return a run's progress from its folder alone, also on another machine or after the run.

    `run` is the run folder, or its address. Returns the numbers of trials that are done (by status)
    and left; the running ones, where, and how long ago they made a step; why trials failed; whether
    the process that runs the study is alive; and the speed. `Status.as_json` gives plain values.
    Nothing is written there. Raises RunError if the folder holds no run, or if its tables cannot be
    read.
    """
    from results.status import status as read_status

    found = read_status(_read_folder(run, "run"))
    return replace(found, run=address_of(run)) if is_address(run) else found


def tune(
    study: str | Path,
    out: str | Path | None = None,
    *,
    points: int | None = None,
    search: str | None = None,
    defaults: bool = False,
    ray: str | None = None,
    lanes: int | None = None,
    gpus_per_trial: int = 1,
    hung_minutes: float | None = None,
    changed: Callable[["Progress"], None] = _unheard,
    say: Callable[[str], None] = _unsaid,
) -> Ended:
    """Tune each combination of a study in each fold, run the tuned study, and write its report.

    `points` settings are tried for each combination (None: as the study's `tuning` says, else 5):
    its untuned settings, and draws from its optimizer's own space, new ones in each fold. Inner
    validation chooses on the first seed; the chosen settings are trained on all seeds, and only
    they are scored on the test fold. `defaults` also trains the study untuned, in the folder
    `defaults` of the run, so that the report shows the two rankings side by side. `out` is the run
    folder (None: runs/NAME-tuned).

    `search` None is that of the study's `tuning`, else "sobol": the draws above. "optuna", "asha"
    or "bohb" looks for settings by Ray Tune instead, in the same spaces: then nothing is trained on
    all seeds, and there is no verdict.

    Everything else, also what is raised, is as in `run`: the same call resumes a stopped search.
    """
    from bench.core.references import StudyError

    # Ray Tune brings Ray, and says itself that it takes one device per point.
    by_tune = search not in (None, "sobol")
    check_lanes("local" if by_tune else ray, lanes, gpus_per_trial)
    asked, base = _asked(study, out)
    from bench.execution.phases.tuning import DEFAULTS, tuned
    from bench.execution.watching import watched
    from bench.planning.plan import save
    from bench.study.schema import search_of, with_speeds, with_tuning
    from results.report.write import write_report

    asked = with_tuning(asked, points, search)
    if search_of(asked) != "sobol":
        if defaults or gpus_per_trial > 1:
            raise StudyError(
                "a search by Ray Tune tries each point on one device and gives no verdict: leave "
                "out `defaults` and several GPUs per trial."
            )
        return _searched(asked, base, out, ray=ray, lanes=lanes, told=changed, say=say)
    where = _Where(ray=ray, lanes=lanes, gpus=gpus_per_trial, hung_minutes=hung_minutes)
    if asked.speed:
        say(_MEASURES_SPEED)
    with _driven(_folder(out, f"{asked.name}-tuned"), changed) as place:
        folder = place.folder
        made, where = where.resolved(asked, base, folder)
        with _saved(made, say, where.why):
            untuned = None
            if defaults:
                below = _of_same_folds(folder, DEFAULTS)
                same = {key: getattr(made.study, key) for key in ("device", "threads", "loader")}
                plain = with_speeds(asked, made.study).model_copy(update={**same, "tuning": None})
                untuned, _ = where.resolved(plain, base, below)
                save(untuned)
            with watched(folder, made.study.name, place.changed) as told:
                progress = tuned(made, untuned, where.trained, told)
        if defaults:
            write_report(folder / DEFAULTS)
        write_report(folder)
    return Ended(folder=folder, page=place.page, progress=progress)


def _searched(
    asked: "Study",
    base: Path,
    out: str | Path | None,
    *,
    ray: str | None,
    lanes: int | None,
    told: Callable[["Progress"], None],
    say: Callable[[str], None],
) -> Ended:
    """Search by Ray Tune, which starts Ray on this machine if no cluster is named."""
    from bench.execution.phases.ray_tune import search_by_tune
    from bench.execution.watching import watched
    from bench.study.schema import search_of
    from results.report.write import write_report

    where = _Where(ray=ray or "local", lanes=lanes, gpus=1, hung_minutes=None)
    with _driven(_folder(out, f"{asked.name}-{search_of(asked)}"), told) as place:
        made, where = where.resolved(asked, base, place.folder)
        lanes = where.lanes or 1
        seen = watched(place.folder, made.study.name, place.changed)
        with _saved(made, say), seen as changed:
            progress = search_by_tune(made, address=where.address, lanes=lanes, changed=changed)
        write_report(place.folder)
    return Ended(folder=place.folder, page=place.page, progress=progress)


def _of_same_folds(run: Path, name: str) -> Path:
    """Return the folder of a run inside another run, with a copy of its folds."""
    from bench.study.pretrained import FOLDS
    from results.tables.files import replace_file

    below = run / name
    below.mkdir(exist_ok=True)
    replace_file(below / FOLDS, (run / FOLDS).read_bytes())
    return below


@dataclass(frozen=True, kw_only=True)
class _Where:
    """Where trials run: in child processes, or on Ray lanes.

    `why` explains the number of trials at once, if it was chosen here.
    """

    ray: str | None
    lanes: int | None
    gpus: int
    hung_minutes: float | None
    why: str = ""
    # On a cluster, whose machines come and go: the most lanes; None: as many as it holds.
    most: int | None = None

    def resolved(self, asked: "Study", base: Path, folder: Path) -> tuple["Plan", "_Where"]:
        """Return the plan of a study for this place, and the place with its lanes counted."""
        from bench.execution.ray.capacity import capacity
        from bench.planning.plan import resolve

        if self.ray is None:
            made = resolve(asked, base, folder, lanes=self.lanes)
            if self.lanes is None:
                here = _room(made)
                return made, replace(self, lanes=here.lanes, why=here.why)
            return made, self
        space = capacity(asked, address=self.address, lanes=self.lanes, gpus_per_trial=self.gpus)
        made = resolve(
            asked,
            base,
            folder,
            lanes=space.workers_a_machine,
            cores=None if self.address is None else space.cores,
            cuda=space.cuda,
            devices=self.gpus,
        )
        return made, replace(self, lanes=space.lanes, most=self.lanes)

    @property
    def address(self) -> str | None:
        """The cluster to join, None to start Ray on this machine."""
        return None if self.ray == "local" else self.ray

    def trained(self, made: "Plan", changed: Callable[["Progress"], None]) -> "Progress":
        """Run every trial of a plan that has no result yet."""
        from bench.execution.local import run_here
        from bench.execution.ray.lanes import run_lanes
        from bench.execution.trial_queue import HUNG_MINUTES, opened

        hung = HUNG_MINUTES if self.hung_minutes is None else self.hung_minutes
        assert self.lanes is not None, "counted by `resolved`"
        if self.ray is None:
            with opened(made, shared_device=self.lanes > 1) as queue:
                run_here(made, queue, changed, lanes=self.lanes, hung_minutes=hung)
                return queue.progress()
        return run_lanes(
            made,
            address=self.address,
            lanes=self.lanes if self.address is None else self.most,
            gpus_per_trial=self.gpus,
            changed=changed,
            hung_minutes=hung,
        )


def _room(made: "Plan") -> "Room":
    """Return how many trials of a plan should run at once without Ray."""
    from bench.training.room import room
    from loaders.cores import usable_cores

    return room(
        made.trials,
        made.data,
        made.base,
        device=made.study.device,
        cores=usable_cores(),
        threads=made.study.threads or 1,
    )


def _of_an_earlier_study(made: "Plan") -> str:
    """Return a warning if a run has trials that its study no longer asks for, or "".

    Axes of a run only grow, so the verdict counts them.
    """
    from results.tables.schema import ENDED_STATUSES
    from results.tables.store import finished
    from results.text import count

    asked = {trial.trial_id for trial in made.trials}
    trained = {i for i, status in finished(made.folder).items() if status in ENDED_STATUSES}
    more = len(trained - asked)
    if not more:
        return ""
    return (
        f"{count(more, 'finished trial')} from an earlier, longer study "
        f"{'is' if more == 1 else 'are'} in this run: the verdict counts "
        f"{'it' if more == 1 else 'them'} too."
    )


@contextmanager
def _saved(made: "Plan", say: Callable[[str], None], why: str = "") -> Iterator[None]:
    """Save what a run will do, and send its messages to its log during the block.

    `say` is called with the rule by which it will be judged, and with `why` so many trials run at
    once.
    """
    from bench.planning.plan import save
    from bench.planning.preflight import fits
    from results.tables.rule import in_words, read_rule

    fitting = list(fits(made))  # before anything runs: what does not fit would fail every trial
    save(made)
    if rule := read_rule(made.folder, {}):
        say(in_words(rule, {trial.task for trial in made.trials}))
    if why:
        say(f"{why}.")
    found = made.found.lines() if made.found else []
    for line in found:
        say(f"{line}.")
    with _logging(made.folder / "log.txt"):
        for line in (*found, *([why] if why else [])):
            logging.getLogger("medopt.run").info(line)
        for line in fitting:
            logging.getLogger("medopt.transfer").info(line)
        for data in made.sets:
            for warning in (*data.notes, *data.store.warnings):
                logging.getLogger("medopt.data").warning("%s: %s", data.name, warning)
        yield


def _asked(study: str | Path, out: str | Path | None) -> tuple["Study", Path]:
    """Return a study and the folder that its paths are relative to.

    Raises StudyError, before torch is imported, if the study, its stores or `out` are impossible.
    """
    find_study(Path(study))
    if out is not None:
        address_of(out) if is_address(out) else local_path(out, "out")
    from bench.study.dataset import check_there
    from bench.study.schema import load_study

    asked, base = load_study(Path(study))
    for entry in asked.data:
        for store in filter(None, (entry.store, entry.test)):
            check_there(store, base)
    return asked, base


def _folder(out: str | Path | None, name: str) -> str | Path:
    """Return a run folder, absolute since a user's code may change folders, or its address."""
    if out is not None and is_address(out):
        return out
    return (Path("runs") / name if out is None else local_path(out, "out")).absolute()


def _read_folder(run: str | Path, what: str) -> Path:
    """Return where a run can be read: its folder, or for an address its copy."""
    from bench.storage.run_copy import readable

    return readable(run) if is_address(run) else local_path(run, what)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a run is written: its folder here, the place of its page, and the progress callback."""

    folder: Path
    page: Path | str
    changed: Callable[["Progress"], None]


@contextmanager
def _driven(run: str | Path, changed: Callable[["Progress"], None]) -> Iterator[_Place]:
    """Yield the place of a run that this process writes: its folder, or for an address its copy."""
    from bench.storage.run_keeper import driven

    if not is_address(run):
        folder = Path(run)
        yield _Place(folder=folder, page=folder / "report.html", changed=changed)
        return
    with driven(run) as kept:

        def checked(now: "Progress") -> None:
            kept.check()
            changed(now)

        page = f"{kept.address}/report.html"
        yield _Place(folder=kept.folder, page=page, changed=checked)


def _begin(threads: int | None) -> None:
    """Set this process up for its first study; raise StudyError if a later one differs in threads.

    The command trains once per process, a notebook may do so more often, and threads can be set
    only once.
    """
    from bench.core.references import StudyError
    from bench.core.startup import begin

    if not _begun:
        begin(threads)
        _begun.append(threads)
    elif _begun != [threads]:
        raise StudyError(
            f"threads: this Python process trains with {_begun[0]}, but the study needs {threads}. "
            f"A second change makes every step many times slower: restart Python (the notebook's "
            f"kernel), write `threads: {_begun[0]}` in the study, or run it with Ray."
        )


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    """Send the run's messages to `log.txt` beside its results, and nowhere else."""
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
