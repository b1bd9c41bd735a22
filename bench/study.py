"""Study and Trial: what is asked, frozen and validated, and its expansion into units of work.

A study is one YAML file. Nine lines are enough:

    name: breast
    data: [stores/breastmnist]
    models: [plain_cnn]
    optimizers: [sgd, adam, adamw, {lbfgs: {lr: 0.5}}]
    losses: [ce, focal]
    epochs: 25

Everything else has a documented default, which the field descriptions below state.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bench.datasets import DataSet, automatic_patch
from bench.losses import LOSSES
from bench.metrics import METRICS, PRIMARY
from bench.optimizers import OPTIMIZERS
from bench.refs import StudyError, is_reference, unknown
from bench.rows import loss_row, model_row, optimizer_row
from loaders import LOADERS
from loaders.folds import split_hash
from models import MODELS

# Raised by a developer whenever the same settings would give other numbers than before.
NUMERICS = 1

STUDIES = Path(__file__).parent / "studies"
AXES = ("data", "models", "optimizers", "losses", "seeds")

# Batch by (task, dims): what an 8 GB GPU and a laptop both hold. Assumption.
BATCH = {
    ("classification", 2): 32,
    ("classification", 3): 8,
    ("segmentation", 2): 16,
    ("segmentation", 3): 2,
}


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Augment(_Frozen):
    """Augmentation draws: the same for every optimizer and loss at one fold and seed."""

    flip: bool = Field(True, description="flip each spatial axis with probability one half")
    scale: float = Field(0.1, ge=0, lt=1, description="multiply intensities by 1 ± this, uniform")
    shift: float = Field(0.1, ge=0, description="add ± this many standard deviations, uniform")
    foreground: float = Field(
        0.5, ge=0, le=1, description="share of segmentation patches placed on foreground"
    )


class Choice(_Frozen):
    """One entry of an axis: a row of a table or a reference, and the parameters set for it."""

    name: str
    params: dict[str, Any] = {}

    @property
    def label(self) -> str:
        """Return the name that results carry: `sgd`, `sgd(lr=0.05)`, `my_net` for a reference."""
        short = self.name.rpartition(":")[2]
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


class Protocol(_Frozen):
    """What a data set may set for itself; null: the study's value, else the automatic one."""

    epochs: int | None = Field(None, ge=1, description="budget, in n_train sample-gradients each")
    batch_size: int | None = Field(None, ge=1, description="samples a step; null: by task and dims")
    patch: tuple[int, ...] | None = Field(None, description="voxels a side; null: from the shapes")
    augment: Augment | None = None
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
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="weights and sample order")

    folds: int = Field(5, ge=2, description="cross-validation folds, grouped and stratified")
    repeats: int = Field(1, ge=1, description="times the data are split anew")
    split_seed: int = Field(0, ge=0, description="seed of the splits")
    inner_fraction: float = Field(0.2, gt=0, lt=0.9, description="of a training part, validation")

    epochs: int = Field(20, ge=1, description="budget, in n_train sample-gradients each")
    batch_size: int | None = Field(None, ge=1, description="samples a step; null: by task and dims")
    patch: tuple[int, ...] | None = Field(None, description="voxels a side; null: from the shapes")
    augment: Augment = Augment()  # type: ignore[call-arg]  # pydantic fills every default
    patience: int = Field(10, ge=1, description="epochs without a better inner score")
    stop_on: Literal["score", "loss"] = Field(
        "score",
        description="inner validation stops on it; loss: as the papers do",
    )
    overlap: float = Field(0.25, ge=0, lt=1, description="overlap of sliding windows in evaluation")

    primary: dict[str, str] = Field(dict(PRIMARY), description="primary metric by task")
    margin: float = Field(0.01, ge=0, description="difference that does not matter in practice")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="error rate of the simultaneous intervals")
    target: float | None = Field(None, description="score that time-to-target counts to")

    loader: str = Field("auto", description="auto, or a row of `medopt list loaders`")
    threads: int | None = Field(None, ge=1, description="CPU threads a trial; null: cores / lanes")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where trials train")

    @model_validator(mode="after")
    def _names(self) -> "Study":
        for axis, what, table in (
            ("models", "model", MODELS),
            ("optimizers", "optimizer", OPTIMIZERS),
            ("losses", "loss", LOSSES),
        ):
            labels = set()
            for entry in getattr(self, axis):
                if not is_reference(entry.name) and entry.name not in table:
                    raise ValueError(f"{axis}: {unknown(what, entry.name, table)}")
                if entry.params and axis == "models":
                    raise ValueError(f"{axis}: {entry.name!r} takes no parameters here.")
                if entry.label in labels:
                    raise ValueError(f"{axis}: {entry.label!r} stands there twice.")
                labels.add(entry.label)
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


