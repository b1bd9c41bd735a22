"""The dispatcher: does at the queue what lanes ask for. Knows no Ray."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.execution.mailbox import Call
from bench.execution.trial_queue import Queue
from bench.training.train import Outcome

log = logging.getLogger("medopt.lanes")

# A lane whose workers died this often without taking a trial is on a machine that is broken.
STARTS = 3


@dataclass
class Dispatcher:
    """Does at the queue what lanes ask for. `say(number, value)` answers an `ask`."""

    queue: Queue
    say: Callable[[int, Any], None]
    ended: dict[str, str] = field(default_factory=dict)
    _waiting: dict[str, int] = field(default_factory=dict)
    _starts: Counter[str] = field(default_factory=Counter)

    def serve(self, heard: Iterable[Call]) -> None:
        """Do what was heard, then hand out trials to the lanes that wait for one.

        Raises ValueError for a call that is not known.
        """
        # Renewals first: the leases ran on while this process was busy writing.
        for call in sorted(heard, key=lambda call: call.name != "renew"):
            if call.name == "take":
                assert call.number is not None
                self._waiting[call.lane] = call.number
                continue
            self._do(call)
            if call.number is not None:
                self.say(call.number, None)
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

    def _do(self, call: Call) -> None:
        known: dict[str, Callable[..., None]] = {
            "back": self._back,
            "unfit": self._unfit,
            "renew": self.queue.renew,
            "finish": self._finish,
            "fail": self._fail,
        }
        if call.name not in known:
            raise ValueError(
                f"{call.lane} asks for {call.name!r}; the choices are take, {', '.join(known)}"
            )
        known[call.name](call.lane, *call.values)

    def _back(self, lane: str) -> None:
        """Note that a lane's workers started: for the first time, or again after one died."""
        self._waiting.pop(lane, None)
        self.queue.back(lane)
        self._starts[lane] += 1
        if self._starts[lane] > STARTS:
            self._unfit(lane, f"its workers died {STARTS} times before they took a trial")

    def _unfit(self, lane: str, why: str) -> None:
        if lane not in self.ended:
            log.error("%s ends: %s", lane, why)
            self.ended[lane] = why

    def _finish(self, lane: str, trial_id: str, outcome: dict[str, Any]) -> None:
        self.queue.finish(lane, trial_id, Outcome(**outcome))

    def _fail(self, lane: str, trial_id: str, why: str, trace: str) -> None:
        log.error("trial %s failed on %s\n%s", trial_id, lane, trace)
        self.queue.fail(lane, trial_id, why)
