"""Shampoo in blocks, by pytorch-optimizer, with a state that can be saved."""

from typing import Any

import torch

from bench.optimizers.library import Params, library

_GRAFTS = {"sgd": 1, "adagrad": 2, "rmsprop": 3}  # pytorch_optimizer's LayerWiseGrafting
# The objects in the library's state, and the attributes of them that are saved.
_KEPT = {"pre_conditioner": ("statistics", "pre_conditioners"), "graft": ("momentum", "statistics")}


def shampoo(
    params: Params, *, graft: str, precondition_frequency: int, **settings: Any
) -> torch.optim.Optimizer:
    """Build pytorch-optimizer's blocked Shampoo, whose saved state is only tensors.

    The library's plain Shampoo is unusable on convolutional networks: the roots of ResNet-18's
    matrices take 2 s of a CPU core, by default at every step (AdamW: 0.05 s), and with a longer
    period nothing is updated until the first roots (measured). The blocked one takes steps of its
    graft until then.

    - Roots are computed by SVD: the library's Newton iteration starts from random numbers, which
      differ between processes and make the copies of a network diverge.
    - The library keeps its state in objects, which torch.load(weights_only=True) refuses: their
      tensors are saved, and new objects are made around them after loading.
    """
    build = library(
        "ScalableShampoo",
        use_svd=True,
        decoupled_weight_decay=True,
        moving_average_for_momentum=True,  # else a rate acts ten times as strongly as in Adam
    )
    optimizer = build(
        params,
        graft_type=_GRAFTS[graft],
        preconditioning_compute_steps=precondition_frequency,
        start_preconditioning_step=precondition_frequency,
        **settings,
    )
    optimizer.register_state_dict_post_hook(_objects_to_tensors)
    optimizer.register_step_pre_hook(_tensors_to_objects)
    return optimizer


def _objects_to_tensors(_optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    def plain(name: str, value: Any) -> Any:
        if name not in _KEPT or isinstance(value, dict):
            return value
        return {n: vars(value)[n] for n in _KEPT[name] if n in vars(value)}

    state = {
        key: {name: plain(name, value) for name, value in entry.items()}
        for key, entry in saved["state"].items()
    }
    return {**saved, "state": state}


def _tensors_to_objects(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    loaded = {
        p: entry
        for p, entry in optimizer.state.items()
        if p.grad is not None and isinstance(entry.get("graft"), dict)
    }
    if not loaded:
        return
    for p in loaded:
        optimizer.state[p] = {}
    for group in optimizer.param_groups:
        optimizer.init_group(group)  # type: ignore[attr-defined]  # the library's
    for p, entry in loaded.items():
        fresh = optimizer.state[p]
        fresh["momentum"] = entry["momentum"]
        for name in _KEPT:
            vars(fresh[name]).update(entry[name])
