"""Transfer learning: weights to start from, what of them fits, and which layers they keep still.

Weights come from torchvision (ImageNet), from a file, or from a trial of an earlier run. Nothing is
downloaded here and nothing that a file contains is executed (`weights_only=True`).
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from bench.core.references import StudyError
from bench.core.settings import Setting, merge
from bench.metrics.table import METRICS
from models.spec import Model
from results.tables.store import read

DEFAULTS: Mapping[str, Setting] = {
    # The first stage that trains from the start; those before it are frozen. "": none is frozen.
    "freeze_until": "",
    # Every so many epochs one more frozen stage thaws, from the head down; 0: they stay frozen.
    "unfreeze_every": 0,
    # A stage's learning rate is that of the stage above it times this.
    "lower_rate": 1.0,
    # Which data set of the earlier run, where it has several.
    "dataset": "",
}

# Keys under which training scripts put a network's state beside other things.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network_weights")
# Prefixes that wrappers (DataParallel, DistributedDataParallel, torch.compile) put before names.
PREFIXES = ("module.", "_orig_mod.")

# torchvision published DenseNet under names that its own loader mends: `norm.1.` is `norm1.` now.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights that a trial starts from, and what is kept still while it trains.

    `file` holds the state of a network, `digest` is the SHA-256 of it, `label` what results say.
    """

    label: str
    file: Path
    digest: str
    freeze_until: str
    unfreeze_every: int
    lower_rate: float

    @property
    def identity(self) -> dict[str, Any]:
        """Return what of this decides a trial's result."""
        return {
            "weights": self.digest,
            "freeze_until": self.freeze_until,
            "unfreeze_every": self.unfreeze_every,
            "lower_rate": self.lower_rate,
        }


def start_settings(params: Mapping[str, Any]) -> dict[str, Setting]:
    """Return every setting of pretrained weights; raises ValueError on a wrong one."""
    found = merge("pretrained weights", DEFAULTS, params)
    rate, every = found["lower_rate"], found["unfreeze_every"]
    if not isinstance(rate, float) or not 0 < rate <= 1:
        raise ValueError(f"lower_rate is above 0 and at most 1, not {rate}")
    if not isinstance(every, int) or every < 0:
        raise ValueError(f"unfreeze_every is 0 or a number of epochs, not {every}")
    if every and not found["freeze_until"]:
        raise ValueError("unfreeze_every thaws what freeze_until froze; set freeze_until")
    return found


# ---- where weights are ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the weights are for: a model and its label, a data set's fold, what must be unseen.

    `unseen` are the group ids of the test fold: no trial whose weights are taken may have trained
    or validated on them.
    """

    row: Model
    model: str
    dims: int
    unseen: frozenset[str]


def find(name: str, params: Mapping[str, Any], label: str, base: Path, wanted: Wanted) -> Start:
    """Find the weights that an entry of `pretrained` names: imagenet, a file, or a run's folder.

    Raises StudyError where they are not there, or where every trial of the run has trained on
    patients that this fold tests on; LookupError where this model has no such weights.
    """
    settings = start_settings(params)
    if name == "imagenet":
        file = _imagenet(wanted)
    else:
        path = (base / name).expanduser().resolve()
        if path.is_dir():
            file = _of_run(path, str(settings["dataset"]), wanted)
        elif path.is_file():
            file = path
        else:
            raise StudyError(
                f"pretrained: there is no file or run {name!r} (looked for {path}). "
                f"Choices: none, imagenet, a file of weights, the folder of a run."
            )
    return Start(
        label=label,
        file=file,
        digest=_digest(file),
        freeze_until=str(settings["freeze_until"]),
        unfreeze_every=int(settings["unfreeze_every"]),  # type: ignore[arg-type]  # merge keeps its type
        lower_rate=float(settings["lower_rate"]),  # type: ignore[arg-type]  # as above
    )


@lru_cache
def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _imagenet(wanted: Wanted) -> Path:
    if wanted.row.weights is None or wanted.dims != 2:
        raise LookupError(
            f"there are no ImageNet weights for model {wanted.row.name} in {wanted.dims}-D"
        )
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
    if not _digest(file).startswith(sign):
        raise StudyError(
            f"pretrained: {file.name} in torch's cache is not what torchvision published (its "
            f"checksum does not begin with {sign}); remove it and fetch it again."
        )
    return file


def _of_run(run: Path, dataset: str, wanted: Wanted) -> Path:
    """Return the weights of the run's best trial of this model by inner validation.

    Trials that trained on any of the `unseen` groups are left out.
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
    seen = _training_groups(run)
    clean = [
        row for row in rows if not wanted.unseen & seen[row["dataset"], row["repeat"], row["fold"]]
    ]
    if not clean:
        raise StudyError(
            f"pretrained: every trial of {wanted.model} in run {run.name!r} has trained on "
            f"patients that this study tests on. Take a run on other data, or the same folds."
        )
    sign = 1 if METRICS[clean[0]["primary_metric"]].higher_is_better else -1
    best: dict[str, Any] = max(clean, key=lambda row: (sign * row["val_score"], row["trial_id"]))
    file = run / "weights" / f"{best['trial_id']}.pt"
    if not file.is_file():
        raise StudyError(
            f"pretrained: run {run.name!r} kept no weights of its trial {best['trial_id']}. "
            f"Run its study with `keep_weights: true` (and another --out)."
        )
    return file


def _training_groups(run: Path) -> dict[tuple[str, int, int], set[str]]:
    """Return (data set, repeat, fold) -> groups that its trials saw: training and validation."""
    table = pq.read_table(run / "folds.parquet")
    seen: dict[tuple[str, int, int], set[str]] = {}
    for row in table.to_pylist():
        if row["part"] != "test":
            key = row["dataset"], row["repeat"], row["fold"]
            seen.setdefault(key, set()).add(row["group_id"])
    return seen


