"""What a run costs beside its training: trials of half a second on two lanes, and by Ray Tune.

Bare are every tenth of the same trials in two processes side by side, with nothing between two
trials: before the run and after it, since the machine's speed wanders. The ratio to them is from
the first trial in hand to the last result; that to the trials' own time takes the seconds that they
took in that run: what else the machine does counts on both sides there.
"""

import logging
import statistics
from time import perf_counter, time

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
from tests.perf.bare import bare_seconds

LANES, SEEDS = 2, 50
# Every how many-th trial is trained bare.
SAMPLED = 10
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


def test_trials_on_lanes(benchmark, plan):
    """Wanted: 1.25 times bare."""
    seen: list[float] = []

    def changed(progress):
        if progress.running or progress.done:
            seen.append(perf_counter())

    def run():
        done = run_lanes(plan, address=None, lanes=LANES, gpus_per_trial=1, changed=changed)
        assert done.statuses == {"ok": len(plan.trials)}

    before = bare_seconds(plan, LANES, every=SAMPLED)
    benchmark.pedantic(run, rounds=1)
    bare = before, bare_seconds(plan, LANES, every=SAMPLED)
    own = read(plan.folder, "trials", columns=["wall_sec"]).column("wall_sec").to_pylist()
    _noted(benchmark, seen[-1] - seen[0], own, bare)


@pytest.mark.parametrize("reuse", [True, False], ids=["reused", "new"])
def test_trials_by_ray_tune(benchmark, plan, reuse):
    """The same trials as Tune's, whole ones, in actors that are used again or new for each."""
    trials = plan.trials if reuse else plan.trials[::FEWER]
    found: list[tuple[float, list[float]]] = []

    def run():
        with connected(None, cores=LANES, gpus=0) as storage:
            found.append(_tuned(plan, trials, storage, reuse=reuse))

    before = bare_seconds(plan, LANES, every=SAMPLED)
    benchmark.pedantic(run, rounds=1)
    _noted(benchmark, *found[0], (before, bare_seconds(plan, LANES, every=SAMPLED)))


def _tuned(plan, trials, storage, *, reuse: bool) -> tuple[float, list[float]]:
    """Run some trials of a plan as Tune's; return the seconds from the first's start on.

    And those that each trial took.
    """
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
            return {**told, "begun": begun, "done": True}

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Actor, **cargo_of(plan)), {"CPU": 1}),
        param_space={"trial_id": tune.grid_search([t.trial_id for t in trials])},
        tune_config=tune.TuneConfig(
            metric="score", mode="max", max_concurrent_trials=LANES, reuse_actors=reuse
        ),
        run_config=tune.RunConfig(
            name="overhead",
            storage_path=str(storage),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    results = tuner.fit()
    over = time()
    assert results.num_terminated == len(trials)
    begun = min(result.metrics["begun"] for result in results)
    return over - begun, [result.metrics["took"] for result in results]


def _noted(benchmark, seconds: float, own: list[float], around: tuple[float, float]) -> None:
    bare = statistics.fmean(around)
    benchmark.group = "trials of half a second on two lanes"
    benchmark.extra_info |= {
        "trials": len(own),
        "bare_sec_a_trial": around,
        "after_start_sec": seconds,
        "ratios": {
            "bare trials": seconds / (len(own) * bare / LANES),
            "the trials' own time": seconds / (sum(own) / LANES),
        },
    }
