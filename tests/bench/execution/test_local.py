"""A run without Ray, whose trials do to their process what a user's code can do to one."""

import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from bench.execution import local, trial_queue
from bench.execution.dispatcher import LanesLost
from bench.execution.local import LANE, run_here
from bench.execution.trial_queue import KILLS, opened
from bench.planning.plan import resolve, save
from bench.study.schema import load_study
from bench.training.room import most_bytes
from results.tables.store import finished, read
from tests.bench.training.samples.told import told_store

ROOT = Path(__file__).resolve().parents[3]
CHILD = "bench.execution.child"

LOSSES = '''
"""Losses that end, stop or disturb the process they run in."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from functools import wraps
from pathlib import Path

from torch.nn.functional import cross_entropy

HERE = Path(__file__).parent


def in_training(loss):
    """Let a loss do it in training alone: a plan tries it before, with three samples."""

    @wraps(loss)
    def guarded(logits, target):
        return loss(logits, target) if len(logits) > 3 else cross_entropy(logits, target)

    return guarded


@in_training
def exits(logits, target):
    sys.exit(0)


@in_training
def leaves(logits, target):
    os._exit(0)


@in_training
def crashes(logits, target):
    ctypes.string_at(0)


@in_training
def interrupts(logits, target):
    raise KeyboardInterrupt


@in_training
def kills_its_group(logits, target):
    os.killpg(0, signal.SIGKILL)


@in_training
def closes_everything(logits, target):
    os.closerange(0, 256)
    return cross_entropy(logits, target)


@in_training
def crashes_once(logits, target):
    if not (HERE / "crashed").exists():
        (HERE / "crashed").touch()
        ctypes.string_at(0)
    return cross_entropy(logits, target)


@in_training
def hangs(logits, target):
    time.sleep(1000)


@in_training
def hangs_with_the_lock(logits, target):
    ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the interpreter's lock, unlike CDLL


@in_training
def copies_itself(logits, target):
    os.fork()
    return cross_entropy(logits, target)


@in_training
def leaves_children(logits, target):
    if not (HERE / "child").exists():
        child = subprocess.Popen(["sleep", "1000"])
        (HERE / "child").write_text(str(child.pid))
    return cross_entropy(logits, target)


@in_training
def disturbs(logits, target):
    import logging, resource, warnings
    import numpy as np
    import torch

    found = cross_entropy(logits, target)
    os.chdir("/")
    os.umask(0o777)
    os.environ.clear()
    sys.path.clear()
    sys.stdout = sys.stderr = None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(1)
    sys.setrecursionlimit(120)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error")
    np.seterr(all="raise")
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    return found


@in_training
def waits(logits, target):
    (HERE / "waits").touch()
    while not (HERE / "go").exists():
        time.sleep(0.05)
    return cross_entropy(logits, target)


@in_training
def meets(logits, target):
    """Wait until two processes have trained by it."""
    (HERE / f"met-{os.getpid()}").touch()
    while len(list(HERE.glob("met-*"))) < 2:
        time.sleep(0.05)
    return cross_entropy(logits, target)
'''


@pytest.fixture
def plan(tmp_path, small_store):
    """Return a maker of saved plans of one trial a loss and fold, by the losses' names."""

    def make(*losses: str, **changes: object):
        (tmp_path / "own.py").write_text(LOSSES)
        study = {
            "name": "own",
            "data": [str(small_store("classification", 2).path)],
            "models": ["plain_cnn"],
            "optimizers": ["sgd"],
            "losses": ["ce", *(f"own.py:{name}" for name in losses)],
            "epochs": 2,
            "folds": 2,
            "batch_size": 8,
            "threads": 1,
            "device": "cpu",
        }
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(study | changes))
        made = resolve(*load_study(path), tmp_path / "run")
        save(made)
        return made

    return make


def of_fold_0(made):
    return replace(made, trials=tuple(t for t in made.trials if t.fold == 0))


def run(made, **options) -> dict[str, dict[str, object]]:
    """Run a plan; return the rows of fold 0 by their loss, and check that all are written."""
    with opened(made, shared_device=False) as queue:
        run_here(made, queue, lambda _progress: None, **options)
    rows = read(made.folder, "trials").to_pylist()
    assert len(rows) == len(made.trials)
    return {row["loss"]: row for row in rows if row["fold"] == 0}


