"""Samples a second of the loaders, beside MONAI's cached ones: one thread each, the same work.

A random crop, a flip of each axis with probability 1/2, and a scale and a shift of the intensity:
for each channel here, for the whole sample in MONAI, whose fastest way that is. Each group is one
kind of data; within it the ratio of the times is what counts.
Every round takes the same number of samples (`samples` in the extra information) from a stream that
runs on, as training does: start-up is not in it.

    pytest tests/perf/test_perf_loaders.py --benchmark-only --benchmark-group-by=group
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, ThreadDataLoader
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
)
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import RandomSampler

from loaders import LOADERS
from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.folds import normalization
from loaders.sampler import Recipe, Sampler
from loaders.store import Store, open_store, write_store

ENDLESS = 10**6
SCALE = SHIFT = 0.1


@dataclass(frozen=True, kw_only=True)
class Work:
    """One kind of data. `samples` a round: some tens of milliseconds for the fastest loader."""

    channels: int
    shape: tuple[int, ...]
    dtype: str
    patch: tuple[int, ...]
    batch_size: int
    cases: int
    samples: int


WORK = {
    "64^3 of 4x96^3 float32": Work(
        channels=4,
        shape=(96, 96, 96),
        dtype="float32",
        patch=(64, 64, 64),
        batch_size=2,
        cases=16,
        samples=24,
    ),
    "64^3 of 4x96^3 int16": Work(
        channels=4,
        shape=(96, 96, 96),
        dtype="int16",
        patch=(64, 64, 64),
        batch_size=2,
        cases=16,
        samples=24,
    ),
    "24^3 of 4x48x48x40 int16": Work(
        channels=4,
        shape=(48, 48, 40),
        dtype="int16",
        patch=(24, 24, 24),
        batch_size=2,
        cases=64,
        samples=200,
    ),
    "32^3 of 1x35x50x35 uint8": Work(
        channels=1,
        shape=(35, 50, 35),
        dtype="uint8",
        patch=(32, 32, 32),
        batch_size=2,
        cases=100,
        samples=400,
    ),
    "28^2 of 1x28x28 uint8": Work(
        channels=1,
        shape=(28, 28),
        dtype="uint8",
        patch=(28, 28),
        batch_size=32,
        cases=2000,
        samples=1600,
    ),
}


def give(item: Item, meta: Meta) -> Iterator[Case]:
    """Make the images when they are asked for."""
    work: Work = item.extra["work"]
    for number in range(work.cases):
        generator = np.random.default_rng(number)
        image = generator.uniform(0, 255, (work.channels, *work.shape)).astype(work.dtype)
        yield Case(
            key=str(number),
            group=str(number),
            image=image,
            label=number % 2,
            mask=None,
            spacing=(1.0,) * len(work.shape),
        )


@pytest.fixture(scope="module", params=list(WORK))
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return name, work and store; one kind of data on the disk at a time."""
    work = WORK[request.param]
    meta = Meta(
        kind="random",
        name="random",
        task="classification",
        dims=len(work.shape),  # type: ignore[arg-type]  # 2 or 3
        channels=tuple(f"channel {c}" for c in range(work.channels)),
        classes=("healthy", "ill"),
        regions={},
        positive=1,
        normalize="train",
        fill=0.0,
        unit="image",
        group_source="case",
        source="none",
        licence="none",
        options={},
    )

    def survey(source: Path, options: Any) -> Survey:
        raise NotImplementedError

    kind = Kind(name="random", summary="", source="", survey=survey, read=give, options={})
    item = Item(key="all", paths=(), extra={"work": work})
    out = tmp_path_factory.mktemp("perf") / "store"
    write_store(
        kind,
        Survey(meta=meta, items=(item,), rejected=()),
        out,
        key=b"key",
        workers=1,
        strict=True,
    )
    return request.param, work, open_store(out)


@contextmanager
def ours(loader: str, work: Work, store: Store) -> Iterator[Iterator[torch.Tensor]]:
    everything = np.arange(len(store))
    mean, std = normalization(store.moments, store.meta.normalize, everything)
    recipe = Recipe(
        patch=work.patch,
        flip=(True,) * len(work.patch),
        scale=SCALE,
        shift=SHIFT,
        foreground=0.0,
    )
    sampler = Sampler(
        cases=everything,
        shapes=store.shapes,
        boxes=store.boxes,
        mean=mean,
        std=std,
        recipe=recipe,
        seed=0,
    )
    with LOADERS[loader].open(
        store,
        sampler,
        batch_size=work.batch_size,
        batches=ENDLESS,
        threads=1,
        device=torch.device("cpu"),
    ) as batches:
        yield (batch.image for batch in batches)


@contextmanager
def monai(loader: type[DataLoader], work: Work, store: Store) -> Iterator[Iterator[torch.Tensor]]:
    """MONAI with the volumes in memory as float32 tensors, and no metadata to carry: its fastest.

    No worker: ThreadDataLoader has one thread of its own, DataLoader works in the caller's.
    """
    keys = ["image"]
    transform = Compose(
        [
            EnsureTyped(keys, dtype=torch.float32, track_meta=False),
            RandSpatialCropd(keys, roi_size=work.patch, random_size=False),
            *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(len(work.patch))),
            RandScaleIntensityd(keys, factors=SCALE, prob=1.0),
            RandShiftIntensityd(keys, offsets=SHIFT, prob=1.0),
        ]
    )
    transform.set_random_state(0)
    images = [{"image": np.array(store.image(case))} for case in range(len(store))]
    dataset = CacheDataset(images, transform, num_workers=0, progress=False)
    endless = RandomSampler(dataset, replacement=True, num_samples=ENDLESS * work.batch_size)
    batches = loader(dataset, batch_size=work.batch_size, sampler=endless, num_workers=0)

    def stream() -> Iterator[torch.Tensor]:
        for batch in batches:
            yield batch["image"]

    with closing(stream()) as images_only:
        yield images_only


ROWS = {
    "dali": lambda work, store: ours("dali", work, store),
    "torch": lambda work, store: ours("torch", work, store),
    "monai ThreadDataLoader": lambda work, store: monai(ThreadDataLoader, work, store),
    "monai DataLoader": lambda work, store: monai(DataLoader, work, store),
}


@pytest.mark.parametrize("row", list(ROWS))
def test_samples(row: str, prepared: tuple[str, Work, Store], benchmark: BenchmarkFixture) -> None:
    name, work, store = prepared
    benchmark.group = name
    benchmark.extra_info["samples"] = work.samples
    with ROWS[row](work, store) as images:

        def take() -> torch.Tensor:
            for _ in range(work.samples // work.batch_size):
                image = next(images)
            return image

        image = benchmark.pedantic(take, rounds=9, warmup_rounds=2)
    assert image.shape == (work.batch_size, work.channels, *work.patch)
    benchmark.extra_info["samples_per_second"] = round(work.samples / benchmark.stats.stats.median)
