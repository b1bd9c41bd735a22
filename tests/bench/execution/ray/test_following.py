"""Lanes that follow a cluster: by arithmetic, and over a real one whose machines come and go."""

import math
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench.core.references import StudyError
from bench.execution.ray import following as module
from bench.execution.ray.cluster import LaneSize, Machine, check_ever, workers_in
from bench.execution.ray.following import Following, Leaving
from results.tables.store import read

ROOT = Path(__file__).resolve().parents[4]
ONE = LaneSize(workers=1, threads=2, cuda=False)


class Cluster:
    """Machines of two cores that come and go, and what was asked of its autoscaler."""

    def __init__(self, monkeypatch, machines: int, size: LaneSize = ONE, most: int | None = None):
        self.machines, self.asked, self.now = machines, [], 0.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.following = Following(
            size,
            most,
            lambda: [Machine(cores=2, gpus=0)] * self.machines,
            lambda lanes, more: self.asked.append((lanes, more)),
        )

    def more(self, living: int, pending: int = 1000) -> int:
        self.now += 2.0
        return self.following.more(living, pending)


def test_lanes_start_when_machines_come(monkeypatch):
    cluster = Cluster(monkeypatch, 2)
    assert (cluster.more(0), cluster.more(2)) == (2, 0)
    cluster.machines = 5
    assert (cluster.more(2), cluster.more(5)) == (3, 0)


def test_a_lane_whose_machine_left_waits_for_the_next_one_and_ends_if_none_comes(monkeypatch):
    cluster = Cluster(monkeypatch, 3)
    assert cluster.more(0) == 3
    cluster.machines = 2
    assert cluster.more(3) == 0
    cluster.machines = 3  # the lane that waits takes it
    assert cluster.more(3) == 0
    cluster.machines = 2
    assert cluster.more(3) == 0
    cluster.following.ended(2)
    assert cluster.more(2) == 0
    cluster.machines = 4
    assert cluster.more(2) == 2


def test_a_lane_that_ends_on_machines_that_stay_is_not_started_again(monkeypatch):
    cluster = Cluster(monkeypatch, 3)
    assert cluster.more(0) == 3
    cluster.following.ended(2)
    assert cluster.more(2) == 0
    cluster.machines = 4
    assert cluster.more(2) == 1


@pytest.mark.parametrize(
    ("most", "pending", "lanes"), [(None, 1000, 8), (3, 1000, 3), (None, 2, 2)]
)
def test_there_are_as_many_lanes_as_asked_for_and_as_trials_are_left(
    monkeypatch, most, pending, lanes
):
    cluster = Cluster(monkeypatch, 8, most=most)
    assert cluster.more(0, pending) == lanes


def test_lanes_of_several_workers_take_whole_lanes_of_room(monkeypatch):
    cluster = Cluster(monkeypatch, 5, LaneSize(workers=2, threads=2, cuda=False))
    assert cluster.more(0) == 2
    cluster.machines = 6
    assert cluster.more(2) == 1


def test_an_autoscaler_is_asked_for_the_lanes_that_the_queue_wants_beside_those_there_are(
    monkeypatch,
):
    cluster = Cluster(monkeypatch, 2, LaneSize(workers=3, threads=1, cuda=False), most=10)
    assert cluster.more(0) == 1  # four cores hold three workers, and one beside
    cluster.machines = 30
    cluster.more(1)
    cluster.more(10, pending=4)  # most are in hand
    assert cluster.asked == [(1, 9), (10, 0), (10, 0)]


def test_a_lane_whose_machine_is_about_to_leave_is_warned_again_and_again(monkeypatch):
    now, warned = [0.0], []
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    leaving = Leaving(warned.append)
    for at, lanes in [(0, ()), (2, "a"), (4, "ab"), (21, "ab"), (22, "ab"), (24, "b"), (26, "ab")]:
        now[0] = float(at)
        leaving(set(lanes))
    assert warned == [{"a"}, {"b"}, {"a"}, {"b"}, {"a"}]


GIB = 2**30


def test_a_lane_that_a_cluster_can_never_hold_is_refused_with_the_arithmetic():
    two = LaneSize(workers=2, threads=4, cuda=True)
    now = [Machine(cores=16, gpus=1), Machine(cores=3, gpus=8)]
    check_ever([*now, Machine(cores=4, gpus=1)], [], two)
    check_ever(now, [(Machine(cores=4, gpus=1), 1)], two)
    check_ever([], [(Machine(cores=4, gpus=1), math.inf)], two)
    said = (
        "lanes: a lane needs 2 workers with 4 CPU cores and a GPU each, but the cluster has "
        "room for 1 (16 cores and 1 GPUs, 3 cores and 8 GPUs), and its autoscaler for 0 more (at "
        "most 5 of 2 cores and 4 GPUs)"
    )
    with pytest.raises(StudyError, match=re.escape(said)):
        check_ever(now, [(Machine(cores=2, gpus=4), 5)], two)
    with pytest.raises(StudyError, match=r"room for 0 \(no machine\)\. Ask"):
        check_ever([], [], two)


