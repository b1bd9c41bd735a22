"""The search for the fastest equivalent way: single factors, combinations, and a confirmation.

1. ROUNDS rounds: the plain way, each factor alone, and other numbers of threads per trial.
2. ROUNDS rounds: the plain way and all combinations of factors, except those that were much slower
   alone: some help only with another (a 3-D U-Net: channels innermost 0.95, compiled 1.19, both
   1.25, measured).
3. ROUNDS rounds: the plain way and the chosen one. Only these say how much faster it is, and
   whether it is taken (bench.planning.speed.choice).
The number of windows at once comes last, measured on evaluation in the way that was taken.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from bench.planning.speed.choice import (
    PLAIN,
    Found,
    Kind,
    Row,
    Settings,
    Way,
    chosen,
    fastest,
    is_faster,
    ratios,
)
from bench.planning.speed.factors import FACTORS, Part
from bench.planning.speed.side_by_side import Machine, NotMeasuredError

# With three, a way that is no faster and varies by GAIN passes all by chance in 4 of 1000.
ROUNDS = 3
# Least time of a measurement of each way in a round.
LEAST_SEC = 2.0
# A factor that alone is slower than the plain way by more than this is not tried with others.
# Assumption.
PROMISING = 0.8


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The task of a search.

    `threads` are those of a trial without a search, `counts` the alternatives. `others` has, for
    each model and work, the factors that may be chosen, with their values. `unfit` says why
    combinations of a model cannot run with some settings, None if they can. `weights`: the number
    of samples to train of each model.
    """

    threads: int
    counts: tuple[int, ...]
    others: Mapping[tuple[Kind, Part], Mapping[str, Sequence[Any]]]
    weights: Mapping[Kind, float]
    unfit: Callable[[Kind, Settings], str | None]


