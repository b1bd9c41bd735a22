"""Optimizers that stand in no library in the form the loop needs: built around those that do.

Heavy imports stay inside the functions: the tables must load quickly.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench.optimizers.state_size import muon_matrices, shapes_of

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
Constructor = Callable[..., torch.optim.Optimizer]


def library(name: str, **fixed: Any) -> Constructor:
    """Return the constructor of a class of pytorch-optimizer, with settings that no study changes.

    The library is imported when the optimizer is built.
    """

    def build(params: Params, **settings: Any) -> torch.optim.Optimizer:
        import pytorch_optimizer

        optimizer = getattr(pytorch_optimizer, name)(params, **fixed, **settings)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    return build


def ademamix(params: Params, *, warmup_steps: int, **settings: Any) -> torch.optim.Optimizer:
    """Build AdEMAMix; `warmup_steps` is T of its schedulers of alpha and beta3, 0 for none."""
    build = library("AdEMAMix", weight_decouple=True)
    return build(params, t_alpha_beta3=warmup_steps or None, **settings)


# ---- Muon ----


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon on the hidden weights as matrices, AdamW on all else.

    A convolution weight (out, in, *kernel) is driven as the matrix (out, in * kernel) that shares
    its memory, as Jordan et al. 2024 do; a transposed one is (in, out * kernel). Which weights are
    hidden: `bench.optimizers.state_size.muon_matrices`. Both halves take one rate and one decay,
    since the update is scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982, section
    2.2).

    Groups of parameters are split in two where they hold both kinds; each keeps its own rate.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        entries: list[Any] = list(params)
        if entries and not isinstance(entries[0], dict):
            entries = [{"params": entries}]
        groups: list[dict[str, Any]] = [{**e, "params": list(e["params"])} for e in entries]
        flat: list[Tensor] = [p for group in groups for p in group["params"]]
        hidden = dict(zip(flat, muon_matrices(shapes_of(flat)), strict=True))
        split = [
            {**group, "params": chosen, "muon": muon}
            for group in groups
            for muon in (True, False)
            if (chosen := [p for p in group["params"] if hidden[p] == muon])
        ]
        super().__init__(split, {"lr": lr, "weight_decay": weight_decay})
        adamw = [p for p in flat if not hidden[p]]
        self._matrices = {p: nn.Parameter(_shared(p)) for p in flat if hidden[p]}
        matrices = list(self._matrices.values())
        self._halves: list[tuple[bool, torch.optim.Optimizer]] = []
        if matrices:
            half = torch.optim.Muon(
                matrices,
                momentum=momentum,
                nesterov=nesterov,
                ns_steps=ns_steps,
                adjust_lr_fn="match_rms_adamw",
            )
            self._halves.append((True, half))
        if adamw:
            self._halves.append((False, torch.optim.AdamW(adamw, betas=betas, eps=eps)))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Update the weights from their gradients; a parameter without one stays as it is."""
        assert closure is None
        for muon, half in self._halves:
            # State and rates are this optimizer's own, so that saving, loading and schedules see
            # one optimizer; the halves are lent them for the step.
            (settings,) = half.param_groups[:1]
            groups = []
            for group in self.param_groups:
                if group["muon"] != muon:
                    continue
                own = group["params"]
                for p in own if muon else ():
                    matrix = self._matrices[p]
                    matrix.data = _shared(p)  # the module may have moved since
                    matrix.grad = None if p.grad is None else _matrix(p.grad, p)
                    half.state[matrix] = self.state[p]
                params = [self._matrices[p] for p in own] if muon else own
                now = {name: group[name] for name in ("lr", "weight_decay")}
                groups.append({**settings, **now, "params": params})
            if not muon:
                half.state = self.state
            half.param_groups = groups
            half.step()
            for matrix in self._matrices.values() if muon else ():
                matrix.grad = None


def _shared(parameter: Tensor) -> Tensor:
    matrix = _matrix(parameter.detach(), parameter)
    if matrix.data_ptr() != parameter.data_ptr():
        raise ValueError(f"Muon: a weight of strides {parameter.stride()} is no matrix in memory")
    return matrix


def _matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` (out, ...) as (out, rest), its columns in the order of `like` in memory.

    A view where `tensor` lies as `like` does, channels last included; the order of the columns
    does not change what Muon does.
    """
    order = sorted(range(1, like.dim()), key=like.stride, reverse=True)
    return tensor.permute(0, *order).reshape(tensor.shape[0], -1)


# ---- Shampoo ----

_GRAFTS = {"sgd": 1, "adagrad": 2, "rmsprop": 3}  # pytorch_optimizer's LayerWiseGrafting
_KEPT = {"pre_conditioner": ("statistics", "pre_conditioners"), "graft": ("momentum", "statistics")}


def shampoo(
    params: Params, *, graft: str, precondition_frequency: int, **settings: Any
) -> torch.optim.Optimizer:
    """Build pytorch-optimizer's Shampoo in blocks, its state saved as tensors.

    Its plain Shampoo is unusable on convolutional networks: the roots of ResNet-18's matrices take
    2 s of a CPU core, by default at every step (AdamW: 0.05 s), and with a longer period nothing
    is updated until the first roots (measured). The one in blocks steps by its graft until then.

    - Roots by SVD: the library's Newton iteration starts from random numbers, which differ from
      process to process and drive the copies of a network apart.
    - The library's state is objects, which torch.load(weights_only=True) refuses: their tensors
      are saved, and the objects made anew around them.
    """
    build = library(
        "ScalableShampoo",
        use_svd=True,
        decoupled_weight_decay=True,
        moving_average_for_momentum=True,  # else a rate is ten times what it is for Adam
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
