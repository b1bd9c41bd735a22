"""Study and Trial: what is asked and one unit of its work, frozen and validated.

A study is one YAML file. Nine lines are enough:

    name: breast
    data: [stores/breastmnist]
    models: [plain_cnn]
    optimizers: [sgd, adam, adamw, {lbfgs: {lr: 0.5}}]
    losses: [ce, focal]
    epochs: 25

Everything else has a documented default, which the field descriptions below state.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from bench.core.precision import PRECISIONS
from bench.core.references import StudyError, is_reference, unknown
from bench.core.settings import merge
from bench.losses.table import LOSSES
from bench.metrics.degradations import DEGRADATIONS
from bench.metrics.table import METRICS, PRIMARY
from bench.optimizers.schedules import SCHEDULES
from bench.optimizers.table import OPTIMIZERS
from bench.study.pretrained import InitialWeights, start_settings
from bench.study.regularizers import REGULARIZERS
from loaders.batches.table import LOADERS
from models.spec import Model
from models.table import MODELS

# Raised by a developer whenever the same settings would give other numbers than before.
NUMERICS = 3

STUDIES = Path(__file__).parents[1] / "ready_studies"
AXES = (
    "data",
    "models",
    "optimizers",
    "losses",
    "schedules",
    "regularizers",
    "pretrained",
    "seeds",
)

# The axes whose entries are a name, or a name with parameters.
ENTRIES = (
    "models",
    "optimizers",
    "losses",
    "schedules",
    "regularizers",
    "pretrained",
    "degrade",
)


# Those of them whose entries are rows of our tables alone, never a reference.
OURS = ("schedules", "regularizers", "degrade")

_Entry = TypeVar("_Entry")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Augment(_Frozen):
    """Augmentation draws: the same for every optimizer and loss at one fold and seed."""

    flip: bool | tuple[bool, ...] = Field(
        True,
        description="mirror with probability one half: each spatial axis (of a clip, not its time),"
        " or those axes that a list of true and false says",
    )
    scale: float = Field(0.1, ge=0, lt=1, description="multiply intensities by 1 ± this, uniform")
    shift: float = Field(
        0.1, ge=0, description="add ± this in normalised units (see `normalize`), uniform"
    )
    foreground: float = Field(
        0.5, ge=0, le=1, description="share of segmentation patches placed on foreground"
    )
    translate: float = Field(
        0.0, ge=0, lt=1, description="move by ± this share of the patch, along every axis"
    )
    rotate: float | tuple[float, ...] = Field(
        0.0,
        description="greatest angle in degrees (of a clip, within its frames); in 3-D a list may"
        " give one about each axis",
    )
    zoom: float = Field(
        0.0, ge=0, lt=1, description="magnify by 1 ± this, all axes alike (of a clip, its time too)"
    )
    noise: float = Field(
        0.0, ge=0, description="Gaussian, its standard deviation up to this in normalised units"
    )
    contrast: float = Field(0.0, ge=0, lt=1, description="distances from the mean by 1 ± this")
    gamma: float = Field(0.0, ge=0, description="exponent from 1 / (1 + this) to 1 + this")
    chance: float = Field(
        0.2, ge=0, le=1, description="probability of each: rotate, zoom, noise, contrast, gamma"
    )

    def along(self, axes: str) -> dict[str, Any]:
        """Return every field for images of these axes (a letter each, such as zyx or tyx).

        Raises StudyError where a list does not have one entry for each.
        """
        return {**self.model_dump(), "flip": self._flips(axes), "rotate": self._angles(axes)}

    def _flips(self, axes: str) -> tuple[bool, ...]:
        if isinstance(self.flip, bool):
            return tuple(self.flip and axis != "t" for axis in axes)
        return _one_each("flip", self.flip, len(axes))

    def _angles(self, axes: str) -> tuple[float, ...]:
        if not self.rotate:
            return ()
        if isinstance(self.rotate, float):
            # In 2-D there is one plane; a clip turns about its time alone.
            return {"yx": (self.rotate,), "tyx": (self.rotate, 0.0, 0.0)}.get(
                axes, (self.rotate,) * 3
            )
        return _one_each("rotate", self.rotate, 1 if len(axes) == 2 else 3)


def _one_each(name: str, values: tuple[_Entry, ...], number: int) -> tuple[_Entry, ...]:
    if len(values) != number:
        raise StudyError(
            f"augment.{name}: {list(values)} has {len(values)} entries, "
            f"images of this data set take {number}."
        )
    return values


def _check_json(params: dict[str, Any]) -> dict[str, Any]:
    """Return `params`; raises ValueError that names the one that JSON cannot hold."""
    for name, value in params.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(
                f"setting {name} is {value!r}; settings are numbers, text, true, false, and lists "
                f"and mappings of these."
            ) from error
    return params


class Choice(_Frozen):
    """One entry of an axis: a row of a table or a reference, and the parameters set for it.

    They are what JSON can hold, since a trial's id is the hash of their JSON.
    """

    name: str
    params: Annotated[dict[str, Any], AfterValidator(_check_json)] = {}

    @property
    def label(self) -> str:
        """Return the name that results carry: `sgd`, `sgd(lr=0.05)`, `my_net` for a reference."""
        # Of a path its last part alone: folders of the user's are nobody else's business.
        short = self.name.rpartition(":")[2].rstrip("/").rpartition("/")[2]
        if not self.params:
            return short
        return f"{short}({', '.join(f'{k}={v}' for k, v in sorted(self.params.items()))})"


def _choice(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict) and len(entry) == 1 and "name" not in entry:
        ((name, params),) = entry.items()
        return {"name": name, "params": params or {}}
    return entry


Entry = Annotated[Choice, BeforeValidator(_choice)]


def _several(entry: Any) -> Any:
    """Read one value as a list of one."""
    return entry if isinstance(entry, list | tuple) else [entry]


# How intensities are brought to units that a network can take.
Normalize = Literal["z-score", "range"]


class Protocol(_Frozen):
    """What a data set may set for itself; null: the study's value, else the automatic one."""

    epochs: int | None = Field(None, ge=1, description="budget, in n_train sample-gradients each")
    batch_size: int | None = Field(None, ge=1, description="samples a step; null: by task and dims")
    patch: tuple[int, ...] | None = Field(None, description="voxels a side; null: from the shapes")
    augment: Augment | None = None
    normalize: Normalize | None = Field(None, description="z-score, or range: 0 to 1")
    target: float | None = Field(None, description="score that time-to-target counts to")


