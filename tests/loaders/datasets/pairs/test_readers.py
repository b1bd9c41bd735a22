"""Masks of several readers become one, beside SimpleITK's filters and a count by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loaders.cases import BadSource
from loaders.datasets.pairs.consensus import majority, staple
from loaders.datasets.table import KINDS
from loaders.formats.nifti import NiftiError
from loaders.store.prepare import prepare
from loaders.store.read import open_store
from tests.loaders.datasets.pairs.made import blobs, picture, volume
from tests.loaders.datasets.pairs.test_layouts import read

# Share of the voxels that each reader gives another class.
ERRORS = (0.02, 0.1, 0.3, 0.35)


def drawn(number: int, shape: tuple[int, ...], readers: int = 3, levels: int = 1) -> Any:
    """Return readers' masks (n, *shape) of one image, each with errors of its own share."""
    rng = np.random.default_rng(number)
    _, mask = blobs(number, shape, levels)
    found = []
    for share in ERRORS[:readers]:
        other = (mask + rng.integers(1, levels + 1, shape)) % (levels + 1)
        found.append(np.where(rng.random(shape) < share, other, mask))
    return np.array(found, np.uint8)


def simpleitk(masks: Any) -> Any:
    """Return what SimpleITK makes of masks of two classes: the foreground from 0.5 on."""
    sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK (pip install .[tests])")
    images = [sitk.GetImageFromArray(mask) for mask in masks]
    return (sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)) > 0.5).astype(np.uint8)


@pytest.mark.parametrize("readers", [2, 3, 4])
@pytest.mark.parametrize("number", range(5))
def test_staple_of_two_classes_is_simpleitks(number: int, readers: int) -> None:
    masks = drawn(number, (9, 24, 20), readers)
    found = staple(masks)
    np.testing.assert_array_equal(found, simpleitk(masks))
    if readers == 4:
        # Of four, two of whom guess, the two others are heard: no count of votes does that.
        _, right = blobs(number, (9, 24, 20), 1)
        wrong = [(mask != right).mean() for mask in (found, majority(masks))]
        assert wrong[0] < wrong[1] / 2


def test_staple_of_several_classes_is_simpleitks() -> None:
    """It starts from the majority and rounds otherwise: a voxel in a thousand may differ."""
    sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK (pip install .[tests])")
    for number in range(5):
        masks = drawn(number, (9, 24, 20), 3, levels=2)
        filter_ = sitk.MultiLabelSTAPLEImageFilter()
        filter_.SetLabelForUndecidedPixels(9)
        theirs = sitk.GetArrayFromImage(filter_.Execute([*map(sitk.GetImageFromArray, masks)]))
        assert (staple(masks) != theirs).mean() < 1e-3
        assert (majority(masks) != theirs).mean() > 1e-2


# A row a reader, the last two of whom guess; the foreground by SimpleITK 2.5.7, STAPLE(masks, 1).
ROWS = (
    "11111111100000000000",
    "01111111100000000000",
    "11111101000101010011",
    "10010101010000000000",
)
RECORDED = "11111111100000000000"


def test_staple_as_it_was_recorded() -> None:
    masks = np.array([[[int(each) for each in row]] for row in ROWS], np.uint8)
    assert "".join(map(str, staple(masks).ravel())) == RECORDED
    assert "".join(map(str, majority(masks).ravel())) == "11111101000000000000"


def test_majority_counted_by_hand() -> None:
    masks = np.array([[[0, 1, 1, 2, 1]], [[0, 1, 2, 2, 0]], [[1, 1, 0, 2, 0]]], np.uint8)
    assert majority(masks).tolist() == [[0, 1, 0, 2, 0]]
    # Of two, both.
    assert majority(masks[:2]).tolist() == [[0, 1, 0, 2, 0]]
    assert majority(masks[[0, 0, 1, 2]]).tolist() == [[0, 1, 0, 2, 0]]


def test_readers_who_agree_are_right_and_too_many_are_refused() -> None:
    masks = drawn(0, (12, 14), 1, levels=2).repeat(3, axis=0)
    for rule in (majority, staple):
        np.testing.assert_array_equal(rule(masks), masks[0])
        assert not rule(masks * 0).any()
    many = np.arange(40, dtype=np.uint8)[:, None] % 3
    with pytest.raises(NiftiError, match="40 readers and 3 classes are too many"):
        staple(many)


def test_from_folders_of_pictures_to_a_store(tmp_path: Path) -> None:
    source = tmp_path / "source"
    every = {number: drawn(number, (24, 28)) for number in range(4)}
    for number, masks in every.items():
        picture(source / "images" / f"{number}.png", blobs(number, (24, 28))[0])
        for reader, mask in enumerate(masks):
            picture(source / f"reader {reader}" / f"{number}.png", 255 * mask)
    options = {"images": "images/*.png", "masks": "reader */{stem}.png"}
    with pytest.raises(BadSource, match=r"3 files for its mask; several=union .* or staple"):
        KINDS["pairs"].survey(source, options)
    for rule, wanted in (("majority", lambda m: m.sum(axis=0) >= 2), ("staple", staple)):
        _, cases, rejected = read(source, **options, several=rule)
        assert (len(cases), rejected) == (4, [])
        for number, masks in every.items():
            np.testing.assert_array_equal(cases[f"images/{number}.png"].mask, wanted(masks))
        chosen = {**options, "several": rule}
        prepare(KINDS["pairs"], source, tmp_path / rule, options=chosen, key=b"key", strict=True)
        store = open_store(tmp_path / rule)
        assert store.meta.options["several"] == rule
        held = sorted(np.asarray(store.mask(n)).sum() for n in range(4))
        assert held == sorted(int(wanted(masks).sum()) for masks in every.values())
    # One of them is a pattern of its own.
    _, cases, _ = read(source, **{**options, "masks": "reader 1/{stem}.png"})
    np.testing.assert_array_equal(cases["images/3.png"].mask, every[3][1])


def test_each_structure_of_volumes_by_itself(tmp_path: Path) -> None:
    every = {name: drawn(at, (12, 10, 8), 3) for at, name in enumerate(("liver", "spleen"))}
    for case in range(3):
        volume(tmp_path / f"P{case}" / "ct.nii.gz", blobs(case, (12, 10, 8))[0])
        for name, masks in every.items():
            for reader, mask in enumerate(masks):
                volume(tmp_path / f"P{case}" / f"r{reader}" / f"{name}.nii.gz", mask)
    options = {
        "images": "{patient}/ct.nii.gz",
        "masks": "{patient}/r*/{structure}.nii.gz",
        "modality": "other",
        "several": "majority",
        "overlap": "regions",
    }
    survey, cases, rejected = read(tmp_path, **options)
    assert (len(cases), rejected) == (3, [])
    volume(tmp_path / "P1" / "r2" / "liver.nii.gz", np.zeros((12, 10, 7), np.uint8))
    _, some, rejected = read(tmp_path, **options)
    assert (len(some), len(rejected)) == (2, 1)
    for case in cases.values():
        for name, masks in every.items():
            inside = np.isin(case.mask, survey.meta.regions[name])
            np.testing.assert_array_equal(inside, (masks.sum(axis=0) >= 2).T)
