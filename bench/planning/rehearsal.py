"""Tries the user's own models and losses on each data set before anything is trained."""

import os
import pickle
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from bench.core.processes import Beside, begun_beside, starting
from bench.core.references import StudyError, failure, is_reference, said
from bench.losses.supervision import logits_of
from bench.losses.table import Loss, alone
from bench.study.choice import Choice
from bench.study.components import (
    LOSS_WANTED,
    MODEL_WANTED,
    OPTIMIZER_WANTED,
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
# (data set, column of the axis, label of the entry) -> why this entry of the user's own fails.
Failures = Mapping[tuple[str, str, str], str]

# What was tried in this process -> its fault, None if it has none.
_tried: dict[Hashable, str | None] = {}


# Called before an entry is tried, with the key of its axis and the entry.
Begun = Callable[[str, Choice], None]

_WANTED = {"optimizers": OPTIMIZER_WANTED, "models": MODEL_WANTED, "losses": LOSS_WANTED}
# One step of one entry, on every data set: seconds, minutes for large volumes on a CPU. Assumption.
LONGEST_SEC = 600.0
# How often to check whether the process that tries them is alive.
_LOOK_SEC = 0.2
_STDERR = 2
_APART = starting("bench.planning.rehearsal")


def rehearse_apart(study: Study, sets: Sequence[tuple[DataSet, Patch]], base: Path) -> Failures:
    """Do as `rehearse`, in a separate process if the study names code of the user's own.

    An entry that ends that process, or takes longer than LONGEST_SEC, is reported like any other
    that fails, and the rest are tried in a new process.
    """
    ended: list[str] = []
    while any(is_reference(entry.name) for key in _WANTED for entry in study.entries(key)):
        wrong, failures, begun, how = _tried_apart(study, sets, base)
        if how is None:
            if wrong or ended:
                raise StudyError("\n".join([*ended, *wrong]))
            return failures
        if begun is None:
            raise StudyError(
                f"models, losses and optimizers of the user's own are tried in a separate process, "
                f"which ended before it tried any ({how})."
            )
        key, label = begun
        (entry,) = (entry for entry in study.entries(key) if entry.label == label)
        ended.append(f"{key}: {entry.name} {how}; expected {_WANTED[key]}")
        left = tuple(entry for entry in study.entries(key) if entry.label != label)
        study = study.model_copy(update={key: left})
    try:
        failures = rehearse(study, sets, base)
    except StudyError as error:
        raise StudyError("\n".join([*ended, str(error)])) from error
    if ended:
        raise StudyError("\n".join(ended))
    return failures


def _tried_apart(
    study: Study, sets: Sequence[tuple[DataSet, Patch]], base: Path
) -> tuple[list[str], Failures, tuple[str, str] | None, str | None]:
    """Return what is wrong, what fails, the entry begun last, and how it ended the process.

    The last is None if the process was not ended.
    """
    cargo = {"study": study, "sets": sets, "base": base}
    beside = Beside(_APART, {"asked": pickle.dumps(cargo)}, _STDERR)
    begun, since = None, monotonic()
    try:
        while True:
            over = beside.ended()  # checked first, so that its last messages are still read
            for what, value in beside.heard(_LOOK_SEC, lambda what, value: (what, value)):
                if what == "begun":
                    begun, since = value, monotonic()
                elif what == "wrong":
                    return [value], {}, begun, None
                else:
                    return [], value, begun, None
            if over:
                return [], {}, begun, f"ended the process that it was tried in ({beside.end()})"
            if begun and monotonic() - since > LONGEST_SEC:
                return [], {}, begun, f"did not finish within {LONGEST_SEC / 60:g} min"
    finally:
        beside.end()


def main() -> None:
    """Try what the other end of the pipe sends, and report the result."""
    pipe, cargo = begun_beside()
    own = os.getpid()

    def say(what: str, value: Any) -> None:
        if os.getpid() != own:
            os._exit(0)  # a fork made by the user's code
        pipe.send((what, value))

    def end_with_the_other() -> None:
        """Exit when the other end of the pipe, which sends nothing more, is closed."""
        try:
            pipe.recv()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=end_with_the_other, daemon=True).start()
    asked = pickle.loads(cargo["asked"])  # noqa: S301  # of the process that started this one
    try:
        failures = rehearse(**asked, begun=lambda key, entry: say("begun", (key, entry.label)))
    except StudyError as error:
        say("wrong", str(error))
    else:
        say("failures", failures)
    os._exit(0)  # not Python's normal exit, which waits for threads of the user's code


