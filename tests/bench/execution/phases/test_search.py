"""Searches by Ray Tune: a trial that waits epoch by epoch, what is recorded, real searches."""

import json
import threading
from dataclasses import replace

import pytest
import torch

from bench import api
from bench.core.references import StudyError
from bench.execution.phases.course import Course
from bench.execution.phases.record import Record
from bench.planning.plan import resolve
from bench.planning.points import POINTS, draws_of, point_plan
from bench.study.schema import Study
from bench.training.train import run_trial
from results.report.sections.search import search
from results.run_folder import Recorded
from results.tables.store import read

STUDY = """
name: small
data: [{store}]
models: [plain_cnn]
optimizers: [sgd, adam]
losses: [ce]
seeds: [2, 5]
folds: 2
epochs: 9
looks: 3
threads: 1
device: cpu
loader: torch
"""


@pytest.fixture
def plan(small_store, tmp_path):
    """Return the plan of a search of four points for each of four cells."""
    study = {
        "name": "s",
        "data": [{"store": str(small_store("classification", 2).path)}],
        "models": ["plain_cnn"],
        "optimizers": ["sgd", "adam"],
        "losses": ["ce"],
        "seeds": [2, 5],
        "folds": 2,
        "epochs": 3,
        "loader": "torch",
        "threads": 1,
        "device": "cpu",
        "tuning": {"points": 4, "search": "asha"},
    }
    return resolve(Study.model_validate(study), tmp_path, tmp_path / "run")


# ---- a trial in a thread ---------------------------------------------------------------------


def trained(trial, data, base):
    """Return the trial as a course takes it."""
    device = torch.device("cpu")
    return lambda checkpoint: run_trial(trial, data, base, device=device, checkpoint=checkpoint)


def test_a_course_trains_as_the_trial_does_and_waits_between_epochs(make_trial):
    trial, data, base = make_trial("classification")
    course = Course(trained(trial, data, base))
    rows = [course.next() for _ in range(trial.epochs)]
    outcome = course.next()
    plain = run_trial(trial, data, base, device=torch.device("cpu"))
    kept = ("epoch", "train_loss", "val_loss", "val_score", "sample_gradients")
    assert [{k: row[k] for k in kept} for row in rows] == [
        {k: row[k] for k in kept} for row in plain.epochs
    ]
    assert outcome.trial["test_score"] == plain.trial["test_score"]
    course.stop()


def test_a_course_that_is_stopped_ends_with_its_thread(make_trial):
    trial, data, base = make_trial("classification", epochs=1000)
    before = threading.active_count()
    course = Course(trained(trial, data, base))
    assert course.next()["epoch"] == 1
    course.stop()
    assert threading.active_count() == before


def test_a_course_raises_what_the_trial_raises():
    def breaks(_checkpoint):
        raise SystemExit("planted")

    course = Course(breaks)
    with pytest.raises(SystemExit, match="planted"):
        course.next()
    course.stop()


# ---- what is recorded ------------------------------------------------------------------------


@pytest.fixture
def recording(plan):
    """Return a maker of records of the search, each as a new process would open it."""

    def make(changed=lambda _progress: None):
        return Record(
            plan=replace(plan, folder=plan.folder / POINTS),
            points=4,
            search="asha",
            footer={"metrics": {"auc": {"direction": "max"}}},
            shared_device=False,
            changed=changed,
        )

    return make


def test_a_point_that_is_stopped_is_dropped_with_what_it_reached(recording, plan):
    heard = []
    record = recording(heard.append)
    (cell, trial), *_ = record.cells.items()
    drawn = dict(draws_of(trial, plan)[2])
    job = {"cell": cell, "point": 2, "drawn": drawn}
    record.heard("a", job, None)
    for epoch, score in ((1, 0.6), (2, 0.8), (3, 0.7)):
        row = {"epoch": epoch, "val_score": score, "sample_gradients": 10 * epoch}
        record.heard("a", job, row | {"gradient_evaluations": epoch, "elapsed_sec": 2.0 * epoch})
    assert (heard[-1].running[0].epoch, heard[-1].running[0].score) == (3, 0.7)
    assert heard[-1].total == 4 * 4
    record.drop("a", job)
    (row,) = read(record.plan.folder, "trials").to_pylist()
    assert (row["status"], row["val_score"], row["best_epoch"]) == ("dropped", 0.8, 2)
    assert row["reason"] == "stopped by asha after 30 sample-gradients"
    assert (row["point"], row["points"], row["seed"], row["test_score"]) == (2, 4, 2, None)
    assert json.loads(row["hparams"]).items() >= drawn.items()
    assert len(read(record.plan.folder, "epochs")) == 3
    assert row["trial_id"] in {t.trial_id for t in point_plan(plan).trials}


