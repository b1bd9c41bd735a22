"""The page on a search: its numbers by hand, what is marked as selected, what is told."""

import json
import math

import numpy as np
import pytest
import yaml

from results.report.page import page
from results.report.sections.tuning import best_of_first
from results.report.write import write_report
from results.run_folder import Recorded
from results.tables.store import read, write_trial

FOLDS, POINTS = 4, 3
SETS = (("nodules", "classification"),)
MADE = {"datasets": SETS, "optimizers": ("adamw", "sgd"), "losses": ("ce",), "folds": FOLDS}
RATES = {"adamw": [1e-3, 9.5e-3, 2e-4], "sgd": [1e-2, 3e-2, 2e-3]}
# Inner scores by point, alike in each fold but for a fold's own level.
SCORES = {"adamw": [0.80, 0.86, 0.70], "sgd": [0.75, 0.60, None]}
FOOTER = {"metrics": {"auc": {"direction": "max", "range": [0, 1], "unit": "1"}}}
SPACES = {
    "adamw": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    "sgd": {"lr": {"low": 1e-3, "high": 1e-1, "log": True}},
}


@pytest.fixture
def tuned(make_run):
    """Return a maker of a tuned run: adamw takes point 1 in each fold, sgd its defaults."""

    def make(*, defaults: bool = False):
        run = make_run("run", **MADE)
        for row in read(run, "trials").to_pylist():
            point = {"adamw": 1, "sgd": 0}[row["optimizer"]]
            row |= {"tuned": True, "point": point, "points": POINTS}
            row["hparams"] = json.dumps({"lr": RATES[row["optimizer"]][point], "eps": 1e-8})
            row["test_score"] = {"adamw": 0.84, "sgd": 0.75}[row["optimizer"]] + 0.01 * row["fold"]
            rewrite(run, row, FOOTER | {"spaces": SPACES})
            for p, score in enumerate(SCORES[row["optimizer"]]):
                inner = None if score is None else score + 0.01 * row["fold"]
                tried = row | {
                    "trial_id": f"{row['trial_id']}p{p}",
                    "point": p,
                    "hparams": json.dumps({"lr": RATES[row["optimizer"]][p], "eps": 1e-8}),
                    "status": "ok" if score else "diverged",
                    "val_score": inner,
                    "test_score": None,
                    "wall_sec": 2.0,
                }
                looks = [
                    {"epoch": e, "val_score": (inner or 0.5) - 0.02 * (8 - e)}
                    | {"sample_gradients": e * row["n_train_cases"]}
                    for e in range(1, 9)
                ]
                write_trial(
                    run / "points", trial=tried, metrics=[], epochs=looks, cases=[], footer=FOOTER
                )
        if defaults:
            plain = make_run("run/defaults", **MADE)
            for row in read(plain, "trials").to_pylist():
                row["test_score"] = {"adamw": 0.70, "sgd": 0.78}[row["optimizer"]]
                rewrite(plain, row, FOOTER)
        return run

    return make


def rewrite(run, row, footer) -> None:
    """Write a trial again with other columns, its other rows as they were."""
    mine = [row["trial_id"]]
    others = {t: read(run, t, trials=mine).to_pylist() for t in ("metrics", "epochs", "cases")}
    write_trial(run, trial=row, footer=footer, **others)


def section(run):
    (found,) = page(Recorded(run))["sections"]
    return found


def test_what_was_tried_and_chosen_by_hand(tuned):
    found = section(tuned())["tuning"]
    assert found["points"] == POINTS
    lines = {line["name"]: line for line in found["lines"]}
    adamw, sgd = lines["adamw + ce"], lines["sgd + ce"]
    level = 0.015  # the mean of 0, 0.01, 0.02 and 0.03
    assert adamw["tried"] == POINTS * FOLDS
    assert adamw["worst"] == pytest.approx(0.70)
    assert adamw["defaults"] == pytest.approx(0.80 + level)
    assert adamw["selected"] == pytest.approx(0.86 + level)
    assert adamw["test"] == pytest.approx(0.84 + level)
    assert (adamw["defaults_chosen"], adamw["diverged"]) == (0, "none")
    assert (sgd["defaults_chosen"], sgd["folds"], sgd["diverged"]) == (4, 4, "33 %")
    assert found["search_sec"] == 2.0 * 2 * FOLDS * POINTS
    (first, *_) = next(s["folds"] for s in found["settings"] if s["name"] == "adamw + ce")
    assert first == {"fold": "fold 0", "point": "point 1", "said": "lr 0.0095"}


