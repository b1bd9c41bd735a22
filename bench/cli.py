"""The medopt command: arguments in, exit status out; the work is done elsewhere.

Exit status 0: done. 1: some trials failed, or the machine did (a full disk). 2: bad usage, or no
usable input. 130: interrupted; the run resumes.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    name="medopt",
    help="Which optimizer and which loss should train my medical-image model, on my data and my "
    "GPUs?\n\nStart with `medopt demo`. For your own data: `medopt prepare`, write a study of nine "
    "lines, `medopt plan`, `medopt run`. A run that was stopped goes on when you ask for it again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]
Lanes = Annotated[
    int | None,
    typer.Option(help="Worker groups at once, with --ray. Default: all the cluster has room for."),
]
GpusPerTrial = Annotated[
    int, typer.Option("--gpus-per-trial", min=1, help="GPUs (or CPU workers) that share a trial.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Run on Ray lanes: alone, a Ray of its own on this machine; with `auto` or host:port, "
        "a cluster that is up.",
    ),
]


# What shells say of a command that Ctrl-C ended, and what the parser turns it into.
INTERRUPTED = 130


class Failed(Exception):  # noqa: N818  # an exit status, not an error of its own
    """Ends the command with a status, everything having been said."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@app.command()
def demo(
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder for scans, stores and results.")
    ] = (Path("demo")),
    ray: Ray = None,
    lanes: Lanes = None,
) -> None:
    """Run the whole job in miniature, on data it makes.

    Makes chest-CT and brain-MRI phantoms in their true formats (DICOM with radiologists' XML reads;
    NIfTI), prepares them like real scans, runs six optimizers x four losses x three folds on each,
    and ends with a verdict and report.html. Takes a few minutes on two CPU cores.
    """
    from bench.demo import make_demo

    study = make_demo(out_dir, err.print)
    _run(study, out_dir / "runs" / "demo", ray=ray, lanes=lanes, gpus_per_trial=1, trial=None)


