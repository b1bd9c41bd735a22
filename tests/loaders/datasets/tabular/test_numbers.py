"""A column of numbers: EchoNet's ejection fractions, and what is no number."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from loaders.cases import BadSource
from loaders.datasets.table import KINDS
from loaders.store.read import open_store
from loaders.store.write import write_store

# The columns of boneage-training-dataset.csv (RSNA 2017): id,boneage,male.
BONES = "id,boneage,male\n1,180,False\n2,12.5,True\n3,94,True\n4,180,False\n"


def source_of(root: Path, table: str) -> Path:
    root.mkdir()
    for number in range(1, 5):
        image = np.random.default_rng(number).integers(0, 256, (8, 8)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        (root / f"{number}.png").write_bytes(file.getvalue())
    (root / "t.csv").write_text(table)
    return root


def test_numbers_come_as_they_stand(tmp_path: Path) -> None:
    source = source_of(tmp_path / "bones", BONES)
    survey = KINDS["images"].survey(source, {"value": "boneage"})
    assert (survey.meta.task, survey.meta.classes) == ("regression", ("boneage",))
    write_store(KINDS["images"], survey, tmp_path / "store", key=b"k", workers=1, strict=True)
    store = open_store(tmp_path / "store")
    found = {np.asarray(store.image(n)).tobytes(): float(store.numbers[n, 0]) for n in range(4)}
    for number, wanted in enumerate([180, 12.5, 94, 180], start=1):
        image = np.array(Image.open(source / f"{number}.png"))[None]
        assert found[image.tobytes()] == wanted


@pytest.mark.parametrize("cell", ["12/03/2020", "1.234,5", "sixty", "1e999", "nan%"])
def test_what_is_no_number_is_told_with_its_line(tmp_path: Path, cell: str) -> None:
    quoted = f'"{cell}"'
    source = source_of(tmp_path / "bones", BONES.replace("94", quoted))
    survey = KINDS["images"].survey(source, {"value": "boneage"})
    (bad,) = survey.rejected
    assert bad.where == "t.csv line 4"
    assert bad.reason == f"column boneage has {cell!r}, which is not a number like 61.5"


def test_a_comma_is_the_mark_of_decimals_where_it_is_said(tmp_path: Path) -> None:
    """As pandas reads it; a point is then no number, for it may be one of thousands."""
    table = "id;age\n1;180\n2;12,5\n3;-,5\n4;1.234\n"
    source = source_of(tmp_path / "bones", table)
    survey = KINDS["images"].survey(source, {"value": "age", "decimal": ","})
    rows = {row[0]: row[2] for item in survey.items for row in item.extra["rows"]}
    by_pandas = pd.read_csv(source / "t.csv", sep=";", decimal=",", nrows=3)["age"]
    assert rows == {f"{n}.png": (value,) for n, value in enumerate(by_pandas, start=1)}
    assert [bad.reason for bad in survey.rejected] == [
        "column age has '1.234', which is not a number like 61,5"
    ]
    survey = KINDS["images"].survey(source, {"value": "age"})
    assert {bad.reason for bad in survey.rejected} == {
        f"column age has {cell!r}, which is not a number like 61.5; decimal=, would read the comma "
        "as the decimal mark"
        for cell in ("12,5", "-,5")
    }


@pytest.mark.parametrize(
    ("table", "options", "why"),
    [
        (BONES, {"value": "age"}, "no column 'age'"),
        (BONES, {"value": "male"}, "has 0 different numbers; 2 or more .*'False', which is no"),
        (BONES.replace("12.5", "180").replace("94", "180"), {"value": "boneage"}, "1 different"),
        (BONES, {"value": "boneage", "finding": "male"}, "leave out label, finding, one_hot"),
        (
            BONES,
            {"value": "boneage", "readers": "majority"},
            "option readers with value is 'majority'",
        ),
    ],
)
def test_numbers_that_cannot_be(
    tmp_path: Path, table: str, options: dict[str, str], why: str
) -> None:
    with pytest.raises(BadSource, match=why):
        KINDS["images"].survey(source_of(tmp_path / "source", table), options)


def test_a_picture_with_two_numbers_is_told(tmp_path: Path) -> None:
    source = source_of(tmp_path / "bones", BONES + "4,181,False\n")
    with pytest.raises(BadSource, match=r"several rows that disagree .* readers=mean or median$"):
        KINDS["images"].survey(source, {"value": "boneage"})


@pytest.mark.parametrize(("rule", "wanted"), [("mean", 170.0), ("median", 180.0)])
def test_several_numbers_of_a_picture_come_to_one(tmp_path: Path, rule: str, wanted: float) -> None:
    """As pandas groups them: readers who measured 180, 190 and 140."""
    table = BONES + "4,190,False\n4,140,False\n"
    source = source_of(tmp_path / "bones", table)
    survey = KINDS["images"].survey(source, {"value": "boneage", "readers": rule})
    rows = {row[0]: row[2] for item in survey.items for row in item.extra["rows"]}
    by_pandas = pd.read_csv(source / "t.csv").groupby("id")["boneage"].agg(rule)
    assert rows == {f"{number}.png": (value,) for number, value in by_pandas.items()}
    assert rows["4.png"] == (wanted,)
    assert (survey.rejected, survey.meta.options["readers"]) == ((), rule)
