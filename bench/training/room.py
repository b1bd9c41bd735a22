"""The room on a machine: how much memory a trial takes, and how many trials train side by side.

Memory is estimated before anything is trained, from what a forward pass keeps for the backward
pass, counted on the meta device, which computes nothing. Unknown amounts are rounded up: too few
trials side by side cost time, too many cost the run.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from bench.core.references import is_reference
from bench.losses.supervision import logits_of
from bench.study.components import Combination, Component
from bench.study.dataset import DataSet
from bench.study.trial import Trial
from bench.training.networks import build_model, flops_per_sample, weightless
from loaders.memory import usable_memory
from models.spec import Model
from results import text

# A process that has imported torch, MONAI, DALI and our own, before it trains: 0.9 GiB (measured).
PROCESS_BYTES = 5 * 2**28
# The share of free memory that trials may take: other users of the machine need some too.
# Assumption.
SHARE = 0.8
# Copies of the parameters: the network, its gradients, the chosen weights and their average, two
# buffers of an optimizer and the material of its update. Assumption.
COPIES = 8
# L-BFGS keeps the last steps and gradients in pairs, `history_size` of 10 unless it is set;
# Shampoo, SOAP and PSGD-Kron keep matrices. Assumption.
COPIES_OF_LARGE_STATES = 30
LARGE_STATES = frozenset({"lbfgs", "psgd_kron", "shampoo", "soap"})
# Factor for the gradients of what the forward pass keeps, and for what convolutions and the
# allocator need besides. Assumption, checked by a test.
OVER_SAVED = 2.5
# Copies of the logits and of the image of a whole case while it is scored: logits, their weights
# and sums over windows, probabilities in float64, maps of distance. Assumption.
OVER_CASE = 8
# A network that cannot be counted: the user's own, whose code is not called here. Assumption.
UNKNOWN_BYTES = 6 * 2**30

# Most trials that share a GPU: eight kept an H200 and 16 cores busy, at two trials of a small
# network per second (measured); more were not tried.
MOST_ON_A_GPU = 8
# A step of more operations than this fills a GPU by itself: an H100 takes a millisecond for them in
# TF32, no less than launching the kernels of a step of a small network (which takes 3.3 ms on an
# H200, of which the GPU is busy for 0.4 ms: measured). Assumption.
FILLS_A_GPU = 3e11
# Threads of a trial on a GPU, for its loader's work on the CPU: the most that are of use, and those
# that one of several trials needs, which also launches its steps. Assumption.
THREADS_BESIDE_A_GPU = 8
THREADS_SHARING_A_GPU = 2
# The host memory of a process that trains on a GPU. Assumption.
HOST_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many trials train at once, with how many threads each, and `why` in a sentence."""

    lanes: int
    threads: int
    why: str


