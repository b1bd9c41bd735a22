"""The status of a run: by its state file, its tables, its driver's process and its lock."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from results import status as module
from results.status import InHand, State, in_words, status, write_state
from results.tables.store import RunError, write_trial

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
WRITTEN = NOW - timedelta(seconds=4)

IN_HAND = InHand(
    lane="process 1",
    host="node7",
    trial_id="c",
    label="d · net · adam · ce · fold 0 · seed 0",
    epoch=3,
    epochs=9,
    metric="dice",
    score=0.5,
    seconds=60.0,
    silent_seconds=2.0,
)


def state(**changes) -> State:
    fields = {
        "study": "small",
        "host": socket.gethostname(),
        "process": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "written_at": WRITTEN,
        "ended": None,
        "total": 10,
        "done": 2,
        "reused": 1,
        "statuses": {"ok": 1, "failed": 1},
        "seconds": 600.0,
        "seconds_left": 1200.0,
        "running": (IN_HAND,),
    }
    return State(**{**fields, **changes})


def trial(run, name: str, *, ago: float, status: str = "ok", **more) -> None:
    """Write a trial that was finished so many seconds before NOW."""
    row = {"trial_id": name, "status": status, "finished_at": NOW - timedelta(seconds=ago)}
    write_trial(run, trial=row | more, metrics=[], epochs=[], cases=[], footer={})


@pytest.fixture
def run(tmp_path):
    """Return the folder of a run whose driver, this process, holds the lock."""
    (tmp_path / "study.yaml").write_text("name: small\n")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


def test_the_json_of_a_run_that_goes_on(run):
    """All of it, key by key: 6 of 40 s waited for data, 4000 sample-gradients in these."""
    write_state(run, state())
    trial(run, "a", ago=100, train_sec=30.0, data_wait_sec=5.0, sample_gradients=3000)
    trial(run, "s", ago=900, status="skipped")
    trial(run, "b", ago=90, status="failed", reason="ValueError: planted")
    trial(run, "e", ago=800, train_sec=10.0, data_wait_sec=1.0, sample_gradients=1000)
    assert json.loads(json.dumps(status(run, NOW).as_json())) == {
        "run": str(run),
        "study": "small",
        "driver": {
            "state": "running",
            "host": socket.gethostname(),
            "process": os.getpid(),
            "written_at": "2026-01-02T11:59:56+00:00",
            "age_seconds": 4.0,
            "ended": None,
        },
        "total": 10,
        "done": 2,
        "left": 8,
        "lost": 0,
        "reused": 1,
        "statuses": {"failed": 1, "ok": 1},
        "failed": [{"reason": "ValueError: planted", "trials": 1}],
        "running": [
            {
                "lane": "process 1",
                "host": "node7",
                "trial_id": "c",
                "label": "d · net · adam · ce · fold 0 · seed 0",
                "epoch": 3,
                "epochs": 9,
                "metric": "dice",
                "score": 0.5,
                "seconds": 64.0,
                "silent_seconds": 6.0,
            }
        ],
        "lanes": 1,
        "hosts": ["node7"],
        "data_wait_share": 0.15,
        "samples_per_sec": 100.0,
        "seconds": 604.0,
        "seconds_left": 1196.0,
    }


def test_the_words(run):
    write_state(run, state())
    trial(run, "a", ago=100, train_sec=30.0, data_wait_sec=6.0, sample_gradients=3000)
    trial(run, "b", ago=90, status="failed", reason="ValueError: planted")
    assert in_words(status(run, NOW)) == [
        "small: 2 of 10 trials done, 8 left, about 19 min 56 s to go",
        "  1 failed, 1 ok",
        f"  process {os.getpid()} on {socket.gethostname()} runs it and wrote this 4 s ago",
        "  has 1 trial in hand, 1 lane on node7",
        "  process 1: d · net · adam · ce · fold 0 · seed 0",
        "    epoch 3 of 9, Dice 0.500 on inner validation, last step 6 s ago",
        "  failed, 1 trial: ValueError: planted",
        "  100 samples/s while a trial trains, 20 % of the time waiting for data",
    ]


def test_what_was_finished_after_the_last_word_is_counted(run):
    """The one in hand, and one that was taken and finished since; not what it had failed before."""
    write_state(run, state())
    trial(run, "c", ago=3)
    trial(run, "d", ago=1, status="diverged")
    found = status(run, NOW)
    assert found.running == ()
    assert found.statuses == {"diverged": 1, "failed": 1, "ok": 2}
    assert (found.done, found.left) == (4, 6)


def test_an_earlier_failure_of_a_trial_in_hand_is_not_its_end(run):
    write_state(run, state())
    trial(run, "c", ago=5000, status="failed", reason="the disk was full")
    found = status(run, NOW)
    assert [one.trial_id for one in found.running] == ["c"]
    assert (found.done, found.failed) == (2, ())


def dead() -> int:
    """Return the number of a process that is over."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


