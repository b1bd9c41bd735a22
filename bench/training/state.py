"""The state of a trial in training: everything that changes from one epoch to the next.

It can be written as bytes after an epoch and loaded into the same trial, made anew, which then goes
on as if it had never stopped. The bytes hold only plain values and tensors, and reading them
executes nothing (`weights_only=True`).

The position in the stream of samples is the number of batches taken: samples, augmentation, mixup
and the images for refreshing batch-norm statistics are functions of seed and position
(loaders.sampling.sampler, bench.losses.mixup). Only torch's generators have a state that changes
from draw to draw.
"""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.serialization import default_restore_location

from bench.core.processes import World
from bench.core.timing import peak_memory
from bench.optimizers.averaging import MovingAverage
from bench.optimizers.steps import StepMemory, StepParts
from bench.training.transfer import LayerGroups

# Increased when the content of the bytes changes; bytes of another version are refused.
VERSION = 4


class StateRefused(ValueError):  # noqa: N818  # what became of the bytes, as the rest of the message
    """The bytes are not the state of the trial that should go on from them."""


@dataclass(frozen=True, kw_only=True)
class BestEpoch:
    """The best epoch so far by inner validation: its score, and the weights it ended with.

    `decides` and `false_alarm` are those of its score. `metrics` are the rows of that evaluation,
    `weights` is the state of the network.
    """

    epoch: int
    loss: float
    value: float | None
    decides: bool
    false_alarm: float | None
    metrics: list[dict[str, Any]]
    weights: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TargetReached:
    """The cost of training up to the end of the first epoch that reached the target score."""

    train_sec: float
    sample_gradients: int


