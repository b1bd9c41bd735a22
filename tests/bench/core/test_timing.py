"""The clock: what is charged to what."""

import io

import pytest
import torch

from bench.core import timing as module
from bench.core.timing import Clock, peak_memory, reset_peak_memory
from loaders.memory import keep_freed_memory

CPU = torch.device("cpu")


@pytest.fixture
def ticks(monkeypatch):
    """Let the test say what time it is."""
    now = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def test_waiting_is_charged_to_the_data_and_to_the_training_around_it(ticks):
    clock = Clock(CPU)

    def slow():
        ticks[0] += 2.0
        yield 1

    with clock.phase("train"):
        assert clock.wait(slow()) == 1
        ticks[0] += 3.0
    assert clock.seconds["data_wait"] == 2.0
    assert clock.seconds["train"] == 5.0
    assert clock.wall() == 5.0


def test_a_phase_is_charged_when_it_breaks(ticks):
    clock = Clock(CPU)

    def breaks():
        ticks[0] += 1.0
        raise RuntimeError

    with pytest.raises(RuntimeError), clock.phase("eval"):
        breaks()
    assert clock.seconds["eval"] == 1.0


def test_the_optimizers_part_of_a_step_leaves_the_gradients_out(ticks):
    clock = Clock(CPU)
    for own in (1.0, 0.003, 0.003, 0.005):  # the first carries one-off work and is left out
        start = clock.mark()
        ticks[0] += 0.010
        ready = clock.mark()
        ticks[0] += own
        clock.step(start, [(start, ready)], clock.mark())
    found = clock.percentiles()
    assert found["optimizer_step_ms_p50"] == pytest.approx(3.0)
    assert found["step_ms_p50"] == pytest.approx(13.0)
    assert found["step_ms_p95"] == pytest.approx(14.8)


def steps(clock, ticks, *own):
    """Note steps whose gradient takes 10 ms and whose own part takes these seconds."""
    for seconds in own:
        start = clock.mark()
        ticks[0] += 0.010
        ready = clock.mark()
        ticks[0] += seconds
        clock.step(start, [(start, ready)], clock.mark())


def test_a_clock_goes_on_from_an_earlier_one_without_the_pause_between(ticks):
    first = Clock(CPU)
    with first.phase("train"):
        steps(first, ticks, 1.0, 0.003, 0.003)
    found = torch.load(packed(first.state()), weights_only=True)
    ticks[0] += 1000.0
    second = Clock(CPU)
    with second.phase("setup"):
        ticks[0] += 2.0
        second.load(found)
    with second.phase("train"):
        # The first step after a start is cold again and left out.
        steps(second, ticks, 7.0, 0.003, 0.005)
    assert second.seconds["setup"] == pytest.approx(2.0)
    assert second.seconds["train"] == pytest.approx(8.014 + 0.060)
    assert second.wall() == pytest.approx(first.seconds["train"] + 2.0 + 7.008 + 0.030)
    assert second.percentiles()["optimizer_step_ms_p50"] == pytest.approx(3.0)
    assert second.percentiles()["step_ms_p95"] == pytest.approx(14.7)


def test_where_every_step_is_cold_all_count(ticks):
    found = None
    for own in (0.001, 0.002, 0.003):
        clock = Clock(CPU)
        if found:
            clock.load(found)
        steps(clock, ticks, own)
        found = clock.state()
    assert clock.percentiles()["optimizer_step_ms_p50"] == pytest.approx(2.0)


def packed(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def test_without_a_step_nothing_was_measured():
    assert set(Clock(CPU).percentiles().values()) == {None}


def test_a_peak_is_that_since_the_reset():
    keep_freed_memory()
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    if before is None:
        pytest.skip("this kernel keeps no peak of a process")
    block = torch.ones(64 * 2**20 // 4)
    high = peak_memory(CPU)
    assert high - before > 50 * 2**20
    del block
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < high - 30 * 2**20


@pytest.mark.gpu
def test_marks_on_a_gpu_time_the_device_and_not_the_launch():
    clock = Clock(torch.device("cuda"))
    big = torch.randn(4096, 4096, device="cuda")
    with clock.phase("train"):
        start = clock.mark()
        for _ in range(20):
            big @ big
        end = clock.mark()
        clock.step(start, [(start, end)], end)
    assert clock.percentiles()["step_ms_p50"] > 1.0
