"""A shelf: memory in which the processes of a machine share batches.

It consists of two files without names (memfd_create(2)). They take memory as they fill, do not
count towards the size of /dev/shm, and vanish with the last process that has them open, however it
ends. One is a ring of bytes, in which the newest arrays replace the oldest; the other holds entries
with their places. Only the holder of the lock changes either; the kernel releases the lock of a
process that dies (fcntl(2), record locks). An entry becomes visible once its arrays are written,
and is hidden before anything overwrites them, so nobody ever sees a partial one.

Large arrays are not copied: a reader maps private pages (mmap(2), so its writes stay its own) and
pins them, and writers skip pinned bytes. A process holds a seat while it lives, by a lock too, so
that the pins of a dead process are recognized and removed.

Nobody waits for long: LOCK_SEC for the lock, and for another's batch until its claim expires.
"""

import fcntl
import logging
import math
import mmap
import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loaders.memory import usable_memory

log = logging.getLogger("medopt.loaders")

# The share of free memory that a shelf may take: half of what trials side by side leave (four
# fifths are theirs, bench.training.room). An assumption.
SHARE = 0.1
# A lock is held while some MB are written: milliseconds. A process that holds it longer is stopped
# or swapped out (assumption).
LOCK_SEC = 1.0
_LOOK_SEC = 2e-4
# The most processes with pins, and pins of each; beyond them, arrays are copied (assumptions).
_SEATS, _PINS = 64, 16
# Copying smaller arrays takes less time than mapping pages (assumption).
_PINNED_BYTES = 1 << 18
# Bytes of a ring per entry, and the most entries: a search goes through all of them.
_BYTES_AN_ENTRY, _FEWEST, _MOST = 1 << 14, 64, 1 << 14
# Arrays begin at multiples of this, a cache line. Those of an entry are contiguous, on pages.
_ALIGNED = 64
# The header: entries, bytes of the ring, bytes and entries ever allocated. Then come the pins, each
# with start and end. Whoever reads or changes anything locks byte 0; the bytes after it are seats,
# each locked by its process.
_HEADER = 8
_PIN_WORDS = 2 * _SEATS * _PINS
_COLUMNS = 6

Key: TypeAlias = tuple[int, int]
Arrays: TypeAlias = list[NDArray[Any]]
# The paths of the two files.
Paths: TypeAlias = tuple[str, str]
# The shape and type of each array.
Layout: TypeAlias = Sequence[tuple[tuple[int, ...], np.dtype[Any]]]


class ShelfError(Exception):
    """The reason why a shelf cannot be used; its batches can still be made."""


class Found(NamedTuple):
    """Arrays from a shelf, which the caller may keep, and the seconds that making them took."""

    arrays: Arrays
    seconds: float


