"""A run in object storage: what others see of it, and when; what a storage that fails costs."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from bench.core.references import StudyError
from bench.storage import lease, run_keeper
from bench.storage.lease import LeaseLost
from bench.storage.objects import StorageError, opened
from bench.storage.run_copy import readable
from bench.storage.run_keeper import driven
from results.tables import store
from tests.bench.storage.servers import CUT, GONE, PASS, elsewhere

ROOT = Path(__file__).resolve().parents[3]


def write(folder: Path, n: int, status: str = "ok") -> None:
    """Write a trial as a queue does: a row in each table."""
    store.write_trial(
        folder,
        trial={"trial_id": f"trial{n:03d}", "status": status, "test_score": n / 7},
        metrics=[{"metric": "auc", "value": n / 7}],
        epochs=[{"epoch": 1}],
        cases=[{"case_id": f"case{k}"} for k in range(5)],
        footer={"numerics": 4},
    )


def rows(folder: Path) -> dict[str, list[dict]]:
    return {table: store.read(folder, table).to_pylist() for table in store.TABLES}


def wait_for(true, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


@pytest.fixture
def there(address, monkeypatch, tmp_path):
    """Return a function that says what another machine reads at the address."""

    def read() -> dict[str, list[dict]]:
        with monkeypatch.context() as other:
            elsewhere(other, tmp_path / "other")
            return rows(readable(address))

    return read


def test_another_machine_reads_what_was_written(storage, address, there):
    with driven(address) as run:
        write(run.folder, 0)
        (run.folder / "points").mkdir()
        write(run.folder / "points", 1)
        (run.folder / "study.yaml").write_text("name: x\n")
    assert there() == rows(run.folder)
    assert there()["trials"][0]["trial_id"] == "trial000"
    names = opened(address).listed("")
    assert {"study.yaml", "trials/trial000.parquet", "points/cases/trial001.parquet"} <= set(names)
    assert not [name for name in names if "lock" in name or "writing" in name]


def test_rows_that_were_merged_are_there_once(storage, address, there):
    with driven(address) as run:
        for n in range(4):
            write(run.folder, n)
        wait_for(lambda: len(opened(address).listed("trials/")) == 4)
        assert len(there()["trials"]) == 4
        store.compact(run.folder, at_least=2)
        write(run.folder, 4)
    assert {n.split(".")[0] for n in opened(address).listed("trials/")} == {
        "trials/part",
        "trials/trial004",
    }
    assert there() == rows(run.folder)
    assert len(there()["trials"]) == 5


def test_a_trial_is_never_there_without_its_other_rows(storage, address, there):
    """What is put last is its row in `trials/`, one object in one request."""
    with driven(address) as run:
        for n in range(3):
            write(run.folder, n)
    puts = [path for method, path, _ in storage.seen if method == "PUT" and "trial0" in path]
    for n in range(3):
        own = [path.split("/")[-2] for path in puts if f"trial{n:03d}" in path]
        assert sorted(own) == ["cases", "epochs", "metrics", "trials"]
        assert own[-1] == "trials"


def test_a_write_that_is_cut_in_its_middle_shows_no_finished_trial(storage, address, there):
    def rule(method: str, path: str) -> str:
        return CUT if method == "PUT" and "/trials/" in path else PASS

    with driven(address) as run:
        (run.folder / "study.yaml").write_text("name: x\n")
        storage.rule = rule
        write(run.folder, 0)
        wait_for(lambda: sum(what == CUT for *_, what in storage.seen) > 1)
        assert list(opened(address).listed("cases/")) == ["cases/trial000.parquet"]
        assert there()["trials"] == []
        storage.rule = lambda *_: PASS
        wait_for(lambda: len(there()["trials"]) == 1)
    assert there() == rows(run.folder)


@pytest.mark.parametrize("fault", [500, 503, GONE], ids=str)
@pytest.mark.parametrize(
    "seconds", [1.0, pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_a_storage_that_is_away_for_a_while_costs_no_trial(
    storage, address, there, fault, seconds, caplog
):
    """The trials of that while are written here meanwhile, and put there after it."""
    with driven(address) as run:
        write(run.folder, 0)
        wait_for(lambda: opened(address).listed("trials/"))
        storage.rule = lambda *_: fault
        until, n = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            n += 1
            write(run.folder, n)
            run.check()
            time.sleep(seconds / 10)
        # The run ends while the storage is still away: its end waits for it.
        Thread(target=lambda: (time.sleep(1), setattr(storage, "rule", lambda *_: PASS))).start()
    assert len(there()["trials"]) == n + 1
    assert there() == rows(run.folder)
    assert "the run goes on; its files wait" in caplog.text


def test_a_run_whose_storage_stays_away_is_kept_here_and_goes_there_later(
    storage, address, there, monkeypatch
):
    monkeypatch.setattr(run_keeper, "CLOSE_SEC", 1.0)

    def drive() -> None:
        with driven(address) as run:
            storage.rule = lambda *_: GONE
            write(run.folder, 0)

    with pytest.raises(OSError, match=r"did not reach s3://.* the same command on this machine"):
        drive()
    storage.rule = lambda *_: PASS
    with driven(address) as again:
        assert len(rows(again.folder)["trials"]) == 1
    assert len(there()["trials"]) == 1


def test_a_driver_that_was_killed_goes_on_with_what_had_not_been_put(storage, address, there):
    code = f"""
