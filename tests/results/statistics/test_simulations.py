"""What the procedure promises, by simulated studies whose truth is known.

Shares have a standard error of 0.3 points at 4000 studies and 5 %, 0.7 at 1000. False winners may
reach 6 %: what is promised is 5 % and the rest is chance and rounding of the approximations; where
more was found, the test says how much and why.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from tests.results.statistics.generators import Studies, drawn, judged, of_cases, ridge

slow = pytest.mark.slow


def leaders(m, *, first=1.0, second=1.0, rest=-0.3):
    """Two tied leaders, how unsteady they are, and the rest well below."""
    level = np.full(m, rest)
    level[:2] = 0
    sd = np.ones(m)
    sd[:2] = first, second
    return {"level": level, "sd": sd}


def ahead(m, lead):
    level = np.zeros(m)
    level[0] = lead
    return level


# ---- scores without cases --------------------------------------------------------------------


@pytest.mark.parametrize("m", [2, 6, 24])
def test_false_winners_are_rare(m):
    """Folds correlate as Nadeau and Bengio's factor assumes."""
    rng = np.random.default_rng(m)
    assert judged(drawn(rng, 1000, m)).false <= 0.06
    assert judged(drawn(rng, 1000, m, **leaders(m))).false <= 0.06


def test_a_lead_is_found():
    rng = np.random.default_rng(1)
    assert judged(drawn(rng, 1000, 2, level=ahead(2, 0.04))).right > 0.80
    assert judged(drawn(rng, 1000, 6, level=ahead(6, 0.04))).right > 0.77


@slow
@pytest.mark.parametrize("m", [6, 24, 120])
def test_two_tied_with_folds_that_correlate_more(m):
    rng = np.random.default_rng(10 + m)
    count = 1000 if m < 120 else 100  # a hundred times 120 x 120 pairs at a time
    false = [judged(drawn(rng, count, m, rho=0.3, **leaders(m))).false for _ in range(10)]
    assert np.mean(false) <= (0.06 if m < 120 else 0.065)


@slow
@pytest.mark.parametrize("m", [6, 24])
@pytest.mark.parametrize(("first", "second"), [(2, 2), (3, 3), (3, 1), (5, 1), (5, 5)])
def test_unsteady_leaders(m, first, second):
    rng = np.random.default_rng(20 + m)
    said = judged(drawn(rng, 4000 if m < 24 else 2000, m, **leaders(m, first=first, second=second)))
    assert said.false <= 0.07


@slow
@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 2), (3, 3), (3, 1), (5, 1), (5, 5)])
def test_unsteady_leaders_of_three(first, second):
    """The third tells little of what is typical: up to 0.07."""
    rng = np.random.default_rng(23)
    assert judged(drawn(rng, 4000, 3, **leaders(3, first=first, second=second))).false <= 0.075


@slow
def test_a_third_unsteady_one_that_falls_back_makes_no_false_winner():
    """The best by truth is unsteady and may fall behind those just below; then it is no leader."""
    rng = np.random.default_rng(24)
    for rest in (-0.02, -0.05):
        level = leaders(24, rest=rest)["level"]
        sd = np.ones(24)
        sd[0] = 4
        assert judged(drawn(rng, 2000, 24, level=level, sd=sd)).false <= 0.06


def goldwasser(studies, said):
    """Return who is verified by Goldwasser, Fithian and Hooker (2025), arXiv 2501.14142.

    The lead D of the winner over j, given the mean of both weighted by the inverse of their
    variances and given all others, is a normal that is cut below where the winner would not win:
    p_j = P(T > D) / P(T > L). With equal variances L is 0, and p_j that of the two-sided test.
    """
    mean = studies.scores.mean(axis=(2, 3, 4))
    count, m = mean.shape
    studied, winner = np.arange(count), mean.argmax(axis=1)
    # Without cases what training adds is all: V_il = e_i + e_l, told apart by three of them.
    v = said.variance
    own = np.stack(
        [(v[:, i, a] + v[:, i, b] - v[:, a, b]) / 2 for i, (a, b) in enumerate(_two_others(m))], 1
    )
    verified = np.ones(count, bool)
    for j in range(m):
        rest = mean.copy()
        rest[studied, winner] = -np.inf
        rest[:, j] = -np.inf
        of_winner, both = own[studied, winner], v[studied, winner, j]
        shared = (own[:, j] * mean[studied, winner] + of_winner * mean[:, j]) / both
        cut = np.maximum(0, (rest.max(axis=1) - shared) * both / of_winner)
        lead, df = mean[studied, winner] - mean[:, j], said.df[studied, winner, j]
        p = t.sf(lead / np.sqrt(both), df) / t.sf(cut / np.sqrt(both), df)
        verified &= (winner == j) | (p <= 0.05)
    return verified, winner


