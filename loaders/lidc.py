"""LIDC-IDRI as it comes from TCIA: chest CT series (DICOM) and radiologists' reads (XML) to cases.

The source is a folder in any layout: series are found by their headers, reads by the series they
name, patients by PatientID (some were scanned twice). A task is a row of TASKS; each starts from
the same nodules, on which the readers' marks are united.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from loaders.cases import JSON, BadCase, BadSource, Case, Item, Kind, Meta, Survey, settings
from loaders.dicom import Volume, list_series, read_series
from loaders.lidc_nodules import Nodule, fill, unite
from loaders.lidc_xml import Point, Session, list_reads, read_sessions
from loaders.lung import find_lung

_SOURCE = (
    "LIDC-IDRI, doi:10.7937/K9/TCIA.2015.LO9QL9SX; Armato et al., Medical Physics 38:915 (2011)"
)
_LICENCE = "CC BY 3.0"
# What the level of a nodule's consensus is a share of stands in lidc_nodules.Nodule. Half of the
# readers is the usual one (pylidc's default).
_CONSENSUS = 0.5

OPTIONS: Mapping[str, tuple[JSON, str]] = {
    "task": ("detect", "detect: does this patch hold a nodule"),
    # The reference standard of LUNA16: Setio et al., Medical Image Analysis 42:1 (2017).
    "readers": (3, "a nodule counts where at least so many readers marked it; 1 to 4"),
    "negatives": (1, "patches without a nodule, for each with one; a series without any gives one"),
    # 32 mm a side at the default spacing, the size of LUNA16 candidates (Dou et al., IEEE Trans
    # Biomed Eng 64:1558 (2017), use 20 to 40 mm).
    "patch": ([16, 32, 32], "voxels of a patch: z,y,x"),
    # Series are 0.6 to 5 mm a slice and 0.5 to 1 mm a pixel: left as they are, the same nodule
    # would fill a patch here and a tenth of it there.
    "spacing": ([2.0, 1.0, 1.0], "mm between the voxels of a patch: z,y,x"),
    "window": ([-1000, 400], "HU kept, from,to; what lies outside is clipped"),
}


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """List the CT series that have a read, without decoding a pixel.

    Rejected: damaged files, series without a read, reads without a series, reads of chest X-rays.
    Series of other modalities are passed over. Raises BadSource.
    """
    chosen = _check(settings(LIDC.name, OPTIONS, options))
    if not source.is_dir():
        raise BadSource(f"no folder {source}")
    files = list(_files(source))
    xml = [path for path in files if path.suffix.lower() == ".xml"]
    reads, rejected = list_reads(xml, source)
    series, damaged = list_series(sorted(set(files) - set(xml)), source)
    rejected += damaged
    items = []
    scans = [one for one in series if one.modality == "CT"]
    for scan in scans:
        where = str(scan.paths[0].parent.relative_to(source))
        if scan.uid not in reads:
            reason = "the CT series has no radiologists' read (XML) that names it"
            rejected.append(BadCase(reason, where=where, key=scan.uid))
            continue
        extra = {"patient": scan.patient, "reads": len(reads[scan.uid]), "where": where}
        items.append(Item(key=scan.uid, paths=scan.paths + reads[scan.uid], extra=extra))
    for uid in sorted(set(reads) - {scan.uid for scan in scans}):
        where = str(reads[uid][0].relative_to(source))
        reason = "the CT series that the read names is not in the source"
        rejected.append(BadCase(reason, where=where, key=uid))
    if not items:
        raise BadSource(
            f"{source} has no CT series with a read: {len(scans)} CT series and {len(reads)} CT "
            f"reads were found, none of which belong together"
        )
    phantom = any(scan.phantom for scan in scans)
    task = TASKS[chosen["task"]]
    meta = Meta(
        kind=LIDC.name,
        name=f"lidc-{chosen['task']}",
        task="classification",
        dims=3,
        channels=("CT",),
        classes=task.classes,
        regions={},
        positive=task.positive,
        normalize="train",
        fill=float(chosen["window"][0]),
        unit="lesion",
        group_source="patient",
        source="phantom images in the format of LIDC-IDRI, of no patient" if phantom else _SOURCE,
        licence="none needed: made data" if phantom else _LICENCE,
        options=chosen,
    )
    items.sort(key=lambda item: item.key)
    return Survey(meta=meta, items=tuple(items), rejected=tuple(rejected))


def _check(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the options if they make sense; raises BadSource, naming the first that does not."""
    rules: list[tuple[str, Callable[[Any], bool], str]] = [
        ("task", lambda value: value in TASKS, " or ".join(TASKS)),
        ("readers", lambda value: 1 <= value <= 4, "1 to 4"),
        ("negatives", lambda value: value >= 1, "1 or more"),
        ("patch", lambda value: _are(value, 3, int) and min(value) >= 1, "3 whole numbers, z,y,x"),
        ("spacing", lambda value: _are(value, 3, int | float) and min(value) > 0, "3 lengths, mm"),
        (
            "window",
            lambda value: _are(value, 2, int) and -32768 <= value[0] < value[1] <= 32767,
            "two whole numbers from,to, the lower one first",
        ),
    ]
    for name, holds, wanted in rules:
        if not holds(chosen[name]):
            raise BadSource(f"lidc option {name} is {chosen[name]!r}; it is {wanted}")
    return chosen


