"""DICOM series to volumes: order, spacing, values in every transfer syntax, and what is refused."""

import random
import re
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from loaders.cases import BadCase
from loaders.formats.dicom.file import open_file, open_header, quiet
from loaders.formats.dicom.frames import open_frames
from loaders.formats.dicom.series import list_series, read_series
from loaders.formats.dicom.values.hounsfield import Meaning

WINDOW = (-1000, 400)
# pydicom's own test files, but for those that do not say that they are DICOM.
REAL = [
    path
    for path in sorted(Path(get_testdata_file("CT_small.dcm")).parent.glob("*.dcm"))
    if path.read_bytes()[128:132] == b"DICM"
]
COMPRESSED = (RLELossless, JPEGLSLossless, JPEG2000Lossless)
# A lossless stream is allowed in a lossy transfer syntax.
LOSSLESS_WITHIN = {JPEG2000: JPEG2000Lossless, JPEGLSNearLossless: JPEGLSLossless}
# Selection values of the predictor (ITU-T T.81 table H.1).
LOSSLESS_JPEG = {JPEGLosslessSV1: 1, JPEGLossless: 7}
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    *COMPRESSED,
    *LOSSLESS_WITHIN,
    *LOSSLESS_JPEG,
)


def lossless_jpeg(stored, selection):
    """Code 16-bit pixels as a lossless JPEG (ITU-T T.81 annex H), from the standard's words alone.

    Every category of difference gets a code of five bits.
    """
    values = stored.astype(np.int64) % 2**16
    left, above = np.roll(values, 1, axis=1), np.roll(values, 1, axis=0)
    guess = left if selection == 1 else (left + above) >> 1
    guess[0], guess[:, 0] = left[0], above[:, 0]
    guess[0, 0] = 2**15
    difference = (values - guess + 2**15 - 1) % 2**16 - (2**15 - 1)
    category = np.where(difference, np.floor(np.log2(np.abs(difference) + 0.5)) + 1, 0).astype(int)
    extra = np.where(difference < 0, difference + 2**category - 1, difference)
    # A difference of 2^15 has a category of its own and no bits behind it.
    extra_bits = np.where(category == 16, 0, category).ravel()
    lengths = 5 + extra_bits
    words = (category.ravel() << extra_bits) | np.where(extra_bits, extra.ravel(), 0)
    ends = lengths.cumsum()
    place = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    shift = np.repeat(lengths, lengths) - 1 - place
    bits = (np.repeat(words, lengths) >> shift) & 1
    scan = np.packbits(np.concatenate([bits, np.ones(-len(bits) % 8, int)]).astype(np.uint8))
    rows, columns = stored.shape
    frame_header = struct.pack(">HBHHBBBB", 11, 16, rows, columns, 1, 1, 0x11, 0)
    table = struct.pack(">HB", 2 + 1 + 16 + 17, 0) + bytes([0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    scan_header = struct.pack(">HBBBBBB", 8, 1, 1, 0, selection, 0, 0)
    return (
        b"\xff\xd8\xff\xc3"
        + frame_header
        + b"\xff\xc4"
        + table
        + b"\xff\xda"
        + scan_header
        + scan.tobytes().replace(b"\xff", b"\xff\x00")
        + b"\xff\xd9"
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
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
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
    coded = {**LOSSLESS_WITHIN, **{one: one for one in COMPRESSED}}
    packed = syntax in coded or syntax in LOSSLESS_JPEG
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if packed else syntax
    for name, value in elements.items():
        if value is not None:
            setattr(data, name, value)
    data["PixelData"].VR = "OW"
    if syntax in coded:
        data.compress(coded[syntax], generate_instance_uid=False)
    if syntax in LOSSLESS_JPEG:
        frames = stored if stored.ndim == 3 else [stored]
        data.PixelData = encapsulate([lossless_jpeg(f, LOSSLESS_JPEG[syntax]) for f in frames])
        data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = syntax
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
    with pytest.raises(BadCase, match="1 slices share a position with another"):
        read(paths)


def test_a_series_scanned_twice_over_is_found(tmp_path):
    paths = write_series(tmp_path / "a", stored_values("int16", (5, 4, 4)))
    other = stored_values("int16", (5, 4, 4), seed=1)
    for i, pixels in enumerate(other):
        uid = f"1.9.{i}"
        z = -50 + 2.5 * i
        paths.append(write_slice(tmp_path / f"b{i}.dcm", pixels, z=z, SOPInstanceUID=uid))
    with pytest.raises(BadCase, match="share a position with another"):
        read(paths)


def test_a_slice_that_is_there_twice_counts_once_and_goes_by_both_names(tmp_path):
    stored = stored_values("int16", (5, 4, 4))
    paths = write_series(tmp_path / "a", stored)
    paths.insert(1, write_slice(tmp_path / "again.dcm", stored[1], z=-47.5, SOPInstanceUID="9.9"))
    volume = read(paths)
    np.testing.assert_array_equal(volume.array, np.clip(stored.astype(int) - 1024, *WINDOW))
    assert volume.spacing[0] == 2.5
    assert len(volume.slices) == 6
    uid = str(pydicom.dcmread(paths[2]).SOPInstanceUID)
    assert volume.slices["9.9"] == volume.slices[uid] == 1


def test_a_series_written_twice_is_the_series(tmp_path):
    stored = stored_values("int16", (5, 4, 4))
    once = write_series(tmp_path / "a", stored)
    again = [
        write_slice(tmp_path / f"{i}.dcm", pixels, z=-50 + 2.5 * i, SOPInstanceUID=f"9.{i}")
        for i, pixels in enumerate(stored)
    ]
    np.testing.assert_array_equal(read(once + again).array, read(once).array)


def test_uneven_and_lone_slices_are_refused(tmp_path):
    stored = stored_values("int16", (5, 4, 4))
    heights = (0.0, 2.0, 4.0, 6.5, 8.5)
    paths = [write_slice(tmp_path / f"{i}.dcm", stored[i], z=z) for i, z in enumerate(heights)]
    with pytest.raises(BadCase, match=r"unevenly spaced, 2\.00 to 2\.50 mm apart"):
        read(paths)
    with pytest.raises(BadCase, match="only one slice"):
        read(paths[:1])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"PixelSpacing": [0.7, 0.9]}, "differ in pixel spacing"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "differ in orientation"),
        ({"ImagePositionPatient": [-9.0, -20.0, -47.5]}, "shifted within their plane"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        ({"ImagePositionPatient": [1.0, 2.0]}, "ImagePositionPatient does not have 3"),
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
    with pytest.raises(BadCase, match="not a pair of orthogonal unit vectors"):
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


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
@pytest.mark.parametrize("slope", [1.0, 2.0, -3.0, 16383.0, 16384.0, 0.5])
def test_whole_rescales_are_those_of_exact_arithmetic(dtype, slope):
    limits = np.iinfo(dtype)
    stored = np.random.default_rng(0).integers(limits.min, limits.max, 500, endpoint=True)
    stored[:2] = limits.min, limits.max
    for intercept in (-1024.0, 0.0, 2.0**29 - 1, 2.0**29, 0.25):
        meaning = Meaning(
            np.dtype(dtype), 8 * np.dtype(dtype).itemsize, slope, intercept, (), (-1000, 400)
        )
        found = np.empty(stored.shape, np.int16)
        meaning.hounsfield(stored.astype(dtype), found)
        exact = [round(Fraction(int(n)) * Fraction(slope) + Fraction(intercept)) for n in stored]
        assert found.tolist() == np.clip(exact, -1000, 400).tolist()


@pytest.mark.parametrize("bits", [1, 8, 12, 15, 16])
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_every_number_with_any_bits_unused_is_what_pydicom_takes_it_for(tmp_path, dtype, bits):
    every = np.arange(2**16, dtype="uint16").view(dtype).reshape(1, 256, 256)
    written = np.concatenate([every, every])
    paths = write_series(tmp_path, written, BitsStored=bits, HighBit=bits - 1)
    volume = read(paths, window=(-(2**15), 2**15 - 1))
    taken = pydicom.dcmread(paths[0]).pixel_array.astype(int) - 1024
    np.testing.assert_array_equal(volume.array[0], np.clip(taken, -(2**15), 2**15 - 1))


@given(
    dtype=st.sampled_from(["int16", "uint16"]),
    bits=st.integers(1, 16),
    intercept=st.integers(-70_000, 70_000),
    slope=st.sampled_from([1.0, 1.0, 1.0, 2.0, 0.5]),
    padding=st.lists(st.integers(-(2**15), 2**16 - 1), max_size=2),
    ends=st.lists(st.integers(0, 2**16 - 1), min_size=2, max_size=2),
    window=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=2, max_size=2),
)
def test_the_short_way_to_units_gives_what_the_long_one_does(
    dtype, bits, intercept, slope, padding, ends, window
):
    """Whatever the range of the written numbers, which decides between the ways."""
    meaning = Meaning(
        np.dtype(dtype), bits, slope, float(intercept), tuple(padding), tuple(sorted(window))
    )
    written = np.arange(min(ends), max(ends) + 1, dtype="uint16").view(dtype)
    found = np.empty(written.size, np.int16)
    meaning.hounsfield(written, found)
    np.testing.assert_array_equal(found, meaning.computed(written))


@pytest.mark.parametrize(("rows", "columns"), [(0, 8), (8, 0), (9000, 1)])
def test_a_slice_has_rows_and_columns(tmp_path, rows, columns):
    paths = write_series(tmp_path, np.zeros((2, 8, 8), np.int16), Rows=rows, Columns=columns)
    with pytest.raises(
        BadCase, match=f"Rows and Columns are {rows} and {columns}, which is not a slice"
    ):
        read(paths)


@pytest.mark.parametrize("written", [b"DS\2\0" + b"8 ", b"DS\4\0" + b"8.5 ", b"DS\4\0" + b"8\\8 "])
def test_rows_of_another_representation_do_not_end_the_process(tmp_path, written):
    paths = write_series(tmp_path, stored_values("int16", (2, 8, 8)))
    for path in paths:
        content = path.read_bytes()
        assert content.count(b"\x28\0\x10\0US\2\0") == 1
        at = content.index(b"\x28\0\x10\0US\2\0")
        path.write_bytes(content[: at + 4] + written + content[at + 10 :])
    try:
        found = read(paths)
    except BadCase:
        return
    assert found.array.shape == (2, 8, 8)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, ExplicitVRBigEndian])
