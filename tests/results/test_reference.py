"""The kept runs: today's reading of their tables says what was kept, and what was published."""

import json
import shutil
import statistics
from pathlib import Path

import pytest

from results.report.write import write_report
from results.tables.store import read

KEPT = Path(__file__).resolve().parents[2] / "results" / "reference"
RUNS = sorted(path.parent.name for path in KEPT.glob("*/study.yaml"))


@pytest.mark.parametrize("name", RUNS)
def test_a_kept_run_is_read_as_it_was(name, tmp_path):
    run = tmp_path / name
    shutil.copytree(KEPT / name, run)
    (run / "verdict.json").unlink()
    write_report(run)
    now, kept = (
        json.loads((folder / "verdict.json").read_text())["datasets"]
        for folder in (run, KEPT / name)
    )
    assert [found["reason"] for found in now] == [found["reason"] for found in kept]
    assert (run / "report.html").stat().st_size > 10_000


def test_medmnists_benchmark_is_met_within_what_was_asked():
    """0.901: Yang et al. 2023, ResNet-18 at 28 pixels; within 0.02."""
    trials = read(KEPT / "medmnist_breast", "trials").to_pylist()
    assert [trial["seed"] for trial in trials] == [0, 1, 2]
    assert statistics.fmean(trial["test_score"] for trial in trials) == pytest.approx(
        0.901, abs=0.02
    )


def test_the_kept_runs_are_small():
    assert RUNS
    assert sum(path.stat().st_size for path in KEPT.rglob("*") if path.is_file()) < 5_000_000
