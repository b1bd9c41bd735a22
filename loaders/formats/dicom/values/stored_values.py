"""Stored values of a frame: which of their bits are used, and which values are padding.

Padding is found before the unused bits are cut off: some scanners write 16-bit padding among 12-bit
values, which would look like tissue once it is cut.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.formats.dicom.file import DicomFile


def padding_of(file: DicomFile) -> tuple[int, ...]:
    """Return the padding value, or both ends of its range, or () if the file names none."""
    if file.value("PixelPaddingValue") is None:
        return ()
    return tuple(
        int(file.numbers(keyword, 1)[0])
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if file.value(keyword) is not None
    )


def cut(written: NDArray[Any], bits: int) -> NDArray[Any]:
    """Keep the lower `bits` of each number, as pydicom does (PS3.5 8.1.1).

    In signed numbers, the highest of these bits is the sign.
    """
    unused = max(8 * written.dtype.itemsize - bits, 0)
    return (written << unused) >> unused if unused else written


def padded(
    written: NDArray[Any], stored: NDArray[Any], bits: int, padding: Sequence[int]
) -> NDArray[np.bool_]:
    """Return which values are padding; PixelPaddingRangeLimit makes it a range.

    `stored` is `written` after `cut`; both have this machine's byte order.
    """
    if not padding:
        return np.zeros(written.shape, bool)
    dtype = written.dtype
    # Writers put an unsigned number in files of signed pixels, or the reverse (63536 for -2000), so
    # compare bits.
    numbers = np.array([end % 2 ** (8 * dtype.itemsize) for end in padding], f"u{dtype.itemsize}")
    ends = numbers.view(dtype)
    inside: NDArray[np.bool_] = (written >= ends.min()) & (written <= ends.max())
    half = 2 ** (bits - 1)
    low, high = (-half, half) if dtype.kind == "i" else (0, 2 * half)
    if all(low <= end < high for end in ends.tolist()):
        inside |= (stored >= ends.min()) & (stored <= ends.max())
    return inside
