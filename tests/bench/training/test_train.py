"""run_trial(): the protocol, held by what it leaves."""

import json
import math
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.losses.table import LOSSES
from bench.optimizers.table import OPTIMIZERS
from bench.study import tasks
from bench.study.choice import Choice
from bench.study.schema import Augment
from bench.training import evaluate, networks, train
from bench.training.evaluate import Evaluator, Score
from bench.training.train import run_trial
from loaders.batches.table import LOADERS
from results.tables.schema import TABLES
from tests.trials import changed

CPU = torch.device("cpu")
TASKS = ("classification", "segmentation")
READY_LOADERS = [name for name, row in LOADERS.items() if row.available()]


def run(case, **changes):
    trial, data, base = case
    return run_trial(changed(trial, **changes), data, base, device=CPU)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dims", [2, 3])
def test_a_trial_fills_every_column_that_was_measured(make_trial, task, dims):
    outcome = run(make_trial(task, dims, target=0.0))
    row = outcome.trial
    assert row["status"] == "ok"
    filled_later = {"study", "attempt", "lane", "shared_device"}
    not_measured = {"reason", "pretrained", "test_score_before_diverging"}
    not_measured |= {"energy_joules", "unrepeatable"}  # of a GPU
    not_measured |= {"point", "points"}  # nothing was searched
    not_measured |= {"clinical", "labels"}  # null where they are plain
    if task == "classification":
        not_measured.add("inference")  # what is no map is not put together of windows
    missing = {c for c in TABLES["trials"].names if row.get(c) is None}
    assert missing == filled_later | not_measured
    assert row["sample_gradients"] <= 3 * row["n_train_cases"]
    assert row["epochs_run"] == 3
    json.loads(row["hparams"])
    assert [e["epoch"] for e in outcome.epochs] == [1, 2, 3]
    for name, rows in (("metrics", outcome.metrics), ("epochs", outcome.epochs)):
        assert {key for r in rows for key in r} <= set(TABLES[name].names)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_trial_gives_the_same_numbers_bit_for_bit(make_trial, task):
    first, second = run(make_trial(task)), run(make_trial(task))
    assert first.metrics == second.metrics
    assert first.cases == second.cases
    assert [e["train_loss"] for e in first.epochs] == [e["train_loss"] for e in second.epochs]


@pytest.mark.parametrize("normalize", ["z-score", "range"])
@pytest.mark.parametrize("task", TASKS)
def test_every_loader_gives_the_same_metrics_bit_for_bit(make_trial, task, normalize):
    case = make_trial(task, normalize=normalize)
    assert {"torch", "monai"} <= set(READY_LOADERS)  # one alone would be compared with itself
    outcomes = [run(case, loader=name) for name in READY_LOADERS]
    assert all(o.metrics == outcomes[0].metrics for o in outcomes)
    assert all(o.cases == outcomes[0].cases for o in outcomes)


def test_the_test_fold_is_scored_once_by_the_weights_that_inner_validation_chose(
    make_trial, monkeypatch
):
    trial, data, base = make_trial("segmentation", epochs=4)
    split = data.split(0, 0)
    scored = []
    own_score = evaluate.Evaluator.score

    def score(self, cases, *, final):
        result = own_score(self, cases, final=final)
        weights = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        scored.append((tuple(cases), final, result.value, weights))
        return result

    monkeypatch.setattr(evaluate.Evaluator, "score", score)
    row = run_trial(trial, data, base, device=CPU).trial
    inner, test = tuple(split.inner), tuple(split.test)
    looks, seen, final = scored[:4], scored[4], scored[5:]
    assert [s[:2] for s in looks] == [(inner, False)] * 4
    # By the last weights, as many training cases as inner ones.
    assert len(seen[0]) == len(inner) < len(split.train)
    assert set(seen[0]) < set(split.train)
    assert not seen[1]
    assert torch.equal(looks[-1][3], seen[3])
    assert row["last_train_score"] == seen[2]
    best = max(looks, key=lambda s: s[2])
    # Beside the chosen weights the last, where they are others; the chosen count.
    assert [s[:2] for s in final] == [(test, True)] * (1 if best is looks[-1] else 2)
    assert torch.equal(best[3], final[-1][3])
    assert torch.equal(looks[-1][3], final[0][3])
    assert row["last_val_score"] == looks[-1][2]
    assert row["last_test_score"] == final[0][2]
    assert row["val_score"] == best[2]
    assert row["test_score"] == scored[-1][2]


