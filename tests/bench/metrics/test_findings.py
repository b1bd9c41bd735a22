"""Metrics of several findings against scikit-learn, missing answers and one-sided folds too."""

import warnings

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as sk

from bench.metrics.aggregate import finding_rows, headline

NAMES = ("mass", "effusion", "nodule")

# Metric -> scikit-learn's, of answers (n,), probabilities (n,) and calls (n,); None where it needs
# both answers and has one. scikit-learn gives those a number, or a warning.
OURS_AND_THEIRS = {
    "auc": lambda y, p, _: sk.roc_auc_score(y, p),
    "average_precision": lambda y, p, _: sk.average_precision_score(y, p),
    "f1": lambda y, _, c: sk.f1_score(y, c),
    "sensitivity": lambda y, _, c: sk.recall_score(y, c),
    "specificity": lambda y, _, c: sk.recall_score(y, c, pos_label=0),
    "precision": lambda y, _, c: sk.precision_score(y, c, zero_division=0),
    "accuracy": lambda y, _, c: sk.accuracy_score(y, c),
    "balanced_accuracy": lambda y, _, c: sk.balanced_accuracy_score(y, c),
    "mcc": lambda y, _, c: sk.matthews_corrcoef(y, c),
    "brier": lambda y, p, _: sk.brier_score_loss(y, p, pos_label=1),
}
# What has a value where all cases have one answer: of no case at all, nothing has.
ONE_SIDED = {"accuracy", "brier"}


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return log-odds (n, 3) with ties, and answers of which some are missing or all are one."""
    n = int(rng.integers(3, 25))
    z = np.round(rng.normal(size=(n, 3)), int(rng.integers(0, 3)))
    y = (rng.random((n, 3)) < rng.choice([0.0, 0.3, 0.5, 1.0], size=3)).astype(float)
    y[rng.random((n, 3)) < rng.choice([0.0, 0.4])] = np.nan
    return z, y


def theirs(metric: str, z: np.ndarray, y: np.ndarray) -> float | None:
    """Return scikit-learn's value of one finding, None where we say there is none."""
    known = np.isfinite(y)
    y, z = y[known].astype(int), z[known]
    called = (z > 0).astype(int)
    if not len(y) or (len(set(y)) < 2 and metric in ("auc", "balanced_accuracy", "mcc")):
        return None
    if len(set(y)) < 2 and metric == "average_precision":
        return None
    needs = {"sensitivity": y.any(), "specificity": (y == 0).any()}
    needs |= {"f1": y.any() or called.any(), "precision": y.any() or called.any()}
    if not needs.get(metric, True):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(OURS_AND_THEIRS[metric](y, expit(z), called))


@pytest.mark.parametrize("sets", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_each_finding_and_their_mean_on_random_sets(sets: int) -> None:
    rng = np.random.default_rng(0)
    lacking = 0
    for _ in range(sets):
        z, y = drawn(rng)
        rows = finding_rows(z, y, findings=NAMES, unit="image")
        found = {(row["metric"], row["region"]): row["value"] for row in rows}
        for metric in OURS_AND_THEIRS:
            wanted = [theirs(metric, z[:, k], y[:, k]) for k in range(3)]
            for name, value in zip(NAMES, wanted, strict=True):
                assert found[metric, name] == pytest.approx(value, abs=1e-12), (metric, z, y)
            known = [value for value in wanted if value is not None]
            lacking += len(known) < 3
            mean = float(np.mean(known)) if known else None
            assert found[metric, "mean"] == pytest.approx(mean, abs=1e-12)
            assert headline(rows, metric) == found[metric, "mean"]
    assert lacking > sets


def test_a_patient_has_a_finding_if_one_of_its_images_does() -> None:
    z = np.array([[2.0, -1.0], [-1.0, 1.0], [-2.0, 2.0], [0.5, -3.0]])
    y = np.array([[1.0, 0.0], [0.0, np.nan], [0.0, 1.0], [0.0, 0.0]])
    rows = finding_rows(
        z, y, findings=("a", "b"), unit="image", groups=["p", "p", "q", "r"], group_unit="patient"
    )
    wanted = {"unit": "patient", "metric": "brier"}
    of_patients = {row["region"]: row["value"] for row in rows if wanted.items() <= row.items()}
    p = expit(z)
    a = ((p[:2, 0].mean() - 1) ** 2 + p[2, 0] ** 2 + p[3, 0] ** 2) / 3
    b = (p[0, 1] ** 2 + (p[2, 1] - 1) ** 2 + p[3, 1] ** 2) / 3
    assert of_patients == pytest.approx({"a": a, "b": b, "mean": (a + b) / 2})


@pytest.mark.parametrize(
    ("z", "y", "why"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), "3 findings need log_odds and label"),
        (np.zeros((1, 3)), np.full((1, 3), 2.0), "must be 0, 1 or nan"),
    ],
)
def test_what_does_not_fit_is_refused(z: np.ndarray, y: np.ndarray, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        finding_rows(z, y, findings=NAMES, unit="image")
