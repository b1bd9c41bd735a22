"""Assignment of groups to test folds and inner validation, with every class in every part.

As far as possible, every part also holds every region of segmented cases: loaders.sampling.folds.
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

# scikit-learn's assignment is greedy and may leave a class out of a fold, or in one fold only: in
# 7 % of 17 493 random small data sets that an integer program can solve (measured). Other shuffles
# fix less than half of those (it orders groups by size first); placing the rarest classes first
# fixed all.
FOLD_ATTEMPTS = (10, 200)
INNER_ATTEMPTS = (3, 30)
# The number of fold assignments for which inner validation is tried before giving up.
INNER_TRIES = 5
# scikit-learn takes 0.13 ms per group (measured). If more groups than this have one case, those of
# a class are assigned in bundles, each small compared with a fold.
MAX_SINGLES = 2000


class FoldError(ValueError):
    """Folds that are impossible or violate a guarantee; says which, where and what to do."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """n cases in an order that depends only on their content.

    - `y` (n,): the stratum to spread evenly, all 0 if there is nothing to stratify by.
    - `group` (n,): the number of the group.
    - `has` (n, k): which of k attributes, which every part must hold, a case has; one-hot for
      classes. `names` (k,): the names of these attributes in errors.
    - `strict`: the number of leading attributes that are refused if they are too rare for every
      part; the others must then be in as many parts as there are groups with them, and in training
      rather than inner validation.
    - `classes`: whether the attributes are classes, of which some may be merged.
    - `overlap`: whether cases have several attributes, each to be as frequent in all parts.
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
        """The number of groups."""
        return len(np.unique(self.group))

    def counts(self, bin_of: Indices, bins: int) -> Indices:
        """Return the number of groups with each attribute in each bin (k, bins)."""
        place = self.group * bins + bin_of
        return np.stack(
            [np.bincount(np.unique(place[own]) % bins, minlength=bins) for own in self.has.T]
        )

    def lacking(self, counts: Indices) -> NDArray[np.bool_]:
        """Return which attributes (k,) are in too few bins, by `counts` (k, bins)."""
        wanted = np.minimum(counts.sum(axis=1), counts.shape[1])
        wanted[: self.strict] = counts.shape[1]
        lacks: NDArray[np.bool_] = (counts > 0).sum(axis=1) < wanted
        return lacks

    def describe(self, label: int) -> str:
        """Return "class 'x' has 3 cases in 2 groups", or the same for the whole set."""
        cases = self.has[:, label]
        who, groups = self.names[label], len(np.unique(self.group[cases]))
        return f"{who} has {int(cases.sum())} cases in {groups} groups"

    def advise(self, *ways: str) -> str:
        """Return advice on a class with too few groups."""
        merge = ["merge the class with another"] if self.classes else []
        return ", or ".join([*ways, *merge])


