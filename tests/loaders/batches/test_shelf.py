"""A shelf: what is taken is what was put, whoever dies, stops, hurries or sleeps meanwhile."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from loaders.batches import shelf as module
from loaders.batches.shelf import Paths, Shelf, ShelfError, made_shelf
from loaders.memory import usable_memory
from tests.loaders.batches.shelved import LAYOUT, arrays, holders, key, same

ROOT = Path(__file__).resolve().parents[3]
SMALL = 1 << 20


@pytest.fixture
def path():
    with made_shelf(SMALL) as made:
        yield made


def test_what_is_taken_is_what_was_put_and_ones_own(path):
    one, other = Shelf(path), Shelf(path)
    assert other.take(key(1), LAYOUT) is None
    one.put(key(1), arrays(1), 0.5)
    found = other.take(key(1), LAYOUT)
    assert same(found.arrays, 1)
    assert found.seconds == 0.5
    found.arrays[0][:] = 0
    assert same(one.take(key(1), LAYOUT).arrays, 1)


def test_what_is_held_is_not_written_over_and_what_is_let_go_is(path, monkeypatch):
    """By pages of its own, which writers go round; what its holder writes there is its alone."""
    monkeypatch.setattr(module, "_PINNED_BYTES", 1)
    shelf = Shelf(path)
    shelf.put(key(0), arrays(0), 0.0)
    held, written = shelf.take(key(0), LAYOUT).arrays, shelf.take(key(0), LAYOUT).arrays
    assert sum(end > 0 for _, end in shelf._pins.reshape(-1, 2).tolist()) == 2
    written[0][:] = -1
    for number in range(1, 3 * SMALL // 6000):
        shelf.put(key(number), arrays(number), 0.0)
        assert same(shelf.take(key(number), LAYOUT).arrays, number)
    assert same(held, 0)
    assert (written[0] == -1).all()
    del held, written
    assert not shelf._pins[:, :, 1].any()
    # More than there are pins for are copies.
    many = [shelf.take(key(number), LAYOUT) for _ in range(module._PINS + 3)]
    assert all(same(found.arrays, number) for found in many)


DIES = """
import os, sys
from loaders.batches import shelf as module
from tests.loaders.batches.shelved import LAYOUT, key

module._PINNED_BYTES = 1
held = module.Shelf(sys.argv[1].split()).take(key(1), LAYOUT)
os.kill(os.getpid(), 9)
"""


def test_pins_of_the_dead_are_taken_away(path):
    shelf = Shelf(path)
    shelf.put(key(1), arrays(1), 0.0)
    code = [sys.executable, "-c", DIES, " ".join(path)]
    assert subprocess.run(code, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert shelf._pins[:, :, 1].any()
    shelf.put(key(2), arrays(2), 0.0)
    assert not shelf._pins[:, :, 1].any()


def test_the_newest_take_the_place_of_the_oldest(path):
    shelf = Shelf(path)
    count = 3 * SMALL // 6000
    for number in range(count):
        shelf.put(key(number), arrays(number), 0.0)
        assert same(shelf.take(key(number), LAYOUT).arrays, number)
    there = [n for n in range(count) if shelf.take(key(n), LAYOUT) is not None]
    # What is there are the last, and as many as entries (64 KiB and more: one for 16 KiB) hold.
    assert there == list(range(count - len(there), count))
    assert len(there) == 64
    shelf.put(key(0), [np.zeros(SMALL, np.float32)], 0.0)  # larger than the shelf
    assert shelf.take(key(0), LAYOUT) is None


def test_one_makes_it_and_others_wait_until_its_claim_runs_out(path):
    shelf = Shelf(path)
    assert shelf.claim(key(1), 0.2)
    assert not shelf.claim(key(1), 0.2)
    time.sleep(0.25)
    assert shelf.claim(key(1), 60)  # whoever had it is dead, or slow
    shelf.put(key(1), arrays(1), 0.0)
    assert not shelf.claim(key(1), 60)
    for number in range(2, 200):
        shelf.put(key(number), arrays(number), 0.0)
    assert shelf.claim(key(1), 60)  # it has fallen off


def test_what_is_written_over_while_it_is_copied_is_not_given(path, monkeypatch):
    shelf, other = Shelf(path), Shelf(path)
    shelf.put(key(0), arrays(0), 0.0)
    read = module._read

    def slowly(file, array, where) -> None:
        for number in range(1, 200):
            other.put(key(number), arrays(number), 0.0)
        read(file, array, where)

    monkeypatch.setattr(module, "_read", slowly)
    assert shelf.take(key(0), LAYOUT) is None


HALF = """
import os, signal, sys
from loaders.batches import shelf as module
from tests.loaders.batches.shelved import arrays, key

