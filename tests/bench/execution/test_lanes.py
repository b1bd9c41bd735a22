"""Lanes: what the clerk does at the queue, and whole runs over worker groups of a real Ray."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from bench.execution import lanes, trial_queue
from bench.execution.lanes import Clerk, Node, StudyError, room, run_lanes
from bench.execution.mailbox import Desk
from bench.execution.trial_queue import LEASE_SEC, Queue, opened, run_here
from bench.planning.plan import resolve, save
from bench.study.schema import load_study, parse_study
from results.tables.store import finished, read

ROOT = Path(lanes.ROOT)


# ---- the desk --------------------------------------------------------------------------------


def test_a_question_waits_for_its_own_answer():
    async def ask_two():
        desk = Desk()
        first = asyncio.create_task(desk.ask("lane 1", "take"))
        second = asyncio.create_task(desk.ask("lane 2", "finish", "t", {"a": 1}))
        heard = await desk.heard(1.0)
        assert [call[1:] for call in heard] == [
            ("lane 1", "take", ()),
            ("lane 2", "finish", ("t", {"a": 1})),
        ]
        await desk.answer(heard[1][0], "second")
        await desk.answer(heard[0][0], "first")
        return await first, await second

    assert asyncio.run(ask_two()) == ("first", "second")


def test_what_is_told_waits_for_nothing_and_silence_is_heard_as_such():
    async def tell():
        desk = Desk()
        await desk.tell("lane 1", "renew", 3, 0.5)
        return await desk.heard(1.0), await desk.heard(0.01)

    assert asyncio.run(tell()) == ([(None, "lane 1", "renew", (3, 0.5))], [])


def test_an_answer_to_a_lane_that_is_gone_is_let_go():
    async def cancelled():
        desk = Desk()
        task = asyncio.create_task(desk.ask("lane 1", "take"))
        ((number, *_),) = await desk.heard(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await desk.answer(number, "late")

    asyncio.run(cancelled())


# ---- the clerk -------------------------------------------------------------------------------


class Counter:
    """A clerk at a queue of trials, with the answers that it gave."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.said: dict[int, object] = {}
        self.clerk = Clerk(queue, self.said.__setitem__)


@pytest.fixture
def counter(tmp_path, make_trial):
    def make(count: int) -> Counter:
        trial, _, _ = make_trial("classification")
        trials = [replace(trial, trial_id=f"t{n}") for n in range(count)]
        return Counter(Queue(run=tmp_path, study="s", trials=trials, footer={}, shared_device=True))

    return make


def outcome(trial_id: str) -> dict[str, object]:
    row = {"trial_id": trial_id, "status": "ok", "wall_sec": 1.0, "reason": None}
    tables = {"metrics": [], "epochs": [], "cases": []}
    return {"trial": row, **tables, "examples": {}, "weights": None}


def test_a_result_is_on_disk_before_its_lane_is_answered(counter, tmp_path):
    desk = counter(1)
    on_disk = []
    desk.clerk.say = lambda number, _value: on_disk.append((number, finished(tmp_path)))
    desk.clerk.serve([(1, "a", "take", ())])
    desk.clerk.serve([(2, "a", "finish", ("t0", outcome("t0")))])
    assert on_disk == [(1, {}), (2, {"t0": "ok"})]


def test_a_lane_waits_while_another_holds_the_last_trial_and_gets_it_when_that_one_dies(counter):
    desk = counter(1)
    desk.clerk.serve([(1, "a", "take", ()), (2, "b", "take", ())])
    assert desk.said == {1: "t0"}
    desk.clerk.serve([(3, "a", "back", ())])
    assert desk.said == {1: "t0", 2: "t0", 3: None}


def test_lanes_are_sent_home_when_every_trial_is_done(counter):
    desk = counter(1)
    desk.clerk.serve([(1, "a", "take", ()), (2, "b", "take", ())])
    desk.clerk.serve([(3, "a", "fail", ("t0", "planted", "a trace"))])
    assert desk.said == {1: "t0", 2: None, 3: None}


