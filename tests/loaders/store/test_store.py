"""The store: what it keeps of each case, what never reaches it, and what survives a broken run."""

import errno
import hmac
import json
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from threadpoolctl import threadpool_info, threadpool_limits

import loaders.formats.npy
import loaders.store.finalize
import loaders.store.item_writer
import loaders.store.read
from loaders.batches.table import LOADERS
from loaders.cases import BadCase, BadSource, Case, Item, Kind, Meta, Survey
from loaders.cases import settings as kind_settings
from loaders.datasets.table import KINDS
from loaders.formats.checksum import file_hash
from loaders.formats.npy import ArrayFile
from loaders.store.layout import FORMAT, StoreError
from loaders.store.pseudonyms import keyed_id, user_key
from loaders.store.read import Store, open_store, verify_store
from loaders.store.statistics import BINS, measure
from loaders.store.write import Report, write_store
from tests.metas import made_meta

KEY = b"a secret"
CLASSES = ("background", "core", "rim")
QUICK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def a_meta(**changes: Any) -> Meta:
    base = made_meta(
        kind="fake",
        name="fake set",
        task="segmentation",
        dims=3,
        channels=("t1",),
        classes=CLASSES,
        regions={"all": (1, 2), "core": (1,)},
        normalize="case",
        unit="volume",
        group_source="patient",
        source="none",
    )
    return replace(base, **changes)


FLAT = {
    "task": "classification",
    "dims": 2,
    "classes": ("healthy", "ill"),
    "regions": {},
    "positive": 1,
    "normalize": "train",
    "unit": "image",
}