def test_a_transfer_syntax_that_is_plain_text_does_not_end_the_process(tmp_path, syntax):
    """Found by changing headers at random: pydicom gives text then, and no UID."""
    stored = stored_values("int16", (2, 8, 8))
    paths = write_series(tmp_path, stored, syntax=syntax)
    plain = read(paths)
    for path in paths:
        content = path.read_bytes()
        assert b"\x02\0\x10\0UI" in content
        path.write_bytes(content.replace(b"\x02\0\x10\0UI", b"\x02\0\x10\0CS"))
    if syntax == ExplicitVRLittleEndian:
        np.testing.assert_array_equal(read(paths).array, plain.array)
    else:
        with pytest.raises(BadCase, match="cannot be decoded"):
            read(paths)
    with pytest.raises(BadCase, match="is damaged"):
        open_frames(paths[0], "here")


def test_more_bits_than_there_are_is_no_image(tmp_path):
    paths = write_series(tmp_path, stored_values("int16"), BitsStored=17)
    with pytest.raises(BadCase, match="BitsStored is 17 of 16 bits per pixel"):
        read(paths)


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_file_opened_in_parts_is_the_file(path):
    with quiet():
        opened, whole = open_file(path, "here").dataset, pydicom.dcmread(path)
        header = open_header(path, "here", ["PatientID", "Modality"]).dataset
    assert opened == whole
    if "TransferSyntaxUID" not in whole.file_meta:
        whole.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # found by looking
    if whole.file_meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        assert opened.file_meta == whole.file_meta
    assert opened.get("PixelData") == whole.get("PixelData")
    for keyword in ("PatientID", "Modality"):
        assert header.get(keyword) == whole.get(keyword)


