"""From rows of trials to a verdict: who competes, what is found, what it costs, what is said."""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.report.write import load_verdicts, write_report
from results.statistics.evidence import Evidence
from results.statistics.intervals import corrected_interval
from results.statistics.procedure import compare
from results.tables.schema import TABLES
from results.tables.store import RunError, compact, read
from results.verdict.combinations import contests
from results.verdict.schema import (
    Across,
    Advantage,
    Chosen,
    Estimate,
    Judged,
    OfDataset,
    Price,
    Rank,
    Seconds,
    Verdict,
)
from results.verdict.verdict import verdict

ONE = (("lung-nodules", "classification"),)
NAMES = {
    f"resnet18 + {o} + {f}" for o in ("adamw", "sgd", "lbfgs") for f in ("ce", "focal", "dice_ce")
}


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["combinations"]}


METRICS = {
    "auc": {"direction": "max", "range": [0, 1]},
    "dice": {"direction": "max"},
    "hd95": {"direction": "min", "range": [0, None]},
}


def judge(made) -> dict[str, Any]:
    """Return the verdict of (rows, study)."""
    rows, study = made
    return verdict(contests(rows, study, METRICS), study)


def only(made) -> dict[str, Any]:
    (found,) = judge(made)["datasets"]
    return found


def made_twins(rows: list[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Give focal the numbers of ce; return the rows of ce by optimizer and fold."""
    numbers = {(row["optimizer"], row["fold"]): row for row in rows if row["loss"] == "ce"}
    for row in rows:
        if row["loss"] == "focal":
            own = numbers[row["optimizer"], row["fold"]]
            row |= {key: own[key] for key in ("val_score", "test_score", "test_loss")}
    return numbers


# ---- what is found ---------------------------------------------------------------------------


def test_one_that_is_ahead_of_all_is_better(make_rows):
    found = only(make_rows(datasets=ONE, lead=0.08))
    assert found["state"] == "better"
    assert found["recommended"] == "resnet18 + adamw + ce"
    assert found["tied_group"] == ["resnet18 + adamw + ce"]
    row = by_name(found)["resnet18 + adamw + ce"]
    assert row["advantage"]["low"] == 0
    assert 0.05 < row["advantage"]["estimate"] < row["advantage"]["high"]
    assert found["price"]["seconds"] == pytest.approx(row["train_sec"])
    assert found["reason"].startswith(
        "If trained anew on as many similar patients, resnet18 + adamw + ce scores better than "
        "each of the other 8 (level 5 %); it is ahead of the next, "
    )
    lead = found["lead"]
    assert lead["best"] == "resnet18 + adamw + ce"
    assert 0 < lead["low"] < lead["estimate"] == row["advantage"]["estimate"] < lead["high"]
    assert found["claims"][0]["sentence"] in found["reason"]
    assert "One of its trials takes 12 s of training (15 s with set-up" in found["reason"]


def test_a_lead_inside_the_margin_is_said_to_be_small(make_rows):
    found = only(make_rows(datasets=ONE, lead=0.03, noise=0.001, study={"margin": 0.1}))
    assert found["state"] == "better"
    assert "within the margin of 0.100" in found["reason"]


def test_a_margin_may_count_the_deviations_of_a_data_sets_numbers(make_rows):
    """0.01 of 10 is a margin of 0.1; another data set's stays 0.01."""
    data = [{"name": "lung-nodules", "deviation": 10.0}]
    found = only(make_rows(datasets=ONE, lead=0.03, noise=0.001, study={"data": data}))
    assert found["margin"] == pytest.approx(0.1)
    assert "within the margin of 0.100" in found["reason"]
    said = "The margin is 0.100 AUC: 0.01 times 10, the standard deviation of the true numbers."
    assert said in found["reason"]
    data = [{"name": "others", "deviation": 10.0}, {"name": "lung-nodules"}]
    found = only(make_rows(datasets=ONE, lead=0.03, noise=0.001, study={"data": data}))
    assert found["margin"] == 0.01
    assert "margin" not in found["reason"]


def best_of_the_cheapest(found):
    """Return the best score among those that cost as little as the cheapest of the tied group."""
    rows = by_name(found)
    cheapest = min(found["tied_group"], key=lambda name: rows[name]["train_sec"])
    assert cheapest in found["price"]["alike"]
    assert set(found["price"]["alike"]) <= set(found["tied_group"])
    return max(found["price"]["alike"], key=lambda name: rows[name]["test_score"])


def test_differences_too_small_to_matter_are_a_tie_and_the_cheapest_is_taken(make_rows):
    found = only(make_rows(datasets=ONE, spread=0, noise=0.001))
    assert found["state"] == "tie"
    assert set(found["tied_group"]) == NAMES
    assert found["recommended"] == best_of_the_cheapest(found)
    assert "does not matter which is chosen" in found["reason"]
    assert "a choice, not a finding" in found["reason"]


def test_noise_leaves_it_undecided(make_rows):
    found = only(make_rows(datasets=ONE, spread=0, noise=0.04))
    assert found["state"] == "undecided"
    assert found["recommended"] == best_of_the_cheapest(found)
    assert "A decision needs an interval of at most ±" in found["reason"]


def test_prices_that_differ_by_noise_are_said_to_be_alike(make_rows):
    found = only(
        make_rows(datasets=ONE, optimizers=("adam", "adamw"), losses=("ce", "focal"), noise=0.04)
    )
    assert len(found["tied_group"]) == 4
    assert set(found["price"]["alike"]) == set(found["tied_group"])
    assert "it scores best and the folds cannot show which of them trains" in found["reason"]
    rows = by_name(found)
    assert found["recommended"] == max(rows, key=lambda name: rows[name]["test_score"])
    assert found["price"]["seconds"] == rows[found["recommended"]]["train_sec"]


def test_without_times_the_choice_goes_by_score_and_says_so(make_rows):
    found = only(make_rows(datasets=ONE, spread=0, noise=0.04, columns={"train_sec": None}))
    assert found["price"] is None
    best = max(found["combinations"], key=lambda row: row["test_score"])
    assert found["recommended"] == best["name"]
    assert "Training times were not measured" in found["reason"]


def test_seeds_are_averaged_inside_a_fold(make_rows):
    """Five seeds of one fold are one number: the degrees of freedom stay those of the folds."""
    rows, study = make_rows(datasets=ONE, seeds=(0, 1, 2, 3, 4), noise=0.02)
    found = only((rows, study))
    scores: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        name = f"{row['model']} + {row['optimizer']} + {row['loss']}"
        scores.setdefault(name, {}).setdefault(row["fold"], []).append(row["test_score"])
    names = sorted(scores)
    table = np.array([[scores[name][fold] for fold in range(5)] for name in names])
    evidence = Evidence(scores=table[:, None], influence=None, test_train_ratio=100 / 320)
    expected = compare(evidence, alpha=0.05)
    assert found["lead"]["degrees_of_freedom"] == pytest.approx(8 * 4)
    assert found["folds"] == 5
    assert found["seeds"] == 5
    for i, name in enumerate(names):
        row = by_name(found)[name]
        assert row["test_score"] == pytest.approx(expected.mean[i])
        assert row["advantage"]["low"] == pytest.approx(expected.low[i])
        assert row["advantage"]["high"] == pytest.approx(expected.high[i])
        assert row["in_tied_group"] == expected.group[i]
    once = table.mean(axis=2, keepdims=True)[:, None]
    averaged = compare(
        Evidence(scores=once, influence=None, test_train_ratio=100 / 320), alpha=0.05
    )
    assert found["lead"]["high"] == pytest.approx(averaged.estimate.max() + averaged.lead_reach)


def test_repeats_that_split_anew_are_folds_of_their_own(make_rows):
    rows, study = make_rows(datasets=ONE, folds=3, study={"repeats": 2})
    found = only(([*rows, *({**row, "repeat": 1} for row in rows)], study))
    assert found["folds"] == 6
    assert found["expected"] == 6
    assert 2 <= found["lead"]["degrees_of_freedom"] <= 8 * 2 * 2


def test_a_smaller_value_may_be_the_better_one(make_rows):
    found = only(
        make_rows(datasets=(("brain", "segmentation"),), metric={"segmentation": "hd95"}, lead=0.08)
    )
    assert found["direction"] == "min"
    assert found["state"] == "better"
    assert found["recommended"] == "resnet18 + adamw + ce"
    rows = found["combinations"]
    assert rows[0]["name"] == "resnet18 + adamw + ce"
    assert rows[0]["test_score"] == min(row["test_score"] for row in rows)
    assert rows[0]["advantage"]["estimate"] > 0 > rows[1]["advantage"]["estimate"]
    inner = [row["val_score"] for row in rows]
    assert found["selected_by_validation"]["val_score"] == pytest.approx(min(inner))


def test_what_inner_validation_would_have_chosen(make_rows):
    rows, study = make_rows(datasets=ONE, noise=0.03)
    found = only((rows, study))
    inner = {(r["optimizer"], r["loss"], r["fold"]): r["val_score"] for r in rows}
    test = {(r["optimizer"], r["loss"], r["fold"]): r["test_score"] for r in rows}
    pairs = {key[:2] for key in inner}
    mean = {pair: np.mean([inner[*pair, fold] for fold in range(5)]) for pair in pairs}
    best = max(mean, key=mean.__getitem__)
    chosen = found["selected_by_validation"]
    assert chosen["name"] == f"resnet18 + {best[0]} + {best[1]}"
    expected = corrected_interval(
        [test[*best, fold] for fold in range(5)], test_train_ratio=100 / 320, alpha=0.05
    )
    assert (chosen["test_score"], chosen["low"], chosen["high"]) == pytest.approx(expected)
    nested = [
        test[*max(pairs, key=lambda pair, fold=fold: inner[*pair, fold]), fold] for fold in range(5)
    ]
    assert chosen["nested"]["test_score"] == pytest.approx(np.mean(nested))


def test_no_interval_of_a_score_leaves_the_range_of_its_metric(make_rows):
    found = only(make_rows(datasets=ONE, noise=0.2, lead=0.1))
    chosen = found["selected_by_validation"]
    highs = [row["test_high"] for row in found["combinations"]] + [chosen["high"]]
    assert max(highs) == 1.0
    assert all(row["test_low"] < row["test_score"] for row in found["combinations"])
    found = only(make_rows(datasets=ONE, metric={"classification": "hd95"}, noise=0.2))
    assert min(row["test_low"] for row in found["combinations"]) == 0.0


# ---- who competes ----------------------------------------------------------------------------


def test_the_broken_are_listed_and_never_judged(make_rows):
    """Even where the one that broke is by far the best on its other folds."""
    run = make_rows(
        datasets=ONE,
        lead=0.1,
        broken={
            ("lung-nodules", "adamw", "ce", 2): "diverged",
            ("lung-nodules", "sgd", "ce", 0): "failed",
            ("lung-nodules", "sgd", "focal", 3): "dropped",
        },
        missing={("lung-nodules", "lbfgs", "focal", 4)},
        skips={("lung-nodules", "resnet18", "lbfgs", "dice_ce"): "dice_ce is for segmentation"},
    )
    found = only(run)
    rows = by_name(found)
    out = {
        "resnet18 + adamw + ce": ("diverged", "diverged in 1 of 5 folds"),
        "resnet18 + sgd + ce": ("incomplete", "1 of 5 trials failed"),
        "resnet18 + sgd + focal": ("dropped", "dropped in 1 of 5 folds"),
        "resnet18 + lbfgs + focal": ("incomplete", "1 of 5 trials are not finished"),
        "resnet18 + lbfgs + dice_ce": ("skipped", "dice_ce is for segmentation"),
    }
    for name, expected in out.items():
        assert (rows[name]["state"], rows[name]["note"]) == expected
        assert rows[name]["advantage"] is None
        assert name not in found["tied_group"]
    judged = [row["name"] for row in found["combinations"] if row["state"] == "judged"]
    assert set(judged) == NAMES - set(out)
    assert [row["name"] for row in found["combinations"]][: len(judged)] == judged
    assert rows["resnet18 + adamw + ce"]["test_score"] > rows[judged[0]]["test_score"]
    assert rows["resnet18 + sgd + ce"]["reasons"] == ["RuntimeError: CUDA out of memory"]
    assert rows["resnet18 + adamw + ce"]["trials"] == {"diverged": 1, "ok": 4}
    assert found["recommended"] in judged


def test_combinations_that_have_not_begun_are_listed(make_rows):
    missing = {("lung-nodules", "sgd", "ce", fold) for fold in range(5)}
    row = by_name(only(make_rows(datasets=ONE, missing=missing)))["resnet18 + sgd + ce"]
    assert row["state"] == "incomplete"
    assert row["note"] == "5 of 5 trials are not finished"
    assert row["test_score"] is None


@pytest.mark.parametrize("score", [None, float("inf")])
def test_a_trial_without_a_score_leaves_its_combination_incomplete(make_rows, score):
    rows, study = make_rows(datasets=ONE)
    rows[0]["test_score"] = score
    found = by_name(only((rows, study)))["resnet18 + adamw + ce"]
    assert found["state"] == "incomplete"
    assert found["note"] == "1 of 5 trials have no score"


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_trials_of_one_cell_the_later_counts(make_rows, order):
    rows, study = make_rows(datasets=ONE)
    later = datetime(2027, 1, 1, tzinfo=UTC)
    again = rows[0] | {"trial_id": "again", "test_score": 0.5, "finished_at": later}
    after = by_name(only(([*rows, again][::order], study)))["resnet18 + adamw + ce"]
    assert after["state"] == "judged"
    assert after["fold_scores"] == [0.5, *(row["test_score"] for row in rows[1:5])]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_trials_end_decides_nothing(make_rows, seed):
    """Not even between equals: two runs on other lanes have the same verdict, to the last digit."""
    rows, study = make_rows(datasets=ONE)
    # One loss is another's twin, and a third, with its numbers too, is no longer in the study.
    numbers = made_twins(rows)
    rows += [row | {"loss": name} for name in ("gone", "away") for row in numbers.values()]
    draw = np.random.default_rng(seed)
    made = []
    for order in (np.arange(len(rows)), draw.permutation(len(rows))):
        ended = [
            {
                **rows[at],
                "finished_at": datetime(2026, 1, 1, 0, place // 60, place % 60, tzinfo=UTC),
            }
            for place, at in enumerate(order)
        ]
        made.append(judge((ended, study)))
    assert made[0] == made[1]


def test_a_partial_run_has_no_verdict(make_rows):
    missing = {
        ("lung-nodules", o, f, 4)
        for o in ("adamw", "sgd", "lbfgs")
        for f in ("ce", "focal", "dice_ce")
    }
    found = only(make_rows(datasets=ONE, missing=missing))
    assert found["state"] == "none"
    assert found["recommended"] is None
    assert found["tied_group"] == []
    assert found["reason"] == (
        "No verdict is possible: no combination has all 5 trials finished and scored "
        "(9 incomplete)."
    )
    assert all(row["test_score"] is not None for row in found["combinations"])


def test_one_combination_has_no_verdict(make_rows):
    found = only(make_rows(datasets=ONE, optimizers=("adam",), losses=("ce",)))
    assert found["state"] == "none"
    assert "only one combination is complete" in found["reason"]
    assert found["combinations"][0]["test_low"] < found["combinations"][0]["test_score"]


def test_a_single_fold_has_no_verdict(make_rows):
    found = only(make_rows(datasets=ONE, folds=1))
    assert found["state"] == "none"
    assert "a single fold cannot separate merit" in found["reason"]
    assert found["combinations"][0]["test_low"] is None


def test_a_run_without_its_study_is_judged_by_what_it_holds(make_rows):
    content = judge(make_rows(datasets=ONE, with_study=False, lead=0.08))
    assert content["datasets"][0]["state"] == "better"
    assert content["study"] == "made-up"
    assert (content["alpha"], content["margin"]) == (0.05, 0.01)


def test_the_direction_of_a_metric_is_never_guessed(make_run):
    run = make_run(datasets=ONE, folds=1, columns={"primary_metric": "mystery"})
    with pytest.raises(RunError, match="whether a larger 'mystery' is better"):
        load_verdicts(run)


def test_schedules_and_regularizers_make_combinations_and_show_in_names(make_rows):
    rows, study = make_rows(datasets=ONE, optimizers=("adam",), losses=("ce",))
    found = only(([*rows, *({**row, "schedule": "cosine"} for row in rows)], study))
    assert set(by_name(found)) == {"resnet18 + adam + ce", "resnet18 + adam + ce + cosine"}


# ---- what a reader must know -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"columns": {"group_source": "case"}},
            "they may end up on both sides of a split, and all",
        ),
        ({"columns": {"shared_device": True}}, "Trials shared a device"),
        ({"study": {"stop_on": "loss"}}, "stopped on the inner-validation loss"),
    ],
)
def test_warnings(make_rows, options, says):
    (warning,) = only(make_rows(datasets=ONE, **options))["warnings"]
    assert says in warning


