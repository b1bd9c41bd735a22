"""Lanes: the queue's trials over many worker groups. The only file that imports ray.train.

A lane is one Ray Train `TorchTrainer` that takes trial after trial, so that its start (13 to 17 s
on two cores) is paid once. The queue stays in this process. Lanes reach it through the mailbox, a
small actor that holds what they ask until it is answered here. So a result is on disk before its
lane goes on, and no process but this one writes.
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

log = logging.getLogger("medopt.lanes")

# Ray waits 60 s for the resources of a lane before it counts a failed start.
START_LIMIT = 5
# How often one looks whether the head answers, and which machines there are. Assumption.
LOOK_SEC = 2.0
# Seconds that lanes get to end by themselves once the queue is empty.
END_SEC = 10.0
# As Ray Train's own groups.
GROUP_TIMEOUT = timedelta(seconds=1800)

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


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """The Ray that carries lanes: a scratch folder, and whether this machine is `alone` in it.

    `may_come`: it has an autoscaler that may add machines which hold a lane. `shelf` are the
    paths of the one on which lanes of this machine share batches, None where they do not.
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

    `address` None starts a Ray on this machine and stops it again; with `auto` or host:port the
    cluster there is joined and left as it was. On a cluster lanes start when machines come and end
    when these leave, `lanes` of them at most, None: as many as it has room for; its autoscaler is
    asked for machines for the others. A worker has one GPU, or `threads` CPU cores alone
    where the study runs on the CPU. `changed` hears of each step. A lane whose trial makes none for
    `hung_minutes` is ended, and starts again.

    Raises StudyError if the machines have no room for the lanes (a cluster, now or ever, for one),
    LanesLost if none is left while trials are, OSError where results cannot be written, and
    KeyboardInterrupt; what is finished is on disk in each case, and running again goes on from
    there.
    """
    cuda = plan.study.device == "cuda"
    size = LaneSize(
        workers=gpus_per_trial,
        threads=plan.study.threads or 1,
        cuda=cuda,
        # Whoever asks for a number of lanes has it, or is told by the system.
        memory=0 if cuda or lanes else most_bytes(plan.trials, plan.data, plan.base),
    )
    # Lanes that share a machine's cores do not time a trial alone; each has GPUs of its own.
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
                    # Of most autoscalers one learns by asking alone what they can add.
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
    # Lane -> until when one of its workers must have spoken.
    names: dict[str, float] = {}
    # Sent to each lane by its name: the plan of a large study is some MB.
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
                # Asked first: without a head Ray's own calls wait for a minute.
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
            # Ray starts workers that die at once (a package is missing there) again and again.
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
                    f"{queue.pending()} trial(s) are unfinished and no lane is left. "
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
    """Return whether a run without a lane for so long may yet get one.

    Whatever is there has been looked at after some seconds.
    """
    return seconds < (hung_minutes * 60 if carrier.may_come else 3 * LOOK_SEC)


def _let_keep(mailbox: Any, dispatcher: Dispatcher, lanes: Iterable[str]) -> None:
    """Wait a little for the states, or the results, of trials that have trained for long."""
    waiting = {lane for lane in lanes if dispatcher.queue.in_hand_for(lane) >= WORTH_SEC}
    mailbox.warn.remote(waiting)
    until = monotonic() + GRACE_SEC
    # Where Ray is stopped by the same signal, there is nothing to wait for.
    with suppress(LanesLost):
        while waiting and monotonic() < until:
            waiting -= dispatcher.last_words(_heard(mailbox))


def _heard(mailbox: Any) -> list[Call]:
    """Return what lanes said; raise LanesLost if Ray has gone."""
    import ray

    try:
        heard: list[Call] = ray.get(mailbox.heard.remote(1.0), timeout=HEAD_SEC)
    except ray.exceptions.GetTimeoutError as error:
        raise LanesLost(f"Ray has not answered for {HEAD_SEC:.0f} s.") from error
    except ray.exceptions.RayError as error:
        raise LanesLost(f"Ray stopped on this machine: {failure(error)}") from error
    return heard


def _head_answers(seconds: float) -> bool:
    """Return whether Ray's head answers within so many seconds."""
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    until = monotonic() + seconds
    while not (found := answers(host, int(port))) and monotonic() < until:
        sleep(1)
    return found


