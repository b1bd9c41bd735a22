"""The study: the user's question, validated and frozen.

A study is one YAML file. Nine lines are enough:

    name: breast
    data: [stores/breastmnist]
    models: [plain_cnn]
    optimizers: [sgd, adam, adamw, {lbfgs: {lr: 0.5}}]
    losses: [ce, focal]
    epochs: 25

Everything else has a documented default, which the field descriptions below state.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from bench.core.precision import PRECISIONS
from bench.core.references import StudyError, unknown
from bench.metrics.degradations import DEGRADATIONS
from bench.metrics.table import METRICS
from bench.study.axes import STUDY_AXES
from bench.study.choice import Choice, Entry, check_distinct, check_entry
from bench.study.ready import find_study
from bench.study.tasks import TASKS
from loaders.batches.table import LOADERS
from results.statistics.race import MOST_LOOKS
from results.tables.axes import AXES, Axis
from results.tables.protocol import DEFAULTS
from results.yaml_text import TextError, load_yaml, read_text

# What may grow between two starts of a run: the axes, the data, the seeds.
GROWING = ("data", *(axis.key for axis in AXES), "seeds")
# Keys whose entries are a name, or a name with settings.
ENTRIES = (*(axis.key for axis in AXES), "degrade")

StopOn = Literal["score", "loss"]

_Entry = TypeVar("_Entry")


# Least and greatest value of otherwise unbounded numbers, by their key. Seeds go into int64
# columns; the other limits are far beyond what anybody trains with: assumption.
_WITHIN: dict[str, tuple[float, float]] = {
    "seeds": (0, 2**63 - 1),
    "split_seed": (0, 2**63 - 1),
    "folds": (2, 1000),
    "repeats": (1, 100),
    "epochs": (1, 1_000_000),
    "batch_size": (1, 1_000_000),
    "patch": (1, 16_384),
    "patience": (1, 1_000_000),
    "looks": (1, 1_000_000),
    "overlap": (0, 0.95),  # 20 windows along each side of a patch
    "threads": (1, 1024),
    "windows_at_once": (1, 1024),
    "points": (2, 1024),
    "rotate": (0, 180),
    "shift": (0, 100),
    "noise": (0, 100),
    "gamma": (0, 100),
}
# More trials than this are a mistake in the study, and would fill memory before anything is
# reported: the whole catalogue with five folds and three seeds has a sixth as many. Assumption.
MOST_TRIALS = 1_000_000


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false in place of a number: pydantic reads them as 1 and 0."""
        kind = cls.model_fields[str(info.field_name)].annotation
        entries = value if isinstance(value, list) else [value]
        truths = [entry for entry in entries if isinstance(entry, bool)]
        if truths and not _takes(bool, kind):
            raise ValueError(
                f"must be a number or a text, not {str(truths[0]).lower()}; YAML reads yes, no, on "
                f"and off as true and false: put such a word in quotes."
            )
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _within(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse numbers out of _WITHIN."""
        if info.field_name in _WITHIN and value is not None:
            if value == ():
                raise ValueError("needs at least 1 entry.")
            least, most = _WITHIN[info.field_name]
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, str) and not least <= number <= most:
                    raise ValueError(f"must lie between {least} and {most}, not {_short(number)}.")
        return value


def _takes(kind: type, annotation: Any) -> bool:
    return annotation is kind or any(_takes(kind, part) for part in get_args(annotation))


class Augment(_Frozen):
    """Augmentation draws: the same for every optimizer and loss at one fold and seed."""

    flip: bool | tuple[bool, ...] = Field(
        True,
        description="mirror with probability one half along each spatial axis (of a clip, not in"
        " time), or along the axes that a list of true and false chooses",
    )
    scale: float = Field(0.1, ge=0, lt=1, description="multiply intensities by 1 ± this, uniform")
    shift: float = Field(
        0.1, ge=0, description="add ± this in normalised units (see `normalize`), uniform"
    )
    foreground: float = Field(
        0.5, ge=0, le=1, description="share of segmentation patches placed on a foreground voxel"
    )
    translate: float = Field(
        0.0, ge=0, lt=1, description="move by ± this share of the patch, along every axis"
    )
    rotate: float | tuple[float, ...] = Field(
        0.0,
        description="greatest angle in degrees (of a clip, within its frames); in 3-D a list may"
        " give one for each axis",
    )
    zoom: float = Field(
        0.0, ge=0, lt=1, description="magnify by 1 ± this, all axes alike (of a clip, its time too)"
    )
    noise: float = Field(
        0.0, ge=0, description="Gaussian, of a standard deviation up to this in normalised units"
    )
    contrast: float = Field(
        0.0, ge=0, lt=1, description="multiply distances from the mean by 1 ± this"
    )
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
            f"augment.{name}: {list(values)} has {len(values)} entries; "
            f"images of this data set need {number}."
        )
    return values


def _several(entry: Any) -> Any:
    """Read one value as a list of one."""
    return entry if isinstance(entry, list | tuple) else [entry]


class Tuning(_Frozen):
    """A search over each optimizer's own space, separately in each fold, by inner validation."""

    points: int = Field(
        5, ge=2, description="settings tried for each combination in each fold, the defaults first"
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of the draws")
    search: Literal["sobol", "optuna", "asha", "bohb"] = Field(
        "sobol",
        description="sobol: the draws, fold by fold, with a verdict; optuna (its TPE sampler), asha"
        " (the draws, stopped early) and bohb (asha, settings by BOHB's model once it has enough"
        " points) search by Ray Tune and give no verdict",
    )


class UntilDecided(_Frozen):
    """An optional stopping rule: repeats are added while they can decide; looks share alpha."""

    looks: int = Field(
        MOST_LOOKS, ge=2, le=MOST_LOOKS, description="most looks that the verdict may take"
    )
    step: int | None = Field(
        None, ge=1, description="repeats before the first and each further look; null: `repeats`"
    )


def _known(what: str, names: Iterable[str]) -> AfterValidator:
    """Return a validator that refuses a text that is not one of `names`."""
    choices = list(names)

    def check(name: str) -> str:
        if name not in choices:
            raise ValueError(unknown(what, name, choices))
        return name

    return AfterValidator(check)


class Speed(_Frozen):
    """How one model is computed on one data set, where it differs from the study."""

    channels_last: bool | None = None
    compiled: bool | None = None
    precision: Annotated[str, _known("precision", PRECISIONS)] | None = None
    cudnn_benchmark: bool | None = None
    cuda_graph: bool | None = None
    windows_at_once: int | None = None

    @model_serializer(mode="plain")
    def _set(self) -> dict[str, Any]:
        return {key: value for key, value in self if value is not None}


class Fastest(_Frozen):
    """Choices beyond those that change no score: other precisions may be measured and taken."""

    precision: tuple[Annotated[str, _known("precision", PRECISIONS)], ...] = Field(
        (), description="precisions that may be chosen, beside the study's own"
    )


def _fastest(given: Any) -> Any:
    """Return the setting `speed` as a mapping, or None if it is off."""
    if given == "auto":
        return {}
    if isinstance(given, dict | Fastest) or given is None:
        return given
    raise ValueError(
        f"must be auto, {{precision: [those that may be chosen]}} or null, not {_short(given)}."
    )


# How intensities are scaled for the network.
Normalize = Literal["z-score", "range"]


class Protocol(_Frozen):
    """What a data set may set for itself; null: the study's value, or else the automatic one."""

    epochs: int | None = Field(None, ge=1, description="budget, in n_train sample-gradients each")
    batch_size: int | None = Field(None, ge=1, description="samples a step; null: by task and dims")
    patch: tuple[int, ...] | None = Field(None, description="voxels a side; null: from the shapes")
    augment: Augment | None = None
    normalize: Normalize | None = Field(None, description="z-score, or range: 0 to 1")
    target: float | None = Field(None, description="score that time-to-target counts to")


class DataEntry(Protocol):
    """One data set of a study: a prepared store, or a function of the user's own."""

    store: str = Field(
        min_length=1, max_length=1000, description="folder of a store, or path/file.py:function"
    )
    name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="its name in the results; null: the store's own",
    )
    content: str | None = Field(None, description="hash of the store, filled in at the first run")
    test: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="folder of another store, all of whose cases are the test set of every fold;"
        " training and inner validation follow the folds of `store`",
    )
    patients: Literal["others"] | None = Field(
        None, description="others: `test` and `store` share no patient, whatever their ids say"
    )
    n_folds: int | None = Field(
        None, ge=1, description="number of predefined folds, filled in at the first run"
    )
    deviation: float | None = Field(
        None,
        gt=0,
        description="standard deviation of the numbers to predict, the unit of the margin; filled"
        " in at the first run if the study names no margin and the primary metric is in their unit",
    )
    speed: dict[str, Speed] | None = Field(
        None,
        description="model -> how it is computed on these data, if not as the study says; filled"
        " in at the first run if the study says `speed: auto`",
    )