@pytest.mark.parametrize("length", [10, 30_000, 2**15 - 400, 2**15, 100_000])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, ImplicitVRLittleEndian])
def test_a_long_header_is_read_whole(tmp_path, syntax, length):
    stored = stored_values("int16", (2, 40, 40))
    plain = write_series(tmp_path / "plain", stored, syntax=syntax)
    with quiet():
        long = write_series(tmp_path / "long", stored, syntax=syntax, ImageComments="x" * length)
    np.testing.assert_array_equal(read(long).array, read(plain).array)
    (series,), rejected = list_series(long, tmp_path)
    assert series.patient == "someone"
    assert rejected == []


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


def test_a_patient_is_read_in_the_files_own_characters(tmp_path):
    paths = write_series(
        tmp_path, stored_values("int16"), SpecificCharacterSet="ISO_IR 144", PatientID="Пациент"
    )
    (series,), _ = list_series(paths, tmp_path)
    assert series.patient == "Пациент"


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
        ({"StudyInstanceUID": "1.7"}, "have 2 StudyInstanceUIDs"),
        ({"FrameOfReferenceUID": "1.7"}, "have 2 FrameOfReferenceUIDs"),
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
    with pytest.raises(BadCase, match="a file of the series is cut off: PixelData claims 8192 b"):
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
        "the file's name ends in .dcm, but it is not a DICOM file"
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


