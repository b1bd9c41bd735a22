"""Class folders without a table, one-hot tables and tables in several files."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from bench import api
from loaders.cases import BadSource, Survey
from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare
from loaders.store.read import Store, open_store

PIXELS = np.random.default_rng(4).integers(0, 255, (9, 8)).astype(np.uint8)


def put(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS + np.uint8(number)).save(path)


def survey_of(source: Path, **options: Any) -> Survey:
    return KINDS["images"].survey(source, options)


def rows_of(survey: Survey) -> dict[str, tuple[str, int, str | None]]:
    """Return group, label and part of each picture by its path."""
    return {row[0]: row[1:] for item in survey.items for row in item.extra["rows"]}


def chest(root: Path) -> Path:
    """Kaggle's chest X-rays (Kermany 2018): a folder in a folder, three parts, two classes."""
    top = root / "chest_xray"
    number = 0
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        for name in ("NORMAL", "PNEUMONIA"):
            for at in range(count):
                put(top / part / name / f"person{at} (1)_{name}.jpeg", number := number + 1)
            (top / part / name / ".DS_Store").write_bytes(b"stray")
            (top / part / name / "Thumbs.db").write_bytes(b"stray")
    put(root / "__MACOSX" / "chest_xray" / "train" / "NORMAL" / "._a.jpeg", 0)
    return root


def test_classes_and_parts_are_folders(tmp_path: Path) -> None:
    survey = survey_of(chest(tmp_path), positive="PNEUMONIA")
    rows = rows_of(survey)
    assert (survey.meta.classes, survey.meta.positive) == (("NORMAL", "PNEUMONIA"), 1)
    assert (len(rows), survey.rejected) == (12, ())
    for key, (group, label, part) in rows.items():
        _, folder, name, _ = key.split("/")
        assert (group, label, part) == (key, int(name == "PNEUMONIA"), folder)
    assert survey.meta.group_source == "case"
    by_person = survey_of(tmp_path, positive="PNEUMONIA", group_pattern=r"(person\d+)")
    assert {row[0] for row in rows_of(by_person).values()} == {"person0", "person1", "person2"}


def test_the_disease_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="the source has NORMAL and PNEUMONIA: choose the"):
        survey_of(chest(tmp_path))


def test_classes_without_parts_and_folders_below(tmp_path: Path) -> None:
    for number, name in enumerate(("glioma", "meningioma", "no tumour")):
        put(tmp_path / name / "patient 7" / "deep [1].png", 2 * number)
        put(tmp_path / name / "a.png", 2 * number + 1)
    survey = survey_of(tmp_path)
    assert survey.meta.classes == ("glioma", "meningioma", "no tumour")
    assert [row[2] for row in rows_of(survey).values()] == [None] * 6
    assert rows_of(survey)["no tumour/patient 7/deep [1].png"][1] == 2


