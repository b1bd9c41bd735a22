"""An epoch of training and validation as MONAI's and nnU-Net's users write it, and ours.

The hippocampus of the Decathlon, as the ready study has it: the same cases, U-Net, patches,
batches, budget and loss; a look at inner validation after every epoch in the same windows, CPU
seconds. A bare loop takes batches that are ready through the network, and ready windows of the
validation cases. What a side takes above it is what its loading, evaluation and bookkeeping cost.
Patches lie anywhere: each side would favour the foreground in a way of its own.

    pytest tests/perf/test_perf_peers.py --benchmark-only

batchgeneratorsv2 is of the extra `perf`; the cases are shared data, without which this skips.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import process_time
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.data import CacheDataset, DataLoader
from monai.inferers import sliding_window_inference
from monai.metrics import DiceMetric
from monai.transforms import (
    AsDiscrete,
    Compose,
    EnsureTyped,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench import api
from bench.core.packages import ROOT
from bench.planning.plan import Plan, resolve
from bench.study.dataset import DataSet
from bench.study.schema import load_study
from bench.study.trial import Trial
from bench.training.evaluate import WINDOWS
from bench.training.train import make_sampler, run_trial
from bench.training.windows import importance, places
from loaders.batches.table import LOADERS
from loaders.memory import keep_freed_memory
from models.table import MODELS

EPOCHS = 3  # timed; one before them warms up
SCALE = SHIFT = 0.1


@pytest.fixture(scope="module")
def planned(tmp_path_factory, shared_data) -> Plan:
    """Return the plan of the ready study, of its first fold alone, over a store made here."""
    folder = tmp_path_factory.mktemp("peers")
    api.prepare("msd", shared_data / "msd_hippocampus", out=folder / "store")
    study = yaml.safe_load((ROOT / "bench" / "ready_studies" / "hippocampus.yaml").read_text())
    study |= {"data": [str(folder / "store")], "losses": ["ce"], "optimizers": ["adam"]}
    study["augment"] |= {"foreground": 0.0}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    torch.set_num_threads(1)
    keep_freed_memory()
    return resolve(*load_study(folder / "study.yaml"), folder / "run")


class Side:
    """What all sides share: the network, its optimizer, the cases in memory, normalised."""

    def __init__(self, trial: Trial, data: DataSet) -> None:
        self.trial, self.store = trial, data.store
        split = data.split(trial.repeat, trial.fold)
        self.train, self.inner = split.train, split.inner
        self.sampler = make_sampler(trial, data, seed=0)
        self.classes = len(self.store.meta.classes)
        self.batches = len(self.train) // trial.batch_size

    def begin(self) -> None:
        """Make a new network and optimizer."""
        torch.manual_seed(0)
        self.network: nn.Module = MODELS["unet"].build(
            in_channels=1, out_channels=self.classes, dims=3, patch=self.trial.patch
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def step(self, image: Tensor, target: Tensor) -> float:
        """Take one step, and return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(self.network(image), target.long())
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def case(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a case's image (1, *sides), normalised, no side shorter than a patch, and mask."""
        draws = self.sampler.centre(np.array([index]))
        image = (self.store.image(index) - draws.offset[0][0]) * draws.gain[0][0]
        short = [max(p - s, 0) for p, s in zip(self.trial.patch, image.shape[1:], strict=True)]
        width = [(s // 2, s - s // 2) for s in short]
        return (
            np.pad(image.astype(np.float32), [(0, 0), *width]),
            np.pad(np.array(self.store.mask(index)), width),
        )


def bare(side: Side) -> Iterator[None]:
    """Network and optimizer alone."""
    with LOADERS["torch"].open(
        side.store,
        side.sampler,
        batch_size=side.trial.batch_size,
        batches=side.batches,
        threads=1,
        device=torch.device("cpu"),
    ) as stream:
        ready = [(batch[0].clone(), batch[1].clone()) for batch in stream]
    cut = [
        torch.from_numpy(image[(slice(None), *place)].copy())
        for image, _ in map(side.case, side.inner.tolist())
        for place in places(image.shape[1:], side.trial.patch, side.trial.overlap)
    ]
    windows = [torch.stack(cut[at : at + WINDOWS]) for at in range(0, len(cut), WINDOWS)]
    side.begin()
    while True:
        side.network.train()
        for image, target in ready:
            side.step(image, target)
        side.network.eval()
        with torch.inference_mode():
            for batch in windows:
                side.network(batch)
        yield


def monai(side: Side) -> Iterator[None]:
    """As MONAI's tutorials of 3-D segmentation: cached cases, sliding windows, its Dice."""
    keys = ["image", "label"]
    crop = Compose(
        [
            EnsureTyped(keys, track_meta=False),
            RandSpatialCropd(keys, roi_size=side.trial.patch, random_size=False),
            RandScaleIntensityd(["image"], factors=SCALE, prob=1.0),
            RandShiftIntensityd(["image"], offsets=SHIFT, prob=1.0),
        ]
    ).set_random_state(0)
    keep = EnsureTyped(keys, track_meta=False)

    def cached(cases: np.ndarray, transform: Any) -> CacheDataset:
        made = [
            {"image": image, "label": mask[None]} for image, mask in map(side.case, cases.tolist())
        ]
        return CacheDataset(made, transform, num_workers=0, progress=False)

    train = DataLoader(
        cached(side.train, crop), batch_size=side.trial.batch_size, shuffle=True, drop_last=True
    )
    valid = DataLoader(cached(side.inner, keep), batch_size=1)
    dice = DiceMetric(include_background=False)
    one_hot, predicted = (
        AsDiscrete(to_onehot=side.classes),
        AsDiscrete(argmax=True, to_onehot=side.classes),
    )
    side.begin()
    while True:
        side.network.train()
        for batch in train:
            side.step(batch["image"], batch["label"][:, 0])
        side.network.eval()
        with torch.inference_mode():
            for batch in valid:
                logits = sliding_window_inference(
                    batch["image"],
                    side.trial.patch,
                    WINDOWS,
                    side.network,
                    overlap=side.trial.overlap,
                    mode="gaussian",
                )
                cross_entropy(logits, batch["label"][:, 0].long()).item()
                dice([predicted(logits[0])], [one_hot(batch["label"][0])])
        assert 0 <= dice.aggregate().item() <= 1
        dice.reset()
        yield


def nnunet(side: Side) -> Iterator[None]:
    """nnU-Net's loop: patches cut by numpy, batchgeneratorsv2, windows one by one, counts."""
    pytest.importorskip("batchgeneratorsv2", reason="pip install medoptbench[perf]")
    from batchgeneratorsv2.transforms.intensity.brightness import (
        BrightnessAdditiveTransform,
        MultiplicativeBrightnessTransform,
    )
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    generator = np.random.default_rng(0)
    cases = [side.case(index) for index in side.train.tolist()]
    valid = [side.case(index) for index in side.inner.tolist()]
    brighten = ComposeTransforms(
        [
            MultiplicativeBrightnessTransform((1 - SCALE, 1 + SCALE), synchronize_channels=False),
            BrightnessAdditiveTransform(0, SHIFT, synchronize_channels=False),
        ]
    )
    patch, size = side.trial.patch, side.trial.batch_size
    weight = importance(patch, torch.device("cpu"))
    image = torch.empty(size, 1, *patch)
    target = torch.empty(size, 1, *patch, dtype=torch.int16)
    side.begin()
    while True:
        side.network.train()
        for _ in range(side.batches):
            for n, picked in enumerate(generator.integers(len(cases), size=size)):
                volume, mask = cases[picked]
                place = tuple(
                    slice(at, at + p)
                    for at, p in (
                        (int(generator.integers(s - p + 1)), p)
                        for s, p in zip(mask.shape, patch, strict=True)
                    )
                )
                made = brighten(
                    image=torch.from_numpy(volume[(slice(None), *place)].copy()),
                    segmentation=torch.from_numpy(mask[place][None].astype(np.int16)),
                )
                image[n], target[n] = made["image"], made["segmentation"]
            side.step(image, target[:, 0])
        side.network.eval()
        counts = np.zeros((3, side.classes - 1))
        with torch.inference_mode():
            for volume, mask in valid:
                whole = torch.from_numpy(volume)
                total = torch.zeros(side.classes, *mask.shape)
                seen = torch.zeros(mask.shape)
                for place in places(mask.shape, patch, side.trial.overlap):
                    total[(slice(None), *place)] += (
                        side.network(whole[(slice(None), *place)][None].contiguous())[0] * weight
                    )
                    seen[place] += weight
                logits = total / seen
                truth = torch.from_numpy(mask)
                cross_entropy(logits[None], truth[None].long()).item()
                found = logits.argmax(0)
                for region in range(1, side.classes):
                    is_found, is_true = found == region, truth == region
                    counts[:, region - 1] += (
                        int((is_found & is_true).sum()),
                        int((is_found & ~is_true).sum()),
                        int((~is_found & is_true).sum()),
                    )
        yield


PEERS: dict[str, Callable[[Side], Iterator[None]]] = {
    "bare": bare,
    "monai": monai,
    "nnunet": nnunet,
}


def seconds_of(peer: Callable[[Side], Iterator[None]], trial: Trial, data: DataSet) -> float:
    """Return the CPU seconds of an epoch, after one that warms up."""
    epochs = peer(Side(trial, data))
    next(epochs)
    start = process_time()
    for _ in range(EPOCHS):
        next(epochs)
    return (process_time() - start) / EPOCHS


def our_seconds(trial: Trial, data: DataSet, plan: Plan) -> float:
    """Return the CPU seconds of an epoch of run_trial, after one that warms up."""
    at: list[float] = []
    row = run_trial(
        replace(trial, epochs=EPOCHS + 1, looks=EPOCHS + 1),
        data,
        plan.base,
        device=torch.device("cpu"),
        watch=lambda epoch, score: at.append(process_time()),
    )
    assert len(at) == EPOCHS + 1
    assert all(epoch["val_score"] is not None for epoch in row.epochs)
    return (at[-1] - at[0]) / EPOCHS


def test_an_epoch_of_training_and_validation(benchmark, planned):
    trial, (data,) = planned.trials[0], planned.sets
    rounds: list[dict[str, float]] = []

    def round_() -> None:
        one = {name: seconds_of(peer, trial, data) for name, peer in PEERS.items()}
        rounds.append(one | {"ours": our_seconds(trial, data, planned)})

    benchmark.group = "an epoch of training and validation, hippocampus"
    benchmark.pedantic(round_, rounds=5, warmup_rounds=1)
    over = {
        name: statistics.median(one[name] / one["bare"] for one in rounds[1:]) for name in rounds[0]
    }
    faster = min(over["monai"], over["nnunet"])
    benchmark.extra_info["times_bare"] = over
    benchmark.extra_info["ratios"] = {
        "bare": over["ours"],
        "faster peer": over["ours"] / faster,
        "above bare, of the faster peer": (over["ours"] - 1) / (faster - 1),
    }
