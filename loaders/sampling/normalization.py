"""Statistics of a training part: the offset and unit of its intensities, the weights of classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.sampling.assign import FoldError

Indices = NDArray[np.int64]


def normalization(
    moments: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    normalize: str,
    train: Indices,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return offset (mean) and unit (standard deviation) of every case, each (n_cases, C) float64.

    `moments`: count, sum and sum of squares, each (n_cases, C). "train" pools only the cases of
    `train` and gives all cases the same; "case" takes each case's own. A channel without voxels or
    with one value gets unit 1, so that it stays constant.
    """
    sums = [np.asarray(moment, dtype=np.float64) for moment in moments]
    if _pooled(normalize):
        pooled = (moment[train].sum(axis=0, keepdims=True) for moment in sums)
        sums = [np.broadcast_to(moment, sums[0].shape) for moment in pooled]
    count, total, squares = sums
    voxels = np.maximum(count, 1)
    mean = total / voxels
    variance = squares / voxels - mean**2
    # A spread below the rounding error of that difference is zero. 1e-12: a thousand times the
    # spacing of float64, for sums of many terms.
    flat = variance <= 1e-12 * squares / voxels
    return mean, np.sqrt(np.where(flat, 1.0, variance))


def value_range(
    extremes: tuple[NDArray[Any], NDArray[Any]],
    zeros: NDArray[np.bool_],
    normalize: str,
    train: Indices,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return offset (lowest value) and unit (range) of every case, each (n_cases, C) float64.

    `extremes`: lowest and highest, each (n_cases, C), nan if no voxel was used; `zeros`
    (n_cases, C) tells where voxels of 0 were excluded from them, which count here. "train" takes
    the extremes of only the cases of `train` for all cases, so that others may be outside 0 to 1;
    "case" takes each case's own. A channel with one value gets unit 1.
    """
    low, high = (np.asarray(extreme, dtype=np.float64) for extreme in extremes)
    low = np.where(zeros, np.fmin(low, 0.0), low)
    high = np.where(zeros, np.fmax(high, 0.0), high)
    if _pooled(normalize):
        low = np.broadcast_to(low[train].min(axis=0, keepdims=True), low.shape)
        high = np.broadcast_to(high[train].max(axis=0, keepdims=True), high.shape)
    return low, np.where(high > low, high - low, 1.0)


def _pooled(normalize: str) -> bool:
    """Tell whether intensities are normalised over the training part, not case by case."""
    if normalize not in ("case", "train"):
        raise ValueError(f"normalize is {normalize!r}; it must be case or train")
    return normalize == "train"


def class_weights(class_counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return a weight per class (n_classes,), inverse to its frequency in training.

    `class_counts` (n_classes,): cases or voxels, see loaders.batches.drawn. Weights are
    N / (K * N_c), so the mean weight over the N cases or voxels drawn is 1. Raises FoldError if a
    class is absent.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    if not counts.all():
        raise FoldError(
            f"class {int(np.argmin(counts))} does not occur in the training part (counts are "
            f"{counts.astype(np.int64).tolist()}), so its inverse frequency is undefined; "
            "use a loss without class weights, fewer folds, or merge the class with another"
        )
    weights: NDArray[np.float64] = counts.sum() / (len(counts) * counts)
    return weights


def presence_weights(numbers: NDArray[Any], findings: Sequence[str]) -> NDArray[np.float64]:
    """Return for each finding (k,) the ratio of training cases without it to those with it.

    `numbers` (n, k): 1, 0 or nan (unknown), which counts for neither. Raises FoldError if no case
    has a finding, or all do.
    """
    there, absent = (numbers == 1).sum(axis=0), (numbers == 0).sum(axis=0)
    for name, yes, no in zip(findings, there.tolist(), absent.tolist(), strict=True):
        if not yes or not no:
            raise FoldError(
                f"finding {name!r} is present in {yes} cases of the training part and absent in "
                f"{no}, so it has no weight; use a loss without weights, fewer folds, or "
                "leave the finding out"
            )
    weights: NDArray[np.float64] = absent / there
    return weights