# ---------------------------------------------------------------------- bits that are not used


@pytest.mark.parametrize("garbage", [0, 0xA000])
def test_bits_above_those_stored_mean_nothing(tmp_path, garbage):
    """Signed numbers of 12 bits whose sign was not extended, or with overlays in the others."""
    values = np.random.default_rng(0).integers(-2048, 2048, (3, 8, 8))
    written = ((values & 0xFFF) | garbage).astype(np.uint16).view(np.int16)
    paths = write_series(tmp_path, written, BitsStored=12, HighBit=11)
    volume = read(paths, window=(-4000, 4000))
    np.testing.assert_array_equal(volume.array, values - 1024)


def test_padding_beyond_the_bits_stored_is_padding_and_no_tissue(tmp_path):
    """63536 in a series of 12 bits, of which the lower ones are 2096: bone, if nobody looks."""
    written = np.full((3, 8, 8), 1024, np.uint16)
    written[:, 0] = 63536
    written[:, 1] = 2096
    paths = write_series(tmp_path, written, BitsStored=12, HighBit=11, PixelPaddingValue=63536)
    volume = read(paths, window=(-1000, 3000))
    np.testing.assert_array_equal(volume.array[0, :3, 0], [-1000, 1072, 0])


# ------------------------------------------------------------------------ enhanced multi-frame CT


def group(**items):
    """Return functional groups: one item for each sequence, of these elements."""
    found = Dataset()
    for name, elements in items.items():
        item = Dataset()
        for keyword, content in elements.items():
            setattr(item, keyword, content)
        setattr(found, name, [item])
    return found


