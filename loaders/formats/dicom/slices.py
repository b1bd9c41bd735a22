"""A CT file to its slices in Hounsfield units: one slice, or the frames of an enhanced file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.cases import BadCase
from loaders.formats.dicom.file import (
    MAX_BYTES,
    DicomFile,
    check_pixels_whole,
    open_file,
    open_start,
    with_pixels,
)
from loaders.formats.dicom.functional_groups import FrameHeader, frame_headers
from loaders.formats.dicom.pixels import Pixels, decoded_pixels, uncompressed_pixels
from loaders.formats.dicom.values.hounsfield import Meaning
from loaders.formats.dicom.values.modality_lut import modality_lut
from loaders.formats.dicom.values.stored_values import padding_of

# No scanner makes larger slices (assumption); a header may claim 65535 x 65535 in a small file.
_MAX_SIDE = 8192
# Voxels of a series: 1000 slices of 512 x 512 are half of it (assumption). Headers may claim more.
MAX_VOXELS = 2**29


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One slice: its pixels (Y, X), their meaning, its position (mm) and its SOP instance UID.

    `pixel_spacing` is in mm along Y, X; `orientation` holds the directions of the rows and of the
    columns. A frame has the UID of the slice from which it was converted, else its file's UID with
    its number.
    """

    image: str
    pixels: Pixels
    meaning: Meaning
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_spacing: tuple[float, float]

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self.pixels.shape

    def hounsfield(self, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
        """Return Hounsfield units (Y, X), in `out` if it is given; raises BadCase."""
        out = np.empty(self.shape, np.int16) if out is None else out
        self.meaning.hounsfield(self.pixels.read(), out)
        return out

    def values(self) -> NDArray[Any]:
        """Return its values (Y, X) in their own unit; raises BadCase."""
        return self.meaning.values(self.pixels.read())


def read_slices(
    path: Path, window: tuple[int, int], where: str, *, measured: bool = True
) -> list[Slice]:
    """Return the slices of one file, clipped to `window` (HU); raises BadCase, which names `where`.

    If they are not `measured` in Hounsfield units (MRI), they may lack slope and intercept.

    Padding (PixelPaddingValue, PixelPaddingRangeLimit) is found in the stored values and becomes
    the window's lower bound; rescaled, it would become a density that no tissue has. Stored values
    become HU by ModalityLUTSequence, or else by the slope and intercept of their own slice.
    MONOCHROME1 asks a viewer to show low values white (PS3.3 C.7.6.3.1.2); it does not affect HU,
    so nothing is inverted. Call it within `quiet`.
    """
    start = open_start(path, where)
    if (size := path.stat().st_size if start is None else start.size) > MAX_BYTES:
        raise BadCase(f"a file has {size} bytes; at most {MAX_BYTES} are read", where=where)
    file = open_file(path, where) if start is None else start.file
    if file is None:
        raise BadCase("a file of the series is no longer a DICOM file", where=where)
    colours = file.text("PhotometricInterpretation")
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadCase(
            "PhotometricInterpretation is neither MONOCHROME1 nor MONOCHROME2", where=where
        )
    count = _count(file)
    headers = [
        _Frame(header, number, count) for number, header in enumerate(frame_headers(file, count))
    ]
    if start and count == 1 and (found := uncompressed_pixels(start, path)):
        pixels = [found]
    else:
        whole = with_pixels(start, path) if start else file
        # Only the terminal may show which file it is: the reason is stored.
        named = replace(whole, where=f"{where} ({path.name})")
        check_pixels_whole(named, "a file of the series")
        pixels = decoded_pixels(whole, count)
    if len(pixels) != count:
        raise BadCase(f"{count} frames are claimed, but there are {len(pixels)}", where=where)
    return [
        Slice(
            image=header.image,
            pixels=of_frame,
            meaning=header.meaning(of_frame, window, measured=measured),
            position=header.numbers("ImagePositionPatient", 3),
            orientation=header.numbers("ImageOrientationPatient", 6),
            pixel_spacing=header.pixel_spacing,
        )
        for header, of_frame in zip(headers, pixels, strict=True)
    ]


def _count(file: DicomFile) -> int:
    """Return the number of frames; raises BadCase if the header's sizes are not those of slices."""
    rows, columns = (file.numbers(side, 1)[0] for side in ("Rows", "Columns"))
    if not 1 <= min(rows, columns) <= max(rows, columns) <= _MAX_SIDE:
        raise BadCase(
            f"Rows and Columns are {rows:.0f} and {columns:.0f}, which is not a slice",
            where=file.where,
        )
    # Some writers put 0 for a single frame; pydicom reads it as one too.
    if str(file.value("NumberOfFrames") or "").strip() in ("", "0"):
        return 1
    count = int(file.numbers("NumberOfFrames", 1)[0])
    if count < 1 or count * rows * columns > MAX_VOXELS:
        raise BadCase(
            f"the header claims {count} frames of {rows:.0f} x {columns:.0f}", where=file.where
        )
    if count > 1 and not file.value("PerFrameFunctionalGroupsSequence"):
        raise BadCase(
            "a file holds several frames but no functional groups, which give their positions",
            where=file.where,
        )
    return count


class _Frame:
    """What the header states about one slice."""

    def __init__(self, header: FrameHeader, number: int, count: int) -> None:
        self._header = header
        self._file = header.file
        self.image = self._file.text("SOPInstanceUID")
        if header.groups:
            self.image = self._source() or (f"{self.image}#{number}" if count > 1 else self.image)

    def numbers(self, keyword: str, count: int) -> NDArray[np.float64]:
        """Return an element's numbers, of the frame or of all frames; raises BadCase."""
        return self._header.numbers(keyword, count)

    def has(self, keyword: str) -> bool:
        """Tell whether an element has a value, for the frame or for all; raises BadCase."""
        return self._header.holder(keyword).value(keyword) not in (None, "")

    @property
    def pixel_spacing(self) -> tuple[float, float]:
        """Distances of rows and of columns, in mm."""
        spacing = self.numbers("PixelSpacing", 2)
        if (spacing <= 0).any():
            raise BadCase("PixelSpacing is not positive", where=self._file.where)
        return float(spacing[0]), float(spacing[1])

    def meaning(self, pixels: Pixels, window: tuple[int, int], *, measured: bool) -> Meaning:
        """Return how written numbers become Hounsfield units or other values; raises BadCase."""
        if len(pixels.shape) != 2:
            raise BadCase(
                f"a slice has {len(pixels.shape)} axes, not just rows and columns",
                where=self._file.where,
            )
        slope, intercept, lut = 1.0, 0.0, modality_lut(self._file)
        if lut is None:
            slope, intercept = (
                float(self.numbers(keyword, 1)[0]) if measured or self.has(keyword) else default
                for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
            )
        elif lut.unit != "HU" and measured:
            raise BadCase(
                "ModalityLUTType is not HU: the slice's values are not Hounsfield units",
                where=self._file.where,
            )
        bits = int(self._file.numbers("BitsStored", 1)[0])
        allocated = 8 * pixels.dtype.itemsize
        if not 1 <= bits <= allocated:
            raise BadCase(
                f"BitsStored is {bits} of {allocated} bits per pixel", where=self._file.where
            )
        padding = padding_of(self._file)
        return Meaning(pixels.dtype, bits, slope, intercept, padding, window, lut)

    def _source(self) -> str:
        """Return the UID of the slice a frame was converted from (PS3.3 C.8.16.3), or ""."""
        for item in self._header.groups[0].items("ConversionSourceAttributesSequence"):
            return str(item.value("ReferencedSOPInstanceUID") or "").strip()
        return ""
