"""kill -9 in the middle of preparing volumes and pairs: the next run goes on to the same store."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare
from loaders.store.read import verify_store
from tests.loaders.datasets.pairs.made import blobs, picture
from tests.loaders.datasets.volumes.test_volumes import series
from tests.loaders.store.test_store import everything_written

ROOT = Path(__file__).parents[3]
OPTIONS = {"volumes": {}, "pairs": {"images": "images/*.png", "masks": "masks/{stem}.png"}}
# Pictures are read in units of 64.
PICTURES, SERIES = 150, 6
# Kills itself at the given case, once it is measured and before any of its unit is finished.
RUN = """
import os, signal, sys
from loaders.store import item_writer
from tests.loaders.store.test_killed_kinds import KINDS, OPTIONS, Path, prepare

if __name__ == "__main__":
    kind, source, out, last, workers = sys.argv[1:]
    measured, real = [], item_writer.measure

    def measure(case, meta):
        measured.append(case.key)
        if len(measured) == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(case, meta)

    def progress(done, _total):
        if int(workers) > 1 and done == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    item_writer.measure = measure
    prepare(KINDS[kind], Path(source), Path(out), options=OPTIONS[kind], key=b"k",
        workers=int(workers), strict=False, progress=progress)
"""


def source_of(kind: str, root: Path) -> Path:
    """Make a source, one case of which is bad."""
    if kind == "volumes":
        series(root, SERIES)
        sorted((root / "P4").rglob("1.2.840.0*"))[2].unlink()
        return root
    for number in range(PICTURES):
        image, mask = blobs(number, (12, 14))
        picture(root / "images" / f"{number:03d}.png", image)
        picture(root / "masks" / f"{number:03d}.png", mask * 255)
    (root / "masks" / "100.png").write_bytes(b"no picture")
    return root


def killed_and_taken_up(kind: str, tmp_path: Path, last: int, workers: int = 1) -> int:
    """Hold the store of two runs against that of one; return what the second need not read."""
    source, out = tmp_path / "source", tmp_path / f"store {last}"
    if not source.exists():
        source_of(kind, source)
    command = [sys.executable, "-c", RUN, kind, str(source), str(out), str(last), str(workers)]
    if workers > 1:
        (tmp_path / "run.py").write_text(RUN)
        command[1:3] = [str(tmp_path / "run.py")]
    killed = subprocess.run(
        command, capture_output=True, check=False, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    reports = {
        place: prepare(
            KINDS[kind],
            source,
            place,
            options=OPTIONS[kind],
            key=b"k",
            workers=1,
            strict=False,
        )
        for place in (out, tmp_path / f"whole {last}")
    }
    again, whole = reports.values()
    assert (again.reused, again.n_cases) == (False, whole.n_cases)
    assert [str(bad) for bad in again.rejected] == [str(bad) for bad in whole.rejected]
    assert (len(again.rejected), whole.resumed) == (1, 0)
    assert verify_store(out) == []
    assert everything_written(out) == everything_written(tmp_path / f"whole {last}")
    return again.resumed


@pytest.mark.parametrize(("kind", "last", "resumed"), [("volumes", 3, 2), ("pairs", 90, 1)])
def test_a_killed_run_of_a_kind_is_taken_up(
    tmp_path: Path, kind: str, last: int, resumed: int
) -> None:
    """Two series, or the first 64 pictures, are not read again."""
    assert killed_and_taken_up(kind, tmp_path, last) == resumed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "at"), [("volumes", range(1, SERIES)), ("pairs", (1, 2, 64, 65, 66, 101, 128, 149))]
)
def test_killed_anywhere(tmp_path: Path, kind: str, at: tuple[int, ...]) -> None:
    """A unit of which a case is bad is read again, so that the terminal hears of it again."""
    found = [killed_and_taken_up(kind, tmp_path, last) for last in at]
    assert found == sorted(found)
    assert found[-1] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "units"), [("volumes", 4), ("pairs", 1)])
def test_killed_with_two_readers(tmp_path: Path, kind: str, units: int) -> None:
    assert killed_and_taken_up(kind, tmp_path, units, workers=2) >= min(units, 3)
