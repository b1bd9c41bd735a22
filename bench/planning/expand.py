"""Expands a study's axes to trials with stable ids, and to skips with their reasons."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from bench.core.references import StudyError
from bench.metrics.degradations import DEGRADATIONS
from bench.planning.compatibility import misfit
from bench.planning.rehearsal import Failures, Patch, rehearse
from bench.planning.starts import Starts
from bench.study.components import Combination
from bench.study.dataset import DataSet, automatic_patch
from bench.study.pretrained import InitialWeights
from bench.study.schema import Augment, DataEntry, Study, as_computed
from bench.study.tasks import TASKS
from bench.study.trial import NUMERICS, Skip, Trial, labels, settable
from bench.training.looks import SEGMENTED, affordable, passes
from bench.training.samples.clinical import digest
from loaders.batches.table import LOADERS
from loaders.sampling.folds import split_hash
from loaders.sampling.sampler import Recipe
from results.tables.axes import AXES, name_of

# The largest batch of images: a network's activations take tens of times as much memory, which no
# device has. Assumption.
MOST_BATCH_BYTES = 16 * 2**30
# Settings that came after trials had ids, with their values in all trials before; with this value
# a setting does not enter the id.
_AS_BEFORE: dict[str, Any] = {
    "looks": None,
    "inference": "windows",
    "clinical": None,
    "labels": None,
    "windows_at_once": None,
    "cudnn_benchmark": False,
    "cuda_graph": False,
}


def expand(
    study: Study,
    sets: Sequence[DataSet],
    base: Path,
    *,
    devices: int = 1,
    tried: Callable[[Study, Sequence[tuple[DataSet, Patch]], Path], Failures] = rehearse,
) -> tuple[list[Trial], list[Skip]]:
    """Expand a resolved study into trials with stable ids, and skips with their reasons.

    Trials come fold by fold, each fold holding every combination, so that a run cut short has
    whole folds to compare. `base` is the folder that references in the study are relative to;
    `devices` is the number of devices that share each trial; `tried` tries the user's own code.
    Raises StudyError if a reference or weights cannot be loaded, or if nothing is left to run.
    """
    trials: list[Trial] = []
    skips: list[Skip] = []
    patches = [
        _settings(study, entry, data)["patch"] for entry, data in zip(study.data, sets, strict=True)
    ]
    failures = tried(study, list(zip(sets, patches, strict=True)), base)
    for entry, data in zip(study.data, sets, strict=True):
        starts = Starts(data)
        models = [model.label for model in study.entries("models")]
        # The study with each model's own settings of speed on this data set.
        own = {model: as_computed(study, entry, model) for model in models}
        settings = {model: _settings(own[model], entry, data) for model in models}
        runnable: list[Combination] = []
        decided: list[_Decided] = []
        for combination in _combinations(study, base):
            model = combination.choices["model"].label
            reason = misfit(combination, own[model], data, settings[model], starts, devices)
            reason = reason or _failure(combination, data, failures)
            if reason is None:
                runnable.append(combination)
                decided.append(_decided(combination, own[model], data, settings[model]))
            else:
                skips.append(_skip(combination, data, reason))
        for split in data.splits:
            folds = split_hash(split, data.store.hashes)
            # The seed does not decide which weights are found.
            found = [starts.of(combination, split) for combination in runnable]
            for seed in study.seeds:
                where = {"repeat": split.repeat, "fold": split.fold, "seed": seed}
                trials += [
                    _trial(combination, what, start, study, data, folds, where)
                    for combination, what, start in zip(runnable, decided, found, strict=True)
                ]
    _check_distinct(trials)
    if not trials:
        reasons = "; ".join(sorted({s.reason for s in skips}))
        raise StudyError(f"no combination of this study can run: {reasons}.")
    return trials, skips


def _failure(combination: Combination, data: DataSet, failures: Failures) -> str | None:
    """Return why the user's own part of a combination fails on a data set, None if none does."""
    labelled = ((column, choice.label) for column, choice in combination.choices.items())
    found = (failures.get((data.name, column, label)) for column, label in labelled)
    return next((reason for reason in found if reason), None)