@dataclass(kw_only=True)
class TrainingState:
    """All that changes while a trial trains.

    - `parts`: the network, the optimizer with its averages, the scaler, the clock, and what one
      step passes on to the next. `layers`: which layers are frozen. `average`: the moving average
      of the weights, if the study asks for one.
    - `batches` taken from the stream of samples, sample-gradients `spent`, gradient `evaluations`
      made, and the rows of the `epochs` so far.
    - `best`, `reached`, `stopped` (by patience), and why the trial `diverged`, if it did.

    The processes of a trial hold the same state except for their random numbers; the bytes hold
    those of every process, so the bytes of any process serve the same number of processes. The
    clock in them is that of the process that wrote them. If the network is compiled or runs on a
    GPU, a resumed training is bit-equal as far as two equal trainings are.
    """

    trial_id: str
    world: World
    device: torch.device
    started_at: datetime
    parts: StepParts
    layers: LayerGroups
    average: MovingAverage | None = None
    batches: int = 0
    spent: int = 0
    evaluations: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: BestEpoch | None = None
    reached: TargetReached | None = None
    stopped: bool = False
    diverged: str | None = None
    _earlier_peak: int = 0

    def peak_memory(self) -> int | None:
        """Return the peak memory in bytes, including that before a stop; None if not known."""
        now = peak_memory(self.device)
        return None if now is None else max(now, self._earlier_peak)

    def to_bytes(self) -> bytes:
        """Return the state as `load` takes it.

        To be called between epochs, in all processes of the trial together. Raises ValueError if
        the optimizer or the network keeps something that is neither a plain value nor a tensor.
        """
        parts, cuda = self.parts, self.device.type == "cuda"
        own = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
        }
        random = [own] * self.world.size
        if self.world.size > 1:
            dist.all_gather_object(random, own)
        content = {
            "version": VERSION,
            "trial_id": self.trial_id,
            "processes": self.world.size,
            "started_at": self.started_at.isoformat(),
            "peak_memory": self.peak_memory(),
            "network": parts.network.state_dict(),
            "optimizer": parts.optimizer.state_dict(),
            "scaler": parts.scaler.state_dict(),
            "step": asdict(parts.memory),
            "clock": parts.clock.state(),
            "frozen": self.layers.frozen,
            "average": self.average.values if self.average else [],
            "random": random,
            "batches": self.batches,
            "spent": self.spent,
            "evaluations": self.evaluations,
            "epochs": self.epochs,
            "best": None if self.best is None else vars(self.best),
            "reached": None if self.reached is None else vars(self.reached),
            "stopped": self.stopped,
            "diverged": self.diverged,
        }
        packed = io.BytesIO()
        torch.save(_plain(content, f"the state of trial {self.trial_id}"), packed)
        return packed.getvalue()

    def load(self, packed: bytes) -> None:
        """Load bytes of `to_bytes` into the newly made parts of the same trial.

        Call it after all else has been made, since it sets the random state. Raises StateRefused if
        the bytes are damaged, or from another version, trial or number of processes.
        """
        content = _read(packed, self.device)
        for what, own in (
            ("version", VERSION),
            ("trial_id", self.trial_id),
            ("processes", self.world.size),
        ):
            if content.get(what) != own:
                raise StateRefused(
                    f"this state has {what} {content.get(what)!r}, but trial {self.trial_id} needs "
                    f"{own!r}; let the trial start anew"
                )
        parts = self.parts
        parts.network.load_state_dict(content["network"])
        self.layers.freeze(content["frozen"])
        if self.average:
            self.average.values = content["average"]
        parts.optimizer.load_state_dict(content["optimizer"])
        parts.scaler.load_state_dict(content["scaler"])
        parts.clock.load(content["clock"])
        vars(parts.memory).update(vars(StepMemory(**content["step"])))
        self.started_at = datetime.fromisoformat(content["started_at"])
        self._earlier_peak = content["peak_memory"] or 0
        self.batches, self.spent = content["batches"], content["spent"]
        self.evaluations, self.epochs = content["evaluations"], content["epochs"]
        self.best = BestEpoch(**content["best"]) if content["best"] else None
        self.reached = TargetReached(**content["reached"]) if content["reached"] else None
        self.stopped, self.diverged = content["stopped"], content["diverged"]
        random = content["random"][self.world.rank]
        torch.set_rng_state(random["cpu"])
        if random["cuda"] is not None:
            torch.cuda.set_rng_state(random["cuda"], self.device)

    def any_process(self, wish: bool) -> bool:
        """Return whether any process of the trial wishes it; all of them must call this."""
        if self.world.size == 1:
            return wish
        wishes = torch.tensor(int(wish), device=self.device)
        dist.all_reduce(wishes, dist.ReduceOp.MAX)
        return bool(wishes)


Checkpoint = Callable[[TrainingState], None]


def _read(packed: bytes, device: torch.device) -> dict[str, Any]:
    def place(storage: Any, location: str) -> Any:
        # Tensors of the host's memory stay there: the step counts of Adam, the random state.
        if location == "cpu":
            return storage
        return default_restore_location(storage, str(device))  # type: ignore[no-untyped-call]  # torch's has no types

    try:
        content = torch.load(io.BytesIO(packed), map_location=place, weights_only=True)
    except Exception as error:  # torch raises what its parsers raise: pickle, zip, EOF, Runtime
        raise StateRefused(
            f"these {len(packed)} bytes cannot be read as the state of a trial "
            f"({type(error).__name__}); let the trial start anew"
        ) from error
    if not isinstance(content, dict) or "version" not in content:
        raise StateRefused("these bytes hold tensors, but not the state of a trial")
    return content


def _plain(value: Any, where: str) -> Any:
    """Return `value` in Python's own types and tensors, which `weights_only=True` can read."""
    match value:
        case np.generic():  # first: numpy's float64 is a float too
            return value.item()
        case None | bool() | int() | float() | str() | Tensor():
            return value
        case dict():
            return {_plain(k, where): _plain(v, f"{where}: {k}") for k, v in value.items()}
        case list() | tuple():
            return type(value)(_plain(v, where) for v in value)
        case _:
            raise ValueError(
                f"{where} is a {type(value).__name__}, which cannot be written: only numbers, "
                f"texts, tensors, and lists, tuples and mappings of them can"
            )
