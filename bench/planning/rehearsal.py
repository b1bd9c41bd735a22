"""A user's own models and losses, tried on each data set before anything is trained."""

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
# (data set, column of the axis, label of the entry) -> why what is the user's own fails there.
Failures = Mapping[tuple[str, str, str], str]

# What was tried in this process -> what came of it, None if all was well.
_tried: dict[Hashable, str | None] = {}


# What is to be said when an entry is begun: the key of its axis, and the entry.
Begun = Callable[[str, Choice], None]

_WANTED = {"optimizers": OPTIMIZER_WANTED, "models": MODEL_WANTED, "losses": LOSS_WANTED}
# One step of one entry, on every data set: seconds, minutes for large volumes on a CPU. Assumption.
LONGEST_SEC = 600.0
# How often one looks whether the process that tries them lives.
_LOOK_SEC = 0.2
_STDERR = 2
_APART = starting("bench.planning.rehearsal")


def rehearse_apart(study: Study, sets: Sequence[tuple[DataSet, Patch]], base: Path) -> Failures:
    """Do as `rehearse`; in a process of its own, where the study names code of the user's own.

    An entry that ends that process, or takes longer than LONGEST_SEC, is told as any other that
    fails, and the others are tried in another one.
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
                f"models, losses and optimizers of the user's own are tried in a process of their "
                f"own, which ended before it began with one ({how})."
            )
        key, label = begun
        (entry,) = (entry for entry in study.entries(key) if entry.label == label)
        ended.append(f"{key}: {entry.name} {how}; wanted is {_WANTED[key]}")
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
    """Return what is wrong, what fails, the entry that was begun last, and how that ended it all.

    The last is None where nothing did.
    """
    cargo = {"study": study, "sets": sets, "base": base}
    beside = Beside(_APART, {"asked": pickle.dumps(cargo)}, _STDERR)
    begun, since = None, monotonic()
    try:
        while True:
            over = beside.ended()  # looked up first: what it said before is heard all the same
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
                return [], {}, begun, f"was tried for {LONGEST_SEC / 60:g} min without an end"
    finally:
        beside.end()


def main() -> None:
    """Try what the other end of the pipe sends, and say what comes of it."""
    pipe, cargo = begun_beside()
    own = os.getpid()

    def say(what: str, value: Any) -> None:
        if os.getpid() != own:
            os._exit(0)  # a copy that a user's code forked
        pipe.send((what, value))

    def end_with_the_other() -> None:
        """Wait for the other end of the pipe, which says no more, to be closed."""
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
    os._exit(0)  # not by Python's own end, which waits for the threads of a user's code


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

    A model of the user's own is given a random batch of each data set's shape, in training and in
    evaluation, a loss random logits of that shape. (An optimizer is tried where it is looked up.)
    `begun` hears of each entry before it is tried. Returns what fails on some data sets and not on
    others. Raises StudyError with a sentence for each that cannot be had, or fails on all of them.
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
    """Return why a model of the user's own fails on a data set; None if it does not."""
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
        f"and {dict(given) or 'no settings'}, and {fault}; wanted is {LOSS_WANTED}"
    )


def _values_fault(values: Tensor, logits: Tensor) -> str | None:
    if values.shape != logits.shape[:1] or not values.is_floating_point():
        return f"gave {said(values)}"
    if not values.requires_grad:
        return "gave values that no gradient goes through"
    (gradient,) = torch.autograd.grad(values.sum(), logits, allow_unused=True)
    return "gave values that the logits do not decide" if gradient is None else None
