"""AdamW that drops the parts of its update that oppose the current gradient."""

import math

import torch
from torch import Tensor

from bench.optimizers.library import Params

# Least share of an update by which the rest is scaled up: the authors' value.
_LEAST = 1e-3


class CautiousAdamW(torch.optim.Optimizer):
    """AdamW with a mask on its update: Liang et al. 2024, arXiv 2411.16085, algorithm 1.

    A number moves only if its mean gradient and its current gradient have the same sign. The update
    of a tensor is divided by the share of its numbers that move, as in the authors' code
    (github.com/kyleliang919/C-Optim); the paper multiplies by d / (1 + their number), which halves
    the update of a single number.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        if min(lr, eps, weight_decay, *betas) < 0 or max(betas) >= 1:
            raise ValueError(
                f"lr {lr}, eps {eps} and weight_decay {weight_decay} must not be below 0, betas "
                f"{betas} must be from 0 to below 1"
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Update the weights from their gradients; a parameter without a gradient does not move."""
        assert closure is None
        for group in self.param_groups:
            own: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not own:
                continue
            entries = [self.state[p] for p in own]
            for p, entry in zip(own, entries, strict=True):
                if not entry:
                    entry.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
                entry["step"] += 1
            (b1, b2), lr = group["betas"], group["lr"]
            gradients = [p.grad for p in own if p.grad is not None]
            means, squares = ([e[name] for e in entries] for name in ("mean", "square"))
            torch._foreach_lerp_(means, gradients, 1 - b1)
            torch._foreach_mul_(squares, b2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - b2)
            below = [square.clone() for square in squares]
            torch._foreach_sqrt_(below)
            torch._foreach_div_(below, [math.sqrt(1 - b2 ** e["step"]) for e in entries])
            torch._foreach_add_(below, group["eps"])
            updates = [mean.clone() for mean in means]
            torch._foreach_div_(updates, [1 - b1 ** e["step"] for e in entries])
            torch._foreach_div_(updates, below)
            for update, gradient in zip(updates, gradients, strict=True):
                agree = (update * gradient > 0).to(update)
                update.mul_(agree.div_(agree.mean().clamp_min(_LEAST)))
            if group["weight_decay"]:
                torch._foreach_mul_(own, 1 - lr * group["weight_decay"])
            torch._foreach_add_(own, updates, alpha=-lr)
