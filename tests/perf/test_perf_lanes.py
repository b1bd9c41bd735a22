"""Speed of lanes: from nothing to the first trial in hand, paid once a lane."""

from time import perf_counter

import pytest
import yaml

from bench.execution.ray.lanes import run_lanes
from bench.planning.plan import resolve
from bench.study.schema import load_study


@pytest.mark.ray
@pytest.mark.parametrize("lanes", [1, 2])
def test_start_of_lanes(benchmark, tmp_path, small_store, lanes):
    """Starts Ray, lanes and workers for a few tiny trials; `first_trial_sec` is the start alone."""
    study = {
        "name": "start",
        "data": [str(small_store("classification", 2).path)],
        "models": ["plain_cnn"],
        "optimizers": ["sgd"],
        "losses": ["ce"],
        "seeds": [0, 1],
        "folds": 2,
        "epochs": 1,
        "threads": 1,
        "device": "cpu",
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    plan = resolve(*load_study(tmp_path / "study.yaml"), tmp_path / "run", lanes=lanes)
    first: list[float] = []

    def run():
        start = perf_counter()

        def changed(progress):
            if progress.running and not first:
                first.append(perf_counter() - start)

        run_lanes(plan, address=None, lanes=lanes, gpus_per_trial=1, changed=changed)

    benchmark.group = "start of lanes"
    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["first_trial_sec"] = first[0]
