"""A shelf: memory in which the processes of a machine leave batches for one another.

A file without a name (memfd_create(2)): it takes memory as it fills, is not of /dev/shm and its
size, and is gone with the last process that has it open, however that one ends. In it stand a ring
of bytes, in which the newest arrays take the place of the oldest, and a ring of entries, which say
where. Only who holds the lock changes either; the kernel takes it from a process that dies
(fcntl(2), record locks). An entry is shown once its arrays are written, and hidden before anything
is written over them, so nobody ever sees half of one.

Nobody waits for long: for the lock LOCK_SEC, for what another makes until its claim runs out.
"""

import fcntl
import logging
import math
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loaders.memory import usable_memory

log = logging.getLogger("medopt.loaders")

# Of the memory that is free, what a shelf may take: half of what trials side by side leave (four
# fifths are theirs, bench.training.room). Assumption.
SHARE = 0.1
# A lock is held while some MB are written: milliseconds. Whoever has it for longer is stopped, or
# swapped out. Assumption.
LOCK_SEC = 1.0
_LOOK_SEC = 2e-4
# Bytes of a ring for each entry, and how many entries there are at most: they are searched whole.
_BYTES_AN_ENTRY, _FEWEST, _MOST = 1 << 14, 64, 1 << 14
# Arrays begin at multiples of it: a line of a cache.
_ALIGNED = 64
# The header: entries, bytes of the ring, bytes that were ever given out, entries that ever were.
_HEADER = 8
_COLUMNS = 6

Key: TypeAlias = tuple[int, int]
Arrays: TypeAlias = list[NDArray[Any]]
# The shape and type of each array.
Layout: TypeAlias = Sequence[tuple[tuple[int, ...], np.dtype[Any]]]


class ShelfError(Exception):
    """A shelf cannot be used, and why; what belongs on it can be made all the same."""


class Found(NamedTuple):
    """Arrays from a shelf, the caller's to keep, and the seconds that it took to make them."""

    arrays: Arrays
    seconds: float


