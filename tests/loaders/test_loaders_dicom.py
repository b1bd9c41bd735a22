"""DICOM series to volumes: order, spacing, values in every transfer syntax, and what is refused."""

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from loaders.cases import BadCase
from loaders.dicom import list_series, read_series

WINDOW = (-1000, 400)
COMPRESSED = (RLELossless, JPEGLSLossless, JPEG2000Lossless)
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    *COMPRESSED,
)


def write_slice(path, stored, *, z=0.0, syntax=ExplicitVRLittleEndian, **fields):
    """Write one CT slice; `fields` overrule its elements, None leaves one out."""
    little = syntax != ExplicitVRBigEndian
    signed = stored.dtype.kind == "i"
    elements = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"1.2.3.{zlib.crc32(path.stem.encode())}",
        "SeriesInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2",
        "PatientID": "someone",
        "PatientName": "Some^One",
        "Modality": "CT",
        "SliceThickness": 7.0,
        "ImagePositionPatient": [-10.0, -20.0, z],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.7, 0.8],
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(signed),
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "PixelData": stored.astype(stored.dtype.newbyteorder("<" if little else ">")).tobytes(),
        **fields,
    }
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax in COMPRESSED else syntax
    for name, value in elements.items():
        if value is not None:
            setattr(data, name, value)
    data["PixelData"].VR = "OW"
    if syntax in COMPRESSED:
        data.compress(syntax, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder, array, *, spacing=2.5, start=-50.0, **fields):
    folder.mkdir(exist_ok=True)
    return [
        write_slice(folder / f"{i:03d}.dcm", pixels, z=start + spacing * i, **fields)
        for i, pixels in enumerate(array)
    ]


def stored_values(dtype, shape=(4, 64, 72), seed=0):
    low = -2000 if np.dtype(dtype).kind == "i" else 0
    return np.random.default_rng(seed).integers(low, 3000, shape).astype(dtype)


def read(paths, **kwargs):
    return read_series(paths, window=kwargs.pop("window", WINDOW), where="here")


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_every_transfer_syntax_gives_the_same_bits(tmp_path, syntax, dtype):
    stored = stored_values(dtype)
    volume = read(write_series(tmp_path, stored, syntax=syntax))
    expected = np.clip(stored.astype(int) - 1024, *WINDOW)
    np.testing.assert_array_equal(volume.array, expected)
    assert volume.array.dtype == np.int16


def test_slices_are_ordered_by_position_whatever_their_names_and_numbers(tmp_path):
    stored = stored_values("int16", (6, 8, 8))
    names = random.Random(0).sample(range(6), 6)
    for place, name in enumerate(names):
        write_slice(
            tmp_path / f"{name}.dcm",
            stored[place],
            z=-100 + 1.25 * place,
            InstanceNumber=random.Random(place).randint(1, 99),
        )
    volume = read(sorted(tmp_path.iterdir()))
    np.testing.assert_array_equal(volume.array, np.clip(stored.astype(int) - 1024, *WINDOW))
    assert volume.spacing == pytest.approx((1.25, 0.7, 0.8))
    assert sorted(volume.slices.values()) == list(range(6))