class DataEntry(Protocol):
    """One data set of a study: a prepared store, or a function of the user's own."""

    store: str = Field(description="folder of a store, or path/file.py:function")
    name: str | None = Field(None, description="its name in the results; null: the store's own")
    content: str | None = Field(None, description="hash of the store, filled in at the first run")


def _data_entry(entry: Any) -> Any:
    return {"store": entry} if isinstance(entry, str) else entry


class Study(_Frozen):
    """One question: which of these combinations is best on these data under this protocol."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="names the run folder"
    )
    data: tuple[Annotated[DataEntry, BeforeValidator(_data_entry)], ...] = Field(min_length=1)
    models: tuple[Entry, ...] = Field(min_length=1)
    optimizers: tuple[Entry, ...] = Field(min_length=1)
    losses: tuple[Entry, ...] = Field(min_length=1)
    schedules: tuple[Entry, ...] = Field(
        (Choice(name="constant"),), min_length=1, description="of the learning rate"
    )
    regularizers: tuple[Entry, ...] = Field(
        (Choice(name="none"),), min_length=1, description="none: early stopping alone"
    )
    pretrained: Annotated[tuple[Entry, ...], BeforeValidator(_several)] = Field(
        (Choice(name="none"),),
        min_length=1,
        description="weights to start from: none, imagenet, a file of weights, or a run's folder",
    )
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="weights and sample order")

    folds: int = Field(5, ge=2, description="cross-validation folds, grouped and stratified")
    repeats: int = Field(1, ge=1, description="times the data are split anew")
    split_seed: int = Field(0, ge=0, description="seed of the splits")
    inner_fraction: float = Field(0.2, gt=0, lt=0.9, description="of a training part, validation")

    epochs: int = Field(20, ge=1, description="budget, in n_train sample-gradients each")
    batch_size: int | None = Field(None, ge=1, description="samples a step; null: by task and dims")
    patch: tuple[int, ...] | None = Field(None, description="voxels a side; null: from the shapes")
    augment: Augment = Augment()  # type: ignore[call-arg]  # pydantic fills every default
    normalize: Normalize = Field(
        "z-score",
        description="intensities as standard deviations from the mean; range: lowest to highest as"
        " 0 to 1. In MRI those of a case's own brain (range: of its whole image), else of the"
        " training part",
    )
    patience: int = Field(10, ge=1, description="epochs without a better inner score")
    stop_on: Literal["score", "loss"] = Field(
        "score",
        description="inner validation stops on it; loss: as the papers do",
    )
    overlap: float = Field(0.25, ge=0, lt=1, description="overlap of sliding windows in evaluation")

    degrade: tuple[Entry, ...] = Field(
        (), description="done to test images, for how much worse the scores get: noise, blur, ..."
    )

    primary: dict[str, str] = Field(dict(PRIMARY), description="primary metric by task")
    margin: float = Field(0.01, ge=0, description="difference that does not matter in practice")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="error rate of the simultaneous intervals")
    target: float | None = Field(None, description="score that time-to-target counts to")

    loader: str = Field("auto", description="auto, or a row of `medopt list loaders`")
    threads: int | None = Field(None, ge=1, description="CPU threads a trial; null: cores / lanes")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where trials train")
    precision: str = Field("float32", description="float32, bfloat16 or float16 (by autocast)")
    channels_last: bool = Field(False, description="channels innermost in memory")
    compiled: bool = Field(
        False, description="train through torch.compile, compiled once a lane for each model"
    )
    keep_weights: bool = Field(
        False, description="keep each trial's chosen weights, for `pretrained` of a later study"
    )

    @model_validator(mode="after")
    def _names(self) -> "Study":
        for axis, what, table in (
            ("models", "model", MODELS),
            ("optimizers", "optimizer", OPTIMIZERS),
            ("losses", "loss", LOSSES),
            ("schedules", "schedule", SCHEDULES),
            ("regularizers", "regularizer", REGULARIZERS),
            ("degrade", "degradation", DEGRADATIONS),
        ):
            labels = set()
            for entry in getattr(self, axis):
                ours = axis in OURS or not is_reference(entry.name)
                if ours and entry.name not in table:
                    raise ValueError(f"{axis}: {unknown(what, entry.name, table)}")
                if entry.name in table:
                    _check_settings(what, axis, table[entry.name], entry.params)
                if entry.label in labels:
                    raise ValueError(f"{axis}: {entry.label!r} stands there twice.")
                labels.add(entry.label)
        for entry in self.pretrained:
            try:
                start_settings(entry.params)
            except ValueError as error:
                raise ValueError(f"pretrained: {error}.") from error
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: {unknown('precision', self.precision, PRECISIONS)}")
        for task, metric in self.primary.items():
            if task not in PRIMARY:
                raise ValueError(f"primary: {unknown('task', task, PRIMARY)}")
            allowed = [m.name for m in METRICS.values() if task in m.tasks]
            if metric not in allowed:
                raise ValueError(f"primary: {unknown(f'{task} metric', metric, allowed)}")
        if self.loader != "auto" and self.loader not in LOADERS:
            raise ValueError(f"loader: {unknown('loader', self.loader, ['auto', *LOADERS])}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed stands there twice.")
        return self


def _check_settings(what: str, axis: str, row: Any, params: Mapping[str, Any]) -> None:
    """Raise ValueError where `params` are no settings of a table's row."""
    try:
        if isinstance(row, Model):
            merge(f"{what} {row.name}", row.options, params)
        else:
            row.settings(params)
    except ValueError as error:
        raise ValueError(f"{axis}: {error}.") from error


