"""DICOM files and videos, damaged, and what preparing does with them."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydicom
from edits import BYTES, File, Random, how_many, pick
from pydicom.data import get_testdata_file

from loaders.cases import BadCase, BadSource
from loaders.datasets.table import KINDS
from loaders.formats.dicom.file import quiet
from loaders.formats.dicom.slices import read_slices

# The lung's window (HU), as LIDC's kind reads slices.
WINDOW = (-1000, 400)

# One of each way to store pixels: plain, big-endian, implicit, RLE, JPEG (lossy, lossless, LS,
# 2000), palettes, colours, several frames, one bit.
DICOM = (
    *("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"),
    *("MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm"),
    *("JPEG2000.dcm", "JPEG-lossy.dcm", "SC_rgb_rle_2frame.dcm", "examples_palette.dcm"),
    *("rtdose_1frame.dcm", "liver_1frame.dcm", "SC_rgb_small_odd.dcm", "ExplVR_BigEnd.dcm"),
)
# What a header's numbers decide: sizes, depths, scales, frames.
FIELDS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "RescaleSlope"),
    *("RescaleIntercept", "PixelPaddingValue", "PixelSpacing", "FrameTime", "WindowWidth"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PhotometricInterpretation"),
    *("TransferSyntaxUID", "SOPInstanceUID", "CineRate", "RecommendedDisplayFrameRate"),
)
VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 7, 12, 15, 16, 17, 32, 64, 255, 65535, 2**31 - 1, -(2**31), "", None),
    *("0", "-0", "1e39", "nan", "inf", "abc", "1\\2", "1\\0\\0\\0\\1\\0", "0\\0\\0\\0\\0\\0"),
    *("MONOCHROME1", "RGB", "YBR_FULL_422", "PALETTE COLOR", "1.2.840.10008.1.2.5", "1.2.3"),
)
VIDEOS = (
    *(("avi", "ffv1", "gray"), ("avi", "mjpeg", "yuvj420p"), ("mp4", "mpeg4", "yuv420p")),
    *(("mp4", "libx264", "yuv420p"), ("matroska", "ffv1", "gray"), ("webm", "libvpx", "yuv420p")),
    ("mpeg", "mpeg1video", "yuv420p"),
)
ENDINGS = {"matroska": "mkv", "mpeg": "mpg"}


@cache
def good_dicom() -> list[bytes]:
    """Return pydicom's own files, those of `DICOM`."""
    paths = [get_testdata_file(name, download=False) for name in DICOM]
    return [Path(str(path)).read_bytes() for path in paths]


@cache
def good_videos() -> list[tuple[str, bytes]]:
    """Return the ending and the content of a short video in each container."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (5, 16, 32)).astype(np.uint8)
    made = []
    for form, codec, pixels in VIDEOS:
        file = io.BytesIO()
        with av.open(file, mode="w", format=form) as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 16, 32, pixels
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
            container.mux(stream.encode())
        made.append((ENDINGS.get(form, form), file.getvalue()))
    return made


def field(data: bytes, random: Random) -> bytes:
    """Set one field of a DICOM header to an extreme, or take it away; the file is whole again."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        name = pick(FIELDS, random)
        holder: Any = dataset.file_meta if name == "TransferSyntaxUID" else dataset
        value = pick(VALUES, random)
        if random.random() < 0.2 and name in holder:
            delattr(holder, name)
        else:
            setattr(holder, name, value)
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=False)
    except Exception:  # noqa: BLE001 - what pydicom will not write is damaged as bytes instead
        return pick(BYTES, random)(data, random)
    return file.getvalue()


def make_dicom(random: Random) -> list[File]:
    data = pick(good_dicom(), random)
    for _ in range(how_many(random)):
        data = pick((field, field, *BYTES), random)(data, random)
    return [("a.dcm", data), ("b.dcm", pick(good_dicom(), random)), _labels("dcm")]


def make_video(random: Random) -> list[File]:
    ending, data = pick(good_videos(), random)
    for _ in range(how_many(random)):
        data = pick(BYTES, random)(data, random)
    # At times the name speaks of another container than the content.
    if random.random() < 0.1:
        ending = pick(good_videos(), random)[0]
    return [(f"a.{ending}", data), (f"b.{ending}", good_videos()[0][1]), _labels(ending)]


def _labels(ending: str) -> File:
    return "labels.csv", f"file,label\na.{ending},0\nb.{ending},1\n".encode()


def read_dicom(paths: Sequence[Path]) -> None:
    """Read a file as a picture, as a loop and as a slice; raises a refusal once all were tried."""
    refusals: list[Exception] = []
    for kind in ("images", "cine"):
        try:
            _prepare(kind, paths)
        except (BadCase, BadSource) as refusal:
            refusals.append(refusal)
    try:
        with quiet():
            slices = read_slices(paths[0], WINDOW, "here")
        assert all(one.pixels is not None for one in slices)
    except BadCase as refusal:
        refusals.append(refusal)
    if refusals:
        raise refusals[0]


def read_loops(paths: Sequence[Path]) -> None:
    _prepare("cine", paths)


def _prepare(name: str, paths: Sequence[Path]) -> None:
    """List a source and read its cases; raises what that raises."""
    kind = KINDS[name]
    options: dict[str, Any] = {option: default for option, (default, _) in kind.options.items()}
    if name == "cine":
        options["frames"] = 2
    survey = kind.survey(paths[0].parent, options)
    for item in survey.items:
        for case in kind.read(item, survey.meta):
            if isinstance(case, Exception):
                raise case
            assert case.image.ndim in (3, 4)
