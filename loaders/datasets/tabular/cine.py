"""Cine loops (ultrasound, angiography) and a table of their classes: clips with time as an axis.

A loop is an AVI or MP4 file, a multi-frame DICOM file, or a folder of PNG, JPEG or TIFF frames in
the order of their numbers. Its frames, every `stride`-th of them, are cut into clips of `frames`
frames that do not overlap; what is left at the end is dropped, and a loop that is shorter than one
clip is refused, since frames made up to fill it would be stillness that was not there. Clips of one
video are one group unless the table names the patient.

AVI and MP4 are read as 8 bits a channel, by FFmpeg. Its own errors, frames that it marks as damaged
and frames that the file declares and does not hold reject the whole loop.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loaders.cases import Array, BadCase, BadSource, Case, Item, Kind, Meta, Survey, settings
from loaders.datasets.tabular.images import APPEARANCE, check_appearance, fitted, make_meta
from loaders.datasets.tabular.labels import OPTIONS, Row, read_labels
from loaders.formats.inside import Inside
from loaders.formats.pictures import SUFFIXES, present, read_picture

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext

VIDEO_SUFFIXES = frozenset((".avi", ".mp4", ".m4v", ".mov", ".dcm", ".dicom"))
FRAME_SUFFIXES = SUFFIXES - {".dcm", ".dicom"}
# Twenty minutes at 30 frames a second (assumption): decoding ends there, whatever a file claims.
MAX_FRAMES = 36_000
# One clip in memory (assumption): 500 frames of 800 x 600 in three channels are 0.7 GB.
MAX_CLIP_BYTES = 2**30
# A frame of 8K video (assumption).
MAX_FRAME_PIXELS = 7680 * 4320
# Loops looked at to tell whether the set is grey (assumption).
_PROBES = 8
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """Every stride-th frame (C, Y, X), and the seconds from one frame of the file to the next."""

    seconds: float
    arrays: Iterator[Array]


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """List a folder by its table, and look at the first frame of a few loops; raises BadSource."""
    chosen = settings("cine", CINE.options, options)
    check_appearance("cine", chosen)
    if chosen["frames"] < 0 or chosen["frames"] == 1 or chosen["stride"] < 1:
        raise BadSource(
            f"cine options frames and stride are {chosen['frames']} and {chosen['stride']}; "
            "a clip has 2 frames or more (0: the whole loop), a stride is 1 or more"
        )
    answers = read_labels(source, chosen, suffixes=VIDEO_SUFFIXES, frames=FRAME_SUFFIXES)
    items, rejected = [], list(answers.rejected)
    inside = Inside(source)
    for row in answers.rows:
        try:
            items.append(_item(row, inside))
        except BadCase as bad:
            rejected.append(bad)
    found = _probe(items)
    meta = make_meta(
        "cine",
        chosen,
        answers,
        found,
        unit="clip",
        dims=3,
        axes="tyx",
        alone="video",
        frames=chosen["frames"],
        stride=chosen["stride"],
    )
    return Survey(meta=meta, items=tuple(items), rejected=tuple(rejected))


def _item(row: Row, inside: Inside) -> Item:
    paths: tuple[Path, ...] = (row.path,)
    if row.path.is_dir():
        paths = _frame_files(row, inside)
    extra = {
        "group": row.group,
        "label": row.label,
        "split": row.split,
        "folder": row.path.is_dir(),
    }
    return Item(key=row.key, paths=paths, extra=extra)


def _frame_files(row: Row, inside: Inside) -> tuple[Path, ...]:
    """Return a folder's frames in the order of the numbers in their names; raises BadCase."""
    files = [path for path in row.path.iterdir() if path.suffix.lower() in FRAME_SUFFIXES]
    for path in files:
        try:
            own = not path.is_symlink() or inside.holds(path)
        except (OSError, RuntimeError):
            own = False
        if not own:
            reason = "a frame is a link; frames are plain files"
            raise BadCase(reason, where=row.key, key=row.key)
    files.sort(key=lambda path: _natural(path.name))
    numbers = [found[-1] for path in files if (found := _NUMBER.findall(path.stem))]
    steps = np.diff([int(number) for number in numbers])
    if len(numbers) == len(files) > 2 and (steps != steps[0]).any():
        at = int(np.argmax(steps != steps[0]))
        raise BadCase(
            f"frames are missing: number {numbers[at]} is followed by {numbers[at + 1]}",
            where=row.key,
            key=row.key,
        )
    return tuple(files)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts frame2 before frame10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in _NUMBER.split(name) if part
    ]


