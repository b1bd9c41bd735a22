"""One video file to its frames, by FFmpeg: AVI, MP4, MKV, WebM and MPG, recognized by content.

Frames have 8 bits per channel and are turned by the file's display matrix. FFmpeg's errors, frames
that it marks as damaged, and declared frames that are missing reject the whole file. An MPG
declares no number of frames, so one that was cut off between two frames is not detected.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from loaders.cases import Array, BadCase
from loaders.formats.levels import Picture
from loaders.formats.orientation import exif_of, upright

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext

SUFFIXES = frozenset((".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg"))
# Twenty minutes at 30 frames a second (assumption): decoding stops there, whatever a file claims.
MAX_FRAMES = 36_000
# A frame of 8K video (assumption).
MAX_FRAME_PIXELS = 7680 * 4320
# What PyAV raises besides its own errors.
_DAMAGE = (ValueError, LookupError, EOFError, RuntimeError, NotImplementedError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """A test of a container's first bytes, and FFmpeg's options for it."""

    begins: Callable[[bytes], bool]
    options: Mapping[str, str]


# By FFmpeg's names. Edit lists hide frames, and hidden ones would look like lost ones.
_FORMS: Mapping[str, _Form] = {
    "avi": _Form(begins=lambda b: b[:4] == b"RIFF" and b[8:12] == b"AVI ", options={}),
    "mov": _Form(
        begins=lambda b: b[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"),
        options={"ignore_editlist": "1"},
    ),
    # EBML (RFC 8794, 11.2.1), of Matroska and of WebM.
    "matroska": _Form(begins=lambda b: b[:4] == b"\x1a\x45\xdf\xa3", options={}),
    # A pack header and a sequence header (ISO/IEC 13818-1 2.5.3.3, 13818-2 6.2.2.1).
    "mpeg": _Form(begins=lambda b: b[:4] == b"\0\0\1\xba", options={}),
    "mpegvideo": _Form(begins=lambda b: b[:4] == b"\0\0\1\xb3", options={}),
}


@dataclass(frozen=True, kw_only=True)
class Video:
    """Every stride-th frame of a file, and the seconds from one frame of the file to the next."""

    seconds: float
    pictures: Iterator[Picture]


def form_of(start: bytes) -> str | None:
    """Return the form of a file by its first bytes, None if it is not a video that is read."""
    return next((name for name, form in _FORMS.items() if form.begins(start)), None)


def open_video(path: Path, form: str, where: str, *, stride: int) -> Video:
    """Return a file's frames (C, Y, X), C 1 or 3; raises BadCase, also while frames are read."""
    if form == "matroska":
        _check_segment(path, where)
    # Opened here for the rate and again by the generator, which must not hold it while unused.
    with _container(path, form, where) as container:
        rate = container.streams.video[0].average_rate
    seconds = float(1 / rate) if rate else np.nan
    return Video(seconds=seconds, pictures=_frames(path, form, where, stride))


def endless(where: str) -> BadCase:
    """Return the BadCase for a loop with too many frames."""
    return BadCase(f"the loop has more than {MAX_FRAMES} frames: cut it", where=where)


def _check_segment(path: Path, where: str) -> None:
    """Raise BadCase if a Matroska file is shorter than its segment declares (RFC 9559, 5.1.1).

    FFmpeg does not notice that such a file was cut off. A live stream's segment declares nothing.
    """
    with path.open("rb") as file:
        file.seek(4)
        file.seek(_ebml_size(file) or 0, os.SEEK_CUR)
        size = _ebml_size(file) if file.read(4) == b"\x18\x53\x80\x67" else None
        if size is not None and size > os.fstat(file.fileno()).st_size - file.tell():
            raise BadCase(
                "the video is cut off: it is shorter than its header declares", where=where
            )


def _ebml_size(file: BinaryIO) -> int | None:
    """Return a size of variable length, None if it is unknown or invalid (RFC 8794, 4)."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    number = int.from_bytes(first + file.read(length - 1), "big") - (1 << 7 * length)
    return None if number == (1 << 7 * length) - 1 else number


def _frames(path: Path, form: str, where: str, stride: int) -> Iterator[Picture]:
    with _container(path, form, where) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1  # the pool of readers has processes of its own
        stream.codec_context.options = {"err_detect": "explode"}
        count = 0
        for packet in container.demux(stream):
            for frame in packet.decode():
                if count == MAX_FRAMES:
                    raise endless(where)
                if packet.is_corrupt or frame.is_corrupt:
                    raise BadCase(f"frame {count} of the video is damaged", where=where)
                if count % stride == 0:
                    yield Picture(array=_array(frame, where), bits=8)
                count += 1
        if count < stream.frames:
            raise BadCase(
                f"the video is cut off: it declares {stream.frames} frames but holds {count}",
                where=where,
            )


@contextmanager
def _container(path: Path, form: str, where: str) -> Iterator["InputContainer"]:
    """Open a video; the form is given, so that no playlist is mistaken for one and followed."""
    import av

    # Opened here and not by FFmpeg, so that a disk that fails is an OSError and no damaged file.
    with path.open("rb") as file:
        try:
            options = dict(_FORMS[form].options)
            with av.open(file, mode="r", format=form, options=options) as container:
                _check_streams(container, where)
                yield container
        except BadCase:
            raise
        except (av.FFmpegError, *_DAMAGE) as error:
            raise BadCase("the video is damaged or cut off", where=where) from error


def _check_streams(container: "InputContainer", where: str) -> None:
    if not container.streams.video:
        raise BadCase("the file holds no video", where=where)
    # None if FFmpeg knows no decoder, whatever PyAV's annotations say.
    codec: VideoCodecContext | None = container.streams.video[0].codec_context
    if codec is None:
        raise BadCase("the video has an unknown codec", where=where)
    _check_frame(codec.width, codec.height, where)


def _check_frame(width: int, height: int, where: str) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise BadCase(f"a frame has {width} x {height} pixels, too many for a loop", where=where)


def _array(frame: "av.VideoFrame", where: str) -> Array:
    _check_frame(frame.width, frame.height, where)
    if frame.format.name.startswith("gray"):
        image = frame.to_ndarray(format="gray")[np.newaxis]
    else:
        image = np.moveaxis(frame.to_ndarray(format="rgb24"), -1, 0)
    return np.ascontiguousarray(upright(image, _orientation(frame, where)))


def _orientation(frame: "av.VideoFrame", where: str) -> int:
    """Return the EXIF orientation of a frame; raises BadCase."""
    from av.sidedata.sidedata import Type

    # Found by its type, whatever PyAV's annotations say.
    matrix: Any = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # see above
    if matrix is None:
        return 1
    if (exif := exif_of(bytes(matrix))) is None:
        raise BadCase(
            "the video's display matrix is not a mirroring or turn by a multiple of 90 degrees",
            where=where,
        )
    return exif
