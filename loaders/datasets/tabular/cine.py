"""Cine loops (ultrasound, angiography) and a table of their classes: clips with time as an axis.

A loop is a video file (AVI, MP4, MKV, WebM, MPG), a multi-frame DICOM file, or a folder of pictures
in the order of their numbers. Every `stride`-th frame is kept, and these are cut into clips of
`frames` frames that do not overlap; frames left over at the end are dropped. A loop shorter than
one clip is refused: padding would show stillness that was not there. Clips of one video are one
group unless the table names the patient.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cases import Array, BadCase, BadSource, Case, Item, Kind, Meta, Survey, settings
from loaders.datasets.tabular.images import (
    APPEARANCE,
    check_appearance,
    fitted,
    kept_columns,
    kept_of,
    make_meta,
)
from loaders.datasets.tabular.labels import OPTIONS, Row, read_labels
from loaders.formats import video
from loaders.formats.dicom.preamble import ENOUGH, begin_of
from loaders.formats.inside import Inside
from loaders.formats.levels import Picture
from loaders.formats.pictures import SUFFIXES, present, read_picture
from loaders.formats.video import MAX_FRAMES, Video, endless, form_of, open_video

VIDEO_SUFFIXES = video.SUFFIXES | {".dcm", ".dicom"}
FRAME_SUFFIXES = SUFFIXES - {".dcm", ".dicom"}
# The largest clip in memory (assumption): 500 frames of 800 x 600 in three channels are 0.7 GB.
MAX_CLIP_BYTES = 2**30
# Loops examined to find whether the set is grey (assumption).
_PROBES = 8
_NUMBER = re.compile(r"(\d+)")


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """List a folder by its table, and examine the first frames of some loops; raises BadSource."""
    chosen = settings("cine", CINE.options, options)
    check_appearance("cine", chosen)
    if chosen["frames"] < 0 or chosen["frames"] == 1 or chosen["stride"] < 1:
        raise BadSource(
            f"cine options frames and stride are {chosen['frames']} and {chosen['stride']}; "
            "frames must be 2 or more (0: the whole loop), stride 1 or more"
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
        **kept_columns([row]),
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
            reason = "a frame is a link out of the source or to nothing"
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


def _probe(items: Sequence[Item]) -> list[Picture]:
    """Return the readable first frames of a few loops spread over the set."""
    found = []
    for at in np.unique(np.linspace(0, len(items) - 1, _PROBES).astype(int)) if items else ():
        try:
            found += [next(_open(items[at], stride=1).pictures)]
        except (BadCase, StopIteration):
            continue  # reported when it is read
    return found


def read(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
    """Yield the clips of one loop, one in memory at a time; raises BadCase if it is damaged."""
    frames, stride = (meta.options[name] for name in ("frames", "stride"))
    assert isinstance(frames, int)
    assert isinstance(stride, int)
    loop = _open(item, stride=stride)
    (kept,) = kept_of(item, 1)
    for number, clip in enumerate(_clips(loop.pictures, frames, stride, meta, item.key)):
        yield Case(
            key=f"{item.key}#{number}",
            group=item.extra["group"],
            image=clip,
            label=item.extra["label"],
            mask=None,
            spacing=(stride * loop.seconds, np.nan, np.nan),
            split=item.extra["split"],
            **kept,
        )


def _clips(
    pictures: Iterator[Picture], frames: int, stride: int, meta: Meta, where: str
) -> Iterator[Array]:
    """Cut frames into clips (C, T, Y, X) of `frames` frames; 0: one clip of all frames."""
    clip: list[Array] = []
    count = 0
    for picture in pictures:
        image = fitted(picture, meta, where)
        if clip and (image.shape != clip[0].shape or image.dtype != clip[0].dtype):
            raise BadCase("the frames differ in size or type", where=where)
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
            f"the loop gives {count} frames at stride {stride}; a clip needs {max(frames, 2)}",
            where=where,
        )
    if not frames:
        yield np.stack(clip, axis=1)


# ---- files ------------------------------------------------------------------------------------


def _open(item: Item, *, stride: int) -> Video:
    """Return the frames of a loop of any form; raises BadCase, also while frames are read."""
    where = item.key
    if item.extra["folder"]:
        pictures = (read_picture(path, f"{where}/{path.name}") for path in item.paths[::stride])
        return Video(seconds=np.nan, pictures=_at_most(pictures, where))
    (path,) = item.paths
    with present(where), path.open("rb") as file:
        start = file.read(ENOUGH)
    if begin_of(start) is not None:
        from loaders.formats.dicom.frames import open_frames

        found = open_frames(path, where, stride=stride)
        if found.count > MAX_FRAMES:
            raise endless(where)
        return Video(seconds=found.seconds, pictures=found.pictures)
    if form := form_of(start):
        return open_video(path, form, where, stride=stride)
    kinds = "AVI, MP4, MKV, WebM, MPG or DICOM"
    reason = f"the file is not an {kinds} file" if start else "the file is empty"
    raise BadCase(reason, where=where)


def _at_most(frames: Iterator[Picture], where: str) -> Iterator[Picture]:
    for number, frame in enumerate(frames):
        if number == MAX_FRAMES:
            raise endless(where)
        yield frame


CINE = Kind(
    name="cine",
    summary="ultrasound loops (videos, multi-frame DICOM, folders of frames), classes in a CSV",
    source="the user's own: echocardiography, lung ultrasound, angiography",
    survey=survey,
    read=read,
    options={
        **OPTIONS,
        **APPEARANCE,
        "frames": (16, "frames in a clip; 0: the whole loop is one clip"),
        "stride": (1, "keep every stride-th frame"),
    },
)
