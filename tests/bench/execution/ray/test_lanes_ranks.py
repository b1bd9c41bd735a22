"""A lane of two workers on a real Ray: one is killed in mid-trial, and the trial goes on."""

from dataclasses import replace

import pytest
import torch
import yaml

from bench.execution.ray import lanes
from bench.execution.ray.lanes import run_lanes
from bench.execution.worker import cargo_of
from bench.planning.plan import resolve, save
from bench.study.schema import load_study
from results.tables.store import read

# Losses that note each call in training of the second worker, and end its process at one of them:
# by SIGKILL, as a machine out of memory does.
LOSSES = """
import os
import signal
from pathlib import Path

import torch.distributed as dist
from torch.nn.functional import cross_entropy

HERE = Path(__file__).parent


def noted(name, logits, target):
    second = dist.is_initialized() and dist.get_rank() == 1
    if second and logits.requires_grad and len(logits) > 1:
        with (HERE / f"{name}-calls").open("a") as calls:
            calls.write(".")
        at = HERE / f"{name}-ends-at"
        if at.exists() and (HERE / f"{name}-calls").stat().st_size == int(at.read_text()):
            at.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    return cross_entropy(logits, target)


def plain(logits, target):
    return noted("plain", logits, target)


def closure(logits, target):
    return noted("closure", logits, target)


def two_pass(logits, target):
    return noted("two_pass", logits, target)


def averaged(logits, target):
    return noted("averaged", logits, target)
"""
# Of each kind of step: its optimizer, as studies name and as results show it.
KINDS = {
    "plain": "adam",
    "closure": {"lbfgs": {"max_iter": 2}},
    "two_pass": "sam",
    "averaged": "schedule_free_adamw",
}
TIMED = {"elapsed_sec", "samples_per_sec", "data_wait_sec"}


@pytest.fixture
def plan(tmp_path, small_store):
    """Return a maker of plans: a trial of each kind of step, each with a loss of its own."""
    (tmp_path / "own.py").write_text(LOSSES)

    def make(name):
        study = {
            "name": name,
            "data": [str(small_store("classification", 2).path)],
            # Batch norms, and draws that each worker makes for itself.
            "models": [{"vgg_small": {"dropout": 0.3}}],
            "optimizers": list(KINDS.values()),
            "losses": [f"own.py:{kind}" for kind in KINDS],
            "epochs": 12,
            "folds": 2,
            "batch_size": 5,
            "threads": 1,
            "device": "cpu",
            "keep_weights": True,
            "early_stopping": False,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(study))
        made = resolve(*load_study(path), tmp_path / "runs" / name, lanes=1)
        pairs = {
            (next(iter(value)) if isinstance(value, dict) else value, kind)
            for kind, value in KINDS.items()
        }
        trials = tuple(
            t
            for t in made.trials
            if t.fold == 0 and (t.choices["optimizer"].name, t.choices["loss"].label) in pairs
        )
        assert len(trials) == len(KINDS)
        made = replace(made, trials=trials)
        save(made)
        return made

    return make


def run(made):
    # A token whatever the machine's environment says: nobody else's Ray is joined or stopped.
    return run_lanes(
        made, address=None, lanes=1, gpus_per_trial=2, changed=lambda _progress: None
    ).statuses


def left_by(made):
    """Return what each trial leaves but for its times: rows, and the bytes of its weights."""
    tables = {
        table: sorted(
            str({k: v for k, v in row.items() if k not in TIMED})
            for row in read(made.folder, table).to_pylist()
        )
        for table in ("metrics", "epochs", "cases")
    }
    weights = {
        path.stem: {
            name: value.numpy().tobytes()
            for name, value in torch.load(path, weights_only=True).items()
        }
        for path in (made.folder / "weights").iterdir()
    }
    return tables, weights


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_trial_whose_second_worker_is_killed_goes_on_bit_for_bit(plan, tmp_path, monkeypatch):
    """Killed at about 70 % of each of four trials, of which a state is kept after each epoch."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(lanes, "cargo_of", lambda made: {**cargo_of(made), "keep_sec": 0.0})
    calm = plan("calm")
    assert run(calm) == {"ok": len(KINDS)}
    whole = {kind: (tmp_path / f"{kind}-calls").stat().st_size for kind in KINDS}
    for kind, count in whole.items():
        assert count > 10
        (tmp_path / f"{kind}-ends-at").write_text(str(int(0.7 * count)))
        (tmp_path / f"{kind}-calls").unlink()

    wild = plan("wild")
    assert run(wild) == {"ok": len(KINDS)}
    rows = read(wild.folder, "trials").to_pylist()
    assert {(row["attempt"], row["device_count"]) for row in rows} == {(2, 2)}
    for kind, count in whole.items():
        assert not (tmp_path / f"{kind}-ends-at").exists()
        again = (tmp_path / f"{kind}-calls").stat().st_size - count
        # What was done since the last epoch ended, of a line search several calls, and no more.
        assert 0 <= again <= 0.3 * count
    assert left_by(wild) == left_by(calm)
    assert list((wild.folder / "checkpoints").iterdir()) == []
