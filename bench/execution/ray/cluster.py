"""The machines that lanes run on, in our own Ray or a cluster, and their room.

Ray is imported late: it reads its settings from the environment when it is imported.
"""

import fcntl
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import psutil

from bench.core.packages import ROOT
from bench.core.references import StudyError, failure
from bench.execution.dispatcher import LanesLost, Place
from bench.execution.stopping import STOPPING
from results import text

log = logging.getLogger("medopt.lanes")

_Said = TypeVar("_Said")

# Trials and outcomes pass through it, a few MB each; Ray's minimum is 75 MiB.
OBJECT_STORE_BYTES = 128 * 2**20
# Ray's own processes answer within milliseconds, on a swapping machine within seconds. Without its
# head, Ray ends this process after 60 s with its own message: we must end before. Assumption.
HEAD_SEC = 15.0
# Threads leave Ray within a second. Assumption.
LEAVE_SEC = 3.0
# The token of the Ray that this process starts. Ray reads it once per process.
TOKEN = secrets.token_hex(32)
# Threads that may be waiting inside Ray.
_inside: list[threading.Thread] = []

# A user should see only our progress, and a lane's memory and start-up should serve its trial: each
# helper process of Ray costs 50 to 110 MB (measured). A user's own setting is kept.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray prints a worker's death on stdout, whatever log_to_driver says; we report it ourselves.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_enable_metrics_collection": "0",
    # Otherwise two idle workers are started in advance.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    # How soon a dead worker is noticed; the default is 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # For Ray Tune: we handle Ctrl-C, and what its trials report is in our tables.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine of the cluster: its CPU cores, GPUs and bytes of memory (None: not known)."""

    cores: int
    gpus: int
    memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class LaneSize:
    """The workers of one lane: their number, and the CPU threads, GPU and memory of each.

    `memory` is in bytes, 0 if it is not counted.
    """

    workers: int
    threads: int
    cuda: bool
    memory: int = 0

    @property
    def resources(self) -> dict[str, float]:
        """What Ray reserves for each worker."""
        return {"CPU": float(self.threads), **({"GPU": 1.0} if self.cuda else {})}


@contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    """Set (None: remove) environment variables, which Ray's own processes inherit."""
    before = {name: os.environ.get(name) for name in values}
    try:
        for name, value in values.items():
            _set(name, value)
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


@contextmanager
def connected(address: str | None, *, cores: int = 0, gpus: int = 0) -> Iterator[Path]:
    """Join a cluster, or start Ray with these cores and GPUs; yields a scratch folder.

    Our own Ray has a secret token, keeps its files in the scratch folder and ends with the block; a
    cluster is left running.
    """
    settings: dict[str, str | None] = {
        name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()
    }
    if address is None:
        # With the mode unset, Ray turns on token authentication by itself, even if it was imported
        # before with another setting.
        settings |= {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": None}
        # The collectives of a lane of several workers.
        settings |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), _loopback_name())
    with _environment(settings), _scratch_folder() as scratch:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            options |= {
                "address": "local",
                "num_cpus": cores,
                "num_gpus": gpus,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                # Ray opens its folder to everyone; the folder around it stays private.
                "_temp_dir": str(scratch / "ray"),
            }
        else:
            _check_address(address)
            options["address"] = address
        try:
            if address is None:
                with _loopback():
                    _start(options, tries=2)
            else:
                _join(options)
            yield scratch
        finally:
            _leave()


def inside(wait: Callable[[], object]) -> threading.Thread:
    """Start a thread of this process that waits inside Ray."""
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    _inside[:] = [*(each for each in _inside if each.is_alive()), thread]
    return thread


def _leave() -> None:
    """Shut Ray down, unless a thread still waits inside it for a head that has gone.

    Such a thread would read memory that Ray has freed: one in eight drivers whose head was killed
    died of SIGSEGV. The thread ends with the process, which Ray ends anyway after a minute without
    its head.
    """
    import ray

    until = monotonic() + LEAVE_SEC
    for thread in _inside:
        thread.join(max(until - monotonic(), 0))
    if any(thread.is_alive() for thread in _inside):
        STOPPING.leave_threads()
    else:
        _inside.clear()
        ray.shutdown()


def _init(options: dict[str, Any]) -> None:
    """Let Ray start or join, and keep our own handling of signals."""
    import ray

    ours = signal.getsignal(signal.SIGTERM)
    # A worker's sys.path begins with the driver's working folder, and the user's may have its own
    # models/ or results/: so Ray starts in our root.
    with chdir(ROOT):
        ray.init(**options)
    # Ray makes SIGTERM exit at once, without our last words.
    if callable(ours) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)


