"""The few test cases that a trial leaves for the report."""

from collections.abc import Sequence

import numpy as np

# Cases whose slices or images a trial leaves.
EXAMPLES = 3


def stacked(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack the arrays of some examples, each along a new first axis.

    Arrays of different sizes are padded at their ends with their least value.
    """
    if not examples:
        return {}
    return {name: _stack([example[name] for example in examples]) for name in examples[0]}


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    if not arrays[0].ndim:
        return np.stack(arrays)
    largest = np.max([array.shape for array in arrays], axis=0)
    return np.stack(
        [
            np.pad(
                array,
                [(0, int(side - own)) for side, own in zip(largest, array.shape, strict=True)],
                constant_values=array.min(),
            )
            for array in arrays
        ]
    )
