"""Segmentations and structure sets that other programs wrote, against what these were given."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline
from pydicom.uid import RLELossless

from loaders.cases import BadCase
from loaders.formats.scans.masks import Masks, class_of, contents_of
from loaders.formats.scans.scan import Scan, read_scan
from loaders.formats.scans.structure_set import even_odd
from tests.loaders.formats.scans.write import (
    ACROSS,
    DOWN,
    LEVEL,
    NORMAL,
    ORIGIN,
    ROOT,
    SHAPE,
    SPACING,
    SQUARE,
    retargeted,
    truth,
    wide_truth,
    write_series,
)

WRITTEN = Path(__file__).parent / "written"


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return read_scan(write_series(tmp_path / "series"), "x")


def masks_of(scan: Scan, **more: Any) -> Masks:
    return Masks(**{"scan": scan, "shift": 0.01, "threshold": 0, "where": "x", **more})


def loaded(scan: Scan, path: Path, name: str = "ball", **more: Any) -> Any:
    """Return a structure (Z, Y, X)."""
    union = more.pop("union", False)
    return masks_of(scan, **more).load(path, name, union=union).T


def changed(path: Path, change: Callable[[Any], None], folder: Path) -> Path:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(folder / "changed.dcm")
    return folder / "changed.dcm"


# ---- as others write them ---------------------------------------------------------------------


@pytest.mark.parametrize("program", ["highdicom_binary", "dcmqi_binary", "highdicom_fractional"])
@pytest.mark.parametrize("name", ["ball", "ring"])
def test_segmentations_are_what_was_written(scan: Scan, program: str, name: str) -> None:
    path = WRITTEN / f"{program}.dcm"
    assert contents_of(path, "x").names == ("ball", "ring")
    assert contents_of(path, "x").series == {f"{ROOT}.1"}
    np.testing.assert_array_equal(loaded(scan, path, name), truth()[name])


def test_a_label_map(scan: Scan) -> None:
    """It holds one number a pixel: the ring without the ball."""
    path = WRITTEN / "highdicom_labelmap.dcm"
    np.testing.assert_array_equal(loaded(scan, path, "ball"), truth()["ball"])
    wanted = truth()["ring"] & ~truth()["ball"]
    np.testing.assert_array_equal(loaded(scan, path, "ring"), wanted)


def test_a_fractional_segment_from_another_level(scan: Scan) -> None:
    """What was written is 0.75 inside, and 0.375 where the structure lies two columns on."""
    beside = np.roll(truth()["ball"], 2, axis=2)
    for level, wanted in ((64, truth()["ball"] | beside), (128, truth()["ball"])):
        found = loaded(scan, WRITTEN / "highdicom_fractional.dcm", "ball", threshold=level)
        np.testing.assert_array_equal(found, wanted)
    # Of a binary one there is nothing to choose.
    found = loaded(scan, WRITTEN / "highdicom_binary.dcm", "ball", threshold=64)
    np.testing.assert_array_equal(found, truth()["ball"])


@pytest.mark.parametrize("name", ["ball", "ring"])
def test_a_structure_set_of_rt_utils(tmp_path: Path, name: str) -> None:
    """Its outlines pass through the centres of the outermost voxels, of a hole's too."""
    scan = read_scan(write_series(tmp_path, **SQUARE), "x")
    path = WRITTEN / "rt_utils.dcm"
    assert contents_of(path, "x").names == ("ball", "ring")
    np.testing.assert_array_equal(loaded(scan, path, name), truth()[name])


@pytest.mark.parametrize("name", ["disc", "star"])
def test_a_structure_set_of_plastimatch(tmp_path: Path, name: str) -> None:
    """Its outlines give back what it was given, hole and all.

    Filled by itself they give the same star; a hole it fills up.
    """
    scan = read_scan(write_series(tmp_path, **LEVEL), "x")
    found = loaded(scan, WRITTEN / "plastimatch.dcm", name)
    np.testing.assert_array_equal(found, wide_truth()[name])
    if name == "star":
        with np.load(WRITTEN / "plastimatch.npz", allow_pickle=False) as filled:
            np.testing.assert_array_equal(found, filled[name])


