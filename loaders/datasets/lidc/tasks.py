"""The tasks on LIDC-IDRI series: detect nodules, tell malignant from benign ones, segment them.

Each task gives the places of its cases; `loaders.datasets.lidc.kind` cuts the images there. A
nodule counts if at least `readers` radiologists outlined it. Malignancy is the radiologists'
opinion, not pathology.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from loaders.cases import BadCase
from loaders.datasets.lidc.lung import Lung, find_lung
from loaders.datasets.lidc.nodules import Nodule
from loaders.datasets.lidc.xml_reads import RATINGS
from loaders.datasets.patch_grid import Grid
from loaders.formats.dicom.series import Volume

_MALIGNANCY = list(RATINGS).index("malignancy")
# On a scale from 1 (highly unlikely) to 5 (highly suspicious), 3 is "indeterminate".
_INDETERMINATE = 3


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A series with everything that was marked on it.

    `ratings` holds for each nodule a tuple of nine for every reader who marked it, sorted; `points`
    are voxels (z, y, x) that were marked without an outline.
    """

    volume: Volume
    readers: int
    nodules: Sequence[Nodule]
    ratings: Sequence[tuple[tuple[int, ...], ...]]
    points: Sequence[tuple[int, int, int]]
    where: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """One case: its centre (z, y, x voxels) and, if the task has classes, its class.

    `ratings` are those of the nodule that it shows; empty if it shows none or a whole slice.
    """

    centre: NDArray[np.float64]
    label: int | None = None
    ratings: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The options that decide which places a task gives; a task uses those of its row only.

    `flat`: cases are slices, not volumes; `whole`: each shows its whole slice.
    """

    readers: int
    flat: bool
    whole: bool
    grid: Grid
    negatives: int = 1
    indeterminate: str = "exclude"
    level: float = 0.5
    denominator: str = "nodule"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of TASKS: `places` gives a scan's cases; `options` are the task's own."""

    task: Literal["classification", "segmentation"]
    classes: tuple[str, ...]
    positive: int | None
    whole_slices: bool
    options: tuple[str, ...]
    places: Callable[[Scan, TaskOptions], Iterator[Place | BadCase]]


def _detect(scan: Scan, options: TaskOptions) -> Iterator[Place | BadCase]:
    """Yield the nodules that enough readers marked, and `negatives` times as many unmarked places.

    Nodules that fewer readers marked are left out of both classes. If cases are slices, a nodule's
    slice is the one with most of it.
    """
    nodules = list(_counting(scan, options))
    if options.whole:
        levels = sorted({_widest(nodule) for nodule, _ in nodules})
        for level in levels:
            yield Place(centre=_slice_centre(scan, level), label=1)
        count = len(levels)
    else:
        for nodule, ratings in nodules:
            yield Place(centre=_centre(nodule, options), label=1, ratings=ratings)
        count = len(nodules)
    for centre in _unmarked(scan, max(count, 1) * options.negatives, options):
        yield Place(centre=centre, label=0)


def _malignancy(scan: Scan, options: TaskOptions) -> Iterator[Place | BadCase]:
    """Yield each nodule with its class: whether the median of its readers' scores is above 3.

    A median of 3 is left out or counted as `indeterminate` says. At least `readers` readers must
    have given a score, as that many must have marked the nodule.
    """
    for nodule, ratings in _counting(scan, options):
        scores = [rating[_MALIGNANCY] for rating in ratings if rating[_MALIGNANCY]]
        if len(scores) < options.readers:
            yield BadCase(
                f"{len(scores)} of {nodule.readers} readers rated a nodule's malignancy; option "
                f"readers requires {options.readers}",
                where=scan.where,
            )
            continue
        median = float(np.median(scores))
        if median == _INDETERMINATE:
            if options.indeterminate == "exclude":
                continue
            label = int(options.indeterminate == "malignant")
        else:
            label = int(median > _INDETERMINATE)
        yield Place(centre=_centre(nodule, options), label=label, ratings=ratings)


def _segment(scan: Scan, options: TaskOptions) -> Iterator[Place | BadCase]:
    """Yield each nodule, or each slice of it, that has a voxel in the consensus.

    `loaders.datasets.lidc.kind` drops those without a voxel on the grid of their patch, which may
    step over the tip of a nodule.
    """
    if options.whole:
        for level in np.flatnonzero(consensus(scan, options).any(axis=(1, 2))):
            yield Place(centre=_slice_centre(scan, int(level)))
        return
    for nodule, ratings in _counting(scan, options):
        region = nodule.consensus(options.level, _denominator(scan, options))
        if not region.mask.any():
            of = scan.readers if options.denominator == "series" else nodule.readers
            yield BadCase(
                f"no voxel of a nodule was marked by {options.level:g} of {of} readers",
                where=scan.where,
            )
            continue
        centre = _centre(nodule, options)
        levels = np.flatnonzero(region.mask.any(axis=(1, 2))) + region.origin[0]
        for level in levels if options.flat else [centre[0]]:
            yield Place(centre=np.array([level, *centre[1:]]), ratings=ratings)


