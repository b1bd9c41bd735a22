"""Speed of a search: 40 points on two lanes, and by Ray Tune, beside their bare training."""

from dataclasses import replace
from time import perf_counter

import pytest
import torch
import yaml

from bench.execution.phases.ray_tune import search_by_tune
from bench.execution.ray.lanes import run_lanes
from bench.planning.plan import resolve
from bench.planning.points import point_plan
from bench.study.schema import load_study
from bench.training.train import run_trial

LANES, POINTS = 2, 10

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def plan(tmp_path_factory, small_store):
    """Return a plan whose search has 40 points of about half a second, and their bare seconds.

    Bare: one after the other in this process, shared out evenly over the lanes.
    """
    folder = tmp_path_factory.mktemp("tuning")
    study = {
        "name": "points",
        "data": [str(small_store("classification", 2).path)],
        "models": ["plain_cnn"],
        "optimizers": ["sgd", "adam"],
        "losses": ["ce"],
        "folds": 2,
        "epochs": 20,
        "patience": 1000,
        "threads": 1,
        "device": "cpu",
        "loader": "torch",
        "tuning": {"points": POINTS, "search": "asha"},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    made = resolve(*load_study(folder / "study.yaml"), folder / "run", lanes=LANES)
    tried = point_plan(made)
    (data,) = made.sets
    device = torch.device("cpu")
    run_trial(tried.trials[0], data, made.base, device=device)  # what is made once a process
    start = perf_counter()
    for trial in tried.trials:
        run_trial(trial, data, made.base, device=device)
    return made, (perf_counter() - start) / LANES


def test_points_on_lanes(benchmark, plan, tmp_path):
    """`after_start` is from the first point in hand to the last result; wanted: 1.25 times bare."""
    made, bare = plan
    tried = replace(point_plan(made), folder=tmp_path / "lanes")
    seen: list[float] = []

    def changed(progress):
        if progress.running or progress.done:
            seen.append(perf_counter())

    def run():
        run_lanes(tried, address=None, lanes=LANES, gpus_per_trial=1, changed=changed)

    _measured(benchmark, run, seen, bare)


def test_points_by_ray_tune(benchmark, plan, tmp_path):
    """The same points by ASHA, which stops some: seconds for each sample-gradient compare."""
    made, bare = plan
    seen: list[float] = []

    def changed(progress):
        if any(lane.epoch for lane in progress.running) or progress.done:
            seen.append(perf_counter())
            benchmark.extra_info["statuses"] = dict(progress.statuses)

    def run():
        there = replace(made, folder=tmp_path / "tune")
        search_by_tune(there, address=None, lanes=LANES, changed=changed)

    _measured(benchmark, run, seen, bare)


def _measured(benchmark, run, seen, bare):
    benchmark.group = "40 points on two lanes"
    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info |= {
        "bare_sec": bare,
        "after_start_sec": seen[-1] - seen[0],
        "ratios": {"bare": (seen[-1] - seen[0]) / bare},
    }
