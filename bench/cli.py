"""The medopt command: arguments in, words and an exit status out; bench.api does the work.

Exit status 0: done. 1: some trials failed, or the machine did (a full disk). 2: bad usage, or no
usable input. 130: interrupted; the run resumes.
"""

import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
# Names of files and of a study's entries are printed as Text: as str, what stands in brackets or
# between colons would be taken for markup.
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for scripts.")]
Lanes = Annotated[
    int | None,
    typer.Option(
        min=1, help="Worker groups at once, with --ray. Default: as many as there is room for."
    ),
]
GpusPerTrial = Annotated[
    int, typer.Option("--gpus-per-trial", min=1, help="GPUs (or CPU workers) that share a trial.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Run on Ray lanes. Alone it starts a Ray on this machine, for this run only; `auto` "
        "or host:port joins a cluster that is up.",
    ),
]


class Failed(Exception):  # noqa: N818  # an exit status, not an error of its own
    """Ends the command with an exit status, once everything has been said."""

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
        typer.Option("--version", help="Say the version.", is_eager=True, callback=_show_version),
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
    """Run the whole job in miniature, on data it makes.

    Makes chest-CT and brain-MRI phantoms in their true formats (DICOM with radiologists' XML reads;
    NIfTI), prepares them like real scans, runs six optimizers x four losses x three folds on each,
    and ends with a verdict and report.html. Takes a few minutes on two CPU cores.
    """
    from bench import api
    from bench.core.references import local_path
    from bench.demo import make_demo

    api.check_lanes(ray, lanes)
    local_path(out_dir, "--out")
    study = make_demo(out_dir, lambda line: err.print(Text(line)))
    _run_study(study, out_dir / "runs" / "demo", ray=ray, lanes=lanes, gpus_per_trial=1, trial=None)


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
    conflicts: Annotated[
        str,
        typer.Option(
            help="What becomes of one image that stands under several answers: keep its cases in "
            "one group, and warn, or reject them all."
        ),
    ] = "keep",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read. Default: one a usable core.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn scans as they were downloaded into a store: read once, checked, with ids hashed.

    A case that cannot be used is listed in rejected.parquet with the reason, and the others go on.
    A preparation that was stopped resumes when you ask for it again.
    """
    from bench import api
    from bench.display import counting
    from loaders.cases import BadCase, BadSource

    options: dict[str, str] = {}
    for setting in set_ or []:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadSource(f"--set {setting!r}: write NAME=VALUE.")
        if key in options:
            raise BadSource(f"--set {key} is given twice: {options[key]!r} and {value!r}.")
        options[key] = value
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


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="A store.")]) -> None:
    """Check every array of a store against its checksum.

    Reads the whole store. If a disk or a copy has changed anything since `medopt prepare` wrote it,
    the arrays that differ are named and the exit status is 1: prepare the store again.
    """
    from loaders.store.read import Store, verify_store

    Store(store)  # a folder that is no store is bad usage, not a damaged array
    problems = verify_store(store)
    for problem in problems:
        err.print(Text(problem, "red"))
    if problems:
        raise Failed(1)
    out.print(Text(f"{store}: every array is as it was written"))


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
    from bench import api
    from bench.display import counting
    from bench.planning.plan import ends_early
    from bench.planning.preflight import fits
    from bench.study.trial import skip_columns
    from results.text import duration

    planned = api.plan(study, out_dir, lanes=lanes, counting=partial(counting, err))
    made = planned.plan
    if as_json:
        out.print_json(
            data={
                "run": str(_shown(made.folder)),
                "trials": [
                    {"trial_id": t.trial_id, **t.combination, "fold": t.fold, "seed": t.seed}
                    for t in made.trials
                ],
                "seconds": planned.seconds,
                "lanes": lanes or 1,
                "gradient_norms": [
                    {"dataset": s.dataset, "model": s.model, "norms": s.norms}
                    for s in planned.scales
                ],
                "skips": [skip_columns(s) for s in made.skips],
                "study": made.study.model_dump(mode="json"),
            }
        )
        return
    title = Text(f"{made.study.name}: {len(made.trials)} trials")
    table = Table(title=title, title_justify="left")
    for column in ("data", "cases", "patients or groups", "trials", "epochs", "batch", "patch"):
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
                str(own[0].batch_size),
                "x".join(map(str, own[0].patch)),
            )
    out.print(table)
    for data in made.sets:
        for warning in data.store.warnings:
            out.print(Text.assemble(("warning", "yellow"), f" {data.name}: {warning}"))
    for line in (*ends_early(made), *map(str, planned.scales)):
        out.print(Text(line))
    for line in fits(made):
        out.print(Text(line))
    skipped = {(s.combination["dataset"], s.combination["model"], s.reason) for s in made.skips}
    for dataset, _, reason in sorted(skipped):
        out.print(Text(f"skipped on {dataset}: {reason}"))
    out.print(
        f"about {duration(planned.seconds, clock=True)} at most, on {lanes or 1} lane(s) with "
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
    hung_after: Annotated[
        float,
        typer.Option(
            metavar="MINUTES",
            min=0.1,
            help="End a trial that makes no step (no batch, no case) for so long. One that hangs "
            "twice is written down as failed, and the others go on.",
        ),
    ] = 30.0,
) -> None:
    """Run a study, or go on with it: finished trials are not run again.

    Without --ray one trial after the other runs in a process beside this one. Ends with the verdict
    and report.html.
    """
    _run_study(
        study,
        out_dir,
        ray=ray,
        lanes=lanes,
        gpus_per_trial=gpus_per_trial,
        trial=trial,
        hung_minutes=hung_after,
    )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    as_json: Json = False,
) -> None:
    """Write report.html and verdict.json of finished or unfinished runs, and print the verdict.

    With --json the verdict of one run is an object, those of several a list in their order. Exit
    status 1 where a finished trial has lost some of its files: it is not counted.
    """
    from results.report.write import write_report
    from results.run_folder import lost_sentence, made_of

    pages = [(folder, write_report(folder)) for folder in runs]
    if as_json:
        verdicts = [_verdict(folder) for folder, _ in pages]
        out.print_json(data=verdicts if len(verdicts) > 1 else verdicts[0])
    else:
        for folder, page in pages:
            _show_verdict(folder, page)
    whole = True
    for folder in runs:
        if lost := made_of(folder, lambda content: content.incomplete):
            err.print(Text(f"{folder}: {lost_sentence(lost)}", "red"))
            whole = False
    if not whole:
        raise Failed(1)


@app.command()
def claims(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    claim: Annotated[
        list[str] | None,
        typer.Option(help="Ask this claim alone, by its id; may be repeated. Default: all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer what the two papers claim by finished runs: yes, no or undecided, with an interval.

    Every claim has a measure and a test; a run answers those that it has what they need for. The
    answers of all runs named are one family of tests (Holm). What is not answered is said with what
    it needs.
    """
    from bench.core.references import StudyError
    from results.claims.answers import claims_of
    from results.claims.terminal import lines
    from results.run_folder import Recorded

    try:
        found = claims_of([Recorded(folder) for folder in runs], claim or ())
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
        typer.Argument(
            help="models, optimizers, losses, schedules, regularizers, precisions, metrics, data, "
            "loaders or studies."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show a table of the project: what a study can name, and where it comes from."""
    from bench.catalogue import TABLES
    from bench.core.references import StudyError, unknown

    if kind not in TABLES:
        raise StudyError(unknown("kind", kind, TABLES))
    rows = TABLES[kind]()
    if as_json:
        out.print_json(data=rows)
        return
    # One entry below another: in columns, texts would be wrapped to a word a line.
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
    """Say what works on this machine (GPUs, DALI, Ray, disk, versions) and what to do."""
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
    trial: str | None,
    hung_minutes: float | None = None,
) -> None:
    """Run a study, show how it goes and its verdict; raise Failed if a trial failed."""
    from bench import api
    from bench.display import RunDisplay

    with RunDisplay(err, ray=ray is not None).showing() as display:
        ended = api.run(
            study,
            out_dir,
            ray=ray,
            lanes=lanes,
            gpus_per_trial=gpus_per_trial,
            trial=trial,
            hung_minutes=hung_minutes,
            changed=display.changed,
            say=lambda line: err.print(Text(line)),
        )
    _show_verdict(ended.folder, ended.page)
    failed = ended.progress.statuses.get("failed", 0)
    if failed:
        log = _shown(ended.folder / "log.txt")
        err.print(Text(f"{failed} trial(s) failed; the reasons are in {log}.", "red"))
        raise Failed(1)


def _verdict(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    return found


def _show_verdict(folder: Path, page: Path) -> None:
    from results.report.write import leaderboard

    out.print(leaderboard(_verdict(folder)))
    out.print(Text(f"report: {_shown(page)}"))


def _shown(path: Path) -> Path:
    """Return a path as people read it: from the working folder, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


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


def main() -> None:
    """Run the command line; turn whatever can go wrong into one sentence and an exit status."""
    from bench.core.packages import check_packages
    from bench.execution.stopping import INTERRUPTED, LAST_WORDS, STOPPING

    STOPPING.listen(at_once=True)
    check_packages()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding has no letters for is no reason to end.
            stream.reconfigure(errors="backslashreplace")
    from bench.core.references import StudyError
    from loaders.cases import BadSource
    from loaders.store.layout import StoreError
    from results.tables.store import RunError

    STOPPING.listen(at_once=False)
    try:
        status = app(_arguments(sys.argv[1:]), standalone_mode=False)
    except Failed as failed:
        status = failed.status
    except typer.Exit as done:
        status = done.exit_code
    except (StudyError, BadSource, StoreError, RunError) as error:
        _show_error(str(error))
        status = 2
    except OSError as error:
        _show_error(f"{error}\nWhat was finished is on disk; ask again to go on.")
        status = 1
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
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
        err.print(LAST_WORDS)
    if STOPPING.asked:
        STOPPING.deafen()
    sys.exit(status or 0)


def _show_error(what: str) -> None:
    err.print(Text.assemble(("error:", "red"), f" {what}"))