def _probe(items: Sequence[Item]) -> list[Array]:
    """Return the first frames that can be read of a few loops spread over the set."""
    found = []
    for at in np.unique(np.linspace(0, len(items) - 1, _PROBES).astype(int)) if items else ():
        try:
            found += [next(_open(items[at], stride=1).arrays)]
        except (BadCase, StopIteration):
            continue  # it is told when it is read
    return found


def read(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
    """Give the clips of one loop, one in memory at a time; raises BadCase where it is damaged."""
    frames, stride = (meta.options[name] for name in ("frames", "stride"))
    assert isinstance(frames, int)
    assert isinstance(stride, int)
    loop = _open(item, stride=stride)
    for number, clip in enumerate(_clips(loop.arrays, frames, stride, meta, item.key)):
        yield Case(
            key=f"{item.key}#{number}",
            group=item.extra["group"],
            image=clip,
            label=item.extra["label"],
            mask=None,
            spacing=(stride * loop.seconds, np.nan, np.nan),
            split=item.extra["split"],
        )


def _clips(
    arrays: Iterator[Array], frames: int, stride: int, meta: Meta, where: str
) -> Iterator[Array]:
    """Cut frames (C, Y, X) into clips (C, T, Y, X) of `frames` each; 0: one clip of all."""
    clip: list[Array] = []
    count = 0
    for array in arrays:
        image = fitted(array, meta, where)
        if clip and (image.shape != clip[0].shape or image.dtype != clip[0].dtype):
            raise BadCase("the frames are not of one size and type", where=where)
        if len(clip) * image.nbytes > MAX_CLIP_BYTES:
            raise BadCase(
                f"a clip of this loop is larger than {MAX_CLIP_BYTES} bytes: set frames, stride "
                "or size",
                where=where,
            )
        clip.append(image)
        count += 1
        if len(clip) == frames:
            yield np.stack(clip, axis=1)
            clip.clear()
    if count < max(frames, 2):
        raise BadCase(
            f"the loop gives {count} frames at stride {stride}; a clip has {max(frames, 2)}",
            where=where,
        )
    if not frames:
        yield np.stack(clip, axis=1)


# ---- files ------------------------------------------------------------------------------------


def _open(item: Item, *, stride: int) -> _Loop:
    """Return the frames of a loop in whichever form it is; raises BadCase, at any frame too."""
    where = item.key
    if item.extra["folder"]:
        pictures = (read_picture(path, f"{where}/{path.name}") for path in item.paths[::stride])
        return _Loop(seconds=np.nan, arrays=_at_most(pictures, where))
    (path,) = item.paths
    with present(where), path.open("rb") as file:
        start = file.read(132)
    for form, (fits, opened) in _FORMS.items():
        if fits(start):
            return opened(path, form, where, stride)
    raise BadCase(
        "the file is empty" if not start else "the file is no AVI, MP4 or DICOM file", where=where
    )


def _at_most(frames: Iterator[Array], where: str) -> Iterator[Array]:
    for number, frame in enumerate(frames):
        if number == MAX_FRAMES:
            raise _endless(where)
        yield frame


def _endless(where: str) -> BadCase:
    return BadCase(f"the loop has more than {MAX_FRAMES} frames: cut it", where=where)


def _open_dicom(path: Path, form: str, where: str, stride: int) -> _Loop:
    from loaders.formats.dicom.frames import open_frames

    del form
    found = open_frames(path, where, stride=stride)
    if found.count > MAX_FRAMES:
        raise _endless(where)
    return _Loop(seconds=found.seconds, arrays=found.arrays)


def _open_video(path: Path, form: str, where: str, stride: int) -> _Loop:
    # Opened twice, since a generator that has not begun holds no file open.
    with _container(path, form, where) as container:
        rate = container.streams.video[0].average_rate
    return _Loop(
        seconds=float(1 / rate) if rate else np.nan, arrays=_video(path, form, where, stride)
    )


def _video(path: Path, form: str, where: str, stride: int) -> Iterator[Array]:
    with _container(path, form, where) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1  # the pool of readers has its processes
        stream.codec_context.options = {"err_detect": "explode"}
        count = 0
        for packet in container.demux(stream):
            for frame in packet.decode():
                if count == MAX_FRAMES:
                    raise _endless(where)
                if packet.is_corrupt or frame.is_corrupt:
                    raise BadCase(f"frame {count} of the video is damaged", where=where)
                if count % stride == 0:
                    yield _array(frame, where)
                count += 1
        if count < stream.frames:
            raise BadCase(
                f"the video breaks off: it declares {stream.frames} frames and holds {count}",
                where=where,
            )


# What PyAV raises beside its own errors.
_DAMAGE = (ValueError, LookupError, EOFError, RuntimeError, NotImplementedError, MemoryError)


@contextmanager
def _container(path: Path, form: str, where: str) -> Iterator["InputContainer"]:
    """Open a video; the form is given, so that no playlist is taken for one and followed."""
    import av

    # Opened here and not by FFmpeg, so that a disk that fails is an OSError and no damaged file.
    with path.open("rb") as file:
        try:
            with av.open(file, mode="r", format=form, options=_DEMUXER[form]) as container:
                _check_streams(container, where)
                yield container
        except BadCase:
            raise
        except (av.FFmpegError, *_DAMAGE) as error:
            raise BadCase(
                f"the video is damaged or cut off: {type(error).__name__}", where=where
            ) from error


def _check_streams(container: "InputContainer", where: str) -> None:
    if not container.streams.video:
        raise BadCase("the file holds no video", where=where)
    # None where FFmpeg knows no decoder, whatever PyAV's annotations say.
    codec: VideoCodecContext | None = container.streams.video[0].codec_context
    if codec is None:
        raise BadCase("the video is in a coding that is not known", where=where)
    _check_frame(codec.width, codec.height, where)


def _check_frame(width: int, height: int, where: str) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise BadCase(f"a frame has {width} x {height} pixels: no loop", where=where)


# Edit lists hide frames, and hidden ones would look like lost ones.
_DEMUXER: Mapping[str, dict[str, str]] = {"avi": {}, "mov": {"ignore_editlist": "1"}}


def _array(frame: "av.VideoFrame", where: str) -> Array:
    _check_frame(frame.width, frame.height, where)
    if frame.format.name.startswith("gray"):
        return frame.to_ndarray(format="gray")[np.newaxis]
    return np.moveaxis(frame.to_ndarray(format="rgb24"), -1, 0)


# FFmpeg's name of a form (DICOM is not FFmpeg's): its first bytes, and what opens it.
_FORMS: Mapping[str, tuple[Callable[[bytes], bool], Callable[[Path, str, str, int], _Loop]]] = {
    "dicom": (lambda start: start[128:] == b"DICM", _open_dicom),
    "avi": (lambda start: start[:4] == b"RIFF" and start[8:12] == b"AVI ", _open_video),
    "mov": (lambda start: start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"), _open_video),
}


CINE = Kind(
    name="cine",
    summary="ultrasound loops as AVI, MP4, multi-frame DICOM or frame folders, classes in a CSV",
    source="the user's own: echocardiography, lung ultrasound, angiography",
    survey=survey,
    read=read,
    options={
        **OPTIONS,
        **APPEARANCE,
        "frames": (16, "frames of a clip; 0: the whole loop is one"),
        "stride": (1, "every how-manieth frame is kept"),
    },
)
