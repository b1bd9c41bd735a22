"""RT structure sets (PS3.3 A.19): outlines in the patient's millimetres to the voxels of a series.

A voxel is inside if its centre is. If outlines of a plane are nested, the inner one is a hole, and
so on (even-odd rule). An outline belongs to the slice nearest to its plane; if several planes are
nearest to one slice, the closest of them counts. A centre on an outline, even a hole's, is inside.
Points and open lines have no inside.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from loaders.cases import Array, BadCase
from loaders.formats.dicom.file import DicomFile
from loaders.formats.scans.scan import Scan

# The types of closed contours (PS3.3 C.8.8.6).
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# Rounding may tilt a plane against the slices by up to a tenth of their distance (assumption).
# Planes closer than that are one.
_FLAT = 0.1
# A voxel's centre is on an outline that passes it this near, in voxels: writers round to 0.01 mm
# (assumption).
_ON = 0.01


def names(file: DicomFile) -> list[str]:
    """Return the name of each structure that is drawn, in the order of the file; raises BadCase.

    Templates list structures that nobody has drawn; these may or may not be empty.
    """
    drawn = {
        int(roi.numbers("ReferencedROINumber", 1)[0])
        for roi in file.items("ROIContourSequence")
        if roi.items("ContourSequence")
    }
    return [name for number, (name, _) in _structures(file).items() if number in drawn]


def series_of(file: DicomFile) -> set[str]:
    """Return the UIDs of the series that it names; raises BadCase."""
    return {
        series.text("SeriesInstanceUID")
        for frame in file.items("ReferencedFrameOfReferenceSequence")
        for study in frame.items("RTReferencedStudySequence")
        for series in study.items("RTReferencedSeriesSequence")
    }


def frames_of(file: DicomFile) -> set[str]:
    """Return the frames of reference that its structures are in; raises BadCase."""
    return {frame for _, frame in _structures(file).values()} - {""}


def opened(file: DicomFile) -> Callable[[str, Scan, float, int], Array]:
    """Return a function that gives a structure as 0 and 1 (X, Y, Z), by name; raises BadCase."""
    return partial(_voxels, file)


def _voxels(file: DicomFile, name: str, scan: Scan, _shift: float, _threshold: int) -> Array:
    numbers = {number for number, (own, _) in _structures(file).items() if own == name}
    inside: Array = np.zeros(scan.volume.shape, np.uint8)
    for roi in file.items("ROIContourSequence"):
        if int(roi.numbers("ReferencedROINumber", 1)[0]) in numbers:
            _fill(roi, name, scan, inside)
    return inside


def _structures(file: DicomFile) -> dict[int, tuple[str, str]]:
    """Return the name and the frame of reference of each structure by its number."""
    found = {
        int(item.numbers("ROINumber", 1)[0]): (
            item.text("ROIName"),
            str(item.value("ReferencedFrameOfReferenceUID") or "").strip(),
        )
        for item in file.items("StructureSetROISequence")
    }
    if not found:
        raise BadCase("the mask names no structure", where=file.where)
    return found


def _fill(roi: DicomFile, name: str, scan: Scan, inside: Array) -> None:
    """Fill the outlines of one structure into `inside`."""
    # Slice -> the planes nearest to it and their outlines, in voxels.
    planes: dict[int, list[tuple[float, NDArray[np.float64]]]] = defaultdict(list)
    contours = roi.items("ContourSequence")
    closed = 0
    for contour in contours:
        if str(contour.value("ContourGeometricType") or "").strip() not in _CLOSED:
            continue
        closed += 1
        points = scan.voxels_of(_points(contour))
        height = points[:, 2]
        if np.ptp(height) > _FLAT:
            raise BadCase(f"an outline of {name} is not parallel to the slices", where=roi.where)
        plane = float(height.mean())
        nearest = round(plane)
        if not 0 <= nearest < inside.shape[2]:
            raise BadCase(f"an outline of {name} is outside the series", where=roi.where)
        if len(points) > 2:
            planes[nearest].append((plane, points[:, :2]))
    if contours and not closed:
        raise BadCase(f"{name} has points or open lines but no closed outline", where=roi.where)
    for place, of_slice in planes.items():
        nearest_plane = min((plane for plane, _ in of_slice), key=lambda plane: abs(plane - place))
        counted = [outline for plane, outline in of_slice if abs(plane - nearest_plane) <= _FLAT]
        inside[..., place] |= even_odd(counted, inside.shape[:2])


def _points(contour: DicomFile) -> NDArray[np.float64]:
    count = np.size(contour.value("ContourData"))
    if not count or count % 3:
        raise BadCase("ContourData is not a list of points", where=contour.where)
    return contour.numbers("ContourData", count).reshape(-1, 3)


def even_odd(outlines: Sequence[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return which points (x, y), whole numbers below `shape`, an odd number of outlines encloses.

    `outlines` are closed polygons (n, 2). A point on one of them is inside, as intended by programs
    that draw outlines through the centres of voxels.
    """
    crossed = np.zeros((shape[0] + 1, shape[1]), np.int64)
    touched = np.zeros(shape, bool)
    for outline in outlines:
        begin, end = outline, np.roll(outline, -1, axis=0)
        at, line = _crossings(begin, end, shape[1], reach=0.0)
        # All points beyond a crossing are on its other side.
        np.add.at(crossed, (np.clip(np.ceil(at), 0, shape[0]).astype(np.int64), line), 1)
        for axis in (0, 1):
            at, line = _crossings(
                begin[:, [axis, 1 - axis]], end[:, [axis, 1 - axis]], shape[1 - axis], reach=_ON
            )
            near = np.rint(at).astype(np.int64)
            on = (np.abs(at - near) <= _ON) & (near >= 0) & (near < shape[axis])
            touched[tuple(np.stack([near[on], line[on]])[[axis, 1 - axis]])] = True
    inside: NDArray[np.bool_] = np.cumsum(crossed, axis=0)[:-1] % 2 == 1
    return (inside | touched).astype(np.uint8)


def _crossings(
    begin: NDArray[np.float64], end: NDArray[np.float64], lines: int, *, reach: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return where edges cross the lines with second coordinate 0, 1, ..., and the line of each.

    An edge includes its lower end but not its upper one; `reach` extends it at both ends.
    """
    flipped = (begin[:, 1] > end[:, 1])[:, np.newaxis]
    low, high = np.where(flipped, end, begin), np.where(flipped, begin, end)
    first = np.clip(np.ceil(low[:, 1] - reach), 0, lines).astype(np.int64)
    stop = np.clip(np.ceil(high[:, 1] + reach), 0, lines).astype(np.int64)
    count = np.maximum(stop - first, 0)
    edge = np.repeat(np.arange(len(count)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    rise = np.maximum(high[edge, 1] - low[edge, 1], np.finfo(float).tiny)
    share = np.clip((line - low[edge, 1]) / rise, 0, 1)
    return low[edge, 0] + share * (high[edge, 0] - low[edge, 0]), line