def test_nothing_is_lost_of_what_does_not_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "a" / "1.png", 1)
    put(tmp_path / "b" / "2.png", 2)
    put(tmp_path / "c" / "3.png", 3)
    put(tmp_path / "c" / "same as 1.png", 1)
    put(tmp_path / "loose.png", 4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("hello")
    (tmp_path / "b" / "out.png").symlink_to("/dev/null")
    with caplog.at_level(logging.WARNING):
        survey = survey_of(tmp_path)
    assert {bad.where: bad.reason for bad in survey.rejected} == {
        "a/1.png": "another file with the same bytes has another label",
        "c/same as 1.png": "another file with the same bytes has another label",
        "a/notes.txt": "the file's ending is not that of a picture",
        "b/out.png": "the file is a link that leads out of the source",
        "loose.png": "the picture is not in a class folder",
    }
    assert caplog.messages == ["Folder empty holds no pictures."]


@pytest.mark.parametrize(
    ("folders", "options", "why"),
    [
        (["a"], {"csv": "none"}, "has 1 different values"),
        (["train/a", "test/a", "other/a"], {}, "beside them are not: parts are named train, val"),
        (["normal", "Normal"], {}, "differ only in upper and lower case"),
        (["B", "b", "M", "m"], {}, "has 'B' and 'b', which differ"),
        (["a", "b"], {"positive": "c"}, "positive is 'c'; the source has: a, b"),
        (
            ["a", "b"],
            {"label": "x"},
            "should hold one .* table; .* or put the pictures into one folder",
        ),
        (["a", "b"], {"csv": "none", "group": "x"}, "option group is for a table"),
        (["a", "b"], {"csv": "no.csv"}, "there is no file no.csv"),
    ],
)
def test_folders_that_cannot_be_meant(
    tmp_path: Path, folders: list[str], options: dict[str, str], why: str
) -> None:
    for number, name in enumerate(folders):
        put(tmp_path / name / "1.png", number)
    with pytest.raises(BadSource, match=why):
        survey_of(tmp_path, **options)


@pytest.mark.parametrize(
    "folders", [("images", "masks"), ("train/x", "train/x_gt"), ("JPEGImages", "SegmentationClass")]
)
def test_images_and_their_masks_are_no_classes(tmp_path: Path, folders: tuple[str, str]) -> None:
    for number, folder in enumerate(folders):
        for at in range(3):
            put(tmp_path / folder / f"{at}.png", 3 * number + at)
    both = " and ".join(folder.rpartition("/")[2] for folder in folders)
    with pytest.raises(BadSource, match=rf"{both} hold files of the same names .* kind pairs"):
        survey_of(tmp_path)
    assert (
        len(rows_of(survey_of(tmp_path, csv="none", positive=folders[0].rpartition("/")[2]))) == 6
    )


@pytest.mark.parametrize("folders", [("with_mask", "without_mask"), ("normal", "labels")])
def test_classes_that_are_called_after_masks(tmp_path: Path, folders: tuple[str, str]) -> None:
    """Of the same names both are masks, or faces that wear them; of other names none is."""
    for number, folder in enumerate(folders):
        put(tmp_path / folder / f"{0 if 'with_mask' in folders else number}.png", number)
    with pytest.raises(BadSource, match="choose the disease"):
        survey_of(tmp_path)


def test_no_table_and_no_folder(tmp_path: Path) -> None:
    put(tmp_path / "1.png", 1)
    with pytest.raises(
        BadSource, match=r"found: none; .* or put the pictures into one folder per class"
    ):
        survey_of(tmp_path)


# ---- one-hot ----------------------------------------------------------------------------------

# The first lines' form is that of ISIC_2019_Training_GroundTruth.csv.
ISIC = """image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK
ISIC_0000000,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_0000001,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_0000002,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_0000003,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0
"""
NAMES = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def isic(root: Path, text: str = ISIC) -> Path:
    for number in range(4):
        put(root / "ISIC_2019_Training_Input" / f"ISIC_{number:07d}.jpg", number)
    (root / "ISIC_2019_Training_GroundTruth.csv").write_text(text)
    return root


def test_a_one_hot_table_is_what_pandas_makes_of_it(tmp_path: Path) -> None:
    source = isic(tmp_path)
    survey = survey_of(source, one_hot=NAMES)
    frame = pd.read_csv(source / "ISIC_2019_Training_GroundTruth.csv", index_col="image")
    wanted = frame.idxmax(axis=1)
    found = {Path(key).stem: survey.meta.classes[row[1]] for key, row in rows_of(survey).items()}
    assert found == wanted.to_dict()
    assert survey.meta.classes == ("MEL", "NV", "SCC")
    assert survey.rejected == ()


def test_a_one_hot_table_is_recognized(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=rf"one column per class: set one_hot={NAMES} or label"):
        survey_of(isic(tmp_path))


def test_lines_that_are_not_one_hot_are_told(tmp_path: Path) -> None:
    lines = ISIC.splitlines()
    lines[1] = lines[1].replace("0.0", "1.0", 1)
    lines[2] = lines[2].replace("1.0", "0.0")
    lines[3] = lines[3].replace("1.0", "0.7")
    more = "ISIC_0000003,1,0,,0,0,0,0,0,0\nISIC_0000002,0,yes,0,0,0,0,0,0,0"
    survey = survey_of(isic(tmp_path, "\n".join([*lines[:4], more])), one_hot=NAMES, positive="MEL")
    assert [bad.reason for bad in survey.rejected] == [
        "the line has several classes: MEL, NV",
        "the line has no class",
        "column MEL is neither 0 nor 1",
    ]
    assert sorted(row[1] for row in rows_of(survey).values()) == [0, 1]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"one_hot": "MEL"}, "it must be two columns or more"),
        (
            {"one_hot": "MEL,XX"},
            "has no column 'XX' for option one_hot; its columns",
        ),
        ({"one_hot": NAMES, "label": "NV"}, "leave out label and finding"),
    ],
)
def test_one_hot_columns_that_cannot_be(tmp_path: Path, options: dict[str, str], why: str) -> None:
    with pytest.raises(BadSource, match=why):
        survey_of(isic(tmp_path), **options)


# ---- several tables ---------------------------------------------------------------------------

# Columns of CheXpert-v1.0-small's train.csv and valid.csv.
HEAD = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema"


