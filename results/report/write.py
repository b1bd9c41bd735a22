"""The report of a run: `report.html`, one file that needs no network, and `verdict.json`."""

import json
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from results import text as words
from results.report.page import page
from results.report.terminal import leaderboard
from results.run_folder import Recorded, made_of
from results.tables.files import replace_file
from results.verdict.schema import Verdict

__all__ = ["Report", "Written", "leaderboard", "load_verdicts", "made_report", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Written:
    """The page of a run, and what finished trials lost, to missing or damaged files, if anything.

    Such trials are not counted.
    """

    page: Path
    lost: str | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of a run, not yet written; `lost` as in `Written`."""

    verdict: Verdict
    html: str
    lost: str | None

    def write(self, folder: Path) -> Written:
        """Write `verdict.json` and `report.html` into a folder, which is made.

        A file is replaced whole or not at all. Raises OSError if it cannot be written.
        """
        text = json.dumps(self.verdict, indent=2, ensure_ascii=False, allow_nan=False)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "verdict.json", f"{text}\n".encode())
        replace_file(folder / "report.html", self.html.encode())
        return Written(page=folder / "report.html", lost=self.lost)


def made_report(run: Path) -> Report:
    """Return the report of a run, finished or not; writes nothing.

    Damaged files, and the trials whose rows they held, are left out, and the report says so. Raises
    RunError if the folder holds no run, or nothing of one that can be read.
    """

    def made(content: Recorded) -> Report:
        return Report(
            verdict=content.verdict,
            html=environment().get_template("report.html").render(page(content)),
            lost=content.lost,
        )

    return made_of(run, made)


def write_report(run: Path) -> Written:
    """Write the report of a run into its folder; raises as `made_report` and `Report.write` do."""
    return made_report(run).write(run)


def load_verdicts(run: Path) -> Verdict:
    """Return the verdict of a run as in `verdict.json`, made from its rows; writes nothing.

    `results.verdict.schema` lists its keys. Raises RunError if the folder holds no run.
    """
    return made_of(run, lambda content: content.verdict)


def environment() -> Environment:
    """Return the environment of `results/report/templates`, which escapes every text."""
    environment = Environment(
        loader=PackageLoader("results.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": words.score,
        "signed": words.signed,
        "p_value": words.p_value,
        "duration": words.duration,
        "rate": words.rate,
        "metric": words.metric,
        "percent": words.percent,
        "interval": words.interval,
        "scored": words.scored,
    }
    return environment
