"""What tests put on a shelf: arrays that their key decides. Without torch: processes import it."""

from contextlib import suppress
from pathlib import Path

import numpy as np

from loaders.batches.shelf import Arrays, Key, Paths

LAYOUT = (((3, 500), np.dtype(np.float32)), ((7,), np.dtype(np.int64)))


def arrays(number: int) -> Arrays:
    """Return what belongs under a key, by its number."""
    drawn = np.random.default_rng(number)
    return [
        drawn.normal(size=(3, 500)).astype(np.float32),
        drawn.integers(-(1 << 60), 1 << 60, 7, dtype=np.int64),
    ]


def key(number: int) -> Key:
    # Low halves are often the same: both halves count.
    return (1 << 63) + number % 3, number


def same(found: Arrays, number: int) -> bool:
    return all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for a, b in zip(found, arrays(number), strict=True)
    )


def holders(shelf: Paths) -> set[int]:
    """Return the processes that have a shelf open: its memory is theirs, and gone without them."""
    known, found = {Path(path).stat().st_ino for path in shelf}, set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # of another user, or gone
            if link.readlink().name.startswith("memfd:medoptbench") and link.stat().st_ino in known:
                found.add(int(link.parts[2]))
    return found