import os
from bench.storage import run_keeper
from tests.bench.storage.test_runs import write
run_keeper.LOOK_SEC = 1e6
with run_keeper.driven({address!r}) as run:
    write(run.folder, 7)
    os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert not opened(address).listed("trials/")
    with driven(address) as run:  # at once: this machine knows that it is gone
        assert [row["trial_id"] for row in rows(run.folder)["trials"]] == ["trial007"]
    assert there() == rows(run.folder)


@pytest.mark.slow
def test_what_the_driver_removed_while_it_could_not_say_so_goes_when_it_comes_back(
    storage, address
):
    with driven(address) as run:
        (run.folder / "checkpoints").mkdir()
        (run.folder / "checkpoints" / "a.pt").write_bytes(b"state")
        (run.folder / "weights").mkdir()
        (run.folder / "weights" / "a.pt").write_bytes(b"weights")
    (run.folder / "checkpoints" / "a.pt").unlink()
    with driven(address):
        pass
    assert not opened(address).listed("checkpoints/")
    assert list(opened(address).listed("weights/")) == ["weights/a.pt"]


def test_the_state_of_a_trial_in_training_goes_to_the_next_machine(
    storage, address, monkeypatch, tmp_path
):
    with driven(address) as run:
        (run.folder / "checkpoints").mkdir()
        (run.folder / "checkpoints" / "a.pt").write_bytes(b"state")
        wait_for(lambda: opened(address).listed("checkpoints/"))
    elsewhere(monkeypatch, tmp_path / "other")
    with driven(address) as next_:
        assert next_.folder != run.folder
        assert (next_.folder / "checkpoints" / "a.pt").read_bytes() == b"state"


def test_of_two_drivers_the_second_is_refused(storage, address, monkeypatch, tmp_path):
    with driven(address) as run:
        here = pytest.raises(StudyError, match="another process on this machine is running it")
        with here, driven(address):
            pass
        elsewhere(monkeypatch, tmp_path / "other")
        told = rf"process {os.getpid()} on .* runs it, as of"
        with pytest.raises(StudyError, match=told), driven(address):
            pass
        write(run.folder, 0)
    with driven(address) as next_:  # it ended, and said so
        assert len(rows(next_.folder)["trials"]) == 1


def test_of_two_that_begin_at_once_one_is_refused(storage, address, monkeypatch):
    """Both have seen that nobody runs it; the second finds that the first was quicker."""
    at = opened(address)
    lease.take(at, None)
    unaware = [{}]  # its first look came before the other's lease

    def listed(begin: str) -> dict:
        return unaware.pop() if unaware else at.listed(begin)

    late = replace(at, listed=listed)
    with pytest.raises(StudyError, match="another process has just started to run it"):
        lease.take(late, None)
    assert list(at.listed(lease.FOLDER)) == [".driver/000001.json"]


def test_who_came_back_late_finds_another_and_writes_no_more(
    storage, address, monkeypatch, tmp_path, there
):
    monkeypatch.setattr(run_keeper, "RENEW_SEC", 0.1)

    def drive_slowly() -> None:
        with driven(address) as slow:
            storage.rule = lambda *_: GONE  # its network, as it is for it
            write(slow.folder, 0)
            time.sleep(0.3)
            # Nothing was heard of it for two minutes.
            monkeypatch.setattr(lease, "SILENT_SEC", 0.0)
            with monkeypatch.context() as other:
                elsewhere(other, tmp_path / "other")
                other.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{storage.upstream}")
                with driven(address) as quick:
                    write(quick.folder, 1)
            storage.rule = lambda *_: PASS
            while True:
                slow.check()
                time.sleep(0.05)

    with pytest.raises(LeaseLost, match="another driver has taken this run over"):
        drive_slowly()
    assert [row["trial_id"] for row in there()["trials"]] == ["trial001"]


@pytest.mark.slow
def test_who_drives_it_here_is_read_where_it_is_driven(storage, address):
    with driven(address) as run:
        storage.rule = lambda *_: GONE
        write(run.folder, 0)
        assert readable(address) == run.folder
        storage.rule = lambda *_: PASS


def test_where_nothing_is_there_is_no_run(storage, address):
    with pytest.raises(StorageError, match=r"s3://.* holds no run"):
        readable(address)
    assert not list(readable(address, begun=False).iterdir())


def test_what_others_put_there_stays_inside_the_copy(storage, address, tmp_path, monkeypatch):
    at = opened(address)
    for name in ("../outside", ".driver/x", "a//b", "a/../../c", ".in_hand.process"):
        at.create(name, b"x")
    at.create("study.yaml", b"name: x\n")
    elsewhere(monkeypatch, tmp_path / "other")
    folder = readable(address)
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["study.yaml"]
    assert not list((tmp_path / "other").rglob("outside"))


def test_a_lease_tells_no_more_than_who_has_it(storage, address):
    with driven(address):
        (name,) = opened(address).listed(lease.FOLDER)
        said = json.loads(opened(address).read(name))
    assert sorted(said) == ["ended", "host", "process", "token"]
