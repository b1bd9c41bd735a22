"""Follows a cluster: how many lanes it has room for, and which lanes will lose their machine."""

import logging
import math
from collections.abc import Callable, Collection, Sequence
from time import monotonic

from bench.execution.ray.cluster import LaneSize, Machine, workers_in

log = logging.getLogger("medopt.lanes")

# How often to warn a lane whose machine is about to leave: its trial loses at most this much and
# its current epoch. Clouds give half a minute's notice (Google, Azure) or two minutes' (Amazon).
WARN_SEC = 20.0


class Following:
    """How many lanes to start as machines come and go: at most `most`, None for as many as fit.

    A lane whose machine has left waits for another and counts until it ends. One that ended on
    machines that are still there is not started again: it would end the same way.
    """

    def __init__(
        self,
        size: LaneSize,
        most: int | None,
        machines: Callable[[], Sequence[Machine]],
        ask: Callable[[int, int], None],
    ) -> None:
        """`machines` returns the present ones; `ask(lanes, more)` requests `more` lanes."""
        self._size, self._most, self._machines, self._ask = size, most, machines, ask
        self._counted = self._room = 0

    def more(self, living: int, pending: int) -> int:
        """Return how many lanes to start now, given the living ones and the pending trials."""
        self._room = workers_in(self._machines(), self._size) // self._size.workers
        wanted = min(pending, self._most or pending)
        new = max(min(wanted, self._room) - self._counted, 0)
        self._counted += new
        lanes = max(living + new, self._counted)
        self._ask(lanes, max(wanted - lanes, 0))
        return new

    def ended(self, living: int) -> None:
        """Note that a lane ended; if its machine has left, another lane may take its place."""
        self._counted = max(min(self._counted, self._room), living)


class Leaving:
    """Warns lanes whose machines are about to leave, every WARN_SEC, so that they keep states."""

    def __init__(self, warn: Callable[[set[str]], object]) -> None:
        """`warn` warns a set of lanes."""
        self._warn = warn
        self._warned: dict[str, float] = {}

    def __call__(self, lanes: Collection[str]) -> None:
        """Warn those lanes that are due; `lanes` are all lanes on leaving machines."""
        now = monotonic()
        self._warned = {lane: at for lane, at in self._warned.items() if lane in lanes}
        due = {lane for lane in lanes if now - self._warned.get(lane, -math.inf) >= WARN_SEC}
        if due:
            log.warning("%s: its machine is about to leave", ", ".join(sorted(due)))
            self._warn(due)
            self._warned |= dict.fromkeys(due, now)
