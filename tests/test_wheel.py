"""A wheel, installed elsewhere and started outside the checkout, has all that the command needs."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
# Runs that are kept beside the source, and not part of what is installed.
KEPT = ROOT / "results" / "reference"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Return a wheel of this checkout, built from a copy: building leaves files beside sources."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(copy)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def medopt(wheel, tmp_path_factory):
    """Return a function that runs the command as the wheel has it; returns what it prints."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*words: str) -> str:
        code = (
            "import sys, bench.cli; assert not bench.cli.__file__.startswith(sys.argv.pop(1));"
            "bench.cli.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(ROOT), *words],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_holds_every_module_and_file_and_no_test(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for room in ("bench", "models", "loaders", "results")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and KEPT not in path.parents
    }
    assert len(wanted) > 150
    assert wanted <= names
    assert not [
        name for name in names if name.startswith(("tests/", "docs/", "results/reference/"))
    ]


def test_it_lists_the_ready_studies(medopt):
    ready = {path.stem for path in (ROOT / "bench" / "ready_studies").glob("*.yaml")}
    assert {row["name"] for row in json.loads(medopt("list", "studies", "--json"))} == ready


def test_it_reports_the_recorded_run(medopt, tmp_path):
    run = tmp_path / "recorded"
    shutil.copytree(GOLDEN / "recorded", run)
    medopt("report", str(run))
    found = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    assert found == json.loads((GOLDEN / "verdict.json").read_text(encoding="utf-8"))
    assert (run / "report.html").stat().st_size > 100_000
