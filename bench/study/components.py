"""The parts that a combination's entries name: rows of our tables, or the user's own code.

Each is looked up once for a combination, with its settings, and passed on from there.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from bench.core.references import StudyError, failure, is_reference, load_callable, said
from bench.core.settings import Setting, merge
from bench.losses.reductions import wide
from bench.losses.table import LOSSES, Loss, Total
from bench.optimizers.by_reference import borrowed, source_of
from bench.optimizers.schedules import SCHEDULES, Schedule
from bench.optimizers.table import OPTIMIZERS, Optimizer
from bench.study.axes import STUDY_AXES
from bench.study.choice import Choice
from bench.study.regularizers import Regularizer
from bench.study.tasks import TASKS
from models.classification.library import by_name, is_by_name
from models.spec import Model
from models.table import MODELS
from results.tables.axes import AXES

Row = TypeVar("Row")

# What a reference of each kind must be, for error messages.
MODEL_WANTED = (
    "a class or function that makes a torch.nn.Module and takes the keyword arguments in_channels, "
    "out_channels, dims, patch and its settings"
)
OPTIMIZER_WANTED = "a class or function that makes a torch optimizer from parameters and settings"
LOSS_WANTED = (
    "a function of logits and target (or a class, made without arguments, whose objects are such "
    "functions) that returns one value for each sample or their mean"
)


@dataclass(frozen=True, kw_only=True)
class Part(Generic[Row]):
    """A row, and what identifies it in a trial's id: its name, or the hash of a user's source."""

    row: Row
    identity: str


@dataclass(frozen=True, kw_only=True)
class Component(Generic[Row]):
    """A part of a trial: its row, its identity as above, and all of its settings.

    Settings made by other axes override those of its own entry.
    """

    row: Row
    identity: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One entry of each axis, with the parts that they name.

    `choices` maps the column of each axis to its entry; `base` is the folder that references in the
    study are relative to; `drawn` are optimizer settings that a search drew, which override all
    others. Properties raise StudyError on a setting that a row does not know or take.
    """

    choices: Mapping[str, Choice]
    base: Path
    drawn: Mapping[str, Setting] = field(default_factory=dict)

    @cached_property
    def own_model(self) -> Part[Model]:
        """The model as its own entry sets it, without what other axes set."""
        return model_row(*self._own("model"), self.base)

    @cached_property
    def own_optimizer(self) -> Part[Optimizer]:
        """The optimizer as its own entry sets it."""
        return optimizer_row(*self._own("optimizer"), self.base)

    @cached_property
    def own_loss(self) -> Part[Loss]:
        """The loss as its own entry sets it."""
        return loss_row(*self._own("loss"), self.base)

    @cached_property
    def model(self) -> Component[Model]:
        """The model, with all of its settings."""
        own = self.own_model
        settings = {**own.row.settings, **self.given("model")}
        return Component(row=own.row, identity=own.identity, settings=settings)

    @cached_property
    def optimizer(self) -> Component[Optimizer]:
        """The optimizer, with all of its settings."""
        own = self.own_optimizer
        settings = own.row.settings({**self.given("optimizer"), **self.drawn})
        return Component(row=own.row, identity=own.identity, settings=settings)

    @cached_property
    def loss(self) -> Component[Loss]:
        """The loss, with all of its settings."""
        own = self.own_loss
        settings = own.row.settings(self.given("loss"))
        return Component(row=own.row, identity=own.identity, settings=settings)

    @cached_property
    def schedule(self) -> Component[Schedule]:
        """The schedule, with all of its settings."""
        chosen = self.choices["schedule"]
        row = SCHEDULES[chosen.name]
        return Component(row=row, identity=chosen.name, settings=row.settings(chosen.params))

    @property
    def setters(self) -> Iterator[tuple[Regularizer, Choice]]:
        """Yield the chosen rows that set something in other parts, in the order of axes."""
        for axis in AXES:
            table, chosen = STUDY_AXES[axis.key].changes, self.choices[axis.column]
            if table is not None:
                yield table[chosen.name], chosen

    def changes(self, part: str) -> dict[str, Any]:
        """Return field -> value for what other axes set in a part: model, augment, trial, ..."""
        usual = {}
        if part == "optimizer":
            usual["weight_decay"] = self.own_optimizer.row.usual_decay(self.choices[part].params)
        return {
            field: value
            for row, chosen in self.setters
            for field, value in row.changes(part, chosen.params, usual).items()
        }

    def given(self, part: str) -> dict[str, Any]:
        """Return the settings of a part: its own entry's, overridden by those of other axes."""
        return {**self.choices[part].params, **self.changes(part)}

    def _own(self, part: str) -> tuple[str, dict[str, Any]]:
        return self.choices[part].name, self.choices[part].params


