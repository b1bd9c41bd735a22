"""Clinical columns: what is kept of them, against pandas, and what is refused."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from loaders.cases import BadSource
from loaders.datasets.clinical import numbered, refuse_names
from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare
from loaders.store.read import open_store


@pytest.mark.parametrize(
    "column",
    [
        *("Name", "patient_name", "PatientName", "ID", "case-id", "PatientID", "MRN", "DOB"),
        *("Date of Birth", "birthDate", "study date", "StudyDate", "zip code", "Phone", "e-mail"),
        *("Address", "accession number", "physician", "admission", "Time"),
    ],
)
def test_what_is_called_as_somebody_is_refused(column):
    with pytest.raises(BadSource, match="may identify somebody"):
        refuse_names(["age", column])


def test_what_is_called_as_a_measurement_is_taken():
    refuse_names(
        ["age", "Age_approx", "sex", "BMI", "anatom_site_general", "Smoking status", "PSA"]
    )


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["1954-03-01", "", "1960-01-01"], "holds dates, such as 9999-99-99"),
        (["01.03.1954"], "holds dates"),
        (["19540301", "19600101"], "holds dates"),
        ([f"{100000 + 7 * n}" for n in range(60)], "a different whole number in each of 60 cases"),
        ([f"person {n}" for n in range(21)], "21 different words"),
        (["a long remark on somebody's history and home", "x"], "different words"),
        (["", "NA", "unknown"], "has no value"),
    ],
)
def test_values_that_tell_who_somebody_is_are_refused(values, why):
    with pytest.raises(BadSource, match=why):
        numbered("a.csv", {"field": values})


def test_numbers_are_numbers_and_words_are_categories():
    found, words = numbered(
        "a.csv",
        {
            "age": ["50", "93.5", "", "NA", "89"],
            "dosage": ["95", "1", "2", "3", "4"],
            "sex": ["F", "m", "unknown", "M ", "f"],
        },
    )
    # 45 CFR 164.514(b)(2)(i)(C): ages above 89 are 90 or older, and no more.
    assert [v for v in found["age"] if not math.isnan(v)] == [50, 90, 89]
    assert found["dosage"] == [95, 1, 2, 3, 4]
    assert words == {"sex": ["f", "m"]}
    assert np.array_equal(found["sex"], [0, 1, np.nan, 1, 0], equal_nan=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return a folder of 30 pictures, and their table as pandas has it."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "image": [f"{n}.png" for n in range(30)],
            "label": np.arange(30) % 2,
            "patient": [f"Mrs. Miller {n}" for n in range(30)],
            "age": np.where(np.arange(30) % 5, rng.integers(20, 80, 30), np.nan),
            "sex": [("female", "male", None)[n % 3] for n in range(30)],
        }
    )
    for n in range(30):
        pixels = rng.integers(0, 255, (8, 9)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    frame.to_csv(folder / "table.csv", index=False)
    return folder, frame


def prepared(folder, out, **options):
    prepare(
        KINDS["images"],
        folder,
        out,
        options={"positive": "1", "group": "patient", **options},
        key=b"test",
        strict=True,
    )
    return open_store(out)


def test_a_store_keeps_them_case_by_case(table, tmp_path):
    folder, frame = table
    store = prepared(folder, tmp_path / "store", clinical="age,sex")
    assert store.categories == {"sex": ("female", "male")}
    # Which row a case is, by its pixels.
    rows = [
        next(
            n
            for n in range(30)
            if np.array_equal(np.asarray(Image.open(folder / f"{n}.png")), store.image(case)[0])
        )
        for case in range(30)
    ]
    assert np.array_equal(store.clinical["age"], frame["age"].to_numpy()[rows], equal_nan=True)
    codes = frame["sex"].map({"female": 0.0, "male": 1.0}).to_numpy()[rows]
    assert np.array_equal(store.clinical["sex"], codes, equal_nan=True)


def test_a_store_without_them_is_what_it_was(table, tmp_path):
    folder, _ = table
    plain, other = (
        prepared(folder, tmp_path / "a"),
        prepared(folder, tmp_path / "b", clinical="age"),
    )
    assert plain.clinical == {}
    assert "clinical" not in plain.table.schema.names
    assert "categories" not in plain.meta.options
    assert plain.content_hash == other.content_hash
    assert plain.hashes == other.hashes


def test_a_table_is_refused_that_names_somebody(table, tmp_path):
    folder, _ = table
    with pytest.raises(BadSource, match="30 different words"):
        prepared(folder, tmp_path / "a", clinical="patient")
    with pytest.raises(BadSource, match="no column 'height' for the clinical data"):
        prepared(folder, tmp_path / "b", clinical="height")
    with pytest.raises(BadSource, match="clinical names a column twice"):
        prepared(folder, tmp_path / "c", clinical="age,age")