def test_different_devices_and_precisions_are_warned_of(make_rows):
    rows, study = make_rows(datasets=ONE)
    rows[0] |= {"device_name": "A100", "precision": "bfloat16"}
    warnings = only((rows, study))["warnings"]
    assert any("A100 and NVIDIA H100" in warning for warning in warnings)
    assert any("bfloat16 and float32" in warning for warning in warnings)


def test_two_folds_are_warned_of(make_rows):
    (warning,) = only(make_rows(datasets=ONE, folds=2))["warnings"]
    assert "rests on 2 folds" in warning
    assert only(make_rows(datasets=ONE, folds=3))["warnings"] == []


@pytest.mark.parametrize(
    ("best", "schedule", "warned"),
    [(8, "constant", True), (7, "constant", False), (8, "cosine", False)],
)
def test_a_best_epoch_at_the_last_is_warned_of(make_rows, best, schedule, warned):
    """But not under a schedule that ends low: there the last is meant to be the best."""
    rows, study = make_rows(datasets=ONE, columns={"best_epoch": best, "schedule": schedule})
    study["schedules"] = [{"name": schedule, "params": {}}]
    warnings = only((rows, study))["warnings"]
    assert [("In all 5 trials" in w and "training was still improving" in w) for w in warnings] == (
        [True] if warned else []
    )


