"""The combinations that cannot run on a data set, each with the sentence that says why.

A reason is part of a skip's id: another wording gives another id.
"""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.precision import PRECISIONS
from bench.core.references import is_reference
from bench.optimizers.steps import UNCLIPPED, UNDIVIDED
from bench.optimizers.table import Optimizer
from bench.planning.starts import SCRATCH, Starts
from bench.study.components import Combination, loss_row, model_row, optimizer_row
from bench.study.dataset import DataSet
from bench.study.pretrained import start_settings
from bench.study.regularizers import Regularizer
from bench.study.schema import Study
from bench.study.tasks import TASKS
from bench.study.trial import settable
from bench.training.networks import cramped, identity_of, parameter_shapes
from bench.training.samples.clinical import width
from bench.training.samples.labels import votes
from loaders.sampling.folds import Split

Shapes = tuple[tuple[int, ...], ...]


def misfit(
    combination: Combination,
    study: Study,
    data: DataSet,
    settings: Mapping[str, Any],
    starts: Starts,
    devices: int,
) -> str | None:
    """Return why a combination cannot run on a data set, None if it can.

    `settings` are those shared by all trials of the data set; `devices` is the number of devices
    that share each trial. Raises StudyError for settings that no data set could take.
    """
    meta, task = data.store.meta, TASKS[data.store.meta.task]
    patch: tuple[int, ...] = settings["patch"]
    model, optimizer, loss = (
        combination.own_model.row,
        combination.own_optimizer.row,
        combination.own_loss.row,
    )
    served = None if task.served_by in loss.tasks else f"loss {loss.name} is not for {meta.task}"
    return (
        model.unfit(task=task.networks, dims=meta.dims, patch=patch)
        or served
        or _of_ignored(combination, data)
        or _of_spacing(combination, data)
        or _of_setters(combination, study, task.served_by)
        or _of_clinical(combination, data, patch)
        or _of_labels(combination, data)
        or _of_mixing(combination, optimizer, data, settings)
        or _of_decay(combination, optimizer, study)
        or _of_gradients(optimizer, study)
        or unfit_for(combination, study, data, patch, devices)
        or _of_start(combination, optimizer, data.splits[0], starts)
        or _of_size(combination, optimizer, data, patch, devices)
    )


def unfit_for(
    combination: Combination,
    study: Study,
    data: DataSet,
    patch: tuple[int, ...],
    devices: int,
) -> str | None:
    """Return why a combination cannot be computed as a study says (precision, compiled, graphs)."""
    optimizer = combination.own_optimizer.row
    return (
        _of_precision(optimizer, study)
        or _of_graphs(combination, optimizer, study, devices)
        or _of_cramped(combination, study, data, patch)
    )


def _of_ignored(combination: Combination, data: DataSet) -> str | None:
    loss = combination.own_loss.row
    if data.store.meta.ignored is None or loss.ignoring:
        return None
    return (
        f"loss {loss.name} depends on where voxels are or is the user's own, and {data.name!r} has "
        "voxels to be ignored, whose classes are unknown"
    )


def _of_spacing(combination: Combination, data: DataSet) -> str | None:
    loss, given = combination.own_loss.row, combination.choices["loss"].params
    if not (loss.spaced and loss.settings(given)["mm"]):
        return None
    store = data.store
    if "t" in store.meta.axes:
        return f"loss {loss.name} with mm needs distances, and an axis of {data.name!r} is time"
    unknown = int((~np.isfinite(store.spacing).all(axis=1)).sum())
    if unknown:
        return (
            f"loss {loss.name} with mm needs the spacing of voxels, which is unknown for {unknown} "
            f"of {len(store)} cases of {data.name!r}: leave mm out"
        )
    return None


def _of_setters(combination: Combination, study: Study, task: str) -> str | None:
    reasons = (_of_setter(combination, row, study, task) for row, _ in combination.setters)
    return next((reason for reason in reasons if reason), None)


