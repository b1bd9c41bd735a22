"""What a store knows of a case without opening its arrays: checks, hash, sums, boxes, histogram."""

import hashlib
from dataclasses import dataclass

import numpy as np

from loaders.cases import IMAGE_TYPES, Array, BadCase, Case, Meta

# Bins of each channel's histogram, between the channel's own extremes: enough for the percentiles
# that a report or a clipping rule asks for, small enough for a quarter of a million images.
BINS = 64
# numpy counts levels over a copy in 64 bits, which for so many voxels stays in a core's cache: half
# the time of a whole CT at once (measured).
_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One case as it is stored: its arrays in their smallest types, and its row's numbers.

    `image` (C, *spatial); `mask` (*spatial) uint8 or None; `boxes` (n_regions, 2, d) half-open, -1
    where the region is empty; `class_counts` (n_classes,); `count`, `total`, `squares`, `low`,
    `high` (C,) and `histogram` (C, BINS), all over non-zero voxels where the case is normalised
    by itself and over every voxel otherwise.
    """

    image: Array
    mask: Array | None
    content_hash: str
    boxes: Array
    class_counts: Array
    count: Array
    total: Array
    squares: Array
    low: Array
    high: Array
    histogram: Array


def measure(case: Case, meta: Meta) -> Facts:
    """Check one case against its data set and measure it; raises BadCase."""
    if reason := _image_fault(case, meta) or _answer_fault(case, meta):
        raise BadCase(reason, where=case.key, key=case.key)
    image = _smallest(case)
    segmented = meta.task == "segmentation" and case.mask is not None
    mask = np.ascontiguousarray(case.mask) if segmented else None
    nonzero = meta.normalize == "case"
    sums = [_channel(channel, nonzero=nonzero) for channel in image]
    count, total, squares, low, high, histogram = (
        np.array(column) for column in zip(*sums, strict=True)
    )
    if mask is None:
        class_counts = np.eye(len(meta.classes), dtype=np.int64)[case.label]
    else:
        class_counts = np.bincount(mask.ravel(), minlength=len(meta.classes))
    return Facts(
        image=image,
        mask=mask,
        content_hash=_hash(image, mask, case),
        boxes=_boxes(mask, meta),
        class_counts=class_counts,
        count=count,
        total=total,
        squares=squares,
        low=low,
        high=high,
        histogram=histogram,
    )


def _image_fault(case: Case, meta: Meta) -> str | None:
    image = case.image
    if image.dtype.kind not in "uif":
        return f"the image is of type {image.dtype}, which is no real number"
    if image.ndim != 1 + meta.dims or len(case.spacing) != meta.dims:
        return f"the image has {image.ndim - 1} spatial axes, not {meta.dims}"
    if image.shape[0] != len(meta.channels):
        return f"the image has {image.shape[0]} channels, not {len(meta.channels)}"
    if image.size == 0:
        return f"the image is empty: its shape is {_by(image.shape[1:])}"
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        return "the image holds NaN or infinity"
    return None


def _answer_fault(case: Case, meta: Meta) -> str | None:
    answer = case.label if meta.task == "classification" else case.mask
    if answer is None:
        return "the image has no label"
    if isinstance(answer, np.ndarray):
        if answer.shape != case.image.shape[1:]:
            return f"the label is {_by(answer.shape)}, the image {_by(case.image.shape[1:])}"
        if answer.dtype != np.uint8:
            raise TypeError(f"a {meta.kind} reader gave a mask of type {answer.dtype}, not uint8")
        answer = int(answer.max())
    if not 0 <= answer < len(meta.classes):
        return f"label {answer} is none of the {len(meta.classes)} classes"
    return None


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _smallest(case: Case) -> Array:
    """Return the image in the smallest of IMAGE_TYPES that holds its values.

    Lossless but for numbers that float32 cannot hold, which are rounded to it.
    """
    image = case.image
    low, high = image.min(), image.max()
    if image.dtype.kind in "ui" or _integral(image):
        for kind in IMAGE_TYPES[:-1]:
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return np.ascontiguousarray(image, dtype=kind)
    if max(abs(float(low)), abs(float(high))) > float(np.finfo(np.float32).max):
        raise BadCase("the image's values exceed float32", where=case.key, key=case.key)
    return np.ascontiguousarray(image, dtype=np.float32)


def _integral(image: Array) -> bool:
    # The first row mostly tells, and then the rest is not looked at.
    return all(bool((part == np.rint(part)).all()) for part in (image[..., :1, :], image))


def _channel(channel: Array, *, nonzero: bool) -> tuple[float, float, float, float, float, Array]:
    """Return count, total, total of squares, lowest, highest and histogram of one channel."""
    if channel.dtype.kind in "ui":
        # Through the count of each level: exact, and many times faster than a sum of squares. The
        # levels of signed types stand behind the others, as their bits do.
        bits = channel.view(f"u{channel.dtype.itemsize}").ravel()
        weight = np.zeros(2 ** (8 * channel.dtype.itemsize), dtype=np.int64)
        for start in range(0, bits.size, _BLOCK):
            part = np.bincount(bits[start : start + _BLOCK])
            weight[: part.size] += part
        if nonzero:
            weight[0] = 0
        found = np.flatnonzero(weight)
        weight = weight[found]
        level = found.astype(bits.dtype).view(channel.dtype).astype(np.int64)
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


def _boxes(mask: Array | None, meta: Meta) -> Array:
    """Return the half-open box of each region, (n_regions, 2, d); -1 where it is empty."""
    boxes = np.full((len(meta.regions), 2, meta.dims), -1, dtype=np.int64)
    if mask is None:
        return boxes
    from scipy.ndimage import find_objects

    # A union of labels has the union of their boxes, so each label is looked for once.
    of_label = {
        label: np.array([(side.start, side.stop) for side in sides]).T
        for label, sides in enumerate(find_objects(mask), start=1)
        if sides is not None
    }
    for row, labels in enumerate(meta.regions.values()):
        found = [of_label[label] for label in labels if label in of_label]
        if found:
            boxes[row, 0] = np.min([box[0] for box in found], axis=0)
            boxes[row, 1] = np.max([box[1] for box in found], axis=0)
    return boxes


def _hash(image: Array, mask: Array | None, case: Case) -> str:
    """Return SHA-256 of what the case holds: image, answer and spacing; no name and no order."""
    digest = hashlib.sha256()
    for array in (image, mask if mask is not None else np.array(case.label, dtype=np.int64)):
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(array.data)
    digest.update(np.array(case.spacing, dtype="<f8").tobytes())
    return digest.hexdigest()
