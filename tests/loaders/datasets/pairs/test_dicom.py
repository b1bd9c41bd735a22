"""DICOM series with segmentations, structure sets and volumes drawn on them, as pairs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.pixels.utils import pack_bits

from loaders.cases import BadSource
from loaders.datasets.pairs.consensus import staple
from loaders.datasets.table import KINDS
from loaders.formats.nifti import to_ras
from loaders.store.prepare import prepare
from loaders.store.read import open_store
from tests.loaders.datasets.pairs.made import MINIATURES, SQUARE_PIXELS, volume
from tests.loaders.datasets.pairs.test_layouts import read
from tests.loaders.formats.scans.write import (
    ACROSS,
    DOWN,
    NORMAL,
    ORIGIN,
    ROOT,
    SPACING,
    retargeted,
    stored,
    truth,
    write_series,
)

nib: Any = nibabel
WRITTEN = Path(__file__).parents[2] / "formats" / "scans" / "written"
PATTERNS = {"images": "*/CT", "masks": "{folder}/seg.dcm", "overlap": "last"}
# Voxels (x, y, z) of the made series to mm to the right, anterior, superior.
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.array([ACROSS * SPACING[2], DOWN * SPACING[1], NORMAL * SPACING[0]]).T
AFFINE[:3, 3] = ORIGIN
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE


def turned(array: Any) -> Any:
    """Return an array (Z, Y, X) of the series as a case has it, by nibabel."""
    image = nib.Nifti1Image(np.ascontiguousarray(array.T), AFFINE)
    return np.asarray(nib.as_closest_canonical(image).dataobj).T


def patients(root: Path, count: int = 4) -> Path:
    """Write P0 to P3, each with a folder CT, and the two files that others wrote in turn."""
    for number in range(count):
        top = root / f"P{number}"
        write_series(top / "CT", series=f"5{number}", seed=number, PatientID=f"who{number}")
        written = ("highdicom_binary.dcm", "dcmqi_binary.dcm")[number % 2]
        retargeted(written, top / "seg.dcm", series=f"5{number}")
    return root


def test_series_by_a_pattern_of_their_folders(tmp_path: Path) -> None:
    survey, cases, rejected = read(patients(tmp_path), **PATTERNS)
    assert rejected == []
    assert list(cases) == [f"P{n}/CT" for n in range(4)]
    assert survey.meta.classes == ("background", "ball", "ring")
    assert (survey.meta.normalize, survey.meta.fill, survey.meta.dims) == ("train", -1000.0, 3)
    assert survey.meta.group_source == "patient"
    wanted = np.where(truth()["ring"], 2, truth()["ball"].astype(np.uint8))
    for n, case in enumerate(cases.values()):
        np.testing.assert_array_equal(case.mask, turned(wanted))
        values = np.maximum(stored(n).astype(int) - 1024, -1000)
        np.testing.assert_array_equal(case.image[0], turned(values.astype(np.int16)))
        assert case.group == f"who{n}"
        assert case.spacing == to_ras(np.zeros((24, 20, 6)), AFFINE)[1][::-1]
        assert case.files is not None
        assert len(case.files) == 6 + 2


def test_structures_that_overlap_are_regions(tmp_path: Path) -> None:
    survey, cases, rejected = read(patients(tmp_path), **{**PATTERNS, "overlap": "regions"})
    assert rejected == []
    assert survey.meta.classes == ("background", "ball", "ring", "ball+ring")
    assert survey.meta.regions == {"ball": (1, 3), "ring": (2, 3)}
    for case in cases.values():
        for name, inside in truth().items():
            region = np.isin(case.mask, survey.meta.regions[name])
            np.testing.assert_array_equal(region, turned(inside.astype(np.uint8)))


def test_overlap_is_refused_where_nothing_is_said(tmp_path: Path) -> None:
    _, cases, rejected = read(patients(tmp_path), **{**PATTERNS, "overlap": "refuse"})
    both = np.count_nonzero(truth()["ball"] & truth()["ring"])
    assert cases == {}
    said = f"ball and ring overlap in {both} voxels: overlap=regions would keep both, overlap=last"
    assert {bad.reason.removesuffix(" the last one") for bad in rejected} == {said}


def test_structures_that_no_two_have_are_counted(tmp_path: Path) -> None:
    root = patients(tmp_path)
    for number in range(4):
        data = pydicom.dcmread(root / f"P{number}" / "seg.dcm")
        data.SegmentSequence[1].SegmentLabel = f"ring of {number}"
        data.save_as(root / f"P{number}" / "seg.dcm")
    with pytest.raises(
        BadSource,
        match=r"structures=NAME,NAME to some that all images have: ball \(4\), ring of \d \(1\)",
    ):
        read(root, **PATTERNS)
    assert len(read(root, **PATTERNS, structures="ball")[1]) == 4


def test_a_threshold_is_of_fractional_segments_alone(tmp_path: Path) -> None:
    root = patients(tmp_path)
    retargeted("highdicom_fractional.dcm", root / "P1" / "seg.dcm", series="51")
    options = {**PATTERNS, "structures": "ball", "threshold": "64"}
    _, cases, rejected = read(root, **options)
    assert rejected == []
    beside = truth()["ball"] | np.roll(truth()["ball"], 2, axis=2)
    for key, case in cases.items():
        wanted = beside if key == "P1/CT" else truth()["ball"]
        np.testing.assert_array_equal(case.mask, turned(wanted.astype(np.uint8)))


def test_one_structure_is_chosen_by_its_name(tmp_path: Path) -> None:
    survey, cases, _ = read(patients(tmp_path), **PATTERNS, structures="ring")
    assert survey.meta.classes == ("background", "ring")
    for case in cases.values():
        np.testing.assert_array_equal(case.mask, turned(truth()["ring"].astype(np.uint8)))
    with pytest.raises(
        BadSource, match="names 'rign', but no mask has this name; there are: ball,"
    ):
        read(tmp_path, **PATTERNS, structures="rign")


def test_masks_find_their_series_wherever_they_lie(tmp_path: Path) -> None:
    """Each object says which series it was drawn on; here all lie in one folder."""
    patients(tmp_path / "a")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((tmp_path / "a").rglob("*.dcm"))):
        shutil.copy(path, flat / f"{number:03d}")
    (flat / "README").write_text("made")
    by_name = read(tmp_path / "a", **PATTERNS)[1]
    survey, cases, rejected = read(flat, layout="dicom", overlap="last")
    assert rejected == []
    assert [case.group for case in cases.values()] == [f"who{n}" for n in range(4)]
    for mine, other in zip(cases.values(), by_name.values(), strict=True):
        np.testing.assert_array_equal(mine.mask, other.mask)
        np.testing.assert_array_equal(mine.image, other.image)
    assert survey.meta.name == "dicom"
    # A pattern gives the same store content as the masks' own words.
    for name, source, options in (("x", tmp_path / "a", PATTERNS), ("y", flat, {})):
        more = options or {"layout": "dicom", "overlap": "last"}
        prepare(
            KINDS["pairs"],
            source,
            tmp_path / name,
            options=more,
            key=b"k",
            workers=1,
            strict=True,
        )
    stores = [open_store(tmp_path / name) for name in "xy"]
    assert sorted(stores[0].hashes) == sorted(stores[1].hashes)


def test_of_both_forms_one_may_be_asked_for(tmp_path: Path) -> None:
    MINIATURES["dicom"](tmp_path)
    _, cases, _ = read(tmp_path, layout="dicom", masks="rtstruct", structures="ball")
    assert len(cases) == 4
    with pytest.raises(BadSource, match="it must be one of: seg, rtstruct, dicom"):
        read(tmp_path, layout="dicom", masks="*.dcm")


def test_layout_dicom_voxel_for_voxel(tmp_path: Path) -> None:
    MINIATURES["dicom"](tmp_path)
    survey, cases, rejected = read(tmp_path, layout="dicom", structures="ball")
    assert (len(cases), rejected, survey.meta.group_source) == (8, [], "patient")
    assert sorted({case.group for case in cases.values()}) == [f"MADE-{n}" for n in range(4)]
    for case in cases.values():
        np.testing.assert_array_equal(case.mask, turned(truth()["ball"].astype(np.uint8)))


def test_a_volume_may_be_the_mask_of_a_series(tmp_path: Path) -> None:
    patients(tmp_path)
    for number in range(4):
        ball = truth()["ball"].astype(np.uint8).T
        volume(tmp_path / f"P{number}" / "ball.nii.gz", ball, affine=AFFINE)
    survey, cases, rejected = read(tmp_path, images="*/CT", masks="{folder}/ball.nii.gz")
    assert rejected == []
    assert survey.meta.classes == ("background", "label_1")
    for case in cases.values():
        np.testing.assert_array_equal(case.mask, turned(truth()["ball"].astype(np.uint8)))
    volume(tmp_path / "P2" / "ball.nii.gz", ball[:, :, :5], affine=AFFINE)
    _, cases, rejected = read(tmp_path, images="*/CT", masks="{folder}/ball.nii.gz")
    assert [bad.reason for bad in rejected] == [
        "the label is 24 x 20 x 5, but the image 24 x 20 x 6"
    ]
    assert len(cases) == 3


def other_series(top: Path) -> None:
    retargeted("highdicom_binary.dcm", top / "seg.dcm", series="99")


def second_series(top: Path) -> None:
    more = {"SeriesDescription": "sagittal", "PatientID": "who2"}
    write_series(top / "CT" / "b", series="88", seed=9, **more)
    other_series(top)


def missing_slice(top: Path) -> None:
    sorted((top / "CT").iterdir())[2].unlink()


def damaged(top: Path) -> None:
    path = min((top / "CT").iterdir())
    path.write_bytes(path.read_bytes()[:-100])


def no_mask(top: Path) -> None:
    (top / "seg.dcm").unlink()


def no_ring(top: Path) -> None:
    data = pydicom.dcmread(top / "seg.dcm")
    data.SegmentSequence[1].SegmentLabel = "rign"
    data.save_as(top / "seg.dcm")


def link(top: Path) -> None:
    outside = top.parent.parent / "secret.dcm"
    shutil.copy(top / "seg.dcm", outside)
    (top / "seg.dcm").unlink()
    (top / "seg.dcm").symlink_to(outside)


def text(top: Path) -> None:
    (top / "seg.dcm").write_text("no DICOM")


def changed(path: str, **elements: Any) -> Callable[[Path], None]:
    """Return what changes elements of a file of a patient: the mask, or one of the slices."""

    def change(top: Path) -> None:
        file = sorted(top.glob(path))[2 if "CT" in path else 0]
        data = pydicom.dcmread(file)
        for name, value in elements.items():
            setattr(data, name, value)
        data.save_as(file)

    return change


def cut_mask(top: Path) -> None:
    (top / "seg.dcm").write_bytes((top / "seg.dcm").read_bytes()[:-60])


def empty_mask(top: Path) -> None:
    (top / "seg.dcm").write_bytes(b"")


def image_for_a_mask(top: Path) -> None:
    shutil.copy(min((top / "CT").iterdir()), top / "seg.dcm")


def empty_folder(top: Path) -> None:
    for path in (top / "CT").iterdir():
        path.unlink()
    (top / "CT" / "notes.txt").write_text("nothing")


def one_slice(top: Path) -> None:
    for path in sorted((top / "CT").iterdir())[1:]:
        path.unlink()


def two_of_a_name(top: Path) -> None:
    data = pydicom.dcmread(top / "seg.dcm")
    for segment in data.SegmentSequence:
        segment.SegmentLabel = "ball"
    data.save_as(top / "seg.dcm")


def no_name(top: Path) -> None:
    data = pydicom.dcmread(top / "seg.dcm")
    data.SegmentSequence[1].SegmentLabel = ""
    data.save_as(top / "seg.dcm")


def a_structure_set(**elements: Any) -> Callable[[Path], None]:
    def change(top: Path) -> None:
        retargeted("rt_utils.dcm", top / "seg.dcm", series="52")
        data = pydicom.dcmread(top / "seg.dcm")
        for name, value in elements.items():
            setattr(data, name, value)
        data.save_as(top / "seg.dcm")

    return change


def another_frame(top: Path) -> None:
    a_structure_set()(top)
    data = pydicom.dcmread(top / "seg.dcm")
    for structure in data.StructureSetROISequence:
        structure.ReferencedFrameOfReferenceUID = "1.2.3"
    data.save_as(top / "seg.dcm")


def rename_structure(top: Path) -> None:
    a_structure_set()(top)
    data = pydicom.dcmread(top / "seg.dcm")
    data.StructureSetROISequence[0].ROIName = "bal"
    data.save_as(top / "seg.dcm")


def points(count: int) -> Callable[[Path], None]:
    def change(top: Path) -> None:
        a_structure_set()(top)
        data = pydicom.dcmread(top / "seg.dcm")
        contour = data.ROIContourSequence[0].ContourSequence[0]
        contour.ContourData = list(contour.ContourData)[:count]
        data.save_as(top / "seg.dcm")

    return change


def between_slices(top: Path) -> None:
    a_structure_set()(top)
    data = pydicom.dcmread(top / "seg.dcm")
    for contour in data.ROIContourSequence[0].ContourSequence:
        numbers = np.array(contour.ContourData, float).reshape(-1, 3) + 400 * np.asarray(NORMAL)
        contour.ContourData = numbers.ravel().tolist()
    data.save_as(top / "seg.dcm")


def structures_of_another_series(top: Path) -> None:
    retargeted("rt_utils.dcm", top / "seg.dcm", series="99")


# What is done to the folder of patient 2, and what becomes of it.
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "of another series": (other_series, "the mask is for another series: it was not drawn on"),
    "two series": (second_series, "the folder holds 2 series: set series=WORDS from the descript"),
    "a missing slice": (missing_slice, "1 slices are missing: the series has gaps"),
    "a damaged slice": (damaged, "a file of the series is cut off: PixelData claims"),
    "no mask": (no_mask, "the image has no mask of ball; missing=empty would count it as empty"),
    "a misspelt structure": (no_ring, "the image has no mask of ring; missing=empty would count"),
    "a link out": (link, "the file is a link that leads out of the source"),
    "text": (text, "the file's name ends in .dcm, but it is not a DICOM file"),
    "a mask cut off": (
        cut_mask,
        "the file is cut off: PixelData claims 420 bytes, but has 360",
    ),
    "an empty mask": (empty_mask, "the file's name ends in .dcm, but it is not a DICOM file"),
    "an image for a mask": (
        image_for_a_mask,
        "the image has no mask of ball; missing=empty would count it as empty",
    ),
    "an empty folder": (empty_folder, "the folder holds no DICOM series of images"),
    "one slice": (one_slice, "the series has only one slice, which is not a volume"),
    "two segments of a name": (
        two_of_a_name,
        "the image has no mask of ring; missing=empty would count it",
    ),
    "a segment without a name": (no_name, "SegmentLabel is missing"),
    "another size": (
        changed("seg.dcm", Rows=10),
        "the mask does not hold the pixels of 7 frames of 10 x 24",
    ),
    "another number of frames": (
        changed("seg.dcm", NumberOfFrames="99"),
        "the header claims 99 frames but describes 7",
    ),
    "a mask without places": (
        changed("seg.dcm", PerFrameFunctionalGroupsSequence=[]),
        "the header claims 7 frames but describes 0",
    ),
    "a slice turned": (
        changed("CT/*", ImageOrientationPatient=[0, 1, 0, 1, 0, 0]),
        "the slices of the series differ in orientation",
    ),
    "a slice without a place": (
        changed("CT/*", ImagePositionPatient=None),
        "ImagePositionPatient is missing",
    ),
    "a slice of another patient": (
        changed("CT/*", PatientID="other"),
        "the slices of the series have 2 PatientIDs",
    ),
    "a slice in colour": (
        changed("CT/*", PhotometricInterpretation="RGB"),
        "PhotometricInterpretation is neither MONOCHROME1 nor MONOCHROME2",
    ),
    "structures of another series": (
        structures_of_another_series,
        "the mask is for another series: it was not drawn on",
    ),
    "a structure misspelt": (
        rename_structure,
        "the image has no mask of ball; missing=empty would count",
    ),
    "a structure set in another frame": (
        another_frame,
        "the mask is for another frame of reference",
    ),
    "no structures": (a_structure_set(StructureSetROISequence=[]), "the mask names no structure"),
    "no contours": (
        a_structure_set(ROIContourSequence=[]),
        "the image has no mask of ball; missing=empty would count it as empty",
    ),
    "a contour of numbers that are no points": (points(7), "ContourData is not a list of points"),
    "a contour far from each slice": (between_slices, "an outline of ball is outside the series"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_case_is_told_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    root = patients(tmp_path / "set")
    change, why = BAD[name]
    change(root / "P2")
    options = {**PATTERNS, "structures": "ball,ring"}
    _, cases, rejected = read(root, **options)
    assert len(cases) == 3
    (bad,) = rejected
    assert why in bad.reason
    assert ROOT not in bad.reason
    assert "who" not in bad.reason
    assert "P2" in bad.where
    assert (min((root / "P2" / "CT").iterdir()).name in bad.where) == (change is damaged)
    report = prepare(
        KINDS["pairs"], root, tmp_path / "out", options=options, key=b"k", workers=1, strict=False
    )
    assert (report.n_cases, len(report.rejected)) == (3, 1)


def test_of_several_series_one_is_chosen(tmp_path: Path) -> None:
    """By what the mask was drawn on, by words of the description, or by size."""
    root = patients(tmp_path)
    scout = root / "P2" / "CT" / "scout"
    paths = write_series(scout, series="77", seed=8, PatientID="who2", SeriesDescription="A scout")
    for path in paths[2:]:
        path.unlink()
    (root / "P2" / "CT").rename(root / "P2" / "both")
    options = {**PATTERNS, "images": "*/both"}
    wanted = np.maximum(stored(2).astype(int) - 1024, -1000)
    for more in ({}, {"series": "AXIAL"}, {"series": "largest"}):
        _, cases, rejected = read(root, **options, **more)
        (case,) = cases.values()
        assert rejected == []
        np.testing.assert_array_equal(case.image[0], turned(wanted.astype(np.int16)))
    for name, why in (
        ("coronal", "no series of the folder has 'coronal'"),
        ("a", "match series=a"),
    ):
        with pytest.raises(BadSource, match=why) as told:
            read(root, **options, series=name)
        assert name == "a" or "CT 'made axial', 6 files; CT 'A scout', 2 files" in str(told.value)


def test_the_same_files_twice_are_one_series(tmp_path: Path) -> None:
    root = patients(tmp_path)
    shutil.copytree(root / "P1" / "CT", root / "P1" / "CT" / "copy")
    _, cases, rejected = read(root, **PATTERNS)
    assert rejected == []
    assert len(cases) == 4 or list(cases) == [f"P{n}/CT" for n in range(4)]


def test_no_name_of_a_header_reaches_the_store(tmp_path: Path) -> None:
    prepare(
        KINDS["pairs"],
        patients(tmp_path / "set"),
        tmp_path / "out",
        options=PATTERNS,
        key=b"k",
        workers=1,
        strict=True,
    )
    held = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    for word in ("who1", "MADE-7", "Nobody", ROOT, "20200102", "P1/CT"):
        assert word.encode() not in held


def test_a_series_without_a_patient_is_a_group_of_its_own(tmp_path: Path) -> None:
    root = patients(tmp_path, 2)
    for path in root.rglob("CT/*.dcm"):
        data = pydicom.dcmread(path)
        data.PatientID = ""
        data.save_as(path)
    survey, cases, _ = read(root, **PATTERNS)
    assert survey.meta.group_source == "case"
    assert [case.group for case in cases.values()] == ["P0/CT", "P1/CT"]


def test_a_table_may_name_patients_by_their_id(tmp_path: Path) -> None:
    root = patients(tmp_path)
    lines = [f"who{n},fam{n // 2},{'train' if n else 'test'}" for n in range(4)]
    (root / "t.csv").write_text("\n".join(["id,family,part", *lines]))
    options = {**PATTERNS, "csv": "t.csv", "image": "id", "group": "family", "split": "part"}
    _, cases, rejected = read(root, **options)
    assert rejected == []
    assert [case.group for case in cases.values()] == ["fam0", "fam0", "fam1", "fam1"]
    assert [case.split for case in cases.values()] == ["test", "train", "train", "train"]


def test_files_of_a_series_are_no_images(tmp_path: Path) -> None:
    root = patients(tmp_path, 2)
    with pytest.raises(BadSource, match=r"mask of a whole DICOM series, .* layout=dicom"):
        read(root, images="{patient}/CT/*.dcm", masks="{patient}/seg.dcm")


def test_settings_that_cannot_be_meant(tmp_path: Path) -> None:
    root = patients(tmp_path, 2)
    for path in root.rglob("seg.dcm"):
        path.unlink()
    with pytest.raises(BadSource, match=r"holds 2 DICOM series of images, and no mask for any"):
        read(root, layout="dicom")
    with pytest.raises(BadSource, match="no file under"):
        read(root, images="*/MR", masks="{folder}/seg.dcm")
    write_series(root / "P1" / "MR", series="66", seed=5, Modality="MR", RescaleSlope=None)
    for number in (0, 1):
        retargeted("highdicom_binary.dcm", root / f"P{number}" / "seg.dcm", series=f"5{number}")
    retargeted("highdicom_binary.dcm", root / "P1" / "seg2.dcm", series="66")
    with pytest.raises(BadSource, match="the series are CT, MR: set the scale of all"):
        read(root, layout="dicom", structures="ball")
    survey, cases, _ = read(root, layout="dicom", structures="ball", modality="mri")
    assert (len(cases), survey.meta.normalize) == (3, "case")


# ---- several readers --------------------------------------------------------------------------


def moved_segmentation(path: Path, pixels: int, *, series: str, without: str = "") -> None:
    """Write highdicom's segmentation as drawn so many pixels along its rows from where it was."""
    retargeted("highdicom_binary.dcm", path, series=series)
    data = pydicom.dcmread(path)
    frames = np.roll(data.pixel_array, pixels, axis=2)
    data.PixelData = pack_bits(frames.astype(np.uint8))
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.41{pixels}.{series}"
    data.SeriesInstanceUID = f"{ROOT}.42{pixels}.{series}"
    for segment in data.SegmentSequence:
        if segment.SegmentLabel == without:
            segment.SegmentLabel = "something else"
    data.save_as(path)


