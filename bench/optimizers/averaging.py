"""Averaged weights: put into the network for an evaluation, and taken out again.

An optimizer that averages (Schedule-Free) trains at other weights than those it should be evaluated
with, and a study may ask for an exponential moving average of the weights of any other. At the
averaged weights the batch-norm statistics of training are wrong, so they are computed anew
(https://github.com/facebookresearch/schedule_free, README, and its issue 60).

Nothing of this outlasts the evaluation: the averages are part of the optimizer's own state, or of
the training's.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.optimizers.steps import Step

# Batches that batch-norm statistics are averaged over: the number in the README of schedule_free.
REFRESH_BATCHES = 50


class MovingAverage:
    """The exponential moving average of a network's parameters, updated at each step.

    It starts at the weights after the first step; each further step moves it towards the weights by
    1 - `decay` of the distance (Polyak and Juditsky 1992; as torch.optim.swa_utils.AveragedModel
    with get_ema_multi_avg_fn).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = list(model.parameters())
        self._decay = decay
        self.values: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Update it with the present weights."""
        now = [p.detach() for p in self._parameters]
        if self.values:
            torch._foreach_lerp_(self.values, now, 1 - self._decay)
        else:
            self.values = [p.clone() for p in now]

    def following(self, step: Step) -> Step:
        """Return `step` with an update after it."""

        def averaged(image: Tensor, target: Any, left: int) -> tuple[Tensor, int]:
            done = step(image, target, left)
            self.update()
            return done

        return averaged

    @torch.no_grad()
    def put_in(self) -> None:
        """Copy the average into the network; before the first step it keeps its weights."""
        for p, value in zip(self._parameters, self.values, strict=False):
            p.copy_(value)


@contextmanager
def evaluation_weights(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    refresh: Callable[[], Iterable[Tensor]],
    average: MovingAverage | None = None,
) -> Iterator[None]:
    """Give `model`, for the block, the weights with which it is evaluated and saved.

    `refresh` returns images of training batches (N, C, *spatial), at most REFRESH_BATCHES of them;
    it is called only if the network has batch norms. After the block, weights, batch-norm
    statistics and modes are as before to the bit, so that an evaluation never changes the training.

    The weights are `average`, or the optimizer's averages; without either nothing is done. Raises
    ValueError if `refresh` returns no batch.
    """
    put_in = getattr(optimizer, "eval", None) if average is None else average.put_in
    take_out = getattr(optimizer, "train", None) if average is None else None
    if put_in is None:
        yield
        return
    # Swapping out and in by the optimizer's own arithmetic would round.
    weights = [p.detach().clone() for p in model.parameters()]
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    buffers = [{name: b.clone() for name, b in norm.named_buffers()} for norm in norms]
    put_in()
    try:
        if norms:
            _refresh(model, norms, refresh())
        yield
    finally:
        if take_out is not None:
            take_out()
        with torch.no_grad():
            for p, weight in zip(model.parameters(), weights, strict=True):
                p.copy_(weight)
            for norm, saved in zip(norms, buffers, strict=True):
                for name, buffer in norm.named_buffers():
                    buffer.copy_(saved[name])


@torch.no_grad()
def _refresh(model: nn.Module, norms: list[_BatchNorm], images: Iterable[Tensor]) -> None:
    """Reset the statistics of `norms` and average them over `images`, all batches weighted equally.

    Everything else is in evaluation mode: the statistics are those of the network as evaluated,
    without dropout.
    """
    modes = {m: m.training for m in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average
        norm.train()
    try:
        count = 0
        for image in images:
            model(image)
            count += 1
        if not count:
            raise ValueError("no batch to compute batch-norm statistics from")
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
