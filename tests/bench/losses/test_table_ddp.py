"""One global batch costs the same, and moves a network the same way, on one process and on N.

The processes are started by gloo.py.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.losses.table import LOSSES, Loss, Total, alone, over_processes

# The samples of each process; one may be left without.
SHARES = ((5, 2), (6, 1, 0))
# By shares and process: {case: (loss, gradient)}.
Found = dict[tuple[int, ...], list[dict[str, tuple[Tensor, Tensor]]]]
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "classification": [(8, 6)],
    "segmentation": [(8, 6), (3, 4, 5)],
    "multilabel": [(8, 6)],
    "regression": [(8, 6)],
    "ordinal": [(8, 6)],
}


def brier_of_batch(logits: Tensor, target: Tensor, weights: Tensor | None, total: Total) -> Tensor:
    """Couple a batch: the root of the mean squared error of all its voxels."""
    del weights
    p = logits.softmax(1)
    error = (p - nn.functional.one_hot(target, p.shape[1]).movedim(-1, 1)) ** 2
    share, count = total(torch.stack([error.sum(), error.new_tensor(error.numel())]))
    value: Tensor = (share / count).sqrt()
    return value.expand(len(logits))


# In no table. `astray` forgets the other processes, which must be seen.
NEWCOMER = replace(LOSSES["ce"], name="newcomer", function=brier_of_batch, defaults={})
ASTRAY = replace(
    LOSSES["dice_batch"],
    name="astray",
    function=lambda logits, target, weights, _, **settings: LOSSES["dice_batch"].function(
        logits, target, weights, alone, **settings
    ),
)


class Net(nn.Module):
    """One convolution; without masks, the mean over its voxels."""

    def __init__(self, task: str, dims: int) -> None:
        super().__init__()
        self.layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, 3, 3, padding=1)
        self.task = task

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layer(image)
        return logits if self.task == "segmentation" else logits.flatten(2).mean(2)


CASES: dict[str, tuple[Loss, str, tuple[int, ...]]] = {
    f"{row.name}-{len(shape)}d-{task}": (row, task, shape)
    for row in (*LOSSES.values(), NEWCOMER, ASTRAY)
    for task in row.tasks
    for shape in SHAPES[task]
}


def batch(task: str, shape: tuple[int, ...]) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, 7 images and their targets: the same in every process."""
    torch.manual_seed(0)
    net = Net(task, len(shape)).double()
    image = 2 * torch.randn(7, 1, *shape, dtype=torch.float64)
    if task in ("classification", "ordinal"):
        return net, image, torch.randint(3, (7,))
    if task == "regression":
        return net, image, torch.randn(7, 3, dtype=torch.float64)
    if task == "multilabel":
        target = torch.randint(2, (7, 3)).double()
        target[2, :2] = torch.nan
        return net, image, target
    # Samples differ in what they hold: the first ones have no foreground.
    return net, image, (image[:, 0] > 2 - torch.arange(7).view(-1, *[1] * len(shape))).long()


def cost(
    row: Loss, net: nn.Module, image: Tensor, target: Tensor, total: Total, share: float
) -> Tensor:
    """Return the loss of some samples of a batch of 7, times `share`; gradients lie in `net`."""
    weights = torch.tensor([0.5, 1.0, 2.0]) if row.weighted else None
    net.zero_grad()
    values = row.bind({})(net(image), target, weights, total)
    loss = values.sum() * share / 7
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
    return loss.detach()


def gradient(net: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def work(rank: int, shares: tuple[int, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """Be one process of a set: all losses, one after another."""
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    done = {}
    for name, (row, task, shape) in CASES.items():
        net, image, target = batch(task, shape)
        model = DistributedDataParallel(net)
        loss = cost(row, model, image[own], target[own], over_processes, len(shares))
        dist.all_reduce(loss)  # DDP averages the gradients, the trial its losses
        done[name] = loss / len(shares), gradient(model)
    return done


@pytest.fixture(scope="module")
def found(on_gloo: Callable[..., Found]) -> Found:
    """Return what each process of each set found."""
    return on_gloo("monai.losses")


@pytest.mark.parametrize("shares", SHARES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_of_one_process(
    found: Found, name: str, shares: tuple[int, ...]
) -> None:
    row, task, shape = CASES[name]
    net, image, target = batch(task, shape)
    value = cost(row, net, image, target, alone, 1.0)
    assert float(gradient(net).abs().max()) > 1e-4
    for process in found[shares]:
        theirs, slope = process[name]
        if row is ASTRAY:
            assert abs(float(theirs - value)) > 1e-3
        else:
            torch.testing.assert_close(theirs, value, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(slope, gradient(net), rtol=1e-9, atol=1e-12)
