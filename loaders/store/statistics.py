"""What a store knows about a case without its arrays: checks, hash, sums, boxes, histogram."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loaders.boxes import bounding_box
from loaders.cases import IMAGE_TYPES, Array, BadCase, Case, Meta
from loaders.formats.checksum import npy_hash
from loaders.formats.levels import counts_of_bytes

# Bins of each channel's histogram, between the channel's own extremes: enough for the percentiles
# that a report or a clipping rule needs, small enough for a quarter of a million images.
BINS = 64
# numpy counts levels in a 64-bit copy, which for this many voxels stays in a core's cache: less
# than half the time of a whole CT at once (measured).
_BLOCK = 1 << 16
# Two are 20 % faster than one; more than four are slower again (measured).
_TABLES = 4


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One case as stored: its arrays in their smallest types, and the numbers of its row.

    `image` (C, *spatial); `mask` (*spatial) uint8 or None; the hashes are of their .npy
    files and of the whole case; `constant`: each channel has one value; `boxes` (n_regions, 2, d)
    half-open, -1 if the region is empty; `class_counts` (n_classes,); `numbers` (n_classes,)
    float64, nan where one is missing, None if the answer is not numbers; `count`, `total`,
    `squares`, `low`, `high` (C,) and `histogram` (C, BINS), all over non-zero voxels if the case is
    normalised by itself, otherwise over every voxel.
    """

    image: Array
    mask: Array | None
    image_hash: str
    mask_hash: str | None
    content_hash: str
    constant: bool
    boxes: Array
    class_counts: Array
    numbers: Array | None
    count: Array
    total: Array
    squares: Array
    low: Array
    high: Array
    histogram: Array


def measure(case: Case, meta: Meta) -> Facts:
    """Check one case against its data set and measure it; raises BadCase."""
    if reason := _image_fault(case, meta) or _answer_fault(case, meta) or _columns_fault(case):
        raise BadCase(reason, where=case.key, key=case.key)
    image, constant, sums = _measured(case, nonzero=meta.normalize == "case")
    count, total, squares, low, high, histogram = sums
    segmented = meta.masked and case.mask is not None
    mask = np.ascontiguousarray(case.mask) if segmented else None
    numbers = _numbers(case, meta)
    if mask is not None:
        class_counts = _class_counts(mask, len(meta.classes))
    elif numbers is not None and meta.numbers is not None:
        class_counts = meta.numbers.held(numbers).astype(np.int64)
    else:
        assert isinstance(case.label, int | np.integer)  # _answer_fault has checked it
        class_counts = np.eye(len(meta.classes), dtype=np.int64)[case.label]
    image_hash = npy_hash(image)
    mask_hash = None if mask is None else npy_hash(mask)
    return Facts(
        image=image,
        mask=mask,
        image_hash=image_hash,
        mask_hash=mask_hash,
        content_hash=_hash(image_hash, mask_hash, numbers, case),
        numbers=numbers,
        constant=constant,
        boxes=_boxes(mask, meta),
        class_counts=class_counts,
        count=count,
        total=total,
        squares=squares,
        low=low,
        high=high,
        histogram=histogram,
    )


def _measured(case: Case, *, nonzero: bool) -> tuple[Array, bool, Sequence[Array]]:
    """Return the image in its smallest type, whether each channel has one value, and its sums."""
    image = case.image
    if image.dtype != np.uint8:
        ranges = [_range(channel) for channel in case.image]
        image = _smallest(case, ranges)
        if image.dtype != np.uint8:
            sums = [
                _channel(channel, ends, nonzero=nonzero)
                for channel, ends in zip(image, ranges, strict=True)
            ]
            constant = all(low == high for low, high in ranges)
            return image, constant, [np.array(column) for column in zip(*sums, strict=True)]
    image = np.ascontiguousarray(image)
    return image, *_of_bytes(image, nonzero=nonzero)


def _image_fault(case: Case, meta: Meta) -> str | None:
    image = case.image
    if image.dtype.kind not in "uif":
        return f"the image has type {image.dtype}, which is not a real number"
    if image.ndim != 1 + meta.dims or len(case.spacing) != meta.dims:
        return f"the image has {image.ndim - 1} spatial axes, not {meta.dims}"
    if image.shape[0] != len(meta.channels):
        return f"the image has {image.shape[0]} channels, not {len(meta.channels)}"
    if image.size == 0:
        return f"the image is empty: its shape is {_by(image.shape[1:])}"
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        return "the image holds NaN or infinity"
    return None


def _columns_fault(case: Case) -> str | None:
    for name, value in (case.columns or {}).items():
        if type(value) is not int or not 0 <= value < 2**63:
            return f"column {name} must be a whole number from 0 on: values are never stored"
    return None


