"""The beginning of a DICOM file: its preamble or, from older writers, its first element.

PS3.10 7.1 requires 128 bytes, "DICM" and the file meta information. Files from before 1993
(ACR-NEMA) and data sets dumped from a network connection begin with their first element.
"""

import struct

PREAMBLE = 128
# Bytes examined at the start of a file.
ENOUGH = 1024
# Value representations with a length of two bytes, and some with four (PS3.5 7.1.2).
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OW UN".split())
# The number of consecutive elements that must be well formed, and their largest size in bytes
# (assumptions).
_IN_A_ROW = 3
_LONGEST = 512
# Groups with which a file can begin: file meta information and identification.
_FIRST = (0x0002, 0x0008)


def begin_of(start: bytes) -> int | None:
    """Return the offset of a file's first element, None if `start` (ENOUGH bytes) is not DICOM."""
    if start[PREAMBLE : PREAMBLE + 4] == b"DICM":
        return PREAMBLE + 4
    return 0 if any(_elements(start, order) for order in "<>") else None


def _elements(start: bytes, order: str) -> bool:
    """Tell whether bytes are elements sorted by tag, in this byte order."""
    at, before = 0, (0, 0)
    for _ in range(_IN_A_ROW):
        if at + 12 > len(start):
            return False
        tag: tuple[int, int] = struct.unpack_from(f"{order}HH", start, at)
        if tag <= before or tag[0] not in _FIRST:
            return False
        vr = start[at + 4 : at + 6]
        if vr in _SHORT:
            head, (length,) = 8, struct.unpack_from(f"{order}H", start, at + 6)
        elif vr in _LONG:
            head, (length,) = 12, struct.unpack_from(f"{order}L", start, at + 8)
        else:
            head, (length,) = 8, struct.unpack_from(f"{order}L", start, at + 4)
        if length > _LONGEST or length % 2:
            return False
        at, before = at + head + length, tag
    return True
