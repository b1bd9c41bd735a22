"""A worker: takes trials and runs them, in a lane of Ray or in the process beside a run. No Ray."""

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

# A trial that is cut off loses so many seconds at most, and the epoch that it was in. A state takes
# a second to write where networks are large. Assumption.
KEEP_SEC = 180.0
# How often a lane speaks while it trains: its lease outlives five words that are lost.
SPEAK_SEC = LEASE_SEC / 6
# How often it says how far its trial is: epochs of 5 ms took twice as long where each was told
# (measured, two lanes on two cores), and nobody reads faster.
EPOCH_SEC = 1.0


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What a worker of a lane needs of what carries its words; tests give their own.

    `ask` waits for the answer and `tell` does not; `broadcast` returns the first worker's value to
    all of the lane, `barrier` waits for all of them, `device` is where this one trains. `place` is
    the machine and process that it runs in, `stopping` says, once, that it is about to be ended.
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
    """Return what `take_trials` is given in each worker: plain values, and the plan as bytes.

    A worker whose checkout is another one must be able to say so before it unpickles what is ours.
    """
    return {
        "code": code_fingerprint(),
        "content": plan_fingerprint(plan),
        "plan": pickle.dumps(plan),
    }


def shelf_for(queue: Queue, lanes: int) -> AbstractContextManager[Paths | None]:
    """Give the paths of a shelf (loaders.batches.shelf) for lanes of this machine, or None.

    None but where the rows say that others trained beside a trial: of a trial alone, by which
    prices go, every second is its own.
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

    Every `keep_sec` of a trial its state is sent to be kept, and one that was kept is gone on from.
    `code` and `content` are the driver's fingerprints, `plan` is its plan, pickled, which a worker
    unpickles only if its code is the driver's. The first worker of a lane speaks for it; the others
    hear from it which trial is next. A worker that differs says so, and the lane gets no trial.
    `shelf` are the paths of the one on which this machine's lanes share batches, None: they do not.
    """
    first = worker.world.rank == 0
    if first:
        worker.ask("back")
    worker.barrier()
    worker.tell("here", *worker.place, socket.gethostname())
    unpickled, problem = unpacked(code=code, content=content, plan=plan)
    if problem:
        worker.ask("unfit", f"{socket.gethostname()}: {problem}")
    # No trial is taken before every worker of the lane had its say; of an unfit lane none is.
    worker.barrier()
    batches = _opened(shelf)
    done: Done | None = None
    with _leased(worker.tell):
        while True:
            # One word and one answer between two trials: what came of one, and the next.
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
        log.warning("this process shares no batches: %s", failure(error))
        return None


def unpacked(
    *, code: dict[str, str], content: dict[str, str], plan: bytes
) -> tuple[Plan | None, str | None]:
    """Return the plan of a cargo, unpickled only by the driver's own code, and what is amiss.

    Sets this process up to train.
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
    """Say why the code of this process is not the driver's, or return None."""
    try:
        check_packages()
    except ImportError as error:
        return failure(error)
    return differences(expected, code_fingerprint())


def _content_problem(plan: Plan, expected: dict[str, str]) -> str | None:
    """Say how the data or a user's own code differ from the driver's, or return None."""
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
    """Run one trial, from its kept state if there is one; return what is to be handed in.

    None where it broke, which is said here, and from all but the first worker of a lane.
    """
    world, device = worker.world, worker.device()

    try:
        with undisturbed():
            outcome = _trained(trial, plan, worker, device, keep_sec, shelf, kept)
    except BaseException as error:
        if world.size > 1 and _of_a_collective(error):
            # Another worker ended, or is out of reach: it has said why, or the lane that starts
            # again does. The trial goes on from its last state.
            log.warning("trial %s: %s", trial.trial_id, failure(error))
            raise
        # Whatever a user's code raises (an exit, an interrupt) is its trial's end, not the run's.
        worker.ask("fail", trial.trial_id, failure(error), traceback.format_exc())
        if world.size > 1 or ends_cuda(error):
            # The other workers wait in a collective that will not come, or CUDA refuses all that
            # this process asks of it: the lane starts again.
            raise
    else:
        return (trial.trial_id, vars(outcome)) if world.rank == 0 else None
    if device.type == "cuda":
        # What a batch too large has taken is others' again: DALI's, and of those that share the
        # card. Not before the error is gone, whose frames hold it.
        torch.cuda.empty_cache()
    return None


def _of_a_collective(error: BaseException) -> bool:
    """Whether an error says that another process of the trial is gone or cannot be reached.

    gloo's are RuntimeErrors that begin with the file of gloo that raised them.
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
    """Train and score a trial, from where another process was cut off in it, if one was."""
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
        # What the first worker was given is all workers'.
        shared = [kept]
        dist.broadcast_object_list(shared, device=device)
        kept = shared[0]
    if kept is not None:
        try:
            return train(resume=kept)
        except StateRefused as error:
            log.warning("trial %s starts anew: %s", trial.trial_id, failure(error))
    return train()


class _Keeper:
    """Sends the state of a trial to be kept, after an epoch, now and then.

    All processes of a trial call it; the first one sends. When is agreed on, since their clocks and
    warnings differ.
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
            log.warning("a stop in trial %s costs all of it: %s", self._trial_id, error)
            self._keep_sec = math.inf
            return
        if self._worker.world.rank == 0:
            self._worker.tell("keep", self._trial_id, packed)
        self._last = monotonic()


@contextmanager
def _leased(tell: Callable[..., None]) -> Iterator[None]:
    """Say now and then that this process lives, and whether its trial has made a step since."""
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
