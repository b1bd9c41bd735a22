"""Merging beside a run: nobody waits for it, nothing is lost by it, and what it cannot is told."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.execution import compaction, trial_queue
from bench.execution.compaction import Compaction
from results.tables import store
from tests.bench.execution.test_trial_queue import finish, make_outcome, make_queue


def write(folder, name: str) -> None:
    store.write_trial(
        folder,
        trial={"trial_id": name, "status": "ok"},
        metrics=[],
        epochs=[],
        cases=[],
        footer={},
    )


def test_trials_are_written_while_others_are_merged(tmp_path, monkeypatch):
    """The process that merges is held up until more trials have been written."""
    gate = tmp_path / "gate"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom results.tables.store import compact\n"
        f"while not Path({str(gate)!r}).exists(): time.sleep(0.05)\n"
        "compact(Path(sys.argv[1]), at_least=2)"
    )
    monkeypatch.setattr(compaction, "starting", lambda _module: code)
    monkeypatch.setattr(trial_queue, "COMPACT_EVERY", 3)
    monkeypatch.setenv("PYTHONPATH", str(compaction.__file__).partition("/bench/")[0])
    queue = make_queue(tmp_path / "run", 8)
    while lease := queue.take("a"):
        finish(queue, "a", lease.trial.trial_id, make_outcome(lease.trial))
    names = {path.name for path in (tmp_path / "run" / "trials").iterdir()}
    assert names == {f"trial{n}.parquet" for n in range(8)}
    gate.touch()
    queue.close()
    (part,) = (tmp_path / "run" / "trials").iterdir()
    assert part.name.startswith("part.")
    assert len(store.finished(tmp_path / "run")) == 8


def test_the_process_merges_as_the_program_does(tmp_path):
    for n in range(256):
        write(tmp_path, f"t{n}")
    beside = Compaction(tmp_path)
    beside.begin()
    beside.begin()  # one at a time
    beside.wait()
    beside.wait()
    for table in store.TABLES:
        assert len(list((tmp_path / table).iterdir())) == 1
    assert len(store.finished(tmp_path)) == 256


def test_what_cannot_be_merged_is_told_and_ends_nothing(tmp_path, caplog):
    write(tmp_path, "whole")
    (tmp_path / "trials" / "damaged.parquet").write_bytes(b"no table")
    beside = Compaction(tmp_path)
    beside.begin()
    beside.wait()
    assert "could not be merged: DamagedError: trials/damaged.parquet is damaged" in caplog.text


def test_nothing_is_begun_where_nothing_was_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("was begun"))
    Compaction(tmp_path).wait()


# A driver whose merging takes for ever.
DRIVER = """
import sys
import time
from pathlib import Path

from bench.execution import compaction

compaction.starting = lambda module: (
    f"import time, {module} as m\\nm.compact = lambda _run: time.sleep(1000)\\nm.main()"
)
beside = compaction.Compaction(Path(sys.argv[1]))
beside.begin()
print(beside._process.pid, flush=True)
time.sleep(1000)
"""


def test_a_driver_that_is_killed_leaves_no_process_that_merges(tmp_path):
    """The next driver of the run merges the same files."""
    root = str(Path(compaction.__file__).parents[2])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    with driver:
        beside = psutil.Process(int(driver.stdout.readline()))
        assert beside.is_running()
        driver.kill()
    try:
        beside.wait(60)
    finally:
        if beside.is_running():
            beside.kill()
