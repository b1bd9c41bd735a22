"""The room for lanes on this machine, and what is said where a cluster or the room is missing."""

import importlib
import logging
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import psutil
import pytest

from bench.core.references import StudyError
from bench.execution.dispatcher import LanesLost
from bench.execution.ray import autoscaler, cluster, lanes
from bench.execution.ray.cluster import LaneSize, Machine, check_room
from bench.execution.stopping import Stopping


@pytest.fixture(autouse=True)
def _no_thread_inside_ray(monkeypatch):
    """Of threads that a test leaves waiting no other knows."""
    monkeypatch.setattr(cluster, "_inside", [])


def test_more_lanes_than_the_machines_hold_are_refused_with_what_there_is():
    machines = [Machine(cores=8, gpus=2), Machine(cores=3, gpus=1)]
    check_room(machines, 3, LaneSize(workers=1, threads=3, cuda=True))
    with pytest.raises(StudyError, match=r"room for 2 \(8 cores and 2 GPUs, 3 cores and 1 GPUs\)"):
        check_room(machines, 3, LaneSize(workers=1, threads=4, cuda=True))
    with pytest.raises(StudyError, match="room for 3"):
        check_room(machines, 4, LaneSize(workers=2, threads=3, cuda=False))


HOLDS = """
import time
from bench.execution.ray.cluster import _scratch_folder
with _scratch_folder() as folder:
    print(folder, flush=True)
    time.sleep(100)
"""


@pytest.mark.slow
def test_folders_of_the_dead_are_removed_and_those_of_the_living_are_not():
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDS],
            cwd=Path(__file__).resolve().parents[4],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    dead, alive = (Path(holder.stdout.readline().strip()) for holder in holders)
    try:
        holders[0].kill()
        holders[0].wait()
        assert dead.exists()
        with cluster._scratch_folder() as own:
            assert own.exists()
            assert alive.exists()
            assert not dead.exists()
        assert not own.exists()
    finally:
        holders[1].kill()
        holders[1].wait()
        with cluster._scratch_folder():
            assert not alive.exists()


@pytest.fixture
def ray():
    """Ray, imported as `connected` does: it reads its settings when it is imported."""
    with cluster._environment(dict(cluster.ENVIRONMENT)):
        return importlib.import_module("ray")


@pytest.mark.parametrize("times", [1, 2])
def test_a_ray_that_does_not_come_up_is_started_once_more(ray, monkeypatch, caplog, times):
    calls = []

    def init(**options: object) -> None:
        calls.append(options)
        if len(calls) <= times:
            raise Exception("The current node timed out during startup.")  # noqa: TRY002  # as Ray's

    monkeypatch.setattr(ray, "init", init)
    with caplog.at_level(logging.WARNING, logger="medopt.lanes"):
        if times == 2:
            with pytest.raises(
                LanesLost, match=r"failed to start on this machine twice .*timed out"
            ):
                cluster._start({}, tries=2)
        else:
            cluster._start({}, tries=2)
    assert len(calls) == 2
    assert "trying once more" in caplog.text


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        (cluster.machines_of_cluster, "ray.nodes"),
        (cluster.machines_to_come, "ray._private.state.state.get_cluster_config"),
        (cluster.leaving_machines, "ray._private.state.state.get_draining_nodes"),
        (autoscaler.there_is_one, "ray._raylet.GcsClient"),
    ],
)
def test_a_head_that_does_not_answer_is_not_waited_for_as_long_as_ray_does(
    monkeypatch, ray, asked, where
):
    monkeypatch.setattr(cluster, "HEAD_SEC", 0.2)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:1"))
    monkeypatch.setattr(where, lambda *_: Event().wait())  # for ever
    with pytest.raises(LanesLost, match="head has not answered"):
        asked()


def test_a_lane_that_ray_cannot_end_without_its_head_is_left(monkeypatch, ray):
    asked, left = Event(), Future()

    def waits(_controller: object) -> None:
        asked.set()
        Event().wait()  # for ever

    monkeypatch.setattr(cluster, "HEAD_SEC", 0.2)
    monkeypatch.setattr(lanes, "_head_answers", lambda _seconds: True)
    monkeypatch.setattr(lanes, "answers", lambda *_raylet: True)
    monkeypatch.setattr(ray, "kill", waits)
    lanes._end([], ["its controller"], left, ("here", 1))
    assert asked.is_set()
    assert left.done()


@pytest.mark.parametrize(("raylet", "head"), [(True, False), (False, True)])
def test_without_a_head_or_a_raylet_lanes_are_left_at_once(monkeypatch, ray, raylet, head):
    left = Future()
    monkeypatch.setattr(lanes, "_head_answers", lambda _seconds: head)
    monkeypatch.setattr(lanes, "answers", lambda *_raylet: raylet)
    monkeypatch.setattr(ray, "kill", lambda _controller: pytest.fail("asked"))
    lane = cluster.inside(left.result)
    lanes._end([lane], ["its controller"], left, ("here", 1))
    lane.join(5)
    assert not lane.is_alive()


@pytest.mark.parametrize("stays", [False, True])
def test_ray_is_shut_down_unless_a_thread_waits_inside_it(monkeypatch, ray, stays):
    shut, release, stopping = Event(), Event(), Stopping()
    monkeypatch.setattr(cluster, "LEAVE_SEC", 0.2)
    monkeypatch.setattr(cluster, "STOPPING", stopping)
    monkeypatch.setattr(ray, "shutdown", shut.set)
    cluster.inside(release.wait if stays else lambda: None)
    cluster._leave()
    assert shut.is_set() is not stays
    ended: list[str] = []
    monkeypatch.setattr("os._exit", lambda status: ended.append(f"at once: {status}"))
    with suppress(SystemExit):
        stopping.end(1)
    assert ended == (["at once: 1"] if stays else [])
    release.set()


def test_what_ray_says_of_its_machines_is_heard(monkeypatch, ray):
    def fails() -> None:
        raise ConnectionError("no such cluster")

    monkeypatch.setattr(ray, "nodes", fails)
    with pytest.raises(ConnectionError, match="no such cluster"):
        cluster.machines_of_cluster()
    alive = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0, "memory": 2e9}}
    dead = {"NodeID": "b", "Alive": False, "Resources": {"CPU": 8.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [alive, dead])
    assert cluster.machines_of_cluster() == [Machine(cores=4, gpus=0, memory=2_000_000_000)]


def listening() -> set[tuple[str, str]]:
    """Return (address, program) of what this process and those it started listen at."""
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {
        (connection.laddr.ip.removeprefix("::ffff:"), process.name())
        for process in ours
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.ray
def test_a_ray_of_our_own_listens_on_the_loopback_interface_alone():
    with cluster.connected(None, cores=1):
        import ray  # not before: it reads its settings when it is imported

        @ray.remote(num_cpus=0)
        class Idle:
            def here(self) -> str:
                return "here"

        idle = Idle.remote()  # a worker listens too
        assert ray.get(idle.here.remote()) == "here"
        until = time.monotonic() + 30
        while len({program for _, program in listening()}) < 5 and time.monotonic() < until:
            time.sleep(0.5)  # the agents take their time
        found = listening()
    assert {"gcs_server", "raylet", "ray::Idle"} <= {program for _, program in found}
    assert {address for address, _ in found} == {"127.0.0.1"}
