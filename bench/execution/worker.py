"""A worker: takes trials and runs them, in a Ray lane or in a child process. Knows no Ray."""

import logging
import math
import pickle
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, TypeAlias

import torch
import torch.distributed as dist

from bench.core.gpu.errors import ends_cuda
from bench.core.packages import check_packages
from bench.core.processes import World
from bench.core.pulse import PULSE
from bench.core.references import failure
from bench.core.startup import begin
from bench.core.undisturbed import undisturbed
from bench.execution.dispatcher import Place
from bench.execution.provenance import code_fingerprint, differences, plan_fingerprint
from bench.execution.trial_queue import LEASE_SEC, Queue
from bench.planning.plan import Plan
from bench.study.trial import Trial
from bench.training.state import StateRefused, TrainingState
from bench.training.train import Outcome, run_trial
from loaders.batches.shelf import Paths, Shelf, made_shelf, size_by_memory

log = logging.getLogger("medopt.lanes")

# A finished trial's id, and the fields of its outcome.
Done: TypeAlias = tuple[str, dict[str, Any]]

# A trial that is cut off loses at most this many seconds and its current epoch. For large networks
# a state takes a second to write. Assumption.
KEEP_SEC = 180.0
# How often a lane reports while it trains: its lease survives five lost reports.
SPEAK_SEC = LEASE_SEC / 6
# How often it reports its epoch: epochs of 5 ms took twice as long when each was reported
# (measured, two lanes on two cores), and nobody reads faster.
EPOCH_SEC = 1.0


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What a worker of a lane needs from its transport; tests provide their own.

    `ask` waits for the answer and `tell` does not; `broadcast` returns the first worker's value to
    all workers of the lane, `barrier` waits for all of them, `device` is where this one trains.
    `place` is its machine and process; `stopping` returns True, once, if it is about to be ended.
    """

    world: World
    place: Place
    ask: Callable[..., Any]
    tell: Callable[..., None]
    broadcast: Callable[[Any], Any]
    barrier: Callable[[], None]
    device: Callable[[], torch.device]
    stopping: Callable[[], bool] = lambda: False


def cargo_of(plan: Plan) -> dict[str, Any]:
    """Return the arguments of `take_trials` in each worker: plain values, and the plan as bytes.

    A worker with another checkout must be able to say so before it unpickles anything of ours.
    """
    return {
        "code": code_fingerprint(),
        "content": plan_fingerprint(plan),
        "plan": pickle.dumps(plan),
    }


def shelf_for(queue: Queue, lanes: int) -> AbstractContextManager[Paths | None]:
    """Yield the paths of a shelf (loaders.batches.shelf) for lanes of this machine, or None.

    None unless the rows say that trials ran side by side: a trial that runs alone is what prices go
    by, so it must spend all of its own seconds.
    """
    shared = queue.shared_device and lanes > 1
    return made_shelf(size_by_memory()) if shared else nullcontext()


def take_trials(
    worker: Worker,
    *,
    code: dict[str, str],
    content: dict[str, str],
    plan: bytes,
    keep_sec: float = KEEP_SEC,
    shelf: Paths | None = None,
) -> None:
    """Take trials and run them until there are none left.

    The state of a trial is sent to be kept every `keep_sec`; a trial with a kept state goes on from
    it. `code` and `content` are the driver's fingerprints; `plan` is its pickled plan, which a
    worker unpickles only if its code is the driver's. The first worker of a lane speaks for it and
    tells the others which trial is next. If a worker differs, it says so, and the lane gets no
    trial. `shelf` are the paths of the shelf on which this machine's lanes share batches, None if
    they do not.
    """
    first = worker.world.rank == 0
    if first:
        worker.ask("back")
    worker.barrier()
    worker.tell("here", *worker.place, socket.gethostname())
    unpickled, problem = unpacked(code=code, content=content, plan=plan)
    if problem:
        worker.ask("unfit", f"{socket.gethostname()}: {problem}")
    # No trial is taken before every worker of the lane has reported; an unfit lane takes none.
    worker.barrier()
    batches = _opened(shelf)
    done: Done | None = None
    with _leased(worker.tell):
        while True:
            # One call between two trials brings the result of one and returns the next.
            given = worker.ask("take", *(done or ())) if first else None
            trial_id = worker.broadcast(given and given[0])
            if trial_id is None:
                return
            assert unpickled is not None
            trial = next(t for t in unpickled.trials if t.trial_id == trial_id)
            if first:
                worker.tell("begun", trial_id)
            done = _run_one(trial, unpickled, worker, keep_sec, batches, given and given[1])


def _opened(shelf: Paths | None) -> Shelf | None:
    if shelf is None:
        return None
    try:
        return Shelf(shelf)
    except OSError as error:
        log.warning("this process cannot share batches: %s", failure(error))
        return None


def unpacked(
    *, code: dict[str, str], content: dict[str, str], plan: bytes
) -> tuple[Plan | None, str | None]:
    """Return the plan of a cargo, unpickled only if the code is the driver's, and any problem.

    Also sets up this process for training.
    """
    problem = _code_problem(code)
    if problem:
        return None, problem
    unpickled: Plan = pickle.loads(plan)  # noqa: S301  # our own driver's, by its pipe or a Ray with a token
    begin(unpickled.study.threads)
    try:
        unpickled = unpickled.here()
    except (OSError, ValueError) as error:
        return unpickled, failure(error)
    return unpickled, _content_problem(unpickled, content)


def _code_problem(expected: dict[str, str]) -> str | None:
    """Return how the code of this process differs from the driver's, or None."""
    try:
        check_packages()
    except ImportError as error:
        return failure(error)
    return differences(expected, code_fingerprint())


