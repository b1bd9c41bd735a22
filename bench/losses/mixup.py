"""Mixup: samples mixed in pairs, with their losses to both targets mixed alike."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.losses.supervision import Supervised, as_target
from loaders.sampling.sampler import batch_shares
from models.output import Output

# Separates the shares' random stream from those of the samples, which have the same seed.
STREAM = 1


class Goal(NamedTuple):
    """The targets of a batch, and those of the samples mixed into it.

    `derived` and `partner_derived` are what the loader derived from both for the loss, if it did.
    """

    target: Tensor
    partner: Tensor | None = None
    share: float = 1.0  # of the sample itself; the partner has the rest
    derived: Tensor | None = None
    partner_derived: Tensor | None = None

    def rows(self, chosen: slice) -> "Goal":
        """Return the goal of some samples of the batch."""
        parts = (self.target, self.partner, self.derived, self.partner_derived)
        target, partner, derived, theirs = (p if p is None else p[chosen] for p in parts)
        assert target is not None
        return Goal(target, partner, self.share, derived, theirs)

    def values(self, values_of: Supervised, given: Tensor | Output) -> Tensor:
        """Return the loss of each sample (N,)."""
        own = values_of(given, self.target, self.derived)
        if self.partner is None:
            return own
        other = values_of(given, self.partner, self.partner_derived)
        return self.share * own + (1 - self.share) * other


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixes each batch with itself, shifted by one sample: Zhang et al. 2018, arXiv 1710.09412.

    One share per batch is drawn from Beta(alpha, alpha); with alpha 0 nothing is mixed. The share
    is a function of the seed and the number of the batch, so that a trial can be resumed anywhere.
    `shard` is (rank, world); `chunks` is the number of parts in which a batch goes through the
    network. Pairs are those of the global batch, so that the number of processes changes nothing:
    each process reads the whole batch and keeps its part.
    """

    alpha: float
    seed: int
    shard: tuple[int, int]
    chunks: int = 1

    @property
    def reads(self) -> tuple[int, int]:
        """Return the shard that a loader must read for this process."""
        return (0, 1) if self.alpha else self.shard

    def apply(
        self, image: Tensor, target: Tensor, batch: int, derived: Tensor | None = None
    ) -> tuple[Tensor, Goal]:
        """Return this process's samples of the k-th batch that was read, and their goal."""
        if not self.alpha:
            return image, Goal(target=as_target(target), derived=derived)
        draw = np.random.default_rng([self.seed, STREAM, batch])
        share = float(draw.beta(self.alpha, self.alpha))
        mixed = torch.lerp(image.roll(-1, 0), image, share)
        shares = batch_shares(len(image), shard=self.shard, chunks=self.chunks)

        def own(value: Tensor) -> Tensor:
            return torch.cat([value[share] for share in shares])

        goal = Goal(
            target=as_target(own(target)),
            partner=as_target(own(target.roll(-1, 0))),
            share=share,
            derived=None if derived is None else own(derived),
            partner_derived=None if derived is None else own(derived.roll(-1, 0)),
        )
        return own(mixed), goal
