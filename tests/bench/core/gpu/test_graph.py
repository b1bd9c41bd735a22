"""Passes by CUDA graphs, on a CPU: a stand-in for torch's recording that has its hazards.

It warms up as torch does, which changes batch norms and random numbers; its inputs, outputs and
gradients lie in memory that is written anew at each call; and a replay runs what was recorded. The
tests marked gpu (tests/gpu/test_graphs.py) do the same with torch's own.
"""

import copy
import gc
import warnings
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from bench.core.gpu import graph
from bench.core.gpu.graph import graphed_once
from bench.core.gpu.repeatable import repeat
from bench.core.references import StudyError
from bench.core.timing import Clock
from bench.optimizers.steps import STEPS, StepParts
from bench.optimizers.table import OPTIMIZERS
from bench.study.choice import Choice
from bench.training.train import run_trial
from models.output import Output
from tests.trials import changed

WARM_UPS = 3


class Recorder:
    """Stands in for torch.cuda.make_graphed_callables; counts recordings and replays."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, passes, images, *, allow_unused_input):
        assert allow_unused_input
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_cache_enabled()
        forward, (given,) = passes.forward, images
        parameters = [p for p in passes.parameters() if p.requires_grad]

        def gradients(outputs, ends):
            return torch.autograd.grad(outputs, parameters, ends, allow_unused=True)

        for _ in range(WARM_UPS):
            outputs = forward(given)
            kept = gradients(outputs, [torch.ones_like(o) for o in outputs])
        fixed = [None if g is None else g.clone() for g in kept]
        results = [o.detach().clone() for o in outputs]
        recorder = self

        class Replayed(torch.autograd.Function):
            @staticmethod
            def forward(ctx, image, *_parameters):
                recorder.replayed += 1
                given.copy_(image)
                with torch.enable_grad():
                    ctx.outputs = forward(given)
                for result, output in zip(results, ctx.outputs, strict=True):
                    result.copy_(output.detach())
                return tuple(result.detach() for result in results)

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx, *ends):
                for place, found in zip(fixed, gradients(ctx.outputs, ends), strict=True):
                    if place is not None:
                        place.copy_(found)
                return None, *(None if place is None else place.detach() for place in fixed)

        self.recorded += 1
        passes.forward = lambda image: Replayed.apply(image, *parameters)
        return passes


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", found)
    monkeypatch.setattr(graph, "_kept", [])
    return found


class Small(nn.Module):
    """Batch norm, dropout, an unused parameter, and more than logits if asked for."""

    def __init__(self, *, more: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(4, 3)
        self.idle, self.more = nn.Linear(4, 3), more

    def forward(self, images):
        features = self.norm(self.first(images)).relu().mean((2, 3))
        logits = self.last(self.drop(features))
        return Output(logits, deep=(logits * 2, logits * 3)) if self.more else logits


def small(**settings):
    torch.manual_seed(3)
    return Small(**settings)


def batches(count=4):
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 2, 5, 5, generator=draw), torch.randint(3, (6,), generator=draw))
        for _ in range(count)
    ]


def graphed(network):
    """Return what the product makes of a network, as it calls it."""
    random = torch.get_rng_state()
    found = graphed_once(
        network,
        network,
        key=id(network),
        images=torch.zeros(6, 2, 5, 5),
        autocast=nullcontext(),
    )
    assert torch.equal(torch.get_rng_state(), random)
    return found


def stepped(name, *, by_graphs):
    """Return all state of a network after four steps of an optimizer."""
    network = forward = small()
    if by_graphs:
        network, forward = graphed(network)
    row = OPTIMIZERS[name]
    optimizer = row.build(network.parameters(), **row.settings({}))
    cpu = torch.device("cpu")

    def loss_of(images, target):
        return nn.functional.cross_entropy(forward(images), target)

    step = STEPS[row.step](
        StepParts(
            network=network,
            optimizer=optimizer,
            loss_of=loss_of,
            clock=Clock(cpu),
            processes=1,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
        )
    )
    torch.manual_seed(5)
    losses = [step(images, target, 1000)[0] for images, target in batches()]
    return {**network.state_dict(), "losses": torch.stack(losses)}


RECORDED = [name for name, row in OPTIMIZERS.items() if row.step != "create_graph"]


@pytest.mark.parametrize("name", RECORDED)
def test_every_optimizer_takes_the_same_steps_to_the_bit(recorder, name):
    plain, found = (stepped(name, by_graphs=flag) for flag in (False, True))
    # Further evaluations of a batch, which leave batch norms alone, are the network's own.
    assert recorder.replayed == 4
    assert all(torch.equal(found[key], value) for key, value in plain.items())


def test_recording_leaves_weights_statistics_and_random_numbers_as_they_were(recorder):
    network = small()
    before = copy.deepcopy(network.state_dict())
    graphed(network)
    assert recorder.recorded == 1
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    "differs",
    ["evaluation", "fewer images", "no gradient", "statistics stay", "frozen", "moved"],
)
def test_whatever_was_not_recorded_goes_through_the_network(recorder, differs):
    network, forward = graphed(small())
    images = batches(1)[0][0]
    grad = torch.enable_grad()
    if differs == "evaluation":
        network.eval()
    elif differs == "fewer images":
        images = images[:4]
    elif differs == "no gradient":
        grad = torch.no_grad()
    elif differs == "statistics stay":
        network.norm.track_running_stats = False
    elif differs == "frozen":
        network.first.requires_grad_(requires_grad=False)
    else:
        network.last.weight.data = network.last.weight.data + 1
    other = copy.deepcopy(network)
    found = []
    for module in (forward, other):
        torch.manual_seed(2)
        with grad:
            found.append(module(images))
    assert torch.equal(*found)
    assert recorder.replayed == 0
    if differs != "moved":  # and back again
        network.train()
        network.norm.track_running_stats = True
        network.first.requires_grad_(requires_grad=True)
        forward(batches(1)[0][0])
        assert recorder.replayed == 1


def test_all_that_a_network_returns_is_there(recorder):
    network = small(more=True)
    plain = copy.deepcopy(network)
    network, forward = graphed(network)
    image = batches(1)[0][0]
    found = []
    for module in (plain, forward):
        torch.manual_seed(4)
        output = module(image)
        assert isinstance(output, Output)
        (output.logits.sum() + output.deep[1].square().sum()).backward()
        found.append(output)
    assert recorder.replayed == 1
    assert len(found[1].deep) == 2
    assert found[1].presence is None
    assert torch.equal(found[0].logits, found[1].logits)
    for mine, theirs in zip(plain.parameters(), network.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad)


def test_a_lane_records_a_model_once_and_keeps_the_last_one_alone(recorder):
    def made(key, seed):
        torch.manual_seed(seed)
        network = Small()
        own = copy.deepcopy(network.state_dict())
        kept, forward = graphed_once(
            network,
            network,
            key=key,
            images=torch.zeros(6, 2, 5, 5),
            autocast=nullcontext(),
        )
        assert all(torch.equal(own[name], value) for name, value in kept.state_dict().items())
        return kept, forward

    first, forward = made("a", 1)
    first.first.requires_grad_(requires_grad=False)
    again, same = made("a", 2)
    assert again is first
    assert same is forward
    assert all(p.requires_grad for p in again.parameters())
    assert recorder.recorded == 1
    gone = weakref.ref(forward)
    del first, forward, again, same
    made("b", 1)
    gc.collect()
    assert recorder.recorded == 2
    assert gone() is None


def test_each_trial_is_told_of_operators_that_do_not_repeat_their_bits(recorder, monkeypatch):
    class Warns(Small):
        def forward(self, images):
            if recorder.recorded == 0:  # a replay says nothing
                warnings.warn(
                    "warns does not have a deterministic implementation, but you set", stacklevel=1
                )
            return super().forward(images)

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    try:
        for _ in range(2):
            named = repeat(tf32=False)
            graphed_once(
                Warns(),
                Warns(),
                key="w",
                images=torch.zeros(6, 2, 5, 5),
                autocast=nullcontext(),
            )
            assert named == {"warns"}
    finally:
        torch.use_deterministic_algorithms(mode=False)


# ---- in a trial ----------------------------------------------------------------------------------


def run(case, **changes):
    trial, data, base = case
    return run_trial(changed(trial, **changes), data, base, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("classification", {"model": Choice(name="resnet18")}),
        ("classification", {"optimizer": Choice(name="sam"), "mixup": 0.3}),
        ("segmentation", {"model": Choice(name="dynunet"), "precision": "bfloat16"}),
        ("segmentation", {"optimizer": Choice(name="lbfgs"), "channels_last": True}),
        ("regression", {"optimizer": Choice(name="schedule_free_adamw"), "ema": None}),
    ],
)
def test_a_trial_is_the_same_to_the_bit(recorder, make_trial, task, changes):
    case = make_trial(task, **changes)
    plain, found = (run(case, cuda_graph=flag, keep_weights=True) for flag in (False, True))
    assert recorder.recorded == 1
    assert recorder.replayed >= 3
    assert (found.metrics, found.cases, found.weights) == (
        plain.metrics,
        plain.cases,
        plain.weights,
    )
    assert [e["train_loss"] for e in found.epochs] == [e["train_loss"] for e in plain.epochs]


def test_the_memory_of_graphs_is_given_back_to_a_trial_without(recorder, make_trial):
    case = make_trial("classification")
    run(case, cuda_graph=True)
    gone = weakref.ref(graph._kept[0].graphed)
    run(case)
    assert gone() is None


def test_a_network_that_cannot_be_recorded_is_named(make_trial, monkeypatch):
    def refuse(*_given, **_more):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    monkeypatch.setattr(graph, "_kept", [])
    with pytest.raises(
        StudyError, match=r"^cuda_graph: plain_cnn cannot be recorded .*not permitted"
    ):
        run(make_trial("classification"), cuda_graph=True)
