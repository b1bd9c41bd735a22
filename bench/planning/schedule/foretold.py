"""The forecast of a plan on a number of GPUs, as values for scripts and as sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.planning.schedule.simulate import Schedule, longest_first, played, raced_at_best
from bench.study.trial import Trial
from results import text


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """The schedules of a run on GPUs of a kind (None: not given).

    Seconds were measured on the device `measured`, a processor if `on_cpu`. `raced` is None if a
    race has nothing to leave out (one seed and one repeat, or a search). `price` is that of a GPU
    hour, in any currency; None if not given.
    """

    kind: str | None
    measured: str
    on_cpu: bool
    price: float | None
    run: Schedule
    longest_first: Schedule
    raced: Schedule | None

    def columns(self) -> dict[str, Any]:
        """Return the same as plain values, for JSON."""
        ways = {"run": self.run, "longest_first": self.longest_first, "race_at_best": self.raced}
        return {
            "gpus": self.run.gpus,
            "gpu_kind": self.kind,
            "measured_on": self.measured,
            "price": self.price,
            **{name: self._columns(way) for name, way in ways.items() if way is not None},
        }

    def _columns(self, way: Schedule) -> dict[str, Any]:
        return {
            "seconds": way.wall_sec,
            "gpu_hours": way.gpu_hours,
            "idle_share": way.idle_share,
            "cost": None if self.price is None else way.cost(self.price),
        }

    def lines(self) -> Iterator[str]:
        """Yield a sentence for each way to run, and one for what the forecast leaves out."""
        kind = f" ({self.kind})" if self.kind else ""
        gpus = text.count(self.run.gpus, "GPU")
        yield f"on {gpus}{kind}, one trial on each: {self._line(self.run)}"
        yield f"with the longest trials first: {self._line(self.longest_first)}"
        if self.raced is not None:
            yield f"raced, in the best case: {self._line(self.raced)}"
        if self.on_cpu:
            yield (
                f"These times were measured on this CPU ({self.measured}); on a GPU they are "
                "different."
            )
        elif self.kind is None or self.kind.lower() not in self.measured.lower():
            yield f"These times were measured on {self.measured}; they differ on another GPU."
        yield (
            "Not included: early stopping, the start of lanes, and several lanes on one GPU, whose "
            "effect on each other was not measured."
        )

    def _line(self, way: Schedule) -> str:
        paid = (
            ""
            if self.price is None
            else f", costs {way.cost(self.price):.2f} (at {self.price:g} per GPU hour)"
        )
        return (
            f"{text.duration(way.wall_sec, clock=True)} at most, {way.gpu_hours:.2f} GPU hours"
            f"{paid}, {text.percent(way.idle_share)} idle"
        )


def foretold(
    trials: Sequence[Trial],
    seconds: Sequence[float],
    *,
    gpus: int,
    measured: str,
    on_cpu: bool = False,
    kind: str | None = None,
    price: float | None = None,
    points: int = 0,
) -> Foretold:
    """Simulate a plan's trials on `gpus` GPUs; the first `points` trials are those of a search.

    The settings that a search chooses are trained after all of its points.
    """
    parts = [part for part in (seconds[:points], seconds[points:]) if part]
    run, sorted_run = played((), gpus), played((), gpus)
    for part in parts:
        run = run.then(played(part, gpus))
        sorted_run = sorted_run.then(longest_first(part, gpus))
    several = len({(trial.repeat, trial.seed) for trial in trials}) > 1
    return Foretold(
        kind=kind,
        measured=measured,
        on_cpu=on_cpu,
        price=price,
        run=run,
        longest_first=sorted_run,
        raced=raced_at_best(trials, seconds, gpus) if several and not points else None,
    )
