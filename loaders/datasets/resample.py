"""Resampling of volumes to another voxel size: images, and label maps beside them.

Along each axis in turn, a new voxel is the mean of the old ones around its centre, weighted by a
triangle. Where voxels get smaller, the triangle spans two old ones: that is linear interpolation.
Where they get larger, it widens with them, so that details finer than a new voxel are averaged and
do not alias: the rule of Pillow and of torch's interpolate with `antialias=True`. Unlike a spline,
a mean never exceeds the range of its inputs: air stays -1000 HU, and the zeros around a brain, by
which MRI is normalised, stay zeros.

A coarse axis is treated alike. nnU-Net takes the nearest slice where voxels are more than three
times as long as wide; without splines there is no need for that.

A voxel's label is the class whose mask, interpolated linearly at the new voxel's centre, is the
largest, as in nnU-Net (resize_segmentation of batchgenerators, order 1). The nearest old voxel
alone would leave ragged edges where voxels get smaller. Ties, which are frequent at edges where
voxels get twice as large, go to the higher class in every other voxel, as on a chessboard, and to
the lower class in the rest. In twelve hippocampi at twice the slice distance, the two parts so keep
1.00 of their volume; 0.91 and 0.89 if the lower class always won, 1.09 and 1.12 if the higher did.
Masks are not averaged like images where voxels get larger: smoothing shrinks small round
structures, to 0.89 and 0.87 at voxels three times as long (all measured).

numpy adds in a fixed order, plane by plane: the same bits on every machine.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from loaders.cases import JSON, Array, BadCase, BadSource, Case, Item, Meta
from loaders.datasets.patch_grid import Grid, Triple
from loaders.formats.nifti import LARGEST_MM, MAX_BYTES
from loaders.formats.nifti import read as read_native

SPACING: Mapping[str, tuple[JSON, str]] = {
    "spacing": (
        [0.0, 0.0, 0.0],
        "mm between voxels, z,y,x; 0: the files' own. Otherwise resampled volumes are scored",
    )
}


def chosen_spacing(kind: str, chosen: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the spacing for a meta's options, empty for the files' own; raises BadSource."""
    spacing = chosen["spacing"]
    if len(spacing) != 3 or not all(0 <= mm <= LARGEST_MM for mm in spacing):
        raise BadSource(
            f"{kind} option spacing is {','.join(f'{mm:g}' for mm in spacing)}; "
            "it must be three numbers in mm, z,y,x, each 0 or more"
        )
    return {"spacing": list(spacing)} if any(spacing) else {}


def read(item: Item, meta: Meta) -> Iterator[Case]:
    """Read a segmented volume, at `meta.options["spacing"]` if that is set; raises BadCase."""
    known: dict[str, Any] = meta.options
    for case in read_native(item, meta):
        yield resampled(case, known["spacing"]) if "spacing" in known else case


def resampled(case: Case, spacing: Sequence[float]) -> Case:
    """Return a volume, and its mask if it has one, on a grid of `spacing`, in mm along z, y, x.

    The new grid has the old one's centre, and the number of voxels that comes nearest to its
    extent. Whole numbers stay whole, rounded half to even. An axis whose spacing is 0 or unchanged
    is left as it is. Raises BadCase if the result is too large.
    """
    native: Triple = case.spacing  # type: ignore[assignment]  # a volume's
    z, y, x = (own if mm == 0 else mm for mm, own in zip(spacing, native, strict=True))
    old = case.image.shape[1:]
    shape = [
        max(1, round(count * own / mm))
        for count, own, mm in zip(old, native, (z, y, x), strict=True)
    ]
    # During resampling, a float32 copy exists beside the final image.
    if len(case.image) * int(np.prod(shape, dtype=object)) * 4 > MAX_BYTES:
        size = " x ".join(map(str, shape))
        raise BadCase(
            f"at the chosen spacing the volume would have {size} voxels, which is too many",
            where=case.key,
        )
    grid = Grid(shape=(shape[0], shape[1], shape[2]), spacing=(z, y, x), native=native)
    centre = (np.array(old) - 1) / 2
    axes = grid.axes(centre)
    taps = [
        _taps(axis, count, max(mm / own, 1.0))
        for axis, count, mm, own in zip(axes, old, (z, y, x), native, strict=True)
    ]
    narrow = [_taps(axis, count, 1.0) for axis, count in zip(axes, old, strict=True)]
    small = case.image.dtype.kind in "ui" and case.image.dtype.itemsize <= 2
    # A store would hold wider types as float32.
    image = np.empty((len(case.image), *shape), case.image.dtype if small else np.float32)
    for new, channel in zip(image, case.image, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):  # non-finite values are refused later
            field = _mean(channel, taps)
        if channel.dtype.kind != "f":
            np.rint(field, out=field)
        new[...] = field
    mask = None if case.mask is None else _labels(case.mask, narrow)
    return replace(case, image=image, mask=mask, spacing=(z, y, x))


