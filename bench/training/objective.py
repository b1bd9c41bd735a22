"""What a trial trains: its network as all processes share it, and the loss of a batch."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.core.precision import Precision
from bench.core.processes import World
from bench.losses.mixup import Goal
from bench.losses.supervision import Supervised
from bench.study.components import Component
from bench.study.trial import Trial
from bench.training.networks import build_model, compiled_once, identity_of
from bench.training.transfer import load_weights
from models.spec import Model

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def make_network(
    trial: Trial,
    kind: Component[Model],
    store: Path,
    device: torch.device,
    world: World,
    seed: int,
) -> tuple[nn.Module, nn.Module]:
    """Return a trial's network and what its training calls: itself, or its compiled form.

    The weights are those that `seed` draws, and over them those that the trial starts from.
    """
    torch.manual_seed(seed)
    model = build_model(kind, store, trial.patch)
    if trial.start:
        load_weights(model, kind.row, trial.start)
    model = model.to(device)
    if trial.channels_last:
        _channels_last(model)
    if world.size > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's stub lacks it
    if not trial.compiled:
        return model, model
    # All that the compiled code depends on and does not look at again.
    settings = trial.precision, trial.channels_last, device, world.size
    return compiled_once(model, key=(identity_of(kind, store, trial.patch), settings))


def _channels_last(model: nn.Module) -> None:
    """Put the weights of convolutions with their channels innermost, by their own rank.

    `Module.to` refuses networks whose convolutions are of other dimensions than their images, as
    those for clips.
    """
    for parameter in model.parameters():
        if parameter.dim() - 2 in CHANNELS_LAST:
            memory = CHANNELS_LAST[parameter.dim() - 2]
            parameter.data = parameter.data.contiguous(memory_format=memory)


@dataclass
class Objective:
    """The loss of a trial as a function of a batch.

    `batch` is the size of the global batch, `values_of` the loss of each sample given what the
    network gave.
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
        """Share the network between the processes; to be called again when other layers train."""
        self.net = DistributedDataParallel(self.forward) if self.world.size > 1 else self.forward

    def __call__(self, image: Tensor, goal: Goal) -> Tensor:
        """Return this process's share of the mean over the global batch, times world.size.

        DDP averages gradients over processes, so that the shares add up to the mean over the
        global batch, however unequal they are.
        """
        if self.memory is not None:
            image = image.contiguous(memory_format=self.memory)
        with self.precision.autocast(self.device):
            given = self.net(image)
        return goal.values(self.values_of, given).sum() * (self.world.size / self.batch)
