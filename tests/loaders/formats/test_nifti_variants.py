"""NIfTI files as people have them: what other readers put right, odd axes, scaled labels, NaN."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from loaders.cases import BadCase, BadSource
from loaders.datasets.table import KINDS
from loaders.formats.nifti import (
    NiftiError,
    found_labels,
    read_case,
    read_header,
    read_voxels,
    stem,
    without_copies,
)
from loaders.store import prepare as store_prepare
from loaders.store.read import open_store

KEY = b"a secret"
SHAPE = (4, 5, 6)
RAS = np.eye(4)
VOXELS = np.random.default_rng(0).integers(0, 250, SHAPE).astype(np.int16)
LABEL = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)


def save(path: Path, voxels: Any, affine: Any = RAS, **header: Any) -> Path:
    """Write a file that has a qform alone; then set fields of its header, byte by byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_qform(affine, 1)
    image.header.set_sform(None, 0)
    raw = image.to_bytes()
    fields = np.frombuffer(raw[:348], nib.nifti1.header_dtype).copy()
    for name, value in header.items():
        if isinstance(value, dict):
            for place, number in value.items():
                fields[name][0, place] = number
        else:
            fields[name] = value
    raw = fields.tobytes() + raw[348:]
    path.write_bytes(gzip.compress(raw) if path.name.lower().endswith(".gz") else raw)
    return path


def read(path: Path) -> tuple[Any, Any]:
    header = read_header(path)
    return read_voxels(path, header), header.affine


# ---- headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("qfac", [0, 3, 0.5])
@pytest.mark.parametrize("lengths", [(2, 3, 4), (-2, 3, 4), (2, -3, -4)])
def test_a_qform_is_read_as_nibabel_reads_it(
    tmp_path: Path, qfac: float, lengths: Sequence[float]
) -> None:
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    affine = np.eye(4)
    affine[:3, :3] = np.vstack([turn, [0, 0, 1]]) * np.abs(lengths)
    affine[:3, 3] = 7, -8, 9
    written = {0: qfac, **dict(enumerate(lengths, start=1))}
    path = save(tmp_path / "a.nii", VOXELS, affine, pixdim=written)
    known = nib.load(path)
    voxels, found = read(path)
    np.testing.assert_allclose(found, known.affine, atol=1e-6)
    np.testing.assert_allclose(found, affine, atol=1e-5)
    np.testing.assert_array_equal(voxels, np.asarray(known.dataobj))


def test_a_qfac_that_readers_take_in_two_ways_is_refused(tmp_path: Path) -> None:
    """-3 is 1 for nibabel and -1 for nifti1_io.c: the slices would run the other way."""
    with pytest.raises(NiftiError, match="affine is not valid"):
        read(save(tmp_path / "a.nii", VOXELS, pixdim={0: -3}))


@pytest.mark.parametrize("decimals", [4, 5, 6, 7])
def test_a_quaternion_a_rounding_too_long(tmp_path: Path, decimals: int) -> None:
    """Half a turn round an axis n, whose matrix is 2 n n' - 1: the fourth number is 0."""
    axis = np.array([1, 2, 2]) / 3
    rounded = np.ceil(axis * 10**decimals) / 10**decimals
    assert (rounded**2).sum() > 1
    path = save(
        tmp_path / "a.nii",
        VOXELS,
        np.diag([2.0, 3.0, 4.0, 1.0]),
        **dict(zip(("quatern_b", "quatern_c", "quatern_d"), rounded, strict=True)),
    )
    wanted = (2 * np.outer(axis, axis) - np.eye(3)) * (2, 3, 4)
    np.testing.assert_allclose(read(path)[1][:3, :3], wanted, atol=10.0 ** (1 - decimals))


def test_a_quaternion_far_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NiftiError, match="affine is not valid"):
        read(save(tmp_path / "a.nii", VOXELS, quatern_b=1.01))


@pytest.mark.parametrize("unit", [4, 7, 24, 200, 255])
def test_unknown_units_are_millimetres(tmp_path: Path, unit: int) -> None:
    path = save(tmp_path / "a.nii", VOXELS, np.diag([2.0, 3.0, 4.0, 1.0]), xyzt_units=unit)
    known = nib.load(path)
    np.testing.assert_array_equal(read(path)[1], known.affine)