def enhanced(path, stored, order, *, per_frame=None, shared=None, sources=None, **fields):
    """Write slices as one multi-frame file, in any order of its frames."""
    frames = []
    for place in order:
        items = {"PlanePositionSequence": {"ImagePositionPatient": [-10, -20, -50 + 2.5 * place]}}
        if sources:
            uids = {"ReferencedSOPInstanceUID": sources[place], "ReferencedSOPClassUID": "1.2"}
            items["ConversionSourceAttributesSequence"] = uids
        frames.append(group(**items, **(per_frame(place) if per_frame else {})))
    common = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "PixelMeasuresSequence": {"PixelSpacing": [0.7, 0.8], "SliceThickness": 5.0},
        "PixelValueTransformationSequence": {"RescaleSlope": 1, "RescaleIntercept": -1024},
    }
    common.update(shared or {})
    fields = {
        "SOPClassUID": EnhancedCTImageStorage,
        "NumberOfFrames": len(order),
        "PerFrameFunctionalGroupsSequence": frames,
        "SharedFunctionalGroupsSequence": [group(**{k: v for k, v in common.items() if v})],
        **fields,
    }
    plain = (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    )
    return write_slice(path, stored[list(order)], **dict.fromkeys(plain), **fields)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_an_enhanced_file_is_the_series_that_it_was_made_of(tmp_path, syntax):
    stored = stored_values("int16", (5, 32, 40))
    single = write_series(tmp_path / "single", stored)
    uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in single]
    path = enhanced(tmp_path / "e.dcm", stored, (3, 0, 4, 1, 2), sources=uids, syntax=syntax)
    (series,), rejected = list_series([path], tmp_path)
    assert (rejected, series.paths) == ([], (path,))
    volume, plain = read([path]), read(single)
    np.testing.assert_array_equal(volume.array, plain.array)
    assert volume.spacing == plain.spacing
    assert volume.slices == plain.slices


def test_frames_of_no_known_slice_go_by_their_number(tmp_path):
    path = enhanced(tmp_path / "e.dcm", stored_values("int16", (3, 8, 8)), (2, 0, 1))
    uid = str(pydicom.dcmread(path).SOPInstanceUID)
    assert read([path]).slices == {f"{uid}#1": 0, f"{uid}#2": 1, f"{uid}#0": 2}


def test_a_frame_has_its_own_rescale_and_a_series_may_be_several_files(tmp_path):
    stored = np.full((4, 8, 8), 1000, np.uint16)
    transform = "PixelValueTransformationSequence"

    def own(place):
        return {transform: {"RescaleSlope": 1 + place, "RescaleIntercept": -1000 - 500 * place}}

    first = enhanced(tmp_path / "a.dcm", stored, (2, 0), per_frame=own, shared={transform: None})
    second = enhanced(tmp_path / "b.dcm", stored, (1, 3), per_frame=own, shared={transform: None})
    volume = read([first, second], window=(-1000, 4000))
    assert volume.array[:, 0, 0].tolist() == [0, 500, 1000, 1500]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"NumberOfFrames": 4}, "claims 4 frames but describes 3"),
        ({"NumberOfFrames": 0}, "claims 1 frames but describes 3"),
        ({"NumberOfFrames": 2**31 - 1}, "claims 2147483647 frames of 8 x 8"),
        ({"PerFrameFunctionalGroupsSequence": None}, "but no functional groups"),
        ({"shared": {"PixelMeasuresSequence": None}}, "PixelSpacing is missing"),
        ({"shared": {"PixelMeasuresSequence": {"PixelSpacing": [0, 1]}}}, "is not positive"),
        ({"shared": {"PlaneOrientationSequence": None}}, "ImageOrientationPatient is missing"),
        ({"PixelData": bytes(8 * 8 * 2 * 2)}, "cannot be decoded"),
    ],
)
def test_an_enhanced_file_that_says_too_little_is_refused(tmp_path, fields, reason):
    path = enhanced(tmp_path / "e.dcm", stored_values("int16", (3, 8, 8)), (0, 1, 2), **fields)
    with pytest.raises(BadCase, match=reason):
        read([path])


def test_a_frame_that_is_missing_is_found(tmp_path):
    path = enhanced(tmp_path / "e.dcm", stored_values("int16", (5, 8, 8)), (0, 1, 3, 4))
    with pytest.raises(BadCase, match="1 slices are missing"):
        read([path])


