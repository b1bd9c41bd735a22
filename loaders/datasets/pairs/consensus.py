"""One mask from those that several readers drew on an image: by majority vote or by STAPLE."""

from collections.abc import Callable, Mapping

import numpy as np

from loaders.cases import Array
from loaders.formats.nifti import NiftiError

# The initial share that each reader gets right (as in ITK's filter).
_TRUST = 0.99999
# EM stops when no share changes by more, or after this many rounds (assumption; tens are usual).
_STILL, _ROUNDS = 1e-9, 1000
# The most combinations of readers' answers that can be numbered.
_MOST = 2**62


def majority(masks: Array) -> Array:
    """Return the class that more than half of the readers gave a voxel, 0 if there is none.

    `masks` (n, *shape) are the readers' uint8 masks.
    """
    out = np.zeros(masks.shape[1:], np.uint8)
    for label in np.unique(masks):
        out[2 * np.count_nonzero(masks == label, axis=0) > len(masks)] = label
    return out


def staple(masks: Array) -> Array:
    """Return the likeliest class of each voxel by STAPLE; `masks` as for `majority`.

    The readers' confusion matrices and the classes are estimated together (Warfield, Zou and Wells
    2004, 10.1109/TMI.2004.828354, for any number of classes). The prior of a class is the readers'
    mean over the whole image. Of equally likely classes the lowest is taken. Raises NiftiError for
    too many readers and classes.
    """
    labels = np.unique(masks)
    several = (len(labels),) * len(masks)
    if float(len(labels)) ** len(masks) > _MOST:
        raise NiftiError(
            f"{len(masks)} readers and {len(labels)} classes are too many for several=staple"
        )
    # Voxels with the same combination of answers are one kind; in most voxels all readers agree.
    numbers = np.ravel_multi_index(tuple(np.searchsorted(labels, mask) for mask in masks), several)
    kinds, place, count = np.unique(numbers, return_inverse=True, return_counts=True)
    given = np.array(np.unravel_index(kinds, several))
    answers = np.eye(len(labels))[given]  # (reader, kind, class): which class was given
    common = (count @ answers).mean(axis=0) / count.sum()
    wrong = (1 - _TRUST) / max(len(labels) - 1, 1)
    # (reader, class given, true class)
    share = np.full((len(masks), *several[:1] * 2), wrong)
    share[:, range(len(labels)), range(len(labels))] = _TRUST
    for _ in range(_ROUNDS):
        likely = common * np.prod([of[own] for of, own in zip(share, given, strict=True)], axis=0)
        likely /= likely.sum(axis=1, keepdims=True)
        weight = count[:, None] * likely
        now = np.einsum("rkg,kt->rgt", answers, weight) / weight.sum(axis=0)
        change, share = np.abs(now - share).max(), now
        if change < _STILL:
            break
    decided: Array = labels[likely.argmax(axis=1)][place].reshape(masks.shape[1:])
    return decided.astype(np.uint8)


# Rule -> (the readers' classes (n, *shape)) -> the combined classes (*shape).
CONSENSUS: Mapping[str, Callable[[Array], Array]] = {"majority": majority, "staple": staple}
