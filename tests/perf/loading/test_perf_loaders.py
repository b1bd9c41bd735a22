"""Samples a second of the loaders side by side: the same patches, the same augmentations.

Everyone has the same cores (the process is bound to them) and as many workers, threads or
processes, and the volumes in memory or in the page cache. Three kinds of work: "copy", the patch
alone; "crop", with a flip of each axis with probability 1/2 and a scale and a shift of the
intensity; "affine", that and a rotation by up to 15 degrees about each axis and a zoom by up to 0.1
of every sample. Each group is one kind of data and of work; within it the ratio of the times is
what counts. Every round takes the same number of samples (`samples` in the extra information) from
a stream that runs on, as training does: start-up is not in it.

Where a peer may do less it does: MONAI draws one intensity for all channels, TorchIO takes four
patches from each turned volume. The torch DataLoader is a user's own few lines. torchio and
batchgeneratorsv2 are the extra `perf`.

    pytest tests/perf/loading/test_perf_loaders.py --benchmark-only --benchmark-group-by=group
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, ThreadDataLoader, set_track_meta
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandAffined,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
)
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.data import Dataset, RandomSampler

from loaders.batches.table import LOADERS
from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.memory import keep_freed_memory
from loaders.sampling.normalization import normalization
from loaders.sampling.sampler import Recipe, Sampler
from loaders.store.read import Store, open_store
from loaders.store.write import write_store
from tests.metas import made_meta

ENDLESS = 10**6
SCALE = SHIFT = ZOOM = 0.1
DEGREES = 15.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """One kind of data.

    `samples` a round: some tens of milliseconds for the fastest loader, and a multiple of 16
    batches, as many as ours makes at once on two cores.
    """

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
        samples=32,
    ),
    "64^3 of 4x96^3 int16": Work(
        channels=4,
        shape=(96, 96, 96),
        dtype="int16",
        patch=(64, 64, 64),
        batch_size=2,
        cases=16,
        samples=32,
    ),
    "24^3 of 4x48x48x40 int16": Work(
        channels=4,
        shape=(48, 48, 40),
        dtype="int16",
        patch=(24, 24, 24),
        batch_size=2,
        cases=64,
        samples=192,
    ),
    "32^3 of 1x35x50x35 uint8": Work(
        channels=1,
        shape=(35, 50, 35),
        dtype="uint8",
        patch=(32, 32, 32),
        batch_size=2,
        cases=100,
        samples=384,
    ),
    "28^2 of 1x28x28 uint8": Work(
        channels=1,
        shape=(28, 28),
        dtype="uint8",
        patch=(28, 28),
        batch_size=32,
        cases=2000,
        samples=1536,
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


VOLUMES = "64^3 of 4x96^3 float32"
GROUPS = [
    *((name, "crop", 1) for name in WORK),
    (VOLUMES, "copy", 1),
    (VOLUMES, "affine", 1),
    (VOLUMES, "crop", 2),
    (VOLUMES, "affine", 2),
]


@pytest.fixture(scope="module", params=list(WORK))
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return name, work and store; one kind of data on the disk at a time."""
    work = WORK[request.param]
    meta = made_meta(
        kind="random",
        name="random",
        dims=len(work.shape),  # type: ignore[arg-type]  # 2 or 3
        channels=tuple(f"channel {c}" for c in range(work.channels)),
        classes=("healthy", "ill"),
        positive=1,
        source="none",
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


# ---- ours ----


@contextmanager
def ours(
    loader: str, work: Work, store: Store, task: str, workers: int
) -> Iterator[Iterator[torch.Tensor]]:
    everything, dims = np.arange(len(store)), len(work.patch)
    offset, unit = normalization(store.moments, store.meta.normalize, everything)
    still, turned = task == "copy", task == "affine"
    recipe = Recipe(
        patch=work.patch,
        flip=(not still,) * dims,
        scale=0.0 if still else SCALE,
        shift=0.0 if still else SHIFT,
        foreground=0.0,
        rotate=(DEGREES,) * (3 if dims == 3 else 1) if turned else (),
        zoom=ZOOM if turned else 0.0,
        chance=1.0,
    )
    sampler = Sampler(
        cases=everything,
        shapes=store.shapes,
        offset=offset,
        unit=unit,
        recipe=recipe,
        seed=0,
    )
    with LOADERS[loader].open(
        store,
        sampler,
        batch_size=work.batch_size,
        batches=ENDLESS,
        threads=workers,
        device=torch.device("cpu"),
    ) as batches:
        yield (batch.image for batch in batches)


@contextmanager
def copying(
    work: Work, store: Store, _task: str, _workers: int
) -> Iterator[Iterator[torch.Tensor]]:
    """Copy patches in one thread and do nothing else: the limit."""

    def stream() -> Iterator[torch.Tensor]:
        generator = np.random.default_rng(0)
        while True:
            batch = np.empty((work.batch_size, work.channels, *work.patch), work.dtype)
            for row in batch:
                row[...] = np.asarray(store.image(generator.integers(len(store))))[
                    random_place(work, generator)
                ]
            yield torch.from_numpy(batch)

    yield stream()


# ---- the others ----


def random_place(work: Work, generator: np.random.Generator) -> tuple[Any, ...]:
    room = np.array(work.shape) - work.patch
    low = generator.integers(0, room, endpoint=True)
    return (..., *(slice(a, a + p) for a, p in zip(low.tolist(), work.patch, strict=True)))


class Samples(Dataset[torch.Tensor]):
    """A sample by any number, from volumes in memory as float32 tensors."""

    def __init__(self, store: Store, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.volumes = [
            torch.from_numpy(np.array(store.image(case), dtype=np.float32))
            for case in range(len(store))
        ]
        self.make = make

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.make(self.volumes[index])


def endless(dataset: Any, work: Work, **settings: Any) -> dict[str, Any]:
    sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS * work.batch_size)
    return {"batch_size": work.batch_size, "sampler": sampler, **settings}


@contextmanager
def torch_loader(
    make: Callable[[torch.Tensor], torch.Tensor], work: Work, store: Store, workers: int
) -> Iterator[Iterator[torch.Tensor]]:
    """One worker is the caller itself: a process more would only cost."""
    dataset = Samples(store, make)
    loader = torch.utils.data.DataLoader(
        dataset, **endless(dataset, work, num_workers=workers if workers > 1 else 0)
    )
    yield iter(loader)


def by_hand(work: Work, store: Store, task: str, workers: int) -> Any:
    """What a user writes with torch alone."""
    dims = len(work.patch)
    generator = np.random.default_rng(0)

    def make(volume: torch.Tensor) -> torch.Tensor:
        place = random_place(work, generator)
        if task == "affine":
            theta = np.zeros((1, dims, dims + 1), np.float32)
            a, b, c = np.deg2rad(generator.uniform(-DEGREES, DEGREES, 3))
            turns = [
                [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]],
                [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]],
                [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]],
            ]
            matrix = np.linalg.multi_dot([np.array(turn) for turn in turns])
            middle = [2 * a.start + p for a, p in zip(place[1:], work.patch, strict=True)]
            share = np.array(work.patch) / work.shape
            theta[0, :, :-1] = matrix * share * generator.uniform(1 - ZOOM, 1 + ZOOM)
            theta[0, :, -1] = (np.array(middle) / work.shape - 1)[::-1]
            grid = affine_grid(
                torch.from_numpy(theta), [1, work.channels, *work.patch], align_corners=False
            )
            patch = grid_sample(volume[None], grid, align_corners=False)[0]
        else:
            patch = volume[place]
        axes = [axis + 1 for axis in range(dims) if generator.random() < 0.5]
        patch = torch.flip(patch, axes)
        columns = (-1, *[1] * dims)
        scale, shift = (
            torch.from_numpy(generator.uniform(-reach, reach, work.channels).astype(np.float32))
            for reach in (SCALE, SHIFT)
        )
        return patch.mul_(1 + scale.view(columns)).add_(shift.view(columns))

    return torch_loader(make, work, store, workers)