def test_an_enhanced_file_cut_off_anywhere_is_a_bad_case(tmp_path):
    """pydicom raises OSError where a sequence ends too early, as if a disk had failed."""
    path = enhanced(tmp_path / "e.dcm", stored_values("int16", (2, 4, 4)), (0, 1))
    content = path.read_bytes()
    reasons = set()
    for end in range(132, len(content), 3):
        path.write_bytes(content[:end])
        list_series([path], tmp_path)
        with pytest.raises(BadCase) as error:
            read([path])
        reasons.add(error.value.reason)
    assert len(reasons) > 5


# ------------------------------------------------------------------------ files that would explode


@pytest.mark.parametrize("group_length", [None, 20, 10**6])
def test_a_deflated_file_is_unpacked_to_a_limit(tmp_path, monkeypatch, group_length):
    """Whatever the group length claims: pydicom itself would inflate all of it."""
    path = write_slice(
        tmp_path / "a.dcm",
        np.zeros((1000, 1000), np.int16),
        syntax=DeflatedExplicitVRLittleEndian,
    )
    content = bytearray(path.read_bytes())
    assert len(content) < 20_000
    if group_length:
        content[140:144] = struct.pack("<L", group_length)
        path.write_bytes(bytes(content))
    other = write_slice(tmp_path / "b.dcm", np.zeros((1000, 1000), np.int16), z=1.0)
    assert read([path, other]).array.shape == (2, 1000, 1000)
    monkeypatch.setattr(
        "loaders.formats.dicom.file.zlib.decompress", lambda *_: pytest.fail("all of it")
    )
    monkeypatch.setattr(open_file, "__kwdefaults__", {"limit": 1_900_000})
    with pytest.raises(BadCase, match="the deflated file holds more than 1900000 bytes"):
        read([path, other])
    series, rejected = list_series([path], tmp_path)
    assert series == []
    assert "more than 1900000 bytes" in rejected[0].reason


def test_a_series_and_a_file_have_a_limit(tmp_path, monkeypatch):
    paths = write_series(tmp_path, stored_values("int16", (4, 8, 8)))
    monkeypatch.setattr("loaders.formats.dicom.series.MAX_VOXELS", 3 * 64)
    with pytest.raises(BadCase, match="more than 192 voxels"):
        read(paths)
    monkeypatch.setattr("loaders.formats.dicom.slices.MAX_BYTES", 100)
    with pytest.raises(BadCase, match="bytes; at most 100 are read"):
        read(paths)


def test_a_coded_slice_larger_than_its_header_is_not_decoded(tmp_path):
    path = write_slice(tmp_path / "a.dcm", stored_values("int16", (64, 64)), syntax=JPEGLosslessSV1)
    content = path.read_bytes()
    size = struct.pack(">HH", 64, 64)
    at = content.index(b"\xff\xc3") + 5
    assert content[at : at + 4] == size
    path.write_bytes(content[:at] + struct.pack(">HH", 60000, 60000) + content[at + 4 :])
    with pytest.raises(BadCase, match=r"coded as 60000 x 60000 .* header declares 64 x 64"):
        read([path])


# --------------------------------------------------------------------- real reads, drawn to fit

# Two real reads whose marks lie on four slices 2.5 mm apart, and within 12 slices 2.5 mm apart.
NEAR, OTHER = "188_023.xml", "188_032.xml"


def drawn(path):
    """Return a real read's series UID, and UID and z of slices that hold all of its marks."""
    text = path.read_text()
    series = re.search("<SeriesInstanceUid>(.+?)<", text)[1].strip()
    pairs = re.findall(r"<imageZposition>(.+?)</.+?>\s*<imageSOP_UID>(.+?)</", text)
    known = {round(float(z), 3): uid.strip() for z, uid in pairs}
    low, high = min(known), max(known)
    heights = [round(low + 2.5 * i, 3) for i in range(round((high - low) / 2.5) + 1)]
    assert set(known) <= set(heights)
    return series, [(known.get(z, f"1.2.840.{i}"), z) for i, z in enumerate(heights)]


