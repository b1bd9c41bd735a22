"""MedMNIST: both shapes of labels, 2-D and 3-D, what is refused, and the real BreastMNIST."""

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.cases import BadSource
from loaders.datasets.medmnist.kind import INFO, SPLITS
from loaders.datasets.table import KINDS
from loaders.store import prepare as store_prepare
from loaders.store.copies import Conflicts
from loaders.store.pseudonyms import keyed_id
from loaders.store.read import Store, open_store, verify_store
from loaders.store.write import Report

KEY = b"a secret"
COUNTS = {"train": 7, "val": 2, "test": 3}


def some_images(name: str, count: int, seed: int = 0) -> Any:
    info = INFO[name]
    colour = (3,) if info.channels == 3 else ()
    shape = (count, *(8,) * info.dims, *colour)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def make(folder: Path, name: str, *, column: bool, changes: dict[str, Any] | None = None) -> Path:
    arrays: dict[str, Any] = {}
    for seed, (split, count) in enumerate(COUNTS.items()):
        arrays[f"{split}_images"] = some_images(name, count, seed)
        labels = (np.arange(count) % len(INFO[name].classes)).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None] if column else labels
    for part, value in (changes or {}).items():
        if value is None:
            del arrays[part]
        else:
            arrays[part] = value
    path = folder / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    return path


def prepare(
    source: Path, out: Path, conflicts: Conflicts = "keep", **options: Any
) -> tuple[Store, Report]:
    report = store_prepare.prepare(
        KINDS["medmnist"],
        source,
        out,
        options=options,
        key=KEY,
        strict=False,
        conflicts=conflicts,
    )
    assert verify_store(out) == []
    return open_store(out), report


def index_of(store: Store, split: str, number: int) -> int:
    key = f"{store.meta.options['name']}/{split}/{number}"
    return store.case_ids.index(keyed_id(KEY, "medmnist", key))


def test_the_table_is_that_of_the_official_package() -> None:
    """Counts of the sets and classes in MedMNIST v2, table 1 (10.1038/s41597-022-01721-8)."""
    known = {
        "pathmnist": (9, 3),
        "chestmnist": (14, 1),
        "dermamnist": (7, 3),
        "octmnist": (4, 1),
        "pneumoniamnist": (2, 1),
        "retinamnist": (5, 3),
        "breastmnist": (2, 1),
        "bloodmnist": (8, 3),
        "tissuemnist": (8, 1),
        "organamnist": (11, 1),
        "organcmnist": (11, 1),
        "organsmnist": (11, 1),
        "organmnist3d": (11, 1),
        "nodulemnist3d": (2, 1),
        "adrenalmnist3d": (2, 1),
        "fracturemnist3d": (3, 1),
        "vesselmnist3d": (2, 1),
        "synapsemnist3d": (2, 1),
    }
    assert {name: (len(info.classes), info.channels) for name, info in INFO.items()} == known
    for name, info in INFO.items():
        assert info.dims == (3 if name.endswith("3d") else 2)
        assert (info.positive is not None) == (info.task == "binary-class")
    # Malignant is 0 in one set and 1 in another.
    diseases = {
        name: info.classes[info.positive]
        for name, info in INFO.items()
        if info.positive is not None
    }
    assert diseases == {
        "pneumoniamnist": "pneumonia",
        "breastmnist": "malignant",
        "nodulemnist3d": "malignant",
        "adrenalmnist3d": "hyperplasia",
        "vesselmnist3d": "aneurysm",
        "synapsemnist3d": "excitatory synapse",
    }
    # The abstract's 708,069 and 9,998 images, less those that version 3.0 took out as repeated.
    cases = {name: info.cases for name, info in INFO.items()}
    assert sum(sum(cases[name]) for name in cases if not name.endswith("3d")) == 708_069 - 107
    assert sum(sum(cases[name]) for name in cases if name.endswith("3d")) == 9998 - 2
    assert len(set(cases.values())) == len(cases)


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("name", ["breastmnist", "pathmnist", "nodulemnist3d", "retinamnist"])
def test_every_image_is_there(tmp_path: Path, name: str, column: bool) -> None:
    store, report = prepare(make(tmp_path, name, column=column), tmp_path / "s")
    info = INFO[name]
    assert report.n_cases == len(store) == sum(COUNTS.values())
    assert store.meta.name == name
    assert store.meta.dims == info.dims
    assert store.meta.classes == info.classes
    assert store.meta.positive == info.positive
    assert (store.meta.normalize, store.meta.group_source) == ("train", "case")
    assert len(store.meta.channels) == info.channels
    assert store.groups == store.case_ids
    assert np.isnan(store.spacing).all()
    for seed, (split, count) in enumerate(COUNTS.items()):
        images = some_images(name, count, seed)
        for number in range(count):
            index = index_of(store, split, number)
            image = images[number]
            wanted = image.transpose(2, 0, 1) if info.channels == 3 else image[None]
            np.testing.assert_array_equal(store.image(index), wanted)
            assert store.labels[index] == number % len(info.classes)
            assert store.splits[index] == split
    rows = [store.image_file(index)[1] for index in range(len(store))]
    assert (rows == [None] * len(store)) is (info.dims == 3)


