"""One picture file to an array; its content, never its name, determines the format.

PNG, JPEG, TIFF, BMP, WebP, JPEG 2000, PGM (also PPM and PBM) and DICOM are read.

Pixels are returned as stored, with the depth that the file declares; colour profiles and gamma are
ignored, a palette is looked up, and a camera's orientation is applied. Pictures that cannot be read
without guessing are refused: transparent pixels, CMYK, several pictures in one file.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loaders.cases import Array, BadCase
from loaders.formats.checksum import read_hashed
from loaders.formats.coded.codestream import J2K, Coded, coded
from loaders.formats.coded.plain_png import plain_png
from loaders.formats.dicom.preamble import ENOUGH, begin_of
from loaders.formats.levels import Picture
from loaders.formats.orientation import upright

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".dcm", ".dicom"),
        *(".bmp", ".webp", ".jp2", ".j2k", ".jpx", ".pgm", ".ppm", ".pbm", ".pnm"),
    )
)
# The libraries' own limit against decompression bombs (PIL.Image.MAX_IMAGE_PIXELS): 1 GiB / 4 / 3.
MAX_PIXELS = 89_478_485
# A quarter of it in 16-bit colour, which passes through two copies of four channels.
MAX_DEEP_PIXELS = MAX_PIXELS // 4
# More than an uncompressed picture of this many pixels in three channels of 16 bits (assumption).
MAX_BYTES = 2**30
# Lossy coding turns grey into colours that differ by a level or two in 256 (assumption: 3).
_GREY_TOLERANCE = 3 / 255
_STRIP_ROWS = 64
# ITU-R BT.601, in thousandths: they add up to 1000, so that grey stays unchanged.
_LUMA = (299, 587, 114)

# Offset and first bytes of each readable format, with Pillow's name for it.
_READ = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WEBP"),
    (0, b"\0\0\0\x0cjP  ", "JPEG2000"),
    (0, J2K, "JPEG2000"),
)
_KINDS = "PNG, JPEG, TIFF, BMP, WebP, JPEG 2000, PGM and DICOM are read"
# The header of PBM, PGM and PPM, as text or bytes (netpbm.sourceforge.net/doc/pnm.html): type,
# width, height and the largest level, with comments between them.
_NETPBM = re.compile(
    rb"P([1-6])(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:(?:\s|#[^\n]*\n)+(\d+))?"
)
_REFUSED = {
    b"GIF8": "a GIF",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x04": "a Python pickle",
    b"PK\x03\x04": "a ZIP archive",
    b"RIFF": "a video",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "gzip data",
    b"<": "text",
}
# What Pillow and its codecs raise on damaged bytes in memory: no disk is involved.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
# Tag numbers of EXIF and TIFF 6.0.
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 274, 258, 262
_WHITE_IS_ZERO = 0


def read_picture(path: Path, where: str) -> Picture:
    """Return a picture with 1 or 3 channels of 8 or 16 bits, int32 or float32; raises BadCase.

    A DICOM file must hold one frame; `loaders.formats.dicom.frames` describes what is done to its
    values.
    """
    return _picture(_content(path, where), path, where)


def _content(path: Path, where: str) -> bytes:
    with present(where):
        if (size := path.stat().st_size) > MAX_BYTES:
            raise BadCase(f"the file has {size} bytes; at most {MAX_BYTES} are read", where=where)
        return read_hashed(path)


def _picture(raw: bytes, path: Path, where: str) -> Picture:
    if begin_of(raw[:ENOUGH]) is not None:
        from loaders.formats.dicom.frames import open_frames

        frames = open_frames(path, where)
        if frames.count > 1:
            raise BadCase(
                f"the file holds {frames.count} frames: prepare it as kind cine", where=where
            )
        return next(frames.pictures)
    return _decode(raw, _form(raw, where), where)


@contextmanager
def present(where: str) -> Iterator[None]:
    """Turn a missing or unreadable file into a BadCase; a disk failure stays an OSError."""
    try:
        yield
    except FileNotFoundError:
        raise BadCase("the file is gone", where=where) from None
    except PermissionError:
        raise BadCase("this user has no permission to read the file", where=where) from None


def _form(raw: bytes, where: str) -> str:
    for at, magic, name in _READ:
        if raw.startswith(magic, at):
            return name
    if _NETPBM.match(raw):
        return "PPM"
    if not raw:
        raise BadCase("the file is empty: it has 0 bytes", where=where)
    for start, name in _REFUSED.items():
        if raw.startswith(start):
            raise BadCase(f"the file is {name}; {_KINDS}", where=where)
    if raw[:512].isascii() and b"\0" not in raw:
        raise BadCase(f"the file is text; {_KINDS}", where=where)
    raise BadCase(f"the file is not a picture of a known format; {_KINDS}", where=where)


def _decode(raw: bytes, form: str, where: str) -> Picture:
    from PIL import Image

    if form == "PNG" and (plain := plain_png(raw, MAX_PIXELS)) is not None:
        return Picture(array=plain, bits=8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata; bombs are refused below
            with Image.open(io.BytesIO(raw), formats=(form,)) as image:
                _refuse(image, coded(raw) if form == "JPEG2000" else None, where)
                if _deep_colour(raw, form, image):
                    _refuse_beyond(image, MAX_DEEP_PIXELS, where)
                    deep = upright(_colour_of_16_bits(raw, form, where), _orientation(image))
                    return Picture(array=np.ascontiguousarray(deep), bits=16, told=False)
                image.load()
                # Read after load(), which turns a TIFF by itself.
                array = upright(_pixels(image, where), _orientation(image))
                return _scaled(raw, image, np.ascontiguousarray(array))
    except BadCase:
        raise
    except Image.DecompressionBombError:
        raise BadCase(f"the picture has more than {MAX_PIXELS} pixels", where=where) from None
    except _DAMAGE as error:
        raise BadCase(f"the {form} file is damaged or cut off", where=where) from error


def _orientation(image: "Image.Image") -> int:
    return int(image.getexif().get(_ORIENTATION, 1))


def _refuse(image: "Image.Image", said: Coded | None, where: str) -> None:
    """Raise BadCase for a picture that cannot be read without guessing."""
    _refuse_beyond(image, MAX_PIXELS, where)
    reason = None
    if (count := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
        # (A camera's MPO is a JPEG followed by a preview.)
        reason = f"the file holds {count} pictures, so it is unclear which is meant"
    elif said and said.components > 1 and said.bits > 8:
        reason = "a JPEG 2000 picture in colour of more than 8 bits is not read: save it as PNG"
    elif image.mode in ("CMYK", "LAB", "HSV"):
        reason = f"the picture is in {image.mode}, which has no unique RGB values: save it as RGB"
    if reason:
        raise BadCase(reason, where=where)


def _refuse_beyond(image: "Image.Image", limit: int, where: str) -> None:
    if image.width * image.height > limit:
        raise BadCase(f"the picture has more than {limit} pixels", where=where)


def _pixels(image: "Image.Image", where: str) -> Array:
    """Return a loaded picture as (C, Y, X)."""
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise BadCase(_TRANSPARENT, where=where)
        image = image.convert("RGB")
    elif image.mode in ("P", "YCbCr"):
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    array = np.asarray(image)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    return array[np.newaxis] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _scaled(raw: bytes, image: "Image.Image", array: Array) -> Picture:
    """Return a picture (C, Y, X) with the scale of levels that its file declares."""
    if image.format == "JPEG2000" and len(array) == 1 and (said := coded(raw)):
        # Pillow shifts levels up to fill its type; undo that.
        bits = min(said.bits, 8 * array.dtype.itemsize)
        stored = array >> (8 * array.dtype.itemsize - bits)
        return Picture(array=stored, bits=bits, told=bits < 16)
    if array.dtype == np.int32 and image.format == "PPM":
        # Pillow stretches levels of more than 8 bits to 0 to 65535.
        return Picture(array=array.astype(np.uint16), bits=16, told=_largest(raw) < 65535)
    if array.dtype == np.uint8:
        return Picture(array=array, bits=8)
    if array.dtype != np.uint16:
        return Picture(array=array, bits=0)
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    # Pillow itself inverts pictures of 8 bits.
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return Picture(array=array, bits=bits, told=bits < 16, white_is_zero=inverted)


def _largest(raw: bytes) -> int:
    """Return the level that is white in a PGM or PPM."""
    found = _NETPBM.match(raw)
    return int(found[2]) if found and found[2] else 1


_TRANSPARENT = "the picture has transparent pixels: save it without its alpha channel"


def _deep_colour(raw: bytes, form: str, image: "Image.Image") -> bool:
    """Tell whether a picture has several 16-bit channels, which Pillow would reduce to 8 bits."""
    if form == "PNG":
        bits, kind = struct.unpack_from("BB", raw, 24)  # of the header chunk; PNG 11.2.2
        return bool(bits == 16 and kind != 0)
    if form == "TIFF":
        depth = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
        return len(depth) > 1 and max(depth) > 8
    if form == "PPM":
        return image.mode == "RGB" and _largest(raw) > 255
    return False


def _colour_of_16_bits(raw: bytes, form: str, where: str) -> Array:
    """Return a 16-bit PNG, TIFF or PPM of 2 to 4 channels as (3, Y, X) uint16, by FFmpeg."""
    import av

    try:
        with av.open(io.BytesIO(raw), mode="r", format=f"{form.lower()}_pipe") as container:
            frame = next(container.decode(video=0))
            channels = len(frame.format.components)
            wide = frame.to_ndarray(format="rgba64le")
    except av.FFmpegError as error:
        # Some of its errors derive directly from Exception.
        raise ValueError from error
    if channels in (2, 4) and wide[..., 3].min() < np.iinfo(np.uint16).max:
        raise BadCase(_TRANSPARENT, where=where)
    return np.moveaxis(wide[..., :3], -1, 0).astype(np.uint16)


# ---- channels and size ------------------------------------------------------------------------


def is_grey(image: Array) -> bool:
    """Tell whether a picture (C, Y, X) of whole numbers shows no colour, however stored."""
    if len(image) == 1:
        return True
    allowed = _GREY_TOLERANCE * np.iinfo(image.dtype).max
    return all(
        int(np.abs(rows[channel] - rows[1]).max()) <= allowed
        for rows in _in_strips(image)
        for channel in (0, 2)
    )


def in_channels(image: Array, channels: int, *, mix: bool, where: str) -> Array:
    """Return a picture (C, Y, X) in 1 or 3 channels; grey becomes three equal ones.

    Colour becomes its luma (ITU-R BT.601) if `mix`; otherwise it raises BadCase.
    """
    if len(image) == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    if not mix and not is_grey(image):
        raise BadCase("the picture is in colour, but others are grey: set channels", where=where)
    luma = np.empty_like(image[:1])
    for strip, rows in enumerate(_in_strips(image)):
        lines = slice(strip * _STRIP_ROWS, (strip + 1) * _STRIP_ROWS)
        luma[0, lines] = (np.tensordot(_LUMA, rows, axes=1) + 500) // 1000
    return luma


def _in_strips(image: Array) -> Iterator[Array]:
    """Yield a picture (C, Y, X) in strips of rows as int64, to avoid a wide copy of it."""
    for top in range(0, image.shape[1], _STRIP_ROWS):
        yield image[:, top : top + _STRIP_ROWS].astype(np.int64)


def shrink(image: Array, size: int) -> Array:
    """Return a picture (C, Y, X) whose longer side is at most `size`; 0 changes nothing.

    It never enlarges. Bicubic (a = -0.5) with the kernel widened by the factor, which prevents
    aliasing (Pillow's `resize`); rounded and clipped to the type.
    """
    from PIL import Image

    height, width = image.shape[-2:]
    if not size or max(height, width) <= size:
        return image
    scale = size / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    planes = [
        np.asarray(
            Image.fromarray(plane.astype(np.float32)).resize(shape, Image.Resampling.BICUBIC)
        )
        for plane in image
    ]
    small: Array = np.stack(planes)
    if image.dtype.kind in "ui":
        limits = np.iinfo(image.dtype)
        small = np.clip(np.rint(small), limits.min, limits.max)
    return small.astype(image.dtype)


# ---- masks ------------------------------------------------------------------------------------

# Formats whose pixels may be palette indices.
_INDEXED = ("PNG", "GIF", "TIFF", "BMP")


@dataclass(frozen=True, kw_only=True)
class MaskPicture:
    """A picture of labels (Y, X): its levels or numbers, its colours as 0xRRGGBB, or both.

    `levels` is None for a colour picture, `colours` for a grey one; palette indices have both.
    `lossy`: it was saved as JPEG, which changes levels.
    """

    levels: Array | None
    colours: Array | None = None
    lossy: bool = False


def read_mask(path: Path, where: str) -> MaskPicture:
    """Return a picture as a mask, where numbers stay numbers; raises BadCase.

    For a palette of greys the levels are returned, as every viewer shows them. Colours whose three
    components are equal everywhere become levels.
    """
    from PIL import Image

    raw = _content(path, where)
    if raw.startswith(_INDEXED_BEGINS) and not _plain_png(raw):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # damaged metadata; bombs are refused below
                with Image.open(io.BytesIO(raw), formats=_INDEXED) as image:
                    if image.mode == "P" or image.format == "GIF":
                        return _indexed(image, where)
        except Image.DecompressionBombError:
            raise BadCase(f"the mask has more than {MAX_PIXELS} pixels", where=where) from None
        except BadCase:
            raise
        except _DAMAGE as error:
            raise BadCase("the mask is damaged or cut off", where=where) from error
    if not raw:
        # Elsewhere an "empty" mask is one that is all background.
        raise BadCase("the mask's file has 0 bytes", where=where)
    try:
        picture = _picture(raw, path, where)
    except BadCase as bad:
        reason = bad.reason.replace("the picture", "the mask").replace("the file", "the mask")
        raise BadCase(reason, where=where) from None
    array = picture.array
    if picture.white_is_zero:
        array = 2**picture.bits - 1 - array
    if len(array) == 3 and (array == array[:1]).all():
        array = array[:1]
    lossy = raw.startswith(_LOSSY_BEGINS)
    if len(array) == 1:
        return MaskPicture(levels=array[0], lossy=lossy)
    if array.dtype != np.uint8:
        raise BadCase("the mask is in 16-bit colour: save it with 8 bits", where=where)
    return MaskPicture(levels=None, colours=_packed(array), lossy=lossy)


def _packed(colours: Array) -> Array:
    """Return 8-bit colours (3, ...) as numbers 0xRRGGBB."""
    red, green, blue = colours.astype(np.int64)
    packed: Array = (red << 16) | (green << 8) | blue
    return packed


def _plain_png(raw: bytes) -> bool:
    """Tell whether a PNG has no palette, by its header chunk (PNG 11.2.2)."""
    return raw.startswith(b"\x89PNG") and raw[25:26] != b"\x03"


_INDEXED_BEGINS = (*(magic for _, magic, name in _READ if name in _INDEXED), b"GIF8")
_LOSSY_BEGINS = (b"\xff\xd8\xff",)


def _indexed(image: "Image.Image", where: str) -> MaskPicture:
    """Return a picture whose pixels are palette indices, or levels (a grey GIF)."""
    _refuse_beyond(image, MAX_PIXELS, where)
    if (count := getattr(image, "n_frames", 1)) > 1:
        raise BadCase(
            f"the mask holds {count} pictures, so it is unclear which is meant", where=where
        )
    image.load()
    numbers = np.ascontiguousarray(upright(np.asarray(image), _orientation(image)))
    if image.mode == "L":
        return MaskPicture(levels=numbers)
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = np.flatnonzero(np.bincount(numbers.ravel()))
    if used[-1] >= len(colours):
        raise BadCase("the mask holds numbers that its palette lacks", where=where)
    if (colours[used] == colours[used][:, :1]).all():
        return MaskPicture(levels=colours[:, 0][numbers])
    return MaskPicture(levels=numbers, colours=_packed(colours.T)[numbers])