def test_a_trial_is_not_handed_to_a_worker_that_died_while_it_waited(counter):
    desk = counter(2)
    desk.clerk.serve([(n, f"lane {n}", "take", ()) for n in range(3)])
    desk.clerk.serve([(3, "lane 2", "back", ()), (4, "lane 0", "fail", ("t0", "why", "trace"))])
    assert desk.said == {0: "t0", 1: "t1", 3: None, 4: None}
    desk.clerk.serve([(5, "lane 1", "back", ()), (6, "lane 2", "take", ())])
    assert desk.said[6] == "t1"


def test_a_lane_that_renewed_while_this_process_was_busy_keeps_its_trial(counter, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trial_queue.time, "monotonic", lambda: now[0])
    desk = counter(1)
    desk.clerk.serve([(1, "a", "take", ())])
    now[0] = LEASE_SEC + 1
    desk.clerk.serve([(2, "b", "take", ()), (None, "a", "renew", (2, 0.5))])
    assert desk.said == {1: "t0"}
    assert desk.queue.progress().running[0].epoch == 2


def test_a_lane_that_only_dies_is_ended_and_one_that_works_is_not(counter):
    desk = counter(20)
    for n in range(lanes.STARTS):
        desk.clerk.serve([(n, "bad", "back", ())])
        assert "bad" not in desk.clerk.ended
        desk.clerk.serve([(50 + n, "good", "back", ()), (90 + n, "good", "take", ())])
    desk.clerk.serve([(40, "bad", "back", ()), (41, "bad", "take", ())])
    desk.clerk.serve([(42, "good", "back", ())])
    assert "before they took a trial" in desk.clerk.ended["bad"]
    assert desk.said[41] is None
    assert "good" not in desk.clerk.ended


def test_an_unfit_lane_gets_no_trial(counter):
    desk = counter(1)
    desk.clerk.serve([(1, "a", "unfit", ("no store here",)), (2, "a", "take", ())])
    assert desk.said == {1: None, 2: None}
    assert desk.queue.pending() == 1
    assert desk.clerk.ended == {"a": "no store here"}


# ---- the room for lanes ----------------------------------------------------------------------


@pytest.fixture
def asked():
    def make(**changes):
        text = {"name": "s", "data": ["a"], "models": ["plain_cnn"], "losses": ["ce"]}
        return parse_study(yaml.safe_dump(text | {"optimizers": ["sgd"]} | changes), "s.yaml")

    return make


@pytest.mark.parametrize(
    ("nodes", "study", "lanes_asked", "gpus_per_trial", "found"),
    [
        ([(16, 0)], {}, None, 1, (4, 4, 16, False)),
        ([(2, 0)], {}, None, 1, (1, 1, 2, False)),
        ([(2, 0)], {}, 2, 1, (2, 2, 2, False)),
        ([(16, 0)], {"threads": 2}, None, 1, (8, 8, 16, False)),
        ([(64, 4)], {}, None, 1, (4, 4, 64, True)),
        ([(64, 4)], {}, None, 2, (2, 4, 64, True)),
        ([(64, 4)], {"device": "cpu"}, 3, 1, (3, 3, 64, False)),
        ([(8, 0), (64, 4), (32, 4)], {}, None, 2, (4, 4, 32, True)),
    ],
)
def test_room_is_a_lane_a_gpu_or_for_some_cores(
    asked, monkeypatch, nodes, study, lanes_asked, gpus_per_trial, found
):
    monkeypatch.setattr(lanes, "here", lambda: [Node(cores=c, gpus=g) for c, g in nodes])
    made = room(asked(**study), address=None, lanes=lanes_asked, gpus_per_trial=gpus_per_trial)
    assert (made.lanes, made.workers_a_node, made.cores, made.cuda) == found


