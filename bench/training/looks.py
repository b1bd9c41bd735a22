"""How often inner validation looks at a network: evenly over the budget, and seldom enough.

What a look costs is counted in passes through the network and not timed, so that it comes to the
same number on every machine.
"""

from math import prod

import numpy as np

from bench.training.course import spread
from bench.training.windows import starts
from loaders.sampling.folds import Split

# Evaluation is at most this share of a trial's passes where a study leaves the number of looks
# open. Assumption: what the best of a few looks more would give is less than training for longer.
SHARE = 0.15
# With fewer, hardly anything would be chosen by inner validation. Assumption.
FEWEST = 5
# Passes forward that a sample-gradient costs: its way back takes two (Kaplan et al. 2020, arXiv
# 2001.08361, section 2.1).
GRADIENT = 3
# What a segmented patch costs in evaluation, in its pass forward: copies, the loss and the counting
# of voxels take half as much again (measured on a CPU: 0.3 to 0.6 of it).
SEGMENTED = 1.5


def due(before: int, epoch: int, *, looks: int | None, epochs: int) -> bool:
    """Return whether a look lies between the ends of epochs `before` and `epoch` of a budget.

    `looks` are spread evenly over `epochs`, the last at their end, each after the first whole epoch
    that reaches it; None, or more than epochs: one after each epoch. A step that spends several
    epochs is looked at once.
    """
    return looks is None or epoch * looks // epochs > before * looks // epochs


def passes(
    shapes: np.ndarray, patch: tuple[int, ...], *, overlap: float, whole: bool
) -> np.ndarray:
    """Return what evaluating each case costs (n,), in passes of a patch forward.

    `shapes` (n, dims) are of the images. By windows it is their number, `whole` how many patches
    the image is as large as; no side counts as less than the patch's, to which it is padded.
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
    the test fold is scored `tests` times, and as many training cases as inner validation has once.
    At least FEWEST, whatever they cost.
    """
    training = GRADIENT * epochs * len(split.train)
    last = tests * cost[split.test].sum() + cost[spread(split.train, len(split.inner))].sum()
    left = training * SHARE / (1 - SHARE) - last
    return max(FEWEST, int(left // cost[split.inner].sum()))
