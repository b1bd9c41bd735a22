"""Public sets as they come, from miniatures: labels, groups, parts, and pixels beside others."""

import gzip
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydicom
import pytest
import yaml
from PIL import Image

from bench import api
from loaders.cases import BadCase, BadSource, Case, Survey
from loaders.datasets.table import KINDS
from loaders.formats.csv_table import open_table
from tests.loaders.datasets.tabular.made_sets import SETS, Made


def read(source: Path, made: Made, **more: str) -> tuple[Survey, list[Case], list[BadCase]]:
    kind = KINDS[made.kind]
    survey = kind.survey(source, {**made.options, **more})
    cases, rejected = [], list(survey.rejected)
    for item in survey.items:
        for one in kind.read(item, survey.meta):
            if isinstance(one, BadCase):
                rejected.append(one)
            else:
                cases.append(one)
    return survey, cases, rejected


def shown(path: Path) -> Any:
    """Return a file's pixels (C, Y, X) or (C, T, Y, X), by PIL, pydicom or FFmpeg."""
    if path.suffix in (".dcm", ".dicom"):
        data = pydicom.dcmread(path)
        stored = data.pixel_array
        if data.PhotometricInterpretation == "MONOCHROME1":
            stored = 2**data.BitsStored - 1 - stored
        return stored[np.newaxis]
    if path.suffix == ".avi":
        with av.open(str(path)) as video:
            frames = [frame.to_ndarray(format="gray") for frame in video.decode(video=0)]
        return np.stack(frames)[np.newaxis]
    pixels = np.asarray(Image.open(path))
    return pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_in_its_published_layout(tmp_path: Path, name: str) -> None:
    made = SETS[name](tmp_path)
    survey, cases, rejected = read(tmp_path, made)
    assert len(rejected) == made.rejected
    by_stem = {Path(case.key.partition("#")[0]).stem: case for case in cases}
    assert len(cases) == len(by_stem)
    assert {stem: survey.meta.classes[case.label] for stem, case in by_stem.items()} == made.labels
    assert survey.meta.group_source == (
        "patient" if made.groups else {"images": "case", "cine": "video"}[made.kind]
    )
    for stem, case in by_stem.items():
        path = tmp_path / case.key.partition("#")[0]
        assert case.group == (made.groups or {}).get(stem, case.key.partition("#")[0])
        assert case.split == made.splits.get(stem)
        np.testing.assert_array_equal(case.image, shown(path))


def test_what_a_set_lacks_is_asked_for(tmp_path: Path) -> None:
    made = SETS["rsna"](tmp_path)
    with pytest.raises(
        BadSource, match=r"should hold one .* table; .* stage_2_detailed_class_info"
    ):
        read(tmp_path, Made(options={}, labels={}, groups=None))
    (tmp_path / "v").mkdir()
    made = SETS["vindr"](tmp_path / "v")
    with pytest.raises(
        BadSource, match="choose how they are combined, readers=majority, any or all"
    ):
        read(tmp_path / "v", made, readers="")


# ---- joined tables ----------------------------------------------------------------------------


def joined(root: Path, first: str, second: str, **more: str) -> Any:
    for name in "abc":
        Image.fromarray(np.full((4, 4), ord(name), np.uint8)).save(root / f"{name}.png")
    (root / "1.csv").write_text(first)
    (root / "2.csv").write_text(second)
    options = {"csv": "1.csv", "join": "2.csv", **more}
    return read(root, Made(options=options, labels={}, groups=None))


def test_lines_without_a_partner_are_told(tmp_path: Path) -> None:
    first = "image,study,n\na,01,x\nb,2.0,y\nc,3,z\n"
    _, cases, rejected = joined(tmp_path, first, "study,label\n1,0\n2,1\n9,1\n")
    assert [(case.key, case.label) for case in cases] == [("a.png", 0), ("b.png", 1)]
    assert [(bad.where, bad.reason) for bad in rejected] == [
        ("1.csv line 4", "2.csv has no matching line")
    ]


def test_two_shared_columns_and_a_one_hot_table(tmp_path: Path) -> None:
    """A study's number comes again with another patient."""
    first = "image,study,who\na,1,p\nb,1,q\nc,2,q\n"
    second = "who,study,sick,well\np,1,1,0\nq,1,0,1\nq,2,1,0\n"
    more = {"one_hot": "sick,well", "positive": "sick", "group": "who"}
    survey, cases, rejected = joined(tmp_path, first, second, **more)
    assert rejected == []
    found = [(survey.meta.classes[case.label], case.group) for case in cases]
    assert found == [("sick", "p"), ("well", "q"), ("sick", "q")]


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ("a,b\n1,2\n", "have no column in common: image, label and a, b"),
        ("image,x\na,1\na,2\n", r"2.csv line 3: an earlier line with the same image differs"),
        ("image,x\na,1\na,1\n", ""),
    ],
)
def test_tables_that_cannot_be_joined(tmp_path: Path, second: str, why: str) -> None:
    first = "image,label\na,0\nb,1\n"
    if why:
        with pytest.raises(BadSource, match=why):
            joined(tmp_path, first, second)
        return
    _, cases, rejected = joined(tmp_path, first + "c,1\n", second + "b,2\n")
    assert (len(cases), len(rejected)) == (2, 1)


def test_a_join_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="there is no file 3"):
        joined(tmp_path, "image,label\na,0\nb,1\n", "image\n", join="3.csv")
    with pytest.raises(BadSource, match=r"join is '../x.csv'; it must be a path"):
        joined(tmp_path, "image,label\na,0\nb,1\n", "image\n", join="../x.csv")


# ---- packed tables ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-20], "is cut off"),
        (b"\x1f\x8b\x08\x00" + bytes(40), "is damaged: it cannot be decompressed"),
        (gzip.compress(bytes(300 * 2**20), 9, mtime=0), "unpacks to more than 268435456 bytes"),
    ],
    ids=["cut off", "damaged", "too large"],  # bytes would be ids of their own, 300 kB long
)
def test_a_packed_table_that_cannot_be_read(tmp_path: Path, raw: bytes, why: str) -> None:
    (tmp_path / "t.csv.gz").write_bytes(raw)
    with pytest.raises(BadSource, match=why):
        open_table(tmp_path / "t.csv.gz")


def test_a_plain_table_beside_its_packed_self_counts(tmp_path: Path) -> None:
    made = SETS["padchest"](tmp_path)
    (packed,) = tmp_path.glob("*.csv.gz")
    (tmp_path / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    assert len(read(tmp_path, made)[1]) == len(made.labels)


# ---- from files to a report -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SETS)
def test_each_set_from_its_files_to_a_report(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    monkeypatch.setattr(api, "_begun", [])
    (tmp_path / "source").mkdir()
    made = SETS[name](tmp_path / "source")
    report = api.prepare(
        made.kind,
        tmp_path / "source",
        out=tmp_path / "store",
        options={**made.options, "name": name},
        workers=1,
    )
    assert (report.n_cases, len(report.rejected)) == (len(made.labels), made.rejected)
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
    assert name in api.run(tmp_path / "one.yaml", tmp_path / "run").page.read_text(encoding="utf-8")