def test_frames_are_placed_by_position_and_not_by_order(scan: Scan, tmp_path: Path) -> None:
    def reverse(data: Any) -> None:
        groups = data.PerFrameFunctionalGroupsSequence
        size = SHAPE[1] * SHAPE[2]
        bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
        frames = bits[: len(groups) * size].reshape(len(groups), size)[::-1]
        data.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
        data.PerFrameFunctionalGroupsSequence = list(groups)[::-1]

    path = changed(WRITTEN / "highdicom_binary.dcm", reverse, tmp_path)
    np.testing.assert_array_equal(loaded(scan, path, "ring"), truth()["ring"])


def test_frames_may_be_turned_and_cut_out(scan: Scan, tmp_path: Path) -> None:
    """Columns 2 to 20 and rows from the last one up, as a tool that crops and flips writes them."""
    rows, columns = SHAPE[1], 18

    def crop(data: Any) -> None:
        count = data.NumberOfFrames
        bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
        frames = bits[: count * rows * SHAPE[2]].reshape(count, rows, SHAPE[2])
        cut = frames[:, ::-1, 2 : 2 + columns]
        data.PixelData = np.packbits(cut.ravel(), bitorder="little").tobytes()
        data.Columns = columns
        shared = data.SharedFunctionalGroupsSequence[0]
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = [*ACROSS, *-DOWN]
        move = 2 * SPACING[2] * ACROSS + (rows - 1) * SPACING[1] * DOWN
        for group in data.PerFrameFunctionalGroupsSequence:
            plane = group.PlanePositionSequence[0]
            at = np.array(plane.ImagePositionPatient, float) + move
            plane.ImagePositionPatient = [round(float(mm), 6) for mm in at]

    path = changed(WRITTEN / "highdicom_binary.dcm", crop, tmp_path)
    wanted = truth()["ball"].copy()
    assert not wanted[:, :, :2].any()
    np.testing.assert_array_equal(loaded(scan, path), wanted)


def test_compressed_levels(scan: Scan, tmp_path: Path) -> None:
    path = changed(
        WRITTEN / "highdicom_fractional.dcm",
        lambda data: data.compress(RLELossless, encoding_plugin="pydicom"),
        tmp_path,
    )
    np.testing.assert_array_equal(loaded(scan, path, "ring"), truth()["ring"])


# ---- outlines ---------------------------------------------------------------------------------


def inside_by_matplotlib(outlines: list[Any], shape: tuple[int, int]) -> Any:
    points = np.stack(np.indices(shape), -1).reshape(-1, 2)
    odd = np.zeros(len(points), bool)
    for outline in outlines:
        odd ^= Outline(outline).contains_points(points)
    return odd.reshape(shape)


@pytest.mark.parametrize("seed", range(40))
def test_even_odd_is_matplotlibs(seed: int) -> None:
    """Random polygons, crossing themselves and each other, some beyond the image."""
    random = np.random.default_rng(seed)
    shape = (int(random.integers(5, 40)), int(random.integers(5, 40)))
    outlines = [
        random.uniform(-4, 40, (int(random.integers(3, 12)), 2))
        for _ in range(int(random.integers(1, 4)))
    ]
    if seed % 2:
        # A star has no crossings of its own.
        angles = np.sort(random.uniform(0, 2 * np.pi, 30))
        reach = random.uniform(3, 12, 30)[:, np.newaxis]
        outlines = [15 + reach * np.stack([np.cos(angles), np.sin(angles)], -1)]
    # matplotlib's crossings of a self-crossing outline are even-odd too: one outline by itself.
    wanted = np.zeros(shape, bool)
    for outline in outlines:
        wanted ^= inside_by_matplotlib([outline], shape)
    near = even_odd(outlines, shape).astype(bool) != wanted
    # A centre within a hundredth of an outline is inside by rule; there are few of them.
    assert near.sum() <= 8
    for place in np.argwhere(near):
        assert _distance(place, outlines) <= 0.0101


def _distance(point: Any, outlines: list[Any]) -> float:
    found = []
    for outline in outlines:
        begin, end = outline, np.roll(outline, -1, axis=0)
        along = end - begin
        share = np.clip(((point - begin) * along).sum(1) / (along**2).sum(1), 0, 1)
        found.append(np.linalg.norm(begin + share[:, None] * along - point, axis=1).min())
    return float(min(found))


