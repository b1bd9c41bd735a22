"""The size and depth that a JPEG, JPEG-LS or JPEG 2000 codestream declares, without decoding."""

import struct
from typing import NamedTuple

# Start-of-frame markers of JPEG and JPEG-LS (ITU-T T.81 table B.1, T.87 C.1.1); the numbers left
# out are other markers.
_STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
# A JPEG 2000 codestream, with or without boxes around it (ITU-T T.800 A.5.1).
J2K = b"\xff\x4f\xff\x51"


# The first box of a JP2 file, and the type of the codestream's box (T.800 I.5.1, I.5.4).
_SIGNATURE = b"\0\0\0\x0cjP  "
_CODESTREAM = b"jp2c"


class Coded(NamedTuple):
    """Height and width in pixels, bits of the first component, number of components."""

    height: int
    width: int
    bits: int
    components: int


def coded(frame: bytes) -> Coded | None:
    """Return what a codestream declares; None if its header is missing or damaged."""
    if not frame.startswith(b"\xff\xd8"):
        at = _boxed(frame) if frame.startswith(_SIGNATURE) else frame.find(J2K)
        if at < 0 or len(frame) < at + 43 or not frame.startswith(J2K, at):
            return None
        # Two markers, length, capabilities; the size of the reference grid, the offset of the
        # image on it, the tiles; the number of components, the depth of the first (A.5.1).
        right, lower, left, upper = struct.unpack_from(">4I", frame, at + 8)
        components, depth = struct.unpack_from(">HB", frame, at + 40)
        return Coded(lower - upper, right - left, (depth & 0x7F) + 1, components)
    at = 2
    while at + 10 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _STARTS:
            bits, height, width, components = struct.unpack_from(">BHHB", frame, at + 4)
            return Coded(height, width, bits, components)
        if marker == _START_OF_SCAN:
            return None
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None


def _boxed(frame: bytes) -> int:
    """Return the offset of the codestream in a JP2 file, -1 if no chain of boxes leads to it."""
    at = 12
    while at + 8 <= len(frame):
        length, kind = struct.unpack_from(">L4s", frame, at)
        if kind == _CODESTREAM:
            return at + (16 if length == 1 else 8)
        if length < 8:  # following it would never end
            return -1
        at += length
    return -1
