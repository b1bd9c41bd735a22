"""Every compatible pair of optimizer, loss, model and precision trains together at least once.

A covering set: each short trial meets as many pairs that were not met before as it can.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch

from bench.losses.table import LOSSES
from bench.optimizers.table import OPTIMIZERS
from bench.planning.expand import expand
from bench.study.choice import Choice
from bench.study.components import Combination
from bench.study.dataset import DataSet, split_store
from bench.study.schema import Study
from bench.study.tasks import TASKS
from bench.study.trial import Skip, Trial
from bench.training.networks import parameter_shapes
from bench.training.train import run_trial
from models.table import MODELS

CPU = torch.device("cpu")
# (task, dims) -> patch: the smallest that every network of the table takes. Cases are squares or
# cubes of its longest side.
PATCHES = {
    ("classification", 2): (24, 24),
    ("classification", 3): (12, 12, 12),
    ("segmentation", 2): (32, 64),  # Swin UNETR brings 32 x 32 down to one pixel
    ("segmentation", 3): (16, 16, 16),
    ("multilabel", 2): (24, 24),
    ("ordinal", 2): (24, 24),
    ("regression", 2): (24, 24),
}
# In 3-D, where a step takes longest, the cheap networks that no 2-D set has room for.
ONLY_3D = {name for name, row in MODELS.items() if 2 not in row.dims}

# float16 is skipped there: it takes twenty times as long. The small networks below meet it.
ON_A_CPU = ("float32", "bfloat16")
CASES = 16  # of which half train or validate
# An encoder that is quick on two cores; the others are met by the tests of the models.
OPTIONS = {"cnn_lstm": {"encoder": "plain_cnn"}, "frame_cnn": {"encoder": "plain_cnn"}}

Parts = tuple[str, str, str, str]


def parts(trial: Trial) -> Parts:
    names = (trial.choices[part].name for part in ("optimizer", "loss", "model"))
    return *names, trial.precision


def pairs(found: Parts) -> set[tuple[tuple[int, str], tuple[int, str]]]:
    return set(combinations(enumerate(found), 2))


@pytest.fixture(scope="module")
def everything(small_store) -> tuple[list[tuple[Trial, DataSet]], list[Skip]]:
    """Return a trial of every combination that can run, and the skips."""
    trials: list[tuple[Trial, DataSet]] = []
    skips: list[Skip] = []
    for (task, dims), patch in PATCHES.items():
        models = [
            {name: OPTIONS.get(name, {})}
            for name, row in MODELS.items()
            if TASKS[task].networks in row.tasks
            and dims in row.dims
            and (dims == 2 or name in ONLY_3D)
        ]
        if not models:
            continue
        store = small_store(task, dims, max(patch), CASES)
        splits = split_store(store, folds=2, repeats=1, seed=0, inner_fraction=0.4)
        data = DataSet(name=store.meta.name, path=store.path, splits=splits[:1])
        for precision in ON_A_CPU:
            study = Study.model_validate(
                {
                    "name": "covering",
                    "data": [{"store": str(store.path)}],
                    "models": models,
                    "optimizers": list(OPTIMIZERS),
                    "losses": list(LOSSES),
                    "epochs": 1,
                    "batch_size": 4,
                    "patch": list(patch),
                    "overlap": 0.0,
                    "precision": precision,
                    "loader": "torch",
                    "threads": 1,
                    "device": "cpu",
                }
            )
            found, left = expand(study, [data], Path.cwd())
            trials += [(trial, data) for trial in found]
            skips += left
    return trials, skips


def weight(trial: Trial, data: DataSet) -> float:
    """Return about how long a trial takes, by its parameters."""
    model = Combination(choices=trial.choices, base=Path.cwd()).model
    shapes = parameter_shapes(model, data.path, trial.patch)
    return 1 + sum(map(math.prod, shapes)) / 1e6


def covering(trials: list[tuple[Trial, DataSet]]) -> Iterator[tuple[Trial, DataSet]]:
    """Give trials until every pair that some trial has was met: the most new pairs a second.

    Greedy, over one pair at a time, those first that only long trials have.
    """
    seconds: dict[tuple[str, str], float] = {}
    having: dict[object, list[tuple[Trial, DataSet]]] = {}
    for entry in trials:
        kind = entry[0].choices["model"].name, entry[0].precision
        if kind not in seconds:
            seconds[kind] = weight(*entry)
        for pair in pairs(parts(entry[0])):
            having.setdefault(pair, []).append(entry)

    def cost(entry: tuple[Trial, DataSet]) -> float:
        return seconds[entry[0].choices["model"].name, entry[0].precision]

    open_ = set(having)
    for pair in sorted(having, key=lambda pair: (-min(map(cost, having[pair])), pair)):
        if pair not in open_:
            continue
        best = max(
            having[pair], key=lambda entry: len(pairs(parts(entry[0])) & open_) / cost(entry)
        )
        open_ -= pairs(parts(best[0]))
        yield best


@pytest.mark.slow
def test_skips_say_why_in_a_sentence(everything):
    trials, skips = everything
    assert trials
    reasons = {skip.reason for skip in skips}
    assert any("is not for classification" in reason for reason in reasons)
    assert all(len(reason.split()) > 4 for reason in reasons)
    # Nothing is skipped altogether.
    for place, table in enumerate((OPTIMIZERS, LOSSES, MODELS, ON_A_CPU)):
        assert {parts(trial)[place] for trial, _ in trials} == set(table)


@pytest.fixture(scope="module")
def chosen(everything) -> list[tuple[Trial, DataSet]]:
    return list(covering(everything[0]))


@pytest.mark.slow
def test_every_compatible_pair_is_met(everything, chosen):
    met = {pair for trial, _ in chosen for pair in pairs(parts(trial))}
    assert met == {pair for trial, _ in everything[0] for pair in pairs(parts(trial))}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_compatible_pair_trains(chosen, optimizer):
    broken, diverged = [], []
    own = [entry for entry in chosen if entry[0].choices["optimizer"].name == optimizer]
    for trial, data in own:
        try:
            outcome = run_trial(replace(trial, patience=1), data, Path.cwd(), device=CPU)
        except Exception as error:  # noqa: BLE001  # every pair is to be tried: what broke is told together
            broken.append((*parts(trial), repr(error)[:200]))
            continue
        if outcome.trial["status"] == "diverged":
            diverged.append((*parts(trial), outcome.trial["reason"]))
        else:
            assert outcome.trial["status"] == "ok"
    assert not broken, f"{len(broken)} of {len(own)}: {broken}"
    # An outcome, not a fault: SGD with a momentum of 0.99 on a deep network, for one. But rare.
    assert len(diverged) <= 1, diverged


HALF = [("adam", name) for name in LOSSES] + [
    (n, "ce") for n, row in OPTIMIZERS.items() if row.scalable
]


@pytest.mark.parametrize(("optimizer", "loss"), HALF)
def test_every_loss_and_optimizer_that_may_trains_in_float16(make_trial, optimizer, loss):
    able = [task for task in TASKS if TASKS[task].served_by in LOSSES[loss].tasks]
    trial, data, base = make_trial(
        "segmentation" if "segmentation" in able else able[0],
        precision="float16",
        epochs=1,
        optimizer=Choice(name=optimizer),
        loss=Choice(name=loss),
    )
    outcome = run_trial(trial, data, base, device=CPU)
    assert outcome.trial["status"] == "ok"
