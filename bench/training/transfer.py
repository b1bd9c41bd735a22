"""Transfer learning: put pretrained weights into a network, and freeze and thaw its layers.

bench/study/pretrained.py finds the weights. Nothing that a file contains is executed
(`weights_only=True`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.references import StudyError
from bench.study.pretrained import InitialWeights, weights_digest
from models.spec import Model

# Keys under which training scripts put a network's state beside other things.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network_weights")
# Prefixes that wrappers (DataParallel, DistributedDataParallel, torch.compile) put before names.
PREFIXES = ("module.", "_orig_mod.")

# torchvision's DenseNet weights have old names that its own loader changes: `norm.1.` to `norm1.`.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclass(frozen=True, kw_only=True)
class Match:
    """What happened to a network's parameters and buffers, by name.

    `taken` are as in the file. `adapted` is the first convolution, changed to the number of input
    channels. `left` keep their initial values: the head, and whatever the file lacks or has in
    another shape. `unused` are names in the file that the network did not use.
    """

    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """Return the counts in words, for the log."""
        text = f"{len(self.taken)} tensors taken, {len(self.adapted)} adapted"
        text += f", {len(self.left)} new ({_some(self.left)})" if self.left else ""
        return text + (f", {len(self.unused)} unused ({_some(self.unused)})" if self.unused else "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def read_state(file: Path) -> dict[str, Tensor]:
    """Read a network's state from a file; raises StudyError if the file holds none.

    Nothing in the file is executed. The state may be inside a checkpoint, under one of the keys in
    WRAPPERS, and its names may begin with one of PREFIXES.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its parsers raise: pickle, zip, EOF, Runtime
        # Torch's own message advises reading the file unsafely, so it is not passed on.
        raise StudyError(
            f"pretrained: {file.name} cannot be read as weights. It must be a complete file that "
            f"torch.save wrote from a network's state, with tensors only: other Python objects are "
            f"not loaded ({type(error).__name__})."
        ) from error
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise StudyError(
            f"pretrained: {file.name} does not hold the state of a network, which is a mapping of "
            f"names to tensors, or one under {', '.join(WRAPPERS)}."
        )
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    state = {OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_weights(network: nn.Module, row: Model, start: InitialWeights) -> Match:
    """Put the weights of `start` into a network built by `row`, as far as they fit.

    A first convolution of three input channels fits any number C of them: the mean over the three
    is repeated C times and multiplied by 3 / C, so that an image of C equal channels gives the same
    as a grey image in three channels. The head keeps its initial weights, since its classes differ.
    Raises StudyError if the file has changed since planning, or if it has fewer than half of the
    parameters below the head.
    """
    if weights_digest(start.file) != start.digest:
        raise StudyError(
            f"pretrained: {start.file.name} has changed since the study was planned. Restore it, "
            f"or repeat the command: trials with other weights are other trials."
        )
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
            f"pretrained: {start.file.name} does not fit model {row.name}: it has {found} of "
            f"{whole} parameters below the head ({match}). Take weights of the same model in the "
            f"same dimensions."
        )
    network.load_state_dict(new, strict=False)
    return match


def _differ_in_channels(given: Tensor, value: Tensor) -> bool:
    """Return whether `given` is like `value`, but a convolution of three input channels."""
    return given.shape[1] == 3 and given.shape[2:] == value.shape[2:] and len(given) == len(value)


def _under(name: str, stage: str) -> bool:
    return name == stage or name.startswith(f"{stage}.")


class LayerGroups:
    """The stages of a network from input to head, frozen or thawed, each with its own rate.

    `frozen` is the number of lowest stages that do not train now. Raises StudyError if
    `start.freeze_until` is not one of the stages.
    """

    def __init__(self, network: nn.Module, row: Model, start: InitialWeights | None) -> None:
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
        self._at_first = self.frozen
        self.freeze(self.frozen)

    def groups(
        self, lr: float | None, *, decay_norms: bool = True
    ) -> list[dict[str, Any]] | list[nn.Parameter]:
        """Return the parameters for an optimizer: one list, or groups that each have a rate `lr`.

        `lr` is the head's rate, and the head is the last group. Without `decay_norms` each group is
        split in two: weights, and one-dimensional parameters (scales and shifts of norms, biases),
        which do not decay.
        """
        groups = self._rates(lr)
        if decay_norms:
            return groups if len(groups) > 1 else groups[0]["params"]
        whole = [{**g, "params": [p for p in g["params"] if p.ndim > 1]} for g in groups]
        flat = [
            {**g, "params": [p for p in g["params"] if p.ndim <= 1], "weight_decay": 0.0}
            for g in groups
        ]
        return [g for pair in zip(whole, flat, strict=True) for g in pair if g["params"]]

    def _rates(self, lr: float | None) -> list[dict[str, Any]]:
        if self._start is None or self._start.lower_rate == 1 or lr is None:
            return [{"params": list(self._network.parameters())}]
        top = len(self._names) - 1
        return [
            {"params": parameters, "lr": lr * self._start.lower_rate ** (top - place)}
            for place, name in enumerate(self._names)
            if (parameters := list(self._parameters(name)))
        ]

    def thaw(self, epoch: int) -> bool:
        """Thaw the stages that are due after `epoch` epochs; return whether there were any.

        Several may be due at once: a step of L-BFGS may spend many epochs.
        """
        start = self._start
        if start is None or not start.unfreeze_every:
            return False
        due = max(self._at_first - epoch // start.unfreeze_every, 0)
        if due >= self.frozen:
            return False
        self.freeze(due)
        return True

    def freeze(self, count: int) -> None:
        """Freeze the lowest `count` stages and thaw all others."""
        self.frozen = count
        for place, name in enumerate(self._names):
            for parameter in self._parameters(name):
                parameter.requires_grad_(place >= count)

    def train(self) -> None:
        """Put the network in training mode; frozen stages keep their batch-norm statistics."""
        self._network.train()
        modules = dict(self._network.named_modules())
        for name in self._names[: self.frozen]:
            if name in modules:  # a stage may be a parameter, which has no mode
                modules[name].eval()

    def _parameters(self, stage: str) -> Iterator[nn.Parameter]:
        for name, parameter in self._network.named_parameters():
            if _under(name, stage):
                yield parameter