def give(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
    """Read nothing: the cases are in the item; an item that is itself bad raises."""
    for case in item.extra["cases"]:
        if case == "broken":
            raise BadCase("all of it is broken", where=item.key)
        yield case


def a_kind(**changes: Any) -> Kind:
    def survey(source: Path, options: Mapping[str, Any]) -> Survey:
        raise NotImplementedError

    base = Kind(name="fake", summary="", source="", survey=survey, read=give, options={})
    return replace(base, **changes)


def a_volume(number: int, *, patient: str = "", dtype: str = "int16", side: int = 5) -> Case:
    generator = np.random.default_rng(number)
    image = generator.integers(0, 200, (1, side, side + 1, side + 2)).astype(dtype)
    mask = generator.integers(0, 3, image.shape[1:]).astype(np.uint8)
    name = f"Mustermann-{number}"
    return Case(
        key=name,
        group=patient or name,
        image=image,
        label=None,
        mask=mask,
        spacing=(3.0, 1.0, 0.5),
        split="train",
    )


def a_picture(number: int, *, shape: tuple[int, ...] = (1, 4, 6), dtype: str = "uint8") -> Case:
    image = np.random.default_rng(number).integers(0, 200, shape).astype(dtype)
    name = f"Mustermann-{number}"
    return Case(
        key=name,
        group=name,
        image=image,
        label=number % 2,
        mask=None,
        spacing=(np.nan, np.nan),
    )


def a_survey(
    meta: Meta, *items: Sequence[Case | BadCase | str], rejected: Sequence[BadCase] = ()
) -> Survey:
    return Survey(
        meta=meta,
        items=tuple(
            Item(key=f"item {number}", paths=(), extra={"cases": list(cases)})
            for number, cases in enumerate(items)
        ),
        rejected=tuple(rejected),
    )


def write(survey: Survey, out: Path, *, key: bytes = KEY, **more: Any) -> Report:
    return write_store(a_kind(), survey, out, key=key, **{"workers": 1, "strict": False, **more})


def same_case(store: Store, index: int, case: Case) -> None:
    np.testing.assert_array_equal(store.image(index), case.image)
    if case.mask is not None:
        np.testing.assert_array_equal(store.mask(index), case.mask)
    assert store.case_ids[index] == keyed_id(KEY, "fake", case.key)
    assert store.groups[index] == keyed_id(KEY, "fake", case.group)
    assert store.splits[index] == case.split
    np.testing.assert_array_equal(store.spacing[index], case.spacing)
    np.testing.assert_array_equal(store.shapes[index], case.image.shape[1:])


def at(store: Store, case: Case) -> int:
    return store.case_ids.index(keyed_id(KEY, "fake", case.key))


def run_script(path: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(path), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# What is kept


def test_a_store_gives_back_every_volume(tmp_path: Path) -> None:
    cases = [a_volume(number, patient=f"patient {number // 2}") for number in range(6)]
    report = write(a_survey(a_meta(), cases[:1], cases[1:4], cases[4:]), tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert report == Report(n_cases=6, rejected=(), reused=False, resumed=0)
    assert len(store) == 6
    assert store.meta == a_meta()
    assert len(set(store.groups)) == 3
    assert set(store.labels) == {-1}
    for case in cases:
        same_case(store, at(store, case), case)
        file, row = store.image_file(at(store, case))
        assert row is None
        np.testing.assert_array_equal(np.load(file, allow_pickle=False), case.image)
        assert not store.image(at(store, case)).flags.writeable
        assert isinstance(store.mask(at(store, case)), np.memmap)
    assert verify_store(tmp_path / "s") == []
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "arrays",
        "cases.parquet",
        "checked",
        "near_copies.parquet",
        "rejected.parquet",
        "store.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_boxes_counts_and_moments_are_those_of_the_arrays(tmp_path: Path) -> None:
    cases = [a_volume(number) for number in range(3)]
    cases.append(replace(a_volume(7), mask=np.zeros((5, 6, 7), np.uint8)))
    write(a_survey(a_meta(), cases), tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert store.boxes.shape == (4, 2, 2, 3)
    for index in range(4):
        image, mask = store.image(index), store.mask(index)
        for region, labels in enumerate(store.meta.regions.values()):
            inside = np.argwhere(np.isin(mask, labels))
            wanted = (
                np.stack([inside.min(0), inside.max(0) + 1]) if len(inside) else np.full((2, 3), -1)
            )
            np.testing.assert_array_equal(store.boxes[index, region], wanted)
        np.testing.assert_array_equal(
            store.class_counts[index], [(mask == label).sum() for label in range(3)]
        )
        brain = image[image != 0].astype(np.float64)
        count, total, squares = (column[index, 0] for column in store.moments)
        assert (count, total, squares) == (brain.size, brain.sum(), (brain**2).sum())
        low, high = (column[index, 0] for column in store.extremes)
        assert (low, high) == (brain.min(), brain.max())
        np.testing.assert_array_equal(
            store.histograms[index, 0], np.histogram(brain, BINS, (low, high))[0]
        )


@pytest.mark.parametrize(("most", "packs"), [(4, [1, 2, 4, 4]), (3, [3, 4, 4])])
def test_equal_pictures_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, packs: list[int]
) -> None:
    """By item where those are few files, else all of them anew."""
    monkeypatch.setattr(loaders.store.finalize, "_MOST_FILES", most)
    for module in (loaders.store.item_writer, loaders.store.finalize):
        monkeypatch.setattr(module, "PACK_CASES", 4)
    cases = [a_picture(number) for number in range(11)]
    write(a_survey(a_meta(**FLAT), cases[:6], cases[6:]), tmp_path / "s")
    store = open_store(tmp_path / "s")
    files = sorted((tmp_path / "s" / "arrays").iterdir())
    assert [file.name for file in files] == [f"images_{n:05d}.npy" for n in range(len(packs))]
    assert sorted(np.load(file).shape for file in files) == [(count, 1, 4, 6) for count in packs]
    for case in cases:
        same_case(store, at(store, case), case)
        assert store.labels[at(store, case)] == case.label
        file, row = store.image_file(at(store, case))
        np.testing.assert_array_equal(np.load(file)[row], case.image)
    np.testing.assert_array_equal(store.class_counts, np.eye(2, dtype=int)[store.labels])
    # "train": the zeros of a picture count.
    assert (store.moments[0] == 24).all()
    assert store.boxes.shape == (11, 0, 2, 2)
    with pytest.raises(StoreError, match="classification set has no mask"):
        store.mask(0)
    assert verify_store(tmp_path / "s") == []


def test_segmented_pictures_are_packed_with_their_masks(tmp_path: Path) -> None:
    cases = []
    for number in range(3):
        mask = np.full((4, 6), number, np.uint8)
        cases.append(replace(a_picture(number), label=None, mask=mask))
    meta = a_meta(dims=2)
    write(a_survey(meta, cases), tmp_path / "s")
    store = open_store(tmp_path / "s")
    for case in cases:
        same_case(store, at(store, case), case)
        file, row = store.mask_file(at(store, case))
        assert file.name == "masks_00000.npy"
        assert row == store.image_file(at(store, case))[1]


def test_pictures_of_several_shapes_lie_apart(tmp_path: Path) -> None:
    cases = [a_picture(number, shape=(1, 4 + number // 2, 6)) for number in range(5)]
    write(a_survey(a_meta(**FLAT), cases), tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert len(list((tmp_path / "s" / "arrays").iterdir())) == 5
    for case in cases:
        same_case(store, at(store, case), case)
        assert store.image_file(at(store, case))[1] is None


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([np.array([0.0, 255.0])], "uint8"),
        ([np.array([0, 255], "uint8"), np.array([-1.0, 300.0], "float32")], "int16"),
        ([np.array([0, 40000], "int64")], "uint16"),
        # No 16-bit type holds both.
        ([np.array([0, 40000]), np.array([-1, 5])], "float32"),
        ([np.array([0.5, 1.0], "float64")], "float32"),
        ([np.array([0, 3], ">i4")], "uint8"),
    ],
)
def test_images_take_the_smallest_type_that_loses_nothing(
    tmp_path: Path, values: list[Any], stored: str
) -> None:
    cases = [
        replace(a_picture(number), image=np.resize(array, (1, 4, 6)))
        for number, array in enumerate(values)
    ]
    write(a_survey(a_meta(**FLAT), cases), tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert store.image_type == stored
    for case in cases:
        image = store.image(at(store, case))
        assert image.dtype == stored
        np.testing.assert_array_equal(image, case.image)


def test_volumes_of_two_types_are_stored_in_one(tmp_path: Path) -> None:
    """DALI refuses a batch of two types."""
    cases = [a_volume(0), replace(a_volume(1), image=a_volume(1).image - 300)]
    write(a_survey(a_meta(), cases), tmp_path / "s")
    store = open_store(tmp_path / "s")
    for case in cases:
        same_case(store, at(store, case), case)
        assert np.load(store.image_file(at(store, case))[0]).dtype == np.int16
    assert verify_store(tmp_path / "s") == []


@QUICK
@given(
    image=hnp.arrays(
        st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]),
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6).map(lambda s: (1, *s)),
        elements={"min_value": 0, "max_value": 255},
    ),
    normalize=st.sampled_from(["case", "train"]),
    turned=st.tuples(*[st.sampled_from([1, -1])] * 3),
)
def test_measures_agree_with_numpy(image: Any, normalize: str, turned: tuple[int, ...]) -> None:
    # An axis that a reader turned lies backwards in memory.
    image = image[:, *(slice(None, None, step) for step in turned)]
    mask = np.zeros(image.shape[1:], np.uint8)
    case = Case(key="k", group="k", image=image, label=None, mask=mask, spacing=(1.0, 1.0, 1.0))
    facts = measure(case, a_meta(normalize=normalize))
    # What is stored is measured: float32 has no 1e-308.
    stored = image[0].astype(np.float32).astype(np.float64).ravel()
    stored = stored[stored != 0] if normalize == "case" else stored
    assert facts.count[0] == stored.size == facts.histogram.sum()
    np.testing.assert_allclose(facts.total[0], stored.sum(), rtol=1e-12)
    np.testing.assert_allclose(facts.squares[0], (stored**2).sum(), rtol=1e-12)
    if stored.size:
        assert (facts.low[0], facts.high[0]) == (stored.min(), stored.max())
    else:
        assert np.isnan([facts.low[0], facts.high[0]]).all()
    np.testing.assert_array_equal(facts.image, image.astype(np.float32))


@pytest.mark.parametrize("normalize", ["case", "train"])
def test_channels_of_8_bits_are_measured_each_by_itself(normalize: str) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (6, 4, 5, 6), dtype=np.uint8)
    image[1], image[2], image[3] = 0, 9, random.integers(250, 256, (4, 5, 6))
    image[4] //= 100
    case = Case(
        key="k",
        group="k",
        image=image[..., ::-1],
        label=None,
        mask=np.zeros(image.shape[1:], np.uint8),
        spacing=(1.0, 1.0, 1.0),
    )
    meta = a_meta(normalize=normalize, channels=tuple("abcdef"))
    facts = measure(case, meta)
    assert not facts.constant
    assert measure(replace(case, image=np.full_like(image, 3)), meta).constant
    for channel, every in enumerate(image.reshape(6, -1).astype(np.float64)):
        values = every[every != 0] if normalize == "case" else every
        found = [of[channel] for of in (facts.count, facts.total, facts.squares)]
        assert found == [values.size, values.sum(), (values**2).sum()]
        histogram = facts.histogram[channel]
        if not values.size:
            assert not histogram.any()
            continue
        low, high = values.min(), values.max()
        assert (facts.low[channel], facts.high[channel]) == (low, high)
        if low == high:
            assert histogram.tolist() == [values.size, *[0] * (BINS - 1)]
        else:
            np.testing.assert_array_equal(histogram, np.histogram(values, BINS, (low, high))[0])


# Threads


def threads(_item: Item, meta: Meta) -> Iterator[BadCase]:
    held = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    yield BadCase(f"threads {sorted(held)}", where="")


@pytest.mark.parametrize("workers", [1, 2])
def test_products_have_one_thread_while_a_store_is_made(tmp_path: Path, workers: int) -> None:
    """Also where the machine has more: they are small, and wait for each other."""
    survey = a_survey(a_meta(), [a_volume(number) for number in range(2)])
    kind = Kind(name="k", summary="", source="", survey=lambda *_: survey, read=threads, options={})
    with threadpool_limits(limits=2, user_api="blas"):
        before = threadpool_info()
        with pytest.raises(BadSource, match=r"threads \[1\]"):
            write_store(kind, survey, tmp_path / "s", key=b"k", workers=workers, strict=False)
        assert threadpool_info() == before


# Hashes and ids


def shuffled(number: int) -> list[list[Case]]:
    cases = [a_volume(index, patient=f"patient {index // 2}") for index in range(5)]
    order = np.random.default_rng(number).permutation(5)
    cut = number % 5
    parts = [[cases[index] for index in order[:cut]], [cases[index] for index in order[cut:]]]
    return [part for part in parts if part]


@settings(QUICK, max_examples=8)
@given(number=st.integers(0, 1000), key=st.binary(min_size=1, max_size=40))
def test_content_hash_knows_neither_key_nor_order(
    tmp_path_factory: pytest.TempPathFactory, number: int, key: bytes
) -> None:
    folder = tmp_path_factory.mktemp("hash")
    write(a_survey(a_meta(), *shuffled(0)), folder / "a")
    write(a_survey(a_meta(), *shuffled(number)), folder / "b", key=key)
    a, b = open_store(folder / "a"), open_store(folder / "b")
    assert a.content_hash == b.content_hash
    assert a.hashes == b.hashes
    for index in range(5):
        np.testing.assert_array_equal(a.image(index), b.image(index))
    if key != KEY:
        assert not set(a.case_ids + a.groups) & set(b.case_ids + b.groups)


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.zeros((1, 5, 6, 7), np.int16)},
        {"mask": np.zeros((5, 6, 7), np.uint8)},
        {"spacing": (3.0, 1.0, 0.6)},
        {"group": "another patient"},
    ],
)
def test_content_hash_sees_what_a_case_holds(tmp_path: Path, change: dict[str, Any]) -> None:
    cases = [a_volume(number, patient="one") for number in range(3)]
    write(a_survey(a_meta(), cases), tmp_path / "a")
    write(a_survey(a_meta(), [*cases[:2], replace(cases[2], **change)]), tmp_path / "b")
    assert open_store(tmp_path / "a").content_hash != open_store(tmp_path / "b").content_hash


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"regions": {"core": (1,)}}, True),
        ({"normalize": "train"}, True),
        ({"fill": -1000.0}, True),
        ({"source": "elsewhere", "licence": "CC0", "name": "x", "kind": "y"}, False),
    ],
)
def test_content_hash_covers_the_settings_that_decide_results(
    tmp_path: Path, change: dict[str, Any], counts: bool
) -> None:
    write(a_survey(a_meta(), [a_volume(0), a_volume(1)]), tmp_path / "a")
    write(a_survey(a_meta(**change), [a_volume(0), a_volume(1)]), tmp_path / "b")
    a, b = open_store(tmp_path / "a"), open_store(tmp_path / "b")
    assert (a.content_hash != b.content_hash) is counts