def model_row(name: str, given: Mapping[str, Any], base: Path) -> Part[Model]:
    """Return the row of a model with its settings, which its `build` gets.

    `timm:NAME` and `torchvision:NAME` are networks of these libraries:
    `models.classification.library`. Any other reference is called like `Model.build`, with the
    settings as keyword arguments. Raises StudyError on a setting that the row does not know, a
    value that it does not take, and a name that a library lacks.
    """
    if not is_reference(name) or is_by_name(name):
        try:
            own = by_name(name, given) if is_by_name(name) else MODELS[name]
            row = replace(own, settings=merge(f"model {name}", own.settings, given))
        except ValueError as error:
            raise StudyError(f"models: {error}") from error
        # Another version of a library may make another network.
        return Part(row=row, identity=f"{name} {row.source}" if is_by_name(name) else name)
    build, source = load_callable(name, base, key="models", wanted=MODEL_WANTED)
    row = Model(
        name=name,
        build=build,
        tasks=tuple(TASKS),
        dims=(2, 3),
        divisor=1,
        min_size=1,
        settings=dict(given),
        summary="of the user's own",
        source=name,
    )
    return Part(row=row, identity=_own(name, source))


def optimizer_row(name: str, given: Mapping[str, Any], base: Path) -> Part[Optimizer]:
    """Return the row of an optimizer as its choices make it, after checking its settings.

    A reference is called as `constructor(parameters, **settings)`:
    `bench.optimizers.by_reference.borrowed`. Raises StudyError on a setting that the row does not
    know, and on a reference that no loop can drive.
    """
    if not is_reference(name):
        row = OPTIMIZERS[name]
        try:
            settings = row.settings(given)
            row = row.chosen(given)
        except ValueError as error:
            raise StudyError(f"optimizers: {error}") from error
        _try_settings(name, json.dumps(settings, sort_keys=True))
        return Part(row=row, identity=name)
    constructor, source = load_callable(name, base, key="optimizers", wanted=OPTIMIZER_WANTED)
    return Part(
        row=borrowed(name, constructor, given), identity=_own(name, source_of(constructor, source))
    )


def loss_row(name: str, given: Mapping[str, Any], base: Path) -> Part[Loss]:
    """Return the row of a loss, after checking the settings given for it.

    A reference is a function, or a class to be made without arguments. It takes logits
    (N, C, *spatial) of float32 or wider, targets (N, *spatial) and the settings by name, and
    returns one value for each sample (N,) or their mean. In a trial of several processes it sees
    the samples of one. Raises StudyError on a setting that the row does not know, and on an invalid
    value.
    """
    if not is_reference(name):
        row = LOSSES[name]
        try:
            row.settings(given)
        except ValueError as error:
            raise StudyError(f"losses: {error}") from error
        return Part(row=row, identity=name)
    function, source = load_callable(name, base, key="losses", wanted=LOSS_WANTED)
    if inspect.isclass(function):
        try:
            function = function()
        except (Exception, SystemExit) as error:  # a user's code may raise anything; it is reported
            raise StudyError(
                f"losses: {name} is a class that fails with {failure(error)} when it is made "
                f"without arguments; expected {LOSS_WANTED}."
            ) from error
    own = Loss(
        name=name,
        function=_per_sample(function),
        defaults=dict(given),
        bounds={},
        tasks=tuple(TASKS),
        ignoring="",
        formula="of the user's own",
        summary="of the user's own",
        source=name,
    )
    return Part(row=own, identity=_own(name, source))


@lru_cache
def _try_settings(name: str, settings: str) -> None:
    """Make an optimizer of the table for one weight; raises StudyError if it cannot be made."""
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(settings).items()}
    try:
        OPTIMIZERS[name].build([nn.Parameter(torch.zeros(2, 2))], **given)
    except Exception as error:  # each library has its own words for a rate below zero
        raise StudyError(
            f"optimizers: {name} cannot be made with {given}: {failure(error)}"
        ) from error


def _own(name: str, source: str) -> str:
    # The name and the source decide, not the path of the file.
    return f"{name.rpartition(':')[2]} {source}"


def _per_sample(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give every sample the mean that a loss returns: the mean over samples stays the same."""

    def loss(
        logits: Tensor,
        target: Tensor,
        weights: Tensor | None,
        total: Total,
        **settings: Any,
    ) -> Tensor:
        del weights, total
        value = function(wide(logits), target, **settings)
        if not isinstance(value, Tensor):
            raise TypeError(f"it returned {said(value)}, not a tensor")
        return value.expand(len(logits)) if value.dim() == 0 else value

    return loss
