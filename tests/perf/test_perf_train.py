"""Speed of training: a step of each model, and run_trial() against a bare loop of the same work.

`make bench` runs this and compares with the last stored run. The ratio of the loops stands in
`extra_info`, because only a ratio taken in one run means something on a shared machine.
"""

import statistics

import pytest
import torch

from bench.losses.supervision import supervised
from bench.losses.table import LOSSES, alone
from bench.training.train import run_trial
from loaders.batches.table import LOADERS
from models.table import MODELS

# Model -> what it is timed on: channels, patch, batch.
SHAPES = {
    ("classification", 2): (1, (28, 28), 32),
    ("classification", 3): (1, (16, 32, 32), 8),
    ("segmentation", 2): (1, (64, 64), 8),
    ("segmentation", 3): (1, (32, 32, 32), 2),
}
CASES = [(m.name, task, dims) for m in MODELS.values() for task in m.tasks for dims in m.dims]
# Networks that take more than a second a step there on two cores are timed in 2-D alone.
SLOW_IN_3D = {"resnet18", "resnet34", "resnet50", "densenet121", "unet_resnet_both"}
CASES = [case for case in CASES if case[2] == 2 or case[0] not in SLOW_IN_3D]


@pytest.mark.parametrize(("name", "task", "dims"), CASES)
def test_training_step(benchmark, name, task, dims):
    channels, patch, batch = SHAPES[task, dims]
    model = MODELS[name].build(in_channels=channels, out_channels=3, dims=dims, patch=patch)
    optimizer = torch.optim.AdamW(model.parameters())
    image = torch.randn(batch, channels, *patch)
    shape = (batch,) if task == "classification" else (batch, *patch)
    target = torch.randint(0, 3, shape)
    loss = supervised(LOSSES["ce"].bind({}), None, alone)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss(model(image), target).mean().backward()
        optimizer.step()

    benchmark.group = f"step {task} {dims}-D, batch {batch}"
    benchmark.pedantic(step, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("loader", [name for name, row in LOADERS.items() if row.available()])
@pytest.mark.parametrize(
    ("task", "dims", "side", "batch"), [("classification", 2, 64, 16), ("segmentation", 3, 32, 2)]
)
def test_run_trial_against_a_bare_loop(
    benchmark, make_trial, bare_loop, task, dims, side, batch, loader
):
    """The ratio of samples/s, pair by pair: what the suite's loop costs beside the bare one."""
    trial, data, base = make_trial(task, dims, side, loader=loader, batch_size=batch, epochs=12)
    ratios, waits = [], []

    def pair():
        bare = bare_loop(trial, data, base)
        row = run_trial(trial, data, base, device=torch.device("cpu")).trial
        ratios.append(row["samples_per_sec"] / bare)
        waits.append(row["data_wait_sec"] / row["train_sec"])

    benchmark.group = "run_trial and a bare loop, in turn"
    benchmark.pedantic(pair, rounds=9, warmup_rounds=1)
    benchmark.extra_info["ratios"] = {"bare loop": 1 / statistics.median(ratios[1:])}
    benchmark.extra_info["data_wait_share"] = statistics.median(waits[1:])
