"""Cine loops: the axes of a store, every form that a loop comes in, and broken ones."""

import contextlib
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from loaders.cases import BadCase, BadSource, Case, Item, Meta
from loaders.datasets.table import KINDS
from loaders.datasets.tabular import cine
from loaders.formats import video as video_file
from loaders.formats.levels import Picture
from loaders.formats.pictures import shrink
from loaders.store import prepare as store_prepare
from loaders.store.layout import content_hash, meta_from_json, meta_to_json
from loaders.store.pseudonyms import keyed_id
from loaders.store.read import Store, open_store, verify_store
from loaders.store.write import Report, write_store
from tests.metas import made_meta

KEY = b"a secret"
# content_hash() of a_meta(), as the version before axes gave it.
HASH_BEFORE_AXES = "cba4907e34681ecaa133c4cca3b1d776faac629cae68f2dbbfcde13c178957fe"


def a_meta(**changes: object) -> Meta:
    base = made_meta(
        kind="cine",
        name="loops",
        dims=3,
        channels=("intensity",),
        classes=("still", "moving"),
        positive=1,
        unit="video",
        source="",
        licence="",
    )
    return replace(base, **changes)


# ---- the axes of a store ----------------------------------------------------------------------


def test_axes_follow_the_dims_unless_they_are_given() -> None:
    assert a_meta().axes == "zyx"
    assert a_meta(dims=2).axes == "yx"
    assert a_meta(axes="tyx").axes == "tyx"
    with pytest.raises(ValueError, match="axes is 'tyx'; it must be yx"):
        a_meta(dims=2, axes="tyx")
    with pytest.raises(ValueError, match="axes is 'xyz'; it must be zyx or tyx"):
        a_meta(axes="xyz")


def test_a_store_from_before_there_were_axes_still_opens_with_the_same_hash() -> None:
    assert "axes" not in meta_to_json(a_meta())  # so no hash or fingerprint of theirs changes
    assert meta_from_json(meta_to_json(a_meta())).axes == "zyx"
    assert meta_from_json(meta_to_json(a_meta(axes="tyx"))).axes == "tyx"
    assert content_hash(a_meta(), ["a", "b"], ["1", "1"]) == HASH_BEFORE_AXES
    assert content_hash(a_meta(axes="tyx"), ["a", "b"], ["1", "1"]) != HASH_BEFORE_AXES


# ---- loops in every form ----------------------------------------------------------------------

RANDOM = np.random.default_rng(5)
# Smooth, so that lossy coders keep it.
LOOP = np.stack(
    [
        np.rint(120 + 90 * np.sin(np.add.outer(np.arange(24) / 4 + k, np.arange(32) / 5)))
        for k in range(11)
    ]
).astype(np.uint8)
NOISE = RANDOM.integers(0, 256, LOOP.shape).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (11, 24, 32, 3)).astype(np.uint8)


def video(
    loop: Any,
    form: str = "avi",
    codec: str = "ffv1",
    pixels: str = "gray",
    rate: int = 25,
    turn: tuple[float, bool, bool] | None = None,
) -> bytes:
    file = io.BytesIO()
    with av.open(file, mode="w", format=form) as container:
        container.metadata["title"] = "Erika Mustermann 4711"
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = loop.shape[1:3]
        stream.pix_fmt = pixels
        stream.bit_rate = 4_000_000
        if turn is not None:
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        for image in loop:
            layout = "rgb24" if loop.ndim == 4 else "gray"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format=layout)))
        container.mux(stream.encode())
    return file.getvalue()