def test_a_best_epoch_at_the_last_of_a_few_folds_is_none_of_the_verdict(make_rows):
    rows, study = make_rows(datasets=ONE)
    for row in rows:
        row["best_epoch"] = 8 if row["fold"] < 2 else 6
    assert only((rows, study))["warnings"] == []
    for row in rows:
        row["best_epoch"] = 8 if row["fold"] < 3 else 6
    (warning,) = only((rows, study))["warnings"]
    assert warning.startswith("In 3 of 5 trials of ")


def test_one_entry_under_two_names_is_told(make_rows):
    rows, study = make_rows(datasets=ONE)
    numbers = made_twins(rows)
    (said,) = [w for w in only((rows, study))["warnings"] if "under two names" in w]
    assert said.startswith("focal gave the same numbers as ce in all 15 trials: on these data ")
    numbers["adamw", 0]["test_loss"] += 1e-9
    assert not [w for w in only((rows, study))["warnings"] if "under two names" in w]


def class_cases(rows, called: dict[str, int], truth: dict[str, int]):
    """Return `rows_of` where each trial's cases are of these classes, and called these."""

    def rows_of(table, trials, _columns=None):
        if table != "cases":
            return TABLES[table].empty_table()
        is_one = [name for name, n in truth.items() for _ in range(n)]
        calls = [name for name, n in called.items() for _ in range(n)]
        found = [
            {"trial_id": trial, "case_id": f"c{i}", "region": name, "label": int(name == true)}
            | {"prob": 0.6 if name == call else 0.4 / (len(truth) - 1), "tp": None}
            for trial in trials
            for i, (true, call) in enumerate(zip(is_one, calls, strict=True))
            for name in truth
        ]
        return pa.Table.from_pylist(found, schema=TABLES[table])

    return rows_of


