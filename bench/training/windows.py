"""Takes whole images through a network, in overlapping windows or in one pass.

Only sizes, never free memory, decide what goes through at once, so that a trial's numbers are the
same on every machine.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Place = tuple[slice, ...]


def starts(side: int, window: int, overlap: float) -> list[int]:
    """Return where windows start along a side that is no shorter than a window.

    Neighbours share at least the part `overlap` of a window, and the last one ends with the side,
    as in MONAI's sliding window inference.
    """
    step = max(int(window * (1 - overlap)), 1)
    return [*range(0, side - window, step), side - window]


def places(shape: tuple[int, ...], window: tuple[int, ...], overlap: float) -> list[Place]:
    """Return the windows of an image of shape `shape`, the last axis varying fastest."""
    found: list[Place] = [()]
    for side, width in zip(shape, window, strict=True):
        along = [slice(at, at + width) for at in starts(side, width, overlap)]
        found = [(*place, one) for place in found for one in along]
    return found


def importance(window: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the weight of each voxel of a window where windows overlap (*window).

    A Gaussian with a standard deviation of an eighth of each side, as in MONAI.
    """
    from monai.data.utils import compute_importance_map  # half of all that a process imports

    found: Tensor = compute_importance_map(
        window, mode="gaussian", device=device, dtype=torch.float32
    )
    return found


@dataclass(kw_only=True, eq=False)
class Image:
    """An image on its way through the network.

    - `index`: its case in the store. `pixels` (channels, *sides): the image, padded and normalised;
      `on_device`: the same on the device. `inside`: the place of the case itself in it.
    - `windows`: the parts that go through the network; `done` of them have come back.
    - `logits` (classes, *sides), once all have come back. `presence` (classes,): the highest values
      over all windows, None for a network without that output. `seconds`: the time it took.
    """

    index: int
    pixels: np.ndarray
    on_device: Tensor
    inside: Place
    windows: list[Place]
    done: int = 0
    presence: Tensor | None = None
    seconds: float = 0.0
    _sum: Tensor | None = None
    _weight: Tensor | None = None

    @property
    def whole(self) -> bool:
        """Whether all windows have come back."""
        return self.done == len(self.windows)

    @property
    def logits(self) -> Tensor:
        """Return the logits, the weighted mean of overlapping windows."""
        assert self.whole
        assert self._sum is not None
        return self._sum if self._weight is None else self._sum / self._weight

    def take(self, place: Place, logits: Tensor, presence: Tensor | None, weight: Tensor) -> None:
        """Add the network's output for one window: logits (classes, *window)."""
        self.done += 1
        if presence is not None:
            known = self.presence
            self.presence = presence if known is None else torch.maximum(known, presence)
        if len(self.windows) == 1:
            self._sum = logits
            return
        if self._sum is None or self._weight is None:
            self._sum = logits.new_zeros(len(logits), *self.pixels.shape[1:])
            self._weight = logits.new_zeros(self.pixels.shape[1:])
        self._sum[(slice(None), *place)] += logits * weight
        self._weight[place] += weight


class Part(NamedTuple):
    """One window of an image."""

    image: Image
    place: Place

    @property
    def pixels(self) -> Tensor:
        """Return the pixels (channels, *window), on the device."""
        return self.image.on_device[(slice(None), *self.place)]


def in_batches(parts: Iterable[Part], voxels: int) -> Iterator[list[Part]]:
    """Yield consecutive parts together, of one size and at most `voxels` voxels in all.

    A larger part goes alone.
    """
    waiting: list[Part] = []
    for part in parts:
        size = part.pixels.shape[1:]
        if waiting and waiting[0].pixels.shape[1:] != size:
            yield waiting
            waiting = []
        waiting.append(part)
        if (len(waiting) + 1) * prod(size) > voxels:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