def test_metres_beside_a_unit_of_time_are_metres(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", VOXELS, np.diag([0.002, 0.003, 0.004, 1]), xyzt_units=1 + 16)
    np.testing.assert_allclose(np.diag(read(path)[1]), (2, 3, 4, 1), rtol=1e-6)


# ---- axes -------------------------------------------------------------------------------------


def test_five_axes_without_a_time_are_channels(tmp_path: Path) -> None:
    voxels = np.random.default_rng(2).integers(0, 99, (*SHAPE, 1, 3)).astype(np.int16)
    image, label = save(tmp_path / "i.nii.gz", voxels), save(tmp_path / "l.nii.gz", LABEL)
    case = read_case([image], label, key="k", group="k", label_values=[0, 1, 2])
    known = np.asarray(nib.load(image).dataobj)
    np.testing.assert_array_equal(case.image, known[:, :, :, 0].transpose(3, 2, 1, 0))


def test_five_axes_with_a_time_are_refused(tmp_path: Path) -> None:
    image = save(tmp_path / "i.nii", np.zeros((*SHAPE, 2, 3), np.int16))
    label = save(tmp_path / "l.nii", LABEL)
    with pytest.raises(BadCase, match="the image has 5 axes"):
        read_case([image], label, key="k", group="k", label_values=[0, 1, 2])


@pytest.mark.parametrize("third", [0, 1, 5])
def test_two_axes_are_a_volume_of_one_slice(tmp_path: Path, third: float) -> None:
    affine = np.diag([-2.0, 3.0, 1.0, 1.0])
    image = save(tmp_path / "i.nii", VOXELS[:, :, 0], affine, pixdim={3: third})
    label = save(tmp_path / "l.nii", LABEL[:, :, 0], affine, pixdim={3: third})
    case = read_case([image], label, key="k", group="k", label_values=[0, 1, 2])
    known = nib.load(image)
    # As the left-right axis runs the other way, it is turned.
    np.testing.assert_array_equal(case.image[0, 0], np.asarray(known.dataobj)[::-1].T)
    assert case.mask is not None
    np.testing.assert_array_equal(case.mask[0], LABEL[::-1, :, 0].T)
    assert case.spacing == (third or 1, 3, 2)


def test_a_length_of_0_along_several_voxels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NiftiError, match="affine"):
        read(save(tmp_path / "a.nii", VOXELS, pixdim={3: 0}))


# ---- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "slope", "intercept"),
    [
        (LABEL * 65535.0 / 2, 2.00003 / 65535, 0.0),
        (LABEL.astype(float), 1.000015, 0.0),
        (LABEL * 2.0 + 3, 0.5, -1.49999),
    ],
)
def test_labels_stored_by_a_scaling_are_whole(
    tmp_path: Path, stored: Any, slope: float, intercept: float
) -> None:
    """1 reads as 1.000015, as nibabel reads it too."""
    image = save(tmp_path / "i.nii", VOXELS)
    label = save(
        tmp_path / "l.nii", stored.round().astype(np.uint16), scl_slope=slope, scl_inter=intercept
    )
    known = nib.load(label).get_fdata()
    assert (known != np.rint(known)).any()
    case = read_case([image], label, key="k", group="k", label_values=[0, 1, 2])
    np.testing.assert_array_equal(case.mask, np.rint(known).T)
    np.testing.assert_array_equal(case.mask, LABEL.T)
    assert found_labels([label]) == [0, 1, 2]


@pytest.mark.parametrize("off", [0.5, 0.01])
def test_an_interpolated_label_is_refused(tmp_path: Path, off: float) -> None:
    label = LABEL.astype(np.float32)
    label[1, 1, 1] += off
    image, path = save(tmp_path / "i.nii", VOXELS), save(tmp_path / "l.nii", label)
    with pytest.raises(BadCase, match="numbers that are not whole"):
        read_case([image], path, key="k", group="k", label_values=[0, 1, 2])


# ---- choices ----------------------------------------------------------------------------------


def set_of(folder: Path, image: Any, label: Any, affine: Any = RAS) -> Path:
    for number in range(2):
        save(folder / f"c{number}_image.nii.gz", image)
        save(folder / f"c{number}_label.nii.gz", label, affine)
    return folder


def prepared(source: Path, out: Path, **options: Any) -> tuple[Any, list[str]]:
    report = store_prepare.prepare(
        KINDS["msd"], source, out, options=options, key=KEY, strict=False
    )
    return open_store(out), [bad.reason for bad in report.rejected]


def test_how_far_a_label_may_lie_apart_is_a_setting(tmp_path: Path) -> None:
    moved = np.eye(4)
    moved[0, 3] = 0.3
    source = set_of(tmp_path / "set", VOXELS, LABEL, moved)
    with pytest.raises(BadSource, match=r"0\.3 mm away from the image, 0\.3 voxels; shift allows"):
        prepared(source, tmp_path / "a", modality="mri")
    with pytest.raises(BadSource, match=r"0\.3 voxels; shift allows 0\.25"):
        prepared(source, tmp_path / "b", modality="mri", shift="0.25")
    store, rejected = prepared(source, tmp_path / "c", modality="mri", shift="0.35")
    assert (len(store), rejected) == (2, [])
    np.testing.assert_array_equal(store.mask(0), LABEL.T)
    assert store.meta.options["shift"] == 0.35
    with pytest.raises(BadSource, match="msd option shift is 2; it must be 0 to 1 voxels"):
        prepared(source, tmp_path / "d", modality="mri", shift="2")