def judged_with(made, rows_of) -> list[str]:
    rows, study = made
    (found,) = verdict(contests(rows, study, METRICS), study, rows_of)["datasets"]
    assert found["recommended"]
    return found["warnings"]


@pytest.mark.parametrize(
    ("called", "truth", "warned"),
    [
        ({"benign": 97, "malignant": 3}, {"benign": 50, "malignant": 50}, True),
        ({"benign": 100, "malignant": 0}, {"benign": 97, "malignant": 3}, True),
        ({"benign": 97, "malignant": 3}, {"benign": 97, "malignant": 3}, False),
        ({"benign": 80, "malignant": 20}, {"benign": 50, "malignant": 50}, False),
        ({"a": 0, "b": 96, "c": 4}, {"a": 30, "b": 40, "c": 30}, True),
    ],
)
def test_calling_nearly_all_one_class_is_warned_of(make_rows, called, truth, warned):
    """A rare class is called rarely by right."""
    warnings = judged_with(make_rows(datasets=ONE), class_cases(None, called, truth))
    assert len(warnings) == warned
    if warned:
        most = max(called, key=called.__getitem__)
        assert (
            f"calls {called[most]} % of the test cases {most}; {truth[most]} % are" in warnings[0]
        )


@pytest.mark.parametrize(
    ("metric", "score", "chance"),
    [
        ("auc", 0.5, 0.5),
        ("accuracy", 0.7, 0.7),  # sklearn.dummy.DummyClassifier("most_frequent")
        ("balanced_accuracy", 0.5, 0.5),
        ("mcc", 0.0, 0.0),
        ("brier", 0.21, 0.21),  # (1 - 0.7^2 - 0.3^2) / 2
    ],
)
@pytest.mark.parametrize("better", [False, True])
def test_no_better_than_chance_is_warned_of(make_rows, metric, score, chance, better):
    rows, study = make_rows(datasets=ONE, columns={"primary_metric": metric})
    rng = np.random.default_rng(0)
    up = -1 if metric == "brier" else 1
    for row in rows:
        row["test_score"] = score + up * 0.15 * better + 0.01 * rng.standard_normal()
    cases = class_cases(rows, {"benign": 60, "malignant": 40}, {"benign": 70, "malignant": 30})
    described = {metric: {"direction": "min" if metric == "brier" else "max"}}
    (found,) = verdict(contests(rows, study, described), study, cases)["datasets"]
    said = [w for w in found["warnings"] if "better than chance" in w]
    assert len(said) == (not better)
    if said:
        assert f"is not clearly better than {chance:.3f}, the score of" in said[0]
        assert "95 % interval" in said[0]