def _problem(error: Mapping[str, Any]) -> str:
    loc = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        model: type[BaseModel] = Augment if "augment" in loc[:-1] else Study
        if loc[0] == "data" and "augment" not in loc:
            model = DataEntry
        if loc[0] in ("models", "optimizers", "losses"):
            return (
                f"{loc[0]}, entry {int(loc[1]) + 1}: write `name` or `name: {{parameter: value}}`."
            )
        return f"{'.'.join(loc)}: {unknown('key', loc[-1], model.model_fields)}"
    if error["type"] == "missing":
        return f"{'.'.join(loc)}: this key is required and missing."
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
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
        problems = [_problem(e) for e in error.errors()]
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
    repeat: int
    fold: int
    seed: int
    epochs: int
    batch_size: int
    patch: tuple[int, ...]
    augment: Augment
    patience: int
    stop_on: str
    overlap: float
    primary: str
    target: float | None
    loader: str
    threads: int

    @property
    def combination(self) -> tuple[str, str, str, str]:
        """Return data set, model, optimizer and loss, as the results name them."""
        return self.dataset, self.model.label, self.optimizer.label, self.loss.label


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A combination that is not run, and why."""

    trial_id: str
    dataset: str
    task: str
    model: str
    optimizer: str
    loss: str
    reason: str


def _hash(decides: Mapping[str, Any]) -> str:
    text = json.dumps(decides, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def expand(study: Study, sets: Sequence[DataSet], base: Path) -> tuple[list[Trial], list[Skip]]:
    """Expand a resolved study into trials with stable ids, and skips with their reason.

    Trials come fold by fold, each fold holding every combination, so that a run cut short has
    whole folds to compare. `base` is the folder that references in the study start at.
    Raises StudyError if a reference cannot be loaded, or nothing is left to run.
    """
    trials: list[Trial] = []
    skips: list[Skip] = []
    for entry, data in zip(study.data, sets, strict=True):
        meta = data.store.meta
        epochs = entry.epochs or study.epochs
        patch = entry.patch or study.patch or automatic_patch(data.store)
        batch = entry.batch_size or study.batch_size or BATCH[meta.task, meta.dims]
        augment = entry.augment or study.augment
        target = study.target if entry.target is None else entry.target
        if len(patch) != meta.dims:
            raise StudyError(
                f"patch: {list(patch)} has {len(patch)} sides, {data.name!r} has {meta.dims}."
            )
        runnable = []
        for model in study.models:
            for optimizer in study.optimizers:
                for loss in study.losses:
                    m, o, f = (
                        model_row(model.name, base),
                        optimizer_row(optimizer.name, optimizer.params, base),
                        loss_row(loss.name, loss.params, base),
                    )
                    identity = {
                        "model": m.identity,
                        "optimizer": o.identity,
                        "hparams": o.row.settings(optimizer.params),
                        "loss": f.identity,
                        "loss_settings": f.row.settings(loss.params),
                        "content": data.store.content_hash,
                    }
                    reason = m.row.unfit(task=meta.task, dims=meta.dims, patch=patch)
                    if not reason and meta.task not in f.row.tasks:
                        reason = f"loss {loss.label} is not for {meta.task}"
                    if reason:
                        skips.append(
                            Skip(
                                trial_id=_hash({**identity, "skipped": reason}),
                                dataset=data.name,
                                task=meta.task,
                                model=model.label,
                                optimizer=optimizer.label,
                                loss=loss.label,
                                reason=reason,
                            )
                        )
                    else:
                        runnable.append((model, optimizer, loss, identity))
        settings: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": batch,
            "patch": patch,
            "augment": augment,
            "patience": study.patience,
            "stop_on": study.stop_on,
            "overlap": study.overlap,
            "primary": study.primary[meta.task],
            "target": target,
            "threads": study.threads,
        }
        decides = {**settings, "augment": augment.model_dump(), "numerics": NUMERICS}
        decides["device"] = study.device
        for split in data.splits:
            folds = split_hash(split, data.store.hashes)
            for seed in study.seeds:
                for model, optimizer, loss, identity in runnable:
                    where: dict[str, Any] = {
                        "repeat": split.repeat,
                        "fold": split.fold,
                        "seed": seed,
                    }
                    trials.append(
                        Trial(
                            trial_id=_hash({**decides, **identity, **where, "split": folds}),
                            dataset=data.name,
                            task=meta.task,
                            model=model,
                            optimizer=optimizer,
                            loss=loss,
                            # The loaders give the same samples to the bit (tests hold them to it),
                            # so which one reads does not decide a result and is not in the id.
                            loader=study.loader,
                            **where,
                            **settings,
                        )
                    )
    if not trials:
        reasons = "; ".join(sorted({s.reason for s in skips}))
        raise StudyError(f"no combination of this study can run: {reasons}.")
    return trials, skips


def trial_columns(trial: Trial) -> dict[str, Any]:
    """Return the columns of `trials` that the trial itself decides."""
    return {
        "trial_id": trial.trial_id,
        "dataset": trial.dataset,
        "task": trial.task,
        "model": trial.model.label,
        "optimizer": trial.optimizer.label,
        "loss": trial.loss.label,
        "schedule": "constant",
        "regularizer": "none",
        "pretrained": None,
        "loader": trial.loader,
        "precision": "float32",
        "compiled": False,
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
