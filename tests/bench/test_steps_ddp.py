"""The steps of every optimizer on two processes with unequal shares: one network, in two copies.

This file is also the program of the processes: `python test_steps_ddp.py FOLDER`.
"""

import multiprocessing
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bench.clock import Clock
from bench.optimizers import OPTIMIZERS
from bench.steps import STEPS

ROOT = Path(__file__).resolve().parents[2]
SHARES = (5, 3)
NAMES = sorted(name for name, row in OPTIMIZERS.items() if not row.one_device)
# L-BFGS with the loss of each process alone in its line search, which must be seen.
ASTRAY = "astray"


def run(name, rank, world):
    """Make 20 steps on one batch; return the first loss and the weights after each step."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8 * 64, 2),
    ).double()
    image, label = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.arange(8) % 2
    model, own = net, slice(None)
    if world > 1:
        model = DistributedDataParallel(net)
        own = slice(sum(SHARES[:rank]), sum(SHARES[: rank + 1]))
    row = OPTIMIZERS["lbfgs" if name == ASTRAY else name]
    # Few iterations a step, that 20 steps do not end where nothing moves.
    optimizer = row.build(net.parameters(), **({"max_iter": 2} if row.name == "lbfgs" else {}))

    def loss_of(image, label):
        values = nn.functional.cross_entropy(model(image), label, reduction="none")
        return values.sum() * (world / 8)

    # Each process draws from a stream of its own, as in a trial.
    torch.manual_seed(100 + rank)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    size = 1 if name == ASTRAY else world
    step = STEPS[row.step](net, optimizer, loss_of, Clock(torch.device("cpu")), size, scaler)
    losses, weights = [], []
    # Astray, one process may go on evaluating alone: a step or two are enough to see it.
    for _ in range(1 if name == ASTRAY else 20):
        losses.append(float(step(image[own], label[own], 6 if name == ASTRAY else 1000)[0]))
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    return losses[0], torch.stack(weights)


def work(rank, folder):
    """Be one process: all optimizers, one after another."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=len(SHARES),
        timeout=timedelta(seconds=60),
    )
    found = {name: run(name, rank, len(SHARES)) for name in (*NAMES, ASTRAY)}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def main(folder):
    """Run the processes side by side."""
    import pytorch_optimizer  # noqa: F401  # once, and not in every process

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(rank, folder)) for rank in range(len(SHARES))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("a process failed")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return what each process found: {optimizer: (first loss, weights after each step)}."""
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
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(SHARES))]


@pytest.mark.parametrize("name", NAMES)
def test_all_processes_hold_equal_weights_after_every_step(found, name):
    first, second = (process[name][1] for process in found)
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[-1])
    assert bool(first.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_the_first_steps_are_those_of_one_process(found, name):
    loss, weights = run(name, 0, 1)
    near = {"muon": 1e-3, "prodigy": 1e-6}.get(name, 1e-9)  # bfloat16 and float32 inside
    # Rounding grows in L-BFGS' history. It decides SOAP's bases: most of the first gradient's
    # eigenvalues are zero, so any rotation of their vectors is as good. SOAP's first step is none.
    steps = {"lbfgs": 2, "soap": 1}.get(name, 20)
    for process in found:
        assert process[name][0] == pytest.approx(loss, rel=1e-12)
        torch.testing.assert_close(process[name][1][:steps], weights[:steps], rtol=0, atol=near)


def test_a_local_loss_in_the_line_search_drives_the_copies_apart(found):
    first, second = (process[ASTRAY][1] for process in found)
    assert not torch.equal(first, second)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
