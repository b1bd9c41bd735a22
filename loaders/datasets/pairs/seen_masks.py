"""Masks that a survey decoded to learn what they hold, kept until their cases are read.

They are kept in the surveying process, up to a limit of memory; others are decoded again. Most
masks have two levels, 0 and another: they take a bit a pixel.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from loaders.cases import Array
from loaders.formats.checksum import file_state
from loaders.formats.levels import two_levels
from loaders.formats.pictures import MaskPicture, present, read_mask

# Bytes of all kept masks: 8000 of 512 x 512 with two levels (assumption).
_MOST = 2**28


class _Kept(NamedTuple):
    """A mask and the state of its file; `level`: the value of its bits, 0 if it is not packed."""

    state: tuple[int, int, int]
    values: Array
    level: int
    shape: tuple[int, ...]
    lossy: bool


class _Shelf:
    """Kept masks by file."""

    def __init__(self) -> None:
        self._held: dict[Path, _Kept] = {}
        self._size = 0

    def put(self, path: Path, mask: _Kept) -> None:
        self.take(path)
        if self._size + mask.values.nbytes > _MOST:
            self._held.clear()
            self._size = 0
        self._held[path] = mask
        self._size += mask.values.nbytes

    def take(self, path: Path) -> _Kept | None:
        mask = self._held.pop(path, None)
        if mask is not None:
            self._size -= mask.values.nbytes
        return mask


_shelf = _Shelf()


def read_and_keep(path: Path, where: str) -> MaskPicture:
    """Return what `read_mask` returns, and keep it if it is grey with 8 bits; raises BadCase."""
    with present(where):
        state = file_state(path)
    mask = read_mask(path, where)
    levels = mask.levels
    if levels is not None and mask.colours is None and levels.dtype == np.uint8:
        level = (two_levels(levels) or (0, 0))[0]
        values = np.packbits(levels) if level else levels
        _shelf.put(path, _Kept(state, values, level, levels.shape, mask.lossy))
    return mask


def read_kept(path: Path, where: str) -> MaskPicture:
    """Return what `read_mask` returns, from memory if the file is unchanged; raises BadCase.

    A kept mask is returned once only.
    """
    kept = _shelf.take(path)
    with present(where):
        if kept is None or kept.state != file_state(path):
            return read_mask(path, where)
    levels = kept.values
    if kept.level:
        size = int(np.prod(kept.shape))
        levels = np.unpackbits(levels, count=size).reshape(kept.shape) * np.uint8(kept.level)
    return MaskPicture(levels=levels, lossy=kept.lossy)