def everything_written(folder: Path) -> str:
    text = []
    for path in sorted(folder.rglob("*")):
        text.append(str(path.relative_to(folder)))
        if path.suffix == ".parquet":
            text.append(str(pq.read_table(path).to_pylist()))
        elif path.is_file() and path.name != "checked":  # which has the dates of the files
            text.append(path.read_bytes().decode("latin-1"))
    return "\n".join(text)


def test_no_name_reaches_a_stored_file(tmp_path: Path) -> None:
    cases: list[Case | BadCase | str] = [
        a_volume(0, patient="Erika Mustermann"),
        BadCase("is too dark", where="Mustermann/scan.nii", key="Mustermann-9"),
        replace(a_volume(1), image=np.full((1, 5, 6, 7), np.nan)),
    ]
    bad = BadCase("the image has no label", where="Mustermann/other.nii")
    survey = a_survey(a_meta(), cases, [a_volume(2), "broken"], rejected=[bad])
    report = write(survey, tmp_path / "s")
    assert report.n_cases == 1
    written = everything_written(tmp_path / "s")
    assert "Mustermann" not in written
    assert "item 1" not in written
    assert str(tmp_path) not in written
    # The search would have found them.
    assert "is too dark" in written
    assert keyed_id(KEY, "fake", "Erika Mustermann") in written


