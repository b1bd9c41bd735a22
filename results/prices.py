"""What training costs until it is good enough: sample-gradients, gradient evaluations, seconds.

A target is a score on inner validation. A trial pays until it first reaches the target or passes
it. A trial that never does, or that diverged, counts as infinitely late and is never left out
(`results.statistics.profiles`).

The times of trials that ran side by side on one device are noisy. So the price of a combination is
its number of sample-gradients to the target, which does not depend on what else ran, times the cost
of a sample-gradient alone: the training seconds of an epoch divided by its sample-gradients (waits
for data and the optimizer's own work included). `medopt price` measures that cost; unless it has
measured every combination, the cost is the median over epochs, then over the trials that had their
device to themselves. The raw seconds are reported too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from scipy import stats

from results import text
from results.statistics import profiles
from results.tables.schema import ENDED_STATUSES
from results.verdict.combinations import Combination, Contest, Row
from results.verdict.doubts import RowsOf

# The target of a study that sets none: this share of the way from chance to the best inner score.
# An assumption, as for the papers' claims about speed.
_SHARE = 0.9
# The score of chance, for metrics for which it is not 0.
_CHANCE = {"auc": 0.5}


@dataclass(frozen=True, kw_only=True)
class Target:
    """The score on inner validation up to which costs are counted, and its origin in words."""

    value: float
    said: str


@dataclass(frozen=True, kw_only=True)
class Paid:
    """What one trial had paid when it reached the target; infinite if it never did."""

    sample_gradients: float
    evaluations: float
    seconds: float


NEVER = Paid(sample_gradients=math.inf, evaluations=math.inf, seconds=math.inf)


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one combination costs to the target: medians over its trials, infinite if not reached.

    - `reached` of the `ended` trials reached the target.
    - `seconds`: raw training time, as the trials measured it.
    - `sample_sec`: seconds of a sample-gradient alone, None if that was not measured; `alone`: each
      measurement.
    - `memory`: largest peak of a trial in bytes, None if unmeasured.
    """

    name: str
    ended: int
    reached: int
    sample_gradients: float
    evaluations: float
    seconds: float
    sample_sec: float | None
    alone: tuple[float, ...]
    memory: int | None

    @property
    def price(self) -> float | None:
        """Seconds to the target for a trial alone: infinite if not reached, None if unknown."""
        return None if self.sample_sec is None else self.sample_gradients * self.sample_sec


@dataclass(frozen=True, kw_only=True)
class Prices:
    """The prices of one data set, of each combination with a trial that ended.

    `paid` is by trial; `noise` says which conclusions the noise of the seconds allows; `measured`:
    the costs alone were measured by `medopt price`, not taken from trials.
    """

    contest: Contest
    target: Target
    rows: tuple[Price, ...]
    paid: Mapping[str, Paid]
    noise: str
    measured: bool

    @property
    def by_name(self) -> dict[str, Price]:
        """The rows by the names of their combinations."""
        return {row.name: row for row in self.rows}


def target_of(contest: Contest) -> Target | None:
    """Return the study's target, or one by rule if it sets none; None if nothing is scored.

    The rule: nine tenths of the way from chance (0.5 for AUC, else 0) to the best mean inner score
    of a combination; if a smaller score is better, that score over 0.9.
    """
    metric = text.metric(contest.metric)
    given = {row["target"] for row in contest.rows if row.get("target") is not None}
    if len(given) == 1:
        value = float(given.pop())
        said = f"{metric} {text.score(value)} on inner validation, set by the study"
        return Target(value=value, said=said)
    among = contest.judged or [c for c in contest.combinations if c.scored]
    found = [c.mean("val_score") for c in among]
    scores = [contest.sign * value for value in found if value is not None]
    if not scores:
        return None
    best = contest.sign * max(scores)
    if contest.sign < 0:
        value = best / _SHARE
        return Target(
            value=value,
            said=f"{metric} {text.score(value)} on inner validation: the lowest mean over folds of "
            f"any combination ({text.score(best)}) divided by {_SHARE}. The study sets no target",
        )
    chance = _CHANCE.get(contest.metric, 0.0)
    value = chance + _SHARE * (best - chance)
    return Target(
        value=value,
        said=f"{metric} {text.score(value)} on inner validation: {text.percent(_SHARE)} of the way "
        f"from {chance:g} to the highest mean over folds of any combination ({text.score(best)}). "
        "The study sets no target",
    )


# The columns of `epochs` that prices use.
_OF_EPOCHS = (
    *("trial_id", "epoch", "val_score", "sample_gradients", "gradient_evaluations"),
    *("elapsed_sec", "samples_per_sec"),
)

