"""Grouped, stratified folds: pure and seeded.

Segmented cases are stratified by the regions that they hold, each case by its rarest region. Every
part holds every region, if there are enough groups with it for all parts. If no such assignment is
found, the requirement is dropped for the rarest regions, one after another (`medopt plan` reports
which parts lack which).

Nothing here depends on keyed ids or on the order of rows: cases are taken in the order of their
content hashes, and a group is named by its first case.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from loaders.sampling.assign import Cohort, FoldError, deal, in_order

__all__ = [
    "FoldError",
    "Split",
    "Strata",
    "check_splits",
    "cohorts_of",
    "make_splits",
    "read_folds",
    "split_hash",
    "splits_from_table",
    "splits_table",
]

Indices = NDArray[np.int64]
Labels = NDArray[np.integer[Any]]

PARTS = ("train", "inner", "test")

TABLE = pa.schema(
    [
        pa.field("repeat", pa.int32(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
    ]
)


_SAVED = pa.schema([pa.field(f.name, f.type) for f in TABLE] + [pa.field("dataset", pa.string())])
# Columns that identify the cases, for use by another run; runs of older versions lack them.
_PEOPLE = ("source_group_id", "image_id", "kind", "key")


class Strata(TypedDict):
    """What the folds of n cases are stratified by: arguments of `make_splits`.

    `names` are those of the columns of `present` in messages.
    """

    labels: Labels | None
    present: NDArray[np.bool_] | None
    overlap: bool
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Split:
    """One fold of one repeat: sorted int64 rows of the store, each case in exactly one part.

    The model learns from `train`; `inner` stops the training and chooses the weights; `test` is
    scored once.
    """

    repeat: int
    fold: int
    train: Indices
    inner: Indices
    test: Indices


def make_splits(
    *,
    labels: Labels | None,
    groups: Sequence[str],
    hashes: Sequence[str],
    classes: Sequence[str],
    folds: int,
    repeats: int,
    seed: int,
    inner_fraction: float,
    present: NDArray[np.bool_] | None = None,
    overlap: bool = False,
    names: Sequence[str] = (),
) -> list[Split]:
    """Divide n cases into `folds` test folds, `repeats` times; return repeats * folds splits.

    - `labels` (n,) are indices into `classes`; None: the cases are segmented.
    - `present` (n, regions) tells which regions these hold; None: nothing to stratify by.
    - `overlap`: the regions are findings, of which cases have several, and each is to be as
      frequent in all parts (loaders.sampling.iterative).
    - `names` are for messages only.
    - `groups` (n,): cases of one group stay together; the store has merged groups that share an
      image, such as one patient under two names.
    - `hashes` (n,) of each case's content determine the order.
    - `inner_fraction` of the groups that are not tested become inner validation.

    Every class is in every part of every split, and no two repeats are the same; raises FoldError
    if that is impossible.
    """
    if folds < 2 or repeats < 1 or not 0 < inner_fraction < 1:
        raise FoldError(
            f"folds is {folds}, repeats is {repeats}, inner_fraction is {inner_fraction}: "
            "there must be at least 2 folds, 1 repeat, and a fraction between 0 and 1"
        )
    del names
    cohorts = cohorts_of(
        labels=labels, groups=groups, classes=classes, present=present, overlap=overlap
    )
    order = np.lexsort((cohorts[0].y, np.asarray(hashes)))
    deal_out = partial(
        _dealt,
        order=order,
        folds=folds,
        repeats=repeats,
        seed=seed,
        inner_fraction=inner_fraction,
    )
    for nth, cohort in enumerate(cohorts, start=1):
        own = cohort.take(order)
        try:
            splits = deal_out(replace(own, group=in_order(own.group)))
            break
        except FoldError:
            # The next cohort requires less of every part; the last requires the least.
            if nth == len(cohorts):
                raise
    check_splits(splits, groups, labels, classes)
    return splits


def cohorts_of(
    *,
    labels: Labels | None,
    groups: Sequence[str],
    classes: Sequence[str],
    present: NDArray[np.bool_] | None,
    overlap: bool = False,
) -> list[Cohort]:
    """Return n cases with everything that every part should hold, then with ever less of it.

    The arguments are those of `make_splits`. No class is ever dropped. Raises FoldError if a label
    is not one of `classes`.
    """
    merged = np.unique(np.asarray(groups), return_inverse=True)[1]
    if labels is None:
        return [replace(cohort, overlap=overlap) for cohort in _of_regions(merged, present)]
    return [_of_classes(merged, np.asarray(labels, np.int64), classes)]


def _of_classes(group: Indices, labels: Indices, classes: Sequence[str]) -> Cohort:
    """Return the cases with the requirement that every part hold every class; raises FoldError."""
    if not ((labels >= 0) & (labels < len(classes))).all():
        raise FoldError(
            f"labels run from {labels.min()} to {labels.max()}; there are {len(classes)} classes"
        )
    return Cohort(
        y=labels,
        group=group,
        has=labels[:, None] == np.arange(len(classes)),
        names=tuple(f"class {name!r}" for name in classes),
        strict=len(classes),
        classes=True,
    )


def _of_regions(group: Indices, present: NDArray[np.bool_] | None) -> list[Cohort]:
    """Return the cases with all regions that every part should hold, then with ever fewer."""
    if present is None:
        present = np.zeros((len(group), 0), dtype=bool)
    groups_with = np.array([len(np.unique(group[own])) for own in present.T], dtype=np.int64)
    # Each case is stratified by the rarest region that it holds; the last column is "no region".
    rarity = np.where(present, groups_with, len(group) + 1)
    alone = np.full((len(group), 1), len(group))
    stratum = np.concatenate([rarity, alone], axis=1).argmin(axis=1)
    often = [k for k in np.argsort(-groups_with, kind="stable") if groups_with[k]]
    everyone = np.ones((len(group), 1), dtype=bool)
    return [
        Cohort(
            y=np.unique(stratum, return_inverse=True)[1],
            group=group,
            has=np.concatenate([everyone, present[:, often[:most]]], axis=1),
            names=("the data set", *(f"region {k}" for k in often[:most])),
            strict=1,
            classes=False,
        )
        for most in range(len(often), -1, -1)
    ]


def _dealt(
    cohort: Cohort,
    *,
    order: Indices,
    folds: int,
    repeats: int,
    seed: int,
    inner_fraction: float,
) -> list[Split]:
    """Return the splits of a cohort whose i-th case is row `order[i]`; raises FoldError."""
    splits: list[Split] = []
    seen: set[bytes] = set()
    for repeat in range(repeats):
        fold_of, inner = deal(
            cohort, folds=folds, inner_fraction=inner_fraction, seed=(seed, repeat), seen=seen
        )
        for fold in range(folds):
            test = fold_of == fold
            splits.append(
                Split(
                    repeat=repeat,
                    fold=fold,
                    train=np.sort(order[~test & ~inner[fold]]),
                    inner=np.sort(order[inner[fold]]),
                    test=np.sort(order[test]),
                )
            )
    return splits


def check_splits(
    splits: Sequence[Split],
    groups: Sequence[str],
    labels: Labels | None,
    classes: Sequence[str] | None = None,
) -> None:
    """Raise FoldError unless the splits keep every guarantee, whoever made them.

    In each split every case is in exactly one part, no part is empty, no group is in two parts, and
    every class that occurs is in every part. In each repeat every case is tested exactly once.
    """
    n = len(groups)
    group_number = np.unique(np.asarray(groups), return_inverse=True)[1]
    present = [] if labels is None else np.unique(labels).tolist()
    for split in splits:
        where = f"repeat {split.repeat} fold {split.fold}"
        parts = {part: np.asarray(getattr(split, part)) for part in PARTS}
        for part, rows in parts.items():
            if not len(rows):
                raise FoldError(f"{where}: the {part} part is empty; use fewer folds")
        together = np.sort(np.concatenate(list(parts.values())))
        if not np.array_equal(together, np.arange(n)):
            raise FoldError(f"{where}: its parts do not hold each of the {n} cases exactly once")
        for a, b in combinations(PARTS, 2):
            shared = np.intersect1d(group_number[parts[a]], group_number[parts[b]])
            if len(shared):
                raise FoldError(
                    f"{where}: {len(shared)} groups have cases in {a} and in {b}; "
                    "a patient must not be on both sides"
                )
        for part, rows in parts.items():
            for label in present:
                if labels is not None and not (labels[rows] == label).any():
                    name = str(label if classes is None else classes[label])
                    raise FoldError(
                        f"{where}: class {name!r} has 0 cases in the {part} part and "
                        f"{int((np.asarray(labels) == label).sum())} in all; use fewer folds, "
                        "or merge the class with another"
                    )
    for repeat in sorted({split.repeat for split in splits}):
        tested = np.sort(np.concatenate([s.test for s in splits if s.repeat == repeat]))
        if not np.array_equal(tested, np.arange(n)):
            raise FoldError(f"repeat {repeat}: its folds do not test each case exactly once")


def splits_table(
    splits: Sequence[Split], case_ids: Sequence[str], groups: Sequence[str]
) -> pa.Table:
    """Return the splits as a table: repeat, fold, part, case_id, group_id; a row per case."""
    ids, group_ids = np.asarray(case_ids), np.asarray(groups)
    parts = [
        pa.table(
            [
                np.full(len(rows), split.repeat, np.int32),
                np.full(len(rows), split.fold, np.int32),
                pa.array([part] * len(rows), pa.string()),
                pa.array(ids[rows].tolist(), pa.string()),
                pa.array(group_ids[rows].tolist(), pa.string()),
            ],
            schema=TABLE,
        )
        for split in splits
        for part in PARTS
        for rows in (getattr(split, part),)
    ]
    return pa.concat_tables(parts) if parts else TABLE.empty_table()


def read_folds(path: Path) -> pa.Table:
    """Return a run's table of folds: the columns of `splits_table`, `dataset`, and identities.

    Identities (`source_group_id`, `image_id`, `kind` of source, `key` that made the ids) may be
    null. Raises FoldError if the file is damaged, or lacks columns or cells.
    """
    try:
        found = pq.read_table(path)
        table = found.select(_SAVED.names).cast(_SAVED)
        for name in _PEOPLE:
            known = name in found.column_names
            column = found[name].cast(pa.string()) if known else pa.nulls(len(found), pa.string())
            table = table.append_column(name, column)
        table.validate(full=True)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        said = " ".join(str(error).split())
        raise FoldError(f"{path.name} of run {path.parent.name!r} is damaged: {said}") from error
    if any(table[name].null_count for name in _SAVED.names):
        raise FoldError(f"{path.name} of run {path.parent.name!r} is damaged: it has empty cells")
    return table


def splits_from_table(table: pa.Table, case_ids: Sequence[str]) -> list[Split]:
    """Return the splits that `splits_table` wrote, for the store with these case ids.

    Raises FoldError if the table has other cases. `check_splits` checks the rest.
    """
    row_of = {case: row for row, case in enumerate(case_ids)}
    columns = [table[name].to_pylist() for name in TABLE.names[:4]]
    found: dict[tuple[int, int], dict[str, list[int]]] = {}
    for repeat, fold, part, case in zip(*columns, strict=True):
        if case not in row_of:
            raise FoldError("the saved folds name a case that the store does not have")
        if part not in PARTS:
            raise FoldError(f"the saved folds name a part {part!r}; it must be {', '.join(PARTS)}")
        found.setdefault((repeat, fold), {name: [] for name in PARTS})[part].append(row_of[case])
    return [
        Split(
            repeat=repeat,
            fold=fold,
            **{part: np.sort(np.array(rows, dtype=np.int64)) for part, rows in parts.items()},
        )
        for (repeat, fold), parts in sorted(found.items())
    ]


def split_hash(split: Split, hashes: Sequence[str]) -> str:
    """Return a hash of which content is in which part, independent of ids, keys and row order."""
    text = "\n".join(
        f"{part}:{','.join(sorted(hashes[row] for row in getattr(split, part)))}" for part in PARTS
    )
    return hashlib.sha256(text.encode()).hexdigest()