def test_a_survey_knows_how_many_cases_each_part_holds(tmp_path: Path) -> None:
    path = make(tmp_path, "bloodmnist", column=True)
    survey = KINDS["medmnist"].survey(path, {"name": "bloodmnist"})
    assert {item.key: item.cases for item in survey.items} == COUNTS


def test_both_shapes_of_labels_make_one_content(tmp_path: Path) -> None:
    stores = []
    for column in (False, True):
        folder = tmp_path / str(column)
        folder.mkdir()
        path = make(folder, "breastmnist", column=column)
        stores.append(prepare(path, folder / "s")[0])
    assert stores[0].content_hash == stores[1].content_hash


def test_a_set_is_found_by_its_name(tmp_path: Path) -> None:
    make(tmp_path, "breastmnist", column=True)
    make(tmp_path, "octmnist", column=True)
    survey = KINDS["medmnist"].survey
    assert survey(tmp_path, {"name": "octmnist"}).meta.name == "octmnist"
    with pytest.raises(BadSource, match=r"found: breastmnist\.npz, octmnist\.npz"):
        survey(tmp_path, {})
    with pytest.raises(BadSource, match=r"one file pathmnist\.npz; found: none"):
        survey(tmp_path, {"name": "pathmnist"})
    with pytest.raises(BadSource, match="no MedMNIST set 'catmnist'; the sets are: pathmnist"):
        survey(tmp_path, {"name": "catmnist"})
    renamed = (tmp_path / "octmnist.npz").rename(tmp_path / "mine.npz")
    with pytest.raises(BadSource, match="is not named after a MedMNIST set"):
        survey(renamed, {})
    assert survey(renamed, {"name": "octmnist"}).meta.name == "octmnist"
    larger = (tmp_path / "breastmnist.npz").rename(tmp_path / "breastmnist_64.npz")
    assert survey(larger, {}).meta.name == "breastmnist"