def side_by_side(*, cores: int, threads: int | None, needed: int, usable: int) -> Room:
    """Return how many trials should train at once on these cores and bytes of memory.

    `needed` are the bytes of one trial, `usable` those that are free. With `threads` None a trial
    gets one thread, and more if memory holds fewer trials than there are cores: small networks
    train faster side by side than with several threads each (467 ms a step against 280 on two
    cores, measured).
    """
    fit = max(int(SHARE * usable / needed), 1)
    lanes = max(min(cores // (threads or 1), fit), 1)
    each = max(threads or cores // lanes, 1)
    limit = "memory" if fit < cores // (threads or 1) else "cores"
    why = (
        f"{text.count(lanes, 'trial')} at once, {text.count(each, 'thread')} each, by the {limit}: "
        f"{text.count(cores, 'core')}, memory for {fit} "
        f"({_gib(usable)} free, a trial takes {_gib(needed)} at most)"
    )
    return Room(lanes=lanes, threads=each, why=why)


def room(
    trials: Sequence[Trial],
    data: Callable[[str], DataSet],
    base: Path,
    *,
    device: str,
    cores: int,
    threads: int | None = None,
) -> Room:
    """Return how many of these trials should train at once on this machine's CPU or GPU.

    `data` returns a data set by its name; `base` is the folder that references in the study are
    relative to; `threads` are those of a trial, None to choose them.
    """
    needed = most_bytes(trials, data, base)
    if device == "cpu":
        return side_by_side(cores=cores, threads=threads, needed=needed, usable=usable_memory())
    return sharing_a_gpu(
        cores=cores,
        threads=threads,
        operations=_most_operations(trials, data, base),
        needed=needed,
        free=torch.cuda.mem_get_info()[0],
        usable=usable_memory(),
        gpus=torch.cuda.device_count(),
    )


def sharing_a_gpu(
    *,
    cores: int,
    threads: int | None,
    operations: float | None,
    needed: int,
    free: int,
    usable: int,
    gpus: int,
) -> Room:
    """Return how many trials should share a GPU: several if the steps of one leave it idle.

    `operations` are those of the largest step (None: not known), `needed` the bytes of one trial on
    the GPU, `free` the free bytes there, `usable` those of the machine's memory. The first of
    several `gpus` is used.
    """
    where = "the GPU" if gpus == 1 else f"the first of {gpus} GPUs (`--ray` takes them all)"
    if operations is None or operations > FILLS_A_GPU:
        size = "is not known" if operations is None else f"is {operations / 1e9:.0f} GFLOP"
        each = threads or min(cores, THREADS_BESIDE_A_GPU)
        return Room(lanes=1, threads=each, why=f"1 trial at once on {where}: a step {size}")
    by = {
        "cores": cores // (threads or THREADS_SHARING_A_GPU),
        "GPU's memory": int(SHARE * free / needed),
        "memory": int(SHARE * usable / HOST_BYTES),
        "most that share a GPU": MOST_ON_A_GPU,
    }
    limit = min(by, key=by.__getitem__)
    lanes = max(by[limit], 1)
    each = threads or max(min(cores // lanes, THREADS_BESIDE_A_GPU), 1)
    why = (
        f"{text.count(lanes, 'trial')} at once on {where}, by the {limit}: a step is "
        f"{operations / 1e9:.1f} GFLOP, which leaves it idle"
    )
    return Room(lanes=lanes, threads=each, why=why)


def _most_operations(
    trials: Sequence[Trial], data: Callable[[str], DataSet], base: Path
) -> float | None:
    """Return the floating-point operations of the largest gradient; None if any is unknown."""
    found = [0.0]
    for trial in {(t.dataset, t.choices["model"].label): t for t in trials}.values():
        model = Combination(choices=trial.choices, base=base).model
        if is_reference(model.row.name):
            return None
        of_one = flops_per_sample(model, data(trial.dataset).path, trial.patch)
        found.append(trial.batch_size * of_one)
    return max(found)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def most_bytes(trials: Sequence[Trial], data: Callable[[str], DataSet], base: Path) -> int:
    """Estimate the bytes of the largest of these trials; `data` returns a data set by its name."""
    kinds: dict[tuple[str, str], dict[str, Trial]] = {}
    for trial in trials:
        of_kind = kinds.setdefault((trial.dataset, trial.choices["model"].label), {})
        of_kind.setdefault(trial.choices["optimizer"].label, trial)
    return max(_kind_bytes(list(found.values()), data, base) for found in kinds.values())


def _kind_bytes(trials: Sequence[Trial], data: Callable[[str], DataSet], base: Path) -> int:
    """Estimate the bytes of the largest of these trials of one model on one data set."""
    parts = [Combination(choices=trial.choices, base=base) for trial in trials]
    first = trials[0]
    return trial_bytes(
        parts[0].model,
        data(first.dataset),
        patch=first.patch,
        batch=max(first.batch_size * part.optimizer.row.batch_multiple for part in parts),
        optimizers=[part.optimizer.row.name for part in parts],
    )


def trial_bytes(
    model: Component[Model],
    data: DataSet,
    *,
    patch: tuple[int, ...],
    batch: int,
    optimizers: Iterable[str],
) -> int:
    """Estimate the peak memory in bytes of a trial's process, if in doubt too high.

    `batch` is the number of samples of one gradient; the largest of `optimizers` (names) counts.
    The store is memory-mapped, and so not counted.
    """
    if is_reference(model.row.name):
        return UNKNOWN_BYTES
    meta = data.store.meta
    with weightless():
        network = build_model(model, data.path, patch)
        saved = _saved(network, torch.empty(max(batch, 2), len(meta.channels), *patch))
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    copies = COPIES_OF_LARGE_STATES if LARGE_STATES & set(optimizers) else COPIES
    voxels = int(data.store.shapes.prod(1).max()) if meta.masked else math.prod(patch)
    case = 4 * voxels * (len(meta.classes) + len(meta.channels))
    return int(PROCESS_BYTES + copies * parameters + OVER_SAVED * saved + OVER_CASE * case)


def _saved(network: nn.Module, images: Tensor) -> int:
    """Return the bytes that a forward pass in training keeps, parameters included."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[StorageWeakRef(storage).cdata] = storage.nbytes()  # type: ignore[no-untyped-call]  # torch's has no types
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = logits_of(network(images))
    del logits  # until here it kept storages alive, so that no two had the same address
    return sum(kept.values())
