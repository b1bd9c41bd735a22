"""Single trials on a GPU: how near each way of computing comes to the plain one, what rows say."""

import io
import os
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pynvml
import pytest
import torch

from bench.study.choice import Choice
from bench.study.schema import Augment
from bench.training.train import run_trial
from tests.trials import changed, skip_without

pytestmark = pytest.mark.gpu

# How far scores (of 0 to 1) and losses go apart. Where images were changed by 1e-5 of their values
# (a float32 has 24 bits, or 6e-8), losses of these trials moved by 1e-5 of themselves and scores by
# 1e-4; with bfloat16 on a CPU losses by 1e-4 and scores by 0.003 (measured).
ROUNDED = {"losses": 1e-3, "score": 0.01}
OTHER_PRECISION = {"losses": 1e-2, "score": 0.03}
# Of operators whose kernels repeat their bits: torch's list of the others has none of them.
REPEATS = Choice(name="plain_cnn", params={"pool": "average"})


def trained(case, device, **changes):
    trial, data, base = case
    return run_trial(changed(trial, **changes), data, base, device=device)


def losses(outcome) -> list[float]:
    return [row["train_loss"] for row in outcome.epochs]


def check_near(outcome, plain, limits) -> None:
    assert (outcome.trial["status"], plain.trial["status"]) == ("ok", "ok")
    assert losses(outcome) == pytest.approx(losses(plain), rel=limits["losses"])
    # It has learnt something: there is a score to be near to.
    assert plain.trial["test_score"] > 0.3
    assert outcome.trial["test_score"] == pytest.approx(
        plain.trial["test_score"], abs=limits["score"]
    )


@pytest.mark.parametrize(
    ("task", "dims"), [("classification", 2), ("segmentation", 2), ("segmentation", 3)]
)
@pytest.mark.parametrize("loader", ["dali", "resident"])
def test_a_trial_learns_by_each_loader_what_it_learns_through_torch(
    make_trial, device, task, dims, loader
):
    skip_without(loader)
    case = make_trial(task, dims, augment=Augment(flip=True, noise=0.1, contrast=0.25, chance=0.5))
    check_near(trained(case, device, loader=loader), trained(case, device), ROUNDED)


@pytest.mark.parametrize("dims", [2, 3])
def test_with_channels_innermost_a_trial_learns_the_same(make_trial, device, dims):
    case = make_trial("segmentation", dims)
    check_near(trained(case, device, channels_last=True), trained(case, device), ROUNDED)


# ---- precisions ----------------------------------------------------------------------------------

# The relative error of a convolution of 576 products: TF32 has 10 bits of mantissa (2^-11 = 5e-4
# for a product), a float32 has 23 (6e-8, and sums of 576 have some times that).
ERRORS = {"float32": (0.0, 1e-5), "tf32": (5e-5, 5e-3)}


def convolution_error(device) -> float:
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(8, 64, 32, 32, generator=draw)
    weight = torch.randn(64, 64, 3, 3, generator=draw)
    exact = torch.nn.functional.conv2d(image.double(), weight.double())
    found = torch.nn.functional.conv2d(image.to(device), weight.to(device)).cpu().double()
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("precision", ERRORS)
def test_a_trial_has_its_convolutions_computed_as_its_precision_says(make_trial, device, precision):
    trained(make_trial("classification", epochs=1), device, precision=precision)
    low, high = ERRORS[precision]
    assert low <= convolution_error(device) < high


@pytest.mark.parametrize(
    ("dims", "precision"), [(2, "tf32"), (2, "bfloat16"), (2, "float16"), (3, "float16")]
)
def test_a_precision_scores_as_float32_does(make_trial, device, dims, precision):
    case = make_trial("segmentation", dims, epochs=10)
    plain, other = trained(case, device), trained(case, device, precision=precision)
    check_near(other, plain, OTHER_PRECISION)
    if precision != "tf32":  # small convolutions may have no kernel for it
        assert losses(other) != losses(plain)


# ---- the same trial twice ------------------------------------------------------------------------


def everything(outcome) -> dict[str, list[str]]:
    """Return all numbers of an outcome that are no times."""
    tables = {"metrics": outcome.metrics, "cases": outcome.cases, "epochs": outcome.epochs}
    return {
        name: [
            str({k: v for k, v in row.items() if not k.endswith(("_sec", "_per_sec"))})
            for row in rows
        ]
        for name, rows in tables.items()
    }


