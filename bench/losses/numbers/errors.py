"""Losses for numbers: the error of a prediction, in standard deviations of the training part.

All take logits (N, K) and target (N, K), both of float32 or float64, and return the mean of each
sample over its K numbers (N,).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def absolute(logits: Tensor, target: Tensor) -> Tensor:
    """Return |d|, d the difference."""
    return (logits - target.to(logits)).abs().mean(1)


def squared(logits: Tensor, target: Tensor) -> Tensor:
    """Return d^2, d the difference."""
    return (logits - target.to(logits)).square().mean(1)


def huber(logits: Tensor, target: Tensor, *, delta: float) -> Tensor:
    """Return d^2 / 2 up to a difference d of delta, and delta (|d| - delta / 2) beyond it."""
    return F.huber_loss(logits, target.to(logits), delta=delta, reduction="none").mean(1)


def log_cosh(logits: Tensor, target: Tensor) -> Tensor:
    """Return log cosh d, d the difference: about d^2 / 2 near 0 and |d| - log 2 far from it."""
    d = logits - target.to(logits)
    # log((e^d + e^-d) / 2) without e^|d|, which overflows.
    return (d + torch.nn.functional.softplus(-2 * d) - math.log(2)).mean(1)
