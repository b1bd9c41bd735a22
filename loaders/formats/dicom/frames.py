"""The frames of one DICOM file as a viewer shows them: X-ray, photograph, ultrasound loop.

MONOCHROME1 asks a viewer to show low values white (PS3.3 C.7.6.3.1.2). Projections are viewed, not
measured, and a collection may mix both kinds, so such frames are inverted within the depth of their
levels (`loaders.formats.levels`): bone is bright in all of them. Values with a unit (Hounsfield
units) are measured and never inverted, as in `loaders.formats.dicom.series`. Padding becomes the
darkest value of its frame. ModalityLUTSequence, or else slope and intercept, is applied; windows,
which are a choice of display, are not. Frames are decoded one at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels

from loaders.cases import Array, BadCase
from loaders.formats.dicom.file import (
    DAMAGE,
    DicomFile,
    check_pixels_whole,
    damage_told,
    open_file,
    quiet,
)
from loaders.formats.dicom.functional_groups import FrameHeader, frame_headers
from loaders.formats.dicom.limits import check_coded, decoder_of
from loaders.formats.dicom.values.modality_lut import ModalityLut, modality_lut
from loaders.formats.dicom.values.stored_values import cut, padded, padding_of
from loaders.formats.levels import Picture, bits_for

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
# Rescale types without a unit: such values are levels (PS3.3 C.11.1.1.2).
_NO_UNIT = ("", "US")
# Pixels of a frame (assumption): a mammogram has 30 million. A header may claim more.
MAX_PIXELS = 2**26
# Bytes of a file: the largest loops of a scanner (assumption). Files are read entirely.
MAX_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A file's frames; `seconds` is the time from one to the next, nan if the header lacks it."""

    count: int
    seconds: float
    pictures: Iterator[Picture]