@app.command()
def prepare(
    kind: Annotated[str, typer.Argument(help="What the source is; `medopt list data` shows all.")],
    store: Annotated[Path, typer.Option("--out", help="The store to make.")],
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Folder or file as it was downloaded. Left out: the official file is fetched, "
            "where it is free (medmnist:NAME)."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A reader's setting; may be repeated."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad case.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read. Default: one a core.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn scans as they were downloaded into a store: read once, checked, with ids hashed.

    A case that cannot be used goes to rejected.parquet with its reason, and the rest goes on.
    A stopped preparation resumes when asked again.
    """
    from bench.core.references import unknown
    from bench.display import counting
    from loaders.cases import BadCase, BadSource
    from loaders.datasets.table import KINDS
    from loaders.memory import keep_freed_memory
    from loaders.store.prepare import prepare as prepare_store
    from loaders.store.pseudonyms import user_key

    name, _, part = kind.partition(":")
    if name not in KINDS:
        raise BadSource(unknown("kind", name, KINDS))
    options = {}
    for setting in set_ or []:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadSource(f"--set {setting!r}: write NAME=VALUE.")
        options[key] = value
    if part:
        options["name"] = part
    row = KINDS[name]
    if source is None:
        if row.fetch is None:
            raise BadSource(f"{name} needs SOURCE, the folder or file as it was downloaded.")
        with counting(err, "fetching, KiB") as told:
            source = row.fetch(options, lambda done, total: told(done // 1024, total // 1024))
    keep_freed_memory()
    try:
        with counting(err, "reading") as told:
            report = prepare_store(
                row,
                source,
                store,
                options=options,
                key=user_key(),
                workers=workers or os.cpu_count() or 1,
                strict=strict,
                progress=told,
            )
    except BadCase as error:
        raise BadSource(f"{error.where}: {error.reason} (--strict stops here)") from error
    for bad in report.rejected:
        err.print(f"[yellow]rejected[/] {bad.where}: {bad.reason}")
    if as_json:
        out.print_json(
            data={"store": str(store), "cases": report.n_cases, "rejected": len(report.rejected)}
        )
    else:
        state = "is up to date" if report.reused else "is ready"
        cases = "1 case" if report.n_cases == 1 else f"{report.n_cases} cases"
        out.print(f"{store} {state}: {cases}, {len(report.rejected)} rejected")


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="A store.")]) -> None:
    """Check every array of a store against its checksum.

    Reads the whole store. Exit status 1, and the arrays that differ, where a disk or a copy has
    changed anything since `medopt prepare` wrote it: prepare it again.
    """
    from loaders.store.read import open_store, verify_store

    open_store(store)  # what is no store at all is bad usage, not a damaged array
    problems = verify_store(store)
    for problem in problems:
        err.print(f"[red]{problem}")
    if problems:
        raise Failed(1)
    out.print(f"{store}: every array is as it was written")


@app.command()
def plan(
    study: Annotated[Path, typer.Argument(help="A study file, or the name of a ready study.")],
    out_dir: Annotated[Path | None, typer.Option("--out", help="The run folder to be.")] = None,
    lanes: Lanes = None,
    as_json: Json = False,
) -> None:
    """Say what a run would do: trials, what is skipped and why, and the time it takes.

    The time comes from one real step and one real evaluation of each model on each data set,
    measured here; early stopping only shortens it.
    """
    from bench.core.startup import begin
    from bench.display import counting
    from bench.planning.estimate import estimate
    from bench.planning.plan import resolve
    from bench.planning.preflight import fits
    from bench.study.schema import load_study
    from bench.study.trial import skip_columns
    from results.text import duration

    asked, base = load_study(study)
    made = resolve(asked, base, out_dir or Path("runs") / asked.name, lanes=lanes or 1)
    begin(made.study.threads)
    with counting(err, "measuring") as told:
        seconds = estimate(made, told) / (lanes or 1)
    if as_json:
        out.print_json(
            data={
                "run": str(made.folder),
                "trials": [
                    {"trial_id": t.trial_id, **t.combination, "fold": t.fold, "seed": t.seed}
                    for t in made.trials
                ],
                "seconds": seconds,
                "lanes": lanes or 1,
                "skips": [skip_columns(s) for s in made.skips],
                "study": made.study.model_dump(mode="json"),
            }
        )
        return
    table = Table(title=f"{made.study.name}: {len(made.trials)} trials", title_justify="left")
    for column in ("data", "cases", "patients or groups", "trials", "epochs", "batch", "patch"):
        table.add_column(column)
    for data in made.sets:
        own = [t for t in made.trials if t.dataset == data.name]
        if own:
            table.add_row(
                data.name,
                str(len(data.store)),
                f"{len(set(data.store.groups))} ({data.store.meta.group_source})",
                str(len(own)),
                str(own[0].epochs),
                str(own[0].batch_size),
                "x".join(map(str, own[0].patch)),
            )
    out.print(table)
    for line in fits(made):
        out.print(line, highlight=False)
    skipped = {(s.combination["dataset"], s.combination["model"], s.reason) for s in made.skips}
    for dataset, _, reason in sorted(skipped):
        out.print(f"skipped on {dataset}: {reason}")
    out.print(
        f"about {duration(seconds, clock=True)} at most, on {lanes or 1} lane(s) with "
        f"{made.study.threads} thread(s) each on {made.study.device}"
    )


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="A study file, or the name of a ready study.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="The run folder. Default: runs/NAME.")
    ] = None,
    ray: Ray = None,
    lanes: Lanes = None,
    gpus_per_trial: GpusPerTrial = 1,
    trial: Annotated[str | None, typer.Option(help="Run this one trial, by its id.")] = None,
) -> None:
    """Run a study, or go on with it: finished trials are not run again.

    Without --ray everything runs in this process. Ends with the verdict and report.html.
    """
    _run(study, out_dir, ray=ray, lanes=lanes, gpus_per_trial=gpus_per_trial, trial=trial)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    as_json: Json = False,
) -> None:
    """Write report.html and verdict.json of finished or unfinished runs, and print the verdict."""
    from results.report.write import write_report

    for folder in runs:
        page = write_report(folder)
        _show_verdict(folder, page, as_json=as_json)


@app.command("list")
def list_(
    kind: Annotated[
        str,
        typer.Argument(
            help="models, optimizers, losses, schedules, regularizers, precisions, metrics, data, "
            "loaders or studies."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show a table of the project: what can stand in a study, and where it comes from."""
    from bench.catalogue import TABLES
    from bench.core.references import StudyError, unknown

    if kind not in TABLES:
        raise StudyError(unknown("kind", kind, TABLES))
    rows = TABLES[kind]()
    if as_json:
        out.print_json(data=rows)
        return
    # An entry below another: as columns, what a row holds would be cut to a word a line.
    for row in rows:
        out.print(f"[bold]{row['name']}[/]  {row.get('summary', '')}", highlight=False)
        table = Table.grid(padding=(0, 2, 0, 0))
        for key, value in row.items():
            if key not in ("name", "summary") and value not in (None, {}, []):
                table.add_row(f"    [dim]{key}[/]", escape(_cell(value)))
        out.print(table)
    err.print(f"{len(rows)} {kind}", highlight=False)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what works on this machine (GPUs, DALI, Ray, disk, versions) and what to do."""
    from bench.doctor import examine

    findings = examine()
    if as_json:
        out.print_json(data=[asdict(f) for f in findings])
    else:
        colour = {"ok": "green", "note": "yellow", "problem": "red"}
        for f in findings:
            out.print(f"[{colour[f.state]}]{f.state:8}[/] [bold]{f.what:10}[/] {f.detail}")
            if f.advice:
                out.print(f"{'':20}-> {f.advice}")
    if any(f.state == "problem" for f in findings):
        raise Failed(1)


# ---- what several commands share -------------------------------------------------------------


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return str(value)


def _run(
    study: Path,
    out_dir: Path | None,
    *,
    ray: str | None,
    lanes: int | None,
    gpus_per_trial: int,
    trial: str | None,
) -> None:
    from bench.core.references import StudyError
    from bench.core.startup import begin
    from bench.display import RunDisplay
    from bench.execution.lanes import run_lanes
    from bench.execution.local import run_here
    from bench.execution.ray_cluster import capacity
    from bench.execution.trial_queue import opened
    from bench.planning.plan import resolve, save
    from bench.planning.preflight import fits
    from bench.study.schema import load_study
    from results.report.write import write_report

    if ray is None and (lanes is not None or gpus_per_trial > 1):
        raise StudyError("--lanes and --gpus-per-trial need --ray.")
    address = None if ray in (None, "local") else ray
    asked, base = load_study(study)
    run = out_dir or Path("runs") / asked.name
    if ray is None:
        made = resolve(asked, base, run)
    else:
        space = capacity(asked, address=address, lanes=lanes, gpus_per_trial=gpus_per_trial)
        lanes = space.lanes
        made = resolve(
            asked,
            base,
            run,
            lanes=space.workers_a_machine,
            cores=space.cores,
            cuda=space.cuda,
            devices=gpus_per_trial,
        )
    if trial is not None:
        made = made.only(trial)
    fitting = list(fits(made))  # before anything runs: what does not fit would fail every trial
    save(made)
    with _logging(made.folder / "log.txt"), RunDisplay(err).showing() as display:
        for line in fitting:
            logging.getLogger("medopt.transfer").info(line)
        if lanes is None:
            begin(made.study.threads)
            with opened(made, shared_device=False) as queue:
                run_here(made, queue, display.changed)
                state = queue.progress()
        else:
            state = run_lanes(
                made,
                address=address,
                lanes=lanes,
                gpus_per_trial=gpus_per_trial,
                changed=display.changed,
            )
    _show_verdict(made.folder, write_report(made.folder), as_json=False)
    failed = state.statuses.get("failed", 0)
    if failed:
        err.print(f"[red]{failed} trial(s) failed; the reasons are in {made.folder / 'log.txt'}.")
        raise Failed(1)


def _show_verdict(folder: Path, page: Path, *, as_json: bool) -> None:
    from results.report.write import leaderboard

    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    if as_json:
        out.print_json(data=verdict)
        return
    out.print(leaderboard(verdict))
    out.print(f"report: {page}")


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    """Send what the run has to say to `log.txt` beside its results."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("medopt")
    root.setLevel(logging.INFO)
    root.propagate = False
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _arguments(given: Sequence[str]) -> list[str]:
    """Let `--ray` stand alone: its value is optional, which the parser has no form for."""
    address = re.compile(r"auto|local|ray://.+|[\w.\-\[\]:]+:\d+")
    made: list[str] = []
    for k, word in enumerate(given):
        made.append(word)
        following = given[k + 1] if k + 1 < len(given) else ""
        if word == "--ray" and not address.fullmatch(following):
            made.append("local")
    return made


def main() -> None:
    """Run the command line; turn what can go wrong into one sentence and an exit status."""
    from bench.core.packages import check_packages

    check_packages()
    from bench.core.references import StudyError
    from loaders.cases import BadSource
    from loaders.store.read import StoreError
    from results.tables.store import RunError

    try:
        status = app(_arguments(sys.argv[1:]), standalone_mode=False)
    except Failed as failed:
        status = failed.status
    except typer.Exit as done:
        status = done.exit_code
    except (StudyError, BadSource, StoreError, RunError) as error:
        err.print(f"[red]error:[/] {_escape(error)}")
        status = 2
    except OSError as error:
        err.print(
            f"[red]error:[/] {_escape(error)}\nWhat was finished is on disk; ask again to go on."
        )
        status = 1
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as error:
        usage = getattr(error, "exit_code", None)
        show = getattr(error, "show", None)
        if usage is None or show is None:
            raise
        show()  # a usage error of the parser, with its own words
        status = usage
    if status == INTERRUPTED:
        err.print("stopped; what was finished is on disk, the same command goes on from there.")
    sys.exit(status or 0)


def _escape(error: BaseException) -> str:
    return escape(str(error))