@pytest.mark.parametrize(("modality", "filled"), [("ct", -1000), ("mri", 0)])
def test_nan_outside_the_body_by_choice(tmp_path: Path, modality: str, filled: float) -> None:
    image, label = VOXELS.astype(np.float32) + 1, LABEL.astype(np.float32)
    outside = np.zeros(SHAPE, bool)
    outside[0] = outside[:, -1] = True
    image[outside] = label[outside] = np.nan
    source = set_of(tmp_path / "set", image, label)
    with pytest.raises(BadSource, match="NaN"):
        prepared(source, tmp_path / "a", modality=modality, labels="a,b,c")
    store, rejected = prepared(source, tmp_path / "b", modality=modality, nan="fill")
    assert (len(store), rejected) == (2, [])
    np.testing.assert_array_equal(store.image(0)[0], np.where(outside, filled, image).T)
    np.testing.assert_array_equal(store.mask(0), np.where(outside, 0, LABEL).T)
    with pytest.raises(BadSource, match="msd option nan is 'zero'; it must be refuse or fill"):
        prepared(source, tmp_path / "c", modality=modality, nan="zero", labels="a,b,c")


def test_infinity_is_never_filled(tmp_path: Path) -> None:
    image = VOXELS.astype(np.float32)
    image[0, 0, 0] = np.inf
    source = set_of(tmp_path / "set", image, LABEL)
    with pytest.raises(BadSource, match="NaN or infinity"):
        prepared(source, tmp_path / "a", modality="mri", nan="fill")


# ---- names ------------------------------------------------------------------------------------


def test_endings_in_capitals_are_endings(tmp_path: Path) -> None:
    assert stem(Path("Case.NII.GZ")) == "Case"
    assert stem(Path("Case.Nii")) == "Case"
    for name in ("a.NII.GZ", "a.NII", "b.nii.GZ"):
        np.testing.assert_array_equal(read(save(tmp_path / name, VOXELS))[0], VOXELS)


def test_what_a_file_is_packed_by_is_told_by_its_bytes(tmp_path: Path) -> None:
    packed = save(tmp_path / "a.nii.gz", VOXELS).read_bytes()
    (tmp_path / "b.nii").write_bytes(packed)
    (tmp_path / "c.nii.gz").write_bytes(gzip.decompress(packed))
    for name in ("b.nii", "c.nii.gz"):
        np.testing.assert_array_equal(read(tmp_path / name)[0], VOXELS)
    header = read_header(tmp_path / "c.nii.gz")
    (tmp_path / "c.nii.gz").write_bytes(gzip.decompress(packed)[:-1])
    with pytest.raises(NiftiError, match="is truncated"):
        read_voxels(tmp_path / "c.nii.gz", header)
    with pytest.raises(NiftiError, match="is truncated"):
        read_header(tmp_path / "c.nii.gz")


def test_a_file_beside_its_packed_self_is_one(tmp_path: Path) -> None:
    source = set_of(tmp_path / "set", VOXELS, LABEL)
    for path in sorted(source.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    store, rejected = prepared(source, tmp_path / "a", modality="mri")
    assert (len(store), rejected) == (2, [])
    # Another picture under the same name: which is meant is not known.
    save(source / "c0_image.nii", VOXELS + 1)
    store, rejected = prepared(source, tmp_path / "b", modality="mri")
    assert (len(store), rejected) == (1, ["there are 2 files for the image"])
    (source / "c1_label.nii").write_bytes(b"\x1f\x8bdamaged")
    with pytest.raises(BadSource, match="there are 2 files for the"):
        prepared(source, tmp_path / "c", modality="mri")


def test_copies_in_two_folders_are_not_looked_at(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a" / "x.nii", VOXELS), save(tmp_path / "b" / "x.nii", VOXELS)]
    assert without_copies(paths) == paths


def brats_2017(folder: Path, case: str) -> None:
    for number, role in enumerate(("t1", "t1ce", "t2", "flair")):
        save(folder / case / f"{case}_{role}.nii.gz", VOXELS + number)
    save(folder / case / f"{case}_seg.nii.gz", np.where(LABEL == 2, 4, LABEL))


def test_brats_2017_with_files_that_were_unpacked(tmp_path: Path) -> None:
    """Names as in MICCAI_BraTS17_Data_Training: Brats17_TCIA_101_1_flair.nii.gz."""
    for case in ("Brats17_2013_10_1", "Brats17_TCIA_101_1"):
        brats_2017(tmp_path / "set" / "HGG", case)
    for path in sorted((tmp_path / "set").rglob("*_t1.nii.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    report = store_prepare.prepare(
        KINDS["brats"], tmp_path / "set", tmp_path / "s", options={}, key=KEY, strict=False
    )
    store = open_store(tmp_path / "s")
    assert (len(store), report.rejected) == (2, ())
    assert store.meta.channels == ("t1n", "t1c", "t2w", "t2f")
    for channel in range(4):
        np.testing.assert_array_equal(store.image(0)[channel], (VOXELS + channel).T)
    np.testing.assert_array_equal(store.mask(0), np.where(LABEL == 2, 3, LABEL).T)
    # The same patients once more under the names of 2018.
    brats_2017(tmp_path / "set" / "HGG", "Brats18_2013_10_1")
    with pytest.raises(BadSource, match="cases of 2017 and 2018: each year repeats patients"):
        KINDS["brats"].survey(tmp_path / "set", {})