@contextmanager
def _loopback() -> Iterator[None]:
    """Make a Ray that starts here listen only on 127.0.0.1, as it does on macOS and Windows.

    On Linux it takes an address that other machines can reach, whatever `_node_ip_address` says,
    and asks a public name server for it; two of its ports give metrics without a token.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _loopback_name() -> str:
    """Return this machine's name for the interface of 127.0.0.1: lo, or lo0."""
    return next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(a.address == "127.0.0.1" for a in addresses)
    )


def _start(options: dict[str, Any], *, tries: int) -> None:
    """Start Ray; raise LanesLost if it does not come up within its own time limit."""
    import ray

    try:
        _init(options)
    except Exception as error:
        # Ray raises a bare Exception for it; whatever it was, all we can do is start again.
        ray.shutdown()
        if tries > 1:
            log.warning("Ray did not start (%s); trying once more", failure(error))
            return _start(options, tries=tries - 1)
        raise LanesLost(
            f"Ray failed to start on this machine twice ({failure(error)}). Free some memory or "
            f"cores, or run without Ray."
        ) from error


def _check_token() -> None:
    """Raise StudyError if others on this machine can read the token, and so use the cluster."""
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    token = Path(given) if given else Path.home() / ".ray" / "auth_token"
    if token.exists() and token.stat().st_mode & 0o077:
        raise StudyError(
            f"{token}: other users of this machine can read the cluster's token, with which anyone "
            f"can run code on it. Make the file private (chmod 600); if others may have read it, "
            f"make a new token."
        )