def test_the_chance_of_masks_is_calling_every_voxel(make_rows):
    """By hand: regions of 100 and 300 of 1000 voxels; Dice 2 n / (n + 1000)."""
    rows, study = make_rows(datasets=(("brain", "segmentation"),))
    for row in rows:
        row["test_score"] = 0.32 + 0.01 * (row["fold"] - 2)

    def rows_of(table, trials, _columns=None):
        if table != "cases":
            return TABLES[table].empty_table()
        found = [
            {"trial_id": t, "case_id": "c", "region": "R", "tp": n - 10, "fn": 10, "fp": 30}
            | {"tn": 970 - n, "n_ref": n, "n_pred": n + 20}
            for t in trials
            for n in (100, 300)
        ]
        return pa.Table.from_pylist(found, schema=TABLES[table])

    (warning,) = judged_with((rows, study), rows_of)
    assert f"{(200 / 1100 + 600 / 1300) / 2:.3f}, the score of calling every voxel" in warning


def test_a_region_that_is_never_found_is_warned_of(make_rows):
    made = make_rows(datasets=(("brain", "segmentation"),))

    def rows_of(table, trials, _columns=None):
        if table != "cases":
            return TABLES[table].empty_table()
        found = [
            {"trial_id": t, "case_id": f"c{i}", "region": name, "tp": 0, "fn": 9, "fp": 0}
            | {"tn": 99999, "n_ref": 9, "n_pred": 0 if name == "ET" else 5}
            for t in trials
            for i in range(20)
            for name in ("WT", "ET")
        ]
        return pa.Table.from_pylist(found, schema=TABLES[table])

    (warning,) = judged_with(made, rows_of)
    assert "finds no ET in 100 % of the test cases that contain it" in warning


