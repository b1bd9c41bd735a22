"""The command line: arguments, output and exit status; bench.api does the work.

Exit status 0: done. 1: some trials failed, or the machine did (a full disk). 2: bad usage, or no
usable input. 130: interrupted; the run can be resumed. 141: the reader of the output has gone
(`| head`).
"""

import errno
import io
import json
import os
import re
import select
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.catalogue import TABLES

if TYPE_CHECKING:
    from bench.api import Ended
    from bench.planning.speed.choice import Row
    from loaders.store.dry_run import Counted

app = typer.Typer(
    name="medopt",
    help="Which optimizer and which loss should train my medical-image model, on my data and my "
    "GPUs?\n\nStart with `medopt demo`. For your own data: `medopt prepare`, write a study of a "
    "few lines, `medopt plan`, `medopt run`. To resume a run that was stopped, repeat its command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class _Printed(Console):
    """A console that leaves a broken pipe to `main`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


# Names of files and of a study's entries are printed as Text: in a str, rich would take brackets
# and colons for markup.
out = _Printed(highlight=False)
err = _Printed(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]
Lanes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Trials at once: processes on this machine, or worker groups with --ray. Default: as "
        "many as there is room for.",
    ),
]
GpusPerTrial = Annotated[
    int, typer.Option("--gpus-per-trial", min=1, help="GPUs (or CPU workers) that share a trial.")
]
Points = Annotated[
    int | None,
    typer.Option(
        metavar="P",
        min=2,
        help="Number of settings tried for each combination in each fold, at least 2. Default: 5.",
    ),
]
Hung = Annotated[
    float,
    typer.Option(
        metavar="MINUTES",
        min=0.1,
        help="End a trial that finishes no step (no batch, no case) within this time. A trial that "
        "hangs twice is recorded as failed, and the others go on.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Run on Ray lanes. Without an address it starts Ray on this machine, for this run "
        "only; `auto` or host:port joins a running cluster.",
    ),
]


class Failed(Exception):  # noqa: N818  # an exit status, not an error of its own
    """Ends the command with an exit status, once everything has been printed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(Text(f"medoptbench {version('medoptbench')}"))
        raise typer.Exit


@app.callback()
def _command(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    del version


@app.command()
def demo(
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder for scans, stores and results.")
    ] = (Path("demo")),
    ray: Ray = None,
    lanes: Lanes = None,
) -> None:
    """Run the whole benchmark in miniature, on data that it makes.

    Makes chest-CT and brain-MRI phantoms in their true formats (DICOM with radiologists' XML reads;
    NIfTI), prepares them like real scans, runs three optimizers x two losses x five folds on each,
    and ends with a verdict and report.html. Runs one trial on each core at once; two cores take one
    to four minutes.
    """
    from bench import api
    from bench.core.references import local_path
    from bench.demo import make_demo

    api.check_lanes(ray, lanes)
    local_path(out_dir, "out")
    study = make_demo(out_dir, lambda line: err.print(Text(line)))
    _run_study(study, out_dir / "runs" / "demo", ray=ray, lanes=lanes, gpus_per_trial=1)


@app.command()
def prepare(
    kind: Annotated[
        str,
        typer.Argument(
            help="The kind of source; `medopt list data` shows all. Given a folder instead, the "
            "command says which kind it looks like and what is missing."
        ),
    ],
    store: Annotated[Path | None, typer.Option("--out", help="The store to make.")] = None,
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Folder or file as it was downloaded. If left out, the official file is fetched "
            "where it is free (medmnist:NAME)."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A reader's setting; may be repeated."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad case.")] = False,
    conflicts: Annotated[
        str,
        typer.Option(
            help="If the same image has several answers: `keep` its cases in one group and warn, "
            "or `reject` them all."
        ),
    ] = "keep",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Reader processes. Default: one per usable core.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and count everything; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn downloaded scans into a store: each is read once and checked, and its ids are hashed.

    `medopt prepare brats /data/BraTS2023 --out stores/brats`. A case that cannot be used is listed
    in rejected.parquet with the reason, and the others go on. To resume a preparation that was
    stopped, repeat its command.
    """
    from bench import api
    from bench.display import counting
    from loaders.cases import BadCase, BadSource

    options = _settings(set_ or [])
    if source is None and _is_source(kind):
        _show_what_it_seems(Path(kind), as_json=as_json)
        return
    _check_kind(kind, source)
    if dry_run:
        if source is None:
            raise BadSource("--dry-run needs SOURCE, the folder or file as it was downloaded.")
        _show_counted(
            api.count(kind, source, options=options, counting=partial(counting, err)),
            as_json=as_json,
        )
        return
    if store is None:
        raise BadSource("--out is missing: the folder of the store to make (or --dry-run).")
    try:
        report = api.prepare(
            kind,
            source,
            out=store,
            options=options,
            strict=strict,
            conflicts=conflicts,  # type: ignore[arg-type]  # checked there, with the choices
            workers=workers,
            counting=partial(counting, err),
        )
    except BadCase as error:
        raise BadSource(f"{error.where}: {error.reason} (--strict stops here)") from error
    for bad in report.rejected:
        err.print(Text.assemble(("rejected", "yellow"), f" {bad.where}: {bad.reason}"))
    for warning in report.warnings:
        err.print(Text.assemble(("warning", "yellow"), f" {warning}"))
    if as_json:
        out.print_json(
            data={
                "store": str(store),
                "cases": report.n_cases,
                "rejected": len(report.rejected),
                "warnings": list(report.warnings),
            }
        )
    else:
        state = "is up to date" if report.reused else "is ready"
        cases = "1 case" if report.n_cases == 1 else f"{report.n_cases} cases"
        out.print(Text(f"{store} {state}: {cases}, {len(report.rejected)} rejected"))


def _settings(given: list[str]) -> dict[str, str]:
    """Return what each --set says; raises BadSource."""
    from loaders.cases import BadSource

    options: dict[str, str] = {}
    for setting in given:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadSource(f"--set {setting!r}: write NAME=VALUE.")
        if key in options:
            raise BadSource(f"--set {key} is given twice: {options[key]!r} and {value!r}.")
        options[key] = value
    return options


def _is_source(kind: str) -> bool:
    """Return whether the argument KIND names a folder or file to look at, and no kind."""
    from loaders.datasets.table import KINDS

    return kind.partition(":")[0] not in KINDS and Path(kind).exists()


def _check_kind(kind: str, source: Path | None) -> None:
    """Raise BadSource for an unknown kind, before anything is said of its source or --out."""
    from bench import api
    from loaders.cases import BadSource

    try:
        api.check_kind(kind)
    except BadSource as error:
        if source is not None:
            raise
        raise BadSource(f"there is no folder, file or kind called {kind!r}: {error}") from None


def _show_what_it_seems(source: Path, *, as_json: bool) -> None:
    from bench import api

    found = api.recognize(source)
    if as_json:
        out.print_json(data=[asdict(seems) for seems in found])
        return
    if not found:
        out.print(
            Text(
                f"{source} looks like no known kind. `medopt list data` shows the kinds; use "
                "`pairs` for images with masks, `images` for pictures with a table or in class "
                "folders."
            )
        )
    for seems in found:
        words = ["medopt", "prepare", seems.kind, str(source)]
        for name, value in seems.options.items():
            words += ["--set", f"{name}={value}"]
        fits = "may be" if seems.missing else "seems to be"
        out.print(Text(f"{source} {fits} {seems.kind}: {seems.why}."))
        if seems.missing:
            out.print(Text(f"  What is missing: {seems.missing}"))
        else:
            fit = "case fits" if seems.cases == 1 else "cases fit"
            do = "does" if seems.rejected == 1 else "do"
            out.print(Text(f"  {seems.cases} {fit}, {seems.rejected} {do} not."))
            if not seems.grouped:
                out.print(
                    Text(
                        "  Their patients are not known, so each case is its own group"
                        f"{_how_told(seems.kind)}."
                    )
                )
        out.print(Text(f"  {shlex.join([*words, '--out', 'STORE'])}"))


def _how_told(kind: str) -> str:
    """Return the end of a sentence: which settings tell a reader the patient of each case."""
    from loaders.datasets.table import KINDS

    options = KINDS[kind].options
    # A kind that reads a table takes the patient from a column, the others from a name's pattern.
    tabled = "csv" in options
    ways = {
        "group": "csv=TABLE --set group=COLUMN" if tabled else "'group=(p[0-9]+)' of a case's name",
        "group_pattern": "'group_pattern=(p[0-9]+)' of paths",
    }
    known = [way for name, way in ways.items() if name in options]
    return (
        f": --set {' or --set '.join(known)} says which patient each case is from" if known else ""
    )


def _show_counted(counted: "Counted", *, as_json: bool) -> None:
    """Print what a store would hold, and on stderr what it would not."""
    for bad in counted.rejected:
        err.print(Text.assemble(("rejected", "yellow"), f" {bad.where}: {bad.reason}"))
    known = {name: value for name, value in vars(counted).items() if name != "rejected"}
    known["rejected"] = len(counted.rejected)
    if as_json:
        out.print_json(data=known)
        return
    lines = {
        "cases": f"{counted.cases}, {len(counted.rejected)} rejected",
        "groups": f"{counted.groups}, by {counted.group_source}",
        "classes": ", ".join(f"{name} {number}" for name, number in counted.classes.items()),
        "parts": ", ".join(f"{name} {number}" for name, number in counted.parts.items()) or "none",
        "shape": " x ".join(f"{low:g} to {high:g}" for low, _, high in counted.shape),
        "spacing": " x ".join(
            f"{mm[0]:g} to {mm[2]:g}" if mm else "unknown" for mm in counted.spacing
        ),
    }
    for name, text in lines.items():
        out.print(Text(f"{name:8} {text}"))


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="A store.")]) -> None:
    """Check every array of a store against its checksum.

    Reads the whole store. If anything has changed since `medopt prepare` wrote it (a bad disk, a
    bad copy), prints the arrays that differ and exits with 1: prepare the store again.
    """
    from bench.storage.store_copy import store_here
    from loaders.store.read import Store, verify_store

    store = store_here(store)
    Store(store)  # a folder that is not a store is bad usage, not a damaged array
    problems = verify_store(store)
    for problem in problems:
        err.print(Text(problem, "red"))
    if problems:
        raise Failed(1)
    out.print(Text(f"{store}: every array is as it was written"))


@app.command()
def show(
    store: Annotated[Path, typer.Argument(help="A store.")],
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PAGE.html",
            help="The page to write; the picture is PAGE.png beside it. Default: the store's name, "
            "in this folder.",
        ),
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="How many cases to show.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other cases.")] = 0,
) -> None:
    """Look at a store before training: write a page of its cases, and a PNG of them.

    Shows cases with their outlines or answers (of a volume one plane across each axis, of a loop
    four frames), drawn so that every class is included; counts by class, official part and group;
    sizes, spacings and intensities; what was rejected and why. The page is one file and needs no
    network. It holds images of patients, so share it as you would share those; ids are hashed, and
    it names no files.
    """
    from bench import api
    from bench.display import counting

    page, picture = api.show(
        store, out_file, cases=cases, seed=seed, counting=partial(counting, err)
    )
    out.print(Text(f"{_shown(page)}"))
    out.print(Text(f"{_shown(picture)}"))


@app.command()
def plan(
    study: Annotated[Path, typer.Argument(help="A study file, or the name of a ready study.")],
    out_dir: Annotated[Path | None, typer.Option("--out", help="The future run folder.")] = None,
    lanes: Lanes = None,
    points: Points = None,
    pilot: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="A run on the same data, of at least two folds: also say how large a lead the "
            "study could find.",
        ),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Simulate the run on this many GPUs.")
    ] = None,
    gpu_kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="Their kind, as NVIDIA names it.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="The price of one of these GPUs an hour.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run would do: its trials, what is skipped and why, and the time it takes.

    With --points, says what `medopt tune` would do.

    The time is measured: each model does some of its work on each data set here, in rounds, as many
    side by side as in the run. The range shows how much the rounds differ. With --gpus the run is
    simulated on GPUs: how long it takes, what it costs, how long GPUs are idle, and what another
    order of trials and a race could save.
    """
    from bench import api
    from bench.display import counting

    if gpus is None and (gpu_kind or price is not None):
        raise typer.BadParameter("--gpu-kind and --price describe the GPUs of --gpus: give it too.")

    planned = api.plan(
        study, out_dir, lanes=lanes, points=points, pilot=pilot, counting=partial(counting, err)
    )
    # Only after the study was checked: these import torch, which takes seconds.
    import torch

    from bench.core.environment import device_name
    from bench.planning.plan import ends_early
    from bench.planning.preflight import fits
    from bench.planning.schedule.foretold import foretold
    from bench.study.trial import skip_columns
    from results.text import count, duration, percent

    made = planned.plan
    schedule = None
    if gpus is not None:
        schedule = foretold(
            made.trials,
            planned.trial_seconds,
            gpus=gpus,
            kind=gpu_kind,
            price=price,
            points=planned.points,
            measured=device_name(torch.device(made.study.device)),
            on_cpu=made.study.device == "cpu",
        )
    if as_json:
        out.print_json(
            data={
                "run": _shown(made.folder),
                "trials": [
                    {"trial_id": t.trial_id, **t.combination, "fold": t.fold, "seed": t.seed}
                    for t in made.trials
                ],
                "seconds": planned.seconds,
                "seconds_low": planned.low,
                "seconds_high": planned.high,
                "eval_sec": planned.eval_sec,
                "lanes": planned.lanes,
                "room": planned.room,
                "schedule": schedule.columns() if schedule else None,
                "speed": [row.columns() for row in made.found.rows] if made.found else None,
                "points": planned.points,
                "gradient_norms": [
                    {"dataset": s.dataset, "model": s.model, "norms": s.norms}
                    for s in planned.scales
                ],
                "foreseen": [asdict(each) for each in planned.foreseen],
                "skips": [skip_columns(s) for s in made.skips],
                "study": made.study.model_dump(mode="json"),
            }
        )
        return
    title = Text(f"{made.study.name}: {len(made.trials)} trials")
    if planned.points:
        title.append(f", {planned.points} of them search points")
    table = Table(title=title, title_justify="left")
    for column in (
        "data",
        "cases",
        "patients or groups",
        "trials",
        "epochs",
        "looks",
        "batch",
        "patch",
    ):
        table.add_column(column)
    for data in made.sets:
        own = [t for t in made.trials if t.dataset == data.name]
        if own:
            table.add_row(
                Text(data.name),
                str(len(data.store)),
                Text(f"{len(set(data.store.groups))} ({data.store.meta.group_source})"),
                str(len(own)),
                str(own[0].epochs),
                str(own[0].looks or own[0].epochs),
                str(own[0].batch_size),
                "x".join(map(str, own[0].patch)),
            )
    out.print(table)
    for data in made.sets:
        for warning in (*data.notes, *data.store.warnings):
            out.print(Text.assemble(("warning", "yellow"), f" {data.name}: {warning}"))
    for line in (*ends_early(made), *map(str, planned.scales), *fits(made)):
        out.print(Text(line))
    if made.found:
        out.print(_speeds(made.found.rows))
    skipped = {(s.combination["dataset"], s.combination["model"], s.reason) for s in made.skips}
    for dataset, _, reason in sorted(skipped):
        out.print(Text(f"skipped on {dataset}: {reason}"))
    threads = made.study.threads
    assert threads is not None, "a plan has fixed its threads"
    out.print(
        f"about {duration(planned.seconds, clock=True)} from the command to the report "
        f"({duration(planned.low, clock=True)} to {duration(planned.high, clock=True)}), "
        f"{percent(round(planned.eval_sec / sum(planned.trial_seconds), 2))} of it evaluation, "
        f"on {count(planned.lanes, 'lane')} with "
        f"{count(threads, 'thread')} each on {made.study.device}"
    )
    if planned.room:
        out.print(Text(planned.room))
    for line in (*(schedule.lines() if schedule else ()), *map(str, planned.foreseen)):
        out.print(Text(line))


def _speeds(rows: "Sequence[Row]") -> Table:
    """Return the table of what `speed: auto` measured."""
    table = Table(
        title="speed: times faster than the plain settings, median and range of the rounds",
        title_justify="left",
    )
    for column in ("data", "model", "setting", "value"):
        table.add_column(column)
    table.add_column("times faster", min_width=len("1.00 (1.00 to 1.00)"))
    table.add_column("taken")
    for row in rows:
        parts = (row.dataset, row.model, row.factor, row.value, row.said())
        table.add_row(*map(Text, parts), "yes" if row.taken else "")
    return table


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="A study file, or the name of a ready study.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The run folder. Default: runs/NAME.")
    ] = None,
    ray: Ray = None,
    lanes: Lanes = None,
    gpus_per_trial: GpusPerTrial = 1,
    race: Annotated[
        bool,
        typer.Option(
            "--race",
            help="After the first seed of all folds, drop combinations that cannot be the best; "
            "train the other seeds and repeats of the rest only.",
        ),
    ] = False,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided",
            help="While the verdict is undecided and more repeats can decide it, add as many "
            "repeats again; three looks at most.",
        ),
    ] = False,
    doubled: Annotated[
        bool,
        typer.Option(
            "--doubled",
            help="Also train the first seed with twice the budget, so that the report says whether "
            "the ranking holds.",
        ),
    ] = False,
    trial: Annotated[str | None, typer.Option(help="Run this one trial, by its id.")] = None,
    hung_after: Hung = 30.0,
) -> None:
    """Run a study, or resume it: finished trials are not run again.

    `medopt run tumours.yaml`. Without --ray, trials run side by side in processes of this machine,
    one per core if memory allows (--lanes 1: one after the other on all cores, so that seconds can
    be compared); with --ray, they run on its lanes. Ends with the verdict and report.html.

    A race saves a third of the training or more where some combinations are clearly behind. Its
    drop takes 0.01 of the study's alpha (or the level that `race: LEVEL` in the study sets), and
    the verdict has the rest. A raced run stays raced when it is resumed.

    Give --until-decided before the first trial: its looks share alpha, and a run that was begun
    without it has kept all of alpha for one verdict.
    """
    _run_study(
        study,
        out_dir,
        ray=ray,
        lanes=lanes,
        gpus_per_trial=gpus_per_trial,
        race=race,
        until_decided=until_decided,
        doubled=doubled,
        trial=trial,
        hung_minutes=hung_after,
    )


