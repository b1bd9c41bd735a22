"""A DICOM series of slices as one volume of Hounsfield units, in the order of the patient's body.

Slices are ordered along the normal of their plane, never by instance number or file name, and the
distance between them comes from their positions, never from SliceThickness (which may overlap or
leave gaps). A duplicate slice, with the same position and values, counts once. Irregular volumes
are refused: with a missing slice, two different slices at one position, or slices of different
size, orientation, study or frame of reference. Nothing is interpolated to repair a series.

A file is a slice, or an enhanced multi-frame object whose frames are the slices; the functional
groups then hold the position and rescale of each (PS3.3 C.7.6.16).
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.cases import BadCase
from loaders.formats.dicom.file import open_header, quiet
from loaders.formats.dicom.slices import MAX_VOXELS, Slice, read_slices

# Media Storage Directory (PS3.4 annex B): a DICOMDIR lists other files and holds no image.
_DIRECTORY = "1.2.840.10008.1.3.10"
# The elements of each file that a survey reads, and whether a file must have them.
_LISTED = {
    "SeriesInstanceUID": True,
    "SOPInstanceUID": True,
    "PatientID": True,
    "Modality": True,
    "QualityControlImage": False,
    # A series belongs to one study and one frame of reference (PS3.3 A.1.2).
    "StudyInstanceUID": False,
    "FrameOfReferenceUID": False,
    "SeriesDescription": False,
}
# Positions are written rounded to 0.01 mm, which moves a gap of 0.5 mm by 2 %; a changed spacing
# moves it by far more (assumption).
_GAP_TOLERANCE = 0.05
# Positions closer than this are equal: they are written rounded to 0.01 mm or finer (assumption).
_SAME_MM = 0.01
# Direction cosines are written with six decimals (assumption: three are enough).
_COSINE_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Series:
    """The files of one series, and what its headers state about it.

    `phantom` is Quality Control Image (0028,0300): an image of a phantom, not of a patient.
    `patient` may be empty if files need not name one; only the terminal shows `description`.
    """

    uid: str
    patient: str
    modality: str
    phantom: bool
    paths: tuple[Path, ...]
    description: str
    study: str


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A series as one array (Z, Y, X), z along the normal of the slices.

    It is in int16 Hounsfield units, or in whatever unit and type another modality has. `affine`
    (4, 4) maps x, y, z in voxels to mm to the left, posterior, superior; its last axis is the mean
    distance of slices. `heights` are the slices' own positions along the normal, in mm.
    `spacing` is in mm along Z, Y, X; `slices` maps a SOP instance UID to the index of a slice. A
    frame of a converted multi-frame file has the UID of the slice from which it was made.
    """

    array: NDArray[Any]
    spacing: tuple[float, float, float]
    slices: Mapping[str, int]
    affine: NDArray[np.float64]
    heights: NDArray[np.float64]


def list_series(
    files: Iterable[Path], root: Path, *, nameless: bool = False
) -> tuple[list[Series], list[BadCase]]:
    """Group DICOM files into series by their headers; no pixel is read.

    Files that are not DICOM are skipped, unless their name ends in .dcm. A file that occurs twice
    in the tree (same SOP instance UID) counts once. `nameless`: a file need not name its patient.
    """
    found: dict[str, dict[str, tuple[dict[str, str], Path]]] = {}
    rejected = []
    with quiet():
        for path in sorted(files):
            where = str(path.relative_to(root))
            try:
                header = _header(path, where, nameless=nameless)
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


def _header(path: Path, where: str, *, nameless: bool) -> dict[str, str] | None:
    """Return the listed elements of a file; None if it is not a DICOM file, or a DICOMDIR."""
    file = open_header(path, where, list(_LISTED))
    if file is None or file.meta.value("MediaStorageSOPClassUID") == _DIRECTORY:
        return None
    return {
        keyword: file.text(keyword)
        if needed and not (nameless and keyword == "PatientID")
        else str(file.value(keyword) or "").strip()
        for keyword, needed in _LISTED.items()
    }


def _series(uid: str, images: Sequence[tuple[dict[str, str], Path]], where: str) -> Series:
    for keyword in ("PatientID", "Modality", "StudyInstanceUID", "FrameOfReferenceUID"):
        if (count := len({header[keyword] for header, _ in images})) > 1:
            raise BadCase(f"the slices of the series have {count} {keyword}s", where=where)
    first, _ = images[0]
    return Series(
        uid=uid,
        patient=first["PatientID"],
        modality=first["Modality"],
        phantom=any(header["QualityControlImage"] == "YES" for header, _ in images),
        paths=tuple(path for _, path in images),
        description=first["SeriesDescription"],
        study=first["StudyInstanceUID"],
    )