def _unsaid(_key: str, _entry: Choice) -> None:
    pass


def rehearse(
    study: Study,
    sets: Sequence[tuple[DataSet, Patch]],
    base: Path,
    *,
    begun: Begun = _unsaid,
) -> Failures:
    """Look up every model, optimizer and loss of a study, and try those of the user's own.

    A model of the user's own gets a random batch of each data set's shape, in training and in
    evaluation; a loss gets random logits of that shape. (An optimizer is tried when it is looked
    up.) `begun` is called before each entry is tried. Returns what fails on some data sets but not
    on others. Raises StudyError with a sentence for each that cannot be loaded, or fails on all.
    """
    failures: dict[tuple[str, str, str], str] = {}
    wrong: dict[str, None] = {}
    for entry in study.optimizers:
        begun("optimizers", entry)
        try:
            optimizer_row(entry.name, entry.params, base)
        except StudyError as error:
            wrong[str(error)] = None
    for key, column, fault in (
        ("models", "model", _model_fault),
        ("losses", "loss", _loss_fault),
    ):
        for entry in study.entries(key):
            begun(key, entry)
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
    """Return why a model of the user's own fails on a data set, None if it does not."""
    part = model_row(entry.name, entry.params, base)
    if not is_reference(entry.name):
        return None
    model = Component(row=part.row, identity=part.identity, settings=part.row.settings)
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
                        fault = "gave logits that no parameter affects"
        except StudyError as error:
            return str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a user's code raises
            fault = f"failed with {failure(error)}"
        if fault is not None:
            # This text is part of a skip's id, and tests/golden/trial_ids.json pins such an id.
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
        return "gave logits without a gradient"
    return None


def _samples(data: DataSet) -> int:
    """Return a batch size unlike the number of classes, so that swapped axes are noticed."""
    return 3 if len(data.store.meta.classes) == 2 else 2


def _logits_shape(data: DataSet, patch: Patch, samples: int) -> tuple[int, ...]:
    meta = data.store.meta
    return samples, len(meta.classes), *(patch if TASKS[meta.task].windows else ())


def _loss_fault(entry: Choice, base: Path, data: DataSet, patch: Patch) -> str | None:
    """Return why a loss of the user's own fails on a data set, None if it does not."""
    part = loss_row(entry.name, entry.params, base)
    if not is_reference(entry.name):
        return None
    task, shape = data.store.meta.task, _logits_shape(data, patch, _samples(data))
    key = entry.name, part.identity, str(sorted(entry.params.items())), task, shape
    if key not in _tried:
        _tried[key] = _tried_loss(part, entry.params, task, shape)
    return _tried[key]


def _tried_loss(
    part: Part[Loss], given: Mapping[str, Any], task: str, shape: tuple[int, ...]
) -> str | None:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        logits = torch.randn(shape, requires_grad=True)
        target = TASKS[task].target(shape)
        try:
            fault = _values_fault(part.row.bind(given)(logits, target, None, alone), logits)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a user's code raises
            fault = f"failed with {failure(error)}"
    if fault is None:
        return None
    return (
        f"losses: {part.row.name} was given logits {shape} of float32, a target "
        f"{tuple(target.shape)} of {str(target.dtype).removeprefix('torch.')} "
        f"and {dict(given) or 'no settings'}, and {fault}; expected {LOSS_WANTED}"
    )


def _values_fault(values: Tensor, logits: Tensor) -> str | None:
    if values.shape != logits.shape[:1] or not values.is_floating_point():
        return f"gave {said(values)}"
    if not values.requires_grad:
        return "gave values without a gradient"
    (gradient,) = torch.autograd.grad(values.sum(), logits, allow_unused=True)
    return "gave values that do not depend on the logits" if gradient is None else None
