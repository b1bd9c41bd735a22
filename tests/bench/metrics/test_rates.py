"""Metrics of predictions and of counts, against scikit-learn, plain loops and values by hand."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import config_context
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from bench.metrics import rates
from bench.metrics.aggregate import classification_rows, headline

ROW_KEYS = [
    *("metric", "unit", "region", "convention", "stratum", "degradation"),
    *("value", "headline"),
]

Predictions = tuple[NDArray[np.float64], NDArray[np.int64]]


def by_name(rows: list[dict[str, Any]], unit: str | None = None) -> dict[str, float | None]:
    return {row["metric"]: row["value"] for row in rows if unit in (None, row["unit"])}


def predictions(seed: int) -> Predictions:
    """Return random probabilities (n, C), often with ties, and labels (n,) with every class."""
    rng = np.random.default_rng(seed)
    n_classes, n = int(rng.integers(2, 5)), int(rng.integers(6, 40))
    levels = rng.choice([4, 1000])
    score = rng.integers(1, levels, (n, n_classes)).astype(float)
    label = rng.permutation(np.arange(n) % n_classes)
    if seed % 2:  # better than chance
        score[np.arange(n), label] += levels / 3
    return score / score.sum(axis=1, keepdims=True), label


def best_sensitivity(truth: NDArray[np.bool_], score: NDArray[np.float64], rate: float) -> float:
    """Return the best recall of all thresholds, one by one; above every score it is 0."""
    called = [score >= threshold for threshold in np.unique(score)]
    return max([0.0, *(c[truth].mean() for c in called if c[~truth].mean() <= rate)])


def of_scikit_learn(
    prob: NDArray[np.float64], label: NDArray[np.int64], positive: int | None
) -> dict[str, float]:
    """Return what scikit-learn says; what it has no function for, by a loop or its tables."""
    n_classes, called = prob.shape[1], prob.argmax(axis=1)
    classes = range(n_classes) if positive is None else (positive,)
    one_hot = np.eye(n_classes, dtype=int)[label]
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        label, called, labels=list(classes), average="macro", zero_division=0
    )
    tables = sk.multilabel_confusion_matrix(label, called, labels=list(classes))
    at = {p: [best_sensitivity(label == c, prob[:, c], p / 100) for c in classes] for p in (5, 10)}
    confidence, edges = prob.max(axis=1), np.linspace(0, 1, 16)
    shares, confidences = calibration_curve(
        called == label, confidence, n_bins=15, strategy="uniform"
    )  # of bins that hold something
    inside = (confidence > edges[:-1, None]) & (confidence <= edges[1:, None])
    weights = inside.sum(axis=1)[inside.any(axis=1)]
    return {
        "auc": np.mean([sk.roc_auc_score(one_hot[:, c], prob[:, c]) for c in classes]),
        "accuracy": sk.accuracy_score(label, called),
        "balanced_accuracy": sk.balanced_accuracy_score(label, called),
        "sensitivity": recall,
        "specificity": np.mean([t[0, 0] / t[0].sum() for t in tables]),
        "precision": precision,
        "f1": f1,
        "mcc": sk.matthews_corrcoef(label, called),
        "average_precision": np.mean(
            [sk.average_precision_score(one_hot[:, c], prob[:, c]) for c in classes]
        ),
        "sensitivity_at_5_percent_fpr": np.mean(at[5]),
        "sensitivity_at_10_percent_fpr": np.mean(at[10]),
        "calibration_error": np.sum(weights * np.abs(shares - confidences)) / len(label),
        "brier": sk.brier_score_loss(
            label, prob, labels=list(range(n_classes)), scale_by_half=True
        ),
    }


@pytest.mark.parametrize(
    "block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in (1, 2, 3))]
)
def test_250_random_predictions_against_scikit_learn(block: int) -> None:
    for seed in range(250 * block, 250 * (block + 1)):
        prob, label = predictions(seed)
        positive = [None, 0, 1, prob.shape[1] - 1][seed % 4]
        rows = classification_rows(
            prob, label, classes=["c"] * prob.shape[1], positive=positive, unit="image"
        )
        with config_context(skip_parameter_validation=True, assume_finite=True):
            expected = of_scikit_learn(prob, label, positive)
        assert by_name(rows) == pytest.approx(expected, abs=1e-9), seed


@pytest.mark.parametrize(
    ("kind", "sets"),
    [
        ("any", 200),
        *((kind, 40) for kind in ("nothing called", "all called", "no case", "every case")),
    ],
)
def test_random_counts_against_scikit_learn(kind: str, sets: int) -> None:
    """Counts of masks, full and empty ones included, as scikit-learn sees the voxels."""
    rng = np.random.default_rng(0)
    for _ in range(sets):
        truth, called = rng.random((2, int(rng.integers(1, 40)))) < rng.random((2, 1))
        called = {"nothing called": called & False, "all called": called | True}.get(kind, called)
        truth = {"no case": truth & False, "every case": truth | True}.get(kind, truth)
        (tn, fp), (fn, tp) = sk.confusion_matrix(truth, called, labels=[False, True]).tolist()
        nothing = not (truth.any() or called.any())
        for name, function, undefined in (
            ("recall_score", rates.sensitivity, not truth.any()),
            ("precision_score", rates.precision, nothing),
            ("f1_score", rates.f1, nothing),
            ("matthews_corrcoef", rates.mcc, truth.all() or not truth.any()),
            ("accuracy_score", rates.accuracy, False),
        ):
            found = function(tp, fp, fn, tn)
            if undefined:  # scikit-learn: 0
                assert found is None, name
            else:
                options = (
                    {"zero_division": 0} if name in ("recall_score", "precision_score") else {}
                )
                with config_context(skip_parameter_validation=True, assume_finite=True):
                    expected = getattr(sk, name)(truth, called, **options)
                assert found == pytest.approx(expected), name
        specificity = rates.specificity(tp, fp, fn, tn)
        assert specificity == (None if truth.all() else pytest.approx(tn / (~truth).sum()))


def test_correlation_of_counts_of_voxels_does_not_overflow() -> None:
    # The product under the root is about 1e42.
    assert rates.mcc(10**10, 10**10, 10**10, 10**12) == pytest.approx(0.490099, abs=1e-6)


def test_sensitivity_at_a_false_positive_rate_by_hand() -> None:
    # Ten negatives at 0.00, 0.05 .. 0.45 and four positives: one false positive is 10 %.
    negative, positive = np.arange(10) * 0.05, np.array([0.9, 0.44, 0.42, 0.1])
    score = np.concatenate([negative, positive])
    rows = by_name(
        classification_rows(
            np.stack([1 - score, score], axis=1),
            np.repeat([0, 1], [10, 4]),
            classes=["a", "b"],
            positive=1,
            unit="image",
        )
    )
    # Above 0.45 one positive; down to 0.42 three, with the negative at 0.45 alone.
    assert rows["sensitivity_at_5_percent_fpr"] == 1 / 4
    assert rows["sensitivity_at_10_percent_fpr"] == 3 / 4


def test_calibration_error_and_brier_by_hand() -> None:
    # Confidence 0.9 three times, two right: a gap of 0.7 in all; 0.6 once, right: 0.4.
    positive = np.array([0.9, 0.1, 0.9, 0.6])
    prob, label = np.stack([1 - positive, positive], axis=1), np.array([1, 0, 0, 1])
    rows = by_name(classification_rows(prob, label, classes=["a", "b"], positive=1, unit="image"))
    assert rows["calibration_error"] == pytest.approx((0.7 + 0.4) / 4)
    assert rows["brier"] == pytest.approx((0.01 + 0.01 + 0.81 + 0.16) / 4)


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
    found = by_name(rows)
    expected = {
        "sensitivity": 3 / 4,
        "specificity": 1 / 2,
        "precision": 3 / 4,
        "f1": 6 / 8,
        "mcc": (3 * 1 - 1 * 1) / np.sqrt(4 * 4 * 2 * 2),
        "accuracy": 4 / 6,
        "balanced_accuracy": (3 / 4 + 1 / 2) / 2,
        "auc": 7 / 8,  # pairs of one malignant, one benign in the right order
        "average_precision": (1 + 1 + 1 + 4 / 5) / 4,
        "sensitivity_at_5_percent_fpr": 3 / 4,
        "sensitivity_at_10_percent_fpr": 3 / 4,
        "brier": (0.01 + 0.04 + 0.09 + 0.36 + 0.36 + 0.01) / 6,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert [list(row) for row in rows] == [ROW_KEYS] * len(rows)
    assert {(row["region"], row["convention"], row["stratum"]) for row in rows} == {("", "", "")}


def test_what_a_missing_class_leaves_undefined() -> None:
    prob, label = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = classification_rows(prob, label, classes=["a", "b"], positive=1, unit="image")
    found = by_name(rows)
    assert {name: value for name, value in found.items() if value is not None} == pytest.approx(
        {
            "accuracy": 0.5,
            "specificity": 0.5,
            "precision": 0.0,
            "f1": 0.0,
            "calibration_error": (0.1 + 0.7) / 2,
            "brier": (0.01 + 0.49) / 2,
        }
    )
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


# ---------------------------------------------------------------- patients


def test_a_patient_has_the_mean_probability_of_its_cases() -> None:
    positive = np.array([0.9, 0.5, 0.2, 0.4, 0.6])
    label, groups = np.array([1, 1, 0, 0, 1]), ["p", "p", "q", "r", "s"]
    prob = np.stack([1 - positive, positive], axis=1)
    rows = classification_rows(
        prob, label, classes=["a", "b"], positive=1, unit="lesion", groups=groups
    )
    expected = classification_rows(
        np.array([[0.3, 0.7], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]]),
        np.array([1, 0, 0, 1]),
        classes=["a", "b"],
        positive=1,
        unit="patient",
    )
    assert by_name(rows, "patient") == pytest.approx(by_name(expected))
    cases = classification_rows(prob, label, classes=["a", "b"], positive=1, unit="lesion")
    assert [row for row in rows if row["unit"] == "lesion"] == cases
    assert headline(rows, "brier") == by_name(cases)["brier"]  # a case's, not the patient's


def test_no_row_of_patients_where_each_has_one_case() -> None:
    prob, label = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0, 1])
    rows = classification_rows(
        prob, label, classes=["a", "b"], positive=1, unit="image", groups=["p", "q"]
    )
    assert {row["unit"] for row in rows} == {"image"}
    with pytest.raises(ValueError, match="1 groups do not fit 2 cases"):
        classification_rows(prob, label, classes=["a", "b"], positive=1, unit="image", groups=["p"])


def test_a_patient_with_one_positive_case_is_positive() -> None:
    prob = np.array([[0.2, 0.8], [0.6, 0.4], [0.7, 0.3], [0.9, 0.1]])
    label, groups = np.array([1, 0, 0, 0]), ["p", "p", "q", "r"]
    rows = classification_rows(
        prob, label, classes=["a", "b"], positive=1, unit="lesion", groups=groups
    )
    found = by_name(rows, "patient")
    assert found["sensitivity"] == 1  # p: (0.8 + 0.4) / 2
    assert found["specificity"] == 1
    assert found["brier"] == pytest.approx((0.16 + 0.09 + 0.01) / 3)


def test_without_a_positive_class_a_patient_of_two_labels_is_left_out() -> None:
    prob, label = np.eye(3)[[0, 1, 2, 2]], np.array([0, 1, 2, 1])
    rows = classification_rows(
        prob, label, classes=list("abc"), positive=None, unit="image", groups=["p", "q", "r", "r"]
    )
    assert by_name(rows, "image")["accuracy"] == 3 / 4
    assert by_name(rows, "patient")["accuracy"] == 1  # of p and q
    assert by_name(rows, "patient")["auc"] is None  # nobody is of class c
    alone = classification_rows(
        prob[2:], label[2:], classes=list("abc"), positive=None, unit="image", groups=["r", "r"]
    )
    assert set(by_name(alone, "patient").values()) == {None}


# ---------------------------------------------------------------- invariances


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(2, 4))
def test_order_and_copies_of_the_cases_change_nothing(seed: int, order: int, copies: int) -> None:
    prob, label = predictions(seed)
    groups = [f"p{i // 2}" for i in range(len(label))]
    about: dict[str, Any] = {"classes": ["c"] * prob.shape[1], "positive": 0, "unit": "image"}
    plain = classification_rows(prob, label, **about, groups=groups)
    shuffled = np.random.default_rng(order).permutation(len(label))
    again = classification_rows(
        prob[shuffled], label[shuffled], **about, groups=[groups[i] for i in shuffled]
    )
    assert [r["value"] for r in again] == pytest.approx([r["value"] for r in plain])
    repeated = classification_rows(np.tile(prob, (copies, 1)), np.tile(label, copies), **about)
    assert by_name(repeated) == pytest.approx(by_name(plain, "image"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_naming_the_classes_otherwise_changes_no_mean_over_classes(seed: int) -> None:
    prob, label = predictions(seed)
    # Ties of the highest probability go to the first class, whichever that is.
    prob = prob + np.random.default_rng(seed).random(prob.shape) * 1e-6
    prob /= prob.sum(axis=1, keepdims=True)
    names = np.random.default_rng(seed + 1).permutation(prob.shape[1])
    about: dict[str, Any] = {"classes": ["c"] * len(names), "positive": None, "unit": "image"}
    renamed = classification_rows(prob[:, names], np.argsort(names)[label], **about)
    assert by_name(renamed) == pytest.approx(by_name(classification_rows(prob, label, **about)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_ranks_alone_decide_what_is_ranked(seed: int) -> None:
    prob, label = predictions(seed)
    about: dict[str, Any] = {"classes": ["c"] * prob.shape[1], "positive": 0, "unit": "image"}
    found = by_name(classification_rows(prob, label, **about))
    bent = by_name(classification_rows(prob**3, label, **about))
    for name in ("auc", "average_precision", "sensitivity_at_5_percent_fpr"):
        assert bent[name] == pytest.approx(found[name])
