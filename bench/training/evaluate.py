"""Scores a model on cases, each once: whole images for segmentation, else one patch of each."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.core.precision import PRECISIONS
from bench.core.processes import World
from bench.core.pulse import PULSE
from bench.losses.supervision import logits_of
from bench.losses.table import Criterion, alone
from bench.metrics.aggregate import headline
from bench.metrics.degradations import DEGRADATIONS
from bench.metrics.table import METRICS
from bench.metrics.tasks.scoring import Seen
from bench.study.choice import Choice
from bench.study.tasks import TASKS, Task
from bench.study.trial import Trial
from bench.training.examples import EXAMPLES, chosen, stacked
from bench.training.samples.clinical import Clinical
from bench.training.windows import Image, Part, importance, in_batches, places
from loaders.batches.torch_loader import gather
from loaders.batches.upload import uploaded
from loaders.sampling.sampler import Sampler
from loaders.store.read import Store
from models.output import Output
from models.spec import Model

# Windows that go through the network at once, or the batch size of training if that is more, unless
# the trial says how many. Assumption: that fits wherever training does.
WINDOWS = 4
# The most bytes of logits of cases that are scored at the same time on a GPU's host. Assumption.
SCORED_BYTES = 2 * 2**30

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One evaluation: mean loss over cases, the primary metric, and the rows behind them."""

    loss: float
    value: float | None
    metrics: list[dict[str, Any]]
    cases: list[dict[str, Any]]
    examples: dict[str, np.ndarray]
    infer_sec: float

    @property
    def decides(self) -> bool:
        """Whether the primary metric tells how good a network is on these cases.

        It has no value if they lack what it needs. If no case holds any region (label 0), overlap
        and distance have no value for a right answer, and a value for every false alarm.
        """
        return self.value is not None and any(case.get("label") != 0 for case in self.cases)

    @property
    def false_alarm(self) -> float | None:
        """Share of cases without the object in which some of it is predicted; None if unknown."""
        found = (m for m in self.metrics if m["metric"] == "false_alarm" and m["headline"])
        return next((m["value"] for m in found), None)


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """One case: its index in the store, loss, seconds, the material of its rows, an example."""

    index: int
    loss: float
    infer_sec: float
    score: Any
    example: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Everything that the evaluations of one trial have in common.

    `whole`: the multiples that the sides of an image must be if whole images go through the network
    in one pass; None for windows. `clinical` is what the network gets beside images, None: nothing.
    """

    trial: Trial
    store: Store
    sampler: Sampler
    model: nn.Module
    criterion: Criterion
    weights: Tensor | None
    device: torch.device
    world: World
    whole: tuple[int, ...] | None = None
    clinical: Clinical | None = None

    def network(self, image: Tensor) -> Tensor:
        """Return the logits of a batch in float32, computed in the precision of the trial."""
        return self.outputs(image).logits

    def outputs(self, image: Tensor) -> Output:
        """Return logits in float32, and presence if the network gives it."""
        PULSE.beat()
        with PRECISIONS[self.trial.precision].autocast(self.device):
            given = self.model(image)
        presence = given.presence if isinstance(given, Output) else None
        return Output(
            logits=logits_of(given).float(),
            presence=None if presence is None else presence.float(),
        )

    def worsened(self, image: np.ndarray, index: int, worse: Choice | None) -> np.ndarray:
        """Return a normalised image (C, *spatial) of a case, degraded by `worse`."""
        if worse is None:
            return image
        row = DEGRADATIONS[worse.name]
        rng = np.random.default_rng(int(self.store.hashes[index][:16], 16))
        return row.function(image, rng, self.store.meta.axes, **row.settings(worse.params))

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value of the primary metric is the better one."""
        return METRICS[self.trial.primary].higher_is_better

    def score(self, cases: np.ndarray, *, final: bool, worse: Choice | None = None) -> Score:
        """Score `cases` (indices into the store); `final` adds the costly metrics and examples.

        `worse` names a row of DEGRADATIONS to apply to the images first. Each process scores its
        share, and all of them get the whole result. Leaves the network in evaluation mode.
        """
        self.model.eval()
        task = TASKS[self.trial.task]
        # Whole batches, as in a single process: a loss may couple their samples.
        at_once = 1 if task.windows else self.trial.batch_size
        batches = [cases[at : at + at_once] for at in range(0, len(cases), at_once)]
        own = batches[self.world.rank :: self.world.size]
        costly = final or METRICS[self.trial.primary].costly
        done: list[_Scored] = []
        shown = set(cases[chosen(self.store.class_counts[cases] > 0)].tolist()) if final else set()
        passes = (self._volumes if task.windows else self._batches)(own, worse, costly=costly)
        scored = _made_ahead(
            partial(_score, task, shown), passes, threads=self._scorers(task, cases)
        )
        with torch.inference_mode(), closing(passes), closing(scored):
            for few in scored:
                PULSE.beat()
                done += few
        if self.world.size > 1:
            shares: list[list[_Scored]] = [[] for _ in range(self.world.size)]
            dist.all_gather_object(shares, done)
            done = sorted((c for share in shares for c in share), key=lambda c: c.index)
        indices = np.array([c.index for c in done])
        metrics, rows = task.rows(self.store, indices, [c.score for c in done])
        return Score(
            loss=float(np.mean([c.loss for c in done])),
            value=headline(metrics, self.trial.primary) if metrics else None,
            metrics=metrics,
            cases=rows,
            examples=stacked([c.example for c in done if c.example][:EXAMPLES]),
            infer_sec=sum(c.infer_sec for c in done),
        )

    def _preparers(self) -> int:
        """Return how many threads prepare cases for the network: on a CPU none beside its own."""
        return int(self.device.type == "cuda")

    def _scorers(self, task: Task, cases: np.ndarray) -> int:
        """Return how many threads score cases while others go through the network.

        None on a CPU, whose cores the network uses itself.
        """
        if self.device.type == "cpu":
            return 0
        if not task.windows:
            return 1
        voxels = int(self.store.shapes[cases].prod(axis=1).max())
        fit = SCORED_BYTES // (4 * len(self.store.meta.classes) * voxels)
        return max(min(self.trial.threads, fit), 1)

    @torch.inference_mode()
    def _batches(
        self, own: Sequence[np.ndarray], worse: Choice | None, *, costly: bool
    ) -> Generator[tuple[Seen, np.ndarray, float]]:
        """Yield batches of cases, each as the patch in its middle, with losses (n,) and seconds."""
        scale = TASKS[self.trial.task].scale(self.store, self.sampler.cases)
        made = _made_ahead(partial(self._batch, worse=worse), own, threads=self._preparers())
        for part, (pixels, image, target) in zip(own, made, strict=True):
            logits, seconds = _timed(self.network, image, self.device)
            losses = self.criterion(logits, _to(target, self.device), self.weights, alone)
            seen = Seen(
                store=self.store,
                cases=part,
                pixels=pixels,
                logits=logits,
                target=target,
                presence=None,
                costly=costly,
                scale=scale,
            )
            yield seen, losses.cpu().numpy(), seconds

    def _batch(
        self, part: np.ndarray, worse: Choice | None
    ) -> tuple[np.ndarray, Tensor, np.ndarray]:
        """Return the middle patches of cases, on the host and as the network gets them; answers."""
        pixels, target = gather(self.store, self.sampler.centre(part))
        for place, index in enumerate(part):
            pixels[place] = self.worsened(pixels[place], int(index), worse)
        image = _to(pixels, self.device)
        if self.clinical is not None:
            image = self.clinical.beside(image, part)
        return pixels, image, target

    @torch.inference_mode()
    def _volumes(
        self, own: Sequence[np.ndarray], worse: Choice | None, *, costly: bool
    ) -> Generator[tuple[Seen, np.ndarray, float]]:
        """Yield whole cases one at a time, with losses (1,) and seconds.

        They go through the network in windows, or in one pass: several parts at once, also from
        several cases if they are small.
        """
        weight = importance(self.trial.patch, self.device)
        at_once = self.trial.windows_at_once or max(WINDOWS, self.trial.batch_size)
        voxels = at_once * math.prod(self.trial.patch)
        for parts in in_batches(self._parts(own, worse), voxels):
            self._pass(parts, weight)
            for image in dict.fromkeys(part.image for part in parts):
                if image.whole:
                    yield self._seen(image, costly=costly)

    def _parts(self, own: Sequence[np.ndarray], worse: Choice | None) -> Iterator[Part]:
        """Yield the windows of cases, case after case; each item of `own` holds one case."""
        indices = [int(index) for (index,) in own]
        images = _made_ahead(partial(self._image, worse=worse), indices, threads=self._preparers())
        for image in images:
            yield from (Part(image, place) for place in image.windows)

    def _image(self, index: int, worse: Choice | None) -> Image:
        """Return a case, padded, normalised and degraded, on its way through the network."""
        pixels, inside = _padded(self.store, self.sampler, index, self.trial.patch, self.whole)
        pixels = self.worsened(pixels, index, worse)
        sides = pixels.shape[1:]
        window = self.trial.patch if self.whole is None else sides
        return Image(
            index=index,
            pixels=pixels,
            on_device=_to(pixels, self.device),
            inside=inside,
            windows=places(sides, window, self.trial.overlap),
        )

    def _pass(self, parts: Sequence[Part], weight: Tensor) -> None:
        """Take parts of one size through the network together."""
        given, seconds = _timed(
            self.outputs, torch.stack([part.pixels for part in parts]), self.device
        )
        for n, (image, place) in enumerate(parts):
            presence = None if given.presence is None else given.presence[n]
            image.take(place, given.logits[n], presence, weight)
            image.seconds += seconds / len(parts)

    def _seen(self, image: Image, *, costly: bool) -> tuple[Seen, np.ndarray, float]:
        """Return a case in the form that metrics take, its loss (1,) and its seconds."""
        within = (slice(None), slice(None), *image.inside)
        logits = image.logits[None][within]
        mask = np.array(self.store.mask(image.index))
        target = _to(mask[None], self.device).long()
        losses = self.criterion(logits, target, self.weights, alone)
        presence = image.presence
        seen = Seen(
            store=self.store,
            cases=np.array([image.index]),
            pixels=image.pixels[None][within],
            logits=logits,
            target=mask[None],
            presence=None if presence is None else presence.double().cpu().numpy(),
            costly=costly,
        )
        return seen, losses.cpu().numpy(), image.seconds