@app.command()
def tune(
    study: Annotated[Path, typer.Argument(help="A study file, or the name of a ready study.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The run folder. Default: runs/NAME-tuned.")
    ] = None,
    points: Points = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="sobol (the default: equal points for all, with a verdict), or a search by Ray "
            "Tune, without a verdict: optuna (its TPE sampler), asha (the draws, stopped early at "
            "rungs of sample-gradients) or bohb (asha, settings by BOHB's model: for ten points or "
            "more).",
        ),
    ] = None,
    defaults: Annotated[
        bool,
        typer.Option(
            "--defaults",
            help="Also run the study untuned, so that the report has both rankings side by side.",
        ),
    ] = False,
    ray: Ray = None,
    lanes: Lanes = None,
    gpus_per_trial: GpusPerTrial = 1,
    hung_after: Hung = 30.0,
) -> None:
    """Tune every optimizer on an equal budget, fold by fold, and run the tuned study.

    Each combination tries the same number of points in each fold: first its untuned settings, then
    draws from its optimizer's own space, new ones in each fold. Inner validation chooses the best
    point, on the first seed. This point is trained on all seeds, and it alone is scored on the test
    fold. What the study sets by hand or by a regularizer is not searched. An optimizer with nothing
    left to search runs untuned, and the verdict says so.

    The chosen point is trained on the first seed again, for the test fold: P + S trainings for P
    points and S seeds. `medopt plan STUDY --points P` says how long that takes. To resume a search
    that was stopped, repeat its command. With fewer than 5 points the verdict holds for these
    configurations only.
    """
    from bench import api

    _show_run(
        partial(
            api.tune,
            study,
            out_dir,
            points=points,
            search=search,
            defaults=defaults,
            lanes=lanes,
            gpus_per_trial=gpus_per_trial,
            hung_minutes=hung_after,
        ),
        ray,
    )


