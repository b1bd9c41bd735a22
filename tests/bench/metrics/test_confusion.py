"""Counts, overlaps and surface distances of one case, against MONAI and values by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import (
    DiceHelper,
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from numpy.typing import NDArray
from scipy.special import logit
from sklearn import metrics as sk

from bench.metrics.aggregate import headline, segmentation_rows
from bench.metrics.confusion import confusion
from bench.metrics.surfaces import TOLERANCE_MM, Surfaces, _by_transform, _by_tree, surfaces

NESTED = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
# 2-D and 3-D, cubes and elongated voxels, with surfaces nearer and farther than the tolerance.
GRIDS = [
    ((9, 11), (1.0, 1.0)),
    ((12, 7), (0.7, 3.1)),
    ((6, 13), (5.0, 0.9)),
    ((6, 7, 8), (1.0, 1.0, 1.0)),
    ((4, 9, 8), (5.0, 0.8, 0.8)),
    ((8, 5, 9), (0.4, 2.5, 1.3)),
]

DISTANCE_CONVENTIONS = ("skip_empty", "empty_is_zero", "skip_missed")

Maps = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def label_map(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a random, a block-shaped, an empty or a full map of labels 0..3."""
    out = np.zeros(shape, dtype=np.uint8)
    kind = rng.choice(["noise", "block", "block", "empty", "full"])
    if kind == "noise":
        out[...] = rng.integers(0, 4, shape) * (rng.random(shape) < 0.3)
    if kind == "block":
        for value in rng.permutation([1, 2, 3])[: rng.integers(1, 4)]:
            low = [rng.integers(0, s - 2) for s in shape]
            box = (slice(a, rng.integers(a + 1, s + 1)) for a, s in zip(low, shape, strict=True))
            out[tuple(box)] = value
    if kind == "full":
        out[...] = rng.integers(1, 4, shape)
    return out


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.filterwarnings("ignore:the (prediction|ground truth) of class:UserWarning")
@pytest.mark.parametrize("pairs", [20, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_random_masks_against_monai(
    shape: tuple[int, ...], spacing: tuple[float, ...], pairs: int
) -> None:
    """Pairs of label maps on each of 6 grids, of 3 regions each, all in one batch."""
    rng = np.random.default_rng(0)
    maps = [(label_map(rng, shape), label_map(rng, shape)) for _ in range(pairs)]
    cases = [confusion(*both, NESTED, spacing, distances=True) for both in maps]
    masks = np.array(
        [[[np.isin(m, labels) for labels in NESTED.values()] for m in both] for both in maps]
    )
    pred, ref = torch.from_numpy(masks).float().unbind(1)  # each (pairs, 3, *shape)
    about: dict[str, Any] = {"include_background": True, "spacing": spacing}
    monai = {
        # Without `threshold` it takes the classes for exclusive and the argmax of the masks.
        "dice": DiceHelper(
            include_background=True,
            threshold=True,
            ignore_empty=False,
            reduction="none",
            get_not_nans=False,
        )(pred, ref),
        "iou": compute_iou(pred, ref, include_background=True, ignore_empty=False),
        "hd95": compute_hausdorff_distance(pred, ref, percentile=95, **about),
        "assd": compute_average_surface_distance(pred, ref, symmetric=True, **about),
        "nsd": compute_surface_dice(pred, ref, [TOLERANCE_MM] * 3, **about),
    }
    diagonal = math.hypot(*(n * mm for n, mm in zip(shape, spacing, strict=True)))
    seen = {"both empty": 0, "one empty": 0, "neither": 0}
    for n, rows in enumerate(cases):
        for k, (region, row) in enumerate(zip(NESTED, rows, strict=True)):
            p, r = masks[n, 0, k], masks[n, 1, k]
            tables = sk.confusion_matrix(r.ravel(), p.ravel(), labels=[False, True]).tolist()
            assert [[row["tn"], row["fp"]], [row["fn"], row["tp"]]] == tables
            assert (row["n_pred"], row["n_ref"], row["label"]) == (p.sum(), r.sum(), r.any())
            found = {
                (m["metric"], m["convention"]): m["value"]
                for m in segmentation_rows([row], [region])
                if m["region"] == region and m["unit"] == "case" and not m["stratum"]
            }
            of = {name: float(values[n, k]) for name, values in monai.items()}
            if p.any() and r.any():
                seen["neither"] += 1
                for name in ("dice", "iou", "nsd"):
                    for convention in ("skip_empty", "empty_is_one"):
                        value = found[name, convention]
                        assert value == pytest.approx(of[name], abs=1e-6), name
                for name in ("hd95", "assd"):
                    for convention in DISTANCE_CONVENTIONS:
                        value = found[name, convention]
                        assert value == pytest.approx(of[name], rel=1e-5, abs=1e-5), name
            elif p.any() or r.any():
                seen["one empty"] += 1
                # MONAI's distances are infinite or nan, by which of the two it is.
                assert not np.isfinite(of["hd95"])
                assert not np.isfinite(of["assd"])
                for name in ("hd95", "assd"):
                    assert found[name, "skip_missed"] is None
                    for convention in ("skip_empty", "empty_is_zero"):
                        assert found[name, convention] == pytest.approx(diagonal)
                for name in ("dice", "iou", "nsd"):
                    for convention in ("skip_empty", "empty_is_one"):
                        assert found[name, convention] == of[name] == 0
            else:
                seen["both empty"] += 1
                assert np.isnan([of["hd95"], of["assd"], of["nsd"]]).all()
                assert (of["dice"], of["iou"]) == (1, 1)  # with ignore_empty=False
                for name in ("hd95", "assd"):
                    assert found[name, "skip_empty"] is found[name, "skip_missed"] is None
                    assert found[name, "empty_is_zero"] == 0
                for name in ("dice", "iou", "nsd"):
                    assert found[name, "skip_empty"] is None
                    assert found[name, "empty_is_one"] == 1
    assert min(seen.values()) >= pairs // 20


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=3),
)
def test_background_around_an_image_changes_only_the_true_negatives(
    seed: int, margins: list[tuple[int, int]]
) -> None:
    rng = np.random.default_rng(seed)
    shape, spacing = GRIDS[seed % len(GRIDS)]
    maps, margins = (label_map(rng, shape), label_map(rng, shape)), margins[: len(shape)]
    logits = np.log(np.moveaxis(rng.dirichlet(np.ones(4), shape), -1, 0))
    bare = confusion(*maps, NESTED, spacing, distances=True, logits=logits)
    padded = confusion(
        *(np.pad(m, margins) for m in maps),
        NESTED,
        spacing,
        distances=True,
        logits=np.stack(
            [np.pad(of, margins, constant_values=-1e3 * (k > 0)) for k, of in enumerate(logits)]
        ),
    )
    sides = [s + sum(m) for s, m in zip(shape, margins, strict=True)]
    added = np.prod(sides) - maps[0].size
    # A larger image has more background, and a longer diagonal for what is missed in it.
    diagonal = math.hypot(*(n * mm for n, mm in zip(sides, spacing, strict=True)))
    for row in bare:
        row["tn"] += added
        if bool(row["n_ref"]) != bool(row["n_pred"]):
            row["hd95_mm"] = row["assd_mm"] = pytest.approx(diagonal)
    assert padded == bare


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_turning_and_swapping_a_case_turns_and_swaps_what_is_measured(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, spacing = GRIDS[seed % len(GRIDS)]
    pred, ref = label_map(rng, shape), label_map(rng, shape)
    plain = confusion(pred, ref, NESTED, spacing, distances=True)
    turned = confusion(pred.T[::-1], ref.T[::-1], NESTED, spacing[::-1], distances=True)
    swapped = confusion(ref, pred, NESTED, spacing, distances=True)
    for a, b, c in zip(plain, turned, swapped, strict=True):
        for name, value in a.items():
            expected = value if isinstance(value, str) else pytest.approx(value)
            assert b[name] == expected, name
        for name in ("hd95_mm", "assd_mm", "nsd_2mm", "dice"):
            assert c[name] == pytest.approx(a[name]), name
        assert (c["fp"], c["fn"]) == (a["fn"], a["fp"])


# ---------------------------------------------------------------- by hand


def test_distances_by_hand() -> None:
    # Two single voxels, 3 apart along an axis of 2 mm: both ways 6 mm.
    one, other = np.zeros((2, 4, 8), dtype=bool)
    one[1, 2], other[1, 5] = True, True
    apart = surfaces(one, other, (1.0, 2.0))
    assert apart is not None
    assert (apart.hd95(), apart.assd(), apart.surface_dice(5.9)) == (6, 6, 0)
    assert apart.surface_dice(6.0) == 1  # the tolerance itself is within it
    same = surfaces(one, one, (1.0, 2.0))
    assert same is not None
    assert (same.hd95(), same.assd(), same.surface_dice(0.0)) == (0, 0, 1)
    assert surfaces(one, one & False, (1.0, 2.0)) is None
    # From each of 0, 1 .. 20 mm on a line to the voxel at its end, and back from the end alone.
    line, end = np.zeros((2, 1, 21), dtype=bool)
    line[:], end[0, 0] = True, True
    for found in (surfaces(line, end, (1.0, 1.0)), surfaces(end, line, (1.0, 1.0))):
        assert found is not None
        assert found.hd95() == pytest.approx(19)  # the 95th percentile; the way back is 0
        assert found.assd() == pytest.approx(210 / 22)  # 0 + 1 .. + 20, and 0 back
        assert found.surface_dice(2.0) == pytest.approx(4 / 22)  # 0, 1, 2 and the way back


def test_a_miss_is_as_far_as_the_image_is_wide() -> None:
    """BraTS scores a missed region by 373.13 mm: the diagonal of 240 x 240 x 155 voxels of 1 mm."""
    none = np.zeros((240, 240, 155), dtype=np.uint8)
    some = none.copy()
    some[100:110, 100:110, 70:75] = 1
    for pred, ref in ((none, some), (some, none)):
        (row,) = confusion(pred, ref, {"r": (1,)}, (1.0, 1.0, 1.0), distances=True)
        assert row["hd95_mm"] == row["assd_mm"] == pytest.approx(373.13, abs=0.005)
        assert row["nsd_2mm"] == 0
    # Thick slices: 2 of 5 mm, 3 of 1 mm and 4 of 2 mm. Of two voxels none are as far apart.
    ref = np.ones((2, 3, 4), dtype=np.uint8)
    (row,) = confusion(0 * ref, ref, {"r": (1,)}, (5.0, 1.0, 2.0), distances=True)
    assert row["hd95_mm"] == row["assd_mm"] == pytest.approx(math.sqrt(100 + 9 + 64))


def by_convention(rows: list[dict[str, Any]], name: str) -> dict[str, float | None]:
    wanted = {"metric": name, "region": "r", "stratum": ""}
    return {r["convention"]: r["value"] for r in rows if wanted.items() <= r.items()}


@pytest.mark.parametrize("name", ["hd95", "assd"])
def test_distances_do_not_reward_finding_nothing(name: str) -> None:
    """Every found mask lies 4 voxels off; of 100 cases 0, 50 and 99 are missed."""
    ref, pred, none = np.zeros((3, 30, 40), dtype=np.uint8)
    ref[10, 10], pred[10, 14] = 1, 1
    found, missed = (
        confusion(p, ref, {"r": (1,)}, (1.0, 1.0), distances=True)[0] for p in (pred, none)
    )
    for misses in (0, 50, 99):
        rows = segmentation_rows([missed] * misses + [found] * (100 - misses), ["r"])
        # 30 x 40 pixels of 1 mm: 50 mm from corner to corner.
        expected = (misses * 50 + (100 - misses) * 4) / 100
        assert headline(rows, name) == pytest.approx(expected)
        of = by_convention(rows, name)
        assert of == pytest.approx(
            {"skip_empty": expected, "empty_is_zero": expected, "skip_missed": 4.0}
        )
    # To find nothing where there is nothing is no distance, or none at all.
    silent = confusion(none, none, {"r": (1,)}, (1.0, 1.0), distances=True)
    rows = segmentation_rows([*silent, missed, found], ["r"])
    of = by_convention(rows, name)
    assert of == pytest.approx({"skip_empty": 27.0, "empty_is_zero": 18.0, "skip_missed": 4.0})


@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
def test_the_tree_and_the_transform_measure_the_same(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.2, 0.9):
        here, there = rng.random((2, *shape)) < share
        there.flat[0] = True
        np.testing.assert_allclose(
            _by_tree(here, there, spacing), _by_transform(here, there, spacing), rtol=1e-12
        )


def test_few_surface_voxels_in_a_large_box_go_by_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    took = []
    for name, method in (("tree", _by_tree), ("transform", _by_transform)):
        monkeypatch.setattr(
            f"bench.metrics.surfaces._by_{name}",
            lambda *a, name=name, method=method: took.append(name) or method(*a),
        )
    sparse, dense = np.zeros((2, 20, 20, 20), dtype=bool)
    sparse[0, 0, 0] = sparse[-1, -1, -1] = True
    dense[::2] = True
    for mask, expected in ((sparse, "tree"), (dense, "transform")):
        took.clear()
        assert isinstance(surfaces(mask, mask, (1.0, 1.0, 1.0)), Surfaces)
        assert took == [expected, expected]


def test_no_distance_without_spacing_or_where_none_is_asked_for() -> None:
    mask = np.ones((3, 3), dtype=np.uint8)
    for spacing, distances in (((1.0, np.nan), True), ((1.0, 1.0), False)):
        (row,) = confusion(mask, mask, {"r": (1,)}, spacing, distances=distances)
        assert row["hd95_mm"] is row["assd_mm"] is row["nsd_2mm"] is None
        assert row["dice"] == 1


def test_the_size_of_the_reference() -> None:
    # 20 pixels of 2 mm x 3 mm: 120 mm2; 20 voxels 4 mm thick: 480 mm3. Nothing: no size.
    mask, none = np.zeros((2, 5, 6), dtype=np.uint8)
    mask[1:, :5] = 1
    (row,) = confusion(none, mask, {"r": (1,)}, (2.0, 3.0), distances=False)
    assert row["ref_mm"] == pytest.approx(2 * np.sqrt(120 / np.pi))
    (row,) = confusion(none[None], mask[None], {"r": (1,)}, (4.0, 2.0, 3.0), distances=False)
    assert row["ref_mm"] == pytest.approx((6 * 480 / np.pi) ** (1 / 3))
    (row,) = confusion(mask, none, {"r": (1,)}, (2.0, 3.0), distances=False)
    assert row["ref_mm"] is None
    (row,) = confusion(mask, mask, {"r": (1,)}, (2.0, np.nan), distances=True)
    assert row["ref_mm"] is None


# ---------------------------------------------------------------- probabilities


def test_the_score_of_an_image_is_that_of_its_most_certain_voxel() -> None:
    prob = np.zeros((3, 2, 2), dtype=np.float32)
    prob[1], prob[2] = [[0.5, 0.1], [0.0, 0.2]], [[0.1, 0.3], [0.0, 0.4]]
    prob[0] = 1 - prob[1] - prob[2]
    none = np.zeros((2, 2), dtype=np.uint8)
    regions = {"both": (1, 2), "first": (1,), "second": (2,)}
    with np.errstate(divide="ignore"):
        logits = np.log(prob)
    rows = confusion(none, none, regions, (1.0, 1.0), distances=True, logits=logits)
    # Labels of a region add up at a voxel: 0.5 + 0.1 and 0.2 + 0.4.
    assert [r["prob"] for r in rows] == pytest.approx([0.6, 0.5, 0.4])
    assert [r["label"] for r in rows] == [0, 0, 0]
    # A network that says what the image holds is believed.
    rows = confusion(
        none,
        none,
        regions,
        (1.0, 1.0),
        distances=True,
        logits=logits,
        presence=logit([0.99, 0.05, 0.15]),
    )
    assert [r["prob"] for r in rows] == pytest.approx([0.15, 0.05, 0.15])
    rows = confusion(none, none, regions, (1.0, 1.0), distances=True)
    assert {r["prob"] for r in rows} == {None}


@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_logits_of_a_network_that_diverged(nothing: float) -> None:
    """They are no reason to stop: the loss says what happened."""
    logits = np.full((2, 2, 2), nothing, dtype=np.float32)
    ones = np.ones((2, 2), dtype=np.uint8)
    (row,) = confusion(ones, ones, {"r": (1,)}, (1.0, 1.0), distances=True, logits=logits)
    assert (row["prob"], row["lesion_prob"], row["false_prob"]) == (0, [0], [])
    logits[:, 0, 0] = 7.0
    (row,) = confusion(ones, ones * 0, {"r": (1,)}, (1.0, 1.0), distances=True, logits=logits)
    assert (row["prob"], row["lesion_prob"], row["false_prob"]) == (0.5, [], [0.5])


EMPTY = np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("pred", "ref", "more", "message"),
    [
        (np.zeros((2, 3), np.uint8), EMPTY, {}, "do not fit together"),
        (EMPTY[None], EMPTY[None], {}, "spacing of 2 axes"),
        (np.zeros((2, 2)), EMPTY, {}, "uint8, not float64 and uint8"),
        (EMPTY, EMPTY, {"regions": {"r": (0, 1)}}, r"\['r'\]"),
        (EMPTY, EMPTY, {"logits": np.zeros((2, 2, 3))}, r"logits \(2, 2, 3\) do not fit"),
    ],
)
def test_maps_that_do_not_fit(pred: Any, ref: Any, more: dict[str, Any], message: str) -> None:
    regions = more.pop("regions", {"r": (1,)})
    with pytest.raises(ValueError, match=message):
        confusion(pred, ref, regions, (1.0, 1.0), distances=True, **more)
