"""The optimizers of the library pytorch-optimizer, with settings that studies cannot change.

The library is imported when an optimizer is built: the tables must load quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Params: TypeAlias = "Iterable[Tensor] | Iterable[dict[str, Any]]"
Constructor: TypeAlias = "Callable[..., torch.optim.Optimizer]"


def library(name: str, **fixed: Any) -> Constructor:
    """Return the constructor of class `name`, which gets `fixed` besides a study's settings."""

    def build(params: Params, **settings: Any) -> torch.optim.Optimizer:
        import pytorch_optimizer
        import torch

        optimizer = getattr(pytorch_optimizer, name)(params, **fixed, **settings)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    return build


def ademamix(params: Params, *, warmup_steps: int, **settings: Any) -> torch.optim.Optimizer:
    """Build AdEMAMix; its schedules of alpha and beta3 last `warmup_steps` steps, 0 for none."""
    build = library("AdEMAMix", weight_decouple=True)
    return build(params, t_alpha_beta3=warmup_steps or None, **settings)


def mars(params: Params, **settings: Any) -> torch.optim.Optimizer:
    """Build MARS on AdamW; AdamW drives biases and norms, with the rate and decay of the rest.

    The library has a separate rate and decay for them, which would not follow the study's.
    """
    build = library("MARS", mars_type="adamw", optimize_1d=False)
    optimizer = build(params, lr_1d=settings["lr"], **settings)
    for group in optimizer.param_groups:
        group["weight_decay_1d"] = group["weight_decay"]
    return optimizer