def moved_outlines(path: Path, pixels: int, *, series: str) -> None:
    """Write rt-utils' structure set as drawn so many pixels along the rows from where it was."""
    retargeted("rt_utils.dcm", path, series=series)
    data = pydicom.dcmread(path)
    for roi in data.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            # A tenth less than whole pixels: no outline then runs through centres of voxels.
            points += (pixels - 0.1) * SQUARE_PIXELS["PixelSpacing"][1] * ACROSS
            contour.ContourData = [round(mm, 6) for mm in points.ravel().tolist()]
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.43{pixels}.{series}"
    data.SeriesInstanceUID = f"{ROOT}.44{pixels}.{series}"
    data.save_as(path)


SHIFTS = (0, 1, 2)


def moved(name: str) -> Any:
    """Return the readers' masks (3, Z, Y, X) of a structure, by numpy alone."""
    return np.stack([np.roll(truth()[name], pixels, axis=2) for pixels in SHIFTS])


@pytest.mark.parametrize("rule", ["majority", "staple"])
def test_segmentations_of_several_readers(tmp_path: Path, rule: str) -> None:
    for number in range(3):
        top = tmp_path / f"P{number}"
        write_series(top / "CT", series=f"6{number}", seed=number, PatientID=f"who{number}")
        for pixels in SHIFTS:
            moved_segmentation(top / f"reader {pixels}.dcm", pixels, series=f"6{number}")
    options = {"layout": "dicom", "several": rule}
    survey, cases, rejected = read(tmp_path, **options)
    assert (len(cases), rejected) == (3, [])
    assert survey.meta.options["several"] == rule
    for name in ("ball", "ring"):
        # Of three the middle one is what two agree on, and whom both others are nearest to.
        wanted = moved(name).sum(axis=0) >= 2
        if rule == "staple":
            wanted = staple(moved(name).astype(np.uint8)) > 0
        for case in cases.values():
            inside = np.isin(case.mask, survey.meta.regions[name])
            np.testing.assert_array_equal(inside, turned(wanted.astype(np.uint8)) > 0)
    # The same by a pattern of folders.
    patterns = {"images": "*/CT", "masks": "{folder}/reader*.dcm", "overlap": "regions"}
    _, again, _ = read(tmp_path, several=rule, **patterns)
    for one, other in zip(cases.values(), again.values(), strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
    with pytest.raises(BadSource, match=r"3 files for its mask of ball; several=union would"):
        read(tmp_path, layout="dicom")


def test_structure_sets_and_segmentations_are_readers_alike(tmp_path: Path) -> None:
    """Two outlines and a segmentation, each moved by another way: two of those read one by one."""
    for number in range(2):
        top = tmp_path / f"P{number}"
        write_series(
            top / "CT",
            series=f"8{number}",
            seed=number,
            PatientID=f"who{number}",
            **SQUARE_PIXELS,
        )
        for pixels in SHIFTS[:2]:
            moved_outlines(top / f"outlines {pixels}.dcm", pixels, series=f"8{number}")
        path = top / "voxels.dcm"
        moved_segmentation(path, 2, series=f"8{number}")
        data = pydicom.dcmread(path)
        measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.PixelSpacing = SQUARE_PIXELS["PixelSpacing"]
        data.save_as(path)
    survey, cases, rejected = read(tmp_path, layout="dicom", several="majority")
    assert (len(cases), rejected) == (2, [])
    alone = [
        read(tmp_path, images="*/CT", masks=f"{{folder}}/{file}.dcm", overlap="regions")
        for file in ("outlines 0", "outlines 1", "voxels")
    ]
    for name in ("ball", "ring"):
        drawn = turned(truth()[name].astype(np.uint8)).sum()
        for key, case in cases.items():
            votes = [np.isin(of[key].mask, how.meta.regions[name]) for how, of, _ in alone]
            inside = np.isin(case.mask, survey.meta.regions[name])
            np.testing.assert_array_equal(inside, np.sum(votes, axis=0) >= 2)
            assert len({vote.tobytes() for vote in votes}) == 3
            assert 0.8 * drawn < inside.sum() < drawn


def test_a_reader_who_drew_one_structure_alone(tmp_path: Path) -> None:
    top = tmp_path / "P0"
    write_series(top / "CT", series="90", PatientID="who")
    for pixels in SHIFTS:
        without = "" if pixels == 1 else "ring"
        moved_segmentation(top / f"{pixels}.dcm", pixels, series="90", without=without)
    options = {"layout": "dicom", "several": "majority", "structures": "ball,ring"}
    with pytest.raises(
        BadSource,
        match=r"3 readers' masks of ball but 1 of ring; missing=empty would count missing",
    ):
        read(tmp_path, **options)
    survey, cases, rejected = read(tmp_path, **options, missing="empty")
    assert rejected == []
    (case,) = cases.values()
    assert not np.isin(case.mask, survey.meta.regions["ring"]).any()
    wanted = turned((moved("ball").sum(axis=0) >= 2).astype(np.uint8)) > 0
    np.testing.assert_array_equal(np.isin(case.mask, survey.meta.regions["ball"]), wanted)
    # Asked of the ring alone there is one who drew it.
    _, cases, _ = read(tmp_path, **{**options, "structures": "ring"})
    (case,) = cases.values()
    np.testing.assert_array_equal(case.mask > 0, turned(moved("ring")[1].astype(np.uint8)) > 0)
