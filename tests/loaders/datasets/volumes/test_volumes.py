"""Whole volumes and a table, from every form of file, beside nibabel; and what is refused."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml

from bench import api
from loaders.cases import BadCase, BadSource, Case, Survey
from loaders.datasets.resample import resampled
from loaders.datasets.table import KINDS
from loaders.store.dry_run import count
from loaders.store.prepare import prepare
from loaders.store.read import open_store
from tests.loaders.datasets.pairs.made import blobs, volume
from tests.loaders.datasets.pairs.test_dicom import turned
from tests.loaders.datasets.pairs.test_layouts import canonical
from tests.loaders.formats.scans.write import ROOT, retargeted, stored, write_series
from tests.loaders.formats.sheets.test_workbook import workbook
from tests.loaders.formats.test_dicom import enhanced
from tests.loaders.formats.test_volumes import DIRECTION, ORIGIN, SPACING, mha, nrrd

nib: Any = nibabel
Make = Callable[[Path], None]


def read(source: Path, **options: Any) -> tuple[Survey, dict[str, Case], list[BadCase]]:
    """Return a survey, its cases by their keys, and all that was rejected."""
    kind = KINDS["volumes"]
    survey = kind.survey(source, options)
    cases: dict[str, Case] = {}
    rejected = list(survey.rejected)
    for item in survey.items:
        try:
            found = list(kind.read(item, survey.meta))
        except BadCase as bad:
            rejected.append(bad)
            continue
        cases |= {one.key: one for one in found if isinstance(one, Case)}
    return survey, cases, rejected


def table(root: Path, lines: list[str], head: str = "file,label") -> None:
    (root / "t.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


def series(root: Path, count: int = 4, **more: Any) -> Path:
    """Write a folder a patient, with a series deep inside, its slices without an ending."""
    for number in range(count):
        folder = root / f"P{number}" / "1.2.840.7" / f"1.2.840.7.{number}"
        changed = {"PatientID": f"who{number // 2}", **more}
        for path in write_series(folder, series=f"5{number}", seed=number, **changed):
            path.rename(path.with_name(f"1.2.840.{path.stem}"))
        (root / f"P{number}" / "Thumbs.db").write_bytes(b"stray")
    table(root, [f"P{number},{number % 2}" for number in range(count)])
    return root


def niftis(root: Path, count: int = 4, **more: Any) -> Path:
    """Write volumes of several sizes, turned in several ways."""
    turns = [np.diag([-1, -1, 2, 1.0]), np.diag([1, 1, 2, 1.0])]
    turns.append(np.array([[0, 0, 2, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]))
    for number in range(count):
        image = blobs(number, (10 + number % 3, 12, 8))[0].astype(np.int16)
        volume(root / f"case {number}.nii.gz", image, affine=turns[number % 3], **more)
    table(root, [f"case {number},{'ab'[number % 2]}" for number in range(count)])
    return root


# ---- what is read -----------------------------------------------------------------------------


def test_series_and_a_table(tmp_path: Path) -> None:
    survey, cases, rejected = read(series(tmp_path))
    assert rejected == []
    assert list(cases) == [f"P{n}" for n in range(4)]
    assert (survey.meta.task, survey.meta.dims, survey.meta.unit) == ("classification", 3, "volume")
    assert (survey.meta.normalize, survey.meta.fill, survey.meta.axes) == ("train", -1000.0, "zyx")
    assert survey.meta.classes == ("0", "1")
    assert survey.meta.group_source == "patient"
    for n, case in enumerate(cases.values()):
        values = np.maximum(stored(n).astype(int) - 1024, -1000).astype(np.int16)
        np.testing.assert_array_equal(case.image[0], turned(values))
        assert (case.label, case.group, case.mask) == (n % 2, f"who{n // 2}", None)
        assert case.spacing == (0.7, 2.5, 0.9)
    paths = [path for item in survey.items for path in item.paths]
    assert len(paths) == 24
    assert all(path.is_file() for path in paths)


def test_a_group_of_the_table_wins_over_that_of_the_header(tmp_path: Path) -> None:
    series(tmp_path)
    table(tmp_path, [f"P{n},{n % 2},fam{n}" for n in range(4)], "file,label,family")
    _, cases, _ = read(tmp_path, group="family")
    assert [case.group for case in cases.values()] == [f"fam{n}" for n in range(4)]


def test_a_series_of_nobody_is_a_group_of_its_own(tmp_path: Path) -> None:
    survey, cases, _ = read(series(tmp_path, PatientID="anonymous"))
    assert survey.meta.group_source == "case"
    assert [case.group for case in cases.values()] == [f"P{n}" for n in range(4)]


@pytest.mark.parametrize("by", ["PatientID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_rows_may_name_headers(tmp_path: Path, by: str) -> None:
    """As a hospital's list does; a spreadsheet took the zeros before a number away."""
    names = {}
    for number in range(4):
        name = {"PatientID": f"00{number + 7}", "StudyInstanceUID": f"1.2.9.{number}"}
        for path in write_series(tmp_path / "in" / "x", series=f"5{number}", seed=number, **name):
            path.rename(tmp_path / "in" / f"{number}{path.name}")
        name["SeriesInstanceUID"] = f"{ROOT}.5{number}"
        names[number] = str(number + 7) if by == "PatientID" else name[by]
    (tmp_path / "in" / "x").rmdir()
    table(tmp_path, [f"{name},{number % 2}" for number, name in names.items()], "id,label")
    survey, cases, rejected = read(tmp_path, by=by)
    assert (rejected, len(cases)) == ([], 4)
    assert {case.group for case in cases.values()} == {f"00{n + 7}" for n in range(4)}
    for n, case in enumerate(cases.values()):
        values = np.maximum(stored(n).astype(int) - 1024, -1000).astype(np.int16)
        np.testing.assert_array_equal(case.image[0], turned(values))
        assert case.label == n % 2
    table(tmp_path, ["nobody,0", f"{names[1]},1", f"{names[2]},0"], "id,label")
    _, cases, rejected = read(tmp_path, by=by)
    assert len(cases) == 2
    assert [bad.reason for bad in rejected] == [f"no series of the source has this {by}"]
    assert survey.meta.group_source == "patient"