def test_the_files_of_a_case_are_known_by_a_keyed_hash(tmp_path: Path) -> None:
    """The same files give the same hash under one key, and say nothing without it."""
    cases = [a_volume(number) for number in range(4)]
    # One of the two files of its item.
    cases[2] = replace(cases[2], files=(tmp_path / "2",))
    survey = a_survey(a_meta(), *([case] for case in cases))
    contents = (b"one", b"two", b"one", b"")
    items = []
    for number, (item, content) in enumerate(zip(survey.items, contents, strict=True)):
        path = tmp_path / str(number)
        path.write_bytes(content)
        paths = {0: (path,), 1: (path,), 2: (tmp_path / "1", path), 3: ()}[number]
        items.append(replace(item, paths=paths))
    found = {}
    for key in (KEY, b"another"):
        out = tmp_path / key.decode()
        write(replace(survey, items=tuple(items)), out, key=key)
        store = open_store(out)
        hashes = dict(zip(store.case_ids, store.table["source_hash"].to_pylist(), strict=True))
        found[key] = [hashes[keyed_id(key, "fake", case.key)] for case in cases]
    one, two, again, none = found[KEY]
    assert one == again == hmac.digest(KEY, blake3(b"one").hexdigest().encode(), "sha256").hex()
    assert two not in (one, None)
    assert none is None
    assert not {one, two} & set(found[b"another"])


