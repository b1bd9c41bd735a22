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


@pytest.fixture
def run(tmp_path) -> Path:
    shutil.copytree(HERE / "recorded", tmp_path / "recorded")
    return tmp_path / "recorded"


def test_verdict_and_leaderboard_are_as_they_were(run):
    page = write_report(run).page
    found = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    assert found == json.loads((HERE / "verdict.json").read_text(encoding="utf-8"))
    assert printed(found) == (HERE / "leaderboard.txt").read_text(encoding="utf-8")
    assert page.stat().st_size > 100_000


def test_every_state_is_in_the_recorded_run():
    found = json.loads((HERE / "verdict.json").read_text(encoding="utf-8"))
    states = {c["state"] for d in found["datasets"] for c in d["combinations"]}
    assert states == {"judged", "diverged", "incomplete", "skipped"}


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "recorded"
        shutil.copytree(HERE / "recorded", copy)
        write_report(copy)
        shutil.copy(copy / "verdict.json", HERE)
        text = printed(json.loads((copy / "verdict.json").read_text(encoding="utf-8")))
        (HERE / "leaderboard.txt").write_text(text, encoding="utf-8")