def _of_setter(combination: Combination, row: Regularizer, study: Study, task: str) -> str | None:
    """Return why what another axis sets cannot be set here, None if it can."""
    if task not in row.tasks:
        return f"{row.what} {row.name} is not for {task}"
    names = {part: combination.choices[part].label for part in ("model", "optimizer", "loss")}
    reason = (
        row.unfit("model", names["model"], combination.own_model.row.settings)
        or row.unfit("optimizer", names["optimizer"], combination.own_optimizer.row.defaults)
        or row.unfit("loss", names["loss"], combination.own_loss.row.defaults)
    )
    if reason is None:
        # A value that is out of range there is a mistake in the study.
        for part, look_up in _LOOK_UP.items():
            look_up(combination.choices[part].name, combination.given(part), combination.base)
        reason = _of_nothing(combination, row, study)
    return reason


def _of_nothing(combination: Combination, row: Regularizer, study: Study) -> str | None:
    """Return why a row changes nothing, given what other axes set; None if it changes something."""
    own = combination.own_optimizer.row.settings(combination.choices["optimizer"].params)
    before = {f"optimizer.{name}": value for name, value in own.items()}
    before |= {f"trial.{name}": value for name, value in settable(study, combination).items()}
    after = {f"optimizer.{name}": v for name, v in combination.changes("optimizer").items()}
    after |= {f"trial.{name}": value for name, value in combination.changes("trial").items()}
    if row.sets and all(t in before and after.get(t) == before[t] for t in row.sets):
        names = [f"{part} {combination.choices[part].label}" for part in ("optimizer", "schedule")]
        return f"{row.what} {row.name} would change nothing of {' with '.join(names)}"
    return None


def _of_decay(combination: Combination, optimizer: Optimizer, study: Study) -> str | None:
    decays = optimizer.settings(combination.given("optimizer")).get("weight_decay")
    if optimizer.one_group and decays and not study.decay_norms:
        return (
            f"optimizer {optimizer.name} takes one group of parameters: its weight decay cannot "
            f"leave norms and biases out"
        )
    return None


_LOOK_UP = {"model": model_row, "optimizer": optimizer_row, "loss": loss_row}


def _of_mixing(
    combination: Combination, optimizer: Optimizer, data: DataSet, settings: Mapping[str, Any]
) -> str | None:
    samples = settings["batch_size"] * settings["accumulate"] * optimizer.batch_multiple
    if combination.changes("trial").get("mixup") and (
        min(samples, *(len(split.train) for split in data.splits)) < 2
    ):
        return (
            f"regularizer {combination.choices['regularizer'].label} mixes the samples of a batch, "
            f"and a batch here holds one: set batch_size to 2 or more"
        )
    return None


def _of_clinical(combination: Combination, data: DataSet, patch: tuple[int, ...]) -> str | None:
    if not combination.changes("trial").get("given_clinical"):
        return None
    store = data.store
    if not store.clinical:
        return (
            f"data {data.name} has no clinical columns: `medopt prepare KIND SOURCE --set "
            "clinical=NAME,NAME` keeps them"
        )
    if store.outside is not None and store.outside.categories != data.own.categories:
        return f"the clinical columns of data {data.name} have other categories in its test store"
    if width(store) > math.prod(patch):
        return f"data {data.name} has more clinical numbers than the patch has pixels"
    if combination.choices["pretrained"].name != SCRATCH:
        return "clinical data can only be given to a network that is trained from scratch"
    return None


def _of_labels(combination: Combination, data: DataSet) -> str | None:
    asked = combination.changes("trial")
    if asked.get("readers") and votes(data.store) is None:
        name = combination.choices["labels"].label
        return (
            f"labels {name} need the answer of each reader, which data {data.name} does not keep: "
            "LIDC's malignancy does, and so does a table of several rows for each picture, with "
            "readers=majority"
        )
    return None


def _of_gradients(optimizer: Optimizer, study: Study) -> str | None:
    name = f"optimizer {optimizer.name}"
    if study.clip is not None and (why := UNCLIPPED.get(optimizer.step)):
        return f"{name} cannot take clipped gradients: {why}"
    if study.accumulate > 1 and (why := UNDIVIDED.get(optimizer.step)):
        return f"{name} cannot take gradients summed over batches: {why}"
    if study.ema is not None and optimizer.averages:
        return f"{name} is judged by its own averages, not by a moving average"
    return None


