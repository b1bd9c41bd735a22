"""Lanes that follow a cluster: how many there is room for, and which will lose their machine."""

import logging
import math
from collections.abc import Callable, Collection, Sequence
from time import monotonic

from bench.execution.ray.cluster import LaneSize, Machine, workers_in

log = logging.getLogger("medopt.lanes")

# How often a lane is warned whose machine is about to leave: so much of its trial is lost, and the
# epoch it is in. Clouds give half a minute (Google, Azure) or two (Amazon).
WARN_SEC = 20.0


class Following:
    """How many lanes to start as machines come and go; `most` lanes, None for as many as fit.

    A lane whose machine has left waits for another and counts until it ends. One that ended on
    machines that are still there is not started again: it would end so once more.
    """

    def __init__(
        self,
        size: LaneSize,
        most: int | None,
        machines: Callable[[], Sequence[Machine]],
        ask: Callable[[int, int], None],
    ) -> None:
        """`machines` gives those there are, `ask(lanes, more)` asks for more lanes than those."""
        self._size, self._most, self._machines, self._ask = size, most, machines, ask
        self._counted = self._room = 0

    def more(self, living: int, pending: int) -> int:
        """Return how many lanes to start now, where so many live and so many trials are left."""
        self._room = workers_in(self._machines(), self._size) // self._size.workers
        wanted = min(pending, self._most or pending)
        new = max(min(wanted, self._room) - self._counted, 0)
        self._counted += new
        lanes = max(living + new, self._counted)
        self._ask(lanes, max(wanted - lanes, 0))
        return new

    def ended(self, living: int) -> None:
        """Note that a lane ended and so many live: of one whose machine left the place is free."""
        self._counted = max(min(self._counted, self._room), living)


class Leaving:
    """Warns lanes whose machines are about to leave, every WARN_SEC, so that they keep states."""

    def __init__(self, warn: Callable[[set[str]], object]) -> None:
        """`warn` lets some lanes know."""
        self._warn = warn
        self._warned: dict[str, float] = {}

    def __call__(self, lanes: Collection[str]) -> None:
        """Warn those of the lanes, all that are on such machines, whose turn it is."""
        now = monotonic()
        self._warned = {lane: at for lane, at in self._warned.items() if lane in lanes}
        due = {lane for lane in lanes if now - self._warned.get(lane, -math.inf) >= WARN_SEC}
        if due:
            log.warning("%s: its machine is about to leave", ", ".join(sorted(due)))
            self._warn(due)
            self._warned |= dict.fromkeys(due, now)
