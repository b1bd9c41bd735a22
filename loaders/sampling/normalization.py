"""What a training part alone tells: its intensities' offset and unit, and its classes' weights."""

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

    `moments`: count, total and total of squares, each (n_cases, C). "train" pools the cases of
    `train` alone and gives all cases the same; "case" takes each case's own. A channel without
    voxels or of one value gets unit 1, so that it stays what it is: constant.
    """
    sums = [np.asarray(moment, dtype=np.float64) for moment in moments]
    if _pooled(normalize):
        pooled = (moment[train].sum(axis=0, keepdims=True) for moment in sums)
        sums = [np.broadcast_to(moment, sums[0].shape) for moment in pooled]
    count, total, squares = sums
    voxels = np.maximum(count, 1)
    mean = total / voxels
    variance = squares / voxels - mean**2
    # What is below the rounding error of that difference is no spread. 1e-12: a thousand times
    # the spacing of float64, for sums of many terms.
    flat = variance <= 1e-12 * squares / voxels
    return mean, np.sqrt(np.where(flat, 1.0, variance))


def value_range(
    extremes: tuple[NDArray[Any], NDArray[Any]],
    zeros: NDArray[np.bool_],
    normalize: str,
    train: Indices,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return offset (lowest value) and unit (range) of every case, each (n_cases, C) float64.

    `extremes`: lowest and highest, each (n_cases, C), nan where no voxel was looked at; `zeros`
    (n_cases, C) tells where voxels of 0 were left out of them, which count here. "train" takes the
    extremes of the cases of `train` alone for all cases, so that others may lie outside of 0 to 1;
    "case" takes each case's own. A channel of one value gets unit 1.
    """
    low, high = (np.asarray(extreme, dtype=np.float64) for extreme in extremes)
    low = np.where(zeros, np.fmin(low, 0.0), low)
    high = np.where(zeros, np.fmax(high, 0.0), high)
    if _pooled(normalize):
        low = np.broadcast_to(low[train].min(axis=0, keepdims=True), low.shape)
        high = np.broadcast_to(high[train].max(axis=0, keepdims=True), high.shape)
    return low, np.where(high > low, high - low, 1.0)


def _pooled(normalize: str) -> bool:
    """Tell whether a store's intensities are taken over the training part, not case by case."""
    if normalize not in ("case", "train"):
        raise ValueError(f"normalize is {normalize!r}; it is case or train")
    return normalize == "train"


def class_weights(class_counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return a weight a class (n_classes,), inverse to how often it is drawn in training.

    `class_counts` (n_classes,): cases or voxels, see loaders.batches.drawn. Weights are
    N / (K * N_c), so the mean weight over the N cases or voxels drawn is 1. Raises FoldError where
    a class is absent.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    if not counts.all():
        raise FoldError(
            f"class {int(np.argmin(counts))} does not occur in the training part (counts are "
            f"{counts.astype(np.int64).tolist()}): inverse frequency gives it no weight; "
            "use a loss without class weights, fewer folds, or merge the class with another"
        )
    weights: NDArray[np.float64] = counts.sum() / (len(counts) * counts)
    return weights


def presence_weights(numbers: NDArray[Any], findings: Sequence[str]) -> NDArray[np.float64]:
    """Return for each finding (k,) how many cases of training lack it for one that has it.

    `numbers` (n, k): 1, 0 or nan where it is not known, which counts for neither. Raises FoldError
    where a finding has no case with it, or none without.
    """
    there, absent = (numbers == 1).sum(axis=0), (numbers == 0).sum(axis=0)
    for name, yes, no in zip(findings, there.tolist(), absent.tolist(), strict=True):
        if not yes or not no:
            raise FoldError(
                f"finding {name!r} is there in {yes} cases of the training part and is not in "
                f"{no}: no ratio gives it a weight; use a loss without weights, fewer folds, or "
                "leave the finding out"
            )
    weights: NDArray[np.float64] = absent / there
    return weights