# ---- what of them fits ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Match:
    """What became of a network's parameters and buffers, by name.

    `taken` are as in the file, `adapted` its first convolution with other input channels, `left`
    new (the head, and what the file lacks or has in another shape), `unused` the file's rest.
    """

    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """Return the counts as a sentence for the log."""
        text = f"{len(self.taken)} tensors taken, {len(self.adapted)} adapted"
        text += f", {len(self.left)} new ({_some(self.left)})" if self.left else ""
        return text + (f", {len(self.unused)} unused ({_some(self.unused)})" if self.unused else "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def read_state(file: Path) -> dict[str, Tensor]:
    """Read a network's state from a file; raises StudyError where it holds none.

    Nothing in the file is executed. A state that stands in a checkpoint under one of WRAPPERS, or
    with one of PREFIXES before its names, is found.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its parsers raise: pickle, zip, EOF, Runtime
        # Torch's own message advises to read the file unsafely; that is not repeated.
        raise StudyError(
            f"pretrained: {file.name} cannot be read as weights. It must be what torch.save writes "
            f"of a network's state: tensors alone, whole, and no Python objects, which are not "
            f"loaded ({type(error).__name__})."
        ) from error
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise StudyError(
            f"pretrained: {file.name} holds no state of a network: a mapping of names to tensors, "
            f"or one under {', '.join(WRAPPERS)}."
        )
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    state = {OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load(network: nn.Module, row: Model, start: Start) -> Match:
    """Put the weights of `start` into a network built by `row`, as far as they fit.

    A first convolution of three input channels fits any number C of them: the mean over the three
    is repeated C times and multiplied by 3 / C, so that an image of C equal channels gives what a
    grey image in three channels gave. The head is always new: the classes are others.
    Raises StudyError where less than half of the parameters below the head find their values.
    """
    state, own = read_state(start.file), network.state_dict()
    head = row.stages(network)[-1]
    new: dict[str, Tensor] = {}
    adapted: list[str] = []
    for name, value in own.items():
        given = state.get(name)
        if given is None or _under(name, head):
            continue
        if given.shape == value.shape:
            new[name] = given
        elif name == row.first and _differ_in_channels(given, value):
            channels = value.shape[1]
            new[name] = given.mean(1, keepdim=True).expand_as(value) * (3 / channels)
            adapted.append(name)
    body = [p for p, _ in network.named_parameters() if not _under(p, head)]
    found = sum(own[p].numel() for p in body if p in new)
    whole = sum(own[p].numel() for p in body)
    match = Match(
        taken=tuple(n for n in new if n not in adapted),
        adapted=tuple(adapted),
        left=tuple(n for n in own if n not in new),
        unused=tuple(n for n in state if n not in new),
    )
    if 2 * found < whole:
        raise StudyError(
            f"pretrained: {start.file.name} does not fit model {row.name}: {found} of {whole} "
            f"parameters below the head find their values ({match}). Weights of the same model, "
            f"in the same dimensions, are needed."
        )
    network.load_state_dict(new, strict=False)
    return match


def _differ_in_channels(given: Tensor, value: Tensor) -> bool:
    """Whether `given` is a convolution of three input channels, like `value` but for those."""
    return given.shape[1] == 3 and given.shape[2:] == value.shape[2:] and len(given) == len(value)


def _under(name: str, stage: str) -> bool:
    return name == stage or name.startswith(f"{stage}.")


# ---- what is kept still --------------------------------------------------------------------


class Stages:
    """The stages of a network, from input to head: frozen, thawed, each with its own rate.

    Raises StudyError where `start.freeze_until` is none of them.
    """

    def __init__(self, network: nn.Module, row: Model, start: Start | None) -> None:
        self._network = network
        self._names = row.stages(network)
        self._start = start
        self.frozen = 0
        if start and start.freeze_until:
            if start.freeze_until not in (*self._names, "head"):
                raise StudyError(
                    f"pretrained: freeze_until is {start.freeze_until!r}; the stages of "
                    f"{row.name} are: {', '.join(self._names)}, or head for the last."
                )
            last = len(self._names) - 1
            wanted = start.freeze_until
            self.frozen = last if wanted == "head" else self._names.index(wanted)
        self._freeze()

    def groups(self, lr: float | None) -> list[dict[str, Any]] | list[nn.Parameter]:
        """Return the parameters for an optimizer: one list, or groups, each with a rate `lr`.

        `lr` is the head's rate. The last group is the head.
        """
        if self._start is None or self._start.lower_rate == 1 or lr is None:
            return list(self._network.parameters())
        top = len(self._names) - 1
        return [
            {"params": parameters, "lr": lr * self._start.lower_rate ** (top - place)}
            for place, name in enumerate(self._names)
            if (parameters := list(self._parameters(name)))
        ]

    def thaw(self, epoch: int) -> bool:
        """Thaw what is due after `epoch` epochs; return whether anything was."""
        start = self._start
        if start is None or not start.unfreeze_every or not self.frozen:
            return False
        if epoch % start.unfreeze_every:
            return False
        self.frozen -= 1
        self._freeze()
        return True

    def train(self) -> None:
        """Put the network in training mode; frozen stages keep their batch-norm statistics."""
        self._network.train()
        for name in self._names[: self.frozen]:
            self._network.get_submodule(name).eval()

    def _freeze(self) -> None:
        for place, name in enumerate(self._names):
            for parameter in self._parameters(name):
                parameter.requires_grad_(place >= self.frozen)

    def _parameters(self, stage: str) -> Iterator[nn.Parameter]:
        for name, parameter in self._network.named_parameters():
            if _under(name, stage):
                yield parameter
