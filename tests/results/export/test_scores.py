"""Scores case by case: the columns that were promised, and numbers counted by hand."""

import csv
import json
import math

import pytest
from sklearn.metrics import accuracy_score

from results.export.scores import export_scores
from results.run_folder import Recorded
from results.tables.store import RunError, write_trial
from tests.golden.test_recorded import HERE
from tests.results.conftest import FOOTER


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def trial(number, *, optimizer, fold, seed, task, cases, metric):
    return {
        "trial": {
            "study": "s", "trial_id": f"t{number}", "dataset": "my scans/2", "task": task,
            "model": "cnn", "optimizer": optimizer, "loss": "ce", "schedule": "constant",
            "regularizer": "none", "repeat": 0, "fold": fold, "seed": seed, "status": "ok",
            "primary_metric": metric, "test_score": 0.5, "val_score": 0.5,
            "hparams": json.dumps({"lr": 0.1}),
        },
        "metrics": [], "epochs": [], "cases": cases,
    }  # fmt: skip


def classes(case, truth, cold, warm):
    """Return the rows of one case whose probabilities of `cold` and `warm` are given."""
    return [
        {"case_id": case, "group_id": f"g{case}", "region": region, "label": int(region == truth)}
        | {"prob": prob}
        for region, prob in (("cold", cold), ("warm", warm))
    ]


@pytest.fixture
def classified(tmp_path):
    """Two optimizers, two folds of one case each, two seeds."""
    calls = {
        ("adam", 0, 0): classes("a", "warm", 0.2, 0.8),
        ("adam", 0, 1): classes("a", "warm", 0.6, 0.4),
        ("adam", 1, 0): classes("b", "cold", 0.7, 0.3),
        ("adam", 1, 1): classes("b", "cold", 0.9, 0.1),
        ("sgd", 0, 0): classes("a", "warm", 0.9, 0.1),
        ("sgd", 0, 1): classes("a", "warm", 0.1, 0.9),
        ("sgd", 1, 0): classes("b", "cold", 0.4, 0.6),
        ("sgd", 1, 1): classes("b", "cold", 0.4, 0.6),
    }
    for number, ((optimizer, fold, seed), cases) in enumerate(calls.items()):
        rows = trial(
            number, optimizer=optimizer, fold=fold, seed=seed, task="classification",
            cases=cases, metric="auc",
        )  # fmt: skip
        write_trial(tmp_path / "run", **rows, footer=FOOTER)
    return tmp_path / "run"


def test_classification_by_hand(classified, tmp_path):
    paths = export_scores(classified, tmp_path / "out")
    assert [path.name for path in paths] == [
        "my_scans_2-1-cases.csv",
        "my_scans_2-1-claims-reloaded.csv",
        "my_scans_2-1-claims-reloaded-key.csv",
        "README.txt",
    ]
    assert "which column is which" in paths[3].read_text(encoding="utf-8")
    assert "is not written" not in paths[3].read_text(encoding="utf-8")
    rows = read(paths[0])
    assert [(r["combination"], r["case_id"], r["seeds"]) for r in rows] == [
        ("cnn + adam + ce", "a", "2"),
        ("cnn + adam + ce", "b", "2"),
        ("cnn + sgd + ce", "a", "2"),
        ("cnn + sgd + ce", "b", "2"),
    ]
    # adam calls a warm (right) by one seed, cold (wrong) by the other.
    assert [float(r["correct"]) for r in rows] == [0.5, 1.0, 0.5, 0.0]
    assert [float(r["prob_warm"]) for r in rows] == pytest.approx([0.6, 0.2, 0.5, 0.6])
    assert [r["truth"] for r in rows] == ["warm", "cold", "warm", "cold"]
    assert {(r["group_id"], r["fold"]) for r in rows} == {("ga", "0"), ("gb", "1")}
    # The first seed alone, classes as numbers: cold 0, warm 1.
    assert paths[1].read_text(encoding="utf-8").splitlines() == [
        "case_id,ground_truth,alg_01,alg_02",
        "a,1,1,0",
        "b,0,0,1",
    ]
    assert read(paths[2]) == [
        {"column": "alg_01", "is": "cnn + adam + ce"},
        {"column": "alg_02", "is": "cnn + sgd + ce"},
        {"column": "class 0", "is": "cold"},
        {"column": "class 1", "is": "warm"},
    ]


def masks(case, region, dice, **more):
    return {"case_id": case, "group_id": case, "region": region, "dice": dice, "tp": 1} | more


