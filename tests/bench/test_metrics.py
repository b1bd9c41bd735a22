"""Every row of the table of metrics, against scikit-learn, MONAI and values worked by hand."""

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.metrics import DiceHelper, compute_hausdorff_distance, compute_iou
from numpy.typing import NDArray
from sklearn import metrics as sk

from bench import metrics
from bench.metrics import (
    METRICS,
    PRIMARY,
    Metric,
    classification_rows,
    confusion,
    hd95,
    headline,
    segmentation_rows,
)

ROW_KEYS = ["metric", "unit", "region", "convention", "stratum", "value"]


def by_name(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    return {row["metric"]: row["value"] for row in rows}


def value(
    rows: list[dict[str, Any]], metric: str, region: str, convention: str = ""
) -> float | None:
    wanted = {"metric": metric, "region": region, "convention": convention}
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    return row["value"]


# ---------------------------------------------------------------- every row


def test_every_row_is_filed_under_its_name() -> None:
    assert all(name == row.name for name, row in METRICS.items())
    for row in METRICS.values():
        assert row.tasks
        assert row.empty_rule
        assert row.summary
        assert row.source
        json.dumps({"range": row.range, "unit": row.unit}, allow_nan=False)  # for a footer
    for task, name in PRIMARY.items():
        assert task in METRICS[name].tasks


def scores(row: Metric, *, right: bool) -> list[float | None]:
    """Return all that `row` makes of predictions that are right, or wrong, everywhere."""
    found: list[float | None] = []
    label = np.array([0, 0, 1, 1, 1])
    prob = np.eye(2)[label if right else 1 - label] * 0.8 + 0.1
    if row.classification:
        found += [row.classification(prob, label, positive) for positive in (0, 1, None)]
    block, none = np.zeros((2, 5, 5), dtype=np.uint8)
    block[1:3, 1:4] = 1
    for ref in (block, none):
        cases = confusion(ref if right else 1 - ref, ref, {"r": (1,)}, (1.0, 1.0), distances=True)
        found += [r["value"] for r in segmentation_rows(cases, ["r"]) if r["metric"] == row.name]
    return found


@pytest.mark.parametrize("row", METRICS.values(), ids=METRICS)
def test_right_is_the_best_end_of_the_range_and_wrong_is_worse(row: Metric) -> None:
    low, high = row.range
    best = high if row.higher_is_better else low
    right, wrong = scores(row, right=True), scores(row, right=False)
    assert any(value is not None for value in right)
    for good, bad in zip(right, wrong, strict=True):
        assert good is None or good == pytest.approx(best)
        if bad is not None:
            assert low <= bad <= (np.inf if high is None else high)
            assert abs(bad - best) > 0.3


def test_a_new_row_is_met_without_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    newcomer = Metric(
        name="newcomer",
        higher_is_better=True,
        range=(0.0, None),
        classification=lambda prob, label, positive: float(len(label)),
        per_case=lambda case: {"": float(case["n_ref"])},
        pooled=lambda tp, fp, fn, tn: float(tp),
        empty_rule="none",
        summary="counts",
        source="this test",
    )
    monkeypatch.setitem(metrics.METRICS, "newcomer", newcomer)
    prob = np.array([[0.2, 0.8], [0.6, 0.4]])
    found = classification_rows(
        prob, np.array([1, 0]), classes=["a", "b"], positive=1, unit="image"
    )
    assert by_name(found)["newcomer"] == 2
    mask = np.ones((2, 2), dtype=np.uint8)
    cases = confusion(mask, mask, {"r": (1,)}, (1.0, 1.0), distances=False)
    found = [r for r in segmentation_rows(cases, ["r"]) if r["metric"] == "newcomer"]
    assert {(r["unit"], r["region"], r["value"]) for r in found} == {
        ("case", "r", 4.0),
        ("case", "mean", 4.0),
        ("voxel", "r", 4.0),
        ("voxel", "mean", 4.0),
    }


# ---------------------------------------------------------------- classification


@st.composite
def predictions(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    n_classes, n = draw(st.integers(2, 4)), draw(st.integers(8, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    # Coarse scores, so that there are ties.
    score = rng.integers(1, draw(st.sampled_from([4, 1000])), (n, n_classes)).astype(float)
    label = rng.integers(0, n_classes, n)
    assume(len(np.unique(label)) == n_classes)
    return score / score.sum(axis=1, keepdims=True), label


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_against_scikit_learn_one_vs_rest(
    drawn: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> None:
    prob, label = drawn
    n_classes, called = prob.shape[1], prob.argmax(axis=1)
    rows = classification_rows(
        prob, label, classes=[f"c{i}" for i in range(n_classes)], positive=None, unit="image"
    )
    one_hot = np.eye(n_classes)[label]
    tables = sk.multilabel_confusion_matrix(label, called, labels=range(n_classes))
    expected = {
        "auc": sk.roc_auc_score(one_hot, prob, average="macro"),
        "accuracy": sk.accuracy_score(label, called),
        "balanced_accuracy": sk.balanced_accuracy_score(label, called),
        "sensitivity": sk.recall_score(label, called, average="macro", zero_division=np.nan),
        "specificity": np.mean([t[0, 0] / t[0].sum() for t in tables]),
        "average_precision": sk.average_precision_score(one_hot, prob, average="macro"),
    }
    assert by_name(rows) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(predictions(), st.data())
def test_against_scikit_learn_one_class(
    drawn: tuple[NDArray[np.float64], NDArray[np.int64]], data: st.DataObject
) -> None:
    prob, label = drawn
    positive = data.draw(st.integers(0, prob.shape[1] - 1))
    rows = classification_rows(
        prob, label, classes=["c"] * prob.shape[1], positive=positive, unit="lesion"
    )
    truth, called = label == positive, prob.argmax(axis=1) == positive
    found = by_name(rows)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(truth, prob[:, positive]))
    assert found["average_precision"] == pytest.approx(
        sk.average_precision_score(truth, prob[:, positive])
    )
    assert found["sensitivity"] == pytest.approx(sk.recall_score(truth, called))
    assert found["specificity"] == pytest.approx(sk.recall_score(~truth, ~called))
    assert {row["unit"] for row in rows} == {"lesion"}


def test_the_disease_counts_as_positive_even_as_class_0() -> None:
    # 4 malignant (class 0), 3 found; 2 benign, 1 called malignant: the papers' formulas.
    label = np.array([0, 0, 0, 0, 1, 1])
    malignant = np.array([0.9, 0.8, 0.7, 0.4, 0.6, 0.1])
    rows = classification_rows(
        np.stack([malignant, 1 - malignant], axis=1),
        label,
        classes=["malignant", "benign"],
        positive=0,
        unit="image",
    )
    assert by_name(rows) == pytest.approx(
        {
            "sensitivity": 3 / 4,
            "specificity": 1 / 2,
            "accuracy": 4 / 6,
            "balanced_accuracy": (3 / 4 + 1 / 2) / 2,
            "auc": 7 / 8,  # pairs of one malignant, one benign in the right order
            "average_precision": (1 + 1 + 1 + 4 / 5) / 4,
        }
    )
    assert [list(row) for row in rows] == [ROW_KEYS] * len(rows)
    assert {(row["region"], row["convention"], row["stratum"]) for row in rows} == {("", "", "")}


def test_what_a_missing_class_leaves_undefined() -> None:
    prob, label = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = classification_rows(prob, label, classes=["a", "b"], positive=1, unit="image")
    assert by_name(rows) == {
        "auc": None,
        "accuracy": 0.5,
        "balanced_accuracy": None,
        "sensitivity": None,
        "specificity": 0.5,
        "average_precision": None,
    }
    nobody = classification_rows(
        np.zeros((0, 2)), np.zeros(0, int), classes=["a", "b"], positive=1, unit="image"
    )
    assert set(by_name(nobody).values()) == {None}


@pytest.mark.parametrize(
    ("prob", "label", "message"),
    [
        (np.zeros((3, 2)), [0, 1], r"2 classes need prob \(n, 2\) and label \(n,\)"),
        (np.zeros((2, 3)), [0, 1], r"2 classes need prob"),
        (np.array([[0.5, np.nan]]), [0], "not finite"),
        (np.zeros((2, 2)), [0, 2], r"labels must be in 0\.\.1, not 0\.\.2"),
        (np.zeros((2, 2)), [-1, 1], r"labels must be in 0\.\.1, not -1\.\.1"),
    ],
)
def test_predictions_that_do_not_fit(prob: Any, label: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_rows(prob, np.array(label), classes=["a", "b"], positive=1, unit="image")


# ---------------------------------------------------------------- one segmented case

NESTED = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return prediction and reference: random, blocks, empty and full ones, in 2-D and 3-D."""
    shape = draw(st.sampled_from([(9, 11), (6, 7, 8), (12, 5, 9)]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))

    def one() -> NDArray[np.uint8]:
        kind = draw(st.sampled_from(["noise", "block", "empty", "full"]))
        out = np.zeros(shape, dtype=np.uint8)
        if kind == "noise":
            out[...] = rng.integers(0, 4, shape) * (rng.random(shape) < 0.3)
        if kind == "block":
            low = [rng.integers(0, s - 2) for s in shape]
            box = tuple(
                slice(a, rng.integers(a + 1, s + 1)) for a, s in zip(low, shape, strict=True)
            )
            out[box] = rng.integers(1, 4)
        if kind == "full":
            out[...] = rng.integers(1, 4, shape)
        return out

    return one(), one()


# MONAI calls a function of its own that it has deprecated.
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@settings(max_examples=80, deadline=None)
@given(label_maps(), st.lists(st.floats(0.3, 5.0), min_size=3, max_size=3))
def test_against_monai(
    maps: tuple[NDArray[np.uint8], NDArray[np.uint8]], sides: list[float]
) -> None:
    pred, ref = maps
    spacing = sides[: pred.ndim]
    rows = confusion(pred, ref, NESTED, spacing, distances=True)
    assert [row["region"] for row in rows] == list(NESTED)
    for row, labels in zip(rows, NESTED.values(), strict=True):
        p, r = np.isin(pred, labels), np.isin(ref, labels)
        both = torch.from_numpy(np.stack([p, r])[:, None, None])  # (2, batch, class, *spatial)
        counts = sk.confusion_matrix(r.ravel(), p.ravel(), labels=[False, True])
        assert [[row["tn"], row["fp"]], [row["fn"], row["tp"]]] == counts.tolist()
        assert (row["n_pred"], row["n_ref"]) == (p.sum(), r.sum())

        dice, _ = DiceHelper(
            include_background=True, ignore_empty=False, reduction="none", get_not_nans=True
        )(both[0].float(), both[1].float())
        if r.any() or p.any():
            assert row["dice"] == pytest.approx(dice.item(), abs=1e-6)
        else:
            assert row["dice"] is None  # MONAI: 1
        if r.any() and p.any():
            distance = compute_hausdorff_distance(
                *both, include_background=True, percentile=95, spacing=spacing
            )
            assert row["hd95_mm"] == pytest.approx(distance.item(), rel=1e-5, abs=1e-5)
        else:
            assert row["hd95_mm"] is None

        found = segmentation_rows([row], [row["region"]])
        iou = compute_iou(both[0], both[1], include_background=True, ignore_empty=False).item()
        if r.any() or p.any():
            assert value(found, "iou", "mean", "skip_empty") == pytest.approx(iou, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(label_maps(), st.data())
def test_background_around_an_image_changes_only_the_true_negatives(
    maps: tuple[NDArray[np.uint8], NDArray[np.uint8]], data: st.DataObject
) -> None:
    margins = data.draw(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=3)
    )[: maps[0].ndim]
    spacing = (2.0, 1.0, 0.5)[: maps[0].ndim]
    bare = confusion(*maps, NESTED, spacing, distances=True)
    padded = confusion(*(np.pad(m, margins) for m in maps), NESTED, spacing, distances=True)
    added = (
        np.prod([s + sum(m) for s, m in zip(maps[0].shape, margins, strict=True)]) - maps[0].size
    )
    assert padded == [{**row, "tn": row["tn"] + added} for row in bare]


def test_hd95_by_hand() -> None:
    # Two single voxels, 3 apart along an axis of 2 mm: both ways 6 mm.
    one, other = np.zeros((2, 4, 8), dtype=bool)
    one[1, 2], other[1, 5] = True, True
    assert hd95(one, other, (1.0, 2.0)) == 6.0
    assert hd95(one, one, (1.0, 2.0)) == 0.0
    # From each of 0, 1 .. 20 mm on a line to the voxel at its end: the 95th percentile is 19,
    # and the way back is 0.
    line, end = np.zeros((2, 21), dtype=bool)
    line[:], end[0] = True, True
    assert hd95(line[None], end[None], (1.0, 1.0)) == pytest.approx(19.0)
    assert hd95(end[None], line[None], (1.0, 1.0)) == pytest.approx(19.0)
    assert hd95(line, np.zeros(21, dtype=bool), (1.0,)) is None


def test_no_distance_without_spacing_or_where_none_is_asked_for() -> None:
    mask = np.ones((3, 3), dtype=np.uint8)
    for spacing, distances in (((1.0, np.nan), True), ((1.0, 1.0), False)):
        (row,) = confusion(mask, mask, {"r": (1,)}, spacing, distances=distances)
        assert row["hd95_mm"] is None
        assert row["dice"] == 1


@pytest.mark.parametrize(
    ("pred", "ref", "regions", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.uint8), {}, "do not belong together"),
        (np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8), {}, "spacing of 2 axes"),
        (np.zeros((2, 2)), np.zeros((2, 2), np.uint8), {}, "uint8, not float64 and uint8"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), {"r": (0, 1)}, r"\['r'\]"),
    ],
)
def test_maps_that_do_not_fit(pred: Any, ref: Any, regions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(pred, ref, regions, (1.0, 1.0), distances=True)


# ---------------------------------------------------------------- all cases of a fold


def case(region: str, tp: int, fp: int, fn: int, tn: int) -> Mapping[str, Any]:
    dice = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None
    hd = float(fp) if tp + fn and tp + fp else None
    counts = {"tp": tp, "fp": fp, "fn": fn, "tn": tn, "n_ref": tp + fn, "n_pred": tp + fp}
    return {"region": region, **counts, "dice": dice, "hd95_mm": hd}


# Region a: Dice 0.8 and 0.5; one empty case left empty, one with 5 false positives.
# Region b: one case, empty in both; region c: one case, missed.
CASES = [
    case("a", tp=4, fp=1, fn=1, tn=94),
    case("a", tp=1, fp=2, fn=0, tn=97),
    case("a", tp=0, fp=0, fn=0, tn=100),
    case("a", tp=0, fp=5, fn=0, tn=95),
    case("b", tp=0, fp=0, fn=0, tn=100),
    case("c", tp=0, fp=0, fn=10, tn=90),
]
BY_HAND = {
    # all four cases of a but the empty one: (.8 + .5 + 0) / 3; b has none; c is 0
    ("dice", "skip_empty"): {"a": 1.3 / 3, "b": None, "c": 0.0, "mean": 1.3 / 6},
    ("dice", "empty_is_one"): {"a": 2.3 / 4, "b": 1.0, "c": 0.0, "mean": (2.3 / 4 + 1) / 3},
    # 4/6, 1/3, -, 0
    ("iou", "skip_empty"): {"a": 1 / 3, "b": None, "c": 0.0, "mean": 1 / 6},
    ("iou", "empty_is_one"): {"a": 2 / 4, "b": 1.0, "c": 0.0, "mean": 0.5},
    ("sensitivity", ""): {"a": 5 / 6, "b": None, "c": 0.0, "mean": 5 / 12},
    ("specificity", ""): {"a": 386 / 394, "b": 1.0, "c": 1.0, "mean": (386 / 394 + 2) / 3},
    ("accuracy", ""): {"a": 391 / 400, "b": 1.0, "c": 0.9, "mean": (391 / 400 + 1.9) / 3},
    ("hd95", ""): {"a": 1.5, "b": None, "c": None, "mean": 1.5},
    # two cases of a without the object, one of them with false positives
    ("false_alarm", ""): {"a": 0.5, "b": 0.0, "c": None, "mean": 0.25},
}


def test_a_fold_by_hand() -> None:
    rows = segmentation_rows(CASES, ["a", "b", "c"])
    assert [list(row) for row in rows] == [ROW_KEYS] * len(rows)
    found: dict[tuple[str, str], dict[str, float | None]] = {}
    for row in rows:
        found.setdefault((row["metric"], row["convention"]), {})[row["region"]] = row["value"]
    assert found.keys() == BY_HAND.keys()
    for key, regions in BY_HAND.items():
        assert found[key] == pytest.approx(regions), key


def test_units_say_what_is_counted() -> None:
    units = {row["metric"]: row["unit"] for row in segmentation_rows(CASES, ["a"])}
    assert {name for name, unit in units.items() if unit == "voxel"} == {
        "accuracy",
        "sensitivity",
        "specificity",
    }
    assert set(units.values()) == {"voxel", "case"}
    assert METRICS["hd95"].unit == "mm"


def test_headline_is_over_all_regions_by_the_first_convention() -> None:
    rows = segmentation_rows(CASES, ["a", "b", "c"])
    assert headline(rows, "dice") == pytest.approx(1.3 / 6)
    assert headline(segmentation_rows(CASES, ["b"]), "dice") is None
    prob, label = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 1])
    rows = classification_rows(prob, label, classes=["a", "b"], positive=1, unit="image")
    assert headline(rows, "auc") == 1
    with pytest.raises(ValueError, match="no metric 'dice' here; there are auc, accuracy, "):
        headline(rows, "dice")
