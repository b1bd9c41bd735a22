"""What a run costs beside its training: trials of half a second on two lanes, and by Ray Tune.

Bare are some of the same trials in two processes side by side, with nothing between two trials. The
machine's speed wanders by a third within minutes: so the run stands still now and then, while a
slice of the bare ones is trained. What a trial takes in a lane is from its start to the start of
the next one there; those that a pause fell into do not count.
"""

import itertools
import logging
import os
import statistics
from collections.abc import Iterator
from time import time

import pytest
import torch
import yaml

from bench.execution.ray.cluster import connected
from bench.execution.ray.lanes import run_lanes
from bench.execution.worker import cargo_of, unpacked
from bench.planning.plan import resolve
from bench.study.schema import load_study
from bench.training.train import run_trial
from results.tables.store import read
from tests.perf.bare import SLICE, Bare, Pauses, bare_processes

LANES, SEEDS = 2, 50
# A pause each so many trials.
STRETCH = 20
# Without reused actors each trial waits for the start of one: one in twenty is enough.
FEWER = 20

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def plan(tmp_path_factory, small_store):
    """Return a plan of 200 trials of about half a second."""
    folder = tmp_path_factory.mktemp("overhead")
    study = {
        "name": "overhead",
        "data": [str(small_store("classification", 2).path)],
        "models": ["plain_cnn"],
        "optimizers": ["sgd", "adam"],
        "losses": ["ce"],
        "seeds": list(range(SEEDS)),
        "folds": 2,
        "epochs": 100,
        "patience": 1000,
        "threads": 1,
        "device": "cpu",
        "loader": "torch",
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return resolve(*load_study(folder / "study.yaml"), folder / "run", lanes=LANES)


@pytest.fixture(scope="module")
def bare(plan) -> Iterator[Bare]:
    with bare_processes(plan, LANES) as processes:
        yield processes


def test_trials_on_lanes(benchmark, plan, bare):
    """Wanted: 1.25 times bare."""
    pauses = Pauses(bare, each=STRETCH)

    def run():
        done = run_lanes(
            plan,
            address=None,
            lanes=LANES,
            gpus_per_trial=1,
            changed=lambda progress: pauses(progress.done),
        )
        assert done.statuses == {"ok": len(plan.trials)}

    benchmark.pedantic(run, rounds=1)
    rows = read(plan.folder, "trials", columns=["lane", "started_at", "wall_sec"]).to_pylist()
    taken = pauses.counted((row["lane"], row["started_at"].timestamp()) for row in rows)
    _noted(benchmark, taken, [row["wall_sec"] for row in rows], pauses.bare_sec)


@pytest.mark.parametrize("reuse", [True, False], ids=["reused", "new"])
def test_trials_by_ray_tune(benchmark, plan, bare, reuse):
    """The same trials as Tune's, whole ones, in actors that are used again or new for each."""
    trials = plan.trials if reuse else plan.trials[::FEWER]
    pauses = Pauses(bare, each=STRETCH)
    found: list[list[dict[str, float]]] = []

    def run():
        with connected(None, cores=LANES, gpus=0) as storage:
            found.append(_tuned(plan, trials, storage, pauses if reuse else None))

    benchmark.pedantic(run, rounds=1)
    (said,) = found
    own = [result["took"] for result in said]
    if reuse:
        taken = pauses.counted((str(result["process"]), result["begun"]) for result in said)
        _noted(benchmark, taken, own, pauses.bare_sec)
    else:
        begun = sorted(result["begun"] for result in said)
        a_trial = (begun[-1] - begun[0]) * LANES / (len(begun) - 1)
        _noted(benchmark, [a_trial], own, [bare.seconds(SLICE)])


def _tuned(plan, trials, storage, pauses: Pauses | None) -> list[dict[str, float]]:
    """Run some trials of a plan as Tune's; return what each told. Actors are reused for pauses."""
    from ray import tune

    class Actor(tune.Trainable):
        def setup(self, config, **cargo):
            self._plan, problem = unpacked(**cargo)
            assert not problem, problem
            self._trial_id = config["trial_id"]

        def reset_config(self, new_config):
            self._trial_id = new_config["trial_id"]
            return True

        def step(self):
            begun = time()
            trial = next(t for t in self._plan.trials if t.trial_id == self._trial_id)
            data = self._plan.data(trial.dataset)
            outcome = run_trial(trial, data, self._plan.base, device=torch.device("cpu"))
            told = {"score": outcome.trial["val_score"], "took": outcome.trial["wall_sec"]}
            return {**told, "begun": begun, "process": os.getpid(), "done": True}

    done = itertools.count(1)

    class Pausing(tune.Callback):
        def on_trial_complete(self, *_trial, **_rest):
            if pauses:
                pauses(next(done))

        def __deepcopy__(self, memo):  # Tune takes a copy, and this one counts
            return self

        def __reduce__(self):  # nor may what it holds up be in the file that Tune keeps
            return tune.Callback, ()

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Actor, **cargo_of(plan)), {"CPU": 1}),
        param_space={"trial_id": tune.grid_search([t.trial_id for t in trials])},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            max_concurrent_trials=LANES,
            reuse_actors=pauses is not None,
        ),
        run_config=tune.RunConfig(
            name="overhead",
            storage_path=str(storage),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[Pausing()],
            verbose=0,
        ),
    )
    results = tuner.fit()
    assert results.num_terminated == len(trials)
    return [result.metrics for result in results]


def _noted(benchmark, taken: list[float], own: list[float], bare: list[float]) -> None:
    benchmark.group = "trials of half a second on two lanes"
    benchmark.extra_info |= {
        "trials": len(own),
        "counted": len(taken),
        "bare_sec_a_trial": bare,
        "sec_a_trial": statistics.fmean(taken),
        "ratios": {
            "bare trials": statistics.fmean(taken) / statistics.fmean(bare),
            "the trials' own time": statistics.fmean(taken) / statistics.fmean(own),
        },
    }
