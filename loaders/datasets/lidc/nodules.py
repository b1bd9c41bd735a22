"""Readers' outlines as voxels, and their marks merged into nodules.

The collection does not identify nodules: whether two readers marked the same one must be inferred.
Here, marks of different readers are one nodule if their voxels touch. The result depends on the
marks alone, not on the order of readers, marks or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loaders.datasets.lidc.xml_reads import Roi

Index = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Region:
    """Some voxels of a volume: `mask` (z, y, x) bool, whose first voxel is at `origin`."""

    origin: Index
    mask: NDArray[np.bool_]

    @property
    def end(self) -> Index:
        """The index after the last voxel, along each axis."""
        z, y, x = (int(o + n) for o, n in zip(self.origin, self.mask.shape, strict=True))
        return z, y, x


@dataclass(frozen=True, kw_only=True)
class Nodule:
    """One nodule that readers marked: `votes` (z, y, x) counts the readers at each voxel.

    `members` are the indices of its marks, one per reader, in the merged sequence.
    """

    members: tuple[int, ...]
    origin: Index
    votes: NDArray[np.uint8]

    @property
    def readers(self) -> int:
        """The number of readers who marked it."""
        return len(self.members)

    def consensus(self, level: float, of: int | None = None) -> Region:
        """Return the voxels that at least a share `level` (0 to 1) of `of` readers marked.

        `of` is the denominator: by default the nodule's own readers, since one who saw no nodule
        has no opinion on its edge (as in pylidc). The alternative is all readers of the series (as
        in nnDetection), which shrinks nodules that few saw. Voxels that nobody marked are excluded,
        so there may be none.
        """
        needed = level * (self.readers if of is None else of)
        return Region(origin=self.origin, mask=self.votes >= max(needed, 1.0))

    @property
    def core(self) -> Region:
        """The voxels that at least half of its readers marked; if none, those most marked."""
        needed = min(0.5 * self.readers, float(self.votes.max()))
        return Region(origin=self.origin, mask=self.votes >= needed)


def fill(outlines: Sequence[Roi], slices: Mapping[str, int]) -> Region:
    """Return the voxels inside one reader's outlines of one nodule.

    `slices` maps an image's SOP instance UID to its index. The pixels of an outline are outside the
    nodule, including those of a hole's outline. An outline too small to enclose a voxel gives its
    own pixels, since something is there.
    """
    points = np.array([point for roi in outlines for point in roi.points])
    levels = [slices[roi.image] for roi in outlines]
    origin = (min(levels), int(points[:, 1].min()), int(points[:, 0].min()))
    shape = (
        max(levels) - origin[0] + 1,
        int(points[:, 1].max()) - origin[1] + 1,
        int(points[:, 0].max()) - origin[2] + 1,
    )
    inside, holes, drawn = (np.zeros(shape, bool) for _ in range(3))
    for roi, level in zip(outlines, levels, strict=True):
        chain = _chain(roi.points) - (origin[2], origin[1])
        edge, filled = _inside(chain, shape[1:])
        drawn[level - origin[0]] |= edge
        if roi.inclusion:
            inside[level - origin[0]] |= filled
        else:
            holes[level - origin[0]] |= filled | edge
    mask = inside & ~holes
    return Region(origin=origin, mask=mask if mask.any() else drawn)


def _chain(points: Sequence[tuple[int, int]]) -> NDArray[np.intp]:
    """Return a closed outline (x, y) as pixels (n, 2), each a neighbour of the one before.

    Nearly all outlines are such chains already; a few lack pixels or are not closed.
    """
    corners = np.array([*points, points[0]])
    steps = np.diff(corners, axis=0)
    lengths = np.abs(steps).max(axis=1)
    parts = [
        start + np.rint(np.outer(np.arange(length) / max(length, 1), step)).astype(np.intp)
        for start, step, length in zip(corners[:-1], steps, lengths, strict=True)
    ]
    return np.concatenate([*parts, corners[-1:]])


def _inside(
    chain: NDArray[np.intp], shape: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the pixels of a closed chain (x, y), and those that it encloses.

    The even-odd rule along each row decides: if an outline touches itself around a gap, the gap
    stays outside.
    """
    edge = np.zeros(shape, bool)
    edge[chain[:, 1], chain[:, 0]] = True
    before, after = chain[:-1], chain[1:]
    # A step between two rows crosses the upper one of them at its own pixel there.
    upper = np.where(before[:, 1:] < after[:, 1:], before, after)[before[:, 1] != after[:, 1]]
    crossings = np.zeros(shape, np.intp)
    np.add.at(crossings, (upper[:, 1], upper[:, 0]), 1)
    return edge, (crossings.cumsum(axis=1) % 2 == 1) & ~edge


