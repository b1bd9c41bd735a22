"""Writing large files directly to disk, if the system can."""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from io import BufferedWriter

# Files of at least this many bytes bypass the cache (assumption); smaller ones are soon read again,
# from memory.
_LARGE = 1 << 22
# Bytes written at once, which fit a core's cache; and the alignment of sizes, memory and file
# offsets: a page, which is at least a block of any disk.
_AT_ONCE, _BLOCK = 1 << 20, 1 << 12


def write_parts(file: BufferedWriter, parts: Sequence[bytes | memoryview]) -> None:
    """Write parts as the whole content of a new file; raises OSError.

    A large file bypasses the page cache (O_DIRECT), where it would displace files still to be read:
    1.3 GB take 0.3 s of CPU and 1.1 s of wall time, against 1.4 to 2.7 s and 1.9 to 3.4 s through
    the cache (measured, including the sync to disk).
    """
    size = sum(map(len, parts))
    if size >= _LARGE and _straight(file.fileno(), on=True):
        try:
            _write_straight(file.fileno(), parts)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The disk has larger blocks: start over, through the cache.
            _straight(file.fileno(), on=False)
            file.seek(0)
            file.truncate()
        else:
            os.ftruncate(file.fileno(), size)
            return
    file.writelines(parts)


def _write_straight(number: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write parts in whole blocks; the last block extends beyond them."""
    buffer = memoryview(mmap.mmap(-1, _AT_ONCE))  # aligned to a page
    for filled in _filled(buffer, parts):
        left = buffer[: -(-filled // _BLOCK) * _BLOCK]
        while len(left):
            left = left[os.write(number, left) :]


def _straight(number: int, *, on: bool) -> bool:
    """Switch the bypass of the page cache on or off; return whether the system supports it."""
    if not hasattr(os, "O_DIRECT"):  # only Linux has it
        return False
    flags = fcntl.fcntl(number, fcntl.F_GETFL)
    try:
        fcntl.fcntl(number, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError:
        return False  # the file system cannot
    return True


def _filled(view: memoryview, parts: Sequence[bytes | memoryview]) -> Iterator[int]:
    """Fill a buffer with parts repeatedly; yield the number of bytes in it each time."""
    at = 0
    for part in parts:
        done = 0
        while done < len(part):
            taken = min(len(part) - done, len(view) - at)
            view[at : at + taken] = part[done : done + taken]
            done, at = done + taken, at + taken
            if at == len(view):
                yield at
                at = 0
    if at:
        yield at