def _lost(raylet: tuple[str, int], seconds: float) -> LanesLost | None:
    """Return what to raise where Ray's head, in so many seconds, or the raylet here has gone.

    Ray itself finds after 16 s that the raylet has (measured), and ends this process then, where it
    has an object in its store, without a word.
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
    """End the lanes that are left, and let the threads that wait for them leave Ray (`left`).

    A lane is left where its machine was lost and the trials were done before Ray found it another.
    Without a head, or the `raylet` of this machine, no lane hears that it is to end: Ray ends it
    when it has missed one of them for a while.
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
    """Return what a word to an actor comes to; raise LanesLost once its lane is `left`.

    By a future: a thread that waits for one is not inside Ray, which may be shut down meanwhile.
    """
    answer = word.future()
    wait([answer, left], return_when=FIRST_COMPLETED)
    if not answer.done():
        raise LanesLost("it was left")
    return answer.result()


def _until_over(lane: str, fit: Callable[[], Any], over: queues.SimpleQueue[LaneEnd]) -> None:
    """Run a lane in a thread of its own, and say what ended it."""
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
    """Return the Ray Train trainer whose `fit` is a lane; its workers get what `cargo` names.

    What controls the lane, an actor beside this process, is put into `controllers`. Once `left` is
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
            # As Ray 2.60's own, which tells nobody of the actor: it could not be ended.
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
        """One worker needs no process group, and so its controller no torch: 300 MB (measured).

        Those of one machine make theirs themselves (`_group`).
        """

        backend = "none"

    plain = size.workers == 1 or carrier.alone
    process_group: Any = Plain() if plain else TorchConfig()
    meeting = str(carrier.storage) if carrier.alone else None
    return LaneTrainer(
        # A closure goes to the workers alone; a `train_loop_config` would go to the controller too.
        lambda: _work(mailbox, lane, cargo, meeting),
        torch_config=process_group,
        scaling_config=ScalingConfig(
            num_workers=size.workers, use_gpu=size.cuda, resources_per_worker=size.resources
        ),
        run_config=RunConfig(
            name=lane.replace(" ", "-"),
            storage_path=str(carrier.storage),
            # A lane is restarted however often it dies: what is counted are trials
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

    By a file: the store that Ray Train would let them meet at listens on every interface.
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
    """Whether a lane is about to be ended, as the mailbox answers what it is told.

    Answers are looked at every EPOCH_SEC: each costs a millisecond, and an epoch may last five.
    """

    def __init__(self) -> None:
        # The newest, which may be on its way yet, and the one before.
        self._words: list[Any] = []
        self._looked = monotonic()
        self._heard = 0

    def told(self, word: Any) -> None:
        """Take a word whose answer says how often the lane was warned."""
        self._words = [*self._words[-1:], word]

    def came(self) -> bool:
        """Return whether it was warned since this was asked last; waits for nothing."""
        import ray

        if not self._words or monotonic() - self._looked < EPOCH_SEC:
            return False
        self._looked = monotonic()
        words = self._words
        answered, _ = ray.wait(words, num_returns=len(words), timeout=0)
        before = self._heard
        with suppress(ray.exceptions.RayError):  # a word that was lost is no warning
            self._heard = max([before, *ray.get(answered)])
        return self._heard > before


def _work(mailbox: Any, lane: str, cargo: Any, meeting: str | None) -> None:
    """Be one worker of a lane, as Ray Train starts it.

    `meeting` is the folder where the workers of a lane meet, None where Ray Train lets them meet.
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
            # A trial that ends its process at once must not take this word with it.
            ray.wait([word])
        warning.told(word)

    if meeting is not None and not alone:
        # A name of its own for each start of the lane: what a dead one left must not be met.
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
