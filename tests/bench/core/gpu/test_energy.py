"""The energy of a GPU, by a library that stands in for NVIDIA's; and by NVIDIA's on a GPU."""

import types

import pytest
import torch

from bench.core.gpu import energy as module
from bench.core.gpu.energy import EnergyMeter
from bench.core.timing import Clock

CUDA = torch.device("cuda", 1)


@pytest.fixture
def card(monkeypatch):
    """A card of a name, and its counter in thousandths of a joule."""
    counter = {"value": 5_000_000}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(uuid="ab-cd")
    )
    monkeypatch.setattr(module.pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(
        module.pynvml, "nvmlDeviceGetHandleByUUID", {"GPU-ab-cd": "the card"}.__getitem__
    )
    monkeypatch.setattr(
        module.pynvml,
        "nvmlDeviceGetTotalEnergyConsumption",
        lambda handle: {"the card": counter}[handle]["value"],
    )
    return counter


def test_joules_are_counted_from_when_the_meter_is_made(card):
    meter = EnergyMeter(CUDA)
    card["value"] += 1500
    assert meter.joules() == 1.5


def test_a_trial_that_goes_on_counts_the_part_before_and_not_the_pause(card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    first = Clock(CUDA)
    card["value"] += 2000
    state = first.state()
    card["value"] += 70_000
    second = Clock(CUDA)
    second.load(state)
    card["value"] += 3000
    assert second.joules() == 5.0


@pytest.mark.parametrize("where", ["nvmlInit", "nvmlDeviceGetTotalEnergyConsumption"])
def test_where_the_driver_does_not_tell_nothing_is_claimed(card, monkeypatch, where):
    def refuse(*_):
        raise module.pynvml.NVMLError(module.pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(module.pynvml, where, refuse)
    assert EnergyMeter(CUDA).joules() is None


def test_of_a_cpu_nothing_is_claimed():
    assert EnergyMeter(torch.device("cpu")).joules() is None


@pytest.mark.gpu
def test_a_gpu_that_works_draws_more_than_a_watt():
    device = torch.device("cuda", torch.cuda.current_device())
    meter = EnergyMeter(device)
    big = torch.randn(8192, 8192, device=device)
    for _ in range(200):
        big @ big
    torch.cuda.synchronize()
    assert meter.joules() > 1
