"""What a claim says of its own level, where simulated studies show another."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.dummy import DummyRegressor

from results.statistics.evidence import Evidence
from results.statistics.procedure import compare
from results.verdict import doubts
from results.verdict.claims import Asked, _agreement, level_that_holds, of_models, of_procedure
from results.verdict.doubts import rule_changed
from results.verdict.evidence import Known


def asked(m, seeds, *, by_cases=True):
    """A field whose first is far ahead of the others, all equally steady."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0.7, 0.002, (m, 1, 5, seeds))
    scores[0] += 0.2
    influence = rng.normal(0, 0.001, (m, 1, seeds, 100)) if by_cases else None
    if influence is not None:
        influence -= influence.mean(axis=-1, keepdims=True)
    evidence = Evidence(scores=scores, influence=influence, test_train_ratio=0.25)
    found = compare(evidence, alpha=0.05)
    assert found.winner == 0
    names = [f"c{i}" for i in range(m)]
    known = Known(evidence=evidence, folds_alone=None if by_cases else "no cases")
    return known, Asked(names=names, found=found, metric="auc", margin=0.01)


def test_two_of_one_seed_are_told_that_five_percent_may_be_nine():
    (said,) = level_that_holds(*asked(2, 1))
    assert said.startswith("The requested level of this claim is 5 %")
    assert "two combinations with one seed and one repeat" in said
    assert "was false in up to 9 % of them. A second seed would remove this doubt." in said


@pytest.mark.parametrize(("m", "seeds", "by_cases"), [(2, 3, True), (2, 1, False)])
def test_other_claims_have_the_level_that_they_say(m, seeds, by_cases):
    assert level_that_holds(*asked(m, seeds, by_cases=by_cases)) == []


def test_a_leader_less_steady_than_the_field_is_told():
    known, six = asked(6, 3)
    found = replace(six.found, steady=np.ones(6, bool))
    assert level_that_holds(known, replace(six, found=found)) == []
    unsteady = found.steady.copy()
    unsteady[found.runner_up] = False
    (said,) = level_that_holds(known, replace(six, found=replace(found, steady=unsteady)))
    assert "less steady than the others) was false in up to 8 % of them." in said


def test_nothing_is_said_where_no_winner_is_claimed():
    known, two = asked(2, 1)
    undecided = replace(two, found=replace(two.found, winner=None))
    assert level_that_holds(known, undecided) == []


def test_no_interval_goes_further_than_two_scores_can_differ():
    scores = np.random.default_rng(1).uniform(0, 1, (4, 1, 3, 1))
    free = Evidence(scores=scores, influence=None, test_train_ratio=0.5)
    assert compare(free, alpha=0.05).low.min() < -1
    kept = compare(replace(free, span=1.0), alpha=0.05)
    assert kept.low.min() == -1
    assert kept.high.max() <= 1
    two = Asked(names=list("abcd"), found=kept, metric="dice", margin=0.01)
    assert two.reach <= 1
    assert two.lead["high"] <= 1


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("abcd", "abcd", "all 4 may be the best, all of them by AUC too."),
        ("abcd", "ab", "2 of 4 may be the best, all of them by AUC too."),
        ("ab", "abcd", "all 4 may be the best, 2 of which may be the best by AUC too."),
        ("ab", "bc", "2 of 4 may be the best, 1 of which may be the best by AUC too."),
    ],
)
def test_what_two_groups_share_is_said(first, second, says):
    def group(metric, members):
        found = SimpleNamespace(group=np.array([n in members for n in "abcd"]), winner=None, best=0)
        return Asked(names="abcd", found=found, metric=metric, margin=0.01)

    _, sentence = _agreement(group("auc", first), group("brier", second))
    assert sentence.endswith(f"no clear winner either: {says}")


def test_a_task_that_a_later_version_has_is_no_change_of_the_rule():
    rule = {"hash": "", "primary": {"classification": "auc"}, "margin": 0.01, "alpha": 0.05}
    rule["deviations"] = {"echo": 10.0}
    study = {"data": [{"name": n, "deviation": d} for n, d in (("echo", 10.0), ("late", 2.0))]}
    study |= {"primary": {"classification": "auc", "multilabel": "auc"}, "margin": 0.01}
    assert rule_changed(study, rule) == []
    (said,) = rule_changed(study | {"primary": {"classification": "mcc"}}, rule)
    assert said.startswith("primary was")
    (said,) = rule_changed(study | {"data": []}, rule)
    assert said.startswith("deviations was echo 10 before the first trial")


@pytest.mark.parametrize(
    ("metric", "strategy"), [("mae", "median"), ("rmse", "mean"), ("r2", "mean")]
)
def test_a_guess_of_numbers_is_that_of_scikit_learn(metric, strategy):
    y = np.random.default_rng(0).gamma(2, 10, 41)
    guess = DummyRegressor(strategy=strategy).fit(y[:, None], y).predict(y[:, None])
    theirs = {
        "mae": sk.mean_absolute_error,
        "rmse": sk.root_mean_squared_error,
        "r2": sk.r2_score,
    }
    contest = SimpleNamespace(metric=metric, task="regression")
    value, _ = doubts._chance(contest, [{"truth": one} for one in y])
    assert value == pytest.approx(theirs[metric](y, guess))


def test_a_guess_of_findings_is_the_mean_over_those_that_are_known():
    a, b = np.array([1, 0, 0, 1, 0]), np.array([1, 0, 0, 0])
    rows = [{"region": "a", "label": int(y)} for y in a]
    rows += [{"region": "b", "label": int(y)} for y in b] + [{"region": "b", "label": None}]
    contest = SimpleNamespace(metric="brier", task="multilabel")
    value, _ = doubts._chance(contest, rows)
    wanted = [sk.brier_score_loss(y, np.full(len(y), y.mean())) for y in (a, b)]
    assert value == pytest.approx(np.mean(wanted))


def test_one_answer_to_all_is_told():
    who = SimpleNamespace(name="x")
    rows = [
        {"region": "a", "label": n % 2, "prob": 0.1, "trial_id": "t", "truth": n, "predicted": 5.0}
        for n in range(6)
    ]
    of_findings = doubts._one_answer(SimpleNamespace(task="multilabel"), who, rows)
    words = of_findings.replace("\u202f", " ").replace("\xa0", " ")
    assert words == "x calls a in none of the test cases with a known answer (50 % have it)."
    of_numbers = doubts._one_answer(SimpleNamespace(task="regression"), who, rows)
    assert of_numbers == "x predicts nearly the same number for all test cases in 1 of 1 trial."


def test_of_two_the_other_is_named_once():
    _, two = asked(2, 3)
    for claim, verb in ((of_procedure(two), "it is"), (of_models(two), "they are")):
        said = claim["sentence"]
        assert said.count("c1") == 1
        assert f"c1 (level 5 %); {verb} ahead by 0." in said
        assert "the other" not in said
        assert "the next" not in said
    _, six = asked(6, 3)
    assert (
        "than each of the other 5 (level 5 %); it is ahead of the next, c"
        in (of_procedure(six)["sentence"])
    )
