"""Processes side by side: their rates are added, and what ends one of them is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.planning.speed import side_by_side
from bench.planning.speed.choice import Way
from bench.planning.speed.process import CASES, Trials
from bench.planning.speed.side_by_side import Here, NotMeasuredError

KIND = ("brains", "unet")
# Answers as bench.planning.speed.process does, without torch: what is asked for is its answer.
STAND_IN = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[4])!r})
from bench.core.processes import begun_beside
pipe, cargo = begun_beside()
pipe.send(((0, 0.0),))
while True:
    try:
        kind, settings, part, least = pipe.recv()
    except (EOFError, OSError):
        os._exit(0)
    said = dict(settings)
    if "leave" in said:
        os._exit(7)
    pipe.send((said.get("error") or (10 * cargo["threads"], 2.0),))
"""


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(side_by_side, "_PROCESS", STAND_IN)
    machine = Here({}, {}, Path(), device="cpu", lanes={1: 3, 4: 1})
    yield machine
    machine.end()


def test_samples_of_all_processes_count(here):
    # Three processes do 10 samples in 2 s each, one does 40.
    assert here.sample_sec(KIND, Way(threads=1), "gradient", 0.0) == pytest.approx(2 / 30)
    assert here.sample_sec(KIND, Way(threads=4), "gradient", 0.0) == pytest.approx(2 / 40)


def test_an_error_is_told_by_its_first_line_and_the_process_goes_on(here):
    bad = Way(threads=1, settings=(("error", "no compiler\nand more"),))
    with pytest.raises(NotMeasuredError, match=r"^no compiler$"):
        here.sample_sec(KIND, bad, "gradient", 0.0)
    assert here.sample_sec(KIND, Way(threads=1), "gradient", 0.0) == pytest.approx(2 / 30)


def test_after_an_error_on_a_gpu_another_process_goes_on(monkeypatch):
    """CUDA may refuse all further calls of the one that met it."""
    monkeypatch.setattr(side_by_side, "_PROCESS", STAND_IN)
    machine = Here({}, {}, Path(), device="cuda", lanes={1: 1})
    try:
        machine.start(1)
        (first,) = machine._processes[1]
        bad = Way(threads=1, settings=(("error", "CUDA error"),))
        with pytest.raises(NotMeasuredError, match="CUDA error"):
            machine.sample_sec(KIND, bad, "gradient", 0.0)
        assert first.ended()
        assert machine.sample_sec(KIND, Way(threads=1), "gradient", 0.0) == pytest.approx(2 / 10)
    finally:
        machine.end()


def test_a_way_that_ends_its_process_is_told_and_others_are_measured_still(here):
    with pytest.raises(NotMeasuredError, match=r"ended its process \(exit status 7\)"):
        here.sample_sec(KIND, Way(threads=1, settings=(("leave", True),)), "gradient", 0.0)
    assert here.sample_sec(KIND, Way(threads=1), "gradient", 0.0) == pytest.approx(2 / 30)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_trial_is_timed_with_settings_of_its_own(make_trial, task):
    trial, data, base = make_trial(task)
    kind = (trial.dataset, "model")
    trials = Trials({kind: trial}, {trial.dataset: data}, base, "cpu")
    for settings in ((), (("channels_last", True),), (("precision", "bfloat16"),)):
        done, sec = trials.timed(kind, settings, "gradient", 0.0)
        assert done == 2 * trial.batch_size
        assert sec > 0
    done, _ = trials.timed(kind, (("windows_at_once", 1),), "evaluation", 0.0)
    # Each image is one patch, or as many as cover sides of 16 to 20 by patches of 16.
    assert CASES <= done <= 4 * CASES
    assert trials.timed(kind, (), "update", 0.0)[0] == 2
    assert trials.timed(kind, (), "setup", 0.0)[0] == 1
    assert trials.timed(kind, (), "load", 0.0)[0] == 2 * trial.batch_size
    assert trials.timed(kind, (), "test", 0.0)[1] > 0
    with pytest.raises(TypeError, match="colour"):
        trials.timed(kind, (("colour", "red"),), "gradient", 0.0)


def test_a_case_that_takes_long_is_evaluated_alone(make_trial, monkeypatch):
    monkeypatch.setattr("bench.planning.speed.process.LONG_SEC", 0.0)
    trial, data, base = make_trial("classification")
    kind = (trial.dataset, "model")
    trials = Trials({kind: trial}, {trial.dataset: data}, base, "cpu")
    assert trials.timed(kind, (), "evaluation", 0.0)[0] == 1


@pytest.mark.slow
def test_real_processes_train_side_by_side(make_trial):
    trial, data, base = make_trial("segmentation", 3)
    kind = (trial.dataset, "model")
    lost = replace(trial, patch=(16, 16))
    machine = Here(
        {kind: trial, ("lost", "model"): lost},
        {trial.dataset: data, "lost": data},
        base,
        device="cpu",
        lanes={1: 2},
    )
    try:
        assert machine.sample_sec(kind, Way(threads=1), "gradient", 0.2) > 0
        with pytest.raises(NotMeasuredError, match=r"\w"):
            machine.sample_sec(("lost", "model"), Way(threads=1), "gradient", 0.0)
        assert machine.sample_sec(kind, Way(threads=1), "evaluation", 0.0) > 0
    finally:
        machine.end()
