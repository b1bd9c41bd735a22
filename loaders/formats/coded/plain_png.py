"""The pixels of a plain PNG in half of Pillow's time: isal unpacks them, FFmpeg undoes the filters.

A PNG is plain if it is complete, in 8-bit grey or RGB, neither interlaced nor transparent, and
without other chunks that change how it is read, like most photographs and masks. Others, and
damaged ones, are left to Pillow, which reports why.
"""

import struct
from collections.abc import Iterator, Sequence

import av
import numpy as np
from isal import isal_zlib

from loaders.cases import Array

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG 5.3: length, type, data, checksum of type and data.
_CHUNK, _SUM = struct.Struct(">L4s"), struct.Struct(">L")
# PNG 11.2.2: width, height, bits, colour type, compression, filter, interlace.
_HEADER = struct.Struct(">LLBBBBB")
_CHANNELS = {0: 1, 2: 3}
_FORMATS = {1: "gray", 3: "rgb24"}
# Chunks that change no pixel, with their lengths (PNG 11.3).
_IGNORED = {b"pHYs": 9, b"gAMA": 4, b"sRGB": 1, b"cHRM": 32, b"tIME": 7}
# The filters of a row are numbered 0 to 4 (PNG 9.2).
_LAST_FILTER = 4
# DEFLATE's blocks of bytes as they are (RFC 1951 3.2.4), in a stream of zlib (RFC 1950).
_STORED, _MOST_STORED, _ZLIB = struct.Struct("<BHH"), 2**16 - 1, b"\x78\x01"


def plain_png(raw: bytes, most: int) -> Array | None:
    """Return a plain PNG of up to `most` pixels as (C, Y, X) uint8, else None."""
    if (parts := _parts(raw)) is None:
        return None
    header, packed = parts
    width, height, bits, kind, *methods = _HEADER.unpack(header)
    channels = _CHANNELS.get(kind, 0)
    if bits != 8 or not channels or any(methods) or not 0 < width * height <= most:
        return None
    filtered = _unpacked(packed, height * (1 + channels * width))
    if filtered is None:
        return None
    if np.frombuffer(filtered, np.uint8)[:: 1 + channels * width].max() > _LAST_FILTER:
        return None
    return _unfiltered(header, filtered, channels)


def _parts(raw: bytes) -> tuple[bytes, bytes] | None:
    """Return the header and the packed pixels of a plain file, else None."""
    packed: list[memoryview] = []
    header = last = b""
    for kind, data in _chunks(raw):
        if last == b"IEND" or (kind == b"IDAT" and packed and last != kind):
            return None
        if kind == b"IHDR" and not last and len(data) == _HEADER.size:
            header = bytes(data)
        elif kind == b"IDAT" and header:
            packed.append(data)
        elif not header or _IGNORED.get(kind, 0 if kind == b"IEND" else -1) != len(data):
            return None
        last = kind
    return (header, b"".join(packed)) if last == b"IEND" else None


def _chunks(raw: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the type and the data of each chunk, up to one that is damaged."""
    at = len(_SIGNATURE) if raw.startswith(_SIGNATURE) else len(raw)
    view = memoryview(raw)
    while at + _CHUNK.size + _SUM.size <= len(raw):
        length, kind = _CHUNK.unpack_from(raw, at)
        first, end = at + _CHUNK.size, at + _CHUNK.size + length
        if end + _SUM.size > len(raw):
            return
        if isal_zlib.crc32(view[first - len(kind) : end]) != _SUM.unpack_from(raw, end)[0]:
            return
        yield kind, view[first:end]
        at = end + _SUM.size
    if at < len(raw):
        # Bytes after the last chunk that are not a chunk.
        yield b"", view[:0]


def _unpacked(packed: bytes, size: int) -> bytes | None:
    """Return the bytes of a zlib stream if it holds exactly `size` of them, else None."""
    inflate = isal_zlib.decompressobj()
    try:
        found = inflate.decompress(packed, size + 1)
    except isal_zlib.error:  # type: ignore[misc]  # isal's stub declares it as an instance
        return None
    whole = len(found) == size and inflate.eof and not inflate.unused_data
    return found if whole else None


def _unfiltered(header: bytes, filtered: bytes, channels: int) -> Array:
    """Return the pixels (C, Y, X) of filtered rows, whose filters FFmpeg undoes.

    FFmpeg reads whole files, so it gets one whose pixels are not packed.
    """
    # Joined once: each copy of a picture evicts data from the core's cache (measured).
    file = b"".join(
        (
            _SIGNATURE,
            *_chunk(b"IHDR", [header]),
            *_chunk(b"IDAT", _stored(filtered)),
            *_chunk(b"IEND", []),
        )
    )
    codec = av.CodecContext.create("png", "r")
    (frame,) = codec.decode(av.Packet(file))
    assert frame.format.name == _FORMATS[channels]  # as its header says
    pixels = frame.to_ndarray()
    # FFmpeg's rows may be longer than the picture's.
    return np.ascontiguousarray(pixels[np.newaxis] if channels == 1 else np.moveaxis(pixels, -1, 0))


def _chunk(kind: bytes, data: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the parts of a chunk; `data` are the parts of its content."""
    checksum = isal_zlib.crc32(kind)
    for part in data:
        checksum = isal_zlib.crc32(part, checksum)
    return [_CHUNK.pack(sum(map(len, data)), kind), *data, _SUM.pack(checksum)]


def _stored(content: bytes) -> list[bytes | memoryview]:
    """Return the parts of a zlib stream of uncompressed bytes."""
    parts: list[bytes | memoryview] = [_ZLIB]
    view = memoryview(content)
    for at in range(0, len(content), _MOST_STORED):
        block = view[at : at + _MOST_STORED]
        last = at + _MOST_STORED >= len(content)
        parts += [_STORED.pack(last, len(block), len(block) ^ _MOST_STORED), block]
    parts.append(_SUM.pack(isal_zlib.adler32(content)))
    return parts
