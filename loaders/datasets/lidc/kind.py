"""LIDC-IDRI as downloaded from TCIA: chest CT series (DICOM) and radiologists' reads (XML).

The source is a folder in any layout: series are found by their headers, reads by the series they
name, patients by PatientID (some were scanned twice). A task is a row of TASKS; all tasks start
from the same nodules, made by merging the readers' marks.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cases import JSON, BadCase, BadSource, Case, Item, Kind, Meta, Survey, settings
from loaders.datasets.lidc.nodules import fill, unite
from loaders.datasets.lidc.tasks import TASKS, Place, Scan, TaskOptions, consensus
from loaders.datasets.lidc.xml_reads import RATINGS, Point, Session, list_reads, read_sessions
from loaders.datasets.patch_grid import Grid
from loaders.formats.dicom.series import Volume, list_series, read_series

_SOURCE = (
    "LIDC-IDRI, doi:10.7937/K9/TCIA.2015.LO9QL9SX; Armato et al., Medical Physics 38:915 (2011)"
)
_LICENCE = "CC BY 3.0"
# Four readers read every series (Armato 2011). A file with the sessions of two series may hold
# empty ones, which cannot be assigned to either.
_READERS = 4
# The most voxels in a patch, which are float64 while it is cut (assumption).
_MAX_PATCH = 2**26

OPTIONS: Mapping[str, tuple[JSON, str]] = {
    "task": (
        "detect",
        "detect: is there a nodule; malignancy: benign or malignant; segment: its voxels",
    ),
    # The reference standard of LUNA16: Setio et al., Medical Image Analysis 42:1 (2017).
    "readers": (3, "a nodule counts if at least this many readers marked it; 1 to 4"),
    "negatives": (
        1,
        "detect: patches without a nodule for each with one; a series without nodules gives one",
    ),
    # MedMNIST and most papers on LIDC leave these out.
    "indeterminate": ("exclude", "malignancy: a median score of 3; exclude, benign or malignant"),
    # Half of the readers is usual (pylidc's default).
    "level": (0.5, "segment: least share of readers who marked a voxel of the mask; over 0, to 1"),
    "denominator": (
        "nodule",
        "segment: share of which readers; nodule: those who marked it; series: all who read it",
    ),
    # 32 mm a side at the default spacing, the size of LUNA16 candidates (Dou et al., IEEE Trans
    # Biomed Eng 64:1558 (2017), use 20 to 40 mm).
    "patch": ([16, 32, 32], "voxels of a patch: z,y,x, or y,x of one slice"),
    "slices": (1, "with a patch y,x: neighbouring slices as channels, an odd number"),
    "view": ("patch", "patch: around its nodule; slice: the whole slice, centred in a patch y,x"),
    # Series have slices of 0.6 to 5 mm and pixels of 0.5 to 1 mm: without resampling, a nodule
    # would fill a patch of one series and a tenth of a patch of another.
    "spacing": ([2.0, 1.0, 1.0], "mm between the voxels of a patch: z,y,x; 0: the series' own"),
    "window": ([-1000, 400], "range of HU, from,to; values outside are clipped"),
}


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """List the CT series that have a read, without decoding a pixel.

    Rejected: damaged files, series without a read, reads without a series, reads of chest X-rays.
    Series of other modalities are skipped. Raises BadSource.
    """
    chosen = _check(settings(LIDC.name, OPTIONS, options), options)
    if not source.is_dir():
        raise BadSource(f"there is no folder {source}")
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
            reason = "no radiologists' read (XML) names the CT series"
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
            f"reads were found, but none belong together"
        )
    phantom = any(scan.phantom for scan in scans)
    task = TASKS[chosen["task"]]
    flat = len(chosen["patch"]) == 2
    half = chosen["slices"] // 2
    meta = Meta(
        kind=LIDC.name,
        name=f"lidc-{chosen['task']}",
        task=task.task,
        dims=2 if flat else 3,
        channels=tuple(f"CT {n:+d}" if n else "CT" for n in range(-half, half + 1)),
        classes=task.classes,
        regions={"nodule": (1,)} if task.task == "segmentation" else {},
        positive=task.positive,
        normalize="train",
        fill=float(chosen["window"][0]),
        unit="image" if chosen["view"] == "slice" else "lesion",
        group_source="patient",
        source="phantom images in the format of LIDC-IDRI, of no patient" if phantom else _SOURCE,
        licence="none needed: made data" if phantom else _LICENCE,
        options=chosen,
    )
    items.sort(key=lambda item: item.key)
    return Survey(meta=meta, items=tuple(items), rejected=tuple(rejected))


def _check(chosen: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the task; raises BadSource for the first invalid one."""
    patch = chosen["patch"]
    rules: list[tuple[str, Callable[[Any], bool], str]] = [
        ("task", lambda value: value in TASKS, ", ".join(TASKS)),
        ("readers", lambda value: 1 <= value <= _READERS, f"1 to {_READERS}"),
        ("negatives", lambda value: value >= 1, "1 or more"),
        (
            "indeterminate",
            lambda value: value in ("exclude", "benign", "malignant"),
            "exclude, benign or malignant",
        ),
        ("level", lambda value: 0 < value <= 1, "over 0, to 1"),
        ("denominator", lambda value: value in ("nodule", "series"), "nodule or series"),
        (
            "patch",
            lambda value: (_are(value, 3, int) or _are(value, 2, int)) and min(value) >= 1,
            "3 whole numbers of 1 or more, z,y,x, or 2, y,x",
        ),
        ("slices", lambda value: value >= 1 and value % 2 == 1, "an odd number"),
        (
            "patch",
            lambda value: prod((*value, chosen["slices"])) <= _MAX_PATCH,
            f"at most {_MAX_PATCH} voxels",
        ),
        ("slices", lambda value: value == 1 or len(patch) == 2, "1 if patch has a z"),
        ("view", lambda value: value in ("patch", "slice"), "patch or slice"),
        ("view", lambda value: value == "patch" or len(patch) == 2, "patch if patch has a z"),
        (
            "view",
            lambda value: value == "patch" or TASKS[chosen["task"]].whole_slices,
            f"patch in task {chosen['task']}: a slice may hold nodules of both classes",
        ),
        (
            "spacing",
            lambda value: _are(value, 3, int | float) and all(0 <= mm < inf for mm in value),
            "3 lengths, mm, or 0",
        ),
        (
            "window",
            lambda value: _are(value, 2, int) and -32768 <= value[0] < value[1] <= 32767,
            "two whole numbers from,to, the lower one first",
        ),
    ]
    for name, holds, allowed in rules:
        if not holds(chosen[name]):
            raise BadSource(f"lidc option {name} is {chosen[name]!r}; it must be {allowed}")
    for name, task in TASKS.items():
        for option in task.options:
            if name != chosen["task"]:
                if option in given:
                    raise BadSource(f"lidc option {option} is only for task {name}")
                del chosen[option]
    return chosen


