"""Score a model on some cases: whole volumes by sliding window, whole images, each case once."""

from collections.abc import Callable, Sequence
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
from bench.losses.supervision import logits_of
from bench.losses.table import Criterion, alone
from bench.metrics.aggregate import classification_rows, headline, segmentation_rows
from bench.metrics.confusion import confusion
from bench.metrics.degradations import DEGRADATIONS
from bench.metrics.table import METRICS
from bench.study.schema import Choice, Trial
from loaders.batches.torch_loader import gather
from loaders.sampling.sampler import Sampler
from loaders.store.read import Store
from models.output import Output

# Cases whose slices or images a trial leaves for the report.
EXAMPLES = 3
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


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """One case: its place in the store, loss, seconds, and what its metrics are made of."""

    index: int
    loss: float
    infer_sec: float
    prob: np.ndarray | None
    regions: list[dict[str, Any]]
    example: dict[str, np.ndarray]


Predict = Callable[[Tensor], Tensor]


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
        score_share = _SHARES[self.store.meta.task]
        with torch.inference_mode():
            done = score_share(self, own, final, worse)
        if self.world.size > 1:
            shares: list[list[_Scored]] = [[] for _ in range(self.world.size)]
            dist.all_gather_object(shares, done)
            done = sorted((c for share in shares for c in share), key=lambda c: c.index)
        return self._sum_up(done)

    def _sum_up(self, done: list[_Scored]) -> Score:
        meta, ids, groups = self.store.meta, self.store.case_ids, self.store.groups
        if meta.task == "classification":
            prob = np.stack([c.prob for c in done if c.prob is not None])
            label = self.store.labels[[c.index for c in done]]
            metrics = (
                classification_rows(
                    prob,
                    label,
                    classes=meta.classes,
                    positive=meta.positive,
                    unit=meta.unit,
                    groups=[groups[c.index] for c in done],
                    group_unit=meta.group_source,
                )
                if np.isfinite(prob).all()
                else []
            )
            rows = [
                {"region": name, "label": int(self.store.labels[c.index] == k), "prob": float(p[k])}
                | {"case_id": ids[c.index], "group_id": groups[c.index]}
                for c, p in zip(done, prob, strict=True)
                for k, name in enumerate(meta.classes)
            ]
        else:
            rows = [
                {**region, "case_id": ids[c.index], "group_id": groups[c.index]}
                for c in done
                for region in c.regions
            ]
            metrics = segmentation_rows(rows, tuple(meta.regions), group=meta.group_source)
        return Score(
            loss=float(np.mean([c.loss for c in done])),
            value=headline(metrics, self.trial.primary) if metrics else None,
            metrics=metrics,
            cases=rows,
            examples=_stack([c.example for c in done if c.example][:EXAMPLES]),
            infer_sec=sum(c.infer_sec for c in done),
        )


def _score_images(
    self: Evaluator, own: np.ndarray, final: bool, worse: Choice | None
) -> list[_Scored]:
    done = []
    for at in range(0, len(own), self.trial.batch_size):
        part = own[at : at + self.trial.batch_size]
        pixels, target = gather(self.store, self.sampler.centre(part))
        for place, index in enumerate(part):
            pixels[place] = self.worsened(pixels[place], int(index), worse)
        image, label = _to(pixels, self.device), _to(target, self.device)
        logits, seconds = _timed(self.network, image, self.device)
        losses = self.criterion(logits, label, self.weights, alone).cpu().numpy()
        prob = torch.softmax(logits.double(), 1).cpu().numpy()
        for k, index in enumerate(part):
            example = {}
            if final and at + k < EXAMPLES:
                example = {
                    "image": _middle(pixels[k, 0]),
                    "label": label[k].cpu().numpy(),
                    "prob": prob[k],
                    "case_id": np.array(self.store.case_ids[index]),
                }
            done.append(
                _Scored(
                    index=int(index),
                    loss=float(losses[k]),
                    infer_sec=seconds / len(part),
                    prob=prob[k],
                    regions=[],
                    example=example,
                )
            )
    return done


def _score_volumes(
    self: Evaluator, own: np.ndarray, final: bool, worse: Choice | None
) -> list[_Scored]:
    done = []
    regions = self.store.meta.regions
    for place, index in enumerate(own):
        pixels, inside = _whole(self.store, self.sampler, int(index), self.trial.patch)
        pixels = self.worsened(pixels, int(index), worse)
        mask = np.array(self.store.mask(int(index)))

        windows: list[Tensor] = []

        def predict(image: Tensor, windows: list[Tensor] = windows) -> Tensor:
            def window(image: Tensor) -> Tensor:
                given = self.outputs(image)
                if given.presence is not None:
                    windows.append(given.presence)
                return given.logits

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
        logits = logits[(slice(None), slice(None), *inside)]
        target = _to(mask[None], self.device).long()
        loss = float(self.criterion(logits, target, self.weights, alone)[0])
        # Ten times as fast on a CPU as argmax over the leading axis (measured).
        found = logits[0].max(0).indices.to(torch.uint8).cpu().numpy()
        costly = final or METRICS[self.trial.primary].costly
        example = {}
        if final and place < EXAMPLES:
            example = _slice(pixels[(slice(None), *inside)], mask, found)
            example["case_id"] = np.array(self.store.case_ids[index])
        done.append(
            _Scored(
                index=int(index),
                loss=loss,
                infer_sec=seconds,
                prob=None,
                regions=confusion(
                    found,
                    mask,
                    regions,
                    tuple(self.store.spacing[index]),
                    distances=costly,
                    prob=torch.softmax(logits[0], 0).cpu().numpy() if costly else None,
                    presence=_presence(windows),
                ),
                example=example,
            )
        )
    return done


def _presence(windows: Sequence[Tensor]) -> np.ndarray | None:
    """Return how probable each label is anywhere (C,), by what the network says of windows (B, C).

    The highest probability counts. None for a network that says nothing of it.
    """
    if not windows:
        return None
    each: np.ndarray = torch.sigmoid(torch.cat(list(windows)).amax(0)).cpu().numpy()
    return each


_SHARES: dict[str, Callable[[Evaluator, np.ndarray, bool, Choice | None], list[_Scored]]] = {
    "classification": _score_images,
    "segmentation": _score_volumes,
}


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


def _timed(predict: Predict, image: Tensor, device: torch.device) -> tuple[Tensor, float]:
    start = perf_counter()
    logits = predict(image)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return logits, perf_counter() - start


def _middle(image: np.ndarray) -> np.ndarray:
    """Return the middle slice of a volume, or the image itself, as (Y, X)."""
    return image if image.ndim == 2 else image[len(image) // 2]


def _slice(image: np.ndarray, mask: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """Return the slice that holds most of the reference, of image (channel 0) and both masks."""
    if mask.ndim == 2:
        return {"image": image[0], "reference": mask, "prediction": found}
    z = int((mask > 0).sum(axis=(1, 2)).argmax())
    return {"image": image[0, z], "reference": mask[z], "prediction": found[z]}


def _stack(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack example arrays of different sizes; the smaller are padded with their least value."""
    if not examples:
        return {}
    stacked = {}
    for name in examples[0]:
        arrays = [e[name] for e in examples]
        top = np.max([a.shape for a in arrays], axis=0) if arrays[0].ndim else ()
        stacked[name] = np.stack(
            [
                np.pad(
                    a,
                    [(0, int(t - s)) for t, s in zip(top, a.shape, strict=True)],
                    constant_values=a.min(),
                )
                if a.ndim
                else a
                for a in arrays
            ]
        )
    return stacked
