"""Requests to a loader: which batches of which store, for which rank, with how many threads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from loaders.sampling.sampler import Draws, Indices, Sampler, batch_positions
from loaders.store.read import Store

if TYPE_CHECKING:
    from loaders.batches.shelf import Shelf


@dataclass(frozen=True, kw_only=True)
class Request:
    """A stream of `batches` global batches from position `start` on, for one rank.

    `batch_size` is the global one, `shard` is (rank, world), and `chunks` is the number of parts in
    which a batch goes through the network. `threads` threads prepare batches for `device`. On
    `shelf`, processes of this machine share batches (None: they do not); a loader that cannot make
    single batches ignores it. Raises ValueError if the arguments give no batch, here rather than in
    a thread.
    """

    store: Store
    sampler: Sampler
    batch_size: int
    batches: int
    start: int = 0
    shard: tuple[int, int] = (0, 1)
    chunks: int = 1
    threads: int
    device: torch.device
    shelf: "Shelf | None" = None

    def __post_init__(self) -> None:
        """Raise errors that would otherwise occur at the first batch."""
        fill_of(self.store)
        self.positions(0)

    def positions(self, batch: int) -> Indices:
        """Return the stream positions of this rank's share of a batch."""
        return batch_positions(
            batch,
            batch_size=self.batch_size,
            start=self.start,
            shard=self.shard,
            chunks=self.chunks,
        )

    def draw(self, batch: int) -> Draws:
        """Return the samples of this rank's share of a batch."""
        return self.sampler.draw(self.positions(batch))


def fill_of(store: Store) -> float:
    """Return the raw value outside the image; raises ValueError if no voxel can have it."""
    fill = store.meta.fill
    kind = store.image_type
    if kind.kind in "iu" and not (
        float(fill).is_integer() and np.iinfo(kind).min <= fill <= np.iinfo(kind).max
    ):
        raise ValueError(f"store {store.path}: fill is {fill}, which {kind} cannot hold")
    return fill
