"""What a small DICOM file may claim and its decoders would believe: looked at before they run.

A JPEG of 60000 x 60000 pixels inside a frame of 88 x 112 took one of them a minute and 10 GB before
it gave up (measured); a deflated file may grow a thousandfold.
"""

import struct
import zlib
from pathlib import Path

from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from loaders.cases import BadCase

# The preamble, DICM, and the element that tells how long the rest of the group is (PS3.10, 7.1).
_BEFORE_GROUP = 128 + 4 + 12
_BLOCK_BYTES = 2**20
# Start of frame of every JPEG and of JPEG-LS (ITU-T T.81 table B.1, T.87 C.1.1); those left out of
# the row are other markers.
_STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
# A JPEG 2000 codestream, with or without boxes around it (ITU-T T.800 A.5.1).
_J2K = b"\xff\x4f\xff\x51"


def check_deflated(path: Path, limit: int, where: str) -> None:
    """Raise BadCase where a deflated file holds more than `limit` bytes; others are not read."""
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    with path.open("rb") as file:
        file.seek(_BEFORE_GROUP + int(meta.FileMetaInformationGroupLength))
        while block := inflater.unconsumed_tail or file.read(_BLOCK_BYTES):
            size += len(inflater.decompress(block, _BLOCK_BYTES))
            if size > limit:
                raise BadCase(f"the deflated file holds more than {limit} bytes", where=where)


def check_coded(dataset: Dataset, count: int, where: str) -> None:
    """Raise BadCase where a compressed frame has more pixels than Rows and Columns say."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:
        return
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    for frame in generate_frames(dataset.PixelData, number_of_frames=count):
        height, width = _coded_size(frame) or (rows, columns)
        if height * width > rows * columns:
            raise BadCase(
                f"a frame is coded as {height} x {width} pixels and the header says {rows} x "
                f"{columns}",
                where=where,
            )


def _coded_size(frame: bytes) -> tuple[int, int] | None:
    """Return height and width of a JPEG, JPEG-LS or JPEG 2000 image; None where it tells none."""
    at = frame.find(_J2K)
    if at >= 0 and not frame.startswith(b"\xff\xd8"):
        if len(frame) < at + 24:
            return None
        # Marker, length, capabilities; then the reference grid and where the image starts on it.
        right, lower, left, upper = struct.unpack_from(">4I", frame, at + 8)
        return lower - upper, right - left
    at = 2
    while at + 9 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _STARTS:
            height, width = struct.unpack_from(">HH", frame, at + 5)
            return height, width
        if marker == _START_OF_SCAN:
            return None
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None
