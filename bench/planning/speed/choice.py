"""Chooses among ways to compute from seconds measured in turn: pure arithmetic.

In each round all ways are measured one after the other, so that a machine that is busy for a while
slows all of them. A way is taken if it is faster than the plain one by GAIN in every round; of
several, the one with the fastest median. The chosen way is then measured again beside the plain
way, and only those rounds say how much faster it is, since the best of many noisy figures is too
good by selection.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A way is taken if it is this many times faster than the plain one in every round.
GAIN = 1.05

# Settings that differ from the plain ones, (key, value) pairs in the order of the table of factors.
Settings = tuple[tuple[str, Any], ...]
PLAIN: Settings = ()
# (data set, label of a model), and for updates also the label of an optimizer.
Kind = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the trials of a model are computed: the threads of each, and settings."""

    threads: int
    settings: Settings = PLAIN


# Way -> the seconds of one sample on the whole machine, one number per round.
Rounds = Mapping[Way, Sequence[float]]


def ratios(plain: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return how many times faster another way is, one number per round."""
    return [a / b for a, b in zip(plain, other, strict=True)]


def is_faster(plain: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether another way is faster by GAIN in every round."""
    return min(ratios(plain, other)) >= GAIN


def fastest(plain: Way, rounds: Rounds, among: Iterable[Way]) -> Way:
    """Return the fastest of the ways that are faster in every round, or `plain` if none is."""
    better = [way for way in among if way in rounds and is_faster(rounds[plain], rounds[way])]
    return min(better, key=lambda way: statistics.median(rounds[way]), default=plain)


def chosen(
    measured: Mapping[Kind, Rounds], weights: Mapping[Kind, float], threads: int
) -> dict[Kind, Way]:
    """Return the way of each model: the same threads for all, but its own settings.

    `threads` are the plain ones; each model was also measured with them and without settings.
    `weights` are the numbers of samples to train of each. Other threads are taken if the whole
    study is faster by GAIN in every round, with each model at its best settings there.
    """
    counts = sorted({way.threads for rounds in measured.values() for way in rounds})
    best: dict[int, dict[Kind, Way]] = {}
    for count in counts:
        plain = Way(threads=count)
        if all(plain in rounds for rounds in measured.values()):
            best[count] = {
                kind: fastest(plain, rounds, (way for way in rounds if way.threads == count))
                for kind, rounds in measured.items()
            }

    def total(ways: Mapping[Kind, Way]) -> list[float]:
        parts = [[weights[k] * sec for sec in measured[k][way]] for k, way in ways.items()]
        return [math.fsum(of_round) for of_round in zip(*parts, strict=True)]

    totals = {count: total(ways) for count, ways in best.items()}
    others = [
        count for count in totals if count != threads and is_faster(totals[threads], totals[count])
    ]
    return best[min(others, key=lambda count: statistics.median(totals[count]), default=threads)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a single factor, or all that was taken together.

    `ratios` say how many times faster it is than the plain way, one number per round; None if it
    could not be measured, for which `reason` says why. `taken`: whether the study's trials use it.
    """

    dataset: str
    model: str
    factor: str
    value: str
    ratios: tuple[float, ...] | None
    reason: str = ""
    taken: bool = False

    def said(self) -> str:
        """Return the median ratio with its range over the rounds, or why there is none."""
        if self.ratios is None:
            return self.reason
        low, high = min(self.ratios), max(self.ratios)
        return f"{statistics.median(self.ratios):.2f} ({low:.2f} to {high:.2f})"

    def columns(self) -> dict[str, Any]:
        """Return the same as plain values, for JSON."""
        return {**vars(self), "ratios": self.ratios and list(self.ratios)}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result: the settings of each model, the threads of every trial, and the table."""

    settings: Mapping[Kind, Mapping[str, Any]]
    threads: int
    rows: tuple[Row, ...]

    def lines(self) -> list[str]:
        """Return a sentence for each row, for a log."""
        return [
            f"speed, {row.dataset}, {row.model}: {row.factor} {row.value}: {row.said()}"
            f"{', taken' if row.taken else ''}"
            for row in self.rows
        ]