def test_the_order_of_rows_does_not_tell_the_order_of_names(tmp_path: Path) -> None:
    cases = [a_volume(number) for number in range(20)]
    write(a_survey(a_meta(), *([case] for case in cases)), tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert store.hashes == sorted(store.hashes)
    assert [at(store, case) for case in cases] != list(range(20))


def test_ids_are_hmac_sha256() -> None:
    # RFC 4231, test case 2: key "Jefe", data "what do ya want for nothing?".
    from loaders.store.pseudonyms import hmac

    known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert hmac.digest(b"Jefe", b"what do ya want for nothing?", "sha256").hex() == known
    assert keyed_id(b"Jefe", "a", "b") == hmac.digest(b"Jefe", b"a\0b", "sha256").hex()[:16]
    assert keyed_id(b"Jefe", "ab", "c") != keyed_id(b"Jefe", "a", "bc")


def test_the_users_key_is_made_once_and_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDOPT_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    first = user_key()
    assert user_key() == first
    assert len(first) == 64
    (file,) = (tmp_path / ".config" / "medoptbench").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setenv("MEDOPT_KEY", "mine")
    assert user_key() == b"mine"
    monkeypatch.setenv("MEDOPT_KEY", " ")
    with pytest.raises(BadSource, match="MEDOPT_KEY is empty"):
        user_key()


def test_a_key_in_any_encoding_is_a_key_and_an_empty_file_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for raw in ("Schlüssel".encode(), "Schlüssel".encode("latin-1")):
        monkeypatch.setenv("MEDOPT_KEY", os.fsdecode(raw))
        assert user_key() == raw
    monkeypatch.delenv("MEDOPT_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".config" / "medoptbench" / "key"
    file.parent.mkdir(parents=True)
    file.write_bytes("Schlüssel\n".encode("latin-1"))
    assert user_key() == "Schlüssel".encode("latin-1")
    file.write_bytes(b" \n")
    with pytest.raises(BadSource, match=r"the key file .* is empty"):
        user_key()
    file.unlink()
    file.mkdir()
    with pytest.raises(BadSource, match=r"the key file .* cannot be read or made"):
        user_key()


# What is rejected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask": None}, "the image has no label"),
        (
            {"mask": np.zeros((5, 6, 8), np.uint8)},
            "the label is 5 x 6 x 8, but the image 5 x 6 x 7",
        ),
        ({"mask": np.full((5, 6, 7), 3, np.uint8)}, "label 3 is not one of the 3 classes"),
        ({"image": np.zeros((1, 5, 0, 7))}, "the image is empty: its shape is 5 x 0 x 7"),
        ({"image": np.zeros((2, 5, 6, 7))}, "the image has 2 channels, not 1"),
        ({"image": np.zeros((1, 6, 7))}, "the image has 2 spatial axes, not 3"),
        ({"image": np.full((1, 5, 6, 7), np.inf)}, "the image holds NaN or infinity"),
        ({"image": np.full((1, 5, 6, 7), 1e300)}, "the image's values exceed float32"),
        ({"image": np.zeros((1, 5, 6, 7), complex)}, "not a real number"),
    ],
)
def test_a_bad_volume_is_written_down_and_the_rest_goes_on(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    bad = replace(a_volume(1), **change)
    survey = a_survey(a_meta(), [a_volume(0), bad, a_volume(2)])
    report = write(survey, tmp_path / "s")
    assert report.n_cases == 2
    assert reason in report.rejected[0].reason
    assert report.rejected[0].where == bad.key
    rows = pq.read_table(tmp_path / "s" / "rejected.parquet").to_pylist()
    assert rows == [
        {"case_id": keyed_id(KEY, "fake", bad.key), "reason": report.rejected[0].reason}
    ]
    with pytest.raises(BadCase, match=report.rejected[0].reason):
        write(survey, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_an_image_needs_a_label_of_the_set(tmp_path: Path) -> None:
    cases = [a_picture(0), replace(a_picture(1), label=None), replace(a_picture(2), label=2)]
    report = write(a_survey(a_meta(**FLAT), cases), tmp_path / "s")
    assert [bad.reason for bad in report.rejected] == [
        "the image has no label",
        "label 2 is not one of the 2 classes",
    ]


def test_an_item_that_raises_gives_no_case(tmp_path: Path) -> None:
    survey = a_survey(a_meta(), [a_volume(0), "broken"], [a_volume(1)])
    report = write(survey, tmp_path / "s")
    assert (report.n_cases, len(report.rejected)) == (1, 1)


def test_strict_raises_what_the_survey_rejected(tmp_path: Path) -> None:
    bad = BadCase("the image has no label", where="x")
    with pytest.raises(BadCase) as raised:
        write(a_survey(a_meta(), [a_volume(0)], rejected=[bad]), tmp_path / "s", strict=True)
    assert raised.value.where == "x"


def test_a_source_without_a_usable_case_leaves_nothing(tmp_path: Path) -> None:
    bad = BadCase("the image has no label", where="scan 7")
    with pytest.raises(BadSource, match=r"2 rejected, the first, scan 7: the image has no label"):
        write(a_survey(a_meta(), ["broken"], rejected=[bad]), tmp_path / "s")
    with pytest.raises(BadSource, match="holds no case"):
        write(a_survey(a_meta()), tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    twins = [a_volume(0), replace(a_volume(1), key=a_volume(0).key)]
    with pytest.raises(BadSource, match="two cases of the source have the same identifier"):
        write(a_survey(a_meta(), twins), tmp_path / "s")
    survey = a_survey(a_meta(), [a_volume(0)])
    with pytest.raises(BadSource, match="two items of the source have the same identifier"):
        write(replace(survey, items=survey.items * 2), tmp_path / "t")


# Once more, and after a fall


def test_a_finished_store_is_used_again(tmp_path: Path) -> None:
    survey = a_survey(a_meta(), [a_volume(0), "broken"], [a_volume(1)])
    write(survey, tmp_path / "s")
    before = (tmp_path / "s" / "store.json").stat()
    report = write(survey, tmp_path / "s")
    assert (report.reused, report.n_cases) == (True, 1)
    assert [bad.reason for bad in report.rejected] == ["all of it is broken"]
    assert (tmp_path / "s" / "store.json").stat() == before


def test_a_store_of_something_else_is_left_alone(tmp_path: Path) -> None:
    write(a_survey(a_meta(), [a_volume(0)]), tmp_path / "s")
    before = everything_written(tmp_path / "s")
    other = a_meta(fill=1.0, options={"patch": 32})
    with pytest.raises(StoreError, match=r"other settings \(fill, options\): remove it or choose"):
        write(a_survey(other, [a_volume(0)]), tmp_path / "s")
    with pytest.raises(StoreError, match="was made from other files"):
        write(a_survey(a_meta(), [a_volume(0)], [a_volume(1)]), tmp_path / "s")
    with pytest.raises(StoreError, match="was made from another key"):
        write(a_survey(a_meta(), [a_volume(0)]), tmp_path / "s", key=b"else")
    assert everything_written(tmp_path / "s") == before
    (tmp_path / "notes").mkdir()
    with pytest.raises(StoreError) as told:
        write(a_survey(a_meta(), [a_volume(0)]), tmp_path / "notes")
    assert str(told.value) == f"{tmp_path / 'notes'} is not a store: there is no store.json"


@pytest.mark.parametrize("other", [{"kind": "other"}, {"classes": ("background", "x", "y")}])
def test_a_store_of_another_data_set_is_said_to_be_one(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    write(a_survey(a_meta(), [a_volume(0)]), tmp_path / "s")
    meta = replace(a_meta(), **other)
    held = f"holds another data set ({a_meta().name}, of kind {a_meta().kind}): remove it or"
    with pytest.raises(StoreError, match=re.escape(held)):
        write(a_survey(meta, [a_volume(0)]), tmp_path / "s")


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let every file that is put on the disk after the first few meet a full one."""
    left = [after]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("after", [0, 1, 7, 12, 16, 19, 21])
def test_a_full_disk_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    items = [[a_volume(number)] for number in range(4)]
    survey = a_survey(a_meta(), *items)
    with monkeypatch.context() as patched:
        full_disk(patched, after)
        with pytest.raises(OSError, match="No space left") as raised:
            write(survey, tmp_path / "s")
    assert raised.value.errno == errno.ENOSPC
    assert not (tmp_path / "s").exists()
    with pytest.raises(StoreError, match="is unfinished: run the same"):
        open_store(tmp_path / "s")
    report = write(survey, tmp_path / "s")
    # Four files an item are put on the disk (image, mask, rows, folder), then three tables,
    # the arrays' folder, the description, and the store's folder: from there on it is whole.
    assert (report.resumed, report.reused) == ((0, True) if after == 21 else (after // 4, False))
    write(survey, tmp_path / "clean")
    assert everything_written(tmp_path / "s") == everything_written(tmp_path / "clean")


def test_want_of_memory_ends_the_run_and_keeps_what_is_finished(tmp_path: Path) -> None:
    """The machine's fault, not the case's: nothing is rejected for it."""
    survey = a_survey(a_meta(), [a_volume(0)], [a_volume(1)])

    def hungry(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
        if item.key == "item 1":
            raise MemoryError
        yield from give(item, meta)

    kind = a_kind(read=hungry)
    with pytest.raises(OSError, match=r"does not fit into the memory .* fewer workers") as raised:
        write_store(kind, survey, tmp_path / "s", key=KEY, workers=1, strict=False)
    assert raised.value.errno == errno.ENOMEM
    assert write(survey, tmp_path / "s").resumed == 1
    assert len(open_store(tmp_path / "s")) == 2


def test_a_run_cut_off_before_the_last_rename_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = a_survey(a_meta(), [a_volume(0)])
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name.endswith(".building"):
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            write(survey, tmp_path / "s")
    report = write(survey, tmp_path / "s")
    assert report.n_cases == 1
    assert verify_store(tmp_path / "s") == []
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_resumed_run_reads_changed_items_again(tmp_path: Path) -> None:
    def survey(number: int, **changes: Any) -> Survey:
        return a_survey(a_meta(**changes), [a_volume(0)], [a_volume(number)])

    def stopped(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(survey(1), tmp_path / "s", progress=stopped)
    with pytest.raises(KeyboardInterrupt):
        write(survey(2), tmp_path / "s", progress=stopped)
    report = write(survey(2, fill=5.0), tmp_path / "s")
    assert report.resumed == 0
    write(survey(2, fill=5.0), tmp_path / "clean")
    assert everything_written(tmp_path / "s") == everything_written(tmp_path / "clean")


def test_a_resumed_run_names_the_rejected_cases_again(tmp_path: Path) -> None:
    survey = a_survey(a_meta(), [a_volume(0), replace(a_volume(1), mask=None)], [a_volume(2)])

    def stopped(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(survey, tmp_path / "s", progress=stopped)
    report = write(survey, tmp_path / "s")
    assert (report.n_cases, report.resumed) == (2, 1)
    assert [bad.where for bad in report.rejected] == [a_volume(1).key]
    assert len(pq.read_table(tmp_path / "s" / "rejected.parquet")) == 1


def test_progress_is_told_of_every_item(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    survey = a_survey(a_meta(), [a_volume(0)], ["broken"], [a_volume(1)])
    write(survey, tmp_path / "s", progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


# Many processes. What they run must be importable in a new one, so it is written to a file.

READER = """
    import os
    import signal
    import time
    from dataclasses import replace

    import numpy as np

    from loaders.cases import BadCase, Case, Item, Kind, Meta, Survey

    META = Meta(kind="fake", name="fake", task="segmentation", dims=3, channels=("t1",),
        classes=("background", "core"), regions={"core": (1,)}, positive=None, normalize="case",
        fill=0.0, unit="volume", group_source="case", source="", licence="", options={})

    def read(item, meta):
        number = item.extra["number"]
        if item.extra.get("log"):
            with open(item.extra["log"], "a") as log:
                log.write(f"{number}\\n")
        if number == item.extra.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == item.extra.get("bad"):
            raise BadCase("is bad", where=item.key)
        image = np.random.default_rng(number).integers(1, 99, (1, 8, 8, 8)).astype(np.uint8)
        time.sleep(item.extra.get("sleep", 0.0))
        yield Case(key=item.key, group=item.key, image=image, label=None,
            mask=(image[0] > 50).astype(np.uint8), spacing=(1.0, 1.0, 1.0))

    def survey(count, **extra):
        extras = ({"number": number, **extra} for number in range(count))
        items = (Item(key=f"scan {each['number']}", paths=(), extra=each) for each in extras)
        return Survey(meta=META, items=tuple(items), rejected=())

    KIND = Kind(name="fake", summary="", source="", survey=None, read=read, options={})
"""

RUN = """
    import json
    import os
    import signal
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent))
    from fake_reader import KIND, survey
    from loaders.store.write import write_store

    if __name__ == "__main__":
        out, count, workers, kill_at, log = sys.argv[1:]

        def progress(done, total):
            if done == int(kill_at):
                os.kill(os.getpid(), signal.SIGKILL)

        report = write_store(KIND, survey(int(count), log=log, sleep=0.02), Path(out), key=b"k",
            workers=int(workers), strict=False, progress=progress)
        print(json.dumps([report.n_cases, report.reused, report.resumed]))
"""


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "fake_reader.py").write_text(textwrap.dedent(READER))
    (folder / "run.py").write_text(textwrap.dedent(RUN))
    # A new process gets this one's sys.path.
    monkeypatch.syspath_prepend(folder)
    import fake_reader  # type: ignore[import-not-found]  # written just now

    yield fake_reader
    del sys.modules["fake_reader"]


def test_one_process_and_two_make_the_same_store(tmp_path: Path, reader: Any) -> None:
    for workers in (1, 2):
        survey = reader.survey(6, bad=3)
        report = write_store(
            reader.KIND, survey, tmp_path / f"{workers}", key=KEY, workers=workers, strict=False
        )
        assert (report.n_cases, [bad.reason for bad in report.rejected]) == (5, ["is bad"])
    assert everything_written(tmp_path / "1") == everything_written(tmp_path / "2")


def test_a_killed_worker_is_an_error_that_says_so(tmp_path: Path, reader: Any) -> None:
    with pytest.raises(OSError, match="lack of memory: run again with fewer workers") as raised:
        write_store(
            reader.KIND,
            reader.survey(4, kill=2),
            tmp_path / "s",
            key=KEY,
            workers=2,
            strict=False,
        )
    assert raised.value.errno == errno.ENOMEM


def children_of(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_a_killed_run_is_taken_up_where_it_stopped(tmp_path: Path, reader: Any) -> None:
    script, log = tmp_path / "code" / "run.py", tmp_path / "log"
    killed = run_script(script, tmp_path / "s", 12, 2, 5, log)
    workers: set[int] = set()
    while killed.poll() is None:
        try:
            workers |= set(children_of(killed.pid))
        except OSError:
            break
        time.sleep(0.01)
    assert killed.wait() == -signal.SIGKILL
    killed.communicate()
    assert workers
    # Workers must not outlive it: the next run would find files changing under it.
    for _ in range(500):
        alive = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        if not [pid for pid in alive if "Z" not in Path(f"/proc/{pid}/stat").read_text()[:60]]:
            break
        time.sleep(0.01)
    else:
        pytest.fail(f"workers {alive} are still alive")
    finished = [
        path.name for path in (tmp_path / "s.building" / "items").iterdir() if "." not in path.name
    ]
    assert len(finished) >= 5
    read_before = log.read_text().split()
    again = run_script(script, tmp_path / "s", 12, 2, -1, log)
    output, errors = again.communicate()
    assert again.returncode == 0, errors
    assert json.loads(output) == [12, False, len(finished)]
    assert len(log.read_text().split()) - len(read_before) == 12 - len(finished)
    assert verify_store(tmp_path / "s") == []
    survey = reader.survey(12, log=str(log), sleep=0.02)
    write_store(reader.KIND, survey, tmp_path / "clean", key=b"k", workers=1, strict=False)
    assert everything_written(tmp_path / "s") == everything_written(tmp_path / "clean")


def test_two_runs_at_once_make_one_store(tmp_path: Path, reader: Any) -> None:
    log = tmp_path / "log"
    runs = [
        run_script(tmp_path / "code" / "run.py", tmp_path / "s", 8, 1, -1, log) for _ in range(2)
    ]
    outputs = []
    for run in runs:
        output, errors = run.communicate()
        assert run.returncode == 0, errors
        outputs.append(json.loads(output))
    assert sorted(outputs) == [[8, False, 0], [8, True, 0]]
    assert sorted(map(int, log.read_text().split())) == list(range(8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "log", "s"]


def test_a_really_full_disk(tmp_path: Path, reader: Any) -> None:
    """On a file system of 96 KiB in a mount namespace of its own, twelve volumes do not fit."""
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=96k none {tmp_path / 'disk'}"
    in_namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare here")
    if subprocess.run([*in_namespace, mount], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    store, script, log = tmp_path / "disk" / "s", tmp_path / "code" / "run.py", tmp_path / "log"
    command = f"{sys.executable} {script} {store} 12 1 -1 {log}"
    listing = f"ls {store}.building/items | wc -l"
    done = subprocess.run(
        [*in_namespace, f"{mount} && {command}; {listing}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "OSError: [Errno 28] No space left on device" in done.stderr
    assert int(done.stdout) > 0


# A store that is not what it was


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    write(a_survey(a_meta(), [a_volume(0), a_volume(1)]), tmp_path / "s")
    return tmp_path / "s"


def test_verify_finds_what_has_changed(store_path: Path) -> None:
    first, second, third, _ = sorted((store_path / "arrays").iterdir())
    raw = bytearray(first.read_bytes())
    raw[-1] ^= 1
    first.write_bytes(raw)
    second.unlink()
    third.write_bytes(third.read_bytes()[:-5])
    (store_path / "rejected.parquet").write_bytes(b"")
    assert verify_store(store_path) == [
        f"arrays/{first.name} has changed since it was written",
        f"arrays/{third.name} has changed since it was written",
        f"arrays/{second.name} is missing",
        "rejected.parquet has changed since it was written",
    ]
    store = Store(store_path)
    with pytest.raises(StoreError, match=r"mask.npy cannot be read .*: run `medopt verify`"):
        store.mask(0)
    with pytest.raises(StoreError, match=r"image.npy cannot be read"):
        store.image(1)


def rewrite_cases(path: Path, column: str, values: list[Any]) -> None:
    file = path / "cases.parquet"
    table = pq.read_table(file)
    at_ = table.schema.get_field_index(column)
    table = table.set_column(
        at_, table.schema.field(at_), pa.array(values, table.schema.types[at_])
    )
    pq.write_table(table, file)


def test_verify_finds_another_table(store_path: Path) -> None:
    rewrite_cases(store_path, "group_id", ["a", "a"])
    assert verify_store(store_path) == [
        "cases.parquet has changed since it was written",
        "the content hash in store.json is not that of cases.parquet",
    ]


def flip_a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: flip_a_bit(min((s / "arrays").iterdir())), "000000_image.npy has changed"),
        (lambda s: max((s / "arrays").iterdir()).unlink(), "000001_mask.npy is missing"),
        (lambda s: rewrite_cases(s, "label", [0, 1]), "cases.parquet has changed since"),
        (
            lambda s: rewrite_cases(s, "group_id", ["a", "a"]),
            "content hash in store.json is not that of",
        ),
        (lambda s: (s / "rejected.parquet").unlink(), "rejected.parquet is missing"),
        (
            lambda s: (s / "store.json").write_text(
                (s / "store.json").read_text().replace('"fill": 0.0', '"fill": 9.0')
            ),
            "content hash in store.json is not that of",
        ),
    ],
    ids=["array", "no array", "labels", "groups", "no table", "meta"],
)
def test_a_store_that_was_altered_is_not_opened(
    store_path: Path, change: Callable[[Path], object], message: str
) -> None:
    before = {p: p.read_bytes() for p in store_path.rglob("*") if p.is_file()}
    change(store_path)
    for _ in range(2):
        with pytest.raises(StoreError, match=message) as refused:
            open_store(store_path)
        assert "restore it, or remove the store and prepare it" in str(refused.value)
    for path, content in before.items():
        path.write_bytes(content)
    assert len(open_store(store_path)) == 2


def test_a_store_is_read_whole_once_where_it_was_copied(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store_path, tmp_path / "copy", copy_function=shutil.copyfile)
    hashed: list[Path] = []

    def noted(path: Path) -> str:
        hashed.append(path)
        return file_hash(path)

    monkeypatch.setattr(loaders.store.read, "file_hash", noted)
    open_store(store_path)
    assert hashed == []
    for _ in range(3):
        open_store(tmp_path / "copy")
    assert len(hashed) == len(set(hashed)) == 7
    # Where nothing can be remembered in the store, the process remembers.
    shutil.copytree(store_path, tmp_path / "read only", copy_function=shutil.copyfile)
    monkeypatch.setattr(os, "access", lambda *_: False)
    locked = open_store(tmp_path / "read only")
    locked.check()
    assert len(hashed) == len(set(hashed)) == 14
    flip_a_bit(min((tmp_path / "copy" / "arrays").iterdir()))
    with pytest.raises(StoreError, match="has changed"):
        open_store(tmp_path / "copy")


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/secret.npy", "arrays/../secret.npy"])
def test_a_store_reads_nothing_outside_itself(store_path: Path, name: str) -> None:
    np.save(store_path.parent / "secret.npy", np.zeros((1, 5, 6, 7)))
    rewrite_cases(store_path, "image_file", [name, name])
    with pytest.raises(StoreError, match="outside arrays/"):
        Store(store_path).image(0)


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, (str(self.path),))


def test_a_store_never_unpickles(store_path: Path, tmp_path: Path) -> None:
    store = open_store(store_path)
    file, _ = store.image_file(0)
    np.save(file, np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match="cannot be read"):
        store.image(0)
    # numpy's load would take a bare pickle, too.
    file.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(StoreError, match="cannot be read"):
        store.image(0)
    assert not (tmp_path / "sprung").exists()


def test_an_array_of_another_shape_or_type_is_refused(store_path: Path) -> None:
    store = open_store(store_path)
    file, _ = store.image_file(0)
    np.save(file, np.zeros((1, 5, 6, 8), store.image_type))
    with pytest.raises(StoreError, match=r"is uint8 \(1, 5, 6, 8\), but the table declares"):
        store.image(0)
    np.save(store.image_file(1)[0], np.zeros((1, 5, 6, 7), np.float64))
    with pytest.raises(StoreError, match="is float64"):
        store.image(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "store.json is damaged"),
        ("[]", "store.json is damaged"),
        ('{"format": 0}', f"has format 0; this version reads {FORMAT}. Make it again"),
        (f'{{"format": {FORMAT}}}', "store.json is damaged"),
    ],
)
def test_a_broken_description_is_named(store_path: Path, text: str, message: str) -> None:
    (store_path / "store.json").write_text(text)
    with pytest.raises(StoreError, match=message):
        open_store(store_path)
    assert message in verify_store(store_path)[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("task", "poetry"), ("regions", {}), ("positive", 7), ("dims", 4), ("classes", ["one"])],
)
def test_an_impossible_meta_is_refused(store_path: Path, field: str, value: Any) -> None:
    known = json.loads((store_path / "store.json").read_text())
    known["meta"][field] = value
    (store_path / "store.json").write_text(json.dumps(known))
    with pytest.raises(StoreError, match=r"store\.json is damaged"):
        open_store(store_path)


def test_a_broken_table_is_named(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_store(tmp_path / "nowhere")
    rewrite_cases(store_path, "count", [[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(StoreError, match=r"column count of cases\.parquet has 4 numbers"):
        _ = Store(store_path).moments
    pq.write_table(pa.table({"a": [1]}), store_path / "cases.parquet")
    with pytest.raises(StoreError, match="other columns"):
        open_store(store_path)
    (store_path / "cases.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"cases.parquet cannot be read"):
        open_store(store_path)


def test_a_store_travels_to_another_process(store_path: Path) -> None:
    store = open_store(store_path)
    store.image(0)
    twin = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(twin.image(1), store.image(1))
    assert len(pickle.dumps(store)) < 500


# Parts


@QUICK
@given(
    rows=st.integers(0, 300),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3),
    name=st.sampled_from(["uint8", "int16", "float32"]),
)
def test_a_growing_file_is_what_numpy_saves(
    tmp_path_factory: pytest.TempPathFactory, rows: int, shape: tuple[int, ...], name: str
) -> None:
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    arrays = [np.full(shape, row % 100, name) for row in range(rows)]
    with ArrayFile(path, np.dtype(name), shape, grow=True) as file:
        assert [file.append(array) for array in arrays] == list(range(rows))
    back = np.load(path, allow_pickle=False)
    assert back.dtype == name
    np.testing.assert_array_equal(back, np.array(arrays, name).reshape(rows, *shape))


def test_a_whole_file_takes_one_array(tmp_path: Path) -> None:
    with ArrayFile(tmp_path / "a.npy", np.dtype("uint8"), (2, 3), grow=False) as file:
        assert file.append(np.ones((2, 3), np.uint8)) is None
        with pytest.raises(ValueError, match="does not fit"):
            file.append(np.ones((2, 3), np.uint8))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.ones((2, 3)))


def test_a_bad_case_survives_the_way_to_another_process() -> None:
    bad = pickle.loads(pickle.dumps(BadCase("why", where="there", key="who")))
    assert (bad.reason, bad.where, bad.key, str(bad)) == ("why", "there", "who", "why")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a",)}, "there are 1 classes"),
        ({"classes": ("a", "a", "b")}, "share a name"),
        ({"regions": {}}, "segmentation needs regions"),
        ({"regions": {"x": (3,)}}, "region x"),
        ({"channels": ()}, "channels is empty"),
        ({"positive": 1}, "positive is 1 among 3 classes"),
    ],
)
def test_a_meta_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_meta(**change)


def test_options_take_the_type_of_their_default() -> None:
    options = {
        "size": (32, ""),
        "scale": (1.0, ""),
        "flip": (True, ""),
        "name": ("x", ""),
        "window": ([-1000, 400], ""),
    }
    given_ = {"size": "64", "scale": "0.5", "flip": "no", "name": "y", "window": "-900, 300"}
    chosen = kind_settings("fake", options, given_)
    assert chosen == {
        "size": 64,
        "scale": 0.5,
        "flip": False,
        "name": "y",
        "window": [-900, 300],
    }
    assert kind_settings("fake", options, {})["size"] == 32
    for name, value, message in (
        ("patch", "3", "no option 'patch'; its options are: size, scale, flip, name, window"),
        ("size", "many", "option size is 'many'; it must be of type int"),
        ("flip", "maybe", "it must be true or false"),
        ("name", 3, "it must be text"),
    ):
        with pytest.raises(BadSource, match=message):
            kind_settings("fake", options, {name: value})


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_has_its_row(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    assert kind.name == name
    assert kind.summary
    assert kind.source
    pickle.dumps(kind.read)
    for default, meaning in kind.options.values():
        assert meaning
        json.dumps(default)
    with pytest.raises(BadSource):
        kind.survey(tmp_path / "nowhere", {})
    near = next(iter(kind.options))
    with pytest.raises(BadSource, match=f"Did you mean {near!r}"):
        kind.survey(tmp_path, {f"{near}e": "x"})
    with pytest.raises(BadSource, match="no option 'colour'"):
        kind.survey(tmp_path, {"colour": "red"})


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys; from loaders.batches.table import LOADERS;"
        "from loaders.datasets.table import KINDS; list(KINDS), list(LOADERS);"
        "print([name for name in ('torch', 'nibabel', 'pydicom', 'nvidia.dali') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert LOADERS["torch"].available()
