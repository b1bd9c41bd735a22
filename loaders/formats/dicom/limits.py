"""Checks of what a small DICOM file may claim, made before a decoder trusts it.

A JPEG of 60000 x 60000 pixels inside a frame of 88 x 112 took a decoder a minute and 10 GB before
it gave up (measured). `loaders.formats.dicom.file` limits the unpacked size of a deflated file.
"""

from pydicom.encaps import generate_frames
from pydicom.uid import UID, AllTransferSyntaxes, RLELossless

from loaders.cases import BadCase
from loaders.formats.coded.codestream import coded
from loaders.formats.dicom.file import DicomFile


def check_coded(file: DicomFile, count: int) -> int:
    """Return the bits per value of compressed frames, 0 if the frames are not compressed.

    Raises BadCase if a frame has more pixels or channels than the header declares.
    """
    dataset = file.dataset
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == RLELossless:
        return 0
    bits = 0
    rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)
    for frame in generate_frames(dataset.PixelData, number_of_frames=count):
        said = coded(frame)
        if said is None:
            raise BadCase("a compressed frame does not declare its size", where=file.where)
        bits = max(bits, said.bits)
        # A JPEG may declare height 0 and its true height at its end (T.81 B.2.5), with no limit.
        large = min(said.height, said.width) < 1 or said.height * said.width > rows * columns
        if large or said.components > samples:
            raise BadCase(
                f"a frame is coded as {said.height} x {said.width} pixels in {said.components} "
                f"channels, but the header declares {rows} x {columns} in {samples}",
                where=file.where,
            )
    return bits


def decoder_of(file: DicomFile) -> tuple[str, str]:
    """Return the plug-in that must decode a file's pixels ("": any) and its syntax's name.

    The other run-length decoder ends the process on a damaged file: a panic in Rust.
    """
    syntax = file.meta.value("TransferSyntaxUID")
    # If the element's VR is not UI, pydicom returns plain text.
    name = UID(syntax).name if syntax in AllTransferSyntaxes else "unknown"
    return "pydicom" if syntax == RLELossless else "", name
