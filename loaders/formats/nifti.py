"""NIfTI volumes to cases: checked before they are read, reoriented to RAS, labels renumbered.

The format: NIfTI-1 (nifti.nimh.nih.gov/nifti-1) and NIfTI-2. Headers are not trusted: what they
declare is compared with the bytes of the file before memory is allocated.
"""

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nibabel
import numpy as np
from blake3 import blake3
from isal import igzip_lib, isal_zlib

from loaders.cases import JSON, Array, BadCase, BadSource, Case, Item, Meta

# Its functions are not annotated.
nib: Any = nibabel

# The first bytes of a member of a gzip file (RFC 1952, 2.3.1).
GZIP = b"\x1f\x8b"
ENDINGS = (".nii.gz", ".nii")
# CT, in Hounsfield units; voxels outside the scanner's circle are written as -1024 to -3024.
AIR = -1000.0
# Offset and bytes of the magic of a one-file NIfTI; pairs of .hdr and .img are not read.
KINDS = ((344, b"n+1\0", nib.Nifti1Header), (4, b"n+2\0", nib.Nifti2Header))
# Deflate cannot shrink data further (zlib technical notes, zlib.net/zlib_tech.html).
DEFLATE_LIMIT = 1032
# Larger than any clinical volume (assumption): a 2000-slice CT in float64 is 4 GiB.
MAX_BYTES = 8 << 30
# Bytes that may follow the voxels: some writers pad.
MAX_TRAILER = 1 << 20
# Bytes read from a file at once. In a compressed one they inflate to at most DEFLATE_LIMIT times as
# many, which should stay in a core's cache until they are copied.
CHUNK = 1 << 16
# The size of the larger kind of header.
HEADER_BYTES = 540
# Corners of an image and its label may be this far apart by default, in voxels: two writers'
# rounding of one affine to float32 moves them by at most 1e-4, a shift that matters by far
# more.
AFFINE_TOLERANCE = 0.01
# Storage with a scaling (float32, 16 bits) changes a label by at most 1e-4, interpolation by far
# more (assumption).
LABEL_ROUNDING = 1e-3
# A quaternion may be longer than 1 because its writer rounded to four decimals (assumption).
QUATERNION_ROUNDING = 5e-4
# The largest label in a label map.
MAX_LABEL = 65535
# Masks are stored in 8 bits; here their last value marks numbers without a class.
NO_CLASS = 255
# No voxel is a kilometre long, and squares of far longer ones overflow (assumption).
LARGEST_MM = 1e6
# By the lower three bits of xyzt_units: metres and micrometres. All others are read as mm, as in
# other readers.
MM_PER_UNIT = {1: 1000.0, 3: 0.001}
OPTIONS: Mapping[str, tuple[JSON, str]] = {
    "shift": (
        AFFINE_TOLERANCE,
        "how far a label or channel may be shifted from its image, in voxels, 0 to 1",
    ),
    "nan": (
        "refuse",
        "NaN in images and labels: refuse the case, or fill (CT: with air, else 0; background)",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a NIfTI file declares, checked against its size.

    `shape` is (X, Y, Z) or (X, Y, Z, C), `affine` (4, 4) maps voxels to mm. A file of (X, Y) is
    read as one slice, and one of (X, Y, Z, 1, C), which has no time, as (X, Y, Z, C).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: Array
    offset: int
    slope: float
    intercept: float

    @property
    def scaled(self) -> bool:
        """Whether stored numbers must be scaled to give the voxels' values."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def read_as(self) -> np.dtype[Any]:
        """Type of the voxels that `read_voxels` returns."""
        return np.dtype(np.float64) if self.scaled else self.dtype


class Placed(Protocol):
    """An object with a shape (X, Y, Z) or (X, Y, Z, C), and an affine (4, 4) to mm."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""

    @property
    def affine(self) -> Array:
        """From voxels to mm."""


class NiftiError(ValueError):
    """A fault of one file, in a message that names no path."""


def stem(path: Path, endings: Sequence[str] = ENDINGS) -> str | None:
    """Return a file's name without its NIfTI ending (or one of `endings`); None if it has none.

    Hidden files do not count: archives made on a Mac hold `._name.nii.gz` beside each file.
    """
    for ending in endings:
        if path.name.lower().endswith(ending) and not path.name.startswith("."):
            return path.name[: -len(ending)]
    return None


def chosen_reading(kind: str, chosen: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the OPTIONS that differ from their defaults, for a meta; raises BadSource."""
    if not 0 <= chosen["shift"] <= 1:
        raise BadSource(f"{kind} option shift is {chosen['shift']:g}; it must be 0 to 1 voxels")
    if chosen["nan"] not in ("refuse", "fill"):
        raise BadSource(f"{kind} option nan is {chosen['nan']!r}; it must be refuse or fill")
    return {name: chosen[name] for name, (default, _) in OPTIONS.items() if chosen[name] != default}


def without_copies(paths: Sequence[Path]) -> list[Path]:
    """Return files without those that are packed or unpacked copies of another.

    CASE.nii may be beside CASE.nii.gz if somebody unpacked a set. Two that differ both stay.
    """
    if len(paths) < 2 or len({(path.parent, stem(path)) for path in paths}) > 1:
        return list(paths)
    found: dict[str, Path] = {}
    for path in paths:
        try:
            found.setdefault(_content_hash(path), path)
        except NiftiError:
            return list(paths)  # reported when it is read
    return list(found.values())


def _content_hash(path: Path) -> str:
    """Return the hash of a file's unpacked content; raises NiftiError if it is too large."""
    digest, size = blake3(), 0
    with _faults():
        for piece in _pieces(path, step=CHUNK):
            digest.update(piece)
            size += len(piece)
            if size > MAX_BYTES:
                raise NiftiError("is larger than any volume")
    return digest.hexdigest()


def read_header(path: Path) -> Header:
    """Read a file's header and check it against the file's size; raises NiftiError."""
    if path.exists() and not path.is_file():
        # Reading a pipe could block for ever.
        raise NiftiError("is not a file but a folder, a pipe or a device")
    raw = b""
    with _faults():
        for piece in _pieces(path, step=1 << 12):
            raw += piece
            if len(raw) >= HEADER_BYTES:
                break
    kind = next((kind for place, magic, kind in KINDS if raw[place:].startswith(magic)), None)
    if kind is None or len(raw) < kind.sizeof_hdr:
        raise NiftiError("is not a NIfTI file")
    # Unchecked: nibabel would repair some faults and print others; what matters is checked here.
    # Only its 348 or 540 bytes: extensions, which may be long and broken, are skipped.
    header = kind(raw[: kind.sizeof_hdr], check=False)
    axes, *lengths = header["dim"].tolist()
    if not 0 <= axes <= len(lengths):
        raise NiftiError(f"has a header that declares {axes} axes")
    shape = _shape(tuple(lengths[:axes]))
    _mend(header, shape)
    dtype: np.dtype[Any] = _field("datatype", header.get_data_dtype)
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        name = nib.nifti1.data_type_codes.label[int(header["datatype"])]
        raise NiftiError(f"holds voxels of type {name}, not real numbers of up to 64 bits")
    slope, intercept = _field("scl_slope and scl_inter", header.get_slope_inter)
    affine = _field("affine", lambda: np.asarray(header.get_best_affine(), dtype=np.float64))
    offset = _field("vox_offset", lambda: int(header["vox_offset"])) or header.single_vox_offset
    affine[:3] *= MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise NiftiError("has an affine that is not invertible")
    sides = np.abs(affine[:3, :3]).max(axis=0)
    if sides.max() > LARGEST_MM or np.isnan(nib.io_orientation(affine)).any():
        raise NiftiError(
            "has an affine that no scanner writes: its axes are too long or degenerate"
        )
    _check_size(path, shape, dtype, offset)
    return Header(
        shape=shape,
        dtype=dtype,
        affine=affine,
        offset=offset,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
    )


def _shape(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Return a file's axes as (X, Y, Z) or (X, Y, Z, C) if possible, else unchanged."""
    while len(lengths) > 3 and lengths[-1] == 1:
        lengths = lengths[:-1]
    if len(lengths) == 2:
        return (*lengths, 1)
    if len(lengths) == 5 and lengths[3] == 1:
        return (*lengths[:3], lengths[4])
    return lengths


def _mend(header: Any, shape: tuple[int, ...]) -> None:
    """Correct what other readers correct (nibabel; nifti1_io.c of NIfTI's reference code).

    A negative voxel length loses its sign, and a length of 0 along a single voxel becomes 1. qfac,
    which must be 1 or -1, becomes 1 if it is 0 or more. A quaternion that rounding made longer than
    1 is normalised.
    """
    pixdim = header["pixdim"]
    pixdim[1:4] = np.abs(pixdim[1:4])
    for axis, length in enumerate(shape[:3], start=1):
        if length == 1 and pixdim[axis] == 0:
            pixdim[axis] = 1
    if pixdim[0] >= 0:
        pixdim[0] = 1
    names = ("quatern_b", "quatern_c", "quatern_d")
    squared = sum(float(header[name]) ** 2 for name in names)
    if 1 < squared <= 1 + QUATERNION_ROUNDING:
        for name in names:
            header[name] = float(header[name]) / squared**0.5


def _field(name: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (nib.spatialimages.HeaderDataError, ValueError, OverflowError, KeyError):
        raise NiftiError(f"has a header whose {name} is not valid") from None


def _check_size(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
    if not shape or min(shape) < 1:
        raise NiftiError(f"is empty: its shape is {' x '.join(map(str, shape)) or 'missing'}")
    declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if declared > MAX_BYTES:
        raise NiftiError(f"declares {declared >> 30} GiB of voxels, too many for a volume")
    on_disk = path.stat().st_size
    with _faults(), path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    most = on_disk * DEFLATE_LIMIT if packed else on_disk
    if offset < 0 or offset + declared > most:
        raise NiftiError("is truncated: its header declares more voxels than the file can hold")


@contextmanager
def _faults() -> Iterator[None]:
    """Turn errors while a file is read into NiftiError."""
    try:
        yield
    except EOFError:
        raise NiftiError("is truncated") from None
    # isal's stub declares the class as an instance.
    except (gzip.BadGzipFile, igzip_lib.IsalError):  # type: ignore[misc]  # isal has no types
        raise NiftiError("is damaged: it cannot be decompressed") from None
    except OSError as error:
        raise NiftiError(f"cannot be read ({error.strerror})") from None


def _pieces(path: Path, step: int) -> Iterator[bytes]:
    """Yield a file's content, from `step` bytes of the file at a time, decompressed if it is gzip.

    Its first bytes decide, not its name, which people leave unchanged. gzip's checksums are
    verified. ISA-L inflates in 0.36 of zlib's time (measured). Raises EOFError, gzip.BadGzipFile,
    IsalError and OSError.
    """
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        member = None
        while piece := file.read(step):
            if not packed:
                yield piece
                continue
            while piece:
                if member is None:
                    # Zeros may pad a member (not in RFC 1952, but gzip and Python skip them).
                    if not (piece := piece.lstrip(b"\0")):
                        break
                    if not piece.startswith(GZIP[: len(piece)]):
                        raise gzip.BadGzipFile
                    member = isal_zlib.decompressobj(wbits=16 + isal_zlib.MAX_WBITS)
                yield member.decompress(piece)
                piece = member.unused_data
                if member.eof:
                    member = None
        if member is not None:
            raise EOFError


def read_voxels(path: Path, header: Header) -> Array:
    """Return a file's voxels in the header's shape, scaled; raises NiftiError.

    Memory is touched only as voxels arrive, so that a header that claims too many within a
    compressed file's possible size costs no more than the file holds. gzip's checksum is verified.
    """
    count = int(np.prod(header.shape)) * header.dtype.itemsize
    try:
        buffer = np.empty(count, dtype=np.uint8)
    except MemoryError:
        size = f"{count >> 20} MiB"
        raise NiftiError(f"declares {size} of voxels, more than there is memory") from None
    view = buffer.data
    # The place of the next piece: the voxels start at 0.
    place = -header.offset
    with _faults():
        for piece in _pieces(path, step=CHUNK):
            start = max(-place, 0)
            part = memoryview(piece)[start : max(count - place, 0)]
            view[place + start : place + start + len(part)] = part
            place += len(piece)
            if place > count + MAX_TRAILER:
                raise NiftiError("holds more than its header declares")
    if place < count:
        raise NiftiError("is truncated")
    voxels: Array = buffer.view(header.dtype).reshape(header.shape, order="F")
    if not header.scaled:
        return voxels
    scaled = voxels.astype(np.float64)
    scaled *= header.slope
    scaled += header.intercept
    return scaled


def to_ras(voxels: Array, affine: Array) -> tuple[Array, tuple[float, float, float]]:
    """Return voxels (X, Y, Z, ...) with axes to right, anterior and superior, and the spacing.

    Axes are swapped and flipped, never resampled. The spacing is in mm, in the new order.
    """
    order = nib.io_orientation(affine)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    spacing = lengths[np.argsort(order[:, 0])]
    # Rounded so that the hash of a case does not depend on a machine's last bit.
    x, y, z = (round(float(length), 6) for length in spacing)
    return nib.apply_orientation(voxels, order), (x, y, z)


def read_case(
    images: Sequence[Path],
    label: Path,
    *,
    key: str,
    group: str,
    label_values: Sequence[int],
    lowest: float | None = None,
    shift: float = AFFINE_TOLERANCE,
    nan: str = "refuse",
) -> Case:
    """Read one segmented volume, its channels from several files or from the fourth axis of one.

    `label_values[i]` is the number of class i in the file. Values below `lowest` are raised to it
    (in CT, those outside the scanner's circle become air). `shift` and `nan` are as in OPTIONS.
    Raises BadCase.
    """
    try:
        headers = [_of("image", read_header, path) for path in images]
        truth = _of("label", read_header, label)
        agree(headers, truth, shift)
        answer = _of("label", read_voxels, label, truth)
        image = _channels(images, headers)
        if nan == "fill":
            answer, image = filled(answer, 0), filled(image, lowest or 0)
        mask = to_classes(answer, label_values)
    except NiftiError as error:
        raise BadCase(str(error), where=key) from None
    if lowest is not None and image.min() < lowest:
        image = np.maximum(image, image.dtype.type(lowest))
    # Turned by the image's affine: two that differ by rounding might turn differently.
    mask, spacing = to_ras(mask, headers[0].affine)
    return Case(
        key=key,
        group=group,
        image=image,
        label=None,
        mask=mask.T,
        spacing=spacing[::-1],
    )


def filled(voxels: Array, value: float) -> Array:
    """Return voxels with NaN replaced by a value."""
    if voxels.dtype.kind != "f":
        return voxels
    return np.where(np.isnan(voxels), voxels.dtype.type(value), voxels)


def _channels(paths: Sequence[Path], headers: Sequence[Header]) -> Array:
    """Return (C, Z, Y, X) from several files (X, Y, Z) or one (X, Y, Z, C); raises NiftiError.

    Each file's voxels are freed before the next are read.
    """
    stack: Array | None = None
    for place, (path, header) in enumerate(zip(paths, headers, strict=True)):
        voxels, _ = to_ras(_of("image", read_voxels, path, header), headers[0].affine)
        if voxels.ndim == 4:
            return voxels.T
        if stack is None:
            kind = np.result_type(*(header.read_as for header in headers))
            stack = np.empty((len(paths), *voxels.T.shape), kind)
        stack[place] = voxels.T
    assert stack is not None  # a case has an image
    return stack


def read(item: Item, meta: Meta) -> Iterator[Case]:
    """Read an item whose paths are its channels, then its label; `extra` has the group.

    `meta.options` has the arguments of `read_case`: label_values, lowest, and chosen OPTIONS.
    """
    *images, label = item.paths
    known: dict[str, Any] = meta.options
    yield read_case(
        images,
        label,
        key=item.key,
        group=item.extra["group"],
        label_values=known["label_values"],
        lowest=known["lowest"],
        **{name: known[name] for name in OPTIONS if name in known},
    )


def _of(what: str, step: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return step(*arguments)
    except NiftiError as error:
        raise NiftiError(f"the {what} {error}") from None


def agree(images: Sequence[Placed], label: Placed, shift: float) -> None:
    """Check that the shapes and affines of a case's files agree; raises NiftiError."""
    for header in images:
        if len(header.shape) not in ((3, 4) if len(images) == 1 else (3,)):
            raise NiftiError(f"the image has {len(header.shape)} axes")
    shape = images[0].shape[:3]
    for what, header in (*(("channel", header) for header in images[1:]), ("label", label)):
        if header.shape != shape:
            sizes = [" x ".join(map(str, size)) for size in (header.shape, shape)]
            raise NiftiError(f"the {what} is {sizes[0]}, but the image {sizes[1]}")
        corners = np.array(np.meshgrid(*((0, length) for length in shape), [1])).reshape(4, -1)
        apart = np.linalg.norm((header.affine - images[0].affine) @ corners, axis=0).max()
        voxel = np.linalg.norm(images[0].affine[:3, :3], axis=0).min()
        if apart > shift * voxel:
            raise NiftiError(
                f"the {what}'s affine puts it {apart:.3g} mm away from the image, "
                f"{apart / voxel:.3g} voxels; shift allows {shift:g}"
            )


def to_classes(voxels: Array, label_values: Sequence[int]) -> Array:
    """Return class indices as uint8 for the numbers of a label file; raises NiftiError.

    `label_values[i]` is the number of class i.
    """
    if len(label_values) > NO_CLASS:
        raise NiftiError(f"the set has {len(label_values)} labels; at most {NO_CLASS} are read")
    table = np.full(MAX_LABEL + 1, NO_CLASS, dtype=np.uint8)
    table[list(label_values)] = np.arange(len(label_values))
    numbers = whole_numbers(voxels).ravel(order="K")
    classes = np.empty(numbers.size, dtype=np.uint8)
    # In blocks: np.take converts to 64-bit numbers first, which so stay in a core's cache. All are
    # within the table; mode="clip" saves the check (a third of the time, measured).
    for start in range(0, numbers.size, CHUNK):
        block = slice(start, start + CHUNK)
        np.take(table, numbers[block], out=classes[block], mode="clip")
    if classes.max() == NO_CLASS:
        strange = numbers[classes == NO_CLASS].min()
        known = ", ".join(map(str, label_values))
        raise NiftiError(f"the label holds {strange}; known labels are {known}")
    return classes.reshape(voxels.shape, order="F")


def whole_numbers(voxels: Array) -> Array:
    """Return a label file's voxels as indices 0..MAX_LABEL; raises NiftiError."""
    if voxels.dtype.kind == "f":
        if not np.isfinite(voxels).all():
            raise NiftiError("the label holds NaN or infinity")
        whole = np.rint(voxels)
        if (np.abs(voxels - whole) > LABEL_ROUNDING).any():
            raise NiftiError("the label holds numbers that are not whole")
        voxels = whole
    low, high = voxels.min(), voxels.max()
    if low < 0 or high > MAX_LABEL:
        raise NiftiError(f"the label holds {low if low < 0 else high:.9g}, which is not a class")
    return voxels.astype(np.uint8 if high < 256 else np.uint16, copy=False)


def found_labels(labels: Sequence[Path], *, nan: str = "refuse") -> list[int]:
    """Return the numbers used in label files, always including 0; bad files are skipped.

    These are rejected by name when their cases are read.
    """
    found = {0}
    for path in labels:
        try:
            voxels = read_voxels(path, read_header(path))
            numbers = whole_numbers(filled(voxels, 0) if nan == "fill" else voxels)
        except NiftiError:
            continue
        found |= {int(number) for number in np.flatnonzero(np.bincount(numbers.ravel(order="K")))}
    return sorted(found)
