"""Points of a search: what is drawn, which trials try it, what is chosen, and what none may see."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bench.core.references import StudyError
from bench.execution.phases.ray_tune import search_by_tune
from bench.optimizers.spec import Space
from bench.optimizers.table import OPTIMIZERS
from bench.planning.plan import resolve, save
from bench.planning.points import (
    POINTS,
    attempt,
    best_point,
    choose,
    draws,
    draws_of,
    final_plan,
    point_plan,
    spaces,
)
from bench.study.components import Combination
from bench.study.schema import Study, Tuning, with_tuning
from bench.study.trial import trial_columns
from bench.training.train import run_trial
from loaders.store.layout import CHECKED, files_state
from loaders.store.read import Store
from results.tables.store import read, write_trial

SPACE = {
    "lr": Space(low=1e-4, high=1e-2, log=True),
    "momentum": Space(low=0.8, high=0.99, log=False),
}


@pytest.fixture
def plan_of(small_store, tmp_path):
    """Return a maker of tuned plans by the keys of their study."""

    def make(run: str = "run", **keys: object):
        study = {
            "name": "s",
            "data": [{"store": str(small_store("classification", 2).path)}],
            "models": ["plain_cnn"],
            "optimizers": ["sgd", "adam"],
            "losses": ["ce", "focal"],
            "folds": 2,
            "epochs": 2,
            "loader": "torch",
            "threads": 1,
            "device": "cpu",
            "tuning": {"points": 3},
        }
        return resolve(Study.model_validate(study | keys), tmp_path, tmp_path / run)

    return make


# ---- draws -----------------------------------------------------------------------------------


def shares(found, name: str, space: Space) -> np.ndarray:
    """Return where the drawn values of a setting lie in its space, 0 to 1."""
    low, high, values = space.low, space.high, np.array([each[name] for each in found[1:]])
    if space.log:
        return np.log(values / low) / math.log(high / low)
    return (values - low) / (high - low)


def test_draws_fill_a_space_evenly_and_begin_alike():
    found = draws(SPACE, 17, [0, 1, 2])
    assert found[0] == {}
    for name, space in SPACE.items():
        # A (0, m, s)-net in base 2: each sixteenth of an axis holds one of 16 points (Sobol 1967).
        assert sorted(np.floor(16 * shares(found, name, space))) == list(range(16))
    assert draws(SPACE, 6, [0, 1, 2]) == found[:6]
    assert draws(SPACE, 17, [0, 1, 3])[1:] != found[1:]


def test_draws_are_numbers_that_text_holds():
    for each in draws(SPACE, 40, [3])[1:]:
        assert json.loads(json.dumps(each)) == each
        assert all(float(f"{value:.4g}") == value for value in each.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_of_the_table_takes_what_is_drawn(name):
    row = OPTIMIZERS[name]
    for each in draws(row.space, 9, [0]):
        optimizer = row.build([torch.nn.Parameter(torch.zeros(3, 3))], **each)
        for setting, value in each.items():
            assert row.space[setting].low <= value <= row.space[setting].high
            if setting in optimizer.param_groups[0]:
                assert optimizer.param_groups[0][setting] == value


def test_nothing_to_draw_is_one_point():
    assert draws({}, 5, [0]) == ({},)
    assert draws(SPACE, 1, [0]) == ({},)


# ---- trials ----------------------------------------------------------------------------------


def test_each_combination_has_as_many_points_in_each_fold_and_new_ones(plan_of):
    plan = plan_of(seeds=[7, 8])
    tried = point_plan(plan)
    assert len(tried.trials) == 2 * 2 * 2 * 3  # optimizers, losses, folds, points
    assert len({t.trial_id for t in tried.trials}) == len(tried.trials)
    assert not {t.trial_id for t in tried.trials} & {t.trial_id for t in plan.trials}
    assert {t.seed for t in tried.trials} == {7}
    assert all(t.inner_only and t.points == 3 for t in tried.trials)
    drawn = {
        (t.choices["optimizer"].name, t.choices["loss"].name, t.fold, t.point): t.drawn
        for t in tried.trials
    }
    for optimizer in ("sgd", "adam"):
        assert drawn[optimizer, "ce", 0, 0] == {}
        assert set(drawn[optimizer, "ce", 0, 1]) == set(OPTIMIZERS[optimizer].space)
        assert drawn[optimizer, "ce", 0, 1] == drawn[optimizer, "focal", 0, 1]
        assert drawn[optimizer, "ce", 0, 1] != drawn[optimizer, "ce", 1, 1]
    assert drawn["sgd", "ce", 0, 1]["lr"] != pytest.approx(10 * drawn["adam", "ce", 0, 1]["lr"])


def test_another_seed_of_the_draws_draws_others_and_more_points_keep_the_first(plan_of):
    ids = {
        key: {t.trial_id for t in point_plan(plan_of(tuning=tuning)).trials if t.point}
        for key, tuning in {
            "three": {"points": 3},
            "four": {"points": 4},
            "seed": {"points": 3, "seed": 1},
        }.items()
    }
    assert ids["three"] < ids["four"]
    assert not ids["three"] & ids["seed"]


def test_what_the_study_sets_is_not_searched(plan_of):
    plan = plan_of(
        optimizers=[{"sgd": {"lr": 0.02}}, {"lbfgs": {"lr": 0.5}}, "adamw"],
        regularizers=["none", {"weight_decay": {}}],
        losses=["ce"],
    )
    found = {
        (t.choices["optimizer"].name, t.choices["regularizer"].name): draws_of(t, plan)
        for t in plan.trials
    }
    assert set(found["sgd", "none"][1]) == {"momentum"}
    assert set(found["adamw", "none"][1]) == {"lr", "weight_decay"}
    assert set(found["adamw", "weight_decay"][1]) == {"lr"}
    assert found["lbfgs", "none"] == ({},)
    assert not [t for t in point_plan(plan).trials if t.choices["optimizer"].name == "lbfgs"]
    with pytest.raises(StudyError, match="nothing is left to search"):
        point_plan(plan_of(run="other", optimizers=[{"adam": {"lr": 0.01}}]))
    assert set(spaces(plan)["adamw"]) == {"lr", "weight_decay"}
    assert spaces(plan)["lbfgs(lr=0.5)"] == {}
    with_settings = Combination(
        choices=plan.trials[0].choices, base=Path(), drawn=found["sgd", "none"][1]
    )
    assert with_settings.optimizer.settings["lr"] == 0.02
    assert (
        with_settings.optimizer.settings["momentum"] == found["sgd", "none"][1]["momentum"] != 0.9
    )


@pytest.mark.parametrize(
    ("points", "said"), [(1, "tuning.points"), (1025, "tuning.points"), (True, "tuning.points")]
)
def test_a_number_of_points_that_cannot_be_is_told(plan_of, points, said):
    with pytest.raises(StudyError, match=said):
        with_tuning(plan_of().study, points)


# ---- the choice ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "sign", "best"),
    [
        ([0.5, 0.7, 0.6], 1, 1),
        ([0.5, 0.7, 0.6], -1, 0),
        ([0.7, 0.7], 1, 0),
        ([None, 0.1], 1, 1),
        ([None, 9.0], -1, 1),
        ([None, None], 1, 0),
    ],
)
def test_the_best_point_is_chosen_and_of_equals_the_first(scores, sign, best):
    assert best_point(scores, sign) == best


def finish(plan, score, status=lambda trial: "ok") -> None:
    """Write a result of each trial of a plan, as a run would."""
    about = {"metrics": {}, "numerics": 4}
    for trial in plan.trials:
        row = trial_columns(trial) | {"status": status(trial), "val_score": score(trial)}
        write_trial(plan.folder, trial=row, metrics=[], epochs=[], cases=[], footer=about)


def test_the_chosen_settings_are_trained_on_every_seed(plan_of):
    plan = plan_of(seeds=[0, 1])
    tried = point_plan(plan)
    finish(tried, lambda t: 0.5 + 0.1 * (t.point == (2 if t.fold else 0)))
    made = final_plan(plan, tried)
    assert len(made.trials) == len(plan.trials)
    for before, after in zip(plan.trials, made.trials, strict=True):
        assert (after.point, after.points, after.inner_only) == (2 if after.fold else 0, 3, False)
        assert after.drawn == draws_of(before, plan)[after.point]
        # Where the defaults were chosen the trial is the untuned one, by its id too.
        assert (after.trial_id == before.trial_id) == (after.fold == 0)


def test_a_point_that_diverged_counts_as_worst_and_one_that_failed_has_to_be_tried_again(plan_of):
    tried = point_plan(plan_of(losses=["ce"]))

    def status(trial) -> str:
        if trial.point == 1 and trial.choices["optimizer"].name == "sgd":
            return "diverged"
        failed = trial.point == 2 and trial.choices["optimizer"].name == "adam" and trial.fold
        return "failed" if failed else "ok"

    finish(tried, lambda t: [0.5, 0.9, 0.6][t.point], status)
    found = {(cell[2], cell[-1]): point for cell, point in choose(tried).items()}
    assert found == {("sgd", 0): 2, ("sgd", 1): 2, ("adam", 0): 1}


def test_points_of_an_older_version_of_the_numerics_are_told(plan_of):
    plan = plan_of()
    tried = point_plan(plan)
    old = replace(tried.trials[1], trial_id="0123456789abcdef")
    finish(replace(tried, trials=(old,)), lambda _: 0.5)
    # Written by today's version, its id is no reason; by another one it is.
    path = tried.folder / "trials" / "0123456789abcdef.parquet"
    table = pq.read_table(path)
    footer = json.loads(table.schema.metadata[b"medoptbench"]) | {"numerics": 3}
    pq.write_table(table.replace_schema_metadata({"medoptbench": json.dumps(footer)}), path)
    with pytest.raises(StudyError, match=r"made by version 3 of the numerics"):
        point_plan(plan)


# ---- the test fold ---------------------------------------------------------------------------

# Patience ends some of these trials before their budget is spent.
BRIEF = {"epochs": 6, "patience": 1, "seeds": [1]}


@pytest.fixture
def planted(plan_of, tmp_path, monkeypatch, request):
    """Return two plans of one fold alike, but that the second's test cases carry a signal.

    Their images give their labels away, half of which are others than before, and their intensities
    are others, which a normalisation by all cases would feel.
    """
    plan = plan_of(optimizers=["sgd", "adam"], losses=["ce"], normalize=request.param, **BRIEF)
    plan = replace(plan, trials=tuple(t for t in plan.trials if t.fold == 0))
    (data,) = plan.sets
    copy = tmp_path / "planted"
    shutil.copytree(data.path, copy)
    test = data.split(0, 0).test
    table = pq.read_table(copy / "cases.parquet")
    labels = data.store.labels.copy()
    labels[test[::2]] = 1 - labels[test[::2]]
    rows = table.to_pylist()
    for case in test:
        rows[case]["label"] = int(labels[case])
        for name in ("total", "squares", "low", "high"):
            rows[case][name] = [7.0 * value for value in rows[case][name]]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), copy / "cases.parquet")
    for case in test:
        path, row = Store(copy).image_file(case)
        image = np.load(path, mmap_mode="r+")
        (image if row is None else image[row])[:] = 255 * labels[case]
        image.flush()
    monkeypatch.setattr(Store, "check", lambda self: None)
    return plan, replace(plan, sets=(replace(data, path=copy),))


@pytest.mark.parametrize("planted", ["range", "z-score"], indirect=True)
def test_a_signal_that_only_a_test_fold_holds_changes_no_choice(planted):
    plain, marked = planted
    outcomes = []
    for plan in planted:
        tried = point_plan(plan)
        for trial in tried.trials:
            done = run_trial(trial, plan.data(trial.dataset), plan.base, device=torch.device("cpu"))
            row = done.trial | {"study": "s"}
            assert row["status"] == "ok"
            assert row["test_score"] is None
            assert row["test_loss"] is None
            assert row["last_test_score"] is None
            assert not done.cases
            assert not done.examples
            assert {m["split"] for m in done.metrics} == {"inner"}
            write_trial(
                tried.folder / plan.sets[0].path.name,
                trial=row,
                metrics=done.metrics,
                epochs=done.epochs,
                cases=[],
                footer={},
            )
        folder = tried.folder / plan.sets[0].path.name
        tried = replace(tried, folder=folder)
        kept = ("trial_id", "val_score", "last_val_score", "best_epoch", "epochs_run")
        rows = read(folder, "trials", columns=kept).to_pylist()
        looks = ("trial_id", "epoch", "train_loss", "val_loss", "val_score")
        epochs = read(folder, "epochs", columns=looks).to_pylist()
        outcomes.append((choose(tried), rows, epochs, read(folder, "metrics").to_pylist()))
    assert outcomes[0] == outcomes[1]
    assert min(row["epochs_run"] for row in outcomes[0][1]) < BRIEF["epochs"]
    # It is there to be seen: the chosen settings score otherwise on it.
    trial = plain.trials[0]
    one, other = (
        run_trial(trial, p.data(trial.dataset), p.base, device=torch.device("cpu")).trial
        for p in (plain, marked)
    )
    assert one["val_score"] == other["val_score"]
    assert one["test_score"] != other["test_score"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["asha", "bohb"])
@pytest.mark.parametrize("planted", ["z-score"], indirect=True)
def test_a_search_by_ray_tune_feels_no_signal_of_a_test_fold(planted, name, monkeypatch):
    """What is tried, stopped and found is the same where only the test cases are others."""
    monkeypatch.undo()  # stores are checked in processes of their own
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    tuning = Tuning(points=14, search=name)
    found = []
    for plan in planted:
        (data,) = plan.sets
        store = Store(data.path)
        (data.path / CHECKED).write_text(files_state(data.path, store.files))
        asked = replace(
            plan,
            study=plan.study.model_copy(update={"tuning": tuning}),
            folder=plan.folder / data.path.name,
        )
        asked.folder.mkdir(parents=True)
        save(asked)
        ended = search_by_tune(asked, address=None, lanes=1, changed=lambda _progress: None)
        assert ended.done == 2 * 14
        kept = ("trial_id", "point", "status", "hparams", "val_score", "best_epoch", "test_score")
        found.append(read(asked.folder / POINTS, "trials", columns=kept).to_pylist())
    assert found[0] == found[1]
    assert {row["status"] for row in found[0]} >= {"ok", "dropped"}
    assert {row["test_score"] for row in found[0]} == {None}
    # The draws are those of the plan, but where a model proposed.
    drawn = {
        attempt(trial, each, point, 14).trial_id
        for trial in asked.trials
        for point, each in enumerate(draws_of(trial, asked))
    }
    assert ({row["trial_id"] for row in found[0]} <= drawn) == (name == "asha")


def test_a_study_that_is_tuned_is_another_run_than_one_that_is_not(plan_of):
    save(plan_of())
    with pytest.raises(StudyError, match=r"^tuning: this run was made with"):
        plan_of(tuning=None)
    with pytest.raises(StudyError, match=r"^tuning: this run was made with"):
        plan_of(tuning={"points": 4})