def images_seen_by(trial, data, base, monkeypatch) -> np.ndarray:
    """Return the samples (N, C, *patch) that a trial trains on, in their order."""
    batches = []
    table = LOADERS["torch"]

    def watched(request):
        for batch in table.batches(request):
            batches.append(batch.image.numpy().copy())
            yield batch

    with monkeypatch.context() as patch:
        patch.setitem(LOADERS, "torch", replace(table, batches=watched))
        assert run_trial(trial, data, base, device=CPU).trial["status"] == "ok"
    return np.concatenate(batches)


@pytest.mark.parametrize("task", TASKS)
def test_weights_samples_and_draws_are_the_same_for_every_optimizer_and_loss(
    make_trial, monkeypatch, task
):
    trial, data, base = make_trial(task, epochs=1)
    starts, streams = {}, []
    build = networks.build_model

    def built(*args):
        model = build(*args)
        starts.setdefault(key, torch.cat([p.detach().flatten() for p in model.parameters()]))
        return model

    monkeypatch.setattr(networks, "build_model", built)
    for key in [("sgd", "ce"), ("adam", "focal"), ("lbfgs", "dice_squared")]:
        own = changed(trial, optimizer=Choice(name=key[0]), loss=Choice(name=key[1]))
        streams.append(images_seen_by(own, data, base, monkeypatch))
    shortest = min(len(s) for s in streams)
    assert shortest >= 4
    assert all(np.array_equal(s[:shortest], streams[0][:shortest]) for s in streams)
    weights = list(starts.values())
    assert all(torch.equal(w, weights[0]) for w in weights)


def test_another_seed_gives_other_weights_and_samples(make_trial):
    first, second = run(make_trial("segmentation")), run(make_trial("segmentation"), seed=1)
    assert first.epochs[0]["train_loss"] != second.epochs[0]["train_loss"]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("task", TASKS)
def test_every_optimizer_runs_and_pays_for_each_evaluation(make_trial, task, name):
    row = run(make_trial(task), optimizer=Choice(name=name)).trial
    assert row["status"] in {"ok", "diverged"}
    assert row["sample_gradients"] == row["gradient_evaluations"] * row["batch_size"]
    assert row["sample_gradients"] <= 3 * row["n_train_cases"]
    assert 3 * row["n_train_cases"] - row["sample_gradients"] < row["batch_size"]


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("task", TASKS)
def test_every_loss_runs(make_trial, task, name):
    if tasks.TASKS[task].served_by not in LOSSES[name].tasks:
        pytest.skip(f"{name} is not for {task}")
    # Distances are far at first, and what is wrong weighs more while it moves.
    outcome = run(make_trial(task), loss=Choice(name=name), epochs=6 if name == "hausdorff" else 3)
    assert outcome.trial["status"] == "ok"
    assert outcome.epochs[-1]["train_loss"] < outcome.epochs[0]["train_loss"]