def resized_labels(mask: Array, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a mask (Y, X) resampled to `shape` over the same extent."""
    taps = [_taps(np.zeros(1), 1, 1.0)]
    for new, old in zip(shape, mask.shape, strict=True):
        taps.append(_taps((np.arange(new) + 0.5) * (old / new) - 0.5, old, 1.0))
    plane: NDArray[np.uint8] = _labels(mask[np.newaxis], taps)[0]
    return plane


# Shares closer than this are equal: float32's rounding is far below it.
_ALIKE = np.float32(1e-4)


class _Taps(NamedTuple):
    """The old voxels `at` (new, k) that make each new one along an axis, and their `weight`s."""

    at: NDArray[np.intp]
    weight: NDArray[np.float32]

    def within(self, start: int, stop: int) -> tuple[slice, "_Taps"]:
        """Return the new voxels that reach into [start, stop), and their taps in that part only."""
        inside = (self.at >= start) & (self.at < stop) & (self.weight > 0)
        rows = np.flatnonzero(inside.any(axis=1))
        touched = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
        at = np.clip(self.at[touched] - start, 0, stop - start - 1)
        return touched, _Taps(at, np.where(inside[touched], self.weight[touched], np.float32(0)))


def _taps(places: NDArray[np.float64], count: int, half: float) -> _Taps:
    """Return the taps of new voxels at `places` among `count` old ones.

    `half` is half the triangle's base, in old voxels.
    """
    first = np.floor(places - half).astype(np.intp)
    at = first[:, None] + np.arange(int(np.ceil(2 * half)) + 2)
    weight = np.maximum(1 - np.abs(at - places[:, None]) / half, 0)
    # Voxels outside the volume have no share.
    weight[(at < 0) | (at >= count)] = 0
    weight /= weight.sum(axis=1, keepdims=True)
    used = (weight > 0).any(axis=0)
    return _Taps(np.clip(at, 0, count - 1)[:, used], weight[:, used].astype(np.float32))


def _mean(volume: Array, taps: Sequence[_Taps]) -> NDArray[np.float32]:
    """Return the weighted means (Z', Y', X') of a volume (Z, Y, X)."""
    z, y, x = taps
    planes = np.empty((len(volume), len(y.at), len(x.at)), np.float32)
    for place, old in enumerate(volume):
        planes[place] = _along(_along(old.astype(np.float32), y, axis=0), x, axis=1)
    if z.at.shape == (len(planes), 1):
        return planes
    new = np.zeros((len(z.at), *planes.shape[1:]), np.float32)
    for number in range(len(new)):
        for at, weight in zip(z.at[number], z.weight[number], strict=True):
            if weight:
                new[number] += planes[at] * weight
    return new


def _along(plane: NDArray[np.float32], taps: _Taps, *, axis: int) -> NDArray[np.float32]:
    """Return the weighted means of a plane along one of its axes."""
    total: NDArray[np.float32] = np.float32(0)  # type: ignore[assignment]  # broadcast
    for at, weight in zip(taps.at.T, taps.weight.T, strict=True):
        total = total + plane.take(at, axis=axis) * np.expand_dims(weight, 1 - axis)
    return total


def _labels(mask: Array, taps: Sequence[_Taps]) -> NDArray[np.uint8]:
    """Return the class (Z', Y', X') with the largest share; equal classes win alternately."""
    shape = tuple(len(axis.at) for axis in taps)
    labels = np.zeros(shape, np.uint8)
    largest = np.zeros(shape, np.float32)
    background = np.ones(shape, np.float32)
    # One class at a time, each in its own box: a set may have a hundred classes.
    found = ((label, box) for label, box in enumerate(find_objects(mask), start=1) if box)
    for label, box in found:
        parts = [axis.within(side.start, side.stop) for axis, side in zip(taps, box, strict=True)]
        there = tuple(touched for touched, _ in parts)
        share = _mean(mask[box] == label, [part for _, part in parts])
        background[there] -= share
        more = (share > 0) & (share > largest[there] + _in_turn(there))
        labels[there][more] = label
        largest[there][more] = share[more]
    for place in range(len(labels)):
        plane = (slice(place, place + 1), slice(0, shape[1]), slice(0, shape[2]))
        labels[plane][background[plane] > largest[plane] - _in_turn(plane)] = 0
    return labels


def _in_turn(part: Sequence[slice]) -> NDArray[np.float32]:
    """Return by how much a share must exceed another to win, over a part of the new grid."""
    z, y, x = np.ix_(*((np.arange(side.start, side.stop) % 2).astype(np.uint8) for side in part))
    return np.where(z ^ y ^ x, _ALIKE, -_ALIKE)
