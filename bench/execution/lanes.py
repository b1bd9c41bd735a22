"""Lanes: the queue's trials over many worker groups. The only file that imports ray.train.

A lane is one Ray Train `TorchTrainer` that lives on and takes trial after trial, so that its start
(13 to 17 s on two cores) is paid once. The queue stays in this process. Lanes reach it through the
desk, a small actor that holds what they ask until it is answered here. So a result is on disk
before its lane goes on, and no process but this one writes.

Ray is imported late: its settings are read from the environment when it is.
"""

import logging
import math
import os
import queue as queues
import secrets
import socket
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from bench.core.environment import versions
from bench.core.packages import ROOT
from bench.core.processes import World
from bench.core.references import StudyError
from bench.core.startup import begin
from bench.execution.mailbox import Call, Desk
from bench.execution.trial_queue import LEASE_SEC, Progress, Queue, opened, reason
from bench.planning.plan import Plan
from bench.study.components import Part, loss_row, model_row, optimizer_row
from bench.study.schema import Study
from bench.study.trial import Trial
from bench.training.train import Outcome, run_trial

log = logging.getLogger("medopt.lanes")

# Cores for a lane where nobody says how many threads or lanes: two one-thread lanes beat one
# two-thread lane on small networks (measured), memory grows with each lane. Assumption.
CORES_A_LANE = 4
# A lane whose workers died this often without taking a trial has a broken machine under it.
STARTS = 3
# Ray waits 60 s for the resources of a lane before it counts a failed start.
START_LIMIT = 5
# Seconds that lanes get to end by themselves once the queue is empty.
GRACE_SEC = 10.0
# Trials and outcomes pass through it, a few MB each; Ray's least is 75 MiB.
OBJECT_STORE_BYTES = 128 * 2**20
# The token of the Ray that this process starts. Ray reads it once a process.
TOKEN = secrets.token_hex(32)

# What a user sees is our progress alone, and a lane's memory and start are its trial's. Each helper
# process of Ray costs 50 to 110 MB (measured). A user's own setting stands.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray prints the death of a worker on stdout, whatever log_to_driver says; we say it ourselves.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_enable_metrics_collection": "0",
    # Two idle workers are started ahead otherwise.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # How soon a dead worker is noticed; the default is 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

# Ray Train starts helpers for these callbacks: for Ray Data sets, which no lane has, and a detached
# one that frees a lane's resources should its controller die, which for a controller that belongs
# to this job Ray does anyway. Without them two lanes start in half the time and need 400 MB less
# (measured). A version of Ray that renames them costs memory, nothing else.
UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")


class LanesLost(OSError):  # noqa: N818  # what happened to the machines, as the OSErrors of a disk
    """No lane is left to run what is unfinished; what is finished is on disk."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of the cluster: its CPU cores and GPUs."""

    cores: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many lanes there are room for, and what a study may fix its automatic settings by.

    `workers_a_node` workers share a machine's `cores`; `cuda` says that they have a GPU each.
    """

    lanes: int
    workers_a_node: int
    cores: int
    cuda: bool


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The workers of one lane: how many, and the CPU threads and the GPU of each."""

    workers: int
    threads: int
    cuda: bool


