"""What a training part tells of its intensities and classes: of that part alone."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.sampling.assign import FoldError
from loaders.sampling.normalization import class_weights, normalization, value_range
from loaders.store.read import open_store
from loaders.store.write import write_store
from tests.metas import made_meta

CLASSES = ("benign", "malignant")


def moments_of(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As the store keeps them, over all voxels: each (n, C)."""
    flat = [image.reshape(len(image), -1).astype(np.float64) for image in images]
    return (
        np.array([[f.shape[1]] * len(f) for f in flat], dtype=np.float64),
        np.array([f.sum(axis=1) for f in flat]),
        np.array([(f**2).sum(axis=1) for f in flat]),
    )


def test_normalisation_is_that_of_the_training_voxels_alone() -> None:
    generator = np.random.default_rng(0)
    shapes = [(2, 3 + i, 4, 5) for i in range(8)]
    images = [generator.normal(50 * i, 1 + i, shape) for i, shape in enumerate(shapes)]
    train = np.array([0, 2, 3])
    mean, std = normalization(moments_of(images), "train", train)
    voxels = np.concatenate([images[i].reshape(2, -1) for i in train], axis=1)
    assert mean.shape == std.shape == (8, 2)
    np.testing.assert_allclose(mean, np.tile(voxels.mean(axis=1), (8, 1)), rtol=1e-9)
    np.testing.assert_allclose(std, np.tile(voxels.std(axis=1), (8, 1)), rtol=1e-9)


def test_no_statistic_looks_at_a_case_outside_the_training_part() -> None:
    generator = np.random.default_rng(0)
    images = [generator.normal(0, 1, (1, 4, 4)) for _ in range(6)]
    train = np.array([1, 2, 5])
    mean, std = normalization(moments_of(images), "train", train)
    for outside in (0, 3, 4):
        changed = [image + 1000 if i == outside else image for i, image in enumerate(images)]
        np.testing.assert_array_equal(normalization(moments_of(changed), "train", train)[0], mean)
        np.testing.assert_array_equal(normalization(moments_of(changed), "train", train)[1], std)


def test_each_case_by_itself() -> None:
    generator = np.random.default_rng(0)
    images = [generator.normal(7 * i, 1 + i, (2, 5, 5)) for i in range(4)]
    mean, std = normalization(moments_of(images), "case", np.array([0]))
    np.testing.assert_allclose(mean, [image.mean(axis=(1, 2)) for image in images], rtol=1e-9)
    np.testing.assert_allclose(std, [image.std(axis=(1, 2)) for image in images], rtol=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.1, 1e4])
def test_a_constant_or_empty_channel_is_not_divided_by_zero(level: float) -> None:
    images = [np.full((1, 7, 9), level)]
    mean, std = normalization(moments_of(images), "case", np.array([0]))
    assert std.tolist() == [[1.0]]
    assert mean[0, 0] == pytest.approx(level)
    nothing = tuple(np.zeros((1, 1)) for _ in range(3))
    mean, std = normalization(nothing, "case", np.array([0]))  # type: ignore[arg-type]  # three
    assert (mean.tolist(), std.tolist()) == ([[0.0]], [[1.0]])


def test_an_unknown_way_to_normalise() -> None:
    with pytest.raises(ValueError, match="it must be case or train"):
        normalization(moments_of([np.zeros((1, 2, 2))]), "all", np.array([0]))
    with pytest.raises(ValueError, match="it must be case or train"):
        value_range((np.zeros((1, 1)), np.ones((1, 1))), np.array([[False]]), "all", np.array([0]))


# Lowest and highest of four cases of two channels, by hand; the third has no voxel but 0.
LOW = np.array([[2.0, -7.0], [5.0, 1.0], [np.nan, np.nan], [3.0, 9.0]])
HIGH = np.array([[8.0, -1.0], [6.0, 4.0], [np.nan, np.nan], [3.0, 9.0]])
ZEROS = np.array([[True, True], [False, True], [True, True], [False, True]])


