"""Checksums of files and of arrays: BLAKE3, a quarter of SHA-256's time on one core (measured)."""

import hashlib
import os
from pathlib import Path

import numpy as np
from blake3 import blake3

from loaders.cases import Array
from loaders.formats.npy import npy_header

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
    return digest if state == _state(path.stat()) else file_hash(path)


def _state(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_ino, state.st_size, state.st_mtime_ns


def npy_hash(array: Array) -> str:
    """Return `file_hash` of the .npy file that holds an array whole, without writing it."""
    digest = blake3(npy_header(array.dtype, array.shape))
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