def test_segmentation_by_hand(tmp_path):
    """Regions, then seeds; both masks empty is no Dice, and 1 where all must have one."""
    cases = {
        ("adam", 0): [masks("a", "WT", 0.5, hd95_mm=2.0), masks("a", "ET", None, hd95_mm=0.0)],
        ("adam", 1): [masks("a", "WT", 0.7, hd95_mm=4.0), masks("a", "ET", 0.0, hd95_mm=9.0)],
        ("sgd", 0): [masks("a", "WT", 0.4), masks("a", "ET", None)],
        ("sgd", 1): [masks("a", "WT", 0.4), masks("a", "ET", None)],
    }
    for number, ((optimizer, seed), rows) in enumerate(cases.items()):
        made = trial(
            number, optimizer=optimizer, fold=0, seed=seed, task="segmentation",
            cases=rows, metric="dice",
        )  # fmt: skip
        write_trial(tmp_path / "run", **made, footer=FOOTER)
    paths = export_scores(tmp_path / "run", tmp_path / "out")
    rows = {(r["optimizer"], r["region"]): r for r in read(paths[0])}
    assert float(rows["adam", "WT"]["dice_skip_empty"]) == pytest.approx(0.6)
    assert float(rows["adam", "WT"]["hd95_mm"]) == pytest.approx(3.0)
    assert float(rows["adam", "ET"]["dice_skip_empty"]) == 0.0
    assert float(rows["adam", "ET"]["dice_empty_is_one"]) == 0.5
    assert rows["sgd", "ET"]["dice_skip_empty"] == rows["sgd", "ET"]["hd95_mm"] == ""
    (wide,) = read(paths[1])
    assert list(wide) == ["case_id", "alg_01", "alg_02"]
    assert float(wide["alg_01"]) == pytest.approx(((0.5 + 1) / 2 + (0.7 + 0) / 2) / 2)
    assert float(wide["alg_02"]) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("task", "cases", "named"),
    [
        ("multilabel", [{"region": "Edema", "label": 1, "prob": 0.5}], "several findings"),
        ("regression", [{"region": "", "truth": 50.0, "predicted": 51.0}], "numbers"),
    ],
)
def test_what_claims_reloaded_has_no_form_for_is_said(tmp_path, task, cases, named):
    rows = [{"case_id": "a", "group_id": "a", **row} for row in cases]
    for number, optimizer in enumerate(("adam", "sgd")):
        made = trial(
            number, optimizer=optimizer, fold=0, seed=0, task=task, cases=rows, metric="auc"
        )
        write_trial(tmp_path / "run", **made, footer=FOOTER)
    said = []
    paths = export_scores(tmp_path / "run", tmp_path / "out", said.append)
    assert [path.name for path in paths] == ["my_scans_2-1-cases.csv", "README.txt"]
    file = "my_scans_2-1-claims-reloaded.csv"
    assert said == [f"{file} is not written: Claims Reloaded has no format for {named}."]
    readme = paths[-1].read_text(encoding="utf-8")
    assert said[0] in readme
    assert "which column is which" not in readme


def test_accuracy_of_the_exported_calls_is_that_of_the_run(tmp_path):
    """A run of the product: what it noted of each trial, against scikit-learn on the file."""
    paths = {path.name: path for path in export_scores(HERE / "recorded", tmp_path)}
    run = Recorded(HERE / "recorded")
    (contest,) = [c for c in run.contests if c.task == "classification"]
    key = {r["is"]: r["column"] for r in read(paths[f"{contest.dataset}-claims-reloaded-key.csv"])}
    table = read(paths[f"{contest.dataset}-claims-reloaded.csv"])
    assert len({row["case_id"] for row in table}) == len(table) == 24
    assert contest.judged
    first = {c.name: [t for t in c.scored if not t["seed"]] for c in contest.judged}
    for name, trials in first.items():
        noted = [
            (row["value"], next(t for t in trials if t["trial_id"] == row["trial_id"]))
            for row in run.rows("metrics", [t["trial_id"] for t in trials])
            if (row["split"], row["metric"], row["unit"]) == ("test", "accuracy", "image")
            and not (row["region"] or row["stratum"] or row["degradation"])
        ]
        assert len(noted) == len(trials) == len(contest.folds)
        right = sum(value * trial["n_test_cases"] for value, trial in noted)
        truth, calls = zip(*((r["ground_truth"], r[key[name]]) for r in table), strict=True)
        assert accuracy_score(truth, calls) == pytest.approx(right / len(table))
    volumes = read(next(p for n, p in paths.items() if n.startswith("volumes-claims")))
    dice = [float(v) for row in volumes for k, v in row.items() if k.startswith("alg_")]
    assert dice
    assert all(0 <= value <= 1 and math.isfinite(value) for value in dice)


def test_a_run_without_a_scored_case_is_refused(tmp_path, make_run):
    run = make_run(broken={("d", "adam", "ce", 0): "failed"}, datasets=(("d", "classification"),),
                   optimizers=("adam",), losses=("ce",), folds=1)  # fmt: skip
    with pytest.raises(RunError, match="nothing to export"):
        export_scores(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