def open_frames(path: Path, where: str, *, stride: int = 1) -> Frames:
    """Return every stride-th frame of a file, each with 1 or 3 channels; raises BadCase.

    The iterator raises BadCase too: damage is often found only at its frame.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadCase(f"the file has {size} bytes; at most {MAX_BYTES} are read", where=where)
    with quiet():
        file = open_file(path, where, limit=MAX_BYTES)
        if file is None:
            raise BadCase("the file is not a DICOM file", where=where)
        if "PixelData" not in file.dataset:
            raise BadCase("the DICOM file holds no pixels: not an image, or cut off", where=where)
        check_pixels_whole(file)
        colours = file.text("PhotometricInterpretation")
        if colours not in _CHANNELS:
            known = ", ".join(_CHANNELS)
            raise BadCase(f"PhotometricInterpretation is not one of: {known}", where=where)
        rows, columns = (_count(file, side) for side in ("Rows", "Columns"))
        if rows * columns > MAX_PIXELS:
            raise BadCase(
                f"the header claims {rows} x {columns} pixels, which is not an image", where=where
            )
        # Some writers put 0 for a single frame; pydicom reads it as one too.
        missing = str(file.value("NumberOfFrames") or "").strip() in ("", "0")
        count = 1 if missing else _count(file, "NumberOfFrames")
        seconds = _seconds(file)
        with damage_told(where):
            coded = check_coded(file, count)
        form = _form(file, colours, coded)
    wanted = range(0, count, stride)
    return Frames(count=count, seconds=seconds, pictures=_decoded(file, form, wanted, count))


def _count(file: DicomFile, keyword: str) -> int:
    try:
        number = int(file.text(keyword))
    except ValueError:
        raise BadCase(f"{keyword} is not a whole number", where=file.where) from None
    if number < 1:
        raise BadCase(f"{keyword} is {number}", where=file.where)
    return number


def _seconds(file: DicomFile) -> float:
    """Return the seconds between two frames, nan if the header lacks them.

    From the frame time (ms), the mean of the frame times, or the inverse of a rate (1/s), the
    recording's before the display's (PS3.3 C.7.6.5, C.7.6.16).
    """
    for keyword, to_seconds in _CLOCKS.items():
        found = file.value(keyword)
        try:
            numbers = np.array(found if found not in (None, "") else [], np.float64).reshape(-1)
        except (TypeError, ValueError):
            continue
        if keyword == "FrameTimeVector":
            # The first increment is 0: it belongs to the first frame.
            numbers = numbers[1:]
        if len(numbers) and np.isfinite(numbers).all() and numbers.mean() > 0:
            return to_seconds(float(numbers.mean()))
    return np.nan


_CLOCKS: Mapping[str, Callable[[float], float]] = {
    "FrameTime": lambda ms: ms / 1000,
    "FrameTimeVector": lambda ms: ms / 1000,
    "CineRate": lambda rate: 1 / rate,
    "RecommendedDisplayFrameRate": lambda rate: 1 / rate,
}


def _decoded(file: DicomFile, form: "_Form", wanted: range, count: int) -> Iterator[Picture]:
    plugin, name = decoder_of(file)
    headers = frame_headers(file, count)
    frames = iter(
        iter_pixels(file.dataset, indices=wanted, decoding_plugin=plugin, correct_unused_bits=False)
    )
    for number in wanted:
        with quiet():
            try:
                written = np.asarray(next(frames))
                # Big-endian files give big-endian arrays.
                written = written.astype(written.dtype.newbyteorder("="), copy=False)
                picture = _picture(written, headers[number], form)
            except BadCase:
                raise
            except (*DAMAGE, StopIteration, MemoryError) as error:
                raise BadCase(
                    f"a frame (transfer syntax {name}) cannot be decoded: {type(error).__name__}",
                    where=file.where,
                ) from error
        yield picture


@dataclass(frozen=True, kw_only=True)
class _Form:
    """Properties that all frames of a file share.

    `bits` is BitsStored; `coded` is the bits of a compressed frame, 0 if it is not compressed.
    `overlaid`: the unused bits hold overlays.
    """

    colours: str
    bits: int
    coded: int
    padding: tuple[int, ...]
    overlaid: bool
    lut: ModalityLut | None
    modality: str


def _form(file: DicomFile, colours: str, coded: int) -> _Form:
    bits, allocated = (_count(file, keyword) for keyword in ("BitsStored", "BitsAllocated"))
    if bits > allocated:
        raise BadCase(f"BitsStored is {bits} of {allocated} bits per pixel", where=file.where)
    return _Form(
        colours=colours,
        bits=bits,
        coded=coded,
        padding=padding_of(file),
        overlaid=_overlaid(file),
        lut=modality_lut(file),
        modality=str(file.value("Modality") or "").strip(),
    )


def _overlaid(file: DicomFile) -> bool:
    """Tell whether the unused bits of pixels hold overlays (PS3.3 C.9.2, retired)."""
    bit_position, data = 0x0102, 0x3000
    return any(
        (group, bit_position) in file.dataset and (group, data) not in file.dataset
        for group in range(0x6000, 0x6020, 2)
    )


def _picture(written: Array, header: FrameHeader, form: _Form) -> Picture:
    """Return one decoded frame; raises BadCase and DAMAGE."""
    stored = cut(written, form.bits)
    padding = np.zeros(written.shape, bool)
    if _CHANNELS[form.colours] == 1:
        padding = padded(written, stored, form.bits, form.padding)
    _check_unused(written, stored, padding, header.file, form)
    bits = min(form.bits, form.coded) if form.coded else form.bits
    told = bits < 8 * stored.dtype.itemsize or stored.dtype.itemsize == 1
    if form.colours == "PALETTE COLOR":
        coloured = np.moveaxis(apply_color_lut(stored, header.file.dataset), -1, 0)
        return Picture(array=coloured, bits=8 * coloured.dtype.itemsize)
    if _CHANNELS[form.colours] == 3:
        return Picture(array=np.moveaxis(stored, -1, 0), bits=bits, told=told)
    shown, unit = _modality_values(stored, header, form)
    white_is_zero = form.colours == "MONOCHROME1"
    levels = shown.dtype.kind == "u" and unit in _NO_UNIT and form.modality != "CT"
    if levels and form.lut is not None:
        bits, told = bits_for(form.lut.largest), True
    if white_is_zero and not levels and unit in _NO_UNIT and form.modality != "CT":
        # Values without a unit are inverted before they are rescaled. Signed ones are symmetric
        # around zero at any depth.
        full = -1 if stored.dtype.kind == "i" else 2 ** (bits if told else _needed(stored)) - 1
        inverted = (full - stored.astype(np.int64)).astype(stored.dtype)
        shown, _ = _modality_values(inverted, header, form)
    if padding.any() and not padding.all():
        seen = shown[~padding]
        shown = np.where(padding, seen.max() if levels and white_is_zero else seen.min(), shown)
    return Picture(
        array=shown[np.newaxis],
        bits=bits if levels else 0,
        told=told,
        white_is_zero=levels and white_is_zero,
    )


def _needed(stored: Array) -> int:
    return bits_for(int(stored.max()))


def _check_unused(
    written: Array, stored: Array, padding: Array, file: DicomFile, form: _Form
) -> None:
    """Raise BadCase if values other than padding use more bits than BitsStored says."""
    if written is stored or form.overlaid:
        return
    # Signed values may or may not be written with their sign in the unused bits.
    unsigned = written.view(f"u{written.dtype.itemsize}")
    beyond = (written != stored) & (unsigned >> form.bits != 0)
    if (beyond & ~padding).any():
        raise BadCase(
            f"BitsStored is {form.bits} but pixels use more bits, so their brightness is unknown",
            where=file.where,
        )


def _modality_values(stored: Array, header: FrameHeader, form: _Form) -> tuple[Array, str]:
    """Return stored values after the modality transformation, and their unit (PS3.3 C.11.1)."""
    if form.lut is not None:
        return form.lut.apply(stored), form.lut.unit
    unit = str(header.holder("RescaleType").value("RescaleType") or "").strip()
    slope, intercept = (
        float(header.numbers(keyword, 1)[0])
        if header.holder(keyword).value(keyword) not in (None, "")
        else default
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if (slope, intercept) == (1.0, 0.0):
        return stored, unit
    exact = stored.astype(np.float64) * slope + intercept
    whole = slope == int(slope) and intercept == int(intercept)
    return exact.astype(np.int32 if whole else np.float32), unit
