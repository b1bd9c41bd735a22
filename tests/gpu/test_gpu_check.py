"""The figures of `make gpu-check`: without a GPU, the same code must run from end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def faults(found, place=""):
    """Yield where something in the JSON is an error, or was skipped for want of time."""
    if isinstance(found, dict):
        if "error" in found:
            yield f"{place}: {found['error']}"
        for name, inside in found.items():
            yield from faults(inside, f"{place}/{name}")
    elif found == "skipped":
        yield f"{place}: skipped"


@pytest.mark.slow
def test_every_section_gives_its_figures_on_a_cpu(tmp_path):
    command = [sys.executable, "tests/gpu/gpu_check.py", "--device", "cpu", "--quick"]
    folders = ["--root", tmp_path / "data", "--out", tmp_path, "--seconds", "3000"]
    done = subprocess.run(
        [*command, *map(str, folders)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert list(faults(found)) == []
    trial = found["study"]
    assert trial, "the study left no figures"


def test_a_fault_is_found_however_deep_it_lies():
    found = {"machine": {"cores": 2}, "work": {"dali": {"error": "no GPU"}}, "study": "skipped"}
    assert list(faults(found)) == ["/work/dali: no GPU", "/study: skipped"]
