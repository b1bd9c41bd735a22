"""Metrics of numbers against scikit-learn and scipy on 1000 random sets, one number throughout."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from bench.metrics.aggregate import headline, number_rows


def test_all_on_1000_random_sets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        n = int(rng.integers(2, 30))
        y = rng.normal(50, 10, n)
        x = rng.choice([0.0, 0.5, -1.0]) * y + rng.normal(20, 5, n)
        rows = number_rows(x, y, unit="image")
        found = {row["metric"]: row["value"] for row in rows}
        assert all(row["headline"] for row in rows)
        # Lin 1989, equation 5: Pearson's correlation times the correction of bias, 2 / (v + 1/v +
        # u^2), v the ratio of the deviations, u the shift over their geometric mean.
        v, u = x.std() / y.std(), (x.mean() - y.mean()) / np.sqrt(x.std() * y.std())
        r = stats.pearsonr(x, y).statistic
        wanted = {
            "mae": sk.mean_absolute_error(y, x),
            "rmse": sk.root_mean_squared_error(y, x),
            "r2": sk.r2_score(y, x),
            "pearson": r,
            "concordance": r * 2 / (v + 1 / v + u**2),
        }
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_where_all_are_one_number_or_there_is_none() -> None:
    one = {row["metric"]: row["value"] for row in number_rows(np.arange(3.0), np.ones(3), unit="u")}
    assert one["mae"] == pytest.approx(2 / 3)
    assert [one[name] for name in ("r2", "pearson", "concordance")] == [None] * 3
    flat = {
        row["metric"]: row["value"] for row in number_rows(np.ones(3), np.arange(3.0), unit="u")
    }
    assert (flat["pearson"], flat["concordance"], flat["r2"]) == (0.0, 0.0, 0.0)
    none = number_rows(np.empty(0), np.empty(0), unit="u")
    assert headline(none, "mae") is None


def test_a_patient_is_the_mean_of_its_cases() -> None:
    rows = number_rows(
        np.array([1.0, 3.0, 10.0]), np.array([2.0, 2.0, 7.0]), unit="clip", groups=["p", "p", "q"]
    )
    found = {(r["metric"], r["unit"]): r["value"] for r in rows}
    assert found["mae", "clip"] == pytest.approx(5 / 3)
    assert found["mae", "patient"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("x", "why"), [(np.ones(2), r"not \(2,\)"), (np.full(3, np.nan), "finite")]
)
def test_what_does_not_fit_is_refused(x: np.ndarray, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        number_rows(x, np.ones(3), unit="u")
