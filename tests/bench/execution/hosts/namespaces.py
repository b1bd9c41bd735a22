"""Hosts on this machine: namespaces that reach each other over a bridge, and nothing else.

Each has a network, processes, mounts and a name of its own, and so a temporary folder, a shared
memory and a home; what they share is one folder at /mnt/shared. A real sshd listens in each. A host
is gone, with every process in it, when its first process or the process that made it is.

Needs root, `ip` and Debian's openssh-server and rsync.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[4]
BIN = Path(sys.executable).parent
NEEDED = ("ip", "unshare", "nsenter", "setpriv", "ssh-keygen", "rsync", "/usr/sbin/sshd")
SUBNET = "10.79.0"
HOME = "/mnt/home"
# The folder that all hosts share, as they see it.
SHARED = Path("/mnt/shared")
# What makes a namespace dies with the process that asked for it.
MORTAL = ("setpriv", "--pdeathsig", "KILL")

# The life of a host: its mounts, its users and names, its sshd. What `keep` names is seen at its
# own path even where a host has a folder of its own there. The user has root's rights under another
# name and with another home. By ssh a host has one CPU, whatever this machine has.
LIFE = r"""
set -eu
stage=$1 shared=$2 name=$3 root=$4 prefix=$5 names=$6; shift 6
mount -t tmpfs -o mode=755 none "$stage"
mkdir -p "$stage/shared" "$stage/home/.ssh" "$stage/home/.ray"
mount --bind "$shared" "$stage/shared"
for keep; do mkdir -p "$stage/keep$keep"; mount --rbind "$keep" "$stage/keep$keep"; done
mount --move "$stage" /mnt
mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=1777,size=512m none /dev/shm
for own in /run /opt; do mount -t tmpfs -o mode=755 none $own; done
for keep; do mkdir -p "$keep"; mount --rbind "/mnt/keep$keep" "$keep"; done
mkdir -p /run/sshd /opt/medoptbench /mnt/etc
ln -s "$prefix" /opt/medoptbench/.venv
{ echo "medopt:x:0:0::/mnt/home:/bin/bash"; cat /etc/passwd
  echo "sshd:x:65534:65534::/run/sshd:/usr/sbin/nologin"; } > /mnt/etc/passwd