# ---- which settings were compared ------------------------------------------------------------


def test_it_says_which_rates_were_compared_and_that_none_was_tuned(make_rows):
    rows, study = make_rows(datasets=ONE)
    rates = {"adamw": 1e-3, "sgd": 0.05, "lbfgs": None}
    for row in rows:
        rate = rates[row["optimizer"]]
        row["hparams"] = json.dumps({"momentum": 0.9} | ({} if rate is None else {"lr": rate}))
    found = only((rows, study))
    assert found["settings"].startswith("No optimizer was tuned")
    assert "adamw 0.001, sgd 0.05 and lbfgs its own rate" in found["settings"]
    row = by_name(found)["resnet18 + sgd + ce"]
    assert (row["tuned"], row["hparams"]) == (False, {"lr": 0.05, "momentum": 0.9})


def test_a_single_optimizer_is_not_said_to_be_compared(make_rows):
    rows, study = make_rows(datasets=ONE, optimizers=("adam",))
    for row in rows:
        row["hparams"] = json.dumps({"lr": 1e-3})
    said = only((rows, study))["settings"]
    assert "gives. Learning rate: adam 0.001. Other rates may" in said
    assert "compared" not in said
    rows[0]["hparams"] = json.dumps({"lr": 1e-2})
    rows[0]["loss"] = "another"
    assert "Learning rates: adam" in only((rows, study))["settings"]


def test_tuned_and_default_rates_are_never_mixed_without_a_word(make_rows):
    rows, study = make_rows(datasets=ONE)
    for row in rows:
        row["tuned"] = row["optimizer"] == "sgd"
    found = only((rows, study))["settings"]
    assert found.startswith("Only resnet18 + sgd + ce,")
    assert "were tuned, and so had more tries than the others" in found
    for row in rows:
        row["tuned"] = True
    assert only((rows, study))["settings"].startswith("Every optimizer was tuned.")


def test_times_that_cannot_be_told_apart_are_named(make_rows):
    """3.9 and 8.7 s are not "the same": their range is said, and what else a trial takes."""
    rows, study = make_rows(
        datasets=ONE, optimizers=("adam", "adamw"), losses=("ce",), folds=3, spread=0, noise=0.04
    )
    wobble = {"adam": (1.3, 9.9, 0.5), "adamw": (5.1, 8.6, 12.4)}
    for row in rows:
        row["train_sec"] = wobble[row["optimizer"]][row["fold"]]
        row["wall_sec"] = row["train_sec"] + 30
    found = only((rows, study))
    assert found["price"]["alike_seconds"] == pytest.approx([3.9, 8.7])
    assert "trains fastest (3.9 s to 8.7 s per trial)" in found["reason"]
    assert "within noise" not in found["reason"]
    seconds = found["price"]["seconds"]
    assert found["price"]["wall_seconds"] == pytest.approx(seconds + 30)
    assert f"{seconds:.1f} s of training ({seconds + 30:.0f} s with set-up" in found["reason"]


def test_a_clean_run_has_no_warnings(make_rows):
    assert only(make_rows(datasets=ONE))["warnings"] == []


# ---- across data sets ------------------------------------------------------------------------


def test_few_data_sets_allow_ranks_and_no_claim(make_rows):
    content = judge(make_rows(lead=0.1))["across"]
    assert content["claim"] is False
    assert content["best"] == "adamw + ce"
    assert content["ranks"][0] == {"name": "adamw + ce", "mean_rank": 1.0, "p_value": None}
    assert "with 2 of them, no difference can be distinguished from chance" in content["reason"]


