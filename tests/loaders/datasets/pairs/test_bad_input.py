"""Bad folders, masks and settings: one sentence with the choices; a bad case loses no other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loaders.cases import BadSource
from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare
from tests.loaders.datasets.pairs.made import blobs, picture, volume
from tests.loaders.datasets.pairs.test_layouts import read

PNG = {"images": "images/*.png", "masks": "masks/{stem}.png"}


def good(root: Path, count: int = 6) -> Path:
    for number in range(count):
        image, mask = blobs(number, (12, 14))
        picture(root / "images" / f"{number}.png", image)
        picture(root / "masks" / f"{number}.png", mask * 255)
    return root


def mask(root: Path, array: Any, **more: Any) -> None:
    picture(root / "masks" / "2.png", array, **more)


def noisy(root: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (12, 14, 3)).astype(np.uint8)
    picture(root / "masks" / "2.jpg", colours)
    (root / "masks" / "2.jpg").replace(root / "masks" / "2.png")


def holes(root: Path) -> None:
    rgba = np.full((12, 14, 4), 255, np.uint8)
    rgba[3, 3, 3] = 0
    mask(root, rgba)


def leads_out(root: Path) -> None:
    (root.parent / "secret.png").write_bytes((root / "masks" / "2.png").read_bytes())
    (root / "masks" / "2.png").unlink()
    (root / "masks" / "2.png").symlink_to(root.parent / "secret.png")


# What is done to a good folder of six, and what becomes of case 2.
CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another size": (
        lambda r: mask(r, np.zeros((14, 14), np.uint8)),
        "14 x 14, but the image 12 x 14",
    ),
    "turned": (lambda r: mask(r, np.zeros((14, 12), np.uint8)), "one of them is rotated"),
    "missing": (
        lambda r: (r / "masks" / "2.png").unlink(),
        "the image has no mask; missing=",
    ),
    "in colour": (lambda r: mask(r, np.full((12, 14, 3), (9, 8, 7), np.uint8)), "is in colour"),
    "noise colours of JPEG": (noisy, "the mask is in colour"),
    "another number": (lambda r: mask(r, np.full((12, 14), 7, np.uint8)), "holds 7"),
    "16 bits": (lambda r: mask(r, np.full((12, 14), 40000, np.uint16)), "the mask holds 40000"),
    "holes": (holes, "the mask has transparent pixels"),
    "empty file": (
        lambda r: (r / "masks" / "2.png").write_bytes(b""),
        "the mask's file has 0 bytes",
    ),
    "cut": (
        lambda r: (r / "masks" / "2.png").write_bytes((r / "masks" / "2.png").read_bytes()[:60]),
        "damaged or cut off",
    ),
    "text": (lambda r: (r / "masks" / "2.png").write_text("no mask"), "the mask is text"),
    "image of text": (lambda r: (r / "images" / "2.png").write_text("no"), "the file is text"),
    "a link out": (leads_out, "a link that leads out of the source"),
    "a pickle": (lambda r: (r / "masks" / "2.png").write_bytes(b"\x80\x04N."), "a Python pickle"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_bad_case_is_told_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    root = good(tmp_path / "set")
    change, why = CASES[name]
    change(root)
    # A number that a class could have is named by its value.
    options = PNG if name != "another number" else {**PNG, "labels": "0=background,255=lesion"}
    if name == "16 bits":
        options = {**PNG, "labels": "0=background,255=lesion"}
    survey, cases, rejected = read(root, **options)
    assert len(cases) == 5
    (bad,) = rejected
    assert why in bad.reason
    assert "2.png" not in bad.reason
    assert "2.png" in bad.where
    report = prepare(
        KINDS["pairs"], root, tmp_path / "out", options=options, key=b"k", workers=1, strict=False
    )
    assert (report.n_cases, len(report.rejected)) == (5, 1)
    assert survey.meta.classes[0] == "background"


def test_a_mask_without_an_image_is_told(tmp_path: Path) -> None:
    root = good(tmp_path)
    (root / "images" / "2.png").unlink()
    _, cases, rejected = read(root, **PNG)
    assert len(cases) == 5
    assert [(bad.where, bad.reason) for bad in rejected] == [
        ("masks/2.png", "the mask has no image")
    ]


def test_an_image_without_a_mask_may_count_as_empty(tmp_path: Path) -> None:
    root = good(tmp_path)
    (root / "masks" / "2.png").unlink()
    _, cases, rejected = read(root, **PNG, missing="empty")
    assert (len(cases), rejected) == (6, [])
    assert not cases["images/2.png"].mask.any()


def test_two_masks_where_one_is_asked(tmp_path: Path) -> None:
    root = good(tmp_path)
    picture(root / "masks" / "2.bmp", np.zeros((12, 14), np.uint8))
    options = {"images": "images/*.png", "masks": "masks/{stem}.*"}
    _, cases, rejected = read(root, **options)
    assert len(cases) == 5
    (bad,) = rejected
    assert "2 files for its mask; several=union" in bad.reason
    assert bad.where == "images/2.png (2.bmp, 2.png)"
    _, cases, rejected = read(root, **options, several="union")
    assert (len(cases), rejected) == (6, [])


def test_endings_may_be_mixed(tmp_path: Path) -> None:
    root = good(tmp_path)
    image = Image.open(root / "images" / "2.png")
    image.save(root / "images" / "2.JPG", "JPEG")
    (root / "images" / "2.png").unlink()
    (root / "images" / "Thumbs.db").write_bytes(b"no picture")
    (root / "images" / ".DS_Store").write_bytes(b"no picture")
    _, cases, rejected = read(root, images="images/*", masks="masks/{stem}.png")
    assert (len(cases), rejected) == (6, [])


# Settings, and the sentence about them.
SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "none": ({}, r"pairs needs two patterns, .*, or layout=NAME; .*6 x images/\*.png"),
    "no masks": ({"images": "images/*.png"}, "pairs needs two patterns"),
    "an empty pattern": ({**PNG, "images": ""}, "pairs needs two patterns"),
    "nothing fits": ({**PNG, "images": "imgs/*.png"}, r"no file .* it holds 6 x"),
    "no mask fits": ({**PNG, "masks": "mask/{stem}.png"}, "no image under .* can be used"),
    "no part": ({**PNG, "masks": "masks/*.png"}, r"same for every image: use a part .* \{stem\}"),
    "another part": ({**PNG, "masks": "masks/{id}.png"}, r"unknown part \{id\}; it may name"),
    "a part not closed": ({**PNG, "masks": "masks/{stem.png"}, r"written \{name\}"),
    "a path that leads out": ({**PNG, "masks": "../{stem}.png"}, "it must be a path under the"),
    "layout": ({"layout": "isik"}, "it must be one of: isic, busi, kvasir, drive, camus, kits"),
    "images for masks": (
        {**PNG, "masks": "images/{stem}.png"},
        r"masks is 'images/\{stem\}.png', which matches all 6 files that images=",
    ),
    "another layout": ({"layout": "camus"}, "no file under .* matches images="),
    "several": ({**PNG, "several": "all"}, "it must be refuse or union"),
    "missing": ({**PNG, "missing": "zero"}, "it must be reject or empty"),
    "overlap": ({**PNG, "overlap": "both"}, "it must be refuse or last or regions"),
    "structures": ({**PNG, "structures": "liver"}, r"write \{structure\} in the pattern"),
    "palette and labels": ({**PNG, "labels": "a,b", "palette": "#000000=a"}, "leave one out"),
    "a palette without colours": ({**PNG, "palette": "a,b"}, "write #RRGGBB=NAME"),
    "a colour twice": ({**PNG, "palette": "#000000=a,#000000=b"}, "two names to one value"),
    "a value that is none": ({**PNG, "labels": "#ff0000=a"}, "for colours set palette"),
    "a value here and none there": ({**PNG, "labels": "0=a,b"}, "gives a value to some classes"),
    "one class": ({**PNG, "labels": "0=a"}, "1 classes including the background"),
    "threshold": ({**PNG, "threshold": "-1"}, "it must be 0 to 65535"),
    "regions": ({**PNG, "regions": "whole=tumour"}, "write NAME=CLASS.*classes are: foreground"),
    "table": ({**PNG, "csv": "no.csv"}, "there is no file no.csv"),
    "column without a table": ({**PNG, "group": "patient"}, "set csv=NAME too"),
    "pattern of the patient": ({**PNG, "group_pattern": "("}, "not a regular expression with"),
    "spacing of pictures": ({**PNG, "spacing": "1,1,1"}, "option spacing is for volumes"),
    "unknown": ({**PNG, "mask": "x"}, "pairs has no option 'mask'; its options are: name, layout"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_cannot_be_meant(tmp_path: Path, name: str) -> None:
    options, why = SETTINGS[name]
    root = good(tmp_path)
    with pytest.raises(BadSource, match=why) as told:
        read(root, **options)
    assert "\n" not in str(told.value)


def test_an_empty_folder_and_none(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="it holds no file"):
        read(tmp_path, **PNG)
    with pytest.raises(BadSource, match="there is no folder"):
        read(tmp_path / "none", **PNG)


def test_pictures_are_no_masks(tmp_path: Path) -> None:
    root = good(tmp_path)
    for number in range(6):
        grey = np.arange(12 * 14, dtype=np.uint16).reshape(12, 14) * 7
        picture(root / "masks" / f"{number}.png", grey)
    with pytest.raises(BadSource, match=r"168 levels, 1\.2% of their pixels .* as in images"):
        read(root, **PNG)


def test_a_volume_with_a_picture_is_refused(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii.gz", np.zeros((4, 4, 3), np.int16))
    picture(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(BadSource, match="1 times a volume with a picture"):
        read(tmp_path, images="*.nii.gz", masks="{stem}.png")


VOLUMES = {"images": "{id}_image.nii.gz", "masks": "{id}_mask.nii.gz"}


def volumes(root: Path, **last: Any) -> Path:
    """Write three volumes with their masks; the mask of the third is as `last` says."""
    for number in range(3):
        image, inside = blobs(number, (12, 10, 6))
        volume(root / f"{number}_image.nii.gz", image.astype(np.int16), (1, 1, 2))
        more = last if number == 2 else {}
        array = more.get("voxels", inside)
        affine = more.get("affine", np.diag([1, 1, 2, 1.0]))
        volume(root / f"{number}_mask.nii.gz", array, affine=affine)
    return root


MOVED = np.diag([1, 1, 2, 1.0])
MOVED[0, 3] = 0.5
TURNED = np.diag([-1, 1, 2, 1.0])


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (
            {"voxels": np.zeros((12, 10, 5), np.uint8)},
            "the label is 12 x 10 x 5, but the image 12 x 10",
        ),
        ({"affine": np.diag([1, 1, 3, 1.0])}, "the label's affine puts it"),
        ({"affine": MOVED}, "0.5 mm away from the image, 0.5 voxels; shift allows 0.01"),
        ({"affine": TURNED}, "the label's affine puts it"),
        ({"voxels": np.full((12, 10, 6), 0.5, np.float32)}, "numbers that are not whole"),
        ({"voxels": np.full((12, 10, 6), 5, np.uint8)}, "the mask holds 5, in 720 pixels"),
        ({"voxels": np.full((12, 10, 6), np.nan, np.float32)}, "NaN"),
    ],
)
def test_a_volume_and_its_mask_lie_on_each_other(
    tmp_path: Path, last: dict[str, Any], why: str
) -> None:
    _, cases, rejected = read(volumes(tmp_path, **last), **VOLUMES, labels="background,a")
    assert len(cases) == 2
    (bad,) = rejected
    assert why in bad.reason


def test_a_shift_may_be_allowed(tmp_path: Path) -> None:
    _, cases, _ = read(volumes(tmp_path, affine=MOVED), **VOLUMES, shift="0.6")
    assert len(cases) == 3


def test_ct_is_asked_for(tmp_path: Path) -> None:
    root = volumes(tmp_path)
    volume(root / "0_image.nii.gz", np.full((12, 10, 6), -1024, np.int16), (1, 1, 2))
    with pytest.raises(BadSource, match=r"has values down to -1024, like CT: set modality=ct"):
        read(root, **VOLUMES)
    survey, _, _ = read(root, **VOLUMES, modality="ct")
    assert (survey.meta.normalize, survey.meta.fill) == ("train", -1000.0)


def test_a_structure_that_is_missing_or_misspelt(tmp_path: Path) -> None:
    for number in range(3):
        image, inside = blobs(number, (10, 9))
        picture(tmp_path / f"{number}" / "image.png", image)
        for name in ("liver", "spleen"):
            if (number, name) != (1, "spleen"):
                here = inside * (name == "liver")
                picture(tmp_path / f"{number}" / "parts" / f"{name}.png", here)
    options = {"images": "{n}/image.png", "masks": "{n}/parts/{structure}.png"}
    _, cases, rejected = read(tmp_path, **options)
    assert len(cases) == 2
    assert [bad.reason for bad in rejected] == [
        "the image has no mask of spleen; missing=empty would count it as empty"
    ]
    with pytest.raises(BadSource, match=r"names 'livr', .*there are: liver, spleen"):
        read(tmp_path, **options, structures="livr")
