"""Timing of a trial: set-up, data wait, step, optimizer, evaluation.

On a CPU a mark is a reading of the host's clock. On a GPU it is a CUDA event, read once the device
has caught up, because a step's launch returns long before the step is done.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from bench.core.gpu.energy import EnergyMeter
from loaders.memory import give_back_freed_memory

T = TypeVar("T")
Phase = Literal["setup", "train", "data_wait", "eval"]
PHASES: tuple[Phase, ...] = ("setup", "train", "data_wait", "eval")
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class Clock:
    """The seconds of each phase and the milliseconds of each step of one trial on one device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._meter = EnergyMeter(device)
        # Joules of the clock that this one continues.
        self._drawn: float | None = 0.0
        self.started = perf_counter()
        self.seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._open: list[tuple[Any, list[tuple[Any, Any]], Any]] = []
        self._step_ms: list[float] = []
        self._optimizer_ms: list[float] = []
        # Steps that carry one-off work (memory, kernels): the first one since each start.
        self._cold: set[int] = {0}

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Add the host's seconds of the block, the device's work included, to `name`."""
        start = perf_counter()
        try:
            yield
        finally:
            self.settle()
            self.seconds[name] += perf_counter() - start

    def wait(self, batches: Iterator[T]) -> T:
        """Return the next batch, and add the host's seconds of waiting for it to `data_wait`."""
        start = perf_counter()
        batch = next(batches)
        self.seconds["data_wait"] += perf_counter() - start
        return batch

    def mark(self) -> Any:
        """Return the present moment in the stream of device work."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's stub
            event.record()
            return event
        return perf_counter()

    def step(self, start: Any, gradients: list[tuple[Any, Any]], end: Any) -> None:
        """Note one step: its marks, and the pair of marks around each gradient in it."""
        self._open.append((start, gradients, end))

    def settle(self) -> None:
        """Wait for the device and read the marks noted so far."""
        if self._cuda:
            torch.cuda.synchronize()
        for start, gradients, end in self._open:
            total = self._ms(start, end)
            self._step_ms.append(total)
            self._optimizer_ms.append(total - sum(self._ms(a, b) for a, b in gradients))
        self._open.clear()

    def _ms(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) if self._cuda else (end - start) * 1e3

    def wall(self) -> float:
        """Return the seconds since the clock was made, plus those of the clock it continues."""
        return perf_counter() - self.started

    def joules(self) -> float | None:
        """Return the joules of the GPU since the clock (or the one it continues) was made, or None.

        They are of the whole GPU, including other users of it. None if not known.
        """
        now = self._meter.joules()
        return None if now is None or self._drawn is None else self._drawn + now

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors for `load`. Do not call it within a phase."""
        self.settle()
        return {
            "wall": self.wall(),
            "joules": self.joules(),
            "seconds": dict(self.seconds),
            "step_ms": torch.tensor(self._step_ms, dtype=torch.float64),
            "optimizer_ms": torch.tensor(self._optimizer_ms, dtype=torch.float64),
            "cold": sorted(self._cold),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Add the times of an earlier clock, given by its `state`, to those of this one."""
        self.settle()
        before = state["step_ms"].tolist()
        self._cold = {*state["cold"], *(len(before) + own for own in self._cold)}
        self._step_ms = before + self._step_ms
        self._optimizer_ms = state["optimizer_ms"].tolist() + self._optimizer_ms
        for phase in PHASES:
            self.seconds[phase] += state["seconds"][phase]
        self.started -= state["wall"]
        self._drawn = state["joules"]

    def percentiles(self) -> dict[str, float | None]:
        """Return percentiles of the milliseconds of a step and of the optimizer's part of it.

        With three steps or more, steps with one-off work are left out, unless all have some.
        """
        self.settle()
        places = range(len(self._step_ms))
        warm = [i for i in places if i not in self._cold] if len(places) > 2 else []
        step, own = (
            [times[i] for i in warm or places] for times in (self._step_ms, self._optimizer_ms)
        )
        if not step:
            return {"step_ms_p50": None, "step_ms_p95": None, "optimizer_step_ms_p50": None}
        return {
            "step_ms_p50": float(np.percentile(step, 50)),
            "step_ms_p95": float(np.percentile(step, 95)),
            "optimizer_step_ms_p50": float(np.percentile(own, 50)),
        }


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak, by the kernel's mark: `ru_maxrss` never falls (measured).

    Freed memory that the process has kept (loaders.memory) is given back first.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        give_back_freed_memory()
        _CLEAR_REFS.write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Return the peak in bytes since the reset, of the GPU's allocator or of this process.

    None if the kernel keeps no such mark (macOS, Windows).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if not _CLEAR_REFS.exists():
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
