"""Levels of 8 bits counted by Pillow, beside numpy."""

import numpy as np
import pytest

from loaders.formats.levels import counts_of_bytes, two_levels


@pytest.mark.parametrize("size", [0, 1, 255, 65536, 200_003])
def test_bytes_are_counted_as_numpy_counts_them(size: int) -> None:
    values = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    for part in (values, values[::3], np.maximum(values, 200)):
        np.testing.assert_array_equal(counts_of_bytes(part), np.bincount(part, minlength=256))


def test_two_levels_are_0_and_another() -> None:
    for values, found in (
        ([0, 0, 7, 7, 7], (7, 3)),
        ([9, 9], (9, 2)),
        ([0, 0], None),
        ([0, 3, 7], None),
        ([3, 7, 7], None),
    ):
        assert two_levels(np.array(values, np.uint8)) == found
