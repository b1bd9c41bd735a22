"""From a resolved study to its trials with stable ids, and to skips with their reason."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

from bench.core.references import StudyError, is_reference
from bench.metrics.degradations import DEGRADATIONS
from bench.optimizers.schedules import SCHEDULES
from bench.optimizers.table import Optimizer
from bench.study.components import Part, loss_row, model_row, optimizer_row
from bench.study.dataset import DataSet, automatic_patch
from bench.study.pretrained import InitialWeights, WeightsNeeded, find, start_settings
from bench.study.regularizers import REGULARIZERS, Regularizer
from bench.study.schema import (
    NUMERICS,
    Augment,
    Choice,
    DataEntry,
    Skip,
    Study,
    Trial,
    settings_of,
)
from bench.training.networks import parameter_shapes
from loaders.batches.table import LOADERS
from loaders.sampling.folds import Split, split_hash
from loaders.sampling.sampler import Recipe

# Batch by (task, dims): what an 8 GB GPU and a laptop both hold. Assumption.
BATCH = {
    ("classification", 2): 32,
    ("classification", 3): 8,
    ("segmentation", 2): 16,
    ("segmentation", 3): 2,
}
# The entry of `pretrained` that stands for weights drawn anew.
SCRATCH = "none"


@dataclass(frozen=True, kw_only=True)
class _Combination:
    """One point of the axes on one data set, with the rows it stands for."""

    model: Choice
    optimizer: Choice
    loss: Choice
    schedule: Choice
    regularizer: Choice
    pretrained: Choice
    base: Path

    @property
    def regularize(self) -> Regularizer:
        return REGULARIZERS[self.regularizer.name]

    def settings(self, part: Literal["model", "optimizer", "loss"]) -> dict[str, Any]:
        """Return what is set for a part, by its own entry and by the regularizer."""
        return settings_of(getattr(self, part), part, self.regularizer)

    @cached_property
    def rows(self) -> tuple[Part[Any], Part[Any], Part[Any]]:
        """Return what model, optimizer and loss stand for; raises StudyError."""
        return (
            model_row(self.model.name, self.model.params, self.base),
            optimizer_row(self.optimizer.name, self.optimizer.params, self.base),
            loss_row(self.loss.name, self.loss.params, self.base),
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Return what of the combination decides a trial's result, but the weights it starts at."""
        model, optimizer, loss = self.rows
        regularize = self.regularize
        return {
            "model": model.identity,
            "options": {**model.row.options, **self.settings("model")},
            "optimizer": optimizer.identity,
            "hparams": optimizer.row.settings(self.settings("optimizer")),
            "loss": loss.identity,
            "loss_settings": loss.row.settings(self.settings("loss")),
            "schedule": self.schedule.name,
            "schedule_settings": SCHEDULES[self.schedule.name].settings(self.schedule.params),
            "trial": regularize.changes("trial", self.regularizer.params),
        }

    @property
    def labels(self) -> dict[str, str | None]:
        return {
            "model": self.model.label,
            "optimizer": self.optimizer.label,
            "loss": self.loss.label,
            "schedule": self.schedule.label,
            "regularizer": self.regularizer.label,
            "pretrained": None if self.pretrained.name == SCRATCH else self.pretrained.label,
        }


def _hash(decides: Mapping[str, Any]) -> str:
    """Return the id of what decides a result.

    What JSON cannot hold is a TypeError: it has no text that is the same in another process.
    """
    text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def expand(
    study: Study, sets: Sequence[DataSet], base: Path, *, devices: int = 1
) -> tuple[list[Trial], list[Skip]]:
    """Expand a resolved study into trials with stable ids, and skips with their reason.

    Trials come fold by fold, each fold holding every combination, so that a run cut short has
    whole folds to compare. `base` is the folder that references in the study start at; `devices`
    share each trial.
    Raises StudyError if a reference or weights cannot be loaded, or nothing is left to run.
    """
    trials: list[Trial] = []
    skips: list[Skip] = []
    for entry, data in zip(study.data, sets, strict=True):
        settings = _settings(study, entry, data)
        starts = _Starts(data)
        runnable: list[_Combination] = []
        for combination in _combinations(study, base):
            reason = _unfit(combination, study, data, settings["patch"], starts, devices)
            if reason is None:
                runnable.append(combination)
                continue
            rows = [part.identity for part in combination.rows]
            decides = {"rows": rows, "content": data.store.content_hash, "skipped": reason}
            skips.append(
                Skip(
                    trial_id=_hash({**decides, **combination.labels}),
                    dataset=data.name,
                    task=data.store.meta.task,
                    reason=reason,
                    **combination.labels,  # type: ignore[arg-type]  # only `pretrained` may be None
                )
            )
        for split in data.splits:
            folds = split_hash(split, data.store.hashes)
            # Where weights are found does not depend on the seed.
            ready = [(c, starts.of(c, split)) for c in runnable]
            for seed in study.seeds:
                where = {"repeat": split.repeat, "fold": split.fold, "seed": seed}
                trials += [_trial(c, s, study, data, folds, where, settings) for c, s in ready]
    _check_distinct(trials)
    if not trials:
        reasons = "; ".join(sorted({s.reason for s in skips}))
        raise StudyError(f"no combination of this study can run: {reasons}.")
    return trials, skips


