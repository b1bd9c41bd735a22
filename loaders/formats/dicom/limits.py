"""What a small DICOM file may claim and its decoders would believe: looked at before they run.

A JPEG of 60000 x 60000 pixels inside a frame of 88 x 112 took one of them a minute and 10 GB before
it gave up (measured). What a deflated file unpacks to is bounded by `loaders.formats.dicom.file`.
"""

from pydicom.encaps import generate_frames
from pydicom.uid import UID, AllTransferSyntaxes, RLELossless

from loaders.cases import BadCase
from loaders.formats.codestream import Coded, coded
from loaders.formats.dicom.file import DicomFile


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
        height, width, own, _ = coded(frame) or Coded(rows, columns, 0, 0)
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
