"""Lanes: the queue's trials over many worker groups. The only file that imports ray.train.

A lane is one Ray Train `TorchTrainer` that takes trial after trial, so that its start (13 to 17 s
on two cores) is paid once. The queue stays in this process. Lanes reach it through the mailbox, a
small actor that holds their calls until they are answered here. So a result is on disk before its
lane goes on, and only this process writes.
"""

import logging
import math
import os
import queue as queues
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]  # not in torch's list

from bench.core.processes import World
from bench.core.references import failure
from bench.execution.dispatcher import GRACE_SEC, WORTH_SEC, Dispatcher, LanesLost
from bench.execution.mailbox import Call, Mailbox
from bench.execution.ray import autoscaler
from bench.execution.ray.cluster import (
    HEAD_SEC,
    LaneSize,
    answers,
    check_ever,
    check_room,
    connected,
    inside,
    kill,
    leaving_machines,
    machines_answer,
    machines_of_cluster,
    machines_to_come,
    of_head,
    raylet_here,
    without_head,
)
from bench.execution.ray.following import Following, Leaving
from bench.execution.trial_queue import HUNG_MINUTES, Progress, Queue, Telling, opened
from bench.execution.worker import EPOCH_SEC, Worker, cargo_of, shelf_for, take_trials
from bench.planning.plan import Plan
from bench.training.room import most_bytes
from loaders.batches.shelf import Paths
from loaders.cores import usable_cores
from results import text

log = logging.getLogger("medopt.lanes")

# Ray waits 60 s for the resources of a lane before it counts a failed start.
START_LIMIT = 5
# How often to check whether the head answers, and which machines there are. Assumption.
LOOK_SEC = 2.0
# Seconds that lanes get to end by themselves once the queue is empty.
END_SEC = 10.0
# As in Ray Train's own groups.
GROUP_TIMEOUT = timedelta(seconds=1800)

# Ray Train starts helpers for these callbacks: one for Ray Data sets, which no lane has, and a
# detached one that frees a lane's resources if its controller dies, which Ray does anyway for a
# controller that belongs to this job. Without them two lanes start in half the time and need 400 MB
# less (measured). If a version of Ray renames them, that only costs memory.
UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")


@dataclass(frozen=True, kw_only=True)
class LaneEnd:
    """A lane that has ended; `why` is None if it ended because no trial was left."""

    lane: str
    why: str | None


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """The Ray that carries lanes: a scratch folder, and whether this machine is `alone` in it.

    `may_come`: it has an autoscaler that may add machines with room for a lane. `shelf` are the
    paths of the shelf on which lanes of this machine share batches, None if they do not.
    """

    storage: Path
    alone: bool
    may_come: bool = False
    shelf: Paths | None = None


def run_lanes(
    plan: Plan,
    *,
    address: str | None,
    lanes: int | None,
    gpus_per_trial: int,
    changed: Callable[[Progress], None],
    hung_minutes: float = HUNG_MINUTES,
) -> Progress:
    """Run every trial of a plan over `lanes` worker groups of `gpus_per_trial` workers each.

    `address` None starts Ray on this machine and stops it at the end; `auto` or host:port joins the
    cluster there and leaves it running. On a cluster, lanes start when machines come and end when
    they leave, at most `lanes` of them (None: as many as there is room for); its autoscaler is
    asked for machines for the rest. A worker has one GPU, or only `threads` CPU cores if the study
    runs on the CPU. `changed` is called at each step. A lane whose trial makes no step for
    `hung_minutes` is ended, and starts again.

    Raises StudyError if the machines have no room for the lanes (a cluster: for a single lane, now
    or ever), LanesLost if no lane is left while trials are, OSError if results cannot be written,
    and KeyboardInterrupt. Finished trials are on disk in each case, and another run resumes.
    """
    cuda = plan.study.device == "cuda"
    size = LaneSize(
        workers=gpus_per_trial,
        threads=plan.study.threads or 1,
        cuda=cuda,
        # A requested number of lanes is not limited by memory.
        memory=0 if cuda or lanes else most_bytes(plan.trials, plan.data, plan.base),
    )
    # Lanes that share a machine's cores cannot time a trial alone; GPUs are not shared.
    with opened(plan, shared_device=not cuda and lanes != 1) as queue:
        if queue.pending():
            changed(queue.progress())  # the start of Ray takes a while
            if address is None:
                assert lanes is not None, "counted by `capacity`"
                # A lane without a trial to take would only cost its start.
                lanes = min(lanes, queue.pending())
                workers = lanes * gpus_per_trial
                cores = max(workers * size.threads, usable_cores())
                gpus = torch.cuda.device_count() if cuda else 0
                with (
                    connected(None, cores=cores, gpus=gpus) as storage,
                    shelf_for(queue, lanes) as shelf,
                ):
                    check_room(machines_of_cluster(), workers, size)
                    carrier = Carrier(storage=storage, alone=True, shelf=shelf)
                    _serve(plan, queue, lanes, size, carrier, changed, hung_minutes)
            else:
                with connected(address) as storage:
                    coming = machines_to_come()
                    # Most autoscalers only tell what they can add when they are asked for it.
                    unknown = not coming and autoscaler.there_is_one()
                    if not unknown:
                        check_ever(machines_of_cluster(), coming, size)
                    may_come = unknown or bool(coming)
                    carrier = Carrier(storage=storage, alone=False, may_come=may_come)
                    _serve(plan, queue, lanes, size, carrier, changed, hung_minutes)
        return queue.progress()


