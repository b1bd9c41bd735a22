"""The optimizers of the library pytorch-optimizer, with settings that no study changes.

The library is imported when an optimizer is built: the tables must load quickly.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
Constructor = Callable[..., torch.optim.Optimizer]


def library(name: str, **fixed: Any) -> Constructor:
    """Return the constructor of the class `name`, which gets `fixed` beside a study's settings."""

    def build(params: Params, **settings: Any) -> torch.optim.Optimizer:
        import pytorch_optimizer

        optimizer = getattr(pytorch_optimizer, name)(params, **fixed, **settings)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    return build


def ademamix(params: Params, *, warmup_steps: int, **settings: Any) -> torch.optim.Optimizer:
    """Build AdEMAMix; its schedules of alpha and beta3 last `warmup_steps` steps, 0 for none."""
    build = library("AdEMAMix", weight_decouple=True)
    return build(params, t_alpha_beta3=warmup_steps or None, **settings)
