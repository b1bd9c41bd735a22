"""Simulates a run on a number of GPUs from the seconds of its trials: pure arithmetic.

Each lane has one GPU and takes the next trial as soon as it is free, as with the real queue. What
is not known beforehand is left out: the start of lanes, early stopping, lost machines.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from bench.study.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A simulated run: `wall_sec` from its first trial to its last, `work_sec` over all `gpus`."""

    gpus: int
    wall_sec: float
    work_sec: float

    @property
    def gpu_hours(self) -> float:
        """GPU hours from start to end, including idle time: what is paid for."""
        return self.gpus * self.wall_sec / 3600

    @property
    def idle_share(self) -> float:
        """The share of those hours in which GPUs are idle, 0 to 1."""
        paid = self.gpus * self.wall_sec
        # Sums in another order can exceed what is paid for by rounding.
        return max(1 - self.work_sec / paid, 0.0) if paid else 0.0

    def cost(self, price: float) -> float:
        """Return the cost of all GPU hours, at `price` an hour."""
        return self.gpu_hours * price

    def then(self, other: "Schedule") -> "Schedule":
        """Return this schedule followed by another, which begins when all of this one is done.

        Both have the same number of GPUs.
        """
        return Schedule(
            gpus=self.gpus,
            wall_sec=self.wall_sec + other.wall_sec,
            work_sec=self.work_sec + other.work_sec,
        )


def played(seconds: Sequence[float], gpus: int) -> Schedule:
    """Return the schedule of trials taken in this order, each by the GPU that is free first."""
    free = [0.0] * gpus
    for trial in seconds:
        heapq.heapreplace(free, free[0] + trial)
    return Schedule(gpus=gpus, wall_sec=max(free), work_sec=sum(seconds))


def longest_first(seconds: Sequence[float], gpus: int) -> Schedule:
    """Return the schedule with the longest trials first.

    At most 4/3 - 1/(3 gpus) times as long as the best order of all (Graham 1969, SIAM J. Appl.
    Math. 17(2), theorem 2).
    """
    return played(sorted(seconds, reverse=True), gpus)


def raced_at_best(trials: Sequence[Trial], seconds: Sequence[float], gpus: int) -> Schedule:
    """Return the shortest schedule of a raced run: one combination is left on each data set.

    It has all trials of the first seed of the first repeat, and then the rest of the quickest
    combination on each data set. How many are dropped is not known beforehand, so this is a bound,
    not a forecast.
    """
    first: list[float] = []
    rest: dict[str, dict[str, list[float]]] = {}
    seed = trials[0].seed if trials else 0
    for trial, sec in zip(trials, seconds, strict=True):
        if (trial.repeat, trial.seed) == (0, seed):
            first.append(sec)
        else:
            own = rest.setdefault(trial.dataset, {})
            own.setdefault(str(sorted(trial.combination.items())), []).append(sec)
    kept = [sec for own in rest.values() for sec in min(own.values(), key=sum)]
    return played(first, gpus).then(played(kept, gpus))
