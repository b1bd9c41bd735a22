"""Lanes: the queue's trials over many worker groups. The only file that imports ray.train.

A lane is one Ray Train `TorchTrainer` that takes trial after trial, so that its start (13 to 17 s
on two cores) is paid once. The queue stays in this process. Lanes reach it through the mailbox, a
small actor that holds what they ask until it is answered here. So a result is on disk before its
lane goes on, and no process but this one writes.
"""

import logging
import math
import pickle
import queue as queues
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from bench.core.packages import check_packages
from bench.core.processes import World
from bench.core.startup import begin
from bench.execution.dispatcher import Dispatcher
from bench.execution.mailbox import Mailbox
from bench.execution.provenance import code_fingerprint, differences, plan_fingerprint
from bench.execution.ray_cluster import LaneSize, check_room, connected, machines_of_cluster
from bench.execution.trial_queue import LEASE_SEC, Progress, Queue, opened, reason
from bench.planning.plan import Plan
from bench.study.trial import Trial
from bench.training.train import run_trial
from loaders.cores import usable_cores

log = logging.getLogger("medopt.lanes")

# Ray waits 60 s for the resources of a lane before it counts a failed start.
START_LIMIT = 5
# Seconds that lanes get to end by themselves once the queue is empty.
GRACE_SEC = 10.0

# Ray Train starts helpers for these callbacks: for Ray Data sets, which no lane has, and a detached
# one that frees a lane's resources should its controller die, which for a controller that belongs
# to this job Ray does anyway. Without them two lanes start in half the time and need 400 MB less
# (measured). A version of Ray that renames them costs memory, nothing else.
UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")


@dataclass(frozen=True, kw_only=True)
class LaneEnd:
    """A lane that has ended; `why` is None where it ended because no trial was left."""

    lane: str
    why: str | None


class LanesLost(OSError):  # noqa: N818  # what happened to the machines, as the OSErrors of a disk
    """No lane is left to run what is unfinished; what is finished is on disk."""


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
    size = LaneSize(workers=gpus_per_trial, threads=plan.study.threads or 1, cuda=cuda)
    gpus = torch.cuda.device_count() if cuda else 0
    # Lanes that share a machine's cores do not time a trial alone; each has GPUs of its own.
    with opened(plan, shared_device=not cuda and lanes > 1) as queue:
        # A lane without a trial to take would only cost its start.
        lanes = min(lanes, queue.pending())
        if lanes:
            workers = lanes * gpus_per_trial
            cores = max(workers * size.threads, usable_cores())
            changed(queue.progress())  # the start of Ray takes a while
            with connected(address, cores=cores, gpus=gpus) as storage:
                check_room(machines_of_cluster(), workers, size)
                _serve(plan, queue, lanes, size, storage, changed)
        return queue.progress()


def _serve(
    plan: Plan,
    queue: Queue,
    lanes: int,
    size: LaneSize,
    storage: Path,
    changed: Callable[[Progress], None],
) -> None:
    """Start the lanes, serve them until the queue is empty, and let them end."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    mailbox: Any = (
        ray.remote(num_cpus=0)(Mailbox)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote()
    )
    dispatcher = Dispatcher(queue, mailbox.answer.remote)
    over: queues.SimpleQueue[LaneEnd] = queues.SimpleQueue()
    names = {f"lane {number + 1}" for number in range(lanes)}
    cargo = _cargo(plan)
    for lane in sorted(names):
        fit = _trainer(mailbox, lane, cargo, size, storage).fit
        threading.Thread(target=_until_over, args=(lane, fit, over), daemon=True).start()
    changed(queue.progress())
    until = math.inf
    while names and monotonic() < until:
        try:
            heard = ray.get(mailbox.heard.remote(1.0))
        except ray.exceptions.RayError as error:
            raise LanesLost(f"Ray stopped answering: {reason(error)}") from error
        dispatcher.serve(heard)
        while not over.empty():
            end = over.get()
            names.discard(end.lane)
            if end.why:
                dispatcher.lost(end.lane, end.why)
        changed(queue.progress())
        if not queue.pending():
            until = min(until, monotonic() + GRACE_SEC)
        elif not names:
            raise LanesLost(
                f"{queue.pending()} trial(s) are unfinished and no lane is left. "
                f"{'; '.join(f'{lane}: {why}' for lane, why in sorted(dispatcher.ended.items()))}"
            )


def _until_over(lane: str, fit: Callable[[], Any], over: queues.SimpleQueue[LaneEnd]) -> None:
    """Run a lane in a thread of its own, and say what ended it."""
    try:
        fit()
    except Exception as error:
        # Whatever ended a lane, the others go on; if none is left, the run says why.
        log.debug("%s", lane, exc_info=True)
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        over.put(LaneEnd(lane=lane, why=why))
    else:
        over.put(LaneEnd(lane=lane, why=None))


def _cargo(plan: Plan) -> dict[str, Any]:
    """Return what `take_trials` is given in each worker: plain values, and the plan as bytes.

    A worker whose checkout is another one must be able to say so before it unpickles what is ours.
    """
    from ray import cloudpickle

    return {
        "code": code_fingerprint(),
        "content": plan_fingerprint(plan),
        "plan": cloudpickle.dumps(plan),  # type: ignore[no-untyped-call]  # Ray's
    }


def _trainer(mailbox: Any, lane: str, cargo: dict[str, Any], size: LaneSize, storage: Path) -> Any:
    """Return the Ray Train trainer whose `fit` is a lane; its workers get `cargo`."""
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

    process_group: Any = Solo() if size.workers == 1 else TorchConfig()
    resources = {"CPU": size.threads} | ({"GPU": 1} if size.cuda else {})
    return LaneTrainer(
        # A closure goes to the workers alone; a `train_loop_config` would go to the controller too.
        lambda: _work(mailbox, lane, cargo),
        torch_config=process_group,
        scaling_config=ScalingConfig(
            num_workers=size.workers, use_gpu=size.cuda, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=lane.replace(" ", "-"),
            storage_path=str(storage),
            # A lane is restarted however often it dies: what is counted are trials
            # (bench.execution.trial_queue.KILLS).
            failure_config=FailureConfig(
                max_failures=-1,
                controller_failure_limit=START_LIMIT,  # type: ignore[call-arg]  # Ray's stub is of V1
            ),
        ),
    )


# ---- a worker of a lane ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What a worker of a lane needs of Ray; without a cluster, tests give their own.

    `ask` waits for the answer and `tell` does not; `broadcast` returns the first worker's value to
    all of the lane, `barrier` waits for all of them, `device` is where this one trains.
    """

    world: World
    ask: Callable[..., Any]
    tell: Callable[..., None]
    broadcast: Callable[[Any], Any]
    barrier: Callable[[], None]
    device: Callable[[], torch.device]