def deal(
    cohort: Cohort, *, folds: int, inner_fraction: float, seed: tuple[int, int], seen: set[bytes]
) -> tuple[Indices, list[NDArray[np.bool_]]]:
    """Return each case's fold (n,), and for each fold which cases (n,) are its inner validation.

    Groups are not split. Every attribute is in every fold, and in the inner validation and training
    part of each, as far as the cohort is strict about it. `seed` is the study's seed and the
    repeat; `seen` holds the partitions of earlier repeats, and this one is added. Raises FoldError.
    """
    _check_groups(cohort, folds)
    repeat = f"repeat {seed[-1]}"
    # What went wrong with the candidate that got furthest.
    problems = {0: ""}
    tries = 0
    for fold_of in _candidates(cohort, folds, seed, FOLD_ATTEMPTS):
        counts = cohort.counts(fold_of, folds)
        left = counts.sum(axis=1, keepdims=True) - counts
        if (lacks := cohort.lacking(counts)).any():
            label = int(lacks.argmax())
            fold = int(counts[label].argmin())
            problems[0] = (
                f"{repeat} fold {fold}: {cohort.describe(label)}, but none of them in the test "
                f"part; {cohort.advise('use fewer folds')}"
            )
            continue
        if left[: cohort.strict].min() < 2:
            label, fold = np.argwhere(left[: cohort.strict] < 2)[0]
            rest = cohort.take(np.flatnonzero(fold_of != fold))
            problems[1] = _no_inner(rest, int(label), f"{repeat} fold {fold}")
            continue
        # Which cases are together, independent of the folds' numbers.
        partition = in_order(fold_of).tobytes()
        if partition in seen:
            problems[2] = (
                f"{repeat} finds no split into {folds} folds other than those of earlier repeats: "
                f"{cohort.n_groups} groups are too few; use fewer repeats"
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

    It is chosen as `deal` does for each of its own folds. Raises FoldError.
    """
    counts = cohort.counts(np.zeros(len(cohort.y), dtype=np.int64), 1)[:, 0]
    rarest = int(counts[: cohort.strict].argmin())
    enough = counts[rarest] > 1 and int(np.bincount(cohort.y).max()) > 1
    mask = _inner(cohort, inner_fraction, seed) if enough else None
    if mask is None:
        advice = cohort.advise("name the cases for validation")
        raise FoldError(
            "the training part cannot give up an inner validation part with every class or region "
            f"to be learned: there {cohort.describe(rarest)}; {advice}"
        )
    return mask


def in_order(numbers: NDArray[np.integer[Any]]) -> Indices:
    """Return the numbers renamed 0, 1, 2 ... in the order of their first occurrence."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    renamed: Indices = np.argsort(np.argsort(first))[inverse]
    return renamed


def _check_groups(cohort: Cohort, folds: int) -> None:
    """Raise FoldError if a class has fewer groups than there are folds."""
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
    """Return which of the cases (n,) that are not tested are inner validation; None: impossible."""
    # A whole number of equal pieces, at most the number of groups or (scikit-learn's condition) of
    # cases in the largest class. If a class is too rare for that many, there are fewer and larger
    # pieces, and the part is larger than requested.
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
    """Yield assignments (n,) of groups to bins, the best balanced kind first."""
    balanced = _by_each if cohort.overlap else _balanced
    ways = [balanced] * attempts[0] + [_rare_first] * attempts[1]
    for attempt, way in enumerate(ways):
        generator = np.random.default_rng([*seed, attempt])
        yield way(cohort, bundled(cohort.y, cohort.group, generator), bins, generator)


def _balanced(cohort: Cohort, group: Indices, bins: int, generator: np.random.Generator) -> Indices:
    # Imported late: scikit-learn takes half a second, and reading a study does not need it.
    from sklearn.model_selection import StratifiedGroupKFold

    y = cohort.y
    state = int(generator.integers(2**31))
    folds = StratifiedGroupKFold(bins, shuffle=True, random_state=state)
    bin_of = np.zeros(len(y), dtype=np.int64)
    with warnings.catch_warnings():
        # A class with fewer cases than bins is detected and reported later.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for place, (_, rows) in enumerate(folds.split(y, y, group)):
            bin_of[rows] = place
    return bin_of


def _by_each(cohort: Cohort, group: Indices, bins: int, generator: np.random.Generator) -> Indices:
    """Assign groups so that each of several attributes is as frequent in all bins."""
    return iterative(group, cohort.has, bins, generator)


def _rare_first(
    cohort: Cohort, group: Indices, bins: int, generator: np.random.Generator
) -> Indices:
    """Place the groups with the rarest attribute first, each where the fewest groups have it."""
    size = np.bincount(group)
    has = np.zeros((len(size), cohort.has.shape[1]), dtype=bool)
    np.logical_or.at(has, group, cohort.has)
    # Per bin: groups with each attribute, and all cases.
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
    """Return the groups, with single-case groups of one class bundled if there are very many."""
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
