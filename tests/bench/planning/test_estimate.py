"""How long a run takes: costs added up by hand, and ranges that hold what they say they hold."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import yaml

from bench import api
from bench.core.references import StudyError
from bench.planning.cost import estimate as estimating
from bench.planning.cost.estimate import Cost, earliest, estimate, interval
from bench.planning.cost.pilot import foreseen_by
from bench.planning.cost.timed import counted
from bench.planning.plan import resolve
from bench.study.schema import parse_study
from results.tables.store import read

ROOT = Path(__file__).resolve().parents[3]
COST = Cost(setup=1.0, load=0.1, gradient=0.4, evaluation=0.2, test=0.3, update={"adam": 0.05})


def test_training_is_samples_and_updates(make_trial):
    trial, data, _ = make_trial("classification", epochs=3, batch_size=4)
    n = len(data.split(0, 0).train)
    assert COST.train_sec(trial, data) == pytest.approx(3 * n * 0.5 + 3 * n / 4 * 0.05)
    # On a GPU a batch is made ready while the one before is trained on.
    assert replace(COST, beside=True).train_sec(trial, data) == pytest.approx(
        3 * n * 0.4 + 3 * n / 4 * 0.05
    )
    assert replace(COST, update={}).train_sec(trial, data) == pytest.approx(3 * n * 0.5)


def test_evaluation_is_looks_the_test_and_what_is_read_beside_it(make_trial):
    trial, data, _ = make_trial("classification", epochs=9, looks=4)
    split, ones = data.split(0, 0), np.ones(len(data.store))
    inner, test = len(split.inner), len(split.test)
    assert COST.look_sec(trial, data, ones) == pytest.approx(4 * inner * 0.2)
    assert COST.look_sec(replace(trial, looks=None), data, ones) == pytest.approx(9 * inner * 0.2)
    beside = (inner + test) * 0.2
    assert COST.test_sec(trial, data, ones) == pytest.approx(beside + test * 0.3)
    assert COST.test_sec(trial, data, ones, last_is_best=True) == pytest.approx(
        inner * 0.2 + test * 0.3
    )
    assert COST.test_sec(replace(trial, inner_only=True), data, ones) == 0.0


def test_cases_count_as_many_windows_as_they_take(make_trial):
    trial, data, _ = make_trial("segmentation", patch=(8, 8), overlap=0.5)
    sides = [store_shape.tolist() for store_shape in data.store.shapes]
    # A window every 4 pixels: of a side of 16, 18 and 20 it takes 3, 4 and 4.
    along = {16: 3, 18: 4, 20: 4}
    expected = [along[a] * along[b] for a, b in sides]
    assert counted(trial, data, whole=False).tolist() == expected
    assert counted(trial, data, whole=True) == pytest.approx([a * b / 64 for a, b in sides])


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"looks": 20, "patience": 4}, 0.25),
        ({"looks": 5, "patience": 10}, 1.0),
        ({"looks": 20, "patience": 4, "stops": False}, 1.0),
        ({"epochs": 10, "patience": 4}, 0.5),
    ],
)
def test_a_trial_ends_at_the_earliest_when_its_first_look_was_its_best(make_trial, changes, share):
    assert earliest(make_trial("classification", **changes)[0]) == pytest.approx(share)


def test_the_range_holds_one_more_round_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(4000):
        *rounds, one_more = 100 * np.exp(0.1 * rng.normal(size=estimating.ROUNDS + 1))
        low, high = interval(rounds)
        held += low <= one_more <= high
    # Standard error of a share of 0.95 of 4000: 0.0034.
    assert held / 4000 == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 4000))


def test_the_range_is_students_on_logarithms():
    low, high = interval([1.0, math.e])
    # Mean 0.5, sd sqrt(0.5), two rounds: t of 1 degree is 12.706, times sqrt(1 + 1/2).
    reach = 12.7062 * math.sqrt(0.5) * math.sqrt(1.5)
    assert (math.log(low), math.log(high)) == pytest.approx((0.5 - reach, 0.5 + reach), rel=1e-4)


class Steady:
    """A machine on which every part takes as long as was said, of each process in its turn."""

    def __init__(self, *_asked, **_more):
        pass

    def start(self, _threads):
        return 5.0

    def sample_sec(self, kind, way, part, _least):
        # With two side by side a lane takes twice as long: the machine gives as much as one alone.
        return {
            "setup": 1.0,
            "load": 0.001,
            "gradient": 0.009,
            "update": 0.004 if kind[2:] == ("adam",) else 0.0,
            "evaluation": 0.002,
            "test": 0.003,
        }[part]

    def end(self):
        pass


@pytest.fixture
def plan_of(small_store, tmp_path):
    path = small_store("classification", 2).path

    def make(**changes):
        lines = {
            "name": "small",
            "data": [str(path)],
            "models": ["plain_cnn"],
            "optimizers": ["sgd", "adam"],
            "losses": ["ce"],
            "folds": 2,
            "epochs": 4,
            "looks": 2,
            "batch_size": 4,
            "threads": 1,
            "device": "cpu",
            "loader": "torch",
            **changes,
        }
        study = parse_study(yaml.safe_dump(lines), "study.yaml")
        return resolve(study, tmp_path, tmp_path / "run")

    return make


def test_a_run_is_its_trials_in_lanes_and_what_is_around_them(plan_of, monkeypatch):
    monkeypatch.setattr(estimating, "Here", Steady)
    monkeypatch.setattr(estimating, "usable_cores", lambda: 2)
    plan = plan_of()
    heard = []
    found = estimate(plan, lambda *n: heard.append(n), lanes=2, begin_sec=1.5)
    assert heard[-1][0] == heard[-1][1]
    split = plan.sets[0].splits[0]
    train, inner, test = len(split.train), len(split.inner), len(split.test)
    own = 1.0 + 4 * train * 0.01 + (3 * inner + test) * 0.002 + test * 0.003
    adam = own + 4 * train / 4 * 0.004
    # Two lanes at once, each at half the machine's pace.
    assert found.trials[:2] == pytest.approx([2 * own, 2 * adam])
    around = 2 * 5.0 + 1.5 + estimating.REPORT_SEC
    assert around + sum(found.trials) / 2 <= found.wall_sec + 1e-9
    assert found.wall_sec <= around + sum(found.trials) / 2 + max(found.trials)
    # Each round is as the others: only the last test may not be needed.
    assert found.high == pytest.approx(found.wall_sec)
    assert 0 < found.wall_sec - found.low < 4 * test * 0.002 * 2
    # Where trials may end after half of their looks, the range begins there.
    early = estimate(plan_of(looks=4, patience=1), lambda *_: None, lanes=2, begin_sec=1.5)
    full = estimate(
        plan_of(looks=4, patience=1, early_stopping=False), lambda *_: None, lanes=2, begin_sec=1.5
    )
    assert early.wall_sec == pytest.approx(full.wall_sec)
    # A lane has two trials of Adam, of which half of training and looks is spared.
    spared = 4 * train * 0.01 + train * 0.004 + 4 * inner * 0.002
    assert full.low - early.low == pytest.approx(2 * 2 * spared / 2, rel=0.05)


def test_an_optimizer_that_no_trial_has_costs_nothing(plan_of, monkeypatch):
    """L-BFGS has no weight decay, and is skipped where all others have it."""
    monkeypatch.setattr(estimating, "Here", Steady)
    plan = plan_of(optimizers=["adam", "lbfgs"], regularizers=["weight_decay"])
    assert {trial.choices["optimizer"].name for trial in plan.trials} == {"adam"}
    found = estimate(plan, lambda *_: None, lanes=1)
    assert len(found.trials) == len(plan.trials)


def test_long_rounds_are_fewer(plan_of, monkeypatch):
    """On a clock by which some minutes go by each time that it is read."""
    heard, now = [], iter(range(0, 10**6, 200))
    monkeypatch.setattr(estimating, "Here", Steady)
    monkeypatch.setattr(estimating, "monotonic", lambda: next(now))
    estimate(plan_of(), lambda *n: heard.append(n), lanes=1)
    (last_but_one, _), (last, total) = heard[-2:]
    assert last == total
    # Rounds of seven measurements: that which warms up, and three.
    assert last_but_one == 4 * 7 - 1


def test_a_trial_that_cannot_be_measured_is_told(plan_of, monkeypatch):
    class Broken(Steady):
        def sample_sec(self, *_):
            raise estimating.NotMeasuredError("out of memory")

    monkeypatch.setattr(estimating, "Here", Broken)
    with pytest.raises(StudyError, match="cannot be measured: out of memory"):
        estimate(plan_of(), lambda *_: None, lanes=1)


def commanded(study: str, folder: Path) -> tuple[dict[str, float], float]:
    """Return what `medopt plan` says of a study, and the seconds that `medopt run` takes."""
    program = "from bench.cli import main; main()"

    def medopt(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            check=True,
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ).stdout

    found = json.loads(medopt("plan", study, "--json"))
    start = perf_counter()
    medopt("run", study)
    return found, perf_counter() - start


@pytest.mark.slow
def test_a_run_takes_as_long_as_its_plan_said(shared_data, tmp_path, monkeypatch):
    """The hippocampus, cut short: within a factor of 1.25, else in the range that was told."""
    monkeypatch.chdir(tmp_path)
    api.prepare("msd", shared_data / "msd_hippocampus", out="store")
    study = {
        "name": "cut",
        "data": ["store"],
        "models": ["unet"],
        "optimizers": ["sgd", "adam"],
        "losses": ["ce"],
        "regularizers": ["no_stopping"],
        "folds": 2,
        "epochs": 2,
        "patch": [32, 32, 32],
        "device": "cpu",
    }
    Path("cut.yaml").write_text(yaml.safe_dump(study))
    found, wall = commanded("cut.yaml", tmp_path)
    print(f"planned {found['seconds']:.0f} s, took {wall:.0f} s: {wall / found['seconds']:.2f}")
    low, high = found["seconds_low"], found["seconds_high"]
    assert min(low, found["seconds"] / 1.25) <= wall <= max(high, found["seconds"] * 1.25)
    assert len(read(tmp_path / "runs" / "cut", "trials")) == 4


@pytest.mark.slow
def test_a_pilot_without_tuning_says_so_of_a_study_with_it(small_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = small_store("classification", 2).path
    text = (
        f"name: small\ndata: [{store}]\nmodels: [plain_cnn]\noptimizers: [sgd, adam]\n"
        "losses: [ce]\nfolds: 2\nepochs: 1\nthreads: 1\n"
    )
    Path("plain.yaml").write_text(text)
    pilot = api.run("plain.yaml").folder
    tuned = text + "tuning: {points: 2}\n"
    for asked, said in ((text, False), (tuned, True)):
        study = parse_study(asked, "study.yaml")
        (told,) = foreseen_by(resolve(study, tmp_path, tmp_path / "new"), pilot)
        assert ("the pilot was not tuned, but the study is" in str(told)) is said