def test_the_order_follows_the_normal_of_the_slices_and_not_z(tmp_path):
    """Prone or head-first the other way: rows run against x, so the normal points to the feet."""
    stored = stored_values("int16", (4, 8, 8))
    paths = write_series(tmp_path, stored, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(
        read(paths).array, np.clip(stored[::-1].astype(int) - 1024, *WINDOW)
    )


def test_oblique_slices_have_their_distance_along_the_normal(tmp_path):
    angle = np.deg2rad(20)
    down = [0.0, np.cos(angle), np.sin(angle)]
    normal = np.array([0.0, -np.sin(angle), np.cos(angle)])
    paths = [
        write_slice(
            tmp_path / f"{i}.dcm",
            pixels,
            z=float(i),
            ImageOrientationPatient=[1.0, 0.0, 0.0, *(round(v, 6) for v in down)],
            ImagePositionPatient=[round(v, 4) for v in 3.0 * i * normal],
        )
        for i, pixels in enumerate(stored_values("int16"))
    ]
    assert read(paths).spacing[0] == pytest.approx(3.0, abs=1e-3)


def test_rounded_positions_are_still_even(tmp_path):
    stored = stored_values("int16", (9, 4, 4))
    for i, pixels in enumerate(stored):
        write_slice(tmp_path / f"{i}.dcm", pixels, z=round(0.625 * i, 2))
    assert read(sorted(tmp_path.iterdir())).spacing[0] == pytest.approx(0.625, abs=0.01)


@pytest.mark.parametrize("lost", [1, 4, 7])
def test_a_missing_slice_is_found(tmp_path, lost):
    paths = write_series(tmp_path, stored_values("int16", (9, 4, 4)))
    with pytest.raises(BadCase, match="1 slices are missing") as error:
        read(paths[:lost] + paths[lost + 1 :])
    assert error.value.where == "here"


def test_two_slices_at_one_position_are_found(tmp_path):
    paths = write_series(tmp_path / "a", stored_values("int16", (5, 4, 4)))
    paths.append(write_slice(tmp_path / "again.dcm", stored_values("int16", (4, 4)), z=-45.0))
    with pytest.raises(BadCase, match="1 slices lie where another one does"):
        read(paths)


def test_a_series_scanned_twice_over_is_found(tmp_path):
    paths = write_series(tmp_path / "a", stored_values("int16", (5, 4, 4)))
    other = stored_values("int16", (5, 4, 4), seed=1)
    for i, pixels in enumerate(other):
        uid = f"1.9.{i}"
        z = -50 + 2.5 * i
        paths.append(write_slice(tmp_path / f"b{i}.dcm", pixels, z=z, SOPInstanceUID=uid))
    with pytest.raises(BadCase, match="lie where another one does"):
        read(paths)


def test_uneven_and_lone_slices_are_refused(tmp_path):
    stored = stored_values("int16", (5, 4, 4))
    heights = (0.0, 2.0, 4.0, 6.5, 8.5)
    paths = [write_slice(tmp_path / f"{i}.dcm", stored[i], z=z) for i, z in enumerate(heights)]
    with pytest.raises(BadCase, match=r"2\.00 to 2\.50 mm apart: uneven"):
        read(paths)
    with pytest.raises(BadCase, match="one slice alone"):
        read(paths[:1])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"PixelSpacing": [0.7, 0.9]}, "differ in pixel spacing"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "differ in orientation"),
        ({"ImagePositionPatient": [-9.0, -20.0, -47.5]}, "shifted within their plane"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        ({"ImagePositionPatient": [1.0, 2.0]}, "ImagePositionPatient does not hold 3"),
        ({"PixelSpacing": [0.0, 0.7]}, "PixelSpacing is not positive"),
        ({"RescaleIntercept": None}, "RescaleIntercept is missing"),
        ({"RescaleSlope": None}, "RescaleSlope is missing"),
        ({"PhotometricInterpretation": "RGB"}, "neither MONOCHROME1 nor MONOCHROME2"),
        ({"NumberOfFrames": 3}, "several frames"),
        ({"Rows": 60000}, "Rows and Columns are 60000"),
        ({"PixelData": b"\0" * 20}, "cannot be decoded"),
        ({"ImageOrientationPatient": [1, 1, 0, 0, 1, 0]}, "differ in orientation"),
    ],
)
def test_a_slice_that_does_not_fit_is_refused(tmp_path, fields, reason):
    stored = stored_values("int16")
    paths = write_series(tmp_path, stored)
    paths[1] = write_slice(tmp_path / "odd.dcm", stored[1], z=-47.5, **fields)
    with pytest.raises(BadCase, match=reason):
        read(paths)


def test_mixed_sizes_are_refused(tmp_path):
    paths = write_series(tmp_path, stored_values("int16"))
    paths[1] = write_slice(tmp_path / "odd.dcm", stored_values("int16", (20, 20)), z=-47.5)
    with pytest.raises(BadCase, match="differ in shape"):
        read(paths)


def test_a_skewed_orientation_is_refused(tmp_path):
    skewed = [1, 0, 0, 0.5, 0.866, 0]
    with pytest.raises(BadCase, match="no pair of orthogonal unit vectors"):
        read(write_series(tmp_path, stored_values("int16"), ImageOrientationPatient=skewed))


