"""Copies: the same image is on one side of every split, and what looks like a copy is told."""

import io
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from bench.study.dataset import split_store
from loaders.cases import BadCase, BadSource, Case, Item, Kind, Meta, Survey
from loaders.datasets.table import KINDS
from loaders.phantoms.make import make_brats, make_lidc
from loaders.store import prepare as store_prepare
from loaders.store.copies import Conflicts, merged_groups
from loaders.store.layout import FORMAT, StoreError, prepare_command
from loaders.store.perceptual_hash import FURTHEST, near_pairs, perceptual_hash
from loaders.store.pseudonyms import key_fingerprint, keyed_id
from loaders.store.read import Store, open_store, verify_store
from loaders.store.write import Report, write_store
from tests.metas import made_meta

KEY = b"a secret"


def a_meta(*, masked: bool = False, dims: Any = 2) -> Meta:
    return made_meta(
        kind="fake",
        name="fake set",
        task="segmentation" if masked else "classification",
        dims=dims,
        channels=("grey",),
        classes=("healthy", "ill"),
        regions={"ill": (1,)} if masked else {},
        positive=None if masked else 1,
        group_source="patient",
        source="none",
    )


def give(item: Item, _meta: Meta) -> Iterator[Case | BadCase]:
    yield from item.extra["cases"]


def _unsurveyed(_source: Path, _options: Mapping[str, Any]) -> Survey:
    raise NotImplementedError


FAKE = Kind(name="fake", summary="", source="", survey=_unsurveyed, read=give, options={})


def a_case(number: int, image: Any = None, **changes: Any) -> Case:
    """Return a smooth picture of 40 x 48 like no other, of a patient of its own."""
    if image is None:
        field = gaussian_filter(np.random.default_rng(number).normal(size=(40, 48)), 2)
        image = (128 + 40 * field / field.std()).clip(0, 255).astype(np.uint8)[None]
    made = Case(
        key=f"Mustermann {number}",
        group=f"Mustermann {number}",
        image=image,
        label=number % 2,
        mask=None,
        spacing=(1.0,) * (image.ndim - 1),
    )
    return replace(made, **changes)


def write(
    cases: Sequence[Case],
    out: Path,
    *,
    meta: Meta | None = None,
    strict: bool = False,
    conflicts: Conflicts = "keep",
) -> tuple[Store, Report]:
    items = (Item(key="all", paths=(), extra={"cases": list(cases)}),)
    survey = Survey(meta=meta or a_meta(), items=items, rejected=())
    report = write_store(FAKE, survey, out, key=KEY, workers=1, strict=strict, conflicts=conflicts)
    assert verify_store(out) == []
    return open_store(out), report


def at(store: Store, case: Case) -> int:
    return store.case_ids.index(keyed_id(KEY, "fake", case.key))


def parts_of(store: Store, cases: Sequence[Case]) -> list[set[str]]:
    """Return, for each of many splits, in which parts these cases are."""
    rows = {at(store, case) for case in cases}
    return [
        {part for part in ("train", "inner", "test") if rows & set(getattr(split, part))}
        for split in split_store(store, folds=4, repeats=3, seed=0, inner_fraction=0.25)
    ]


# ---- the same image ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"group": "another name"},
        {"label": 1},
        {"spacing": (0.5, 0.5)},
        {"dtype": np.float64},
        {"dtype": np.int32},
        {"order": "F"},
    ],
    ids=["name", "answer", "spacing", "float64", "int32", "order"],
)
def test_the_same_image_is_never_on_two_sides(tmp_path: Path, change: dict[str, Any]) -> None:
    """Whatever it is called, whatever answer it bears and however it came."""
    cases = [a_case(number) for number in range(24)]
    image = cases[0].image.astype(change.pop("dtype", np.uint8))
    image = np.asarray(image, order=change.pop("order", "C"))
    twin = replace(cases[0], **{"key": "twin", "group": "twin", "image": image, **change})
    store, _ = write([*cases, twin], tmp_path / "s")
    assert np.array_equal(store.image(at(store, twin)), store.image(at(store, cases[0])))
    assert all(len(found) == 1 for found in parts_of(store, [cases[0], twin]))
    assert len(set(store.groups)) == len(cases)
    assert len(set(store.source_groups)) == len(cases) + 1