def _problem(error: Mapping[str, Any]) -> str:
    loc = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        model: type[BaseModel] = Augment if "augment" in loc[:-1] else Study
        if loc[0] == "data" and "augment" not in loc:
            model = DataEntry
        if loc[0] in ENTRIES:
            return (
                f"{loc[0]}, entry {int(loc[1]) + 1}: write `name` or `name: {{parameter: value}}`."
            )
        return f"{'.'.join(loc)}: {unknown('key', loc[-1], model.model_fields)}"
    if error["type"] == "missing":
        return f"{'.'.join(loc)}: this key is required and missing."
    if error["type"] == "value_error":
        # One of an entry does not know its place in the study, one of the whole study says it.
        place = f"{loc[0]}, entry {int(loc[1]) + 1}: " if len(loc) > 1 else ""
        return f"{place}{error['ctx']['error']}"
    return f"{'.'.join(loc)}: {error['msg'].lower()} (got {error['input']!r})."


def parse_study(text: str, where: str) -> Study:
    """Validate the YAML `text` of a study. Raises StudyError that names `where` and each field."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise StudyError(f"{where}: a study is a mapping of keys to values, this is not one.")
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        # An axis that lost its one entry to another problem is not also said to be empty.
        found = error.errors()
        axes = {e["loc"][0] for e in found if len(e["loc"]) > 1}
        problems = [
            _problem(e) for e in found if e["type"] != "too_short" or e["loc"][0] not in axes
        ]
        raise StudyError("\n".join(f"{where}: {p}" for p in problems)) from error


def load_study(path: Path) -> tuple[Study, Path]:
    """Read a study file, or a ready study by its name; return it and the folder its paths start at.

    Raises StudyError if there is none, or if it does not validate.
    """
    ready = {p.stem: p for p in sorted(STUDIES.glob("*.yaml"))}
    if path.is_file():
        return parse_study(path.read_text(encoding="utf-8"), path.name), path.resolve().parent
    if str(path) in ready:
        return parse_study(ready[str(path)].read_text(encoding="utf-8"), str(path)), Path.cwd()
    raise StudyError(
        f"there is no study file {str(path)!r}, and no ready study of that name. "
        f"Ready studies: {', '.join(ready)}."
    )


def settings_of(chosen: Choice, part: str, regularizer: Choice) -> dict[str, Any]:
    """Return what is set for a part of a combination: its own entry, the regularizer over it."""
    row = REGULARIZERS[regularizer.name]
    return {**chosen.params, **row.changes(part, regularizer.params)}


# ---- trials ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination on one fold with one seed and one set of hyperparameters: a unit of work.

    Holds all that decides its result but the data themselves, which `dataset` names.
    """

    trial_id: str
    dataset: str
    task: str
    model: Choice
    optimizer: Choice
    loss: Choice
    schedule: Choice
    regularizer: Choice
    start: InitialWeights | None
    repeat: int
    fold: int
    seed: int
    epochs: int
    batch_size: int
    patch: tuple[int, ...]
    augment: Augment
    normalize: Normalize
    patience: int
    stop_on: str
    overlap: float
    primary: str
    target: float | None
    stops: bool
    mixup: float
    balance: bool
    precision: str
    channels_last: bool
    compiled: bool
    keep_weights: bool
    degrade: tuple[Choice, ...]
    loader: str
    threads: int

    def settings(self, part: Literal["model", "optimizer", "loss"]) -> dict[str, Any]:
        """Return what is set for a part: by its own entry, and over it by the regularizer."""
        return settings_of(getattr(self, part), part, self.regularizer)

    @property
    def has_own(self) -> bool:
        """Whether code of the user's own, or weights from elsewhere, decide its result too."""
        names = (self.model.name, self.optimizer.name, self.loss.name)
        return self.start is not None or any(map(is_reference, names))

    @property
    def combination(self) -> dict[str, str | None]:
        """Return data set, model, optimizer, loss and so on, as the results name them."""
        return {
            "dataset": self.dataset,
            "model": self.model.label,
            "optimizer": self.optimizer.label,
            "loss": self.loss.label,
            "schedule": self.schedule.label,
            "regularizer": self.regularizer.label,
            "pretrained": self.start.label if self.start else None,
        }


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A combination that is not run, and why."""

    trial_id: str
    dataset: str
    task: str
    model: str
    optimizer: str
    loss: str
    schedule: str
    regularizer: str
    pretrained: str | None
    reason: str


def trial_columns(trial: Trial) -> dict[str, Any]:
    """Return the columns of `trials` that the trial itself decides."""
    return {
        "trial_id": trial.trial_id,
        "task": trial.task,
        **trial.combination,
        "loader": trial.loader,
        "precision": trial.precision,
        "compiled": trial.compiled,
        "tuned": False,
        "repeat": trial.repeat,
        "fold": trial.fold,
        "seed": trial.seed,
        "primary_metric": trial.primary,
        "target": trial.target,
        "threads": trial.threads,
    }


def skip_columns(skip: Skip) -> dict[str, Any]:
    """Return the columns of `trials` that a skipped combination fills."""
    return {**asdict(skip), "status": "skipped"}
