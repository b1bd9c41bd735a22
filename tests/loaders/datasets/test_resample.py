"""Volumes at another spacing: held against scipy, torch and SimpleITK, and against geometry."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from loaders.cases import BadCase, BadSource, Case
from loaders.datasets.resample import resampled
from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare
from loaders.store.read import Store, open_store

RANDOM = np.random.default_rng(11)
NOISE = RANDOM.normal(size=(1, 7, 12, 15)).astype(np.float32)
# Coarse, fine and as it is, in one.
MIXED = ((5.0, 1.0, 0.7), (2.0, 1.0, 0.5))


def a_case(image: Any, mask: Any = None, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Case:
    return Case(
        key="k",
        group="g",
        image=image,
        label=None,
        mask=np.zeros(image.shape[1:], np.uint8) if mask is None else mask,
        spacing=tuple(spacing),
    )


def places(case: Case) -> Any:
    """Return where the voxels lie along z, y, x, in mm from the middle of the volume."""
    return np.meshgrid(
        *(
            (np.arange(count) - (count - 1) / 2) * mm
            for count, mm in zip(case.image.shape[1:], case.spacing, strict=True)
        ),
        indexing="ij",
    )


def test_finer_voxels_are_linear_as_scipy_has_it() -> None:
    native, wanted = MIXED
    case = a_case(NOISE, spacing=native)
    new = resampled(case, wanted)
    assert new.image.shape == (1, 18, 12, 21)  # 17.5, 12 and 21 voxels of that size
    assert new.spacing == wanted
    at = [
        place / mm + (count - 1) / 2
        for place, mm, count in zip(places(new), native, NOISE.shape[1:], strict=True)
    ]
    known = ndimage.map_coordinates(NOISE[0].astype(float), at, order=1, mode="nearest")
    np.testing.assert_allclose(new.image[0], known, atol=2e-6)


@pytest.mark.parametrize("size", [(24, 36), (25, 33)])
@pytest.mark.parametrize("ratio", [(2.0, 3.0), (1.5, 0.5), (1.0, 4.0)])
def test_coarser_voxels_are_antialiased_as_torch_has_it(
    size: tuple[int, int], ratio: tuple[float, float]
) -> None:
    """Torch fits its grid to the extent, so only sizes that divide it can be compared."""
    if any(count / factor % 1 for count, factor in zip(size, ratio, strict=True)):
        size = (24, 36)
    image = RANDOM.normal(size=(1, 3, *size)).astype(np.float32)
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        # Along each pair of axes.
        turned = image.transpose(0, *(1 + axis for axis in order))
        spacing = np.array((1.0, *ratio))[list(order)]
        found = resampled(a_case(turned), spacing).image.transpose(
            0, *(1 + order.index(axis) for axis in range(3))
        )
        known = torch.nn.functional.interpolate(
            torch.from_numpy(image), size=found.shape[2:], mode="bilinear", antialias=True
        )
        np.testing.assert_allclose(found, known.numpy(), atol=2e-6)


def test_simpleitk_puts_it_at_the_same_place() -> None:
    """Its origin is the first voxel's centre: ours lies where the middles of both volumes meet."""
    module = pytest.importorskip("SimpleITK", reason="needs SimpleITK (pip install .[perf])")
    native, wanted = MIXED
    new = resampled(a_case(NOISE, spacing=native), wanted)
    image = module.GetImageFromArray(NOISE[0])
    image.SetSpacing(native[::-1])
    middle = [(count - 1) / 2 * mm for count, mm in zip(NOISE.shape[1:], native, strict=True)]
    half = [(count - 1) / 2 * mm for count, mm in zip(new.image.shape[1:], wanted, strict=True)]
    filter_ = module.ResampleImageFilter()
    filter_.SetOutputSpacing(wanted[::-1])
    filter_.SetSize(new.image.shape[:0:-1])
    filter_.SetOutputOrigin([a - b for a, b in zip(middle, half, strict=True)][::-1])
    filter_.SetInterpolator(module.sitkLinear)
    filter_.SetDefaultPixelValue(np.nan)
    known = module.GetArrayFromImage(filter_.Execute(image))
    inside = np.isfinite(known)
    assert inside.mean() > 0.8
    np.testing.assert_allclose(new.image[0][inside], known[inside], atol=2e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    native=st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 1.5, 3.0])] * 3),
    wanted=st.tuples(*[st.sampled_from([0.0, 0.6, 1.0, 1.7, 2.5])] * 3),
    off=st.tuples(*[st.floats(-2, 2)] * 3),
)
def test_a_blob_stays_at_its_place_in_the_patient(
    native: tuple[float, ...], wanted: tuple[float, ...], off: tuple[float, ...]
) -> None:
    """In mm, whatever the voxels: its centre of mass, its label's, and their size."""
    shape = tuple(max(3, int(np.ceil(30 / mm))) for mm in native)
    case = a_case(np.zeros((1, *shape), np.float32), spacing=native)
    far = sum((place - at) ** 2 for place, at in zip(places(case), off, strict=True))
    case = a_case(1000 * np.exp(-far[None] / (2 * 3.0**2)), (far < 6.0**2).astype(np.uint8), native)
    new = resampled(case, wanted)
    assert new.mask is not None
    assert case.mask is not None
    # Corners taken for centres would shift it by half of what the voxels' length changes by. A
    # label's own edge lies within a part of its voxels.
    for old_weight, new_weight, near in (
        (case.image[0], new.image[0], 0.05),
        (case.mask, new.mask, 0.12 * max(*native, *new.spacing)),
    ):
        was, now = (
            np.array([np.average(place, weights=weight) for place in places(one)])
            for one, weight in ((case, old_weight), (new, new_weight))
        )
        np.testing.assert_allclose(now, was, atol=near)
        sizes = [
            weight.sum(dtype=float) * np.prod(one.spacing)
            for one, weight in ((case, old_weight), (new, new_weight))
        ]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


