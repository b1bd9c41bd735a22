"""One optimizer step on one batch: what the loop must do for each kind of optimizer.

A step returns the unscaled loss before the update, and the number of gradient evaluations to charge
to the budget.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.core.timing import Clock

LossOf = Callable[[Tensor, Any], Tensor]
# (image, target, gradient evaluations that the budget still allows) -> (loss, evaluations made)
Step = Callable[[Tensor, Any, int], tuple[Tensor, int]]

# Steps whose gradients cannot be clipped, and those that cannot sum several batches: step -> why.
UNCLIPPED = {
    "closure": "its line search compares gradients with the loss",
    "create_graph": "it differentiates the gradient again",
}
UNDIVIDED = {"create_graph": "it differentiates the gradient of one batch again"}

# How often in a row a closure optimizer may restart from the last finite weights; after that its
# loss is NaN, which ends the trial as diverged. Assumption.
RESTARTS = 3
# The cost of one product of the Hessian with a vector, in evaluations of the gradient: it
# differentiates a graph of forward and backward. Measured: 1.98 by operations, 2.1 by time on one
# core.
HESSIAN_EVALUATIONS = 2

# The integer type of the same width, by bytes.
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(kw_only=True)
class StepMemory:
    """What one step passes on to the next, beside the network, the optimizer and the scaler.

    `restarts`: how many of the last steps in a row ended non-finite and were undone.
    """

    restarts: int = 0


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """The parts that a step needs.

    `loss_of(image, target)` is the loss of a batch; `processes` is the number of processes that
    share the trial. A batch of several `chunks` (the number of samples of each in this process)
    goes through the network in parts, whose gradients are summed: its target then has a method
    `rows(slice)` for a part, and the losses of the parts add up to the batch's. Gradients with an
    L2 norm over all parameters above `clip` are scaled down to it.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    loss_of: LossOf
    clock: Clock
    processes: int
    scaler: torch.amp.GradScaler
    clip: float | None = None
    chunks: Sequence[int] = ()
    memory: StepMemory = field(default_factory=StepMemory)

    def mean(self, loss: Tensor) -> Tensor:
        """Return the mean of a loss over the processes of the trial."""
        loss = loss.detach().clone()
        if self.processes > 1:
            dist.all_reduce(loss)
            loss /= self.processes
        return loss

    def gradient(self, image: Tensor, target: Any) -> Tensor:
        """Compute the gradient of a batch, scaled if the scaler is on; return its unscaled loss."""
        self.optimizer.zero_grad(set_to_none=True)
        if len(self.chunks) < 2:
            loss = self.loss_of(image, target)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
            return loss
        whole = torch.zeros((), device=image.device)
        for end, count in zip(accumulate(self.chunks), self.chunks, strict=True):
            rows = slice(end - count, end)
            loss = self.loss_of(image[rows], target.rows(rows))
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
            whole = whole + loss.detach()
        return whole

    def check_copies(self) -> None:
        """Raise RuntimeError unless all processes of the trial hold the same weights, bit for bit.

        Compares the sums of their bits as integers, which do not depend on the order of addition.
        """
        if self.processes == 1:
            return
        bits = [p.detach().view(_INTEGERS[p.element_size()]) for p in _parameters(self.optimizer)]
        found = torch.stack([value.sum(dtype=torch.int64) for value in bits])
        extremes = torch.stack([found, -found])
        dist.all_reduce(extremes, dist.ReduceOp.MAX)
        if bool((extremes[0] != -extremes[1]).any()):
            raise RuntimeError(
                f"the {self.processes} processes of this trial hold different weights after a "
                f"step: a line search went differently in one of them. Train it on one device."
            )

    def limit(self) -> None:
        """Clip the gradient, once it is unscaled."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(_parameters(self.optimizer), self.clip)

    def refuse_scaling(self, why: str) -> None:
        """Raise ValueError if gradients are scaled; `why` names what cannot be scaled."""
        if self.scaler.is_enabled():
            raise ValueError(f"{why} cannot be scaled: this optimizer does not train in float16")


Make = Callable[[StepParts], Step]


class _BudgetSpent(Exception):  # noqa: N818  # leaves a line search, not an error
    """Raised inside a closure when the budget allows no further evaluation."""


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


@dataclass(frozen=True, kw_only=True)
class _Point:
    """The weights at one evaluation of a line search, and the loss there."""

    loss: float
    weights: list[Tensor]


class _SameFunction:
    """Makes all evaluations of one batch use the same function.

    `first` saves the random state. `again` restores it, so that dropout draws the same masks, and
    keeps batch norms from counting the batch again, until `done`.
    """

    def __init__(self, net: nn.Module) -> None:
        self._norms = [
            m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
        ]
        self._cpu = torch.empty(0)
        self._gpu: Tensor | None = None

    def first(self, image: Tensor) -> None:
        self._cpu = torch.get_rng_state()
        self._gpu = torch.cuda.get_rng_state() if image.is_cuda else None

    def again(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu)
        for norm in self._norms:
            norm.track_running_stats = False

    def done(self) -> None:
        for norm in self._norms:
            norm.track_running_stats = True


def plain_step(parts: StepParts) -> Step:
    """Make the step of an optimizer that needs one gradient: forward, backward, update.

    If the scaler finds a gradient that is not finite, it makes no update and lowers its scale.
    """
    optimizer, clock, scaler = parts.optimizer, parts.clock, parts.scaler

    def step(image: Tensor, target: Any, _left: int) -> tuple[Tensor, int]:
        start = clock.mark()
        loss = parts.gradient(image, target)
        scaler.unscale_(optimizer)
        parts.limit()
        ready = clock.mark()
        scaler.step(optimizer)
        scaler.update()
        clock.step(start, [(start, ready)], clock.mark())
        return parts.mean(loss), 1

    return step


def two_pass_step(parts: StepParts) -> Step:
    """Make the step of an optimizer that needs a second gradient at other weights, such as SAM.

    `optimizer.first_step()` moves the weights, `second_step()` moves them back and updates them by
    the gradient found there. Both passes see the same batch and the same dropout masks; only the
    first updates batch-norm statistics (Foret et al. 2021 leave this open; pytorch-optimizer's
    examples do so). Two evaluations are charged.

    If the budget has only one evaluation left, `optimizer.base_optimizer` makes that step. The
    gradient that updates the weights is clipped; the first one only gives a direction. With several
    processes the first gradient is that of the global batch, as on one device.
    """
    parts.refuse_scaling("two gradients")
    optimizer: Any = parts.optimizer  # no class of torch has the two halves of a step
    clock = parts.clock
    same = _SameFunction(parts.network)

    def step(image: Tensor, target: Any, left: int) -> tuple[Tensor, int]:
        start = clock.mark()
        same.first(image)
        loss = parts.gradient(image, target)
        ready = clock.mark()
        if left < 2:
            parts.limit()
            optimizer.base_optimizer.step()
            clock.step(start, [(start, ready)], clock.mark())
            return parts.mean(loss), 1
        optimizer.first_step(zero_grad=True)
        moved = clock.mark()
        same.again()
        try:
            parts.gradient(image, target)
        finally:
            same.done()
        parts.limit()
        second = clock.mark()
        optimizer.second_step()
        clock.step(start, [(start, ready), (moved, second)], clock.mark())
        return parts.mean(loss), 2

    return step


def create_graph_step(parts: StepParts) -> Step:
    """Make the step of an optimizer that differentiates the gradient again, such as Sophia.

    Every `optimizer.update_period` steps, from the first on, the gradient keeps its graph, and
    `optimizer.step()` draws `num_samples` vectors and multiplies each by the Hessian. Such a step
    costs 1 evaluation plus HESSIAN_EVALUATIONS for each vector, any other step 1. If the budget no
    longer allows a Hessian, the trial ends: the rest is charged and no update is made. cuDNN's
    recurrent layers have no second derivative, so such a step runs them without cuDNN.
    """
    parts.refuse_scaling("the graph of its gradient")
    if parts.processes > 1:
        raise ValueError("DDP averages gradients outside the graph that a Hessian needs")
    optimizer, clock = parts.optimizer, parts.clock
    recurrent = any(isinstance(m, nn.RNNBase) for m in parts.network.modules())
    period, samples = (int(getattr(optimizer, n, 1)) for n in ("update_period", "num_samples"))
    cost = 1 + HESSIAN_EVALUATIONS * samples

    def step(image: Tensor, target: Any, left: int) -> tuple[Tensor, int]:
        # The library counts steps in its groups, so that a loaded optimizer keeps its period.
        due = optimizer.param_groups[0].get("step", 0) % period == 0
        start = clock.mark()
        with torch.backends.cudnn.flags(enabled=False) if due and recurrent else nullcontext():
            loss = parts.loss_of(image, target)
        if due and left < cost:
            clock.step(start, [(start, clock.mark())], clock.mark())
            return parts.mean(loss), left
        parameters = [p for p in _parameters(optimizer) if p.requires_grad]
        # autograd.grad: backward(create_graph=True) warns of a cycle, though set_to_none breaks it.
        gradients = torch.autograd.grad(loss, parameters, create_graph=due, allow_unused=True)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        ready = clock.mark()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.step(start, [(start, ready)], clock.mark())
        return parts.mean(loss), cost if due else 1

    return step


def closure_step(parts: StepParts) -> Step:
    """Make the step of an optimizer that evaluates as often as it likes, such as L-BFGS.

    Within a step every evaluation is of the same function: the same batch, the same dropout masks
    (the random state is restored), and batch-norm statistics updated only by the first evaluation.
    The loss that the closure returns is the mean over all processes: with a local loss, the line
    searches of two processes would diverge, and their weights with them. Each step ends with a
    check that they did not.

    If the budget runs out inside a line search, the step ends at the best point of that search. A
    step that ends non-finite is undone, and the optimizer restarts without its history. Such a step
    returns the loss before it, or NaN after more than RESTARTS of them in a row.
    """
    parts.refuse_scaling("a line search")
    optimizer, clock, memory = parts.optimizer, parts.clock, parts.memory
    parameters = _parameters(optimizer)
    same = _SameFunction(parts.network)
    limits = [dict(group) for group in optimizer.param_groups]

    def copy() -> list[Tensor]:
        return [p.detach().clone() for p in parameters]

    def put(values: list[Tensor]) -> None:
        with torch.no_grad():
            for p, value in zip(parameters, values, strict=True):
                p.copy_(value)

    def step(image: Tensor, target: Any, left: int) -> tuple[Tensor, int]:
        before = copy()
        same.first(image)
        losses: list[Tensor] = []
        marks: list[tuple[Any, Any]] = []
        best = _Point(loss=math.inf, weights=before)
        # A line search may go past max_eval; near the end of the budget its best point is kept.
        tight = left < _most_evaluations(limits[0])

        def closure() -> Tensor:
            nonlocal best
            if len(losses) == left:
                raise _BudgetSpent
            start = clock.mark()
            if losses:
                same.again()
            value = parts.mean(parts.gradient(image, target))
            for parameter in parameters:
                # torch's L-BFGS concatenates gradients in memory order, and refuses those with
                # their channels innermost.
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.contiguous()
            losses.append(value)
            if tight and float(value) < best.loss:
                best = _Point(loss=float(value), weights=copy())
            marks.append((start, clock.mark()))
            return value

        for group, limit in zip(optimizer.param_groups, limits, strict=True):
            if "max_eval" in limit:
                group["max_eval"] = min(limit["max_eval"] or _default_evaluations(limit), left)
        begin = clock.mark()
        try:
            optimizer.step(closure)  # type: ignore[arg-type]  # torch's stub wants a float, its L-BFGS a tensor
        except _BudgetSpent:
            put(best.weights)
        finally:
            same.done()
        clock.step(begin, marks, clock.mark())

        parts.check_copies()
        finite = all(bool(torch.isfinite(p).all()) for p in parameters)
        if finite and bool(torch.isfinite(losses[0])):
            memory.restarts = 0
            return losses[0], len(losses)
        memory.restarts += 1
        put(before)
        optimizer.state.clear()
        return losses[0] if memory.restarts <= RESTARTS else losses[0] * math.nan, len(losses)

    return step


def _default_evaluations(limit: dict[str, Any]) -> int:
    # torch.optim.LBFGS: max_eval defaults to max_iter * 1.25.
    return int(limit["max_iter"] * 5 // 4)


def _most_evaluations(limit: dict[str, Any]) -> int:
    # torch's strong-Wolfe search makes up to 25 evaluations (its max_ls) past max_eval.
    if "max_iter" not in limit:
        return 10**9
    return (limit.get("max_eval") or _default_evaluations(limit)) + 25


STEPS: dict[str, Make] = {
    "plain": plain_step,
    "closure": closure_step,
    "two_pass": two_pass_step,
    "create_graph": create_graph_step,
}