TASKS: Mapping[str, Task] = {
    "detect": Task(
        task="classification",
        classes=("no nodule", "nodule"),
        positive=1,
        whole_slices=True,
        options=("negatives",),
        places=_detect,
    ),
    "malignancy": Task(
        task="classification",
        classes=("benign", "malignant"),
        positive=1,
        # One slice may hold nodules of both kinds.
        whole_slices=False,
        options=("indeterminate",),
        places=_malignancy,
    ),
    "segment": Task(
        task="segmentation",
        classes=("background", "nodule"),
        positive=None,
        whole_slices=True,
        options=("level", "denominator"),
        places=_segment,
    ),
}


def consensus(scan: Scan, options: TaskOptions) -> NDArray[np.bool_]:
    """Return the voxels (Z, Y, X) of every nodule that counts, at the chosen consensus.

    A second nodule in a patch is therefore not background, but one that fewer readers marked is.
    """
    mask = np.zeros(scan.volume.array.shape, bool)
    for nodule, _ in _counting(scan, options):
        region = nodule.consensus(options.level, _denominator(scan, options))
        mask[tuple(map(slice, region.origin, region.end))] |= region.mask
    return mask


def _counting(
    scan: Scan, options: TaskOptions
) -> Iterator[tuple[Nodule, tuple[tuple[int, ...], ...]]]:
    """Yield the nodules that enough readers marked; raises BadCase if too few read the series."""
    if scan.readers < options.readers:
        raise BadCase(
            f"{scan.readers} readers read the series; option readers requires {options.readers}",
            where=scan.where,
        )
    for nodule, ratings in zip(scan.nodules, scan.ratings, strict=True):
        if nodule.readers >= options.readers:
            yield nodule, ratings


def _denominator(scan: Scan, options: TaskOptions) -> int | None:
    return scan.readers if options.denominator == "series" else None


def _centre(nodule: Nodule, options: TaskOptions) -> NDArray[np.float64]:
    """Return the centre of mass (z, y, x) of the voxels that half of its readers marked.

    If cases are slices, z is that of the slice with most of the nodule.
    """
    centre = _mass(nodule)
    if options.flat:
        centre[0] = _widest(nodule)
    return centre


def _mass(nodule: Nodule) -> NDArray[np.float64]:
    core = nodule.core
    centre: NDArray[np.float64] = np.add(core.origin, ndimage.center_of_mass(core.mask))
    return centre


def _widest(nodule: Nodule) -> int:
    """Return the slice with most of a nodule; of several, the one nearest its centre."""
    sizes = nodule.core.mask.sum(axis=(1, 2))
    levels = np.flatnonzero(sizes == sizes.max()) + nodule.origin[0]
    return int(levels[np.abs(levels - _mass(nodule)[0]).argmin()])


def _slice_centre(scan: Scan, level: int) -> NDArray[np.float64]:
    _, rows, columns = scan.volume.array.shape
    return np.array([level, (rows - 1) / 2, (columns - 1) / 2])


# Places without a nodule.


def _unmarked(scan: Scan, count: int, options: TaskOptions) -> Iterator[NDArray[np.float64]]:
    """Draw up to `count` centres whose patches hold nothing that any reader marked.

    There are fewer if no more fit; raises BadCase if no lung is found. The voxels seed the draw, so
    names and order do not affect it.
    """
    volume = scan.volume
    lung = find_lung(volume.array, volume.spacing)
    if not lung.lung.any():
        raise BadCase("no lung was found: the series is not a chest CT", where=scan.where)
    boxes = [(n.origin, np.add(n.origin, n.votes.shape) - 1) for n in scan.nodules]
    boxes += [(point, point) for point in scan.points]
    digest = hashlib.sha256(volume.array.data).digest()
    random = np.random.default_rng(int.from_bytes(digest, "big"))
    if options.whole:
        yield from _slices(scan, count, lung, boxes, options.grid.reach[0], random)
        return
    for centre in _patches(count, lung, boxes, options.grid.reach, random):
        yield np.array([np.rint(centre[0]), *centre[1:]]) if options.flat else centre


def _slices(
    scan: Scan,
    count: int,
    lung: Lung,
    boxes: Sequence[tuple[Any, Any]],
    reach: float,
    random: np.random.Generator,
) -> Iterator[NDArray[np.float64]]:
    """Yield slices through the lungs, drawn without replacement."""
    free = np.repeat(lung.lung.any(axis=(1, 2)), lung.step[0])
    for low, high in boxes:
        first, last = np.ceil(low[0] - reach), np.floor(high[0] + reach)
        free[int(max(first, 0)) : int(last) + 1] = False
    levels = np.flatnonzero(free)
    for level in random.permutation(levels)[:count]:
        yield _slice_centre(scan, int(level))


def _patches(
    count: int,
    lung: Lung,
    boxes: Sequence[tuple[Any, Any]],
    reach: NDArray[np.float64],
    random: np.random.Generator,
) -> Iterator[NDArray[np.float64]]:
    """Yield centres on dense tissue in the lungs (vessels, wall), where most false positives are.

    If these run out, centres are anywhere in the lungs. No patch holds another's centre.
    """
    free = np.ones(lung.lung.shape, bool)
    for low, high in boxes:
        _clear(free, np.subtract(low, reach), np.add(high, reach), lung.step)
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
    """Mark the cells whose centres are between voxels `low` and `high` as taken."""
    offset = (np.array(step) - 1) / 2
    first = np.maximum(np.ceil((low - offset) / step), 0).astype(int)
    last = np.floor((high - offset) / step).astype(int) + 1
    free[tuple(slice(a, max(b, 0)) for a, b in zip(first, last, strict=True))] = False
