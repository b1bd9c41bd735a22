"""How often the training stream shows each class, from which class weights are computed.

This is not how often the training part holds it: resampled classes are drawn equally often, and
patches on foreground show more of it than whole volumes do.
"""

import math

import numpy as np
from numpy.typing import NDArray

from loaders.batches.torch_loader import gather
from loaders.sampling.sampler import Sampler
from loaders.store.read import Store

# Patches whose voxels are counted, in whole epochs: weights are accurate to about a tenth
# (assumption).
PATCHES = 256


def class_counts(store: Store, sampler: Sampler) -> NDArray[np.float64]:
    """Return how often each class (n_classes,) is drawn, relative to the others.

    In classification, cases are counted, exactly. In segmentation, voxels in the first epochs'
    patches are counted, with their rotations and shifts; a class that none of them shows although
    the training part holds it gets its share of whole volumes. 0: the training part lacks a class.
    """
    held: NDArray[np.float64] = store.class_counts[sampler.cases].sum(axis=0).astype(np.float64)
    if not store.meta.masked:
        return (held > 0).astype(np.float64) if sampler.balanced else held
    n = len(sampler.cases)
    counts = np.zeros(len(held))
    for epoch in range(math.ceil(PATCHES / n)):
        counts += _of_patches(store, sampler, n * epoch + np.arange(n), len(held))
    unseen = counts == 0
    counts[unseen] = (held * counts.sum() / held.sum())[unseen]
    return counts


def _of_patches(
    store: Store, sampler: Sampler, positions: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Return the voxels of each class (classes,) in the patches at these positions."""
    draws = sampler.draw(positions)
    low = np.maximum(draws.origin, 0)
    high = np.maximum(np.minimum(draws.origin + draws.patch, store.shapes[draws.case]), low)
    counts = np.zeros(classes, dtype=np.int64)
    for row, warped in enumerate(draws.warped.tolist()):
        if warped:
            labels = gather(store, draws[row : row + 1])[1]
        else:
            # Only the mask is read; outside the image is background.
            box = tuple(map(slice, low[row], high[row]))
            labels = np.asarray(store.mask(int(draws.case[row])))[box]
        # Ignored voxels have a label above those of the classes.
        counts += np.bincount(labels.ravel(), minlength=classes)[:classes]
        counts[0] += math.prod(draws.patch) - labels.size
    return counts
