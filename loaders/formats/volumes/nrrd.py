"""NRRD: a text header and voxels in one file (teem.sourceforge.net/nrrd/format.html).

Raw and gzip data of integers and floats are read, in 2-D or 3-D, and with one axis of channels. A
header that names another file for its data is refused: that file may be anywhere.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cases import Array
from loaders.formats.volumes.volume import (
    GZIP_WINDOW,
    LPS_TO_RAS,
    MAX_HEADER,
    Volume,
    VolumeError,
    affine_of,
    read_bytes,
    whole,
)

MAGIC = b"NRRD000"
# The format's names for each type, section "type".
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(
        ("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"
    ),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "uint64", "uint64_t"), "u8"),
    **dict.fromkeys(("float",), "f4"),
    **dict.fromkeys(("double",), "f8"),
}
# Section "space": the signs that give right, anterior, superior. Without a space: LPS, as in ITK.
_SPACES: Mapping[str, Array] = {
    **dict.fromkeys(("", "left-posterior-superior", "lps"), LPS_TO_RAS),
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
}
_VECTOR = re.compile(r"none|\(([^()]*)\)", re.IGNORECASE)


def open_nrrd(path: Path) -> Volume:
    """Read the header of an NRRD file and check it against the file; raises VolumeError."""
    fields, start = _header(path)
    dtype = _dtype(fields)
    try:
        sizes = tuple(int(size) for size in fields.get("sizes", "").split())
    except ValueError:
        raise VolumeError("has a header whose sizes are not numbers") from None
    if str(len(sizes)) != fields.get("dimension", "").strip():
        raise VolumeError("has a header whose sizes and dimension do not match")
    count = whole(sizes, dtype)
    encoding = fields.get("encoding", "").strip().lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise VolumeError(f"has data in the encoding {encoding[:20]!r}; raw and gzip are read")
    packed = None if encoding == "raw" else GZIP_WINDOW
    if packed is None and path.stat().st_size - start < count:
        raise VolumeError("is truncated: its header declares more voxels than the file can hold")
    axes, origin, channels = _space(fields, len(sizes))
    spatial = [axis for axis in range(len(sizes)) if axis != channels]
    order = [*spatial, *([] if channels is None else [channels])]
    shape = [*(sizes[axis] for axis in spatial), 1, 1][:3]
    if channels is not None and sizes[channels] > 1:
        shape.append(sizes[channels])
    return Volume(
        shape=tuple(shape),
        dtype=dtype.newbyteorder("="),
        affine=_SPACES[fields.get("space", "").strip().lower()] @ affine_of(axes, origin),
        load=partial(_load, path, start, count, dtype, sizes, order, tuple(shape), packed),
    )


def _load(
    path: Path,
    start: int,
    count: int,
    dtype: np.dtype[Any],
    sizes: tuple[int, ...],
    order: list[int],
    shape: tuple[int, ...],
    packed: int | None,
) -> Array:
    raw = read_bytes(path, start, count, packed=packed)
    stored = raw.view(dtype).reshape(sizes, order="F").transpose(order)
    voxels: Array = stored.reshape(shape, order="F").astype(dtype.newbyteorder("="), copy=False)
    return voxels


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields by their names in lower case, and the offset of the data."""
    with path.open("rb") as file:
        raw = file.read(MAX_HEADER)
    if not raw.startswith(MAGIC):
        raise VolumeError("is not an NRRD file")
    ends = [(at, len(end)) for end in (b"\n\n", b"\r\n\r\n") if (at := raw.find(end)) >= 0]
    if not ends:
        raise VolumeError("is an NRRD header without data, or one that is cut off")
    at, length = min(ends)
    fields: dict[str, str] = {}
    for line in raw[:at].decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(": ")
        if colon and not line.startswith("#"):
            fields[name.strip().lower()] = value
    if "data file" in fields or "datafile" in fields:
        raise VolumeError("has its data in another file: save it as one .nrrd file")
    if {"line skip", "lineskip", "byte skip", "byteskip"} & set(fields):
        raise VolumeError("has a header that skips a part of its data, which is not read")
    return fields, at + length


def _dtype(fields: Mapping[str, str]) -> np.dtype[Any]:
    name = " ".join(fields.get("type", "").lower().split())
    if name not in _TYPES:
        raise VolumeError(f"holds voxels of type {name[:30]!r}, not real numbers of up to 64 bits")
    endian = fields.get("endian", "little").strip().lower()
    if endian not in ("little", "big"):
        raise VolumeError(f"has the byte order {endian[:20]!r}; it must be little or big")
    return np.dtype(_TYPES[name]).newbyteorder("<" if endian == "little" else ">")


def _space(fields: Mapping[str, str], axes: int) -> tuple[Array, Array, int | None]:
    """Return the spatial axes (n, m), their origin (m,), and the number of the channel axis."""
    if fields.get("space", "").strip().lower() not in _SPACES:
        raise VolumeError(f"is in the space {fields['space'][:40]!r}, which is not read")
    if "space directions" not in fields:
        if axes > 3:
            raise VolumeError(f"has {axes} axes but no space directions")
        try:
            steps = [float(step) for step in fields.get("spacings", "1 " * axes).split()]
        except ValueError:
            raise VolumeError("has a header whose spacings are not numbers") from None
        if len(steps) != axes:
            raise VolumeError("has a header whose spacings do not match its axes")
        steps = [step if np.isfinite(step) else 1.0 for step in steps]
        return np.diag(steps), np.zeros(axes), None
    found = [match[1] for match in _VECTOR.finditer(fields["space directions"])]
    nowhere = [at for at, vector in enumerate(found) if vector is None]
    if len(found) != axes or len(nowhere) > 1:
        raise VolumeError("has a header whose space directions do not match its axes")
    directions = [_numbers(vector) for vector in found if vector is not None]
    origin = _VECTOR.search(fields.get("space origin", ""))
    wide = len(directions[0]) if directions else 0
    start = _numbers(origin[1]) if origin and origin[1] else [0.0] * wide
    if not directions or any(len(vector) != wide for vector in (*directions, start)):
        raise VolumeError("has a header whose space directions do not match its origin")
    return np.array(directions), np.array(start), nowhere[0] if nowhere else None


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise VolumeError(f"has a header with ({text[:40]}), which is not a vector") from None