def test_a_space_that_ends_at_the_chosen_point_is_told(tuned):
    # log10(0.0095 / 1e-4) / 2 = 0.989 of the way through; sgd's 0.01 is in the middle.
    (told,) = section(tuned())["tuning"]["ends"]
    assert told.startswith("adamw + ce: lr was chosen at the upper end of its space (0.01) in 4 of")


def test_the_best_of_the_first_points():
    def rows(*scores):
        return [{"status": "ok" if s else "diverged", "val_score": s} for s in scores]

    found = best_of_first([rows(0.5, 0.4, 0.9), rows(0.3, None, 0.2)], 3, 1)
    assert found.tolist() == [[0.5, 0.5, 0.9], [0.3, 0.3, 0.3]]
    assert best_of_first([rows(3.0, 1.0, 2.0)], 3, -1).tolist() == [[3.0, 1.0, 1.0]]
    # A fold whose search goes on, or that begins without a score, is no curve.
    assert best_of_first([rows(0.5, 0.4), rows(None, 0.4, 0.4)], 3, 1) is None


def test_the_page_marks_the_selected_score_and_the_ranks_with_defaults(tuned):
    run = tuned(defaults=True)
    found = section(run)["tuning"]
    assert [(x["name"], x["rank"], x["plain_rank"]) for x in found["beside"]] == [
        ("adamw + ce", 1, 2),
        ("sgd + ce", 2, 1),
    ]
    assert found["beside"][0]["gain"] == pytest.approx(0.84 + 0.015 - 0.70)
    html = " ".join(write_report(run).page.read_text(encoding="utf-8").split())
    assert "chosen (selected)" in html
    assert "so too good: the test fold, which no point was scored on" in html
    assert "With defaults and tuned" in html
    assert "its defaults and 2 draws from its search space" in html
    assert "a lead belongs to the configuration" in html


def test_a_run_without_a_search_says_nothing_of_one(make_run):
    run = make_run("plain", **MADE)
    assert section(run)["tuning"] is None
    assert "<h3>Tuning</h3>" not in write_report(run).page.read_text(encoding="utf-8")


def test_a_search_with_a_damaged_file_is_reported_without_it(tuned):
    run = tuned()
    min((run / "points" / "trials").iterdir()).write_bytes(b"broken")
    found = section(run)["tuning"]
    assert sum(line["tried"] for line in found["lines"]) == 2 * FOLDS * POINTS - 1


# ---- parts of the budget -------------------------------------------------------------------


def test_the_ranking_at_parts_of_the_budget_by_hand(make_run):
    """Of 8 epochs, sgd is ahead in the first two and adamw from then on."""
    run = make_run("run", **MADE)
    course = {
        "adamw": [0.50, 0.55, 0.70, 0.80, 0.85, 0.86, 0.87, 0.88],
        "sgd": [0.60, 0.62, 0.64, 0.66, 0.68, 0.70, 0.72, 0.70],
    }
    for row in read(run, "trials").to_pylist():
        looks = [
            {
                "epoch": e,
                "val_score": s,
                "sample_gradients": e * row["n_train_cases"],
                "gradient_evaluations": e,
                "elapsed_sec": float(e),
            }
            for e, s in enumerate(course[row["optimizer"]], 1)
        ]
        write_trial(run, trial=row, metrics=[], epochs=looks, cases=[], footer=FOOTER)
    study = yaml.safe_load((run / "study.yaml").read_text())
    assert study["epochs"] == 8
    found = section(run)["budgets"]
    cells = {line["name"]: line["cells"] for line in found["lines"]}
    assert [cell["rank"] for cell in cells["adamw + ce"]] == [2, 1, 1]
    assert [cell["score"] for cell in cells["adamw + ce"]] == pytest.approx([0.55, 0.80, 0.88])
    assert [cell["score"] for cell in cells["sgd + ce"]] == pytest.approx([0.62, 0.66, 0.72])
    assert found["flips"] == ["at a quarter sgd + ce leads"]


def test_of_a_tuned_run_the_best_point_within_a_budget_counts(tuned):
    found = section(tuned())["budgets"]
    cells = {line["name"]: [c["score"] for c in line["cells"]] for line in found["lines"]}
    # adamw's best point is 0.86 at the end, 0.02 less for each epoch before it.
    expected = np.array([0.86 - 0.12, 0.86 - 0.08, 0.86]) + 0.015
    assert cells["adamw + ce"] == pytest.approx(expected.tolist())
    assert not found["flips"]
    assert not any(math.isnan(score) for scores in cells.values() for score in scores)