def test_an_outline_through_centres_holds_them() -> None:
    square = np.array([(2, 1), (6, 1), (6, 4), (2, 4)], float)
    hole = np.array([(3, 2), (5, 2), (5, 3), (3, 3)], float)
    wanted = np.zeros((9, 7), np.uint8)
    wanted[2:7, 1:5] = 1
    np.testing.assert_array_equal(even_odd([square], (9, 7)), wanted)
    # The hole's own outline is of the structure; (4, 2) and (4, 3) lie on it.
    np.testing.assert_array_equal(even_odd([square, hole], (9, 7)), wanted)
    wider = np.array([(2.5, 1.5), (5.5, 1.5), (5.5, 3.5), (2.5, 3.5)])
    wanted[3:6, 2:4] = 0
    np.testing.assert_array_equal(even_odd([square, wider], (9, 7)), wanted)
    diagonal = np.array([(0, 0), (4, 4), (0, 4)], float)
    np.testing.assert_array_equal(even_odd([diagonal], (5, 5)), np.triu(np.ones((5, 5))))


def structure_set(path: Path, contours: list[Any], **more: Any) -> Path:
    """Write one structure `a` with these contours, points in voxels x, y and a slice's place z."""

    def change(data: Any) -> None:
        roi = data.ROIContourSequence[0]
        first = roi.ContourSequence[0]
        steps = np.array([ACROSS * SPACING[2], DOWN * SPACING[1], NORMAL * SPACING[0]])
        made = []
        for points in contours:
            new = pydicom.dataset.Dataset()
            new.ContourGeometricType = more.get("form", first.ContourGeometricType)
            new.NumberOfContourPoints = len(points)
            mm = ORIGIN + np.array(points, float) @ steps
            new.ContourData = [f"{float(value):.4f}" for value in mm.ravel()]
            made.append(new)
        roi.ContourSequence = made
        data.ROIContourSequence = [roi]
        data.StructureSetROISequence = [data.StructureSetROISequence[0]]
        data.StructureSetROISequence[0].ROIName = "a"
        study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence[0].SeriesInstanceUID = f"{ROOT}.1"

    return changed(WRITTEN / "rt_utils.dcm", change, path)


def box(z: float, low: float = 2.5, high: float = 7.5) -> list[tuple[float, float, float]]:
    return [(low, low, z), (high, low, z), (high, high, z), (low, high, z)]


def test_an_outline_lies_on_its_nearest_slice(scan: Scan, tmp_path: Path) -> None:
    path = structure_set(tmp_path, [box(1.3), box(3.6), box(5.4)])
    counts = loaded(scan, path, "a").sum(axis=(1, 2))
    assert counts.tolist() == [0, 25, 0, 0, 25, 25]


def test_of_several_planes_the_nearest_to_a_slice_counts(scan: Scan, tmp_path: Path) -> None:
    """Not even-odd of both: those of one plane make holes, those of another do not."""
    path = structure_set(tmp_path, [box(1.9), box(2.3, 3.5, 5.5), box(1.9, 4.5, 5.5)])
    found = loaded(scan, path, "a")
    assert found.sum() == 25 - 1
    assert not found[2, 5, 5]


BAD_STRUCTURES: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "beyond": ([box(1), box(7)], {}, "an outline of a is outside the series"),
    "not parallel": ([[(2, 2, 1), (6, 2, 1), (6, 6, 2)]], {}, "a is not parallel to the slices"),
    "points": ([[(2, 2, 1)]], {"form": "POINT"}, "a has points or open lines but no closed"),
}


@pytest.mark.parametrize("name", BAD_STRUCTURES)
def test_outlines_that_cannot_be_filled(scan: Scan, tmp_path: Path, name: str) -> None:
    contours, more, why = BAD_STRUCTURES[name]
    path = structure_set(tmp_path, contours, **more)
    with pytest.raises(BadCase, match=why) as told:
        loaded(scan, path, "a")
    assert ROOT not in str(told.value)


# ---- what is refused --------------------------------------------------------------------------


def moved(mm: float) -> Callable[[Any], None]:
    def move(data: Any) -> None:
        for group in data.PerFrameFunctionalGroupsSequence:
            plane = group.PlanePositionSequence[0]
            at = np.array(plane.ImagePositionPatient, float) + mm * ACROSS
            plane.ImagePositionPatient = [round(float(value), 6) for value in at]

    return move