def _serve(
    plan: Plan,
    queue: Queue,
    most: int | None,
    size: LaneSize,
    carrier: Carrier,
    changed: Callable[[Progress], None],
    hung_minutes: float,
) -> None:
    """Start lanes as there is room, serve them until the queue is empty, and let them end."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    mailbox: Any = (
        ray.remote(num_cpus=0)(Mailbox)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote()
    )
    dispatcher = Dispatcher(
        queue,
        mailbox.answer.remote,
        answers=machines_answer,
        kill=kill,
        hung_minutes=hung_minutes,
    )
    over: queues.SimpleQueue[LaneEnd] = queues.SimpleQueue()
    # Lane -> the time by which one of its workers must have called.
    names: dict[str, float] = {}
    # Sent to each lane by reference: the plan of a large study takes some MB.
    cargo = ray.put({**cargo_of(plan), "shelf": carrier.shelf})
    controllers: list[Any] = []
    threads: list[threading.Thread] = []
    left: Future[None] = Future()
    raylet = raylet_here()
    asking = autoscaler.Asking(size)
    ask = asking.ask if carrier.may_come else (lambda _lanes, _more: None)
    following = Following(size, most, machines_of_cluster, ask)
    leaving = Leaving(mailbox.warn.remote)
    telling = Telling(queue, changed)

    def start() -> None:
        lane = f"lane {len(threads) + 1}"
        fit = _trainer(mailbox, lane, cargo, size, carrier, controllers, left).fit
        threads.append(inside(lambda: _until_over(lane, fit, over)))
        names[lane] = monotonic() + hung_minutes * 60

    until, looked, alone_since = math.inf, -math.inf, monotonic()
    try:
        while (names or queue.pending()) and monotonic() < until:
            if monotonic() - looked > LOOK_SEC:
                looked = monotonic()
                # Checked first: without a head, Ray's own calls wait for a minute.
                if lost := _lost(raylet, HEAD_SEC if queue.pending() else 0):
                    if not queue.pending():
                        break  # all is on disk
                    raise lost
                for _ in range(following.more(len(names), queue.pending())):
                    start()
                leaving(dispatcher.lanes_on(leaving_machines()))
                if carrier.may_come and not names and asking.hopeless():
                    check_ever(machines_of_cluster(), [], size)
            dispatcher.serve(_heard(mailbox))
            while not over.empty():
                end = over.get()
                names.pop(end.lane, None)
                if end.why:
                    dispatcher.lost(end.lane, end.why)
                    following.ended(len(names))
            # Ray restarts workers that die at once (a missing package) again and again.
            for lane in [n for n, by in names.items() if n not in dispatcher.spoken]:
                if monotonic() > names[lane]:
                    dispatcher.lost(lane, f"none of its workers started in {hung_minutes:g} min")
                    del names[lane]
            telling()
            if names:
                alone_since = monotonic()
            if not queue.pending():
                until = min(until, monotonic() + END_SEC)
            elif not names and not _may_wait(carrier, monotonic() - alone_since, hung_minutes):
                raise LanesLost(
                    f"no lane is left, with {text.count(queue.pending(), 'trial')} unfinished. "
                    + "; ".join(f"{lane}: {why}" for lane, why in sorted(dispatcher.ended.items()))
                )
        telling.last()
    except KeyboardInterrupt:
        _let_keep(mailbox, dispatcher, names)
        raise
    finally:
        asking.close()
        _end(threads, controllers, left, raylet)


def _may_wait(carrier: Carrier, seconds: float, hung_minutes: float) -> bool:
    """Return whether a run that has had no lane for `seconds` may still get one.

    Machines that are there have been noticed after some seconds.
    """
    return seconds < (hung_minutes * 60 if carrier.may_come else 3 * LOOK_SEC)


def _let_keep(mailbox: Any, dispatcher: Dispatcher, lanes: Iterable[str]) -> None:
    """Wait a little for states or results of trials that have trained for long."""
    waiting = {lane for lane in lanes if dispatcher.queue.in_hand_for(lane) >= WORTH_SEC}
    mailbox.warn.remote(waiting)
    until = monotonic() + GRACE_SEC
    # If Ray is stopped by the same signal, there is nothing to wait for.
    with suppress(LanesLost):
        while waiting and monotonic() < until:
            waiting -= dispatcher.last_words(_heard(mailbox))


def _heard(mailbox: Any) -> list[Call]:
    """Return the lanes' calls; raise LanesLost if Ray has gone."""
    import ray

    try:
        heard: list[Call] = ray.get(mailbox.heard.remote(1.0), timeout=HEAD_SEC)
    except ray.exceptions.GetTimeoutError as error:
        raise LanesLost(f"Ray has not answered for {HEAD_SEC:.0f} s.") from error
    except ray.exceptions.RayError as error:
        raise LanesLost(f"Ray stopped on this machine: {failure(error)}") from error
    return heard


