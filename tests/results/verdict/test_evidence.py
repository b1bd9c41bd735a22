"""From a run's rows to evidence: scores by repeat, fold and seed, and what each patient adds."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import special, stats
from sklearn import metrics

from results.statistics.predict import Plan
from results.tables.schema import TABLES
from results.verdict.combinations import contests
from results.verdict.evidence import Measure, known, read_cases
from results.verdict.next_steps import _more_patients, foreseen
from results.verdict.verdict import verdict

ONE = (("lung-nodules", "classification"),)
BRAIN = (("brain", "segmentation"),)
DESCRIBED = {
    "auc": {"direction": "max", "range": [0, 1], "influence": "delong"},
    "sensitivity": {"direction": "max", "range": [0, 1], "influence": "sensitivity"},
    "brier": {"direction": "min", "range": [0, 1], "influence": "squared error"},
    "calibration_error": {"direction": "min", "range": [0, 1], "influence": None},
    "dice": {"direction": "max", "range": [0, 1], "influence": "dice"},
    "hd95": {"direction": "min", "range": [0, None], "unit": "mm", "influence": "hd95"},
}
SCORES = {
    "auc": metrics.roc_auc_score,
    "sensitivity": lambda y, p: metrics.recall_score(y, p > 0.5),
    "brier": metrics.brier_score_loss,
}


def with_cases(made, metric="auc", *, n=20, cases_a_patient=1, lead=0.0):
    """Return rows with scores of cases that are drawn for each trial, and `rows_of` that has them.

    Fold j of repeat r tests cases of its own; the first optimizer's scores are better by `lead`.
    """
    rows, study = made
    rng = np.random.default_rng(5)
    tables = {"cases": [], "metrics": []}
    truth = {}
    first = rows[0]["optimizer"]
    for row in rows:
        row["primary_metric"] = metric
        cell = row["repeat"], row["fold"]
        y = truth.setdefault(cell, rng.permutation(np.arange(n) % 2))
        noise = np.random.default_rng([row["fold"], row["repeat"]]).normal(size=n)
        z = noise + (1.0 + lead * (row["optimizer"] == first)) * y + 0.2 * rng.normal(size=n)
        p = 1 / (1 + np.exp(-z + 0.5))
        row["test_score"] = float(SCORES[metric](y, p))
        for i in range(n):
            case = row["fold"] * n + i
            tables["cases"] += [
                {
                    "trial_id": row["trial_id"],
                    "case_id": f"c{case}",
                    "group_id": f"g{case // cases_a_patient}",
                    "region": name,
                    "label": int(y[i] == k),
                    "prob": p[i] if k else 1 - p[i],
                    "log_odds": (z[i] - 0.5) * (1 if k else -1),
                    "tp": None,
                }
                for k, name in enumerate(("benign", "malignant"))
            ]
        tables["metrics"] += [
            {"trial_id": row["trial_id"], "split": "test", "metric": name, "degradation": ""}
            | {"headline": True, "value": float(score(y, p))}
            for name, score in SCORES.items()
        ]

    def rows_of(table, trials, _columns=None):
        wanted = set(trials)
        found = [row for row in tables[table] if row["trial_id"] in wanted]
        return pa.Table.from_pylist(found, schema=TABLES[table])

    return rows, study, rows_of


def evidence_of(rows, study, rows_of, metric="auc"):
    (contest,) = contests(rows, study, DESCRIBED)
    cases = read_cases(contest.judged, rows_of)
    measure = Measure.of(metric, DESCRIBED[metric])
    return known(contest, contest.judged, measure, cases, lambda row: row["test_score"])


OPTIONS = {"datasets": ONE, "optimizers": ("adam", "sgd"), "losses": ("ce",), "folds": 3}


@pytest.mark.parametrize("metric", ["auc", "sensitivity", "brier"])
def test_scores_and_influences_stand_by_repeat_fold_and_seed(make_rows, metric):
    rows, study, rows_of = with_cases(make_rows(**OPTIONS, seeds=(0, 1)), metric)
    found = evidence_of(rows, study, rows_of, metric)
    assert found.folds_alone is None
    sign = -1 if metric == "brier" else 1
    by_cell = {(r["optimizer"], r["fold"], r["seed"]): sign * r["test_score"] for r in rows}
    for i, optimizer in enumerate(("adam", "sgd")):
        for j in range(3):
            for s in (0, 1):
                assert found.evidence.scores[i, 0, j, s] == by_cell[optimizer, j, s]
    assert found.evidence.influence.shape == (2, 1, 2, 60)
    # The influences of the cases of a fold add up to nothing.
    np.testing.assert_allclose(found.evidence.influence.sum(axis=-1), 0, atol=1e-12)


def test_the_variance_over_patients_is_that_of_delong(make_rows):
    """Of one fold: scores of two models on the same 20 cases, by all pairs; a third of it each."""
    rows, study, rows_of = with_cases(make_rows(**OPTIONS))
    phi = evidence_of(rows, study, rows_of).evidence.influence[:, 0, 0]
    expected = np.zeros((2, 2))
    for fold in range(3):
        v10, v01 = [], []
        for optimizer in ("adam", "sgd"):
            trial = next(r for r in rows if (r["optimizer"], r["fold"]) == (optimizer, fold))
            cases = rows_of("cases", [trial["trial_id"]]).to_pylist()
            cases = [c for c in cases if c["region"] == "malignant"]
            x = [c["log_odds"] for c in cases if c["label"]]
            y = [c["log_odds"] for c in cases if not c["label"]]
            v10.append([np.mean([float(b < a) for b in y]) for a in x])
            v01.append([np.mean([float(b < a) for a in x]) for b in y])
        expected += (np.cov(v10) / len(x) + np.cov(v01) / len(y)) / 9
    np.testing.assert_allclose(phi @ phi.T, expected, rtol=1e-6)


def test_cases_of_one_patient_are_one(make_rows):
    rows, study, rows_of = with_cases(make_rows(**OPTIONS), cases_a_patient=4)
    assert evidence_of(rows, study, rows_of).evidence.patients == 15


def without(tables, change):
    def rows_of(table, trials, columns=None):
        found = tables(table, trials, columns)
        if table != "cases":
            return found
        return pa.Table.from_pylist(change(found.to_pylist()), schema=TABLES[table])

    return rows_of


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: [], "the table of cases is missing"),
        (lambda rows: rows[:-1], "the table of cases is not complete"),
        (lambda rows: [r | {"log_odds": -r["log_odds"]} for r in rows], "do not reproduce the"),
        (
            lambda rows: [r | {"case_id": r["case_id"] + r["trial_id"]} for r in rows],
            "not tested on the same cases",
        ),
        (lambda rows: [r | {"group_id": "one"} for r in rows], "only one patient in a fold"),
    ],
)
def test_cases_that_cannot_be_trusted_leave_the_folds(make_rows, change, why):
    rows, study, rows_of = with_cases(make_rows(**OPTIONS))
    found = evidence_of(rows, study, without(rows_of, change))
    assert found.evidence.influence is None
    assert why in found.folds_alone
    (data,) = verdict(contests(rows, study, DESCRIBED), study, without(rows_of, change))["datasets"]
    assert data["errors"]["by"] == "folds"
    assert data["errors"]["floor"] is None
    assert why in data["errors"]["reason"]
    assert why in data["claims"][1]["sentence"]
    assert data["claims"][1]["state"] == "none"


def test_a_metric_without_a_rule_is_told_by_folds(make_rows):
    rows, study, rows_of = with_cases(make_rows(**OPTIONS))
    described = DESCRIBED | {"auc": DESCRIBED["auc"] | {"influence": None}}
    (data,) = verdict(contests(rows, study, described), study, rows_of)["datasets"]
    assert data["errors"]["by"] == "folds"
    assert "no smooth influence function of AUC" in data["errors"]["reason"]


def test_footers_of_before_name_no_rule_and_are_known_by_the_metric():
    assert Measure.of("auc", {"direction": "max"}).rule == "delong"
    assert Measure.of("froc", {"direction": "max"}).rule is None


def test_three_questions_have_three_answers(make_rows):
    """Of the procedure, of the models trained here, and of each axis on average."""
    made = make_rows(datasets=ONE, optimizers=("adam", "sgd"), losses=("ce", "focal"))
    rows, study, rows_of = with_cases(made, n=60, lead=0.5)
    (data,) = verdict(contests(rows, study, DESCRIBED), study, rows_of)["datasets"]
    procedure, models, optimizer, loss = data["claims"]
    assert [c["of"] for c in data["claims"]] == ["procedure", "models", "optimizer", "loss"]
    assert procedure["sentence"].startswith("If trained anew on as many similar patients, ")
    assert models["sentence"].startswith("On new patients, among the models trained here, ")
    assert models["sentence"].endswith("Other training sets may give another answer.")
    assert optimizer["sentence"].startswith("On average over these losses, adam scores better")
    assert (optimizer["state"], optimizer["best"]) == ("better", "adam")
    assert loss["state"] != "better"
    assert len(models["group"]) <= len(procedure["group"])
    of = {m["axis"]: m for m in data["margins"]}
    means = {r["name"].split(" + ")[1]: [] for r in data["combinations"]}
    for row in data["combinations"]:
        means[row["optimizer"]].append(row["test_score"])
    for level in of["optimizer"]["levels"]:
        assert level["mean"] == pytest.approx(np.mean(means[level["name"]]))
    (interaction,) = data["interactions"]
    assert interaction["axes"] == ["optimizer", "loss"]
    assert interaction["real"] == (interaction["p_value"] < 0.05)
    shares = data["errors"]["shares"]
    assert shares["patients"] + shares["training"] + (shares["seed"] or 0) == pytest.approx(1)
    assert data["errors"]["floor"] > 0


def test_a_second_metric_is_asked_and_an_unmeasured_one_told(make_rows):
    rows, study, rows_of = with_cases(make_rows(**OPTIONS), n=60, lead=1.5)
    (data,) = verdict(contests(rows, study, DESCRIBED), study, rows_of)["datasets"]
    assert data["state"] == "better"
    calibration, brier = data["second"]
    assert (calibration["metric"], calibration["state"]) == ("calibration_error", "none")
    assert calibration["sentence"] == (
        "By calibration error nothing can be said: no trial has a value."
    )
    assert brier["metric"] == "brier"
    # The score that is better when smaller is the smaller one of the group's best.
    mean = {
        name: np.mean(
            [m["value"] for m in rows_of("metrics", ids).to_pylist() if m["metric"] == "brier"]
        )
        for name, ids in (
            (f"resnet18 + {o} + ce", [r["trial_id"] for r in rows if r["optimizer"] == o])
            for o in ("adam", "sgd")
        )
    }
    assert brier["best"] == min(mean, key=mean.get)
    assert brier["agrees"] == (
        brier["best"] == "resnet18 + adam + ce" or brier["state"] != "better"
    )


def test_why_another_metric_tells_nothing_is_the_true_reason(make_rows):
    """Some trials lack it; all have it, of one fold, and no case tells how it varies."""

    def told(folds, kept):
        made = make_rows(**OPTIONS | {"folds": folds})
        rows, study, rows_of = with_cases(made, n=60, lead=1.5)
        ids = [row["trial_id"] for row in rows]
        scores = [
            {"trial_id": one, "split": "test", "metric": "calibration_error", "value": 0.1}
            | {"unit": "image", "headline": True}
            for one in ids[:kept]
        ]

        def with_scores(table, trials, columns):
            found = rows_of(table, trials, columns)
            if table != "metrics":
                return found
            more = [{name: row.get(name) for name in found.schema.names} for row in scores]
            return pa.concat_tables([found, pa.Table.from_pylist(more, schema=found.schema)])

        (data,) = verdict(contests(rows, study, DESCRIBED), study, with_scores)["datasets"]
        return data["second"][0]["sentence"], len(ids)

    sentence, trials = told(3, 4)
    assert sentence == (
        f"By calibration error nothing can be said: {trials - 4} of {trials} trials have no value."
    )
    sentence, _ = told(1, 2)
    assert sentence == (
        "By calibration error nothing can be said: one fold does not show how uncertain its scores "
        "are (no smooth influence function of calibration error is known)."
    )


def test_a_distance_that_no_trial_has_is_told_to_need_a_spacing(make_rows):
    made = make_rows(
        datasets=(("d", "segmentation"),), optimizers=("adam", "sgd"), losses=("ce",), folds=3
    )
    rows, study = made
    (data,) = verdict(contests(rows, study, DESCRIBED), study)["datasets"]
    (hd95,) = [each for each in data["second"] if each["metric"] == "hd95"]
    assert hd95["sentence"] == (
        "By HD95 nothing can be said: no trial has a value; a distance needs the spacing of the "
        "images in mm."
    )


def test_one_fold_claims_of_the_models_alone(make_rows):
    made = make_rows(datasets=ONE, optimizers=("adam", "sgd"), losses=("ce",), folds=1)
    rows, study, rows_of = with_cases(made, n=200, lead=2.0)
    (data,) = verdict(contests(rows, study, DESCRIBED), study, rows_of)["datasets"]
    assert [c["of"] for c in data["claims"]] == ["models"]
    assert data["state"] == "better"
    assert data["reason"].startswith(
        "On new patients, among the models trained here, those of resnet18 + adam + ce"
    )
    assert "One fold cannot show" in data["next"]["sentence"]
    assert "from fold to fold is not known" in " ".join(data["warnings"])
    assert "The requested level" not in " ".join(data["warnings"])
    # The score's own interval is of these models too: DeLong's, on the logit (scipy).
    row = data["combinations"][0]
    phi = evidence_of(rows, study, rows_of).evidence.influence[0, 0, 0]
    inner = row["test_score"] * (1 - row["test_score"])
    half = stats.t.ppf(0.975, len(phi) - 2) * np.sqrt((phi**2).sum()) / inner
    ends = special.expit(special.logit(row["test_score"]) + np.array([-half, half]))
    assert [row["test_low"], row["test_high"]] == pytest.approx(list(ends))


def test_one_fold_near_chance_is_warned_of(make_rows):
    made = make_rows(datasets=ONE, optimizers=("adam", "sgd"), losses=("ce",), folds=1)
    rows, study, rows_of = with_cases(made, n=10)
    (data,) = verdict(contests(rows, study, DESCRIBED), study, rows_of)["datasets"]
    assert "is not shown to be better than chance" in " ".join(data["warnings"])


def test_what_would_decide_is_said_with_its_price(make_rows):
    made = make_rows(datasets=ONE, optimizers=("adam", "sgd"), losses=("ce",), seeds=(0, 1))
    rows, study, rows_of = with_cases(made, n=30, lead=0.1)
    (data,) = verdict(contests(rows, study, DESCRIBED), study, rows_of)["datasets"]
    assert data["state"] == "undecided"
    options = {option["what"]: option for option in data["next"]["options"]}
    assert set(options) == {"repeats", "seeds", "folds", "patients"}
    lead = data["lead"]
    wanted = max(lead["estimate"], 0.01)
    now = (lead["high"] - lead["low"]) / 2
    assert options["patients"]["number"] == np.ceil(150 * (now / wanted) ** 2)
    for what, option in options.items():
        assert option["half_width"] < now or what == "folds"
        assert option["decides"] == (option["half_width"] <= wanted)
    wall = np.mean([row["wall_sec"] for row in rows])
    seeds = options["seeds"]["number"]
    assert options["seeds"]["seconds"] == pytest.approx(wall * 2 * 5 * (seeds - 2), rel=1e-6)
    assert data["next"]["sentence"] in data["reason"]
    assert "of the uncertainty of the best one's lead comes from the patients" in data["reason"]
    needed = options["patients"]["number"]
    said = f"{float(f'{needed:.2g}'):,.0f}"
    assert needed > 1000
    assert f"about {said} patients (now 150) would be enough, since with more" in data["reason"]


@pytest.mark.parametrize(
    ("number", "said"),
    [(987, "987"), (1000, "1,000"), (1049, "1,000"), (35_683, "36,000"), (999_999, "1,000,000")],
)
def test_a_large_number_of_patients_is_said_with_two_digits(number, said):
    option, words = _more_patients(number - 1, number / (number - 1) - 1e-9, 0.01)
    assert option[0]["number"] == number
    assert words[0].startswith(f"about {said} patients (now ")


def test_a_number_of_patients_that_nobody_has_is_no_way_to_decide(make_rows):
    made = make_rows(datasets=ONE, optimizers=("adam", "sgd"), losses=("ce",))
    rows, study, rows_of = with_cases(made, n=6, lead=0.01)
    for n, row in enumerate(rows):
        row["test_score"] = 0.5 + 0.3 * (-1) ** n + (0.001 if row["optimizer"] == "adam" else 0)
    (data,) = verdict(contests(rows, study, DESCRIBED), study, rows_of)["datasets"]
    assert "patients" not in {option["what"] for option in data["next"]["options"]}
    assert "no practical number of patients would be enough (it takes more" in data["reason"]


def test_the_models_claim_of_a_winner_is_of_its_models(make_rows):
    rows, study, rows_of = with_cases(make_rows(**OPTIONS), n=200, lead=2.0)
    (data,) = verdict(contests(rows, study, DESCRIBED), study, rows_of)["datasets"]
    models = data["claims"][1]
    assert models["state"] == "better"
    assert (
        "those of resnet18 + adam + ce score better than those of resnet18 + sgd"
        in (models["sentence"])
    )


# ---- the rule of before the first trial ---------------------------------------------------------


def test_a_margin_that_changed_is_told(make_rows):
    rows, study = make_rows(**OPTIONS)
    rule = {"hash": "ab", "primary": study["primary"], "margin": 0.01, "alpha": 0.05}
    rule["deviations"] = {}
    every = contests(rows, study, DESCRIBED)
    assert verdict(every, study, rule=rule)["datasets"][0]["warnings"] == []
    changed = study | {"margin": 0.5}
    (warning,) = verdict(every, changed, rule=rule)["datasets"][0]["warnings"]
    assert warning.startswith("margin was 0.01 before the first trial, but study.yaml now says 0.5")


# ---- a pilot ------------------------------------------------------------------------------------


def test_an_unfinished_pilot_is_used_by_what_all_have(make_rows):
    """Of 3 folds one combination has two: the others' third does not count, nor one without any."""
    rows, study, rows_of = with_cases(
        make_rows(**OPTIONS | {"optimizers": ("adam", "sgd", "lbfgs")})
    )
    plan = Plan(folds=5, repeats=1, seeds=1, patients=500, test_train_ratio=0.3)

    def told_by(kept):
        (contest,) = contests(kept, study, DESCRIBED)
        return foreseen(contest, plan, rows_of, alpha=0.05)

    two = [row for row in rows if row["optimizer"] != "lbfgs"]
    partial = told_by([r for r in two if (r["optimizer"], r["fold"]) != ("adam", 2)])
    assert (partial.folds, partial.combinations) == (2, 2)
    assert partial == told_by([row for row in two if row["fold"] < 2])
    assert partial != told_by(two)
    one_fold = told_by([row for row in rows if row["fold"] == 0])
    assert one_fold.prediction is None
    assert "the same two folds" in str(one_fold)