def _combinations(study: Study, base: Path) -> Iterator[Combination]:
    columns = [axis.column for axis in AXES]
    for entries in product(*(study.entries(axis.key) for axis in AXES)):
        yield Combination(choices=dict(zip(columns, entries, strict=True)), base=base)


def _check_distinct(trials: Sequence[Trial]) -> None:
    """Raise StudyError if two entries of an axis come to the same settings."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        other = seen.setdefault(trial.trial_id, trial)
        if other is not trial:
            raise StudyError(
                f"two combinations have the same settings: "
                f"{_name(other)} and {_name(trial)}. Leave one of them out."
            )


def _name(trial: Trial) -> str:
    return name_of(part or "" for part in labels(trial.choices).values())


def _settings(study: Study, entry: DataEntry, data: DataSet) -> dict[str, Any]:
    """Return what every trial of a data set has in common."""
    meta = data.store.meta
    patch = entry.patch or study.patch or automatic_patch(data.own)
    if len(patch) != meta.dims:
        raise StudyError(
            f"patch: {list(patch)} has {len(patch)} sides, but images of {data.name!r} have "
            f"{meta.dims}. An entry of `data` can have its own patch: "
            f"`{{store: ..., patch: {list(automatic_patch(data.own))}}}`."
        )
    automatic = TASKS[meta.task].batch[meta.dims]
    batch = entry.batch_size or study.batch_size or automatic
    size = 4 * math.prod((min(batch, len(data.store)), len(meta.channels), *patch))
    if size > MOST_BATCH_BYTES:
        raise StudyError(
            f"patch, batch_size: a batch of {batch} patches {list(patch)} of {data.name!r} takes "
            f"{size / 2**30:.0f} GiB; the limit is {MOST_BATCH_BYTES >> 30}. Take smaller ones."
        )
    epochs = entry.epochs or study.epochs
    looks = study.looks
    return {
        "epochs": epochs,
        "batch_size": batch,
        "patch": patch,
        "augment": entry.augment or study.augment,
        "decay_norms": study.decay_norms,
        "clip": study.clip,
        "accumulate": study.accumulate,
        "ema": study.ema,
        "normalize": entry.normalize or study.normalize,
        "patience": study.patience,
        "stop_on": study.stop_on,
        "overlap": study.overlap,
        "primary": study.primary[meta.task],
        "target": study.target if entry.target is None else entry.target,
        "precision": study.precision,
        "channels_last": study.channels_last,
        "compiled": study.compiled,
        "windows_at_once": study.windows_at_once,
        "cudnn_benchmark": study.cudnn_benchmark,
        "cuda_graph": study.cuda_graph,
        "degrade": study.degrade,
        "threads": study.threads,
        # As many looks as epochs means one after each epoch.
        "looks": looks if isinstance(looks, int) and looks < epochs else None,
    }


def looks_of(study: Study, sets: Sequence[DataSet]) -> int:
    """Return how often trials look at inner validation if the study says `auto`.

    One number for all its data sets: that of the data set where a look costs the most.
    """
    most, longest = [], 0
    for entry, data in zip(study.data, sets, strict=True):
        settings, task = _settings(study, entry, data), TASKS[data.store.meta.task]
        cost = np.ones(len(data.store))
        if task.windows:
            whole = study.inference == "whole"
            shapes, patch = data.store.shapes, settings["patch"]
            cost = SEGMENTED * passes(shapes, patch, overlap=study.overlap, whole=whole)
        # Tests with the chosen weights, with the last ones, and on degraded images.
        tests = 2 + len(study.degrade)
        epochs = settings["epochs"]
        most += [affordable(cost, split, epochs=epochs, tests=tests) for split in data.splits]
        longest = max(longest, epochs)
    return min(*most, longest)


# ---- ids -----------------------------------------------------------------------------------


def hashed(decides: Mapping[str, Any]) -> str:
    """Return the hash of everything that decides a result, which is its id.

    Raises TypeError for what JSON cannot hold: its text may differ in another process.
    """
    text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _but_as_before(decides: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out later settings and axes with the values that trials had before them."""
    return {
        key: value
        for key, value in decides.items()
        if key not in _AS_BEFORE or value != _AS_BEFORE[key]
    }