class Shelf:
    """A shelf in one process, for all its threads; open each once per process.

    Keys have 128 bits and identify the arrays: a key never has two contents. Methods raise
    ShelfError if the shelf cannot be used, such as when a stopped process holds the lock.
    """

    def __init__(self, paths: Paths) -> None:
        """Open what `made_shelf` made; raises OSError if there is none."""
        self._file, self._ring = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in paths)
        self._identity = self._files()
        self._process = os.getpid()
        self._lock = Lock()
        entries, size = np.frombuffer(os.pread(self._file, 16, 0), dtype=np.int64).tolist()
        self.bytes: int = size
        whole = np.frombuffer(mmap.mmap(self._file, _index_bytes(entries)), dtype=np.uint64)
        # Bytes and entries ever allocated: both only grow.
        self._given, self._entered = whole[2:3], whole[3:4]
        pins, rest = np.split(whole[_HEADER:], [_PIN_WORDS])
        self._pins = pins.reshape(_SEATS, _PINS, 2)
        self._seat = next((seat for seat in range(_SEATS) if self._locked(1 + seat)), None)
        self._free_pins = deque(range(_PINS) if self._seat is not None else ())
        if self._seat is not None:
            self._pins[self._seat] = 0
        columns = rest[: _COLUMNS * entries].reshape(_COLUMNS, entries)
        self._low, self._high, self._start, self._size = columns[:4]
        # The time (CLOCK_MONOTONIC, common to all processes) until which a process makes the entry;
        # inf: it is there.
        self._until = columns[4].view(np.float64)
        self._seconds = columns[5].view(np.float64)

    def close(self) -> None:
        """Close it in this process."""
        os.close(self._file)
        os.close(self._ring)

    def take(self, key: Key, layout: Layout) -> Found | None:
        """Return the arrays of a key, None if there are none (any more)."""
        with self._held():
            row = self._row(key)
            if row is None or not self._there(row):
                return None
            start, seconds = int(self._start[row]), float(self._seconds[row])
            if int(self._size[row]) != bytes_of(layout):
                raise ShelfError(f"it has {self._size[row]} bytes for {bytes_of(layout)}")
            size = int(self._size[row])
            pin = self._pinned(start, size)
        if pin is not None:
            return Found(self._viewed(start % self.bytes, size, layout, pin), seconds)
        arrays = [np.empty(shape, kind) for shape, kind in layout]
        with _told():
            where = start % self.bytes
            for array in arrays:
                _read(self._ring, array, where)
                where += _aligned(array.nbytes)
        with self._held():
            # It may have been overwritten in the meantime.
            return Found(arrays, seconds) if self._stands(start) else None

    def _pinned(self, start: int, size: int) -> int | None:
        """Keep others from overwriting an entry; return the number of the pin, None: copy it."""
        if size < _PINNED_BYTES or not self._free_pins:
            return None
        pin = self._free_pins.popleft()
        at = start % self.bytes
        self._pins[self._seat, pin] = at, at + size
        return pin

    def _unpin(self, pin: int) -> None:
        # A forked copy of the process releases only its own pages.
        if os.getpid() == self._process:
            self._pins[self._seat, pin, 1] = 0
            self._free_pins.append(pin)

    def _viewed(self, at: int, size: int, layout: Layout, pin: int) -> Arrays:
        """Return arrays on pages of the ring, which stay unchanged while an array exists."""
        try:
            pages = mmap.mmap(
                self._ring,
                size,
                flags=mmap.MAP_PRIVATE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
                offset=at,
            )
        except OSError as error:
            self._unpin(pin)
            raise ShelfError(str(error)) from error
        weakref.finalize(pages, self._unpin, pin).atexit = False
        arrays, where = [], 0
        for shape, kind in layout:
            flat = np.frombuffer(pages, dtype=kind, count=math.prod(shape), offset=where)
            arrays.append(flat.reshape(shape))
            where += _aligned(flat.nbytes)
        return arrays

    def claim(self, key: Key, seconds: float) -> bool:
        """Return whether the caller should make the arrays of a key; others wait for `seconds`.

        False if they are there, or another process is making them.
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
        """Store arrays under a key in place of the oldest; arrays without room are left out."""
        size = _pages(sum(_aligned(array.nbytes) for array in arrays))
        with self._held():
            row = self._row(key)
            if row is None:
                row = self._new(key)
            elif self._there(row):
                return
            self._until[row] = 0.0
            start = self._place(size)
            if start is None:
                return
            # From here on, nobody takes the arrays that were there.
            self._given[0] = start + size
            where = start % self.bytes
            for array in arrays:
                _write(self._ring, array, where)
                where += _aligned(array.nbytes)
            self._start[row], self._size[row], self._seconds[row] = start, size, seconds
            self._until[row] = math.inf

    def _place(self, size: int) -> int | None:
        """Return where the next bytes go, past pinned ones; None: there is no room.

        The place is counted in bytes ever allocated; the place in the ring is the remainder.
        """
        given = start = int(self._given[0])
        pinned = self._pinned_by_the_living()
        while start + size <= given + self.bytes:
            at = start % self.bytes
            if at + size > self.bytes:
                start += self.bytes - at
                continue
            ends = [end for begin, end in pinned if begin < at + size and at < end]
            if not ends:
                return start
            start += max(ends) - at
        return None

    def _pinned_by_the_living(self) -> list[tuple[int, int]]:
        for seat in np.flatnonzero(self._pins[:, :, 1].any(axis=1)).tolist():
            if seat != self._seat and self._locked(1 + seat):
                self._pins[seat] = 0
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 1 + seat)
        return [(begin, end) for begin, end in self._pins.reshape(-1, 2).tolist() if end]

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
            raise ShelfError(f"another thread has held its lock for {LOCK_SEC:g} s")
        try:
            with _told():
                if os.getpid() != self._process:
                    raise ShelfError("this process was forked from the one that opened it")
                # A user's code may close every descriptor, and another file may get the number.
                if self._files() != self._identity:
                    raise ShelfError("its file was closed")
                while not self._locked(0):
                    if monotonic() > until:
                        raise ShelfError(f"another process has held its lock for {LOCK_SEC:g} s")
                    sleep(_LOOK_SEC)
                try:
                    yield
                finally:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1)
        finally:
            self._lock.release()

    def _files(self) -> list[tuple[int, int]]:
        known = [os.fstat(file) for file in (self._file, self._ring)]
        return [(file.st_dev, file.st_ino) for file in known]

    def _locked(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True


@contextmanager
def made_shelf(size: int) -> Iterator[Paths | None]:
    """Make a shelf of `size` bytes; yield the paths by which this machine's processes open it.

    Only processes of the same user can open it, while the block lasts; those that have it open then
    keep it. None if the system has no such files: only Linux does.
    """
    size -= size % mmap.PAGESIZE
    entries = min(max(size // _BYTES_AN_ENTRY, _FEWEST), _MOST)
    with ExitStack() as opened:
        paths: list[str] = []
        try:
            for length in (_index_bytes(entries), size):
                file = os.memfd_create("medoptbench", os.MFD_CLOEXEC)
                opened.callback(os.close, file)
                os.ftruncate(file, length)
                paths.append(str(Path("/proc", str(os.getpid()), "fd", str(file))))
            with Path(paths[0]).open("r+b") as index:
                index.write(np.array([entries, size], np.int64).tobytes())
        except (AttributeError, OSError) as error:
            log.info("trials side by side do not share batches: %s", error)
            yield None
            return
        yield paths[0], paths[1]


def size_by_memory() -> int:
    """Return the bytes that a shelf may have: a share of the free memory."""
    return int(SHARE * usable_memory())


def _index_bytes(entries: int) -> int:
    return _pages(8 * (_HEADER + _PIN_WORDS + _COLUMNS * entries))


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def bytes_of(layout: Layout) -> int:
    """Return the bytes that arrays take on a shelf."""
    return _pages(sum(_aligned(math.prod(shape) * kind.itemsize) for shape, kind in layout))


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShelfError(str(error)) from error


# Not through a mapping of the whole file: mapped pages count as memory of the trial.
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