def half(file, array, where):
    os.pwrite(file, array.tobytes()[: array.nbytes // 2], where)
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))

shelf = module.Shelf(sys.argv[1].split())
assert shelf.claim(key(1), 60)
module._write = half
shelf.put(key(1), arrays(1), 0.0)
"""


def halfway(path: Paths, how: str) -> subprocess.Popen[bytes]:
    """Start a process that gets this signal from itself when an array is half written."""
    return subprocess.Popen([sys.executable, "-c", HALF, " ".join(path), how], cwd=ROOT)


def test_what_a_killed_process_had_half_written_is_never_seen(path):
    shelf = Shelf(path)
    shelf.put(key(0), arrays(0), 0.0)
    assert halfway(path, "SIGKILL").wait() == -signal.SIGKILL
    assert shelf.take(key(1), LAYOUT) is None
    assert shelf.claim(key(1), 60)  # at once: the claim ended with the beginning of the writing
    shelf.put(key(1), arrays(1), 0.0)
    assert all(same(shelf.take(key(n), LAYOUT).arrays, n) for n in (0, 1))


def test_a_stopped_process_that_has_the_lock_holds_nobody_up(path, monkeypatch):
    monkeypatch.setattr(module, "LOCK_SEC", 0.1)
    shelf = Shelf(path)
    child = halfway(path, "SIGSTOP")
    try:
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(ShelfError, match=r"^another process has held its lock for 0\.1 s$"):
            shelf.take(key(1), LAYOUT)
    finally:
        child.kill()
        child.wait()
    assert shelf.take(key(1), LAYOUT) is None


def test_a_descriptor_that_became_another_files_is_not_used(path, tmp_path):
    shelf = Shelf(path)
    shelf.put(key(1), arrays(1), 0.0)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, shelf._file)
    with pytest.raises(ShelfError, match="its file was closed"):
        shelf.take(key(1), LAYOUT)
    os.close(shelf._file)
    with pytest.raises(ShelfError, match="Bad file descriptor"):
        shelf.put(key(2), arrays(2), 0.0)
    assert os.fstat(other).st_size == 0


def test_it_takes_no_more_than_a_tenth_of_what_is_free_and_only_as_it_fills():
    size = module.size_by_memory()
    assert 0 < size <= 0.11 * usable_memory()
    with made_shelf(1 << 40) as path:  # a TiB costs nothing while it is empty
        shelf = Shelf(path)
        shelf.put(key(1), arrays(1), 0.0)
        assert os.fstat(shelf._ring).st_blocks * 512 < 1 << 22
    assert same(shelf.take(key(1), LAYOUT).arrays, 1)  # who has it open keeps it
    with pytest.raises(FileNotFoundError):
        Shelf(path)


def test_where_the_system_has_no_such_files_there_is_none(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with made_shelf(SMALL) as path:
        assert path is None


READER = """
import random, sys, time
from loaders.batches import shelf as module
from loaders.batches.shelf import Shelf
from tests.loaders.batches.shelved import LAYOUT, arrays, key, same

module._PINNED_BYTES = int(sys.argv[4])
shelf, drawn = Shelf(sys.argv[1].split()), random.Random(int(sys.argv[2]))
pace, taken = drawn.choice([0, 0, 0.002]), 0
until = time.monotonic() + float(sys.argv[3])
print("begun", flush=True)
while time.monotonic() < until:
    number = drawn.randrange(150)
    found = shelf.take(key(number), LAYOUT)
    if found is not None:
        taken += 1
        assert same(found.arrays, number), number
    elif shelf.claim(key(number), 0.05):
        shelf.put(key(number), arrays(number), 0.0)
    time.sleep(pace)
assert taken
"""


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_readers_of_any_speed_that_are_killed_at_random(path, kills):
    """Six at once take, claim and put without order; each that is killed is replaced."""
    drawn = random.Random(kills)
    seconds = 2.0 + 0.3 * kills

    def started(seed: int) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            READER,
            " ".join(path),
            str(seed),
            str(seconds),
            str(seed % 2 * SMALL),
        ]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    readers = [started(seed) for seed in range(6)]
    for seed in range(kills):
        nth = drawn.randrange(len(readers))
        assert readers[nth].stdout.readline() == b"begun\n"
        time.sleep(0.3 * drawn.random())
        readers[nth].kill()
        readers[nth].communicate()
        readers[nth] = started(6 + seed)
    for reader in readers:
        reader.communicate()
    assert [reader.returncode for reader in readers] == [0] * 6
    # Nothing holds its memory but this process, which is about to let it go.
    assert holders(path) == {os.getpid()}
