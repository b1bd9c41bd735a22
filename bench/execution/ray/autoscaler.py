"""A cluster's autoscaler: whether there is one, what to request, and what it cannot provide.

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

# Most lanes to request at once: an autoscaler fits them into machines one by one. Assumption.
MOST_ASKED = 1000
# It updates every five seconds, so by then it has answered a request. Assumption.
ANSWER_SEC = 12.0
# How often in a row it must refuse a single lane before a run believes it. Assumption.
REFUSALS = 4
# How often a request is repeated, and how long it stays valid if its process dies.
REPEAT_SEC, STANDS_SEC = 20.0, 60.0
# A refused request is made again after this time: the limit may have been raised. Assumption.
FORGET_SEC = 600.0
# A rented machine takes minutes to come, more if it installs 7 GB. Assumption.
FIRST_SEC = 30 * 60.0
LOOK_SEC = 1.0


def there_is_one() -> bool:
    """Return whether the cluster has an autoscaler: Ray's second, since the first says little."""
    return bool(_state().autoscaler_state_version)


def _state() -> Any:
    """Return the autoscaler's last state, Ray's AutoscalingState, empty if there is none.

    Raises LanesLost if the head does not answer.
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
    """This run's requests to an autoscaler, for as many lanes as it can provide.

    They go through Ray's coordinator, which adds up the requests of all runs, including Ray Train's
    lanes. The sum is met whole or not at all: if it exceeds what the cluster may grow to, nothing
    comes. So the request doubles until it is refused, and then bisects. A request that is not
    repeated expires.
    """

    def __init__(self, size: LaneSize) -> None:
        self._size = size
        self._name = f"medopt-{uuid.uuid4().hex}"
        self._coordinator: Any = None
        self._asked = 0
        # When this request was first made, when it was last repeated, and when it will be answered.
        self._since = self._repeated = self._answered = -math.inf
        # Lanes in all: the most that it could provide, and the fewest that it could not.
        self._could, self._could_not = 0, math.inf
        self._refused_one = 0

    def ask(self, lanes: int, more: int) -> None:
        """Request room for `more` lanes beside the existing ones, or for as many as possible.

        Called every few seconds; 0 cancels the request.
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
        """Return whether it has refused a single lane again and again.

        Once is not enough: the request of another run may be what it cannot meet.
        """
        return self._refused_one >= REFUSALS

    def close(self) -> None:
        """Cancel the request and wait for that; a Ray that is gone has forgotten it."""
        import ray

        if self._coordinator is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._coordinator.cancel_request.remote(self._name), timeout=5)

    def _learn(self, now: float) -> None:
        """Note how it answered the request."""
        refused = bool(_state().infeasible_cluster_resource_constraints)
        self._refused_one = self._refused_one + 1 if refused and self._asked == 1 else 0
        if refused:
            self._could_not = min(self._could_not, self._asked)
        else:
            self._could = max(self._could, self._asked)
        if now - self._since >= FORGET_SEC:
            self._could_not = math.inf

    def _next(self, wanted: int) -> int:
        """Return how many lanes in all to request."""
        if self._could_not == math.inf:
            return min(max(2 * self._could, 1), wanted, MOST_ASKED)
        between = (self._could + int(self._could_not)) // 2
        return min(max(between, 1), wanted, MOST_ASKED)

    def _send(self, lanes: int, beside: int = 0) -> None:
        """Request so many lanes in all; Ray Train itself requests those `beside`."""
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
    """Request a machine that holds one lane, and wait until there is one.

    Returns the cluster's machines then, or none if it has no such kind. Raises StudyError if none
    comes within FIRST_SEC.
    """
    log.warning("no machine of the cluster has room for a lane: asking its autoscaler (minutes)")
    asking, begun = Asking(size), monotonic()
    try:
        while workers_in(machines := machines_of_cluster(), size) < size.workers:
            asking.ask(0, 1)
            if asking.hopeless():
                return []
            if monotonic() - begun > FIRST_SEC:
                raise StudyError(
                    f"lanes: no machine has come within {FIRST_SEC / 60:.0f} min. `ray status` "
                    f"shows what the autoscaler says."
                )
            sleep(LOOK_SEC)
        return machines
    finally:
        asking.close()
