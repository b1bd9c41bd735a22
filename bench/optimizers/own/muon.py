"""Muon for networks with convolutions: torch's Muon on hidden weights, AdamW on all else."""

from typing import Any

import torch
from torch import Tensor, nn

from bench.optimizers.library import Params
from bench.optimizers.state_size import muon_matrices, shapes_of


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon on the hidden weights as matrices, AdamW on all else.

    A convolution weight (out, in, *kernel) is treated as the matrix (out, in * kernel) that shares
    its memory, as in Jordan et al. 2024; a transposed one is (in, out * kernel).
    `bench.optimizers.state_size.muon_matrices` says which weights are hidden. Both halves take the
    same rate and decay, because the update is scaled to the size of AdamW's (Liu et al. 2025, arXiv
    2502.16982, section 2.2).

    A group of parameters with both kinds is split in two; each keeps its own rate. Raises
    ValueError in a step if a weight's memory cannot be viewed as such a matrix.
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
        """Update the weights from their gradients; a parameter without a gradient does not move."""
        assert closure is None
        for muon, half in self._halves:
            # State and rates belong to this optimizer, so that saving, loading and schedules see
            # one optimizer; they are lent to the halves for the step.
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
        raise ValueError(
            f"Muon: a weight with strides {parameter.stride()} cannot be viewed as a matrix"
        )
    return matrix


def _matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` (out, ...) as (out, rest), its columns in the order of `like` in memory.

    It is a view if `tensor` has the memory layout of `like`, channels last included. The order of
    the columns does not change what Muon does.
    """
    order = sorted(range(1, like.dim()), key=like.stride, reverse=True)
    return tensor.permute(0, *order).reshape(tensor.shape[0], -1)
