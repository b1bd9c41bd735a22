"""The runner without Ray: one trial after the other, in one process beside this one.

This process keeps the queue, the lock and the files; the trials of a study, with whatever code of
the user's own they run, train in a child (bench.execution.child). A trial that ends its process,
or hangs, costs that process: the next one goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from bench.core.processes import Beside, starting
from bench.execution.dispatcher import STARTS, Dispatcher, LanesLost, Place
from bench.execution.mailbox import Call
from bench.execution.trial_queue import HUNG_MINUTES, Progress, Queue
from bench.execution.worker import cargo_of
from bench.planning.plan import Plan

LANE = "process"
# How often one looks whether the child lives, and the display is told.
LOOK_SEC = 0.5

_CHILD = starting("bench.execution.child")


def _call(number: int | None, name: str, values: tuple[Any, ...]) -> Call:
    return Call(number, LANE, name, values)


def _child(cargo: Mapping[str, Any], log: Path) -> Beside:
    with log.open("ab") as output:
        return Beside(_CHILD, cargo, output.fileno())


def run_here(
    plan: Plan,
    queue: Queue,
    changed: Callable[[Progress], None],
    *,
    hung_minutes: float = HUNG_MINUTES,
) -> None:
    """Run every trial of the queue, one at a time; `changed` hears of each step.

    A trial that breaks is written down as failed and the run goes on; so is one that ends its
    process KILLS times, or makes no step for `hung_minutes` as often. Raises OSError where results
    cannot be written, LanesLost where no process can be started that takes a trial, and
    KeyboardInterrupt; what is finished is on disk in each case.
    """
    queue.died_before(LANE)
    changed(queue.progress())
    if not queue.pending():
        return
    cargo = {
        "folder": str(queue.folder.absolute()),
        "device": plan.study.device,
        **cargo_of(plan),
    }
    log = queue.folder / "log.txt"
    child, since = _child(cargo, log), monotonic()
    starts = 1

    def say(_number: int, value: Any) -> None:
        nonlocal starts
        if value is not None:
            starts = 0
            queue.attempts.begin(value)
        child.say(value)

    def kill(_places: Sequence[Place]) -> None:
        child.end()

    dispatcher = Dispatcher(
        queue, say, answers=lambda _places: True, kill=kill, hung_minutes=hung_minutes
    )
    try:
        while queue.pending():
            # Whether it has ended is looked up first: what it said before is heard all the same.
            if starts and monotonic() - since > hung_minutes * 60:
                child.end()  # it hangs before it takes a trial
            over = child.ended()
            dispatcher.serve(child.heard(LOOK_SEC, _call))
            if over:
                how = child.end()
                queue.attempts.end()
                dispatcher.died(LANE, f"it ended its process ({how})")
                if LANE in dispatcher.ended or starts == STARTS:
                    raise LanesLost(_unfinished(queue, dispatcher, how, log))
                starts += 1
                child, since = _child(cargo, log), monotonic()
            changed(queue.progress())
    finally:
        child.end()
        queue.attempts.end()


def _unfinished(queue: Queue, dispatcher: Dispatcher, how: str, log: Path) -> str:
    why = dispatcher.ended.get(LANE)
    if why is None:
        why = f"the process that trains ended {STARTS} times before it took a trial "
        why += f"({how}); see {log}"
    return f"{queue.pending()} trial(s) are unfinished: {why}"