def test_the_same_volume_with_two_masks_is_never_on_two_sides(tmp_path: Path) -> None:
    def volume(number: int) -> Case:
        image = np.random.default_rng(number).integers(0, 99, (1, 4, 5, 6)).astype(np.int16)
        mask = (image[0] > 50).astype(np.uint8)
        return a_case(number, image, label=None, mask=mask)

    cases = [volume(number) for number in range(24)]
    assert cases[0].mask is not None
    twin = replace(cases[0], key="twin", group="twin", mask=1 - cases[0].mask)
    meta = a_meta(masked=True, dims=3)
    store, report = write([*cases, twin], tmp_path / "s", meta=meta)
    assert all(len(found) == 1 for found in parts_of(store, [cases[0], twin]))
    assert "several answers" in report.warnings[0]
    store, report = write([*cases, twin], tmp_path / "fewer", meta=meta, conflicts="reject")
    assert (len(store), len(report.rejected)) == (23, 2)


def test_a_chain_of_shared_images_is_one_patient(tmp_path: Path) -> None:
    cases = [a_case(number) for number in range(24)]
    chain = [
        replace(a_case(100, cases[0].image), label=0),
        replace(a_case(101, cases[1].image), label=1, group="Mustermann 100"),
        replace(a_case(102, cases[2].image), label=0, group="Mustermann 100"),
    ]
    store, report = write([*cases, *chain], tmp_path / "s")
    assert all(len(found) == 1 for found in parts_of(store, [*cases[:3], *chain]))
    (joined, large) = report.warnings
    assert "25 groups became 22" in joined
    names = [keyed_id(KEY, "fake", f"Mustermann {number}") for number in (0, 1, 2, 100)]
    assert {store.groups[at(store, case)] for case in chain} == {min(names)}
    assert f"group {min(names)} has 6 of 27, 4 groups of the source that share images" in large
    assert list(store.warnings) == list(report.warnings)


def test_images_of_one_value_never_join(tmp_path: Path) -> None:
    """Nor are they copies of each other, nor contradictions."""
    flat = np.full((1, 40, 48), 7, np.uint8)
    cases = [a_case(number, None if number > 5 else flat) for number in range(24)]
    two_flat = replace(a_meta(), channels=("a", "b"))
    store, report = write(cases, tmp_path / "s")
    assert (len(store), len(set(store.groups)), report.warnings) == (24, 24, ())
    assert [store.image_ids[at(store, case)] for case in cases[:6]] == [None] * 6
    assert None not in [store.image_ids[at(store, case)] for case in cases[6:]]
    # Each channel of one value is as little to go by.
    pairs = [
        replace(case, image=np.concatenate([case.image, case.image * 0 + 3])) for case in cases
    ]
    store, report = write(pairs, tmp_path / "two", meta=two_flat)
    assert (len(store), len(set(store.groups)), report.warnings) == (24, 24, ())


def test_zeros_of_two_signs_are_one_value(tmp_path: Path) -> None:
    image = np.where(np.arange(1920).reshape(1, 40, 48) % 7, 0.25, 0.0)
    cases = [a_case(0, image, label=0), a_case(2, np.where(image == 0, -0.0, image), label=0)]
    store, _ = write(cases, tmp_path / "s")
    assert len(set(store.groups)) == 1


def test_merged_groups_are_the_connected_ones() -> None:
    groups = ["a", "a", "b", "c", "d", "e", "e"]
    found = merged_groups(groups, ["1", "2", "2", "3", None, None, "3"]).tolist()
    assert found[0] == found[1] == found[2]
    assert found[3] == found[5] == found[6]
    assert len(set(found)) == 3


