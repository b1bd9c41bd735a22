"""Checksums of files and of arrays: BLAKE3, a quarter of SHA-256's time on one core (measured)."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from loaders.cases import Array
from loaders.formats.npy import array_bytes, npy_header

# State and hash of files that were read, until they are asked for.
_read: dict[Path, tuple[tuple[int, int, int], str]] = {}
# More than the slices of a series; those of a case that is refused are never asked for.
_REMEMBERED = 4096


def file_hash(path: Path) -> str:
    """Return the BLAKE3 hash of a file's content, 64 hex digits; raises OSError."""
    with path.open("rb") as file:
        # Its type lacks attributes that file_digest does not ask for.
        return hashlib.file_digest(file, blake3).hexdigest()  # type: ignore[arg-type]  # the stub wants hashlib's own constructors


def read_hashed(path: Path) -> bytes:
    """Return a file's content, whose hash `source_hash` will then know; raises OSError.

    To read it for that once more would take longer than to hash it (measured).
    """
    with path.open("rb", buffering=0) as file:
        state = _state(os.fstat(file.fileno()))
        content = file.read()
    if len(_read) >= _REMEMBERED:
        _read.clear()
    _read[path] = state, blake3(content).hexdigest()
    return content


def source_hash(path: Path) -> str:
    """Return `file_hash`, once without reading after `read_hashed`; raises OSError."""
    state, digest = _read.pop(path, (None, ""))
    return digest if state == file_state(path) else file_hash(path)


def file_state(path: Path) -> tuple[int, int, int]:
    """Return what is another once a file is written anew; raises OSError."""
    return _state(path.stat())


def _state(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_ino, state.st_size, state.st_mtime_ns


def write_hashed(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Write a new file, put it on the disk and return its `file_hash`; raises OSError.

    To read it for that once more would take longer than to hash it (measured).
    """
    digest = blake3()
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def npy_hash(array: Array) -> str:
    """Return `file_hash` of the .npy file that holds an array whole, without writing it."""
    digest = blake3(npy_header(array.dtype, array.shape))
    digest.update(array_bytes(array))
    return digest.hexdigest()