@pytest.mark.parametrize("wanted", [MIXED[1], (7.0, 1.7, 0.9), (3.0, 2.9, 0.3)])
def test_labels_are_the_largest_of_their_masks(wanted: tuple[float, ...]) -> None:
    """One mask a class, interpolated by scipy at the new voxels' centres."""
    native = MIXED[0]
    mask = ndimage.zoom(RANDOM.integers(0, 4, (4, 5, 6)), 3, order=0).astype(np.uint8)
    new = resampled(a_case(mask[None].astype(np.int16), mask, native), wanted)
    at = [
        place / mm + (count - 1) / 2
        for place, mm, count in zip(places(new), native, mask.shape, strict=True)
    ]
    shares = np.stack(
        [
            ndimage.map_coordinates((mask == label).astype(float), at, order=1, mode="nearest")
            for label in range(4)
        ]
    )
    # Where two have the same share but for rounding, either may be.
    clear = np.diff(np.sort(shares, axis=0)[-2:], axis=0)[0] > 1e-5
    assert clear.mean() > 0.9
    assert new.mask is not None
    np.testing.assert_array_equal(new.mask[clear], shares.argmax(axis=0)[clear])
    assert set(np.unique(new.mask)) == {0, 1, 2, 3}


@pytest.mark.parametrize("size", [(16, 20, 24), (16, 10, 24), (24, 30, 4)])
def test_labels_are_as_nnunet_makes_them(size: tuple[int, int, int]) -> None:
    """On grids that fit the extent, as its do, and with one class: it asks for a half of the voxel.

    Not where two shares are alike: there it goes by its rounding.
    """
    module = pytest.importorskip(
        "batchgenerators.augmentations.utils", reason="needs batchgenerators (pip install .[perf])"
    )
    mask = (ndimage.gaussian_filter(RANDOM.normal(size=(8, 10, 12)), 1) > 0).astype(np.uint8)
    spacing = [old / new for old, new in zip(mask.shape, size, strict=True)]
    new = resampled(a_case(mask[None], mask), spacing)
    known = module.resize_segmentation(mask.astype(int), size, order=1)
    np.testing.assert_array_equal(new.mask, known)


def test_of_two_equal_shares_each_is_taken_in_turn() -> None:
    for pair in ((0, 2), (2, 0), (3, 2), (2, 3)):
        mask = np.tile(np.array(pair, np.uint8), (1, 3, 2))
        # Each new voxel is half of one and half of the other.
        new = resampled(a_case(mask[None], mask), (0, 0, 2))
        assert new.mask is not None
        low, high = sorted(pair)
        assert new.mask.tolist() == [[[high, low], [low, high], [high, low]]]


def test_a_long_axis_is_as_a_short_one() -> None:
    """More than 256 voxels, and a label at the far end alone."""
    mask = np.zeros((2, 2, 700), np.uint8)
    mask[..., 680:690] = 1
    new = resampled(a_case(mask[None], mask), (0, 0, 2))
    assert new.mask is not None
    assert np.flatnonzero(new.mask.all(axis=(0, 1))).tolist() == [340, 341, 342, 343, 344]


@pytest.mark.parametrize("wanted", [(2, 1, 1), (1, 2, 2), (2, 2, 2), (1.5, 1.5, 1.5), (3, 1, 1)])
def test_what_is_round_keeps_its_volume(wanted: tuple[float, ...]) -> None:
    """A ball of two halves, as a lesion and its rim: larger voxels neither eat nor feed it."""
    case = a_case(np.zeros((1, 30, 30, 30), np.float32))
    z, y, x = places(case)
    ball = z**2 + y**2 + x**2 < 9.0**2
    mask = (ball * (1 + (x > 0))).astype(np.uint8)
    new = resampled(a_case(case.image, mask), wanted)
    assert new.mask is not None
    for label in (1, 2):
        volume = (new.mask == label).sum() * np.prod(wanted)
        assert volume == pytest.approx((mask == label).sum(), rel=0.08)


