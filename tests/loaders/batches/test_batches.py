"""Batches: DALI and the host loader give the same samples, and only read what they give."""

import random
import re
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.dlpack import from_dlpack

from loaders.batches import resident_loader
from loaders.batches.dali_loader import build_pipeline, pipeline_inputs
from loaders.batches.request import fill_of
from loaders.batches.table import LOADERS
from loaders.batches.torch_loader import Batch, gather
from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.sampling.foreground import Foreground
from loaders.sampling.sampler import Draws, Recipe, Sampler
from loaders.store.layout import StoreError
from loaders.store.read import Store, open_store
from loaders.store.write import write_store
from tests.metas import made_meta

CPU = torch.device("cpu")
N = 11


def give(item: Item, meta: Meta) -> Iterator[Case]:
    yield from item.extra["cases"]


def a_store(
    out: Path,
    *,
    dtype: str,
    shapes: list[tuple[int, ...]],
    channels: int = 1,
    masks: bool = False,
    fill: float = 0.0,
) -> Store:
    """Write a store of random images; every value of the type may occur."""
    dims = len(shapes[0])
    generator = np.random.default_rng(0)
    kind = np.dtype(dtype)
    cases = []
    for number, shape in enumerate(shapes):
        size = (channels, *shape)
        if kind.kind == "f":
            image = generator.normal(0, 300, size).astype(kind)
        else:
            limits = np.iinfo(kind)
            image = generator.integers(limits.min, limits.max + 1, size, dtype=kind)
        cases.append(
            Case(
                key=f"case {number}",
                group=f"case {number}",
                image=image,
                label=None if masks else number % 2,
                mask=generator.integers(0, 2, shape).astype(np.uint8) if masks else None,
                spacing=(1.0,) * dims,
            )
        )
    meta = made_meta(
        kind="fake",
        name="fake",
        task="segmentation" if masks else "classification",
        dims=dims,  # type: ignore[arg-type]  # 2 or 3
        channels=tuple(f"channel {c}" for c in range(channels)),
        classes=("background", "lesion") if masks else ("healthy", "ill"),
        regions={"lesion": (1,)} if masks else {},
        positive=None if masks else 1,
        fill=fill,
        source="none",
    )
    items = tuple(Item(key=case.key, paths=(), extra={"cases": [case]}) for case in cases)

    def survey(source: Path, options: Any) -> Survey:
        raise NotImplementedError

    row = Kind(name="fake", summary="", source="", survey=survey, read=give, options={})
    survey_of_all = Survey(meta=meta, items=items, rejected=())
    write_store(row, survey_of_all, out, key=b"key", workers=1, strict=True)
    return open_store(out)


def uneven(*shape: int) -> list[tuple[int, ...]]:
    return [tuple(side + (k * (axis + 1)) % 4 for axis, side in enumerate(shape)) for k in range(N)]


# Store, patch. Between them: packed and single files, 2-D and 3-D, every image type, one channel
# and several, masks, patches as large as the image, smaller, and larger along some axis.
STORES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "packed uint8": ({"dtype": "uint8", "shapes": [(13, 9)] * N}, (13, 9)),
    "packed rgb, cropped": ({"dtype": "uint8", "shapes": [(13, 9)] * N, "channels": 3}, (8, 5)),
    "packed uint16, padded": ({"dtype": "uint16", "shapes": [(13, 9)] * N, "fill": 7.0}, (8, 16)),
    "packed with masks": ({"dtype": "int16", "shapes": [(13, 9)] * N, "masks": True}, (8, 12)),
    "uneven 2-D": ({"dtype": "float32", "shapes": uneven(11, 12), "channels": 2}, (12, 8)),
    "int16 volumes with masks": (
        {"dtype": "int16", "shapes": uneven(9, 12, 10), "masks": True, "fill": -1000.0},
        (10, 8, 14),
    ),
    "uint16 volumes": ({"dtype": "uint16", "shapes": uneven(9, 12, 10), "channels": 4}, (8, 8, 8)),
    "float32 volumes": (
        {"dtype": "float32", "shapes": [(8, 8, 8)] * N, "channels": 2, "fill": 0.3},
        (8, 8, 8),
    ),
    "uint8 volumes, padded all round": (
        {"dtype": "uint8", "shapes": uneven(4, 5, 6), "masks": True, "fill": 255.0},
        (12, 12, 12),
    ),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    root = tmp_path_factory.mktemp("stores")
    return {
        name: a_store(root / str(number), **settings)
        for number, (name, (settings, _)) in enumerate(STORES.items())
    }


