"""NIfTI files, damaged, and what preparing does with them."""

import gzip
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from edits import BYTES, Random, flip, how_many, pick

from loaders.cases import Case, Meta
from loaders.formats.nifti import found_labels, read_case, read_header, read_voxels
from loaders.store.statistics import measure

# Its functions are not annotated.
nib: Any = nibabel

LABELS = (0, 1, 2)
META = Meta(
    kind="fuzz",
    name="fuzz",
    task="segmentation",
    dims=3,
    channels=("a",),
    classes=("background", "one", "two"),
    regions={"one": (1,), "two": (2,)},
    positive=None,
    normalize="case",
    fill=0.0,
    unit="volume",
    group_source="case",
    source="made here",
    licence="none",
    options={},
)


@cache
def good_nifti() -> list[tuple[str, bytes]]:
    """Return files of each version, type and ending, with their names."""
    files = []
    random = np.random.default_rng(0)
    for dtype in ("uint8", "int16", "float32", "float64"):
        version: Any
        order: Any
        for version, order in ((nib.Nifti1Image, "<"), (nib.Nifti2Image, ">")):
            voxels = random.integers(0, 3, (5, 4, 3)).astype(dtype)
            header = version.header_class(endianness=order)
            header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
            affine = np.array([[0, -1.5, 0, 9], [2, 0, 0, -3], [0, 0, 3, 5], [0, 0, 0, 1.0]])
            raw = version(voxels, affine, header).to_bytes()
            files += [("a.nii", raw), ("a.nii.gz", gzip.compress(raw, mtime=0))]
    return files


def header_field(data: bytes, random: Random) -> bytes:
    """Set one field of the header, whole or in one of its parts, to an extreme of its type."""
    two = data[4:7] == b"n+2"
    dtype = nib.nifti2.header_dtype if two else nib.nifti1.header_dtype
    if len(data) < dtype.itemsize:
        return flip(data, random)
    order: Any = "<" if data[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
    header = np.frombuffer(data[: dtype.itemsize], dtype.newbyteorder(order)).copy()
    names: Sequence[str] = dtype.names or ()
    name = pick(names, random)
    field = np.atleast_1d(header[name])
    if field.dtype.kind == "S":
        values: list[Any] = [b"", b"\xff" * field.dtype.itemsize, b"n+1", b"n+2", b"ni1"]
    elif field.dtype.kind == "f":
        values = [0, -1, 1, 1e-40, 1e38, -1e38, np.nan, np.inf, -np.inf, 352, 351.5, 2**31]
    else:
        limits = np.iinfo(field.dtype)
        values = [0, 1, -1, 2, 3, 4, 5, 7, 8, 64, 128, 255, 512, 1024, 2304, 32767, 540]
        values = [v for v in (*values, limits.min, limits.max) if limits.min <= v <= limits.max]
    value = pick(values, random)
    if random.random() < 0.5:
        field[...] = value
    else:
        field.reshape(-1)[random.integers(field.size)] = value
    header[name] = field.reshape(header[name].shape)
    return header.tobytes() + data[dtype.itemsize :]


def voxel(data: bytes, random: Random) -> bytes:
    """Set some numbers behind the header to extremes of a floating type."""
    edited = bytearray(data)
    for _ in range(random.integers(1, 5)):
        kind = random.choice(["<f4", ">f4", "<f8", ">f8"])
        number = np.array(random.choice([np.nan, np.inf, -1, 0.5, 1e30, -1e300]))
        with np.errstate(over="ignore"):
            raw = number.astype(kind).tobytes()
        place = int(random.integers(352, max(len(data), 353)))
        edited[place : place + len(raw)] = raw
    return bytes(edited)


def make_nifti(random: Random) -> list[tuple[str, bytes]]:
    """Return an image and a label, one of them damaged, or both."""
    files = []
    good = good_nifti()
    damaged = int(random.integers(1, 4))
    for number in range(2):
        name, data = pick(good, random)
        for _ in range(how_many(random) if damaged >> number & 1 else 0):
            inside = name.endswith(".gz") and random.random() < 0.7
            if inside:
                try:
                    data = gzip.decompress(data)
                except (OSError, EOFError, zlib.error):
                    inside = False
            edits = (*BYTES, header_field, header_field, header_field, voxel, voxel)
            data = pick(edits, random)(data, random)
            if inside:
                data = gzip.compress(data, compresslevel=1, mtime=0)
        files.append((f"{number}{name}", data))
    return files


def read_nifti(paths: Sequence[Path]) -> None:
    """Do with an image and a label what preparing does; raises what it raises."""
    found_labels(paths)
    for path in paths:
        header = read_header(path)
        voxels = read_voxels(path, header)
        assert voxels.shape == header.shape
    image, label = paths
    case: Case = read_case([image], label, key="k", group="g", label_values=LABELS)
    facts = measure(case, META)
    assert facts.image.ndim == 4
    assert int(facts.class_counts.sum()) == facts.image[0].size
