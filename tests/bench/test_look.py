"""The look at a store: every class is shown, numbers are those of the arrays, nobody is named."""

import numpy as np
import pytest
from matplotlib import image as mpl_image
from scipy import ndimage

from bench import api
from bench.core.references import StudyError
from bench.look import content
from loaders.cases import BadCase, Case, Item, Kind, Survey
from loaders.store.layout import StoreError
from loaders.store.read import open_store
from loaders.store.write import write_store
from results.look.content import Plane
from results.look.pictures import colour_of, drawn
from tests.metas import made_meta
from tests.results.report.test_write import EVIL, Page, assert_sound


def look(store, cases=12, seed=0):
    return content(store, cases, seed, lambda _done, _total: None)


def made(out, meta, cases, rejected=()):
    """Write a store of these cases."""
    kind = Kind(
        name=meta.kind,
        summary="made by a test",
        source="none",
        survey=lambda _source, _options: pytest.fail("not surveyed"),
        read=lambda _item, _meta: iter(cases),
        options={},
    )
    survey = Survey(meta=meta, items=(Item(key="all", paths=(), extra={}),), rejected=rejected)
    write_store(kind, survey, out, key=b"test", workers=1, strict=False)
    return open_store(out)


def pictures(count, classes, rng):
    """Give cases of two channels whose class 0 is common and whose others come once."""
    for n in range(count):
        yield Case(
            key=f"name-of-case-{n}",
            group=f"name-of-patient-{n // 2}",
            image=rng.integers(0, 100 + n, (2, 9, 14)).astype(np.uint8),
            label=n if n < classes else 0,
            mask=None,
            spacing=(0.5, np.nan),
            split="train" if n % 3 else "test",
            columns={"site": n % 2},
        )


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """Return a store of 9 classes, 8 of which come once among 60 cases, and two rejects."""
    names = (EVIL, *(f"class {n}" for n in range(8)))
    meta = made_meta(name=EVIL[:60], classes=names, channels=("a", "b"), group_source="patient")
    rejected = tuple(
        BadCase("the file is cut off", where=f"secret/{n}.dcm", key=f"secret-{n}") for n in range(2)
    )
    cases = list(pictures(60, 9, np.random.default_rng(0)))
    return made(tmp_path_factory.mktemp("rare") / "store", meta, cases, rejected)


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_among_the_cases_by_any_seed(rare, seed):
    found = look(rare, cases=9, seed=seed)
    assert sorted(case.answer for case in found.cases) == sorted(rare.meta.classes)
    assert found.covered == (9, 9)
    few = look(rare, cases=4, seed=seed)
    assert len({case.answer for case in few.cases}) == 4
    assert few.covered == (4, 9)


def test_another_seed_shows_other_cases(rare):
    shown = [[case.case_id for case in look(rare, 20, seed).cases] for seed in (0, 0, 1)]
    assert shown[0] == shown[1] != shown[2]
    assert len(set(shown[0])) == 20


def test_counts_are_those_of_the_cases(rare):
    counts = look(rare).counts
    assert dict(counts["Cases by class"]) == {EVIL: 52} | {f"class {n}": 1 for n in range(8)}
    assert dict(counts["Cases by official part"]) == {"test": 20, "train": 40}
    assert dict(counts["Cases by site, whose values are numbered"]) == {
        "value 0": 30,
        "value 1": 30,
    }
    assert dict(counts["Groups by how many cases they hold (patient)"]) == {"2 cases": 30}


def test_intensities_are_those_of_the_arrays(rare):
    for channel, levels in enumerate(look(rare).levels):
        values = [np.ravel(rare.image(n)[channel]) for n in range(len(rare))]
        own = [np.histogram(each, levels.edges)[0] / each.size for each in values]
        assert levels.shares.sum() == pytest.approx(1, abs=0.003)
        # A store's bins are as wide as a few levels: what is between them is spread evenly.
        gap = np.abs(np.cumsum(levels.shares) - np.cumsum(np.mean(own, axis=0)))
        assert gap.max() < 0.02
        assert levels.channel == ("a", "b")[channel]


def test_a_page_names_nobody_and_refers_to_nothing_outside(rare, tmp_path):
    page, picture = api.show(rare.path, tmp_path / "new" / "page.html", cases=9)
    found = Page(page)
    assert_sound(found)
    assert EVIL in found.text
    assert "the file is cut off" in found.text
    for name in ("name-of", "secret", "http:", "https:"):
        assert name not in found.source.replace("http://www.w3.org/1999/xlink", "")
    assert len([tag for tag, _ in found.tags if tag == "img"]) == 9 * 2
    assert mpl_image.imread(picture).ndim == 3


# ---- volumes ----------------------------------------------------------------------------------


SHAPES = [(12, 40, 30), (1, 40, 30), (40, 1, 30), (40, 30, 1), (3, 4, 5)]


