"""Turning pictures upright by the orientation in their container."""

import struct
from collections.abc import Callable, Mapping

from loaders.cases import Array

# EXIF orientation: how a stored picture (..., Y, X) becomes upright; EXIF 2.32, 4.6.4.
_UPRIGHT: Mapping[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[..., ::-1],
    3: lambda a: a[..., ::-1, ::-1],
    4: lambda a: a[..., ::-1, :],
    5: lambda a: a.swapaxes(-1, -2),
    6: lambda a: a.swapaxes(-1, -2)[..., ::-1],
    7: lambda a: a.swapaxes(-1, -2)[..., ::-1, ::-1],
    8: lambda a: a.swapaxes(-1, -2)[..., ::-1, :],
}
# A video's display matrix (ISO/IEC 14496-12, 6.2.2; FFmpeg's libavutil/display.h): a stored point
# (x, y) is shown at (a x + c y, b x + d y) plus a shift. Maps (a, b, c, d) to the EXIF orientation.
_EXIF = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
_ONE = 1 << 16


def upright(image: Array, exif: int) -> Array:
    """Return a picture (..., Y, X) turned upright; an unknown orientation changes nothing."""
    return _UPRIGHT.get(exif, _UPRIGHT[1])(image)


def exif_of(matrix: bytes) -> int | None:
    """Return the EXIF orientation that equals a display matrix of nine 32-bit numbers.

    None if it stretches, or turns by an angle that is not a multiple of 90 degrees.
    """
    a, b, _, c, d = struct.unpack_from("<5i", matrix)
    return _EXIF.get((a / _ONE, b / _ONE, c / _ONE, d / _ONE))
