"""A series of any modality as a volume: values and places, held against pydicom and geometry."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_rescale

from loaders.cases import BadCase
from loaders.formats.nifti import to_ras
from loaders.formats.scans.scan import read_scan
from tests.loaders.formats.scans.write import (
    ACROSS,
    DOWN,
    NORMAL,
    ORIGIN,
    SHAPE,
    SPACING,
    positions,
    stored,
    write_series,
)


def test_ct_is_in_hounsfield_units_and_air_is_the_lowest(tmp_path: Path) -> None:
    scan = read_scan(write_series(tmp_path), "x")
    wanted = np.maximum(stored().astype(int) - 1024, -1000)
    np.testing.assert_array_equal(scan.volume.load().T, wanted)
    assert scan.volume.load().dtype == np.int16


def test_the_affine_is_that_of_itk(tmp_path: Path) -> None:
    """SimpleITK 2.5 gives these numbers for the same files, in ITK's own axes (L, P, S)."""
    scan = read_scan(write_series(tmp_path), "x")
    assert scan.volume.shape == (24, 20, 6)
    direction = np.array([[0.8, 0.0, -0.6], [0.6, 0.0, 0.8], [0.0, -1.0, 0.0]])
    np.testing.assert_allclose(scan.affine[:3, :3], direction * (0.9, 0.7, 2.5), atol=1e-9)
    np.testing.assert_allclose(scan.affine[:3, 3], (-31.5, 12.25, 40.0))
    # Right, anterior, superior: the first two axes change their sign.
    np.testing.assert_allclose(scan.volume.affine[:3], np.diag([-1, -1, 1]) @ scan.affine[:3])
    _, spacing = to_ras(scan.volume.load(), scan.volume.affine)
    assert spacing == (0.9, 2.5, 0.7)


def test_simpleitk_reads_the_same(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK", reason="needs SimpleITK (pip install .[tests])")
    scan = read_scan(write_series(tmp_path), "x")
    image = itk.ReadImage(itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    values = np.maximum(itk.GetArrayFromImage(image), -1000)
    np.testing.assert_array_equal(scan.volume.load().T, values)
    np.testing.assert_allclose(scan.affine[:3, 3], image.GetOrigin(), atol=1e-6)
    turned = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    np.testing.assert_allclose(scan.affine[:3, :3], turned, atol=1e-6)


def test_points_of_the_patient_are_found_again(tmp_path: Path) -> None:
    scan = read_scan(write_series(tmp_path), "x")
    voxel = np.random.default_rng(1).uniform(-2, 25, (50, 3))
    steps = [ACROSS * SPACING[2], DOWN * SPACING[1], NORMAL * SPACING[0]]
    np.testing.assert_allclose(scan.voxels_of(ORIGIN + voxel @ np.array(steps)), voxel, atol=1e-6)


def test_uneven_slices_are_where_their_headers_say(tmp_path: Path) -> None:
    """Positions rounded to 0.1 mm, as some writers have them."""
    heights = [0.0, 2.5, 5.1, 7.5, 10.0, 12.6]
    for n, height in enumerate(heights):
        write_series(tmp_path / "all")
        path = tmp_path / "all" / f"{(5 * n) % 6:03d}.dcm"
        data = pydicom.dcmread(path)
        data.ImagePositionPatient = [round(float(mm), 6) for mm in ORIGIN + height * NORMAL]
        (tmp_path / "set").mkdir(exist_ok=True)
        data.save_as(tmp_path / "set" / path.name)
    scan = read_scan(sorted((tmp_path / "set").iterdir()), "x")
    places = np.array([ORIGIN + height * NORMAL for height in (*heights, -2.52, 3.8)])
    np.testing.assert_allclose(scan.voxels_of(places)[:, 2], [0, 1, 2, 3, 4, 5, -1, 1.5], atol=1e-4)


@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_others_keep_their_values(tmp_path: Path, modality: str) -> None:
    """MRI mostly has neither slope nor intercept; PET has its own slope in each slice."""
    without = {"RescaleSlope": None, "RescaleIntercept": None}
    paths = write_series(tmp_path, Modality=modality, **(without if modality == "MR" else {}))
    if modality == "PT":
        for n, path in enumerate(paths):
            data = pydicom.dcmread(path)
            data.RescaleSlope, data.RescaleIntercept = 0.37 + n / 7, 0
            data.save_as(path)
    scan = read_scan(paths, "x")
    wanted = [apply_rescale(data.pixel_array, data) for data in map(pydicom.dcmread, paths)]
    np.testing.assert_allclose(scan.volume.load().T, wanted, rtol=1e-6)
    if modality == "MR":
        assert scan.volume.load().dtype == np.uint16
        np.testing.assert_array_equal(scan.volume.load().T, stored())


def test_padding_of_another_modality_becomes_its_lowest(tmp_path: Path) -> None:
    paths = write_series(tmp_path, Modality="MR", PixelPaddingValue=int(stored()[3, 4, 5]))
    values = read_scan(paths, "x").volume.load().T
    slice_ = stored()[3].astype(int)
    padded = slice_ == slice_[4, 5]
    assert (values[3][padded] == slice_[~padded].min() - 1024).all()
    np.testing.assert_array_equal(values[3][~padded], slice_[~padded] - 1024)


def test_ct_without_units_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, RescaleSlope=None)
    with pytest.raises(BadCase, match="RescaleSlope is missing"):
        read_scan(paths, "x")


def test_a_missing_slice_is_told(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    with pytest.raises(BadCase, match="1 slices are missing: the series has gaps"):
        read_scan([*paths[:3], *paths[4:]], "x")
    assert len(positions()) == SHAPE[0]
