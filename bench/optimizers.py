"""The optimizers: one row each, with what the training loop must do for it.

Search spaces: every first-order rule gets a learning rate of one decade either side of its default
on a logarithmic scale. The width is that of AlgoPerf's AdamW baseline (1e-4 to 1e-2); giving every
rule the same is an assumption, made because the search space alone can decide a comparison (Choi
et al. 2020, arXiv 1910.05446).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bench.settings import Setting, merge


@dataclass(frozen=True, kw_only=True)
class Space:
    """The range a setting is searched in: uniform from `low` to `high`, or in the logarithm."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """One optimizer of the table.

    - `constructor(params, **settings)` returns the torch optimizer; `defaults` names every setting
      that a study may change, `space` those that a search draws.
    - `closure`: `step` takes a closure that evaluates loss and gradients again, on the same batch,
      and may call it many times.
    - `batch_multiple`: the batch is this many times the study's, over the same order of samples.
    - `state_floats`: state kept for each parameter, in float32 numbers.
    """

    name: str
    constructor: Callable[..., torch.optim.Optimizer]
    defaults: Mapping[str, Setting]
    space: Mapping[str, Space]
    closure: bool = False
    batch_multiple: int = 1
    state_floats: float
    summary: str
    source: str

    def settings(self, hparams: Mapping[str, Any]) -> dict[str, Setting]:
        """Return every setting: the defaults with `hparams` over them, each of its default's type.

        Raises ValueError for a name that this optimizer does not have and for a value of another
        type (YAML reads 1e-3 as text).
        """
        return merge(f"optimizer {self.name}", self.defaults, hparams)

    def build(self, params: Iterable[torch.Tensor], **hparams: Any) -> torch.optim.Optimizer:
        """Return the torch optimizer over `params`; what `hparams` leaves out is at its default.

        Raises ValueError as `settings` does.
        """
        return self.constructor(params, **self.settings(hparams))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors in the optimizer's state, shared memory counted once."""
    storages = {
        storage.data_ptr(): storage.nbytes()
        for tensor in _tensors(list(optimizer.state.values()))
        for storage in (tensor.untyped_storage(),)
    }
    return sum(storages.values())


def _tensors(value: object) -> Iterator[torch.Tensor]:
    match value:
        case torch.Tensor():
            yield value
        case dict():
            yield from _tensors(list(value.values()))
        case list() | tuple():
            for item in value:
                yield from _tensors(item)


OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for row in (
        Optimizer(
            name="sgd",
            constructor=torch.optim.SGD,
            defaults={"lr": 1e-2, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
            space={
                "lr": Space(low=1e-3, high=1e-1, log=True),
                "momentum": Space(low=0.8, high=0.99, log=False),
            },
            state_floats=1,
            summary="stochastic gradient descent with momentum",
            # 1e-2 is nnU-Net's rate and 0.9 the momentum of He et al. 2016, section 3.4.
            source="Sutskever et al. 2013, On the importance of initialization and momentum",
        ),
        Optimizer(
            name="adagrad",
            constructor=torch.optim.Adagrad,
            defaults={
                "lr": 1e-2,
                "lr_decay": 0.0,
                "initial_accumulator_value": 0.0,
                "eps": 1e-10,
                "weight_decay": 0.0,
            },
            space={"lr": Space(low=1e-3, high=1e-1, log=True)},
            state_floats=1,
            summary="a rate for each parameter that falls with the sum of its squared gradients",
            source="Duchi et al. 2011, JMLR 12; defaults of torch.optim.Adagrad",
        ),
        Optimizer(
            name="rmsprop",
            constructor=torch.optim.RMSprop,
            defaults={
                "lr": 1e-3,
                "alpha": 0.9,
                "eps": 1e-8,
                "momentum": 0.0,
                "centered": False,
                "weight_decay": 0.0,
            },
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            state_floats=1,
            summary="Adagrad with a running mean of squared gradients in place of the sum",
            # 1e-3 and 0.9 are Hinton's, as given by Ruder 2016, arXiv 1609.04747, section 4.5;
            # torch's own are 1e-2 and 0.99.
            source="Tieleman and Hinton 2012, Coursera lecture 6.5",
        ),
        Optimizer(
            name="adam",
            constructor=torch.optim.Adam,
            defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
            space={"lr": Space(low=1e-4, high=1e-2, log=True)},
            state_floats=2,
            summary="running means of gradient and squared gradient, corrected for their start",
            source="Kingma and Ba 2015, arXiv 1412.6980, algorithm 1",
        ),
        Optimizer(
            name="adamw",
            constructor=torch.optim.AdamW,
            defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
            space={
                "lr": Space(low=1e-4, high=1e-2, log=True),
                # AlgoPerf's baseline searches 5e-3 to 1.
                "weight_decay": Space(low=5e-3, high=1.0, log=True),
            },
            state_floats=2,
            summary="Adam with weight decay apart from the gradient",
            source="Loshchilov and Hutter 2019, arXiv 1711.05101; defaults of torch.optim.AdamW",
        ),
        Optimizer(
            name="lbfgs",
            constructor=torch.optim.LBFGS,
            defaults={
                "lr": 1.0,
                "max_iter": 20,
                "max_eval": 25,
                # torch's default of 100 would keep 202 numbers for each parameter.
                "history_size": 10,
                "tolerance_grad": 1e-7,
                "tolerance_change": 1e-9,
                "line_search_fn": "strong_wolfe",
            },
            space={"lr": Space(low=1e-1, high=1.0, log=True)},
            closure=True,
            # Gradient differences are noise where the batch is small. 8 is an assumption.
            batch_multiple=8,
            # Last direction, last gradient, and `history_size` pairs of step and gradient change.
            state_floats=2 * 10 + 2,
            summary="quasi-Newton with a strong Wolfe line search, for large batches",
            source="Liu and Nocedal 1989; Nocedal and Wright 2006, algorithms 3.5 and 7.5",
        ),
    )
}