def test_volumes_are_turned_as_nibabel_turns_them(tmp_path: Path) -> None:
    survey, cases, rejected = read(niftis(tmp_path), positive="b")
    assert rejected == []
    assert survey.meta.classes == ("a", "b")
    assert survey.meta.normalize == "case"
    assert survey.meta.group_source == "case"
    for number, (key, case) in enumerate(cases.items()):
        assert key == f"case {number}.nii.gz"
        np.testing.assert_array_equal(case.image[0], canonical(tmp_path / key))
        zooms = nib.as_closest_canonical(nib.load(tmp_path / key)).header.get_zooms()
        assert case.spacing == tuple(float(mm) for mm in zooms[::-1])
        assert case.label == number % 2


def test_other_formats(tmp_path: Path) -> None:
    """Each beside the same voxels in NIfTI; an .mhd has its voxels in a file beside it."""
    image = blobs(3, (9, 11, 7))[0].astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = DIRECTION * SPACING, ORIGIN
    # Both of these formats run to the left and to the back.
    volume(tmp_path / "a.nii", image, affine=np.diag([-1.0, -1, 1, 1]) @ affine)
    (tmp_path / "b.mha").write_bytes(mha(image))
    (tmp_path / "c.nrrd").write_bytes(nrrd(image))
    raw = (tmp_path / "b.mha").read_bytes()
    at = raw.index(b"ElementDataFile")
    begin = raw.index(b"\n", at) + 1
    (tmp_path / "d voxels.raw").write_bytes(raw[begin:])
    (tmp_path / "d.mhd").write_bytes(raw[:at] + b"ElementDataFile = d voxels.raw\n")
    table(tmp_path, ["a.nii,0", "b,1", "c.nrrd,0", "d.mhd,1"])
    survey, cases, rejected = read(tmp_path)
    assert rejected == []
    for case in cases.values():
        np.testing.assert_array_equal(case.image, cases["a.nii"].image)
        np.testing.assert_allclose(case.spacing, cases["a.nii"].spacing)
    assert [path.name for path in survey.items[3].paths] == ["d.mhd", "d voxels.raw"]