def a_sampler(store: Store, patch: tuple[int, ...], *, seed: int = 1, **changes: Any) -> Sampler:
    count, total, squares = store.moments
    mean = total / count
    recipe = {
        "patch": patch,
        "flip": (True,) * len(patch),
        "scale": 0.1,
        "shift": 0.2,
        "foreground": 0.5,
    }
    return Sampler(
        cases=np.arange(len(store)),
        shapes=store.shapes,
        foreground=Foreground(mask=store.mask, boxes=store.boxes, regions=[(1,)])
        if store.meta.masked
        else None,
        offset=mean,
        unit=np.sqrt(squares / count - mean**2),
        recipe=Recipe(**{**recipe, **changes}),
        seed=seed,
    )


def everything(patch: tuple[int, ...]) -> dict[str, Any]:
    """Return a recipe's other augmentations, each of them on for half of the samples."""
    return {
        "translate": 0.2,
        "rotate": (40.0,) * (1 if len(patch) == 2 else 3),
        "zoom": 0.3,
        "noise": 0.5,
        "contrast": 0.3,
        "gamma": 0.5,
        "chance": 0.5,
    }


def plainly(store: Store, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples as the definition has them, the long way."""
    images, targets = [], []
    for k, case in enumerate(draws.case):
        image, origin = np.array(store.image(case)), draws.origin[k]
        out = np.full((len(image), *draws.patch), store.meta.fill, dtype=np.float32)
        mask = np.zeros(draws.patch, dtype=np.uint8)
        for place in np.ndindex(*draws.patch):
            at = tuple(int(o + p) for o, p in zip(origin, place, strict=True))
            if all(0 <= a < s for a, s in zip(at, image.shape[1:], strict=True)):
                out[(slice(None), *place)] = image[(slice(None), *at)]
                if store.meta.masked:
                    mask[place] = store.mask(case)[at]
        axes = [axis for axis, turned in enumerate(draws.flip[k]) if turned]
        columns = (slice(None), *[None] * len(draws.patch))
        gain = (1 / draws.unit[k].astype(np.float64)).astype(np.float32)
        sample = (np.flip(out, [axis + 1 for axis in axes]) - draws.offset[k][columns]) * gain[
            columns
        ]
        assert sample.dtype == np.float32
        images.append(sample)
        targets.append(np.flip(mask, axes) if store.meta.masked else store.labels[case])
    return np.stack(images), np.stack(targets)


def collect(loader: str, store: Store, sampler: Sampler, **changes: Any) -> list[Batch]:
    settings = {"batch_size": 4, "batches": 3, "threads": 1, "device": CPU}
    with LOADERS[loader].open(store, sampler, **{**settings, **changes}) as batches:
        return list(batches)


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) and x.dtype == y.dtype
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one[:2], other[:2], strict=True)
    )


# MONAI reads whole images, and rounds otherwise where it interpolates.
lean = pytest.mark.parametrize("loader", [name for name in LOADERS if name != "monai"])
every_loader = pytest.mark.parametrize("loader", list(LOADERS))
every_store = pytest.mark.parametrize("name", list(STORES))


# ---- the same samples, bit for bit ----


@pytest.mark.parametrize("batches", [1, 5, 40])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_made_between_steps_are_those_made_beside_them(
    stores: dict[str, Store], monkeypatch: pytest.MonkeyPatch, threads: int, batches: int
) -> None:
    store = stores["uint16 volumes"]
    sampler = a_sampler(store, (8, 8, 8), **everything((8, 8, 8)))
    made = []
    for cores in (1, 64):
        monkeypatch.setattr("loaders.batches.torch_loader.usable_cores", lambda cores=cores: cores)
        made.append(collect("torch", store, sampler, threads=threads, batches=batches))
    assert len(made[0]) == batches
    assert same(*made)


@every_loader
@every_store
def test_batches_are_the_draws_bit_for_bit(
    loader: str, name: str, stores: dict[str, Store]
) -> None:
    store, patch = stores[name], STORES[name][1]
    sampler = a_sampler(store, patch)
    # Over the end of an epoch: 11 cases, 12 positions.
    for number, batch in enumerate(collect(loader, store, sampler)):
        image, target = plainly(store, sampler.draw(np.arange(4) + 4 * number))
        assert type(batch.image) is type(batch.target) is torch.Tensor
        assert batch.image.dtype == torch.float32
        assert batch.target.dtype == (torch.uint8 if store.meta.regions else torch.int64)
        assert batch.image.shape == image.shape
        assert batch.target.shape == target.shape
        np.testing.assert_array_equal(batch.image.numpy(), image)
        np.testing.assert_array_equal(batch.target.numpy(), target)


@lean
@every_store
def test_batches_with_everything_on_are_the_same_of_every_loader(
    loader: str, name: str, stores: dict[str, Store]
) -> None:
    store, patch = stores[name], STORES[name][1]
    sampler = a_sampler(store, patch, **everything(patch))
    for number, batch in enumerate(collect(loader, store, sampler, threads=2)):
        draws = sampler.draw(np.arange(4) + 4 * number)
        image, target = gather(store, draws)
        assert batch.image.dtype == torch.float32
        np.testing.assert_array_equal(batch.image.numpy(), image)
        np.testing.assert_array_equal(batch.target.numpy(), target)


@every_store
def test_with_everything_on_monai_is_off_by_rounding_alone(
    name: str, stores: dict[str, Store]
) -> None:
    """Without gamma: an exponent below 1 makes much of what rounding does near the minimum."""
    store, patch = stores[name], STORES[name][1]
    sampler = a_sampler(store, patch, **{**everything(patch), "gamma": 0.0})
    for number, batch in enumerate(collect("monai", store, sampler, threads=2)):
        draws = sampler.draw(np.arange(4) + 4 * number)
        image, target = gather(store, draws)
        still = torch.from_numpy(~draws.warped)
        assert torch.equal(batch.image[still], torch.from_numpy(image)[still])
        assert torch.equal(batch.target[still], torch.from_numpy(target)[still])
        np.testing.assert_allclose(batch.image, image, rtol=0, atol=1e-4 * np.ptp(image))
        assert (batch.target.numpy() != target).mean() < 1e-3


@every_loader
@every_store
def test_translated_patches_are_copied_voxel_by_voxel(
    loader: str, name: str, stores: dict[str, Store]
) -> None:
    store, patch = stores[name], STORES[name][1]
    sampler = a_sampler(store, patch, translate=0.9)
    for number, batch in enumerate(collect(loader, store, sampler)):
        image, target = plainly(store, sampler.draw(np.arange(4) + 4 * number))
        np.testing.assert_array_equal(batch.image.numpy(), image)
        np.testing.assert_array_equal(batch.target.numpy(), target)


@every_store
def test_evaluation_gathers_centred_patches(name: str, stores: dict[str, Store]) -> None:
    store, patch = stores[name], STORES[name][1]
    draws = a_sampler(store, patch).centre(np.array([3, 0, 10, 3]))
    for found, wanted in zip(gather(store, draws), plainly(store, draws), strict=True):
        np.testing.assert_array_equal(found, wanted)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_patch_of_any_image(data: st.DataObject) -> None:
    """Patches far out of the image too, which no sampler draws: then all is fill."""
    dims = data.draw(st.sampled_from([2, 3]))
    sides = st.tuples(*[st.integers(1, 6)] * dims)
    shape, patch = data.draw(sides), data.draw(sides)
    origin = data.draw(st.tuples(*[st.integers(-8, 8)] * dims))
    generator = np.random.default_rng(0)
    image = generator.integers(-999, 999, (2, *shape)).astype(np.int16)
    mask = generator.integers(0, 3, shape).astype(np.uint8)
    store = SimpleNamespace(
        meta=SimpleNamespace(masked=True, fill=-5.0),
        image_type=image.dtype,
        shapes=np.array([shape]),
        image=lambda case: image,
        mask=lambda case: mask,
    )
    draws = Draws(
        patch=patch,
        case=np.array([0]),
        origin=np.array([origin]),
        matrix=np.eye(dims)[None],
        flip=np.array([data.draw(st.tuples(*[st.booleans()] * dims))]),
        offset=np.array([[3.1, -0.2]], np.float32),
        unit=np.array([[0.7, 1.3]], np.float32),
        key=np.zeros((1, 2), np.int64),
        noise=np.zeros(1, np.float32),
        contrast=np.ones((1, 2), np.float32),
        gamma=np.ones((1, 2), np.float32),
    )
    for found, wanted in zip(gather(store, draws), plainly(store, draws), strict=True):  # type: ignore[arg-type]  # what gather reads of a store
        np.testing.assert_array_equal(found, wanted)


@every_loader
@pytest.mark.parametrize("name", ["packed uint8", "int16 volumes with masks"])
def test_without_augmentation_and_with_more_threads(
    loader: str, name: str, stores: dict[str, Store]
) -> None:
    store, patch = stores[name], STORES[name][1]
    sampler = a_sampler(
        store, patch, flip=(False,) * len(patch), scale=0.0, shift=0.0, foreground=0.0
    )
    batches = collect(loader, store, sampler, threads=3, batches=5)
    image, target = plainly(store, sampler.draw(np.arange(20)))
    np.testing.assert_array_equal(np.concatenate([b.image for b in batches]), image)
    np.testing.assert_array_equal(np.concatenate([b.target for b in batches]), target)


# ---- the stream: exact, resumable, shared by ranks ----


@every_loader
def test_exactly_as_many_batches_as_asked_for(loader: str, stores: dict[str, Store]) -> None:
    store = stores["packed uint8"]
    for batches in (0, 1, 2, 7):
        found = collect(loader, store, a_sampler(store, (8, 8)), batches=batches, batch_size=5)
        assert [len(batch.image) for batch in found] == [5] * batches


@every_loader
def test_nothing_is_drawn_past_the_end(
    loader: str, stores: dict[str, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores["packed uint8"]
    sampler = a_sampler(store, (8, 8))
    asked: list[int] = []
    draw = sampler.draw

    def watched(positions: np.ndarray) -> Draws:
        asked.extend(positions.tolist())
        return draw(positions)

    monkeypatch.setattr(sampler, "draw", watched)
    collect(loader, store, sampler, batch_size=5, batches=6, start=10)
    assert set(asked) == set(range(10, 40))


recipes = pytest.mark.parametrize("recipe", [{}, everything((8, 8, 8))], ids=["few", "all"])


@every_loader
@recipes
def test_a_stream_is_taken_up_in_the_middle(
    loader: str, recipe: dict[str, Any], stores: dict[str, Store]
) -> None:
    store = stores["int16 volumes with masks"]
    sampler, later = (a_sampler(store, (8, 8, 8), **recipe) for _ in range(2))
    whole = collect(loader, store, sampler, batches=8)
    assert same(collect(loader, store, later, batches=5, start=12), whole[3:])


@every_loader
@recipes
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_what_one_process_sees(
    loader: str, recipe: dict[str, Any], world: int, stores: dict[str, Store]
) -> None:
    store = stores["int16 volumes with masks"]
    sampler = a_sampler(store, (8, 8, 8), **recipe)
    whole = collect(loader, store, sampler, batch_size=5)
    shares = [
        collect(loader, store, sampler, batch_size=5, shard=(rank, world)) for rank in range(world)
    ]
    joined = [
        Batch(torch.cat([b.image for b in parts]), torch.cat([b.target for b in parts]))
        for parts in zip(*shares, strict=True)
    ]
    assert same(joined, whole)


@every_loader
def test_the_random_states_that_training_draws_from_are_left_alone(
    loader: str, stores: dict[str, Store]
) -> None:
    store = stores["int16 volumes with masks"]
    python, torchs = random.getstate(), torch.get_rng_state()
    numpys = np.random.get_state()[1].copy()  # noqa: NPY002 - others draw from it
    collect(loader, store, a_sampler(store, (8, 8, 8), **everything((8, 8, 8))), threads=2)
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), torchs)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)  # noqa: NPY002  # the global state must be as it was


# ---- the caller's to keep ----


@every_loader
def test_batches_are_not_written_to_again(loader: str, stores: dict[str, Store]) -> None:
    store = stores["packed with masks"]
    sampler = a_sampler(store, (8, 8))
    settings = {"batch_size": 2, "batches": 40, "threads": 1, "device": CPU}
    kept, copies = [], []
    with LOADERS[loader].open(store, sampler, **settings) as batches:
        for batch in batches:
            kept.append(batch)
            copies.append(Batch(batch.image.clone(), batch.target.clone()))
    assert same(kept, copies)
    assert len({b.image.data_ptr() for b in kept} | {b.target.data_ptr() for b in kept}) == 80


@every_loader
def test_batches_may_be_written_to(loader: str, stores: dict[str, Store]) -> None:
    store = stores["packed with masks"]
    sampler = a_sampler(store, (8, 8))
    expected = collect(loader, store, sampler, batches=12)
    settings = {"batch_size": 4, "batches": 12, "threads": 1, "device": CPU}
    with LOADERS[loader].open(store, sampler, **settings) as batches:
        for batch, wanted in zip(batches, expected, strict=True):
            assert same([batch], [wanted])
            batch.image.fill_(-1)
            batch.target.fill_(9)


# ---- only the patch is read ----


@pytest.mark.parametrize("loader", ["torch", "dali"])
@pytest.mark.parametrize("rotate", [(), (30.0, 30.0, 30.0)])
def test_of_a_large_volume_the_patch_alone_is_read(
    loader: str, rotate: tuple[float, ...], tmp_path: Path
) -> None:
    """A sparse file of 8 GiB: to read it whole would show in the memory of the process."""
    shape = (1, 2048, 2048, 1024)
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.int16, shape)
    array[0, 1000:1008, 1000:1008, 500:508] = 7
    array.flush()
    store = SimpleNamespace(
        path=tmp_path,
        meta=SimpleNamespace(masked=False, fill=0.0, channels=("a",)),
        image_type=array.dtype,
        shapes=np.array([shape[1:]]),
        answers=np.array([0]),
        image=lambda case: array,
        image_file=lambda case: (tmp_path / "a.npy", None),
        mask_file=None,
    )
    sampler = Sampler(
        cases=np.array([0]),
        shapes=store.shapes,
        foreground=Foreground(
            mask=lambda case: np.broadcast_to(np.uint8(1), shape[1:]),
            boxes=np.array([[[[1003] * 2 + [503], [1004] * 2 + [504]]]]),
            regions=[(1,)],
        ),
        offset=np.zeros((1, 1)),
        unit=np.ones((1, 1)),
        recipe=Recipe(
            patch=(8, 8, 8),
            flip=(True,) * 3,
            scale=0.0,
            shift=0.0,
            foreground=1.0,
            rotate=rotate,
            chance=1.0,
        ),
        seed=0,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batches = collect(loader, store, sampler, batch_size=2)  # type: ignore[arg-type]  # a store
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 2**30
    assert all((batch.image >= 0).all() and batch.image.max() > 6.9 for batch in batches)


@lean
def test_a_patch_far_along_a_long_axis_is_found_to_the_voxel(loader: str) -> None:
    """DALI places a crop by a fraction in float32."""
    array = np.tile(np.arange(2**22 + 2, dtype=np.float32), (1, 2, 1))
    store = SimpleNamespace(
        path=Path("a store"),
        content_hash="",
        outside=None,
        meta=SimpleNamespace(masked=False, fill=0.0, channels=("a",)),
        image_type=array.dtype,
        shapes=np.array([array.shape[1:]]),
        answers=np.array([0]),
        image=lambda case: array,
    )
    sampler = Sampler(
        cases=np.array([0]),
        shapes=store.shapes,
        offset=np.zeros((1, 1)),
        unit=np.ones((1, 1)),
        recipe=Recipe(patch=(2, 3), flip=(False,) * 2, scale=0.0, shift=0.0, foreground=0.0),
        seed=0,
    )
    batches = collect(loader, store, sampler, batch_size=500, batches=4)  # type: ignore[arg-type]  # a store
    found = torch.cat([batch.image[:, 0, 0, 0] for batch in batches]).numpy()
    np.testing.assert_array_equal(found, sampler.draw(np.arange(2000)).origin[:, 1])


# ---- a store that lies on the device ----


@pytest.fixture
def nothing_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident_loader, "_held", {})


@pytest.mark.usefixtures("nothing_resident")
def test_a_store_is_read_once_for_all_trials_of_a_process(
    stores: dict[str, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    image = Store.image

    def noted(store: Store, index: int) -> Any:
        read.append(store.path)
        return image(store, index)

    monkeypatch.setattr(Store, "image", noted)
    for name, count in (
        ("packed uint8", N),
        ("packed uint8", 0),
        ("uint16 volumes", N),  # in place of the other
        ("packed uint8", N),
    ):
        store, patch = stores[name], STORES[name][1]
        read.clear()
        collect("resident", store, a_sampler(store, patch))
        assert len(read) == count
    assert len(resident_loader._held) == 1


@pytest.mark.usefixtures("nothing_resident")
def test_answers_are_those_of_the_trial_though_the_images_lie_there(
    stores: dict[str, Store],
) -> None:
    store = stores["packed uint8"]
    sampler = a_sampler(store, (13, 9))
    taught = store.with_answers(1 - store.labels)
    plain, other = (collect("resident", one, sampler) for one in (store, taught))
    for one, two in zip(plain, other, strict=True):
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.target, 1 - two.target)


@pytest.mark.usefixtures("nothing_resident")
def test_a_store_that_does_not_fit_is_refused(
    stores: dict[str, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores["uint16 volumes"]
    needed = int(store.shapes.prod(axis=1).sum()) * 4 * 2
    for free, fits in ((2 * needed, True), (2 * needed - 1, False)):
        monkeypatch.setattr(resident_loader, "usable_memory", lambda free=free: free)
        if fits:
            collect("resident", store, a_sampler(store, (8, 8, 8)))
            resident_loader._held.clear()
            continue
        with pytest.raises(ValueError, match=r"takes 0\.0 GiB on the device.*another loader"):
            collect("resident", store, a_sampler(store, (8, 8, 8)))


# ---- DALI's own operators ----


def a_pipeline(store: Store, patch: tuple[int, ...], **changes: Any) -> Any:
    def feed(batch: int) -> list[Any]:
        raise NotImplementedError

    draws = a_sampler(store, patch).draw(np.arange(4))
    settings = {"slices": False, "warps": False, "threads": 1, "device": CPU}
    return build_pipeline(store, draws, feed, **{**settings, **changes})


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(("name", "arrays"), [("packed uint8", 1), ("int16 volumes with masks", 2)])
def test_crop_flip_and_intensity_are_operators_of_dali(
    name: str, arrays: int, cut: bool, stores: dict[str, Store]
) -> None:
    pipeline = a_pipeline(stores[name], STORES[name][1], slices=cut)
    try:
        # "__Flip_4" is a Flip.
        found = [re.sub(r"^__|_\d+$", "", op.name) for op in pipeline._ops]
    finally:
        pipeline.__del__()
    work = sorted(op for op in found if op != "ExternalSource")
    each = ["CropMirrorNormalize", "Flip", *["Slice"] * cut]
    assert work == sorted(each * arrays)


@every_store
def test_warp_affine_gives_what_torch_does(name: str, stores: dict[str, Store]) -> None:
    """What a GPU runs, on a CPU: nothing turned bit-equal, interpolated values to 1e-4 of their
    range (in patches as small as these), labels but for ties.
    """
    store, patch = stores[name], STORES[name][1]
    moves = {**everything(patch), "noise": 0.0, "contrast": 0.0, "gamma": 0.0}
    draws = a_sampler(store, patch, **moves).draw(np.arange(3 * N))

    def feed(batch: int) -> list[Any]:
        return list(pipeline_inputs(store, draws, slices=True, warps=True).values())

    settings = {"slices": True, "warps": True, "threads": 1, "device": CPU}
    pipeline = build_pipeline(store, draws, feed, **settings)
    try:
        found = [from_dlpack(out.as_tensor()).numpy().copy() for out in pipeline.run()]
    finally:
        pipeline.__del__()
    image, target = gather(store, draws)
    still = ~draws.warped
    np.testing.assert_array_equal(found[0][still], image[still])
    np.testing.assert_allclose(found[0], image, rtol=0, atol=1e-4 * np.ptp(image))
    if store.meta.masked:
        np.testing.assert_array_equal(found[1][still, 0], target[still])
        assert (found[1][:, 0] != target).mean() < 1e-3


def test_dali_runs_with_the_threads_asked_for_and_two_batches_ahead(
    stores: dict[str, Store],
) -> None:
    pipeline = a_pipeline(stores["uint16 volumes"], (8, 8, 8), threads=2)
    try:
        assert pipeline.num_threads == 2
        assert pipeline.prefetch_queue_depth == 2
        assert pipeline.device_id is None
    finally:
        pipeline.__del__()


@pytest.mark.filterwarnings("error")
def test_a_machine_without_gpu_is_no_reason_to_warn(stores: dict[str, Store]) -> None:
    store = stores["uint16 volumes"]
    assert len(collect("dali", store, a_sampler(store, (8, 8, 8)))) == 3


def test_without_dali_the_other_loader_is_named(
    stores: dict[str, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nvidia.dali", None)
    monkeypatch.delattr("nvidia.dali", raising=False)
    store = stores["uint16 volumes"]
    sampler = a_sampler(store, (8, 8, 8))
    with pytest.raises(ImportError, match="set `loader: torch` in the study"):
        collect("dali", store, sampler)
    assert len(collect("torch", store, sampler)) == 3


# ---- ends and errors ----


def own_threads() -> int:
    """Return how many threads of loaders this process has."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text())
        except FileNotFoundError:
            continue  # It ended meanwhile.
    dali = sum("[DALI]" in name for name in names)
    ours = ("batches", "ahead")
    return dali + sum(thread.name.startswith(ours) for thread in threading.enumerate())


@every_loader
@pytest.mark.parametrize("taken", [0, 1, 30])
def test_no_thread_outlives_the_stream(loader: str, taken: int, stores: dict[str, Store]) -> None:
    store = stores["uint16 volumes"]
    settings = {"batch_size": 2, "batches": 30, "threads": 2, "device": CPU}
    before = own_threads()
    with LOADERS[loader].open(store, a_sampler(store, (8, 8, 8)), **settings) as batches:
        kept = [next(batches) for _ in range(taken)]
        if taken == 1:
            assert own_threads() > before
    assert own_threads() == before
    assert len(kept) == taken


@every_loader
def test_no_thread_outlives_an_error_of_the_consumer(loader: str, stores: dict[str, Store]) -> None:
    store = stores["uint16 volumes"]
    before = own_threads()

    def consume() -> None:
        settings = {"batch_size": 2, "batches": 30, "threads": 2, "device": CPU}
        with LOADERS[loader].open(store, a_sampler(store, (8, 8, 8)), **settings) as batches:
            next(batches)
            raise ArithmeticError("the loss is not finite")

    with pytest.raises(ArithmeticError, match="not finite"):
        consume()
    assert own_threads() == before


@every_loader
def test_a_file_that_went_missing_is_named(loader: str, tmp_path: Path) -> None:
    store = a_store(tmp_path / "store", dtype="uint8", shapes=uneven(5, 6, 7))
    sampler = a_sampler(store, (4, 4, 4))
    case = sampler.draw(np.array([9])).case[0]
    name = store.image_file(case)[0]
    name.unlink()
    before = own_threads()
    found = []
    with (
        # Kept, and with it the frames that it came through.
        pytest.raises(StoreError, match=name.name) as error,
        LOADERS[loader].open(
            store, sampler, batch_size=2, batches=20, threads=1, device=CPU
        ) as batches,
    ):
        found.extend(batches)
    # It is in batch 4, or before; DALI hands out no more once it has met it, two batches ahead.
    assert len(found) <= 4
    assert own_threads() == before
    assert error.traceback


@every_loader
@pytest.mark.parametrize(("dtype", "fill"), [("uint8", -1000.0), ("int16", 0.5)])
def test_a_fill_that_no_voxel_can_have(
    loader: str, dtype: str, fill: float, stores: dict[str, Store]
) -> None:
    store = SimpleNamespace(
        path=Path("a store"), meta=SimpleNamespace(fill=fill), image_type=np.dtype(dtype)
    )
    sampler = a_sampler(stores["uint16 volumes"], (8, 8, 8))
    settings = {"batch_size": 4, "batches": 3, "threads": 1, "device": CPU}
    with pytest.raises(ValueError, match=f"a store: fill is {fill}, which {dtype} cannot hold"):
        LOADERS[loader].open(store, sampler, **settings)
    store.image_type = np.dtype(np.float32)
    assert fill_of(store) == fill  # type: ignore[arg-type]  # a store


@every_loader
@pytest.mark.parametrize(
    "change", [{"shard": (2, 2)}, {"start": -4}, {"batch_size": 2, "shard": (0, 3)}]
)
def test_what_cannot_be_streamed_is_said_when_it_is_opened(
    loader: str, change: dict[str, Any], stores: dict[str, Store]
) -> None:
    store = stores["uint16 volumes"]
    settings = {"batch_size": 4, "batches": 3, "threads": 1, "device": CPU}
    with pytest.raises(ValueError, match=r"shard|start|nothing"):
        LOADERS[loader].open(store, a_sampler(store, (8, 8, 8)), **{**settings, **change})


# ---- what a loss needs beside the targets ----


def doubled(target: torch.Tensor) -> torch.Tensor:
    assert threading.current_thread() is not threading.main_thread()
    return 2.0 * target


@every_loader
def test_what_is_made_of_the_targets_comes_with_them(loader: str, stores: dict[str, Store]) -> None:
    store = stores["int16 volumes with masks"]
    sampler = a_sampler(store, (8, 8, 8))
    settings = {"batch_size": 5, "batches": 4, "threads": 1, "device": CPU}
    before = own_threads()
    with LOADERS[loader].open(store, sampler, **settings) as batches:
        plain = list(batches)
    with LOADERS[loader].open(store, sampler, derive=doubled, **settings) as batches:
        found = list(batches)
    assert same(found, plain)
    assert all(torch.equal(batch.derived, 2.0 * batch.target) for batch in found)
    assert all(batch.derived is None for batch in plain)
    with LOADERS[loader].open(store, sampler, derive=doubled, **settings) as batches:
        next(batches)
    assert own_threads() == before


@every_loader
def test_what_cannot_be_made_of_the_targets_is_raised(
    loader: str, stores: dict[str, Store]
) -> None:
    def refuse(target: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError(f"nothing to be made of {len(target)} targets")

    store = stores["int16 volumes with masks"]
    settings = {"batch_size": 5, "batches": 4, "threads": 1, "device": CPU}
    before = own_threads()
    with (
        pytest.raises(ArithmeticError, match="of 5 targets"),
        LOADERS[loader].open(store, a_sampler(store, (8, 8, 8)), derive=refuse, **settings) as b,
    ):
        next(b)
    assert own_threads() == before


# ---- on a GPU ----


@pytest.mark.gpu
@every_store
@every_loader
@pytest.mark.parametrize("extra", [False, True])
def test_a_gpu_gives_the_same_samples(
    loader: str, extra: bool, name: str, stores: dict[str, Store]
) -> None:
    """Covers the lines that no CPU runs.

    In loaders/batches/dali_loader.py: `patch.gpu()`, `device_id=device.index`, the labels'
    `.to(device)`, `turn` in a stream and `alter` on the device (the cut on the host and
    fn.warp_affine are run by CPUs too); in the other loaders the two `.to(device)`. A GPU may fuse
    difference and product, which rounds once where the CPU rounds twice, and it interpolates and
    takes powers otherwise.
    """
    store, patch = stores[name], STORES[name][1]
    sampler = a_sampler(store, patch, **(everything(patch) if extra else {}))
    on_gpu = collect(loader, store, sampler, device=torch.device("cuda", 0))
    for batch, wanted in zip(on_gpu, collect("torch", store, sampler), strict=True):
        assert batch.image.is_cuda
        assert batch.target.is_cuda
        found, image = batch.image.cpu(), wanted.image
        if extra:
            np.testing.assert_allclose(found, image, rtol=0, atol=1e-3 * np.ptp(image.numpy()))
            assert (batch.target.cpu() != wanted.target).float().mean() < 1e-3
        else:
            torch.testing.assert_close(found, image, rtol=1e-6, atol=1e-5)
            assert torch.equal(batch.target.cpu(), wanted.target)
