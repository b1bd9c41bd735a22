"""The stored pixels of a CT file's frames: read from disk on demand, or decoded.

Most files hold one frame with the bytes that it has in memory. They are read one by one, each when
its place in the volume is known: no series is in memory twice, and a frame is still in a core's
cache when it becomes Hounsfield units. All other files are decoded.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from loaders.cases import BadCase
from loaders.formats.checksum import read_hashed
from loaders.formats.dicom.file import DicomFile, Start, damage_told
from loaders.formats.dicom.limits import check_coded, decoder_of

# Transfer syntaxes whose pixels have the same bytes in the file as in memory.
_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


class Pixels(NamedTuple):
    """The pixels of one frame: their type in this machine's byte order, their shape, a reader.

    `read` returns an array of `shape` and of the type in any byte order; raises BadCase.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


def uncompressed_pixels(start: Start, path: Path) -> Pixels | None:
    """Return the 16-bit pixels of a file's only frame if they are uncompressed, else None."""
    file = start.file
    form = ("SamplesPerPixel", "BitsAllocated", "PixelRepresentation")
    samples, bits, signed = (file.value(keyword) for keyword in form)
    syntax = file.meta.value("TransferSyntaxUID")
    if (samples, bits) != (1, 16) or signed not in (0, 1) or syntax not in _PLAIN:
        return None
    shape = (file.value("Rows"), file.value("Columns"))
    # A header may hold text here, or several values.
    if not all(isinstance(side, int) for side in shape):
        return None
    if start.length < 2 * math.prod(shape) or start.first + start.length > start.size:
        return None
    dtype = np.dtype("<i2" if signed else "<u2")
    read = partial(_read, path, dtype, shape, start.first, file.where)
    return Pixels(dtype.newbyteorder("="), shape, read)


def _read(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], first: int, where: str
) -> NDArray[Any]:
    content = read_hashed(path)
    count = math.prod(shape)
    if len(content) < first + 2 * count:
        raise BadCase("a file of the series was cut off while it was read", where=where)
    return np.frombuffer(content, dtype, count, first).reshape(shape)


def decoded_pixels(file: DicomFile, count: int) -> list[Pixels]:
    """Return each frame of a whole file, decoded; raises BadCase."""
    return [
        Pixels(array.dtype.newbyteorder("="), array.shape, partial(np.asarray, array))
        for array in _decoded(file, count)
    ]


def decoded_frames(file: DicomFile, wanted: Sequence[int], count: int) -> Iterator[NDArray[Any]]:
    """Yield some of a file's frames, in this machine's byte order, one by one; raises BadCase."""
    for frame in _decoded(file, count, wanted) if wanted else ():
        yield frame.astype(frame.dtype.newbyteorder("="), copy=False)


def _decoded(
    file: DicomFile, count: int, wanted: Sequence[int] | None = None
) -> Iterator[NDArray[Any]]:
    plugin, name = decoder_of(file)
    what = f"the pixels of a slice (transfer syntax {name}) cannot be decoded"
    with damage_told(file.where, what):
        check_coded(file, count)
        yield from iter_pixels(
            file.dataset,
            indices=wanted,
            decoding_plugin=plugin,
            correct_unused_bits=False,
            view_only=True,
        )
