"""A Slurm of this machine's own: munged, slurmctld and a slurmd a host.

Hosts are namespaces (network, PID, mount, UTS) that reach each other and nothing else. Needs root,
`ip` and Debian's slurm-wlm and munge.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare")
ADDRESSES = ("10.78.0.1", "10.78.0.2")

# A host's own name, mounts and processes; what is started in it ends with it.
NAMED = (
    *("unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-c"),
)

# Without cgroups, which a test may not have: what a job may run on is set by its affinity, and a
# job's processes are found by their parents. A requeued job may start as soon as the credential of
# its first start has run out.
CONF = """
ClusterName=medopt
SlurmctldHost=n0({addresses[0]})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
GresTypes=gpu
JobRequeue=1
KillWait=10
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=5
NodeName=n0 NodeAddr={addresses[0]} CPUs={cores} RealMemory=1000
NodeName=n1 NodeAddr={addresses[1]} CPUs={cores} RealMemory=1000
PartitionName=main Nodes=n0,n1 Default=YES MaxTime=10 State=UP
"""


def missing() -> str | None:
    """Return why there can be no Slurm here, or None."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if absent:
        return f"Slurm in namespaces needs {', '.join(absent)} (Debian: slurm-wlm, munge, iproute2)"
    return "namespaces need root" if os.geteuid() != 0 else None


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A cluster of two hosts, and how a user on the first of them talks to it."""

    folder: Path
    names: tuple[str, str]
    environment: dict[str, str]

    def inside(self, which: int, *command: object) -> list[str]:
        return ["ip", "netns", "exec", self.names[which], *map(str, command)]

    def ask(self, *command: object, cwd: Path | None = None) -> str:
        """Run a command of a user on the first host; return what it prints."""
        done = subprocess.run(
            self.inside(0, *command),
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def state(self, job: str) -> str:
        return self.field(job, "JobState")

    def field(self, job: str, name: str) -> str:
        told = self.ask("scontrol", "--oneliner", "show", "job", job)
        return next(part for part in told.split() if part.startswith(f"{name}=")).partition("=")[2]

    def begun(self, job: str) -> float:
        """Return when a job began, in seconds since 1970."""
        when = datetime.fromisoformat(self.field(job, "StartTime"))
        return when.timestamp()

    def logs(self) -> str:
        """Return the ends of what the daemons wrote, for the message of a failure."""
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    def wait(self, what: str, seen: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < until, f"{what}: not within {seconds} s\n{self.logs()}"
            time.sleep(0.5)


@contextmanager
def slurm() -> Iterator[Slurm]:
    """Bring a Slurm of two hosts up; end every process of it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mosl-", dir="/tmp"))
    names = (f"ms{os.getpid()}a", f"ms{os.getpid()}b")
    environment = {
        **os.environ,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "HOME": str(folder / "home"),
    }
    made = Slurm(folder=folder, names=names, environment=environment)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name in ("munge", "state", "spool-n0", "spool-n1", "home/.ray"):
            (folder / name).mkdir(parents=True)
        stack.callback(remove, names)
        network(names)
        key = folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for each in (folder, folder / "munge"):
            each.chmod(0o755)  # munged wants a way to its socket that others may walk
        cores = len(os.sched_getaffinity(0))
        text = CONF.format(folder=folder, addresses=ADDRESSES, cores=cores)
        (folder / "slurm.conf").write_text(text)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")

        def start(*command: object) -> None:
            out = stack.enter_context((folder / "daemons.log").open("ab"))
            started = subprocess.Popen(
                list(map(str, command)), env=environment, stdout=out, stderr=out
            )
            stack.callback(end, started)

        at = folder / "munge"
        start(
            "munged", "--foreground", "--num-threads=2", f"--key-file={key}",
            f"--socket={at}/socket", f"--pid-file={at}/pid", f"--log-file={at}/log",
            f"--seed-file={at}/seed",
        )  # fmt: skip
        made.wait("munged", (at / "socket").exists, 20)
        start(*made.inside(0, *NAMED, "hostname n0 && exec slurmctld -D"))
        for which, host in enumerate(("n0", "n1")):
            # slurmd looks at what is mounted there, and makes nothing of it.
            cgroups = "mount -t tmpfs none /sys/fs/cgroup"
            start(*made.inside(which, *NAMED, f"hostname {host} && {cgroups} && exec slurmd -D"))
        made.wait("two idle hosts", lambda: idle(made) == 2, 60)
        yield made


def idle(made: Slurm) -> int:
    done = subprocess.run(
        made.inside(0, "sinfo", "--noheader", "--format=%D %t"),
        env=made.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (line.split() for line in done.stdout.splitlines())
    return sum(int(count) for count, state in lines if state == "idle")


def network(names: tuple[str, str]) -> None:
    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    for name in names:
        ip("netns", "add", name)
    ip("link", "add", "eth0", "netns", names[0], "type", "veth",
       "peer", "name", "eth0", "netns", names[1])  # fmt: skip
    for name, address in zip(names, ADDRESSES, strict=True):
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")


def remove(names: tuple[str, str]) -> None:
    """End what still runs in the namespaces, and the namespaces."""
    for name in names:
        if Path("/run/netns", name).exists():
            found = subprocess.check_output(["ip", "netns", "pids", name], text=True)
            for pid in found.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], check=True)


def end(started: subprocess.Popen[bytes]) -> None:
    started.terminate()
    try:
        started.wait(10)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
