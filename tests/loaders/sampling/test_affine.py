"""Rotation, zoom, noise, contrast and gamma, against scipy, MONAI and what must hold."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import AdjustContrast
from scipy.ndimage import affine_transform
from scipy.stats import kstest

from loaders.batches.torch_loader import gather
from loaders.sampling.affine import boxes
from loaders.sampling.intensity import alter, altered, noise
from loaders.sampling.sampler import Draws

QUICK = settings(max_examples=60, deadline=None)


def a_store(image: np.ndarray, mask: np.ndarray | None = None, fill: float = 0.0) -> Any:
    """Return what gather() reads of a store that holds one image."""
    return SimpleNamespace(
        path=Path("a store"),
        meta=SimpleNamespace(masked=mask is not None, fill=fill),
        image_type=image.dtype,
        shapes=np.array([image.shape[1:]]),
        answers=np.array([0]),
        image=lambda case: image,
        mask=lambda case: mask,
    )


def some_draws(patch: tuple[int, ...], n: int = 1, channels: int = 1, **changes: Any) -> Draws:
    """Return draws of the first voxels of case 0, of which nothing is changed."""
    d = len(patch)
    base = {
        "case": np.zeros(n, np.int64),
        "origin": np.zeros((n, d), np.int64),
        "matrix": np.tile(np.eye(d), (n, 1, 1)),
        "flip": np.zeros((n, d), bool),
        "offset": np.zeros((n, channels), np.float32),
        "unit": np.ones((n, channels), np.float32),
        "key": np.stack([np.full(n, 5), np.arange(n)], axis=1),
        "noise": np.zeros(n, np.float32),
        "contrast": np.ones((n, channels), np.float32),
        "gamma": np.ones((n, channels), np.float32),
    }
    return Draws(patch=patch, **{**base, **changes})


def turn(dims: int, angle: float, axes: tuple[int, int], zoom: float = 1.0) -> np.ndarray:
    """Return a rotation by `angle` degrees from the first of `axes` to the second."""
    matrix = np.eye(dims)
    a, b = axes
    matrix[a, a] = matrix[b, b] = np.cos(np.deg2rad(angle))
    matrix[b, a] = np.sin(np.deg2rad(angle))
    matrix[a, b] = -matrix[b, a]
    return matrix / zoom


# ---- rotation and zoom ----


@st.composite
def maps(draw: st.DrawFn) -> tuple[Any, ...]:
    dims = draw(st.sampled_from([2, 3]))
    sides = st.tuples(*[st.integers(1, 9)] * dims)
    numbers = st.floats(-1.25, 1.25, width=32)
    matrix = np.array([[draw(numbers) for _ in range(dims)] for _ in range(dims)])
    origin = np.array([[draw(st.integers(-9, 9)) for _ in range(dims)]])
    flip = np.array([[draw(st.booleans()) for _ in range(dims)]])
    return draw(sides), draw(sides), matrix, origin, flip


@given(case=maps(), fill=st.sampled_from([0.0, -700.0]))
@QUICK
def test_any_affine_map_is_that_of_scipy(case: tuple[Any, ...], fill: float) -> None:
    """Any matrix, boxes cut by the image's border and patches outside of it included."""
    shape, patch, matrix, origin, flip = case
    generator = np.random.default_rng(0)
    image = generator.integers(-999, 999, (2, *shape)).astype(np.int16)
    mask = generator.integers(0, 3, shape).astype(np.uint8)
    store = a_store(image, mask, fill)
    draws = some_draws(
        patch, channels=2, matrix=matrix[None], origin=origin, flip=flip,
        offset=np.array([[3.1, -0.2]], np.float32), unit=np.array([[0.7, 1.3]], np.float32),
    )  # fmt: skip
    # Flipped after it has been turned.
    middle = (np.array(patch) - 1) / 2
    settings = {
        "matrix": matrix,
        "offset": origin[0] + middle - matrix @ middle,
        "output_shape": patch,
        "mode": "grid-constant",
    }
    axes = np.flatnonzero(flip[0])
    found, labels = gather(store, draws)
    for channel in range(2):
        read = affine_transform(image[channel].astype(np.float64), order=1, cval=fill, **settings)
        wanted = (np.flip(read, axes) - draws.offset[0, channel]) / draws.unit[0, channel]
        # 1e-6 of the values' range of 2000 a voxel, and of the sides.
        np.testing.assert_allclose(found[0, channel], wanted, rtol=0, atol=0.05)
    if np.array_equal(matrix, np.eye(len(patch))):
        return
    # Nearest: everywhere but where a point lies between two voxels.
    place = np.tensordot(
        matrix, np.indices(patch) - middle.reshape(-1, *[1] * len(patch)), axes=1
    ) + (origin[0] + middle).reshape(-1, *[1] * len(patch))
    sure = np.flip((np.abs(place % 1 - 0.5) > 1e-3).all(axis=0), axes)
    wanted = np.flip(affine_transform(mask, order=0, cval=0, **settings), axes)
    np.testing.assert_array_equal(labels[0][sure], wanted[sure])