def sound() -> bytes:
    file = io.BytesIO()
    with av.open(file, mode="w", format="avi") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = np.zeros((1, 800), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def dicom(loop: Any, *, rle: bool = False, **elements: Any) -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = UltrasoundMultiFrameImageStorage
    data.SOPInstanceUID = generate_uid(entropy_srcs=["loop"])
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.PatientName = "Mustermann^Erika"
    data.PatientID = "MRN-4711"
    data.NumberOfFrames, data.Rows, data.Columns = loop.shape[:3]
    data.SamplesPerPixel = 3 if loop.ndim == 4 else 1
    data.PhotometricInterpretation = "RGB" if loop.ndim == 4 else "MONOCHROME2"
    if loop.ndim == 4:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * loop.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = 0
    data.PixelData = loop.tobytes()
    data.FrameTime = "50"
    for name, value in elements.items():
        setattr(data, name, value)
    if rle:
        data.compress(RLELossless)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def png(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def source_of(root: Path, *loops: bytes | list[bytes], table: str | None = None) -> Path:
    """Write loops (a list: a folder of frames) as Mustermann_0, ... with classes a and b in turn.

    The rest of the pair that classes need stands in the table and nowhere else.
    """
    (root / "videos").mkdir(parents=True)
    for number, loop in enumerate(loops):
        path = root / "videos" / f"Mustermann_{number}"
        if isinstance(loop, bytes):
            path.write_bytes(loop)
            continue
        path.mkdir()
        for k, frame in enumerate(loop):
            (path / f"frame{k}.png").write_bytes(frame)
    lines = [f"Mustermann_{n},{'ab'[n % 2]},P{n // 2}" for n in range(max(2, len(loops)))]
    (root / "labels.csv").write_text(table or "\n".join(["video,label,patient", *lines]))
    return root


def prepare(source: Path, out: Path, **options: Any) -> tuple[Store, Report]:
    given = {"positive": "b", **options}
    report = store_prepare.prepare(KINDS["cine"], source, out, options=given, key=KEY, strict=False)
    assert verify_store(out) == []
    return open_store(out), report


def clips_of(store: Store, number: int) -> list[Any]:
    """Return the clips of a loop in their order."""
    found = []
    for k in range(99):
        name = keyed_id(KEY, "cine", f"videos/Mustermann_{number}#{k}")
        if name not in store.case_ids:
            break
        found.append(store.image(store.case_ids.index(name)))
    return found


GREY_FORMS: Mapping[str, tuple[Callable[[], bytes | list[bytes]], int, float]] = {
    "avi ffv1": (lambda: video(LOOP), 0, 0.04),
    "avi raw": (lambda: video(LOOP, codec="rawvideo"), 0, 0.04),
    "avi raw in colour": (lambda: video(LOOP, codec="rawvideo", pixels="bgr24"), 0, 0.04),
    "avi mjpeg": (lambda: video(LOOP, codec="mjpeg", pixels="yuvj420p", rate=10), 3, 0.1),
    "mp4 h264": (lambda: video(LOOP, "mp4", "libx264", "yuv420p", rate=50), 5, 0.02),
    "mp4 mpeg4": (lambda: video(LOOP, "mp4", "mpeg4", "yuv420p"), 5, 0.04),
    "mkv ffv1": (lambda: video(LOOP, "matroska"), 0, 0.04),
    "mkv h264": (lambda: video(LOOP, "matroska", "libx264", "yuv420p"), 5, 0.04),
    "webm vp8": (lambda: video(LOOP, "webm", "libvpx", "yuv420p"), 5, 0.04),
    "webm vp9": (lambda: video(LOOP, "webm", "libvpx-vp9", "yuv420p"), 5, 0.04),
    "mpg mpeg1": (lambda: video(LOOP, "mpeg", "mpeg1video", "yuv420p"), 5, 0.04),
    "mpg mpeg2": (lambda: video(LOOP, "mpeg", "mpeg2video", "yuv420p"), 5, 0.04),
    "mpg without packs": (lambda: video(LOOP, "mpeg2video", "mpeg2video", "yuv420p"), 5, 0.04),
    "dicom": (lambda: dicom(LOOP), 0, 0.05),
    "dicom rle": (lambda: dicom(LOOP, rle=True), 0, 0.05),
    "dicom by rate": (lambda: dicom(LOOP, FrameTime=None, CineRate="40"), 0, 0.025),
    "dicom by a vector": (
        lambda: dicom(LOOP, FrameTime=None, FrameTimeVector=[0, *[30, 50] * 5]),
        0,
        0.04,
    ),
    "dicom by the display's rate": (
        lambda: dicom(LOOP, FrameTime=None, RecommendedDisplayFrameRate="20"),
        0,
        0.05,
    ),
    "dicom by the recording and not the display": (
        lambda: dicom(LOOP, FrameTime="", CineRate="40", RecommendedDisplayFrameRate="20"),
        0,
        0.025,
    ),
    "dicom inverted": (
        lambda: dicom(255 - LOOP, PhotometricInterpretation="MONOCHROME1"),
        0,
        0.05,
    ),
    "folder": (lambda: [png(image) for image in LOOP], 0, np.nan),
}


@pytest.mark.parametrize("form", GREY_FORMS)
def test_a_loop_in_every_form_gives_its_frames_in_order(tmp_path: Path, form: str) -> None:
    make, error, seconds = GREY_FORMS[form]
    store, report = prepare(source_of(tmp_path / "set", make()), tmp_path / "s", frames=5)
    assert [bad.where for bad in report.rejected] == ["labels.csv line 3 (Mustermann_1)"]
    assert (store.meta.dims, store.meta.axes) == (3, "tyx")
    assert (store.meta.unit, store.meta.group_source) == ("clip", "video")
    assert store.meta.channels == ("intensity",)
    clips = clips_of(store, 0)
    assert [clip.shape for clip in clips] == [(1, 5, 24, 32)] * 2  # and the last frame is dropped
    found = np.concatenate(clips, axis=1)[0]
    difference = np.abs(found.astype(int) - LOOP[:10])
    assert (difference.mean(axis=(1, 2)) <= error).all()  # 0: bit by bit
    np.testing.assert_array_equal(store.spacing, [[seconds, np.nan, np.nan]] * 2)
    assert set(store.groups) == {keyed_id(KEY, "cine", "videos/Mustermann_0")}


# Turns (counter-clockwise) and mirrors of PyAV's writer, and what is shown of a stored frame.
TURNS: Mapping[str, tuple[tuple[float, bool, bool], Callable[[Any], Any]]] = {
    "left": ((90, False, False), lambda frame: np.rot90(frame, 1)),
    "round": ((180, False, False), lambda frame: np.rot90(frame, 2)),
    "right": ((270, False, False), lambda frame: np.rot90(frame, 3)),
    "mirrored": ((0, True, False), np.fliplr),
    "upside down": ((0, False, True), np.flipud),
    "left and mirrored": ((90, True, False), lambda frame: np.fliplr(np.rot90(frame, 1))),
    "right and mirrored": ((270, True, False), lambda frame: np.fliplr(np.rot90(frame, 3))),
}


@pytest.mark.parametrize("form", ["mp4", "mov", "matroska"])
@pytest.mark.parametrize("turn", TURNS)
def test_a_video_is_held_as_its_display_matrix_says(tmp_path: Path, form: str, turn: str) -> None:
    """As PyAV's documentation names the turns; a still's EXIF was obeyed and this was not."""
    codec, pixels = ("ffv1", "gray") if form == "matroska" else ("libx264", "yuv420p")
    raw = video(LOOP, form, codec, pixels, turn=TURNS[turn][0])
    (clip,) = read_loop(tmp_path, raw, frames=11)
    shown = np.stack([TURNS[turn][1](frame) for frame in LOOP])
    assert clip.image[0].shape == shown.shape
    assert np.abs(clip.image[0].astype(int) - shown).mean() < 5
    plain = np.stack([TURNS[turn][1](frame) for frame in LOOP[:, ::-1, ::-1]])
    assert np.abs(clip.image[0].astype(int) - plain).mean() > 20


def test_a_turn_by_no_quarter_is_refused(tmp_path: Path) -> None:
    raw = video(LOOP, "mp4", "libx264", "yuv420p", turn=(45, False, False))
    with pytest.raises(BadCase, match="display matrix is not a mirroring or turn by a multiple"):
        read_loop(tmp_path, raw)


@pytest.mark.parametrize("form", ["avi", "dicom", "folder"])
def test_loops_in_colour_keep_it(tmp_path: Path, form: str) -> None:
    loop: bytes | list[bytes] = {
        "avi": lambda: video(COLOUR, codec="rawvideo", pixels="bgr24"),
        "dicom": lambda: dicom(COLOUR),
        "folder": lambda: [png(image) for image in COLOUR],
    }[form]()
    store, _ = prepare(source_of(tmp_path / "set", loop), tmp_path / "s", frames=0)
    assert store.meta.channels == ("red", "green", "blue")
    np.testing.assert_array_equal(clips_of(store, 0)[0], np.moveaxis(COLOUR, -1, 0))


def test_a_real_ultrasound_loop(tmp_path: Path) -> None:
    """30 frames in colour, run-length coded in YBR_FULL, which pydicom ships."""
    path = Path(get_testdata_file("examples_ybr_color.dcm"))
    store, report = prepare(
        source_of(tmp_path / "set", path.read_bytes()), tmp_path / "s", frames=0
    )
    assert len(report.rejected) == 1  # the row that names no file
    (clip,) = clips_of(store, 0)
    data = dcmread(path)
    assert clip.shape == (3, 30, data.Rows, data.Columns)
    np.testing.assert_array_equal(clip, np.moveaxis(data.pixel_array, -1, 0))
    assert store.spacing[0, 0] == pytest.approx(float(data.FrameTime) / 1000)


def test_16_bits_stay_16(tmp_path: Path) -> None:
    deep = RANDOM.integers(0, 60000, (6, 8, 9)).astype(np.uint16)
    source = source_of(tmp_path / "set", dicom(deep), [png(image) for image in deep])
    store, report = prepare(source, tmp_path / "s", frames=6)
    assert report.rejected == ()
    for number in (0, 1):
        np.testing.assert_array_equal(clips_of(store, number)[0][0], deep)


@pytest.mark.parametrize("form", ["avi ffv1", "dicom", "folder"])
def test_stride_and_size(tmp_path: Path, form: str) -> None:
    source = source_of(tmp_path / "set", GREY_FORMS[form][0]())
    store, _ = prepare(source, tmp_path / "s", frames=3, stride=2)
    np.testing.assert_array_equal(np.concatenate(clips_of(store, 0), 1)[0], LOOP[0:11:2])
    np.testing.assert_array_equal(store.spacing[:, 0], 2 * GREY_FORMS[form][2])
    store, _ = prepare(source, tmp_path / "small", frames=3, stride=4, size=16)
    (clip,) = clips_of(store, 0)
    assert clip.shape == (1, 3, 12, 16)
    np.testing.assert_array_equal(clip[:, 2], shrink(LOOP[8][None], 16))


def test_clips_of_a_loop_have_its_ejection_fraction(tmp_path: Path) -> None:
    """FileList.csv of EchoNet-Dynamic: names without endings, EF to many places, Split."""
    table = (
        "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"
        "Mustermann_0,78.49840576,14.88136758,69.21053353,112,112,50,174,VAL\n"
        "Mustermann_1,23.18,40.38,59.54,112,112,50,215,TRAIN\n"
    )
    frames = [[png(frame) for frame in loop] for loop in (NOISE, 255 - NOISE)]
    source = source_of(tmp_path / "set", *frames, table=table)
    store, report = prepare(
        source, tmp_path / "s", frames=4, value="EF", split="Split", positive=""
    )
    assert not report.rejected
    assert (store.meta.task, store.meta.classes) == ("regression", ("EF",))
    found = sorted(zip(store.splits, store.numbers[:, 0].tolist(), strict=True))
    clips = len(NOISE) // 4
    assert found == [("train", 23.18)] * clips + [("val", 78.49840576)] * clips


def test_the_whole_loop_and_the_patient(tmp_path: Path) -> None:
    source = source_of(
        tmp_path / "set", video(LOOP), video(LOOP[:4]), video(NOISE), video(255 - NOISE)
    )
    store, _ = prepare(source, tmp_path / "s", frames=0, group="patient")
    assert [clips_of(store, n)[0].shape[1] for n in range(4)] == [11, 4, 11, 11]
    assert store.meta.group_source == "patient"
    assert len(set(store.groups)) == 2


def test_a_loop_shorter_than_a_clip_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", video(LOOP), video(LOOP[:4]), video(LOOP[:1]))
    _, report = prepare(source, tmp_path / "s", frames=5)
    assert [bad.reason for bad in report.rejected] == [
        "the loop gives 4 frames at stride 1; a clip needs 5",
        "the loop gives 1 frames at stride 1; a clip needs 5",
    ]
    with pytest.raises(BadSource, match="the loop gives 4 frames at stride 3; a clip needs 5"):
        prepare(source, tmp_path / "strided", frames=5, stride=3)  # nothing is left


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", video(LOOP))
    for options in ({"frames": 1}, {"frames": -2}, {"stride": 0}):
        with pytest.raises(BadSource, match="frames must be 2 or more"):
            prepare(source, tmp_path / "s", **options)


def test_no_name_reaches_the_store(tmp_path: Path) -> None:
    source = source_of(
        tmp_path / "Muster-Clinic", video(LOOP), dicom(LOOP), [png(image) for image in LOOP], b"x"
    )
    store, report = prepare(source, tmp_path / "s", frames=11, group="patient")
    assert (len(store), len(report.rejected)) == (3, 1)
    for path in (tmp_path / "s").rglob("*"):
        raw = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        for secret in (b"Muster", b"4711", b"Erika", b"Clinic", b"frame1", b"videos"):
            assert secret not in raw


# ---- folders of frames ------------------------------------------------------------------------


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", [png(image) for image in LOOP])  # frame2 before frame10
    folder = source / "videos" / "Mustermann_0"
    (folder / "notes.txt").write_text("not a frame")
    store, _ = prepare(source, tmp_path / "s", frames=0)
    np.testing.assert_array_equal(clips_of(store, 0)[0][0], LOOP)


def test_a_folder_with_a_gap_a_link_or_another_size_is_refused(tmp_path: Path) -> None:
    frames = [png(image) for image in LOOP]
    source = source_of(
        tmp_path / "set",
        frames,
        frames,
        [*frames[:5], png(LOOP[0][:9])],
        [*frames[:5], b"x"],
        frames,
    )
    (source / "videos" / "Mustermann_0" / "frame7.png").unlink()
    (tmp_path / "outside.png").write_bytes(frames[0])
    link = source / "videos" / "Mustermann_1" / "frame3.png"
    link.unlink()
    link.symlink_to(tmp_path / "outside.png")
    store, report = prepare(source, tmp_path / "s", frames=6)
    assert [bad.reason for bad in report.rejected] == [
        "frames are missing: number 6 is followed by 8",
        "a frame is a link out of the source or to nothing",
        "the frames differ in size or type",
        "the file is text; PNG, JPEG, TIFF, BMP, WebP, JPEG 2000, PGM and DICOM are read",
    ]
    assert len(clips_of(store, 4)) == 1


# ---- broken input -----------------------------------------------------------------------------

WHOLE: Mapping[str, Callable[[], bytes]] = {
    "avi ffv1": lambda: video(NOISE),
    "avi mjpeg": lambda: video(NOISE, codec="mjpeg", pixels="yuvj420p"),
    "avi raw": lambda: video(NOISE, codec="rawvideo"),
    "mp4 h264": lambda: video(NOISE, "mp4", "libx264", "yuv420p"),
    "mkv ffv1": lambda: video(NOISE, "matroska"),
    "webm vp9": lambda: video(NOISE, "webm", "libvpx-vp9", "yuv420p"),
    "mpg without packs": lambda: video(NOISE, "mpeg2video", "mpeg2video", "yuv420p"),
    "dicom": lambda: dicom(NOISE),
    "dicom rle": lambda: dicom(NOISE, rle=True),
}


def read_loop(folder: Path, raw: bytes, **options: Any) -> list[Case]:
    """Return the clips of one loop; raises BadCase."""
    path = folder / "loop"
    path.write_bytes(raw)
    meta = a_meta(
        axes="tyx",
        options={
            "frames": 4,
            "stride": 1,
            "size": 0,
            "bits": 8,
            "depths": [8],
            "channels": "grey",
            **options,
        },
    )
    extra = {"group": "g", "label": 0, "split": None, "folder": False}
    found = []
    for case in cine.read(Item(key="loop", paths=(path,), extra=extra), meta):
        assert isinstance(case, Case)
        found.append(case)
    return found


@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("form", WHOLE)
def test_a_loop_that_is_cut_off_is_refused(tmp_path: Path, form: str, tenth: int) -> None:
    raw = WHOLE[form]()
    assert len(read_loop(tmp_path, raw)) == 2
    with pytest.raises(BadCase) as caught:
        read_loop(tmp_path, raw[: len(raw) * tenth // 10])
    words = (
        "cut off",
        "no AVI",
        "cannot be",
        "is missing",
        "whole number",
        "is damaged",
    )
    words += ("whole number",)
    assert any(word in caught.value.reason for word in words), caught.value.reason
    assert str(tmp_path) not in caught.value.reason


def test_a_video_that_lost_its_last_frames_cleanly_is_refused(tmp_path: Path) -> None:
    raw = video(NOISE, codec="rawvideo")
    length = raw.index(b"strh") + 8 + 32  # dwLength of the stream's header (AVI RIFF reference)
    assert struct.unpack_from("<I", raw, length) == (11,)
    more = raw[:length] + struct.pack("<I", 15) + raw[length + 4 :]
    with pytest.raises(BadCase, match="it declares 15 frames but holds 11"):
        read_loop(tmp_path, more)


@pytest.mark.parametrize("form", WHOLE)
def test_flipped_bytes_never_end_the_process(tmp_path: Path, form: str) -> None:
    raw = WHOLE[form]()
    random = np.random.default_rng(3)
    for _ in range(12):
        broken = bytearray(raw)
        for at in random.integers(0, len(raw), 4):
            broken[at] = random.integers(256)
        with contextlib.suppress(BadCase):
            for case in read_loop(tmp_path, bytes(broken)):
                assert case.image.ndim == 4


NO_LOOP: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "the file is empty"),
    "text": (
        lambda: b"no video at all",
        "the file is not an AVI, MP4, MKV, WebM, MPG or DICOM file",
    ),
    "gif": (
        lambda: b"GIF89a" + bytes(99),
        "the file is not an AVI, MP4, MKV, WebM, MPG or DICOM file",
    ),
    "playlist": (
        lambda: b"#EXTM3U\n/etc/passwd\n",
        "the file is not an AVI, MP4, MKV, WebM, MPG or DICOM file",
    ),
    "list of files": (
        lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
        "the file is not an AVI",
    ),
    "webp": (
        lambda: b"RIFF\0\0\0\0WEBPVP8 ",
        "the file is not an AVI, MP4, MKV, WebM, MPG or DICOM file",
    ),
    "an avi of nothing": (lambda: b"RIFF\x10\0\0\0AVI " + bytes(400), "damaged or cut off"),
    "an mp4 of nothing": (lambda: b"\0\0\0\x18ftypisom" + bytes(400), "damaged or cut off"),
    "sound": (sound, "the file holds no video"),
    "dicom of one frame": (lambda: dicom(NOISE[:1]), "gives 1 frames at stride 1; a clip needs 4"),
    "dicom of minus one": (lambda: dicom(NOISE, NumberOfFrames="-1"), "NumberOfFrames is -1"),
    "dicom of too many": (lambda: dicom(NOISE, NumberOfFrames="2000000"), "more than 36000 frames"),
    "dicom of more": (lambda: dicom(NOISE, NumberOfFrames="30"), "cannot be decoded"),
}


@pytest.mark.parametrize("name", NO_LOOP)
def test_what_is_no_loop_is_refused_with_its_sentence(tmp_path: Path, name: str) -> None:
    make, sentence = NO_LOOP[name]
    with pytest.raises(BadCase) as caught:
        read_loop(tmp_path, make())
    assert sentence in caught.value.reason


def test_damage_behind_the_first_clips_rejects_the_whole_loop(tmp_path: Path) -> None:
    raw = video(NOISE, codec="rawvideo")
    source = source_of(tmp_path / "set", raw[: len(raw) * 9 // 10], raw)
    store, report = prepare(source, tmp_path / "s", frames=2)
    assert [bad.where for bad in report.rejected] == ["videos/Mustermann_0"]
    assert (len(clips_of(store, 0)), len(clips_of(store, 1))) == (0, 5)


@pytest.mark.parametrize(
    ("module", "limit", "value", "options", "sentence"),
    [
        (video_file, "MAX_FRAMES", 10, {}, "more than 10 frames: cut it"),
        (
            cine,
            "MAX_CLIP_BYTES",
            5000,
            {"frames": 0},
            "larger than 5000 bytes: set frames, stride or",
        ),
        (
            video_file,
            "MAX_FRAME_PIXELS",
            700,
            {},
            "a frame has 32 x 24 pixels, too many for a loop",
        ),
    ],
)
def test_decoding_is_bounded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    limit: str,
    value: int,
    options: dict[str, int],
    sentence: str,
) -> None:
    monkeypatch.setattr(module, limit, value)
    with pytest.raises(BadCase, match=sentence):
        read_loop(tmp_path, video(NOISE), **options)


def test_a_long_loop_is_decoded_clip_by_clip(tmp_path: Path) -> None:
    decoded = 0

    def endless() -> Iterator[Any]:
        nonlocal decoded
        while True:
            decoded += 1
            yield Picture(array=NOISE[:1], bits=8)

    clips = cine._clips(
        endless(),
        4,
        1,
        a_meta(options={"bits": 8, "depths": [8], "channels": "grey", "size": 0}),
        "",
    )
    assert next(clips).shape == (1, 4, 24, 32)
    assert decoded == 4


def test_a_loop_that_went_away_is_a_rejected_case(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", video(NOISE), video(LOOP))
    survey = KINDS["cine"].survey(source, {"positive": "b", "frames": 4})
    (source / "videos" / "Mustermann_1").unlink()
    report = write_store(KINDS["cine"], survey, tmp_path / "s", key=KEY, workers=1, strict=False)
    assert [bad.reason for bad in report.rejected] == ["the file is gone"]


def test_a_store_built_by_two_processes_is_that_of_one(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", video(NOISE), video(LOOP))
    survey = KINDS["cine"].survey(source, {"positive": "b", "frames": 4})
    hashes = set()
    for workers in (1, 2):
        out = tmp_path / f"s{workers}"
        write_store(KINDS["cine"], survey, out, key=KEY, workers=workers, strict=False)
        hashes.add(open_store(out).content_hash)
    assert len(hashes) == 1


def test_clips_keep_the_column_of_their_loop(tmp_path: Path) -> None:
    table = "video,label,site\nMustermann_0,a,Zug\nMustermann_1,b,Aarau\n"
    source = source_of(tmp_path / "set", video(LOOP), video(NOISE), table=table)
    store, _ = prepare(source, tmp_path / "s", frames=4, keep="site")
    for loop, site in ((0, 1), (1, 0)):
        ids = [keyed_id(KEY, "cine", f"videos/Mustermann_{loop}#{k}") for k in (0, 1)]
        assert [store.column("site")[store.case_ids.index(one)] for one in ids] == [site, site]
    assert len(store) == 4