ENDS = {
    "exits": "SystemExit: 0",
    "interrupts": "KeyboardInterrupt",
    "leaves": f"it ended its process (exit status 0) {KILLS} times",
    "crashes": f"it ended its process (SIGSEGV) {KILLS} times",
    "kills_its_group": f"it ended its process (SIGKILL, as when memory runs out) {KILLS} times",
}


@pytest.mark.parametrize(
    "names",
    [
        ("leaves",),
        pytest.param((*ENDS, "closes_everything", "crashes_once"), marks=pytest.mark.slow),
    ],
)
def test_a_trial_that_ends_its_process_has_failed_and_the_run_goes_on(plan, names):
    made = plan(*names)
    rows = run(of_fold_0(made))
    for name in set(ENDS) & set(names):
        assert (rows[name]["status"], rows[name]["reason"]) == ("failed", ENDS[name])
    assert (rows["ce"]["status"], rows["ce"]["lane"]) == ("ok", LANE)
    if "crashes_once" in names:
        assert rows["closes_everything"]["status"] == "failed"
        assert (rows["crashes_once"]["status"], rows["crashes_once"]["attempt"]) == ("ok", 2)
    assert not (made.folder / "attempts.json").exists()
    assert not list(made.folder.glob(".in_hand*"))


def metrics(made) -> list[str]:
    return sorted(str(row) for row in read(made.folder, "metrics").to_pylist())


def side_by_side(made, heard=None, lanes: int = 2, **options) -> list[dict[str, object]]:
    """Run a plan's trials so many at once; return the rows."""
    with opened(made, shared_device=True) as queue:
        run_here(made, queue, [].append if heard is None else heard, lanes=lanes, **options)
    return read(made.folder, "trials").to_pylist()


@pytest.mark.fresh
def test_two_side_by_side_give_the_bits_of_one(plan, tmp_path, monkeypatch):
    """Also where nothing says how many threads a process may have, and with other threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = plan("meets", optimizers=["sgd", "lbfgs"], augment={"rotate": 10, "noise": 0.1})
    alone = replace(made, folder=tmp_path / "alone")
    seen = []
    rows = side_by_side(made, seen.append)
    run(alone)
    assert {row["lane"] for row in rows} == {"process 1", "process 2"}
    assert {(row["status"], row["shared_device"]) for row in rows} == {("ok", True)}
    assert max(len(step.running) for step in seen) == 2
    assert metrics(made) == metrics(alone)
    assert len(metrics(made)) > len(rows)
    assert not list(made.folder.glob(".in_hand*"))
    # Batches were shared by the two, and by the one, whose seconds are its own, with nobody.
    assert made_by_others(made)[0] > 0
    assert made_by_others(alone) == (0, 0)
    # What a trial was said to take at most before it ran, the kernel has seen less of.
    (most,) = {most_bytes(made.trials, made.data, made.base)}
    assert 0.3 * most < max(row["peak_memory_bytes"] for row in rows) < most


def made_by_others(made) -> tuple[int, int]:
    """Return how many batches the trials of a run had from others, and made with a shelf."""
    told = re.findall(
        r"(\d+) batches were made by others, (\d+) here", (made.folder / "log.txt").read_text()
    )
    return sum(int(taken) for taken, _ in told), sum(int(own) for _, own in told)


EVERYTHING = {
    "flip": True,
    "scale": 0.1,
    "shift": 0.1,
    "foreground": 0.5,
    "translate": 0.1,
    "rotate": 15.0,
    "zoom": 0.1,
    "noise": 0.1,
    "contrast": 0.25,
    "gamma": 0.3,
    "chance": 0.5,
}
# Optimizers that take one gradient of a batch, two and up to twenty; a loss that has maps made of
# the targets; batches of two sizes, mixed and as they are.
DIMS = {
    2: {"losses": ["ce", "focal"]},
    3: {
        "models": ["unet_small"],
        "losses": ["dice_ce", "boundary"],
        "patch": [16, 8, 12],
        "batch_size": 2,
    },
}


@pytest.fixture
def many(plan, small_store):
    """Return a maker of plans of 12 trials a fold, every augmentation on, by dimensions."""

    def make(dims: int, **changes: object):
        store = small_store("classification" if dims == 2 else "segmentation", dims)
        axes = {"optimizers": ["sgd", "sam", "lbfgs"], "regularizers": ["none", "mixup"]}
        given = {"data": [str(store.path)], "augment": EVERYTHING, **axes, **DIMS[dims]}
        return plan(**(given | changes))

    return make


@pytest.mark.parametrize("loader", ["torch", pytest.param("dali", marks=pytest.mark.slow)])
def test_two_lanes_tell_networks_what_one_does(plan, tmp_path, loader):
    """Clinical data and other answers: batches of those that are taught otherwise are others'."""
    made = plan(
        data=[str(told_store(tmp_path / "told").path)],
        clinical=["none", "with_clinical"],
        labels=["as_given", "soft_readers", "one_reader", {"flipped": {"share": 0.3}}],
        loader=loader,
        augment={"rotate": 10, "noise": 0.1},
    )
    made = of_fold_0(made)
    save(made)
    alone = replace(made, folder=tmp_path / "alone")
    rows = side_by_side(made)
    assert len(rows) == 8
    assert {row["lane"] for row in rows} == {"process 1", "process 2"}
    assert {row["status"] for row in rows} == {"ok"}
    run(alone)
    assert metrics(made) == metrics(alone)


