"""The runner without Ray: trials side by side on this machine, in child processes.

This process keeps the queue, the lock and the files. Trials, with any code of the user's own, train
in children (bench.execution.child), each one trial after the other. If a trial ends its process, or
hangs, another process takes its place, and the others go on.
"""

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import wait
from time import monotonic
from typing import Any

from bench.core.processes import Beside, starting
from bench.execution.dispatcher import (
    GRACE_SEC,
    STARTS,
    WORTH_SEC,
    Dispatcher,
    LanesLost,
    Place,
)
from bench.execution.mailbox import Call
from bench.execution.trial_queue import HUNG_MINUTES, Progress, Queue, Telling
from bench.execution.worker import KEEP_SEC, cargo_of, shelf_for
from bench.planning.plan import Plan
from results import text

log = logging.getLogger("medopt.lanes")

# The name in the results of the process that trains; if there are several, each has a number too.
LANE = "process"
# How often to check whether children are alive, and to update the display.
LOOK_SEC = 0.5

_CHILD = starting("bench.execution.child")


@dataclass
class _Lane:
    """A child, when it was started, and the number of starts since this lane last took a trial.

    `since` is inf once it has asked for a trial: it may wait for us while another trains alone.
    """

    child: Beside
    since: float
    starts: int


def run_here(
    plan: Plan,
    queue: Queue,
    changed: Callable[[Progress], None],
    *,
    lanes: int = 1,
    hung_minutes: float = HUNG_MINUTES,
    keep_sec: float = KEEP_SEC,
) -> None:
    """Run every trial of the queue, `lanes` at a time; `changed` is called at each step.

    A trial that fails is recorded as failed and the run goes on; so is one that ends its process
    KILLS times, or makes no step for `hung_minutes` as often. One that ended its process is tried
    again with no other beside it. States of trials are kept every `keep_sec` and when the run is
    stopped; a trial that was cut off goes on from its last state.

    Raises OSError if results cannot be written, LanesLost if no process can be started that takes a
    trial, and KeyboardInterrupt; finished trials are on disk in each case.
    """
    queue.one_memory = True
    queue.died_before(LANE)
    changed(queue.progress())
    if not queue.pending():
        return
    Here(plan, queue, min(lanes, queue.pending()), hung_minutes, keep_sec).run(changed)