def write_drawn(folder, series, slices, stored, syntax=ExplicitVRLittleEndian):
    folder.mkdir(parents=True)
    return [
        write_slice(
            folder / f"{number}.dcm",
            pixels,
            z=z,
            syntax=syntax,
            SeriesInstanceUID=series,
            SOPInstanceUID=uid,
        )
        for number, (pixels, (uid, z)) in enumerate(zip(stored, slices, strict=True))
    ]


def anatomy(count, seed=0):
    """Noise over smooth shapes, in the range of a CT, 512 x 512."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:512, :512] - 255.5
    body = np.where(np.hypot(x / 1.3, y) < 180, 1064.0, 200.0)
    body[np.hypot((np.abs(x) - 100) / 60, y / 120) < 1] = 164
    return (body + random.normal(0, 30, (count, 512, 512))).round().astype(np.int16)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_a_series_that_fits_a_real_read_comes_back_bit_by_bit(shared_data, tmp_path, syntax):
    series, slices = drawn(shared_data / "lidc_idri" / "xml" / NEAR)
    stored = anatomy(len(slices))
    paths = write_drawn(tmp_path / "ct", series, slices, stored, syntax)
    (found,), rejected = list_series(paths[::-1], tmp_path)
    assert (found.uid, rejected) == (series, [])
    volume = read(found.paths, window=(-1024, 3071))
    np.testing.assert_array_equal(volume.array, stored - 1024)
    assert volume.slices == {uid: place for place, (uid, _) in enumerate(slices)}
    assert volume.spacing == (2.5, 0.7, 0.8)


def test_a_real_reads_series_with_a_slice_lost_doubled_or_of_another_series(shared_data, tmp_path):
    xml = shared_data / "lidc_idri" / "xml"
    series, slices = drawn(xml / NEAR)
    other, other_slices = drawn(xml / OTHER)
    stored = anatomy(len(slices))
    paths = write_drawn(tmp_path / "ct", series, slices, stored)
    whole = read(paths)
    with pytest.raises(BadCase, match="1 slices are missing"):
        read(paths[:1] + paths[2:])
    # The same file again, under another name: one instance.
    (tmp_path / "ct" / "copy.dcm").write_bytes(paths[1].read_bytes())
    (found,), _ = list_series(sorted((tmp_path / "ct").iterdir()), tmp_path)
    np.testing.assert_array_equal(read(found.paths).array, whole.array)
    # Another image at the same place: refused.
    _, z = slices[1]
    (double,) = write_drawn(tmp_path / "double", series, [("1.2.9", z)], anatomy(1, seed=1))
    with pytest.raises(BadCase, match="1 slices share a position with another"):
        read([*paths, double])
    # A slice of another series among them: told apart by its header, and both are whole.
    strange = write_drawn(tmp_path / "ct" / "b", other, other_slices[:3], anatomy(3, seed=2))
    files = [path for path in (tmp_path / "ct").rglob("*") if path.is_file()]
    found, rejected = list_series(files, tmp_path)
    assert {one.uid: len(one.paths) for one in found} == {series: len(slices), other: 3}
    assert rejected == []
    # Read as one in spite of that, they are no volume.
    with pytest.raises(BadCase, match="slices are missing"):
        read(paths + strange)


def test_every_transfer_syntax_that_pydicom_can_decode_has_a_decoder_here():
    from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS

    decoders = [decoder for decoder, _ in _PIXEL_DATA_DECODERS.values()]
    assert len(decoders) >= 16
    assert [d.UID.name for d in decoders if not d.is_available] == []


def test_a_disk_that_fails_is_no_fault_of_the_case(tmp_path):
    paths = write_series(tmp_path, stored_values("int16"))
    with pytest.raises(OSError, match="No such file"):
        read([*paths, Path(tmp_path / "gone.dcm")])
