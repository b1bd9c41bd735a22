"""What can befall a run on a cluster, and how a run that it befell is tried."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.bench.execution.hosts.cluster import GCS, RAYLET, Cluster, wait
from tests.bench.execution.hosts.namespaces import BIN, Host
from tests.bench.execution.hosts.study import MORE_SEEDS, SEEDS, Run

WORKER = "ray::RayTrainWorker"
# A run on a disk of its own lies here, on the head.
DISK = Path("/mnt/disk")
DISK_MIB = 48
# How soon a host that Ray has seen is to have work.
JOIN_SEC = 30.0
# How long a busy machine may take over a run.
PATIENCE = 800.0
# Ray's nodes end a minute after their head has gone; lanes go with them.
LEFT_SEC = 240.0


@dataclass
class Scene:
    """A run in which something happens, and what was lost by it."""

    run: Run
    random: random.Random
    away: set[str] = field(default_factory=set)

    @property
    def cluster(self) -> Cluster:
        return self.run.cluster

    def one(self, *, but_head: bool) -> Host:
        """Return a host of the cluster by chance."""
        here = [h for h in self.cluster.hosts[but_head:] if h.name not in self.away]
        return self.random.choice(here or [self.cluster.head])

    def lose(self) -> Host:
        """Return a host of the cluster, by chance, that is away from now on; never the head."""
        host = self.one(but_head=True)
        assert host is not self.cluster.head, "no host is left to be lost"
        self.away.add(host.name)
        return host


def kill_worker(scene: Scene) -> str:

    def working() -> list[Host]:
        here = (h for h in scene.cluster.hosts if h.name not in scene.away)
        return [host for host in here if host.titled(WORKER)]

    wait("a worker", lambda: working() or scene.run.ended(), PATIENCE)
    host = scene.random.choice(working() or [scene.cluster.head])
    host.kill(host.titled(WORKER)[:1])
    return f"kill -9 of the worker on {host.name}"


def kill_raylet(scene: Scene) -> str:
    host = scene.lose()
    host.kill(scene.cluster.running(host, RAYLET))
    return f"kill -9 of the raylet on {host.name}"


def cut_host(scene: Scene) -> str:
    host = scene.lose()
    host.interface("down")
    return f"interface of {host.name} down"


def leave(scene: Scene) -> str:
    host = scene.lose()
    host.ask(BIN / "ray", "stop")
    return f"ray stop on {host.name}"


def stop_and_wake(scene: Scene) -> str:
    """Stop one worker, or all of a host that has neither head nor driver."""
    seconds = scene.random.uniform(3, 15)
    host = scene.one(but_head=True)
    whole = host is not scene.cluster.head and scene.random.random() < 0.5
    stopped = host.processes() if whole else host.titled(WORKER)
    signal_all(stopped, signal.SIGSTOP)
    time.sleep(seconds)
    signal_all(stopped, signal.SIGCONT)
    what = "all processes" if whole else "the worker"
    return f"SIGSTOP and, {seconds:.1f} s later, SIGCONT of {what} on {host.name}"


def signal_all(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def join(scene: Scene) -> str:
    """Let a host that is away come (back), and wait for its work."""
    host = next(h for h in scene.cluster.hosts if h.name in scene.away)
    scene.cluster.stop(host)
    scene.cluster.start(host)
    scene.away.remove(host.name)
    run = scene.run
    # The driver tells every two seconds.
    took = wait(f"work on {host.name}", lambda: host.name in run.hosts(), JOIN_SEC + 2)
    return f"{host.name} joins, and has work {took:.1f} s after Ray has seen it"


def kill_driver(scene: Scene) -> str:
    driver = [p for p in scene.cluster.head.processes() if "medopt run" in " ".join(p.cmdline())]
    assert driver, scene.run.said()
    scene.cluster.head.kill(driver)
    return "kill -9 of the driver"


def kill_head(scene: Scene) -> str:
    head = scene.cluster.head
    head.kill(scene.cluster.running(head, GCS))
    return "kill -9 of the head"


def fill_disk(scene: Scene) -> str:
    scene.cluster.head.ask("sh", "-c", f"cat /dev/zero >{DISK}/filler 2>/dev/null || true")
    return "the disk of the run full"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that befalls a run: `act` makes it happen and says what it did.

    `status` is the exit status that the command ends with because of it, None where the run goes
    on; `said` stands in what the command says then.
    """

    act: Callable[[Scene], str]
    status: int | None = None
    said: str = ""