#: (data set, combination) -> rows of `results.tables.alone`.
Measured = Mapping[tuple[str, str], Sequence[Row]]


def prices(
    contest: Contest, rows_of: RowsOf, alpha: float, measured: Measured = MappingProxyType({})
) -> Prices | None:
    """Return the prices on one data set; None if nothing is scored or no epochs were recorded.

    `rows_of(table, trial ids)` gives the rows of `epochs`; `alpha` is the level at which costs are
    compared, over all pairs of combinations.
    """
    target = target_of(contest)
    ended = {
        row["trial_id"]: row
        for combination in contest.combinations
        for row in combination.trials
        if row["status"] in ENDED_STATUSES
    }
    epochs: dict[str, list[Row]] = {}
    for row in rows_of("epochs", list(ended), _OF_EPOCHS).to_pylist():
        epochs.setdefault(row["trial_id"], []).append(row)
    if target is None or not epochs:
        return None
    for looks in epochs.values():
        looks.sort(key=lambda look: look["epoch"])
    paid = {
        trial: _paid(row, epochs.get(trial, ()), target.value, higher=contest.sign > 0)
        for trial, row in ended.items()
    }
    priced = [
        combination
        for combination in contest.combinations
        if any(row["trial_id"] in ended for row in combination.trials)
    ]
    apart = [measured.get((contest.dataset, combination.name), ()) for combination in priced]
    if all(apart):
        devices = {row["device_name"] for own in apart for row in own}
        alone = [tuple(row["sample_sec"] for row in own) for own in apart]
    else:
        devices = {row["device_name"] for row in ended.values() if row["device_name"]}
        alone = [_alone(combination, epochs) for combination in priced]
    if len(devices) > 1:
        alone = [() for _ in priced]
    rows = tuple(map(partial(_price, paid), priced, alone))
    return Prices(
        contest=contest,
        target=target,
        rows=rows,
        paid=paid,
        noise=_noise(alone, sorted(devices), alpha),
        measured=all(apart),
    )


def _paid(trial: Row, looks: Sequence[Row], target: float, *, higher: bool) -> Paid:
    """Return what a trial paid: infinite if it never reached the target, or diverged."""
    looked = [row for row in looks if row["val_score"] is not None]
    first = profiles.reached([row["val_score"] for row in looked], target, higher=higher)
    if first is None or trial["status"] == "diverged":
        return NEVER
    return Paid(
        sample_gradients=float(looked[first]["sample_gradients"]),
        evaluations=float(looked[first]["gradient_evaluations"]),
        seconds=float(looked[first]["elapsed_sec"]),
    )


def _alone(combination: Combination, epochs: Mapping[str, Sequence[Row]]) -> tuple[float, ...]:
    """Return what a sample-gradient cost in each trial that had its device to itself."""
    return tuple(
        cost
        for row in combination.trials
        if row["shared_device"] is False
        and (cost := _sample_sec(epochs.get(row["trial_id"], ()))) is not None
    )


def _price(paid: Mapping[str, Paid], combination: Combination, alone: tuple[float, ...]) -> Price:
    trials = [row for row in combination.trials if row["trial_id"] in paid]
    own = [paid[row["trial_id"]] for row in trials]
    peaks = [row["peak_memory_bytes"] for row in trials if row["peak_memory_bytes"]]
    return Price(
        name=combination.name,
        ended=len(trials),
        reached=sum(math.isfinite(one.sample_gradients) for one in own),
        sample_gradients=profiles.median([one.sample_gradients for one in own]),
        evaluations=profiles.median([one.evaluations for one in own]),
        seconds=profiles.median([one.seconds for one in own]),
        sample_sec=float(np.median(alone)) if alone else None,
        alone=alone,
        memory=max(peaks, default=None),
    )


def _sample_sec(looks: Sequence[Row]) -> float | None:
    """Return the median over epochs of the seconds of a sample-gradient."""
    rates = [row["samples_per_sec"] for row in looks if row["samples_per_sec"]]
    return 1 / float(np.median(rates)) if rates else None


# ---- noise -----------------------------------------------------------------------------------


