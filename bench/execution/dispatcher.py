"""The dispatcher: serves the lanes' calls on the queue, and ends lanes that hang. Knows no Ray."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from bench.execution.mailbox import Call
from bench.execution.trial_queue import HUNG_MINUTES, LEASE_SEC, Queue
from bench.training.train import Outcome

log = logging.getLogger("medopt.lanes")

# If a lane's workers died this often without taking a trial, its machine is broken.
STARTS = 3
# Trials of at least this length are on disk before their lane goes on; shorter ones a moment later,
# so that a thousand lanes need not wait for the disk. Assumption: what a user would mind losing.
DEAR_SEC = 60.0

# When a run is stopped, trials that have trained for WORTH_SEC may finish their epoch and have
# their state kept, but the run waits at most GRACE_SEC: schedulers usually give 30 s. Assumption.
WORTH_SEC = 20.0
GRACE_SEC = 10.0

# Where a worker of a lane runs: the machine, by Ray's name, and its process.
Place: TypeAlias = tuple[str, int]


class LanesLost(OSError):  # noqa: N818  # what happened to the machines, as the OSErrors of a disk
    """No lane is left to run what is unfinished; what is finished is on disk."""


@dataclass
class Dispatcher:
    """Serves the lanes' calls on the queue. `say(number, value)` answers an `ask`.

    `answers(places)` says whether every machine of a lane still answers. `kill(places)` ends the
    processes of a lane whose trial has made no step for `hung_minutes`.
    """

    queue: Queue
    say: Callable[[int, Any], None]
    answers: Callable[[Sequence[Place]], bool]
    kill: Callable[[Sequence[Place]], None]
    hung_minutes: float = HUNG_MINUTES
    ended: dict[str, str] = field(default_factory=dict)
    spoken: set[str] = field(default_factory=set)
    _waiting: dict[str, int] = field(default_factory=dict)
    # Lanes that have confirmed the trial which they hold.
    _begun: set[str] = field(default_factory=set)
    _starts: Counter[str] = field(default_factory=Counter)
    _places: dict[str, list[Place]] = field(default_factory=dict)

    def serve(self, heard: Iterable[Call]) -> None:
        """Serve the calls, look for lanes that are lost or hang, and hand out trials.

        Raises ValueError for an unknown call.
        """
        # Signs of life first: time has passed while this process was busy writing.
        heard = list(heard)
        self.spoken.update(call.lane for call in heard)
        done: list[Call] = []
        for call in sorted(heard, key=lambda call: call.name not in ("renew", "alive")):
            if call.name == "take":
                assert call.number is not None
                self._waiting[call.lane] = call.number
                if call.values:
                    done.append(call)
                continue
            if call.name in ("back", "fail"):
                # Calls of a lane after its result are about another trial.
                self._receive(done)
                done = []
            self._do(call)
            if call.number is not None:
                self.say(call.number, None)
        self._receive(done)
        # Lanes go on while results are written.
        self._hand_out()
        self.queue.write_due()
        self._judge()
        self._hand_out()

    def last_words(self, heard: Iterable[Call]) -> set[str]:
        """Take in the last calls of a run that is being stopped; return the lanes they came from.

        Only results, states and failures count: other calls are for a run that goes on.
        """
        left: set[str] = set()
        for call in heard:
            if call.name == "take" and call.values:
                self._receive([call])
            elif call.name in ("keep", "fail"):
                self._do(call)
            else:
                continue
            left.add(call.lane)
        return left

    def _hand_out(self) -> None:
        """Give waiting lanes a trial, or send them home if none is left."""
        home = self._waiting.keys() & self.ended if self.queue.pending() else [*self._waiting]
        for lane in home:
            self.say(self._waiting.pop(lane), None)
        for lane in [*self._waiting]:
            lease = self.queue.take(lane)
            if lease is None:  # then there is none for the others either
                break
            self._begun.discard(lane)
            trial_id = lease.trial.trial_id
            self.say(self._waiting.pop(lane), (trial_id, self.queue.kept(trial_id)))

    def lanes_on(self, machines: Collection[str]) -> set[str]:
        """Return the lanes that have a worker on one of these machines."""
        return {
            lane
            for lane, places in self._places.items()
            if any(machine in machines for machine, _process in places)
        }

    def died(self, lane: str, why: str) -> None:
        """Note that a lane's process ended, and count that against the trial that it held.

        It is not counted if the process died, or hung, before it knew of the trial.
        """
        self._waiting.pop(lane, None)
        if lane in self._begun:
            self.queue.died(lane, why)
        else:
            self.queue.give_back(lane)

    def lost(self, lane: str, why: str) -> None:
        """Note that a lane will not come back."""
        self._waiting.pop(lane, None)
        self.queue.give_back(lane)
        self._unfit(lane, why)

    def _judge(self) -> None:
        for lane in self.queue.unheard(LEASE_SEC):
            if not self.answers(self._places.get(lane, ())):
                self.queue.give_back(lane)
        for lane in self.queue.still(self.hung_minutes * 60):
            self.kill(self._places.get(lane, ()))
            self.died(lane, f"it hung (no step in {self.hung_minutes:g} min)")

    def _do(self, call: Call) -> None:
        known: dict[str, Callable[..., None]] = {
            "back": self._back,
            "here": self._here,
            "begun": self._note_begun,
            "unfit": self._unfit,
            "alive": self.queue.alive,
            "renew": self.queue.renew,
            "keep": self.queue.keep,
            "fail": self._fail,
        }
        if call.name not in known:
            raise ValueError(
                f"{call.lane} called {call.name!r}; the choices are take, {', '.join(known)}"
            )
        known[call.name](call.lane, *call.values)

    def _back(self, lane: str) -> None:
        """Note that a lane's workers started, for the first time or again after one died."""
        places = self._places.pop(lane, [])
        if not self.queue.holds(lane):
            self._waiting.pop(lane, None)
        elif self.answers(places):
            self.died(lane, "the lane died during it")
        else:
            # The machine was lost, and the trial with it: not the trial's fault.
            self._waiting.pop(lane, None)
            self.queue.give_back(lane)
        self._starts[lane] += 1
        if self._starts[lane] > STARTS:
            self._unfit(lane, f"its workers died {STARTS} times before they took a trial")

    def _here(self, lane: str, machine: str, process: int, host: str = "") -> None:
        self._places.setdefault(lane, []).append((machine, process))
        self.queue.hosts[lane] = host

    def _note_begun(self, lane: str, trial_id: str) -> None:
        """Note that a lane knows of its trial, which is now responsible for its process."""
        if self.queue.holds(lane, trial_id):
            self._begun.add(lane)
        self._starts[lane] = 0

    def _unfit(self, lane: str, why: str) -> None:
        if lane not in self.ended:
            log.error("%s ends: %s", lane, why)
            self.ended[lane] = why

    def _receive(self, calls: Sequence[Call]) -> None:
        """Take in the results that lanes sent with their calls."""
        late = not all(self.queue.holds(call.lane, call.values[0]) for call in calls)
        dear = any(call.values[1]["trial"]["wall_sec"] >= DEAR_SEC for call in calls)
        self.queue.receive(
            [(call.lane, call.values[0], Outcome(**call.values[1])) for call in calls]
        )
        if late or dear:
            # If its lane was taken for lost, the trial waits to be handed out again: prevent that.
            self.queue.flush()

    def _fail(self, lane: str, trial_id: str, why: str, trace: str) -> None:
        log.error("trial %s failed on %s\n%s", trial_id, lane, trace)
        self.queue.fail(lane, trial_id, why)