def _answer_fault(case: Case, meta: Meta) -> str | None:
    if meta.numbers is not None and case.label is not None:
        numbers = _numbers(case, meta)
        if numbers is None or len(numbers) != len(meta.classes):
            raise TypeError(
                f"a {meta.kind} reader gave the label {case.label!r}, not a tuple of "
                f"{len(meta.classes)} numbers"
            )
        return meta.numbers.fault(numbers)
    answer = case.mask if meta.masked else case.label
    if answer is None:
        return "the image has no label"
    if isinstance(answer, tuple):
        raise TypeError(f"a {meta.kind} reader gave the label {answer!r}, which is not a class")
    if isinstance(answer, np.ndarray):
        if answer.shape != case.image.shape[1:]:
            return f"the label is {_by(answer.shape)}, but the image {_by(case.image.shape[1:])}"
        if answer.dtype != np.uint8:
            raise TypeError(f"a {meta.kind} reader gave a mask of type {answer.dtype}, not uint8")
        answer = int(answer.max())
        if answer == meta.ignored:
            return None
    if not 0 <= answer < len(meta.classes):
        return f"label {answer} is not one of the {len(meta.classes)} classes"
    return None


def _numbers(case: Case, meta: Meta) -> Array | None:
    """Return the numbers of the answer, nan where one is missing; None if it is not numbers."""
    if meta.numbers is None or not isinstance(case.label, tuple):
        return None
    return np.array([np.nan if value is None else value for value in case.label], dtype=np.float64)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _smallest(case: Case, ranges: Sequence[tuple[Any, Any]]) -> Array:
    """Return the image in the smallest of IMAGE_TYPES that holds its values.

    It is lossless, except that numbers which float32 cannot hold are rounded to it.
    """
    image = case.image
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if image.dtype.kind in "ui" or _integral(image):
        for kind in IMAGE_TYPES[:-1]:
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return np.ascontiguousarray(image, dtype=kind)
    if max(abs(float(low)), abs(float(high))) > float(np.finfo(np.float32).max):
        raise BadCase("the image's values exceed float32", where=case.key, key=case.key)
    # No negative zeros: equal values then have equal bytes, and so equal hashes.
    return np.ascontiguousarray(image, dtype=np.float32) + np.float32(0)


def _range(channel: Array) -> tuple[Any, Any]:
    """Return the lowest and the highest value of one channel."""
    # A flipped axis runs backwards in memory, which takes numpy six times as long (measured).
    channel = channel[tuple(slice(None, None, -1 if step < 0 else 1) for step in channel.strides)]
    # Plane by plane, so that the second pass finds each in a core's cache.
    planes = (channel[place] for place in np.ndindex(channel.shape[:-2]))
    lows, highs = zip(*((plane.min(), plane.max()) for plane in planes), strict=True)
    return min(lows), max(highs)


def _integral(image: Array) -> bool:
    # The first row usually decides; the rest is then skipped.
    return all(bool((part == np.rint(part)).all()) for part in (image[..., :1, :], image))


def _of_bytes(image: Array, *, nonzero: bool) -> tuple[bool, Sequence[Array]]:
    """Return whether each channel of an 8-bit image has one value, and what `_channel` returns.

    Everything is computed for all channels at once from the counts of levels: an image has far more
    pixels than levels.
    """
    held = np.stack([counts_of_bytes(channel.ravel()) for channel in image])
    constant = bool(((held > 0).sum(axis=1) == 1).all())
    held[:, 0] *= not nonzero
    there, count = held > 0, held.sum(axis=1)
    level = np.arange(held.shape[1])
    low = there.argmax(axis=1).astype(np.float64)
    high = (level[-1] - there[:, ::-1].argmax(axis=1)).astype(np.float64)
    wide = np.where(high > low, high - low, 1.0)
    scale = np.where(high > low, BINS / wide, 0.0)
    place = ((level - low[:, None]) * scale[:, None]).astype(np.int64)
    # Levels beyond the extremes do not occur, so they are counted nowhere.
    place = np.clip(place, 0, BINS - 1) + BINS * np.arange(len(image))[:, None]
    histogram = np.bincount(place.ravel(), held.ravel(), BINS * len(image)).astype(np.int64)
    low[count == 0] = high[count == 0] = np.nan
    return constant, (
        count.astype(np.float64),
        (held @ level).astype(np.float64),
        (held @ (level * level)).astype(np.float64),
        low,
        high,
        histogram.reshape(len(image), BINS),
    )