class Shelf:
    """A shelf as one process uses it, from any of its threads; open each once a process.

    Keys are 128 bits, and say what the arrays are: one key is never of two contents. Methods raise
    ShelfError where the shelf cannot be used, as where a process that was stopped has the lock.
    """

    def __init__(self, path: str) -> None:
        """Open what `made_shelf` made; raises OSError where there is none."""
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._identity = _identity(self._file)
        self._lock = Lock()
        entries, size = np.frombuffer(os.pread(self._file, 16, 0), dtype=np.int64).tolist()
        self.bytes: int = size
        self._arena = _index_bytes(entries)
        whole = np.frombuffer(mmap.mmap(self._file, self._arena), dtype=np.uint64)
        # Bytes that were ever given out, and entries: both only grow.
        self._given, self._entered = whole[2:3], whole[3:4]
        columns = whole[_HEADER : _HEADER + _COLUMNS * entries].reshape(_COLUMNS, entries)
        self._low, self._high, self._start, self._size = columns[:4]
        # Until when (CLOCK_MONOTONIC, one for all processes) somebody makes it; inf: it is there.
        self._until = columns[4].view(np.float64)
        self._seconds = columns[5].view(np.float64)

    def close(self) -> None:
        """Close it in this process."""
        os.close(self._file)

    def take(self, key: Key, layout: Layout) -> Found | None:
        """Return a copy of what stands under a key, None where nothing does (any more)."""
        with self._held():
            row = self._row(key)
            if row is None or not self._there(row):
                return None
            start, seconds = int(self._start[row]), float(self._seconds[row])
            if int(self._size[row]) != _bytes_of(layout):
                raise ShelfError(f"it has {self._size[row]} bytes for {_bytes_of(layout)}")
        arrays = [np.empty(shape, kind) for shape, kind in layout]
        with _told():
            where = self._arena + start % self.bytes
            for array in arrays:
                _read(self._file, array, where)
                where += _aligned(array.nbytes)
        with self._held():
            # Written over in the meantime?
            return Found(arrays, seconds) if self._stands(start) else None

    def claim(self, key: Key, seconds: float) -> bool:
        """Return whether the caller is to make what belongs under a key; others wait so long.

        False where it stands there, or another makes it.
        """
        with self._held():
            row = self._row(key)
            if row is None:
                row = self._new(key)
            elif self._there(row) or monotonic() < self._until[row] < math.inf:
                return False
            self._until[row] = monotonic() + seconds
            return True

    def put(self, key: Key, arrays: Arrays, seconds: float) -> None:
        """Put arrays under a key, in the place of the oldest; what has no room is left out."""
        size = sum(_aligned(array.nbytes) for array in arrays)
        if size > self.bytes:
            return
        with self._held():
            row = self._row(key)
            if row is None:
                row = self._new(key)
            elif self._there(row):
                return
            self._until[row] = 0.0
            start = int(self._given[0])
            if start % self.bytes + size > self.bytes:
                start += self.bytes - start % self.bytes
            # From here on nobody takes what stood there.
            self._given[0] = start + size
            where = self._arena + start % self.bytes
            for array in arrays:
                _write(self._file, array, where)
                where += _aligned(array.nbytes)
            self._start[row], self._size[row], self._seconds[row] = start, size, seconds
            self._until[row] = math.inf

    def _row(self, key: Key) -> int | None:
        for row in np.flatnonzero(self._low == key[0]).tolist():
            if int(self._high[row]) == key[1]:
                return int(row)
        return None

    def _new(self, key: Key) -> int:
        row = int(self._entered[0]) % len(self._low)
        self._until[row] = 0.0
        self._entered[0] += 1
        self._low[row], self._high[row] = key
        return row

    def _there(self, row: int) -> bool:
        return float(self._until[row]) == math.inf and self._stands(int(self._start[row]))

    def _stands(self, start: int) -> bool:
        return int(self._given[0]) <= start + self.bytes

    @contextmanager
    def _held(self) -> Iterator[None]:
        until = monotonic() + LOCK_SEC
        if not self._lock.acquire(timeout=LOCK_SEC):
            raise ShelfError(f"another thread has had its lock for {LOCK_SEC:g} s")
        try:
            with _told():
                # A user's code may close every descriptor, and another file get the number.
                if _identity(self._file) != self._identity:
                    raise ShelfError("its file was closed")
                while not self._locked():
                    if monotonic() > until:
                        raise ShelfError(f"another process has had its lock for {LOCK_SEC:g} s")
                    sleep(_LOOK_SEC)
                try:
                    yield
                finally:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1)
        finally:
            self._lock.release()

    def _locked(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except (BlockingIOError, PermissionError):
            return False
        return True


@contextmanager
def made_shelf(size: int) -> Iterator[str | None]:
    """Make a shelf of so many bytes; give the path by which this machine's processes open it.

    Only those of the same user, while the block lasts; whoever has it open by then keeps it. None
    where the system has no such files: Linux alone has.
    """
    size -= size % mmap.PAGESIZE
    entries = min(max(size // _BYTES_AN_ENTRY, _FEWEST), _MOST)
    try:
        file = os.memfd_create("medoptbench", os.MFD_CLOEXEC)
    except (AttributeError, OSError) as error:
        log.info("trials side by side share no batches: %s", error)
        yield None
        return
    try:
        os.ftruncate(file, _index_bytes(entries) + size)
        os.pwrite(file, np.array([entries, size], dtype=np.int64).tobytes(), 0)
        yield str(Path("/proc", str(os.getpid()), "fd", str(file)))
    finally:
        os.close(file)


def size_by_memory() -> int:
    """Return the bytes that a shelf may have: a share of the memory that is free."""
    return int(SHARE * usable_memory())


def _index_bytes(entries: int) -> int:
    used = 8 * (_HEADER + _COLUMNS * entries)
    return -(-used // mmap.PAGESIZE) * mmap.PAGESIZE


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _bytes_of(layout: Layout) -> int:
    return sum(_aligned(math.prod(shape) * kind.itemsize) for shape, kind in layout)


def _identity(file: int) -> tuple[int, int]:
    known = os.fstat(file)
    return known.st_dev, known.st_ino


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShelfError(str(error)) from error


# Not through a mapping: what a process has mapped would count as memory of its trial.
def _read(file: int, array: NDArray[Any], where: int) -> None:
    left = array.reshape(-1).view(np.uint8).data
    while len(left):
        done = os.preadv(file, [left], where)
        if not done:
            raise ShelfError("it ends before its arrays do")
        left, where = left[done:], where + done


def _write(file: int, array: NDArray[Any], where: int) -> None:
    left = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while len(left):
        done = os.pwrite(file, left, where)
        left, where = left[done:], where + done
