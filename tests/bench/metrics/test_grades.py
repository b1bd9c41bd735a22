"""Quadratic weighted kappa against scikit-learn, and where it has no value."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from bench.metrics.aggregate import classification_rows
from bench.metrics.rates import quadratic_kappa


def test_kappa_on_1000_random_sets() -> None:
    rng = np.random.default_rng(0)
    lacking = 0
    for _ in range(1000):
        n, k = int(rng.integers(2, 30)), int(rng.integers(2, 6))
        # Often a few grades alone, and sometimes one.
        label = rng.integers(0, rng.integers(1, k + 1), n)
        prob = rng.dirichlet(np.ones(k), n)
        prob[np.arange(n), label] += rng.choice([0.0, 0.5])
        found = quadratic_kappa(prob, label, None)
        if len(set(label.tolist())) < 2:
            assert found is None
            lacking += 1
            continue
        wanted = cohen_kappa_score(label, prob.argmax(1), labels=np.arange(k), weights="quadratic")
        assert found == pytest.approx(wanted, abs=1e-9)
    assert lacking > 100


def test_grades_have_it_and_classes_do_not() -> None:
    prob, label = np.eye(3), np.arange(3)
    given = {"classes": ("0", "1", "2"), "positive": None, "unit": "image"}
    graded = {
        r["metric"]: r["value"] for r in classification_rows(prob, label, **given, graded=True)
    }  # type: ignore[arg-type]  # as it takes them
    plain = {r["metric"] for r in classification_rows(prob, label, **given)}  # type: ignore[arg-type]  # as it takes them
    assert graded["quadratic_kappa"] == 1.0
    assert set(graded) - plain == {"quadratic_kappa"}