@pytest.mark.parametrize("written", [-2000, 63536])
def test_padding_is_found_before_the_rescale(tmp_path, written):
    """-2000 and 63536 are the same 16 bits; rescaled they would be -3024 or 62512 HU."""
    stored = np.full((3, 8, 8), 1024, np.int16)
    stored[:, :2] = -2000
    paths = write_series(tmp_path, stored)
    for path in paths:
        data = pydicom.dcmread(path)
        element = pydicom.DataElement(0x00280120, "SS" if written < 0 else "US", written)
        data[0x00280120] = element
        data.save_as(path)
    # The window is so wide that -3024 would be kept.
    volume = read(paths, window=(-4000, 400))
    assert (volume.array[:, :2] == -4000).all()
    assert (volume.array[:, 2:] == 0).all()


def test_padding_may_be_a_range_and_may_look_like_tissue(tmp_path):
    stored = np.full((3, 8, 8), 1024, np.uint16)
    stored[0, 0, :4] = [1990, 2000, 2010, 2011]
    paths = write_series(
        tmp_path, stored, PixelPaddingValue=2010, PixelPaddingRangeLimit=1990, RescaleSlope=0.5
    )
    values = read(paths, window=(-2000, 2000)).array[0, 0, :5]
    np.testing.assert_array_equal(values, [-2000, -2000, -2000, -18, -512])


def test_each_slice_has_its_own_rescale_and_values_are_rounded(tmp_path):
    stored = np.full((3, 4, 4), 1001, np.uint16)
    for i, (slope, intercept) in enumerate([(1, -1024), (0.5, -500), (2, -2000)]):
        write_slice(
            tmp_path / f"{i}.dcm",
            stored[i],
            z=2.0 * i,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
        )
    volume = read(sorted(tmp_path.iterdir()))
    # 0.5 * 1001 - 500 = 0.5, rounded to even.
    assert [int(level[0, 0]) for level in volume.array] == [-23, 0, 2]


def test_monochrome1_changes_how_an_image_is_shown_and_no_density(tmp_path):
    stored = stored_values("int16")
    shown = read(write_series(tmp_path / "1", stored, PhotometricInterpretation="MONOCHROME1"))
    plain = read(write_series(tmp_path / "2", stored))
    np.testing.assert_array_equal(shown.array, plain.array)


def test_a_real_slice_has_the_values_that_pydicom_gives_it(shared_data, tmp_path):
    path = next((shared_data / "lidc_idri" / "dicom").glob("*.dcm"))
    data = pydicom.dcmread(path)
    expected = apply_modality_lut(data.pixel_array, data)
    x, y, z = data.ImagePositionPatient
    data.ImagePositionPatient = [x, y, z + 2.5]
    data.save_as(tmp_path / "next.dcm")
    volume = read([tmp_path / "next.dcm", path])
    np.testing.assert_array_equal(volume.array[0], np.clip(expected, *WINDOW))
    assert volume.spacing == (2.5, 0.703125, 0.703125)


def test_series_are_found_by_their_headers_in_any_layout(tmp_path):
    first = write_series(tmp_path / "a", stored_values("int16"))
    second = write_series(
        tmp_path / "b", stored_values("int16"), SeriesInstanceUID="1.2.4", PatientID="other"
    )
    first[0].rename(tmp_path / "no-ending")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "empty").write_bytes(b"")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    series, rejected = list_series(files, tmp_path)
    assert rejected == []
    assert {one.uid: (one.patient, len(one.paths)) for one in series} == {
        "1.2.3": ("someone", 4),
        "1.2.4": ("other", 4),
    }
    assert {one.modality for one in series} == {"CT"}
    assert not any(one.phantom for one in series)
    assert second[0] in {path for one in series for path in one.paths}


def test_a_file_that_lies_there_twice_counts_once(tmp_path):
    paths = write_series(tmp_path, stored_values("int16"))
    (tmp_path / "copy.dcm").write_bytes(paths[0].read_bytes())
    (series,), rejected = list_series(sorted(tmp_path.iterdir()), tmp_path)
    assert len(series.paths) == 4
    assert rejected == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"PatientID": "someone else"}, "have 2 PatientIDs"),
        ({"Modality": "MR"}, "have 2 Modalitys"),
    ],
)
def test_a_series_of_two_patients_is_refused(tmp_path, fields, reason):
    write_series(tmp_path, stored_values("int16"))
    write_slice(tmp_path / "odd.dcm", stored_values("int16", (4, 4)), z=99.0, **fields)
    series, (rejected,) = list_series(sorted(tmp_path.iterdir()), tmp_path)
    assert series == []
    assert reason in rejected.reason
    assert rejected.key == "1.2.3"


