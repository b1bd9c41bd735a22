"""Trials that are cut off in the middle: they go on from the state that was kept, bit for bit."""

import pickle
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from bench.execution import local
from bench.execution.local import run_here
from bench.execution.trial_queue import opened
from bench.planning.plan import resolve, save
from bench.study.schema import load_study
from results.tables.store import read
from tests.bench.execution.noted_loss import noted_loss
from tests.forks import SERVER

# A loss that notes each of its calls in training and, where it is told so, ends its process at one
# of them, waits, or breaks. Of 24 cases 2 x 2 folds leave 8 to 10 to train on: batches of 4.
LOSS = noted_loss("""
    at = HERE / "ends-at"
    if at.exists() and (HERE / "calls").stat().st_size == int(at.read_text()):
        at.unlink()
        os._exit(1)
    if (HERE / "slow").exists() and (HERE / "calls").stat().st_size > 20:
        time.sleep(0.2)
""")

# How many calls of the loss a step takes does not matter: each is counted.
OPTIMIZERS = [
    "adam",
    # Left alone one step of L-BFGS is this whole training, and no epoch ends before.
    pytest.param({"lbfgs": {"max_iter": 2}}, marks=pytest.mark.slow, id="lbfgs"),
    pytest.param("sam", marks=pytest.mark.slow),
    pytest.param("schedule_free_adamw", marks=pytest.mark.slow),
]
NEVER = 1e9


@pytest.fixture
def plan(tmp_path, small_store):
    """Return a maker of plans of one trial: an optimizer, and what else the study says."""
    (tmp_path / "own.py").write_text(LOSS)

    def make(optimizer: object = "adam", folder: str = "run"):
        study = {
            "name": "kept",
            "data": [str(small_store("classification", 2).path)],
            "models": ["plain_cnn"],
            "optimizers": [optimizer],
            "losses": ["own.py:noted"],
            "epochs": 10,
            "folds": 2,
            "batch_size": 4,
            "threads": 1,
            "device": "cpu",
            "keep_weights": True,
            "early_stopping": False,
            "augment": {"rotate": 10, "noise": 0.1},
            # Schedule-free weights are averages already.
            **({} if "schedule_free" in optimizer else {"ema": 0.9}),
        }
        path = tmp_path / "kept.yaml"
        path.write_text(yaml.safe_dump(study))
        made = resolve(*load_study(path), tmp_path / folder)
        made = replace(made, trials=made.trials[:1])
        save(made)
        return made

    return make


def run(made, changed=lambda _progress: None, **options) -> dict[str, object]:
    with opened(made, shared_device=False) as queue:
        run_here(made, queue, changed, **options)
    (row,) = read(made.folder, "trials").to_pylist()
    return row


def calls(tmp_path: Path) -> int:
    """Return how often the loss was called since this was asked last."""
    noted = tmp_path / "calls"
    count = noted.stat().st_size if noted.exists() else 0
    noted.unlink(missing_ok=True)
    return count


def left_by(made) -> tuple[object, ...]:
    """Return what a run leaves but for its times: metrics, epochs, cases, the weights' values."""
    timed = {"elapsed_sec", "samples_per_sec", "data_wait_sec"}
    tables = [
        sorted(
            str({k: v for k, v in row.items() if k not in timed})
            for row in read(made.folder, table).to_pylist()
        )
        for table in ("metrics", "epochs", "cases")
    ]
    (path,) = (made.folder / "weights").iterdir()
    weights = torch.load(path, weights_only=True)
    return tables, {name: value.numpy().tobytes() for name, value in weights.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trial_whose_process_is_killed_goes_on_bit_for_bit(plan, tmp_path, optimizer):
    """Killed when it is 85 % done: an epoch is trained again (of L-BFGS a few calls), not all."""
    calm = plan(optimizer, "calm")
    assert run(calm)["status"] == "ok"
    whole = calls(tmp_path)
    assert whole >= 10  # at least one an epoch
    ends_at = int(0.85 * whole)
    (tmp_path / "ends-at").write_text(str(ends_at))
    made = plan(optimizer)
    row = run(made, keep_sec=0.0)
    assert (row["status"], row["attempt"], row["epochs_run"]) == ("ok", 2, 10)
    again = calls(tmp_path) - whole
    assert 0 <= again <= (0.5 if isinstance(optimizer, dict) else 0.2) * ends_at
    assert left_by(made) == left_by(calm)
    assert list((made.folder / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_the_epoch_that_a_long_trial_is_in(plan, tmp_path, monkeypatch):
    calm = plan(folder="calm")
    run(calm)
    whole = calls(tmp_path)
    made = plan()
    monkeypatch.setattr(local, "WORTH_SEC", 0.0)
    (tmp_path / "slow").touch()

    def stop(progress) -> None:
        if any(lane.epoch >= 7 for lane in progress.running):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, stop, keep_sec=NEVER)
    (tmp_path / "slow").unlink()
    (state,) = (made.folder / "checkpoints").iterdir()
    assert state.stem == made.trials[0].trial_id
    assert not SERVER.children()
    row = run(made, keep_sec=NEVER)
    # A stop is no death of the trial.
    assert (row["status"], row["attempt"]) == ("ok", 1)
    assert whole <= calls(tmp_path) <= 1.2 * whole
    assert left_by(made) == left_by(calm)


class Planted:
    """What runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.slow
def test_a_state_that_is_damaged_costs_the_start_alone_and_is_never_executed(plan, tmp_path):
    calm = plan(folder="calm")
    run(calm)
    whole = calls(tmp_path)
    made = plan()
    state = made.folder / "checkpoints" / f"{made.trials[0].trial_id}.pt"
    state.parent.mkdir()
    state.write_bytes(pickle.dumps(Planted(tmp_path / "executed")))
    row = run(made)
    assert (row["status"], row["attempt"]) == ("ok", 1)
    assert calls(tmp_path) == whole
    assert not (tmp_path / "executed").exists()
    assert "starts from the beginning" in (made.folder / "log.txt").read_text()
    assert left_by(made) == left_by(calm)
    assert not state.exists()


def test_a_warned_child_sends_its_state_at_the_end_of_its_epoch(plan, tmp_path, monkeypatch):
    """SIGTERM as a scheduler sends it, to every process of a job: the run decides what becomes."""
    made = plan()
    (tmp_path / "slow").touch()
    warned = []

    def warn(progress) -> None:
        if not warned and any(lane.epoch >= 6 for lane in progress.running):
            (child,) = SERVER.children()
            child.send_signal(signal.SIGTERM)
            warned.append(child.pid)
        if warned and (made.folder / "checkpoints").exists():
            (tmp_path / "slow").unlink(missing_ok=True)

    row = run(made, warn, keep_sec=NEVER)
    assert (row["status"], row["attempt"]) == ("ok", 1)
    assert not (tmp_path / "slow").exists()
