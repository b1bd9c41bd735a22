"""A real `medopt run` killed by kill -9 at 90 % of a trial's steps: what it costs, what is left.

The run and the process that trains end at once, as where a machine goes down. A loss that sleeps
makes a trial last; how long it sleeps changes no number, so the undisturbed trials do without.
"""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from results.tables.store import read
from tests.golden import made
from tests.trials import skip_without

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[4]
# `medopt` itself, with states kept more often than every three minutes.
MEDOPT = """
import sys
import bench.execution.local
bench.execution.local.run_here.__kwdefaults__["keep_sec"] = float(sys.argv.pop(1))
from bench.command import main
main()
"""
# A plan tries the loss with three samples, inner validation asks for no gradient.
LOSS = """
import os
import time
from pathlib import Path

from torch.nn.functional import cross_entropy

CALLS = Path(__file__).with_name("calls")
PACE = float(os.environ["PACE"])


def paced(logits, target):
    if logits.requires_grad and len(logits) > 3:
        with CALLS.open("a") as calls:
            calls.write(".")
        time.sleep(PACE)
    return cross_entropy(logits, target)
"""
KINDS = {
    "plain": "adam",
    "closure": {"lbfgs": {"max_iter": 2}},
    "two_pass": "sam",
    "averaged": "schedule_free_adamw",
}
# Of 8 cases in batches of 4 (of 8 where it searches lines) a trial has so many gradients, at least;
# times PACE they are the seconds that it lasts.
EPOCHS = {"closure": 200, "long": 150}
NAMES = {kind: next(iter(v)) if isinstance(v, dict) else v for kind, v in KINDS.items()}
TIMED = ("sec", "_ms", "_at", "peak_memory", "attempt")


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a store whose official parts are one fold, and the loss."""
    made.make_store("images", tmp_path)
    (tmp_path / "own.py").write_text(LOSS)
    return tmp_path


def write_study(folder, kind, loader, epochs):
    study = {
        "name": "killed",
        "data": ["images"],
        "models": [{"vgg_small": {"dropout": 0.3}}],
        "optimizers": [KINDS[kind]],
        "losses": ["own.py:paced"],
        "folds": "official",
        "epochs": epochs,
        "batch_size": 4,
        "augment": {"flip": True, "noise": 0.1},
        "loader": loader,
        "threads": 1,
        "device": "cpu",
        "early_stopping": False,
        "keep_weights": True,
    }
    (folder / "killed.yaml").write_text(yaml.safe_dump(study))


def begin(folder, run, *, pace, keep_sec):
    return subprocess.Popen(
        [sys.executable, "-c", MEDOPT, str(keep_sec), "run", "killed.yaml", "--out", run],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PACE": str(pace), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def whole(folder, run, **how):
    """Run to the end; return how many gradients the loss was asked for."""
    (folder / "calls").unlink(missing_ok=True)
    process = begin(folder, run, **how)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    return (folder / "calls").stat().st_size


def killed(folder, run, at, **how):
    """Run until the loss was asked for `at` gradients, and kill every process of the run at once.

    Returns how many it was asked for when all were dead.
    """
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    process = begin(folder, run, **how)
    until = time.monotonic() + 1200
    while not calls.exists() or calls.stat().st_size < at:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    everything = [psutil.Process(process.pid)]
    everything += everything[0].children(recursive=True)
    for one in everything:
        one.suspend()  # none may see another die and say so
    for one in everything:
        one.kill()
    _, alive = psutil.wait_procs(everything[1:], timeout=30)
    assert not alive
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()
    return calls.stat().st_size


def left_by(run):
    """Return what a run leaves but for its times: rows of four tables, the weights' values."""
    tables = [
        sorted(
            str({k: v for k, v in row.items() if not any(t in k for t in TIMED)})
            for row in read(run, table).to_pylist()
        )
        for table in ("trials", "metrics", "epochs", "cases")
    ]
    (path,) = (run / "weights").iterdir()
    weights = torch.load(path, weights_only=True)
    return tables, {name: value.numpy().tobytes() for name, value in weights.items()}


def hold(folder, kind, loader, *, epochs, seconds, keep_sec):
    """Kill a trial that lasts so long at 90 % of it, and go on; compare with the undisturbed."""
    write_study(folder, kind, loader, epochs)
    gradients = whole(folder, "calm", pace=0, keep_sec=1e9)
    pace = seconds / gradients
    (calm,) = read(folder / "calm", "trials").to_pylist()
    assert calm["optimizer"].startswith(NAMES[kind])
    assert (calm["loader"], calm["status"]) == (loader, "ok")
    assert calm["gradient_evaluations"] == gradients

    done = killed(folder, "run", int(0.9 * gradients), pace=pace, keep_sec=keep_sec)
    assert done < gradients
    (state,) = (folder / "run" / "checkpoints").iterdir()
    kept = torch.load(state, weights_only=True)["evaluations"]
    # The time since the last state, in gradients: no more fit into the interval than by their
    # sleep, beside the epoch that was in hand at its end and one that was while it was written.
    epoch = max_of_an_epoch(folder / "calm")
    assert 0 < done - kept <= keep_sec / pace + 2 * epoch

    again = whole(folder, "run", pace=0, keep_sec=keep_sec)
    assert again == gradients - kept
    (row,) = read(folder / "run", "trials").to_pylist()
    assert (row["status"], row["attempt"]) == ("ok", 2)
    assert left_by(folder / "run") == left_by(folder / "calm")
    assert list((folder / "run" / "checkpoints").iterdir()) == []


def max_of_an_epoch(run):
    """Return the most gradients that an epoch of a run took."""
    ends = [row["gradient_evaluations"] for row in read(run, "epochs").to_pylist()]
    return max(b - a for a, b in pairwise([0, *sorted(ends)]))


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("loader", ["torch", "dali"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_of_twenty_seconds_loses_what_came_after_its_last_state(folder, kind, loader):
    skip_without(loader)
    epochs = EPOCHS.get(kind, 80)
    hold(folder, kind, loader, epochs=epochs, seconds=20.0, keep_sec=2.0)


@pytest.mark.timeout(2400)
def test_a_trial_of_five_minutes_loses_what_came_after_its_last_state(folder):
    hold(folder, "plain", "torch", epochs=EPOCHS["long"], seconds=300.0, keep_sec=20.0)