def volume(n, shape):
    """Return a volume with a box of class 1 and a voxel of class 2 in it; each fourth is empty."""
    mask = np.zeros(shape, np.uint8)
    if n % 4:
        mask[tuple(slice(side // 4, side // 4 + max(side // 2, 1)) for side in shape)] = 1
        mask[tuple(side // 4 for side in shape)] = 2
    image = np.random.default_rng(n).normal(size=(1, *shape)).astype(np.float32)
    return Case(key=f"v{n}", group=f"v{n}", image=image, label=None, mask=mask, spacing=(4, 1, 1))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    meta = made_meta(
        name="volumes",
        task="segmentation",
        dims=3,
        classes=("background", "box", "spot"),
        regions={"whole": (1, 2)},
        unit="volume",
    )
    cases = [volume(n, SHAPES[n % len(SHAPES)]) for n in range(20)]
    return made(tmp_path_factory.mktemp("volumes") / "store", meta, cases)


def test_volumes_are_cut_where_most_classes_are(volumes):
    shown = {case.case_id: case for case in look(volumes, cases=20).cases}
    for n in range(len(volumes)):
        case, mask = shown[volumes.case_ids[n]], np.asarray(volumes.mask(n))
        if not mask.any():
            assert case.answer == "nothing outlined"
            assert all(not plane.labels.any() for plane in case.planes)
            continue
        assert case.answer == ("box, spot" if (mask == 1).any() else "spot")
        place = ndimage.maximum_position(mask)  # the spot, through which each plane goes
        for plane in case.planes:
            axis, at = plane.name.split(", ")[1].split(" ")[:2]
            assert int(at) - 1 == place["zyx".index(axis)]
            assert np.array_equal(plane.labels, mask.take(int(at) - 1, axis="zyx".index(axis)))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_volume_is_too_thin_to_be_shown(volumes, shape):
    rows = [n for n in range(len(volumes)) if tuple(volumes.shapes[n]) == shape]
    shown = {case.case_id: case for case in look(volumes, cases=20).cases}
    for case in (shown[volumes.case_ids[n]] for n in rows):
        assert len(case.planes) == (3 if shape == (12, 40, 30) else 1)
        assert min(case.planes[0].image.shape) >= min(4, *sorted(shape)[1:])


def test_pixels_are_as_high_as_the_spacing_says_and_labels_outlined(volumes):
    (n, *_) = [
        k
        for k in range(len(volumes))
        if tuple(volumes.shapes[k]) == (12, 40, 30) and (np.asarray(volumes.mask(k)) == 1).any()
    ]
    (case,) = [c for c in look(volumes, cases=20).cases if c.case_id == volumes.case_ids[n]]
    axial, coronal, _ = drawn(case.planes)
    assert axial.shape[0] / axial.shape[1] == pytest.approx(40 / 30)
    assert coronal.shape[0] / coronal.shape[1] == pytest.approx(12 * 4 / 30, rel=0.05)
    labels = case.planes[0].labels
    times = axial.shape[0] // 40
    large = labels.repeat(times, axis=0).repeat(times, axis=1)
    for label in (1, 2):
        colour = [int(colour_of(label)[at : at + 2], 16) for at in (1, 3, 5)]
        painted = (axial == colour).all(axis=2)
        inner = ndimage.binary_erosion(large == label, iterations=4, structure=np.ones((3, 3)))
        assert painted.any()
        assert not painted[large != label].any()
        assert not painted[inner].any()


def test_a_thin_label_outlives_a_picture_that_is_made_smaller():
    labels = np.zeros((3000, 2000), np.uint8)
    labels[:, 777] = 1
    (rgb,) = drawn([Plane(name="", image=np.zeros(labels.shape), labels=labels)])
    assert max(rgb.shape) < 600
    assert (rgb != 0).any(axis=2).any(axis=1).all()


# ---- every task, and what cannot be -----------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "task", ["classification", "segmentation", "multilabel", "ordinal", "regression"]
)
def test_stores_of_every_task_have_a_page(small_store, tmp_path, task, dims):
    store = small_store(task, dims)
    page, picture = api.show(store.path, tmp_path / "page.html", cases=5)
    found = Page(page)
    assert_sound(found)
    assert picture.is_file()
    assert f"small-{task}" in found.text
    answers = {
        "multilabel": ("bright", "no finding", "not known"),
        "regression": ("bright 1", "bright 0"),
        "segmentation": ("rim, core",),
    }
    for answer in answers.get(task, ("dark", "bright")):
        assert answer in found.text


def test_frames_of_a_loop_are_spread_over_it(tmp_path):
    meta = made_meta(dims=3, axes="tyx", task="regression", classes=("EF",))
    cases = [
        Case(
            key=f"loop{n}",
            group=f"loop{n}",
            image=np.full((1, 2 + 5 * n, 8, 8), n, np.uint8),
            label=(50.0 + n,),
            mask=None,
            spacing=(0.04, np.nan, np.nan),
        )
        for n in range(4)
    ]
    found = look(made(tmp_path / "store", meta, cases))
    names = {case.facts.split(" ")[0]: [p.name for p in case.planes] for case in found.cases}
    assert names["2"] == ["frame 1 of 2", "frame 2 of 2"]
    assert names["17"] == [f"frame {at} of 17" for at in (1, 6, 12, 17)]
    assert all(case.facts.endswith("0.04 s × ? mm × ? mm") for case in found.cases)


def test_what_is_no_store_is_said_in_a_sentence(tmp_path, small_store):
    with pytest.raises(StoreError, match="does not exist"):
        api.show(tmp_path / "none")
    with pytest.raises(StoreError, match="is not a store"):
        api.show(tmp_path)
    with pytest.raises(StudyError, match=r"must end in \.html"):
        api.show(small_store("classification", 2).path, tmp_path / "page.pdf")