def _check_distinct(trials: Sequence[Trial]) -> None:
    """Raise StudyError where two entries of an axis come to the same settings."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        other = seen.setdefault(trial.trial_id, trial)
        if other is not trial:
            raise StudyError(
                f"two combinations are the same in all that decides: "
                f"{_name(other)} and {_name(trial)}. Leave one of them out."
            )


def _name(trial: Trial) -> str:
    return " + ".join(str(part) for part in list(trial.combination.values())[1:] if part)


def _combinations(study: Study, base: Path) -> Iterator[_Combination]:
    for model, optimizer, loss, schedule, regularizer, pretrained in product(
        study.models,
        study.optimizers,
        study.losses,
        study.schedules,
        study.regularizers,
        study.pretrained,
    ):
        yield _Combination(
            model=model,
            optimizer=optimizer,
            loss=loss,
            schedule=schedule,
            regularizer=regularizer,
            pretrained=pretrained,
            base=base,
        )


def _settings(study: Study, entry: DataEntry, data: DataSet) -> dict[str, Any]:
    """Return what every trial of a data set has in common."""
    meta = data.store.meta
    patch = entry.patch or study.patch or automatic_patch(data.store)
    if len(patch) != meta.dims:
        raise StudyError(
            f"patch: {list(patch)} has {len(patch)} sides, {data.name!r} has {meta.dims}."
        )
    return {
        "epochs": entry.epochs or study.epochs,
        "batch_size": entry.batch_size or study.batch_size or BATCH[meta.task, meta.dims],
        "patch": patch,
        "augment": entry.augment or study.augment,
        "normalize": entry.normalize or study.normalize,
        "patience": study.patience,
        "stop_on": study.stop_on,
        "overlap": study.overlap,
        "primary": study.primary[meta.task],
        "target": study.target if entry.target is None else entry.target,
        "precision": study.precision,
        "channels_last": study.channels_last,
        "compiled": study.compiled,
        "degrade": study.degrade,
        "threads": study.threads,
    }


# ---- what cannot be combined ----------------------------------------------------------------


def _unfit(
    combination: _Combination,
    study: Study,
    data: DataSet,
    patch: tuple[int, ...],
    starts: "_Starts",
    devices: int,
) -> str | None:
    """Say why a combination cannot run on a data set, or None."""
    meta = data.store.meta
    model, optimizer, loss = (part.row for part in combination.rows)
    return (
        model.unfit(task=meta.task, dims=meta.dims, patch=patch)
        or (None if meta.task in loss.tasks else f"loss {loss.name} is not for {meta.task}")
        or _unfit_regularizer(combination, meta.task)
        or _unfit_precision(optimizer, study)
        or _unfit_start(combination, optimizer, data.splits[0], starts)
        or _unfit_size(combination, optimizer, data, patch, devices)
    )


def _unfit_regularizer(combination: _Combination, task: str) -> str | None:
    model, optimizer, loss = (part.row for part in combination.rows)
    regularize = combination.regularize
    if task not in regularize.tasks:
        return f"regularizer {regularize.name} is not for {task}"
    reason = (
        regularize.unfit("model", combination.model.label, model.options)
        or regularize.unfit("optimizer", combination.optimizer.label, optimizer.defaults)
        or regularize.unfit("loss", combination.loss.label, loss.defaults)
    )
    if reason is None:
        # What the regularizer sets may be out of range there: that is the study's mistake.
        base, settings = combination.base, combination.settings
        model_row(combination.model.name, settings("model"), base)
        optimizer_row(combination.optimizer.name, settings("optimizer"), base)
        loss_row(combination.loss.name, settings("loss"), base)
    return reason


def _unfit_precision(optimizer: Optimizer, study: Study) -> str | None:
    if study.precision == "float16" and not optimizer.scalable:
        return f"optimizer {optimizer.name} cannot work on scaled gradients, as float16 needs"
    if study.precision == "float16" and study.device == "cpu":
        # Measured with ResNet-18 and larger, LOG.md.
        return "float16 on a CPU takes twenty times as long as float32: take bfloat16, or a GPU"
    if study.compiled and optimizer.step == "create_graph":
        return f"optimizer {optimizer.name} takes second derivatives, which torch.compile has not"
    return None


def _unfit_start(
    combination: _Combination, optimizer: Optimizer, split: Split, starts: "_Starts"
) -> str | None:
    pretrained = combination.pretrained
    if pretrained.name == SCRATCH:
        return None
    if start_settings(pretrained.params)["lower_rate"] != 1 and (
        optimizer.one_group or "lr" not in optimizer.defaults
    ):
        return f"optimizer {optimizer.name} has one learning rate for all layers, not lower ones"
    try:
        starts.of(combination, split)
    except LookupError as error:
        return str(error.args[0])
    return None


def _unfit_size(
    combination: _Combination,
    optimizer: Optimizer,
    data: DataSet,
    patch: tuple[int, ...],
    devices: int,
) -> str | None:
    if is_reference(combination.model.name):
        return None  # what a user's own constructor does is not for us to try without weights
    shapes = _shapes(combination, data.path, patch)
    return optimizer.unfit(shapes, combination.settings("optimizer"), devices=devices)


@lru_cache
def _shapes_of(
    name: str, params: str, base: Path, store: Path, patch: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    return parameter_shapes(name, json.loads(params), base, store, patch)


def _shapes(
    combination: _Combination, store: Path, patch: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    options = json.dumps(combination.settings("model"), sort_keys=True)
    return _shapes_of(combination.model.name, options, combination.base, store, patch)


# ---- trials --------------------------------------------------------------------------------


class _Starts:
    """The weights that combinations of one data set start from, each looked up once.

    Only the model, the entry of `pretrained` and the split decide them.
    """

    def __init__(self, data: DataSet) -> None:
        self._data = data
        self._found: dict[tuple[str, str, int, int], InitialWeights] = {}

    def of(self, combination: _Combination, split: Split) -> InitialWeights | None:
        """Return the weights, None for those drawn anew; raises what `find` does."""
        pretrained, model = combination.pretrained, combination.model
        if pretrained.name == SCRATCH:
            return None
        key = model.label, pretrained.label, split.repeat, split.fold
        if key not in self._found:
            store = self._data.store
            self._found[key] = find(
                pretrained.name,
                pretrained.params,
                pretrained.label,
                combination.base,
                WeightsNeeded(
                    row=combination.rows[0].row,
                    model=model.label,
                    dims=store.meta.dims,
                    unseen=frozenset(store.groups[i] for i in split.test),
                ),
            )
        return self._found[key]


def _trial(
    combination: _Combination,
    start: InitialWeights | None,
    study: Study,
    data: DataSet,
    folds: str,
    where: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Trial:
    regularize, params = combination.regularize, combination.regularizer.params
    augment: Augment = settings["augment"].model_copy(update=regularize.changes("augment", params))
    of_trial: dict[str, Any] = {
        "stops": True,
        "mixup": 0.0,
        "balance": False,
        **regularize.changes("trial", params),
    }
    decides = {
        **settings,
        **combination.identity,
        **where,
        "augment": augment.model_dump(),
        "degrade": [
            (worse.name, DEGRADATIONS[worse.name].settings(worse.params)) for worse in study.degrade
        ],
        "start": start.identity if start else None,
        "content": data.store.content_hash,
        "split": folds,
        "device": study.device,
        "numerics": NUMERICS,
    }
    # Loaders give the same samples to the bit (tests hold them to it), but for some recipes.
    recipe = Recipe(patch=settings["patch"], **augment.along(data.store.meta.axes))
    if LOADERS[study.loader].rounds(recipe, study.device):
        decides["loader"] = study.loader
    return Trial(
        trial_id=_hash(decides),
        dataset=data.name,
        task=data.store.meta.task,
        model=combination.model,
        optimizer=combination.optimizer,
        loss=combination.loss,
        schedule=combination.schedule,
        regularizer=combination.regularizer,
        start=start,
        keep_weights=study.keep_weights,
        loader=study.loader,
        **where,
        **{**settings, "augment": augment},
        **of_trial,
    )
