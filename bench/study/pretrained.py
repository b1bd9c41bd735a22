"""Finds the weights that a trial starts from.

Weights come from torchvision (ImageNet), from a file, or from a trial of an earlier run. Nothing is
downloaded. bench/training/transfer.py loads them.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.core.references import StudyError
from bench.core.settings import Setting, merge
from bench.metrics.table import METRICS
from loaders.sampling.folds import FoldError, read_folds
from models.spec import Model
from results.tables.store import read

# Beside the tables of a run: the part of each case in each fold.
FOLDS = "folds.parquet"

DEFAULTS: Mapping[str, Setting] = {
    # The lowest stage that trains from the start; those below it are frozen. "": none is frozen.
    "freeze_until": "",
    # After this many epochs one more stage thaws, from the head down; 0: they stay frozen.
    "unfreeze_every": 0,
    # The learning rate of a stage is this times that of the stage above it.
    "lower_rate": 1.0,
    # The data set of the earlier run, if it has several.
    "dataset": "",
    # Whether the earlier run saw patients of the test fold: ids are "compared", or, if ids cannot
    # tell, the user asserts that they are "others".
    "patients": "compared",
}
PATIENTS = ("compared", "others")


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """The weights that a trial starts from, and which layers stay frozen while it trains.

    `file` holds the state of a network, `digest` is its SHA-256, and `label` is the name in the
    results. The other three are settings of DEFAULTS.
    """

    label: str
    file: Path
    digest: str
    freeze_until: str
    unfreeze_every: int
    lower_rate: float

    @property
    def identity(self) -> dict[str, Any]:
        """Return the part of this that decides a trial's result."""
        return {
            "weights": self.digest,
            "freeze_until": self.freeze_until,
            "unfreeze_every": self.unfreeze_every,
            "lower_rate": self.lower_rate,
        }


def start_settings(given: Mapping[str, Any]) -> dict[str, Setting]:
    """Return every setting of pretrained weights; raises ValueError if one is wrong."""
    found = merge("pretrained weights", DEFAULTS, given)
    rate, every = found["lower_rate"], found["unfreeze_every"]
    if not isinstance(rate, float) or not 0 < rate <= 1:
        raise ValueError(f"lower_rate must be above 0 and at most 1, not {rate}")
    if not isinstance(every, int) or every < 0:
        raise ValueError(f"unfreeze_every must be 0 or a number of epochs, not {every}")
    if every and not found["freeze_until"]:
        raise ValueError("unfreeze_every thaws what freeze_until froze; set freeze_until")
    if found["patients"] not in PATIENTS:
        raise ValueError(f"patients must be {' or '.join(PATIENTS)}, not {found['patients']!r}")
    return found


# ---- where they are found ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class People:
    """The patients of some cases, as far as ids tell.

    `ids` are of cases and of the source's groups, `images` of pixel values. Ids made with another
    key, or from another kind of source, always differ, even for the same patient; `key` is the
    fingerprint of the key (None: not known). An image has the same id in every kind.
    """

    ids: frozenset[str]
    images: frozenset[str]
    kind: str | None
    key: str | None


@dataclass(frozen=True, kw_only=True)
class WeightsNeeded:
    """What the weights are needed for: a model in 2 or 3 dimensions, and one fold of a data set.

    `model` is its label in the results. `test` are the patients of the test fold: a trial whose
    weights are taken must not have trained or validated on any of them.
    """

    row: Model
    model: str
    dims: int
    test: People


def find(
    name: str, given: Mapping[str, Any], label: str, base: Path, wanted: WeightsNeeded
) -> InitialWeights:
    """Find the weights that an entry of `pretrained` names: imagenet, a file, or a run's folder.

    Raises StudyError if they are missing, or if every trial of the run has trained on patients that
    this fold tests on, or may have (see `_fault`); LookupError if there are none for this model.
    """
    settings = start_settings(given)
    others = settings["patients"] == "others"
    if name == "imagenet":
        file = _imagenet(wanted)
    else:
        path = (base / name).expanduser().resolve()
        if path.is_dir():
            file = _of_run(path, str(settings["dataset"]), wanted, others=others)
        elif path.is_file():
            _check_file(path, wanted, others=others)
            file = path
        else:
            raise StudyError(
                f"pretrained: there is no file or run {name!r} (looked for {path}). "
                f"Choices: none, imagenet, a file of weights, the folder of a run."
            )
    return InitialWeights(
        label=label,
        file=file,
        digest=weights_digest(file),
        freeze_until=str(settings["freeze_until"]),
        unfreeze_every=int(settings["unfreeze_every"]),  # type: ignore[arg-type]  # merge keeps its type
        lower_rate=float(settings["lower_rate"]),  # type: ignore[arg-type]  # as above
    )


def weights_digest(file: Path) -> str:
    """Return the SHA-256 of a file of weights; raises OSError."""
    state = file.stat()
    return _digest(file, state.st_size, state.st_mtime_ns)