def _join(options: dict[str, Any]) -> None:
    import ray

    try:
        _init(options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise StudyError(
            f"Ray at {options['address']}: no cluster answers there ({failure(error)}). Check with "
            f"`ray status`; a cluster with a token needs the token in ~/.ray/auth_token here too."
        ) from error


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Yield a folder that is removed at the end, and remove those that killed runs left behind.

    A folder is in use while a process holds its `.lock`.
    """
    # Ray refuses socket paths of more than 107 bytes, and those begin here: a long TMPDIR, such as
    # on macOS, would leave no room.
    with (
        tempfile.TemporaryDirectory(
            prefix="medopt-", dir="/tmp", ignore_cleanup_errors=True
        ) as made,
        Path(made, ".lock").open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in Path(made).parent.glob("medopt-*/.lock"):
            # In use, another user's, or removed this moment: left alone.
            with suppress(OSError), left.open("r+") as theirs:
                fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left.parent, ignore_errors=True)
        yield Path(made)


def _check_address(address: str) -> None:
    """Raise StudyError if nothing listens there: Ray itself would keep trying for many minutes."""
    if address.startswith("ray://"):
        raise StudyError(
            f"Ray at {address}: Ray's client cannot hold lanes. Run medopt on a machine of the "
            f"cluster, with the address `auto`."
        )
    _check_token()
    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = where.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise StudyError(
            f"Ray at {address}: nothing answers at {where} ({error}). Give host:port of the "
            f"cluster's head, as `ray start --head` prints it."
        ) from error


def machines_of_cluster() -> list[Machine]:
    """Return the live machines of the cluster that this process is connected to."""
    return [_machine(n["Resources"]) for n in _nodes() if n["Alive"]]


def without_head() -> LanesLost:
    """Return the error to raise if Ray's head has not answered for HEAD_SEC."""
    return LanesLost(f"Ray's head has not answered for {HEAD_SEC:.0f} s.")


def of_head(ask: Callable[[], _Said]) -> _Said:
    """Return the answer of Ray's head to a call; raise LanesLost if it does not answer.

    Without a head, Ray's own calls wait for a minute and then end this process with Ray's message,
    or none: so each call runs in a thread, and is waited for less long.
    """
    from ray.exceptions import RpcError

    found: Future[_Said] = Future()

    def answer() -> None:
        try:
            found.set_result(ask())
        except Exception as error:  # noqa: BLE001  # raised where it is waited for
            found.set_exception(error)

    inside(answer)
    try:
        return found.result(timeout=HEAD_SEC)
    except (TimeoutError, RpcError) as error:
        raise without_head() from error


def _nodes() -> list[dict[str, Any]]:
    """Return what Ray's head knows about each machine; raises as `of_head`."""
    import ray

    return of_head(ray.nodes)


def leaving_machines() -> set[str]:
    """Return the machines, by Ray's names, that were announced to leave.

    `ray drain-node` announces it; the shipped clusters call it when a spot machine or pod is taken.
    """
    from ray._private.state import state

    return set(of_head(state.get_draining_nodes))


def machines_to_come() -> list[tuple[Machine, float]]:
    """Return each kind of machine that the cluster's autoscaler can add, and the most of each.

    The list is empty if the cluster has no autoscaler, or one that does not say (Ray's version 1).
    """
    from ray._private.state import state

    config = of_head(state.get_cluster_config)
    return [
        (_machine(group.resources), math.inf if group.max_count < 0 else group.max_count)
        for group in (config.node_group_configs if config else ())
        if group.max_count
    ]


def _machine(resources: Mapping[str, float]) -> Machine:
    memory = resources.get("memory")
    return Machine(
        cores=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        memory=None if memory is None else int(memory),
    )


def machines_answer(places: Sequence[Place]) -> bool:
    """Return whether Ray answers on every machine of these places.

    The machine itself is asked: Ray's head takes up to a minute to notice that one is gone, and may
    start a lane on another one before.
    """
    nodes = {n["NodeID"]: n for n in _nodes()}
    return all(
        machine in nodes and nodes[machine]["Alive"] and answers(*_raylet(nodes[machine]))
        for machine in {machine for machine, _ in places}
    )


def raylet_here() -> tuple[str, int]:
    """Return the host and port of this machine's Ray, for `answers`."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (node,) = (n for n in _nodes() if n["NodeID"] == here)
    return _raylet(node)


def _raylet(node: Mapping[str, Any]) -> tuple[str, int]:
    return node["NodeManagerAddress"], node["NodeManagerPort"]


def answers(host: str, port: int) -> bool:
    """Return whether something listens there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def kill(places: Sequence[Place]) -> None:
    """End processes of the cluster, each by a task on its machine, without waiting for it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def end(process: int) -> None:
        os.kill(process, signal.SIGKILL)

    for machine, process in places:
        there = NodeAffinitySchedulingStrategy(machine, soft=False)
        task: Any = ray.remote(end)
        task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(process)


def workers_in(machines: Iterable[Machine], size: LaneSize) -> int:
    """Return how many workers of this size these machines hold."""
    return sum(_held(machine, size) for machine in machines)


def _held(machine: Machine, size: LaneSize) -> int:
    limits = [machine.cores // size.threads]
    if size.cuda:
        limits.append(machine.gpus)
    if size.memory and machine.memory is not None:
        limits.append(machine.memory // size.memory)
    return min(limits)


def _each(size: LaneSize) -> str:
    memory = f", {size.memory / 2**30:.1f} GiB of memory" if size.memory else ""
    return f"{text.count(size.threads, 'CPU core')}{memory}" + (" and a GPU" if size.cuda else "")


def _said(machine: Machine, size: LaneSize) -> str:
    known = size.memory and machine.memory is not None
    memory = f", {(machine.memory or 0) / 2**30:.1f} GiB" if known else ""
    return f"{machine.cores} cores and {machine.gpus} GPUs{memory}"


def check_room(machines: list[Machine], workers: int, size: LaneSize) -> None:
    """Raise StudyError if the machines cannot hold the workers: Ray itself would wait forever."""
    fits = workers_in(machines, size)
    if fits < workers:
        have = ", ".join(_said(machine, size) for machine in machines)
        raise StudyError(
            f"lanes: the run needs {text.count(workers, 'worker')} with {_each(size)} each, but "
            f"there is room for {fits} ({have}). Ask for fewer lanes or GPUs per trial, or set "
            f"fewer `threads` in the study."
        )


def check_ever(
    machines: Sequence[Machine], coming: Sequence[tuple[Machine, float]], size: LaneSize
) -> None:
    """Raise StudyError if a cluster can never hold one lane, whatever its autoscaler adds."""
    now = workers_in(machines, size)
    later = sum(count * held for kind, count in coming if (held := _held(kind, size)))
    if now + later < size.workers:
        have = ", ".join(_said(machine, size) for machine in machines) or "no machine"
        kinds = ", ".join(
            f"{'any number' if count == math.inf else f'{count:g}'} of {_said(kind, size)}"
            for kind, count in coming
        )
        raise StudyError(
            f"lanes: a lane needs {text.count(size.workers, 'worker')} with {_each(size)} each, "
            f"but the cluster has room for {now} ({have})"
            + (f", and its autoscaler for {later:g} more (at most {kinds})" if kinds else "")
            + ". Ask for fewer GPUs per trial, set fewer `threads` in the study, or add machines."
        )
