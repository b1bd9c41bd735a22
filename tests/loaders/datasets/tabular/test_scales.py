"""One scale a set: depths as headers, coded frames and pixels tell them, tables, padding."""

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    XRayAngiographicImageStorage,
)

from loaders.cases import BadCase, BadSource
from loaders.datasets.table import KINDS
from loaders.formats.dicom.frames import open_frames
from loaders.formats.dicom.series import read_series
from loaders.formats.levels import Picture, common_scale, on_scale
from loaders.formats.pictures import read_picture
from loaders.store import prepare as store_prepare
from loaders.store.pseudonyms import keyed_id
from loaders.store.read import open_store

KEY = b"a secret"
SHAPE = (40, 48)
NOISE = np.random.default_rng(11).random(SHAPE)


def full(bits: int, seed: int = 0) -> Any:
    """Return levels that use all of a depth, black and white among them."""
    levels = np.random.default_rng(seed).integers(0, 2**bits, SHAPE).astype(np.uint16)
    levels[0, :2] = 0, 2**bits - 1
    return levels


def dicom(array: Any, bits: int, *, syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """Return a radiograph (Y, X) in 16 bits, of which `bits` are said to be stored."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = "1.2.3"
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.Modality = "DX"
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = array.shape[-2:]
    if array.ndim == 3:
        data.NumberOfFrames = len(array)
    data.BitsAllocated = 8 * array.dtype.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(array.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data.PixelData = array.astype(array.dtype.newbyteorder(order)).tobytes()
    data["PixelData"].VR = "OW"
    for name, value in elements.items():
        setattr(data, name, value)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def inverted(array: Any, bits: int, **elements: Any) -> bytes:
    return dicom(array, bits, PhotometricInterpretation="MONOCHROME1", **elements)


def coded(array: Any, said: int, precision: int, syntax: UID) -> bytes:
    """Return a file whose header says `said` bits, around a frame coded with `precision`."""
    data = pydicom.dcmread(io.BytesIO(dicom(array, precision)))
    data.compress(syntax, generate_instance_uid=False)
    data.BitsStored, data.HighBit = said, said - 1
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def png(array: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def tiff(array: Any, **more: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **more)
    return file.getvalue()


def tiff_of_12_bits(levels: Any) -> bytes:
    """Pack levels of 12 bits, two in three bytes, into a TIFF by hand (TIFF 6.0, section 2)."""
    height, width = levels.shape
    assert width % 2 == 0
    first, second = levels[:, ::2].astype(int), levels[:, 1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
    data = packed.astype(np.uint8).tobytes()
    tags = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, height),
        (279, 4, len(data)),
    ]
    pad = bytes(len(data) % 2)
    entries = b"".join(
        struct.pack("<HHIHH", tag, 3, 1, v, 0) if kind == 3 else struct.pack("<HHII", tag, 4, 1, v)
        for tag, kind, v in tags
    )
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data) + len(pad)) + data + pad + directory


def read(folder: Path, raw: bytes) -> Picture:
    path = folder / "one"
    path.write_bytes(raw)
    return read_picture(path, "one")


def alone(one: Picture) -> Any:
    """Return a picture (Y, X) as a set of it alone would have it."""
    return on_scale(one, common_scale([one]), "here")[0]


def source_of(root: Path, files: Sequence[bytes]) -> Path:
    (root / "images").mkdir(parents=True)
    lines = ["image,label"]
    for number, raw in enumerate(files):
        (root / "images" / f"p{number}").write_bytes(raw)
        lines.append(f"images/p{number},{'ab'[number % 2]}")
    (root / "labels.csv").write_text("\n".join(lines))
    return root


def prepared(root: Path, *files: bytes, **options: Any) -> tuple[dict[int, Any], dict[str, str]]:
    """Return the store's pictures by the number of their file, and why others were rejected."""
    source = source_of(root / "set", files)
    given = {"positive": "b", **options}
    report = store_prepare.prepare(
        KINDS["images"], source, root / "store", options=given, key=KEY, strict=False
    )
    store = open_store(root / "store")
    names = {keyed_id(KEY, "images", f"images/p{n}"): n for n in range(len(files))}
    images = {names[name]: store.image(row)[0] for row, name in enumerate(store.case_ids)}
    return images, {bad.where: bad.reason for bad in report.rejected}


# ---- depths of one set ------------------------------------------------------------------------


def test_four_depths_in_one_set_are_on_one_scale(tmp_path: Path) -> None:
    """BitsStored of 10, 12, 14 and 16 gave maxima of 1023, 4095, 16383 and 65535."""
    depths = (10, 12, 14, 16)
    images, rejected = prepared(tmp_path, *(dicom(full(bits), bits) for bits in depths))
    assert rejected == {}
    for number, bits in enumerate(depths):
        wanted = full(bits) / (2**bits - 1) * 65535
        assert (images[number].min(), images[number].max()) == (0, 65535)
        assert np.abs(images[number] - wanted).max() <= 0.5


def test_one_depth_stays_as_it_is_stored(tmp_path: Path) -> None:
    images, _ = prepared(tmp_path, *(dicom(full(12, seed), 12) for seed in range(4)))
    for seed in range(4):
        np.testing.assert_array_equal(images[seed], full(12, seed))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_depth_is_what_a_coded_frame_says(tmp_path: Path, syntax: UID) -> None:
    """A header of 16 bits around frames of 14 (pydicom#2012)."""
    found = read(tmp_path, coded(full(14), 16, 14, syntax))
    assert (found.bits, found.told) == (14, True)
    np.testing.assert_array_equal(found.array[0], full(14))
    images, rejected = prepared(
        tmp_path / "s", coded(full(14), 16, 14, syntax), dicom(full(16), 16)
    )
    assert rejected == {}
    assert images[0].max() == images[1].max() == 65535


def test_a_coded_frame_of_16_bits_does_not_make_12_deeper(tmp_path: Path) -> None:
    """As encoders write that go by BitsAllocated."""
    found = read(tmp_path, coded(full(12), 12, 16, JPEG2000Lossless))
    assert (found.bits, found.told) == (12, True)
    np.testing.assert_array_equal(found.array[0], full(12))


def test_16_of_16_with_12_used_is_on_the_scale_of_12(tmp_path: Path) -> None:
    """What most writers say of pixels of any depth; the inverted one too."""
    levels = full(12)
    images, rejected = prepared(
        tmp_path, dicom(levels, 12), dicom(levels, 16), inverted(4095 - levels, 16), png(levels)
    )
    assert rejected == {}
    for number in range(4):
        np.testing.assert_array_equal(images[number], levels)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("told", [True, False])
def test_inverted_pictures_are_those_that_are_not(tmp_path: Path, bits: int, told: bool) -> None:
    levels = full(bits)
    said = bits if told else 16
    images, rejected = prepared(
        tmp_path, dicom(levels, said), inverted((2**bits - 1) - levels, said)
    )
    assert rejected == {}
    np.testing.assert_array_equal(images[0], levels)
    np.testing.assert_array_equal(images[1], levels)


def test_inverted_depths_are_on_one_scale_too(tmp_path: Path) -> None:
    depths = (10, 12, 14, 16)
    images, rejected = prepared(
        tmp_path, *(inverted((2**bits - 1) - full(bits), bits) for bits in depths)
    )
    assert rejected == {}
    for number, bits in enumerate(depths):
        assert np.abs(images[number] - full(bits) / (2**bits - 1) * 65535).max() <= 0.5


def test_what_may_be_on_two_scales_is_refused(tmp_path: Path) -> None:
    """16 of 16, 12 used, in a set that has both 12 and 16: dark, or another detector's."""
    images, rejected = prepared(
        tmp_path, dicom(full(12), 12), dicom(full(16), 16), dicom(full(12), 16), dicom(full(16), 16)
    )
    assert sorted(images) == [0, 1, 3]
    assert rejected == {
        "images/p2": "the picture's bit depth is unknown: its values fit 12 and 16 bits, and the "
        "set has both"
    }


def test_depths_that_the_survey_did_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.datasets.tabular.images._PROBES", 2)  # the first and the last
    images, rejected = prepared(
        tmp_path,
        *(dicom(full(12), 12), dicom(full(14), 14), dicom(full(16), 16), dicom(full(10), 10)),
        dicom(full(12), 12),
    )
    assert rejected == {"images/p2": "the picture's values take 16 bits, but the others have 12"}
    for number, bits in enumerate((12, 14, 16, 10, 12)):
        if number in images:
            assert images[number].max() == 4095, bits


def test_a_depth_that_is_told_among_those_that_are_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.datasets.tabular.images._PROBES", 2)
    images, rejected = prepared(
        tmp_path, dicom(full(16), 16), dicom(full(12), 12), png(full(16)), png(full(14))
    )
    assert sorted(images) == [0, 2, 3]
    np.testing.assert_array_equal(images[3], full(14))  # as ever, where no depth is told
    assert rejected == {
        "images/p1": "the picture has 12 bits, but the depth of the others is unknown"
    }


def test_8_bits_in_numbers_of_16_are_8(tmp_path: Path) -> None:
    levels = full(8)
    images, rejected = prepared(tmp_path, dicom(levels, 8), png(levels.astype(np.uint8)))
    assert rejected == {}
    np.testing.assert_array_equal(images[0], images[1])


def test_measured_values_and_levels_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hounsfield units, rescaled values and floats have a scale of their own."""
    measured = (
        dicom(full(12), 12, RescaleSlope="2", RescaleIntercept="-1000"),
        dicom(full(12), 12, SOPClassUID=CTImageStorage, Modality="CT"),
        tiff(NOISE.astype(np.float32)),
    )
    for number, raw in enumerate(measured):
        source = source_of(tmp_path / str(number), [dicom(full(12), 12), raw])
        with pytest.raises(
            BadSource, match="some pictures hold grey levels and some measured values"
        ):
            KINDS["images"].survey(source, {"positive": "b"})
    monkeypatch.setattr("loaders.datasets.tabular.images._PROBES", 1)
    _, rejected = prepared(tmp_path / "s", dicom(full(12), 12), *measured, dicom(full(12), 12))
    assert list(rejected) == ["images/p1", "images/p2", "images/p3"]
    assert all("measured values" in reason for reason in rejected.values())


def test_other_containers_tell_their_depth_too(tmp_path: Path) -> None:
    levels = full(12)
    found = read(tmp_path, tiff_of_12_bits(levels))
    assert (found.bits, found.told) == (12, True)
    np.testing.assert_array_equal(found.array[0], levels)
    images, rejected = prepared(
        tmp_path / "s",
        tiff_of_12_bits(levels),
        dicom(levels, 12),
        tiff(4095 - levels, photometric="miniswhite"),
        dicom(full(14), 14),
    )
    assert rejected == {
        "images/p2": "the picture's bit depth is unknown: its values fit 12 and 14 bits, and the "
        "set has both"
    }
    np.testing.assert_array_equal(images[0], images[1])
    assert images[0].max() == images[3].max() == 16383


# ---- units and tables -------------------------------------------------------------------------


def test_hounsfield_units_are_never_inverted(tmp_path: Path) -> None:
    ct = {"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    plain, shown = (alone(read(tmp_path, make(full(12), 12, **ct))) for make in (dicom, inverted))
    np.testing.assert_array_equal(plain, full(12).astype(int) - 1024)
    np.testing.assert_array_equal(shown, plain)


def table(entries: Any, first: int, bits: int, unit: str = "US", vr: str = "OW") -> dict[str, Any]:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 2**16, first % 2**16, bits])
    item.ModalityLUTType = unit
    if vr == "OW":
        item.add_new("LUTData", "OW", entries.astype(np.uint16).tobytes())
    else:
        item.add_new("LUTData", "US", entries.tolist())
    return {"ModalityLUTSequence": [item]}


CURVE = (np.sqrt(np.arange(3000) / 2999) * 4095).round().astype(np.uint16)
TABLES: Mapping[str, tuple[Any, int, dict[str, Any]]] = {
    "bytes": (full(12), 12, table(CURVE, 100, 16)),
    "numbers": (full(12), 12, table(CURVE, 100, 16, vr="US")),
    "of 12 bits in 16": (full(14), 14, table(CURVE, 0, 16)),
    "of 65536 entries": (full(16), 16, table((full(16, 3).repeat(64)[: 2**16]), 0, 16)),
    "beside a slope": (
        full(12),
        12,
        {**table(CURVE, 0, 16), "RescaleSlope": "7", "RescaleIntercept": "-5"},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_modality_table_takes_the_place_of_slope_and_intercept(
    tmp_path: Path, name: str
) -> None:
    array, bits, elements = TABLES[name]
    raw = dicom(array, bits, **elements)
    data = pydicom.dcmread(io.BytesIO(raw))
    wanted = apply_modality_lut(data.pixel_array, data)
    found = read(tmp_path, raw)
    np.testing.assert_array_equal(found.array[0], wanted)
    assert (found.bits, found.told) == (16 if "65536" in name else 12, True)


def test_a_table_of_negative_values_in_every_byte_order(tmp_path: Path) -> None:
    stored = (full(12).astype(int) - 2048).astype(np.int16)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        more = table(CURVE, -1500, 16, vr="US")
        found = read(tmp_path, dicom(stored, 12, syntax=syntax, **more))
        wanted = CURVE[np.clip(stored.astype(int) + 1500, 0, 2999)]
        np.testing.assert_array_equal(found.array[0], wanted)


def test_a_table_of_bytes_two_in_a_word(tmp_path: Path) -> None:
    """PS3.3 C.11.1.1.1 lets entries of 8 bits be packed."""
    entries = np.random.default_rng(5).permutation(256).astype(np.uint8)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 8])
    item.ModalityLUTType = "US"
    item.add_new("LUTData", "OW", entries.tobytes())
    found = read(tmp_path, dicom(full(8), 8, ModalityLUTSequence=[item]))
    np.testing.assert_array_equal(found.array[0], entries[full(8)])
    assert found.bits == 8


def test_a_table_and_a_header_on_two_scales_come_to_one(tmp_path: Path) -> None:
    images, rejected = prepared(
        tmp_path,
        dicom(full(14), 14, **table(CURVE, 0, 16)),
        inverted(full(14), 14, **table(CURVE, 0, 16)),
        dicom(full(14), 14),
    )
    assert rejected == {}
    assert [images[n].max() for n in range(3)] == [16383] * 3
    np.testing.assert_array_equal(images[1], 16383 - images[0])


def test_a_table_in_a_unit_is_measured(tmp_path: Path) -> None:
    found = read(tmp_path, inverted(full(12), 12, **table(CURVE, 0, 16, unit="OD")))
    assert found.bits == 0
    np.testing.assert_array_equal(found.array[0], CURVE[np.minimum(full(12), 2999)])


@pytest.mark.parametrize(
    ("relationship", "applied"), [("LOG", False), ("DISP", False), ("LIN", True)]
)
def test_the_table_of_an_angiography_leads_to_the_beam(
    tmp_path: Path, relationship: str, applied: bool
) -> None:
    """PS3.3 C.8.7.1.1.2; as dcmtk and dcm4che have it."""
    elements = {
        **table(CURVE, 0, 16),
        "SOPClassUID": XRayAngiographicImageStorage,
        "Modality": "XA",
        "PixelIntensityRelationship": relationship,
    }
    found = read(tmp_path, dicom(full(12), 12, **elements)).array[0]
    wanted = CURVE[np.minimum(full(12), 2999)] if applied else full(12)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("descriptor", "data", "sentence"),
    [
        ([3000, 0], CURVE.tobytes(), "LUTDescriptor of ModalityLUTSequence is not three numbers"),
        ([3000, 0, 32], CURVE.tobytes(), "LUTDescriptor of ModalityLUTSequence is not three numb"),
        ([0, 0, 16], CURVE.tobytes(), "holds 3000 entries, but LUTDescriptor declares 65536"),
        ([3000, 0, 16], b"", "LUTData of ModalityLUTSequence does not hold"),
    ],
)
def test_a_table_that_lies_is_named(
    tmp_path: Path, descriptor: list[int], data: bytes, sentence: str
) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW", data)
    with pytest.raises(BadCase, match=sentence):
        read(tmp_path, dicom(full(12), 12, ModalityLUTSequence=[item]))


def slices_of(folder: Path, stored: Any, bits: int = 16, **elements: Any) -> list[Path]:
    folder.mkdir()
    paths = []
    for number, pixels in enumerate(stored):
        raw = dicom(
            pixels,
            bits,
            SOPInstanceUID=f"1.2.{number}",
            ImagePositionPatient=[0, 0, number],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[1, 1],
            Modality="CT",
            **elements,
        )
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(raw)
    return paths


def test_a_ct_by_a_table(tmp_path: Path) -> None:
    stored = np.stack([full(12), full(12, 1)])
    entries = np.linspace(0, 1500, 4096).astype(np.uint16)
    more = {**table(entries, 0, 16, unit="HU"), "RescaleSlope": 3, "RescaleIntercept": 9}
    paths = slices_of(tmp_path / "ct", stored, **more)
    volume = read_series(paths, window=(-1000, 2000), where="here")
    data = [pydicom.dcmread(path) for path in paths]
    wanted = np.stack([apply_modality_lut(one.pixel_array, one) for one in data])
    np.testing.assert_array_equal(volume.array, wanted)
    other = slices_of(tmp_path / "od", stored, **table(entries, 0, 16, unit="OD"))
    with pytest.raises(BadCase, match="ModalityLUTType is not HU"):
        read_series(other, window=(-1000, 2000), where="here")


def test_a_frame_of_an_enhanced_file_has_its_own_slope(tmp_path: Path) -> None:
    """Where the functional groups hold it; the loop's reader looked in the file alone."""
    stored = np.stack([full(12, seed) for seed in range(3)])
    groups = []
    for number in range(3):
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept = 2 + number, -number
        item.RescaleType = "US"
        group = Dataset()
        group.PixelValueTransformationSequence = [item]
        groups.append(group)
    raw = dicom(
        stored,
        12,
        SOPClassUID=EnhancedMRImageStorage,
        Modality="MR",
        PerFrameFunctionalGroupsSequence=groups,
    )
    (tmp_path / "loop").write_bytes(raw)
    for number, frame in enumerate(open_frames(tmp_path / "loop", "loop").pictures):
        np.testing.assert_array_equal(frame.array[0], stored[number] * (2.0 + number) - number)
    (tmp_path / "loop").write_bytes(dicom(stored, 12, PerFrameFunctionalGroupsSequence=groups[:2]))
    with pytest.raises(BadCase, match="claims 3 frames but describes 2"):
        next(open_frames(tmp_path / "loop", "loop").pictures)


# ---- padding and unused bits ------------------------------------------------------------------


@pytest.mark.parametrize("make", [dicom, inverted])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_padding_is_found_before_bits_are_cut(tmp_path: Path, make: Any, syntax: UID) -> None:
    """63536 in a picture of 12 bits, of which the lower ones are 2096: bone, if nobody looks."""
    stored = full(12)
    stored[3:5] = 63536
    stored[5, :7] = 2096
    raw = make(stored, 12, PixelPaddingValue=63536, syntax=ExplicitVRLittleEndian)
    if syntax == RLELossless:
        data = pydicom.dcmread(io.BytesIO(raw))
        data.compress(RLELossless, generate_instance_uid=False)
        file = io.BytesIO()
        data.save_as(file, enforce_file_format=True)
        raw = file.getvalue()
    elif syntax == ExplicitVRBigEndian:
        raw = make(stored, 12, PixelPaddingValue=63536, syntax=syntax)
    found = alone(read(tmp_path, raw)).astype(int)
    rest = np.ones(stored.shape, bool)
    rest[3:5] = False
    wanted = stored.astype(int) if make is dicom else 4095 - stored.astype(int)
    np.testing.assert_array_equal(found[rest], wanted[rest])
    assert (found[~rest] == wanted[rest].min()).all()


def test_more_bits_in_the_pixels_than_the_header_says_are_refused(tmp_path: Path) -> None:
    """They were cut off, so that 4096 became 0."""
    with pytest.raises(BadCase, match="BitsStored is 12 but pixels use more bits"):
        read(tmp_path, dicom(full(14), 12))
    with pytest.raises(BadCase, match="BitsStored is 17 of 16 bits per pixel"):
        read(tmp_path, dicom(full(14), 17))


def test_overlays_in_the_unused_bits_are_cut_off(tmp_path: Path) -> None:
    levels = full(12)
    drawn = levels | (np.random.default_rng(2).integers(0, 2, levels.shape) << 15).astype(np.uint16)
    overlay: dict[str, Any] = {"syntax": ExplicitVRLittleEndian}
    data = pydicom.dcmread(io.BytesIO(dicom(drawn, 12, **overlay)))
    data.add_new(0x60000010, "US", levels.shape[0])
    data.add_new(0x60000011, "US", levels.shape[1])
    data.add_new(0x60000100, "US", 16)
    data.add_new(0x60000102, "US", 15)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path, file.getvalue()).array[0], levels)


def test_signed_values_with_and_without_their_sign_in_the_unused_bits(tmp_path: Path) -> None:
    values = full(12).astype(int) - 2048
    for written in (values.astype(np.int16), (values & 0xFFF).astype(np.int16)):
        np.testing.assert_array_equal(read(tmp_path, dicom(written, 12)).array[0], values)