@pytest.mark.parametrize("angle", [20, 160])
@pytest.mark.parametrize(("dims", "side"), [(3, 96), (2, 600)])
def test_a_patch_of_real_size_is_that_of_scipy(dims: int, side: int, angle: float) -> None:
    """Several blocks, and boxes of thousands of rows: to 1e-3 of the range, in noise."""
    patch, shape = (side * 2 // 3,) * dims, (side,) * dims
    image = np.random.default_rng(0).uniform(0, 255, (1, *shape)).astype(np.float32)
    matrix = turn(dims, angle, (0, 1), 0.9)
    if dims == 3:
        matrix = matrix @ turn(3, -angle, (1, 2)) @ turn(3, angle / 2, (2, 0))
    origin = np.full((1, dims), side // 5)
    found = gather(a_store(image), some_draws(patch, matrix=matrix[None], origin=origin))[0]
    middle = (np.array(patch) - 1) / 2
    wanted = affine_transform(
        image[0].astype(np.float64), matrix, origin[0] + middle - matrix @ middle, patch,
        order=1, mode="grid-constant",
    )  # fmt: skip
    np.testing.assert_allclose(found[0, 0], wanted, rtol=0, atol=1e-3 * 255)


@pytest.mark.parametrize(("dims", "axes"), [(2, (0, 1)), (3, (1, 2)), (3, (2, 0)), (3, (0, 1))])
def test_a_quarter_turn_is_that_of_numpy(dims: int, axes: tuple[int, int]) -> None:
    shape = (12,) * dims
    generator = np.random.default_rng(0)
    image = generator.normal(size=(2, *shape)).astype(np.float32)
    mask = generator.integers(0, 5, shape).astype(np.uint8)
    draws = some_draws(
        (8,) * dims, channels=2, matrix=turn(dims, 90, axes)[None], origin=np.full((1, dims), 2)
    )
    found, labels = gather(a_store(image, mask), draws)
    inner = (slice(2, 10),) * dims
    wanted = np.rot90(image[(slice(None), *inner)], -1, [axis + 1 for axis in axes])
    np.testing.assert_allclose(found[0], wanted, atol=1e-4)
    np.testing.assert_array_equal(labels[0], np.rot90(mask[inner], -1, axes))


def test_a_turn_by_next_to_nothing_is_the_copy() -> None:
    """The two ways that a sample can be read meet."""
    image = np.random.default_rng(0).normal(size=(2, 12, 13, 14)).astype(np.float32)
    origin, flip = np.array([[1, -2, 3]]), np.array([[True, False, True]])
    still = some_draws((8, 9, 10), channels=2, origin=origin, flip=flip)
    turned = some_draws(
        (8, 9, 10), channels=2, origin=origin, flip=flip, matrix=turn(3, 1e-9, (0, 1))[None]
    )
    assert turned.warped.all()
    assert not still.warped.any()
    copied, read = (gather(a_store(image, fill=3.0), draws)[0] for draws in (still, turned))
    np.testing.assert_allclose(read, copied, atol=1e-4)


def test_image_and_mask_move_together() -> None:
    """An image that says where it is, beside a mask of labels that say the same."""
    place = np.indices((40, 40, 40)).astype(np.float32)
    mask = (place[0] // 10 + 4 * (place[1] // 10) + 16 * (place[2] // 10)).astype(np.uint8)
    matrix = turn(3, 20, (1, 2), 1.2) @ turn(3, -15, (2, 0)) @ turn(3, 10, (0, 1))
    draws = some_draws(
        (16, 16, 16), channels=3, matrix=matrix[None], origin=np.full((1, 3), 12),
        flip=np.array([[True, False, True]]),
    )  # fmt: skip
    found, labels = gather(a_store(place, mask), draws)
    nearest = np.rint(found[0]) // 10
    sure = (np.abs(found[0] % 1 - 0.5) > 1e-3).all(axis=0)
    assert sure.mean() > 0.98
    at = (nearest[0] + 4 * nearest[1] + 16 * nearest[2]).astype(np.uint8)
    np.testing.assert_array_equal(labels[0][sure], at[sure])
    # Zoomed by 1.2: the patch shows that much less.
    assert np.linalg.norm(found[0][:, 0, 0, 0] - found[0][:, 15, 0, 0]) == pytest.approx(15 / 1.2)


@given(case=maps())
@QUICK
def test_a_box_holds_what_its_patch_needs_and_little_more(case: tuple[Any, ...]) -> None:
    shape, patch, matrix, origin, flip = case
    draws = some_draws(patch, matrix=matrix[None], origin=origin, flip=flip)
    where = boxes(draws, np.array([shape]))
    assert (where.low >= 0).all()
    assert (where.high <= shape).all()
    assert (where.low < where.high).all()
    last = np.array(patch) - 1
    corners = np.stack(np.meshgrid(*[(0, side) for side in last], indexing="ij"), -1)
    middle = last / 2
    mirrored = np.where(flip[0], last - corners, corners)
    read = (mirrored - middle) @ matrix.T + middle + origin[0]
    read = read.reshape(-1, len(patch))
    for axis, size in enumerate(shape):
        low, high = np.floor(read[:, axis].min()), np.floor(read[:, axis].max()) + 2
        # All the voxels that interpolation mixes, as far as the image has them, and at most one
        # more on a side.
        assert where.low[0, axis] <= max(low, 0) or where.low[0, axis] == size - 1
        assert where.high[0, axis] >= min(high, size)
        assert where.low[0, axis] >= min(max(low - 1, 0), size - 1)
        assert where.high[0, axis] <= max(min(high + 1, size), where.low[0, axis] + 1)


# ---- noise, contrast, gamma ----


def altered_by(image: np.ndarray, **changes: Any) -> np.ndarray:
    draws = some_draws(image.shape[2:], n=len(image), channels=image.shape[1], **changes)
    out = image.copy()
    alter(out, draws, lambda values: values)
    return out


def an_image() -> np.ndarray:
    return np.random.default_rng(0).normal(1, 2, (3, 2, 6, 7, 8)).astype(np.float32)


def test_gamma_is_that_of_monai() -> None:
    image = an_image()
    gamma = np.array([[0.7, 1.0], [1.5, 2.0], [1.0, 1.0]], np.float32)
    found = altered_by(image, gamma=gamma)
    for row, channel in np.ndindex(3, 2):
        wanted = AdjustContrast(gamma=float(gamma[row, channel]))(torch.tensor(image[row, channel]))
        np.testing.assert_allclose(found[row, channel], wanted, atol=2e-5)
    np.testing.assert_array_equal(found[2], image[2])


def test_contrast_moves_values_from_the_mean_within_the_range() -> None:
    image = an_image()
    contrast = np.array([[0.75, 1.0], [1.25, 1.1], [1.0, 1.0]], np.float32)
    found = altered_by(image, contrast=contrast)
    axes = (2, 3, 4)
    mean, low, high = (
        getattr(image.astype(np.float64), name)(axis=axes, keepdims=True)
        for name in ("mean", "min", "max")
    )
    wanted = (image - mean) * contrast[..., None, None, None].astype(np.float64) + mean
    np.testing.assert_allclose(found, wanted.clip(low, high), atol=1e-5)
    np.testing.assert_array_equal(found[2], image[2])
    np.testing.assert_allclose(found[1].max((1, 2, 3)), high[1].ravel(), rtol=1e-6)


def test_a_constant_channel_stays_as_it_is() -> None:
    image = np.full((1, 2, 4, 4), -3.5, np.float32)
    found = altered_by(
        image, gamma=np.full((1, 2), 0.6, np.float32), contrast=np.full((1, 2), 1.2, np.float32)
    )
    np.testing.assert_allclose(found, image, rtol=1e-6)


def test_noise_is_gaussian_of_the_strength_drawn_and_nowhere_else() -> None:
    sigma = np.array([0.5, 0.0, 2.0], np.float32)
    image = np.ones((3, 2, 20, 20, 20), np.float32)
    found = altered_by(image, noise=sigma) - image
    assert not found[1].any()
    for row in (0, 2):
        assert kstest(found[row].ravel() / sigma[row], "norm").pvalue > 0.01
    assert abs(np.corrcoef(found[0, 0].ravel(), found[0, 1].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(found[0].ravel(), found[2].ravel())[0, 1]) < 0.05


def test_seed_and_position_decide_the_noise() -> None:
    draws = some_draws((4, 5), n=4, noise=np.ones(4, np.float32))
    values = [noise(draws, row) for row in range(4)]
    np.testing.assert_array_equal(noise(draws[np.array([2, 0])], 0), values[2])
    other = some_draws((4, 5), n=4, noise=np.ones(4, np.float32), key=draws.key + np.array([1, 0]))
    everything = [*values, *(noise(other, row) for row in range(4))]
    assert len({value.tobytes() for value in everything}) == 8


def test_noise_comes_first_then_contrast_then_gamma() -> None:
    image = an_image()
    strengths = {
        "noise": np.full(3, 0.3, np.float32),
        "contrast": np.full((3, 2), 1.2, np.float32),
        "gamma": np.full((3, 2), 0.8, np.float32),
    }
    one_by_one = image
    for name, strength in strengths.items():
        one_by_one = altered_by(one_by_one, **{name: strength})
    np.testing.assert_array_equal(altered_by(image, **strengths), one_by_one)
    assert altered(some_draws((6, 7, 8), n=3, channels=2, **strengths)).all()
    assert not altered(some_draws((6, 7, 8), n=3, channels=2)).any()


def test_tensors_are_altered_as_arrays_are() -> None:
    """What a GPU runs, but for where the noise is put."""
    image = an_image()
    generator = np.random.default_rng(1)
    draws = some_draws(
        (6, 7, 8), n=3, channels=2, noise=np.array([0.1, 0, 0.2], np.float32),
        contrast=generator.uniform(0.7, 1.3, (3, 2)).astype(np.float32),
        gamma=generator.uniform(0.7, 1.5, (3, 2)).astype(np.float32),
    )  # fmt: skip
    array, tensor = image.copy(), torch.tensor(image)
    alter(array, draws, lambda values: values)
    alter(tensor, draws, torch.from_numpy)
    np.testing.assert_allclose(tensor.numpy(), array, rtol=0, atol=1e-5)