@dataclass(frozen=True, kw_only=True)
class _Decided:
    """What all trials of a combination on a data set have in common: part of their ids, and draws.

    The weights to start from are not included: they may differ from fold to fold.
    """

    identity: Mapping[str, Any]
    settings: Mapping[str, Any]
    augment: Augment


def _decided(
    combination: Combination, study: Study, data: DataSet, settings: Mapping[str, Any]
) -> _Decided:
    """Return what a combination decides of its trials on a data set.

    Raises StudyError if the augmentation, with what other axes set in it, is invalid.
    """
    model, optimizer, loss = combination.model, combination.optimizer, combination.loss
    augment = _augment(combination, data, settings["augment"])
    identity = {
        "model": model.identity,
        "options": model.settings,
        "optimizer": optimizer.identity,
        "hparams": optimizer.settings,
        "loss": loss.identity,
        "loss_settings": loss.row.deciding(loss.settings),
        "schedule": combination.schedule.identity,
        "schedule_settings": combination.schedule.settings,
        "trial": combination.changes("trial"),
        "augment": augment.model_dump(),
        "inference": _inference(combination, study, data),
    }
    # Loaders give the same samples to the bit (tests check it), except for some recipes.
    recipe = Recipe(patch=settings["patch"], **augment.along(data.store.meta.axes))
    if LOADERS[study.loader].rounds(recipe, study.device):
        identity["loader"] = study.loader
    return _Decided(identity=identity, settings=settings, augment=augment)


def _inference(combination: Combination, study: Study, data: DataSet) -> str:
    """Return how images are evaluated: whole if the study says so and the network can."""
    able = TASKS[data.store.meta.task].windows and combination.model.row.whole is not None
    return study.inference if able else "windows"


def _augment(combination: Combination, data: DataSet, asked: Augment) -> Augment:
    """Return the augmentation of a combination; raises StudyError if it is invalid."""
    changes = combination.changes("augment")
    try:
        return Augment.model_validate(asked.model_dump() | changes)
    except ValidationError as error:
        # Name only the entries that set something in it.
        setters = name_of(
            choice.label
            for row, choice in combination.setters
            if any(place.startswith("augment.") for place in row.sets)
        )
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise StudyError(f"augment of {data.name!r} with {setters}: {found}.") from error


def _skip(combination: Combination, data: DataSet, reason: str) -> Skip:
    own = combination.own_model, combination.own_optimizer, combination.own_loss
    decides = {
        "rows": [part.identity for part in own],
        "content": data.store.content_hash,
        "skipped": reason,
        **labels(combination.choices),
    }
    return Skip(
        trial_id=hashed(_but_as_before(decides)),
        task=data.store.meta.task,
        combination={"dataset": data.name, **labels(combination.choices)},
        reason=reason,
    )


def _trial(
    combination: Combination,
    what: _Decided,
    start: InitialWeights | None,
    study: Study,
    data: DataSet,
    folds: str,
    where: Mapping[str, Any],
) -> Trial:
    settings = what.settings
    of_trial = {**settable(study, combination), **what.identity["trial"]}
    decides = {
        **settings,
        **what.identity,
        "trial": of_trial,
        **where,
        "degrade": [
            (worse.name, DEGRADATIONS[worse.name].settings(worse.params)) for worse in study.degrade
        ],
        "start": start.identity if start else None,
        # The store's content hash leaves clinical data out; their layer starts at zero since
        # 2026-11-28.
        "clinical": [digest(data.store), 0] if of_trial.get("given_clinical") else None,
        "content": data.store.content_hash,
        "split": folds,
        "device": study.device,
        "numerics": NUMERICS,
    }
    return Trial(
        trial_id=hashed(_but_as_before(decides)),
        dataset=data.name,
        task=data.store.meta.task,
        choices=combination.choices,
        start=start,
        keep_weights=study.keep_weights,
        loader=study.loader,
        **where,
        **{**settings, "augment": what.augment, "inference": what.identity["inference"]},
        **of_trial,
    )
