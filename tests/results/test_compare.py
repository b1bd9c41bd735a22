"""Two runs side by side: differences that are there by construction, and what may not be paired."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from results import text
from results.compare import compare, in_words
from results.tables.store import RunError, write_trial
from tests.results.conftest import FOOTER

FOLDS, CASES = 5, 6


def write(
    run,
    shifts,
    *,
    prefix="c",
    offset=0,
    folds=FOLDS,
    noise=0.0,
    each=0.01,
    shared=False,
    device="G",
):
    """Write a run of `shifts` (optimizer -> what is added to the Dice of every case)."""
    rng = np.random.default_rng(5)
    base = rng.uniform(0.4, 0.6, (folds, CASES))
    own = np.random.default_rng(len(run.name))
    for optimizer, shift in shifts.items():
        for fold in range(folds):
            dice = base[fold] + shift + noise * own.standard_normal(CASES)
            name = f"{optimizer}{fold}"
            trial = {
                "study": "s", "trial_id": name, "dataset": "scans", "task": "segmentation",
                "model": "unet", "optimizer": optimizer, "loss": "ce", "schedule": "constant",
                "regularizer": "none", "repeat": 0, "fold": fold, "seed": 0, "status": "ok",
                "primary_metric": "dice", "test_score": dice.mean(), "val_score": 0.5,
                "n_train_cases": 24, "n_test_cases": 6, "shared_device": shared,
                "device_name": device, "peak_memory_bytes": 1000, "train_sec": 10.0,
            }  # fmt: skip
            cases = [
                {
                    "case_id": f"{prefix}{(fold + offset) % folds}-{n}",
                    "group_id": "g",
                    "region": "WT",
                    "tp": 1,
                }
                | {"dice": float(value), "fp": 1, "fn": 1, "tn": 9, "n_ref": 2, "n_pred": 2}
                for n, value in enumerate(dice)
            ]
            jitter = each * (1 + 0.01 * own.standard_normal())
            epochs = [
                {"epoch": 1, "val_score": 0.5, "sample_gradients": 100, "elapsed_sec": 1.0}
                | {"gradient_evaluations": 10, "samples_per_sec": 1 / jitter}
            ]
            write_trial(run, trial=trial, metrics=[], epochs=epochs, cases=cases, footer=FOOTER)
    return run


def test_what_got_better_and_worse_is_found_in_pairs(tmp_path):
    first = write(tmp_path / "first", {"adam": 0.0, "sgd": 0.0, "lion": 0.0}, noise=0.001)
    second = write(tmp_path / "second", {"adam": 0.1, "sgd": -0.1, "lion": 0.0}, noise=0.001)
    found = compare(first, second)
    (side,) = found.sides
    rows = {row.name.split()[2]: row for row in side.combinations}
    assert {name: row.found for name, row in rows.items()} == {
        "adam": "better",
        "sgd": "worse",
        "lion": "alike",
    }
    assert rows["adam"].cases == (30, 0, 0)
    assert rows["sgd"].cases == (0, 30, 0)
    assert sum(rows["lion"].cases) == 30
    assert rows["adam"].low < 0.1 < rows["adam"].high
    assert side.why == ""
    words = "\n".join(in_words(found))
    assert words.startswith("From first to second")
    assert "scans, Dice: 3 combinations in both (1 better, 1 worse, 1 not distinguishable" in words
    assert "Paired on the same cases and folds; intervals of 98.33 % each." in words
    assert "Cases count as equal within 0.012 % of the largest score" in words


def test_the_interval_is_that_of_the_corrected_paired_t_test(tmp_path):
    """Nadeau and Bengio's variance, written out here with scipy's t."""
    first = write(tmp_path / "a", {"adam": 0.0}, noise=0.02)
    second = write(tmp_path / "bb", {"adam": 0.03}, noise=0.02)
    row = compare(first, second).sides[0].combinations[0]
    means = []
    for folder in (first, second):
        own = np.random.default_rng(len(folder.name))
        base = np.random.default_rng(5).uniform(0.4, 0.6, (FOLDS, CASES))
        shift = 0.03 * (folder == second)
        folds = []
        for fold in range(FOLDS):
            folds.append((base[fold] + shift + 0.02 * own.standard_normal(CASES)).mean())
            own.standard_normal()  # that of the speed
        means.append(np.array(folds))
    d = means[1] - means[0]
    half = stats.t.ppf(0.975, FOLDS - 1) * np.sqrt(d.var(ddof=1) * (1 / FOLDS + 6 / 24))
    assert (row.low, row.high) == pytest.approx((d.mean() - half, d.mean() + half))


def test_a_run_without_a_finished_trial_is_told_as_such(tmp_path):
    first = write(tmp_path / "first", {"adam": 0.0}, noise=0.01)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "study.yaml").write_text("name: begun\n")
    with pytest.raises(RunError, match="begun has no finished trial yet"):
        compare(first, tmp_path / "begun")


def test_a_run_beside_itself_is_the_same(tmp_path):
    run = write(tmp_path / "run", {"adam": 0.0, "sgd": 0.1}, noise=0.01)
    found = compare(run, run)
    assert found.settings == ()
    assert {row.found for row in found.sides[0].combinations} == {"same"}
    assert {row.speed for row in found.sides[0].combinations} == {"alike"}
    assert "2 the same, case by case" in "\n".join(in_words(found))


def test_what_float32_rounds_apart_is_equal(tmp_path):
    """Noise of 1e-5, as other threads bring, is no better and no worse; ten times 1e-4 is."""
    first = write(tmp_path / "first", {"adam": 0.0})
    rounded = write(tmp_path / "rounded", {"adam": 0.0}, noise=1e-5)
    row = compare(first, rounded).sides[0].combinations[0]
    assert (row.cases, row.found) == ((0, 0, 30), "same")
    steady = write(tmp_path / "steady", {"adam": 1e-5})
    assert compare(first, steady).sides[0].combinations[0].found == "same"
    real = write(tmp_path / "real", {"adam": 1e-3})
    row = compare(first, real).sides[0].combinations[0]
    assert (row.cases, row.found) == ((30, 0, 0), "better")


def test_slower_is_said_beyond_noise_on_one_device_alone(tmp_path):
    first = write(tmp_path / "first", {"adam": 0.0})
    slow = compare(first, write(tmp_path / "slower", {"adam": 0.0}, each=0.015))
    row = slow.sides[0].combinations[0]
    assert row.speed == "slower"
    assert row.cost == pytest.approx(1.5, rel=0.03)
    assert "a sample costs 1." in in_words(slow)[-1]
    assert (
        compare(write(tmp_path / "x", {"adam": 0.0}, each=0.02), first)
        .sides[0]
        .combinations[0]
        .speed
        == "faster"
    )
    other = write(tmp_path / "other", {"adam": 0.0}, each=0.015, device="H")
    shared = write(tmp_path / "shared", {"adam": 0.0}, each=0.015, shared=True)
    for second in (other, shared):
        row = compare(first, second).sides[0].combinations[0]
        assert (row.cost, row.speed) == (None, "unknown")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"prefix": "d"}, "no cases in common (other data, or ids made with another key)"),
        ({"folds": 4}, "5 folds before, 4 now"),
    ],
)
def test_other_cases_or_folds_are_not_paired(tmp_path, options, why):
    first = write(tmp_path / "first", {"adam": 0.0})
    second = write(tmp_path / "second", {"adam": 0.3}, **options)
    found = compare(first, second)
    (row,) = found.sides[0].combinations
    assert (row.found, row.low, row.cases) == ("unpaired", None, None)
    assert found.sides[0].why == why
    assert f"Not paired ({why})" in "\n".join(in_words(found))


def test_the_same_cases_in_other_folds_are_not_paired(tmp_path):
    first = write(tmp_path / "first", {"adam": 0.0})
    moved = write(tmp_path / "moved", {"adam": 0.0}, offset=1)
    assert compare(first, moved).sides[0].why == "the same cases in other folds"


def test_settings_and_combinations_of_one_run_alone_are_told(make_run):
    small = {"datasets": (("lung-nodules", "classification"),), "losses": ("ce",), "folds": 3}
    first = make_run("first", optimizers=("adamw", "sgd"), **small)
    second = make_run("second", optimizers=("adamw", "lion"), study={"epochs": 9}, **small)
    found = compare(first, second)
    assert found.settings == (("optimizers", "adamw, sgd", "adamw, lion"), ("epochs", "8", "9"))
    assert found.sides[0].only == (("resnet18 + sgd + ce",), ("resnet18 + lion + ce",))
    words = "\n".join(in_words(found))
    assert "  epochs: 8 -> 9" in words
    assert "only in second: resnet18 + lion + ce" in words
    assert asdict(found)["runs"] == ("first", "second")
    alone = replace(found, sides=(), only=(("x",), ()))
    assert "there is nothing to compare" in "\n".join(in_words(alone))
    assert text.STATES[found.sides[0].states[0]].lower() in words


def test_a_folder_without_a_run_is_refused(tmp_path):
    run = write(tmp_path / "run", {"adam": 0.0})
    with pytest.raises(RunError, match="holds no run"):
        compare(run, tmp_path / "nothing")
