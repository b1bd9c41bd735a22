"""How often a trial looks at inner validation: evenly over its budget, and not too often.

The cost of a look is counted in passes through the network, not timed, so that it is the same on
every machine.
"""

from math import prod

import numpy as np

from bench.training.course import spread
from bench.training.windows import starts
from loaders.sampling.folds import Split

# Largest share of a trial's passes for evaluation if a study leaves the number of looks open.
# Assumption: a few more looks to choose from gain less than longer training.
SHARE = 0.15
# With fewer, hardly anything would be chosen by inner validation. Assumption.
FEWEST = 5
# Cost of a sample-gradient in forward passes: the backward pass takes two (Kaplan et al. 2020,
# arXiv 2001.08361, section 2.1).
GRADIENT = 3
# Cost of evaluating a segmented patch, in forward passes: copies, the loss and the counting of
# voxels take half as much again (measured on a CPU: 0.3 to 0.6 of a pass).
SEGMENTED = 1.5


def due(before: int, epoch: int, *, looks: int | None, epochs: int) -> bool:
    """Return whether a look is due between the ends of epochs `before` and `epoch` of a budget.

    `looks` are spread evenly over `epochs`, the last at their end, each after the first whole epoch
    that reaches it; None, or more than epochs: one after each epoch. A step that spends several
    epochs gets one look.
    """
    return looks is None or epoch * looks // epochs > before * looks // epochs


def passes(
    shapes: np.ndarray, patch: tuple[int, ...], *, overlap: float, whole: bool
) -> np.ndarray:
    """Return the cost of evaluating each case (n,), in forward passes of a patch.

    `shapes` (n, dims) are of the images. With windows it is their number; with `whole` it is the
    image's size in patches. No side counts as less than the patch's, to which it is padded.
    """
    different, of_case = np.unique(np.maximum(shapes, patch), axis=0, return_inverse=True)
    if whole:
        each = different.prod(axis=1) / prod(patch)
    else:
        each = np.array(
            [
                prod(len(starts(int(s), p, overlap)) for s, p in zip(shape, patch, strict=True))
                for shape in different
            ],
            dtype=np.float64,
        )
    found: np.ndarray = each[of_case.reshape(-1)]
    return found


def affordable(cost: np.ndarray, split: Split, *, epochs: int, tests: int) -> int:
    """Return how many looks keep the evaluation of a trial within SHARE of its passes.

    `cost` (n,) is that of evaluating each case of the store, in passes of a patch. Beside the looks
    the test fold is scored `tests` times, and as many training cases as inner validation has are
    scored once. Returns at least FEWEST, whatever they cost.
    """
    training = GRADIENT * epochs * len(split.train)
    last = tests * cost[split.test].sum() + cost[spread(split.train, len(split.inner))].sum()
    left = training * SHARE / (1 - SHARE) - last
    return max(FEWEST, int(left // cost[split.inner].sum()))
