"""Numpy's .npy files: memory-mapped to read; written as a stream and synced to disk at the end."""

import os
import threading
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from loaders.cases import Array
from loaders.formats.large_file import write_parts

# numpy parses headers with Python's parser, and CPython before 3.11.9 and 3.12.3 counts the depth
# of parsing for all threads together: two that parse at once may end in a SystemError (its issue
# 106905; seen once).
_PARSING = threading.Lock()


_MAGIC, _VERSION_1 = b"\x93NUMPY", b"\x01\x00"


def open_npy(path: Path) -> Array:
    """Map the array of a file; raises OSError, ValueError or EOFError if it is not one.

    Equal headers are parsed once: numpy's parsing takes 0.6 ms, ten times as long as opening, and a
    trial opens thousands of files of a few shapes (measured).
    """
    with path.open("rb") as file:
        start = file.read(10)
        header = start + file.read(int.from_bytes(start[8:], "little"))
    if not start.startswith(_MAGIC + _VERSION_1):
        with _PARSING:
            array: Array = np.lib.format.open_memmap(path, mode="r")
        return array
    shape, order, dtype = _described(header)
    return np.memmap(path, dtype, "r", len(header), shape, order)


@lru_cache(maxsize=1024)
def _described(header: bytes) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    with _PARSING:
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(BytesIO(header[8:]))
    if dtype.hasobject:
        raise ValueError(f"it holds Python objects ({dtype}), which are not read")
    return shape, "F" if by_columns else "C", dtype


@lru_cache(maxsize=256)
def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the bytes before the numbers in the file of an array in C order."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
        },
    )
    return header.getvalue()


def array_bytes(array: Array) -> memoryview:
    """Return the numbers of an array as in a file, in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class ArrayFile:
    """A new .npy file: one array, or (`grow`) a stack of arrays of equal shape and type.

    The number of rows is known only at the end; numpy's header leaves room for it.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], *, grow: bool):
        self.path = path
        self.rows = 0
        self._dtype = dtype
        self._shape = shape
        self._grow = grow
        self._file = path.open("xb")
        if grow:
            self._write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fits(self, array: Array) -> bool:
        """Tell whether an array has the file's shape and type."""
        return array.shape == self._shape and array.dtype == self._dtype

    def append(self, array: Array) -> int | None:
        """Write an array of the file's shape and type; return its row, None if it is the file."""
        if array.shape != self._shape or (self.rows and not self._grow):
            raise ValueError(f"an array of {array.shape} does not fit a file of {self._shape}")
        # Not tofile(): on a full disk that raises an OSError without its number.
        content = array_bytes(array.astype(self._dtype, copy=False))
        self.rows += 1
        if self._grow:
            self._file.write(content)
            return self.rows - 1
        write_parts(self._file, [npy_header(self._dtype, self._shape), content])
        return None

    def close(self) -> None:
        """Finish the header and sync the file to disk."""
        if self._file.closed:
            return
        with self._file:
            if self._grow:
                self._file.seek(0)
                self._write_header()
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        self._file.write(npy_header(self._dtype, (self.rows, *self._shape)))