def test_seven_data_sets_allow_a_claim(make_rows):
    datasets = [(f"set{i}", "classification") for i in range(7)]
    options = {"optimizers": ("adam", "sgd"), "losses": ("ce",), "folds": 2, "examples": False}
    content = judge(make_rows(datasets=datasets, lead=0.1, **options))["across"]
    assert content["claim"] is True
    assert content["best"] == "adam + ce"
    assert content["ranks"][1]["p_value"] == pytest.approx(2**-6)
    content = judge(make_rows(datasets=datasets, spread=0, noise=0.05, **options))
    assert content["across"]["claim"] is False
    assert "not shown to be better than each of the others" in content["across"]["reason"]


def test_one_data_set_has_nothing_across(make_rows):
    assert judge(make_rows(datasets=ONE))["across"] is None


def test_recipes_that_lack_a_data_set_are_not_ranked(make_rows):
    broken = {("brain-tumours", "sgd", "ce", 0): "failed"}
    ranks = judge(make_rows(broken=broken))["across"]["ranks"]
    assert "sgd + ce" not in {row["name"] for row in ranks}
    assert len(ranks) == 8


# ---- the file --------------------------------------------------------------------------------

KEYS = {
    "dataset", "task", "metric", "direction", "unit", "margin", "alpha", "state", "recommended",
    "reason", "tied_group", "price", "settings", "selected_by_validation", "folds", "seeds",
    "expected", "test_train_ratio", "lead", "errors", "claims", "margins", "interactions",
    "second", "next", "warnings", "combinations",
}  # fmt: skip
COMBINATION_KEYS = {
    "name", "model", "optimizer", "loss", "schedule", "regularizer", "pretrained", "state", "note",
    "clinical", "labels", "tuned", "hparams",
    "reasons", "trials", "val_score", "test_score", "test_low", "test_high", "fold_scores",
    "advantage", "steady", "in_tied_group", "train_sec", "wall_sec", "samples_per_sec",
    "optimizer_step_ms", "peak_memory_bytes", "epochs_run", "last_test_score", "seconds",
}  # fmt: skip


def test_the_published_schema_has_these_keys():
    assert set(OfDataset.__annotations__) == KEYS
    assert set(Judged.__annotations__) == COMBINATION_KEYS


def test_the_keys_are_a_promise(make_rows):
    content = judge(make_rows(broken={("lung-nodules", "sgd", "ce", 0): "failed"}))
    assert set(content) == {
        "version", "study", "alpha", "margin", "rule", "n_trials", "statuses", "datasets", "across",
    }  # fmt: skip
    assert set(content) == set(Verdict.__annotations__)
    assert set(content["across"]) == set(Across.__annotations__)
    assert all(set(row) == set(Rank.__annotations__) for row in content["across"]["ranks"])
    for found in content["datasets"]:
        assert set(found) == KEYS
        assert set(found["price"]) == set(Price.__annotations__)
        assert set(found["selected_by_validation"]) == {
            *Estimate.__annotations__,
            *Chosen.__annotations__,
        }
        row = found["combinations"][0]
        assert set(row["advantage"]) == set(Advantage.__annotations__)
        assert set(row["seconds"]) == set(Seconds.__annotations__)
        assert all(set(row) == COMBINATION_KEYS for row in found["combinations"])
    assert content["statuses"] == {"failed": 1, "ok": 89}
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_the_seconds_of_a_trial_add_up(make_rows):
    row = only(make_rows(datasets=ONE))["combinations"][0]
    seconds = row["seconds"]
    assert sum(seconds.values()) == pytest.approx(0.6 + row["train_sec"] + 2.5)
    optimizer = {"adamw": 1.1, "sgd": 0.4, "lbfgs": 5.0}[row["optimizer"]]
    assert seconds["optimizer"] / (seconds["optimizer"] + seconds["gradients"]) == pytest.approx(
        optimizer / 12
    )


