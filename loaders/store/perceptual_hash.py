"""A perceptual hash: 256 bits, nearly all of which a lossy copy of an image shares.

pHash (Zauner 2010, Implementation and benchmarking of perceptual image hash functions): the image
is reduced to a small grid, and the lowest frequencies of its cosine transform are kept, each as one
bit: above their median or not. It has 256 bits, as PDQ (Facebook 2019) does.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from loaders.cases import Array

BITS = 256
# Cells along each spatial axis, and how many of their frequencies are kept: 256 in all.
_CELLS = {2: (64, 64), 3: (16, 32, 32)}
_KEPT = {2: (16, 16), 3: (4, 8, 8)}

# The most bits in which copies differ. Measured: 557 skin images (150 px and more) as JPEG of
# quality 50 differ in at most 18, at half and twice their size in 6; 780 of 28 x 28 as JPEG of
# quality 85 in at most 26, half of them in 12. Different images differ in 48 or more (skin; 154 846
# pairs) and in 38 or more (MRI crops of 199 patients, aligned; 19 701 pairs).
FURTHEST = 24
# Candidates share one of this many parts of their bits. Two that differ in 15 bits always do, in 24
# almost always: each part is then equal with a chance of (15 / 16) ** 24, about 0.21.
_BANDS = 16
# The sum of this many bytes fits 16 bits.
_MOST_IN_16_BITS = (2**16 - 1) // (2**8 - 1)
# A hash is compared with this many that follow it in a part's order: the work is proportional to
# the number of images, however similar they are.
_WINDOW = 32


def perceptual_hash(image: Array) -> bytes:
    """Return the 32 bytes of an image (C, *spatial), the mean of its channels; d is 2 or 3."""
    shape = image.shape[1:]
    sizes = zip(shape, _CELLS[len(shape)], _KEPT[len(shape)], strict=True)
    rows = [_low_pass(*size) for size in sizes]
    kind = np.float64 if image.dtype.kind == "f" else np.float32
    along_y, along_x = (basis.astype(kind) for basis in rows[-2:])
    planes = np.moveaxis(image.reshape(len(image), -1, *shape[-2:]), 1, 0)
    # The channels' sum gives the bits of their mean. Along x first: a product with few columns
    # takes half the time of one with few rows, and two thirds of that if they are contiguous
    # (measured).
    columns = np.ascontiguousarray(along_x.T)
    low = np.stack([along_y @ (_sum(plane, kind) @ columns) for plane in planes])
    values = (low[0] if len(shape) == 2 else np.tensordot(rows[0], low, 1)).ravel()
    # The median of 255 finite numbers; np.median takes eight times as long (measured).
    bits = values > np.partition(values[1:], BITS // 2 - 1)[BITS // 2 - 1]
    # The first is the mean: brightness does not distinguish images.
    bits[0] = False
    return np.packbits(bits).tobytes()


def _sum(plane: Array, kind: type[np.floating[Any]]) -> Array:
    """Return the sum of a plane's channels (C, Y, X), as floating-point numbers."""
    # Bytes are added in 16 bits, as exactly as in float32 and in half the time (measured).
    narrow = plane.dtype == np.uint8 and len(plane) <= _MOST_IN_16_BITS
    total: Array = plane[0]
    if len(plane) > 1:
        total = plane.sum(axis=0, dtype=np.uint16 if narrow else kind)
    return total.astype(kind, copy=False)


@lru_cache(maxsize=256)
def _low_pass(length: int, cells: int, kept: int) -> Array:
    """Return the matrix (kept, length) that maps an axis to its lowest frequencies.

    The axis is averaged in equal cells, which the orthonormal DCT-II transforms.
    """
    edges, at = np.linspace(0, length, cells + 1), np.arange(length)
    inside = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
    averages = inside.clip(0) * (cells / length)
    angles = np.pi * np.outer(np.arange(kept), 2 * np.arange(cells) + 1) / (2 * cells)
    cosines = np.cos(angles) * np.sqrt(2 / cells)
    cosines[0] *= np.sqrt(1 / 2)
    basis: Array = cosines @ averages
    return basis


def near_pairs(hashes: Array, group: Array) -> Array:
    """Return the pairs of rows (m, 2) of different groups whose hashes are nearly the same.

    `hashes` (n, 32) uint8; `group` (n,) numbers. The work is proportional to n: if all images are
    nearly the same, each is compared with some of the others.
    """
    if len(hashes) < 2:
        return np.empty((0, 2), dtype=np.int64)
    # Along diagonals, so that each part mixes low and high frequencies.
    mixed = np.unpackbits(hashes, axis=1)[:, np.arange(BITS) * (_BANDS + 1) % BITS]
    parts = np.packbits(mixed.reshape(len(hashes), _BANDS, -1), axis=2).view(np.uint16)[..., 0]
    words = np.ascontiguousarray(hashes).view(np.uint64)
    found = []
    for part in parts.T:
        order = np.lexsort((*words.T, part))
        for step in range(1, min(_WINDOW + 1, len(order))):
            one, other = order[:-step], order[step:]
            same = part[one] == part[other]
            if not same.any():
                break
            same &= group[one] != group[other]
            one, other = one[same], other[same]
            differ = np.bitwise_count(words[one] ^ words[other]).sum(axis=1)
            pairs = np.sort(np.stack([one, other], axis=1)[differ <= FURTHEST], axis=1)
            found.append(pairs)
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), dtype=np.int64)