def batchgenerators(work: Work, store: Store, task: str, workers: int) -> Any:
    """nnU-Net's: its loader cuts the patch with numpy, its transforms work on torch tensors."""
    pytest.importorskip("batchgeneratorsv2", reason="pip install medoptbench[perf]")
    from batchgeneratorsv2.transforms.intensity.brightness import (
        BrightnessAdditiveTransform,
        MultiplicativeBrightnessTransform,
    )
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    generator = np.random.default_rng(0)
    reach = np.deg2rad(DEGREES)
    turn = SpatialTransform(
        patch_size=work.patch,
        patch_center_dist_from_border=[side // 2 for side in work.patch],
        random_crop=True,
        p_rotation=1,
        rotation=(-reach, reach),
        p_scaling=1,
        scaling=(1 - ZOOM, 1 + ZOOM),
        p_synchronize_scaling_across_axes=1,
    )
    steps = ComposeTransforms(
        [
            *([turn] if task == "affine" else []),
            MirrorTransform(allowed_axes=tuple(range(len(work.patch)))),
            MultiplicativeBrightnessTransform((1 - SCALE, 1 + SCALE), synchronize_channels=False),
            BrightnessAdditiveTransform(0, SHIFT, synchronize_channels=False),
        ]
    )

    def make(volume: torch.Tensor) -> torch.Tensor:
        if task != "affine":
            volume = torch.from_numpy(volume.numpy()[random_place(work, generator)].copy())
        image: torch.Tensor = steps(image=volume)["image"]
        return image

    return torch_loader(make, work, store, workers)


def brighten(image: torch.Tensor) -> torch.Tensor:
    """Scale and shift; TorchIO's worker processes pickle it, as a part of a subject's history."""
    scale, shift = torch.rand(2).tolist()
    return image * (1 + SCALE * (2 * scale - 1)) + SHIFT * (2 * shift - 1)


@contextmanager
def torchio(work: Work, store: Store, task: str, workers: int) -> Iterator[Iterator[torch.Tensor]]:
    tio = pytest.importorskip("torchio", reason="pip install medoptbench[perf]")
    flat = 3 - len(work.patch)
    subjects = [
        tio.Subject(
            image=tio.ScalarImage(
                tensor=torch.from_numpy(
                    np.array(store.image(case), dtype=np.float32).reshape(
                        work.channels, *work.shape, *[1] * flat
                    )
                )
            )
        )
        for case in range(len(store))
    ]
    turn = tio.RandomAffine(scales=ZOOM, degrees=DEGREES, isotropic=True)
    steps = [
        *([turn] if task == "affine" else []),
        tio.RandomFlip(axes=tuple(range(len(work.patch)))),
        tio.Lambda(brighten),
    ]
    queue = tio.Queue(
        tio.SubjectsDataset(subjects, transform=tio.Compose(steps)),
        max_length=4,
        samples_per_volume=4,
        sampler=tio.UniformSampler((*work.patch, *[1] * flat)),
        num_workers=workers if workers > 1 else 0,
    )

    def stream() -> Iterator[torch.Tensor]:
        while True:
            for batch in tio.SubjectsLoader(queue, batch_size=work.batch_size, num_workers=0):
                image = batch["image"][tio.DATA]
                yield image.reshape(*image.shape[: 2 + len(work.patch)])

    with closing(stream()) as images:
        yield images


@contextmanager
def monai(
    loader: type[DataLoader], work: Work, store: Store, task: str, workers: int
) -> Iterator[Iterator[torch.Tensor]]:
    """MONAI with the volumes in memory as float32 tensors, and no metadata to carry: its fastest.

    ThreadDataLoader has one thread of its own, and processes where there are more workers;
    DataLoader works in the caller or in processes.
    """
    keys = ["image"]
    reach = np.deg2rad(DEGREES)
    # Turned and cut at once, about a random point: as others do, and no corner is empty.
    turn = RandAffined(
        keys,
        prob=1.0,
        rotate_range=(reach,) * len(work.patch),
        scale_range=(ZOOM,) * len(work.patch),
        translate_range=tuple((s - p) / 2 for s, p in zip(work.shape, work.patch, strict=True)),
        mode="bilinear",
        padding_mode="zeros",
        cache_grid=True,
        spatial_size=work.patch,
    )
    cut = RandSpatialCropd(keys, roi_size=work.patch, random_size=False)
    transform = Compose(
        [
            EnsureTyped(keys, dtype=torch.float32, track_meta=False),
            turn if task == "affine" else cut,
            *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(len(work.patch))),
            RandScaleIntensityd(keys, factors=SCALE, prob=1.0),
            RandShiftIntensityd(keys, offsets=SHIFT, prob=1.0),
        ]
    )
    transform.set_random_state(0)
    images = [{"image": np.array(store.image(case))} for case in range(len(store))]
    dataset = CacheDataset(images, transform, num_workers=0, progress=False, copy_cache=False)
    batches = loader(dataset, **endless(dataset, work, num_workers=workers if workers > 1 else 0))

    def stream() -> Iterator[torch.Tensor]:
        for batch in batches:
            yield batch["image"]

    set_track_meta(False)
    try:
        with closing(stream()) as images_only:
            yield images_only
    finally:
        set_track_meta(True)


