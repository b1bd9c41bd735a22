"""The report of a run: `report.html`, one file that needs no network, and `verdict.json`."""

import json
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from results import text as words
from results.report.page import page
from results.report.terminal import leaderboard
from results.run_folder import Recorded, lost_sentence, made_of
from results.tables.files import replace_file
from results.verdict.schema import Verdict

__all__ = ["Written", "leaderboard", "load_verdicts", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Written:
    """The page of a run, and a sentence on finished trials that lost some of their files, if any.

    Those are not counted.
    """

    page: Path
    lost: str | None


def write_report(run: Path) -> Written:
    """Write `verdict.json` and `report.html` of a run, finished or not.

    Of files that are damaged, and of the trials whose rows they had, it says that they are left
    out. Raises RunError where the folder holds no run, or nothing of one that can be read, OSError
    where it cannot be written; a file is replaced whole or not at all.
    """

    def rendered(content: Recorded) -> tuple[str, str, str | None]:
        lost = lost_sentence(content.incomplete) if content.incomplete else None
        text = json.dumps(content.verdict, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n", environment().get_template("report.html").render(page(content)), lost

    text, html, lost = made_of(run, rendered)
    replace_file(run / "verdict.json", text.encode())
    replace_file(run / "report.html", html.encode())
    return Written(page=run / "report.html", lost=lost)


def load_verdicts(run: Path) -> Verdict:
    """Return the verdict of a run as `verdict.json` has it, from its rows; writes nothing.

    `results.verdict.schema` lists its keys. Raises RunError where the folder holds no run.
    """
    return made_of(run, lambda content: content.verdict)


def environment() -> Environment:
    """Return what renders `results/report/templates`: every text is escaped."""
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
    }
    return environment