def _content_problem(plan: Plan, expected: dict[str, str]) -> str | None:
    """Return how the data or the user's own code differ from the driver's, or None."""
    try:
        return differences(expected, plan_fingerprint(plan))
    except (OSError, ValueError) as error:
        return failure(error)


def _run_one(
    trial: Trial,
    plan: Plan,
    worker: Worker,
    keep_sec: float,
    shelf: Shelf | None,
    kept: bytes | None,
) -> Done | None:
    """Run one trial, from its kept state if there is one; return its result to hand in.

    Returns None if it failed, which is reported here, and in all but the first worker of a lane.
    """
    world, device = worker.world, worker.device()

    try:
        with undisturbed():
            outcome = _trained(trial, plan, worker, device, keep_sec, shelf, kept)
    except BaseException as error:
        if world.size > 1 and _of_a_collective(error):
            # Another worker ended, or cannot be reached. It has reported why, or the restarted lane
            # will. The trial goes on from its last state.
            log.warning("trial %s: %s", trial.trial_id, failure(error))
            raise
        # Whatever the user's code raises (an exit, an interrupt) ends its trial, not the run.
        worker.ask("fail", trial.trial_id, failure(error), traceback.format_exc())
        if world.size > 1 or ends_cuda(error):
            # The other workers wait in a collective that never completes, or CUDA refuses all
            # further calls of this process: the lane starts again.
            raise
    else:
        return (trial.trial_id, vars(outcome)) if world.rank == 0 else None
    if device.type == "cuda":
        # Return the memory that a batch too large has taken to DALI, and to others on the same GPU.
        # Only now: until the error is gone, its frames hold that memory.
        torch.cuda.empty_cache()
    return None


def _of_a_collective(error: BaseException) -> bool:
    """Return whether an error says that another process of the trial cannot be reached.

    gloo's errors are RuntimeErrors that begin with the name of gloo's source file.
    """
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _trained(
    trial: Trial,
    plan: Plan,
    worker: Worker,
    device: torch.device,
    keep_sec: float,
    shelf: Shelf | None,
    kept: bytes | None,
) -> Outcome:
    """Train and score a trial, from where another process was cut off, if one was."""
    world, told = worker.world, -math.inf

    def watch(epoch: int, score: float | None) -> None:
        nonlocal told
        if world.rank == 0 and monotonic() - told >= EPOCH_SEC:
            told = monotonic()
            worker.tell("renew", epoch, score)

    train = partial(
        run_trial,
        trial,
        plan.data(trial.dataset),
        plan.base,
        device=device,
        world=world,
        watch=watch,
        checkpoint=_Keeper(trial.trial_id, worker, keep_sec),
        shelf=shelf,
    )
    if world.size > 1:
        # All workers need the state that the first one was given.
        shared = [kept]
        dist.broadcast_object_list(shared, device=device)
        kept = shared[0]
    if kept is not None:
        try:
            return train(resume=kept)
        except StateRefused as error:
            log.warning("trial %s starts from the beginning: %s", trial.trial_id, failure(error))
    return train()


class _Keeper:
    """Sends the state of a trial to be kept, after some of its epochs.

    All processes of a trial call it; the first one sends. They agree on when, since their clocks
    and warnings differ.
    """

    def __init__(self, trial_id: str, worker: Worker, keep_sec: float) -> None:
        self._trial_id, self._worker, self._keep_sec = trial_id, worker, keep_sec
        self._last = monotonic()

    def __call__(self, state: TrainingState) -> None:
        due = self._worker.stopping() or monotonic() - self._last >= self._keep_sec
        if not state.any_process(due):
            return
        try:
            packed = state.to_bytes()
        except ValueError as error:  # an optimizer of the user's own may hold anything
            log.warning("if stopped, trial %s must start again: %s", self._trial_id, error)
            self._keep_sec = math.inf
            return
        if self._worker.world.rank == 0:
            self._worker.tell("keep", self._trial_id, packed)
        self._last = monotonic()


@contextmanager
def _leased(tell: Callable[..., None]) -> Iterator[None]:
    """Report regularly that this process is alive, and whether its trial has made a step since."""
    stop = threading.Event()

    def keep() -> None:
        seen = PULSE.count
        while not stop.wait(SPEAK_SEC):
            now = PULSE.count
            tell("alive" if now == seen else "renew")
            seen = now

    threading.Thread(target=keep, daemon=True).start()
    try:
        yield
    finally:
        stop.set()
