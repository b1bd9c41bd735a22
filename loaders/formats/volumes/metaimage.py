"""MetaImage, .mha: a text header and voxels in one file, or .mhd with its voxels beside it.

The format: itk.org/Wiki/MetaIO/Documentation. Plain and zlib data of integers and floats are read,
in 2-D or 3-D, with one channel or several. A header that names another file for its data (.mhd)
must name one in its own folder: files elsewhere are not opened.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from loaders.cases import Array
from loaders.formats.inside import leads_out
from loaders.formats.volumes.volume import (
    LPS_TO_RAS,
    MAX_HEADER,
    ZLIB_WINDOW,
    Volume,
    VolumeError,
    affine_of,
    read_bytes,
    whole,
)

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    # It has 32 bits on every system that writes it (metaTypes.h of MetaIO).
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Words that begin a header; each is followed by an equals sign.
BEGINS = (b"ObjectType", b"NDims", b"Comment")
_DATA = b"ElementDataFile"


def open_metaimage(path: Path) -> Volume:
    """Read the header of a MetaImage file and check it against the file; raises VolumeError."""
    fields, start, beside = _header(path)
    data = beside or path
    name = fields.get("elementtype", "")
    if name not in _TYPES:
        raise VolumeError(f"holds voxels of type {name[:30]!r}, not real numbers of up to 64 bits")
    big = _true(fields, "binarydatabyteordermsb", "elementbyteordermsb")
    dtype = np.dtype(_TYPES[name]).newbyteorder(">" if big else "<")
    sizes = tuple(int(size) for size in _numbers(fields, "dimsize"))
    axes = len(sizes)
    if [axes] != [int(n) for n in _numbers(fields, "ndims")] or not 2 <= axes <= 3:
        raise VolumeError(f"has {axes} axes; 2 or 3 are read")
    channels = int((_numbers(fields, "elementnumberofchannels") or [1])[0])
    count = whole((*sizes, channels), dtype)
    if not _true(fields, "binarydata", default=True):
        raise VolumeError("has its voxels as text, which is not read")
    packed = ZLIB_WINDOW if _true(fields, "compresseddata") else None
    if packed is None and data.stat().st_size - start < count:
        raise VolumeError("is truncated: its header declares more voxels than the file can hold")
    spacing = _numbers(fields, "elementspacing", "elementsize") or [1.0] * axes
    turns = _numbers(fields, "transformmatrix", "rotation", "orientation") or list(
        np.eye(axes).ravel()
    )
    origin = _numbers(fields, "offset", "position", "origin") or [0.0] * axes
    if len(spacing) != axes or len(turns) != axes * axes or len(origin) != axes:
        raise VolumeError("has a header whose axes, spacing and offset do not match")
    # A row of the matrix is the direction of an axis (itkMetaImageIO.cxx).
    directions = np.array(turns).reshape(axes, axes) * np.array(spacing)[:, np.newaxis]
    shape = (*sizes, 1)[:3]
    return Volume(
        shape=(*shape, channels) if channels > 1 else shape,
        dtype=dtype.newbyteorder("="),
        affine=LPS_TO_RAS @ affine_of(directions, np.array(origin)),
        load=partial(_load, data, start, count, dtype, (channels, *shape), packed),
        beside=(beside,) if beside else (),
    )


def _load(
    path: Path,
    start: int,
    count: int,
    dtype: np.dtype[Any],
    stored: tuple[int, ...],
    packed: int | None,
) -> Array:
    raw = read_bytes(path, start, count, packed=packed)
    voxels: Array = np.moveaxis(raw.view(dtype).reshape(stored, order="F"), 0, -1)
    voxels = voxels.astype(dtype.newbyteorder("="), copy=False)
    return voxels if stored[0] > 1 else voxels[..., 0]


def _header(path: Path) -> tuple[dict[str, str], int, Path | None]:
    """Return the fields by their names in lower case, the offset of the data, and their file.

    The file is None if the data are in this one.
    """
    with path.open("rb") as file:
        raw = file.read(MAX_HEADER)
    if not raw.startswith(BEGINS):
        raise VolumeError("is not a MetaImage file")
    at = raw.find(b"\n" + _DATA)
    end = raw.find(b"\n", at + 1)
    if end < 0 and at >= 0:
        end = len(raw)
    if at < 0:
        raise VolumeError("is a MetaImage header without data, or one that is cut off")
    fields = {}
    for line in raw[:end].decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        fields[name.strip().lower()] = value.strip()
    name = fields["elementdatafile"]
    if name == "LOCAL":
        return fields, end + 1, None
    if fields.get("headersize", "0") != "0":
        raise VolumeError("has its data after a header of another file, which is not read")
    beside = path.with_name(name) if PurePath(name).name == name and not leads_out(name) else path
    if beside == path or beside.is_symlink() or not beside.is_file():
        raise VolumeError(
            "has its data in another file, which is not beside it: save it as one .mha file"
        )
    return fields, 0, beside


def _numbers(fields: Mapping[str, str], *names: str) -> list[float]:
    """Return the numbers of the first of these fields that exists, an empty list if none does."""
    text = next((fields[name] for name in names if name in fields), "")
    try:
        found = [float(part) for part in text.split()]
    except ValueError:
        found = [np.nan]
    if not np.isfinite(found).all():
        raise VolumeError(f"has a header whose {names[0]} is not a list of numbers")
    return found


def _true(fields: Mapping[str, str], *names: str, default: bool = False) -> bool:
    told = next((fields[name] for name in names if name in fields), None)
    return default if told is None else told[:1] in ("T", "t", "1")
