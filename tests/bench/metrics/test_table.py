"""Every row of the table of metrics, and what a fold's cases make of it, worked by hand."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from bench.metrics import table
from bench.metrics.aggregate import classification_rows, headline, number_rows, segmentation_rows
from bench.metrics.confusion import confusion
from bench.metrics.table import METRICS, Metric
from bench.study.tasks import TASKS

ROW_KEYS = [
    *("metric", "unit", "region", "convention", "stratum", "degradation"),
    *("value", "headline"),
]
# What counts what, as the user reads it in the column `unit`.
LEVELS = {"case", "voxel", "lesion", "image", "patient"}

Rows = list[dict[str, Any]]


def pick(rows: Rows, **wanted: str) -> dict[str, float | None]:
    """Return region -> value of the rows that have these columns; one row a region."""
    found = [row for row in rows if wanted.items() <= row.items()]
    assert len({row["region"] for row in found}) == len(found), found
    return {row["region"]: row["value"] for row in found}


# ---------------------------------------------------------------- every row


def test_every_row_is_filed_under_its_name() -> None:
    assert all(name == row.name for name, row in METRICS.items())
    assert len(METRICS) >= 20
    for row in METRICS.values():
        assert row.tasks
        assert row.levels
        assert set(row.levels) <= LEVELS
        assert row.empty_rule
        assert row.summary
        assert row.source
        json.dumps({"range": row.range, "unit": row.unit}, allow_nan=False)  # for a footer
    for task, name in ((row.name, row.primary) for row in TASKS.values()):
        assert task in METRICS[name].tasks
    assert set().union(*(row.levels for row in METRICS.values())) == LEVELS


def one_case(pred: np.ndarray, ref: np.ndarray) -> Rows:
    """Return the row of one case of region r, with a network that is certain of `pred`."""
    logits = 30 * np.stack([pred == 0, pred == 1]).astype(np.float32)
    return confusion(pred, ref, {"r": (1,)}, (4.0, 4.0), distances=True, logits=logits)


def scores(row: Metric, *, right: bool) -> list[float | None]:
    """Return all that `row` makes of predictions that are right, or wrong, everywhere."""
    found: list[float | None] = []
    label = np.array([0, 0, 1, 1, 1])
    prob = np.eye(2)[label if right else 1 - label]
    if row.classification:
        found += [row.classification(prob, label, positive) for positive in (0, 1, None)]
    if row.graded:
        found.append(row.graded(prob, label, None))
    if row.numbers:
        numbers = np.array([1.0, 2.0, 4.0])
        found.append(row.numbers(numbers if right else numbers[::-1] + 1, numbers))
    block, none = np.zeros((2, 5, 5), dtype=np.uint8)
    block[1:3, 1:4] = 1
    there, not_there = (
        [{**c, "group_id": "p"} for c in one_case(r if right else 1 - r, r)] for r in (block, none)
    )
    if not right:  # a network that finds the object where it is not is as sure that there is none
        there = [{**case, "log_odds": -30.0} for case in there]
    for cases in (there, not_there, [*there, *not_there]):
        rows = segmentation_rows(cases, ["r"], group="patient")
        found += [r["value"] for r in rows if r["metric"] == row.name]
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
            assert (-np.inf if low is None else low) <= bad <= (np.inf if high is None else high)
            assert abs(bad - best) > 0.3


@pytest.mark.parametrize("row", METRICS.values(), ids=METRICS)
def test_a_primary_metric_has_its_value_in_every_scoring_that_it_asks_for(row: Metric) -> None:
    """Without distances and probabilities too, unless the row says that it needs them."""
    if "segmentation" not in row.tasks:
        pytest.skip("not of masks")
    ref = np.zeros((2, 8, 8), dtype=np.uint8)
    ref[0, 2:5, 3:6] = 1
    pred = np.roll(ref, 1, axis=2)
    cases = [
        case
        for p, r in zip(pred, ref, strict=True)
        for case in (
            one_case(p, r)
            if row.costly
            else confusion(p, r, {"r": (1,)}, (1.0, 1.0), distances=False)
        )
    ]
    assert headline(segmentation_rows(cases, ["r"]), row.name) is not None


@pytest.mark.parametrize("row", METRICS.values(), ids=METRICS)
def test_levels_are_the_units_of_the_rows(row: Metric) -> None:
    block, none = np.zeros((2, 5, 5), dtype=np.uint8)
    block[1:3, 1:4] = 1
    cases = [{**c, "group_id": "p"} for r in (block, none) for c in one_case(r, r)]
    rows = segmentation_rows(cases, ["r"], group="patient")
    prob, label = np.eye(2)[[0, 1, 1]], np.array([0, 1, 1])
    about: dict[str, Any] = {"classes": ["a", "b"], "positive": 1, "unit": "case"}
    groups = ["p", "q", "q"]
    rows += classification_rows(prob, label, **about, groups=groups, graded=True)
    rows += number_rows(label.astype(float), label + 1.0, unit="case", groups=groups)
    assert {r["unit"] for r in rows if r["metric"] == row.name} == set(row.levels)


def test_a_new_row_is_met_without_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    newcomer = Metric(
        name="newcomer",
        higher_is_better=True,
        range=(0.0, None),
        classification=lambda prob, label, positive: float(len(label)),
        presence=True,
        per_case=lambda case: {"": float(case["n_ref"])},
        per_patient=True,
        pooled=lambda tp, fp, fn, tn: float(tp),
        lesions=lambda scores, false_scores, scans: float(len(scores)),
        empty_rule="none",
        summary="counts",
        source="this test",
    )
    monkeypatch.setitem(table.METRICS, "newcomer", newcomer)
    prob = np.array([[0.2, 0.8], [0.6, 0.4]])
    rows = classification_rows(prob, np.array([1, 0]), classes=["a", "b"], positive=1, unit="image")
    assert pick(rows, metric="newcomer") == {"": 2.0}
    mask = np.ones((2, 2), dtype=np.uint8)
    plain = confusion(mask, mask, {"r": (1,)}, (1.0, 1.0), distances=False)
    found = segmentation_rows(plain, ["r"])
    for unit in ("case", "voxel"):
        assert pick(found, metric="newcomer", unit=unit, stratum="") == {"r": 4.0, "mean": 4.0}
    assert {r["unit"] for r in found} == {"case", "voxel"}  # no probabilities: no image, no lesion
    scored = [{**case, "group_id": "p"} for case in one_case(mask, mask) * 2]
    found = segmentation_rows(scored, ["r"], group="patient")
    for unit, value in (("patient", 8.0), ("image", 2.0), ("lesion", 2.0)):
        assert pick(found, metric="newcomer", unit=unit, stratum="") == {"r": value, "mean": value}
    assert headline(found, "newcomer") == 4.0


# ---------------------------------------------------------------- all cases of a fold


FAR = 50.0  # the diagonal of the images


def case(region: str, tp: int, fp: int, fn: int, tn: int, **more: Any) -> Mapping[str, Any]:
    """Return a row of `confusion` with made-up distances; nothing else of it is measured."""
    both = tp + fn and tp + fp
    row = {
        "region": region,
        **dict(zip(("tp", "fp", "fn", "tn"), (tp, fp, fn, tn), strict=True)),
        "n_ref": tp + fn,
        "n_pred": tp + fp,
        "label": int(tp + fn > 0),
        "hd95_mm": float(fp) if both else float(FAR * (tp + fp + fn > 0)),
        "assd_mm": float(fp) / 2 if both else float(FAR * (tp + fp + fn > 0)),
        "nsd_2mm": 0.9 if both else float(tp + fp + fn == 0),
        **dict.fromkeys(("ref_mm", "prob", "lesion_mm", "lesion_prob", "false_prob")),
    } | more
    for name in ("prob", "lesion_prob", "false_prob"):
        given = row[name]
        row[name.replace("prob", "log_odds")] = (
            [p if p is None else logit(p) for p in given]
            if isinstance(given, list)
            else given and logit(given)
        )
    return row


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
    # 0.9 twice, 0 where an empty reference was missed; 1 where both are empty
    ("nsd", "skip_empty"): {"a": 1.8 / 3, "b": None, "c": 0.0, "mean": 0.3},
    ("nsd", "empty_is_one"): {"a": 2.8 / 4, "b": 1.0, "c": 0.0, "mean": 1.7 / 3},
    ("assd", "skip_missed"): {"a": 0.75, "b": None, "c": None, "mean": 0.75},
    # of a: 0.5, 1 and 50 mm; b has none, or 0; c is missed
    ("assd", "skip_empty"): {"a": 51.5 / 3, "b": None, "c": FAR, "mean": (51.5 / 3 + FAR) / 2},
    ("assd", "empty_is_zero"): {"a": 51.5 / 4, "b": 0.0, "c": FAR, "mean": (51.5 / 4 + FAR) / 3},
    # of a: 5 true, 8 false, 1 missed
    ("precision", ""): {"a": 5 / 13, "b": None, "c": 0.0, "mean": 5 / 26},
    ("f1", ""): {"a": 10 / 19, "b": None, "c": 0.0, "mean": 5 / 19},
    ("mcc", ""): {
        "a": (5 * 386 - 8 * 1) / np.sqrt(13 * 6 * 394 * 387),
        "b": None,
        "c": 0.0,
        "mean": (5 * 386 - 8 * 1) / np.sqrt(13 * 6 * 394 * 387) / 2,
    },
    ("sensitivity", ""): {"a": 5 / 6, "b": None, "c": 0.0, "mean": 5 / 12},
    ("specificity", ""): {"a": 386 / 394, "b": 1.0, "c": 1.0, "mean": (386 / 394 + 2) / 3},
    ("accuracy", ""): {"a": 391 / 400, "b": 1.0, "c": 0.9, "mean": (391 / 400 + 1.9) / 3},
    ("hd95", "skip_missed"): {"a": 1.5, "b": None, "c": None, "mean": 1.5},
    ("hd95", "skip_empty"): {"a": 53 / 3, "b": None, "c": FAR, "mean": (53 / 3 + FAR) / 2},
    ("hd95", "empty_is_zero"): {"a": 53 / 4, "b": 0.0, "c": FAR, "mean": (53 / 4 + FAR) / 3},
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
        "precision",
        "f1",
        "mcc",
    }
    assert set(units.values()) == {"voxel", "case"}
    assert METRICS["hd95"].unit == METRICS["assd"].unit == "mm"


def test_headline_is_over_all_regions_by_the_first_convention() -> None:
    rows = segmentation_rows(CASES, ["a", "b", "c"])
    assert headline(rows, "dice") == pytest.approx(1.3 / 6)
    assert headline(segmentation_rows(CASES, ["b"]), "dice") is None
    prob, label = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 1])
    rows = classification_rows(prob, label, classes=["a", "b"], positive=1, unit="image")
    assert headline(rows, "auc") == 1
    with pytest.raises(ValueError, match="no metric 'dice' here; there are auc, accuracy, "):
        headline(rows, "dice")


def test_a_patients_volumes_are_pooled() -> None:
    # p: two volumes of Dice 0.8 and 0.5, together 10 / 14; q: one of 2 / 4.
    cases = [
        case("a", tp=4, fp=1, fn=1, tn=94, group_id="p"),
        case("a", tp=1, fp=2, fn=0, tn=97, group_id="p"),
        case("a", tp=1, fp=1, fn=1, tn=97, group_id="q"),
    ]
    rows = segmentation_rows(cases, ["a"], group="patient")
    for metric, p, q in (("dice", 10 / 14, 2 / 4), ("iou", 5 / 9, 1 / 3)):
        for convention in ("skip_empty", "empty_is_one"):
            found = pick(rows, metric=metric, unit="patient", convention=convention)
            assert found["a"] == pytest.approx((p + q) / 2)
    assert {r["metric"] for r in rows if r["unit"] == "patient"} == {"dice", "iou"}
    assert headline(rows, "dice") == pytest.approx((0.8 + 0.5 + 0.5) / 3)  # of cases, as ever
    # One volume empty in both: with its patient's other one it is no case of its own.
    cases[1] = case("a", tp=0, fp=0, fn=0, tn=100, group_id="p")
    rows = segmentation_rows(cases, ["a"], group="patient")
    for convention in ("skip_empty", "empty_is_one"):
        found = pick(rows, metric="dice", unit="patient", convention=convention)
        assert found["a"] == pytest.approx((0.8 + 0.5) / 2)
    alone = segmentation_rows(cases[1:], ["a"], group="patient")
    assert not [r for r in alone if r["unit"] == "patient"]  # each patient has one volume


def test_whether_an_image_holds_the_region() -> None:
    # Four images, two with the region; the scores order three of the four pairs rightly.
    cases = [
        case("a", tp=4, fp=0, fn=0, tn=96, prob=0.9),
        case("a", tp=0, fp=0, fn=4, tn=96, prob=0.3),
        case("a", tp=0, fp=3, fn=0, tn=97, prob=0.6),
        case("a", tp=0, fp=0, fn=0, tn=100, prob=0.1),
    ]
    rows = segmentation_rows(cases, ["a"])
    expected = {
        "auc": 3 / 4,
        "sensitivity": 1 / 2,
        "specificity": 1 / 2,
        "average_precision": (1 + 2 / 3) / 2,
        "sensitivity_at_5_percent_fpr": 1 / 2,
        "sensitivity_at_10_percent_fpr": 1 / 2,
    }
    for metric, value in expected.items():
        assert pick(rows, metric=metric, unit="image") == pytest.approx({"a": value, "mean": value})
    assert {r["metric"] for r in rows if r["unit"] == "image"} == set(expected)
    assert headline(rows, "sensitivity") == 1 / 2  # by voxel: 4 of 8


# ---------------------------------------------------------------- lesions and sizes

# Two scans: of 3 lesions two found, one of them small; 1 + 2 false candidates.
SCANS = [
    case(
        "a",
        tp=5,
        fp=5,
        fn=5,
        tn=85,
        prob=0.9,
        ref_mm=14.0,
        lesion_mm=[4.0, 13.0],
        lesion_prob=[0.7, 0.9],
        false_prob=[0.8],
    ),
    case(
        "a",
        tp=0,
        fp=6,
        fn=2,
        tn=92,
        prob=0.6,
        ref_mm=6.0,
        lesion_mm=[6.0],
        lesion_prob=[None],
        false_prob=[0.6, 0.5],
    ),
]


def test_lesions_of_all_scans() -> None:
    rows = segmentation_rows(SCANS, ["a"])
    every, small = ({"unit": "lesion", "stratum": s} for s in ("", "small"))
    assert pick(rows, metric="sensitivity", **every)["a"] == pytest.approx(2 / 3)
    assert pick(rows, metric="false_positives_per_scan", **every)["a"] == pytest.approx(3 / 2)
    # Points (false a scan, found): 0.9 (0, 1/3), 0.8 (.5, 1/3), 0.7 (.5, 2/3), .6 (1, 2/3), .5.
    # Up to 1/4 a third, from 1/2 on two thirds.
    assert pick(rows, metric="froc", **every)["a"] == pytest.approx((2 / 3 + 5 * 2 / 3) / 7)
    # Small: one of two lesions, with every false candidate; the points are (.5, 0), (.5, 1/2).
    assert pick(rows, metric="sensitivity", **small)["a"] == pytest.approx(1 / 2)
    assert pick(rows, metric="froc", **small)["a"] == pytest.approx(5 * (1 / 2) / 7)
    assert not pick(rows, metric="false_positives_per_scan", **small)
    assert headline(rows, "froc") == pytest.approx(4 / 7)


def test_small_references_alone() -> None:
    rows = segmentation_rows(SCANS, ["a"])
    for metric, every, small in (("dice", 0.25, 0.0), ("iou", 5 / 30, 0.0)):
        found = {
            s: pick(rows, metric=metric, convention="skip_empty", stratum=s)["a"]
            for s in ("", "small")
        }
        assert found == pytest.approx({"": every, "small": small})
    assert pick(rows, metric="sensitivity", unit="voxel", stratum="small")["a"] == 0
    assert not pick(rows, metric="false_alarm", stratum="small")


def test_no_stratum_where_nothing_is_small_or_no_size_is_known() -> None:
    large = {**SCANS[0], "lesion_mm": [11.0, 13.0]}
    unknown = {**SCANS[1], "lesion_mm": [None], "ref_mm": None}
    rows = segmentation_rows([large, unknown], ["a"])
    assert {row["stratum"] for row in rows} == {""}
    assert pick(rows, metric="sensitivity", unit="lesion")["a"] == pytest.approx(2 / 3)


def test_a_region_without_small_ones_counts_not_in_the_mean_of_the_small() -> None:
    rows = segmentation_rows(
        [*SCANS, {**SCANS[0], "region": "b", "lesion_mm": [20.0, 13.0]}], ["a", "b"]
    )
    assert pick(rows, metric="dice", convention="skip_empty", stratum="small") == {
        "a": 0.0,
        "mean": 0.0,
    }
    assert pick(rows, metric="sensitivity", unit="lesion", stratum="small") == {
        "a": 0.5,
        "mean": 0.5,
    }


def test_without_probabilities_there_are_no_rows_of_lesions_and_images() -> None:
    plain = [{**c, **dict.fromkeys(k for k in c if k.endswith("log_odds"))} for c in SCANS]
    rows = segmentation_rows(plain, ["a"])
    assert {row["unit"] for row in rows} == {"case", "voxel"}
    with pytest.raises(ValueError, match="no metric 'froc' here"):
        headline(rows, "froc")


# ---------------------------------------------------------------- invariances


def random_fold(seed: int) -> list[dict[str, Any]]:
    """Return the rows of a few random cases of two regions, two cases a patient."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(int(rng.integers(2, 7))):
        ref = (rng.random((7, 8)) < rng.choice([0.0, 0.1, 0.3])) * rng.integers(1, 3, (7, 8))
        logits = rng.normal(size=(3, 7, 8)) + 2 * (np.arange(3)[:, None, None] == ref)
        prob = np.exp(logits) / np.exp(logits).sum(axis=0)
        rows += [
            {**row, "group_id": f"p{n // 2}"}
            for row in confusion(
                prob.argmax(axis=0).astype(np.uint8),
                ref.astype(np.uint8),
                {"any": (1, 2), "core": (2,)},
                (6.0, 2.0),
                distances=True,
                logits=logits.astype(np.float32),
            )
        ]
    return rows


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(2, 3))
def test_order_and_copies_of_the_cases_change_nothing(seed: int, order: int, copies: int) -> None:
    cases = random_fold(seed)
    plain = segmentation_rows(cases, ["any", "core"], group="patient")
    shuffled = [cases[i] for i in np.random.default_rng(order).permutation(len(cases))]
    again = segmentation_rows(shuffled, ["any", "core"], group="patient")
    assert [r["value"] for r in again] == pytest.approx([r["value"] for r in plain])
    # A patient copied whole is another patient with the same volumes.
    copied = [{**c, "group_id": f"{c['group_id']}.{k}"} for k in range(copies) for c in cases]
    again = segmentation_rows(copied, ["any", "core"], group="patient")
    assert [r["value"] for r in again] == pytest.approx([r["value"] for r in plain])
    assert [{**r, "value": 0} for r in again] == [{**r, "value": 0} for r in plain]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_every_value_lies_in_its_range(seed: int) -> None:
    for row in segmentation_rows(random_fold(seed), ["any", "core"], group="patient"):
        low, high = METRICS[row["metric"]].range
        assert low is not None  # of every metric of masks
        if row["value"] is not None:
            assert low <= row["value"] <= (np.inf if high is None else high), row