def _head_answers(seconds: float) -> bool:
    """Return whether Ray's head answers within `seconds`."""
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    until = monotonic() + seconds
    while not (found := answers(host, int(port))) and monotonic() < until:
        sleep(1)
    return found


def _lost(raylet: tuple[str, int], seconds: float) -> LanesLost | None:
    """Return the error to raise if Ray's head (after `seconds`) or this machine's raylet has gone.

    Ray itself notices after 16 s that the raylet has gone (measured), and then, if this process has
    an object in its store, ends it without a message.
    """
    if not _head_answers(seconds):
        return without_head()
    if not answers(*raylet):
        return LanesLost("Ray has stopped on this machine: its raylet does not answer.")
    return None


def _end(
    threads: list[threading.Thread],
    controllers: list[Any],
    left: Future[None],
    raylet: tuple[str, int],
) -> None:
    """End the remaining lanes, and let the threads that wait for them leave Ray (`left`).

    A lane remains if its machine was lost and the trials were done before Ray found it another one.
    Without the head, or the `raylet` of this machine, lanes cannot be told to end: Ray ends them
    after it has missed one of these for a while.
    """
    import ray

    def end() -> None:
        for controller in controllers:
            with suppress(ray.exceptions.RayError):
                ray.kill(controller)

    if not _lost(raylet, 0):
        with suppress(LanesLost):
            of_head(end)
        until = monotonic() + END_SEC
        for thread in threads:
            thread.join(max(until - monotonic(), 0))
    left.set_result(None)


def _answer(word: Any, left: Future[None]) -> Any:
    """Return the result of a call to an actor; raise LanesLost once its lane is `left`.

    It waits for a future, so its thread is not inside Ray, which may be shut down meanwhile.
    """
    answer = word.future()
    wait([answer, left], return_when=FIRST_COMPLETED)
    if not answer.done():
        raise LanesLost("the run ended without it")
    return answer.result()


def _until_over(lane: str, fit: Callable[[], Any], over: queues.SimpleQueue[LaneEnd]) -> None:
    """Run a lane in its own thread, and report what ended it."""
    try:
        fit()
    except Exception as error:
        # Whatever ended a lane, the others go on; if none is left, the run says why.
        log.debug("%s", lane, exc_info=True)
        over.put(LaneEnd(lane=lane, why=failure(error)))
    else:
        over.put(LaneEnd(lane=lane, why=None))


