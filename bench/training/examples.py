"""The few test cases that a trial keeps as examples for the report."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

# Number of cases whose slices or images a trial keeps.
EXAMPLES = 3


def chosen(held: np.ndarray, most: int = EXAMPLES) -> list[int]:
    """Return which of n cases to keep, by whether each holds each class, (n, classes) bool.

    At most `most` are kept: the first that add a class to those before them, and then the first of
    the others. So the choice depends only on the data, is the same for every combination, and is
    not all of one class.
    """
    seen = np.zeros(held.shape[1], bool)
    adds = []
    for case, classes in enumerate(held):
        if (classes & ~seen).any():
            adds.append(case)
            seen |= classes
    others = [case for case in range(len(held)) if case not in adds]
    return [*adds, *others][:most]


def stacked(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack the arrays of some examples, each along a new first axis.

    Arrays of different sizes are padded at their ends with their own lowest value.
    """
    if not examples:
        return {}
    return {name: _stack([example[name] for example in examples]) for name in examples[0]}


def packed(examples: Mapping[str, np.ndarray]) -> bytes | None:
    """Return some arrays as the bytes of an .npz, None if there are none.

    Called in a lane, to spare the driver. `np.load` reads them again.
    """
    if not examples:
        return None
    file = io.BytesIO()
    np.savez_compressed(file, **examples)  # type: ignore[arg-type]  # numpy's stub mistakes the keywords
    return file.getvalue()


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
