"""Splits that others made: official parts, a column whose values are folds, or named lists.

They are kept unchanged: a patient or an image on both sides is counted, never moved. If they lack a
part for inner validation, it is taken from the training part as in `loaders.sampling.folds`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from loaders.sampling.assign import Cohort, FoldError, deal_inner
from loaders.sampling.folds import PARTS, Indices, Labels, Split, cohorts_of

# The parts of an official split, in the words of MedMNIST.
OFFICIAL = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class GivenFold:
    """One fold as its makers define it: rows of the store. `inner` None: they name no such part.

    `name` is its name in errors. Rows in no part are not used.
    """

    name: str
    train: Indices
    test: Indices
    inner: Indices | None = None


def official_fold(parts: Sequence[str | None]) -> GivenFold:
    """Return the fold of cases that each have a part of OFFICIAL; raises FoldError.

    If no case is in "val", inner validation is not named.
    """
    counts = {part: sum(one == part for one in parts) for part in OFFICIAL}
    if lost := len(parts) - sum(counts.values()):
        raise FoldError(f"{lost} of {len(parts)} cases are in none of the parts train, val, test")
    for part in ("train", "test"):
        if not counts[part]:
            held = ", ".join(f"{name} {number}" for name, number in counts.items())
            raise FoldError(f"its official parts hold no cases of {part} ({held})")
    own = np.asarray(parts)
    rows = {part: np.flatnonzero(own == part) for part in OFFICIAL}
    return GivenFold(
        name="the official split",
        train=rows["train"],
        test=rows["test"],
        inner=rows["val"] if counts["val"] else None,
    )


def folds_by_value(values: Sequence[int]) -> list[GivenFold]:
    """Return a fold for each value, in order, which tests the cases (n,) with it; others train.

    This serves fold numbers from others, and leave-one-site-out. Raises FoldError if there is only
    one value.
    """
    own = np.asarray(values, np.int64)
    found = np.unique(own)
    if len(found) < 2:
        raise FoldError(
            "it has only one value, so there is nothing to train on; folds need 2 or more"
        )
    return [
        GivenFold(
            name=f"value {value}",
            train=np.flatnonzero(own != value),
            test=np.flatnonzero(own == value),
        )
        for value in found.tolist()
    ]


def complete(
    given: Sequence[GivenFold],
    *,
    labels: Labels | None,
    groups: Sequence[str],
    hashes: Sequence[str],
    classes: Sequence[str],
    seed: int,
    inner_fraction: float,
    present: NDArray[np.bool_] | None = None,
    overlap: bool = False,
    names: Sequence[str] = (),
) -> list[Split]:
    """Return the splits of given folds; inner validation that they do not name is assigned.

    The other arguments are those of `make_splits`, for every case of the store. Raises FoldError if
    a part is empty or holds a case of another, or if a training part lacks a class.
    """
    del names
    splits = []
    for number, fold in enumerate(given):
        train, inner = fold.train, fold.inner
        if inner is None:
            _check_training(fold.name, train, labels, classes)
            own = train[np.argsort(np.asarray(hashes)[train], kind="stable")]
            cohorts = cohorts_of(
                labels=None if labels is None else np.asarray(labels)[own],
                groups=[groups[row] for row in own],
                classes=classes,
                present=None if present is None else present[own],
                overlap=overlap,
            )
            try:
                mask = _inner_of(cohorts, inner_fraction, (seed, 0, number))
            except FoldError as error:
                raise FoldError(f"{fold.name}: {error}") from error
            train, inner = np.sort(own[~mask]), np.sort(own[mask])
        splits.append(Split(repeat=0, fold=number, train=train, inner=inner, test=fold.test))
    check_given(splits, labels=labels, classes=classes, names=[fold.name for fold in given])
    return splits


def _inner_of(
    cohorts: Sequence[Cohort], inner_fraction: float, seed: tuple[int, int, int]
) -> NDArray[np.bool_]:
    for cohort in cohorts[:-1]:
        try:
            return deal_inner(cohort, inner_fraction=inner_fraction, seed=seed)
        except FoldError:
            continue  # the next cohort requires less of both parts
    return deal_inner(cohorts[-1], inner_fraction=inner_fraction, seed=seed)


def _check_training(
    name: str, rows: Indices, labels: Labels | None, classes: Sequence[str]
) -> None:
    if labels is None:
        return
    own = np.asarray(labels)
    for label, known in enumerate(classes):
        if not (own[rows] == label).any():
            raise FoldError(
                f"{name}: class {known!r} has 0 cases in the training part and "
                f"{int((own == label).sum())} in all, so it cannot be learned"
            )


def check_given(
    splits: Sequence[Split],
    *,
    labels: Labels | None,
    classes: Sequence[str],
    names: Sequence[str] | None = None,
) -> None:
    """Raise FoldError unless no part is empty, no case in two and every class in training.

    Splits that others made need nothing more: they may omit cases and separate a patient's.
    """
    for number, split in enumerate(splits):
        name = f"fold {split.fold}" if names is None else names[number]
        parts: Mapping[str, Indices] = {part: np.asarray(getattr(split, part)) for part in PARTS}
        for part, rows in parts.items():
            if not len(rows):
                raise FoldError(f"{name}: the {part} part is empty")
            if len(np.unique(rows)) < len(rows):
                raise FoldError(f"{name}: the {part} part names a case twice")
        for one, other in combinations(PARTS, 2):
            if shared := len(np.intersect1d(parts[one], parts[other])):
                raise FoldError(f"{name}: {one} and {other} share cases, {shared} in all")
        _check_training(name, parts["train"], labels, classes)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Counts over all folds: `tested` cases, and how many of them share something with training.

    `people` share a group with a training or validation case, `images` all their pixels.
    """

    tested: int
    people: int
    images: int


def shared_of(
    splits: Sequence[Split], groups: Sequence[str], images: Sequence[str | None]
) -> Shared:
    """Count the test cases whose group (n,) or image (n,) has a case in another part of the fold.

    `images` are ids that are equal if the pixels are, None for an image that equals no other.
    """
    tested = people = same = 0
    for split in splits:
        seen = [*split.train.tolist(), *split.inner.tolist()]
        known_groups = {groups[row] for row in seen}
        known_images = {images[row] for row in seen} - {None}
        test = split.test.tolist()
        tested += len(test)
        people += sum(groups[row] in known_groups for row in test)
        same += sum(images[row] in known_images for row in test)
    return Shared(tested=tested, people=people, images=same)
