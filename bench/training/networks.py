"""The networks of trials: built for a store, counted, compiled once a process for each model."""

from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.losses.supervision import logits_of
from bench.study.components import model_row
from bench.study.dataset import open_once

Options = tuple[tuple[str, Any], ...]


def build_model(
    name: str, options: Mapping[str, Any], base: Path, store: Path, patch: tuple[int, ...]
) -> nn.Module:
    """Build a model for a store; its weights come from torch's random state."""
    meta = open_once(store).meta
    row = model_row(name, options, base).row
    return row.build(
        in_channels=len(meta.channels),
        out_channels=len(meta.classes),
        dims=meta.dims,
        patch=patch,
        **{**row.options, **options},
    )


def parameter_shapes(
    name: str, options: Mapping[str, Any], base: Path, store: Path, patch: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a model's parameters, without making them."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = build_model(name, options, base, store, patch)
    return tuple(tuple(p.shape) for p in model.parameters())


def flops_per_sample(
    name: str, options: Mapping[str, Any], base: Path, store: Path, patch: tuple[int, ...]
) -> float:
    """Count the floating-point operations of one sample-gradient: forward and backward, once.

    Counted on a model of its own, in evaluation mode (batch norm refuses one sample otherwise) and
    with the random state set back, so that counting changes no result.
    """
    return _flops(name, tuple(sorted(options.items())), base, store, patch)


@lru_cache
def _flops(name: str, options: Options, base: Path, store: Path, patch: tuple[int, ...]) -> float:
    with torch.random.fork_rng():
        model = build_model(name, dict(options), base, store, patch).eval()
        image = torch.zeros(1, len(open_once(store).meta.channels), *patch)
        with FlopCounterMode(display=False) as counter:
            logits_of(model(image)).sum().backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
    return float(counter.get_total_flops())


# ---- compiled --------------------------------------------------------------------------------

_compiled: dict[Hashable, tuple[nn.Module, nn.Module]] = {}


def compiled_once(model: nn.Module, key: Hashable) -> tuple[nn.Module, nn.Module]:
    """Return a network with the weights of `model`, and its compiled form.

    The first call with a key compiles `model` itself (at its first batch). Later calls put the
    weights of `model` into that first network, so that a lane compiles once for all trials of a
    model. One trial uses a key at a time.
    """
    if key not in _compiled:
        _compiled[key] = model, torch.compile(model, dynamic=False)  # type: ignore[assignment]  # it is a module
        return _compiled[key]
    kept, fast = _compiled[key]
    kept.load_state_dict(model.state_dict())
    kept.zero_grad(set_to_none=True)
    for parameter in kept.parameters():
        parameter.requires_grad_()
    return kept, fast
