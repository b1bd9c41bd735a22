"""Trial: one unit of a study's work, frozen; and the combinations that are skipped."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.core.references import is_reference
from bench.core.settings import Setting
from bench.study.choice import Choice
from bench.study.components import Combination
from bench.study.pretrained import InitialWeights
from bench.study.schema import Augment, Normalize, StopOn, Study
from bench.study.tasks import TASKS
from results.tables.axes import AXES

# Raised by a developer whenever the same settings would give other numbers than before; each
# version has a line in docs/numerics.md.
NUMERICS = 4


def labels(choices: Mapping[str, Choice]) -> dict[str, str | None]:
    """Return column -> what results call the choice on each axis."""
    return {axis.column: axis.column_value(choices[axis.column].label) for axis in AXES}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination on one fold with one seed and one set of hyperparameters: a unit of work.

    Holds all that decides its result but the data themselves, which `dataset` names. `choices` maps
    the column of each axis to the entry chosen on it.

    Of a search, `drawn` are the settings of the optimizer that its `point` has over all others, out
    of `points` in all (None: nothing was searched); a trial that tries a point is `inner_only`: it
    is scored on inner validation, and does not look at the test fold.

    `looks` is how often inner validation looks over the budget (bench.training.looks.due); None:
    after each epoch. `inference`: whether segmented images go through the network in windows or
    whole, `windows_at_once` how many of these at once (None: WINDOWS of bench.training.evaluate,
    or a batch). `cudnn_benchmark`: a GPU tries its kernels and keeps the fastest. `given_clinical`:
    whether the network is given the store's clinical data beside the image. `flipped` is the share
    of the training part's answers that are made wrong, `readers` whose answers it has
    (bench.training.samples.labels).
    """

    trial_id: str
    dataset: str
    task: str
    choices: Mapping[str, Choice]
    start: InitialWeights | None
    repeat: int
    fold: int
    seed: int
    epochs: int
    batch_size: int
    patch: tuple[int, ...]
    augment: Augment
    decay_norms: bool
    clip: float | None
    accumulate: int
    ema: float | None
    normalize: Normalize
    patience: int
    stop_on: StopOn
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
    drawn: Mapping[str, Setting] = field(default_factory=dict)
    point: int | None = None
    points: int | None = None
    inner_only: bool = False
    looks: int | None = None
    inference: str = "windows"
    given_clinical: bool = False
    flipped: float = 0.0
    readers: str = "majority"
    windows_at_once: int | None = None
    cudnn_benchmark: bool = False

    @property
    def has_own(self) -> bool:
        """Whether code of the user's own, or weights from elsewhere, decide its result too."""
        return self.start is not None or any(is_reference(c.name) for c in self.choices.values())

    @property
    def combination(self) -> dict[str, str | None]:
        """Return data set, model, optimizer, loss and so on, as the results name them."""
        return {"dataset": self.dataset, **labels(self.choices)}


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A combination that is not run, and why; `combination` is as that of a trial."""

    trial_id: str
    task: str
    combination: Mapping[str, str | None]
    reason: str


def settable(study: Study, combination: Combination) -> dict[str, Any]:
    """Return the fields of a trial that a regularizer may set, as they are without one."""
    schedule = combination.schedule
    stops = study.early_stopping
    return {
        "stops": not schedule.row.falls(schedule.settings) if stops is None else stops,
        "mixup": 0.0,
        "balance": False,
    }


def trial_columns(trial: Trial) -> dict[str, Any]:
    """Return the columns of `trials` that the trial itself decides."""
    return {
        "trial_id": trial.trial_id,
        "task": trial.task,
        **trial.combination,
        "loader": trial.loader,
        "precision": trial.precision,
        "compiled": trial.compiled,
        "tuned": trial.points is not None,
        "early_stopping": trial.stops,
        "repeat": trial.repeat,
        "fold": trial.fold,
        "seed": trial.seed,
        "primary_metric": trial.primary,
        "target": trial.target,
        "threads": trial.threads,
        "point": trial.point,
        "points": trial.points,
        "looks": trial.looks or trial.epochs,
        "inference": trial.inference if TASKS[trial.task].windows else None,
    }


def skip_columns(skip: Skip) -> dict[str, Any]:
    """Return the columns of `trials` that a skipped combination fills."""
    about = {"trial_id": skip.trial_id, "task": skip.task, "reason": skip.reason}
    return {**about, **skip.combination, "status": "skipped"}
