"""Several findings at once: NIH's words, CheXpert's columns, VinDr's readers, what cannot be."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loaders.cases import BadSource
from loaders.datasets.table import KINDS
from loaders.store.dry_run import count
from loaders.store.read import open_store
from loaders.store.write import write_store

# Data_Entry_2017.csv of NIH ChestX-ray14.
NIH = """Image Index,Finding Labels,Patient ID
1.png,Cardiomegaly|Effusion,p1
2.png,No Finding,p1
3.png,Effusion,p2
4.png,Mass|Cardiomegaly,p3
"""
# train.csv of CheXpert-v1.0-small: 1.0, 0.0, -1.0 (uncertain) and blanks (not mentioned).
CHEXPERT = """Path,Sex,Age,No Finding,Edema,Pneumonia,Fracture
1.png,Male,60,1.0,,0.0,
2.png,Female,70,,1.0,-1.0,
3.png,Male,1,,1.0,1.0,0.0
4.png,Female,55,,-1.0,,-1.0
"""
# A column a finding, which overlap; one cell is lost.
COLUMNS = "image,mass,nodule,site\n1.png,1,1,a\n2.png,0,1,b\n3.png,0,0,a\n4.png,#N/A,1,b\n"
# train.csv of VinDr-CXR: a row a reader and a box.
VINDR = """image_id,class_name,rad_id,x_min,y_min,x_max,y_max
1.png,Mass,R1,0,0,5,5
1.png,Effusion,R1,0,0,5,5
1.png,Mass,R2,0,0,5,5
1.png,No finding,R3,,,,
2.png,No finding,R1,,,,
2.png,No finding,R2,,,,
2.png,Effusion,R3,0,0,2,2
3.png,Effusion,R1,0,0,2,2
3.png,Effusion,R2,0,0,2,2
3.png,Mass,R3,0,0,2,2
"""


def source_of(root: Path, table: str) -> Path:
    root.mkdir()
    for number in range(1, 5):
        image = np.random.default_rng(number).integers(0, 256, (8, 8)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        (root / f"{number}.png").write_bytes(file.getvalue())
    (root / "t.csv").write_text(table)
    return root


def answers(source: Path, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the findings, and the answers to them of each picture."""
    survey = KINDS["images"].survey(source, options)
    assert survey.meta.task == "multilabel"
    rows = [row for item in survey.items for row in item.extra["rows"]]
    return survey.meta.classes, {row[0].removesuffix(".png"): row[2] for row in rows}


def test_words_of_a_cell(tmp_path: Path) -> None:
    source = source_of(tmp_path / "nih", NIH)
    label = {"label": "Finding Labels", "group": "Patient ID"}
    names, found = answers(source, finding="all", **label)
    assert names == ("Cardiomegaly", "Effusion", "Mass")
    assert found == {"1": (1, 1, 0), "2": (0, 0, 0), "3": (0, 1, 0), "4": (1, 0, 1)}
    names, found = answers(source, finding="Mass, Effusion", **label)
    assert names == ("Mass", "Effusion")
    assert found["1"] == (0, 1)
    # One is asked for as ever.
    one = KINDS["images"].survey(source, {"finding": "Mass", **label})
    assert (one.meta.task, one.meta.classes) == ("classification", ("no Mass", "Mass"))


def test_columns_of_their_own(tmp_path: Path) -> None:
    source = source_of(tmp_path / "chexpert", CHEXPERT)
    names, found = answers(source, finding="all")
    assert names == ("Edema", "Pneumonia", "Fracture")
    assert found == {"1": (0, 0, 0), "2": (1, None, 0), "3": (1, 1, 0), "4": (None, 0, None)}
    assert answers(source, finding="all", blank="missing")[1]["1"] == (None, 0, None)
    found = answers(source, finding="Edema,Pneumonia", uncertain="positive")[1]
    assert found == {"1": (0, 0), "2": (1, 1), "3": (1, 1), "4": (1, 0)}


