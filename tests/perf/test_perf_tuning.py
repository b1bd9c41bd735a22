"""Speed of a search: 40 points on two lanes, and by Ray Tune, beside their bare training.

Bare are the same points in two processes side by side, before the search and after it.
"""

import statistics
from dataclasses import replace
from time import perf_counter

import pytest
import yaml

from bench.execution.phases.ray_tune import search_by_tune
from bench.execution.ray.lanes import run_lanes
from bench.planning.plan import resolve
from bench.planning.points import point_plan
from bench.study.schema import load_study
from tests.perf.bare import bare_seconds

LANES, POINTS = 2, 10

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def plan(tmp_path_factory, small_store):
    """Return a plan whose search has 40 points of about half a second."""
    folder = tmp_path_factory.mktemp("tuning")
    study = {
        "name": "points",
        "data": [str(small_store("classification", 2).path)],
        "models": ["plain_cnn"],
        "optimizers": ["sgd", "adam"],
        "losses": ["ce"],
        "folds": 2,
        "epochs": 100,
        "patience": 1000,
        "threads": 1,
        "device": "cpu",
        "loader": "torch",
        "tuning": {"points": POINTS, "search": "asha"},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return resolve(*load_study(folder / "study.yaml"), folder / "run", lanes=LANES)


def test_points_on_lanes(benchmark, plan, tmp_path):
    """`after_start` is from the first point in hand to the last result; wanted: 1.25 times bare."""
    tried = replace(point_plan(plan), folder=tmp_path / "lanes")
    seen: list[float] = []

    def changed(progress):
        if progress.running or progress.done:
            seen.append(perf_counter())

    def run():
        run_lanes(tried, address=None, lanes=LANES, gpus_per_trial=1, changed=changed)

    _measured(benchmark, run, seen, point_plan(plan))


def test_points_by_ray_tune(benchmark, plan, tmp_path):
    """The same points by ASHA, which stops some: seconds for each sample-gradient compare."""
    seen: list[float] = []

    def changed(progress):
        if any(lane.epoch for lane in progress.running) or progress.done:
            seen.append(perf_counter())
            benchmark.extra_info["statuses"] = dict(progress.statuses)

    def run():
        there = replace(plan, folder=tmp_path / "tune")
        search_by_tune(there, address=None, lanes=LANES, changed=changed)

    _measured(benchmark, run, seen, point_plan(plan))


def _measured(benchmark, run, seen, tried):
    benchmark.group = "40 points on two lanes"
    before = bare_seconds(tried, LANES, every=4)
    benchmark.pedantic(run, rounds=1)
    around = before, bare_seconds(tried, LANES, every=4)
    bare = statistics.fmean(around) * len(tried.trials) / LANES
    benchmark.extra_info |= {
        "bare_sec_a_point": around,
        "after_start_sec": seen[-1] - seen[0],
        "ratios": {"bare": (seen[-1] - seen[0]) / bare},
    }