# ---- two answers ------------------------------------------------------------------------------


def test_one_image_under_two_answers_is_rejected_by_choice(tmp_path: Path) -> None:
    cases = [a_case(number) for number in range(24)]
    twin = replace(cases[0], key="twin", group="twin", label=1)
    store, report = write([*cases, twin], tmp_path / "s", conflicts="reject")
    ids = {case.key: keyed_id(KEY, "fake", case.key) for case in (cases[0], twin)}
    assert len(store) == 23
    assert not set(ids.values()) & set(store.case_ids)
    # Nor is its image left in a pack.
    assert sum(len(np.load(file)) for file in (tmp_path / "s" / "arrays").iterdir()) == 23
    said = {bad.where: bad.reason for bad in report.rejected}
    assert said == {
        cases[0].key: f"the same image has another answer in case {ids['twin']}",
        "twin": f"the same image has another answer in case {ids[cases[0].key]}",
    }
    rows = pq.read_table(tmp_path / "s" / "rejected.parquet").to_pylist()
    assert rows == sorted(
        ({"case_id": ids[key], "reason": reason} for key, reason in said.items()),
        key=lambda row: row["case_id"],
    )
    _, report = write([*cases, twin], tmp_path / "s", conflicts="reject")
    assert (report.reused, len(report.rejected)) == (True, 2)
    with pytest.raises(BadCase, match="another answer"):
        write([*cases, twin], tmp_path / "strict", strict=True, conflicts="reject")
    with pytest.raises(BadSource, match="no case of the source is usable; 2 rejected"):
        write([cases[0], twin], tmp_path / "none", conflicts="reject")
    with pytest.raises(StoreError, match=r"other settings \(conflicts\)"):
        write([*cases, twin], tmp_path / "s")


def test_one_image_under_two_answers_is_told_by_its_pseudonyms(tmp_path: Path) -> None:
    cases = [a_case(number) for number in range(24)]
    twin = replace(cases[0], key="twin", group="twin", label=1)
    store, report = write([*cases, twin], tmp_path / "s")
    assert (len(store), report.rejected) == (25, ())
    for case in (cases[0], twin):
        assert keyed_id(KEY, "fake", case.key) in report.warnings[0]
    assert report.warnings[0].startswith("1 image has several answers")
    assert "All cases of such an image are kept, in one group" in report.warnings[0]
    # Twice under one answer is no contradiction.
    agreed = replace(twin, label=0)
    _, report = write([*cases, agreed], tmp_path / "agreed")
    assert report.rejected == ()
    assert not any("answers" in warning for warning in report.warnings)


# ---- large groups -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "told"),
    [([2] + [1] * 48, None), ([3] + [1] * 47, "3 of 50"), ([2] * 10, None), ([9, 1], None)],
)
def test_a_patient_with_many_of_the_cases_is_told(
    tmp_path: Path, sizes: list[int], told: str | None
) -> None:
    patients = [f"p{p}" for p, size in enumerate(sizes) for _ in range(size)]
    cases = [a_case(n, group=patient) for n, patient in enumerate(patients)]
    _, report = write(cases, tmp_path / "s")
    if told is None:
        assert report.warnings == ()
    else:
        (warning,) = report.warnings
        assert f"group {keyed_id(KEY, 'fake', 'p0')} has {told}." in warning


# ---- lossy copies -----------------------------------------------------------------------------