def test_what_a_loss_imports_is_imported_before_seconds_count():
    """MONAI's import was 5 s of the first trial's training, and so of its price."""
    told = subprocess.run(
        [sys.executable, "-c", LATE_IMPORTS],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert json.loads(told.stdout) == []


# Prints which modules a loss imports after it was computed once of a made sample.
LATE_IMPORTS = """
import json
import sys
from functools import partial
from types import SimpleNamespace

import torch

from bench.losses.table import LOSSES, alone
from bench.study.tasks import TASKS
from bench.training.train import _import_loss

found = []
for row in LOSSES.values():
    for name in row.tasks:
        task = TASKS[name]
        store = SimpleNamespace(meta=SimpleNamespace(task=name, classes=("a", "b"), dims=2))
        weights, derive = torch.ones(2), row.derive and partial(row.derive, classes=2)
        criterion = row.bind({})
        _import_loss(criterion, derive, store, weights, torch.device("cpu"))
        known = set(sys.modules)
        shape = (2, 2, *((16, 16) if task.windows else ()))
        target = task.target(shape)
        criterion(torch.randn(shape, requires_grad=True), target, weights, alone).sum().backward()
        if derive:
            derive(target)
        found += sorted(set(sys.modules) - known)
print(json.dumps(found))
"""


def test_a_rate_far_too_high_is_an_outcome_and_no_error(make_trial):
    huge = Choice(name="sgd", params={"lr": 1e20})
    outcome = run(make_trial("classification"), optimizer=huge)
    assert outcome.trial["status"] == "diverged"
    assert "not finite" in outcome.trial["reason"]
    assert outcome.trial["test_score"] is None
    assert not outcome.metrics
    assert not outcome.cases


def test_a_trial_that_diverges_keeps_what_the_weights_before_scored(make_trial, monkeypatch):
    """Its images are no numbers after two epochs: as good until then as a trial of two."""
    case = make_trial("classification", batch_size=2)
    until = 2 * run(case, epochs=1).trial["n_train_cases"] // 2
    table = LOADERS["torch"]

    def poisoned(request):
        for number, batch in enumerate(table.batches(request)):
            yield batch if number < until else batch._replace(image=batch.image * np.nan)

    expected = run(case, epochs=2).trial
    monkeypatch.setitem(LOADERS, "torch", replace(table, batches=poisoned))
    outcome = run(case, epochs=5)
    row = outcome.trial
    assert row["status"] == "diverged"
    assert row["reason"] == "the training loss is not finite at epoch 3"
    assert [e["epoch"] for e in outcome.epochs] == [1, 2, 3]
    assert row["test_score_before_diverging"] == expected["test_score"]
    assert row["val_score"] == expected["val_score"]
    assert row["best_epoch"] == expected["best_epoch"]
    # Judged as ever: it has no score, and leaves no rows.
    assert [row[n] for n in ("test_score", "last_val_score", "last_test_score")] == [None] * 3
    assert not outcome.metrics
    assert not outcome.cases


def test_the_last_weights_score_stands_beside_the_chosen(make_trial, monkeypatch):
    case = make_trial("segmentation", epochs=4, optimizer=Choice(name="sgd"))
    with monkeypatch.context() as patch:
        patch.setattr(train, "_better", lambda *_: True)
        last = run(case).trial
        patch.setattr(train, "_better", lambda *_: False)
        first = run(case).trial
    assert (first["best_epoch"], last["best_epoch"]) == (1, 4)
    assert first["test_score"] != last["test_score"]
    assert first["last_test_score"] == last["last_test_score"] == last["test_score"]
    assert first["last_val_score"] == last["last_val_score"] == last["val_score"]
    assert first["test_score_before_diverging"] is None


def test_patience_ends_a_trial_and_counts_epochs_of_budget(make_trial):
    still = Choice(name="sgd", params={"lr": 1e-12})
    row = run(make_trial("segmentation"), optimizer=still, epochs=9, patience=2).trial
    assert row["best_epoch"] == 1
    assert row["epochs_run"] == 3


def test_stopping_on_the_loss_chooses_by_the_loss(make_trial):
    outcome = run(make_trial("classification"), epochs=5, stop_on="loss")
    lowest = min(outcome.epochs, key=lambda e: e["val_loss"])
    assert outcome.trial["best_epoch"] == lowest["epoch"]


def scripted(value, false_alarm, loss, label):
    """Return the score of an evaluation of one case, which holds the region if label is 1."""
    alarm = {"metric": "false_alarm", "headline": True, "value": false_alarm}
    return Score(
        loss=loss,
        value=value,
        metrics=[] if false_alarm is None else [alarm],
        cases=[{"label": label}],
        examples={},
        infer_sec=0.0,
    )


@pytest.mark.parametrize(
    ("course", "best"),
    [
        # No case holds the region: Dice is 0 with a false alarm and undefined without.
        ([(0.0, 0.5, 0.1, 0), (0.0, 0.2, 0.2, 0), (0.0, 0.5, 0.0, 0)], 2),
        ([(0.0, 0.5, 0.1, 0), (None, 0.0, 0.9, 0), (None, 0.0, 0.5, 0), (0.0, 0.1, 0.0, 0)], 3),
        # Undefined whatever is found, and no case without the region: by the loss.
        ([(None, None, 0.5, 1), (None, None, 0.3, 1), (None, None, 0.4, 1)], 2),
        # A defined metric decides alone, and of equals the first.
        ([(0.5, 0.0, 0.1, 1), (0.6, 0.9, 0.9, 1), (0.6, 0.0, 0.1, 1)], 2),
    ],
)
def test_where_inner_validation_has_nothing_to_score_false_alarms_and_loss_decide(
    make_trial, monkeypatch, course, best
):
    scores = [scripted(*epoch) for epoch in course]
    test = scripted(0.5, 0.0, 0.5, 1)
    scores += [test, test]  # by the last weights: of training cases, of the test fold
    monkeypatch.setattr(
        Evaluator, "score", lambda self, cases, *, final: test if final else scores.pop(0)
    )
    row = run(make_trial("segmentation"), epochs=len(course)).trial
    assert (row["status"], row["best_epoch"]) == ("ok", best)
    assert row["val_score"] == course[best - 1][0]


def test_time_to_target_is_that_of_the_first_epoch_that_reached_it(make_trial):
    outcome = run(make_trial("segmentation"), epochs=5, target=0.3)
    hit = next(e for e in outcome.epochs if e["val_score"] >= 0.3)
    assert outcome.trial["sample_gradients_to_target"] == hit["sample_gradients"]
    assert run(make_trial("segmentation"), target=2.0).trial["sec_to_target"] is None


def test_every_test_case_is_scored_once_and_no_other(make_trial):
    trial, data, base = make_trial("segmentation", dims=3)
    outcome = run_trial(trial, data, base, device=CPU)
    expected = {data.store.case_ids[i] for i in data.split(0, 0).test}
    counted = [c["case_id"] for c in outcome.cases if c["region"] == "whole"]
    assert sorted(counted) == sorted(expected)
    shapes = {data.store.case_ids[i]: data.store.shapes[i].prod() for i in data.split(0, 0).test}
    for case in outcome.cases:
        assert case["tp"] + case["fp"] + case["fn"] + case["tn"] == shapes[case["case_id"]]


def test_statistics_come_from_the_training_part_alone(make_trial, monkeypatch):
    trial, data, base = make_trial("classification")
    asked = []
    own = train.normalization
    monkeypatch.setattr(
        train, "normalization", lambda m, kind, cases: asked.append(cases) or own(m, kind, cases)
    )
    run_trial(trial, data, base, device=CPU)
    assert len(asked) == 1
    assert np.array_equal(asked[0], data.split(0, 0).train)


# No draw changes an intensity, so what a batch holds is what normalising made of it.
AS_IT_IS = Augment(scale=0.0, shift=0.0)


@pytest.mark.parametrize("task", TASKS)
def test_a_trial_in_the_range_sees_0_to_1(make_trial, monkeypatch, task):
    # Patches as large as the smallest image: nothing is filled in.
    case = make_trial(task, normalize="range", augment=AS_IT_IS)
    voxels = images_seen_by(*case, monkeypatch)
    trial, data, _ = case
    assert voxels.min() == 0
    # Rounded twice to float32.
    assert voxels.max() == pytest.approx(1, abs=2e-7)
    raw = [data.store.image(i).reshape(2, -1) for i in data.split(0, 0).train]
    low, high = (f(np.concatenate(raw, axis=1), axis=1) for f in (np.min, np.max))
    draws = train.make_sampler(trial, data, 0).centre(np.arange(len(data.store)))
    np.testing.assert_array_equal(draws.offset, np.tile(low, (len(data.store), 1)))
    np.testing.assert_array_equal(draws.unit, np.tile(high - low, (len(data.store), 1)))


def test_augmentation_is_in_units_of_the_range(make_trial, monkeypatch):
    shifted = Augment(scale=0.0, shift=0.5)
    case = make_trial("classification", normalize="range", augment=shifted)
    voxels = images_seen_by(*case, monkeypatch)
    assert -0.5 <= voxels.min() < -0.1
    assert 1.1 < voxels.max() <= 1.5 + 1e-6


class Changed:
    """Another object that says otherwise in some respects."""

    def __init__(self, other, **changes):
        self.__dict__.update(changes)
        self._other = other

    def __getattr__(self, name):
        return getattr(self._other, name)


def test_what_lies_outside_the_training_part_moves_no_range(make_trial):
    trial, data, _ = make_trial("classification", normalize="range")
    split, store = data.split(0, 0), data.store
    low, high = store.extremes
    before = train.make_sampler(trial, data, 0).centre(split.test)
    for rows, same in ((split.inner, True), (split.test, True), (split.train, False)):
        far = np.where(np.isin(np.arange(len(store)), rows), 1000, 0)[:, None]
        other = Changed(data, store=Changed(store, extremes=(low - far, high + far)))
        after = train.make_sampler(trial, other, 0).centre(split.test)
        assert np.array_equal(before.offset, after.offset) is same
        assert np.array_equal(before.unit, after.unit) is same


def test_mri_is_brought_to_each_case_s_own_range(make_trial):
    trial, data, _ = make_trial("segmentation", normalize="range")
    store = data.store
    low, high = store.extremes
    # Of every other case some voxels were zero and left out, as those around a brain are.
    count, zeros = store.moments[0], np.arange(len(store))[:, None] % 2
    mri = Changed(
        store,
        meta=replace(store.meta, normalize="case"),
        moments=(count - zeros, *store.moments[1:]),
    )
    draws = train.make_sampler(trial, Changed(data, store=mri), 0).centre(np.arange(len(store)))
    assert (low > 0).all()
    np.testing.assert_array_equal(draws.offset, np.where(zeros, 0, low))
    np.testing.assert_array_equal(draws.unit, np.where(zeros, high, high - low))


def test_counting_operations_changes_no_result(make_trial):
    networks._flops.clear()
    first = run(make_trial("segmentation"))
    second = run(make_trial("segmentation"))
    assert first.metrics == second.metrics


@pytest.mark.gpu
@pytest.mark.parametrize("task", TASKS)
def test_a_gpu_runs_the_same_path(make_trial, task):
    trial, data, base = make_trial(task)
    outcome = run_trial(trial, data, base, device=torch.device("cuda"))
    assert outcome.trial["status"] == "ok"
    assert outcome.trial["peak_memory_bytes"] > 0


def rates(outcome) -> list[float]:
    return [e["lr"] for e in outcome.epochs]


def test_the_schedule_sets_the_rate_by_the_share_of_the_budget(make_trial):
    outcome = run(
        make_trial("classification", epochs=4),
        schedule=Choice(name="polynomial", params={"power": 1.0}),
    )
    assert outcome.trial["schedule"] == "polynomial(power=1.0)"
    # The last step of an epoch begins one batch before its end.
    n, batch = outcome.trial["n_train_cases"], outcome.trial["batch_size"]
    steps = [int(e["sample_gradients"]) for e in outcome.epochs]
    expected = [1e-3 * (1 - (spent - batch) / (4 * n)) for spent in steps]
    assert rates(outcome) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["dropout", "label_smoothing", "mixup"])