def test_the_range_of_each_case_counts_its_zeros() -> None:
    low, size = value_range((LOW, HIGH), ZEROS, "case", np.array([0]))
    assert low.tolist() == [[0, -7], [5, 0], [0, 0], [3, 0]]
    # 3 to 3 and 0 to 0 are constant: nothing to divide by.
    assert size.tolist() == [[8, 7], [1, 4], [1, 1], [1, 9]]


def test_the_range_of_the_training_part_alone() -> None:
    low, high, none = LOW[[0, 1, 3]], HIGH[[0, 1, 3]], np.zeros((3, 2), bool)
    found, size = value_range((low, high), none, "train", np.array([1, 2]))
    assert found.tolist() == [[3, 1]] * 3
    assert size.tolist() == [[3, 8]] * 3
    low[0], high[0] = -1e6, 1e6
    again = value_range((low, high), none, "train", np.array([1, 2]))
    np.testing.assert_array_equal(again, (found, size))
    flat = value_range((low, high), none, "train", np.array([2]))
    assert [part.tolist() for part in flat] == [[[3, 9]] * 3, [[1, 1]] * 3]


def some_channel(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return voxels of some kind: of both signs, above zero, with a background, of one value."""
    values = generator.normal(0, 50, shape).round(int(generator.integers(0, 3)))
    return (
        lambda: values,
        lambda: np.abs(values) + 1,
        lambda: np.where(generator.random(shape) < 0.4, 0.0, np.abs(values) + 1),
        lambda: np.full(shape, values.flat[0]),
        lambda: np.zeros(shape),
    )[generator.integers(5)]()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), scope=st.sampled_from(["case", "train"]))
def test_the_range_of_a_store_is_that_of_its_voxels(
    tmp_path_factory: pytest.TempPathFactory, seed: int, scope: Literal["case", "train"]
) -> None:
    generator = np.random.default_rng(seed)
    meta = made_meta(
        channels=("a", "b"),
        classes=CLASSES,
        positive=1,
        normalize=scope,
    )

    def read(_item: Item, _meta: Meta) -> Iterator[Case]:
        for number in range(6):
            shape = tuple(generator.integers(1, 7, 2).tolist())
            image = np.stack([some_channel(generator, shape) for _ in range(2)])
            key = str(number)
            image = image.astype(np.float32)
            nan = (np.nan,) * 2
            yield Case(key=key, group=key, image=image, label=0, mask=None, spacing=nan)

    kind = Kind(
        name="made",
        summary="",
        source="",
        survey=lambda *_: pytest.fail("not surveyed"),
        read=read,
        options={},
    )
    survey = Survey(meta=meta, items=(Item(key="all", paths=(), extra={}),), rejected=())
    out = tmp_path_factory.mktemp("made") / "store"
    write_store(kind, survey, out, key=b"test", workers=1, strict=True)
    store = open_store(out)
    train = np.flatnonzero(generator.random(len(store)) < 0.6)
    assume(len(train))
    zeros = store.moments[0] < store.shapes.prod(axis=1, keepdims=True)
    low, size = value_range(store.extremes, zeros, scope, train)
    flat = [store.image(index).reshape(2, -1).astype(np.float64) for index in range(len(store))]
    for index, own in enumerate(flat):
        voxels = own if scope == "case" else np.concatenate([flat[i] for i in train], axis=1)
        np.testing.assert_array_equal(low[index], voxels.min(axis=1))
        spread = voxels.max(axis=1) - voxels.min(axis=1)
        np.testing.assert_array_equal(size[index], np.where(spread > 0, spread, 1))


def test_class_weights_are_inverse_frequencies_of_mean_one() -> None:
    weights = class_weights(np.array([80, 10, 10]))
    # 80, 10 and 10 of 100: N / (K * N_c).
    np.testing.assert_allclose(weights, [100 / 240, 100 / 30, 100 / 30])
    assert (weights * [80, 10, 10]).sum() / 100 == pytest.approx(1.0)


def test_a_class_without_a_training_voxel_has_no_weight() -> None:
    with pytest.raises(FoldError, match=r"class 1 does not occur .* \[8, 0\]"):
        class_weights(np.array([8, 0]))
