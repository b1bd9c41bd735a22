"""The frames of one DICOM file as they would be looked at: X-ray, photograph, ultrasound loop.

MONOCHROME1 asks a viewer to show low values white (PS3.3 C.7.6.3.1.2). Projections are looked at,
not measured, and one collection mixes both kinds, so here such frames are inverted within the range
of their stored bits: bone is bright in all of them. (A CT's Hounsfield units are measured, and
`loaders.formats.dicom.series` inverts nothing.) Padding becomes the darkest value of its frame.
Slope and intercept are applied; windows, which are a choice of display, are not. Frames are decoded
one at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels

from loaders.cases import Array, BadCase
from loaders.formats.dicom.file import DAMAGE, DicomFile, damage_told, open_file, quiet
from loaders.formats.dicom.limits import check_coded, decoder_of

# Channels of each PhotometricInterpretation; pydicom turns YBR into RGB.
_CHANNELS: Mapping[str, int] = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 3,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}
# Pixels of a frame (assumption): a mammogram has 30 million. A header may claim more.
MAX_PIXELS = 2**26
# Bytes of a file: the largest loops of a scanner (assumption). It is read whole.
MAX_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A file's frames; `seconds` between two of them, nan where the header does not say."""

    count: int
    seconds: float
    arrays: Iterator[Array]


def open_frames(path: Path, where: str, *, stride: int = 1) -> Frames:
    """Return every stride-th frame of a file, each (C, Y, X) with C 1 or 3; raises BadCase.

    The iterator raises BadCase too: what is damaged is often found at its frame.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadCase(f"the file has {size} bytes; {MAX_BYTES} are read", where=where)
    with quiet():
        file = open_file(path, where, limit=MAX_BYTES)
        if file is None:
            raise BadCase("the file is no DICOM file", where=where)
        if "PixelData" not in file.dataset:
            raise BadCase("the DICOM file holds no pixels: no image, or cut off", where=where)
        colours = file.text("PhotometricInterpretation")
        if colours not in _CHANNELS:
            known = ", ".join(_CHANNELS)
            raise BadCase(f"PhotometricInterpretation is none of: {known}", where=where)
        rows, columns = (_count(file, side) for side in ("Rows", "Columns"))
        if rows * columns > MAX_PIXELS:
            raise BadCase(f"the header claims {rows} x {columns} pixels: no image", where=where)
        missing = file.value("NumberOfFrames") in (None, "")
        count = 1 if missing else _count(file, "NumberOfFrames")
        seconds = _seconds(file)
        with damage_told(where):
            check_coded(file, count)
    wanted = range(0, count, stride)
    return Frames(count=count, seconds=seconds, arrays=_decoded(file, colours, wanted))


def _count(file: DicomFile, keyword: str) -> int:
    try:
        number = int(file.text(keyword))
    except ValueError:
        raise BadCase(f"{keyword} is no whole number", where=file.where) from None
    if number < 1:
        raise BadCase(f"{keyword} is {number}", where=file.where)
    return number


def _seconds(file: DicomFile) -> float:
    """Return the time between frames: FrameTime (ms), else the inverse of CineRate (1/s)."""
    for keyword in ("FrameTime", "CineRate"):
        try:
            found = float(str(file.value(keyword)))
        except ValueError:
            continue
        if np.isfinite(found) and found > 0:
            return found / 1000 if keyword == "FrameTime" else 1 / found
    return np.nan


def _decoded(file: DicomFile, colours: str, wanted: range) -> Iterator[Array]:
    plugin, name = decoder_of(file)
    frames = iter(iter_pixels(file.dataset, indices=wanted, decoding_plugin=plugin))
    for _ in wanted:
        with quiet():
            try:
                stored = np.asarray(next(frames))
                # Big-endian files give big-endian arrays.
                stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
                frame = _shown(stored, file.dataset, colours)
            except (*DAMAGE, StopIteration, MemoryError) as error:
                raise BadCase(
                    f"a frame (transfer syntax {name}) cannot be decoded: {type(error).__name__}",
                    where=file.where,
                ) from error
        yield frame


def _shown(stored: Array, dataset: Dataset, colours: str) -> Array:
    """Return one decoded frame as (C, Y, X) in whole numbers, or float32 where the slope is odd."""
    if colours == "PALETTE COLOR":
        return np.moveaxis(apply_color_lut(stored, dataset), -1, 0)
    if _CHANNELS[colours] == 3:
        return np.moveaxis(stored, -1, 0)
    padding = _padding(dataset, stored)
    shown: Array = stored
    if colours == "MONOCHROME1":
        signed = stored.dtype.kind == "i"
        span = 2 ** int(dataset.BitsStored)
        low, high = (-span // 2, span // 2 - 1) if signed else (0, span - 1)
        shown = (low + high - stored.astype(np.int64)).astype(stored.dtype)
    slope, intercept = (
        float(dataset.get(keyword) or default)
        for keyword, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    if (slope, intercept) != (1.0, 0.0):
        exact = shown.astype(np.float64) * slope + intercept
        whole = slope == int(slope) and intercept == int(intercept)
        shown = exact.astype(np.int32 if whole else np.float32)
    if padding.any() and not padding.all():
        shown = np.where(padding, shown[~padding].min(), shown)
    return shown[np.newaxis]


def _padding(dataset: Dataset, stored: Array) -> Any:
    """Return which stored values are padding; PixelPaddingRangeLimit makes it a range."""
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if (value := dataset.get(keyword)) is not None:
            # Written signed in files of unsigned pixels and the other way round: only bits count.
            bits = 8 * stored.dtype.itemsize
            ends.append(np.array([int(value) % 2**bits], f"uint{bits}").view(stored.dtype)[0])
    if not ends:
        return np.zeros(stored.shape, bool)
    return (stored >= min(ends)) & (stored <= max(ends))