def _two_others(m):
    return [tuple(j for j in range(3) if j != i)[:2] if i < 3 else (0, 1) for i in range(m)]


def test_unequal_variances_by_goldwasser_say_the_same():
    """Their test for them claims as much and errs as much: the two-sided t of each pair stays."""
    rng = np.random.default_rng(27)
    led = drawn(rng, 1000, 24, level=ahead(24, 0.04))
    steady = judged(led)
    verified, winner = goldwasser(led, steady)
    assert (verified & (winner == 0)).mean() == pytest.approx(steady.right, abs=0.005)
    sd = np.ones(24)
    sd[0] = 4  # the best by truth, which may fall behind those just below
    back = drawn(rng, 2000, 24, level=leaders(24, rest=-0.05)["level"], sd=sd)
    unsteady = judged(back)
    verified, _ = goldwasser(back, unsteady)
    assert 0.02 < verified.mean() <= 0.06
    assert verified.mean() == pytest.approx(unsteady.winner.mean(), abs=0.005)
    assert (unsteady.winner | ~verified).all()  # it never claims more


@slow
def test_a_few_that_are_ten_times_as_unsteady():
    rng = np.random.default_rng(25)
    sd = np.ones(24)
    sd[-4:] = 10
    assert judged(drawn(rng, 1500, 24, sd=sd)).holds >= 0.94
    led = judged(drawn(rng, 1500, 24, sd=sd, level=ahead(24, 0.04)))
    assert led.covers >= 0.94
    assert led.false <= 0.06


@slow
def test_a_lead_among_many_is_found():
    """Lower 95 % limit above 0.62 with 24 combinations and a lead of 0.04."""
    right = judged(drawn(np.random.default_rng(26), 3000, 24, level=ahead(24, 0.04))).right
    assert right - 1.96 * np.sqrt(right * (1 - right) / 3000) > 0.62


# ---- real cross-validation -------------------------------------------------------------------


def ratio_of_variances(studies):
    """The estimated over the true variance of the difference of the first two."""
    mean = studies.scores.mean(axis=(2, 3, 4))
    reach = judged(studies).variance[:, 0, 1]
    return reach.mean() / (mean[:, 0] - mean[:, 1]).var()


def test_real_cross_validation_makes_few_false_winners():
    assert judged(ridge(np.random.default_rng(30), 200, 2, "unstable")).false <= 0.08


@slow
@pytest.mark.parametrize("name", ["unstable", "mid"])
def test_two_equals_by_real_cross_validation(name):
    studies = ridge(np.random.default_rng(31), 1500, 2, name)
    assert judged(studies).false <= 0.06
    assert 0.95 <= ratio_of_variances(studies) <= 1.8


@slow
def test_two_tied_of_six_by_real_cross_validation():
    studies = ridge(np.random.default_rng(32), 800, 6, "unstable", gain=2.5, leaders=2)
    assert judged(studies).false <= 0.06


@slow
def test_a_lead_among_many_by_real_cross_validation():
    """24 classifiers, one ahead by 0.05 AUC: lower 95 % limit above 0.33, intervals cover."""
    studies = ridge(np.random.default_rng(33), 3000, 24, "sim", gain=1.7)
    assert studies.truth[0] - studies.truth[1] == pytest.approx(0.05, abs=0.003)
    said = judged(studies)
    assert said.right - 1.96 * np.sqrt(said.right * (1 - said.right) / 3000) > 0.33
    assert said.covers >= 0.945
    assert said.false <= 0.01


# ---- means of cases --------------------------------------------------------------------------