HERE = {"host": socket.gethostname()}
AWAY = {"host": "node99"}
LONG_AGO = {"written_at": NOW - timedelta(hours=2)}


@pytest.mark.parametrize(
    ("changes", "locked", "found"),
    [
        ({}, True, "running"),
        (LONG_AGO, True, "running"),  # it hangs, or its network does; it is there
        ({"process": dead()}, True, "gone"),
        ({"process_started": 1.0}, True, "gone"),  # another process of that number
        ({}, False, "gone"),  # a notebook whose cell was ended from outside
        (AWAY, True, "running"),
        (AWAY, False, "running"),  # a file system that shares no locks
        (AWAY | LONG_AGO, True, "running"),
        (AWAY | LONG_AGO, False, "gone"),
        ({"ended": "done"}, False, "ended"),
        (AWAY | {"ended": "it was stopped"}, False, "ended"),
    ],
)
def test_whether_the_driver_lives(tmp_path, changes, locked, found):
    (tmp_path / "study.yaml").write_text("name: small\n")
    write_state(tmp_path, state(**changes))
    with (tmp_path / ".lock").open("w") as lock:
        if locked:
            fcntl.flock(lock, fcntl.LOCK_EX)
        told = status(tmp_path, NOW)
    assert told.driver.state == found
    assert (told.seconds_left is None) == (found != "running")


def test_looking_keeps_nobody_from_running(tmp_path):
    """The lock is free again at once, and was never taken for writing."""
    (tmp_path / "study.yaml").write_text("name: small\n")
    write_state(tmp_path, state())
    (tmp_path / ".lock").touch()
    before = (tmp_path / ".lock").stat().st_mtime_ns
    status(tmp_path, NOW)
    with (tmp_path / ".lock").open("r") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert (tmp_path / ".lock").stat().st_mtime_ns == before


def test_a_run_of_an_older_version_is_told_by_its_tables(run):
    trial(run, "a", ago=100, train_sec=2.0, data_wait_sec=0.0, sample_gradients=100)
    trial(run, "s", ago=100, status="skipped")
    found = status(run, NOW)
    assert (found.driver.state, found.total, found.left, found.done) == ("unknown", None, None, 1)
    assert "no driver has written its progress" in " ".join(in_words(found))


def test_trials_that_lost_files_are_not_done(run):
    """Of four one row is cut and one has no cases; a driver that has ended knew nothing of it."""
    write_state(run, state(ended="done", total=4, done=4, statuses={"ok": 4}, running=()))
    for name in "abcd":
        trial(run, name, ago=100)
    whole = status(run, NOW)
    assert (whole.done, whole.left, whole.lost) == (4, 0, 0)
    assert in_words(whole)[2].endswith(": all is done")
    cut = run / "trials" / "a.parquet"
    cut.write_bytes(cut.read_bytes()[:-60])
    (run / "cases" / "b.parquet").unlink()
    found = status(run, NOW)
    assert (found.done, found.left, found.lost, found.statuses) == (2, 2, 2, {"ok": 2})
    lines = in_words(found)
    assert lines[0] == "small: 2 of 4 trials done, 2 left"
    assert lines[2].startswith(
        "  2 finished trials lost files, or their files are damaged; `medopt"
    )
    assert lines[3].endswith(": all was done")


def test_phases_of_a_search_are_counted_with_it(run):
    write_state(run, state())
    trial(run / "points", "p", ago=1)
    trial(run / "defaults", "q", ago=1)
    assert status(run, NOW).done == 4


def test_what_is_no_run_or_no_state_is_a_sentence(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        status(tmp_path)
    (tmp_path / "study.yaml").write_text("name: small\n")
    for wrong in ("", "{", "[]", '{"version": 1}', '{"__reduce__": "os.system"}'):
        (tmp_path / module.FILE).write_text(wrong)
        with pytest.raises(RunError, match=r"status\.json is damaged or from another version"):
            status(tmp_path)