ROWS: dict[str, Callable[[Work, Store, str, int], Any]] = {
    "copying": copying,
    "torch": partial(ours, "torch"),
    "dali": partial(ours, "dali"),
    "monai, our draws": partial(ours, "monai"),
    "monai ThreadDataLoader": partial(monai, ThreadDataLoader),
    "monai DataLoader": partial(monai, DataLoader),
    "batchgeneratorsv2": batchgenerators,
    "torchio queue": torchio,
    "torch DataLoader": by_hand,
}


@pytest.fixture(scope="module", autouse=True)
def begun() -> None:
    """As `medopt run` begins: what is here of torch's threads is one, set for all tests."""
    keep_freed_memory()


@pytest.fixture
def bound(request: pytest.FixtureRequest) -> Iterator[int]:
    """Bind this thread, and the threads and processes that it starts, to a number of cores."""
    cores = os.sched_getaffinity(0)
    if len(cores) < request.param:
        pytest.skip(f"{request.param} cores are asked for, {len(cores)} are here")
    os.sched_setaffinity(0, sorted(cores)[: request.param])
    yield request.param
    os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(("prepared", "task", "bound"), GROUPS, indirect=["prepared", "bound"])
@pytest.mark.parametrize("row", list(ROWS))
def test_samples(
    row: str,
    task: str,
    bound: int,
    prepared: tuple[str, Work, Store],
    benchmark: BenchmarkFixture,
) -> None:
    if (task == "copy" and row not in ("copying", "torch", "dali")) or (
        task != "copy" and row == "copying"
    ):
        pytest.skip("the others do not only copy, and this one does nothing else")
    name, work, store = prepared
    benchmark.group = f"{name}, {task}, {bound} core{'s' * (bound > 1)}"
    benchmark.extra_info["samples"] = work.samples
    if row not in ("dali", "monai, our draws"):  # ours too, for those who choose them
        benchmark.extra_info["side"] = "ours" if row == "torch" else "other"
    with ROWS[row](work, store, task, bound) as images:

        def take() -> torch.Tensor:
            for _ in range(work.samples // work.batch_size):
                image = next(images)
            return image

        # The affine costs ten times as much.
        rounds = 5 if task == "affine" else 9
        image = benchmark.pedantic(take, rounds=rounds, warmup_rounds=2)
    assert image.shape == (work.batch_size, work.channels, *work.patch)
    benchmark.extra_info["samples_per_second"] = round(work.samples / benchmark.stats.stats.median)