def test_memory_counts_where_it_is_known():
    size = LaneSize(workers=1, threads=1, cuda=False, memory=3 * GIB)
    machines = [Machine(cores=8, gpus=0, memory=10 * GIB), Machine(cores=2, gpus=0)]
    assert workers_in(machines, size) == 3 + 2
    said = r"1 CPU core, 3\.0 GiB of memory each, .* \(8 cores and 0 GPUs, 2\.0 GiB\)"
    with pytest.raises(StudyError, match=said):
        check_ever([Machine(cores=8, gpus=0, memory=2 * GIB)], [], size)


# A study over a real cluster: raylets of one CPU each on this machine. Another joins as soon as
# the first trial is in hand, which waits for it, and leaves in the middle of a trial, not without a
# notice: the state of that trial is kept then.
LOSS = """
import os
import time
from pathlib import Path

from torch.nn.functional import cross_entropy

HERE = Path(__file__).parent


def meets(logits, target):
    '''Cross-entropy that waits until two processes have trained by it, and takes its time.'''
    if len(logits) > 3:  # else a plan tries it
        (HERE / f"met-{os.getpid()}").touch()
        while len(list(HERE.glob("met-*"))) < 2:
            time.sleep(0.1)
        time.sleep(0.05)
    return cross_entropy(logits, target)
"""

DRIVER = """
import subprocess, sys, time
from pathlib import Path

from bench.execution import dispatcher, trial_queue
from bench.execution.ray import lanes
from bench.planning.plan import resolve
from bench.study.schema import load_study
from ray.cluster_utils import Cluster

dispatcher.LEASE_SEC = 10.0  # a minute as it stands: the test need not wait for it
trial_queue.TELLING = 0  # however long it takes here to add a machine
study, run = map(Path, sys.argv[1:])
plan = resolve(*load_study(study), run, lanes=1, cores=1)
node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100_000_000}
head = {**node, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args=head)
joined, steps, left_with = [], [], []

def changed(progress):
    second = [one for one in progress.running if one.lane == "lane 2"]
    if progress.running and not steps:
        steps.append("join")
        machine = cluster.add_node(**node)  # returns when Ray sees it
        joined.append((time.monotonic(), machine))
    elif second and len(steps) == 1:
        print(f"work {time.monotonic() - joined[0][0]:.1f} s after Ray saw the machine")
        steps.append("work")
    elif second and second[0].epoch >= 2 and len(steps) == 2:
        left_with.append(second[0].trial_id)
        steps.append("notice")
        subprocess.run(
            [Path(sys.executable).with_name("ray"), "drain-node", "--address", cluster.address,
             "--node-id", joined[0][1].node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
             "--reason-message", "taken", "--deadline-remaining-seconds", "120"], check=True)
    elif len(steps) == 3 and (run / "checkpoints" / f"{left_with[0]}.pt").exists():
        print(f"kept in epoch {second[0].epoch}")
        steps.append("leave")
        cluster.remove_node(joined[0][1], False)

state = lanes.run_lanes(
    plan, address=cluster.address, lanes=None, gpus_per_trial=1, changed=changed
)
print(state.statuses, len(steps), *left_with)
cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_that_joins_in_mid_run_gets_work_and_one_that_leaves_costs_no_trial(
    tmp_path, small_store
):
    study = {
        "name": "grows",
        "data": [str(small_store("classification", 2).path)],
        "models": ["plain_cnn"],
        "optimizers": ["sgd", "adam"],
        "losses": ["own.py:meets"],
        "seeds": [0, 1],
        "folds": 2,
        "epochs": 80,
        "patience": 1000,
        "batch_size": 4,
        "device": "cpu",
    }
    (tmp_path / "own.py").write_text(LOSS)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    (tmp_path / "driver.py").write_text(DRIVER)
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # So that Ray takes 127.0.0.1 for what it is, and not for the address that others see.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "PYTHONPATH": str(ROOT),
    }
    ran = subprocess.run(
        [sys.executable, tmp_path / "driver.py", tmp_path / "study.yaml", tmp_path / "run"],
        cwd=tmp_path,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    print(ran.stdout, ran.stderr)
    assert ran.returncode == 0
    *statuses, steps, left_with = ran.stdout.splitlines()[-1].split()
    assert (" ".join(statuses), steps) == ("{'ok': 8}", "4")
    rows = {row["trial_id"]: row for row in read(tmp_path / "run", "trials").to_pylist()}
    assert [row["status"] for row in rows.values()] == ["ok"] * 8
    # Lost is not failed, and none of the others was begun twice.
    assert {t: r["attempt"] for t, r in rows.items() if r["attempt"] > 1} == {left_with: 2}
    assert rows[left_with]["lane"] == "lane 1"