@pytest.mark.parametrize(
    "name",
    ["../secret.raw", "/etc/passwd", "sub/x.raw", "nothing.raw", "LIST", "d.mhd", "link.raw"],
)
def test_a_header_names_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    source = tmp_path / "set"
    niftis(source)
    (source / "d.mha").write_bytes(mha(np.zeros((3, 3, 3), np.int16)))
    raw = (source / "d.mha").read_bytes()
    at = raw.index(b"ElementDataFile")
    (source / "d.mhd").write_bytes(raw[:at] + f"ElementDataFile = {name}\n".encode())
    (source / "sub").mkdir()
    for path in (tmp_path / "secret.raw", source / "sub" / "x.raw"):
        path.write_bytes(bytes(54))
    (source / "link.raw").symlink_to(tmp_path / "secret.raw")
    (source / "d.mha").unlink()
    table(source, ["case 0,a", "case 1,b", "d.mhd,a"])
    _, cases, rejected = read(source, positive="b")
    assert len(cases) == 2
    assert [bad.reason for bad in rejected] == [
        "the image has its data in another file, which is not beside it: save it as one .mha file"
    ]


def test_a_workbook(tmp_path: Path) -> None:
    source = series(tmp_path)
    by_csv = read(source)[1]
    (source / "t.csv").unlink()
    rows = "".join(
        f'<row r="{n + 1}"><c t="inlineStr"><is><t>{name}</t></is></c>'
        f'<c t="{kind}"><v>{label}</v></c></row>'
        for n, (name, kind, label) in enumerate(
            [("file", "str", "label"), *((f"P{n}", "n", n % 2) for n in range(4))]
        )
    )
    workbook(source / "patients.xlsx", rows)
    (source / "~$patients.xlsx").write_bytes(b"locked by Excel")
    survey, cases, rejected = read(source)
    assert rejected == []
    assert {key: case.label for key, case in cases.items()} == {
        key: case.label for key, case in by_csv.items()
    }
    assert zipfile.is_zipfile(source / "patients.xlsx")
    assert survey.meta.classes == ("0", "1")


def test_one_of_several_findings_and_parts(tmp_path: Path) -> None:
    niftis(tmp_path)
    lines = [f"case {n},{n % 2},{1 - n % 2},{'train' if n else 'test'}" for n in range(4)]
    table(tmp_path, lines, "file,edema,mass,part")
    survey, cases, _ = read(tmp_path, finding="edema", split="part")
    assert [case.label for case in cases.values()] == [0, 1, 0, 1]
    assert [case.split for case in cases.values()] == ["test", "train", "train", "train"]
    assert survey.meta.name == "volumes-edema"


def test_spacing_is_that_of_the_other_kinds(tmp_path: Path) -> None:
    """The same image with a mask, brought to the same voxels."""
    niftis(tmp_path)
    native = read(tmp_path, positive="b")[1]
    _, cases, _ = read(tmp_path, positive="b", spacing="1.5,0,2")
    for key, case in cases.items():
        plain = native[key]
        mask = np.zeros(plain.image.shape[1:], np.uint8)
        with_mask = Case(**{**vars(plain), "mask": mask, "label": None})
        wanted = resampled(with_mask, (1.5, 0, 2))
        np.testing.assert_array_equal(case.image, wanted.image)
        assert case.spacing == wanted.spacing
        assert case.mask is None
    with pytest.raises(BadSource, match="spacing is 1,2; it must be three numbers in mm"):
        read(tmp_path, positive="b", spacing="1,2")


def test_channels_of_one_file(tmp_path: Path) -> None:
    for n in range(2):
        image = np.stack([blobs(n, (6, 7, 8))[0], blobs(n + 9, (6, 7, 8))[0]], -1)
        volume(tmp_path / f"{n}.nii.gz", image)
    table(tmp_path, ["0,0", "1,1"])
    survey, cases, rejected = read(tmp_path)
    assert (survey.meta.channels, rejected) == (("channel_0", "channel_1"), [])
    wanted = canonical(tmp_path / "0.nii.gz")
    np.testing.assert_array_equal(cases["0.nii.gz"].image, wanted)


