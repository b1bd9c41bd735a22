"""The autoscaler of a cluster: whether there is one, what it is asked for, and what it cannot give.

Ray is imported late, as in bench.execution.ray.cluster.
"""

import logging
import math
import uuid
from contextlib import suppress
from time import monotonic, sleep
from typing import Any

from bench.core.references import StudyError
from bench.execution.ray.cluster import LaneSize, Machine, machines_of_cluster, of_head, workers_in

log = logging.getLogger("medopt.lanes")

# Lanes asked for at once, at most: an autoscaler fits them into machines one by one. Assumption.
MOST_ASKED = 1000
# It looks around every five seconds: what it says of an asking, it has said by then. Assumption.
ANSWER_SEC = 12.0
# So often in a row it must refuse a single lane before a run believes it. Assumption.
REFUSALS = 4
# How often an asking is repeated, and for how long it stands where the one who asked has died.
REPEAT_SEC, STANDS_SEC = 20.0, 60.0
# What it could not give is asked for again after so long: someone may have let it grow. Assumption.
FORGET_SEC = 600.0
# A rented machine comes in minutes, and one that installs 7 GB in more. Assumption.
FIRST_SEC = 30 * 60.0
LOOK_SEC = 1.0


def there_is_one() -> bool:
    """Return whether the cluster has an autoscaler: Ray's second, since the first says little."""
    return bool(_state().autoscaler_state_version)


def _state() -> Any:
    """Return what the autoscaler told last: Ray's AutoscalingState, empty where there is none.

    Raises LanesLost where the head does not answer.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without stubs
    from ray.core.generated.autoscaler_pb2 import (  # type: ignore[attr-defined]  # made at import
        GetClusterStatusReply,
    )

    head = ray.get_runtime_context().gcs_address
    reply = GetClusterStatusReply()
    reply.ParseFromString(of_head(lambda: GcsClient(head).get_cluster_status(timeout_s=10)))
    return reply.autoscaling_state


class Asking:
    """What this run asks of an autoscaler: room for as many lanes as it may bring.

    By Ray's coordinator, which adds up what all runs ask for, Ray Train's lanes among them. What
    is asked in all is given whole or not at all: asked for more than a cluster may grow to, it
    brings nothing. So it is asked for twice as many lanes as it could give until it cannot, then
    for half of what is between. An asking that is not repeated ends by itself.
    """

    def __init__(self, size: LaneSize) -> None:
        self._size = size
        self._name = f"medopt-{uuid.uuid4().hex}"
        self._coordinator: Any = None
        self._asked = 0
        # Since when the same is asked, when it was asked last, and when it will have been answered.
        self._since = self._repeated = self._answered = -math.inf
        # Of lanes in all: the most that it could give, and the fewest that it could not.
        self._could, self._could_not = 0, math.inf
        self._refused_one = 0

    def ask(self, lanes: int, more: int) -> None:
        """Ask for room for `more` lanes beside those there are, or for as many as there can be.

        Called every few seconds; 0 takes back what was asked.
        """
        now = monotonic()
        self._could = max(self._could, lanes)
        if not more:
            if self._asked:
                self._send(0)
            return
        if not self._asked or now >= self._answered:
            if self._asked:
                self._learn(now)
            self._answered = now + ANSWER_SEC
            asked = self._next(lanes + more)
            if asked != self._asked:
                self._since = now
            self._send(asked, beside=lanes)
        elif now - self._repeated >= REPEAT_SEC:
            self._send(self._asked, beside=lanes)

    def hopeless(self) -> bool:
        """Return whether it has said again and again that it cannot give room for a single lane.

        Once is not enough: what other runs ask for may be what it cannot give.
        """
        return self._refused_one >= REFUSALS

    def close(self) -> None:
        """Take back what was asked, and see that it is; a Ray that is gone has forgotten it."""
        import ray

        if self._coordinator is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._coordinator.cancel_request.remote(self._name), timeout=5)

    def _learn(self, now: float) -> None:
        """Note what it said of what was asked."""
        refused = bool(_state().infeasible_cluster_resource_constraints)
        self._refused_one = self._refused_one + 1 if refused and self._asked == 1 else 0
        if refused:
            self._could_not = min(self._could_not, self._asked)
        else:
            self._could = max(self._could, self._asked)
        if now - self._since >= FORGET_SEC:
            self._could_not = math.inf

    def _next(self, wanted: int) -> int:
        """Return for how many lanes in all to ask."""
        if self._could_not == math.inf:
            return min(max(2 * self._could, 1), wanted, MOST_ASKED)
        between = (self._could + int(self._could_not)) // 2
        return min(max(between, 1), wanted, MOST_ASKED)

    def _send(self, lanes: int, beside: int = 0) -> None:
        """Ask for so many lanes in all, of which Ray Train asks for those `beside`."""
        if self._coordinator is None:
            from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
                get_or_create_autoscaling_coordinator,
            )

            self._coordinator = of_head(get_or_create_autoscaling_coordinator)
        self._asked, self._repeated = lanes, monotonic()
        workers = max(lanes - beside, 0) * self._size.workers
        if workers:
            self._coordinator.request_resources.remote(
                requester_id=self._name,
                resources=[self._size.resources] * workers,
                expire_after_s=STANDS_SEC,
            )
        else:
            self._coordinator.cancel_request.remote(self._name)


def first_machine(size: LaneSize) -> list[Machine]:
    """Ask an autoscaler for a machine that holds one lane, and wait until there is one.

    Returns the machines of the cluster then, or none where it has no such kind. Raises StudyError
    if none comes within FIRST_SEC.
    """
    log.warning("no machine of the cluster holds a lane: its autoscaler is asked for one (minutes)")
    asking, begun = Asking(size), monotonic()
    try:
        while workers_in(machines := machines_of_cluster(), size) < size.workers:
            asking.ask(0, 1)
            if asking.hopeless():
                return []
            if monotonic() - begun > FIRST_SEC:
                raise StudyError(
                    f"lanes: no machine has come within {FIRST_SEC / 60:.0f} min. Look at what the "
                    f"autoscaler says: `ray status`."
                )
            sleep(LOOK_SEC)
        return machines
    finally:
        asking.close()
