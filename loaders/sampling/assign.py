"""Groups dealt out to test folds and to inner validation, with every class in every part.

So is every region of segmented cases, as far as that can be had: see loaders.sampling.folds.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.sampling.iterative import iterative

Indices = NDArray[np.int64]

# scikit-learn's assignment is greedy and may leave a class out of a fold, or in one fold alone: 7 %
# of 17 493 random small data sets that an integer program can deal out (measured). Other shuffles
# mend less than half of those (it orders groups by size first), seating the rarest classes first
# mended all.
FOLD_ATTEMPTS = (10, 200)
INNER_ATTEMPTS = (3, 30)
# Ways to deal the folds for which inner validation is looked for before giving up.
INNER_TRIES = 5
# scikit-learn takes 0.13 ms for a group (measured). Where more groups than this have one case,
# those of one class are dealt out in bundles, each small beside a fold.
MAX_SINGLES = 2000


class FoldError(ValueError):
    """Folds that cannot be made, or that break a promise; says which, where and what to do."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """n cases in an order that content alone decides.

    `y` (n,): the stratum that is spread evenly, all 0 where there is nothing to stratify by.
    `group` (n,): number of the group. `has` (n, k): which of k things, that every part must hold, a
    case has: one-hot for classes. `names` (k,): of these things, as an error names them. The first
    `strict` of them are refused where they are too rare for every part; the others are then to be
    in as many parts as there are groups that have them, and in training before inner validation.
    `classes`: whether they are classes, of which some may be merged. `overlap`: whether cases have
    several of them, each of which is to be as frequent in all parts.
    """

    y: Indices
    group: Indices
    has: NDArray[np.bool_]
    names: tuple[str, ...]
    strict: int
    classes: bool
    overlap: bool = False

    def take(self, rows: Indices) -> "Cohort":
        """Return the cohort of some of the cases."""
        return replace(self, y=self.y[rows], group=self.group[rows], has=self.has[rows])

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(np.unique(self.group))

    def counts(self, bin_of: Indices, bins: int) -> Indices:
        """Return the number of groups that have each thing in each bin (k, bins)."""
        place = self.group * bins + bin_of
        return np.stack(
            [np.bincount(np.unique(place[own]) % bins, minlength=bins) for own in self.has.T]
        )

    def lacking(self, counts: Indices) -> NDArray[np.bool_]:
        """Return what (k,) is in fewer bins than it must be, by `counts` (k, bins)."""
        wanted = np.minimum(counts.sum(axis=1), counts.shape[1])
        wanted[: self.strict] = counts.shape[1]
        lacks: NDArray[np.bool_] = (counts > 0).sum(axis=1) < wanted
        return lacks

    def describe(self, label: int) -> str:
        """Return "class 'x' has 3 cases in 2 groups", or the same of everything."""
        cases = self.has[:, label]
        who, groups = self.names[label], len(np.unique(self.group[cases]))
        return f"{who} has {int(cases.sum())} cases in {groups} groups"

    def advise(self, *ways: str) -> str:
        """Return what to do about a class with too few groups."""
        merge = ["merge the class with another"] if self.classes else []
        return ", or ".join([*ways, *merge])


def deal(
    cohort: Cohort, *, folds: int, inner_fraction: float, seed: tuple[int, int], seen: set[bytes]
) -> tuple[Indices, list[NDArray[np.bool_]]]:
    """Return each case's fold (n,), and for each fold which cases (n,) are its inner validation.

    Groups are not torn apart. Everything that cases have is in every fold, and in the inner
    validation and in the training part of each, as far as the cohort is strict about it. `seed` is
    the study's seed and the repeat; `seen` are the partitions that earlier repeats have, and gains
    this one. Raises FoldError.
    """
    _check_groups(cohort, folds)
    repeat = f"repeat {seed[-1]}"
    # What went wrong with the candidate that came furthest.
    problems = {0: ""}
    tries = 0
    for fold_of in _candidates(cohort, folds, seed, FOLD_ATTEMPTS):
        counts = cohort.counts(fold_of, folds)
        left = counts.sum(axis=1, keepdims=True) - counts
        if (lacks := cohort.lacking(counts)).any():
            label = int(lacks.argmax())
            fold = int(counts[label].argmin())
            problems[0] = (
                f"{repeat} fold {fold}: {cohort.describe(label)}, and none of them in the test "
                f"part; {cohort.advise('use fewer folds')}"
            )
            continue
        if left[: cohort.strict].min() < 2:
            label, fold = np.argwhere(left[: cohort.strict] < 2)[0]
            rest = cohort.take(np.flatnonzero(fold_of != fold))
            problems[1] = _no_inner(rest, int(label), f"{repeat} fold {fold}")
            continue
        # Which cases lie together, whatever the folds are numbered.
        partition = in_order(fold_of).tobytes()
        if partition in seen:
            problems[2] = (
                f"{repeat} finds no split into {folds} folds that an earlier repeat does not have: "
                f"{cohort.n_groups} groups are few; use fewer repeats"
            )
            continue
        inner: list[NDArray[np.bool_]] = []
        for fold in range(folds):
            rows = np.flatnonzero(fold_of != fold)
            rest = cohort.take(rows)
            mask = _inner(rest, inner_fraction, (*seed, fold))
            if mask is None:
                rarest = int(np.argmin(left[:, fold]))
                problems[3] = _no_inner(rest, rarest, f"{repeat} fold {fold}")
                break
            inner.append(np.isin(np.arange(len(fold_of)), rows[mask]))
        else:
            seen.add(partition)
            return fold_of, inner
        tries += 1
        if tries == INNER_TRIES:
            break
    raise FoldError(problems[max(problems)])


def deal_inner(
    cohort: Cohort, *, inner_fraction: float, seed: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """Return which of the cases (n,) of one training part are its inner validation.

    As `deal` does it for each of its own folds. Raises FoldError.
    """
    counts = cohort.counts(np.zeros(len(cohort.y), dtype=np.int64), 1)[:, 0]
    rarest = int(counts[: cohort.strict].argmin())
    enough = counts[rarest] > 1 and int(np.bincount(cohort.y).max()) > 1
    mask = _inner(cohort, inner_fraction, seed) if enough else None
    if mask is None:
        advice = cohort.advise("say which cases are for validation")
        raise FoldError(
            "the training part cannot give up an inner validation part that holds what is to be "
            f"learned: there {cohort.describe(rarest)}; {advice}"
        )
    return mask


def in_order(numbers: NDArray[np.integer[Any]]) -> Indices:
    """Return the numbers renamed 0, 1, 2 ... by where each first stands."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    renamed: Indices = np.argsort(np.argsort(first))[inverse]
    return renamed