def room(study: Study, *, address: str | None, lanes: int | None, gpus_per_trial: int) -> Room:
    """Look at this machine, or at the cluster at `address`, before a study is resolved.

    `lanes` None takes one lane for `gpus_per_trial` GPUs, or without GPUs for each CORES_A_LANE
    cores (for the cores it needs, where the study sets its threads). Raises StudyError if the
    cluster cannot be reached, or has no GPU for a study that asks for one.
    """
    nodes = here() if address is None else _look(address)
    gpus = sum(node.gpus for node in nodes)
    if study.device == "cuda" and not gpus:
        raise StudyError("device: cuda is asked for, and none of the machines has a GPU.")
    cuda = study.device != "cpu" and gpus > 0
    nodes = [node for node in nodes if node.gpus or not cuda]
    if lanes is None:
        per_worker = study.threads or CORES_A_LANE
        workers = gpus if cuda else sum(max(node.cores // per_worker, 1) for node in nodes)
        lanes = max(workers // gpus_per_trial, 1)
    return Room(
        lanes=lanes,
        workers_a_node=math.ceil(lanes * gpus_per_trial / len(nodes)),
        cores=min(node.cores for node in nodes),
        cuda=cuda,
    )


def here() -> list[Node]:
    """Return this machine alone."""
    return [Node(cores=os.cpu_count() or 1, gpus=torch.cuda.device_count())]


def run_lanes(
    plan: Plan,
    *,
    address: str | None,
    lanes: int,
    gpus_per_trial: int,
    changed: Callable[[Progress], None],
) -> Progress:
    """Run every trial of a plan over `lanes` worker groups of `gpus_per_trial` workers each.

    `address` None starts a Ray on this machine and stops it again; with `auto` or host:port the
    cluster there is joined and left as it was. A worker has one GPU, or `threads` CPU cores alone
    where the study runs on the CPU. `changed` hears of each step.

    Raises StudyError if the machines have no room for the lanes, LanesLost if none is left while
    trials are, OSError where results cannot be written, and KeyboardInterrupt; what is finished is
    on disk in each case, and running again goes on from there.
    """
    cuda = plan.study.device == "cuda"
    group = _Group(workers=gpus_per_trial, threads=plan.study.threads or 1, cuda=cuda)
    gpus = torch.cuda.device_count() if cuda else 0
    # Lanes that share a machine's cores do not time a trial alone; each has GPUs of its own.
    with opened(plan, shared_device=not cuda and lanes > 1) as queue:
        # A lane without a trial to take would only cost its start.
        lanes = min(lanes, queue.pending())
        if lanes:
            workers = lanes * gpus_per_trial
            cores = max(workers * group.threads, os.cpu_count() or 1)
            with _connected(address, cores=cores, gpus=gpus) as storage:
                _check_room(_nodes(), workers, group)
                _run(plan, queue, lanes, group, storage, changed)
        return queue.progress()


# ---- Ray, and the room in it -----------------------------------------------------------------


@contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    """Set (None: take out) environment variables, which Ray's own processes inherit."""
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
def _connected(address: str | None, *, cores: int = 0, gpus: int = 0) -> Iterator[Path]:
    """Join a cluster, or start a Ray with so many cores and GPUs; yields a scratch folder.

    A Ray of our own has a secret token, keeps its files in the scratch folder and ends with the
    block; a cluster's is left alone.
    """
    settings: dict[str, str | None] = {
        name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()
    }
    if address is None:
        # With the mode unset, Ray turns its token authentication on by itself, also where it was
        # imported before with another setting.
        settings |= {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": None}
    with (
        _environment(settings),
        # Ray refuses socket paths of more than 107 bytes, and those begin here: a longer TMPDIR,
        # such as macOS has, leaves no room.
        tempfile.TemporaryDirectory(
            prefix="medopt-", dir="/tmp", ignore_cleanup_errors=True
        ) as scratch,
    ):
        import ray

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            options |= {
                "address": "local",
                # Of its own accord Ray asks a public name server which address it has.
                "_node_ip_address": "127.0.0.1",
                "num_cpus": cores,
                "num_gpus": gpus,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                # Ray opens its folder to everyone; the one around it stays ours.
                "_temp_dir": str(Path(scratch, "ray")),
            }
        else:
            _check_address(address)
            options["address"] = address
        try:
            # A worker's sys.path begins with the driver's working folder, and a user's may have its
            # own models/ or results/: so Ray starts in ours.
            with chdir(ROOT):
                ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            if address is None:
                raise
            raise StudyError(
                f"--ray {address}: no cluster answers there ({reason(error)}). Look with `ray "
                f"status`; a cluster with a token needs it in ~/.ray/auth_token here too."
            ) from error
        try:
            yield Path(scratch)
        finally:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Raise StudyError if nothing listens there: Ray itself goes on asking for many minutes."""
    if address.startswith("ray://"):
        raise StudyError(
            f"--ray {address}: Ray's client cannot hold lanes. Run medopt on a machine of the "
            f"cluster, with `--ray auto`."
        )
    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = where.rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise StudyError(
            f"--ray {address}: nothing answers at {where} ({error}). Give host:port of the "
            f"cluster's head, as `ray start --head` prints it."
        ) from error


def _look(address: str) -> list[Node]:
    with _connected(address):
        return _nodes()


def _nodes() -> list[Node]:
    """Return the live machines of the cluster that this process is connected to."""
    import ray

    return [
        Node(cores=int(found.get("CPU", 0)), gpus=int(found.get("GPU", 0)))
        for found in (n["Resources"] for n in ray.nodes() if n["Alive"])  # type: ignore[no-untyped-call]  # Ray's
    ]


def _check_room(nodes: list[Node], workers: int, group: _Group) -> None:
    """Raise StudyError if the machines cannot hold the workers: Ray itself would wait for ever."""
    fits = sum(
        min(node.cores // group.threads, node.gpus if group.cuda else node.cores) for node in nodes
    )
    if fits < workers:
        each = f"{group.threads} CPU core(s)" + (" and a GPU" if group.cuda else "")
        have = ", ".join(f"{node.cores} cores and {node.gpus} GPUs" for node in nodes)
        raise StudyError(
            f"--lanes: {workers} worker(s) with {each} each are asked for, and there is room for "
            f"{fits} ({have}). Ask for fewer --lanes or --gpus-per-trial, or set fewer `threads` "
            f"in the study."
        )


# ---- this process: the queue behind the desk -------------------------------------------------


@dataclass
class Clerk:
    """Does at the queue what lanes ask for. `say(number, value)` answers an `ask`."""

    queue: Queue
    say: Callable[[int, Any], None]
    ended: dict[str, str] = field(default_factory=dict)
    _waiting: dict[str, int] = field(default_factory=dict)
    _starts: Counter[str] = field(default_factory=Counter)

    def serve(self, heard: Iterable[Call]) -> None:
        """Do what was heard, then hand out trials to the lanes that wait for one."""
        # Renewals first: while this process was busy writing, other leases went on as well.
        for number, lane, call, values in sorted(heard, key=lambda one: one[2] != "renew"):
            if call == "take":
                assert number is not None
                self._waiting[lane] = number
                continue
            getattr(self, f"_{call}")(lane, *values)
            if number is not None:
                self.say(number, None)
        for lane, number in list(self._waiting.items()):
            lease = None if lane in self.ended else self.queue.take(lane)
            if lease:
                self._starts[lane] = 0
            if lease or lane in self.ended or not self.queue.pending():
                del self._waiting[lane]
                self.say(number, lease.trial.trial_id if lease else None)

    def lost(self, lane: str, why: str) -> None:
        """Note that a lane will not come back."""
        self._waiting.pop(lane, None)
        self.queue.back(lane)
        self._unfit(lane, why)

    def _back(self, lane: str) -> None:
        """Note that a lane's workers started: for the first time, or anew because one died."""
        self._waiting.pop(lane, None)
        self.queue.back(lane)
        self._starts[lane] += 1
        if self._starts[lane] > STARTS:
            self._unfit(lane, f"its workers died {STARTS} times before they took a trial")

    def _unfit(self, lane: str, why: str) -> None:
        if lane not in self.ended:
            log.error("%s ends: %s", lane, why)
            self.ended[lane] = why

    def _renew(self, lane: str, epoch: int | None = None, score: float | None = None) -> None:
        self.queue.renew(lane, epoch, score)

    def _finish(self, lane: str, trial_id: str, outcome: dict[str, Any]) -> None:
        self.queue.finish(lane, trial_id, Outcome(**outcome))

    def _fail(self, lane: str, trial_id: str, why: str, trace: str) -> None:
        log.error("trial %s failed on %s\n%s", trial_id, lane, trace)
        self.queue.fail(lane, trial_id, why)


def _run(
    plan: Plan,
    queue: Queue,
    lanes: int,
    group: _Group,
    storage: Path,
    changed: Callable[[Progress], None],
) -> None:
    """Start the lanes, serve them until the queue is empty, and let them end."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    desk: Any = (
        ray.remote(num_cpus=0)(Desk)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote()
    )
    clerk = Clerk(queue, desk.answer.remote)
    over: queues.SimpleQueue[tuple[str, str | None]] = queues.SimpleQueue()
    names = {f"lane {number + 1}" for number in range(lanes)}
    for lane in sorted(names):
        fit = _trainer(desk, lane, plan, group, storage).fit
        threading.Thread(target=_until_over, args=(lane, fit, over), daemon=True).start()
    changed(queue.progress())
    until = math.inf
    while names and monotonic() < until:
        try:
            heard = ray.get(desk.heard.remote(1.0))
        except ray.exceptions.RayError as error:
            raise LanesLost(f"Ray stopped answering: {reason(error)}") from error
        clerk.serve(heard)
        while not over.empty():
            lane, why = over.get()
            names.discard(lane)
            if why:
                clerk.lost(lane, why)
        changed(queue.progress())
        if not queue.pending():
            until = min(until, monotonic() + GRACE_SEC)
        elif not names:
            raise LanesLost(
                f"{queue.pending()} trial(s) are unfinished and no lane is left. "
                f"{'; '.join(f'{lane}: {why}' for lane, why in sorted(clerk.ended.items()))}"
            )


def _until_over(
    lane: str, fit: Callable[[], Any], over: queues.SimpleQueue[tuple[str, str | None]]
) -> None:
    """Run a lane in a thread of its own, and say what ended it (None: there was no more to do)."""
    try:
        fit()
    except Exception as error:
        # Whatever ended a lane, the others go on; if none is left, the run says why.
        log.debug("%s", lane, exc_info=True)
        over.put((lane, f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]))
    else:
        over.put((lane, None))


def _trainer(desk: Any, lane: str, plan: Plan, group: _Group, storage: Path) -> Any:
    """Return the Ray Train trainer whose `fit` is a lane."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.backend import BackendConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    class LaneTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            return [
                callback
                for callback in super()._create_default_callbacks()  # type: ignore[misc]  # Ray's stub is of V1
                if type(callback).__name__ not in UNUSED_CALLBACKS
            ]

    class Solo(BackendConfig):
        """One worker needs no process group, and so its controller no torch: 300 MB (measured)."""

        backend = "none"

    process_group: Any = Solo() if group.workers == 1 else TorchConfig()
    expected = fingerprint(plan)
    # A closure goes to the workers alone; a `train_loop_config` would go to the controller too,
    # which would load all that a plan is made of.
    resources = {"CPU": group.threads} | ({"GPU": 1} if group.cuda else {})
    return LaneTrainer(
        lambda: _work(desk, lane, plan, expected),
        torch_config=process_group,
        scaling_config=ScalingConfig(
            num_workers=group.workers, use_gpu=group.cuda, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=lane.replace(" ", "-"),
            storage_path=str(storage),
            # A lane comes back however often it dies: trials are what is counted
            # (bench.execution.trial_queue.KILLS).
            failure_config=FailureConfig(
                max_failures=-1,
                controller_failure_limit=START_LIMIT,  # type: ignore[call-arg]  # Ray's stub is of V1
            ),
        ),
    )


# ---- a worker of a lane ----------------------------------------------------------------------


def fingerprint(plan: Plan) -> dict[str, str]:
    """Return what must be the same on every machine, or equal trials would differ: name -> value.

    Versions of packages, the content of each store, and the sources of a user's own code.
    """
    study, base = plan.study, plan.base
    rows: dict[str, Part[Any]] = {
        **{entry.name: model_row(entry.name, entry.params, base) for entry in study.models},
        **{entry.name: optimizer_row(entry.name, entry.params, base) for entry in study.optimizers},
        **{entry.name: loss_row(entry.name, entry.params, base) for entry in study.losses},
    }
    return {
        **{f"version of {name}": found for name, found in versions().items()},
        **{f"store of {data.name!r}": data.store.content_hash for data in plan.sets},
        **{f"source of {name!r}": row.identity for name, row in rows.items()},
    }


def _unfit(plan: Plan, expected: dict[str, str]) -> str | None:
    """Say why this machine cannot run the plan's trials as the first one would, or None."""
    try:
        found = fingerprint(plan)
    except (OSError, ValueError) as error:
        return reason(error)
    other = [f"{k} is {found[k]}, not {v}" for k, v in expected.items() if found[k] != v]
    return "; ".join(other) or None


def _work(desk: Any, lane: str, plan: Plan, expected: dict[str, str]) -> None:
    """Be one worker of a lane: take trials and run them until there are none.

    The first worker of the group speaks for it; the others hear from it which trial is next.
    """
    import ray
    from ray.train import get_context
    from ray.train.collective import barrier, broadcast_from_rank_zero
    from ray.train.torch import get_device

    begin(plan.study.threads)
    context = get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size())
    alone = world.size == 1
    trials = {trial.trial_id: trial for trial in plan.trials}

    def ask(call: str, *values: Any) -> Any:
        return ray.get(desk.ask.remote(lane, call, *values))

    def tell(call: str, *values: Any) -> None:
        desk.tell.remote(lane, call, *values)

    def next_trial() -> str | None:
        taken = ask("take") if world.rank == 0 else None
        return taken if alone else broadcast_from_rank_zero(taken)

    def together() -> None:
        if not alone:
            barrier()

    if world.rank == 0:
        ask("back")
    together()
    problem = _unfit(plan, expected)
    if problem:
        ask("unfit", f"{socket.gethostname()}: {problem}")
    together()
    with _leased(tell):
        while trial_id := next_trial():
            _one(trials[trial_id], plan, get_device(), world, ask, tell)


def _one(
    trial: Trial,
    plan: Plan,
    device: torch.device,
    world: World,
    ask: Callable[..., Any],
    tell: Callable[..., None],
) -> None:
    """Run one trial and hand in what came of it."""

    def watch(epoch: int, score: float | None) -> None:
        if world.rank == 0:
            tell("renew", epoch, score)

    try:
        outcome = run_trial(
            trial, plan.data(trial.dataset), plan.base, device=device, world=world, watch=watch
        )
    except Exception as error:
        ask("fail", trial.trial_id, reason(error), traceback.format_exc())
        if world.size > 1 or device.type == "cuda":
            # The others of the group wait in a collective that will not come, and a CUDA context
            # may be of no more use: the lane starts anew.
            raise
        return
    if world.rank == 0:
        ask("finish", trial.trial_id, vars(outcome))


@contextmanager
def _leased(tell: Callable[..., None]) -> Iterator[None]:
    """Keep the lease of a lane alive, however long an epoch takes."""
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(LEASE_SEC / 6):
            tell("renew")

    threading.Thread(target=keep, daemon=True).start()
    try:
        yield
    finally:
        stop.set()