def test_a_regularizer_changes_what_is_trained(make_trial, name):
    plain = run(make_trial("classification"))
    other = run(
        make_trial("classification"), regularizer=Choice(name=name), **OF_TRIAL.get(name, {})
    )
    assert other.trial["regularizer"] == name
    assert other.trial["status"] == "ok"
    assert [e["train_loss"] for e in other.epochs] != [e["train_loss"] for e in plain.epochs]


# What expand() writes into a trial for this row.
OF_TRIAL = {"mixup": {"mixup": 0.2}}


def test_resampling_draws_the_classes_equally_often(make_trial):
    trial, data, _ = make_trial("classification")
    split, labels = data.splits[0], data.store.labels
    rare = [i for i in split.train if labels[i] == 1][:2]
    train_part = np.array([i for i in split.train if labels[i] == 0] + rare)
    skewed = replace(data, splits=(replace(split, train=train_part),))
    for balance, share in ((False, 2 / len(train_part)), (True, 0.5)):
        sampler = train.make_sampler(replace(trial, balance=balance), skewed, 0)
        cases = sampler.draw(np.arange(20 * len(train_part))).case
        assert labels[cases].mean() == pytest.approx(share, abs=0.06)


def test_weight_decay_reaches_the_optimizer(make_trial):
    outcome = run(make_trial("classification"), regularizer=Choice(name="weight_decay"))
    assert json.loads(outcome.trial["hparams"])["weight_decay"] == 5e-4
    assert outcome.trial["optimizer"] == "adam"
    assert outcome.trial["weight_decay_kind"] == "coupled"