def chexpert(root: Path) -> Path:
    number = 0
    for part, count in (("train", 4), ("valid", 2)):
        lines = [HEAD]
        for at in range(count):
            name = f"{part}/patient{number:05d}/study1/view1_frontal.jpg"
            put(root / "CheXpert-v1.0-small" / name, number := number + 1)
            edema = ("0.0", "1.0", "-1.0", "")[at]
            lines.append(f"CheXpert-v1.0-small/{name},Male,50,Frontal,AP,,{edema}")
        (root / "CheXpert-v1.0-small" / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return root / "CheXpert-v1.0-small"


def test_several_tables_are_one(tmp_path: Path) -> None:
    source = chexpert(tmp_path)
    options = {"finding": "Edema", "group_pattern": "(patient[0-9]+)"}
    with pytest.raises(BadSource, match=r"found: train.csv, valid.csv; .* csv=train.csv,valid.csv"):
        survey_of(source, **options)
    survey = survey_of(source, csv="train.csv,valid.csv", **options)
    # One uncertain is left out, a blank is absent.
    assert [row[1:] for row in rows_of(survey).values()] == [
        (0, "train"), (1, "train"), (0, "train"), (0, "val"), (1, "val"),
    ]  # fmt: skip
    alone = {}
    for name in ("train.csv", "valid.csv"):
        alone |= rows_of(survey_of(source, csv=name, **options))
    assert {key: row[:2] for key, row in rows_of(survey).items()} == {
        key: row[:2] for key, row in alone.items()
    }


def test_a_line_is_named_by_its_own_file(tmp_path: Path) -> None:
    source = chexpert(tmp_path)
    with (source / "valid.csv").open("a") as file:
        file.write("CheXpert-v1.0-small/valid/gone.jpg,Male,50,Frontal,AP,,1.0\n")
    survey = survey_of(source, csv="train.csv,valid.csv", finding="Edema")
    (bad,) = survey.rejected
    assert bad.where.startswith("valid.csv line 4 ")


def test_tables_of_other_columns_are_refused(tmp_path: Path) -> None:
    source = chexpert(tmp_path)
    text = (source / "valid.csv").read_text().replace("Edema", "Oedema", 1)
    (source / "valid.csv").write_text(text)
    with pytest.raises(BadSource, match="do not have the same columns: Edema, Oedema"):
        survey_of(source, csv="train.csv,valid.csv", finding="Edema")


# ---- real pictures, and the whole way ---------------------------------------------------------


def stored(source: Path, out: Path, **options: Any) -> Store:
    prepare(KINDS["images"], source, out, options=options, key=b"k", workers=1, strict=False)
    return open_store(out)


def test_breastmnist_as_class_folders_is_the_same_store(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "breastmnist" / "breastmnist.npz"
    out = tmp_path / "by kind"
    # One of its images stands under both answers; as files of the same bytes both are refused.
    options = {"name": "breastmnist"}
    prepare(
        KINDS["medmnist"], file, out, options=options, key=b"k", workers=1, strict=False,
        conflicts="reject",
    )  # fmt: skip
    with np.load(file, allow_pickle=False) as arrays:
        for part in ("train", "val", "test"):
            # 0 is malignant, 1 normal and benign (medmnist's info.py).
            labels = arrays[f"{part}_labels"].ravel()
            for number, (image, label) in enumerate(
                zip(arrays[f"{part}_images"], labels, strict=True)
            ):
                path = tmp_path / "folders" / part / ("malignant", "normal, benign")[label]
                path.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path / f"{number}.png")
    by_kind = open_store(out)
    by_folder = stored(tmp_path / "folders", tmp_path / "by folder", positive="malignant")
    assert len(by_folder) == len(by_kind) == 778
    assert by_folder.meta.classes == ("malignant", "normal, benign")

    def content(store: Store) -> list[tuple[bytes, int, str | None]]:
        names = store.meta.classes
        malignant = [name == "malignant" for name in names]
        splits = store.splits
        return sorted(
            (np.asarray(store.image(n)).tobytes(), int(malignant[store.labels[n]]), splits[n] or "")
            for n in range(len(store))
        )

    assert content(by_folder) == content(by_kind)
    assert by_folder.meta.classes == by_kind.meta.classes
    assert by_folder.content_hash == by_kind.content_hash


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("layout", ["folders", "one-hot", "several tables"])
def test_each_layout_from_its_files_to_a_report(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    monkeypatch.setattr(api, "_begun", [])
    rng = np.random.default_rng(0)
    options: dict[str, str] = {"positive": "sick"}
    lines = {"train": ["image,ill,well"], "val": ["image,ill,well"]}
    for number in range(24):
        sick = number % 2
        image = rng.integers(0, 120, (16, 16)).astype(np.uint8) + np.uint8(100 * sick)
        part = "train" if number < 16 else "val"
        path = tmp_path / "source" / part / ("well", "sick")[sick] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        lines[part].append(f"{path.relative_to(tmp_path / 'source')},{sick},{1 - sick}")
    if layout != "folders":
        options = {"one_hot": "ill,well", "positive": "ill"}
        for part, text in lines.items():
            (tmp_path / "source" / f"{part}.csv").write_text("\n".join(text))
        options["csv"] = "train.csv,val.csv" if layout == "several tables" else "train.csv"
    report = api.prepare(
        "images", tmp_path / "source", out=tmp_path / "store", options=options, workers=1
    )
    assert report.n_cases == (16 if layout == "one-hot" else 24)
    study = {
        "name": "one",
        "data": [str(tmp_path / "store")],
        "models": ["plain_cnn"],
        "optimizers": ["adam"],
        "losses": ["ce"],
        "folds": 2,
        "epochs": 1,
        "threads": 1,
        "early_stopping": False,
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(study))
    assert len(api.plan(tmp_path / "one.yaml", tmp_path / "run").plan.trials) == 2
    assert api.run(tmp_path / "one.yaml", tmp_path / "run").page.is_file()