FAULTS = {
    "worker": Fault(act=kill_worker),
    "raylet": Fault(act=kill_raylet),
    "host": Fault(act=cut_host),
    "stopped": Fault(act=stop_and_wake),
    "leave": Fault(act=leave),
    "join": Fault(act=join),
    "driver": Fault(act=kill_driver, status=-signal.SIGKILL),
    "head": Fault(act=kill_head, status=1, said="head has not answered"),
    "disk": Fault(act=fill_disk, status=1, said="No space left on device"),
}


def tried(
    cluster: Cluster,
    name: str,
    faults: Sequence[str],
    seed: int,
    expected: dict[str, list[str]],
    told: Callable[[tuple[str, str]], object] = print,
) -> None:
    """Run a study in which one fault after the other happens, until they or its trials are done.

    `told` hears of each that happened: its kind, and what it was. A fault that ends the command is
    the last one; the same command is then given again. Raises AssertionError where the run or its
    end is not as it should be: every trial is there once, as undisturbed or with the reason of its
    failure, the exit status tells whether any failed, and nothing of the run is left on the hosts.
    """
    rng = random.Random(seed)
    missing = ("right",) if "join" in faults else ()
    cluster.mend(missing)
    own_disk = DISK if "disk" in faults else None
    long = len(faults) > 1 or "join" in faults
    run = Run(cluster, name, seeds=MORE_SEEDS if long else SEEDS, disk=own_disk)
    if own_disk:
        mount = f"mkdir -p {DISK} && mount -t tmpfs -o size={DISK_MIB}m none {DISK}"
        cluster.head.ask("sh", "-c", mount)
    try:
        _tried(Scene(run=run, random=rng, away=set(missing)), faults, expected, told)
    finally:
        if not run.ended():
            cluster.stop(cluster.head)
            run.driver.wait()
        if own_disk:
            cluster.head.ask("umount", "--lazy", DISK)


def _tried(
    scene: Scene,
    faults: Sequence[str],
    expected: dict[str, list[str]],
    told: Callable[[tuple[str, str]], object],
) -> None:
    run, ends = scene.run, None
    run.start()
    run.reach(scene.random.randint(1, 8))
    for number, kind in enumerate(faults):
        if number:
            time.sleep(scene.random.uniform(0, 4))
        if run.ended() or run.state()["done"] > run.trials - 3 * len(scene.cluster.hosts):
            break  # too late for another
        fault = FAULTS[kind]
        told((kind, fault.act(scene)))
        ends = fault if fault.status is not None else None
    status = run.driver.wait(PATIENCE)
    for host in scene.cluster.hosts:
        host.interface("up")  # one that was cut off ends its lanes when it hears of its loss
    if ends:
        assert (status, ends.said in run.said()) == (ends.status, True), (status, run.said())
        wait("the end of all lanes", lambda: not scene.cluster.lanes(), LEFT_SEC)
        scene.cluster.head.ask("rm", "-f", DISK / "filler")
        scene.cluster.mend()
        run.start()
        status = run.driver.wait(PATIENCE)
    assert status == (1 if run.failed() else 0), (status, run.said())
    assert run.wrong(expected) == [], run.said()
    nothing_left(scene.cluster)


def nothing_left(cluster: Cluster) -> None:
    """Wait until nothing is left of a run on the hosts."""
    wait("the end of all lanes", lambda: not cluster.lanes(), LEFT_SEC)
    assert cluster.folders() == []

    def given_back() -> bool:
        seen = cluster.look()
        return seen.held == [] and seen.free == len(seen.alive)

    wait("all that Ray gave, given back", given_back, 120)