@pytest.mark.slow
@pytest.mark.parametrize("dims", DIMS)
def test_four_lanes_that_load_once_give_the_bits_of_one(many, tmp_path, dims):
    """All of `metrics`, and of `epochs` and `cases` what is no time."""
    # So long that the first lane is not through before the last has begun.
    made = many(dims, epochs={2: 30, 3: 8}[dims])
    rows = side_by_side(made, lanes=4)
    alone = replace(made, folder=tmp_path / "alone")
    run(alone)
    assert {(row["status"], row["shared_device"]) for row in rows} == {("ok", True)}
    assert len({row["lane"] for row in rows}) == 4
    assert metrics(made) == metrics(alone)
    for table in ("epochs", "cases"):
        both = [
            sorted(
                str({k: v for k, v in row.items() if not k.endswith(("_sec", "_per_sec"))})
                for row in read(each.folder, table).to_pylist()
            )
            for each in (made, alone)
        ]
        assert both[0] == both[1]
    taken, own = made_by_others(made)
    assert taken > own
    assert all(0 < row["data_wait_sec"] < row["train_sec"] < row["wall_sec"] for row in rows)


@pytest.mark.fresh
@pytest.mark.slow
def test_lanes_of_which_ten_are_killed_at_random_load_once_all_the_same(many, tmp_path):
    """As the kernel kills one that takes too much memory: in a step, a batch, or a half of one."""
    made = many(3, epochs=12)
    drawn, killed = random.Random(0), set()
    with opened(made, shared_device=True) as queue:
        here = local.Here(made, queue, 4, 30.0, 180.0)

        def watch(progress) -> None:
            hit = [r for r in progress.running if r.trial_id not in killed and r.epoch]
            if len(killed) < 10 and len(progress.running) > 1 and hit and drawn.random() < 0.3:
                chosen = drawn.choice(hit)
                killed.add(chosen.trial_id)
                os.kill(here._lanes[chosen.lane].child.number, signal.SIGKILL)

        here.run(watch)
    alone = replace(made, folder=tmp_path / "alone")
    run(alone)
    assert len(killed) == 10
    rows = read(made.folder, "trials").to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["trial_id"] for row in rows if row["attempt"] == 2} == killed
    assert metrics(made) == metrics(alone)
    assert made_by_others(made)[0] > 0
    # Its memory has no name, and nobody holds it: it is gone.
    assert not [link for link in Path("/proc/self/fd").iterdir() if "memfd" in str(link.resolve())]
    assert not children()


@pytest.mark.slow
def test_a_trial_that_ends_its_process_costs_no_other_trial_anything(plan):
    """It is tried again with none beside it: memory that runs out is the doing of all."""
    made = plan("crashes_once", "leaves")
    seen = []
    rows = side_by_side(made, seen.append)
    assert len(rows) == len(made.trials)
    found = {(row["loss"], row["status"], row["attempt"]) for row in rows if row["loss"] == "ce"}
    assert found == {("ce", "ok", 1)}
    assert sorted(r["attempt"] for r in rows if r["loss"] == "crashes_once") in ([1, 2], [2, 2])
    reasons = {row["reason"] for row in rows if row["loss"] == "leaves"}
    assert reasons == {f"it ended its process (exit status 0) {KILLS} times"}
    assert not (made.folder / "attempts.json").exists()