# How many studies of m combinations there are, and how many at a time fit into memory.
OF_CASES = {6: (3000, 3000), 24: (1000, 1000), 120: (300, 50)}


def false_by_cases(rng, m, **made):
    """Return the share of false winners, and of intervals that all cover."""
    count, part = OF_CASES[m]
    said = [judged(of_cases(rng, part, m, **made)) for _ in range(count // part)]
    return np.mean([s.false for s in said]), np.mean([s.covers for s in said])


@slow
@pytest.mark.parametrize("m", OF_CASES)
@pytest.mark.parametrize("training", [0.0, 0.1, 0.5, 1.0, 3.0])
def test_two_tied_by_cases(m, training):
    """What training adds to a fold runs from nothing to three times what its cases add."""
    rng = np.random.default_rng(40 + m)
    for made in ({}, leaders(m)):
        false, covers = false_by_cases(rng, m, training=training, **made)
        assert false <= 0.06
        assert covers >= 0.945


@slow
@pytest.mark.parametrize(
    ("training", "most"), [(0.1, 0.04), (0.5, 0.065), (1.0, 0.085), (3.0, 0.11)]
)
def test_two_combinations_by_cases(training, most):
    """Two, one repeat, one seed: nobody tells what is typical, and five folds tell it badly.

    Where training adds as much as the cases or more, false winners reach 10 %: no rule whose
    half-width is three quarters of Nadeau and Bengio's on the recorded trainings stays below 7 %
    where it adds three times as much. Below 6 % where it adds as much takes a variance of 1.9
    times the truth by ridge classifiers (`mid`), where 1.8 is asked for.
    """
    rng = np.random.default_rng(50)
    assert judged(of_cases(rng, 4000, 2, training=training)).false <= most


@slow
@pytest.mark.parametrize("m", OF_CASES)
@pytest.mark.parametrize(("first", "second"), [(2, 2), (3, 3), (3, 1), (5, 1)])
def test_unsteady_leaders_by_cases(m, first, second):
    """Leaders that training moves two to five times as far as the rest: up to 8 %.

    Five folds do not show it in every study. To judge leaders by their own scatter sooner, as 6 %
    here would take, costs the power at a lead of 0.05 among 24 that is asked for.
    """
    rng = np.random.default_rng(60 + m)
    made = leaders(m, first=first, second=second)
    for training in (0.1, 0.5, 1.0):
        false, covers = false_by_cases(rng, m, training=training, **made)
        assert false <= 0.085
        assert covers >= 0.945


# ---- continuity ------------------------------------------------------------------------------


def with_a_worse_copy(studies: Studies) -> Studies:
    """Add a copy of the second combination, 0.3 below it."""
    index = [0, 1, 1]
    scores = studies.scores[:, index].copy()
    scores[:, 2] -= 0.3
    parts = {}
    if studies.covariance is not None:
        covariance = studies.covariance[:, index][:, :, index]
        parts = {"covariance": covariance, "by_repeat": covariance[:, None]}
    return replace(studies, scores=scores, truth=np.array([0.0, 0.0, -0.3]), **parts)


@slow
@pytest.mark.parametrize("kind", ["drawn", "of_cases", "ridge"])
def test_a_clearly_worse_copy_makes_no_winner(kind):
    make = {
        "drawn": lambda rng: drawn(rng, 4000, 2),
        "of_cases": lambda rng: of_cases(rng, 4000, 2, training=0.5),
        "ridge": lambda rng: ridge(rng, 1000, 2, "mid"),
    }[kind]
    studies = make(np.random.default_rng(70))
    before, after = judged(studies).winner, judged(with_a_worse_copy(studies)).winner
    assert np.mean(after & ~before) <= 0.01


def test_the_procedure_is_continuous_in_its_scores():
    """A step of 1e-9 in a score moves every variance by no more than that."""
    rng = np.random.default_rng(71)
    for made in (drawn(rng, 200, 5), of_cases(rng, 200, 5, training=1.0)):
        moved = made.scores.copy()
        moved[:, 0, 0, 0, 0] += 1e-9
        a, b = judged(made), judged(replace(made, scores=moved))
        np.testing.assert_allclose(b.variance, a.variance, rtol=1e-4)
        np.testing.assert_allclose(b.df, a.df, rtol=1e-4)