@lru_cache
def _digest(file: Path, _size: int, _date: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _imagenet(wanted: WeightsNeeded) -> Path:
    if wanted.row.weights is None or wanted.dims != 2:
        raise LookupError(
            f"there are no ImageNet weights for model {wanted.row.name} in {wanted.dims}-D; "
            f"`pretrained` also takes a file of weights"
        )
    import torch
    from torchvision.models import get_weight

    url: str = get_weight(wanted.row.weights).url
    file = Path(str(torch.hub.get_dir())) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        raise StudyError(
            f"pretrained: the ImageNet weights of {wanted.row.name} are not in torch's cache, and "
            f"nothing is downloaded while a study runs. On a machine with a network, run "
            f'`python -c "from torchvision.models import get_weight; '
            f"get_weight('{wanted.row.weights}').get_state_dict()\"`; that leaves the file "
            f"{file.name}, which belongs in {file.parent} (TORCH_HOME moves it)."
        )
    # torchvision writes the first digits of the file's SHA-256 at the end of its name.
    sign: str = file.stem.rpartition("-")[2]
    if not weights_digest(file).startswith(sign):
        raise StudyError(
            f"pretrained: {file.name} in torch's cache is not what torchvision published (its "
            f"checksum does not begin with {sign}); remove it and fetch it again."
        )
    return file


def _check_file(file: Path, wanted: WeightsNeeded, *, others: bool) -> None:
    """Raise StudyError if a file is from the `weights` of a run and its trial cannot be taken.

    Whoever names any other file must know which patients it was trained on.
    """
    run = file.parent.parent
    if file.parent.name != "weights" or not (run / FOLDS).is_file():
        return
    for row in read(run, "trials", trials=[file.stem]).to_pylist():
        if fault := _fault(row, _trained_on(run), wanted.test, others=others):
            raise StudyError(f"pretrained: the trial of {file.name} in run {run.name!r} {fault}")


def _of_run(run: Path, dataset: str, wanted: WeightsNeeded, *, others: bool) -> Path:
    """Return the weights of the run's best trial of this model by inner validation.

    Trials that trained on a patient of the test fold, or may have, are left out.
    """
    rows = [row for row in read(run, "trials").to_pylist() if row["status"] == "ok"]
    sets = sorted({row["dataset"] for row in rows})
    if dataset:
        rows = [row for row in rows if row["dataset"] == dataset]
    if not rows or (len(sets) > 1 and not dataset):
        raise StudyError(
            f"pretrained: {run.name!r} has finished trials on: {', '.join(sets) or 'nothing'}. "
            f"Name one: {{{run.name}: {{dataset: NAME}}}}."
        )
    models = sorted({row["model"] for row in rows})
    rows = [row for row in rows if row["model"] == wanted.model]
    if not rows:
        raise LookupError(
            f"run {run.name} has no weights of model {wanted.model} (it has {', '.join(models)})"
        )
    trained_on = _trained_on(run)
    faults = [_fault(row, trained_on, wanted.test, others=others) for row in rows]
    clean = [row for row, fault in zip(rows, faults, strict=True) if fault is None]
    if not clean:
        (fault, _), *more = Counter(faults).most_common()
        raise StudyError(
            f"pretrained: {'most trials' if more else 'every trial'} of {wanted.model} in run "
            f"{run.name!r} {fault}"
        )
    sign = 1 if METRICS[clean[0]["primary_metric"]].higher_is_better else -1

    def rank(row: dict[str, Any]) -> tuple[float, str]:
        # Where inner validation had nothing to score, it has no score.
        score = row["val_score"]
        return -math.inf if score is None else sign * score, row["trial_id"]

    best: dict[str, Any] = max(clean, key=rank)
    file = run / "weights" / f"{best['trial_id']}.pt"
    if not file.is_file():
        raise StudyError(
            f"pretrained: run {run.name!r} kept no weights of its trial {best['trial_id']}. "
            f"Run its study with `keep_weights: true`, in another run folder."
        )
    return file


def _fault(
    row: Mapping[str, Any],
    trained_on: Mapping[tuple[str, int, int], People],
    test: People,
    *,
    others: bool,
) -> str | None:
    """Return why the weights of a trial cannot be taken, None if they can.

    `others`: the user says that its patients are others. That settles ids that cannot be compared,
    and equal names in two sets, but not equal images.
    """
    seen = trained_on.get((row["dataset"], row["repeat"], row["fold"]))
    if seen is None:
        return f"cannot be taken: {FOLDS} of that run does not say what it trained on."
    if seen.key == test.key and seen.images & test.images:
        return (
            "has trained on patients that this study tests on (even on the same images). Take a "
            "run on other data, or with the same folds."
        )
    if others:
        return None
    unknown = None
    if seen.key is None:
        unknown = "does not say which key made its ids (an older version made it)"
    elif seen.key != test.key:
        unknown = "has ids that were made with another key than those of this study's store"
    elif seen.kind != test.kind:
        unknown = f"has ids of another kind of source ({seen.kind}, here {test.kind})"
    elif row["pretrained"] and not row["pretrained"].startswith("imagenet"):
        unknown = f"started from pretrained weights itself ({row['pretrained']})"
    if unknown:
        return (
            f"{unknown}, so it may have trained on patients that this study tests on. If it has "
            f"not, say so: `patients: others` beside the entry's other settings."
        )
    if seen.ids & test.ids:
        return (
            "has trained on patients that this study tests on. Take a run on other data, or with "
            "the same folds; if these are other patients of the same names, say "
            "`patients: others`."
        )
    return None


def _trained_on(run: Path) -> dict[tuple[str, int, int], People]:
    """Return (data set, repeat, fold) -> the patients its trials saw in training and validation."""
    try:
        table = read_folds(run / FOLDS)
    except FoldError as error:
        raise StudyError(
            f"pretrained: {error}; so the patients it trained on are not known"
        ) from error
    rows: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        if row["part"] != "test":
            rows.setdefault((row["dataset"], row["repeat"], row["fold"]), []).append(row)
    return {
        where: People(
            ids=frozenset(row[name] for row in of for name in ("case_id", "source_group_id")),
            images=frozenset(row["image_id"] for row in of) - {None},
            kind=of[0]["kind"],
            key=of[0]["key"],
        )
        for where, of in rows.items()
    }