def rescaled(data: Any) -> None:
    data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.4, 1.8]


def other_frame(data: Any) -> None:
    del data.ReferencedSeriesSequence
    data.FrameOfReferenceUID = "1.2.3"


def twice(data: Any) -> None:
    for segment in data.SegmentSequence:
        segment.SegmentLabel = "ball"


BAD: dict[str, tuple[Callable[[Any], None], str]] = {
    "half a voxel away": (
        moved(0.45),
        "0.5 voxels away from those of the series; shift allows 0.01",
    ),
    "beyond": (moved(3 * 0.9), "a frame of the mask, 24 x 20, extends beyond the series, 24 x 20"),
    "another spacing": (rescaled, "differ in spacing or direction from the series"),
    "another frame of reference": (other_frame, "for another frame of reference: it was not drawn"),
    "a name twice": (twice, "2 structures named 'ball'; several=union would unite them"),
    "no such type": (
        lambda data: setattr(data, "SegmentationType", "SURFACE"),
        "SegmentationType is not BINARY, FRACTIONAL or LABELMAP",
    ),
    "cut": (
        lambda data: setattr(data, "PixelData", data.PixelData[:100]),
        "the mask does not hold the pixels of",
    ),
    "many frames": (
        lambda data: setattr(data, "NumberOfFrames", 900),
        "the header claims 900 frames but describes",
    ),
    "no segments": (lambda data: delattr(data, "SegmentSequence"), "the mask names no segment"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mask_that_does_not_fit_is_refused(scan: Scan, tmp_path: Path, name: str) -> None:
    change, why = BAD[name]
    path = changed(WRITTEN / "highdicom_binary.dcm", change, tmp_path)
    with pytest.raises(BadCase, match=why) as told:
        loaded(scan, path)
    assert ROOT not in str(told.value)


@pytest.mark.parametrize("written", ["highdicom_binary.dcm", "rt_utils.dcm"])
def test_a_mask_of_another_series_is_refused(scan: Scan, tmp_path: Path, written: str) -> None:
    retargeted(written, tmp_path / "other.dcm", series="9")
    with pytest.raises(
        BadCase, match="the mask is for another series: it was not drawn on"
    ) as told:
        loaded(scan, tmp_path / "other.dcm")
    assert ROOT not in told.value.reason


def test_two_of_a_name_are_united_where_that_is_asked(scan: Scan, tmp_path: Path) -> None:
    path = changed(WRITTEN / "highdicom_binary.dcm", twice, tmp_path)
    both = truth()["ball"] | truth()["ring"]
    np.testing.assert_array_equal(loaded(scan, path, union=True), both)


def test_a_shift_may_be_allowed(scan: Scan, tmp_path: Path) -> None:
    path = changed(WRITTEN / "highdicom_binary.dcm", moved(0.09), tmp_path)
    with pytest.raises(BadCase, match=r"0\.1 voxels away"):
        loaded(scan, path)
    np.testing.assert_array_equal(loaded(scan, path, shift=0.2), truth()["ball"])


def test_what_is_no_mask_at_all(scan: Scan, tmp_path: Path) -> None:
    slice_ = next((tmp_path / "series").iterdir())
    with pytest.raises(BadCase, match="neither a DICOM segmentation nor an RT structure set"):
        loaded(scan, slice_)
    (tmp_path / "text").write_text("no DICOM")
    assert class_of(tmp_path / "text", "x") == ""


@pytest.mark.parametrize("written", ["highdicom_binary.dcm", "rt_utils.dcm"])
def test_a_file_that_is_cut_or_flipped_is_a_case_or_a_refusal(
    scan: Scan, tmp_path: Path, written: str
) -> None:
    raw = (WRITTEN / written).read_bytes()
    path = tmp_path / "broken.dcm"
    random = np.random.default_rng(5)
    for turn in range(60):
        broken = bytearray(raw)
        if turn % 2:
            del broken[int(random.integers(200, len(raw))) :]
        else:
            for at in random.integers(200, len(raw), 5):
                broken[at] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(broken))
        # Whatever else is raised fails the test.
        with suppress(BadCase):
            for name in contents_of(path, "x").names[:2]:
                assert loaded(scan, path, name).shape == SHAPE
