"""Score a model on some cases: whole volumes by sliding window, whole images, each case once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from monai.inferers.utils import sliding_window_inference
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
from bench.study.tasks import TASKS
from bench.study.trial import Trial
from bench.training.examples import EXAMPLES, chosen, stacked
from loaders.batches.torch_loader import gather
from loaders.sampling.sampler import Sampler
from loaders.store.read import Store
from models.output import Output

# Windows of a volume that go through the network at once. Assumption: fits wherever training does.
WINDOWS = 4


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

        It has no value where they lack what it needs. Where no case holds any region (label 0),
        overlap and distance have none for a network that is right, and one for every false alarm.
        """
        return self.value is not None and any(case.get("label") != 0 for case in self.cases)

    @property
    def false_alarm(self) -> float | None:
        """The share of cases without the object in which some is predicted; None if unknown."""
        found = (m for m in self.metrics if m["metric"] == "false_alarm" and m["headline"])
        return next((m["value"] for m in found), None)


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """One case: its place in the store, loss, seconds, what its rows are made of, an example."""

    index: int
    loss: float
    infer_sec: float
    score: Any
    example: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Everything that the evaluations of one trial have in common."""

    trial: Trial
    store: Store
    sampler: Sampler
    model: nn.Module
    criterion: Criterion
    weights: Tensor | None
    device: torch.device
    world: World

    def network(self, image: Tensor) -> Tensor:
        """Return the logits of a batch in float32, computed in the precision of the trial."""
        return self.outputs(image).logits

    def outputs(self, image: Tensor) -> Output:
        """Return logits in float32, and presence where the network gives it."""
        PULSE.beat()
        with PRECISIONS[self.trial.precision].autocast(self.device):
            given = self.model(image)
        presence = given.presence if isinstance(given, Output) else None
        return Output(
            logits=logits_of(given).float(),
            presence=None if presence is None else presence.float(),
        )

    def worsened(self, image: np.ndarray, index: int, worse: Choice | None) -> np.ndarray:
        """Return a normalised image (C, *spatial) of a case as `worse` would have it."""
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

        `worse` names what is done to the images first, a row of DEGRADATIONS. Each process scores
        its share and all of them get the whole result. Leaves the network in evaluation mode.
        """
        self.model.eval()
        own = cases[self.world.rank :: self.world.size]
        task = TASKS[self.trial.task]
        costly = final or METRICS[self.trial.primary].costly
        done: list[_Scored] = []
        shown = set(cases[chosen(self.store.class_counts[cases] > 0)].tolist()) if final else set()
        with torch.inference_mode():
            passes = self._windows if task.windows else self._batches
            for seen, losses, seconds in passes(own, worse, costly=costly):
                for place, score in enumerate(task.score(seen)):
                    PULSE.beat()
                    example: dict[str, np.ndarray] = {}
                    if int(seen.cases[place]) in shown:
                        example = task.example(seen, place, score)
                        example["case_id"] = np.array(seen.ids[place]["case_id"])
                    done.append(
                        _Scored(
                            index=int(seen.cases[place]),
                            loss=float(losses[place]),
                            infer_sec=seconds / len(seen.cases),
                            score=score,
                            example=example,
                        )
                    )
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

    def _batches(
        self, own: np.ndarray, worse: Choice | None, *, costly: bool
    ) -> Iterator[tuple[Seen, np.ndarray, float]]:
        """Give cases in batches, each as the patch in its middle, with losses (n,) and seconds."""
        scale = TASKS[self.trial.task].scale(self.store, self.sampler.cases)
        for at in range(0, len(own), self.trial.batch_size):
            part = own[at : at + self.trial.batch_size]
            pixels, target = gather(self.store, self.sampler.centre(part))
            for place, index in enumerate(part):
                pixels[place] = self.worsened(pixels[place], int(index), worse)
            logits, seconds = _timed(self.network, _to(pixels, self.device), self.device)
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

    def _windows(
        self, own: np.ndarray, worse: Choice | None, *, costly: bool
    ) -> Iterator[tuple[Seen, np.ndarray, float]]:
        """Give whole cases one at a time, by sliding windows, with losses (1,) and seconds."""
        for index in own:
            pixels, inside = _whole(self.store, self.sampler, int(index), self.trial.patch)
            pixels = self.worsened(pixels, int(index), worse)
            mask = np.array(self.store.mask(int(index)))
            found: list[Tensor] = []

            def window(image: Tensor, found: list[Tensor] = found) -> Tensor:
                given = self.outputs(image)
                if given.presence is not None:
                    found.append(given.presence)
                return given.logits

            def predict(image: Tensor, window: Callable[[Tensor], Tensor] = window) -> Tensor:
                logits = sliding_window_inference(
                    image,
                    roi_size=self.trial.patch,
                    sw_batch_size=WINDOWS,
                    predictor=window,
                    overlap=self.trial.overlap,
                    mode="gaussian",
                )
                assert isinstance(logits, Tensor)  # a tuple only where the network returns one
                return logits

            logits, seconds = _timed(predict, _to(pixels[None], self.device), self.device)
            within = (slice(None), slice(None), *inside)
            logits = logits[within]
            target = _to(mask[None], self.device).long()
            losses = self.criterion(logits, target, self.weights, alone)
            seen = Seen(
                store=self.store,
                cases=np.array([index]),
                pixels=pixels[None][within],
                logits=logits,
                target=mask[None],
                presence=_presence(found),
                costly=costly,
            )
            yield seen, losses.cpu().numpy(), seconds


def _presence(windows: Sequence[Tensor]) -> np.ndarray | None:
    """Return the log-odds of each label anywhere (C,), by what the network says of windows (B, C).

    The highest counts. None for a network that says nothing of it.
    """
    if not windows:
        return None
    each: np.ndarray = torch.cat(list(windows)).amax(0).double().cpu().numpy()
    return each


def _whole(
    store: Store, sampler: Sampler, index: int, patch: tuple[int, ...]
) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Return a normalised image, no side under the patch's, and where the image lies in it."""
    raw = store.image(index)
    draws = sampler.centre(np.array([index]))
    room = [max(p - s, 0) for p, s in zip(patch, raw.shape[1:], strict=True)]
    before = [r // 2 for r in room]
    padded = np.pad(
        raw,
        [(0, 0), *((b, r - b) for b, r in zip(before, room, strict=True))],
        constant_values=store.meta.fill,
    )
    per_channel = (slice(None), *([None] * len(patch)))
    pixels = (padded - draws.offset[0][per_channel]) * draws.gain[0][per_channel]
    inside = tuple(slice(b, b + s) for b, s in zip(before, raw.shape[1:], strict=True))
    return pixels.astype(np.float32, copy=False), inside


def _to(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _timed(
    predict: Callable[[Tensor], Tensor], image: Tensor, device: torch.device
) -> tuple[Tensor, float]:
    start = perf_counter()
    logits = predict(image)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return logits, perf_counter() - start
