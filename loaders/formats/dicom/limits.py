"""What a small DICOM file may claim and its decoders would believe: looked at before they run.

A JPEG of 60000 x 60000 pixels inside a frame of 88 x 112 took one of them a minute and 10 GB before
it gave up (measured). What a deflated file unpacks to is bounded by `loaders.formats.dicom.file`.
"""

import struct

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


def check_coded(file: DicomFile, count: int) -> None:
    """Raise BadCase where a compressed frame has more pixels than Rows and Columns say."""
    dataset = file.dataset
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
                where=file.where,
            )


def decoder_of(file: DicomFile) -> tuple[str, str]:
    """Return the plug-in that has to decode a file's pixels, empty for any, and its syntax's name.

    The other decoder of run lengths ends the process on a damaged file: a panic in Rust.
    """
    syntax = file.meta.value("TransferSyntaxUID")
    # Of another VR than UI, pydicom gives plain text.
    name = UID(syntax).name if syntax in AllTransferSyntaxes else "unknown"
    return "pydicom" if syntax == RLELossless else "", name


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
