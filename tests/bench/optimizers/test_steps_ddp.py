"""The steps of every optimizer on two processes with unequal shares: one network, in two copies.

The processes are started by gloo.py.
"""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bench.core.timing import Clock
from bench.optimizers.steps import STEPS, StepParts
from bench.optimizers.table import OPTIMIZERS

# The samples of each process, of the one set that there is.
SHARES = ((5, 3),)
NAMES = sorted(name for name, row in OPTIMIZERS.items() if not row.one_device)
# L-BFGS with the loss of each process alone in its line search, which must be seen.
ASTRAY = "astray"
# L-BFGS whose first copy is moved behind the back of the others, which must be refused.
PARTED = "parted"


def run(name, rank, shares):
    """Make 20 steps on one batch; return the first loss and the weights after each step."""
    world = len(shares)
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
        own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    row = OPTIMIZERS["lbfgs" if name in (ASTRAY, PARTED) else name]
    # Few iterations a step, that 20 steps do not end where nothing moves.
    optimizer = row.build(net.parameters(), **({"max_iter": 2} if row.name == "lbfgs" else {}))

    def loss_of(image, label):
        values = nn.functional.cross_entropy(model(image), label, reduction="none")
        return values.sum() * (world / 8)

    # Each process draws from a stream of its own, as in a trial.
    torch.manual_seed(100 + rank)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    size = 1 if name == ASTRAY else world
    parts = StepParts(
        network=net,
        optimizer=optimizer,
        loss_of=loss_of,
        clock=Clock(torch.device("cpu")),
        processes=size,
        scaler=scaler,
    )
    step = STEPS[row.step](parts)
    losses, weights = [], []
    if name == PARTED and rank == 0:
        with torch.no_grad():
            net[0].bias[0].nextafter_(torch.tensor(1.0, dtype=torch.float64))
    # Astray, one process may go on evaluating alone: a step or two are enough to see it.
    for _ in range(1 if name == ASTRAY else 20):
        losses.append(float(step(image[own], label[own], 6 if name == ASTRAY else 1000)[0]))
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    return losses[0], torch.stack(weights)


def work(rank, shares):
    """Be one process: all optimizers, one after another; and what copies that parted are told."""
    found = {name: run(name, rank, shares) for name in (*NAMES, ASTRAY)}
    with pytest.raises(RuntimeError) as refused:
        run(PARTED, rank, shares)
    return found | {PARTED: str(refused.value)}


@pytest.fixture(scope="module")
def found(on_gloo):
    """Return what each process found: {optimizer: (first loss, weights after each step)}."""
    (processes,) = on_gloo("pytorch_optimizer").values()
    return processes


@pytest.mark.parametrize("name", NAMES)
def test_all_processes_hold_equal_weights_after_every_step(found, name):
    first, second = (process[name][1] for process in found)
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[-1])
    assert bool(first.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_the_first_steps_are_those_of_one_process(found, name):
    loss, weights = run(name, 0, (8,))
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


def test_copies_that_part_by_one_bit_are_refused(found):
    for process in found:
        assert process[PARTED].startswith("the 2 processes of this trial hold different weights")
