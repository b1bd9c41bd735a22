"""A user's own models and losses, tried on each data set before anything is trained."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core.references import StudyError, failure, is_reference, said
from bench.losses.supervision import logits_of
from bench.losses.table import Loss, alone
from bench.study.choice import Choice
from bench.study.components import (
    LOSS_WANTED,
    Component,
    Part,
    loss_row,
    model_row,
    optimizer_row,
)
from bench.study.dataset import DataSet
from bench.study.schema import Study
from bench.study.tasks import TASKS
from bench.training.networks import build_model, identity_of
from models.output import Output
from models.spec import Model

Patch = tuple[int, ...]
# (data set, column of the axis, label of the entry) -> why what is the user's own fails there.
Failures = Mapping[tuple[str, str, str], str]

# What was tried in this process -> what came of it, None if all was well.
_tried: dict[Hashable, str | None] = {}


def rehearse(study: Study, sets: Sequence[tuple[DataSet, Patch]], base: Path) -> Failures:
    """Look up every model, optimizer and loss of a study, and try those of the user's own.

    A model of the user's own is given a random batch of each data set's shape, in training and in
    evaluation, a loss random logits of that shape. (An optimizer is tried where it is looked up.)
    Returns what fails on some data sets and not on others. Raises StudyError with a sentence for
    each that cannot be had, or fails on all of them.
    """
    failures: dict[tuple[str, str, str], str] = {}
    wrong: dict[str, None] = {}
    for entry in study.optimizers:
        try:
            optimizer_row(entry.name, entry.params, base)
        except StudyError as error:
            wrong[str(error)] = None
    for column, entries, fault in (
        ("model", study.models, _model_fault),
        ("loss", study.losses, _loss_fault),
    ):
        for entry in entries:
            try:
                found = {data.name: fault(entry, base, data, patch) for data, patch in sets}
            except StudyError as error:
                wrong[str(error)] = None
                continue
            faults = {name: reason for name, reason in found.items() if reason is not None}
            if len(faults) == len(found):
                wrong |= dict.fromkeys(faults.values())
            failures |= {(name, column, entry.label): why for name, why in faults.items()}
    if wrong:
        raise StudyError("\n".join(wrong))
    return failures


def _model_fault(entry: Choice, base: Path, data: DataSet, patch: Patch) -> str | None:
    """Return why a model of the user's own fails on a data set; None if it does not."""
    part = model_row(entry.name, entry.params, base)
    if not is_reference(entry.name):
        return None
    model = Component(row=part.row, identity=part.identity, settings=part.row.options)
    key = entry.name, identity_of(model, data.path, patch)
    if key not in _tried:
        _tried[key] = _tried_model(model, data, patch)
    return _tried[key]


def _tried_model(model: Component[Model], data: DataSet, patch: Patch) -> str | None:
    meta = data.store.meta
    for training, samples in ((True, _samples(data)), (False, 1)):
        given = (samples, len(meta.channels), *patch)
        wanted = _logits_shape(data, patch, samples)
        mode = "training" if training else "evaluation"
        try:
            with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(training):
                torch.manual_seed(0)
                network = build_model(model, data.path, patch).train(training)
                found = network(torch.randn(given))
                fault = _logits_fault(found, wanted)
                if training and fault is None:
                    logits_of(found).sum().backward()  # type: ignore[no-untyped-call]  # torch's stub
                    if all(p.grad is None for p in network.parameters()):
                        fault = "gave logits that none of its parameters decides"
        except StudyError as error:
            return str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a user's code raises
            fault = f"failed with {failure(error)}"
        if fault is not None:
            return (
                f"models: {model.row.name} was given images {given} of float32 in {mode} and "
                f"{fault}; wanted are logits {wanted}"
            )
    return None


def _logits_fault(found: Any, wanted: tuple[int, ...]) -> str | None:
    if not isinstance(found, Tensor | Output):
        return f"gave {said(found)}"
    logits = logits_of(found)
    if tuple(logits.shape) != wanted or not logits.is_floating_point():
        return f"gave {said(logits)}"
    if torch.is_grad_enabled() and not logits.requires_grad:
        return "gave logits that no gradient goes through"
    return None


def _samples(data: DataSet) -> int:
    """Return the size of a batch that no axis of the classes is taken for."""
    return 3 if len(data.store.meta.classes) == 2 else 2


def _logits_shape(data: DataSet, patch: Patch, samples: int) -> tuple[int, ...]:
    meta = data.store.meta
    return samples, len(meta.classes), *(patch if TASKS[meta.task].windows else ())


def _loss_fault(entry: Choice, base: Path, data: DataSet, patch: Patch) -> str | None:
    """Return why a loss of the user's own fails on a data set; None if it does not."""
    part = loss_row(entry.name, entry.params, base)
    if not is_reference(entry.name):
        return None
    shape = _logits_shape(data, patch, _samples(data))
    key = entry.name, part.identity, str(sorted(entry.params.items())), shape
    if key not in _tried:
        _tried[key] = _tried_loss(part, entry.params, shape)
    return _tried[key]


def _tried_loss(
    part: Part[Loss], settings: Mapping[str, Any], shape: tuple[int, ...]
) -> str | None:
    where = (shape[0], *shape[2:])
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        logits = torch.randn(shape, requires_grad=True)
        target = torch.randint(0, shape[1], where)
        try:
            fault = _values_fault(part.row.bind(settings)(logits, target, None, alone), logits)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a user's code raises
            fault = f"failed with {failure(error)}"
    if fault is None:
        return None
    return (
        f"losses: {part.row.name} was given logits {shape} of float32, a target {where} of int64 "
        f"and {dict(settings) or 'no settings'}, and {fault}; wanted is {LOSS_WANTED}"
    )


def _values_fault(values: Tensor, logits: Tensor) -> str | None:
    if values.shape != logits.shape[:1] or not values.is_floating_point():
        return f"gave {said(values)}"
    if not values.requires_grad:
        return "gave values that no gradient goes through"
    (gradient,) = torch.autograd.grad(values.sum(), logits, allow_unused=True)
    return "gave values that the logits do not decide" if gradient is None else None