@pytest.mark.fresh
def test_a_process_that_is_killed_costs_its_trial_and_the_rest_go_on(plan, tmp_path, monkeypatch):
    """As where the kernel ends the largest process of a machine that has run out of memory."""
    # Looked at after each step: the trial is back in hand sooner than a slow telling comes again.
    monkeypatch.setattr(trial_queue, "TELLING_SEC", 0.0)
    made = plan("waits", epochs=3)
    killed = []

    def watch(step) -> None:
        if not killed and (tmp_path / "waits").exists() and len(step.running) == 2:
            lane = next(lane for lane in step.running if "waits" in lane.label)
            child = children()[int(lane.lane.split()[1]) - 1]
            child.kill()
            killed.append(lane.label)
        if killed:
            (tmp_path / "go").touch()
            again = killed[0] in {lane.label for lane in step.running}
            if noticed and again:
                alone.add(len(step.running))
            noticed.extend([True] * (not again))

    alone: set[int] = set()
    noticed: list[bool] = []
    rows = side_by_side(made, watch)
    assert {row["status"] for row in rows} == {"ok"}
    assert sorted(row["attempt"] for row in rows) == [1] * (len(rows) - 1) + [2]
    assert alone == {1}


def children() -> list[psutil.Process]:
    """Return the processes that train beside this one, in the order of their start."""
    found = psutil.Process().children()
    return sorted((p for p in found if CHILD in " ".join(p.cmdline())), key=lambda p: p.pid)


# A child without torch, which fails each trial: that of lane 1 ends it once, that of lane 2 takes
# its time, with steps.
SIMPLE_CHILD = """
import os, sys, time
from pathlib import Path

sys.path.insert(0, {root!r})
from bench.core.processes import begun_beside

pipe, cargo = begun_beside()
here, lane = Path(cargo["folder"]), cargo["lane"]


def ask(call, *values):
    pipe.send((0, call, values))
    return pipe.recv()


ask("back")
while given := ask("take"):
    trial, _ = given
    pipe.send((None, "begun", (trial,)))
    if lane == "process 1" and not (here / "died").exists():
        (here / "died").touch()
        os._exit(1)
    while lane == "process 2" and not (here / "go").exists():
        time.sleep(0.05)
        pipe.send((None, "renew", ()))
    ask("fail", trial, "planted", "")
"""


def test_a_process_that_waits_until_another_has_ended_is_not_taken_for_hung(plan, monkeypatch):
    """A trial that ended its process must be alone, and the last of the others may take hours."""
    made = plan()
    assert len(made.trials) == 2
    monkeypatch.setattr(local, "_CHILD", SIMPLE_CHILD.format(root=str(ROOT)))
    started, waited, hours = [], [], [0.0]
    start, serve = local.Beside, local.Dispatcher.serve

    def counted(*given):
        started.append(given)
        return start(*given)

    def watched(self, heard) -> None:
        serve(self, heard)
        if "process 1" in self._waiting and len(started) >= 3:
            waited.append(True)
            hours[0] = 3600.0
            if len(waited) == 5:
                (made.folder / "go").touch()

    monkeypatch.setattr(local, "Beside", counted)
    monkeypatch.setattr(local.Dispatcher, "serve", watched)
    monkeypatch.setattr(local, "monotonic", lambda: time.monotonic() + hours[0])
    rows = side_by_side(made)
    assert {row["reason"] for row in rows} == {"planted"}
    assert sorted(row["attempt"] for row in rows) == [1, 2]
    assert len(started) == 3