def test_a_record_that_is_opened_again_knows_what_is_missing(recording, plan):
    record = recording()
    (cell, trial), *_ = record.cells.items()
    drawn = draws_of(trial, plan)
    record.fail("b", {"cell": cell, "point": 1, "drawn": dict(drawn[1])}, "it broke")
    for point in (0, 3):
        job = {"cell": cell, "point": point, "drawn": dict(drawn[point])}
        outcome = run_trial(record.trial(job), plan.sets[0], plan.base, device=torch.device("cpu"))
        record.finish("c", job, outcome)
    again = recording()
    assert (again.missing(cell), again.reused) == ([1, 2], 2)
    assert set(again.done[cell]) == {0, 3}
    assert again.done[cell][3][0] == drawn[3]
    looks = [(e["sample_gradients"], e["val_score"]) for e in outcome.epochs]
    assert again.looks[cell][3] == (drawn[3], looks)
    assert again.progress().statuses == {"ok": 2}
    assert record.progress().statuses == {"ok": 2, "failed": 1}


# ---- real searches ---------------------------------------------------------------------------


@pytest.fixture
def study(small_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    path = tmp_path / "small.yaml"
    path.write_text(STUDY.format(store=small_store("classification", 2).path))
    return path


def test_a_search_that_cannot_be_is_told(study):
    with pytest.raises(StudyError, match=r"tuning\.search"):
        api.tune(study, search="grid")
    with pytest.raises(StudyError, match="gives no verdict"):
        api.tune(study, search="asha", defaults=True)
    with pytest.raises(StudyError, match="on one device"):
        api.tune(study, search="optuna", gpus_per_trial=2)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["asha", "optuna", "bohb"])
def test_a_search_fills_the_same_tables_and_is_no_verdict(study, tmp_path, name, capfd):
    points = 12 if name == "bohb" else 5
    ended = api.tune(study, points=points, search=name, lanes=2)
    assert ended.folder == tmp_path / "runs" / f"small-{name}"
    assert capfd.readouterr() == ("", "")
    rows = read(ended.folder / POINTS, "trials").to_pylist()
    assert len(rows) == 4 * points
    assert {row["point"] for row in rows} == set(range(points))
    statuses = {row["status"] for row in rows}
    assert not [row["reason"] for row in rows if row["status"] == "failed"]
    assert statuses <= {"ok", "diverged", "dropped"}
    assert ("dropped" in statuses) == (name != "optuna")
    assert all(row["test_score"] is None and row["seed"] == 2 for row in rows)
    usual = {"sgd": 0.01, "adam": 0.001}
    for row in rows:
        if row["point"] == 0:
            assert json.loads(row["hparams"])["lr"] == usual[row["optimizer"]]
        if row["status"] == "dropped":
            assert row["sample_gradients"] < 9 * row["n_train_cases"]
    # Nothing is judged: no final trial, no verdict, and the page says so.
    assert not len(read(ended.folder, "trials"))
    assert ended.verdict["datasets"] == []
    page = " ".join(ended.page.read_text(encoding="utf-8").split())
    assert "A search, no verdict" in page
    assert len(search(Recorded(ended.folder))["lines"]) == 4

    # Points that were trained to their end are those of the process, to the bit.
    if name == "asha":
        whole = {row["trial_id"]: row["val_score"] for row in rows if row["status"] == "ok"}
        here = api.tune(study, points=5)
        same = read(here.folder / POINTS, "trials", trials=whole).to_pylist()
        assert {row["trial_id"]: row["val_score"] for row in same} == whole

    # Two points are lost: the search goes on with these alone.
    lost = sorted((ended.folder / POINTS / "trials").glob("*.parquet"))[:2]
    for path in lost:
        path.unlink()
    again = api.tune(study, points=points, search=name, lanes=2)
    assert again.progress.reused == 4 * points - 2
    assert again.progress.done == 4 * points