def of_cases(folder: Path, name: str, cases: tuple[int, int, int]) -> Path:
    """Write a file of so many one-pixel cases in train, val and test, all of class 0."""
    arrays = {}
    for split, count in zip(SPLITS, cases, strict=True):
        arrays[f"{split}_images"] = np.zeros((count, 1, 1), np.uint8)
        arrays[f"{split}_labels"] = np.zeros(count, np.uint8)
    path = folder / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("file", "cases", "asked", "message"),
    [
        # As the file is named and as its cases are counted, it is another set than is asked for.
        ("breastmnist", (546, 78, 156), "pneumoniamnist", "use medmnist:breastmnist"),
        ("mine", (546, 78, 156), "pneumoniamnist", "as many cases as breastmnist (train 546, val"),
        ("pneumoniamnist", (546, 78, 156), "", "pneumoniamnist has train 4708, val 524, test 624"),
        ("breastmnist_64", (7, 2, 3), "pneumoniamnist", "named after breastmnist: use medmnist:br"),
        ("breastmnist", (4708, 524, 624), "pneumoniamnist", "rename the file if it holds pneumo"),
    ],
)
def test_another_set_than_is_asked_for_is_refused(
    tmp_path: Path, file: str, cases: tuple[int, int, int], asked: str, message: str
) -> None:
    path = of_cases(tmp_path, file, cases)
    with pytest.raises(BadSource, match=re.escape(message)):
        KINDS["medmnist"].survey(path, {"name": asked} if asked else {})


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ((546, 78, 156), ""),
        (
            (300, 78, 156),
            (
                "mine.npz holds train 300, val 78, test 156 cases; breastmnist as published "
                "holds train 546, val 78, test 156. It is read as a subset."
            ),
        ),
    ],
)
def test_a_part_of_a_set_is_read_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cases: tuple[int, int, int], said: str
) -> None:
    path = of_cases(tmp_path, "mine", cases)
    assert KINDS["medmnist"].survey(path, {"name": "breastmnist"}).meta.name == "breastmnist"
    assert "\n".join(caplog.messages) == said


def test_a_label_outside_the_set_rejects_its_image_alone(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2, -1, 0.5, 1, 0])
    path = make(tmp_path, "breastmnist", column=False, changes={"train_labels": labels})
    store, report = prepare(path, tmp_path / "s")
    assert len(store) == sum(COUNTS.values()) - 3
    assert {bad.where: bad.reason for bad in report.rejected} == {
        "breastmnist/train/2": "label 2 is not one of the 2 classes",
        "breastmnist/train/3": "label -1 is not one of the 2 classes",
        "breastmnist/train/4": "label 0.5 is not a whole number",
    }


def make_chest(folder: Path, **changes: Any) -> tuple[Path, dict[str, np.ndarray]]:
    """Write a ChestMNIST of few images; return it and its answers (N, 14), a tenth of them yes."""
    answers = {
        split: (np.random.default_rng(count).random((count, 14)) < 0.1).astype(np.uint8)
        for split, count in COUNTS.items()
    }
    labels = {f"{split}_labels": rows for split, rows in answers.items()}
    return make(folder, "chestmnist", column=True, changes={**labels, **changes}), answers


@pytest.mark.parametrize("finding", [*INFO["chestmnist"].classes, "any"])
def test_one_finding_of_several_is_a_binary_question(tmp_path: Path, finding: str) -> None:
    path, answers = make_chest(tmp_path)
    store, report = prepare(path, tmp_path / "s", finding=finding)
    assert (report.n_cases, len(report.rejected)) == (sum(COUNTS.values()), 0)
    shown = "finding" if finding == "any" else finding
    assert store.meta.name == f"chestmnist-{finding}"
    assert store.meta.classes == (f"no {shown}", shown)
    assert store.meta.positive == 1
    asked = [name in (finding, shown) or finding == "any" for name in INFO["chestmnist"].classes]
    for seed, (split, count) in enumerate(COUNTS.items()):
        for number in range(count):
            index = index_of(store, split, number)
            wanted = some_images("chestmnist", count, seed)[number]
            np.testing.assert_array_equal(store.image(index)[0], wanted)
            assert store.labels[index] == any(answers[split][number][asked])


def test_stores_of_two_findings_are_told_apart(tmp_path: Path) -> None:
    path, answers = make_chest(tmp_path)
    stores = [prepare(path, tmp_path / f, finding=f)[0] for f in ("hernia", "any")]
    assert stores[0].content_hash != stores[1].content_hash
    assert stores[0].labels.sum() < stores[1].labels.sum() < len(stores[1])
    assert sum(rows[:, -1].sum() for rows in answers.values()) == stores[0].labels.sum()