def _of_precision(optimizer: Optimizer, study: Study) -> str | None:
    if study.precision == "float16" and not optimizer.scalable:
        return f"optimizer {optimizer.name} cannot work on scaled gradients, which float16 needs"
    if study.device == "cpu" and (why := PRECISIONS[study.precision].gpu_only):
        return why
    if study.compiled and optimizer.step == "create_graph":
        return f"optimizer {optimizer.name} needs second derivatives, which torch.compile lacks"
    return None


def _of_graphs(
    combination: Combination, optimizer: Optimizer, study: Study, devices: int
) -> str | None:
    if not study.cuda_graph:
        return None
    if study.device == "cpu":
        return "cuda_graph is for GPUs: leave it out, or train on one"
    if devices > 1:
        return f"cuda_graph is for trials on one GPU, and {devices} share each trial"
    if optimizer.step == "create_graph":
        return f"optimizer {optimizer.name} needs second derivatives, which a CUDA graph lacks"
    if study.accumulate > 1:
        return "cuda_graph cannot sum gradients over several batches (accumulate)"
    if start_settings(combination.choices["pretrained"].params)["freeze_until"]:
        return "cuda_graph cannot train a network that has frozen layers (freeze_until)"
    return None


def _of_cramped(
    combination: Combination, study: Study, data: DataSet, patch: tuple[int, ...]
) -> str | None:
    """Return where oneDNN computes gradients of weights from unwritten memory, or None.

    Measured with torch 2.14.1 and AVX512-BF16: 3-D convolutions in bfloat16 with a kernel of 3 or 5
    over sides of 1 to 5, stride 1 and 2. All wrong ones had a side shorter than the kernel; some of
    these are right, and all are if each channel has its own kernel (MedNeXt).
    """
    if study.precision != "bfloat16" or study.device != "cpu" or len(patch) != 3:
        return None
    if is_reference(combination.choices["model"].name):
        return None  # a user's own constructor may not work without real weights
    key = identity_of(combination.model, data.path, patch)
    if key not in _known_cramped:
        _known_cramped[key] = cramped(combination.model, data.path, patch)
    sides = _known_cramped[key]
    if sides is None:
        return None
    small, whole = (" x ".join(map(str, each)) for each in (sides, patch))
    return (
        f"model {combination.own_model.row.name} shrinks patches of {whole} to {small}, less than "
        f"a convolution's kernel, where bfloat16 on a CPU computes wrong gradients: take larger "
        f"patches, or float32"
    )


def _of_start(
    combination: Combination, optimizer: Optimizer, split: Split, starts: Starts
) -> str | None:
    pretrained = combination.choices["pretrained"]
    if pretrained.name == SCRATCH:
        return None
    if start_settings(pretrained.params)["lower_rate"] != 1 and (
        optimizer.one_group or "lr" not in optimizer.defaults
    ):
        return f"optimizer {optimizer.name} has one learning rate for all layers, so none is lower"
    try:
        starts.of(combination, split)
    except LookupError as error:
        return str(error.args[0])
    return None


def _of_size(
    combination: Combination,
    optimizer: Optimizer,
    data: DataSet,
    patch: tuple[int, ...],
    devices: int,
) -> str | None:
    if is_reference(combination.choices["model"].name):
        return None  # a user's own constructor may not work without real weights
    shapes = _shapes(combination, data.path, patch)
    return optimizer.unfit(shapes, combination.given("optimizer"), devices=devices)


_known_cramped: dict[Hashable, tuple[int, ...] | None] = {}
_known_shapes: dict[Hashable, Shapes] = {}


def _shapes(combination: Combination, store: Path, patch: tuple[int, ...]) -> Shapes:
    key = identity_of(combination.model, store, patch)
    if key not in _known_shapes:
        _known_shapes[key] = parameter_shapes(combination.model, store, patch)
    return _known_shapes[key]
