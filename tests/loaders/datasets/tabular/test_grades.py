"""A column of grades, whose order the user says."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders.cases import BadSource
from loaders.datasets.table import KINDS

TABLE = "image,stage\n1.png,severe\n2.png,mild\n3.png,moderate\n4.png,mild\n"


def source_of(root: Path) -> Path:
    root.mkdir()
    for number in range(1, 5):
        image = np.random.default_rng(number).integers(0, 256, (8, 8)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        (root / f"{number}.png").write_bytes(file.getvalue())
    (root / "t.csv").write_text(TABLE)
    return root


def test_grades_are_numbered_in_the_order_that_is_said(tmp_path: Path) -> None:
    options = {"label": "stage", "grades": "mild, moderate, severe"}
    survey = KINDS["images"].survey(source_of(tmp_path / "s"), options)
    assert (survey.meta.task, survey.meta.positive) == ("ordinal", None)
    assert survey.meta.classes == ("mild", "moderate", "severe")
    rows = [row for item in survey.items for row in item.extra["rows"]]
    assert {row[0]: row[2] for row in rows} == {"1.png": 2, "2.png": 0, "3.png": 1, "4.png": 0}


@pytest.mark.parametrize("grades", ["mild,severe", "mild,moderate,severe,dead", "mild,mild,severe"])
def test_grades_are_those_of_the_column(tmp_path: Path, grades: str) -> None:
    with pytest.raises(BadSource, match="has mild, moderate, severe: list each once, in ascending"):
        KINDS["images"].survey(source_of(tmp_path / "s"), {"label": "stage", "grades": grades})


def test_grades_have_no_positive(tmp_path: Path) -> None:
    options = {"label": "stage", "grades": "mild,moderate,severe", "positive": "severe"}
    with pytest.raises(BadSource, match="leave out finding and positive"):
        KINDS["images"].survey(source_of(tmp_path / "s"), options)


@pytest.mark.parametrize("rule", ["any", "all"])
def test_grades_have_no_side_that_any_reader_could_take(tmp_path: Path, rule: str) -> None:
    options = {"label": "stage", "grades": "mild,moderate,severe", "readers": rule}
    with pytest.raises(BadSource, match="column stage has 3: set readers=majority"):
        KINDS["images"].survey(source_of(tmp_path / "s"), options)
