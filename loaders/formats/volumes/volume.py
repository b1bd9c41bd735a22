"""What is known about a volume of any format before its voxels are read."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip_lib, isal_zlib

from loaders.cases import Array
from loaders.formats.nifti import CHUNK, LARGEST_MM, MAX_BYTES, NiftiError, nib

# A fault of one file, in a message that names no path; one class for all formats.
VolumeError = NiftiError
# A text header takes a few KiB; DICOM fields that some writers add take a few more (assumption).
MAX_HEADER = 1 << 20
# ITK's axes point left, posterior and superior (LPS); NIfTI's right, anterior and superior.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume whose header was read and checked against its file.

    `shape` is (X, Y, Z) or (X, Y, Z, C); `affine` (4, 4) maps voxels to mm, right, anterior,
    superior. `load()` returns the voxels in that shape and raises VolumeError. `beside`
    are other files that hold them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: Array
    load: Callable[[], Array]
    beside: tuple[Path, ...] = ()


def affine_of(axes: Array, origin: Array) -> Array:
    """Return the affine of up to three axes (n, m), in rows of mm per voxel; raises VolumeError.

    Axes that a 2-D image lacks are one mm long.
    """
    affine = np.eye(4)
    flat, wide = axes.shape
    if flat > 3 or wide > 3 or len(origin) != wide:
        raise VolumeError("has a header whose axes and origin do not match")
    affine[:wide, :flat] = axes.T
    affine[:wide, 3] = origin
    turned = affine[:3, :3]
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(turned) < 3:
        raise VolumeError("has axes that are linearly dependent or not finite")
    if np.abs(turned).max() > LARGEST_MM or np.isnan(nib.io_orientation(affine)).any():
        raise VolumeError("has axes that no scanner writes: they are too long or degenerate")
    return affine


def whole(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the number of bytes of voxels; raises VolumeError if it is too large or 0."""
    if not shape or min(shape) < 1:
        raise VolumeError(f"is empty: its shape is {' x '.join(map(str, shape)) or 'missing'}")
    count = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if count > MAX_BYTES:
        raise VolumeError(f"declares {count >> 30} GiB of voxels, too many for a volume")
    return count


def read_bytes(path: Path, start: int, count: int, *, packed: int | None) -> Array:
    """Return `count` bytes of a file from `start` on, unpacked if `packed`; raises VolumeError.

    `packed` is zlib's `wbits`, which states the wrapper of the data. Memory is touched only as
    bytes arrive, so that a false header costs no more than the file holds.
    """
    try:
        buffer = np.empty(count, dtype=np.uint8)
    except MemoryError:
        size = f"{count >> 20} MiB"
        raise VolumeError(f"declares {size} of voxels, more than there is memory") from None
    place = 0
    try:
        for piece in _pieces(path, start, packed):
            part = np.frombuffer(piece, dtype=np.uint8)[: count - place]
            buffer[place : place + len(part)] = part
            place += len(part)
            if place == count:
                break
    except OSError as error:
        raise VolumeError(f"cannot be read ({error.strerror})") from None
    except igzip_lib.IsalError:  # type: ignore[misc]  # isal's stub declares it as an instance
        raise VolumeError("is damaged: it cannot be decompressed") from None
    if place < count:
        raise VolumeError("is truncated")
    return buffer


def _pieces(path: Path, start: int, packed: int | None) -> Iterator[bytes]:
    inflate = None if packed is None else isal_zlib.decompressobj(wbits=packed)
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(CHUNK):
            yield piece if inflate is None else inflate.decompress(piece)
            if inflate is not None and inflate.eof:
                return


GZIP_WINDOW = 16 + zlib.MAX_WBITS
ZLIB_WINDOW = zlib.MAX_WBITS
