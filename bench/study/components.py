"""From a name in a study to the row it stands for: of our tables, or of the user's own making."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor

from bench.core.references import StudyError, is_reference, load_reference
from bench.core.settings import merge
from bench.losses.reductions import wide
from bench.losses.table import LOSSES, Loss, Total
from bench.optimizers.by_reference import borrowed, source_of
from bench.optimizers.table import OPTIMIZERS, Optimizer
from models.spec import Model
from models.table import MODELS

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Part(Generic[Row]):
    """A row, and what identifies it in a trial's id: its name, or the hash of a user's source."""

    row: Row
    identity: str


TASKS = ("classification", "segmentation")


def model_row(name: str, params: Mapping[str, Any], base: Path) -> Part[Model]:
    """Return the row of a model with the options set for it: its `build` gets them.

    A reference is called as `Model.build` is, with the options by name. Raises StudyError on an
    option that the row does not know, or a value that it does not take.
    """
    if not is_reference(name):
        own = MODELS[name]
        try:
            row = replace(own, options=merge(f"model {name}", own.options, params))
        except ValueError as error:
            raise StudyError(f"models: {error}") from error
        return Part(row=row, identity=name)
    build, source = load_reference(name, base)
    row = Model(
        name=name,
        build=build,
        tasks=TASKS,
        dims=(2, 3),
        divisor=1,
        min_size=1,
        options=dict(params),
        summary="of the user's own",
        source=name,
    )
    return Part(row=row, identity=_own(name, source))


def optimizer_row(name: str, params: Mapping[str, Any], base: Path) -> Part[Optimizer]:
    """Return the row of an optimizer, after checking the parameters set for it.

    A reference is called as `constructor(params, **parameters)`:
    `bench.optimizers.by_reference.borrowed`. Raises StudyError on a parameter that the row does not
    know, and on a reference that no loop can drive.
    """
    if not is_reference(name):
        row = OPTIMIZERS[name]
        try:
            row.settings(params)
        except ValueError as error:
            raise StudyError(f"optimizers: {error}") from error
        return Part(row=row, identity=name)
    constructor, source = load_reference(name, base)
    return Part(
        row=borrowed(name, constructor, params), identity=_own(name, source_of(constructor, source))
    )


def loss_row(name: str, params: Mapping[str, Any], base: Path) -> Part[Loss]:
    """Return the row of a loss, after checking the parameters set for it.

    A reference is a function, or a class to be made without arguments. It takes logits
    (N, C, *spatial) of float32 or wider, targets (N, *spatial) and the parameters by name, and
    returns one value a sample (N,) or their mean: over several processes it sees the samples of
    one. Raises StudyError on a parameter that the row does not know or whose value cannot be.
    """
    if not is_reference(name):
        row = LOSSES[name]
        try:
            row.settings(params)
        except ValueError as error:
            raise StudyError(f"losses: {error}") from error
        return Part(row=row, identity=name)
    function, source = load_reference(name, base)
    if inspect.isclass(function):
        function = function()
    own = Loss(
        name=name,
        function=_per_sample(function),
        defaults=dict(params),
        bounds={},
        tasks=TASKS,
        formula="of the user's own",
        summary="of the user's own",
        source=name,
    )
    return Part(row=own, identity=_own(name, source))


def _own(name: str, source: str) -> str:
    # The name and the source decide, not where the file stands.
    return f"{name.rpartition(':')[2]} {source}"


def _per_sample(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Spread a loss that returns a mean over its samples: the mean of them is the same number."""

    def loss(
        logits: Tensor,
        target: Tensor,
        weights: Tensor | None,
        total: Total,
        **params: Any,
    ) -> Tensor:
        del weights, total
        value = function(wide(logits), target, **params)
        return value.expand(len(logits)) if value.dim() == 0 else value

    return loss