@app.command()
def status(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: Json = False,
) -> None:
    """Say how far a run is, from any machine that sees its folder, while it runs or later.

    Shows the trials that are done (by status), running (with epoch and time since the last step)
    and left, why trials failed, and the time to go. It also says whether the process that runs the
    study is alive: if it is gone, `medopt run` resumes the run. Reads the folder and changes
    nothing in it; `watch medopt status RUN` repeats it every two seconds. Exit status 2 if the
    folder holds no run.
    """
    from bench import api
    from results.status import in_words

    found = api.status(run)
    if as_json:
        out.print_json(data=found.as_json())
        return
    for line in in_words(found):
        out.print(Text(line))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="The folder to write to, for one run. Default: the run's own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write report.html and verdict.json of finished or unfinished runs, and print the verdict.

    With --json one run gives an object, several runs give a list in their order. Exit status 1 if a
    finished trial has lost some of its files (it is then not counted), or if nothing can be
    written; the verdict is printed all the same.
    """
    from bench.core.references import StudyError
    from bench.storage.run_copy import put_report, readable
    from results.report.write import made_report

    if out_dir is not None and len(runs) > 1:
        raise StudyError("--out takes the report of one run: give one run at a time.")
    folders = [readable(run) for run in runs]
    made = [made_report(folder) for folder in folders]
    pages: list[Path | str | None] = []
    unwritten: list[OSError] = []
    for run, folder, each in zip(runs, folders, made, strict=True):
        try:
            written = each.write(out_dir or folder).page
            pages.append(written if out_dir else put_report(run, folder))
        except OSError as error:
            pages.append(None)
            unwritten.append(error)
    if as_json:
        verdicts = [each.verdict for each in made]
        out.print_json(data=verdicts if len(verdicts) > 1 else verdicts[0])
    else:
        for each, page in zip(made, pages, strict=True):
            _show_verdict(each.verdict, page)
    for run, each in zip(runs, made, strict=True):
        if each.lost:
            err.print(Text(f"{run}: {each.lost}", "red"))
    if unwritten:
        raise unwritten[0]
    if any(each.lost for each in made):
        raise Failed(1)


@app.command("export")
def export_(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out_dir: Annotated[Path, typer.Option("--out", help="The folder to write to.")],
) -> None:
    """Write the score of each test case as CSV, for your own statistics and for Claims Reloaded.

    For each data set: NAME-cases.csv, one row for each case and combination; for classes and masks
    also NAME-claims-reloaded.csv, one row for each case and one column for each judged combination,
    which claims-reloaded.dkfz.de takes as it is. That site has no format for several findings
    (multi-label) or numbers (regression), so they get no such file. README.txt beside them says
    what each number is. Seeds are averaged; ids stay keyed hashes.
    """
    from bench.storage.run_copy import readable
    from results.export.scores import export_scores

    missing: list[str] = []
    for path in export_scores(readable(run), out_dir, missing.append):
        out.print(Text(str(path)))
    for sentence in missing:
        err.print(Text(sentence))


@app.command()
def price(
    study: Annotated[Path, typer.Argument(help="A study file, or the name of a ready study.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The run folder. Default: runs/NAME.")
    ] = None,
) -> None:
    """Measure the time of a sample undisturbed, for the prices in the report.

    Trials that run side by side disturb each other's timing. This command, before the run or after
    it, trains each combination twice for two epochs, one after the other, and keeps the times in
    the run folder; `medopt report` then shows prices. Let nothing else run meanwhile. A run of one
    trial at a time (`--lanes 1`) needs none of this.
    """
    from bench import api
    from bench.display import counting

    out.print(Text(_shown(api.price(study, out_dir, counting=partial(counting, err)))))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="The run folder from before.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run folder from after.")],
    as_json: Json = False,
) -> None:
    """Say what got better, worse or slower from one run to another.

    Combinations that both runs have scored on the same cases in the same folds are compared in
    pairs, with intervals; otherwise their means are shown side by side and nothing is claimed.
    Speed is the time of a sample undisturbed, within its noise. Exit status 0 even if something got
    worse.
    """
    from bench.storage.run_copy import readable
    from results.compare import compare as compare_runs
    from results.compare import in_words

    found = compare_runs(readable(first), readable(second))
    if as_json:
        out.print_json(data=asdict(found))
        return
    for line in in_words(found):
        out.print(Text(line))


@app.command()
def recipe(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    form: Annotated[
        str, typer.Option("--as", help="The library to write for: pytorch, monai or nnunet.")
    ] = "pytorch",
    data: Annotated[str | None, typer.Option(help="The data set, if the run has several.")] = None,
    combination: Annotated[
        str | None, typer.Option(help="Another combination than the recommended one, by its name.")
    ] = None,
) -> None:
    """Write the recommended combination as Python text: optimizer, schedule, loss, step, budget.

    `medopt recipe runs/tumours --as monai > recipe.py`. Its head says what was found and how sure
    it is. Parts that PyTorch or MONAI has in the same form are written by its name; anything else
    is taken from MedOptBench.
    """
    from bench.core.references import StudyError, unknown
    from bench.storage.run_copy import readable
    from results.export.recipe import FORMS
    from results.export.recipe import recipe as write

    if form not in FORMS:
        raise StudyError(f"--as: {unknown('form', form, FORMS)}")
    typer.echo(write(readable(run), form, data=data, name=combination), nl=False)


@app.command()
def claims(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    claim: Annotated[
        list[str] | None,
        typer.Option(help="Answer only this claim, by its id; may be repeated. Default: all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test the claims of the two papers on finished runs: yes, no or undecided, with an interval.

    Every claim has a measure and a test, and a run answers the claims whose needs it meets. The
    answers of all runs named are one family of tests (Holm). For a claim without an answer, the
    command says what it needs.
    """
    from bench.core.references import StudyError
    from bench.storage.run_copy import readable
    from results.claims.answers import claims_of
    from results.claims.terminal import lines
    from results.run_folder import Recorded

    try:
        found = claims_of([Recorded(readable(run)) for run in runs], claim or ())
    except ValueError as error:
        raise StudyError(f"--claim: {error}.") from error
    if as_json:
        out.print_json(data=found)
        return
    for line in lines(found):
        out.print(line)


