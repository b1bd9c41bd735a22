"""Sums and means over voxels, samples and processes, which the losses share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

# The table of losses is read without torch: it is imported late, here and below.
if TYPE_CHECKING:
    from torch import Tensor

# Sums a tensor over the processes of a trial, differentiably.
Total: TypeAlias = "Callable[[Tensor], Tensor]"

# Least base of a power whose exponent may be below 1, where the slope of x^a is unbounded at 0. The
# loss is flat below it; float32 resolves no smaller step near 1. Assumption.
LEAST = 1e-7


def alone(value: Tensor) -> Tensor:
    """Return `value`: the sum over processes if there is only one."""
    return value


def over_processes(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes; gradients are summed on the way back."""
    import torch.distributed.nn.functional as distributed

    summed: Tensor = distributed.all_reduce(value)  # type: ignore[no-untyped-call]  # torch's stub lacks it
    return summed


def wide(logits: Tensor) -> Tensor:
    """Return logits in float32, or float64 unchanged: half precision is too coarse for sums."""
    import torch

    return logits if logits.dtype == torch.float64 else logits.float()


def sample_mean(values: Tensor) -> Tensor:
    """Return the mean (N,) over all axes of `values` (N, ...) except the first."""
    return values.reshape(len(values), math.prod(values.shape[1:])).mean(dim=1)


def one_hot(target: Tensor, probability: Tensor) -> Tensor:
    """Return the labels `target` (N, ...) as 0 and 1, in shape and type of `probability`."""
    import torch

    return torch.zeros_like(probability).scatter_(1, target.unsqueeze(1), 1.0)
