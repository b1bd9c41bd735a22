"""What is known of a volume before its voxels are read, whatever its format."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip_lib, isal_zlib

from loaders.cases import Array
from loaders.formats.nifti import CHUNK, LARGEST_MM, MAX_BYTES, NiftiError, nib

# A fault of one file, in words that name no path; one class for all formats.
VolumeError = NiftiError
# Assumption: a text header takes a few KiB; DICOM fields that some writers add, a few more.
MAX_HEADER = 1 << 20
# ITK's axes run to the left, to the back and up (LPS); NIfTI's to the right, to the front and up.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume whose header is read and held against its file.

    `shape` is (X, Y, Z) or (X, Y, Z, C); `affine` (4, 4) maps voxels to mm, right, anterior,
    superior. `load()` returns the voxels in that shape and raises VolumeError. `beside`
    are other files in which they are.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: Array
    load: Callable[[], Array]
    beside: tuple[Path, ...] = ()


def affine_of(axes: Array, origin: Array) -> Array:
    """Return the affine of up to three axes (n, m), each a row of mm a voxel; raises VolumeError.

    Axes that a flat image lacks are one mm long.
    """
    affine = np.eye(4)
    flat, wide = axes.shape
    if flat > 3 or wide > 3 or len(origin) != wide:
        raise VolumeError("has a header whose axes and origin do not fit each other")
    affine[:wide, :flat] = axes.T
    affine[:wide, 3] = origin
    turned = affine[:3, :3]
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(turned) < 3:
        raise VolumeError("has axes that span no space")
    if np.abs(turned).max() > LARGEST_MM or np.isnan(nib.io_orientation(affine)).any():
        raise VolumeError("has axes that no scanner writes: they lead nowhere")
    return affine


def whole(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the bytes of so many voxels; raises VolumeError where no volume has as many."""
    if not shape or min(shape) < 1:
        raise VolumeError(f"is empty: its shape is {' x '.join(map(str, shape)) or 'missing'}")
    count = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if count > MAX_BYTES:
        raise VolumeError(f"declares {count >> 30} GiB of voxels, more than any volume has")
    return count


def read_bytes(path: Path, start: int, count: int, *, packed: int | None) -> Array:
    """Return `count` bytes of a file from `start` on, unpacked where `packed`; raises VolumeError.

    `packed` is the window that zlib is told (its wbits): which wrapper the data have. Memory is
    touched as bytes come, so that a header that lies costs only what the file holds.
    """
    try:
        buffer = np.empty(count, dtype=np.uint8)
    except MemoryError:
        size = f"{count >> 20} MiB"
        raise VolumeError(f"declares {size} of voxels, more memory than there is") from None
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