def test_norms_and_biases_go_without_decay_where_the_study_says_so(make_trial, monkeypatch):
    """AdamW's decay is a factor of the weights: at a rate of 1e-9 nothing but it moves them."""
    strong = Choice(name="adamw", params={"lr": 1e-9, "weight_decay": 1e8})
    ends = {}
    for decays in (True, False):
        trial, data, base = make_trial("classification", epochs=1, decay_norms=decays)
        made = []
        build = networks.build_model
        monkeypatch.setattr(
            networks,
            "build_model",
            lambda *a, made=made, build=build: made.append(build(*a)) or made[-1],
        )
        row = run_trial(changed(trial, optimizer=strong), data, base, device=CPU).trial
        monkeypatch.undo()
        ends[decays] = dict(made[0].named_parameters())
        steps = row["gradient_evaluations"]
    assert steps > 1
    compared = 0
    for name, flat in ends[True].items():
        # The same weights, but for the decay; those of one dimension shrink only with decay_norms.
        ratio = (ends[False][name].abs().sum() / flat.abs().sum().clamp(min=1e-12)).item()
        if flat.ndim > 1:
            assert ratio == pytest.approx(1, abs=1e-3)
        elif ends[False][name].abs().sum() > 0.01:
            compared += 1
            assert ratio == pytest.approx(0.9**-steps, rel=1e-3)
    assert compared > 1


