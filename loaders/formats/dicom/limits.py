"""What a small DICOM file may claim and its decoders would believe: looked at before they run.

A JPEG of 60000 x 60000 pixels inside a frame of 88 x 112 took one of them a minute and 10 GB before
it gave up (measured). What a deflated file unpacks to is bounded by `loaders.formats.dicom.file`.
"""

import struct
from typing import NamedTuple

from pydicom.encaps import generate_frames
from pydicom.uid import UID, AllTransferSyntaxes, RLELossless

from loaders.cases import BadCase
from loaders.formats.dicom.file import DicomFile

# Start of frame of every JPEG and of JPEG-LS (ITU-T T.81 table B.1, T.87 C.1.1); those left out of
# the row are other markers.
_STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
# A JPEG 2000 codestream, with or without boxes around it (ITU-T T.800 A.5.1).
_J2K = b"\xff\x4f\xff\x51"


class Coded(NamedTuple):
    """What a compressed frame says of itself."""

    height: int
    width: int
    bits: int


def check_coded(file: DicomFile, count: int) -> int:
    """Return the bits a value that the compressed frames have, 0 where they do not say.

    Raises BadCase where a frame has more pixels than Rows and Columns say.
    """
    dataset = file.dataset
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:
        return 0
    bits = 0
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    for frame in generate_frames(dataset.PixelData, number_of_frames=count):
        height, width, own = _coded(frame) or Coded(rows, columns, 0)
        bits = max(bits, own)
        if height * width > rows * columns:
            raise BadCase(
                f"a frame is coded as {height} x {width} pixels and the header says {rows} x "
                f"{columns}",
                where=file.where,
            )
    return bits


def decoder_of(file: DicomFile) -> tuple[str, str]:
    """Return the plug-in that has to decode a file's pixels, empty for any, and its syntax's name.

    The other decoder of run lengths ends the process on a damaged file: a panic in Rust.
    """
    syntax = file.meta.value("TransferSyntaxUID")
    # Of another VR than UI, pydicom gives plain text.
    name = UID(syntax).name if syntax in AllTransferSyntaxes else "unknown"
    return "pydicom" if syntax == RLELossless else "", name


def _coded(frame: bytes) -> Coded | None:
    """Return what a JPEG, JPEG-LS or JPEG 2000 image says; None where it says nothing."""
    at = frame.find(_J2K)
    if at >= 0 and not frame.startswith(b"\xff\xd8"):
        if len(frame) < at + 43:
            return None
        # Two markers, length, capabilities; then the reference grid and where the image starts on
        # it. Behind the tiles and the number of components comes the depth of the first (A.5.1).
        right, lower, left, upper = struct.unpack_from(">4I", frame, at + 8)
        return Coded(lower - upper, right - left, (frame[at + 42] & 0x7F) + 1)
    at = 2
    while at + 9 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _STARTS:
            bits, height, width = struct.unpack_from(">BHH", frame, at + 4)
            return Coded(height, width, bits)
        if marker == _START_OF_SCAN:
            return None
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None
