"""Lanes: what a worker says and does, and whole runs over worker groups of a real Ray."""

import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml

from bench.core.processes import World
from bench.execution import provenance, trial_queue
from bench.execution import worker as workers
from bench.execution.dispatcher import LanesLost
from bench.execution.local import run_here
from bench.execution.provenance import code_fingerprint, differences, plan_fingerprint
from bench.execution.ray import lanes
from bench.execution.ray.cluster import TOKEN
from bench.execution.ray.lanes import run_lanes
from bench.execution.trial_queue import opened
from bench.planning.plan import resolve, save
from bench.study.schema import load_study
from results.tables.store import finished, read
from tests.bench.execution.noted_loss import noted_loss
from tests.bench.execution.ray.test_cluster import listening

ROOT = Path(__file__).resolve().parents[4]

# ---- whole runs ------------------------------------------------------------------------------

OWN_LOSSES = '''
"""Losses of a user's own: an honest one, and ones that break or kill the process they run in."""

import os
from functools import wraps
from pathlib import Path

from torch.nn.functional import cross_entropy

MARK = Path(__file__).with_name("died")


def in_training(loss):
    """Let a loss do it in training alone: a plan tries it before, with three samples."""

    @wraps(loss)
    def guarded(logits, target):
        return loss(logits, target) if len(logits) > 3 else cross_entropy(logits, target)

    return guarded


def own(logits, target):
    return cross_entropy(logits, target)


@in_training
def kills_once(logits, target):
    if not MARK.exists():
        MARK.touch()
        os._exit(1)
    return cross_entropy(logits, target)


@in_training
def kills(logits, target):
    os._exit(1)


@in_training
def breaks(logits, target):
    raise ValueError("planted")
'''