@pytest.mark.parametrize("missing", ["PatientID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_file_without_an_identity_is_refused(tmp_path, missing):
    write_slice(tmp_path / "odd.dcm", stored_values("int16", (4, 4)), **{missing: None})
    series, (rejected,) = list_series([tmp_path / "odd.dcm"], tmp_path)
    assert series == []
    assert rejected.reason == f"{missing} is missing"
    assert rejected.where == "odd.dcm"


def test_listing_reads_no_pixels(tmp_path, monkeypatch):
    """Half of each file is gone, pixels and all, and the series is listed."""
    paths = write_series(tmp_path, stored_values("int16", (4, 64, 64)))
    for path in paths:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(Dataset, "pixel_array", property(lambda _: pytest.fail("decoded")))
    (series,), rejected = list_series(paths, tmp_path)
    assert (len(series.paths), rejected) == (4, [])
    monkeypatch.undo()
    with pytest.raises(BadCase, match=r"Explicit VR Little Endian\) cannot be decoded"):
        read(paths)


def test_no_value_of_a_header_is_told(tmp_path, recwarn):
    """Values that break DICOM's rules make pydicom warn with the value, a name for one."""
    with pydicom.config.disable_value_validation():
        write_series(tmp_path, stored_values("int16"), PatientID="Doe" * 99, SOPInstanceUID="Doe.J")
        write_slice(
            tmp_path / "odd.dcm",
            stored_values("int16", (4, 4)),
            SeriesInstanceUID="9.9",
            PhotometricInterpretation="JOHN DOE",
        )
    paths = sorted(tmp_path.iterdir())
    list_series(paths, tmp_path)
    with pytest.raises(BadCase) as error:
        read(paths)
    assert "DOE" not in error.value.reason.upper()
    assert not [w for w in recwarn if "doe" in str(w.message).lower()]


def test_a_file_named_dcm_that_is_none_is_refused(tmp_path):
    for name, content in {"a.dcm": b"", "b.DCM": b"hello" * 99, "c.dcm": b"\0" * 128}.items():
        (tmp_path / name).write_bytes(content)
    series, rejected = list_series(tmp_path.iterdir(), tmp_path)
    assert series == []
    assert [one.where for one in rejected] == ["a.dcm", "b.DCM", "c.dcm"]
    assert {one.reason for one in rejected} == {
        "the file's name ends in .dcm and it is no DICOM file"
    }


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_damaged_file_is_a_bad_case_and_nothing_worse(tmp_path, syntax, data):
    path = tmp_path / "whole.dcm"
    if not path.exists():
        write_slice(path, stored_values("int16", (64, 64)), syntax=syntax)
    content = bytearray(path.read_bytes())
    size = len(content)
    # Half of the damage goes to the elements, which are the first 1200 bytes or so.
    place = st.one_of(st.integers(132, 1200), st.integers(0, size - 1))
    for where in data.draw(st.lists(place, max_size=4), label="overwritten"):
        content[min(where, size - 1)] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(size), place), label="cut at")
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(bytes(content[:end]))
    series, rejected = list_series([damaged], tmp_path)
    assert len(series) + len(rejected) <= 1
    with pytest.raises(BadCase):
        read([damaged])


def test_run_lengths_beyond_the_image_do_not_end_the_process(tmp_path):
    """They make the decoder of pylibjpeg-rle panic, which no `except Exception` catches."""
    paths = write_series(tmp_path, stored_values("int16", (2, 8, 8)), syntax=RLELossless)
    # Two planes, high bytes first, each a run of 100 sevens for 64 pixels.
    run = bytes([257 - 100, 7])
    frame = struct.pack("<16L", 2, 64, 66, *[0] * 13) + run + run
    for path in paths:
        data = pydicom.dcmread(path)
        data.PixelData = encapsulate([frame])
        data.save_as(path)
    assert (read(paths, window=(0, 2000)).array == 0x0707 - 1024).all()


def test_a_disk_that_fails_is_no_fault_of_the_case(tmp_path):
    paths = write_series(tmp_path, stored_values("int16"))
    with pytest.raises(OSError, match="No such file"):
        read([*paths, Path(tmp_path / "gone.dcm")])
