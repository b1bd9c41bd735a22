"""DICOM segmentation objects (PS3.3 A.51, A.102): binary, fractional and label maps.

Frames are placed by their own positions, never by their order; voxels between them are background.
A frame may be rotated or a part of a slice, but its pixels must coincide with voxels of the series:
nothing is interpolated. In a fractional segment, a voxel is inside from half of
MaximumFractionalValue on.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from loaders.cases import Array, BadCase
from loaders.formats.dicom.file import DicomFile, check_pixels_whole
from loaders.formats.dicom.functional_groups import FrameHeader, frame_headers
from loaders.formats.dicom.pixels import decoded_frames
from loaders.formats.dicom.slices import MAX_VOXELS
from loaders.formats.scans.scan import Scan

# Label Map Segmentation Storage (PS3.4 B.5, since 2024): the number of a segment in each pixel.
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
# The limit on frames of all segments, 400 of 512 x 512 each (assumption); a header may claim more.
_MAX_PIXELS = 100 * MAX_VOXELS


def names(file: DicomFile) -> list[str]:
    """Return the label of each segment, in the order of their numbers; raises BadCase."""
    return [label for _, label in sorted(_segments(file).items())]


def series_of(file: DicomFile) -> set[str]:
    """Return the UIDs of the series that it names; raises BadCase."""
    return {item.text("SeriesInstanceUID") for item in file.items("ReferencedSeriesSequence")}


def frames_of(file: DicomFile) -> set[str]:
    """Return its frame of reference, an empty set if it has none; raises BadCase."""
    return {str(file.value("FrameOfReferenceUID") or "").strip()} - {""}


def opened(file: DicomFile) -> Callable[[str, Scan, float, int], Array]:
    """Return a function that gives a segment as 0 and 1 (X, Y, Z), by its label; raises BadCase."""
    segments = _segments(file)
    form = str(file.value("SegmentationType") or "").strip()
    if form not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise BadCase("SegmentationType is not BINARY, FRACTIONAL or LABELMAP", where=file.where)
    rows, columns, count = (
        int(file.numbers(keyword, 1)[0]) for keyword in ("Rows", "Columns", "NumberOfFrames")
    )
    if min(rows, columns, count) < 1 or rows * columns * count > _MAX_PIXELS:
        raise BadCase(
            f"the mask's header claims {count} frames of {rows} x {columns}", where=file.where
        )
    headers = frame_headers(file, count)
    labelled = form == "LABELMAP"
    of_frames = [] if labelled else list(map(_segment_of, headers))
    half = 1
    if form == "FRACTIONAL":
        half = math.ceil(file.numbers("MaximumFractionalValue", 1)[0] / 2)

    def voxels(name: str, scan: Scan, shift: float, threshold: int) -> Array:
        wanted = [number for number, label in segments.items() if label == name]
        chosen = [at for at in range(count) if labelled or of_frames[at] in wanted]
        level = threshold if threshold and form == "FRACTIONAL" else half
        inside: Array = np.zeros(scan.volume.shape, np.uint8)
        for at, frame in _frames(file, chosen, (rows, columns), count):
            seen = np.isin(frame, wanted) if labelled else frame >= level
            _place(seen, headers[at], scan, shift, inside)
        return inside

    return voxels


def _segments(file: DicomFile) -> dict[int, str]:
    found = {}
    for item in file.items("SegmentSequence"):
        number = int(item.numbers("SegmentNumber", 1)[0])
        found[number] = item.text("SegmentLabel")
    # In a label map, the background may be a segment too.
    found.pop(0, None)
    if not found:
        raise BadCase("the mask names no segment", where=file.where)
    return found


def _segment_of(header: FrameHeader) -> int:
    for group in header.groups:
        for item in group.items("SegmentIdentificationSequence"):
            return int(item.numbers("ReferencedSegmentNumber", 1)[0])
    raise BadCase("a frame of the mask names no segment", where=header.file.where)


def _frames(
    file: DicomFile, chosen: list[int], shape: tuple[int, int], count: int
) -> Iterator[tuple[int, NDArray[np.integer]]]:
    """Yield the numbers and the pixels (rows, columns) of the chosen frames; raises BadCase."""
    if "PixelData" not in file.dataset:
        raise BadCase("the mask holds no pixels: it is cut off", where=file.where)
    if file.numbers("BitsAllocated", 1)[0] != 1:
        for at, frame in zip(chosen, decoded_frames(file, chosen, count), strict=True):
            if frame.shape != shape:
                raise BadCase("the mask's pixels contradict its header", where=file.where)
            yield at, frame
        return
    if file.meta.value("TransferSyntaxUID") not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        raise BadCase(
            "the mask has single bits, compressed or big-endian, which are not read",
            where=file.where,
        )
    check_pixels_whole(file)
    packed = np.frombuffer(file.value("PixelData"), np.uint8)
    size = shape[0] * shape[1]
    # A padding byte may make their number even (PS3.5 8.1.1).
    if not 0 <= len(packed) - -(-count * size // 8) <= 1:
        raise BadCase(
            f"the mask does not hold the pixels of {count} frames of {shape[0]} x {shape[1]}",
            where=file.where,
        )
    for at in chosen:
        # Frames follow each other bit by bit, the lowest bit first (PS3.5 8.1.1).
        first, last = at * size, (at + 1) * size
        bits = np.unpackbits(packed[first // 8 : -(-last // 8)], bitorder="little")
        yield at, bits[first % 8 : first % 8 + size].reshape(shape)


def _place(
    frame: NDArray[np.bool_], header: FrameHeader, scan: Scan, shift: float, out: Array
) -> None:
    """Put a frame (rows, columns) onto the voxels of `out` (X, Y, Z); raises BadCase."""
    where = header.file.where
    position = header.numbers("ImagePositionPatient", 3)
    turned = header.numbers("ImageOrientationPatient", 6)
    by_row, by_column = header.numbers("PixelSpacing", 2)
    across, down = turned[:3] * by_column, turned[3:] * by_row
    corner, right, below = scan.voxels_of(np.stack([position, position + across, position + down]))
    start, along, downwards = (
        np.rint(each).astype(np.int64) for each in (corner, right - corner, below - corner)
    )
    # Each axis of a frame must be parallel to one of the series.
    if sorted(np.abs([along, downwards]).sum(axis=1)) != [1, 1] or (along & downwards).any():
        raise BadCase(
            "the mask's pixels differ in spacing or direction from the series", where=where
        )
    rows, columns = frame.shape
    ends = np.array(list(product((0, rows - 1), (0, columns - 1))))
    exact = scan.voxels_of(position + ends[:, :1] * down + ends[:, 1:] * across)
    wanted = start + ends[:, :1] * downwards + ends[:, 1:] * along
    if (apart := np.abs(exact - wanted).max()) > shift:
        raise BadCase(
            f"the mask's pixels are up to {apart:.3g} voxels away from those of the series; shift "
            f"allows {shift:g}",
            where=where,
        )
    if (wanted < 0).any() or (wanted >= out.shape).any():
        sizes = " x ".join(map(str, out.shape))
        raise BadCase(
            f"a frame of the mask, {columns} x {rows}, extends beyond the series, {sizes}",
            where=where,
        )
    row, column = np.nonzero(frame)
    x, y, z = (start + row[:, np.newaxis] * downwards + column[:, np.newaxis] * along).T
    out[x, y, z] = 1
