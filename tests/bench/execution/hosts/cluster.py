"""Ray on hosts: a node of one CPU each, as `ray start` makes it, with a token."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.execution.hosts.namespaces import BIN, Host, hosts, title

# What a lane, its controller and its mailbox call themselves; a worker of Ray that has nothing to
# do (ray::IDLE) is Ray's own.
LANES = ("ray::RayTrainWorker", "ray::TrainController", "ray::Mailbox", "ray::Synchronization")
RAYLET, GCS = "/raylet", "/gcs_server"
SMALL = ("--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000")

# Asked on the head: which hosts are alive, how many CPUs nobody holds, which groups are held.
LOOK = """
import json, logging, sys
import ray
from ray.util import placement_group_table

ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
alive = sorted(n["NodeManagerHostname"] for n in ray.nodes() if n["Alive"])
groups = placement_group_table().values()
held = [group["placement_group_id"] for group in groups if group["state"] != "REMOVED"]
print(json.dumps({"alive": alive, "free": ray.available_resources().get("CPU", 0), "held": held}))
"""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What Ray's head knows: live hosts by name, CPUs that nobody holds, placement groups."""

    alive: list[str]
    free: float
    held: list[str]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Hosts of a Ray cluster, the first of which is its head, and the folder that they share."""

    hosts: tuple[Host, ...]
    folder: Path

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def address(self) -> str:
        return f"{self.head.address}:6379"

    def start(self, host: Host) -> None:
        """Start the Ray of a host, which joins the head's."""
        if host is self.head:
            how = ["--head", "--port=6379", "--include-dashboard=false"]
        else:
            how = [f"--address={self.address}"]
        host.ask(BIN / "ray", "start", *how, f"--node-ip-address={host.address}", *SMALL)

    def stop(self, host: Host) -> None:
        """End whatever runs on a host, and put it back on the network."""
        host.kill(host.processes())
        host.interface("up")
        wait("the end of all processes", lambda: not host.processes(), 60)
        # What Ray and drivers have left: a checkout may be seen beneath a host's /tmp too.
        host.ask("sh", "-c", "rm -rf --one-file-system /tmp/ray /tmp/medopt-* /dev/shm/*")

    def look(self) -> Look:
        return Look(**json.loads(self.head.ask("python", "-c", LOOK, self.address)))

    def mend(self, missing: tuple[str, ...] = ()) -> None:
        """Bring Ray up on every host but the `missing`, from whatever state they are in."""
        wanted = [host for host in self.hosts if host.name not in missing]
        names = sorted(host.name for host in wanted)
        if self.running(self.head, GCS) and self._whole(names):
            return
        for host in self.hosts:
            self.stop(host)
        for host in wanted:
            self.start(host)
        wait("all hosts in the cluster", lambda: self._whole(names), 120)

    def running(self, host: Host, program: str) -> list[psutil.Process]:
        """Return the processes of a host that run one of Ray's own programs."""
        return [p for p in host.processes() if program in title(p).partition(" ")[0]]

    def _whole(self, names: list[str]) -> bool:
        seen = self.look()
        return (seen.alive, seen.free, seen.held) == (names, len(names), [])

    def lanes(self) -> list[str]:
        """Return the processes of lanes, as `host: title`."""
        return [f"{host.name}: {title(p)}" for host in self.hosts for p in host.titled(*LANES)]

    def folders(self) -> list[str]:
        """Return the scratch folders of drivers, as `host: path`."""
        return [
            f"{host.name}: {path}"
            for host in self.hosts
            for path in host.ask("find", "/tmp", "-maxdepth", "1", "-name", "medopt-*").split()
        ]


def wait(what: str, seen: Callable[[], object], seconds: float) -> float:
    """Wait until something is seen; return the seconds that it took."""
    begun = time.monotonic()
    while not seen():
        assert time.monotonic() < begun + seconds, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return time.monotonic() - begun


@contextmanager
def cluster(folder: Path, names: tuple[str, ...] = ("head", "left", "right")) -> Iterator[Cluster]:
    """Make hosts, with no Ray on them yet; end all processes in them afterwards."""
    with hosts(names, folder, secrets.token_hex(32)) as made:
        yield Cluster(hosts=made, folder=folder)
