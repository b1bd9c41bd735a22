"""The course of a training: how its losses swing from step to step, and how long its steps are.

It only reads the weights between steps: nothing here changes a number of the training.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# One step in EVERY is measured, from the fifth of an epoch on: an optimizer's very first steps are
# unlike its others (RMSprop's first is ten times as long as its rate). Assumption.
EVERY, FIRST = 8, 4
# This many weights, evenly spaced over all, represent the network: the root of their mean square is
# known to 1 % or better unless it comes from a few of them, and their copy takes 256 KiB, while a
# copy of the network would add to the peak of memory. Assumption.
SAMPLED = 65_536


class StepNorms:
    """The length of steps: the L2 norm of a step's change to all weights of a network.

    Estimated from every k-th weight, at least one of each parameter; exact below SAMPLED weights.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = [p for p in parameters if p.numel()]
        total = sum(p.numel() for p in parameters)
        self._stride = max(total // SAMPLED, 1)
        self._copies: list[Tensor] = []
        self._squares: list[Tensor] = []

    def before(self, number: int) -> None:
        """Copy weights before step `number` (from 0) of an epoch, if it is to be measured."""
        if number % EVERY == FIRST:
            self._copies = [part.clone() for part in self._parts()]

    @torch.no_grad()
    def after(self) -> None:
        """Measure their change after that step."""
        if not self._copies:
            return
        self._squares.append(
            torch.stack(
                [
                    (part - copy).double().square().mean() * p.numel()
                    for part, copy, p in zip(
                        self._parts(), self._copies, self._parameters, strict=True
                    )
                ]
            ).sum()
        )
        self._copies = []

    def taken(self) -> float | None:
        """Return the geometric mean over the steps measured since the last call.

        None if there were none, if a step was not finite, or if a step moved nothing.
        """
        squares, self._squares = self._squares, []
        if not squares:
            return None
        norm = float(torch.stack(squares).log().mean().div(2).exp())
        return norm if math.isfinite(norm) and norm > 0 else None

    def _parts(self) -> list[Tensor]:
        return [p.detach().reshape(-1)[:: self._stride] for p in self._parameters]


def loss_swing(losses: Sequence[Tensor]) -> float | None:
    """Return the standard deviation of differences of successive losses; None for less than 3."""
    if len(losses) < 3:
        return None
    swing = float(torch.stack(list(losses)).double().diff().std())
    return swing if math.isfinite(swing) else None


def spread(cases: NDArray[np.integer[Any]], number: int) -> NDArray[np.integer[Any]]:
    """Return at most `number` of (n,) cases, evenly spaced over them."""
    places = np.linspace(0, len(cases) - 1, min(number, len(cases))).astype(np.int64)
    chosen: NDArray[np.integer[Any]] = cases[np.unique(places)]
    return chosen