def test_a_study_for_gpus_is_refused_where_there_is_none(asked, monkeypatch):
    monkeypatch.setattr(lanes, "here", lambda: [Node(cores=4, gpus=0)])
    with pytest.raises(StudyError, match="none of the machines has a GPU"):
        room(asked(device="cuda"), address=None, lanes=None, gpus_per_trial=1)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "--ray auto"),
        ("127.0.0.1:1", "nothing answers"),
        ("head", "no cluster"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_at_once(asked, address, said):
    with pytest.raises(StudyError, match=said):
        room(asked(), address=address, lanes=1, gpus_per_trial=1)


def test_more_lanes_than_the_machines_hold_are_refused_with_what_there_is():
    nodes = [Node(cores=8, gpus=2), Node(cores=3, gpus=1)]
    lanes._check_room(nodes, 3, lanes._Group(workers=1, threads=3, cuda=True))
    with pytest.raises(StudyError, match=r"room for 2 \(8 cores and 2 GPUs, 3 cores and 1 GPUs\)"):
        lanes._check_room(nodes, 3, lanes._Group(workers=1, threads=4, cuda=True))
    with pytest.raises(StudyError, match="room for 3"):
        lanes._check_room(nodes, 4, lanes._Group(workers=2, threads=3, cuda=False))


# ---- whole runs ------------------------------------------------------------------------------

OWN_LOSSES = '''
"""Losses of a user's own: an honest one, and ones that break or kill the process they run in."""

import os
from pathlib import Path

from torch.nn.functional import cross_entropy

MARK = Path(__file__).with_name("died")


def own(logits, target):
    return cross_entropy(logits, target)


def kills_once(logits, target):
    if not MARK.exists():
        MARK.touch()
        os._exit(1)
    return cross_entropy(logits, target)


def kills(logits, target):
    os._exit(1)


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
        row["loss"]: row for row in rows(wild.run, "trials") if row["loss"] not in ("ce", "own")
    }
    assert (by_loss["kills_once"]["status"], by_loss["kills_once"]["attempt"]) == ("ok", 2)
    assert by_loss["breaks"]["reason"] == "ValueError: planted"
    assert by_loss["kills"]["reason"] == f"the lane died in it {trial_queue.KILLS} times"
    ids = {t.trial_id for t in calm.trials}
    assert ids <= {t.trial_id for t in wild.trials}
    assert [r for r in rows(wild.run, "metrics") if r["trial_id"] in ids] == rows(
        calm.run, "metrics"
    )
    worked = rows(wild.run, "trials")
    assert {row["lane"] for row in worked} == {"lane 1", "lane 2"}
    assert all(row["shared_device"] and row["threads"] == 1 for row in worked)

    assert seen[-1].done == len(wild.trials)
    assert (said.out, said.err) == ("", "")
    assert not [p for p in psutil.Process().children(recursive=True) if "ray" in p.name().lower()]
    assert os.environ.get("RAY_AUTH_TOKEN") != lanes.TOKEN


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_of_one_lane_train_as_one_process(plan):
    alone = in_process(plan("alone"))
    pair = plan("pair")
    run_lanes(pair, address=None, lanes=1, gpus_per_trial=2, changed=lambda _progress: None)
    one, two = (rows(p.run, "metrics") for p in (alone, pair))
    assert [r["value"] for r in two] == pytest.approx([r["value"] for r in one], rel=1e-4)
    assert {row["device_count"] for row in rows(pair.run, "trials")} == {2}


INTERRUPTED = """
import sys
from pathlib import Path
from bench.execution.lanes import run_lanes
from bench.planning.plan import resolve
from bench.study.schema import load_study

study, run = map(Path, sys.argv[1:])
plan = resolve(*load_study(study), run, lanes=2)
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
        [sys.executable, script / "go.py", folder / "stopped.yaml", made.run],
        cwd=folder,
        start_new_session=True,
    )
    lost = time.monotonic() + 200
    while len(finished(made.run)) < 3:
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

    before = rows(made.run, "trials")
    assert 3 <= len(before) < len(made.trials)
    in_process(made)
    after = rows(made.run, "trials")
    assert len(after) == len(made.trials)
    assert [row for row in after if row["lane"] != "process"] == before
    assert rows(made.run, "metrics") == rows(
        in_process(replace(made, run=folder / "whole")).run, "metrics"
    )


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_machine_whose_store_or_packages_differ_is_unfit(plan, monkeypatch):
    made = plan("same")
    expected = lanes.fingerprint(made)
    assert lanes._unfit(made, expected) is None
    assert any(name.startswith("source of 'own.py:own'") for name in expected)
    monkeypatch.setattr(lanes, "versions", lambda: {"torch": "0.1"})
    assert "version of torch is 0.1" in lanes._unfit(made, {"version of torch": "2.0"})
    gone = replace(made, sets=tuple(replace(d, path=d.path / "gone") for d in made.sets))
    assert "gone" in lanes._unfit(gone, {})
