"""Speed of a search: 40 points on two lanes, and by Ray Tune, beside their bare training.

Bare are some of the same points in two processes side by side, in pauses of the lanes' search, and
before and after Ray Tune's.
"""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import pytest
import yaml

from bench.execution.phases.ray_tune import search_by_tune
from bench.execution.ray.lanes import run_lanes
from bench.planning.plan import resolve
from bench.planning.points import point_plan
from bench.study.schema import load_study
from results.tables.store import read
from tests.perf.bare import Bare, Pauses, bare_processes

LANES, POINTS = 2, 10
# Points between two pauses, and bare ones beside Ray Tune's.
STRETCH, SLICE = 8, 10

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


@pytest.fixture(scope="module")
def bare(plan) -> Iterator[Bare]:
    with bare_processes(point_plan(plan), LANES) as processes:
        yield processes


def test_points_on_lanes(benchmark, plan, bare, tmp_path):
    """Wanted: 1.25 times bare, from a point's start to the next one's."""
    tried = replace(point_plan(plan), folder=tmp_path / "lanes")
    pauses = Pauses(bare, each=STRETCH)

    def run():
        run_lanes(
            tried,
            address=None,
            lanes=LANES,
            gpus_per_trial=1,
            changed=lambda progress: pauses(progress.done),
        )

    benchmark.pedantic(run, rounds=1)
    rows = read(tried.folder, "trials", columns=["lane", "started_at"]).to_pylist()
    taken = pauses.counted((row["lane"], row["started_at"].timestamp()) for row in rows)
    _noted(benchmark, statistics.fmean(taken), pauses.bare_sec)


def test_points_by_ray_tune(benchmark, plan, bare, tmp_path):
    """The same points by ASHA, which stops some: seconds for each sample-gradient compare."""
    seen: list[float] = []

    def changed(progress):
        if any(lane.epoch for lane in progress.running) or progress.done:
            seen.append(perf_counter())
            benchmark.extra_info["statuses"] = dict(progress.statuses)

    def run():
        there = replace(plan, folder=tmp_path / "tune")
        search_by_tune(there, address=None, lanes=LANES, changed=changed)

    before = bare.seconds(SLICE)
    benchmark.pedantic(run, rounds=1)
    points = len(point_plan(plan).trials)
    a_point = (seen[-1] - seen[0]) * LANES / points
    _noted(benchmark, a_point, [before, bare.seconds(SLICE)])


def _noted(benchmark, a_point: float, bare: list[float]) -> None:
    benchmark.group = "40 points on two lanes"
    benchmark.extra_info |= {
        "bare_sec_a_point": bare,
        "sec_a_point": a_point,
        "ratios": {"bare": a_point / statistics.fmean(bare)},
    }