@dataclass
class Search:
    """A search on a machine; `told` is called with (measurements done, measurements known of)."""

    asked: Asked
    machine: Machine
    told: Callable[[int, int], None]
    _why: dict[tuple[Kind, Way], str] = field(default_factory=dict)
    _done: int = 0
    _known: int = 0

    def found(self) -> Found:
        """Search, and return what was found."""
        asked = self.asked
        plain = Way(threads=asked.threads)
        singles = {kind: self._singles(kind) for kind in asked.weights}
        alone = self._rounds(singles, "gradient")
        together = self._rounds(
            {kind: self._together(kind, rounds) for kind, rounds in alone.items()}, "gradient"
        )
        first = chosen(together, asked.weights, asked.threads)
        # Other threads may win by a hair, so the best way without them is measured again too.
        here = {
            kind: fastest(plain, rounds, (w for w in rounds if w.threads == asked.threads))
            for kind, rounds in together.items()
        }
        again = self._rounds(
            {
                kind: [plain, Way(threads=first[kind].threads), here[kind], first[kind]]
                for kind in asked.weights
            },
            "gradient",
        )
        ways = chosen(again, asked.weights, asked.threads)
        rows = [
            row
            for kind in asked.weights
            for row in (
                *self._alone(kind, singles[kind], alone[kind], ways[kind]),
                *self._all(kind, again[kind], ways[kind], first[kind]),
            )
        ]
        settings = {kind: dict(way.settings) for kind, way in ways.items()}
        for kind, way in ways.items():
            own, found = self._windows(kind, way)
            settings[kind] |= own
            rows += found
        return Found(
            settings=settings,
            threads=next(iter(ways.values())).threads,
            rows=tuple(rows),
        )

    def _singles(self, kind: Kind) -> list[Way]:
        """Return the plain way, and those that differ from it in one thing."""
        threads, others = self.asked.threads, self.asked.others[kind, "gradient"]
        return [
            Way(threads=threads),
            *(
                Way(threads=threads, settings=((key, value),))
                for key, values in others.items()
                for value in values
            ),
            *(Way(threads=count) for count in self.asked.counts),
        ]

    def _together(self, kind: Kind, alone: Mapping[Way, Sequence[float]]) -> list[Way]:
        """Return the plain way, and all combinations of factors that are not much slower alone."""
        plain = Way(threads=self.asked.threads)

        def promising(way: Way) -> bool:
            return statistics.median(ratios(alone[plain], alone[way])) >= PROMISING

        levels: list[list[Settings]] = []
        for key in self.asked.others[kind, "gradient"]:
            of_key = [way for way in alone if [k for k, _ in way.settings] == [key]]
            best = min(of_key, key=lambda way: statistics.median(alone[way]), default=plain)
            levels.append([PLAIN, best.settings] if promising(best) else [PLAIN])
        combined: list[Settings] = [
            tuple(pair for part in parts for pair in part) for parts in product(*levels)
        ]
        counts = [way.threads for way in alone if not way.settings and promising(way)]
        return [Way(threads=count, settings=settings) for count in counts for settings in combined]

    def _rounds(
        self, ways: Mapping[Kind, Iterable[Way]], part: Part
    ) -> dict[Kind, dict[Way, list[float]]]:
        """Measure ways in ROUNDS rounds, every other one in reverse; failing ways are left out.

        The first way of each model is the plain one. Raises NotMeasuredError if that fails: then
        nothing could be trained.
        """
        asked = {kind: list(dict.fromkeys(own)) for kind, own in ways.items()}
        if all(len(own) == 1 for own in asked.values()):
            return {kind: {way: [1.0] * ROUNDS for way in own} for kind, own in asked.items()}
        found: dict[Kind, dict[Way, list[float]]] = {
            kind: {way: [] for way in own} for kind, own in asked.items()
        }
        self._known += sum((ROUNDS + 1) * len(own) for own in asked.values())
        for number in range(-1, ROUNDS):  # in round -1 each is built, compiled, and warmed up
            for kind, own in asked.items():
                for way in own if number % 2 == 0 else reversed(own):
                    self._done += 1
                    self.told(self._done, self._known)
                    if way in found[kind]:
                        self._once(kind, way, part, number, found[kind], plain=way == own[0])
        return found

    def _once(
        self,
        kind: Kind,
        way: Way,
        part: Part,
        number: int,
        found: dict[Way, list[float]],
        *,
        plain: bool,
    ) -> None:
        why = self.asked.unfit(kind, way.settings) if number < 0 else None
        if why is None:
            try:
                least = LEAST_SEC if number >= 0 else 0.0
                sec = self.machine.sample_sec(kind, way, part, least)
            except NotMeasuredError as error:
                if plain:
                    raise
                why = str(error)
            else:
                if number >= 0:
                    found[way].append(sec)
                return
        self._why[kind, way] = why
        del found[way]

    def _alone(
        self, kind: Kind, singles: Iterable[Way], alone: Mapping[Way, Sequence[float]], taken: Way
    ) -> Iterable[Row]:
        """Yield a row for each factor alone."""
        plain = Way(threads=self.asked.threads)
        for way in singles:
            if way == plain:
                continue
            key, value = way.settings[0] if way.settings else ("threads", way.threads)
            won = taken.threads == value if key == "threads" else (key, value) in taken.settings
            yield self._row(kind, key, value, alone.get(plain), alone.get(way), way, taken=won)

    def _all(
        self, kind: Kind, again: Mapping[Way, Sequence[float]], taken: Way, best: Way
    ) -> Iterable[Row]:
        """Yield the row of all that was taken, from only its own confirming rounds.

        If nothing was taken, yield the row of what had looked best but was not faster in all of
        them.
        """
        plain = Way(threads=self.asked.threads)
        way = best if taken == plain else taken
        if way != plain:
            own = {"threads": way.threads} if way.threads != plain.threads else {}
            value = _in_words({**own, **dict(way.settings)})
            yield self._row(
                kind, "together", value, again[plain], again.get(way), way, taken=way == taken
            )

    def _row(
        self,
        kind: Kind,
        factor: str,
        value: Any,
        plain: Sequence[float] | None,
        other: Sequence[float] | None,
        way: Way,
        *,
        taken: bool,
    ) -> Row:
        measured = None if plain is None or other is None else tuple(ratios(plain, other))
        return Row(
            dataset=kind[0],
            model=kind[1],
            factor=factor,
            value=_word(value),
            ratios=measured,
            reason=self._why.get((kind, way), ""),
            taken=taken,
        )

    def _windows(self, kind: Kind, way: Way) -> tuple[dict[str, Any], list[Row]]:
        """Return the number of windows to take at once, and a row for each alternative."""
        rows: list[Row] = []
        settings: dict[str, Any] = {}
        for key, values in self.asked.others[kind, "evaluation"].items():
            ways = {
                value: Way(threads=way.threads, settings=(*way.settings, (key, value)))
                for value in values
            }
            found = self._rounds({kind: [way, *ways.values()]}, "evaluation")[kind]
            best = fastest(way, found, ways.values())
            if best != way:
                again = self._rounds({kind: [way, best]}, "evaluation")[kind]
                if best not in again or not is_faster(again[way], again[best]):
                    best = way
            settings |= dict(pair for pair in best.settings if pair[0] == key)
            rows += [
                self._row(kind, key, value, found[way], found.get(own), own, taken=own == best)
                for value, own in ways.items()
            ]
        return settings, rows


def _word(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _in_words(settings: Mapping[str, Any]) -> str:
    ordered = sorted(settings.items(), key=lambda pair: [*FACTORS, pair[0]].index(pair[0]))
    return ", ".join(f"{key} {_word(value)}" for key, value in ordered)