def unite(marks: Sequence[tuple[int, Region]]) -> list[Nodule]:
    """Merge the marks (reader, voxels) into nodules, sorted by place.

    Two marks may be one nodule if they share a voxel, or would if one of them were a slice thicker
    on both sides (readers differ by a slice at the ends, and a nodule of 3 mm may have only one).
    The pairs with the largest intersection over union are merged first. A nodule takes one mark of
    each reader: two marks of a reader mean two nodules.
    """
    # Sorted by content, so that the order of the marks does not affect ties.
    places = sorted(
        range(len(marks)),
        key=lambda i: (marks[i][1].origin, marks[i][1].end, marks[i][1].mask.tobytes()),
    )
    marks = [marks[i] for i in places]
    pairs = [
        (-agreement, i, j)
        for i, (reader, region) in enumerate(marks)
        for j, (other, region_2) in enumerate(marks[:i])
        if reader != other and (agreement := _agreement(region, region_2)) > 0
    ]
    groups = [{i} for i in range(len(marks))]
    for _, i, j in sorted(pairs):
        first, second = (next(group for group in groups if k in group) for k in (i, j))
        if first is second or {marks[k][0] for k in first} & {marks[k][0] for k in second}:
            continue
        first |= second
        groups.remove(second)
    nodules = [
        _nodule(tuple(sorted(places[k] for k in group)), [marks[k][1] for k in group])
        for group in groups
    ]
    return sorted(nodules, key=lambda nodule: (nodule.origin, nodule.votes.tobytes()))


def _nodule(members: tuple[int, ...], regions: Sequence[Region]) -> Nodule:
    low = np.min([region.origin for region in regions], axis=0)
    high = np.max([region.end for region in regions], axis=0)
    votes = np.zeros(high - low, np.uint8)
    for region in regions:
        place = tuple(
            slice(start, end)
            for start, end in zip(region.origin - low, region.end - low, strict=True)
        )
        votes[place] += region.mask
    z, y, x = (int(i) for i in low)
    return Nodule(members=members, origin=(z, y, x), votes=votes)


def _agreement(a: Region, b: Region) -> float:
    """Return the intersection over union of two marks, each a slice thicker on both sides."""
    origins = [np.subtract(region.origin, (1, 0, 0)) for region in (a, b)]
    ends = [np.add(region.end, (1, 0, 0)) for region in (a, b)]
    low, high = np.maximum(*origins), np.minimum(*ends)
    if (high <= low).any():
        return 0.0
    thick = [_thicken(region.mask) for region in (a, b)]
    shared = [
        mask[tuple(slice(s, e) for s, e in zip(low - origin, high - origin, strict=True))]
        for origin, mask in zip(origins, thick, strict=True)
    ]
    both = np.count_nonzero(shared[0] & shared[1])
    return both / (np.count_nonzero(thick[0]) + np.count_nonzero(thick[1]) - both)


def _thicken(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask with each voxel repeated in the slices above and below: two more slices."""
    thick = np.zeros((mask.shape[0] + 2, *mask.shape[1:]), bool)
    for shift in range(3):
        thick[shift : shift + len(mask)] |= mask
    return thick
