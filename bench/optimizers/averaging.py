"""Averaged weights: put in for an evaluation, and taken out again.

An optimizer that averages (Schedule-Free) trains at other weights than those it should be judged
by. At the averaged weights the batch-norm statistics of training are wrong, so they are computed
anew (https://github.com/facebookresearch/schedule_free, README, and its issue 60).

Nothing of this outlives the evaluation: the averages are in the optimizer's own state.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Batches that batch-norm statistics are averaged over: the number in the README of schedule_free.
REFRESH_BATCHES = 50


@contextmanager
def evaluation_weights(
    optimizer: torch.optim.Optimizer, model: nn.Module, refresh: Callable[[], Iterable[Tensor]]
) -> Iterator[None]:
    """Give `model` the weights that it is to be judged and saved by, for the block.

    `refresh` gives images of training batches (N, C, *spatial), at most REFRESH_BATCHES of them; it
    is called only if the network has batch norms. After the block, weights, batch-norm statistics
    and modes are as before to the bit, so that an evaluation never changes the training.

    Does nothing for an optimizer without averages. Raises ValueError if `refresh` gives no batch.
    """
    put_in = getattr(optimizer, "eval", None)
    if put_in is None:
        yield
        return
    # Out and in again by the optimizer's own arithmetic would round.
    weights = [p.detach().clone() for p in model.parameters()]
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    buffers = [{name: b.clone() for name, b in norm.named_buffers()} for norm in norms]
    put_in()
    try:
        if norms:
            _refresh(model, norms, refresh())
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]  # who has eval has train
        with torch.no_grad():
            for p, weight in zip(model.parameters(), weights, strict=True):
                p.copy_(weight)
            for norm, saved in zip(norms, buffers, strict=True):
                for name, buffer in norm.named_buffers():
                    buffer.copy_(saved[name])


@torch.no_grad()
def _refresh(model: nn.Module, norms: list[_BatchNorm], images: Iterable[Tensor]) -> None:
    """Reset the statistics of `norms` and average them over `images`, all batches weighted alike.

    Everything else is in evaluation mode: the statistics are those of the network as it is judged,
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