def read_series(
    paths: Sequence[Path], *, window: tuple[int, int], where: str, measured: bool = True
) -> Volume:
    """Read the slices of one series into one volume, clipped to `window` (HU).

    `read_slices` describes how values become HU. A series that is not `measured` in HU (MRI, PET)
    keeps its values, unclipped. Raises BadCase, which names `where`.
    """
    slices: list[Slice] = []
    voxels = 0
    with quiet():
        for path in paths:
            for one in read_slices(path, window, where, measured=measured):
                voxels += math.prod(one.shape)
                if voxels > MAX_VOXELS:
                    raise BadCase(f"the series has more than {MAX_VOXELS} voxels", where=where)
                slices.append(one)
    first = slices[0]
    for field in ("shape", "orientation", "pixel_spacing"):
        values = np.array([getattr(one, field) for one in slices])
        if not np.allclose(values, values[0]):
            raise BadCase(
                f"the slices of the series differ in {field.replace('_', ' ')}", where=where
            )
    across, down = first.orientation[:3], first.orientation[3:]
    axes = np.stack([np.cross(across, down), down, across])
    if not np.allclose(axes @ axes.T, np.eye(3), atol=_COSINE_TOLERANCE):
        raise BadCase(
            "ImageOrientationPatient is not a pair of orthogonal unit vectors", where=where
        )
    # Each row: the slice's position along the normal, down the columns and along the rows, mm.
    positions = np.stack([one.position for one in slices]) @ axes.T
    order = np.argsort(positions[:, 0], kind="stable")
    drift = np.abs(positions[:, 1:] - positions[order[0], 1:])
    if (drift > 0.5 * np.asarray(first.pixel_spacing)).any():
        raise BadCase(
            "the slices are shifted within their plane (tilted gantry or mixed reconstructions)",
            where=where,
        )
    kept, places = _once(slices, positions[:, 0], order, measured=measured)
    heights = positions[kept, 0]
    spacing = (_slice_spacing(heights, where), *first.pixel_spacing)
    affine = np.eye(4)
    mean = (heights[-1] - heights[0]) / (len(kept) - 1)
    affine[:3, :3] = axes[::-1].T * (*first.pixel_spacing[::-1], mean)
    affine[:3, 3] = slices[kept[0]].position
    # Each slice is freed once its pixels are in the volume.
    waiting = deque(slices[i] for i in kept)
    del slices
    if measured:
        array: NDArray[Any] = np.empty((len(kept), *first.shape), np.int16)
        for pixels in array:
            waiting.popleft().hounsfield(pixels)
    else:
        array = np.stack([waiting.popleft().values() for _ in kept])
    return Volume(array=array, spacing=spacing, slices=places, affine=affine, heights=heights)


def _once(
    slices: Sequence[Slice],
    heights: NDArray[np.float64],
    order: NDArray[np.intp],
    *,
    measured: bool,
) -> tuple[list[int], dict[str, int]]:
    """Return which slices to keep, sorted, and the index of each by its UID.

    A slice with the position and values of the one before is a duplicate of it.
    """
    look = Slice.hounsfield if measured else Slice.values
    kept: list[int] = []
    places: dict[str, int] = {}
    for i in order:
        again = (
            kept
            and heights[i] - heights[kept[-1]] < _SAME_MM
            and np.array_equal(look(slices[i]), look(slices[kept[-1]]))
        )
        if not again:
            kept.append(int(i))
        places[slices[i].image] = len(kept) - 1
    return kept, places


def _slice_spacing(positions: NDArray[np.float64], where: str) -> float:
    """Return the distance between sorted slice positions (mm); raises BadCase if it varies."""
    if len(positions) < 2:
        raise BadCase("the series has only one slice, which is not a volume", where=where)
    gaps = np.diff(positions)
    # The lower of two middle gaps: if there are two gaps, the larger may lack a slice.
    spacing = float(np.quantile(gaps, 0.5, method="lower"))
    if (doubled := int((gaps <= _GAP_TOLERANCE * spacing).sum())) or spacing <= 0:
        raise BadCase(
            f"{max(doubled, 1)} slices share a position with another: two acquisitions in one "
            "series",
            where=where,
        )
    if (gaps > 1.5 * spacing).any():
        lost = int((np.rint(gaps / spacing) - 1).sum())
        raise BadCase(f"{lost} slices are missing: the series has gaps", where=where)
    if (np.abs(gaps / spacing - 1) > _GAP_TOLERANCE).any():
        raise BadCase(
            f"the slices are unevenly spaced, {gaps.min():.2f} to {gaps.max():.2f} mm apart",
            where=where,
        )
    return spacing