def jpeg(image: Any, quality: int) -> Any:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_the_perceptual_hash_is_phash() -> None:
    """Against scipy's cosine transform of means over blocks."""
    flat = np.random.default_rng(0).integers(0, 255, (3, 128, 192)).astype(np.uint8)
    deep = np.random.default_rng(1).normal(size=(1, 32, 96, 64))
    means = [
        flat.mean(axis=0).reshape(64, 2, 64, 3).mean(axis=(1, 3)),
        deep[0].reshape(16, 2, 32, 3, 32, 2).mean(axis=(1, 3, 5)),
    ]
    for image, small, kept in zip((flat, deep), means, ((16, 16), (4, 8, 8)), strict=True):
        low = dctn(small, norm="ortho")[tuple(slice(k) for k in kept)].ravel()
        wanted = low > np.median(low[1:])
        wanted[0] = False
        assert perceptual_hash(image) == np.packbits(wanted).tobytes()
    assert perceptual_hash(flat) == perceptual_hash(flat.astype(np.float32) * 257 - 1000)


def test_lossy_copies_are_told_and_others_are_not(tmp_path: Path) -> None:
    cases = [a_case(number) for number in range(40)]
    copies = [
        a_case(100, jpeg(cases[0].image[0], 85)[None], label=0),
        a_case(101, jpeg(cases[1].image[0], 70)[None], label=1),
        # In one group with its source: nothing leaks.
        a_case(102, jpeg(cases[2].image[0], 85)[None], label=0, group=cases[2].group),
        a_case(
            103,
            np.asarray(Image.fromarray(cases[3].image[0]).resize((96, 80), Image.BICUBIC))[None],
            label=1,
        ),
    ]
    store, report = write([*cases, *copies], tmp_path / "s")
    rows = pq.read_table(tmp_path / "s" / "near_copies.parquet").to_pylist()
    ids = [keyed_id(KEY, "fake", case.key) for case in (*cases, *copies)]
    wanted = {frozenset((ids[n], ids[40 + n])) for n in (0, 1, 3)}
    assert {frozenset(row.values()) for row in rows} == wanted
    (warning,) = report.warnings
    assert warning.startswith("3 pairs of cases in different groups may be lossy copies")
    # They are told, not joined: a likeness proves nothing.
    assert len(set(store.groups)) == 43


def test_a_set_of_copies_gives_a_short_warning_and_little_work() -> None:
    hashes = np.zeros((3000, 32), np.uint8)
    pairs = near_pairs(hashes, np.arange(3000))
    assert len(pairs) < 3000 * 16 * 32
    assert set(pairs.ravel().tolist()) == set(range(3000))
    assert len(near_pairs(hashes, np.zeros(3000))) == 0