def _data_entry(entry: Any) -> Any:
    return {"store": entry} if isinstance(entry, str) else entry


class _Asked(_Frozen):
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="names the run folder"
    )
    data: tuple[Annotated[DataEntry, BeforeValidator(_data_entry)], ...] = Field(min_length=1)


def _entries(check: Callable[[Choice], None]) -> Any:
    """Return the type of a list of entries, each checked by itself and none listed twice."""

    def checked(entry: Choice) -> Choice:
        check(entry)
        return entry

    one = Annotated[Entry, AfterValidator(checked)]
    return Annotated[tuple[one, ...], AfterValidator(check_distinct)]


def _axis_field(axis: Axis) -> tuple[Any, Any]:
    """Return the field of an axis: a list of entries, by default the plain one."""
    kind = _entries(STUDY_AXES[axis.key].check)
    if STUDY_AXES[axis.key].single:
        kind = Annotated[kind, BeforeValidator(_several)]
    default: Any = (Choice(name=axis.plain),) if axis.plain else ...
    return kind, Field(default, min_length=1, description=STUDY_AXES[axis.key].about)


def _primary(given: dict[str, str]) -> dict[str, str]:
    """Return the primary metric of every task, `given` over the defaults; raises ValueError."""
    for task, metric in given.items():
        if task not in TASKS:
            raise ValueError(unknown("task", task, TASKS))
        allowed = [m.name for m in METRICS.values() if TASKS[task].served_by in m.tasks]
        if metric not in allowed:
            raise ValueError(unknown(f"{task} metric", metric, allowed))
    return {**{row.name: row.primary for row in TASKS.values()}, **given}