def smallest_factor(alone: Sequence[Sequence[float]], alpha: float) -> float | None:
    """Return by what factor two costs must differ to be distinguished, None if that is not known.

    `alone` has the costs of a sample-gradient by combination and trial. The logarithms of the costs
    are assumed to vary equally in all combinations: pooled t-tests of every pair, Bonferroni, with
    the number of trials of the combination that has the fewest.
    """
    logs = [np.log(costs) for costs in alone if len(costs)]
    m, df = len(logs), sum(len(log) - 1 for log in logs)
    if m < 2 or df < 1:
        return None
    variance = sum(float(((log - log.mean()) ** 2).sum()) for log in logs) / df
    fewest = min(len(log) for log in logs)
    critical = float(stats.t.ppf(1 - alpha / (m * (m - 1)), df))
    return math.exp(critical * math.sqrt(2 * variance / fewest))


def _noise(alone: Sequence[Sequence[float]], devices: Sequence[str], alpha: float) -> str:
    if len(devices) > 1:
        return (
            f"Trials ran on {text.listed(devices)}: times on different devices cannot be compared, "
            "so there are no prices. Compare sample-gradients, or let `medopt price` measure on "
            "one device."
        )
    measured = [costs for costs in alone if costs]
    if not measured:
        return (
            "No trial had its device to itself, so the cost of a sample-gradient alone was not "
            "measured. Trials that run side by side disturb each other's times: compare "
            "sample-gradients, or let `medopt price` measure."
        )
    missing = len(alone) - len(measured)
    lacking = (
        f" {text.count(missing, 'combination')} had no trial alone, so no price." if missing else ""
    )
    factor = smallest_factor(measured, alpha)
    if factor is None:
        return (
            "How much the cost of a sample-gradient varies is not known: no combination was "
            f"measured twice, or there is nothing to compare. Prices are rough.{lacking}"
        )
    typical = [float(np.median(costs)) for costs in measured]
    spread = max(typical) / min(typical)
    if spread < factor:
        return (
            "Differences between the combinations' costs per sample-gradient cannot be "
            f"distinguished from noise: the highest is {_times(spread)} the lowest, and these "
            f"measurements cannot distinguish two that differ by less than {_times(factor)} "
            f"(level {text.percent(alpha)}, all pairs). Prices differ by the number of "
            f"sample-gradients alone.{lacking}"
        )
    return (
        "These measurements cannot distinguish costs of a sample-gradient that differ by less than "
        f"{_times(factor)} (level {text.percent(alpha)}, all pairs); the highest is "
        f"{_times(spread)} the lowest.{lacking}"
    )


def _times(factor: float) -> str:
    return f"{factor:.2f} times" if factor < 10 else f"{factor:.0f} times"


# ---- optimizers over all problems of a run ---------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Contenders:
    """Optimizers on the problems that all of them ran: costs for profiles and scores.

    A problem is a data set x model x loss (and what else a combination has) x fold x seed; its cost
    is counted up to the target of its data set. `sample_gradients` and `seconds` are (m, n), the
    latter of a trial alone if `alone`, else raw. `left_out` problems were not finished by all.
    """

    names: tuple[str, ...]
    sample_gradients: np.ndarray
    seconds: np.ndarray
    alone: bool
    left_out: int


def contenders(every: Sequence[Prices]) -> Contenders | None:
    """Return the optimizers of a run on their common problems; None if fewer than two have any.

    Unfinished, failed, skipped and dropped trials do not show whether the target is reached, so
    their problem is left out for all.
    """
    alone = all(price.sample_sec is not None for prices in every for price in prices.rows)
    samples: dict[tuple[object, ...], dict[str, float]] = {}
    seconds: dict[tuple[object, ...], dict[str, float]] = {}
    for prices_ in every:
        by_name = prices_.by_name
        for combination in prices_.contest.combinations:
            entries = combination.entries
            optimizer = entries.pop("optimizer")
            for row in combination.trials:
                if row["trial_id"] not in prices_.paid:
                    continue
                paid = prices_.paid[row["trial_id"]]
                cell = row["repeat"] or 0, row["fold"], row["seed"] or 0
                problem = (prices_.contest.dataset, *entries.values(), *cell)
                samples.setdefault(problem, {})[optimizer] = paid.sample_gradients
                each = by_name[combination.name].sample_sec
                cost = paid.sample_gradients * each if alone and each else paid.seconds
                seconds.setdefault(problem, {})[optimizer] = cost
    names = tuple(dict.fromkeys(name for costs in samples.values() for name in costs))
    common = [problem for problem, costs in samples.items() if len(costs) == len(names)]
    if len(names) < 2 or not common:
        return None
    return Contenders(
        names=names,
        sample_gradients=np.array([[samples[p][name] for p in common] for name in names]),
        seconds=np.array([[seconds[p][name] for p in common] for name in names]),
        alone=alone,
        left_out=len(samples) - len(common),
    )
