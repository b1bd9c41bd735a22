"""Lanes that follow a cluster: for how many there is room now, what an autoscaler is asked for.

And which of them are about to lose their machine.

Ray is imported late: it reads its settings from the environment when it is imported.
"""

import logging
import math
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from bench.execution.ray.cluster import LaneSize, Machine, workers_in

log = logging.getLogger("medopt.lanes")

# How often an autoscaler is asked, and for how long an asking stands where the one who asked has
# died: Ray's coordinator forgets it then. Assumption.
ASK_SEC = 20.0
STANDS_SEC = 60.0
# Workers asked for at once, at most: an autoscaler fits them into machines one by one. Assumption.
MOST_ASKED = 1000
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
        ask: Callable[[int], None],
    ) -> None:
        """`machines` gives those there are, `ask` asks for so many workers beside those."""
        self._size, self._most, self._machines, self._ask = size, most, machines, ask
        self._counted = self._room = 0
        self._asked = -math.inf

    def more(self, living: int, pending: int) -> int:
        """Return how many lanes to start now, where so many live and so many trials are left."""
        self._room = workers_in(self._machines(), self._size) // self._size.workers
        wanted = min(pending, self._most or pending)
        new = max(min(wanted, self._room) - self._counted, 0)
        self._counted += new
        now = monotonic()
        if now - self._asked >= ASK_SEC:
            self._asked = now
            missing = max(wanted - max(living + new, self._counted), 0)
            self._ask(min(missing * self._size.workers, MOST_ASKED))
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


class Autoscaler:
    """What this run asks of the autoscaler of a cluster, where it has one.

    By Ray's coordinator, which asks for what all runs want (`ray.autoscaler.sdk.request_resources`
    knows one asking a cluster). Ray Train's lanes ask through it too, so that what is asked beside
    it would stand for 20 s at most. An asking that is not repeated ends by itself.
    """

    def __init__(self, size: LaneSize) -> None:
        self._bundle = size.resources
        self._name = f"medopt-{uuid.uuid4().hex}"
        self._coordinator: Any = None

    def ask(self, workers: int) -> None:
        """Ask for so many workers beside those that lanes have; 0 takes back what was asked."""
        if self._coordinator is None:
            if not workers:
                return
            from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
                get_or_create_autoscaling_coordinator,
            )

            self._coordinator = get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]  # Ray's
        if workers:
            self._coordinator.request_resources.remote(
                requester_id=self._name,
                resources=[self._bundle] * workers,
                expire_after_s=STANDS_SEC,
            )
        else:
            self._coordinator.cancel_request.remote(self._name)

    def close(self) -> None:
        """Take back what was asked, and see that it is; a Ray that is gone has forgotten it."""
        import ray

        if self._coordinator is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._coordinator.cancel_request.remote(self._name), timeout=5)