def _are(values: Any, count: int, type_: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(isinstance(value, type_) for value in values)
    )


def _files(source: Path) -> Iterator[Path]:
    """Walk a tree, through links too, each folder once."""
    seen = set()
    for folder, below, names in os.walk(source, followlinks=True):
        here = Path(folder)
        if (real := here.resolve()) in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield from (here / name for name in sorted(names) if (here / name).is_file())


def read(item: Item, meta: Meta) -> Iterator[Case]:
    """Give the candidate patches of one series; raises BadCase where it cannot be used."""
    where, options = str(item.extra["where"]), meta.options
    # The slices come first, then the reads.
    slice_count = len(item.paths) - int(item.extra["reads"])
    sessions = read_sessions(item.paths[slice_count:], where)
    low, high = _numbers(options["window"])
    volume = read_series(item.paths[:slice_count], window=(int(low), int(high)), where=where)
    sessions = _of_series(sessions, volume, where)
    slices = {image: index for index, image in enumerate(volume.images)}
    nodules = unite(
        [
            (reader, fill(outlines, slices))
            for reader, session in enumerate(sessions)
            for outlines in session.nodules
        ]
    )
    points = sorted(
        (slices[point.image], point.y, point.x)
        for session in sessions
        for point in session.small + session.non_nodules
    )
    scan = _Scan(volume=volume, readers=len(sessions), nodules=nodules, points=points, where=where)
    # All are found before the first is given: a series is used whole or not at all.
    found = list(TASKS[str(options["task"])].find(scan, options))
    for number, (label, centre) in enumerate(found):
        yield Case(
            key=f"{item.key}/{number}",
            group=str(item.extra["patient"]),
            image=_cut(volume, centre, options)[np.newaxis],
            label=label,
            mask=None,
            spacing=_triple(options["spacing"]),
        )


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """A series with all that was marked on it; `points` are voxels (z, y, x) without an outline."""

    volume: Volume
    readers: int
    nodules: list[Nodule]
    points: list[tuple[int, int, int]]
    where: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked of a series: `find` gives each case's class and its centre (z, y, x voxels)."""

    classes: tuple[str, ...]
    positive: int | None
    find: Callable[[_Scan, Mapping[str, JSON]], Iterator[tuple[int, NDArray[np.float64]]]]