def test_an_enhanced_file_is_a_row(tmp_path: Path) -> None:
    values = [
        np.random.default_rng(n).integers(0, 2000, (5, 8, 9)).astype(np.uint16) for n in (0, 1)
    ]
    for n, array in enumerate(values):
        enhanced(tmp_path / f"{n}.dcm", array, (3, 0, 4, 1, 2), SeriesInstanceUID=f"1.2.{n}")
    table(tmp_path, ["0.dcm,0", "1.dcm,1"])
    _, cases, rejected = read(tmp_path)
    assert rejected == []
    for n, array in enumerate(values):
        hounsfield = np.maximum(array.astype(int) - 1024, -1000)
        # Rows run to the left and columns to the back there.
        np.testing.assert_array_equal(cases[f"{n}.dcm"].image[0], hounsfield[:, ::-1, ::-1])
        assert cases[f"{n}.dcm"].spacing == (2.5, 0.7, 0.8)


def test_mri_and_pet_series_keep_their_values(tmp_path: Path) -> None:
    without = {"RescaleSlope": None, "RescaleIntercept": None}
    survey, cases, _ = read(series(tmp_path / "mr", Modality="MR", **without))
    assert (survey.meta.normalize, survey.meta.fill) == ("case", 0.0)
    np.testing.assert_array_equal(cases["P1"].image[0], turned(stored(1)))
    survey, _, _ = read(series(tmp_path / "pt", Modality="PT"))
    assert survey.meta.normalize == "train"


# ---- what is refused --------------------------------------------------------------------------


def several(root: Path) -> None:
    path = root / "P2" / "scout"
    write_series(path, series="99", seed=7, SeriesDescription="scout", PatientID="who1")


def missing_slice(root: Path) -> None:
    sorted((root / "P2").rglob("1.2.840.0*"))[2].unlink()


def missing(root: Path) -> None:
    shutil.rmtree(root / "P2")


def empty(root: Path) -> None:
    missing(root)
    (root / "P2").mkdir()
    (root / "P2" / "README").write_text("nothing here")


def one_slice(root: Path) -> None:
    for path in sorted((root / "P2").rglob("1.2.840.0*"))[1:]:
        path.unlink()


def only_a_mask(root: Path) -> None:
    missing(root)
    retargeted("highdicom_binary.dcm", root / "P2" / "seg.dcm", series="52")


def cut(root: Path) -> None:
    path = sorted((root / "P2").rglob("1.2.840.0*"))[2]
    path.write_bytes(path.read_bytes()[:-40])


def a_date(root: Path) -> None:
    table(root, ["P0,0", "P1,1", "P2,2024-03-01", "P3,1"])


def no_label(root: Path) -> None:
    table(root, ["P0,0", "P1,1", "P2,", "P3,1"])


def link(root: Path) -> None:
    path = sorted((root / "P2").rglob("1.2.840.0*"))[2]
    path.rename(root.parent / "outside")
    path.symlink_to(root.parent / "outside")


def two_patients(root: Path) -> None:
    path = sorted((root / "P2").rglob("1.2.840.0*"))[2]
    data = pydicom.dcmread(path)
    data.PatientID = "somebody"
    data.save_as(path)


def no_positions(root: Path) -> None:
    path = sorted((root / "P2").rglob("1.2.840.0*"))[2]
    data = pydicom.dcmread(path)
    del data.ImagePositionPatient
    data.save_as(path)


def another_size(root: Path) -> None:
    path = sorted((root / "P2").rglob("1.2.840.0*"))[2]
    data = pydicom.dcmread(path)
    data.Rows -= 1
    data.PixelData = data.PixelData[: 2 * data.Rows * data.Columns]
    data.save_as(path)


def a_path_out(root: Path) -> None:
    table(root, ["P0,0", "P1,1", "../P2,0", "P3,1"])


def too_many_cells(root: Path) -> None:
    table(root, ["P0,0", "P1,1", "P2,0,left", "P3,1"])