def _folds(given: Any) -> Any:
    """Return a number of folds, or the text that names predefined splits."""
    try:
        number = float(given)
    except (TypeError, ValueError):
        if isinstance(given, str) and given.strip():
            return given
        raise ValueError(f"{_FOLDS}, not {_short(given)}.") from None
    except OverflowError:
        return given  # a number far out of range, refused later
    if not number.is_integer():
        raise ValueError(f"{_FOLDS}, not {_short(given)}.")
    return int(given) if isinstance(given, int) else int(number)


_FOLDS = (
    "must be a number of folds, official, or the name of a splits_final.json or of a column that"
    " the store keeps"
)


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed is listed twice.")
    return seeds


def _looks(given: Any) -> Any:
    """Return a number of looks, `auto`, or None."""
    if given is None or given == "auto":
        return given
    if isinstance(given, int | float) and float(given).is_integer():
        return int(given)
    raise ValueError(
        f"must be a number of looks over the budget, auto, or null for one after each epoch, not"
        f" {_short(given)}."
    )


_fields: dict[str, Any] = {axis.key: _axis_field(axis) for axis in AXES}
_WithAxes = create_model("_WithAxes", __base__=_Asked, **_fields)


class Study(_WithAxes):  # type: ignore[misc, valid-type]  # a field an axis: made of a table
    """One question: which of these combinations is best on these data under this protocol."""

    seeds: Annotated[tuple[int, ...], AfterValidator(_each_once)] = Field(
        (0,), min_length=1, description="seeds of the initial weights and the sample order"
    )

    folds: Annotated[int | str, BeforeValidator(_folds)] = Field(
        DEFAULTS["folds"],
        description="cross-validation folds, grouped and stratified; or predefined splits: official"
        " (the source's train, val and test), a splits_final.json of nnU-Net's, or a column that"
        " the store keeps, each value of which is tested once (fold numbers, sites)",
    )
    repeats: int = Field(DEFAULTS["repeats"], ge=1, description="how often the data are split")
    split_seed: int = Field(0, ge=0, description="seed of the splits")
    inner_fraction: float = Field(
        DEFAULTS["inner_fraction"],
        gt=0,
        lt=0.9,
        description="share of each training part kept for inner validation",
    )

    epochs: int = Field(20, ge=1, description="budget, in n_train sample-gradients each")
    batch_size: int | None = Field(None, ge=1, description="samples a step; null: by task and dims")
    patch: tuple[int, ...] | None = Field(None, description="voxels a side; null: from the shapes")
    augment: Augment = Augment()  # type: ignore[call-arg]  # pydantic fills every default
    decay_norms: bool = Field(
        True, description="apply weight decay to norms and biases too, not only to weight matrices"
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
        " couple the samples of a batch, see one batch at a time",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="evaluate and keep an exponential moving average of the weights, of this decay"
        " per step, such as 0.999",
    )
    normalize: Normalize = Field(
        DEFAULTS["normalize"],
        description="z-score: intensities in standard deviations from the mean; range: lowest to"
        " highest as 0 to 1. Statistics are of each case's own brain in MRI (range: of its whole"
        " image), else of the training part",
    )
    early_stopping: bool | None = Field(
        None,
        description="end a trial by patience; null: unless the schedule's rate falls until the end"
        " of the budget, because a trial that ended early would see only its high rates",
    )
    patience: int = Field(
        DEFAULTS["patience"],
        ge=1,
        description="looks at inner validation without a better score after which a trial ends",
    )
    looks: Annotated[int | str | None, BeforeValidator(_looks)] = Field(
        "auto",
        description="how often a trial looks at inner validation, evenly over its budget, the last"
        " time at its end; null: after each epoch; auto: as often as keeps evaluation within 15 %"
        " of the passes through the network, at least 5 times but at most once per epoch. Fixed as"
        " a number at the first run",
    )
    stop_on: StopOn = Field(
        DEFAULTS["stop_on"],
        description="what inner validation watches for early stopping; loss: as the papers do",
    )
    overlap: float = Field(0.25, ge=0, lt=1, description="overlap of sliding windows in evaluation")
    inference: Literal["windows", "whole"] = Field(
        "windows",
        description="how segmented images are evaluated: in sliding windows of the patch, or whole,"
        " in one pass, if the network takes any size; networks with instance normalisation score"
        " lower on whole images if patches are much smaller than images",
    )

    degrade: _entries(partial(check_entry, "degradation", table=DEGRADATIONS)) = Field(  # type: ignore[valid-type]  # made of a table
        (), description="degrade test images, to see how far scores fall: noise, blur, ..."
    )

    primary: Annotated[dict[str, str], AfterValidator(_primary)] = Field(
        {row.name: row.primary for row in TASKS.values()}, description="primary metric by task"
    )
    margin: float | None = Field(
        None,
        ge=0,
        description="largest difference that does not matter in practice, in the primary metric's"
        f" unit; null: {DEFAULTS['margin']}, for mae and rmse {DEFAULTS['margin']} standard"
        " deviations of the numbers to predict",
    )
    alpha: float = Field(
        DEFAULTS["alpha"], gt=0, lt=0.5, description="error rate of the simultaneous intervals"
    )
    race: float | None = Field(
        None,
        gt=0,
        description="level at which `medopt run --race`, after the first seed, drops combinations "
        "that cannot be the best; it is taken off alpha. null: all combinations run on all seeds",
    )
    until_decided: UntilDecided | None = Field(
        None,
        description="`medopt run --until-decided`: add repeats while they can decide, up to a "
        "number of looks, which share alpha; null: repeats are as they are",
    )
    target: float | None = Field(None, description="score that time-to-target counts to")
    tuning: Tuning | None = Field(
        None, description="search each optimizer's own space first: `medopt tune`; null: do not"
    )

    loader: Annotated[str, _known("loader", ["auto", *LOADERS])] = Field(
        "auto", description="auto, or a row of `medopt list loaders`"
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads per trial; null: 1 on a CPU, more if memory holds too few trials "
        "or fewer lanes are asked for; on a GPU, usable cores / lanes",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where trials train")
    precision: Annotated[str, _known("precision", PRECISIONS)] = Field(
        "float32", description="float32, bfloat16 or float16 (by autocast)"
    )
    channels_last: bool = Field(False, description="channels innermost in memory")
    compiled: bool = Field(
        False, description="train through torch.compile; each lane compiles each model once"
    )
    windows_at_once: int | None = Field(
        None,
        ge=1,
        description="windows of segmented images that go through the network at once; null: 4, or"
        " the batch size of training",
    )
    cudnn_benchmark: bool = Field(
        False,
        description="cuDNN tries its convolution kernels and keeps the fastest. The next run may"
        " keep another one: the same trial then differs in its last bits",
    )
    cuda_graph: bool = Field(
        False,
        description="on a GPU, train through CUDA graphs of the network: small networks need two"
        " launches a step in place of one for each kernel",
    )
    speed: Annotated[Fastest | None, BeforeValidator(_fastest)] = Field(
        None,
        description="auto: the settings that compute each model fastest on this device are measured"
        " before the first trial and written into the run; {precision: [float32, bfloat16]}: these"
        " may be chosen too; null: all as the study says",
    )
    keep_weights: bool = Field(
        False, description="keep each trial's chosen weights, for `pretrained` of a later study"
    )

    resolved: dict[str, dict[str, dict[str, Any]]] = Field(
        {}, description="written by a run, without effect: every setting of each entry, by axis"
    )

    def entries(self, key: str) -> tuple[Choice, ...]:
        """Return the entries of an axis, by its key."""
        found: tuple[Choice, ...] = getattr(self, key)
        return found

    @model_validator(mode="after")
    def _level_is_left(self) -> "Study":
        if self.race is not None and self.race >= self.alpha:
            raise ValueError(
                f"race: the drop takes {self.race:g} of alpha, which is {self.alpha:g}; some of it "
                f"must be left for the verdict."
            )
        return self

    @model_validator(mode="after")
    def _can_look(self) -> "Study":
        if self.until_decided is not None:
            if isinstance(self.folds, str):
                raise ValueError(
                    f"until_decided: predefined splits (folds: {self.folds}) cannot be dealt anew, "
                    f"so there are no repeats to add."
                )
            if self.tuning is not None:
                raise ValueError(
                    "until_decided: a tuned study cannot add repeats yet; leave out "
                    "`until_decided` or `tuning`."
                )
        return self

    @model_validator(mode="after")
    def _as_given(self) -> "Study":
        if isinstance(self.folds, str):
            if self.repeats > 1:
                raise ValueError(
                    f"repeats: predefined splits (folds: {self.folds}) cannot be dealt anew; leave "
                    f"repeats out."
                )
            if own := [entry.store for entry in self.data if entry.test is not None]:
                raise ValueError(
                    f"data: {own[0]!r} has a test store, so folds must be a number, not "
                    f"{self.folds!r}: each fold of the store is inner validation once."
                )
        return self

    @model_validator(mode="after")
    def _speeds_of_its_models(self) -> "Study":
        models = [entry.label for entry in self.entries("models")]
        for number, entry in enumerate(self.data):
            for name in entry.speed or {}:
                if name not in models:
                    place = _place(("data", number, "speed"))
                    raise ValueError(f"{place}{unknown('model', name, models)}")
        return self

    @model_validator(mode="after")
    def _not_endless(self) -> "Study":
        axes = [len(self.entries(axis.key)) for axis in AXES]
        folds = 1 if isinstance(self.folds, str) else self.folds
        # The trials of each seed, and those of a search.
        each = len(self.seeds) + (self.tuning.points if self.tuning else 0)
        trials = math.prod([*axes, len(self.data), each, folds, self.repeats])
        if trials > MOST_TRIALS:
            raise ValueError(
                f"its axes, folds, repeats, seeds and points make {trials} trials; at most "
                f"{MOST_TRIALS} are allowed."
            )
        return self


def as_computed(study: Study, entry: DataEntry, model: str) -> Study:
    """Return a study with the settings that a model is computed with on one of its data sets."""
    own = (entry.speed or {}).get(model)
    return study if own is None else study.model_copy(update=own.model_dump())


def tuning_of(study: Study) -> Tuning:
    """Return how a study is tuned: by the defaults unless it says otherwise."""
    return study.tuning or Tuning()  # type: ignore[call-arg]  # pydantic fills every default


def with_tuning(study: Study, points: int | None, search: str | None = None) -> Study:
    """Return a tuned study, with these `points` and this `search` if they are given.

    Raises StudyError if the study cannot be tuned so.
    """
    given = {"points": points, "search": search}
    asked = {key: value for key, value in given.items() if value is not None}
    asked = tuning_of(study).model_dump() | asked
    return _changed(study, tuning=asked)


def _changed(study: Study, **fields: Any) -> Study:
    """Return a study with other values in some fields; raises StudyError if they are invalid."""
    try:
        checked = Study.model_validate(study.model_dump() | fields)
    except ValidationError as error:
        raise StudyError("\n".join(_problems(error.errors()))) from error
    found: Study = study.model_copy(update={name: getattr(checked, name) for name in fields})
    return found


def search_of(study: Study) -> str | None:
    """Return the search of a tuned study, None for one that is not tuned."""
    return study.tuning.search if study.tuning else None


# The share of alpha that a drop takes by default: the level at which the best was never dropped in
# simulated studies (tests/results/statistics).
RACE_LEVEL = 0.01


def with_race(study: Study) -> Study:
    """Return a study that is raced, at its own level or the usual one.

    Raises StudyError if that leaves nothing of alpha.
    """
    level = RACE_LEVEL if study.race is None else study.race
    return _changed(study, race=level)


def with_speeds(study: Study, run: Study) -> Study:
    """Return a study whose models are computed as in a run of the same data, in the same order."""
    models = {entry.label for entry in study.entries("models")}
    data = tuple(
        entry.model_copy(
            update={"speed": made.speed and {k: v for k, v in made.speed.items() if k in models}}
        )
        for entry, made in zip(study.data, run.data, strict=True)
    )
    found: Study = study.model_copy(update={"data": data})
    return found


def with_twice_the_budget(study: Study, run: Study) -> Study:
    """Return a study of only the first seed, with twice the epochs.

    `run` is the study as it was run: it gives what was automatic, and the looks to double.
    """
    assert run.looks != "auto", "a run has fixed its looks"
    data = tuple(
        entry.model_copy(update={"epochs": entry.epochs and 2 * entry.epochs})
        for entry in with_speeds(study, run).data
    )
    return _changed(
        study,
        epochs=2 * study.epochs,
        data=[entry.model_dump() for entry in data],
        looks=run.looks and 2 * run.looks,
        device=run.device,
        threads=run.threads,
        loader=run.loader,
        seeds=study.seeds[:1],
        race=None,
        until_decided=None,
    )


def with_until_decided(study: Study) -> Study:
    """Return a study that adds repeats until it is decided, with its first look fixed.

    Raises StudyError if it cannot add repeats.
    """
    rule = study.until_decided or UntilDecided()  # type: ignore[call-arg]  # pydantic fills every default
    step = study.repeats if rule.step is None else rule.step
    return _changed(study, until_decided={"looks": rule.looks, "step": step})


# ---- what is wrong, in sentences ---------------------------------------------------------------

# What pydantic adds to the place of an error for each type that a value may have.
_KINDS = {"bool": "true or false", "float": "a number", "tuple[float, ...]": "a list of numbers"}
_KINDS |= {"tuple[bool, ...]": "a list of true and false"}


def _problems(errors: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each place of a study where pydantic finds something wrong."""
    entries = {e["loc"][0] for e in errors if len(e["loc"]) > 1}
    several: dict[tuple[Any, ...], tuple[list[str], Any]] = {}
    for error in errors:
        loc = error["loc"]
        if loc and loc[-1] in _KINDS:
            wanted, _ = several.setdefault(loc[:-1], ([], error["input"]))
            wanted.append(_KINDS[loc[-1]])
        # An axis whose only entry has another problem is not reported as empty too.
        elif error["type"] != "too_short" or loc[0] not in entries:
            yield from _problem(error).splitlines()
    for loc, (wanted, given) in several.items():
        if len(wanted) > 1:  # else one kind fits, but for an entry that was reported above
            yield f"{_place(loc)}must be {' or '.join(wanted)}, not {_short(given)}."


def _place(loc: Sequence[Any]) -> str:
    """Return a place in a study, to begin a sentence with: `data, entry 1, augment.flip: `."""
    said = ""
    for part in loc:
        if isinstance(part, int):
            said += f", entry {part + 1}"
        elif part not in _KINDS:
            said += f"{', ' if said[-1:].isdigit() else '.' if said else ''}{part}"
    return f"{said}: " if said else ""


_AS_ENTRY = "write `name` or `name: {parameter: value}`"
# An example of each setting that is a mapping, by its key.
AS_MAPPING = {
    "augment": "augment: {flip: false}",
    "params": "name: {parameter: value}",
    "primary": "primary: {segmentation: dice}",
    "speed": "speed: {plain_cnn: {channels_last: true}}",
    "tuning": "tuning: {points: 5}",
    "until_decided": "until_decided: {looks: 3}",
}
_AS_DATA = "write the folder of a store, or `{store: folder, name: its name in the results}`"


def _problem(error: Mapping[str, Any]) -> str:
    loc, given = error["loc"], error.get("input")
    of_entry = f"{_place(loc)}{_AS_DATA if loc[:1] == ('data',) else _AS_ENTRY}"
    match error["type"]:
        case "extra_forbidden" if loc[0] in ENTRIES:
            return f"{_place(loc[:2])}{_AS_ENTRY}."
        case "extra_forbidden":
            model: type[BaseModel] = DataEntry if loc[0] == "data" else Study
            model = Augment if "augment" in loc[:-1] else model
            return f"{_place(loc[:-1])}{unknown('key', str(loc[-1]), model.model_fields)}"
        case "value_error":
            return f"{_place(loc)}{error['ctx']['error']}"
        case "missing":
            return f"{_place(loc)}this key is required but missing."
        case "string_pattern_mismatch":
            return (
                f"{_place(loc)}must be letters, digits, '.', '_' and '-', at most 64, starting "
                f"with a letter or digit, not {_short(given)}."
            )
        case "too_short":
            return f"{_place(loc)}needs at least 1 entry."
        case "invalid_key":
            return f"{_place(loc[:-1])}the key {loc[-1]!r} is not a text."
        case "string_type" if loc[-1] == "[key]":
            return f"{_place(loc[:-2])}the key {loc[-2]!r} is not a text."
        case "tuple_type":
            as_list = f"[{given}]" if isinstance(given, str | int | float) else "[...]"
            write = f"write `{loc[-1]}: {as_list}`"
            return f"{_place(loc)}must be a list, not {_short(given)}; {write}."
        case "model_type" if len(loc) == 2 and isinstance(loc[1], int):
            return f"{of_entry}, not {_short(given)}."
        case "model_type" | "dict_type":
            example = AS_MAPPING.get(str(loc[-1]))
            write = f"; write it as in `{example}`" if example else ""
            return f"{_place(loc)}must be a mapping of keys to values, not {_short(given)}{write}."
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{_place(loc)}{message} (got {_short(given)}){_meaning(loc)}."


def _meaning(loc: Sequence[Any]) -> str:
    """Return what a setting of augmentation means, for the end of a sentence: it tells the unit."""
    known = Augment.model_fields.get(str(loc[-1])) if "augment" in loc[:-1] else None
    return f"; {loc[-1]}: {known.description}" if known else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_study(text: str, where: str) -> Study:
    """Validate the YAML `text` of a study. Raises StudyError that names `where` and each field."""
    try:
        raw = load_yaml(text)
    except TextError as error:
        raise StudyError(f"{where}: {error}.") from error
    if not text.strip():
        raise StudyError(f"{where}: the file is empty.")
    if not isinstance(raw, dict):
        raise StudyError(f"{where}: a study must be a mapping of keys to values.")
    try:
        study: Study = Study.model_validate(raw)
    except ValidationError as error:
        said = dict.fromkeys(_problems(error.errors()))
        raise StudyError("\n".join(f"{where}: {problem}" for problem in said)) from error
    return study


def read_study(path: Path, where: str) -> Study:
    """Read a study from a file; raises StudyError that names `where` and each field."""
    try:
        text = read_text(path)
    except TextError as error:
        named_so = path.suffix in (".yaml", ".yml")
        if not named_so and isinstance(error.__cause__, UnicodeDecodeError):
            raise StudyError(f"{where}: not a study file, which is YAML text in UTF-8.") from error
        raise StudyError(f"{where}: {error}.") from error
    return parse_study(text, where)


def load_study(path: Path) -> tuple[Study, Path]:
    """Read a study file, or a ready study by its name; return it and the base folder of its paths.

    Raises StudyError if there is none, or if it does not validate.
    """
    file = find_study(path)
    return read_study(file.path, file.called), file.base
