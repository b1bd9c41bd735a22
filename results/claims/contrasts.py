"""One side of a claim against the other: matched combinations, compared fold by fold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

from results.claims.measures import ByFold, Difference
from results.statistics.spread import mean_variance_factor
from results.verdict.combinations import Combination, Contest, Fold

# Column of `trials` -> names of the rows of an axis that are meant; with "!" before each, all other
# rows.
Side = Mapping[str, Sequence[str]]

# A standard error this small is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """What a claim needs but a data set of a run does not have, as a sentence."""

    dataset: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """A difference as estimated from folds: estimate, standard error and degrees of freedom.

    `folds` is their number; `compared` says in words what was compared. `exact`: the measure has no
    sampling error, such as a number of parameters. `p_value`: one-sided, for a difference above
    zero, if it accounts for several looks; the opposite is then not tested.
    """

    dataset: str
    estimate: float
    error: float
    df: float
    folds: int
    compared: str
    exact: bool = False
    p_value: float | None = None

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the two-sided interval."""
        half = float(stats.t.ppf(1 - alpha / 2, self.df)) * self.error
        return self.estimate - half, self.estimate + half

    def p_above(self, level: float) -> float:
        """Return the one-sided p-value against the difference being at most `level`."""
        return self._tail(self.estimate - level) if self.p_value is None else self.p_value

    def p_below(self, level: float) -> float:
        """Return the one-sided p-value against the difference being at least `level`."""
        return self._tail(level - self.estimate) if self.p_value is None else 1.0

    def _tail(self, distance: float) -> float:
        if self.error <= _ROUNDING * max(1.0, abs(self.estimate)):
            # All folds are equal, so only their sign counts, as in a sign test.
            alike = 0.0 if self.exact else 0.5**self.folds
            return alike if distance > 0 else 1.0
        return float(stats.t.sf(distance / self.error, self.df))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A combination of each side with equal entries on the other axes; their difference by fold."""

    place: tuple[str, ...]
    one: Combination
    other: Combination
    gaps: ByFold


def pairs_of(
    contest: Contest, difference: Difference, one: Side, other: Side
) -> list[Pair] | Lacking:
    """Return the pairs of one side and the other that are equal on all axes that neither names.

    Pairs whose difference is known in every fold count; if there are none, those with at least two
    folds: not every fold may contain what is measured.
    """
    judged = [c for c in contest.combinations if c.state == "judged"]
    ours = [c for c in judged if is_of(c, one)]
    theirs = [c for c in judged if is_of(c, other)]
    for side, found in ((one, ours), (other, theirs)):
        if not found:
            return Lacking(
                dataset=contest.dataset, reason=f"no judged combination has {_said(side)}"
            )
    named = {*one, *other}
    pairs = []
    for mine, rival in product(ours, theirs):
        place = _rest(mine, named)
        if place == _rest(rival, named) and mine.name != rival.name:
            gaps = difference(mine, rival)
            pairs.append(Pair(place=place, one=mine, other=rival, gaps=gaps))
    whole = [p for p in pairs if all(fold in p.gaps for fold in contest.folds)]
    part = [p for p in pairs if len(p.gaps) > 1]
    return (
        whole
        or part
        or Lacking(
            dataset=contest.dataset,
            reason=f"{_said(one)} and {_said(other)} were not both measured in two folds",
        )
    )


def matched(contest: Contest, difference: Difference, one: Side, other: Side) -> Found | Lacking:
    """Compare one side with the other, fold by fold.

    Differences are averaged over all pairs of one place on the other axes, then over the places.
    """
    pairs = pairs_of(contest, difference, one, other)
    if isinstance(pairs, Lacking):
        return pairs
    places: dict[tuple[str, ...], list[ByFold]] = {}
    for pair in pairs:
        places.setdefault(pair.place, []).append(pair.gaps)
    by_fold = [
        float(np.mean([np.mean([gaps[fold] for gaps in place]) for place in places.values()]))
        for fold in contest.folds
        if all(fold in pair.gaps for pair in pairs)
    ]
    return of_folds(contest, by_fold, compared(pairs, one, other))


def compared(pairs: Sequence[Pair], one: Side, other: Side) -> str:
    """Return in words what was compared: `adam, adamw against sgd`."""
    ours = dict.fromkeys(_entries(pair.one, one) for pair in pairs)
    theirs = dict.fromkeys(_entries(pair.other, other) for pair in pairs)
    return f"{', '.join(ours)} against {', '.join(theirs)}"


def of_folds(contest: Contest, values: Sequence[float], compared: str) -> Found | Lacking:
    """Return the estimate from (k,) differences of folds, by the corrected Student's t.

    Nadeau and Bengio 2003, eq. 9: training sets overlap, so the variance of the mean of k folds is
    s^2 (1/k + n_test/n_train).
    """
    k = len(values)
    if k < 2:
        return Lacking(dataset=contest.dataset, reason="one fold shows no scatter")
    return Found(
        dataset=contest.dataset,
        estimate=float(np.mean(values)),
        error=float(np.sqrt(np.var(values, ddof=1) * mean_variance_factor(k, contest.ratio))),
        df=k - 1,
        folds=k,
        compared=compared,
    )


def apart(one: Found, other: Found, dataset: str, compared: str) -> Found:
    """Return one difference minus another, of two data sets with different folds.

    Degrees of freedom: Welch 1947, Biometrika 34. Patients in both sets only make it conservative.
    """
    parts = [one.error**2, other.error**2]
    total = sum(parts)
    below = sum(p**2 / f.df for p, f in zip(parts, (one, other), strict=True))
    return Found(
        dataset=dataset,
        estimate=one.estimate - other.estimate,
        error=float(np.sqrt(total)),
        df=total**2 / below if below else min(one.df, other.df),
        folds=min(one.folds, other.folds),
        compared=compared,
    )


def best_of(
    contest: Contest, values: Callable[[Combination], ByFold], column: str
) -> dict[str, dict[Fold, float]]:
    """Return entry of an axis -> its mean in each fold over the other axes' common places."""
    by_entry: dict[str, dict[tuple[str, ...], ByFold]] = {}
    for c in contest.combinations:
        if c.state == "judged":
            by_entry.setdefault(c.entries[column], {})[_rest(c, {column})] = values(c)
    common = set.intersection(*(set(places) for places in by_entry.values())) if by_entry else set()
    if not common:
        return {}
    folds = {f for places in by_entry.values() for p in common for f in places[p]}
    return {
        entry: {fold: float(np.mean([places[p][fold] for p in common])) for fold in folds}
        for entry, places in by_entry.items()
    }


def base_name(entry: str) -> str:
    """Return the row of an entry: `sgd` of `sgd(lr=0.05)`."""
    return entry.partition("(")[0]


def is_of(combination: Combination, side: Side) -> bool:
    """Return whether a combination is of a side."""
    return all(
        _picked(base_name(combination.entries[column] or "none"), names)
        for column, names in side.items()
    )


def _picked(name: str, names: Sequence[str]) -> bool:
    refused = [n[1:] for n in names if n.startswith("!")]
    wanted = [n for n in names if not n.startswith("!")]
    return name not in refused and (not wanted or name in wanted)


def _rest(combination: Combination, named: set[str]) -> tuple[str, ...]:
    return tuple(entry for column, entry in combination.entries.items() if column not in named)


def _entries(combination: Combination, side: Side) -> str:
    return " + ".join(combination.entries[column] or "none" for column in side)


def _said(side: Side) -> str:
    return " and ".join(
        f"{column} {' or '.join(n.replace('!', 'other than ') for n in names)}"
        for column, names in side.items()
    )