def test_all_findings_are_as_many_answers(tmp_path: Path) -> None:
    path, answers = make_chest(tmp_path)
    store, report = prepare(path, tmp_path / "s", finding="all")
    assert (report.n_cases, len(report.rejected)) == (sum(COUNTS.values()), 0)
    assert (store.meta.task, store.meta.name) == ("multilabel", "chestmnist-all")
    assert store.meta.classes == INFO["chestmnist"].classes
    for split, count in COUNTS.items():
        for number in range(count):
            index = index_of(store, split, number)
            np.testing.assert_array_equal(store.numbers[index], answers[split][number])


@pytest.mark.parametrize("finding", ["", "pneumonia ", "cancer"])
def test_a_finding_is_one_of_those_of_the_set(tmp_path: Path, finding: str) -> None:
    path, _ = make_chest(tmp_path)
    given = {"finding": finding} if finding else {}
    fault = f"there is no finding '{finding}'" if finding else "each image of chestmnist has 14"
    with pytest.raises(
        BadSource, match=f"{fault}.*: atelectasis, cardiomegaly, .*hernia, any, all$"
    ):
        KINDS["medmnist"].survey(path, given)


def test_grades_of_retinamnist_alone(tmp_path: Path) -> None:
    path = make(tmp_path, "retinamnist", column=True)
    assert KINDS["medmnist"].survey(path, {}).meta.task == "classification"
    assert KINDS["medmnist"].survey(path, {"grades": "true"}).meta.task == "ordinal"
    path = make(tmp_path, "pneumoniamnist", column=True)
    with pytest.raises(BadSource, match="has no grades: option grades is for retinamnist"):
        KINDS["medmnist"].survey(path, {"grades": "true"})


def test_other_sets_have_no_finding(tmp_path: Path) -> None:
    path = make(tmp_path, "pneumoniamnist", column=True)
    with pytest.raises(BadSource, match="one label per image: option finding is for chestmnist"):
        KINDS["medmnist"].survey(path, {"finding": "pneumonia"})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 13), np.uint8), "is uint8 (2, 13), not 14 numbers per image, (N, 14)"),
        (np.zeros(2, np.uint8), "is uint8 (2,), not 14 numbers per image, (N, 14)"),
        (np.zeros((2, 14, 1), np.uint8), "is uint8 (2, 14, 1), not 14 numbers"),
        (np.zeros((3, 14), np.uint8), "has 2 val images but 3 labels"),
        (np.full((2, 14), 2, np.uint8), "val_labels holds 2; a finding is 0 or 1"),
        (np.full((2, 14), -1, np.int8), "val_labels holds -1; a finding is 0 or 1"),
        (np.full((2, 14), 0.5), "val_labels holds 0.5; a finding is 0 or 1"),
        (np.full((2, 14), np.nan), "val_labels holds NaN"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    path, _ = make_chest(tmp_path, val_labels=labels)
    with pytest.raises(BadSource, match=re.escape(message)):
        KINDS["medmnist"].survey(path, {"finding": "hernia"})


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, (str(self.path),))