@pytest.mark.slow
def test_a_lane_whose_process_cannot_start_is_left_out(plan, monkeypatch):
    """One of two is enough; where none starts, the run ends with a sentence."""
    start = local.Beside

    def one_breaks(code, cargo, output, environment):
        broken = "import sys; sys.exit(7)"
        return start(broken if cargo["lane"] == "process 2" else code, cargo, output, environment)

    monkeypatch.setattr(local, "Beside", one_breaks)
    made = plan("waits")
    (made.folder.parent / "go").touch()
    rows = side_by_side(made)
    assert {(row["status"], row["lane"]) for row in rows} == {("ok", "process 1")}

    monkeypatch.setattr(local, "_CHILD", "import sys; sys.exit(7)")
    other = replace(made, folder=made.folder.parent / "other")
    with pytest.raises(LanesLost, match=r"4 trials left unfinished: .*\(exit status 7\)"):
        side_by_side(other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hangs", "hangs_with_the_lock"])
def test_a_trial_that_hangs_is_ended_and_the_run_goes_on(plan, name):
    made = of_fold_0(plan(name))
    heard = []
    with opened(made, shared_device=False) as queue:
        run_here(made, queue, heard.append, hung_minutes=0.2)
    statuses = {r["loss"]: r["status"] for r in read(made.folder, "trials").to_pylist()}
    assert statuses == {"ce": "ok", name: "failed"}
    reasons = {r["reason"] for r in read(made.folder, "trials").to_pylist()}
    assert f"it hung (no step in 0.2 min) {KILLS} times" in reasons
    longest = max(lane.silent for step in heard for lane in step.running)
    assert 10 < longest < 30


@pytest.mark.slow
def test_copies_and_children_of_a_trial_do_not_go_on_with_the_run(plan, tmp_path):
    made = of_fold_0(plan("copies_itself", "leaves_children"))
    rows = run(made)
    assert {row["status"] for row in rows.values()} == {"ok"}
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "a child of a trial outlives the run"
        time.sleep(0.1)
    with opened(made, shared_device=False) as queue:  # nobody holds its lock
        assert queue.pending() == 0


def test_what_a_trial_does_to_its_process_is_not_done_to_the_next(plan, tmp_path):
    made = plan("disturbs")
    rows = run(made)
    assert rows["ce"]["status"] == "ok"
    assert {row["attempt"] for row in rows.values()} == {1}  # no process died of it

    # ce of fold 1 came after disturbs of fold 0: it has the numbers of a run of its own.
    alone = replace(
        made,
        folder=tmp_path / "alone",
        trials=tuple(t for t in made.trials if t.choices["loss"].label == "ce"),
    )
    assert run(alone)["ce"]["status"] == "ok"
    ids = {t.trial_id for t in alone.trials}
    disturbed, calm = (
        sorted(str(row) for row in read(p.folder, "metrics").to_pylist() if row["trial_id"] in ids)
        for p in (made, alone)
    )
    assert disturbed == calm
    assert len(calm) > len(ids)


RUN = """
import pickle, sys
from pathlib import Path
from bench.execution.local import run_here
from bench.execution.trial_queue import opened

made = pickle.loads(Path(sys.argv[1]).read_bytes())
with opened(made, shared_device=False) as queue:
    run_here(made, queue, lambda _progress: None)
"""


@pytest.mark.parametrize("whole", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_process_and_blames_a_trial_that_went_with_it(
    plan, tmp_path, whole
):
    """Killed alone, the run's end is not the trial's doing; killed with its child it may be."""
    made = of_fold_0(plan("waits"))
    made = replace(made, trials=tuple(t for t in made.trials if t.choices["loss"].label == "waits"))
    (tmp_path / "plan").write_bytes(pickle.dumps(made))
    driver = subprocess.Popen([sys.executable, "-c", RUN, tmp_path / "plan"], cwd=ROOT)
    until = time.monotonic() + 120
    while not (tmp_path / "waits").exists():
        assert driver.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    (child,) = psutil.Process(driver.pid).children()
    if whole:
        child.send_signal(signal.SIGSTOP)  # so that it cannot say that it was left alone
    driver.kill()
    driver.wait()
    if whole:
        child.kill()
    child.wait(30)
    assert [mark.name for mark in made.folder.glob(".in_hand*")] == [".in_hand.process"] * whole
    (tmp_path / "go").touch()
    rows = run(made)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["waits"]["attempt"] == (2 if whole else 1)


def test_a_process_that_cannot_start_ends_the_run_with_a_sentence(plan, monkeypatch):
    made = plan()
    monkeypatch.setattr("bench.execution.local._CHILD", "import sys; sys.exit(7)")
    with (
        opened(made, shared_device=False) as queue,
        pytest.raises(LanesLost, match=r"2 trials left unfinished: .*\(exit status 7\); see .*log"),
    ):
        run_here(made, queue, lambda _progress: None)
    assert finished(made.folder) == {}


def test_a_process_that_hangs_before_it_takes_a_trial_ends_the_run_too(plan, monkeypatch):
    made = plan()
    monkeypatch.setattr("bench.execution.local._CHILD", "import time; time.sleep(1000)")
    with (
        opened(made, shared_device=False) as queue,
        pytest.raises(LanesLost, match=r"ended 3 times before it took a trial \(SIGKILL"),
    ):
        run_here(made, queue, lambda _progress: None, hung_minutes=0.02)


@pytest.mark.slow
def test_a_source_that_was_edited_meanwhile_is_told(plan, tmp_path):
    made = plan("crashes_once")
    own = tmp_path / "own.py"
    own.write_text(own.read_text() + "\n# another version\n")
    with (
        opened(made, shared_device=False) as queue,
        pytest.raises(LanesLost, match=r"source of 'own\.py:crashes_once' is"),
    ):
        run_here(made, queue, lambda _progress: None)
    assert finished(made.folder) == {}