class Here:
    """The processes of this machine that train a queue's trials."""

    def __init__(
        self, plan: Plan, queue: Queue, lanes: int, hung_minutes: float, keep_sec: float
    ) -> None:
        """Start `lanes` of them."""
        self._queue, self._hung_sec = queue, hung_minutes * 60
        self._log = queue.folder / "log.txt"
        self._open = ExitStack()
        self._cargo = {
            "folder": str(queue.folder.absolute()),
            "shelf": self._open.enter_context(shelf_for(queue, lanes)),
            "device": plan.study.device,
            "keep_sec": keep_sec,
            **cargo_of(plan),
        }
        # Otherwise each would have a thread for every core, and a loader beside its steps.
        threads = {"OMP_NUM_THREADS": str(plan.study.threads or 1)}
        self._environment: Mapping[str, str] = threads if lanes > 1 else {}
        self._numbers = itertools.count()
        # Number of each call that awaits an answer -> its lane.
        self._asked: dict[int, str] = {}
        self._lost: dict[str, None] = {}
        self._dispatcher = Dispatcher(
            queue,
            self._say,
            answers=lambda _places: True,
            kill=self._kill,
            hung_minutes=hung_minutes,
        )
        self._lanes: dict[str, _Lane] = {}
        names = [LANE] if lanes == 1 else [f"{LANE} {n}" for n in range(1, lanes + 1)]
        try:
            for name in names:
                self._lanes[name] = self._started(name, 1)
        except BaseException:
            self._end()
            raise

    def run(self, changed: Callable[[Progress], None]) -> None:
        """Serve them until every trial has a result, and end them; raises as `run_here`."""
        telling = Telling(self._queue, changed)
        try:
            while self._queue.pending():
                self._serve()
                telling()
            telling.last()
        except KeyboardInterrupt:
            self._let_keep()
            raise
        finally:
            self._end()

    def _serve(self) -> None:
        """Wait for the children's calls, serve them, and replace each child that has ended."""
        children = [lane.child for lane in self._lanes.values()]
        living = [child.fileno() for child in children if not child.ended()]
        wait(living, LOOK_SEC if len(living) == len(self._lanes) else 0)
        heard, over = [], []
        for name, lane in self._lanes.items():
            if lane.starts and monotonic() - lane.since > self._hung_sec:
                lane.child.end()  # it hangs before taking a trial
            # Checked before its messages are read, so that the last ones are not lost.
            if lane.child.ended():
                over.append(name)
            heard += self._heard(name)
        self._dispatcher.serve(heard)
        for name in over:
            self._replace(name)

    def _heard(self, name: str) -> list[Call]:
        lane, heard = self._lanes[name], []
        for number, call, values in lane.child.heard(0, lambda *said: said):
            if call == "take":
                lane.since = math.inf
            if call == "begun":
                lane.starts = 0
            heard.append(Call(None if number is None else self._asks(name), name, call, values))
        return heard

    def _let_keep(self) -> None:
        """Wait a little for states or results of trials that have trained for long."""
        waiting = {n for n in self._lanes if self._queue.in_hand_for(n) >= WORTH_SEC}
        for name in waiting:
            self._lanes[name].child.warn()
        until = monotonic() + GRACE_SEC
        while waiting and monotonic() < until:
            living = [self._lanes[name].child for name in waiting]
            wait([child.fileno() for child in living if not child.ended()], LOOK_SEC)
            for name in sorted(waiting):
                over = self._lanes[name].child.ended()
                if self._dispatcher.last_words(self._heard(name)) or over:
                    waiting.remove(name)

    def _asks(self, name: str) -> int:
        """Return a number, unique among lanes, for a call that awaits an answer."""
        number = next(self._numbers)
        self._asked[number] = name
        return number

    def _say(self, number: int, value: Any) -> None:
        name = self._asked.pop(number)
        if value is not None:  # a trial and its state
            self._queue.attempts.begin(name, value[0])
        self._lanes[name].child.say(value)

    def _kill(self, places: Sequence[Place]) -> None:
        processes = {process for _machine, process in places}
        for lane in self._lanes.values():
            if lane.child.number in processes:
                lane.child.end()

    def _replace(self, name: str) -> None:
        """Note how a child ended, and start another unless its lane is given up."""
        lane = self._lanes[name]
        how = lane.child.end()
        self._queue.attempts.end(name)
        self._dispatcher.died(name, f"it ended its process ({how})")
        if not self._queue.pending():
            return
        why = self._dispatcher.ended.get(name)
        if why is None and lane.starts == STARTS:
            why = (
                f"the training process ended {STARTS} times before it took a trial ({how}); "
                f"see {self._log}"
            )
        if why is None:
            self._lanes[name] = self._started(name, lane.starts + 1)
            return
        self._lost[why] = None
        del self._lanes[name]
        if not self._lanes:
            raise LanesLost(
                f"{text.count(self._queue.pending(), 'trial')} left unfinished: "
                f"{'; '.join(self._lost)}"
            )
        log.error("%s ends, the others go on: %s", name, why)

    def _started(self, name: str, starts: int) -> _Lane:
        with self._log.open("ab") as output:
            child = Beside(
                _CHILD, {**self._cargo, "lane": name}, output.fileno(), self._environment
            )
        return _Lane(child=child, since=monotonic(), starts=starts)

    def _end(self) -> None:
        for name, lane in self._lanes.items():
            lane.child.end()
            self._queue.attempts.end(name)
        self._open.close()
