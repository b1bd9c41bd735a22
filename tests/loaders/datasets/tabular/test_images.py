"""Image folders: pictures bit by bit, tables as people write them, and broken input."""

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
import torch
from PIL import Image, ImageOps
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    generate_uid,
)

from loaders.cases import BadCase, BadSource, Survey
from loaders.datasets.table import KINDS
from loaders.formats import csv_table, pictures
from loaders.formats.dicom.frames import open_frames
from loaders.formats.levels import Picture, common_scale, on_scale
from loaders.formats.pictures import in_channels, is_grey, read_picture, shrink
from loaders.store import prepare as store_prepare
from loaders.store.pseudonyms import keyed_id
from loaders.store.read import Store, open_store, verify_store
from loaders.store.write import Report, write_store

KEY = b"a secret"
RANDOM = np.random.default_rng(7)
GREY = RANDOM.integers(0, 256, (11, 14)).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (11, 14, 3)).astype(np.uint8)
DEEP = RANDOM.integers(0, 65536, (11, 14)).astype(np.uint16)
DEEP_COLOUR = RANDOM.integers(0, 65536, (11, 14, 3)).astype(np.uint16)


def encoded(array: Any, form: str = "PNG", **more: Any) -> bytes:
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, form, **more)
    return file.getvalue()


def deep_png(array: Any) -> bytes:
    """Write a PNG of 16 bits by hand (PNG specification, 5 and 11): Pillow can write grey alone."""
    height, width = array.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[array[0, 0].size]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in array)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(array: Any, **more: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **more)
    return file.getvalue()


