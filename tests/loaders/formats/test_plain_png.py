"""PNG without detours: its pixels are Pillow's; what is not plain or whole is left to Pillow."""

import io
import zlib
from random import Random

import numpy as np
import pytest
from PIL import Image

from loaders.cases import Array
from loaders.formats.coded.plain_png import plain_png

MOST = 10**6


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(
    rows: bytes, size: tuple[int, int], *, kind: int, more: bytes = b"", bits: int = 8
) -> bytes:
    """Return a file of filtered rows."""
    header = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big") + bytes([bits, kind, 0, 0, 0])
    packed = zlib.compress(rows)
    half = len(packed) // 2
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + more
        + chunk(b"IDAT", packed[:half])
        + chunk(b"IDAT", packed[half:])
        + chunk(b"IEND", b"")
    )


def by_pillow(raw: bytes) -> Array:
    with Image.open(io.BytesIO(raw)) as image:
        array = np.asarray(image)
    return array[np.newaxis] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def test_random_bytes_under_random_filters_are_what_pillow_makes_of_them() -> None:
    """Each of the five filters, on rows of any width: the pixels are whatever the filters say."""
    draw = Random(0)
    for _ in range(300):
        width, height, kind = draw.randint(1, 40), draw.randint(1, 9), draw.choice([0, 2])
        channels = 3 if kind == 2 else 1
        rows = b"".join(
            bytes([draw.randint(0, 4)]) + draw.randbytes(channels * width) for _ in range(height)
        )
        raw = png(rows, (width, height), kind=kind)
        found = plain_png(raw, MOST)
        assert found is not None
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        assert np.array_equal(found, by_pillow(raw))


def test_a_large_picture_is_more_than_one_block() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", dpi=(72, 72))
    found = plain_png(file.getvalue(), MOST)
    assert np.array_equal(found, np.moveaxis(image, -1, 0))  # type: ignore[arg-type]  # it is plain


ROWS = bytes([0, 1, 2, 1, 3, 4])
GREY = png(ROWS, (2, 2), kind=0)


@pytest.mark.parametrize(
    "raw",
    [
        png(ROWS, (2, 2), kind=3, more=chunk(b"PLTE", bytes(range(30)))),
        png(bytes(10), (2, 2), kind=4),
        png(bytes(10), (2, 2), kind=0, bits=16),
        png(bytes(4), (2, 2), kind=0, bits=1),
        png(ROWS, (2, 2), kind=0, more=chunk(b"tRNS", b"\0\1")),
        png(ROWS, (2, 2), kind=0, more=chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0\0\0")),
        png(ROWS, (2, 2), kind=0, more=chunk(b"tEXt", b"Software\0made")),
        png(ROWS, (2, 2), kind=0, more=chunk(b"pHYs", b"12")),
        png(ROWS[:-1], (2, 2), kind=0),
        png(ROWS + b"\0", (2, 2), kind=0),
        png(bytes([5, 1, 2, 1, 3, 4]), (2, 2), kind=0),
        png(b"", (0, 2), kind=0),
        png(ROWS, (2000, 2000), kind=0),
        GREY + b"more",
        GREY[: -len(chunk(b"IEND", b""))],
        b"\xff\xd8\xff",
        b"",
    ],
    ids=[
        "palette",
        "alpha",
        "deep",
        "bits",
        "transparent",
        "turned",
        "text",
        "phys",
        "short",
        "long",
        "filter",
        "empty",
        "large",
        "behind",
        "unended",
        "jpeg",
        "nothing",
    ],
)
def test_what_is_not_plain_is_left_to_pillow(raw: bytes) -> None:
    assert plain_png(GREY, MOST) is not None
    assert plain_png(raw, MOST) is None


def test_no_damaged_file_is_taken_for_a_whole_one() -> None:
    """A file with one byte changed, or cut off anywhere: the sums of its chunks no longer fit."""
    whole = bytearray(png(ROWS, (2, 2), kind=0, more=chunk(b"gAMA", b"\0\1\2\3")))
    assert plain_png(bytes(whole), MOST) is not None
    for at in range(len(whole)):
        assert plain_png(bytes(whole[:at]), MOST) is None
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            assert plain_png(bytes(changed), MOST) is None
