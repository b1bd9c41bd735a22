"""Formulas against baycomp and statsmodels, which the project does not need, on 100 random inputs.

Their answers stand in `libraries.json`; where both are installed, `python -m
tests.results.test_libraries` makes it again.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from results.claims.answers import holm
from results.claims.contrasts import apart, of_folds
from results.prices import smallest_factor
from results.statistics.evidence import Evidence
from results.statistics.influence import RULES, Cases, by_patient
from results.statistics.intervals import corrected_interval, wilson_interval
from results.statistics.procedure import compare

FILE = Path(__file__).with_name("libraries.json")
INPUTS = 100
Input = dict[str, np.ndarray]
Numbers = dict[str, Any]


class _Contest:
    """What `of_folds` asks of a data set."""

    dataset = "x"

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio


# ---- folds of two combinations: baycomp's correlated t-test -------------------------------------


def _folds(rng: np.random.Generator) -> Input:
    k = int(rng.integers(3, 13))
    return {"y": rng.normal([[0.8 + rng.choice([0, 0.02])], [0.8]], 0.02, (2, k))}


def _correlated_t(y: np.ndarray) -> Numbers:
    from baycomp import CorrelatedTTest

    found = CorrelatedTTest(y[1], y[0])
    return {"mean": found.mean, "variance": found.var, "df": found.df, "above": found.probs()[0]}


def _by_folds(y: np.ndarray) -> Numbers:
    ratio = 1 / (y.shape[1] - 1)
    compared = compare(
        Evidence(scores=y[:, None, :, None], influence=None, test_train_ratio=ratio), alpha=0.05
    )
    claimed = of_folds(_Contest(ratio), (y[0] - y[1]).tolist(), "")
    assert compared.variance[0, 1] == pytest.approx(claimed.error**2, rel=1e-9)
    return {
        "mean": compared.mean[0] - compared.mean[1],
        "variance": compared.variance[0, 1],
        "df": compared.df[0, 1],
        "above": claimed.p_above(0.0),
    }


# ---- folds of several repeats: the interval of one mean -----------------------------------------


def _repeats(rng: np.random.Generator) -> Input:
    return {"y": rng.normal(0.8, 0.02, (int(rng.integers(1, 5)), int(rng.integers(3, 11))))}


def _interval_of_repeats(y: np.ndarray) -> Numbers:
    from baycomp import CorrelatedTTest
    from scipy import stats

    mean, variance, df = CorrelatedTTest.compute_statistics(0 * y.ravel(), y.ravel(), runs=len(y))
    low, high = stats.t.interval(0.95, df, mean, variance**0.5)
    return {"mean": mean, "low": low, "high": high}


def _corrected(y: np.ndarray) -> Numbers:
    ratio = 1 / (y.shape[1] - 1)
    mean, low, high = corrected_interval(y.ravel(), test_train_ratio=ratio, alpha=0.05)
    return {"mean": mean, "low": low, "high": high}


# ---- two data sets: Welch -----------------------------------------------------------------------


def _two_sets(rng: np.random.Generator) -> Input:
    sizes = rng.integers(3, 12, 2)
    named = zip("ab", sizes, strict=True)
    return {name: rng.normal(0, rng.uniform(0.01, 0.1), n) for name, n in named}


def _welch(a: np.ndarray, b: np.ndarray) -> Numbers:
    from statsmodels.stats.weightstats import ttest_ind

    _, p, df = ttest_ind(a, b, alternative="larger", usevar="unequal")
    return {"above": p, "df": df}


def _apart(a: np.ndarray, b: np.ndarray) -> Numbers:
    contest = _Contest(0.0)
    found = apart(of_folds(contest, a, ""), of_folds(contest, b, ""), "x", "")
    return {"above": found.p_above(0.0), "df": found.df}


# ---- many p-values: Holm ------------------------------------------------------------------------


def _p_values(rng: np.random.Generator) -> Input:
    return {"p": np.round(rng.random(int(rng.integers(1, 40))) ** 3, int(rng.integers(1, 6)))}


def _holm(p: np.ndarray) -> Numbers:
    from statsmodels.stats.multitest import multipletests

    return {"p": multipletests(p, method="holm")[1].tolist()}


# ---- a share: Wilson ----------------------------------------------------------------------------


def _counts(rng: np.random.Generator) -> Input:
    n = int(rng.integers(5, 400))
    return {"right": rng.integers(0, n + 1, 1), "n": np.array([n])}


def _wilson(right: np.ndarray, n: np.ndarray) -> Numbers:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(int(right[0]), int(n[0]), method="wilson")
    return {"low": low, "high": high}


def _our_wilson(right: np.ndarray, n: np.ndarray) -> Numbers:
    low, high = wilson_interval(right[0] / n[0], n[0], quantile=1.959963984540054)
    return {"low": low, "high": high}


# ---- cases of patients: the covariance of clusters, with its correction of few clusters ----------


def _clustered(rng: np.random.Generator) -> Input:
    n = int(rng.integers(12, 60))
    patients = rng.integers(0, n // 3, n)
    patients[:2] = 0, 1
    own = rng.normal(0, 1, (2, n))[:, patients]
    return {"values": own + rng.normal(0, 1, (2, n)), "patients": patients}


def _clusters(values: np.ndarray, patients: np.ndarray) -> Numbers:
    from statsmodels.api import OLS

    def variance(y: np.ndarray) -> float:
        fit = OLS(y, np.ones_like(y)).fit(cov_type="cluster", cov_kwds={"groups": patients})
        return float(fit.bse[0] ** 2)

    return {"one": variance(values[0]), "lead": variance(values[0] - values[1])}


def _by_patient(values: np.ndarray, patients: np.ndarray) -> Numbers:
    there = np.ones((values.shape[1], 1))
    phi = []
    for own in values:
        columns = {"n_ref": there, "n_pred": there, "assd_mm": own[:, None]}
        found = RULES["assd"](Cases(columns=columns, patients=patients))
        phi.append(by_patient(found, patients, int(patients.max()) + 1))
    lead = phi[0] - phi[1]
    return {"one": phi[0] @ phi[0], "lead": lead @ lead}


# ---- grades: quadratic kappa and its large-sample variance (Fleiss, Cohen and Everitt 1969) -----


def _grades(rng: np.random.Generator) -> Input:
    n, k = int(rng.integers(30, 120)), int(rng.integers(3, 6))
    truth = rng.integers(0, k, n)
    called = np.clip(truth + rng.integers(-1, 2, n), 0, k - 1)
    truth[:k] = called[:k] = np.arange(k)
    return {"truth": truth, "called": called}


def _kappa(truth: np.ndarray, called: np.ndarray) -> Numbers:
    from statsmodels.stats.inter_rater import cohens_kappa

    table = np.zeros((truth.max() + 1,) * 2)
    np.add.at(table, (truth, called), 1)
    found = cohens_kappa(table, wt="quadratic")
    return {"kappa": found.kappa, "variance": found.var_kappa}


def _our_kappa(truth: np.ndarray, called: np.ndarray) -> Numbers:
    one_hot = np.eye(truth.max() + 1)
    cases = Cases(
        columns={"prob": one_hot[called], "label": one_hot[truth]}, patients=np.arange(truth.size)
    )
    found = RULES["quadratic kappa"](cases)
    return {"kappa": found.score, "variance": np.square(found.parts[0]).sum()}


# ---- costs: t-tests of all pairs with one variance, Bonferroni ----------------------------------


def _costs(rng: np.random.Generator) -> Input:
    shape = int(rng.integers(2, 7)), int(rng.integers(2, 7))
    return {"costs": np.exp(rng.normal(-7, 0.1, shape))}


def _pooled(costs: np.ndarray) -> Numbers:
    from statsmodels.api import OLS

    m, n = costs.shape
    design = np.repeat(np.eye(m), n, axis=0)
    contrast = np.zeros(m)
    contrast[:2] = 1, -1
    test = OLS(np.log(costs).ravel(), design).fit().t_test(contrast)
    low, high = test.conf_int(alpha=0.05 / (m * (m - 1) / 2))[0]
    return {"factor": np.exp((high - low) / 2)}


# What is asked -> inputs, their answer, ours.
ASKED: dict[
    str,
    tuple[Callable[[np.random.Generator], Input], Callable[..., Numbers], Callable[..., Numbers]],
] = {
    "correlated t-test of folds (baycomp)": (_folds, _correlated_t, _by_folds),
    "interval of repeats (baycomp)": (_repeats, _interval_of_repeats, _corrected),
    "Welch (statsmodels)": (_two_sets, _welch, _apart),
    "Holm (statsmodels)": (_p_values, _holm, lambda p: {"p": holm(p.tolist())}),
    "Wilson (statsmodels)": (_counts, _wilson, _our_wilson),
    "cases of patients (statsmodels)": (_clustered, _clusters, _by_patient),
    "quadratic kappa (statsmodels)": (_grades, _kappa, _our_kappa),
    "pooled t-tests of costs (statsmodels)": (
        _costs,
        _pooled,
        lambda costs: {"factor": smallest_factor(costs.tolist(), 0.05)},
    ),
}


def inputs(name: str) -> Iterator[Input]:
    """Yield the inputs of what is asked, the same each time."""
    rng = np.random.default_rng(list(ASKED).index(name))
    for _ in range(INPUTS):
        yield ASKED[name][0](rng)


@pytest.mark.parametrize("name", ASKED)
def test_formulas_are_those_of_other_libraries(name):
    theirs = json.loads(FILE.read_text(encoding="utf-8"))[name]
    assert len(theirs) == INPUTS
    for wanted, given in zip(theirs, inputs(name), strict=True):
        found = ASKED[name][2](**given)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-12, err_msg=key)


if __name__ == "__main__":
    answers = {
        name: [
            {
                key: np.asarray(value, np.float64).tolist()
                for key, value in ASKED[name][1](**given).items()
            }
            for given in inputs(name)
        ]
        for name in ASKED
    }
    FILE.write_text(
        "{\n"
        + ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in answers.items())
        + "\n}\n",
        encoding="utf-8",
    )