def test_near_pairs_are_those_that_comparing_all_finds() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (60, 256))
    for row in range(1, 60, 2):
        bits[row] = bits[row - 1]
        bits[row, rng.permutation(256)[: row // 2]] ^= 1
    pairs = near_pairs(np.packbits(bits, axis=1), np.arange(60)).tolist()
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    every = np.argwhere(np.triu(apart <= FURTHEST, 1)).tolist()
    # Up to 15 bits all of them, by the pigeonhole principle.
    assert [p for p in every if apart[tuple(p)] <= 15] == [p for p in pairs if apart[*p] <= 15]
    assert all(pair in every for pair in pairs)
    assert len(pairs) >= len(every) - 1


@pytest.mark.parametrize(
    ("part", "copies"),
    [
        (slice(270, 300), [(279, 280)]),
        pytest.param(slice(None), [(279, 280), (477, 512)], marks=pytest.mark.slow),
    ],
)
def test_real_skin_images_have_these_copies_and_no_false_alarm(
    shared_data: Path, tmp_path: Path, part: slice, copies: list[tuple[int, int]]
) -> None:
    """These pairs of files are equal pixel by pixel (found by comparing all, with Pillow)."""
    options = {"label": "benign_malignant", "positive": "malignant"}
    source = shared_data / "isic_uda1"
    files = sorted((source / "images").iterdir())
    (tmp_path / "in" / "images").mkdir(parents=True)
    for file in files[part]:
        shutil.copy(file, tmp_path / "in" / "images")
    header, *rows = (source / "labels.csv").read_text().splitlines()
    names = {file.stem for file in files[part]}
    kept = [row for row in rows if row.partition(",")[0] in names]
    (tmp_path / "in" / "labels.csv").write_text("\n".join([header, *kept]))
    store_prepare.prepare(
        *(KINDS["images"], tmp_path / "in", tmp_path / "s"),
        options=options,
        key=KEY,
        strict=False,
        workers=2,
    )
    for one, other in copies:
        with Image.open(files[one]) as a, Image.open(files[other]) as b:
            assert np.array_equal(np.asarray(a), np.asarray(b))
    store = open_store(tmp_path / "s")
    assert len(store) == len(kept) > 20
    assert len(set(store.groups)) == len(store) - len(copies)
    assert pq.read_table(tmp_path / "s" / "near_copies.parquet").num_rows == 0


# ---- older stores -----------------------------------------------------------------------------


def test_an_older_store_is_refused_with_the_command_that_makes_it_anew(tmp_path: Path) -> None:
    write([a_case(0), a_case(1)], tmp_path / "my store")
    text = tmp_path / "my store" / "store.json"
    text.write_text(text.read_text().replace(f'"format": {FORMAT}', '"format": 3'))
    with pytest.raises(StoreError) as refused:
        open_store(tmp_path / "my store")
    quoted = shlex.quote(str(tmp_path / "my store"))
    assert str(refused.value).endswith(
        f"Make it again: rm -r {quoted} && medopt prepare fake SOURCE --out {quoted}"
    )


@pytest.mark.parametrize("name", ["lidc", "brats"])
def test_that_command_has_the_settings_of_before(tmp_path: Path, name: str) -> None:
    """Read back from the words of the command, they make the same content."""
    make, options = {
        "lidc": (make_lidc, {"patch": [16, 16], "slices": 3, "negatives": 2}),
        "brats": (make_brats, {"spacing": [2.0, 0.0, 0.0]}),
    }[name]
    make(tmp_path / "scans", patients=3, seed=1)
    known = []
    for out in ("one", "two"):
        store_prepare.prepare(
            KINDS[name], tmp_path / "scans", tmp_path / out, options=options, key=KEY, strict=True
        )
        store = open_store(tmp_path / out)
        known.append(store.content_hash)
        meta = {"kind": name, "options": dict(store.meta.options)}
        words = shlex.split(prepare_command(Path("x"), {"meta": meta}).partition("&& ")[2])
        assert words[:6] == ["medopt", "prepare", name, "SOURCE", "--out", "x"]
        options = dict(word.split("=", 1) for word in words[7::2])
    assert known[0] == known[1]


def test_that_command_has_no_setting_that_nobody_can_set(tmp_path: Path) -> None:
    """What a reader of pictures found in them and wrote beside its settings is left out."""
    for number in range(4):
        Image.fromarray(a_case(number).image[0]).save(tmp_path / f"{number}.png")
    table = "image,label\n" + "".join(f"{number}.png,{'ab'[number % 2]}\n" for number in range(4))
    (tmp_path / "labels.csv").write_text(table)
    options = {"positive": "a", "size": 16}
    meta = KINDS["images"].survey(tmp_path, options).meta
    known = {"meta": {"kind": "images", "options": dict(meta.options)}}
    words = shlex.split(prepare_command(Path("x"), known).partition("&& ")[2])
    names = {word.partition("=")[0] for word in words[7::2]}
    assert {"size", "channels"} <= names <= set(KINDS["images"].options)


def test_a_store_knows_its_key_by_a_fingerprint(tmp_path: Path) -> None:
    store, _ = write([a_case(0), a_case(1)], tmp_path / "s")
    assert store.key == key_fingerprint(KEY) != key_fingerprint(b"another")
    assert KEY.decode() not in (tmp_path / "s" / "store.json").read_text()
