"""A run played through on GPUs, against schedules worked out by hand."""

from dataclasses import replace
from itertools import permutations

import pytest

from bench.planning.schedule.foretold import foretold
from bench.planning.schedule.simulate import Schedule, longest_first, played, raced_at_best
from bench.study.choice import Choice


@pytest.mark.parametrize(
    ("seconds", "gpus", "wall"),
    [
        ([], 3, 0.0),
        ([5], 4, 5.0),
        ([1, 2, 3], 1, 6.0),
        # 3 | 5; the 4 follows the 3 at 3, the 1 follows the 5 at 5: done at 7 and 6.
        ([3, 5, 4, 1], 2, 7.0),
        # 1 | 1 | 1, then the 9 alone until 10.
        ([1, 1, 1, 9], 3, 10.0),
    ],
)
def test_trials_are_taken_by_whoever_is_free(seconds, gpus, wall):
    found = played(seconds, gpus)
    assert (found.wall_sec, found.work_sec) == (wall, sum(seconds))


def test_the_longest_first_ends_earlier_where_a_long_one_is_last():
    # 9 | 1 1 1: done at 9 instead of 10.
    assert longest_first([1, 1, 1, 9], 3).wall_sec == 9.0
    # Graham's own worst case for two machines: 3 3 | 2 2 2 is 6, longest first gives 7 = 7/6 of it.
    assert longest_first([2, 3, 2, 3, 2], 2).wall_sec == 7.0


def test_the_longest_first_is_within_grahams_bound_of_the_best_order():
    for seconds in ([7, 5, 4, 4, 3, 1], [9, 9, 2, 2, 2], [6, 5, 5, 4, 3, 3, 2]):
        for gpus in (2, 3):
            best = min(played(order, gpus).wall_sec for order in permutations(seconds))
            bound = 4 / 3 - 1 / (3 * gpus)
            assert best <= longest_first(seconds, gpus).wall_sec <= bound * best + 1e-9


def test_hours_price_and_idle_share():
    # Two GPUs for 2 h, of which one works 2 h and the other 1 h: 4 GPU hours, a quarter idle.
    found = Schedule(gpus=2, wall_sec=7200, work_sec=10800)
    assert found.gpu_hours == 4
    assert found.idle_share == 0.25
    assert found.cost(1.5) == 6
    assert Schedule(gpus=2, wall_sec=0, work_sec=0).idle_share == 0
    # Rounding can make the work longer than the time of all GPUs.
    assert Schedule(gpus=1, wall_sec=0.3, work_sec=0.1 + 0.2).idle_share == 0


def test_a_race_at_best_leaves_one_combination_of_each_data_set(make_trial):
    trial, _, _ = make_trial("classification")

    def made(optimizer: str, seed: int, repeat: int = 0, dataset: str = "a"):
        choices = {**trial.choices, "optimizer": Choice(name=optimizer)}
        return replace(trial, choices=choices, seed=seed, repeat=repeat, dataset=dataset)

    trials = [
        *(made(name, seed) for name in ("sgd", "adam") for seed in (3, 4, 5)),
        made("sgd", 3, repeat=1),
        *(made(name, seed, dataset="b") for name in ("sgd", "adam") for seed in (3, 4)),
    ]
    #          sgd        adam     repeat  b: sgd  adam
    seconds = [10, 10, 10, 4, 4, 4, 10, 7, 7, 8, 8]
    # First seed: 10 + 4 + 7 + 8 = 29. Then on a adam's two (8 s; sgd's three are 30), on b sgd's 7.
    assert raced_at_best(trials, seconds, 1).wall_sec == 29 + 8 + 7
    # On two: 10, 8 | 4, 7 is done at 18, and then 4, 7 | 4 eleven seconds later.
    assert raced_at_best(trials, seconds, 2).wall_sec == 18 + 11
    assert raced_at_best(trials, seconds, 2).work_sec == 44


def test_what_is_said_of_a_plan(make_trial):
    trial, _, _ = make_trial("classification")
    trials = [replace(trial, seed=seed) for seed in (0, 0, 1)]
    told = foretold(trials, [3600, 3600, 3600], gpus=2, measured="NVIDIA L4", kind="L4", price=0.5)
    # Two hours on two GPUs, of which one stands idle in the second.
    way = {"seconds": 7200, "gpu_hours": 4, "idle_share": 0.25, "cost": 2}
    assert told.columns() == {
        "gpus": 2,
        "gpu_kind": "L4",
        "measured_on": "NVIDIA L4",
        "price": 0.5,
        "run": way,
        "longest_first": way,
        "race_at_best": way,
    }
    first, *others = told.lines()
    assert first == (
        "on 2 GPUs (L4), one trial on each: 2 h 0 min at most, 4.00 GPU hours, "
        "costs 2.00 (at 0.5 per GPU hour), 25 % idle"
    )
    assert not [line for line in others if "measured on" in line]


def test_seconds_of_another_device_are_told(make_trial):
    trial, _, _ = make_trial("classification")
    for kind in (None, "H100"):
        told = foretold([trial], [1.0], gpus=1, measured="NVIDIA L4", kind=kind)
        assert told.raced is None
        assert [line for line in told.lines() if "measured on NVIDIA L4" in line]


def test_seconds_of_a_processor_are_told_as_such(make_trial):
    trial, _, _ = make_trial("classification")
    # A processor is no GPU, even if the kind asked for is in its name.
    told = foretold([trial], [1.0], gpus=1, measured="AMD EPYC", on_cpu=True, kind="AMD")
    lines = list(told.lines())
    assert lines[0].startswith("on 1 GPU (AMD), one trial on each: ")
    assert lines[2] == (
        "These times were measured on this CPU (AMD EPYC); on a GPU they are different."
    )


def test_what_a_search_has_chosen_comes_after_its_points(make_trial):
    trial, _, _ = make_trial("classification")
    # Points 1 | 4 end at 4, though one GPU is free at 1; then the chosen one until 6.
    told = foretold([trial] * 3, [1, 4, 2], gpus=2, measured="a", points=2)
    assert told.run.wall_sec == 6