def test_columns_that_overlap_to_a_store_and_a_count(tmp_path: Path) -> None:
    source = source_of(tmp_path / "columns", COLUMNS)
    kind, options = KINDS["images"], {"finding": "mass,nodule", "keep": "site"}
    survey = kind.survey(source, options)
    write_store(kind, survey, tmp_path / "store", key=b"k", workers=1, strict=True)
    store = open_store(tmp_path / "store")
    found = {np.asarray(store.image(n)).tobytes(): row for n, row in enumerate(store.numbers)}
    for number, wanted in enumerate([(1, 1), (0, 1), (0, 0), (np.nan, 1)], start=1):
        image = np.array(Image.open(source / f"{number}.png"))[None]
        np.testing.assert_array_equal(found[image.tobytes()], wanted)
    assert store.labels.tolist() == [-1] * 4
    assert store.answers.dtype == np.float32
    assert store.class_counts.sum(axis=0).tolist() == [1, 3]
    assert count(kind, source, options).classes == {"mass": 1, "nodule": 3}


def test_readers_are_asked_finding_by_finding(tmp_path: Path) -> None:
    source = source_of(tmp_path / "vindr", VINDR)
    names, found = answers(source, finding="all", label="class_name", readers="majority")
    assert names == ("Effusion", "Mass")
    # 1: two of three see the mass; 3: two of three the effusion.
    assert found == {"1": (0, 1), "2": (0, 0), "3": (1, 0)}
    found = answers(source, finding="all", label="class_name", readers="any")[1]
    assert found == {"1": (1, 1), "2": (1, 0), "3": (1, 1)}


@pytest.mark.parametrize(
    ("table", "options", "why"),
    [
        (NIH, {"label": "Finding Labels", "finding": "Mass,Fever"}, "no finding 'Fever'"),
        (NIH, {"label": "Finding Labels", "finding": "Mass,Mass"}, "two findings or more"),
        (
            NIH,
            {"label": "Finding Labels", "finding": "all", "uncertain": "negative"},
            "uncertain is for findings in columns of their own",
        ),
        (NIH, {"label": "Finding Labels", "finding": "Mass", "blank": "missing"}, "blank is for"),
        (CHEXPERT, {"finding": "Edema,Fever"}, "no column 'Fever' for option finding"),
        (CHEXPERT, {"finding": "all", "blank": "absent"}, "it must be one of: negative, missing"),
        (CHEXPERT, {"finding": "all", "positive": "Edema"}, "it is always the finding"),
        ("image,age\n1.png,3\n2.png,4\n", {"finding": "all"}, "set label=COLUMN or finding="),
    ],
)
def test_findings_that_cannot_be(
    tmp_path: Path, table: str, options: dict[str, str], why: str
) -> None:
    with pytest.raises(BadSource, match=why):
        answers(source_of(tmp_path / "source", table), **options)


def test_a_line_that_answers_nothing_is_told(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", COLUMNS.replace("0,0,a", "maybe,0,a"))
    survey = KINDS["images"].survey(source, {"finding": "mass,nodule"})
    assert [bad.reason for bad in survey.rejected] == ["column mass is not 1, 0, -1 or blank"]


def test_breastmnist_with_two_made_findings(shared_data: Path, tmp_path: Path) -> None:
    """Of real images: malignant, as their makers say, and bright, which their pixels say."""
    with np.load(shared_data / "breastmnist" / "breastmnist.npz", allow_pickle=False) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"].ravel()
    # 0 is malignant (medmnist's info.py). Of one image of eight nobody has said it.
    bright = images.mean(axis=(1, 2)) > np.median(images.mean(axis=(1, 2)))
    lines, wanted = ["image,malignant,bright"], {}
    (tmp_path / "source").mkdir()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(tmp_path / "source" / f"{number}.png")
        told = "" if number % 8 == 0 else str(int(label == 0))
        lines.append(f"{number}.png,{told},{int(bright[number])}")
        answer = np.nan if number % 8 == 0 else float(label == 0)
        wanted[image.tobytes()] = (answer, float(bright[number]))
    (tmp_path / "source" / "t.csv").write_text("\n".join(lines))
    survey = KINDS["images"].survey(tmp_path / "source", {"finding": "all", "blank": "missing"})
    write_store(KINDS["images"], survey, tmp_path / "store", key=b"k", workers=1, strict=False)
    store = open_store(tmp_path / "store")
    assert (len(store), store.meta.classes) == (156, ("malignant", "bright"))
    for n, numbers in enumerate(store.numbers):
        np.testing.assert_array_equal(numbers, wanted[np.asarray(store.image(n)).tobytes()])
