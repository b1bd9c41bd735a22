"""The page on a search by Ray Tune: its incumbents by hand, and that nothing is judged."""

import json

import pytest
import yaml

from results.report.page import page
from results.report.write import write_report
from results.run_folder import Recorded
from results.tables.store import write_trial

POINTS = (
    # optimizer, fold, point, status, score, rate
    ("adam", 0, 0, "ok", 0.80, 1e-3),
    ("adam", 0, 1, "dropped", 0.85, 3e-3),
    ("adam", 0, 2, "diverged", None, 9e-3),
    ("adam", 1, 0, "ok", 0.70, 1e-3),
    ("adam", 1, 1, "failed", None, 2e-3),
    ("sgd", 0, 0, "diverged", None, 1e-2),
)


def footer(direction: str) -> dict[str, object]:
    return {
        "metrics": {"auc": {"direction": direction, "range": [0, 1], "unit": "1"}},
        "spaces": {"adam": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}},
    }


@pytest.fixture
def searched(tmp_path):
    """Return a maker of a folder with a search, by whether a higher or lower score is better."""

    def make(direction: str = "max"):
        run = tmp_path / direction
        for k, (optimizer, fold, point, status, score, rate) in enumerate(POINTS):
            row = {"trial_id": f"t{k}", "dataset": "d", "task": "classification", "model": "net"}
            row |= {"optimizer": optimizer, "loss": "ce", "schedule": "constant", "fold": fold}
            row |= {"regularizer": "none", "repeat": 0, "seed": 0, "status": status}
            row |= {"hparams": json.dumps({"lr": rate, "eps": 1e-8}), "primary_metric": "auc"}
            row |= {"val_score": score, "point": point, "points": 3, "tuned": True}
            row |= {"wall_sec": 2.0, "sample_gradients": 10}
            write_trial(
                run / "points", trial=row, metrics=[], epochs=[], cases=[], footer=footer(direction)
            )
        study = {"name": "s", "folds": 2, "tuning": {"points": 3, "seed": 0, "search": "asha"}}
        (run / "study.yaml").write_text(yaml.safe_dump(study))
        return run

    return make


@pytest.mark.parametrize(
    ("direction", "best"), [("max", (0.85, "lr 0.003")), ("min", (0.8, "lr 0.001"))]
)
def test_the_best_point_of_each_combination_and_fold(searched, direction, best):
    found = page(Recorded(searched(direction)))["search"]
    first, second = found["lines"]  # sgd has no score to show
    assert (first["name"], first["fold"], first["tried"]) == ("net + adam + ce", "fold 0", 3)
    assert (first["score"], first["settings"]) == best
    assert (first["stopped"], first["diverged"]) == (1, 1)
    assert (second["fold"], second["score"]) == ("fold 1", 0.70)
    assert found["counts"] == ["2 diverged", "1 dropped", "1 failed", "2 ok"]
    assert (found["seconds"], found["spent"]) == (12.0, 60)


def test_a_search_stands_under_no_verdict(searched):
    run = searched()
    html = " ".join(write_report(run).page.read_text(encoding="utf-8").split())
    assert "A search, no verdict" in html
    assert "asynchronous successive halving (ASHA)" in html
    assert json.loads((run / "verdict.json").read_text())["datasets"] == []


def test_a_search_that_has_tried_nothing_yet_says_so(searched, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "study.yaml").write_text((searched() / "study.yaml").read_text())
    page_of = write_report(tmp_path / "new").page.read_text(encoding="utf-8")
    assert "No point has a result yet" in page_of
