"""A run that was recorded once is judged as it was then: verdict, leaderboard, report.

`recorded/` is a small run with every outcome: judged, diverged, failed, not finished and skipped
combinations, schedules, a regularizer, degraded test images. It is never trained again.
"""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from results.report.write import leaderboard, write_report

HERE = Path(__file__).parent


def printed(verdict: dict) -> str:
    """Return the leaderboard as a terminal of 100 columns shows it, without trailing blanks."""
    page = io.StringIO()
    Console(file=page, width=100, color_system=None).print(leaderboard(verdict))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def rounded(number: str) -> float:
    """Return what a file says to 12 digits: another processor's differs in the sixteenth."""
    return float(f"{float(number):.12g}")


def read(file: Path) -> dict:
    """Return a verdict as it stands in a file."""
    return json.loads(file.read_text(encoding="utf-8"), parse_float=rounded)


@pytest.fixture
def run(tmp_path) -> Path:
    shutil.copytree(HERE / "recorded", tmp_path / "recorded")
    return tmp_path / "recorded"


def test_verdict_and_leaderboard_are_as_they_were(run):
    page = write_report(run).page
    found = read(run / "verdict.json")
    assert found == read(HERE / "verdict.json")
    assert printed(found) == (HERE / "leaderboard.txt").read_text(encoding="utf-8")
    assert page.stat().st_size > 100_000


def test_every_state_is_in_the_recorded_run():
    found = read(HERE / "verdict.json")
    states = {c["state"] for d in found["datasets"] for c in d["combinations"]}
    assert states == {"judged", "diverged", "incomplete", "skipped"}


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "recorded"
        shutil.copytree(HERE / "recorded", copy)
        write_report(copy)
        shutil.copy(copy / "verdict.json", HERE)
        text = printed(read(copy / "verdict.json"))
        (HERE / "leaderboard.txt").write_text(text, encoding="utf-8")
