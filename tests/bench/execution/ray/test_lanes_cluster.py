"""Lanes over a cluster of two machines: two network namespaces of this one, made and removed here.

Needs root and `ip` (Linux). The namespaces reach each other and nothing else.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from bench.execution.local import run_here
from bench.execution.trial_queue import opened
from bench.planning.plan import resolve
from bench.study.schema import load_study
from results.tables.store import read

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# What never comes is a fault; what is only slow, on a machine with other work, is none.
PATIENCE_SEC = 900

HEAD, WORKER = "10.77.0.1", "10.77.0.2"
ROOT = Path(__file__).resolve().parents[4]
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Two namespaces with a Ray node of one CPU each, and what a process in them needs."""

    names: tuple[str, str]
    environment: dict[str, str]

    def start(self, which: int, *command: object, **options: object) -> subprocess.Popen[bytes]:
        inside = ["ip", "netns", "exec", self.names[which], *map(str, command)]
        return subprocess.Popen(inside, env=self.environment, **options)

    def number(self, which: int) -> int:
        """Return what a process in the namespace sees in /proc/self/ns/net."""
        return Path("/run/netns", self.names[which]).stat().st_ino

    def kill(self, which: int) -> None:
        found = subprocess.check_output(["ip", "netns", "pids", self.names[which]], text=True)
        for pid in found.split():
            os.kill(int(pid), signal.SIGKILL)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if not shutil.which("ip") or os.geteuid() != 0:
        pytest.skip("network namespaces need root and `ip`")
    names = (f"mo{os.getpid()}a", f"mo{os.getpid()}b")
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine makes no network namespaces: {error.stderr.decode().strip()}")
    scratch = Path(tempfile.mkdtemp(prefix="mo-", dir="/tmp"))
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
    }
    made = Cluster(names=names, environment={**os.environ, **own})
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "eth0", "netns", names[0], "type", "veth",
           "peer", "name", "eth0", "netns", names[1])  # fmt: skip
        for name, address in zip(names, (HEAD, WORKER), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        small = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--block"]
        head = ["--head", f"--node-ip-address={HEAD}", "--port=6379", f"--temp-dir={scratch}"]
        start_node(made, 0, scratch, [*head, "--include-dashboard=false", *small])
        joins = [f"--address={HEAD}:6379", f"--node-ip-address={WORKER}"]
        start_node(made, 1, scratch, [*joins, *small])
        yield made
    finally:
        for which, name in enumerate(names):
            if Path("/run/netns", name).exists():
                made.kill(which)
                ip("netns", "del", name)
        shutil.rmtree(scratch, ignore_errors=True)


def start_node(cluster: Cluster, which: int, scratch: Path, arguments: list[str]) -> None:
    log = scratch / f"node{which}.txt"
    with log.open("wb") as out:
        node = cluster.start(which, RAY, "start", *arguments, stdout=out, stderr=out)
    until = time.monotonic() + PATIENCE_SEC
    while "Ray runtime started" not in log.read_text():
        assert node.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)


DRIVER = """
import sys
from pathlib import Path

import bench.execution.trial_queue
from bench.execution.ray.lanes import run_lanes
from bench.execution.ray.capacity import capacity
from bench.planning.plan import resolve
from bench.study.schema import load_study

bench.execution.trial_queue.LEASE_SEC = 15.0  # a minute as it stands: the test need not wait for it
study, run, address = sys.argv[1:]
asked, base = load_study(Path(study))
found = capacity(asked, address=address, lanes=None, gpus_per_trial=1)
assert (found.lanes, found.cores, found.cuda) == (2, 1, False), found
plan = resolve(asked, base, Path(run), lanes=found.workers_a_machine, cores=found.cores)
state = run_lanes(
    plan, address=address, lanes=found.lanes, gpus_per_trial=1, changed=lambda _progress: None
)
print(state.statuses)
"""

LOSSES = """
import os
import time
from pathlib import Path

from torch.nn.functional import cross_entropy

HERE = Path(__file__).parent
SECOND = (HERE / "second").read_text()


def rehearsed(logits):
    '''Whether a plan tries the loss, in the driver's process: on three samples.'''
    return len(logits) <= 3


def where(logits, target):
    '''Cross-entropy that leaves a note of the machine it ran on, and waits for the other's.'''
    if rehearsed(logits):
        return cross_entropy(logits, target)
    (HERE / f"ran-{os.stat('/proc/self/ns/net').st_ino}").touch()
    while len(list(HERE.glob("ran-*"))) < 2:
        time.sleep(0.1)
    return cross_entropy(logits, target)


def hangs(logits, target):
    '''Cross-entropy that never returns on the second machine; the first waits until it does so.'''
    if rehearsed(logits):
        return cross_entropy(logits, target)
    if str(os.stat("/proc/self/ns/net").st_ino) == SECOND:
        (HERE / "hangs").touch()
        time.sleep(600)
    while not (HERE / "hangs").exists():
        time.sleep(0.1)
    return cross_entropy(logits, target)
"""


@pytest.fixture
def study(cluster, tmp_path, small_store):
    """Return a maker of study files in a folder of their own."""

    def make(name: str, loss: str) -> Path:
        (tmp_path / "losses.py").write_text(LOSSES)
        (tmp_path / "second").write_text(str(cluster.number(1)))
        (tmp_path / "driver.py").write_text(DRIVER)
        text = {
            "name": name,
            "data": [str(small_store("classification", 2).path)],
            "models": ["plain_cnn"],
            "optimizers": ["sgd", "adam"],
            "losses": [f"losses.py:{loss}"],
            "seeds": [0, 1, 2],
            "epochs": 2,
            "folds": 2,
            "batch_size": 8,
            "device": "cpu",
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(text))
        return path

    return make


def drive(cluster: Cluster, study: Path, run: Path) -> subprocess.Popen[bytes]:
    script = study.with_name("driver.py")
    return cluster.start(
        0, sys.executable, script, study, run, f"{HEAD}:6379",
        cwd=study.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_two_machines_give_what_one_process_gives(cluster, study, tmp_path):
    asked = study("both", "where")
    driver = drive(cluster, asked, tmp_path / "both")
    out, err = driver.communicate(timeout=PATIENCE_SEC)
    assert (driver.returncode, out, err) == (0, b"{'ok': 12}\n", b"")
    ran = {p.name for p in tmp_path.glob("ran-*")}
    assert ran == {f"ran-{cluster.number(which)}" for which in (0, 1)}

    alone = resolve(*load_study(asked), tmp_path / "alone", lanes=1, cores=1)
    with opened(alone, shared_device=False) as queue:
        run_here(alone, queue, lambda _progress: None)
    one, two = (
        sorted(map(str, read(tmp_path / run, "metrics").to_pylist())) for run in ("alone", "both")
    )
    assert one == two


def test_a_lost_machine_costs_its_trial_in_hand_and_no_more(cluster, study, tmp_path):
    """On the cluster of the test before, which is as that run found it."""
    driver = drive(cluster, study("lost", "hangs"), tmp_path / "lost")
    until = time.monotonic() + PATIENCE_SEC
    while not (tmp_path / "hangs").exists():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    cluster.kill(1)
    out, err = driver.communicate(timeout=PATIENCE_SEC)
    assert (driver.returncode, out) == (0, b"{'ok': 12}\n")
    assert [b"lost with trial" in line for line in err.splitlines()] == [True]
    attempts = [row["attempt"] for row in read(tmp_path / "lost", "trials").to_pylist()]
    assert sorted(attempts) == [1] * 11 + [2]
