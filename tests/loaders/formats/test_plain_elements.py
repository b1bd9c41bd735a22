"""Headers found element by element, beside pydicom's own reading of the same bytes."""

from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from loaders.formats.dicom.plain_elements import plain_elements
from tests.loaders.formats.scans.write import write_series

SYNTAXES = {ExplicitVRLittleEndian: False, ImplicitVRLittleEndian: True}


def headers() -> list[tuple[bytes, bool]]:
    """Return the plainly written data sets of pydicom's test files up to their pixels."""
    found = []
    for path in sorted(Path(get_testdata_file("CT_small.dcm")).parent.rglob("*.dcm")):
        raw = path.read_bytes()
        if raw[128:132] != b"DICM" or raw[132:140] != b"\x02\0\0\0UL\x04\0":
            continue
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax in SYNTAXES:
            first = 144 + int.from_bytes(raw[140:144], "little")
            end = raw.find(b"\xe0\x7f\x10\x00", first)
            found.append((raw[first : end if end > 0 else len(raw)], SYNTAXES[syntax]))
    return found


def as_read(content: bytes, *, implicit: bool) -> Dataset:
    return read_dataset(BytesIO(content), implicit, True)


def test_elements_are_those_that_pydicom_finds() -> None:
    """Raw element by raw element, and what text means: the character set is that of the file."""
    plain = 0
    for content, implicit in headers():
        plainly = plain_elements(content, implicit=implicit)
        if plainly is None:
            continue
        found = plainly.made(Dataset)
        plain += 1
        known = as_read(content, implicit=implicit)
        assert list(found.keys()) == list(known.keys())
        for tag in known.keys():  # noqa: SIM118 - iterating a data set converts its elements
            assert found.get_item(tag, keep_deferred=True) == known.get_item(
                tag, keep_deferred=True
            )
        assert found.original_encoding == known.original_encoding
        assert found.original_character_set == known.original_character_set
    assert plain > 10


@pytest.mark.parametrize("implicit", [False, True])
def test_what_is_cut_anywhere_is_left_to_pydicom(tmp_path: Path, implicit: bool) -> None:
    """Bytes that end where an element does are what pydicom makes of them, all others None."""
    (path, *_) = write_series(tmp_path, series="1", seed=0)
    data = pydicom.dcmread(path, stop_before_pixels=True)
    for element in [element for element in data if element.VR == "SQ"]:
        del data[element.tag]
    stream = pydicom.filebase.DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, implicit
    pydicom.filewriter.write_dataset(stream, data)
    content = stream.getvalue()
    ends = {0}
    for tag in (whole := as_read(content, implicit=implicit)).keys():  # noqa: SIM118 - as above
        raw = whole.get_item(tag, keep_deferred=True)
        ends.add(raw.value_tell + raw.length)
    for end in range(len(content) + 1):
        found = plain_elements(content[:end], implicit=implicit)
        assert (found is not None) == (end in ends), end


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x00\x05\x01SQ\0\0\xff\xff\xff\xff",
        b"\x08\x00\x05\x00QQ\x04\x00abcd",
        b"\xfe\xff\x0d\xe0\0\0\0\0",
        b"\x08\x00\x05\x00CS\xff\x00ab",
        b"\x08\x00\x16\x00\x04\0\0\0abcd",
    ],
    ids=["no length", "no VR", "a delimiter", "too long", "implicit"],
)
def test_what_is_not_plain_is_left_to_pydicom(content: bytes) -> None:
    assert plain_elements(content, implicit=False) is None


def test_an_explicit_vr_where_none_was_claimed_is_left_to_pydicom() -> None:
    content = b"\x08\x00\x60\x00CS\x02\x00CT"
    assert plain_elements(content, implicit=True) is None
    assert plain_elements(content, implicit=False).dataset.Modality == "CT"  # type: ignore[union-attr]  # it is plain