@app.command("list")
def list_(
    kind: Annotated[
        str,
        typer.Argument(help=f"What to list: {', '.join(TABLES)}."),
    ],
    as_json: Json = False,
) -> None:
    """Show what a study can name, with settings and sources: `medopt list optimizers`."""
    from bench.core.references import StudyError, unknown

    if kind not in TABLES:
        raise StudyError(unknown("kind", kind, TABLES))
    rows = TABLES[kind]()
    if as_json:
        out.print_json(data=rows)
        return
    # One entry below another: columns would wrap the texts to one word a line.
    for row in rows:
        out.print(Text.assemble((row["name"], "bold"), f"  {row.get('summary', '')}"))
        table = Table.grid(padding=(0, 2, 0, 0))
        for key, value in row.items():
            if key not in ("name", "summary") and value not in (None, {}, []):
                table.add_row(Text(f"    {key}", "dim"), Text(_cell(value)))
        out.print(table)
    err.print(Text(f"{len(rows)} {kind}"))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what works on this machine (GPUs, DALI, Ray, disk, versions) and how to mend the rest."""
    from bench.doctor import examine

    findings = examine()
    if as_json:
        out.print_json(data=[asdict(f) for f in findings])
    else:
        colour = {"ok": "green", "note": "yellow", "problem": "red"}
        for f in findings:
            state, what = (f"{f.state:8}", colour[f.state]), (f"{f.what:10}", "bold")
            out.print(Text.assemble(state, " ", what, f" {f.detail}"))
            if f.advice:
                out.print(Text(f"{'':20}-> {f.advice}"))
    if any(f.state == "problem" for f in findings):
        raise Failed(1)


# ---- what several commands share -------------------------------------------------------------


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return str(value)


def _run_study(
    study: Path,
    out_dir: Path | None,
    *,
    ray: str | None,
    lanes: int | None,
    gpus_per_trial: int,
    race: bool = False,
    until_decided: bool = False,
    doubled: bool = False,
    trial: str | None = None,
    hung_minutes: float | None = None,
) -> None:
    """Run a study, show its progress and its verdict; raise Failed if a trial failed."""
    from bench import api

    _show_run(
        partial(
            api.run,
            study,
            out_dir,
            lanes=lanes,
            gpus_per_trial=gpus_per_trial,
            race=race,
            until_decided=until_decided,
            doubled=doubled,
            trial=trial,
            hung_minutes=hung_minutes,
        ),
        ray,
    )


def _show_run(run: "Callable[..., Ended]", ray: str | None) -> None:
    """Call `run`, show its progress and the verdict; raise Failed if a trial failed."""
    from bench.display import RunDisplay

    with RunDisplay(err, ray=ray is not None).showing() as display:
        ended = run(ray=ray, changed=display.changed, say=lambda line: err.print(Text(line)))
    _show_ended(ended)


def _show_ended(ended: "Ended") -> None:
    """Show the verdict of a run; raise Failed if a trial failed."""
    if ended.incumbents:
        _show_incumbents(ended.incumbents)
        out.print(Text(f"report: {_shown(ended.page)}"))
    else:
        verdict = json.loads((ended.folder / "verdict.json").read_text(encoding="utf-8"))
        _show_verdict(verdict, ended.page)
    from results.text import count

    failed = ended.progress.statuses.get("failed", 0)
    if failed:
        log = _shown(ended.folder / "log.txt")
        err.print(Text(f"{count(failed, 'trial')} failed; the reasons are in {log}.", "red"))
        raise Failed(1)


def _show_incumbents(lines: Sequence[Mapping[str, Any]]) -> None:
    """Show the best settings that a search found, by inner validation."""
    from results.text import score

    table = Table(title="best so far by inner validation", title_justify="left")
    for column in ("data", "combination", "fold", "settings", "selected score", "tried", "stopped"):
        table.add_column(column)
    for line in lines:
        words = (line["dataset"], line["name"], line["fold"], line["settings"])
        numbers = score(line["score"]), str(line["tried"]), str(line["stopped"])
        table.add_row(*map(Text, (*words, *numbers)))
    out.print(table)
    out.print(
        "A search, not a verdict: it chose by these scores. `medopt tune` compares optimizers."
    )


def _show_verdict(verdict: Mapping[str, Any], page: Path | str | None) -> None:
    """Show a verdict, and where its page is if there is one."""
    from results.report.write import leaderboard

    out.print(leaderboard(verdict))
    if page is not None:
        out.print(Text(f"report: {_shown(page)}"))


def _shown(path: Path | str) -> str:
    """Return a path as people read it: relative to the working folder if it is inside it."""
    if isinstance(path, Path) and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _arguments(given: Sequence[str]) -> list[str]:
    """Give `--ray` its value `local` where it has none: the parser knows no optional values."""
    address = re.compile(r"auto|local|ray://.+|[\w.\-\[\]:]+:\d+")
    made: list[str] = []
    for k, word in enumerate(given):
        made.append(word)
        following = given[k + 1] if k + 1 < len(given) else ""
        if word == "--ray" and not address.fullmatch(following):
            made.append("local")
    return made


_GO_ON = "What was finished is on disk; repeat the command to resume."
_ELSEWHERE = "Nothing can be written there: name another place with --out."
_RIGHTS = (
    "This user may not read or write there: change the permissions, or name another place (to "
    "write to: with --out)."
)
# What to do if a file cannot be read or written, by the system's error number.
_WAY_OUT = {
    errno.ENOSPC: f"The disk is full: free some of it. {_GO_ON}",
    errno.EDQUOT: f"This user's share of the disk is full: free some of it. {_GO_ON}",
    errno.EROFS: _ELSEWHERE,
    errno.ENOTDIR: _ELSEWHERE,
    errno.ENAMETOOLONG: _ELSEWHERE,
    errno.ENOENT: "It does not exist and cannot be made: check the path, or name another one.",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
}


# The status that shells give any tool ended by a closed pipe: `medopt list losses | head -1`.
_UNREAD = 128 + 13


def main() -> None:
    """Run the command line; turn every expected error into one sentence and an exit status."""
    from bench.core.packages import check_packages
    from bench.execution.stopping import INTERRUPTED, STOPPING, last_words

    STOPPING.listen(at_once=True)
    check_packages()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding cannot show must not end the command.
            stream.reconfigure(errors="backslashreplace")
    STOPPING.listen(at_once=False)
    try:
        status = app(_arguments(sys.argv[1:]), standalone_mode=False)
    except Failed as failed:
        status = failed.status
    except typer.Exit as done:
        status = done.exit_code
    except _explained() as error:
        _show_error(str(error))
        status = 2
    except OSError as error:
        _show_error(f"{error}\n{_WAY_OUT.get(error.errno or 0, _GO_ON)}")
        status = 1
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except SystemExit as end:  # the parser makes one of every broken pipe, not only of stdout's
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        status = _UNREAD
        if not _is_unread():
            _show_error(f"{end.__context__}\n{_GO_ON}")
            status = 1
    except Exception as error:
        usage = getattr(error, "exit_code", None)
        show = getattr(error, "show", None)
        if STOPPING.asked:  # what a library makes of an interrupt in the middle of its import
            status = INTERRUPTED
        elif usage is None or show is None:
            raise
        else:
            show()  # a usage error of the parser, with its own words
            status = usage
    if status == INTERRUPTED:
        err.print(last_words(sys.argv[1:]))
    if STOPPING.asked:
        STOPPING.deafen()
    STOPPING.end(status or 0)


def _is_unread() -> bool:
    """Return whether the reader of this command's output has gone."""
    asked = select.poll()
    for number in (1, 2):  # stdout, stderr
        asked.register(number, 0)
    return bool(asked.poll(0))


def _explained() -> tuple[type[ValueError], ...]:
    """Return the errors whose messages are for the user.

    They are imported only after an error: their modules take a quarter of a second to import, and
    `--help` needs none.
    """
    from bench.core.references import StudyError
    from loaders.cases import BadSource
    from loaders.store.layout import StoreError
    from results.tables.store import RunError

    return StudyError, BadSource, StoreError, RunError


def _show_error(what: str) -> None:
    err.print(Text.assemble(("error:", "red"), f" {what}"))