def test_a_pickled_array_is_refused_unopened(tmp_path: Path) -> None:
    for part in ("train_labels", "test_images"):
        trap = np.array([Trap(tmp_path / "sprung")] * COUNTS[part.split("_")[0]], dtype=object)
        path = make(tmp_path, "breastmnist", column=False, changes={part: trap})
        with pytest.raises(BadSource, match=f"{part} holds object, not plain numbers"):
            KINDS["medmnist"].survey(path, {})
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None}, "has no train_labels"),
        ({"val_images": None}, "has no val_images"),
        ({f"{s}_{p}": None for s in SPLITS for p in ("images", "labels")}, "none of the parts"),
        ({"train_labels": np.zeros(6, np.uint8)}, "has 7 train images but 6 labels"),
        ({"train_labels": np.zeros((7, 2), np.uint8)}, "not one number per image"),
        ({"train_labels": np.full(7, np.nan)}, "train_labels holds NaN"),
        (
            {"val_images": np.zeros((2, 8, 8))},
            "val_images is float64 (2, 8, 8), not uint8 (N, Y, X)",
        ),
        ({"val_images": np.zeros((2, 8, 8, 3), np.uint8)}, "val_images is uint8 (2, 8, 8, 3)"),
        ({"val_images": np.zeros((2, 0, 8), np.uint8)}, "val_images is empty"),
        ({"val_images": np.zeros((2, 8, 8), np.uint8, order="F")}, "column by column"),
    ],
)
def test_a_file_that_is_none_of_the_set(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = make(tmp_path, "breastmnist", column=False, changes=changes)
    with pytest.raises(BadSource, match=re.escape(message)):
        KINDS["medmnist"].survey(path, {})


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 3000), flip=st.integers(0, 3000))
def test_a_broken_file_is_a_bad_source(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    path = make(folder, "breastmnist", column=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut] if cut < len(whole) else b"")
    with pytest.raises(BadSource, match=r"not a complete \.npz file|truncated|has no|none of"):
        prepare(path, folder / "cut")
    place = flip % len(whole)
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    try:
        store, _ = prepare(path, folder / "flipped")
    except BadSource:
        return
    # A byte that zip does not check, such as a date: then every image is as it was.
    index = index_of(store, "train", 3)
    np.testing.assert_array_equal(store.image(index)[0], some_images("breastmnist", 7)[3])


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path, "breastmnist", column=False)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)}
    )
    parts["train_images.npy"] = header.getvalue() + bytes(448)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(BadSource, match="train_images declares more than the file can hold"):
        KINDS["medmnist"].survey(path, {})


def test_breastmnist(shared_data: Path, tmp_path: Path) -> None:
    """The real set: 546, 78 and 156 images, of which 147, 21 and 42 are malignant."""
    source = shared_data / "breastmnist"
    store, report = prepare(source, tmp_path / "s")
    assert (len(store), report.rejected) == (780, ())
    assert store.image_type == np.uint8
    positive = store.meta.positive
    assert positive is not None
    assert store.meta.classes[positive] == "malignant"
    splits = np.array(store.splits)
    malignant = {split: int((store.labels[splits == split] == positive).sum()) for split in SPLITS}
    assert malignant == {"train": 147, "val": 21, "test": 42}
    with np.load(source / "breastmnist.npz", allow_pickle=False) as raw:
        for split in SPLITS:
            for number, image in enumerate(raw[f"{split}_images"]):
                index = index_of(store, split, number)
                np.testing.assert_array_equal(store.image(index)[0], image)
                assert store.labels[index] == raw[f"{split}_labels"][number]
    # One image, compared here byte by byte, is malignant in the training part and not in the test.
    with np.load(source / "breastmnist.npz", allow_pickle=False) as raw:
        twins = raw["train_images"][115], raw["test_images"][700 - 546 - 78]
        assert np.array_equal(*twins)
        labels = raw["train_labels"][115], raw["test_labels"][700 - 546 - 78]
    assert np.ravel(labels).tolist() == [0, 1]
    keys = ("train", 115), ("test", 76)
    rows = [index_of(store, *key) for key in keys]
    assert len({store.groups[row] for row in rows}) == 1
    assert len(set(store.groups)) == 779
    assert "several answers" in report.warnings[0]
    for row in rows:
        assert store.case_ids[row] in report.warnings[0]
    fewer, report = prepare(source, tmp_path / "fewer", conflicts="reject")
    assert len(fewer) == 778
    assert {bad.where for bad in report.rejected} == {
        "breastmnist/train/115",
        "breastmnist/test/76",
    }
    assert all("has another answer in case " in bad.reason for bad in report.rejected)
    # Frames of one lesion abound in BUSI (PMC10293973); they are told in one sentence.
    assert sum("may be lossy copies" in warning for warning in report.warnings) == 1