def dicom(array: Any, *, syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """Return a file of one frame (Y, X) or (Y, X, 3), or of several (T, Y, X) by NumberOfFrames."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = generate_uid(entropy_srcs=["one"])
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.PatientName = "Mustermann^Erika"
    data.PatientID = "MRN-4711"
    data.SamplesPerPixel = 3 if array.ndim == 3 and "NumberOfFrames" not in elements else 1
    data.PhotometricInterpretation = "RGB" if data.SamplesPerPixel == 3 else "MONOCHROME2"
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    shape = array.shape[1:] if "NumberOfFrames" in elements else array.shape
    data.Rows, data.Columns = shape[:2]
    data.BitsAllocated = data.BitsStored = 8 * array.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(array.dtype.kind == "i")
    data.PixelData = array.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def picture(folder: Path, raw: bytes, name: str = "picture") -> Any:
    path = folder / name
    path.write_bytes(raw)
    return alone(read_picture(path, name))


def alone(one: Picture) -> Any:
    """Return a picture as a set of it alone would have it."""
    return on_scale(one, common_scale([one]), "here")


# ---- a picture --------------------------------------------------------------------------------


def netpbm(kind: int, largest: int, levels: Any) -> bytes:
    """Write a PGM or PPM by hand (netpbm.sourceforge.net/doc/pgm.html), with a comment."""
    height, width = levels.shape[:2]
    head = b"P%d\n# made by hand\n%d %d\n%d\n" % (kind, width, height, largest)
    if kind < 4:
        return head + " ".join(map(str, levels.ravel().tolist())).encode()
    return head + levels.astype(">u2" if largest > 255 else "u1").tobytes()


def j2k(levels: Any, bits: int) -> bytes:
    """Return a JPEG 2000 codestream of so many bits, as pydicom's encoder writes it."""
    data = pydicom.dcmread(io.BytesIO(dicom(levels, BitsStored=bits, HighBit=bits - 1)))
    data.compress(JPEG2000Lossless)
    return next(generate_frames(data.PixelData, number_of_frames=1))


LARGE = np.kron(GREY, np.ones((8, 8), np.uint8))
LARGE_COLOUR = np.kron(COLOUR, np.ones((8, 8, 1), np.uint8))
LARGE_DEEP = np.kron(DEEP, np.ones((8, 8), np.uint16))
FORMS: Mapping[str, tuple[Callable[[], bytes], Any]] = {
    "bmp grey": (lambda: encoded(GREY, "BMP"), GREY),
    "bmp colour": (lambda: encoded(COLOUR, "BMP"), COLOUR),
    "bmp 1 bit": (
        lambda: encoded(Image.fromarray(GREY > 99), "BMP"),
        (GREY > 99).astype(np.uint8) * 255,
    ),
    "webp lossless": (lambda: encoded(COLOUR, "WEBP", lossless=True), COLOUR),
    "jp2 8 grey": (lambda: encoded(LARGE, "JPEG2000"), LARGE),
    "jp2 8 colour": (lambda: encoded(LARGE_COLOUR, "JPEG2000"), LARGE_COLOUR),
    "jp2 16 grey": (lambda: encoded(LARGE_DEEP, "JPEG2000"), LARGE_DEEP),
    "j2k 12 grey": (lambda: j2k(LARGE_DEEP // 16, 12), LARGE_DEEP // 16),
    "j2k 8 grey": (lambda: j2k(LARGE, 8), LARGE),
    "pgm 8": (lambda: netpbm(5, 255, GREY), GREY),
    "pgm 8 in text": (lambda: netpbm(2, 255, GREY), GREY),
    "pgm 16": (lambda: netpbm(5, 65535, DEEP), DEEP),
    "pgm 12": (
        lambda: netpbm(5, 4095, DEEP // 16),
        np.rint(DEEP // 16 / 4095 * 65535).astype(np.uint16),
    ),
    "ppm 8": (lambda: netpbm(6, 255, COLOUR), COLOUR),
    "ppm 16": (lambda: netpbm(6, 65535, DEEP_COLOUR), DEEP_COLOUR),
    "pbm": (
        lambda: b"P4 14 11\n" + np.packbits(GREY > 99, axis=1).tobytes(),
        (GREY <= 99).astype(np.uint8) * 255,
    ),
    "png 8 grey": (lambda: encoded(GREY), GREY),
    "png 8 colour": (lambda: encoded(COLOUR), COLOUR),
    "png 16 grey": (lambda: encoded(DEEP), DEEP),
    "png 16 grey by hand": (lambda: deep_png(DEEP), DEEP),
    "png 16 colour": (lambda: deep_png(DEEP_COLOUR), DEEP_COLOUR),
    "png 1 bit": (lambda: encoded(Image.fromarray(GREY > 99)), (GREY > 99).astype(np.uint8) * 255),
    "tiff 8 grey": (lambda: encoded(GREY, "TIFF"), GREY),
    "tiff 8 colour, lzw": (lambda: encoded(COLOUR, "TIFF", compression="tiff_lzw"), COLOUR),
    "tiff 8 colour, deflate": (lambda: encoded(COLOUR, "TIFF", compression="tiff_deflate"), COLOUR),
    "tiff 16 grey": (lambda: tiff(DEEP), DEEP),
    "tiff 16 grey, big endian": (lambda: tiff(DEEP, byteorder=">"), DEEP),
    "tiff 16 colour": (lambda: tiff(DEEP_COLOUR, photometric="rgb"), DEEP_COLOUR),
    "tiff 16 colour, big endian": (
        lambda: tiff(DEEP_COLOUR, photometric="rgb", byteorder=">"),
        DEEP_COLOUR,
    ),
    "tiff 16 colour, deflate": (
        lambda: tiff(DEEP_COLOUR, photometric="rgb", compression="zlib"),
        DEEP_COLOUR,
    ),
    "tiff float": (lambda: tiff(DEEP.astype(np.float32) / 7), DEEP.astype(np.float32) / 7),
    "tiff 8, white is zero": (lambda: tiff(255 - GREY, photometric="miniswhite"), GREY),
    "tiff 16, white is zero": (lambda: tiff(65535 - DEEP, photometric="miniswhite"), DEEP),
    "dicom 8": (lambda: dicom(GREY), GREY),
    "dicom 16": (lambda: dicom(DEEP), DEEP),
    "dicom colour": (lambda: dicom(COLOUR), COLOUR),
    "dicom 12 bits, MONOCHROME1": (
        lambda: dicom(
            (4095 - DEEP // 16).astype(np.uint16),
            PhotometricInterpretation="MONOCHROME1",
            BitsStored=12,
            HighBit=11,
        ),
        DEEP // 16,
    ),
    "dicom signed, MONOCHROME1": (
        lambda: dicom((GREY.astype(np.int16) - 100), PhotometricInterpretation="MONOCHROME1"),
        99 - GREY.astype(np.int16),
    ),
    "dicom rescaled": (
        lambda: dicom(DEEP, RescaleSlope="2", RescaleIntercept="-1000"),
        2 * DEEP.astype(np.int32) - 1000,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_pixels_come_as_they_are_stored(tmp_path: Path, name: str) -> None:
    raw, wanted = FORMS[name][0](), FORMS[name][1]
    found = picture(tmp_path, raw)
    assert found.shape == ((3, *wanted.shape[:2]) if wanted.ndim == 3 else (1, *wanted.shape))
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1).squeeze(), wanted)
    assert found.dtype.itemsize == wanted.dtype.itemsize
    assert found.dtype.byteorder in "=|"


def test_a_jpeg_is_what_another_decoder_makes_of_it(tmp_path: Path) -> None:
    import av

    raw = encoded(np.kron(COLOUR, np.ones((8, 8, 1), np.uint8)), "JPEG", quality=95, subsampling=0)
    found = picture(tmp_path, raw).astype(int)
    with av.open(io.BytesIO(raw), format="jpeg_pipe") as container:
        other = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    difference = np.abs(found - np.moveaxis(other, -1, 0))
    assert difference.mean() < 1.5  # their inverse cosine transforms round differently
    assert np.ptp(found) > 200


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_wrote_is_applied(
    tmp_path: Path, form: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    raw = encoded(np.kron(GREY, np.ones((8, 8), np.uint8)), form, exif=exif.tobytes())
    with Image.open(io.BytesIO(raw)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(
        picture(tmp_path, raw)[0], upright.reshape(*upright.shape[:2], -1)[..., 0]
    )


def test_a_preview_behind_a_jpeg_is_no_second_picture(tmp_path: Path) -> None:
    photo = np.kron(COLOUR, np.ones((8, 8, 1), np.uint8))
    preview = Image.fromarray(GREY)
    raw = encoded(photo, "MPO", save_all=True, append_images=[preview])
    with Image.open(io.BytesIO(raw)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
        wanted = np.asarray(image)
    np.testing.assert_array_equal(picture(tmp_path, raw), np.moveaxis(wanted, -1, 0))


def compressed(frame: bytes, syntax: UID, shape: tuple[int, ...], colours: str) -> bytes:
    """Return a DICOM file around one frame that is compressed already."""
    file = io.BytesIO()
    data = pydicom.dcmread(io.BytesIO(dicom(np.zeros(shape, np.uint8))))
    data.file_meta.TransferSyntaxUID = syntax
    data.PhotometricInterpretation = colours
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR = "OB"
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_a_jpeg_inside_dicom_comes_in_rgb(tmp_path: Path) -> None:
    photo = encoded(np.kron(COLOUR, np.ones((8, 8, 1), np.uint8)), "JPEG", quality=95)
    with Image.open(io.BytesIO(photo)) as image:
        wanted = np.asarray(image).astype(int)
    raw = compressed(photo, JPEGBaseline8Bit, wanted.shape, "YBR_FULL_422")
    found = np.moveaxis(picture(tmp_path, raw), 0, -1)
    # They scale up the halved colours in their own ways.
    assert np.abs(found - wanted).mean() < 6
    assert np.abs(found[..., ::-1] - wanted).mean() > 20


@pytest.mark.parametrize("form", ["jpeg", "jpeg ls", "jpeg 2000"])
def test_a_frame_larger_than_its_header_says_is_not_decoded(tmp_path: Path, form: str) -> None:
    """It took a decoder a minute and 10 GB to find out."""
    grey = np.kron(GREY, np.ones((8, 8), np.uint8))
    data = pydicom.dcmread(io.BytesIO(dicom(grey)))
    if form == "jpeg":
        frame, syntax = encoded(grey, "JPEG"), JPEGBaseline8Bit
        at, size = frame.index(b"\xff\xc0") + 5, struct.pack(">HH", 60000, 60000)
    elif form == "jpeg ls":
        data.compress(JPEGLSLossless)
        frame, syntax = next(generate_frames(data.PixelData, number_of_frames=1)), JPEGLSLossless
        at, size = frame.index(b"\xff\xf7") + 5, struct.pack(">HH", 60000, 60000)
    else:
        data.compress(JPEG2000Lossless)
        frame, syntax = next(generate_frames(data.PixelData, number_of_frames=1)), JPEG2000Lossless
        at, size = frame.index(b"\xff\x4f\xff\x51") + 8, struct.pack(">II", 60000, 60000)
    whole = compressed(frame, syntax, grey.shape, "MONOCHROME2")
    found = picture(tmp_path, whole)[0]
    assert np.abs(found.astype(int) - grey).mean() < 20
    bomb = frame[:at] + size + frame[at + len(size) :]
    with pytest.raises(BadCase, match=r"coded as 60000 x 60000 .* header declares 88 x 112"):
        picture(tmp_path, compressed(bomb, syntax, grey.shape, "MONOCHROME2"))


def test_frames_that_made_decoders_hang_are_refused(tmp_path: Path) -> None:
    """Found by changing bytes: 20 GB for a JPEG of height 0, and boxes that lead to themselves."""
    photo = encoded(LARGE_COLOUR, "JPEG")
    at = photo.index(b"\xff\xc0") + 5
    flat = photo[:at] + b"\0\0" + photo[at + 2 :]
    with pytest.raises(BadCase, match=r"coded as 0 x 112 .* header declares 88 x 112"):
        picture(tmp_path, compressed(flat, JPEGBaseline8Bit, LARGE_COLOUR.shape, "YBR_FULL_422"))
    boxed = encoded(LARGE, "JPEG2000")
    whole = compressed(boxed, JPEG2000Lossless, LARGE.shape, "MONOCHROME2")
    np.testing.assert_array_equal(picture(tmp_path, whole)[0], LARGE)
    at = boxed.index(b"ftyp") - 4
    loop = boxed[:at] + bytes(4) + boxed[at + 4 :]
    with pytest.raises(BadCase, match="a compressed frame does not declare its size"):
        picture(tmp_path, compressed(loop, JPEG2000Lossless, LARGE.shape, "MONOCHROME2"))
    stream = j2k(LARGE, 8)
    many = stream[:40] + struct.pack(">H", 16384) + stream[42:]
    with pytest.raises(BadCase, match="in 16384 channels, but"):
        picture(tmp_path, compressed(many, JPEG2000Lossless, LARGE.shape, "MONOCHROME2"))


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = dicom(np.zeros((2000, 1000), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    assert len(raw) < 20_000
    assert picture(tmp_path, raw).shape == (1, 2000, 1000)
    monkeypatch.setattr("loaders.formats.dicom.frames.MAX_BYTES", 1_900_000)
    with pytest.raises(BadCase, match="the deflated file holds more than 1900000 bytes"):
        picture(tmp_path, raw)
    with pytest.raises(BadCase, match="damaged or cut off"):
        picture(tmp_path, raw[: len(raw) * 2 // 3])


REAL = sorted(Path(get_testdata_file("CT_small.dcm")).parent.glob("*.dcm"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about its odd files
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_the_files_that_pydicom_ships_are_read_or_refused(path: Path) -> None:
    reason = None
    try:
        found = alone(read_picture(path, "x"))
    except BadCase as bad:
        reason = bad.reason
    if reason is not None:
        assert len(reason) > 15
        assert path.stem not in reason
        return
    assert found.ndim == 3
    assert len(found) in (1, 3)
    assert found.dtype in (np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.float32)
    data = pydicom.dcmread(path)
    if data.PhotometricInterpretation == "MONOCHROME2" and data.get("RescaleSlope", 1) == 1:
        offset = int(data.get("RescaleIntercept") or 0)
        shown = data.pixel_array.astype(np.int64) + offset
        kept = data.pixel_array != data.get("PixelPaddingValue")
        np.testing.assert_array_equal(found[0][kept], shown[kept])


def test_padding_in_a_big_endian_file(tmp_path: Path) -> None:
    stored = DEEP.copy()
    stored[:3] = 63536  # -2000 as a signed number of 16 bits
    raw = dicom(stored.view(">i2").byteswap(), syntax=ExplicitVRBigEndian, PixelPaddingValue=-2000)
    found = picture(tmp_path, raw)[0]
    np.testing.assert_array_equal(found[3:], stored[3:].view(np.int16))
    assert (found[:3] == found[3:].min()).all()


def test_colour_of_16_bits_is_turned_too(tmp_path: Path) -> None:
    turned = tiff(DEEP_COLOUR, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    wanted = np.rot90(DEEP_COLOUR, k=-1)
    np.testing.assert_array_equal(picture(tmp_path, turned), np.moveaxis(wanted, -1, 0))


def test_palettes_and_full_alpha_become_colour(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).quantize(200)
    wanted = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(picture(tmp_path, encoded(palette)), np.moveaxis(wanted, -1, 0))
    opaque = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])
    np.testing.assert_array_equal(picture(tmp_path, encoded(opaque)), np.moveaxis(COLOUR, -1, 0))
    deep = np.dstack([DEEP_COLOUR, np.full(GREY.shape, 65535, np.uint16)])
    np.testing.assert_array_equal(
        picture(tmp_path, deep_png(deep)), np.moveaxis(DEEP_COLOUR, -1, 0)
    )
    table = np.arange(768, dtype=np.uint16).reshape(3, 256) * 85 % 65521
    lut: dict[str, Any] = {}
    for values, name in zip(table, ("Red", "Green", "Blue"), strict=True):
        lut[f"{name}PaletteColorLookupTableData"] = values.tobytes()
        lut[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
    found = picture(tmp_path, dicom(GREY, PhotometricInterpretation="PALETTE COLOR", **lut))
    np.testing.assert_array_equal(found, table[:, GREY])


def test_padding_becomes_the_darkest_value(tmp_path: Path) -> None:
    stored = np.maximum(DEEP // 16, 5)
    stored[0] = 4000
    stored[1:][stored[1:] >= 3900] = 3899
    raw = dicom(
        stored,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
        PixelPaddingValue=4000,
    )
    found = picture(tmp_path, raw)[0]
    np.testing.assert_array_equal(found[1:], 4095 - stored[1:])
    assert (found[0] == (4095 - stored[1:]).min()).all()


def test_several_frames_belong_to_the_other_kind(tmp_path: Path) -> None:
    raw = dicom(np.stack([GREY, GREY]), NumberOfFrames=2)
    with pytest.raises(BadCase, match="holds 2 frames: prepare it as kind cine"):
        picture(tmp_path, raw)
    (tmp_path / "loop").write_bytes(raw)
    assert open_frames(tmp_path / "loop", "loop").count == 2


# ---- what is refused --------------------------------------------------------------------------


def animated(form: str) -> bytes:
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    file = io.BytesIO()
    first.save(file, form, save_all=True, append_images=[second])
    return file.getvalue()


def bomb() -> bytes:
    """Claim 30000 x 30000 pixels in a PNG of a few bytes."""
    head = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    whole = encoded(COLOUR)
    chunk = b"IHDR" + head
    return whole[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:]


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([os.system], dtype=object), allow_pickle=True)
    return file.getvalue()


def deep_j2k() -> bytes:
    """Return a codestream of three components of 12 bits."""
    levels = np.kron(DEEP_COLOUR // 16, np.ones((8, 8, 1), np.uint16))
    raw = dicom(levels, BitsStored=12, HighBit=11)
    data = pydicom.dcmread(io.BytesIO(raw))
    data.compress(JPEG2000Lossless)
    return next(generate_frames(data.PixelData, number_of_frames=1))


REFUSED: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "the file is empty: it has 0 bytes"),
    "gif": (lambda: encoded(GREY, "GIF"), "the file is a GIF; PNG, JPEG, TIFF, BMP, WebP"),
    "avi": (lambda: b"RIFF\0\0\0\0AVI LIST", "the file is a video"),
    "pickled npy": (pickled, "the file is a NumPy array"),
    "text": (lambda: b"not a picture", "the file is text"),
    "html": (lambda: b"<html>404</html>", "the file is text"),
    "zip": (lambda: b"PK\x03\x04" + bytes(99), "the file is a ZIP archive"),
    "noise": (lambda: RANDOM.bytes(999), "the file is not a picture of a known format"),
    "cmyk": (
        lambda: encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
        "the picture is in CMYK, which has no unique RGB values: save it as RGB",
    ),
    "half transparent": (
        lambda: encoded(np.dstack([COLOUR, GREY])),
        "the picture has transparent pixels: save it without its alpha channel",
    ),
    "half transparent, 16 bits": (
        lambda: deep_png(np.dstack([DEEP_COLOUR, DEEP])),
        "the picture has transparent pixels",
    ),
    "jpeg 2000 in deep colour": (
        deep_j2k,
        "a JPEG 2000 picture in colour of more than 8 bits is not read",
    ),
    "moving webp": (lambda: animated("WEBP"), "the file holds 2 pictures"),
    "pgm of nothing": (lambda: b"P5 9000 9000 255\n", "the PPM file is damaged or cut off"),
    "pgm bomb": (lambda: b"P5 90000 90000 65535\n", "the picture has more than 89478485 pixels"),
    "bmp bomb": (
        lambda: (raw := encoded(GREY, "BMP"))[:18] + struct.pack("<ii", 30000, 30000) + raw[26:],
        "the picture has more than 89478485 pixels",
    ),
    "two pages": (lambda: animated("TIFF"), "the file holds 2 pictures"),
    "animated png": (lambda: animated("PNG"), "the file holds 2 pictures"),
    "bomb, 16 bits": (
        lambda: deep_png(np.zeros((4800, 4800, 3), np.uint16)),
        "the picture has more than 22369621 pixels",
    ),
    "bomb": (bomb, "the picture has more than 89478485 pixels"),
    "dicom bomb": (
        lambda: dicom(GREY, Rows=65535, Columns=65535),
        "the header claims 65535 x 65535 pixels, which is not an image",
    ),
    "dicom without pixels": (
        lambda: dicom(GREY, PixelData=b""),
        "a frame (transfer syntax Explicit VR Little Endian) cannot be decoded",
    ),
    "dicom of unknown colours": (
        lambda: dicom(GREY, PhotometricInterpretation="HSV"),
        "PhotometricInterpretation is not one of: MONOCHROME1, MONOCHROME2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_with_its_sentence(tmp_path: Path, name: str) -> None:
    raw, sentence = REFUSED[name][0](), REFUSED[name][1]
    with pytest.raises(BadCase) as caught:
        picture(tmp_path, raw, "x.png")
    assert sentence in caught.value.reason
    assert "cut off:" not in caught.value.reason  # a class of Python would follow
    assert str(tmp_path) not in caught.value.reason


WHOLE: Mapping[str, Callable[[], bytes]] = {
    "png": lambda: encoded(np.kron(COLOUR, np.ones((9, 9, 1), np.uint8))),
    "png 16": lambda: deep_png(DEEP_COLOUR),
    "jpeg": lambda: encoded(np.kron(COLOUR, np.ones((9, 9, 1), np.uint8)), "JPEG"),
    "tiff": lambda: encoded(COLOUR, "TIFF"),
    "tiff lzw": lambda: encoded(COLOUR, "TIFF", compression="tiff_lzw"),
    "tiff 16": lambda: tiff(DEEP_COLOUR, photometric="rgb"),
    "dicom": lambda: dicom(DEEP),
    "bmp": lambda: encoded(COLOUR, "BMP"),
    "webp": lambda: encoded(LARGE_COLOUR, "WEBP"),
    "pgm": lambda: netpbm(5, 255, LARGE),
    "pgm 16": lambda: netpbm(5, 65535, DEEP),
    "ppm 16": lambda: netpbm(6, 65535, DEEP_COLOUR),
}


@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("form", WHOLE)
def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path, form: str, tenth: int) -> None:
    raw = WHOLE[form]()
    assert picture(tmp_path, raw).size
    with pytest.raises(BadCase) as caught:
        picture(tmp_path, raw[: len(raw) * tenth // 10])
    words = ("cut off", "not a picture", "cannot be", "is missing", "whole number")
    assert any(word in caught.value.reason for word in words), caught.value.reason


@pytest.mark.parametrize("form", WHOLE)
def test_flipped_bytes_never_end_the_process(tmp_path: Path, form: str) -> None:
    raw = WHOLE[form]()
    random = np.random.default_rng(3)
    outcomes = set()
    for _ in range(25):
        broken = bytearray(raw)
        for at in random.integers(0, len(raw), 3):
            broken[at] = random.integers(256)
        try:
            outcomes.add(picture(tmp_path, bytes(broken)).ndim)
        except BadCase:
            outcomes.add(0)
    assert outcomes <= {0, 3}


# ---- channels and size ------------------------------------------------------------------------


def test_grey_stored_as_colour_is_grey() -> None:
    grey = np.repeat(GREY[None], 3, axis=0)
    noisy = grey.copy()
    noisy[0, 0, 0] ^= 1  # as lossy coding rounds
    assert is_grey(grey)
    assert is_grey(noisy)
    assert not is_grey(np.moveaxis(COLOUR, -1, 0))
    np.testing.assert_array_equal(in_channels(grey, 1, mix=False, where=""), GREY[None])
    np.testing.assert_array_equal(in_channels(GREY[None], 3, mix=False, where=""), grey)
    with pytest.raises(BadCase, match="in colour, but others are grey"):
        in_channels(np.moveaxis(COLOUR, -1, 0), 1, mix=False, where="")
    luma = in_channels(np.moveaxis(COLOUR, -1, 0), 1, mix=True, where="")[0]
    wanted = np.asarray(Image.fromarray(COLOUR).convert("L")).astype(int)
    assert np.abs(luma.astype(int) - wanted).max() <= 1


def test_no_wide_copy_of_a_large_picture_is_made() -> None:
    image = np.zeros((3, 3000, 2000), np.uint8)
    tracemalloc.start()
    try:
        assert in_channels(image, 1, mix=False, where="").shape == (1, 3000, 2000)
        assert tracemalloc.get_traced_memory()[1] < 2 * image.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_shrinking_is_antialiased_and_never_enlarges(kind: Any) -> None:
    image = (np.random.default_rng(0).random((2, 60, 90)) * 250).astype(kind)
    small = shrink(image, 30)
    assert (small.shape, small.dtype) == ((2, 20, 30), image.dtype)
    other = torch.nn.functional.interpolate(
        torch.tensor(image.astype(np.float64))[None],
        size=(20, 30),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )[0].numpy()
    limit = 0.51 if kind != np.float32 else 1e-3
    assert np.abs(small.astype(np.float64) - other.clip(0)).max() < limit or kind == np.float32
    if kind == np.float32:
        np.testing.assert_allclose(small, other, atol=1e-3)
    # Stripes of one pixel, which taking every third would turn into stripes again.
    stripes = np.tile(np.array([0, 200], kind), (1, 60, 45))
    assert np.ptp(shrink(stripes, 30)[0, :, 3:-3].astype(float)) < 40
    assert shrink(image, 90) is image
    assert shrink(image, 0) is image


# ---- the table --------------------------------------------------------------------------------


def folder_of(
    root: Path, count: int = 6, *, table: str | bytes | None = None, forms: str = ".png"
) -> Path:
    """Make `count` pictures in root/images, and a table of them: image, label, patient, part."""
    root.mkdir(exist_ok=True)
    (root / "images").mkdir()
    random = np.random.default_rng(1)
    lines = ["image,label,patient,part"]
    for number in range(count):
        array = random.integers(0, 256, (9, 12)).astype(np.uint8)
        (root / "images" / f"Mustermann_{number}{forms}").write_bytes(encoded(array))
        part = ("train", "Validation", "TEST")[number % 3]
        lines.append(f"Mustermann_{number}{forms},{'ab'[number % 2]},P{number // 2},{part}")
    if table is None:
        table = "\n".join(lines) + "\n"
    (root / "labels.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    return root


def survey_of(source: Path, **options: Any) -> Survey:
    return KINDS["images"].survey(source, {"positive": "b", **options})


def prepare(source: Path, out: Path, **options: Any) -> tuple[Store, Report]:
    given = {"positive": "b", **options}
    report = store_prepare.prepare(
        KINDS["images"], source, out, options=given, key=KEY, strict=False
    )
    assert verify_store(out) == []
    return open_store(out), report


def index_of(store: Store, key: str) -> int:
    return store.case_ids.index(keyed_id(KEY, "images", key))


def test_a_folder_becomes_a_store(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set")
    store, report = prepare(source, tmp_path / "s", group="patient", split="part", name="mine")
    assert (report.n_cases, report.rejected) == (6, ())
    meta = store.meta
    assert (meta.name, meta.classes, meta.positive) == ("mine", ("a", "b"), 1)
    assert (meta.channels, meta.group_source, meta.unit) == (("intensity",), "patient", "image")
    assert (meta.dims, meta.axes, meta.task) == (2, "yx", "classification")
    for number in range(6):
        key = f"images/Mustermann_{number}.png"
        row = index_of(store, key)
        wanted = np.asarray(Image.open(source / key))
        np.testing.assert_array_equal(store.image(row)[0], wanted)
        assert store.labels[row] == number % 2
        assert store.splits[row] == ("train", "val", "test")[number % 3]
        assert store.groups[row] == keyed_id(KEY, "images", f"P{number // 2}")


def test_without_a_group_column_a_case_is_its_own_group(tmp_path: Path) -> None:
    store, _ = prepare(folder_of(tmp_path / "set"), tmp_path / "s")
    assert store.meta.group_source == "case"
    assert store.groups == store.case_ids
    assert store.splits == [None] * 6


def test_no_name_and_no_header_reaches_the_store(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "Muster-Clinic")
    exif = Image.Exif()
    exif[0x010E] = "Erika Mustermann, 4711"
    photo = encoded(GREY, "JPEG", exif=exif.tobytes(), comment=b"MRN-4711")
    (source / "images" / "Mustermann_1.png").write_bytes(photo)
    (source / "images" / "Mustermann_2.png").write_bytes(dicom(GREY))
    (source / "images" / "Mustermann_3.png").write_bytes(b"broken")
    store, report = prepare(source, tmp_path / "s", group="patient")
    assert [bad.where for bad in report.rejected] == ["images/Mustermann_3.png"]
    assert len(store) == 5
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        raw = path.read_bytes() + path.name.encode()
        for secret in (b"Muster", b"4711", b"Erika", b"Clinic", b"images/"):
            assert secret not in raw


TABLES = {
    "bom": b"\xef\xbb\xbfimage,label\n",
    "semicolon": b"image;label\n",
    "tab": b"image\tlabel\n",
    "quoted": b'"image","label"\r\n',
    "other columns": b"image,age,label,note\n",
    "blank lines": b"image,label\n\n , \n",
}


@pytest.mark.parametrize("form", [*TABLES, "utf-16"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, form: str) -> None:
    head = TABLES.get(form, b"image,label\n").decode()
    mark = next(mark for mark in (";", "\t", ",") if mark in head)
    middle = ["40"] if form == "other columns" else []
    end = ['"a, b"'] if form == "other columns" else []
    lines = "".join(
        mark.join([f"Mustermann_{n}", *middle, "ab"[n % 2], *end]) + "\r\n" for n in range(6)
    )
    table = (head + lines).encode("utf-16" if form == "utf-16" else "utf-8")
    survey = survey_of(folder_of(tmp_path / "set", table=table))
    assert survey.rejected == ()
    assert [row[2] for item in survey.items for row in item.extra["rows"]] == [0, 1] * 3


def test_files_are_found_by_stem_end_of_path_and_path(tmp_path: Path) -> None:
    source = tmp_path / "set"
    for folder in ("left", "right"):
        (source / "all" / folder).mkdir(parents=True)
        (source / "all" / folder / "one.v2.png").write_bytes(encoded(GREY))
    (source / "all" / "right" / "two.png").write_bytes(encoded(GREY))
    (source / "all" / "right" / "two.json").write_text("{}")
    (source / "labels.csv").write_text(
        "image,label\nleft/one.v2,a\nright\\one.v2.png,a\nall/right/two.png,a\n"
        "one.v2,b\nthree,b\ntwo,b\nwrong/two.png,b\n"
    )
    survey = survey_of(source)
    assert [row[0] for item in survey.items for row in item.extra["rows"]] == [
        "all/left/one.v2.png",
        "all/right/one.v2.png",
    ]
    assert [(bad.where, bad.reason) for bad in survey.rejected] == [
        ("labels.csv line 5 (one.v2)", "2 files have that name: the table should give the path"),
        ("labels.csv line 6 (three)", "the source has no file of that name"),
        ("labels.csv line 8 (wrong/two.png)", "the source has no file of that name"),
        *(
            (
                f"labels.csv line {line} (all/right/two.png)",
                "the table names this file 2 times, with different answers",
            )
            for line in (4, 7)
        ),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png",
        "images/../../outside.png",
        "/etc/passwd",
        "\\\\server\\share\\x.png",
        "C:\\x.png",
        "c:x.png",
        "..\\outside.png",
        "~/x.png",
    ],
)
def test_no_path_leads_out_of_the_source(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside.png").write_bytes(encoded(GREY))
    table = f"image,label\nMustermann_0,a\nMustermann_1,b\n{name},b\n"
    survey = survey_of(folder_of(tmp_path / "set", table=table))
    (bad,) = survey.rejected
    assert bad.reason in (
        "the table names a path outside the source",
        "the source has no file of that name",
    )
    assert (bad.reason == "the source has no file of that name") == (name == "~/x.png")
    assert len(survey.items[0].paths) == 2


def test_links_are_followed_inside_the_source_alone(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(encoded(GREY))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.png").write_bytes(encoded(GREY))
    names = ("Mustermann_0", "Mustermann_1", "out", "loop", "dangling", "far", "inner", "pipe")
    table = "image,label\n" + "".join(f"{name}.png,{'ab'[n % 2]}\n" for n, name in enumerate(names))
    source = folder_of(tmp_path / "set", table=table)
    images = source / "images"
    (images / "out.png").symlink_to(tmp_path / "outside.png")
    (images / "loop.png").symlink_to(images / "loop.png")
    (images / "dangling.png").symlink_to(images / "nothing.png")
    (images / "inner.png").symlink_to(images / "Mustermann_3.png")
    (images / "again").symlink_to(images, target_is_directory=True)  # a loop of folders
    (source / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    os.mkfifo(images / "pipe.png")
    survey = survey_of(source)
    assert [Path(path).name for path in survey.items[0].paths] == [
        "Mustermann_0.png",
        "Mustermann_1.png",
        "inner.png",
    ]
    assert [bad.reason for bad in survey.rejected] == [
        "the file is a link that leads out of the source",
        "the file is a link that leads to nothing",
        "the file is a link that leads to nothing",
        "the source has no file of that name; folders that are links are not followed",
        "the file is a device or a pipe",
    ]


def test_lines_with_a_hole_are_rejected_one_by_one(tmp_path: Path) -> None:
    table = (
        "image,label,patient\nMustermann_0,a,1\nMustermann_1,,1\n,b,2\nMustermann_2,NaN,2\n"
        "Mustermann_3,b,n/a\nMustermann_4,b\nMustermann_5,b,9\n"
    )
    survey = survey_of(folder_of(tmp_path / "set", table=table), group="patient")
    assert sorted((bad.where, bad.reason) for bad in survey.rejected) == [
        ("labels.csv line 3", "column label has no value"),
        ("labels.csv line 4", "column image has no value"),
        ("labels.csv line 5", "column label has no value"),
        ("labels.csv line 6", "column patient has no value"),
        ("labels.csv line 7", "the line has 2 cells but the table 3 columns"),
    ]
    assert len(survey.items[0].paths) == 2


# One of each kind of loaders.formats.missing_words, and more of those that were taken for values.
WORDS = ("#N/A", "#NV", "#REF!", "<NA>", "-nan", "1.#QNAN", "(null)", "Err:502", "N.A.", "\\N")


@pytest.mark.parametrize("word", [*WORDS, "none", "Unknown", "ANONYMOUS", "-"])
def test_a_missing_word_is_no_patient_of_many_and_no_part(tmp_path: Path, word: str) -> None:
    lines = [f"Mustermann_{n},{'ab'[n % 2]},{n},{'train' if n % 3 else 'test'}" for n in range(6)]
    lines[1] = lines[1].replace(",1,", f",{word},")
    lines[2] = lines[2].replace(",2,", f",{word},")
    lines[3] = lines[3].replace("test", word)
    table = "image,label,patient,part\n" + "\n".join(lines) + "\n"
    survey = survey_of(folder_of(tmp_path / "set", table=table), group="patient", split="part")
    assert [(bad.where, bad.reason) for bad in survey.rejected] == [
        ("labels.csv line 3", "column patient has no value"),
        ("labels.csv line 4", "column patient has no value"),
        ("labels.csv line 5", "column part has no value"),
    ]
    assert [row[1] for item in survey.items for row in item.extra["rows"]] == ["0", "4", "5"]


@pytest.mark.parametrize("word", WORDS)
def test_a_missing_word_is_no_class(tmp_path: Path, word: str) -> None:
    survey = survey_of(folder_of(tmp_path / "set", table=rows(f"a b {word} b a {word}")))
    assert survey.meta.classes == ("a", "b")
    assert [bad.reason for bad in survey.rejected] == ["column label has no value"] * 2


def test_none_and_unknown_may_be_classes(tmp_path: Path) -> None:
    table = rows("None Mild None Unknown - Mild")
    survey = survey_of(folder_of(tmp_path / "set", table=table), positive="")
    assert survey.meta.classes == ("-", "Mild", "None", "Unknown")


def test_a_formula_that_failed_is_not_an_absent_finding(tmp_path: Path) -> None:
    table = rows("1 0 nan #N/A <NA> #DIV/0!").replace("label", "Edema")
    survey = survey_of(folder_of(tmp_path / "set", table=table), positive="", finding="Edema")
    assert labels_of(survey) == [1, 0, 0, 0]
    assert [bad.reason for bad in survey.rejected] == ["column Edema has no value"] * 2


def test_nobody_in_a_path_is_no_patient(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", table="image,label\nunknown/0,a\nunknown/1,b\n")
    (source / "unknown").mkdir()
    for number in range(2):
        (source / "unknown" / f"{number}.png").write_bytes(encoded(GREY + np.uint8(number)))
    with pytest.raises(BadSource, match="finds no patient in unknown/0"):
        survey_of(source, group_pattern="([a-z]+)/")


def rows(text: str) -> str:
    """Return a table of the six pictures with these labels, separated by blanks."""
    return "image,label\n" + "".join(
        f"Mustermann_{n},{label}\n" for n, label in enumerate(text.split())
    )


@pytest.mark.parametrize(
    ("given", "positive", "classes", "numbers", "chosen"),
    [
        ("0 1 0 1 0 1", "", ("0", "1"), [0, 1] * 3, 1),
        ("0 1.0 0.0 1 0 1", "", ("0", "1"), [0, 1] * 3, 1),
        ("0 1 0 1 0 1", "0", ("0", "1"), [0, 1] * 3, 0),
        ("10 9 10 9 9 9", "9", ("9", "10"), [1, 0, 1, 0, 0, 0], 0),
        ("3 1 20 3 1 20", "", ("1", "3", "20"), [1, 0, 2, 1, 0, 2], None),
        ("nevus melanoma nevus nevus nevus nevus", "melanoma", ("melanoma", "nevus"), None, 0),
    ],
)
def test_labels_are_text_or_numbers(
    tmp_path: Path,
    given: str,
    positive: str,
    classes: tuple[str, ...],
    numbers: list[int] | None,
    chosen: int | None,
) -> None:
    survey = survey_of(folder_of(tmp_path / "set", table=rows(given)), positive=positive)
    assert (survey.meta.classes, survey.meta.positive) == (classes, chosen)
    found = [row[2] for item in survey.items for row in item.extra["rows"]]
    assert found == (numbers or [1, 0, 1, 1, 1, 1])


def labels_of(survey: Survey) -> list[int]:
    return [row[2] for item in survey.items for row in item.extra["rows"]]


NIH = rows("Effusion|Mass No|Finding Effusion Mass|Effusion Hernia No|Finding").replace(
    "No|Finding", "No Finding"
)


def test_of_several_findings_one_is_asked_for(tmp_path: Path) -> None:
    """As in NIH's Data_Entry_2017.csv: Finding Labels, a bar between them."""
    table = NIH.replace("image,label", "Image Index,Finding Labels")
    source = folder_of(tmp_path / "set", table=table)
    asked = {"positive": "", "label": "Finding Labels", "finding": "Effusion"}
    survey = survey_of(source, **asked)
    assert labels_of(survey) == [1, 0, 1, 1, 0, 0]
    meta = survey.meta
    assert (meta.classes, meta.positive) == (("no Effusion", "Effusion"), 1)
    assert (meta.name, meta.options["finding"]) == ("images-Effusion", "Effusion")
    assert survey_of(source, **asked, name="chest").meta.name == "chest"
    assert labels_of(survey_of(source, **{**asked, "finding": "Hernia"})) == [0, 0, 0, 0, 1, 0]
    assert labels_of(survey_of(source, **{**asked, "finding": "No Finding"})) == [0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("uncertain", "wanted"),
    [("exclude", [1, 0, 0, 0]), ("negative", [1, 0, 0, 0, 0]), ("positive", [1, 0, 0, 1, 0])],
)
def test_a_finding_has_a_column_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, uncertain: str, wanted: list[int]
) -> None:
    """As in CheXpert's train.csv: 1.0, 0.0, -1.0 and blanks; 2 is none of them."""
    states = ("1.0", "0.0", "", "-1.0", "nan", "2")
    table = "Path,Sex,Edema,Pleural Effusion\n" + "".join(
        f"Mustermann_{n}.png,Male,1.0,{state}\n" for n, state in enumerate(states)
    )
    source = folder_of(tmp_path / "set", table=table)
    survey = survey_of(source, positive="", finding="Pleural Effusion", uncertain=uncertain)
    assert labels_of(survey) == wanted
    assert [(bad.where, bad.reason) for bad in survey.rejected] == [
        ("labels.csv line 7", "column Pleural Effusion is not 1, 0, -1 or blank")
    ]
    left = [said for said in caplog.messages if said.startswith("1 images are left out")]
    assert len(left) == (uncertain == "exclude")
    assert survey.meta.classes == ("no Pleural Effusion", "Pleural Effusion")
    assert survey.meta.options["uncertain"] == uncertain
    with pytest.raises(BadSource, match=r"all of 6 lines have the finding 'Edema'"):
        survey_of(source, positive="", finding="Edema")


@pytest.mark.parametrize(
    ("table", "options", "sentence"),
    [
        (NIH, {"positive": ""}, "several findings per image: .* finding=Effusion"),
        (NIH, {"finding": "effusion", "positive": ""}, "no finding 'effusion': set .* has: Eff"),
        (NIH, {"finding": "Mass"}, "positive is 'b'; with option finding it is always the finding"),
        (
            NIH,
            {"finding": "Mass", "positive": "", "uncertain": "negative"},
            "uncertain is for a finding's own column",
        ),
        (
            NIH,
            {"finding": "Mass", "uncertain": "maybe"},
            "it must be one of: exclude, negative, pos",
        ),
        (rows("a b a b a b"), {"uncertain": "negative"}, "set finding=NAME"),
        (
            "image,dx,Mass\nMustermann_0,a,1\n",
            {"finding": "Mass", "label": "dx", "positive": ""},
            "has a column 'Mass': to use it, leave out the setting label",
        ),
    ],
)
def test_a_finding_that_cannot_be_asked_for(
    tmp_path: Path, table: str, options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BadSource, match=sentence):
        survey_of(folder_of(tmp_path / "set", table=table), **options)


def test_a_bar_in_a_class_is_no_list_of_findings(tmp_path: Path) -> None:
    survey = survey_of(folder_of(tmp_path / "set", table=rows("a|x b a|x b a|x b")))
    assert survey.meta.classes == ("a|x", "b")


def patients(*written: str) -> str:
    return "image,label,patient\n" + "".join(
        f"Mustermann_{n},{'ab'[n % 2]},{patient}\n" for n, patient in enumerate(written)
    )


def test_a_patient_is_one_however_the_number_is_written(tmp_path: Path) -> None:
    table = patients("12", "12.0", "012", "13", "12a", "12.5")
    survey = survey_of(folder_of(tmp_path / "set", table=table), group="patient")
    found = [row[1] for item in survey.items for row in item.extra["rows"]]
    assert found == ["12", "12", "12", "13", "12a", "12.5"]


def test_the_patient_may_stand_in_the_path(tmp_path: Path) -> None:
    """As in CheXpert and MURA: patient00001/study1/view1.jpg, and no column."""
    source = folder_of(tmp_path / "set", table="image,label\np1/a.png,a\np1/b.png,b\np2/a.png,b\n")
    for number, name in enumerate(("p1/a", "p1/b", "p2/a")):
        (source / name).parent.mkdir(exist_ok=True)
        (source / f"{name}.png").write_bytes(encoded(GREY + np.uint8(number)))
    survey = survey_of(source, group_pattern=r"p(\d+)/")
    assert [row[1] for item in survey.items for row in item.extra["rows"]] == ["1", "1", "2"]
    assert survey.meta.group_source == "patient"
    with pytest.raises(BadSource, match=r"option group_pattern: 'q\(.\)' finds no patient in p1/a"):
        survey_of(source, group_pattern="q(.)")
    with pytest.raises(BadSource, match="group and group_pattern both name the patient"):
        survey_of(source, group_pattern="q(.)", group="label")


@pytest.mark.parametrize("other", ["p7 x", "P7X", "\uff307 X", "P7  X"])
def test_patients_that_may_be_one_are_not_guessed_at(tmp_path: Path, other: str) -> None:
    """Nor are they named: a patient's number is nobody's business on a terminal."""
    table = patients("P7 X", "P8", other, "P9", "P9", "P9")
    with pytest.raises(BadSource, match="lines 2 and 4 have groups in column patient that differ"):
        survey_of(folder_of(tmp_path / "set", table=table), group="patient")


def test_a_table_of_lines_that_end_as_on_an_old_mac(tmp_path: Path) -> None:
    table = rows("0 1 0 1 0 1").replace("\n", "\r")
    assert labels_of(survey_of(folder_of(tmp_path / "set", table=table), positive="")) == [0, 1] * 3


def test_a_label_too_long_for_a_name_is_a_rejected_line(tmp_path: Path) -> None:
    for label in ("9" * 5000, "a" * 101):
        table = rows(f"0 1 0 1 0 {label}")
        survey = survey_of(folder_of(tmp_path / f"set{label[0]}", table=table), positive="")
        (bad,) = survey.rejected
        assert bad.reason == f"column label has a value of {len(label)} characters"


@pytest.mark.parametrize(
    ("table", "options", "sentence"),
    [
        (rows("a a a a a a"), {}, r"column label has 1 different values \(a\); a label needs 2"),
        (rows("a A b b b b"), {}, "has 'A' and 'a', which differ only in upper and lower case"),
        (rows("M b B m m M"), {}, "has 'B' and 'b', which differ only in upper and lower case"),
        (rows("a c a c a c"), {"positive": ""}, "has a and c: choose the disease, positive="),
        (rows("a c a c a c"), {"positive": "x"}, "positive is 'x'; column label has: a, c"),
        (rows("1 2 3 1 2 3"), {"positive": "1"}, "positive is for two classes; column label has 3"),
        (rows("a b a b a b"), {"label": "dx"}, "no column 'dx' for the label: set label="),
        (rows("a b a b a b"), {"group": "pat"}, "its columns are: image, label"),
        (rows("a b a b a b"), {"image": "label"}, "cannot be both image and label"),
        (
            rows("a b a b a b"),
            {"split": "label"},
            "column label has 'a'; a part is one of: train, val, test",
        ),
        (rows("a b a b a b"), {"channels": "red"}, "it must be one of: auto, grey, rgb"),
        (rows("a b a b a b"), {"size": "-1"}, "option size is -1"),
        (rows("a b a b a b"), {"csv": "../labels.csv"}, "it must be a path under"),
        (rows("a b a b a b"), {"csv": "other.csv"}, "there is no file other.csv under"),
        (rows("a b a b a b"), {"csv": "images/Mustermann_0.png"}, "is not UTF-8 text"),
        ("image\nx\n", {}, "its first line should name two or more columns"),
        ("image,label,label\nx,1,1\n", {}, "each used column once"),
        ("", {}, "labels.csv is empty"),
        (b"image,label\n\xff\xfe\xfa,1\n", {}, r"not UTF-8 text \(byte 12\): save it as CSV UTF-8"),
        (b"image,label\n\0,1\n", {}, "holds NUL bytes"),
        ('image,label\n"x,1\n', {}, "is not CSV"),
        ("image,label\nx," + "1" * 200_000, {}, "is not CSV"),
        ("image,label" + "1" * 200_000 + "\nx,1\n", {}, "labels.csv line 1 is not CSV"),
        ("a,b\n" + "x,1\n" * 500_000, {"label": "b"}, "has more than 500000 lines"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(
    tmp_path: Path, table: str | bytes, options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BadSource, match=sentence):
        survey_of(folder_of(tmp_path / "set", table=table), **options)


def test_the_table_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "set")
    (source / "more.tsv").write_text("image\tlabel\n")
    with pytest.raises(BadSource, match=r"found: labels\.csv, more\.tsv; set csv"):
        survey_of(source)
    assert survey_of(source, csv="labels.csv").rejected == ()
    (source / "linked.csv").symlink_to("/etc/hostname")
    with pytest.raises(BadSource, match=r"no file linked\.csv under"):
        survey_of(source, csv="linked.csv")
    monkeypatch.setattr(csv_table, "MAX_TABLE_BYTES", 10)
    with pytest.raises(BadSource, match="at most 10 are read"):
        survey_of(source, csv="labels.csv")
    with pytest.raises(BadSource, match="there is no folder"):
        survey_of(source / "labels.csv")


def test_a_file_named_twice_counts_once(tmp_path: Path) -> None:
    table = "image,label\nMustermann_0,a\nMustermann_1,b\nMustermann_0.png,a\nMustermann_2,a\n"
    survey = survey_of(folder_of(tmp_path / "set", table=table))
    assert [(bad.where, bad.reason) for bad in survey.rejected] == [
        ("labels.csv line 4 (images/Mustermann_0.png)", "the table names this file a second time")
    ]
    assert len(survey.items[0].paths) == 3


def test_copies_stay_together_or_are_reported(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", count=8)
    images = source / "images"
    (images / "Mustermann_2.png").write_bytes((images / "Mustermann_0.png").read_bytes())
    (images / "Mustermann_5.png").write_bytes((images / "Mustermann_4.png").read_bytes())
    store, report = prepare(source, tmp_path / "s")
    # 4 is of class a and 5 of class b.
    assert {(bad.where, bad.reason) for bad in report.rejected} == {
        (f"images/Mustermann_{n}.png", "another file with the same bytes has another label")
        for n in (4, 5)
    }
    assert len(store) == 6
    groups = [store.groups[index_of(store, f"images/Mustermann_{n}.png")] for n in (0, 2, 1)]
    assert groups[0] == groups[1] != groups[2]


def test_a_picture_is_known_again_whatever_file_it_came_in(tmp_path: Path) -> None:
    """Five containers of one picture, one of them turned and turned back by its EXIF."""
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by a quarter to the right
    files = {
        "a.png": encoded(GREY),
        "b.tif": tiff(GREY),
        "c.tif": encoded(GREY, "TIFF", compression="tiff_lzw"),
        "d.dcm": dicom(GREY),
        "e.png": encoded(np.ascontiguousarray(np.rot90(GREY)), exif=exif.tobytes()),
        "f.png": encoded(GREY[::-1]),
        "g.png": encoded(GREY[:, ::-1]),
    }
    (tmp_path / "set").mkdir()
    for name, raw in files.items():
        (tmp_path / "set" / name).write_bytes(raw)
    table = "image,label,patient\n" + "".join(
        f"{name},{'aaaaaba'[n]},P{n}\n" for n, name in enumerate(files)
    )
    (tmp_path / "set" / "labels.csv").write_text(table)
    store, report = prepare(tmp_path / "set", tmp_path / "s", group="patient")
    assert report.rejected == ()
    groups = [store.groups[index_of(store, name)] for name in files]
    assert len(set(groups[:5])) == 1
    assert len(set(groups)) == 3


# ---- one scale a set --------------------------------------------------------------------------


def test_a_colour_picture_in_a_grey_set_is_rejected_unless_mixing_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.datasets.tabular.images._PROBES", 2)  # the first and the last
    source = folder_of(tmp_path / "set")
    (source / "images" / "Mustermann_2.png").write_bytes(encoded(COLOUR))
    store, report = prepare(source, tmp_path / "auto")
    assert [bad.reason for bad in report.rejected] == [
        "the picture is in colour, but others are grey: set channels"
    ]
    assert store.meta.channels == ("intensity",)
    store, report = prepare(source, tmp_path / "rgb", channels="rgb")
    assert (len(store), store.meta.channels) == (6, ("red", "green", "blue"))
    store, report = prepare(source, tmp_path / "grey", channels="grey")
    assert (len(store), report.rejected) == (6, ())
    monkeypatch.setattr("loaders.datasets.tabular.images._PROBES", 6)
    store, _ = prepare(source, tmp_path / "seen")
    assert store.meta.channels == ("red", "green", "blue")


def test_8_and_16_bits_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "set")
    for number in (2, 4):
        (source / "images" / f"Mustermann_{number}.png").write_bytes(encoded(DEEP))
    with pytest.raises(BadSource, match="some pictures have 8 bits and some more"):
        survey_of(source)
    monkeypatch.setattr("loaders.datasets.tabular.images._PROBES", 2)
    _, report = prepare(source, tmp_path / "s")
    assert [bad.where for bad in report.rejected] == [
        f"images/Mustermann_{number}.png" for number in (2, 4)
    ]


def test_size_shrinks_the_longer_side(tmp_path: Path) -> None:
    store, _ = prepare(folder_of(tmp_path / "set"), tmp_path / "s", size="6")
    assert (store.shapes == (4, 6)).all() or (store.shapes == (5, 6)).all()
    assert store.meta.options["size"] == 6


def test_a_picture_larger_than_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_BYTES", 100)
    with pytest.raises(BadCase, match=r"bytes; at most 100 are read"):
        picture(tmp_path, encoded(COLOUR))


def test_a_file_that_went_away_is_a_rejected_case(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set")
    survey = survey_of(source)
    (source / "images" / "Mustermann_2.png").unlink()
    report = write_store(KINDS["images"], survey, tmp_path / "s", key=KEY, workers=1, strict=False)
    assert [bad.reason for bad in report.rejected] == ["the file is gone"]
    assert report.n_cases == 5


def test_only_the_settings_that_shaped_the_arrays_decide(tmp_path: Path) -> None:
    meta = survey_of(folder_of(tmp_path / "set"), group="patient").meta
    assert set(meta.options) == {"channels", "size", "bits", "depths"}
    assert replace(meta, name="other") != meta


# ---- real pictures ----------------------------------------------------------------------------


def test_the_skin_images_of_the_isic_archive(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "isic_uda1"
    survey = KINDS["images"].survey(
        source, {"label": "benign_malignant", "positive": "malignant", "size": 64}
    )
    assert survey.rejected == ()
    assert survey.meta.channels == ("red", "green", "blue")
    assert (survey.meta.classes, survey.meta.positive) == (("benign", "malignant"), 1)
    labels = [row[2] for item in survey.items for row in item.extra["rows"]]
    assert (len(labels), sum(labels)) == (557, 159)
    few = replace(survey, items=survey.items[:1])
    report = write_store(KINDS["images"], few, tmp_path / "s", key=KEY, workers=1, strict=False)
    store = open_store(tmp_path / "s")
    assert report.n_cases == 64
    assert (store.shapes.max(axis=1) == 64).all()
    row = index_of(store, "images/ISIC_0000000.jpg")
    with Image.open(source / "images" / "ISIC_0000000.jpg") as image:
        width, height = image.size
        other = np.asarray(image.resize((64, round(height * 64 / width)), Image.Resampling.BICUBIC))
    assert np.abs(store.image(row).astype(int) - np.moveaxis(other, -1, 0)).max() <= 1


# ---- columns to split by ------------------------------------------------------------------------


def kept_of(root: Path, values: str, **options: Any) -> Store:
    """Return the store of as many pictures as there are values of a column `place`."""
    names = values.split(",")
    table = "image,label,place\n" + "".join(f"{n},{'ab'[n % 2]},{v}\n" for n, v in enumerate(names))
    (root / "set").mkdir(parents=True)
    (root / "set" / "labels.csv").write_text(table)
    for number in range(len(names)):
        (root / "set" / f"{number}.png").write_bytes(encoded(GREY + np.uint8(number)))
    store, _ = prepare(root / "set", root / "store", **options)
    return store


def test_values_of_a_kept_column_are_numbered_by_size_or_by_the_alphabet(tmp_path: Path) -> None:
    for name, values, numbers in (
        ("whole", "10,9,010,-1", [2, 1, 2, 0]),
        ("text", "b,B,a,b", [2, 0, 1, 2]),
        ("mixed", "10,9,x,9.0", [0, 1, 2, 1]),
    ):
        store = kept_of(tmp_path / name, values, keep="place")
        found = dict(zip(store.case_ids, store.column("place"), strict=True))
        ids = [keyed_id(KEY, "images", f"{n}.png") for n in range(4)]
        assert [found[one] for one in ids] == numbers


def test_a_picture_without_a_value_to_split_by_is_rejected(tmp_path: Path) -> None:
    assert len(kept_of(tmp_path / "kept", "a,,b,a", keep="place")) == 3
    assert len(kept_of(tmp_path / "not", "a,,b,a")) == 4


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("places", r"no column 'places' .*set keep=COLUMN; its columns are: image, label, place"),
        ("place,place", "option keep names a column twice"),
        ("place", "column 'place' of option keep has 101 different values; .* at most 100"),
    ],
)
def test_columns_that_cannot_be_kept_are_told(tmp_path: Path, keep: str, said: str) -> None:
    with pytest.raises(BadSource, match=said):
        kept_of(tmp_path, ",".join(map(str, range(101))), keep=keep)
