"""CUDA graphs of networks, by torch's own recording: the values and the bits of plain training."""

import pytest
import torch
from torch import nn

from bench.core.gpu import graph
from bench.core.gpu.repeatable import repeat
from bench.study.choice import Choice
from bench.training.train import run_trial
from tests.bench.core.gpu.test_graph import RECORDED, Small
from tests.trials import changed, skip_without

pytestmark = pytest.mark.gpu


@pytest.fixture
def counted(monkeypatch):
    """Return counters of recordings and replays."""
    found = {"recorded": 0, "replayed": 0}
    record, replay = torch.cuda.make_graphed_callables, torch.cuda.CUDAGraph.replay

    def recorded(*given, **more):
        found["recorded"] += 1
        return record(*given, **more)

    def replayed(one):
        found["replayed"] += 1
        return replay(one)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorded)
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", replayed)
    monkeypatch.setattr(graph, "_kept", [])
    return found


def trained(case, device, **changes):
    trial, data, base = case
    return run_trial(changed(trial, **changes), data, base, device=device)


def test_passes_repeat_the_bits_of_the_network(device, counted):
    """Dropout's masks and batch norms' statistics among them."""
    repeat(tf32=False)
    found = []
    for by_graphs in (False, True):
        torch.manual_seed(3)
        network = forward = Small(more=True).to(device)
        if by_graphs:
            network, forward = graph.graphed_once(
                network,
                network,
                key="small",
                images=torch.zeros(6, 2, 5, 5, device=device),
                autocast=torch.autocast("cuda", enabled=False),
            )
        network.train()
        torch.manual_seed(5)
        draw = torch.Generator().manual_seed(1)
        for _ in range(3):
            images = torch.randn(6, 2, 5, 5, generator=draw).to(device)
            target = torch.randint(3, (6,), generator=draw).to(device)
            network.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(forward(images).logits, target).backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(parameter.grad, alpha=0.1)
        found.append(network.state_dict())
    assert counted == {"recorded": 1, "replayed": 6}
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("name", RECORDED)
def test_every_optimizer_trains_by_them(make_trial, device, counted, name):
    case = make_trial("classification", optimizer=Choice(name=name), epochs=2)
    plain, found = (trained(case, device, cuda_graph=flag) for flag in (False, True))
    assert counted["recorded"] == 1
    assert counted["replayed"] >= 2
    losses = [[row["train_loss"] for row in one.epochs] for one in (plain, found)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("loader", ["torch", "dali"])
@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("classification", {"model": Choice(name="resnet18")}),
        ("segmentation", {"model": Choice(name="dynunet"), "precision": "float16"}),
        ("segmentation", {"model": Choice(name="unet_small"), "channels_last": True}),
    ],
)
def test_a_trial_learns_the_same(make_trial, device, counted, loader, task, changes):
    skip_without(loader)
    case = make_trial(task, loader=loader, **changes)
    plain, found = (trained(case, device, cuda_graph=flag) for flag in (False, True))
    assert counted["recorded"] == 1
    assert found.trial["test_score"] == pytest.approx(plain.trial["test_score"], abs=0.01)
    assert found.trial["unrepeatable"] == plain.trial["unrepeatable"]


def test_memory_is_given_back_when_another_model_is_recorded(make_trial, device, counted):
    case = make_trial("segmentation")
    used = []
    for _ in range(3):
        for model in ("unet_small", "segresnet"):
            trained(case, device, model=Choice(name=model), cuda_graph=True)
        used.append(torch.cuda.memory_allocated())
    assert counted["recorded"] == 6
    assert used[2] <= used[1] * 1.05