def _are(values: Any, count: int, type_: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(isinstance(value, type_) and not isinstance(value, bool) for value in values)
    )


def _files(source: Path) -> Iterator[Path]:
    """Walk a tree, following links, and visit each folder once."""
    seen = set()
    for folder, below, names in os.walk(source, followlinks=True):
        here = Path(folder)
        if (real := here.resolve()) in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        yield from (here / name for name in sorted(names) if (here / name).is_file())


def read(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
    """Yield the cases of one series; raises BadCase if it cannot be used."""
    where, options = str(item.extra["where"]), meta.options
    # The slices come first, then the reads.
    slice_count = len(item.paths) - int(item.extra["reads"])
    sessions = read_sessions(item.paths[slice_count:], where)
    low, high = _numbers(options["window"])
    volume = read_series(item.paths[:slice_count], window=(int(low), int(high)), where=where)
    scan = _scan(_of_series(sessions, volume, where), volume, where)
    asked = _task_options(meta, volume)
    # All are found before the first is yielded: a series is used entirely or not at all.
    found = list(TASKS[str(options["task"])].places(scan, asked))
    mask = consensus(scan, asked) if meta.masked else None
    for number, place in enumerate(found):
        if isinstance(place, BadCase):
            place.key = f"{item.key}/{number}"
            yield place
            continue
        image = asked.grid.cut(volume.array, place.centre, fill=meta.fill)
        labels = None
        if mask is not None:
            labels = asked.grid.cut_mask(mask, place.centre)
            labels = labels[len(labels) // 2] if asked.flat else labels
            if asked.flat and not labels.any():
                # The grid may step over a nodule's tip of a voxel or two; such a slice is no case.
                continue
            if not labels.any():
                yield BadCase(
                    "a nodule falls between the voxels of its patch: set a finer spacing or a "
                    "larger patch",
                    where=where,
                    key=f"{item.key}/{number}",
                )
                continue
        yield Case(
            key=f"{item.key}/{number}",
            group=str(item.extra["patient"]),
            image=image if asked.flat else image[np.newaxis],
            label=place.label,
            mask=labels,
            spacing=asked.grid.millimetres[3 - meta.dims :],
            ratings=_by_scale(place),
        )


def _scan(sessions: Sequence[Session], volume: Volume, where: str) -> Scan:
    """Return a series with its marks as voxels; the order of readers makes no difference."""
    slices = volume.slices
    annotations = [
        (reader, annotation)
        for reader, session in enumerate(sessions)
        for annotation in session.nodules
    ]
    nodules = unite([(reader, fill(one.outlines, slices)) for reader, one in annotations])
    return Scan(
        volume=volume,
        readers=min(len(sessions), _READERS),
        nodules=nodules,
        ratings=[
            tuple(sorted(annotations[i][1].ratings for i in nodule.members)) for nodule in nodules
        ],
        points=sorted(
            (slices[point.image], point.y, point.x)
            for session in sessions
            for point in session.small + session.non_nodules
        ),
        where=where,
    )


def _task_options(meta: Meta, volume: Volume) -> TaskOptions:
    options: Mapping[str, Any] = meta.options
    shape = [int(n) for n in _numbers(options["patch"])]
    z, y, x = shape if meta.dims == 3 else (int(options["slices"]), *shape)
    z_mm, y_mm, x_mm = _numbers(options["spacing"])
    own = TASKS[str(options["task"])].options
    return TaskOptions(
        readers=int(options["readers"]),
        flat=meta.dims == 2,
        whole=options["view"] == "slice",
        grid=Grid(shape=(z, y, x), spacing=(z_mm, y_mm, x_mm), native=volume.spacing),
        **{name: options[name] for name in own},
    )


def _by_scale(place: Place) -> dict[str, list[int]] | None:
    """Return a nodule's ratings by scale, each in the order of its readers."""
    if not place.ratings:
        return None
    scales = zip(*place.ratings, strict=True)
    return {name: list(scores) for name, scores in zip(RATINGS, scales, strict=True)}


def _of_series(sessions: Sequence[Session], volume: Volume, where: str) -> list[Session]:
    """Return the sessions that read this series; a few files also hold another series' sessions.

    Raises BadCase if marks lie on slices that the series does not have.
    """
    known = set(volume.slices)
    ours = [one for one in sessions if not one.images or one.images & known]
    lost = set().union(*(one.images for one in ours)) - known
    marked = [one for one in sessions if one.images]
    if lost or (marked and not any(one.images for one in ours)):
        raise BadCase("the read has marks on slices that the series does not have", where=where)
    _, rows, columns = volume.array.shape
    for session in ours:
        points = [
            Point(r.image, x, y) for n in session.nodules for r in n.outlines for x, y in r.points
        ]
        for point in (*points, *session.small, *session.non_nodules):
            if not (0 <= point.x < columns and 0 <= point.y < rows):
                raise BadCase("the read has a mark outside the image", where=where)
    return ours


def _numbers(value: JSON) -> list[float]:
    """Return an option that holds one number or several."""
    return [float(number) for number in np.atleast_1d(np.asarray(value))]


LIDC = Kind(
    name="lidc",
    summary="LIDC-IDRI: lung nodules on chest CT, DICOM series and XML reads as TCIA provides them",
    source=_SOURCE,
    survey=survey,
    read=read,
    options=OPTIONS,
)
