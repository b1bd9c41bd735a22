"""The rows of the table of optimizers: their fields and methods."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from bench.core.references import unknown
from bench.core.settings import Setting, merge
from bench.optimizers import state_size
from bench.optimizers.state_size import Count, Shapes, Widths, numbers, shapes_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# An optimizer is out of proportion to a model if its state is both larger than this many bytes
# (half the memory of an 8 GB GPU) and more than this many times the weights (Adam's is 2 times,
# L-BFGS's 22 times here). Both are assumptions.
MOST_STATE_BYTES = 4 * 2**30
MOST_STATE_TIMES = 8
# ... or if it decomposes a wider matrix than this. Measured on one CPU core: the QR of 2048 takes
# 0.4 s and grows with the cube, so this is 3 s for each such side of each weight.
WIDEST = 4096
# What `usual_decay` takes if a row has no decay of its own. Decoupled: shrinks weights per step as
# adamw's defaults do, 1e-3 x 1e-2. Coupled: a tenth of Krizhevsky et al. 2012's 5e-4.
USUAL_SHRINKAGE = 1e-5
USUAL_COUPLED = 5e-5

# `coupled`: the decay is added to the gradient, and so enters its moments. `decoupled`: it shrinks
# the weights separately from the update. `none`: the optimizer has none; `unknown`: the user's own.
Decay = Literal["coupled", "decoupled", "none", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Space:
    """The range in which a setting is searched: from `low` to `high`, uniform or log-uniform."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """One optimizer of the table.

    - `constructor(params, **settings)` returns the torch optimizer; `defaults` names every setting
      that a study may change, `space` those that a search draws, `choices` the allowed values of
      settings that are texts.
    - `brings(choices)` returns the fields of the row that these choices change: a method built on
      another row takes that row's rate, decay and space.
    - `decay`: how `weight_decay` acts. `found_rate`: the approximate rate that `lr` multiplies, if
      the method finds its rate itself.
    - `scale_free`: scaling the loss does not change the length of steps.
    - `fractions`: settings that take fractions although their default is a whole number.
    - `step`: what the loop must do in a step, a row of `bench.optimizers.steps.STEPS`.
    - `averages`: it keeps averaged weights, which its `eval()` puts into the network and its
      `train()` takes out again (`bench.optimizers.averaging`).
    - `scalable`: its gradients may be scaled by torch.amp.GradScaler, which float16 needs.
    - `one_group`: it takes all parameters in one group, so that no layer has its own rate.
    - `one_device`: its step cannot be shared by several devices of one trial.
    - `batch_multiple`: the batch is this many times the study's, over the same order of samples.
    - `drives`: which parameters the method itself updates, in words; `driven` counts them.
    - `state_floats`: how many float32 numbers of state it keeps, per parameter or as a function of
      the parameters' shapes and the settings. None if that is not known.
    - `widths`: the square matrices that a step decomposes.
    """

    name: str
    constructor: Callable[..., torch.optim.Optimizer]
    defaults: Mapping[str, Setting]
    space: Mapping[str, Space]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    brings: Callable[[Mapping[str, Setting]], Mapping[str, Any]] | None = None
    decay: Decay = "none"
    found_rate: float = 1.0
    scale_free: bool = True
    fractions: frozenset[str] = frozenset()
    step: str = "plain"
    averages: bool = False
    scalable: bool = True
    one_group: bool = False
    one_device: bool = False
    batch_multiple: int = 1
    drives: str = "every parameter"
    driven: Count = state_size.everything
    state_floats: float | Count | None
    widths: Widths = state_size.no_widths
    summary: str
    source: str

    def settings(self, given: Mapping[str, Any]) -> dict[str, Setting]:
        """Return every setting: the defaults, overridden by `given`, of the defaults' types.

        The defaults are those that the choices in `given` bring. Raises ValueError for a name that
        this optimizer does not have, for a value of another type (YAML reads 1e-3 as text), and for
        a text that is not one of its choices.
        """
        chosen = self.chosen(given)
        rates = [n for n in chosen.fractions & set(given) if isinstance(given[n], float)]
        defaults = {**chosen.defaults, **dict.fromkeys(rates, 0.0)}
        return merge(f"optimizer {self.name}", defaults, given)

    def chosen(self, given: Mapping[str, Any]) -> Optimizer:
        """Return the row as the choices in `given` make it; raises ValueError as `settings`."""
        own = {name: self.defaults[name] for name in self.choices}
        chosen = {name: value for name, value in given.items() if name in own}
        made = merge(f"optimizer {self.name}", own, chosen)
        for name, choices in self.choices.items():
            if made[name] not in choices:
                where = f"{self.name}.{name}"
                raise ValueError(
                    f"optimizer setting {where}: {unknown(name, str(made[name]), choices)}"
                )
        return self if self.brings is None else replace(self, **self.brings(made))

    def usual_decay(self, given: Mapping[str, Any]) -> float:
        """Return the weight decay that `given` or the row sets, or a usual one if that is 0."""
        settings = self.settings(given)
        own, rate = settings.get("weight_decay"), settings.get("lr")
        if isinstance(own, float) and own:
            return own
        if self.decay == "decoupled" and isinstance(rate, float) and rate:
            return USUAL_SHRINKAGE / (rate * self.found_rate)
        return USUAL_COUPLED

    def build(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], **given: Any
    ) -> torch.optim.Optimizer:
        """Return the torch optimizer of `params`, with defaults for what `given` leaves out.

        `params` are parameters, or groups {"params": [...], "lr": own rate}. Raises ValueError as
        `settings` does, and for several groups if the row takes only one.
        """
        entries = list(params)
        if self.one_group and len(entries) > 1 and isinstance(entries[0], dict):
            raise ValueError(
                f"optimizer {self.name} takes one group of parameters, not {len(entries)}: "
                f"no layer can have its own rate"
            )
        return self.constructor(entries, **self.settings(given))

    def state_numbers(self, shapes: Shapes, given: Mapping[str, Any]) -> float | None:
        """Return how many float32 numbers of state it keeps for parameters of these shapes."""
        claim = self.state_floats
        if isinstance(claim, int | float):
            return claim * numbers(shapes)
        return claim(shapes, self.settings(given)) if claim else None

    def coverage(self, params: Iterable[Tensor], **given: Any) -> float:
        """Return the share of all numbers in `params` that the method itself drives, 0 to 1."""
        shapes = shapes_of(params)
        return self.driven(shapes, self.settings(given)) / numbers(shapes)

    def unfit(self, shapes: Shapes, given: Mapping[str, Any], *, devices: int = 1) -> str | None:
        """Return a sentence that says why it cannot train parameters of these shapes, or None.

        `devices` is the number of devices that share a trial.
        """
        if self.one_device and devices > 1:
            return f"optimizer {self.name} trains a trial on one device, not on {devices}"
        widest = max(self.widths(shapes, self.settings(given)), default=0)
        if widest > WIDEST:
            return (
                f"optimizer {self.name} would repeatedly decompose a matrix of {widest} x "
                f"{widest}; the widest allowed is {WIDEST}"
                + self._hint(("max_precondition_dim", "block_size", "max_size_triangular"))
            )
        state = 4 * (self.state_numbers(shapes, given) or 0.0)
        weights = 4 * numbers(shapes)
        if state > MOST_STATE_BYTES and state > MOST_STATE_TIMES * weights:
            return (
                f"optimizer {self.name} would keep {state / 1e9:.1f} GB of state for weights of "
                f"{weights / 1e9:.2f} GB" + self._hint(("history_size", "max_precondition_dim"))
            )
        return None

    def _hint(self, settings: tuple[str, ...]) -> str:
        found = [name for name in settings if name in self.defaults]
        return f"; a smaller {found[0]} helps" if found else ""


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors in the optimizer's state, counting shared memory once."""
    storages = {
        storage.data_ptr(): storage.nbytes()
        for tensor in _tensors(optimizer.state_dict()["state"])
        for storage in (tensor.untyped_storage(),)
    }
    return sum(storages.values())


def _tensors(value: object) -> Iterator[Tensor]:
    from torch import Tensor  # late: the table of optimizers is read without torch

    match value:
        case Tensor():
            yield value
        case dict():
            yield from _tensors(list(value.values()))
        case list() | tuple() | deque():
            for item in value:
                yield from _tensors(item)