def test_nothing_is_made_up() -> None:
    """Air stays air and zeros zeros; whole numbers stay whole, in their own type."""
    image = np.full((2, 8, 10, 12), -1000, np.int16)
    image[0, 2:6, 3:7, 4:9] = 700
    image[1] = 0
    new = resampled(a_case(image), (1.3, 0.7, 2.1))
    assert new.image.dtype == np.int16
    assert (new.image[0].min(), new.image[0].max()) == (-1000, 700)
    assert not new.image[1].any()
    wide = np.full((1, 4, 4, 4), 100_000, np.int32)
    np.testing.assert_array_equal(resampled(a_case(wide), (2, 2, 0.5)).image, 100_000)
    with np.errstate(all="raise"):
        bad = resampled(a_case(np.full((1, 4, 4, 4), np.inf, np.float32)), (2, 2, 0.5)).image
    assert not np.isfinite(bad).all()


@pytest.mark.parametrize("wanted", [(2.0, 1.0, 0.8), (0.0, 0.0, 0.8), (2.0, 0.0, 0.0)])
def test_an_axis_that_is_there_already_is_left(wanted: tuple[float, ...]) -> None:
    case = a_case(NOISE, RANDOM.integers(0, 3, NOISE.shape[1:]).astype(np.uint8), (2.0, 1.0, 0.8))
    new = resampled(case, wanted)
    np.testing.assert_array_equal(new.image, case.image)
    np.testing.assert_array_equal(new.mask, case.mask)
    assert new.spacing == case.spacing


def test_one_slice_can_be_resampled() -> None:
    new = resampled(a_case(NOISE[:, :1], spacing=(5.0, 1.0, 1.0)), (2.0, 2.0, 2.0))
    assert new.image.shape == (1, 2, 6, 8)
    np.testing.assert_array_equal(new.image[:, 0], new.image[:, 1])


def test_voxels_too_small_are_refused() -> None:
    with pytest.raises(
        BadCase, match="would have 7000000 x 12000000 x 15000000 voxels, which is too many"
    ):
        resampled(a_case(NOISE), (1e-6, 1e-6, 1e-6))


# ---- by the readers ---------------------------------------------------------------------------


def a_set(folder: Path) -> Path:
    """Write a set with one bright cube, its axes turned and its voxels 3 x 0.5 x 1 mm."""
    affine = np.array([[0, 0, -1.0, 40], [-0.5, 0, 0, 7], [0, 3.0, 0, -5], [0, 0, 0, 1]])
    voxels = np.zeros((24, 10, 30), np.int16)
    voxels[8:16, 4:7, 10:20] = 1000
    for where, data in (("imagesTr", voxels), ("labelsTr", (voxels > 0).astype(np.uint8))):
        (folder / where).mkdir(parents=True)
        nib.save(nib.Nifti1Image(data, affine), folder / where / "case.nii.gz")
    return folder


def prepared(source: Path, out: Path, **options: Any) -> Store:
    prepare(KINDS["msd"], source, out, options=options, key=b"k", strict=False)
    return open_store(out)


def test_a_set_is_resampled_where_it_is_asked_for(tmp_path: Path) -> None:
    source = a_set(tmp_path / "raw")
    plain = prepared(source, tmp_path / "plain")
    assert "spacing" not in plain.meta.options
    # Stored as z, y, x: 3, 0.5 and 1 mm.
    assert (plain.image(0).shape, plain.spacing[0].tolist()) == ((1, 10, 24, 30), [3, 0.5, 1])
    store = prepared(source, tmp_path / "even", spacing="1,1,1")
    assert store.meta.options["spacing"] == [1, 1, 1]
    assert (store.image(0).shape, store.spacing[0].tolist()) == ((1, 30, 12, 30), [1, 1, 1])
    # 9 x 4 x 10 mm, in the voxels of each.
    np.testing.assert_array_equal(plain.boxes[0, 0], [[4, 8, 10], [7, 16, 20]])
    np.testing.assert_array_equal(store.boxes[0, 0], [[12, 4, 10], [21, 8, 20]])
    own = prepared(source, tmp_path / "own", spacing=(0, 0, 0))
    assert own.hashes == plain.hashes
    assert own.meta == plain.meta


@pytest.mark.parametrize("kind", ["msd", "nnunet", "brats"])
@pytest.mark.parametrize("spacing", ["1,1", "1,1,-1", "1,1,nan", "1,1,inf", "1,1,1,1"])
def test_a_spacing_that_cannot_be_is_refused(tmp_path: Path, kind: str, spacing: str) -> None:
    source = a_set(tmp_path / "raw")
    (source / "dataset.json").write_text(
        '{"labels": {"background": 0, "x": 1}, "channel_names": {"0": "CT"}}'
        if kind == "nnunet"
        else '{"labels": {"0": "background", "1": "x"}}'
    )
    (source / "imagesTr" / "case.nii.gz").rename(
        source / "imagesTr" / ("case_0000.nii.gz" if kind == "nnunet" else "case.nii.gz")
    )
    with pytest.raises(
        BadSource, match=f"{kind} option spacing is .*; it must be three numbers in mm"
    ):
        KINDS[kind].survey(source, {"spacing": spacing})
