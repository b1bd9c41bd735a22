"""PSGD with Kronecker factors: momentum whitened by a triangular matrix for each side of a weight.

The method and its constants are those of the public kron_torch and of pytorch-optimizer's Kron. The
latter is not used, because without opt_einsum it multiplies all factors before the gradient (512^4
numbers for one convolution), because it draws from each process's random stream, so that the copies
of a network diverge, and because it keeps texts in its state, which torch loads as other texts.
"""

import math
from typing import Any

import torch
from torch import Tensor

from bench.optimizers.library import Params

# How far a factor moves at most, relative to itself, in one update.
_RATE = 0.1
# A step with a greater root mean square than this is scaled down to it.
_LONGEST = 1.1
_TINY = float(torch.finfo(torch.bfloat16).tiny)
# The factors are updated at each of the first _EACH steps, then at a share that falls to _LEAST.
_EACH, _FALL, _LEAST = 500, 1e-3, 0.03


class Kron(torch.optim.Optimizer):
    """PSGD-Kron: Li 2015, arXiv 1512.04202, and 2022, arXiv 2211.04422.

    Each side of a weight of two or more dimensions has an upper triangular factor Q, except for
    sides of 1 and above `max_size_triangular`, which have a diagonal one, as vectors do. The step
    is Q'Q along every side times the mean gradient m. A factor moves down the gradient of
    sum((Q m)^2) + sum((Q^-T v)^2), where the noise v is drawn from the numbers of the step and of
    the parameter, so that all processes draw the same. Decay applies only to weights of two or more
    dimensions.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        max_size_triangular: int,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"lr {lr} and weight_decay {weight_decay} must not be below 0, momentum {momentum} "
                f"must be from 0 to below 1"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "max_size_triangular": max_size_triangular,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Update the weights from their gradients; a parameter without a gradient does not move."""
        assert closure is None
        number = 0
        for group in self.param_groups:
            for p in group["params"]:
                number += 1
                if p.grad is not None:
                    self._move(p, group, number)

    def _move(self, p: Tensor, group: dict[str, Any], number: int) -> None:
        state = self.state[p]
        if not state:
            state.update(step=0, since=0, mean=torch.zeros_like(p))
            state["factors"] = _start(p, group["max_size_triangular"])
        due = math.exp(_FALL * (_EACH - state["step"]))  # before the share is cut off at 1
        state["step"] += 1
        state["since"] += 1
        state["mean"].lerp_(p.grad, 1 - group["momentum"])
        mean = (state["mean"] / (1 - group["momentum"] ** state["step"])).reshape(_sides(p))
        if state["since"] >= 1 / min(max(due, _LEAST), 1):
            state["since"] = 0
            _follow(state["factors"], mean, noise(mean, state["step"], number))
        step = mean
        for axis, factor in enumerate(state["factors"]):
            step = _along(_along(step, factor, axis), factor, axis, turned=True)
        step = step * (_LONGEST / (step.square().mean().sqrt() + 1e-6)).clamp_max(1)
        step = step.reshape(p.shape)
        if p.dim() > 1:
            step = step + group["weight_decay"] * p
        p.add_(step, alpha=-group["lr"])


def noise(like: Tensor, step: int, number: int) -> Tensor:
    """Return the Gaussian noise of a step for the parameter of this number."""
    generator = torch.Generator(like.device).manual_seed(step << 20 | number)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _sides(p: Tensor) -> tuple[int, ...]:
    return tuple(p.shape) or (1,)


def _start(p: Tensor, most: int) -> list[Tensor]:
    whole = [p.dim() > 1 and 1 < side <= most for side in _sides(p)]
    return [
        torch.eye(side).to(p) if square else torch.ones(side).to(p)
        for side, square in zip(_sides(p), whole, strict=True)
    ]


def _along(x: Tensor, factor: Tensor, axis: int, *, turned: bool = False) -> Tensor:
    """Return `x` multiplied along an axis by a factor, or (`turned`) by its transpose."""
    if factor.dim() == 1:
        return x * factor.reshape(-1, *[1] * (x.dim() - axis - 1))
    product: Tensor = torch.tensordot(x, factor, dims=([axis], [0 if turned else 1]))
    return product.movedim(-1, axis)


def _against(x: Tensor, factor: Tensor, axis: int) -> Tensor:
    """Return `x` multiplied along an axis by the transposed inverse of a factor."""
    if factor.dim() == 1:
        return x / factor.reshape(-1, *[1] * (x.dim() - axis - 1))
    rows = x.movedim(axis, -1)
    solved: Tensor = torch.linalg.solve_triangular(
        factor, rows.reshape(-1, len(factor)), upper=True, left=False
    )
    return solved.reshape(rows.shape).movedim(-1, axis)


def _follow(factors: list[Tensor], mean: Tensor, v: Tensor) -> None:
    """Move the factors towards those that whiten the mean gradient."""
    for axis, factor in enumerate(factors):
        mean, v = _along(mean, factor, axis), _against(v, factor, axis)
    for axis, factor in enumerate(factors):
        rows = [part.movedim(axis, 0).reshape(len(factor), -1) for part in (mean, v)]
        if factor.dim() == 1:
            a, b = (part.square().sum(1) for part in rows)
            factor.sub_(_RATE * (a - b) * factor / ((a + b).max() + _TINY))
        else:
            a, b = (part @ part.T for part in rows)
            factor.sub_(_RATE / (_norm(a + b) + _TINY) * (a - b).triu() @ factor)


def _norm(matrix: Tensor) -> Tensor:
    """Return a lower bound of the largest eigenvalue of a symmetric matrix, not below 0.

    Takes two products with it, starting from its longest row.
    """
    scale = matrix.abs().max().clamp_min(_TINY)
    matrix = matrix / scale
    longest = matrix.square().sum(1).argmax()
    towards = matrix @ matrix.index_select(0, longest.reshape(1)).flatten()
    towards = towards / torch.linalg.vector_norm(towards).clamp_min(_TINY)
    bound: Tensor = scale * torch.linalg.vector_norm(matrix @ towards)
    return bound