@pytest.fixture
def folder(tmp_path, small_store):
    """Make a user's folder: a study, losses of their own, and packages named as ours."""
    for name in ("bench", "models", "loaders", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')\n")
    (tmp_path / "own.py").write_text(OWN_LOSSES)
    return tmp_path


@pytest.fixture
def plan(folder, small_store):
    """Return a maker of saved plans; keywords are keys of the study."""

    def make(name: str, **changes):
        study = {
            "name": name,
            "data": [str(small_store("classification", 2).path)],
            "models": ["plain_cnn"],
            "optimizers": ["sgd", "lbfgs"],
            "losses": ["ce", "own.py:own"],
            "epochs": 2,
            "folds": 2,
            "batch_size": 8,
            "threads": 1,
            "device": "cpu",
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(study | changes))
        made = resolve(*load_study(path), folder / "runs" / name, lanes=2)
        save(made)
        return made

    return make


def rows(folder: Path, table: str, **where: str) -> list[dict[str, object]]:
    found = read(folder, table).to_pylist()
    kept = [row for row in found if all(row[k] == v for k, v in where.items())]
    return sorted(kept, key=lambda row: str(sorted(row.items())))


def in_process(made):
    with opened(made, shared_device=False) as queue:
        run_here(made, queue, lambda _progress: None)
    return made


@pytest.mark.ray
def test_two_lanes_give_what_the_process_gives_and_outlive_what_kills_them(
    plan, folder, capfd, monkeypatch
):
    """From a folder with packages named as ours, with losses that break, kill once, and kill."""
    calm = in_process(plan("calm"))
    wild = plan(
        "wild",
        losses=["ce", "own.py:own", *(f"own.py:{n}" for n in ("kills_once", "breaks", "kills"))],
        optimizers=["sgd", "lbfgs"],
    )
    wild = replace(
        wild,
        trials=tuple(
            t
            for t in wild.trials
            if t.choices["loss"].label in ("ce", "own")
            or (t.choices["optimizer"].label == "sgd" and t.fold == 0)
        ),
    )
    monkeypatch.chdir(folder)
    capfd.readouterr()
    seen = []
    state = run_lanes(wild, address=None, lanes=2, gpus_per_trial=1, changed=seen.append)
    said = capfd.readouterr()

    assert state.statuses == {"ok": 9, "failed": 2}
    by_loss = {
        row["loss"]: row for row in rows(wild.folder, "trials") if row["loss"] not in ("ce", "own")
    }
    assert (by_loss["kills_once"]["status"], by_loss["kills_once"]["attempt"]) == ("ok", 2)
    assert by_loss["breaks"]["reason"] == "ValueError: planted"
    assert by_loss["kills"]["reason"] == f"the lane died during it {trial_queue.KILLS} times"
    ids = {t.trial_id for t in calm.trials}
    assert ids <= {t.trial_id for t in wild.trials}
    assert [r for r in rows(wild.folder, "metrics") if r["trial_id"] in ids] == rows(
        calm.folder, "metrics"
    )
    worked = rows(wild.folder, "trials")
    assert {row["lane"] for row in worked} == {"lane 1", "lane 2"}
    assert all(row["shared_device"] and row["threads"] == 1 for row in worked)

    assert seen[-1].done == len(wild.trials)
    assert (said.out, said.err) == ("", "")
    assert not [p for p in psutil.Process().children(recursive=True) if "ray" in p.name().lower()]
    assert os.environ.get("RAY_AUTH_TOKEN") != TOKEN


SHARING = '''
"""A loss that waits in training until three processes have come so far; keeps what loaders say."""

import logging
import os
import time
from pathlib import Path

from torch.nn.functional import cross_entropy

HERE = Path(__file__).parent
log = logging.getLogger("medopt.loaders")
log.setLevel(logging.INFO)
log.addHandler(logging.FileHandler(HERE / f"said-{os.getpid()}", delay=True))


def meets(logits, target):
    if len(logits) > 3:
        (HERE / f"met-{os.getpid()}").touch()
        while len(list(HERE.glob("met-*"))) < 3:
            time.sleep(0.05)
    return cross_entropy(logits, target)
'''


@pytest.mark.ray
def test_lanes_of_one_machine_read_one_shelf_and_give_what_lanes_without_it_give(plan, folder):
    """Each of three has one trial, so that a batch which one took, another of them has made."""
    (folder / "own.py").write_text(SHARING)
    made = plan(
        "shared",
        losses=["own.py:meets"],
        optimizers=["sgd", "sam", "lbfgs"],
        augment={"rotate": 10, "noise": 0.1},
    )
    made = replace(made, trials=tuple(t for t in made.trials if t.fold == 0))
    state = run_lanes(made, address=None, lanes=3, gpus_per_trial=1, changed=lambda _progress: None)
    assert state.statuses == {"ok": 3}
    assert len({row["lane"] for row in rows(made.folder, "trials")}) == 3
    said = [path.read_text() for path in folder.glob("said-*")]
    counts = [
        (int(taken), int(own))
        for taken, own in re.findall(
            r"(\d+) batches were made by others, (\d+) here", "".join(said)
        )
    ]
    assert len(said) == len(counts) == 3
    assert sum(taken for taken, _ in counts) > 0

    alone = in_process(replace(made, folder=folder / "runs" / "alone"))
    assert rows(made.folder, "metrics") == rows(alone.folder, "metrics")
    assert len(rows(made.folder, "metrics")) > 3


@pytest.mark.ray
@pytest.mark.slow
def test_lanes_whose_workers_never_start_end_the_run_with_a_sentence(plan, monkeypatch):
    """Ray starts such workers again without end: here those whose function breaks at once."""
    made = plan("never")

    def breaks(*_given: object) -> None:
        raise ModuleNotFoundError("planted")

    monkeypatch.setattr(lanes, "_work", breaks)
    with pytest.raises(LanesLost, match=r"8 trial\(s\) .* none of its workers started in 0.7 min"):
        run_lanes(
            made,
            address=None,
            lanes=1,
            gpus_per_trial=1,
            changed=lambda _progress: None,
            hung_minutes=0.7,
        )
    assert finished(made.folder) == {}


@pytest.mark.ray
@pytest.mark.slow
def test_a_lane_that_hangs_is_ended_and_comes_back(plan, folder):
    losses = (folder / "own.py").read_text()
    (folder / "own.py").write_text(
        losses + "\n\ndef hangs(logits, target):\n    import time\n    time.sleep(1000)\n"
    )
    made = plan("hung", losses=["ce", "own.py:hangs"], optimizers=["sgd"])
    made = replace(made, trials=tuple(t for t in made.trials if t.fold == 0))
    state = run_lanes(
        made,
        address=None,
        lanes=1,
        gpus_per_trial=1,
        changed=lambda _progress: None,
        hung_minutes=0.4,
    )
    assert state.statuses == {"ok": 1, "failed": 1}
    reasons = [row["reason"] for row in rows(made.folder, "trials", loss="hangs")]
    assert reasons == ["it hung (no step in 0.4 min) 2 times"]


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_of_one_lane_train_as_one_process(plan):
    alone = in_process(plan("alone"))
    pair = plan("pair")
    addresses = set()

    def look(progress) -> None:
        if progress.running:  # so the two have met
            addresses.update(listening())

    run_lanes(pair, address=None, lanes=1, gpus_per_trial=2, changed=look)
    assert {address for address, _ in addresses} == {"127.0.0.1"}
    one, two = (rows(p.folder, "metrics") for p in (alone, pair))
    assert [r["value"] for r in two] == pytest.approx([r["value"] for r in one], rel=1e-4)
    assert {row["device_count"] for row in rows(pair.folder, "trials")} == {2}


# Epochs that last longer than it takes a lane to hear that the run is stopped.
SLOW = noted_loss("""
    if (HERE / "slow").exists():
        time.sleep(0.3)
""")


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_the_epoch_that_a_long_trial_of_a_lane_is_in(
    plan, folder, monkeypatch
):
    (folder / "own.py").write_text(SLOW)
    made = plan("kept", losses=["own.py:noted"], optimizers=["adam"], epochs=40)
    made = replace(made, trials=made.trials[:1])
    calm = in_process(replace(made, folder=folder / "runs" / "calm"))
    whole = (folder / "calls").stat().st_size
    (folder / "calls").unlink()
    (folder / "slow").touch()
    monkeypatch.setattr(lanes, "WORTH_SEC", 0.0)

    def stop(progress) -> None:
        if any(lane.epoch >= 3 for lane in progress.running):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_lanes(made, address=None, lanes=1, gpus_per_trial=1, changed=stop)
    (state,) = (made.folder / "checkpoints").iterdir()
    assert state.stem == made.trials[0].trial_id
    assert (folder / "calls").stat().st_size < whole
    (folder / "slow").unlink()
    in_process(made)
    (row,) = rows(made.folder, "trials")
    assert (row["status"], row["attempt"]) == ("ok", 1)
    # An epoch or two more than was kept were trained before Ray ended.
    assert whole <= (folder / "calls").stat().st_size <= 1.5 * whole
    assert rows(made.folder, "metrics") == rows(calm.folder, "metrics")


INTERRUPTED = """
import sys
from pathlib import Path
from bench.execution.dispatcher import LanesLost
from bench.execution.ray.lanes import run_lanes
from bench.planning.plan import resolve
from bench.study.schema import load_study

study, folder = map(Path, sys.argv[1:])
plan = resolve(*load_study(study), folder, lanes=2)
run_lanes(plan, address=None, lanes=2, gpus_per_trial=1, changed=lambda _progress: None)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_where_it_was(plan, folder, stop):
    """Ctrl-C reaches every process of the terminal's group; kill -9 the driver alone."""
    made = plan("stopped", seeds=[0, 1, 2, 3, 4, 5], epochs=6)
    script = folder / "script"
    script.mkdir()
    (script / "go.py").write_text(INTERRUPTED)
    driver = subprocess.Popen(
        [sys.executable, script / "go.py", folder / "stopped.yaml", made.folder],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    lost = time.monotonic() + 200
    while len(finished(made.folder)) < 3:
        assert driver.poll() is None
        assert time.monotonic() < lost
        time.sleep(0.1)
    workers = psutil.Process(driver.pid).children(recursive=True)
    if stop == signal.SIGINT:
        os.killpg(driver.pid, stop)
    else:
        driver.kill()
    assert driver.wait(60) != 0
    for left in Path("/tmp").glob(f"medopt-*/ray/session_*_{driver.pid}"):
        shutil.rmtree(left.parents[1])
    trainers = [p for p in workers if "RayTrainWorker" in " ".join(_command(p))]
    _, alive = psutil.wait_procs(trainers, timeout=30)
    assert not alive

    before = rows(made.folder, "trials")
    assert 3 <= len(before) < len(made.trials)
    in_process(made)
    after = rows(made.folder, "trials")
    assert len(after) == len(made.trials)
    assert [row for row in after if row["lane"] != "process"] == before
    assert rows(made.folder, "metrics") == rows(
        in_process(replace(made, folder=folder / "whole")).folder, "metrics"
    )


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def worker(said: list[tuple[object, ...]], trials: list[str]) -> workers.Worker:
    """Return a worker of a lane without a cluster: what it says is noted, `trials` are its own."""

    def ask(call: str, *values: object) -> object:
        said.append((call, *values))
        return (trials.pop(), None) if call == "take" and trials else None

    return workers.Worker(
        world=World(),
        place=("machine", 1),
        ask=ask,
        tell=lambda call, *values: said.append((call, *values)) if call == "begun" else None,
        broadcast=lambda value: value,
        barrier=lambda: None,
        device=lambda: torch.device("cpu"),
    )


def test_a_lane_hears_a_warning_once_and_is_not_hurt_by_words_that_are_not_answered(monkeypatch):
    answers = {}
    now = [0.0]
    ray = SimpleNamespace(
        wait=lambda words, **_given: ([w for w in words if w in answers], []),
        get=lambda words: [answers[word] for word in words],
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(lanes, "monotonic", lambda: now[0])
    warning = lanes._Warning()

    def came(word: str) -> bool:
        now[0] += lanes.EPOCH_SEC
        warning.told(word)
        return warning.came()

    assert not came("a")
    answers["a"] = 0
    assert not came("b")
    answers["b"] = 1
    assert [came("c"), came("d")] == [True, False]
    answers |= {"d": 2, "e": 2}
    assert [came("e"), came("f")] == [True, False]


@pytest.fixture
def begun(monkeypatch):
    monkeypatch.setattr(workers, "begin", lambda _threads: None)  # begun for all tests already


def test_a_worker_runs_what_it_takes(plan, begun):
    made = plan("fit")
    said = []
    workers.take_trials(
        worker(said, [made.trials[0].trial_id]),
        code=code_fingerprint(),
        content=plan_fingerprint(made),
        plan=pickle.dumps(made),
    )
    trial_id = made.trials[0].trial_id
    assert [call for call, *_ in said] == ["back", "take", "begun", "take"]
    assert (said[1][1:], said[2][1], said[3][1]) == ((), trial_id, trial_id)
    assert said[3][2]["trial"]["trial_id"] == trial_id


@pytest.mark.parametrize(
    ("differs", "sentence"),
    [
        ({"commit": "abc"}, r"^{host}: commit is def, not abc$"),
        ({"version of the numerics": "99"}, r"^{host}: version of the numerics is \d+, not 99$"),
        ({"version of torch": "0.1"}, r"^{host}: version of torch is [\w.+]+, not 0\.1$"),
    ],
)
def test_another_checkout_is_told_before_a_plan_is_unpickled(monkeypatch, differs, sentence):
    monkeypatch.setattr(provenance, "git_commit", lambda: "def")
    expected = code_fingerprint() | differs
    said = []
    # No plan at all: unpickling it would raise.
    workers.take_trials(worker(said, []), code=expected, content={}, plan=b"no pickle")
    assert [call for call, *_ in said] == ["back", "unfit", "take"]
    assert re.search(sentence.replace("{host}", re.escape(socket.gethostname())), said[1][1])


@pytest.mark.parametrize("sides", [("abc", None), (None, "abc"), (None, None)])
def test_a_commit_that_one_side_alone_knows_is_not_compared(monkeypatch, sides):
    monkeypatch.setattr(provenance, "git_commit", lambda: sides[0])
    expected = code_fingerprint()
    monkeypatch.setattr(provenance, "git_commit", lambda: sides[1])
    assert differences(expected, code_fingerprint()) is None


def test_packages_that_are_not_ours_make_a_worker_unfit(monkeypatch):
    def shadowed() -> None:
        raise ImportError("the package 'models' should come from elsewhere")

    monkeypatch.setattr(workers, "check_packages", shadowed)
    said = []
    workers.take_trials(worker(said, []), code=code_fingerprint(), content={}, plan=b"no pickle")
    assert "the package 'models'" in said[1][1]


def test_a_machine_whose_store_or_sources_differ_is_unfit(plan, begun):
    made = plan("same")
    content = plan_fingerprint(made)
    assert any(name.startswith("source of 'own.py:own'") for name in content)
    name = next(name for name in content if name.startswith("store of"))
    gone = replace(made, sets=tuple(replace(d, path=d.path / "gone") for d in made.sets))
    for own, expected, told in (
        (made, content | {name: "other"}, f"{name} is {content[name]}, not other"),
        (gone, content, "gone"),
    ):
        said = []
        workers.take_trials(
            worker(said, []), code=code_fingerprint(), content=expected, plan=pickle.dumps(own)
        )
        assert [call for call, *_ in said] == ["back", "unfit", "take"]
        assert told in said[1][1]