def _work(mailbox: Any, lane: str, cargo: dict[str, Any]) -> None:
    """Be one worker of a lane, as Ray Train starts it."""
    import ray
    from ray.train import get_context
    from ray.train.collective import barrier, broadcast_from_rank_zero
    from ray.train.torch import get_device

    context = get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size())
    alone = world.size == 1

    def ask(call: str, *values: Any) -> Any:
        return ray.get(mailbox.ask.remote(lane, call, *values))

    def tell(call: str, *values: Any) -> None:
        mailbox.tell.remote(lane, call, *values)

    take_trials(
        Worker(
            world=world,
            ask=ask,
            tell=tell,
            broadcast=(lambda value: value) if alone else broadcast_from_rank_zero,
            barrier=(lambda: None) if alone else barrier,
            device=get_device,
        ),
        **cargo,
    )


def take_trials(
    worker: Worker, *, code: dict[str, str], content: dict[str, str], plan: bytes
) -> None:
    """Take trials and run them until there are none left.

    `code` and `content` are the driver's fingerprints, `plan` is its plan, pickled, which a worker
    unpickles only if its code is the driver's. The first worker of a lane speaks for it; the others
    hear from it which trial is next. A worker that differs says so, and the lane gets no trial.
    """
    first = worker.world.rank == 0
    if first:
        worker.ask("back")
    worker.barrier()
    unpickled, problem = None, _code_problem(code)
    if problem is None:
        unpickled = pickle.loads(plan)  # noqa: S301  # our own driver's, through a Ray with a token
        begin(unpickled.study.threads)
        problem = _content_problem(unpickled, content)
    if problem:
        worker.ask("unfit", f"{socket.gethostname()}: {problem}")
    # No trial is taken before every worker of the lane had its say; of an unfit lane none is.
    worker.barrier()
    with _leased(worker.tell):
        while trial_id := worker.broadcast(worker.ask("take") if first else None):
            assert unpickled is not None
            trial = next(t for t in unpickled.trials if t.trial_id == trial_id)
            _run_one(trial, unpickled, worker)


def _code_problem(expected: dict[str, str]) -> str | None:
    """Say why the code of this process is not the driver's, or return None."""
    try:
        check_packages()
    except ImportError as error:
        return reason(error)
    return differences(expected, code_fingerprint())


def _content_problem(plan: Plan, expected: dict[str, str]) -> str | None:
    """Say how the data or a user's own code differ from the driver's, or return None."""
    try:
        return differences(expected, plan_fingerprint(plan))
    except (OSError, ValueError) as error:
        return reason(error)


def _run_one(trial: Trial, plan: Plan, worker: Worker) -> None:
    """Run one trial and hand in what came of it."""
    world, device = worker.world, worker.device()

    def watch(epoch: int, score: float | None) -> None:
        if world.rank == 0:
            worker.tell("renew", epoch, score)

    try:
        outcome = run_trial(
            trial, plan.data(trial.dataset), plan.base, device=device, world=world, watch=watch
        )
    except Exception as error:
        worker.ask("fail", trial.trial_id, reason(error), traceback.format_exc())
        if world.size > 1 or device.type == "cuda":
            # The other workers wait in a collective that will not come, and a CUDA context may be
            # of no more use: the lane starts again.
            raise
        return
    if world.rank == 0:
        worker.ask("finish", trial.trial_id, vars(outcome))


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
