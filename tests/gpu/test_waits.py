"""The host goes ahead of a GPU: no step waits for it, and no batch is changed under queued work."""

import itertools
import warnings

import numpy as np
import pytest
import torch

from bench.core.timing import Clock
from bench.study.choice import Choice
from bench.study.schema import Augment
from bench.training.course import StepNorms
from bench.training.train import make_sampler, run_trial
from loaders.batches.table import LOADERS
from tests.trials import changed, skip_without

pytestmark = pytest.mark.gpu

MOVES = Augment(flip=True, noise=0.1, contrast=0.25, gamma=0.3, chance=0.5)


# ---- no wait in a step ---------------------------------------------------------------------------

# Steps that carry one-off work: kernels are loaded and an optimizer makes its state.
WARM = 3


@pytest.fixture
def asked(monkeypatch):
    """Return a function of a mode of torch, "warn" or "error": how steps are to tell of waits.

    A step is all from asking for its batch to what is noted after it: the loader's threads work
    meanwhile, and what they wait for counts too. Between steps the host waits by design: once in
    CHECK_EVERY of them, and at an epoch's end, where losses are read. It returns a list that grows
    by one with each step that is looked at.
    """

    def begin(mode: str) -> list[int]:
        steps, begun = [], itertools.count()
        wait, after = Clock.wait, StepNorms.after

        def waits(clock, batches):
            number = next(begun)
            if number >= WARM:
                steps.append(number)
                torch.cuda.set_sync_debug_mode(mode)
            return wait(clock, batches)

        def ends(norms):
            after(norms)
            torch.cuda.set_sync_debug_mode("default")

        monkeypatch.setattr(Clock, "wait", waits)
        monkeypatch.setattr(StepNorms, "after", ends)
        return steps

    yield begin
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("loader", ["torch", "dali", "resident"])
@pytest.mark.parametrize(("task", "dims"), [("classification", 2), ("segmentation", 3)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_host_waits_for_nothing_in_a_step(
    make_trial, device, asked, loader, task, dims, optimizer
):
    skip_without(loader)
    trial, data, base = make_trial(
        task, dims, loader=loader, augment=MOVES, optimizer=Choice(name=optimizer)
    )
    steps = asked("error")
    outcome = run_trial(trial, data, base, device=device)
    assert outcome.trial["status"] == "ok"
    taken = outcome.trial["sample_gradients"] // trial.batch_size
    assert len(steps) == taken - WARM > 10


def waits_of(case, device, asked, **changes) -> tuple[int, int]:
    """Return how often the host waited in steps, and how many steps they were."""
    trial, data, base = case
    steps = asked("warn")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        outcome = run_trial(changed(trial, **changes), data, base, device=device)
    assert outcome.trial["status"] == "ok"
    return sum("called a synchronizing CUDA operation" in str(w.message) for w in said), len(steps)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_without_a_scaler_waits_for_nothing(make_trial, device, asked, precision):
    waits, steps = waits_of(make_trial("segmentation"), device, asked, precision=precision)
    assert (waits, steps > 10) == (0, True)


def test_float16_waits_once_a_step(make_trial, device, asked):
    """By design: its scaler reads whether a gradient was finite before it lets an update be made.

    And so it shows that a wait in a step is heard of here.
    """
    waits, steps = waits_of(make_trial("segmentation"), device, asked, precision="float16")
    assert waits == steps > 10


# ---- a batch while work on it is queued ----------------------------------------------------------


def queued(device) -> torch.cuda.Event:
    """Keep a card busy for some tens of milliseconds; return what happens when that is over."""
    busy = torch.ones(4096, 4096, device=device)
    for _ in range(20):
        busy @ busy
    return torch.cuda.current_stream(device).record_event()


@pytest.mark.parametrize("loader", ["torch", "dali", "monai", "resident"])
@pytest.mark.parametrize(("task", "dims"), [("classification", 2), ("segmentation", 3)])
def test_a_batch_that_is_dropped_is_whole_for_the_work_queued_on_it(
    make_trial, device, loader, task, dims
):
    """A copy made long after that is no later batch, in memory that was used again too soon."""
    skip_without(loader)
    trial, data, _ = make_trial(task, dims, augment=MOVES)
    sampler = make_sampler(trial, data, 3)
    settings = {"batch_size": 8, "batches": 12, "threads": 2}
    with LOADERS["torch"].open(data.store, sampler, device=torch.device("cpu"), **settings) as one:
        wanted = [(image.numpy().copy(), target.numpy().copy()) for image, target, _ in one]

    kept, early = [], 0
    with LOADERS[loader].open(data.store, sampler, device=device, **settings) as batches:
        for image, target, _ in batches:
            over = queued(device)
            kept.append((image.clone(), target.clone()))
            del image, target
            early += not over.query()
    # They were dropped while the card was still busy with what stands before their copies.
    assert early >= 10
    span = np.ptp(np.concatenate([image.ravel() for image, _ in wanted]))
    assert len(kept) == len(wanted)
    for (image, target), (pixels, answers) in zip(kept, wanted, strict=True):
        np.testing.assert_allclose(image.cpu().numpy(), pixels, rtol=0, atol=1e-4 * span)
        np.testing.assert_array_equal(target.cpu().numpy(), answers)
