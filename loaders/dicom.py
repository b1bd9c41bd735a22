"""A DICOM series of slices as one volume of Hounsfield units, in the order of the patient's body.

Slices are ordered along the normal of their plane, never by instance number or file name, and the
distance between them comes from their positions, never from SliceThickness (which may overlap or
leave gaps). What is no regular volume is refused: a missing slice, two slices at one position,
slices of different size or orientation.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import AllTransferSyntaxes, RLELossless

from loaders.cases import BadCase

# Media Storage Directory (PS3.4 annex B): a DICOMDIR lists other files and holds no image.
_DIRECTORY = "1.2.840.10008.1.3.10"
# What is read of each file in a survey, and whether a file has to have it.
_LISTED = {
    "SeriesInstanceUID": True,
    "SOPInstanceUID": True,
    "PatientID": True,
    "Modality": True,
    "QualityControlImage": False,
}
# What pydicom and its decoders raise on a file that is cut off or damaged; found by cutting and
# overwriting files at every place (tests/loaders/test_loaders_dicom.py). OSError is not among
# them: a disk that fails is no fault of the case.
_DAMAGE = (
    BytesLengthException,
    InvalidDicomError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
# Positions are written rounded to 0.01 mm, which moves a gap of 0.5 mm by 2 %; a changed spacing
# moves it by far more (assumption).
_GAP_TOLERANCE = 0.05
# No scanner makes larger slices (assumption); a header may claim 65535 x 65535 in a small file.
_MAX_SIDE = 8192
# Direction cosines are written with six decimals (assumption: three are enough).
_COSINE_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Series:
    """The files of one series, and what its headers say of it.

    `phantom` is what Quality Control Image (0028,0300) says: made by a phantom, of no patient.
    """

    uid: str
    patient: str
    modality: str
    phantom: bool
    paths: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A series as one array (Z, Y, X): int16 Hounsfield units, z along the normal of the slices.

    `spacing` is in mm along Z, Y, X; `images` are the SOP instance UIDs, slice by slice.
    """

    array: NDArray[np.int16]
    spacing: tuple[float, float, float]
    images: tuple[str, ...]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pydicom silent: its warnings and log lines hold values of headers and paths."""
    logger = logging.getLogger("pydicom")
    was = logger.disabled
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = was


def list_series(files: Iterable[Path], root: Path) -> tuple[list[Series], list[BadCase]]:
    """Group DICOM files into series by their headers; no pixel is read.

    Files that are no DICOM are passed over, unless their name ends in .dcm. A file that lies twice
    in the tree (one SOP instance UID) counts once.
    """
    found: dict[str, dict[str, tuple[dict[str, str], Path]]] = {}
    rejected = []
    for path in sorted(files):
        where = str(path.relative_to(root))
        try:
            header = _header(path, where)
        except BadCase as error:
            error.key = where
            rejected.append(error)
        else:
            if header is not None:
                images = found.setdefault(header["SeriesInstanceUID"], {})
                images.setdefault(header["SOPInstanceUID"], (header, path))
    series = []
    for uid, images in found.items():
        where = str(next(iter(images.values()))[1].parent.relative_to(root))
        try:
            series.append(_series(uid, list(images.values()), where))
        except BadCase as error:
            error.key = uid
            rejected.append(error)
    return series, rejected


def _header(path: Path, where: str) -> dict[str, str] | None:
    """Return the listed elements of a file; None where it is no DICOM file or a DICOMDIR."""
    with _quiet():
        dataset = _read(path, where, stop_before_pixels=True, specific_tags=list(_LISTED))
        if dataset is None:
            return None
        if _value(dataset.file_meta, "MediaStorageSOPClassUID", where) == _DIRECTORY:
            return None
        return {
            keyword: _text(dataset, keyword, where)
            if needed
            else str(_value(dataset, keyword, where) or "")
            for keyword, needed in _LISTED.items()
        }


def _series(uid: str, images: Sequence[tuple[dict[str, str], Path]], where: str) -> Series:
    for keyword in ("PatientID", "Modality"):
        if (count := len({header[keyword] for header, _ in images})) > 1:
            raise BadCase(f"the slices of one series have {count} {keyword}s", where=where)
    first, _ = images[0]
    return Series(
        uid=uid,
        patient=first["PatientID"],
        modality=first["Modality"],
        phantom=any(header["QualityControlImage"] == "YES" for header, _ in images),
        paths=tuple(path for _, path in images),
    )


def read_series(paths: Sequence[Path], *, window: tuple[int, int], where: str) -> Volume:
    """Read the slices of one series (one file each) into one volume, clipped to `window` (HU).

    Padding (PixelPaddingValue, PixelPaddingRangeLimit) is found in the stored values and becomes
    the window's lower bound: rescaled first, it would be a density that no tissue has. Stored
    values become HU by the slope and intercept of their own slice. MONOCHROME1 asks a viewer to
    show low values white (PS3.3 C.7.6.3.1.2): it changes no HU, so nothing is inverted.
    Raises BadCase, which names `where`.
    """
    slices = [_slice(path, window, where) for path in paths]
    first = slices[0]
    for field in ("shape", "orientation", "pixel_spacing"):
        if any(not np.allclose(getattr(s, field), getattr(first, field)) for s in slices):
            raise BadCase(
                f"the slices of the series differ in {field.replace('_', ' ')}", where=where
            )
    across, down = first.orientation[:3], first.orientation[3:]
    axes = np.stack([np.cross(across, down), down, across])
    if not np.allclose(axes @ axes.T, np.eye(3), atol=_COSINE_TOLERANCE):
        raise BadCase("ImageOrientationPatient is no pair of orthogonal unit vectors", where=where)
    # Each row: the slice's position along the normal, down the columns and along the rows, mm.
    positions = np.stack([s.position for s in slices]) @ axes.T
    order = np.argsort(positions[:, 0], kind="stable")
    positions = positions[order]
    drift = np.abs(positions[:, 1:] - positions[0, 1:])
    if (drift > 0.5 * np.asarray(first.pixel_spacing)).any():
        raise BadCase(
            "the slices are shifted within their plane (tilted gantry or mixed reconstructions)",
            where=where,
        )
    return Volume(
        array=np.stack([slices[i].pixels for i in order]),
        spacing=(_slice_spacing(positions[:, 0], where), *first.pixel_spacing),
        images=tuple(slices[i].image for i in order),
    )


def _slice_spacing(positions: NDArray[np.float64], where: str) -> float:
    """Return the distance of the sorted slice positions (mm), which must be one."""
    if len(positions) < 2:
        raise BadCase("the series has one slice alone: no volume", where=where)
    gaps = np.diff(positions)
    spacing = float(np.median(gaps))
    if (doubled := int((gaps <= _GAP_TOLERANCE * spacing).sum())) or spacing <= 0:
        raise BadCase(
            f"{max(doubled, 1)} slices lie where another one does: two acquisitions in one series",
            where=where,
        )
    if (gaps > 1.5 * spacing).any():
        lost = int((np.rint(gaps / spacing) - 1).sum())
        raise BadCase(f"{lost} slices are missing: the series has gaps", where=where)
    if (np.abs(gaps / spacing - 1) > _GAP_TOLERANCE).any():
        raise BadCase(
            f"the slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart: uneven", where=where
        )
    return spacing


@dataclass(frozen=True, kw_only=True)
class _Slice:
    image: str
    pixels: NDArray[np.int16]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_spacing: tuple[float, float]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape


def _slice(path: Path, window: tuple[int, int], where: str) -> _Slice:
    with _quiet():
        dataset = _read(path, where)
        if dataset is None:
            raise BadCase("a file of the series is no DICOM file any more", where=where)
        if _value(dataset, "NumberOfFrames", where) not in (None, "", 1):
            raise BadCase("a file holds several frames; one slice a file is read", where=where)
        colours = _text(dataset, "PhotometricInterpretation", where)
        if colours not in ("MONOCHROME1", "MONOCHROME2"):
            raise BadCase(
                "PhotometricInterpretation is neither MONOCHROME1 nor MONOCHROME2", where=where
            )
        pixel_spacing = _numbers(dataset, "PixelSpacing", 2, where)
        if (pixel_spacing <= 0).any():
            raise BadCase("PixelSpacing is not positive", where=where)
        return _Slice(
            image=_text(dataset, "SOPInstanceUID", where),
            pixels=_hounsfield(dataset, window, where),
            position=_numbers(dataset, "ImagePositionPatient", 3, where),
            orientation=_numbers(dataset, "ImageOrientationPatient", 6, where),
            pixel_spacing=(float(pixel_spacing[0]), float(pixel_spacing[1])),
        )


def _hounsfield(dataset: pydicom.Dataset, window: tuple[int, int], where: str) -> NDArray[np.int16]:
    slope = _numbers(dataset, "RescaleSlope", 1, where)[0]
    intercept = _numbers(dataset, "RescaleIntercept", 1, where)[0]
    rows, columns = (_numbers(dataset, side, 1, where)[0] for side in ("Rows", "Columns"))
    if max(rows, columns) > _MAX_SIDE:
        raise BadCase(f"Rows and Columns are {rows:.0f} and {columns:.0f}: no slice", where=where)
    syntax = _value(dataset.file_meta, "TransferSyntaxUID", where)
    if syntax == RLELossless:
        # The other decoder of it ends the process on a damaged file: a panic in Rust.
        dataset.pixel_array_options(decoding_plugin="pydicom")
    try:
        stored = dataset.pixel_array
    except _DAMAGE as error:
        name = syntax.name if syntax in AllTransferSyntaxes else "unknown"
        raise BadCase(
            f"the pixels of a slice (transfer syntax {name}) cannot be decoded: "
            f"{type(error).__name__}",
            where=where,
        ) from error
    if stored.ndim != 2:
        raise BadCase(f"a slice has {stored.ndim} axes; rows and columns are read", where=where)
    units: NDArray[np.int16] = np.clip(np.rint(stored * slope + intercept), *window).astype("i2")
    units[_padding(dataset, stored, where)] = window[0]
    return units


def _padding(dataset: pydicom.Dataset, stored: NDArray[Any], where: str) -> NDArray[np.bool_]:
    """Return which stored values are padding; PixelPaddingRangeLimit makes it a range."""
    if _value(dataset, "PixelPaddingValue", where) is None:
        return np.zeros(stored.shape, bool)
    bits = 8 * stored.dtype.itemsize
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if _value(dataset, keyword, where) is None:
            continue
        # Written unsigned in files of signed pixels and the other way round (63536 for -2000):
        # only the bits count.
        bits_alone = int(_numbers(dataset, keyword, 1, where)[0]) % 2**bits
        ends.append(np.array([bits_alone], f"uint{bits}").view(stored.dtype)[0])
    inside: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    return inside


def _read(path: Path, where: str, **options: Any) -> pydicom.Dataset | None:
    """Return a file's data set, or None where it is no DICOM file and does not claim to be."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] != b"DICM":
        if path.suffix.lower() == ".dcm":
            raise BadCase("the file's name ends in .dcm and it is no DICOM file", where=where)
        return None
    try:
        return pydicom.dcmread(path, **options)
    except _DAMAGE as error:
        raise BadCase(
            f"a DICOM file is damaged or cut off: {type(error).__name__}", where=where
        ) from error


def _value(dataset: pydicom.Dataset, keyword: str, where: str) -> Any:
    """Return an element's value, None where there is none; its bytes are parsed only now."""
    try:
        return dataset.get(keyword)
    except _DAMAGE as error:
        raise BadCase(f"{keyword} is damaged: {type(error).__name__}", where=where) from error


def _text(dataset: pydicom.Dataset, keyword: str, where: str) -> str:
    if text := str(_value(dataset, keyword, where) or "").strip():
        return text
    raise BadCase(f"{keyword} is missing", where=where)


def _numbers(dataset: pydicom.Dataset, keyword: str, count: int, where: str) -> NDArray[np.float64]:
    if (value := _value(dataset, keyword, where)) is None:
        raise BadCase(f"{keyword} is missing", where=where)
    try:
        numbers = np.array(value, np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise BadCase(f"{keyword} holds no number", where=where) from error
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise BadCase(f"{keyword} does not hold {count} finite numbers", where=where)
    return numbers
