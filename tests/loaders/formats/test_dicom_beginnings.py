"""DICOM files without preamble, file meta information or transfer syntax."""

import io
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_file_meta_info
from pydicom.uid import RLELossless

from loaders.cases import BadCase
from loaders.formats.dicom.frames import open_frames
from loaders.formats.dicom.preamble import ENOUGH, begin_of
from loaders.formats.dicom.series import list_series, read_series
from loaders.formats.pictures import read_picture

FOLDER = Path(get_testdata_file("CT_small.dcm")).parent
# pydicom's own test files, each in another way of writing its elements.
PLAIN = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "examples_overlay.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
)


def elements_alone(path: Path) -> bytes:
    """Return a file from its first element behind the file meta information on."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<L", raw, 140)
    return raw[144 + length :]


def without_syntax(path: Path) -> bytes:
    """Return a file whose meta information does not say how the elements are written."""
    data = pydicom.dcmread(path)
    file = io.BytesIO()
    implicit, little = data.original_encoding
    meta = data.file_meta
    del meta.TransferSyntaxUID
    body = Dataset({tag: data[tag] for tag in data.keys()})  # noqa: SIM118  # it gives elements
    dcmwrite(file, body, implicit_vr=implicit, little_endian=little)
    head = DicomBytesIO()
    write_file_meta_info(head, meta, enforce_standard=False)
    return bytes(128) + b"DICM" + head.getvalue() + file.getvalue()


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("form", ["no preamble", "no meta", "no syntax"])
def test_a_file_is_read_without_what_it_should_begin_with(
    tmp_path: Path, name: str, form: str
) -> None:
    path = FOLDER / name
    raw = {
        "no preamble": lambda: path.read_bytes()[132:],
        "no meta": lambda: elements_alone(path),
        "no syntax": lambda: without_syntax(path),
    }[form]()
    (tmp_path / "odd").write_bytes(raw)
    found, whole = read_picture(tmp_path / "odd", "x"), read_picture(path, "x")
    np.testing.assert_array_equal(found.array, whole.array)
    assert (found.bits, found.told) == (whole.bits, whole.told)


@pytest.mark.parametrize("form", ["no preamble", "no meta"])
def test_a_series_of_such_files_is_listed_and_read(tmp_path: Path, form: str) -> None:
    volumes = []
    for folder, odd in (("plain", False), ("odd", True)):
        (tmp_path / folder).mkdir()
        for number in range(3):
            data = pydicom.dcmread(FOLDER / "CT_small.dcm")
            data.ImagePositionPatient = [0, 0, number]
            data.SOPInstanceUID = f"1.2.{number}"
            path = tmp_path / folder / f"{number}.dcm"
            data.save_as(path)
            if odd:
                raw = path.read_bytes()[132:] if form == "no preamble" else elements_alone(path)
                path.write_bytes(raw)
        (series,), rejected = list_series(sorted((tmp_path / folder).iterdir()), tmp_path)
        assert rejected == []
        volumes.append(read_series(series.paths, window=(-1000, 3000), where="here"))
    np.testing.assert_array_equal(volumes[0].array, volumes[1].array)
    assert volumes[0].spacing == volumes[1].spacing


def test_what_begins_otherwise_is_no_dicom() -> None:
    random = np.random.default_rng(0)
    for _ in range(2000):
        assert begin_of(random.bytes(ENOUGH)) is None
    for start in (b"", b"\x08\0", b"\x08\0\x05\0CS\x0a\0", bytes(ENOUGH), b"<html>" * 99):
        assert begin_of(start) is None
    real = elements_alone(FOLDER / "CT_small.dcm")
    assert begin_of(real[:ENOUGH]) == 0
    # A text and an XML file beside a series, and a picture, are none.
    for name in ("README.txt", "crayons.icc"):
        assert begin_of((FOLDER / name).read_bytes()[:ENOUGH]) is None


def test_compressed_pixels_without_a_syntax_are_refused(tmp_path: Path) -> None:
    data = pydicom.dcmread(FOLDER / "CT_small.dcm")
    data.compress(RLELossless)
    data.save_as(tmp_path / "a.dcm")
    (tmp_path / "a.dcm").write_bytes(elements_alone(tmp_path / "a.dcm"))
    with pytest.raises(
        BadCase, match="TransferSyntaxUID is missing, and the pixels are compressed"
    ):
        read_picture(tmp_path / "a.dcm", "x")


@pytest.mark.parametrize("tenth", range(10))
def test_such_a_file_cut_off_is_a_bad_case(tmp_path: Path, tenth: int) -> None:
    raw = elements_alone(FOLDER / "CT_small.dcm")
    (tmp_path / "a.dcm").write_bytes(raw[: len(raw) * tenth // 10])
    with pytest.raises(BadCase):
        read_picture(tmp_path / "a.dcm", "x")


def test_such_a_file_with_flipped_bytes_never_ends_the_process(tmp_path: Path) -> None:
    raw = elements_alone(FOLDER / "MR_small_implicit.dcm")
    random = np.random.default_rng(4)
    outcomes = set()
    for _ in range(150):
        broken = bytearray(raw)
        for at in random.integers(0, 1200, 3):
            broken[at] = random.integers(256)
        (tmp_path / "a.dcm").write_bytes(bytes(broken))
        try:
            read_picture(tmp_path / "a.dcm", "x")
            outcomes.add("read")
        except BadCase:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_no_frames_are_one(tmp_path: Path) -> None:
    """As pydicom takes it; a scanner's export of single images says 0."""
    data: Any = pydicom.dcmread(FOLDER / "CT_small.dcm")
    wanted = data.pixel_array.astype(int) + int(data.RescaleIntercept)
    for written in (0, ""):
        data.NumberOfFrames = written
        data.save_as(tmp_path / "a.dcm")
        frames = open_frames(tmp_path / "a.dcm", "x")
        assert frames.count == 1
        (found,) = frames.pictures
        np.testing.assert_array_equal(found.array[0], wanted)
        paths = []
        for number in range(2):
            data.ImagePositionPatient = [0, 0, number]
            paths.append(tmp_path / f"{number}.dcm")
            data.save_as(paths[-1])
        volume = read_series(paths, window=(-1000, 3000), where="x")
        np.testing.assert_array_equal(volume.array[0], np.clip(wanted, -1000, 3000))


@pytest.mark.parametrize("form", ["whole", "no meta"])
def test_an_element_that_claims_4_gib_takes_no_memory(tmp_path: Path, form: str) -> None:
    """Found by changing bytes: Python sets aside as many bytes as a file is asked for."""
    path = FOLDER / "MR_small.dcm"
    raw = path.read_bytes() if form == "whole" else elements_alone(path)
    at = raw.index(b"\xe0\x7f\x10\x00OW") + 8
    (tmp_path / "a.dcm").write_bytes(raw[:at] + struct.pack("<L", 2**32 - 16) + raw[at + 4 :])
    tracemalloc.start()
    try:
        with pytest.raises(
            BadCase, match=r"cut off: PixelData claims 4294967280 bytes, but has \d+"
        ):
            read_picture(tmp_path / "a.dcm", "x")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
