"""A folder without a kind: what it seems to be, what is missing, and what it would become."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import api
from bench.cli import _how_told
from loaders.cases import BadSource
from loaders.datasets.table import KINDS
from loaders.store.read import open_store
from tests.bench.test_cli import medopt  # noqa: F401  # a fixture
from tests.loaders.datasets.pairs.made import MINIATURES, blobs, picture, stray, volume
from tests.loaders.formats.scans.write import write_series

Medopt = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("layout", MINIATURES)
def test_each_public_layout_is_known_again(tmp_path: Path, layout: str) -> None:
    MINIATURES[layout](tmp_path)
    first, *_ = api.recognize(tmp_path)
    assert (first.kind, first.options, first.missing) == ("pairs", {"layout": layout}, "")
    assert first.cases == (16 if layout == "camus" else 8)


def two_folders(root: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8))
        picture(root / "My Images" / f"case {number}.png", image)
        picture(root / "My Masks (final)" / f"case {number}_m.png", mask * 255)
    stray(root / "My Images")


def one_folder(root: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8, 3))
        volume(root / f"P{number}" / "t1.nii.gz", image)
        volume(root / f"P{number}" / "t1_seg.nii.gz", mask)


def parts(root: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8))
        part = ("train", "test")[number % 2]
        picture(root / part / "images" / f"{number // 2}.png", image)
        picture(root / part / "labels" / f"{number // 2}.bmp", mask)


def places(root: Path) -> None:
    """As COVID-QU-Ex and others: a folder a class, each with its images and masks."""
    for number in range(4):
        image, mask = blobs(number, (9, 8))
        place = root / "data" / ("COVID", "Normal")[number % 2]
        picture(place / "images" / f"{number // 2}.png", image)
        picture(place / "masks" / f"{number // 2}.png", mask * 255)


def readers(root: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8))
        picture(root / "images" / f"{number}.png", image)
        for reader in "AB":
            picture(root / f"annotator_{reader}" / f"{number}.png", mask * 255)


def several(root: Path) -> None:
    """As in BUSI: one mask has no number, and of an image with several each has one."""
    for number in range(4):
        image, mask = blobs(number, (9, 8))
        picture(root / f"n{number}.png", image)
        for end in ("",) if number < 2 else ("_1", "_2"):
            picture(root / f"n{number}_mask{end}.png", mask * 255)


def several_apart(root: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8))
        picture(root / "images" / f"n{number}.png", image)
        for end in ("",) if number < 2 else ("_1", "_2"):
            picture(root / "masks" / f"n{number}_mask{end}.png", mask * 255)


def several_by_number(root: Path) -> None:
    """An image is called 1 and another 10, one a and another a_1."""
    for name in ("1", "10", "a", "a_1"):
        image, mask = blobs(len(name), (9, 8))
        picture(root / "images" / f"{name}.png", image)
        for end in ("_1", "_2") if name == "10" else ("",):
            picture(root / "masks" / f"{name}{end}.png", mask * 255)


def mixed_endings(root: Path) -> None:
    """More than are looked at to learn the pattern have the first ending: none are lost."""
    for number in range(60):
        image, mask = blobs(number, (9, 8, 3))
        ending = ".nii" if number >= 57 else ".nii.gz"
        volume(root / "images" / f"{number:02d}{ending}", image)
        volume(root / "masks" / f"{number:02d}{ending}", mask)


def mixed_beside(root: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8))
        ending, of_mask = ((".png", ".bmp"), (".tif", ".tif"), (".bmp", ".png"))[number % 3]
        picture(root / f"{number}{ending}", image)
        picture(root / f"{number}_seg{of_mask}", mask)


def words_of_both(root: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8, 3))
        volume(root / f"BRATS_{number:03d}_crop_image.nii.gz", image)
        volume(root / f"BRATS_{number:03d}_crop_label.nii.gz", mask)


def words_apart(root: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8))
        picture(root / "scans" / f"{number}_image.png", image)
        picture(root / "labels" / f"{number}_label.png", mask)


def voc(root: Path) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8))
        picture(root / "JPEGImages" / f"{number}.jpg", image)
        picture(root / "SegmentationClass" / f"{number}.png", mask)
        picture(root / "SegmentationObject" / f"{number}.png", mask)


def classes(root: Path) -> None:
    for number in range(6):
        name = ("a", "b", "c")[number % 3]
        picture(root / name / f"{number}.png", blobs(number, (9, 8))[0])


FOLDERS: dict[str, tuple[Callable[[Path], None], str, dict[str, str]]] = {
    "two folders": (
        two_folders,
        "pairs",
        {"images": "My Images/*.png", "masks": "My Masks (final)/{stem}_m.png"},
    ),
    "readers": (
        readers,
        "pairs",
        {
            "images": "images/*.png",
            "masks": "annotator_*/{stem}.png",
            "several": "majority",
        },
    ),
    "one folder": (
        one_folder,
        "pairs",
        {"images": "**/*.nii.gz", "masks": "{folder}/{stem}_seg.nii.gz"},
    ),
    "parts": (
        parts,
        "pairs",
        {"images": "{split}/images/*.png", "masks": "{split}/labels/{stem}.bmp"},
    ),
    "places": (
        places,
        "pairs",
        {"images": "data/{part}/images/*.png", "masks": "data/{part}/masks/{stem}.png"},
    ),
    "classes": (classes, "images", {}),
    "several masks": (
        several,
        "pairs",
        {"images": "**/*.png", "masks": "{folder}/{stem}_mask*.png", "several": "union"},
    ),
    "several masks apart": (
        several_apart,
        "pairs",
        {"images": "images/*.png", "masks": "masks/{stem}_mask*.png", "several": "union"},
    ),
    "several masks by number": (
        several_by_number,
        "pairs",
        {"images": "images/*.png", "masks": "masks/{stem}{number:|_1|_2}.png", "several": "union"},
    ),
    "mixed endings": (
        mixed_endings,
        "pairs",
        {"images": "images/*{ending:.nii|.nii.gz}", "masks": "masks/{stem}{ending}"},
    ),
    "mixed endings beside": (
        mixed_beside,
        "pairs",
        {
            "images": "**/*{ending:.bmp|.png|.tif}",
            "masks": "{folder}/{stem}_seg{of_mask:.bmp|.png|.tif}",
        },
    ),
    "a word behind both": (
        words_of_both,
        "pairs",
        {"images": "**/{case}_image.nii.gz", "masks": "{folder}/{case}_label.nii.gz"},
    ),
    "a word behind both, apart": (
        words_apart,
        "pairs",
        {"images": "scans/{case}_image.png", "masks": "labels/{case}_label.png"},
    ),
    "VOC": (
        voc,
        "pairs",
        {"images": "JPEGImages/*.jpg", "masks": "SegmentationClass/{stem}.png"},
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_command_that_is_shown_works(
    medopt: Medopt,  # noqa: F811  # the fixture
    tmp_path: Path,
    name: str,
) -> None:
    make, kind, options = FOLDERS[name]
    make(tmp_path / "a folder")
    status, said, _ = medopt("prepare", "a folder")
    assert status == 0
    assert f"a folder seems to be {kind}" in said
    count = {"classes": 6, "mixed endings": 60}.get(name, 4)
    assert f"  {count} cases fit, 0 do not." in said
    # What fits is told first; what is not so may be told behind it.
    command = shlex.split(next(line for line in said.splitlines() if line.startswith("  medopt")))
    assert command[:4] == ["medopt", "prepare", kind, "a folder"]
    assert [f"{key}={value}" for key, value in options.items()] == command[5:-2:2]
    assert [path.name for path in tmp_path.iterdir()] == ["a folder"]
    status, said, _ = medopt(*command[1:-1], "store", "--workers", 1)
    assert status == 0
    assert len(open_store(tmp_path / "store")) == count


def test_what_no_case_fits_is_not_suggested_where_another_fits(tmp_path: Path) -> None:
    """Seen on LIDC: a table beside the scans names none of their files."""
    for number in range(4):
        image, mask = blobs(number, (9, 8, 3))
        volume(tmp_path / "images" / f"{number}.nii.gz", image)
        volume(tmp_path / "masks" / f"{number}.nii.gz", mask)
    (tmp_path / "list.csv").write_text("file,label\nx,0\ny,1\n")
    assert [(seems.kind, seems.cases) for seems in api.recognize(tmp_path)] == [("pairs", 4)]
    for folder in ("images", "masks"):
        for path in (tmp_path / folder).iterdir():
            path.rename(tmp_path / f"{folder} {path.name}")
    assert [(seems.kind, seems.cases) for seems in api.recognize(tmp_path)] == [("volumes", 0)]


def test_what_is_missing_is_said(medopt: Medopt, tmp_path: Path) -> None:  # noqa: F811  # the fixture
    for number in range(4):
        picture(
            tmp_path / "x" / ("NORMAL", "SICK")[number % 2] / f"{number}.png",
            blobs(number, (9, 8))[0],
        )
    status, said, _ = medopt("prepare", "x")
    assert status == 0
    assert "x may be images: it has pictures in folders, perhaps one folder for each class." in said
    assert "What is missing: the source has NORMAL and SICK: choose the disease" in said
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "thesis.docx").write_bytes(b"text")
    assert "y looks like no known kind" in medopt("prepare", "y")[1]
    (tmp_path / "z").mkdir()
    status, _, said = medopt("prepare", "z")
    assert (status, "z holds no file" in said) == (2, True)
    status, said, _ = medopt("prepare", "x", "--json")
    assert json.loads(said)[0]["kind"] == "images"


def test_colours_are_told_before_anything_is_written(tmp_path: Path) -> None:
    for number in range(3):
        image, mask = blobs(number, (9, 8))
        picture(tmp_path / "images" / f"{number}.png", image)
        colours = np.array([(0, 0, 0), (9, 8, 7)], np.uint8)[mask]
        picture(tmp_path / "masks" / f"{number}.png", colours)
    (seems,) = api.recognize(tmp_path)
    assert "#090807" in seems.missing


def test_a_dry_run_counts_what_a_store_would_hold(
    medopt: Medopt,  # noqa: F811  # the fixture
    tmp_path: Path,
) -> None:
    parts(tmp_path / "x")
    (tmp_path / "x" / "test" / "images" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    options = FOLDERS["parts"][2]
    words = ["--set", f"images={options['images']}", "--set", f"masks={options['masks']}"]
    status, said, told = medopt("prepare", "pairs", "x", *words, "--dry-run", "--json")
    assert status == 0
    assert "test/images/0.png: the PNG file is damaged" in told
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    counted = json.loads(said)
    medopt("prepare", "pairs", "x", *words, "--out", "store", "--workers", 1)
    store = open_store(tmp_path / "store")
    assert counted["cases"] == len(store) == 3
    assert counted["rejected"] == 1
    assert counted["groups"] == len(set(store.groups))
    assert counted["parts"] == {"test": 1, "train": 2}
    there = [bool(np.asarray(store.mask(n)).any()) for n in range(3)]
    assert counted["classes"] == {"label_1": sum(there)}
    assert counted["shape"] == [[9.0] * 3, [8.0] * 3]
    assert counted["spacing"] == [None, None]
    status, said, _ = medopt("prepare", "pairs", "x", *words, "--dry-run")
    assert "cases    3, 1 rejected" in said
    assert medopt("prepare", "pairs", "x", *words)[0] == 2


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="there is no folder"):
        api.recognize(tmp_path / "none")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    assert api.recognize(tmp_path / "a.png") == []


def test_a_set_of_medmnist_is_known_by_its_name(shared_data: Path) -> None:
    first: Any = api.recognize(shared_data / "breastmnist")[0]
    assert (first.kind, first.options, first.missing) == ("medmnist", {"name": "breastmnist"}, "")
    # Not its three parts, which are the units of work.
    assert first.cases == 780


def test_real_folders_are_known(shared_data: Path) -> None:
    found = {
        name: api.recognize(shared_data / name)[0].kind for name in ("msd_hippocampus", "isic_uda1")
    }
    assert found == {"msd_hippocampus": "msd", "isic_uda1": "images"}


@pytest.mark.parametrize("kind", KINDS)
def test_advice_on_patients_is_what_a_kinds_settings_mean(kind: str) -> None:
    meanings = {name: meaning for name, (_, meaning) in KINDS[kind].options.items()}
    advice = _how_told(kind)
    assert ("--set group=COLUMN" in advice) == ("column of" in meanings.get("group", ""))
    for name in ("group", "group_pattern"):
        by_pattern = "regular expression" in meanings.get(name, "")
        assert (f"--set '{name}=(p[0-9]+)'" in advice) == by_pattern
    assert "csv" in meanings or "csv=" not in advice


def test_advice_on_patients_of_a_decathlon_folder_can_be_followed(
    medopt: Medopt,  # noqa: F811  # the fixture
    tmp_path: Path,
) -> None:
    for number in range(4):
        image, mask = blobs(number, (9, 8, 3))
        volume(tmp_path / "x" / "imagesTr" / f"p{number // 2}_{number}.nii.gz", image)
        volume(tmp_path / "x" / "labelsTr" / f"p{number // 2}_{number}.nii.gz", mask)
    _, said, _ = medopt("prepare", "x")
    advice = "--set 'group=(p[0-9]+)' of a case's name says which patient each case is from"
    assert advice in " ".join(said.split())
    words = shlex.split(advice.partition(" of ")[0])
    status, said, _ = medopt("prepare", "msd", "x", *words, "--dry-run", "--json")
    assert (status, json.loads(said)["groups"]) == (0, 2)


def test_the_column_of_the_disease_goes_before_who_and_how_large(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / f"{number}.png", blobs(number, (9, 8))[0])
    lines = [
        f"{n}.png,{'Malignant' if n % 3 else 'benign'},{'fm'[n % 2]},{50 + n % 2},{64 + n % 2}"
        for n in range(12)
    ]
    head = "file,diagnosis,sex,patient_age,width"
    (tmp_path / "list.csv").write_text("\n".join([head, *lines]) + "\n")
    (found,) = api.recognize(tmp_path)
    assert (found.kind, found.cases, found.missing) == ("images", 12, "")
    assert found.options == {"label": "diagnosis", "positive": "Malignant"}
    # Where nothing else is there they are the answer.
    (tmp_path / "list.csv").write_text(
        "file,sex\n" + "".join(f"{n}.png,{'fm'[n % 2]}\n" for n in range(12))
    )
    (found,) = api.recognize(tmp_path)
    assert found.options == {"label": "sex"}


def labelled_volumes(root: Path) -> None:
    for number in range(4):
        volume(root / "ct" / f"{number}.nii.gz", blobs(number, (9, 8, 7))[0])
    table = "".join(f"{n},{n % 2}\n" for n in range(4))
    (root / "list.csv").write_text(f"file,label\n{table}")


def series_in_folders(root: Path) -> None:
    for number in range(4):
        write_series(root / f"P{number}", series=f"5{number}", seed=number)
    table = "".join(f"P{n},{n % 2}\n" for n in range(4))
    (root / "list.csv").write_text(f"file,label\n{table}")


def series_by_patient(root: Path) -> None:
    for number in range(4):
        who = {"PatientID": f"who{number}"}
        write_series(root / f"1.2.{number}", series=f"5{number}", seed=number, **who)
    table = "".join(f"who{n},{n % 2}\n" for n in range(4))
    (root / "list.csv").write_text(f"id,label\n{table}")


@pytest.mark.parametrize(
    ("make", "options"),
    [(labelled_volumes, {}), (series_in_folders, {}), (series_by_patient, {"by": "PatientID"})],
)
def test_volumes_and_a_table_are_known(
    tmp_path: Path, make: Callable[[Path], None], options: dict[str, str]
) -> None:
    make(tmp_path)
    first, *_ = api.recognize(tmp_path)
    assert (first.kind, first.options, first.missing) == ("volumes", options, "")
    assert first.cases == 4