def _check_groups(cohort: Cohort, folds: int) -> None:
    """Raise FoldError where a class has fewer groups than there are folds to put it in."""
    for label in range(cohort.strict):
        have = len(np.unique(cohort.group[cohort.has[:, label]]))
        if have < folds:
            fewer = f"use at most {have} folds" if have > 1 else "add data"
            raise FoldError(
                f"{cohort.describe(label)}, too few for {folds} folds, each of which needs one: "
                f"{cohort.advise(fewer)}"
            )


def _no_inner(rest: Cohort, label: int, where: str) -> str:
    return (
        f"the training part of {where} cannot give up an inner validation part with every class: "
        f"there {rest.describe(label)}; "
        f"{rest.advise('use more folds, which leave more to train on')}"
    )


def _inner(cohort: Cohort, fraction: float, seed: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """Return which of the cases (n,) that are not tested are inner validation; None: no way."""
    # A whole number of equal pieces; no more pieces than there are groups, or (scikit-learn's
    # condition) cases of the largest class. Fewer, and so larger, where a class is too rare for
    # that many: then the part is larger than asked for.
    share = Fraction(fraction).limit_denominator(10)
    most = min(share.denominator, cohort.n_groups, int(np.bincount(cohort.y).max()))
    for pieces in range(max(most, 2), 1, -1):
        take = min(max(round(fraction * pieces), 1), pieces - 1)
        for piece in _candidates(cohort, pieces, (*seed, pieces), INNER_ATTEMPTS):
            for turn in range(pieces):
                inner = (piece + turn) % pieces < take
                counts = cohort.counts(inner.astype(np.int64), 2)
                learned = (counts[:, 0] > 0) | (counts[:, 1] == 0)
                if learned.all() and not cohort.lacking(counts).any():
                    return inner
    return None


def _candidates(
    cohort: Cohort, bins: int, seed: tuple[int, ...], attempts: tuple[int, int]
) -> Iterator[Indices]:
    """Yield ways (n,) to deal the groups out to bins, the best balanced kind first."""
    balanced = _by_each if cohort.overlap else _balanced
    ways = [balanced] * attempts[0] + [_rare_first] * attempts[1]
    for attempt, way in enumerate(ways):
        generator = np.random.default_rng([*seed, attempt])
        yield way(cohort, bundled(cohort.y, cohort.group, generator), bins, generator)


def _balanced(cohort: Cohort, group: Indices, bins: int, generator: np.random.Generator) -> Indices:
    # Late: scikit-learn takes half a second to import, and a study is read without it.
    from sklearn.model_selection import StratifiedGroupKFold

    y = cohort.y
    state = int(generator.integers(2**31))
    folds = StratifiedGroupKFold(bins, shuffle=True, random_state=state)
    bin_of = np.zeros(len(y), dtype=np.int64)
    with warnings.catch_warnings():
        # A class with fewer cases than bins: what comes of it is checked, and named.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for place, (_, rows) in enumerate(folds.split(y, y, group)):
            bin_of[rows] = place
    return bin_of


def _by_each(cohort: Cohort, group: Indices, bins: int, generator: np.random.Generator) -> Indices:
    """Deal so that each of several things is as frequent in all bins."""
    return iterative(group, cohort.has, bins, generator)


def _rare_first(
    cohort: Cohort, group: Indices, bins: int, generator: np.random.Generator
) -> Indices:
    """Seat the groups that have the rarest thing first, each where the fewest groups have it."""
    size = np.bincount(group)
    has = np.zeros((len(size), cohort.has.shape[1]), dtype=bool)
    np.logical_or.at(has, group, cohort.has)
    # Per bin: groups of each class, and cases in all.
    seated = np.zeros((bins, has.shape[1]), dtype=np.int64)
    cases = np.zeros(bins, dtype=np.int64)
    place = np.full(len(has), -1, dtype=np.int64)
    for label in np.argsort(has.sum(axis=0), kind="stable"):
        for one in generator.permutation(np.flatnonzero(has[:, label])):
            if place[one] < 0:
                brings = (has[one] & (seated == 0)).sum(axis=1)
                where = np.lexsort((cases, -brings, seated[:, label]))[0]
                place[one] = where
                seated[where] += has[one]
                cases[where] += size[one]
    return place[group]


def bundled(y: Indices, group: Indices, generator: np.random.Generator) -> Indices:
    """Return the groups with those of one case and one class bundled, if they are very many."""
    single = np.bincount(group)[group] == 1
    if single.sum() <= MAX_SINGLES:
        return group
    result = group.copy()
    labels = np.unique(y)
    for label in labels:
        rows = generator.permutation(np.flatnonzero(single & (y == label)))
        size = max(1, len(rows) * len(labels) // MAX_SINGLES)
        result[rows] = group[rows[np.arange(len(rows)) // size * size]]
    return result
