"""How training went, beside its losses: how they swing from step to step, how long steps are.

Only looks at the weights, between steps: nothing here changes a number of the training.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# One step in EVERY is measured, from the fifth of an epoch on: an optimizer's very first steps are
# not like its others (RMSprop's first is ten times as long as its rate). Assumption.
EVERY, FIRST = 8, 4
# So many weights, evenly spaced over all, stand for the network: the root of a mean of so many
# squares is known to 1 % or better unless a few of them carry it, and their copy takes 256 KiB,
# where a copy of the network would count in its peak of memory. Assumption.
SAMPLED = 65_536


class StepNorms:
    """The length of steps: the L2 norm of what a step changes in all weights of a network.

    Estimated by every k-th weight, of each parameter at least one; exact below SAMPLED weights.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = [p for p in parameters if p.numel()]
        total = sum(p.numel() for p in parameters)
        self._stride = max(total // SAMPLED, 1)
        self._copies: list[Tensor] = []
        self._squares: list[Tensor] = []

    def before(self, number: int) -> None:
        """Look at the weights before step `number` of an epoch, from 0, if it is to be measured."""
        if number % EVERY == FIRST:
            self._copies = [part.clone() for part in self._parts()]

    @torch.no_grad()
    def after(self) -> None:
        """Look at the weights after that step."""
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
        """Return the geometric mean over the steps measured since the last call; None of none.

        None too where a step was not finite, or where none moved anything.
        """
        squares, self._squares = self._squares, []
        if not squares:
            return None
        norm = float(torch.stack(squares).log().mean().div(2).exp())
        return norm if math.isfinite(norm) and norm > 0 else None

    def _parts(self) -> list[Tensor]:
        return [p.detach().reshape(-1)[:: self._stride] for p in self._parameters]


def loss_swing(losses: Sequence[Tensor]) -> float | None:
    """Return the standard deviation of differences between successive losses; None of under 3."""
    if len(losses) < 3:
        return None
    swing = float(torch.stack(list(losses)).double().diff().std())
    return swing if math.isfinite(swing) else None


def spread(cases: NDArray[np.integer[Any]], number: int) -> NDArray[np.integer[Any]]:
    """Return at most `number` of (n,) cases, evenly spaced over them."""
    places = np.linspace(0, len(cases) - 1, min(number, len(cases))).astype(np.int64)
    chosen: NDArray[np.integer[Any]] = cases[np.unique(places)]
    return chosen