def _channel(
    channel: Array, ends: tuple[Any, Any], *, nonzero: bool
) -> tuple[float, float, float, float, float, Array]:
    """Return count, sum, sum of squares, lowest, highest and histogram of one channel.

    `_of_bytes` does the same for unsigned 8-bit images. `ends` are the lowest and the highest of
    all its values.
    """
    if channel.dtype.kind in "ui":
        # From the count of each level: exact, and many times faster than a sum of squares.
        level, weight = _levels(channel.ravel(), int(ends[0]), int(ends[1]), nonzero=nonzero)
        total, squares = float(weight @ level), float(weight @ (level * level))
        size = int(weight.sum())
    else:
        weight = None
        level = (channel[channel != 0] if nonzero else channel.ravel()).astype(np.float64)
        total, squares = float(level.sum()), float(level @ level)
        size = level.size
    if size == 0:
        return 0.0, 0.0, 0.0, np.nan, np.nan, np.zeros(BINS, dtype=np.int64)
    low, high = float(level.min()), float(level.max())
    scale = BINS / (high - low) if high > low else 0.0
    position = np.minimum(((level - low) * scale).astype(np.int64), BINS - 1)
    histogram = np.bincount(position, weights=weight, minlength=BINS).astype(np.int64)
    return float(size), total, squares, low, high, histogram


def _levels(values: Array, low: int, high: int, *, nonzero: bool) -> tuple[Array, Array]:
    """Return the 8- or 16-bit values (n,) that occur, and their counts, both int64."""
    span = high - low + 1
    unsigned = values.view(f"u{values.dtype.itemsize}")
    # Neighbours are counted in separate tables: air is slow because each count waits for the one
    # before it, that of an equal neighbour.
    tables = 1 if nonzero else max(1, min(_TABLES, 2 ** (8 * values.dtype.itemsize) // span))
    # Counted above the lowest: short tables, which stay in the core's nearest caches.
    shift = np.arange(min(_BLOCK, values.size)) % tables * span - low
    shift = shift.astype(unsigned.dtype)
    weight = np.zeros(tables * span, dtype=np.int64)
    for start in range(0, values.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        place = unsigned[block] + shift[: unsigned[block].size]
        if nonzero:
            # Air is half or more of such a volume: skipping it is faster than counting it.
            place = place[values[block] != 0]
        weight += np.bincount(place, minlength=weight.size)
    weight = weight.reshape(tables, span).sum(axis=0)
    found = np.flatnonzero(weight)
    return found + low, weight[found]


def _class_counts(mask: Array, classes: int) -> Array:
    """Return the number of voxels of each class."""
    counts = np.zeros(classes, dtype=np.int64)
    flat = mask.ravel()
    # Six times as fast as np.bincount, which converts to 64-bit numbers first (measured).
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        counts += [np.count_nonzero(part == index) for index in range(classes)]
    return counts


def _boxes(mask: Array | None, meta: Meta) -> Array:
    """Return the half-open box of each region, (n_regions, 2, d); -1 if it is empty."""
    boxes = np.full((len(meta.regions), 2, meta.dims), -1, dtype=np.int64)
    if mask is None:
        return boxes
    from scipy.ndimage import find_objects

    # The box of all labels is found ten times as fast as those of each (measured).
    around = bounding_box(mask != 0)
    if around[0].stop == 0:
        return boxes
    origin = np.array([side.start for side in around])
    if mask[around].max() == 1:
        # If there is only one label, its box is known.
        alone = [(side.start, side.stop) for side in around]
        for row, labels in enumerate(meta.regions.values()):
            if 1 in labels:
                boxes[row] = np.array(alone).T
        return boxes
    # A union of labels has the union of their boxes, so each label is searched once.
    of_label = {
        label: np.array([(side.start, side.stop) for side in sides]).T + origin
        for label, sides in enumerate(find_objects(mask[around]), start=1)
        if sides is not None
    }
    for row, labels in enumerate(meta.regions.values()):
        found = [of_label[label] for label in labels if label in of_label]
        if found:
            boxes[row, 0] = np.min([box[0] for box in found], axis=0)
            boxes[row, 1] = np.max([box[1] for box in found], axis=0)
    return boxes


def _hash(image: str, mask: str | None, numbers: Array | None, case: Case) -> str:
    """Return a hash of the case's image, answer and spacing, independent of names and order."""
    if numbers is not None:
        answer = f"numbers {','.join(value.hex() for value in numbers.tolist())}"
    else:
        answer = f"label {case.label}" if mask is None else f"mask {mask}"
    spacing = ",".join(float(length).hex() for length in case.spacing)
    return hashlib.sha256(f"image {image};{answer};spacing {spacing}".encode()).hexdigest()
