"""A network's training passes as CUDA graphs: two launches in place of one for each kernel.

The kernels of a small network are shorter than launching them: a step of three convolutions takes
3.3 ms on an H200, of which its kernels take 0.4 ms (measured).
"""

import gc
import warnings
from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.output import Output


class Graphed(nn.Module):
    """A network whose forward and backward passes in training replay CUDA graphs.

    The graphs hold for one shape of batch and for the network as it was when they were recorded:
    its modes, its statistics that are updated, its parameters that train and where they lie. A call
    that differs in any of this goes through the network itself, as do evaluations; so the values
    are always the network's.

    The gradients of one backward pass lie in memory that the next one overwrites, so no gradients
    may be summed over several. They have no second derivatives.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        """Record the passes of a network in training mode, for images of this shape and order.

        Its weights, buffers and the random state are afterwards as before. Raises what torch raises
        if a pass cannot be recorded: if it waits for the GPU, for instance.
        """
        super().__init__()
        self.network = network
        self._shape = images.shape
        # Listed once: to walk a large network takes longer than to launch its graphs.
        self._parts = list(network.modules())
        self._norms = [m for m in self._parts if isinstance(m, _BatchNorm)]
        self._weights = list(network.parameters())
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        passes = _Passes(network)
        network.train()
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            # Some networks have parameters that no output depends on.
            torch.cuda.make_graphed_callables(passes, (images,), allow_unused_input=True)
        # torch has put its own function in the place of this one. Taken out, so that the module and
        # the function do not keep each other, and the GPU's memory, alive.
        self._replayed = passes.forward
        del passes.forward
        self._deep, self._presence = passes.deep, passes.presence
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(before[name])
        self._recorded = self._state()

    def forward(self, images: Tensor) -> Tensor | Output:
        """Return what the network returns for images (N, C, *spatial)."""
        fits = images.shape == self._shape and torch.is_grad_enabled()
        if not fits or self._state() != self._recorded:
            given: Tensor | Output = self.network(images)
            return given
        logits, *others = self._replayed(images)
        if not others:
            return logits
        deep = tuple(others[: self._deep])
        return Output(logits=logits, deep=deep, presence=others[-1] if self._presence else None)

    def _state(self) -> tuple[object, ...]:
        """Return what the graphs took for granted of the network, beside the shape of a batch."""
        return (
            *(module.training for module in self._parts),
            *(norm.track_running_stats for norm in self._norms),
            *((p.data_ptr(), p.requires_grad) for p in self._weights),
        )


class _Passes(nn.Module):
    """A network that returns a flat tuple of tensors, which is all that torch records."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.deep, self.presence = 0, False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        given = self.network(images)
        if not isinstance(given, Output):
            return (given,)
        self.deep, self.presence = len(given.deep), given.presence is not None
        return given.logits, *given.deep, *([] if given.presence is None else [given.presence])


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """The network that was recorded last; `said` are the warnings that its operators gave."""

    key: Hashable
    model: nn.Module
    graphed: Graphed
    said: tuple[warnings.WarningMessage, ...]


_kept: list[_Kept] = []


def graphed_once(
    model: nn.Module,
    forward: nn.Module,
    *,
    key: Hashable,
    images: Tensor,
    autocast: AbstractContextManager[object],
) -> tuple[nn.Module, nn.Module]:
    """Return a network with the weights of `model`, and its passes as CUDA graphs.

    `forward` is the module that training calls, the model itself or compiled; `images` (N, C,
    *spatial) is a batch as it will be given, `autocast` the region in which it will be called. The
    first call with a key records the passes. Later calls copy the weights of `model` into that
    first network, so that a lane records once for all its trials of a model in a row: only the last
    one is kept, since its graphs hold the memory of a step. Raises as `Graphed` does.
    """
    if not _kept or _kept[0].key != key:
        forget()
        with warnings.catch_warnings(record=True) as said, autocast, _casts_not_cached():
            warnings.simplefilter("always")
            graphed = Graphed(forward, images)
        _kept.append(_Kept(key=key, model=model, graphed=graphed, said=tuple(said)))
    kept = _kept[0]
    # Of operators that do not repeat their bits: a replay says nothing, so each trial is told.
    _say(kept.said)
    if kept.model is not model:
        take_weights(kept.model, model)
    return kept.model, kept.graphed


def forget() -> None:
    """Give back the memory of the network that was recorded last."""
    if _kept:
        _kept.clear()
        # torch's recorded functions are classes, which only the garbage collector frees.
        gc.collect()


@contextmanager
def _casts_not_cached() -> Iterator[None]:
    """Have autocast cast weights at each use: a graph must cast those of the present step."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _say(messages: Iterable[warnings.WarningMessage]) -> None:
    for one in messages:
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)


def take_weights(kept: nn.Module, model: nn.Module) -> None:
    """Copy the weights of `model` into a network that was made for an earlier trial."""
    kept.load_state_dict(model.state_dict())
    kept.zero_grad(set_to_none=True)
    for parameter in kept.parameters():
        parameter.requires_grad_()