def _trainer(
    mailbox: Any,
    lane: str,
    cargo: Any,
    size: LaneSize,
    carrier: Carrier,
    controllers: list[Any],
    left: Future[None],
) -> Any:
    """Return the Ray Train trainer whose `fit` is a lane; its workers get the object `cargo`.

    The lane's controller, an actor beside this process, is added to `controllers`. Once `left` is
    done, `fit` raises LanesLost.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.backend import BackendConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.constants import get_env_vars_to_propagate
    from ray.train.v2._internal.execution.controller import TrainController

    node = ray.get_runtime_context().get_node_id()

    class LaneTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            return [
                callback
                for callback in super()._create_default_callbacks()  # type: ignore[misc]  # Ray's stub is of V1
                if type(callback).__name__ not in UNUSED_CALLBACKS
            ]

        def _initialize_and_run_controller(self, **given: Any) -> Any:
            # As in Ray 2.60, but keeping the actor, which could otherwise not be ended.
            controller: Any = (
                ray.remote(TrainController)
                .options(
                    num_cpus=0,
                    label_selector={"ray.io/node-id": node},
                    runtime_env={"env_vars": get_env_vars_to_propagate()},
                )
                .remote(**given)
            )
            controllers.append(controller)
            _answer(controller.run.remote(), left)
            return _answer(controller.get_result.remote(), left)

    class Plain(BackendConfig):
        """One worker needs no process group, so its controller needs no torch: 300 MB (measured).

        Several workers on one machine make their own group (`_group`).
        """

        backend = "none"

    plain = size.workers == 1 or carrier.alone
    process_group: Any = Plain() if plain else TorchConfig()
    meeting = str(carrier.storage) if carrier.alone else None
    return LaneTrainer(
        # A closure goes only to the workers; a `train_loop_config` would go to the controller too.
        lambda: _work(mailbox, lane, cargo, meeting),
        torch_config=process_group,
        scaling_config=ScalingConfig(
            num_workers=size.workers, use_gpu=size.cuda, resources_per_worker=size.resources
        ),
        run_config=RunConfig(
            name=lane.replace(" ", "-"),
            storage_path=str(carrier.storage),
            # A lane is always restarted: deaths are counted for trials, not lanes
            # (bench.execution.trial_queue.KILLS).
            failure_config=FailureConfig(
                max_failures=-1,
                controller_failure_limit=START_LIMIT,  # type: ignore[call-arg]  # Ray's stub is of V1
            ),
        ),
    )


# ---- a worker of a lane ----------------------------------------------------------------------


def _group(world: World, device: torch.device, meeting: Path) -> None:
    """Join the workers of a lane that share one machine.

    They meet through a file: the store that Ray Train would use listens on every interface.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=FileStore(str(meeting), world.size),
        rank=world.rank,
        world_size=world.size,
        timeout=GROUP_TIMEOUT,
    )


class _Warning:
    """Whether a lane is about to be ended, from the mailbox's answers to its calls.

    Answers are checked every EPOCH_SEC: each check costs a millisecond, and an epoch may last five.
    """

    def __init__(self) -> None:
        # The newest call, which may still be under way, and the one before.
        self._words: list[Any] = []
        self._looked = monotonic()
        self._heard = 0

    def told(self, word: Any) -> None:
        """Take a call whose answer says how often the lane was warned."""
        self._words = [*self._words[-1:], word]

    def came(self) -> bool:
        """Return whether it was warned since the last call of this, without waiting."""
        import ray

        if not self._words or monotonic() - self._looked < EPOCH_SEC:
            return False
        self._looked = monotonic()
        words = self._words
        answered, _ = ray.wait(words, num_returns=len(words), timeout=0)
        before = self._heard
        with suppress(ray.exceptions.RayError):  # a lost call is not a warning
            self._heard = max([before, *ray.get(answered)])
        return self._heard > before


def _work(mailbox: Any, lane: str, cargo: Any, meeting: str | None) -> None:
    """Run one worker of a lane, as started by Ray Train.

    `meeting` is the folder where the workers of a lane meet, None if Ray Train arranges that.
    """
    import ray
    from ray.train import get_context
    from ray.train.collective import barrier, broadcast_from_rank_zero
    from ray.train.torch import get_device

    context = get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size())
    alone = world.size == 1

    def ask(call: str, *values: Any) -> Any:
        return ray.get(mailbox.ask.remote(lane, call, *values))

    warning = _Warning()

    def tell(call: str, *values: Any) -> None:
        word = mailbox.tell.remote(lane, call, *values)
        if call == "begun":
            # This call must arrive even if the trial ends its process at once.
            ray.wait([word])
        warning.told(word)

    if meeting is not None and not alone:
        # A new name for each start of the lane: files of a dead start must not be met.
        name = broadcast_from_rank_zero(f"group-{uuid.uuid4().hex}")
        _group(world, get_device(), Path(meeting, name))
    take_trials(
        Worker(
            world=world,
            place=(ray.get_runtime_context().get_node_id(), os.getpid()),
            ask=ask,
            tell=tell,
            broadcast=(lambda value: value) if alone else broadcast_from_rank_zero,
            barrier=(lambda: None) if alone else barrier,
            device=get_device,
            stopping=warning.came,
        ),
        **ray.get(cargo),
    )