# What is left of a file of Parquet; the last has no footer of ours.
DAMAGES = {
    "empty": lambda raw, _table: b"",
    "cut": lambda raw, _table: raw[:-60],
    "text": lambda raw, _table: b"no Parquet\n" * 99,
    "zeros": lambda raw, _table: bytes(len(raw)),
    "no pages": lambda raw, _table: raw[:4] + bytes(len(raw) // 3) + raw[4 + len(raw) // 3 :],
    "no footer": lambda raw, table: table.replace_schema_metadata(None),
}


def damage(path, name):
    made = DAMAGES[name](path.read_bytes(), pq.read_table(path, partitioning=None))
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        pq.write_table(made, path)


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("table", ["trials", "metrics"])
def test_a_damaged_file_does_not_stop_the_report_of_the_rest(make_run, table, name):
    run = make_run(datasets=ONE, optimizers=("adam", "sgd", "lbfgs"), losses=("ce",), folds=3)
    whole = load_verdicts(run)
    shown = by_name(whole["datasets"][0])[whole["datasets"][0]["recommended"]]
    rows = read(run, "trials").to_pylist()
    # The metrics of what is recommended are on the page.
    trial = next(row["trial_id"] for row in rows if row["optimizer"] == shown["optimizer"])
    damage(run / table / f"{trial}.parquet", name)
    write_report(run)
    (data,) = json.loads((run / "verdict.json").read_text())["datasets"]
    said = (
        f"{table}/{trial}.parquet is damaged: 1 trial of the run is left out. Move it away, and "
        "`medopt run` trains the lost trials again."
    )
    assert data["warnings"][-1] == said
    assert said in (run / "report.html").read_text()
    states = {row["name"]: row["state"] for row in data["combinations"]}
    assert sorted(states.values()) == ["incomplete", "judged", "judged"]
    before = {row["name"]: row for row in whole["datasets"][0]["combinations"]}
    for row in data["combinations"]:
        if row["state"] == "judged":
            assert row["test_score"] == before[row["name"]]["test_score"]


def test_what_lost_its_files_is_not_called_unfinished(make_run):
    run = make_run(datasets=ONE, optimizers=("adam", "sgd", "lbfgs"), losses=("ce",), folds=3)
    trials = sorted(path.stem for path in (run / "trials").glob("t*.parquet"))
    rows = {row["trial_id"]: row["optimizer"] for row in read(run, "trials").to_pylist()}
    adam = [trial for trial in trials if rows[trial] == "adam"]
    (run / "cases" / f"{adam[0]}.parquet").unlink()
    damage(run / "trials" / f"{adam[1]}.parquet", "cut")

    def note():
        found = json.loads(write_report(run).page.with_name("verdict.json").read_text())
        return by_name(found["datasets"][0])["resnet18 + adam + ce"]["note"]

    assert note() == "of 3 trials, 2 have lost or damaged files"
    for table in TABLES:
        (run / table / f"{adam[2]}.parquet").unlink()  # as if it had never run
    assert note() == "3 of 3 trials are not finished, or their files are lost or damaged"


def test_a_damaged_part_is_told_with_all_its_trials(make_run):
    run = make_run(datasets=ONE, optimizers=("adam", "sgd"), losses=("ce",), folds=3)
    kept = (run / "trials" / "t00001.parquet").read_bytes()
    compact(run, at_least=2)
    (part,) = (run / "trials").iterdir()
    part.write_bytes(part.read_bytes()[:-60])
    trials = len(finished_of(run))
    with pytest.raises(RunError, match=f"{part.name} is damaged: {trials} trials of the run are"):
        load_verdicts(run)
    (run / "trials" / "t00001.parquet").write_bytes(kept)
    found = load_verdicts(run)["datasets"][0]
    assert found["warnings"][-1] == (
        f"trials/{part.name} is damaged: {trials - 1} trials of the run are left out. Move it "
        "away, and `medopt run` trains the lost trials again."
    )


def finished_of(run):
    """Return the trials that the parts of metrics/ list."""
    footers = [
        pq.read_schema(path).metadata[b"medoptbench"] for path in (run / "metrics").iterdir()
    ]
    return {name for footer in footers for name in json.loads(footer)["trial_ids"]}


def test_many_damaged_files_are_told_in_one_sentence(make_run):
    run = make_run(datasets=ONE, optimizers=("adam", "sgd", "lbfgs"), losses=("ce",), folds=3)
    for path in sorted((run / "trials").iterdir())[:7]:
        path.write_bytes(b"")
    (data,) = load_verdicts(run)["datasets"]
    assert data["warnings"][-1].endswith(
        "and 2 more are damaged: 7 trials of the run are left out. Move them away, and `medopt "
        "run` trains the lost trials again."
    )


def test_a_run_on_disk_is_judged_alike(make_run, make_rows):
    options = {"optimizers": ("adam", "sgd"), "losses": ("ce",), "examples": False}
    assert (
        load_verdicts(make_run(**options))["datasets"][0]["combinations"]
        == (judge(make_rows(**options))["datasets"][0]["combinations"])
    )


@pytest.mark.slow
def test_what_the_weights_of_before_scored_is_said_of_a_diverged_combination(make_run):
    run = make_run(
        broken={("lung-nodules", "adamw", "ce", 2): "diverged"},
        columns={"test_score_before_diverging": 0.75, "last_test_score": 0.5},
    )
    (found, *_) = load_verdicts(run)["datasets"]
    rows = {c["name"]: c for c in found["combinations"]}
    row = rows.pop("resnet18 + adamw + ce")
    assert row["state"] == "diverged"
    assert row["note"] == (
        "diverged in 1 of 5 folds; it scores 0.750 there with the weights from before it diverged"
    )
    assert all(c["note"] is None for c in rows.values())
    assert {c["last_test_score"] for c in rows.values()} == {0.5}
