"""Study: what is asked, frozen and validated.

A study is one YAML file. Nine lines are enough:

    name: breast
    data: [stores/breastmnist]
    models: [plain_cnn]
    optimizers: [sgd, adam, adamw, {lbfgs: {lr: 0.5}}]
    losses: [ce, focal]
    epochs: 25

Everything else has a documented default, which the field descriptions below state.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from bench.core.precision import PRECISIONS
from bench.core.references import StudyError, unknown
from bench.metrics.degradations import DEGRADATIONS
from bench.metrics.table import METRICS
from bench.study.axes import STUDY_AXES
from bench.study.choice import Choice, Entry, check_entries
from bench.study.tasks import TASKS
from loaders.batches.table import LOADERS
from results.tables.axes import AXES, Axis
from results.tables.protocol import DEFAULTS

STUDIES = Path(__file__).parents[1] / "ready_studies"
# What may grow while a run is made: the axes, the data, the seeds.
GROWING = ("data", *(axis.key for axis in AXES), "seeds")
# Keys whose entries are a name, or a name with settings.
ENTRIES = (*(axis.key for axis in AXES), "degrade")

StopOn = Literal["score", "loss"]

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


class _Asked(_Frozen):
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="names the run folder"
    )
    data: tuple[Annotated[DataEntry, BeforeValidator(_data_entry)], ...] = Field(min_length=1)


def _axis_field(axis: Axis) -> tuple[Any, Any]:
    """Return the field of an axis: a list of entries, the plain one where it is left out."""
    kind: Any = tuple[Entry, ...]
    if STUDY_AXES[axis.key].single:
        kind = Annotated[kind, BeforeValidator(_several)]
    default: Any = (Choice(name=axis.plain),) if axis.plain else ...
    return kind, Field(default, min_length=1, description=STUDY_AXES[axis.key].about)


_fields: dict[str, Any] = {axis.key: _axis_field(axis) for axis in AXES}
_WithAxes = create_model("_WithAxes", __base__=_Asked, **_fields)


class Study(_WithAxes):  # type: ignore[misc, valid-type]  # a field an axis: made of a table
    """One question: which of these combinations is best on these data under this protocol."""

    seeds: tuple[int, ...] = Field((0,), min_length=1, description="weights and sample order")

    folds: int = Field(
        DEFAULTS["folds"], ge=2, description="cross-validation folds, grouped and stratified"
    )
    repeats: int = Field(DEFAULTS["repeats"], ge=1, description="times the data are split anew")
    split_seed: int = Field(0, ge=0, description="seed of the splits")
    inner_fraction: float = Field(
        DEFAULTS["inner_fraction"], gt=0, lt=0.9, description="of a training part, validation"
    )

    epochs: int = Field(20, ge=1, description="budget, in n_train sample-gradients each")
    batch_size: int | None = Field(None, ge=1, description="samples a step; null: by task and dims")
    patch: tuple[int, ...] | None = Field(None, description="voxels a side; null: from the shapes")
    augment: Augment = Augment()  # type: ignore[call-arg]  # pydantic fills every default
    decay_norms: bool = Field(
        True, description="weight decay on norms and biases too, not on weight matrices alone"
    )
    clip: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="gradients of a greater norm (L2, over all parameters) are scaled down to it",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="batches whose gradients are summed for one step; batch norms, and losses that"
        " couple the samples of a batch, see one at a time",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="judge and keep an exponential moving average of the weights, of this decay a"
        " step, such as 0.999",
    )
    normalize: Normalize = Field(
        DEFAULTS["normalize"],
        description="intensities as standard deviations from the mean; range: lowest to highest as"
        " 0 to 1. In MRI those of a case's own brain (range: of its whole image), else of the"
        " training part",
    )
    early_stopping: bool | None = Field(
        None,
        description="end a trial by patience; null: but where the schedule's rate falls to the end"
        " of the budget, of which a trial that ended early would see the high rates alone",
    )
    patience: int = Field(
        DEFAULTS["patience"],
        ge=1,
        description="looks at inner validation, one after each epoch or longer step, without a"
        " better score",
    )
    stop_on: StopOn = Field(
        DEFAULTS["stop_on"],
        description="inner validation stops on it; loss: as the papers do",
    )
    overlap: float = Field(0.25, ge=0, lt=1, description="overlap of sliding windows in evaluation")

    degrade: tuple[Entry, ...] = Field(
        (), description="done to test images, for how much worse the scores get: noise, blur, ..."
    )

    primary: dict[str, str] = Field(
        {row.name: row.primary for row in TASKS.values()}, description="primary metric by task"
    )
    margin: float = Field(
        DEFAULTS["margin"], ge=0, description="difference that does not matter in practice"
    )
    alpha: float = Field(
        DEFAULTS["alpha"], gt=0, lt=0.5, description="error rate of the simultaneous intervals"
    )
    target: float | None = Field(None, description="score that time-to-target counts to")

    loader: str = Field("auto", description="auto, or a row of `medopt list loaders`")
    threads: int | None = Field(
        None, ge=1, description="CPU threads a trial; null: usable cores / lanes"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where trials train")
    precision: str = Field("float32", description="float32, bfloat16 or float16 (by autocast)")
    channels_last: bool = Field(False, description="channels innermost in memory")
    compiled: bool = Field(
        False, description="train through torch.compile, compiled once a lane for each model"
    )
    keep_weights: bool = Field(
        False, description="keep each trial's chosen weights, for `pretrained` of a later study"
    )

    def entries(self, key: str) -> tuple[Choice, ...]:
        """Return the entries of an axis, by its key."""
        found: tuple[Choice, ...] = getattr(self, key)
        return found

    @model_validator(mode="after")
    def _names(self) -> "Study":
        for axis in AXES:
            STUDY_AXES[axis.key].check(axis.key, self.entries(axis.key))
        check_entries("degrade", "degradation", self.degrade, DEGRADATIONS)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: {unknown('precision', self.precision, PRECISIONS)}")
        for task, metric in self.primary.items():
            if task not in TASKS:
                raise ValueError(f"primary: {unknown('task', task, TASKS)}")
            allowed = [m.name for m in METRICS.values() if TASKS[task].served_by in m.tasks]
            if metric not in allowed:
                raise ValueError(f"primary: {unknown(f'{task} metric', metric, allowed)}")
        if self.loader != "auto" and self.loader not in LOADERS:
            raise ValueError(f"loader: {unknown('loader', self.loader, ['auto', *LOADERS])}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is listed twice.")
        return self


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
        study: Study = Study.model_validate(raw)
    except ValidationError as error:
        # An axis that lost its one entry to another problem is not also said to be empty.
        found = error.errors()
        axes = {e["loc"][0] for e in found if len(e["loc"]) > 1}
        problems = [
            _problem(e) for e in found if e["type"] != "too_short" or e["loc"][0] not in axes
        ]
        raise StudyError("\n".join(f"{where}: {p}" for p in problems)) from error
    return study


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
