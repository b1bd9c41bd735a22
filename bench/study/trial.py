"""Trials, the frozen units of a study's work, and the combinations that are skipped."""

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

# A developer raises it whenever the same settings would give other numbers than before; each
# version has a line in docs/numerics.md.
NUMERICS = 4


def labels(choices: Mapping[str, Choice]) -> dict[str, str | None]:
    """Return column -> name in the results of the choice on each axis."""
    return {axis.column: axis.column_value(choices[axis.column].label) for axis in AXES}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination on one fold with one seed and one set of hyperparameters: a unit of work.

    Holds all that decides its result except the data, which `dataset` names. `choices` maps the
    column of each axis to the entry chosen on it.

    In a search, `drawn` are the optimizer settings of its `point`, which override all others;
    `points` is the number of points (None: nothing was searched). A trial that tries a point is
    `inner_only`: it is scored on inner validation and does not touch the test fold.

    `looks` is how often a trial looks at inner validation over its budget
    (bench.training.looks.due); None: after each epoch. `inference`: whether segmented images go
    through the network in windows or whole; `windows_at_once`: how many windows at once (None:
    WINDOWS of bench.training.evaluate, or a batch). `cudnn_benchmark`: cuDNN tries its kernels and
    keeps the fastest; `cuda_graph`: training replays the network's kernels as CUDA graphs.
    `given_clinical`: whether the network gets the store's clinical data beside the image. `flipped`
    is the share of training answers that are made wrong, `readers` says which readers' answers are
    trained on (bench.training.samples.labels).
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
    cuda_graph: bool = False

    @property
    def has_own(self) -> bool:
        """Whether the user's own code or pretrained weights contribute to its result."""
        return self.start is not None or any(is_reference(c.name) for c in self.choices.values())

    @property
    def combination(self) -> dict[str, str | None]:
        """Return the data set, model, optimizer, loss and so on, by their names in the results."""
        return {"dataset": self.dataset, **labels(self.choices)}


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A combination that is not run, and why; `combination` has the form of a trial's."""

    trial_id: str
    task: str
    combination: Mapping[str, str | None]
    reason: str


def settable(study: Study, combination: Combination) -> dict[str, Any]:
    """Return the fields of a trial that a regularizer may set, with their values without one."""
    schedule = combination.schedule
    stops = study.early_stopping
    return {
        "stops": not schedule.row.falls(schedule.settings) if stops is None else stops,
        "mixup": 0.0,
        "balance": False,
    }


def trial_columns(trial: Trial) -> dict[str, Any]:
    """Return the columns of the table `trials` that the trial itself decides."""
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
    """Return the columns of the table `trials` that a skipped combination fills."""
    about = {"trial_id": skip.trial_id, "task": skip.task, "reason": skip.reason}
    return {**about, **skip.combination, "status": "skipped"}
