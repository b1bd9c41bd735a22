"""Critical values, against Dunnett's own table, scipy's test and multivariate t."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from results.statistics import critical

# Dunnett (1955), Journal of the American Statistical Association 50, Table 1a: one-sided 5 %
# points for comparing p treatments with a control; columns p = 1 ... 9, rows degrees of freedom.
DUNNETT_1955 = {
    5: (2.02, 2.44, 2.68, 2.85, 2.98, 3.08, 3.16, 3.24, 3.30),
    10: (1.81, 2.15, 2.34, 2.47, 2.56, 2.64, 2.70, 2.76, 2.81),
    20: (1.72, 2.03, 2.19, 2.30, 2.39, 2.46, 2.51, 2.56, 2.60),
    60: (1.67, 1.95, 2.10, 2.21, 2.28, 2.35, 2.39, 2.44, 2.48),
}


@pytest.mark.parametrize(("df", "row"), DUNNETT_1955.items())
def test_critical_values_are_those_that_dunnett_published(df, row):
    ours = [critical.dunnett(p, df, 0.05) for p in range(1, 10)]
    np.testing.assert_allclose(ours, row, atol=0.011)  # the table is rounded, some of it upwards


def test_one_comparison_is_students_t():
    for df in (1, 2, 4, 30):
        assert critical.dunnett(1, df, 0.05) == pytest.approx(scipy_stats.t.ppf(0.95, df), rel=1e-5)
    assert critical.dunnett(1, np.inf, 0.05) == pytest.approx(scipy_stats.norm.ppf(0.95), rel=1e-6)


def test_two_comparisons_are_bivariate_t():
    """scipy integrates two dimensions almost exactly."""
    for df in (4, 40):
        d = critical.dunnett(2, df, 0.05)
        joint = scipy_stats.multivariate_t(shape=[[1, 0.5], [0.5, 1]], df=df)
        share = joint.cdf([d, d], maxpts=500_000, random_state=1)
        assert share == pytest.approx(0.95, abs=5e-5)


@pytest.mark.parametrize(("groups", "size", "shift"), [(3, 4, 1.0), (5, 5, 1.5), (10, 3, 2.0)])
def test_critical_values_agree_with_scipys_dunnett_test(groups, size, shift):
    """At the p-value scipy gives the largest statistic, that statistic is the critical value."""
    rng = np.random.default_rng(7)
    samples = rng.standard_normal((groups, size))
    samples[0] += shift
    control = rng.standard_normal(size)
    result = scipy_stats.dunnett(*samples, control=control, alternative="greater", rng=1)
    best = int(np.argmax(result.statistic))
    df = (groups + 1) * (size - 1)
    ours = critical.dunnett(groups, df, float(result.pvalue[best]))
    assert ours == pytest.approx(float(result.statistic[best]), rel=2e-3)  # scipy's is quasi-random


@pytest.mark.parametrize("comparisons", [1, 5, 23, 119])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_interpolation_is_right_to_a_ten_thousandth(comparisons, alpha):
    df = np.array([1.0, 1.7, 2.5, 4, 5.3, 8, 17, 60, 298, 1e5])
    exact = [critical.dunnett(comparisons, float(v), alpha) for v in df]
    ours = critical.dunnett_values(comparisons, df, alpha)
    np.testing.assert_allclose(ours, exact, rtol=3e-5)
    np.testing.assert_allclose(ours[df >= 4], np.array(exact)[df >= 4], rtol=0, atol=1e-4)


def test_degrees_of_freedom_below_one_are_refused():
    with pytest.raises(ValueError, match="1 or more"):
        critical.dunnett_values(3, [0.5], 0.05)


def test_the_group_is_never_narrower_than_the_claim():
    """Two or three combinations: the two-sided t is larger than Dunnett's one-sided value."""
    assert critical.simultaneous(2, 4, 0.05) == pytest.approx(scipy_stats.t.ppf(0.975, 4))
    assert critical.simultaneous(3, 8, 0.05) == pytest.approx(scipy_stats.t.ppf(0.975, 8))
    assert critical.simultaneous(6, 20, 0.05) == pytest.approx(critical.dunnett(5, 20, 0.05))