@torch.inference_mode()
def _score(task: Task, shown: set[int], passed: tuple[Seen, np.ndarray, float]) -> list[_Scored]:
    """Score cases that went through the network together; `shown` are those kept as examples."""
    seen, losses, seconds = passed
    found = []
    for place, score in enumerate(task.score(seen)):
        example: dict[str, np.ndarray] = {}
        if int(seen.cases[place]) in shown:
            example = task.example(seen, place, score)
            example["case_id"] = np.array(seen.ids[place]["case_id"])
        found.append(
            _Scored(
                index=int(seen.cases[place]),
                loss=float(losses[place]),
                infer_sec=seconds / len(seen.cases),
                score=score,
                example=example,
            )
        )
    return found


def _made_ahead(
    make: Callable[[_Given], _Made], items: Iterable[_Given], *, threads: int
) -> Generator[_Made]:
    """Yield make(item) for each item, in their order, made by `threads` threads (0: the caller's).

    The caller's thread takes the `items`; while it works, at most `threads` more are made. An error
    is raised at its item. Closing this waits for what is being made.
    """
    if not threads:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    waiting: deque[Future[_Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def whole_sides(trial: Trial, model: Model) -> tuple[int, ...] | None:
    """Return the multiples for sides of whole images, None if a trial uses windows."""
    return model.whole(trial.patch) if trial.inference == "whole" and model.whole else None


def _padded(
    store: Store,
    sampler: Sampler,
    index: int,
    patch: tuple[int, ...],
    multiple: tuple[int, ...] | None,
) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Return a padded, normalised image, and the place of the image itself in it.

    No side is shorter than the patch's. With `multiple` each side is a multiple of that, and the
    padding mirrors the image: a rim of one value misleads a network that normalises each image by
    its own mean and deviation (hippocampus, U-Net, patches of 32^3: Dice of 0.75 with a rim, 0.80
    with a mirror, 0.85 in windows, measured).
    """
    raw = store.image(index)
    draws = sampler.centre(np.array([index]))
    sides = np.maximum(raw.shape[1:], patch)
    if multiple is not None:
        sides = -(-sides // multiple) * np.array(multiple)
    room = (sides - raw.shape[1:]).tolist()
    before = [r // 2 for r in room]
    width = [(0, 0), *((b, r - b) for b, r in zip(before, room, strict=True))]
    if multiple is None:
        padded = np.pad(raw, width, constant_values=store.meta.fill)
    else:
        padded = np.pad(raw, width, mode="symmetric")
    per_channel = (slice(None), *([None] * len(patch)))
    pixels = (padded - draws.offset[0][per_channel]) * draws.gain[0][per_channel]
    inside = tuple(slice(b, b + s) for b, s in zip(before, raw.shape[1:], strict=True))
    return pixels.astype(np.float32, copy=False), inside


def _to(array: np.ndarray, device: torch.device) -> Tensor:
    return uploaded(np.ascontiguousarray(array), device)


def _timed(
    predict: Callable[[Tensor], _Given], image: Tensor, device: torch.device
) -> tuple[_Given, float]:
    start = perf_counter()
    given = predict(image)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return given, perf_counter() - start