def _detect(scan: _Scan, options: Mapping[str, JSON]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Give the nodules that enough readers marked, and as many places that nobody marked.

    Nodules that fewer readers marked are neither: their patches are left out of both classes.
    """
    needed, each = (int(_numbers(options[name])[0]) for name in ("readers", "negatives"))
    if scan.readers < needed:
        raise BadCase(
            f"{scan.readers} readers read the series; option readers asks for {needed}",
            where=scan.where,
        )
    count = 0
    for nodule in scan.nodules:
        if nodule.readers >= needed:
            core = nodule.consensus(_CONSENSUS)
            yield 1, np.add(core.origin, ndimage.center_of_mass(core.mask))
            count += 1
    for centre in _unmarked(scan, max(count, 1) * each, options):
        yield 0, centre


TASKS: Mapping[str, Task] = {
    "detect": Task(classes=("no nodule", "nodule"), positive=1, find=_detect)
}


def _unmarked(
    scan: _Scan, count: int, options: Mapping[str, JSON]
) -> Iterator[NDArray[np.float64]]:
    """Draw up to `count` centres whose patches hold nothing that any reader marked.

    They lie on dense tissue inside the lungs, which is what a search for nodules trips over
    (vessels, wall); where that runs out, anywhere in the lungs. No patch holds the centre of
    another. Fewer are given where no more fit; raises BadCase where there is no lung. The draw is
    seeded by the voxels, so it is the same under any name, in any order.
    """
    volume = scan.volume
    lung = find_lung(volume.array, volume.spacing)
    if not lung.lung.any():
        raise BadCase("no lung was found: the series is no chest CT", where=scan.where)
    half = 0.5 * np.multiply(_triple(options["patch"]), _triple(options["spacing"]))
    reach = half / volume.spacing
    free = np.ones(lung.lung.shape, bool)
    boxes = [(n.origin, np.add(n.origin, n.votes.shape) - 1) for n in scan.nodules]
    for low, high in boxes + [(point, point) for point in scan.points]:
        _clear(free, np.subtract(low, reach), np.add(high, reach), lung.step)
    digest = hashlib.sha256(volume.array.data).digest()
    random = np.random.default_rng(int.from_bytes(digest, "big"))
    for allowed in (lung.dense, lung.lung):
        while count and len(cells := np.flatnonzero(allowed & free)):
            cell = np.unravel_index(cells[random.integers(len(cells))], free.shape)
            centre = np.array(cell) * lung.step + (np.array(lung.step) - 1) / 2
            _clear(free, centre - reach, centre + reach, lung.step)
            count -= 1
            yield centre


def _clear(
    free: NDArray[np.bool_], low: NDArray[Any], high: NDArray[Any], step: tuple[int, int, int]
) -> None:
    """Mark the cells whose centres lie from voxel `low` to voxel `high` as taken."""
    offset = (np.array(step) - 1) / 2
    first = np.maximum(np.ceil((low - offset) / step), 0).astype(int)
    last = np.floor((high - offset) / step).astype(int) + 1
    free[tuple(slice(a, max(b, 0)) for a, b in zip(first, last, strict=True))] = False


def _of_series(sessions: Sequence[Session], volume: Volume, where: str) -> list[Session]:
    """Return the sessions that read this series; a few files hold those of another one too.

    Raises BadCase where marks lie on slices that are not there.
    """
    known = set(volume.images)
    ours = [one for one in sessions if not one.images or one.images & known]
    lost = set().union(*(one.images for one in ours)) - known
    marked = [one for one in sessions if one.images]
    if lost or (marked and not any(one.images for one in ours)):
        raise BadCase("the read has marks on slices that the series does not have", where=where)
    _, rows, columns = volume.array.shape
    for session in ours:
        points = [Point(r.image, x, y) for n in session.nodules for r in n for x, y in r.points]
        for point in (*points, *session.small, *session.non_nodules):
            if not (0 <= point.x < columns and 0 <= point.y < rows):
                raise BadCase("the read has a mark outside the image", where=where)
    return ours


def _cut(
    volume: Volume, centre: NDArray[np.float64], options: Mapping[str, JSON]
) -> NDArray[np.int16]:
    """Sample a patch round `centre` (voxels) by linear interpolation; air outside the volume."""
    axes = [
        middle + (np.arange(count) - (count - 1) / 2) * mm / native
        for middle, count, mm, native in zip(
            centre,
            (int(n) for n in _numbers(options["patch"])),
            _numbers(options["spacing"]),
            volume.spacing,
            strict=True,
        )
    ]
    sampled = ndimage.map_coordinates(
        volume.array,
        np.meshgrid(*axes, indexing="ij"),
        output=np.float64,
        order=1,
        mode="constant",
        cval=_numbers(options["window"])[0],
    )
    return np.rint(sampled).astype(np.int16)


def _numbers(value: JSON) -> list[float]:
    """Return an option that holds one number or several."""
    return [float(number) for number in np.atleast_1d(np.asarray(value))]


def _triple(value: JSON) -> tuple[float, float, float]:
    z, y, x = _numbers(value)
    return z, y, x


LIDC = Kind(
    name="lidc",
    summary="LIDC-IDRI: lung nodules on chest CT, DICOM series and XML reads as TCIA gives them",
    source=_SOURCE,
    survey=survey,
    read=read,
    options=OPTIONS,
)
