"""The loss of a trial as a function of a batch, on all processes that share the trial."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.core.precision import Precision
from bench.core.processes import World
from bench.core.pulse import PULSE
from bench.losses.mixup import Goal
from bench.losses.supervision import Supervised


@dataclass
class Objective:
    """The loss of a trial as a function of a batch.

    `batch` is the size of the global batch, `values_of` the loss of each sample from the output of
    the network.
    """

    forward: nn.Module
    values_of: Supervised
    precision: Precision
    device: torch.device
    world: World
    batch: int
    memory: torch.memory_format | None
    net: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        """Share the network between the processes."""
        self.share()

    def share(self) -> None:
        """Share the network between the processes; call it again when other layers train."""
        self.net = DistributedDataParallel(self.forward) if self.world.size > 1 else self.forward

    def __call__(self, image: Tensor, goal: Goal) -> Tensor:
        """Return this process's share of the mean over the global batch, times world.size.

        DDP averages gradients over processes, so the shares add up to the mean over the global
        batch, even if they are unequal.
        """
        PULSE.beat()
        if self.memory is not None:
            image = image.contiguous(memory_format=self.memory)
        with self.precision.autocast(self.device):
            given = self.net(image)
        return goal.values(self.values_of, given).sum() * (self.world.size / self.batch)