printf '127.0.0.1 localhost\n%b' "$names" > /mnt/etc/hosts
for file in passwd hosts; do mount --bind /mnt/etc/$file /etc/$file; done
hostname "$name"
cp "/mnt/shared/.keys/user.pub" /mnt/home/.ssh/authorized_keys
cp "/mnt/shared/.keys/user" /mnt/home/.ssh/id_ed25519
cp "/mnt/shared/.keys/token" /mnt/home/.ray/auth_token
chmod 600 /mnt/home/.ssh/* /mnt/home/.ray/auth_token
ssh-keygen -q -t ed25519 -N '' -f /run/host_key
cat > /run/sshd_config <<SSHD
HostKey /run/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
AuthorizedKeysFile /mnt/home/.ssh/authorized_keys
StrictModes no
UsePAM no
UseDNS no
PidFile none
MaxStartups 100
SetEnv PYTHONPATH=$root RAY_memory_monitor_refresh_ms=0 "RAY_OVERRIDE_RESOURCES={\"CPU\": 1}"
SSHD
/usr/sbin/sshd -f /run/sshd_config
echo up
exec >/dev/null 2>&1 </dev/null
# A shell that waits takes in every process that its parent has left.
sleep infinity & wait
"""


def missing() -> str | None:
    """Return why there can be no hosts here, or None."""
    absent = [name for name in NEEDED if not shutil.which(name)]
    if absent:
        return (
            f"hosts in namespaces need {', '.join(absent)} "
            f"(Debian: iproute2, util-linux, openssh-server, rsync)"
        )
    return "namespaces need root" if os.geteuid() != 0 else None


@dataclass(frozen=True, kw_only=True)
class Host:
    """One host: its name, its address, and its first process as this machine numbers it."""

    name: str
    address: str
    first: int
    environment: dict[str, str] = field(repr=False)

    def start(
        self, *command: object, cwd: Path = SHARED, **options: object
    ) -> "subprocess.Popen[str]":
        """Start a command in the host; `options` go to Popen, which gives text."""
        inside = ("nsenter", f"--target={self.first}", "--mount", "--uts", "--net", "--pid")
        there = ("sh", "-c", 'cd "$0" && exec "$@"', cwd)
        return subprocess.Popen(
            [*inside, *map(str, (*there, *command))],
            env=self.environment,
            text=True,
            **{"stdin": subprocess.DEVNULL, **options},
        )

    def ask(self, *command: object, seconds: float = 300) -> str:
        """Run a command in the host; return what it prints. A failure is told with its words."""
        asked = self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = asked.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            asked.kill()
            raise
        assert asked.returncode == 0, (self.name, command, asked.returncode, out, err)
        return out

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the host, but for its first and its sshd."""
        own = _namespace(self.first)
        found = [p for p in psutil.process_iter() if _namespace(p.pid) == own]
        return [p for p in found if p.pid != self.first and not title(p).startswith(_OF_THE_HOST)]

    def titled(self, *beginnings: str) -> list[psutil.Process]:
        """Return the processes of the host whose title begins so."""
        return [p for p in self.processes() if title(p).startswith(beginnings)]

    def kill(self, processes: Iterable[psutil.Process]) -> None:
        """End processes of the host, at once and without a word."""
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def interface(self, state: str) -> None:
        """Put the host on the network (`up`), or off it (`down`)."""
        _ip(self.first, "link", "set", "eth0", state)


_OF_THE_HOST = ("sleep infinity", "sshd: /usr/sbin/sshd")


def title(process: psutil.Process) -> str:
    """Return the command line of a process; of one that has ended nothing."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _namespace(pid: int) -> int:
    """Return the number of the processes' namespace that a process is in, 0 where it is gone."""
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:
        return 0


def _ip(target: int, *arguments: str) -> None:
    subprocess.run(
        ["nsenter", f"--target={target}", "--net", "ip", *arguments],
        check=True,
        capture_output=True,
    )


@contextmanager
def hosts(names: tuple[str, ...], folder: Path, token: str) -> Iterator[tuple[Host, ...]]:
    """Make hosts that share `folder` and a token; end every process in them afterwards."""
    with ExitStack() as stack:
        bridge = subprocess.Popen([*MORTAL, "unshare", "--net", "sleep", "infinity"])
        stack.callback(_end, bridge)
        _wait_for_namespace(bridge.pid)
        for arguments in ("link add br0 type bridge", "link set br0 up"):
            _ip(bridge.pid, *arguments.split())
        _keys(folder / ".keys", token)
        table = {name: f"{SUBNET}.{number}" for number, name in enumerate(names, 1)}
        yield tuple(_host(stack, bridge.pid, folder, name, table) for name in names)


def _keys(folder: Path, token: str) -> None:
    folder.mkdir()
    (folder / "token").write_text(token)
    made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "user")]
    subprocess.run(made, check=True)


def _host(stack: ExitStack, bridge: int, folder: Path, name: str, table: dict[str, str]) -> Host:
    stage = folder / ".stage" / name
    stage.mkdir(parents=True)
    keep = {str(Path(at).resolve()) for at in (ROOT, sys.prefix, sys.base_prefix)}
    hidden = ("/mnt/", "/tmp/", "/run/", "/opt/")  # where a host has its own
    maker = subprocess.Popen(
        [
            *MORTAL, "unshare", "--mount", "--pid", "--uts", "--net", "--fork", "--kill-child",
            "--mount-proc", "bash", "-c", LIFE, "host", str(stage), str(folder), name, str(ROOT),
            sys.prefix, "".join(rf"{at} {who}\n" for who, at in table.items()),
            *(at for at in sorted(keep) if at.startswith(hidden)),
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    stack.callback(_end, maker)
    assert maker.stdout is not None
    assert maker.stderr is not None
    if maker.stdout.readline() != "up\n":
        raise AssertionError(f"{name} did not come up: {maker.stderr.read()}")
    (first,) = psutil.Process(maker.pid).children()
    _ip(bridge, *f"link add name {name} type veth peer name eth0 netns {first.pid}".split())
    _ip(bridge, *f"link set {name} master br0 up".split())
    _ip(first.pid, *f"addr add {table[name]}/24 dev eth0".split())
    for interface in ("eth0", "lo"):
        _ip(first.pid, "link", "set", interface, "up")
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST", "TMP"))}
    own = {
        "HOME": HOME,
        "USER": "medopt",
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray would end workers where the machine's memory, which others use too, is nearly full.
        "RAY_memory_monitor_refresh_ms": "0",
    }
    return Host(name=name, address=table[name], first=first.pid, environment=ours | own)


def _wait_for_namespace(pid: int) -> None:
    """Wait until a process has left this network."""
    ours = Path("/proc/self/ns/net").stat().st_ino
    while Path(f"/proc/{pid}/ns/net").stat().st_ino == ours:
        os.sched_yield()


def _end(maker: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    maker.kill()
    maker.wait()
    for stream in (maker.stdout, maker.stderr):
        if stream:
            stream.close()
