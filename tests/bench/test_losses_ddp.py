"""One global batch costs the same, and moves a network the same way, on one process and on N.

This file is also the program of the processes: `python test_losses_ddp.py FOLDER`.
"""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.losses import LOSSES, Loss, Total, alone, over_processes

ROOT = Path(__file__).resolve().parents[2]
# The samples of each process; one may be left without.
SHARES = ((5, 2), (4, 2, 1), (6, 1, 0))
# By shares and process: {case: (loss, gradient)}.
Found = dict[tuple[int, ...], list[dict[str, tuple[Tensor, Tensor]]]]
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "classification": [(8, 6)],
    "segmentation": [(8, 6), (3, 4, 5)],
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
    """One convolution; with one label an image, the mean over its voxels."""

    def __init__(self, task: str, dims: int) -> None:
        super().__init__()
        self.layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, 3, 3, padding=1)
        self.task = task

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layer(image)
        return logits.flatten(2).mean(2) if self.task == "classification" else logits


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
    if task == "classification":
        return net, image, torch.randint(3, (7,))
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


def work(rank: int, shares: tuple[int, ...], folder: Path) -> None:
    """Be one process of a set: all losses, one after another."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / f'meeting{shares}'}",
        rank=rank,
        world_size=len(shares),
        timeout=timedelta(seconds=60),
    )
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    done = {}
    for name, (row, task, shape) in CASES.items():
        net, image, target = batch(task, shape)
        model = DistributedDataParallel(net)
        loss = cost(row, model, image[own], target[own], over_processes, len(shares))
        dist.all_reduce(loss)  # DDP averages the gradients, the trial its losses
        done[name] = loss / len(shares), gradient(model)
    torch.save(done, folder / f"{shares}-{rank}.pt")
    dist.destroy_process_group()


def main(folder: Path) -> None:
    """Run one set of processes after the other."""
    import monai.losses  # noqa: F401  # once, and not in every process: it takes seconds

    fork = multiprocessing.get_context("fork")
    for shares in SHARES:
        processes = [
            fork.Process(target=work, args=(k, shares, folder)) for k in range(len(shares))
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(f"shares {shares}: a process failed")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return what each process of each set found."""
    folder = tmp_path_factory.mktemp("ddp")
    # Everything stays on this machine.
    own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return {
        shares: [torch.load(folder / f"{shares}-{rank}.pt") for rank in range(len(shares))]
        for shares in SHARES
    }


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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
