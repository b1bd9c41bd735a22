"""One optimizer step on one batch: what the loop must do for each kind of optimizer.

A step returns the loss before the update and how many times it evaluated the gradient, which is
what the budget is charged.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.clock import Clock

LossOf = Callable[[Tensor, Tensor], Tensor]
# (image, target, gradient evaluations the budget still allows) -> (loss, evaluations made)
Step = Callable[[Tensor, Tensor, int], tuple[Tensor, int]]

# A closure optimizer may start anew from the last finite weights this often in a row; after that
# its loss is handed on as it is and the trial counts as diverged. Assumption.
RESTARTS = 3


class _BudgetSpent(Exception):  # noqa: N818  # leaves a line search, is no error
    """Raised inside a closure when the budget allows no further evaluation."""


def _mean(value: Tensor, size: int) -> Tensor:
    """Return the mean of `value` over the processes of a trial."""
    value = value.detach().clone()
    if size > 1:
        dist.all_reduce(value)
        value /= size
    return value


def plain_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, loss_of: LossOf, clock: Clock, size: int
) -> Step:
    """Make the step of an optimizer that needs one gradient: forward, backward, update."""
    del net

    def step(image: Tensor, target: Tensor, _left: int) -> tuple[Tensor, int]:
        start = clock.mark()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(image, target)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
        ready = clock.mark()
        optimizer.step()
        clock.step(start, [(start, ready)], clock.mark())
        return _mean(loss, size), 1

    return step


def closure_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, loss_of: LossOf, clock: Clock, size: int
) -> Step:
    """Make the step of an optimizer that evaluates as often as it likes, such as L-BFGS.

    Within a step every evaluation is of one function: the same batch, the same dropout masks (the
    random state is set back), and batch-norm statistics updated by the first evaluation alone.
    The loss that the closure returns is the mean over all processes: with a local loss the
    line searches of two processes part ways and their weights with them.

    A budget that runs out inside a line search ends the step at the best point it has seen.
    A step that ends non-finite is undone, and the optimizer starts anew without its history; the
    loss before such a step stands, unless it is one restart too many.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    limits = [dict(group) for group in optimizer.param_groups]
    restarts = 0

    def copy() -> list[Tensor]:
        return [p.detach().clone() for p in parameters]

    def put(values: list[Tensor]) -> None:
        with torch.no_grad():
            for p, value in zip(parameters, values, strict=True):
                p.copy_(value)

    def step(image: Tensor, target: Tensor, left: int) -> tuple[Tensor, int]:
        nonlocal restarts
        before = copy()
        cpu_state = torch.get_rng_state()
        gpu_state = torch.cuda.get_rng_state() if image.is_cuda else None
        losses: list[Tensor] = []
        marks: list[tuple[Any, Any]] = []
        best: tuple[float, list[Tensor]] = (math.inf, before)
        # A line search may go past max_eval; near the end of the budget remember its best point.
        tight = left < _most_evaluations(limits[0])

        def closure() -> Tensor:
            nonlocal best
            if len(losses) == left:
                raise _BudgetSpent
            start = clock.mark()
            torch.set_rng_state(cpu_state)
            if gpu_state is not None:
                torch.cuda.set_rng_state(gpu_state)
            for norm in norms:
                norm.track_running_stats = not losses
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(image, target)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
            value = _mean(loss, size)
            losses.append(value)
            if tight and float(value) < best[0]:
                best = (float(value), copy())
            marks.append((start, clock.mark()))
            return value

        for group, limit in zip(optimizer.param_groups, limits, strict=True):
            if "max_eval" in limit:
                group["max_eval"] = min(limit["max_eval"] or _default_evaluations(limit), left)
        begin = clock.mark()
        try:
            optimizer.step(closure)  # type: ignore[arg-type]  # torch's stub wants a float, its L-BFGS a tensor
        except _BudgetSpent:
            put(best[1])
        finally:
            for norm in norms:
                norm.track_running_stats = True
        clock.step(begin, marks, clock.mark())

        finite = all(bool(torch.isfinite(p).all()) for p in parameters)
        if finite and bool(torch.isfinite(losses[0])):
            restarts = 0
            return losses[0], len(losses)
        restarts += 1
        put(before)
        optimizer.state.clear()
        return losses[0] if restarts <= RESTARTS else losses[0] * math.nan, len(losses)

    return step


def _default_evaluations(limit: dict[str, Any]) -> int:
    # torch.optim.LBFGS: max_eval defaults to max_iter * 1.25.
    return int(limit["max_iter"] * 5 // 4)


def _most_evaluations(limit: dict[str, Any]) -> int:
    # torch's strong-Wolfe search makes up to 25 evaluations (its max_ls) past max_eval.
    if "max_iter" not in limit:
        return 10**9
    return (limit.get("max_eval") or _default_evaluations(limit)) + 25