def test_without_stopping_the_whole_budget_is_spent(make_trial):
    case = make_trial("classification", epochs=6, patience=1, optimizer=Choice(name="sgd"))
    assert run(case).trial["epochs_run"] < 6
    assert run(case, stops=False).trial["epochs_run"] == 6


def test_two_batches_of_two_step_as_one_of_four(make_trial):
    case = make_trial("segmentation", epochs=2)
    whole, parts = run(case, batch_size=4), run(case, batch_size=2, accumulate=2)
    assert whole.trial["batch_size"] == parts.trial["batch_size"] == 4
    assert whole.trial["gradient_evaluations"] == parts.trial["gradient_evaluations"]
    losses = [[e["train_loss"] for e in o.epochs] for o in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_clip_and_moving_average_reach_the_training(make_trial):
    case = make_trial("segmentation", keep_weights=True, optimizer=Choice(name="sgd"))
    plain, clipped = run(case), run(case, clip=1e-6)
    # Steps of a millionth leave the weights where they were.
    assert clipped.epochs[-1]["train_loss"] > plain.epochs[-1]["train_loss"]
    start = clipped.epochs[0]["val_score"]
    assert [e["val_score"] for e in clipped.epochs] == pytest.approx([start] * 3, abs=1e-3)
    averaged = run(case, ema=0.999999)
    # The average stays where the first step led, while training goes on as without it.
    assert [e["train_loss"] for e in averaged.epochs] == [e["train_loss"] for e in plain.epochs]
    start = averaged.epochs[0]["val_loss"]
    assert [e["val_loss"] for e in averaged.epochs] == pytest.approx([start] * 3, rel=1e-4)
    assert plain.epochs[-1]["val_loss"] < start


@pytest.mark.parametrize("name", ["sgd", "adam", "sam", "sophia", "lbfgs"])
def test_every_optimizer_gets_as_many_looks_before_it_is_stopped(make_trial, monkeypatch, name):
    monkeypatch.setattr(train, "_better", lambda *_: False)
    case = make_trial("classification", epochs=150, patience=3, optimizer=Choice(name=name))
    outcome = run(case)
    assert outcome.trial["best_epoch"] == outcome.epochs[0]["epoch"]
    assert len(outcome.epochs) == 1 + 3
    assert outcome.trial["early_stopping"] is True


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains(make_trial, task, precision):
    outcome = run(make_trial(task), precision=precision, channels_last=True)
    full = run(make_trial(task))
    assert outcome.trial["precision"] == precision
    losses = [[e["train_loss"] for e in o.epochs] for o in (outcome, full)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_channels_last_changes_the_memory_alone(make_trial):
    case = make_trial("segmentation")
    losses = [
        [e["train_loss"] for e in run(case, channels_last=flag).epochs] for flag in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_a_model_is_compiled_once_for_all_trials_of_a_lane(make_trial, monkeypatch):
    made = []
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: made.append(1) or compile_(*a, **k))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    case = make_trial("segmentation", compiled=True)
    outcomes = [run(case)]
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 1
    outcomes += [run(case), run(case, optimizer=Choice(name="sgd")), run(case, fold=1)]
    assert len(made) == 1
    assert counters["stats"]["unique_graphs"] == graphs
    plain = run(make_trial("segmentation"))
    losses = [[e["train_loss"] for e in o.epochs] for o in (*outcomes[:2], plain)]
    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(losses[2], rel=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_degraded_images_are_scored_beside_the_others_and_change_nothing_else(make_trial, task):
    worse = (Choice(name="noise", params={"deviation": 3.0}), Choice(name="blur"))
    plain, outcome = run(make_trial(task)), run(make_trial(task), degrade=worse)
    labels = {"noise(deviation=3.0)", "blur"}
    own = [m for m in outcome.metrics if not m["degradation"]]
    assert own == plain.metrics
    assert {m["degradation"] for m in outcome.metrics} == {"", *labels}
    assert outcome.cases == plain.cases
    # Not the AUC, which is 1 on these images either way.
    watched = {"segmentation": "dice", "regression": "mae"}.get(task, "brier")

    def values(degradation: str) -> list[float]:
        return [
            m["value"]
            for m in outcome.metrics
            if (m["split"], m["metric"], m["degradation"]) == ("test", watched, degradation)
            and not m["stratum"]
        ]

    assert len(values("")) == len(values("blur")) > 0
    assert values("noise(deviation=3.0)") != values("")


@pytest.mark.parametrize("mixup", [0.0, 0.3])
@pytest.mark.parametrize("loader", READY_LOADERS)
def test_a_loss_of_distances_gets_them_from_the_loader(make_trial, monkeypatch, loader, mixup):
    """It is the same, bit for bit, as if the loss made them itself."""
    row = LOSSES["boundary"]
    made_by = []

    def watched(target, classes):
        made_by.append(threading.current_thread())
        return row.derive(target, classes=classes)

    case = make_trial("segmentation", epochs=2, loader=loader, mixup=mixup)
    choice = Choice(name="boundary", params={"weight": 1.0})
    outcomes = []
    for derive in (watched, None):
        monkeypatch.setitem(LOSSES, "boundary", replace(row, derive=derive))
        outcomes.append(run(case, loss=choice))
    given, own = outcomes
    # Once of a made sample, before seconds count; all others beside the steps.
    first, *others = made_by
    assert first is threading.main_thread()
    assert others
    assert threading.main_thread() not in others
    assert given.metrics == own.metrics
    assert [e["train_loss"] for e in given.epochs] == [e["train_loss"] for e in own.epochs]


def test_settings_are_json_though_one_is_infinite():
    def refuse(constant):
        raise AssertionError(constant)  # Python's json alone reads Infinity; no database does

    text = train.settings_as_json({"lr": 0.1, "clip": math.inf, "low": -math.inf, "betas": (0.9,)})
    found = json.loads(text, parse_constant=refuse)
    assert found == {"lr": 0.1, "clip": "inf", "low": "-inf", "betas": [0.9]}


def test_the_weight_of_borders_rises_epoch_by_epoch_and_not_in_evaluation(make_trial, monkeypatch):
    row = LOSSES["boundary"]
    used = {True: [], False: []}

    def watched(logits, target, weights, total, *, weight, **settings):
        used[logits.requires_grad].append(weight)
        return row.function(logits, target, weights, total, weight=weight, **settings)

    monkeypatch.setitem(LOSSES, "boundary", replace(row, function=watched))
    case = make_trial("segmentation", epochs=3)
    run(case, loss=Choice(name="boundary", params={"weight": 0.25, "rise": 0.5}))
    assert list(dict.fromkeys(used[True])) == [0.25, 0.75, 1.25]
    assert set(used[False]) == {0.25}


def test_a_loss_in_mm_gets_the_spacing_of_the_training_part(make_trial, monkeypatch):
    row = LOSSES["boundary"]
    seen = []

    def watched(*given, spacing=None, **settings):
        seen.append(spacing)
        return row.function(*given, spacing=spacing, **settings)

    def made(target, *, classes, spacing):
        seen.append(spacing)
        return row.derive(target, classes=classes, spacing=spacing)

    trial, data, base = make_trial("segmentation", epochs=1)
    train_part = data.split(trial.repeat, trial.fold).train
    spacing = np.tile([3.0, 0.5], (len(data.store), 1))
    spacing[train_part[0]] = 9.0  # one case of others
    monkeypatch.setitem(vars(data.store), "spacing", spacing)
    monkeypatch.setitem(LOSSES, "boundary", replace(row, function=watched, derive=made))
    run((trial, data, base), loss=Choice(name="boundary", params={"mm": True}))
    assert set(seen) == {(3.0, 0.5)}


def test_a_class_balanced_loss_is_given_counts(make_trial, monkeypatch):
    row, seen = LOSSES["class_balanced"], []

    def watched(logits, target, counts, total, **settings):
        seen.append(tuple(counts.tolist()))
        return row.function(logits, target, counts, total, **settings)

    monkeypatch.setitem(LOSSES, "class_balanced", replace(row, function=watched))
    trial, data, base = make_trial("classification", epochs=1)
    run((trial, data, base), loss=Choice(name="class_balanced"))
    labels = data.store.labels[data.split(trial.repeat, trial.fold).train]
    assert set(seen) == {tuple(np.bincount(labels).astype(float).tolist())}