def check_bits(first, second) -> None:
    assert everything(first) == everything(second)
    assert len(first.metrics) > 0
    mine, theirs = (torch.load(io.BytesIO(o.weights), weights_only=True) for o in (first, second))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_the_same_trial_twice_has_the_same_bits(make_trial, device, loader):
    """Of operators that all have kernels which repeat their bits, none excused by a name."""
    skip_without(loader)
    case = make_trial("classification", loader=loader, keep_weights=True, model=REPEATS)
    first, second = trained(case, device), trained(case, device)
    assert (first.trial["unrepeatable"], second.trial["unrepeatable"]) == ("", "")
    check_bits(first, second)


@pytest.mark.parametrize(
    ("task", "dims", "model", "precision"),
    [
        ("classification", 2, "plain_cnn", "float32"),
        ("segmentation", 2, "unet_small", "float32"),
        ("segmentation", 3, "unet_small", "float32"),
        ("segmentation", 3, "unet_small", "bfloat16"),
        # Its levels are brought to one size by trilinear interpolation, which is among what torch's
        # notes on reproducibility name.
        ("segmentation", 3, "dynunet", "float32"),
    ],
)
def test_what_does_not_repeat_is_named(make_trial, device, task, dims, model, precision):
    case = make_trial(
        task, dims, epochs=2, precision=precision, keep_weights=True, model=Choice(name=model)
    )
    first, second = trained(case, device), trained(case, device)
    assert first.trial["status"] == "ok"
    assert first.trial["unrepeatable"] == second.trial["unrepeatable"]
    if not first.trial["unrepeatable"]:
        check_bits(first, second)


# ---- what a row says of the card -----------------------------------------------------------------


def test_the_peak_of_memory_holds_all_copies_of_the_weights_and_fits_the_card(make_trial, device):
    row = trained(make_trial("segmentation", 3), device).trial
    # Adam's step has the weights, their gradients and two moments at once, of four bytes each.
    assert row["parameters"] > 1000
    assert 4 * 4 * row["parameters"] <= row["peak_memory_bytes"]
    assert row["peak_memory_bytes"] < torch.cuda.get_device_properties(device).total_memory


def test_a_trial_that_needs_more_memory_says_so(make_trial, device):
    small = trained(make_trial("segmentation", 3, epochs=1), device)
    large = trained(make_trial("segmentation", 3, 32, epochs=1), device)
    # A trial after a large one has a peak of its own.
    again = trained(make_trial("segmentation", 3, epochs=1), device)
    peaks = [outcome.trial["peak_memory_bytes"] for outcome in (small, large, again)]
    # Of a batch of four the image alone, of two channels, and logits, of three; four bytes each.
    more = 4 * 4 * (2 + 3) * (32**3 - 16**3)
    assert peaks[1] >= peaks[0] + more
    assert peaks[2] <= peaks[1] - more


@pytest.fixture
def card():
    """Return NVML's handle of the only card here, where it counts joules; not found by its name."""
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)
    except pynvml.NVMLError as error:
        pytest.skip(f"NVML does not tell what this card draws: {error}")
    if pynvml.nvmlDeviceGetCount() != 1:
        pytest.skip("of several cards it is not sure which one CUDA calls the first")
    return handle


def test_the_energy_is_what_the_card_drew_meanwhile(make_trial, device, card):
    def joules() -> float:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1000

    case = make_trial("segmentation", 3, epochs=10)
    trained(case, device)  # what is done once a process draws too
    before = joules()
    row = trained(case, device).trial
    drawn = joules() - before
    assert 0 < row["energy_joules"] <= drawn
    # No card draws more than it is allowed to, in watts; twice, since the counter moves in steps.
    most = pynvml.nvmlDeviceGetEnforcedPowerLimit(card) / 1000
    assert row["energy_joules"] < 2 * most * row["wall_sec"]


# ---- compiled ------------------------------------------------------------------------------------


def why_not_compiled() -> str | None:
    """Return what torch.compile lacks here to make kernels for a GPU."""
    if find_spec("triton") is None:
        return "torch.compile needs triton"
    if not any(which(name) for name in (os.environ.get("CC") or "cc", "gcc", "clang")):
        return "triton needs a C compiler"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "triton needs Python's headers"
    return None


def test_a_compiled_trial_learns_the_same(make_trial, device):
    if why := why_not_compiled():
        pytest.skip(why)
    case = make_trial("classification", model=REPEATS)
    plain = trained(case, device)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    check_near(trained(case, device, compiled=True), plain, ROUNDED)
    assert counters["stats"]["unique_graphs"] == 1