BAD: dict[str, tuple[Make, str]] = {
    "several series": (several, "the folder holds 2 series: set series=WORDS from the description"),
    "a missing slice": (missing_slice, "1 slices are missing: the series has gaps"),
    "a missing folder": (missing, "the source has no file of that name"),
    "an empty folder": (empty, "the folder holds no DICOM series of images"),
    "one slice": (one_slice, "the series has only one slice, which is not a volume"),
    "a mask alone": (only_a_mask, "the folder holds no DICOM series of images"),
    "a slice cut off": (cut, "a file of the series is cut off: PixelData claims "),
    "a date for a number": (a_date, "column label holds a date instead of a class; spreadsheets"),
    "no label": (no_label, "column label has no value"),
    "a link out": (link, "the file is a link that leads out of the source or to nothing"),
    "two patients in one series": (two_patients, "the slices of the series have 2 PatientIDs"),
    "no position": (no_positions, "ImagePositionPatient is missing"),
    "another size": (another_size, "the slices of the series differ in shape"),
    "a path that leads out": (a_path_out, "the table names a path outside the source"),
    "too many cells": (too_many_cells, "the line has 3 cells but the table 2 columns"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_row_is_told_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    root = series(tmp_path / "set")
    change, why = BAD[name]
    change(root)
    _, cases, rejected = read(root)
    assert sorted(cases) == ["P0", "P1", "P3"]
    (bad,) = rejected
    assert why in bad.reason
    for word in (ROOT, "who1", "P2", "somebody"):
        assert word not in bad.reason
    # Which of many slices it is, the terminal alone tells.
    assert ("(1.2.840.0" in bad.where) == (change is cut)
    report = prepare(
        KINDS["volumes"], root, tmp_path / "out", options={}, key=b"k", workers=1, strict=False
    )
    assert (report.n_cases, len(report.rejected)) == (3, 1)
    assert count(KINDS["volumes"], root, {}).cases == 3


NIFTI: dict[str, tuple[Make, str]] = {
    "text": (lambda r: (r / "case 2.nii.gz").write_text("x"), "the image is not a NIfTI file"),
    "cut": (
        lambda r: (r / "case 2.nii.gz").write_bytes((r / "case 2.nii.gz").read_bytes()[:400]),
        "the image is truncated",
    ),
    "flat": (
        lambda r: volume(r / "case 2.nii.gz", np.ones((4, 4, 1), np.int16)),
        "the volume has only one slice: kind images reads pictures",
    ),
    "channels": (
        lambda r: volume(r / "case 2.nii.gz", np.ones((4, 4, 3, 2), np.int16)),
        "the image has 2 channels, not 1",
    ),
    "NaN": (
        lambda r: volume(r / "case 2.nii.gz", np.full((4, 4, 3), np.nan, np.float32)),
        "the image holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", NIFTI)
def test_one_bad_volume_is_told_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    root = niftis(tmp_path / "set")
    change, why = NIFTI[name]
    change(root)
    report = prepare(
        KINDS["volumes"],
        root,
        tmp_path / "out",
        options={"positive": "b"},
        key=b"k",
        workers=1,
        strict=False,
    )
    assert report.n_cases == 3
    (bad,) = report.rejected
    assert why in bad.reason
    assert "case 2" not in bad.reason
    assert "case 2" in bad.where


def dates(root: Path) -> None:
    table(root, [f"P{n},0{n + 1}.02.2024" for n in range(4)])


SETTINGS: dict[str, tuple[Make, dict[str, str], str]] = {
    "by": (lambda r: None, {"by": "Name"}, "it must be one of: PatientID, StudyInstanceUID"),
    "modality": (lambda r: None, {"modality": "xray"}, "it must be one of: auto, ct, mri, other"),
    "nan": (lambda r: None, {"nan": "zero"}, "it must be refuse or fill"),
    "series": (lambda r: None, {"series": "coronal"}, "no case of the source is usable; 4 reject"),
    "unknown": (lambda r: None, {"images": "*"}, "volumes has no option 'images'; its options are"),
    "no column": (lambda r: None, {"label": "grade"}, "has no column 'grade' for the label: s"),
    "dates": (dates, {}, r"0 different values \(none\).* 4 rejected.*holds a date"),
    "no table": (lambda r: (r / "t.csv").unlink(), {}, "should hold one .csv, .tsv"),
    "spacing": (lambda r: None, {"spacing": "1,x,1"}, "spacing"),
    "no positive": (lambda r: None, {"positive": "ill"}, "'ill'; column label has: 0, 1"),
    "dates for numbers": (dates, {"value": "label"}, "0 different numbers.*'01.02.2024', which"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_cannot_be_meant(tmp_path: Path, name: str) -> None:
    change, options, why = SETTINGS[name]
    root = series(tmp_path / "set")
    change(root)
    with pytest.raises(BadSource, match=why) as told:
        prepare(
            KINDS["volumes"],
            root,
            tmp_path / "out",
            options=options,
            key=b"k",
            workers=1,
            strict=False,
        )
    assert "\n" not in str(told.value)


def test_a_series_is_chosen_by_words_or_by_size(tmp_path: Path) -> None:
    root = series(tmp_path)
    several(root)
    for path in sorted((root / "P2" / "scout").iterdir())[:2]:
        path.unlink()
    for more in ({"series": "MADE axial"}, {"series": "largest"}):
        _, cases, rejected = read(root, **more)
        assert rejected == []
        values = np.maximum(stored(2).astype(int) - 1024, -1000).astype(np.int16)
        np.testing.assert_array_equal(cases["P2"].image[0], turned(values))


def test_no_name_of_a_header_reaches_the_store(tmp_path: Path) -> None:
    prepare(
        KINDS["volumes"],
        series(tmp_path / "set"),
        tmp_path / "out",
        options={},
        key=b"k",
        workers=1,
        strict=True,
    )
    held = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    for word in ("who1", "Nobody", ROOT, "20200102", "P1", "made axial"):
        assert word.encode() not in held


# ---- from files to a report -------------------------------------------------------------------


def tabled(root: Path) -> dict[str, str]:
    """Write volumes of sizes that differ by a factor of three: some are padded, some are cut."""
    for number in range(12):
        side = (10, 16, 30)[number % 3]
        image = blobs(number, (side, side, 12))[0].astype(np.int16) + 60 * (number % 2)
        volume(root / f"{number}.nii.gz", image)
    frame = pd.DataFrame({"file": range(12), "label": [n % 2 for n in range(12)]})
    frame.to_csv(root / "t.csv", index=False)
    return {}


def sheeted(root: Path) -> dict[str, str]:
    """Write series, and a workbook that names their patients."""
    for number in range(8):
        name = {"PatientID": f"{number:03d}", "Modality": "MR"}
        write_series(root / "all" / f"{number}", series=f"5{number}", seed=number, **name)
    rows = [("id", "grade"), *((n, "low" if n % 2 else "high") for n in range(8))]
    cells = "".join(
        f'<row><c t="str"><v>{first}</v></c><c t="str"><v>{second}</v></c></row>'
        for first, second in rows
    )
    workbook(root / "patients.xlsx", cells)
    # Six slices are too few for a network.
    return {"by": "PatientID", "label": "grade", "positive": "high", "spacing": "0,1.25,0"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make", [tabled, sheeted])
def test_from_files_to_a_report(
    tmp_path: Path, make: Callable[[Path], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    monkeypatch.setattr(api, "_begun", [])
    (tmp_path / "source").mkdir()
    options = make(tmp_path / "source")
    report = api.prepare(
        "volumes", tmp_path / "source", out=tmp_path / "store", options=options, workers=1
    )
    assert report.rejected == ()
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
    planned = api.plan(tmp_path / "one.yaml", tmp_path / "run")
    assert len(planned.plan.trials) == 2
    # The median shape, and so what is seen of each: larger ones are cut, smaller ones padded.
    median = np.median(open_store(tmp_path / "store").shapes, axis=0).astype(int)
    assert planned.plan.trials[0].patch == tuple(median.tolist())
    ended = api.run(tmp_path / "one.yaml", tmp_path / "run")
    assert "volumes" in ended.page.read_text(encoding="utf-8")


# ---- real volumes -----------------------------------------------------------------------------


def test_the_hippocampi_are_those_of_their_own_kind(shared_data: Path, tmp_path: Path) -> None:
    """Under made answers, each image as kind msd has it: values, spacing and group."""
    source = shared_data / "msd_hippocampus"
    msd = KINDS["msd"].survey(source, {})
    root = tmp_path / "set"
    shutil.copytree(source / "imagesTr", root / "imagesTr")
    keys = [item.key for item in msd.items][:30]
    table(root, [f"{key},{n % 2}" for n, key in enumerate(keys)])
    survey, cases, rejected = read(root)
    assert rejected == []
    assert (survey.meta.normalize, survey.meta.fill) == (msd.meta.normalize, msd.meta.fill)
    assert len(cases) == 30
    for item, case in zip(msd.items, cases.values(), strict=False):
        (known,) = KINDS["msd"].read(item, msd.meta)
        assert isinstance(known, Case)
        np.testing.assert_array_equal(case.image, known.image)
        assert case.spacing == known.spacing
