"""The splits of a data set: dealt here, predefined by others, or tested on an outside store.

Warnings about them are put in sentences (`told`). A test store with images of the training set,
which would make every score worthless, is refused.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.core.references import StudyError, unknown
from bench.study.dataset import split_store, strata_of
from bench.study.schema import DataEntry, Study
from loaders.cases import BadSource
from loaders.datasets.decathlon.splits_final import read_splits_final
from loaders.datasets.table import KINDS
from loaders.sampling.folds import FoldError, Split, check_splits
from loaders.sampling.given import (
    GivenFold,
    check_given,
    complete,
    folds_by_value,
    official_fold,
    shared_of,
)
from loaders.store.layout import REJECTED, prepare_command, read_description, read_table
from loaders.store.pseudonyms import key_fingerprint, keyed_id, user_key
from loaders.store.read import Store

OFFICIAL = "official"
FILE_ENDS = ".json"


def make(study: Study, entry: DataEntry, store: Store, own: Store, base: Path) -> list[Split]:
    """Split the cases of a store as the study's `folds` says; raises StudyError.

    Errors call the data by `entry.name`, as the results do. `store` is `own` plus the cases that
    `entry.test` names; `base` is the folder that paths in the study are relative to.
    """
    if isinstance(study.folds, str):
        return _given(study, entry, store, base)
    try:
        dealt = split_store(
            own,
            folds=study.folds,
            repeats=study.repeats,
            seed=study.split_seed,
            inner_fraction=study.inner_fraction,
        )
    except FoldError as error:
        raise StudyError(f"data {entry.name!r}: {error}") from error
    if store.outside is None:
        return list(dealt)
    _check_outside(entry, store)
    tested = np.arange(store.n_own, len(store))
    return [
        Split(
            repeat=split.repeat,
            fold=split.fold,
            train=np.sort(np.concatenate([split.train, split.inner])),
            inner=split.test,
            test=tested,
        )
        for split in dealt
    ]


def check(splits: Sequence[Split], study: Study, store: Store, made: Sequence[Split]) -> None:
    """Raise FoldError unless saved splits keep what the splits of this study promise.

    Predefined splits, and the test part of each fold on an outside store, must still be as in
    `made`.
    """
    labels = strata_of(store)["labels"]
    if not isinstance(study.folds, str) and store.outside is None:
        check_splits(splits, store.groups, labels)
        return
    check_given(splits, labels=labels, classes=store.meta.classes)
    if [_outline(split) for split in splits] != [_outline(split) for split in made]:
        raise FoldError("its cases are split differently than when this run was made.")


def _outline(split: Split) -> tuple[int, int, list[int], list[int]]:
    """Return the part of a split that its makers decide: which cases it tests, and which not."""
    others = np.sort(np.concatenate([split.train, split.inner]))
    return split.repeat, split.fold, split.test.tolist(), others.tolist()


def told(study: Study, entry: DataEntry, store: Store, splits: Sequence[Split]) -> tuple[str, ...]:
    """Return the warnings that a reader of scores by these splits must know."""
    if store.outside is not None:
        return tuple(_of_outside(entry, store))
    if not isinstance(study.folds, str):
        return ()
    return tuple(_of_given(study.folds, store, splits))


# ---- predefined by others ------------------------------------------------------------------


def _given(study: Study, entry: DataEntry, store: Store, base: Path) -> list[Split]:
    try:
        return complete(
            _folds(str(study.folds), entry, store, base),
            **strata_of(store),
            groups=store.groups,
            hashes=store.hashes,
            classes=store.meta.classes,
            seed=study.split_seed,
            inner_fraction=study.inner_fraction,
        )
    except FoldError as error:
        raise StudyError(f"folds: {study.folds} of data {entry.name!r}: {error}.") from error


def _folds(folds: str, entry: DataEntry, store: Store, base: Path) -> list[GivenFold]:
    if folds == OFFICIAL:
        if not any(store.splits):
            raise StudyError(f"folds: official: {_without_parts(entry, store)}")
        return [official_fold(store.splits)]
    if folds.endswith(FILE_ENDS):
        return _named(base / folds, entry, store)
    values = store.column(folds)
    if folds not in store.columns:
        raise StudyError(f"folds: {_without_column(folds, entry, store)}")
    if lost := values.count(None):
        raise FoldError(f"{lost} of {len(store)} cases have no value in this column")
    return folds_by_value([value for value in values if value is not None])


def _without_parts(entry: DataEntry, store: Store) -> str:
    options = _options(store)
    here = f"the store of {entry.name!r} does not say which part its cases are in"
    if "split" not in options:
        return f"{here}, and sources of kind {store.meta.kind} have no parts. {_choices(store)}"
    command = prepare_command(store.path, read_description(store.path), split="COLUMN")
    return f"{here}. Prepare it again with the table's column of train, val and test: {command}"


def _without_column(name: str, entry: DataEntry, store: Store) -> str:
    said = unknown("column", name, [OFFICIAL, *store.columns])
    here = f"{said} The store of {entry.name!r} keeps {', '.join(store.columns) or 'no column'}"
    if "keep" not in _options(store):
        return (
            f"{here}, and sources of kind {store.meta.kind} have no table with columns to keep. "
            f"{_choices(store)}"
        )
    kept: list[str] = [*store.columns, name]
    command = prepare_command(store.path, read_description(store.path), keep=kept)
    return f"{here}; to keep this column, prepare the store again: {command}"


def _choices(store: Store) -> str:
    return (
        f"Choices: a number of folds, official if the source has parts, a file ending in "
        f"{FILE_ENDS}, or a column that the store keeps (here: "
        f"{', '.join(store.columns) or 'none'})."
    )


def _options(store: Store) -> Sequence[str]:
    return list(KINDS[store.meta.kind].options) if store.meta.kind in KINDS else []


def _named(path: Path, entry: DataEntry, store: Store) -> list[GivenFold]:
    """Return the folds of a splits_final.json, which names cases as the source does.

    A store knows only hashes of names, so the key that made them is needed.
    """
    try:
        folds, key = read_splits_final(path), user_key()
    except BadSource as error:
        raise StudyError(f"folds: {error}.") from error
    if key_fingerprint(key) != store.key:
        raise StudyError(
            f"folds: {path.name} names cases, but the ids of {entry.name!r} were made with another "
            f"key than yours: set MEDOPT_KEY to the key that the store was prepared with, or "
            f"prepare it again."
        )
    place = {case: row for row, case in enumerate(store.case_ids)}
    rejected = set(read_table(store.path / "rejected.parquet", REJECTED)["case_id"].to_pylist())

    def rows(names: Sequence[str], where: str) -> np.ndarray:
        found = []
        strange = []
        for name in names:
            case = keyed_id(key, store.meta.kind, name)
            if case in place:
                found.append(place[case])
            elif case not in rejected:
                strange.append(name)
        if strange:
            raise StudyError(
                f"folds: {path.name}: {where} names {strange[0]!r}, which is not a case of "
                f"{entry.name!r} ({len(strange)} of {len(names)} names are not). Names must be "
                f"those of the source's cases, without channel and suffix."
            )
        return np.sort(np.array(found, dtype=np.int64))

    return [
        GivenFold(
            name=f"fold {number}",
            train=rows(fold.train, f"fold {number}: train"),
            test=rows(fold.val, f"fold {number}: val"),
        )
        for number, fold in enumerate(folds)
    ]


def _of_given(folds: str, store: Store, splits: Sequence[Split]) -> list[str]:
    said = []
    if len(splits) == 1:
        said.append(
            f"There is only one, predefined fold (folds: {folds}): how much a score owes to the "
            f"luck of that split cannot be told, only how it would vary with other test cases."
        )
    shared = shared_of(splits, store.source_groups, store.image_ids)
    if shared.people or shared.images:
        whom = "patient" if store.meta.group_source == "patient" else store.meta.group_source
        said.append(
            f"In these predefined splits (folds: {folds}), which are kept as they are, "
            f"{shared.people} of {shared.tested} tested cases "
            f"{_one(shared.people, 'shares', 'share')} a {whom} with training or inner validation, "
            f"and {shared.images} {_one(shared.images, 'has', 'have')} the same pixels as a case "
            f"there: scores of these cases show what was memorised."
        )
    used = {int(row) for split in splits for row in (*split.train, *split.inner, *split.test)}
    if unused := len(store) - len(used):
        said.append(
            f"{unused} of {len(store)} cases {_one(unused, 'is', 'are')} in no part of these "
            f"splits (folds: {folds}) and {_one(unused, 'is', 'are')} not used."
        )
    return said


def _one(number: int, one: str, several: str) -> str:
    """Return the form of a verb for a number of cases."""
    return one if number == 1 else several


# ---- tested on an outside store ------------------------------------------------------------


def _check_outside(entry: DataEntry, store: Store) -> None:
    """Raise StudyError if cases of a test store are also trained on."""
    outside = store.outside
    assert outside is not None
    mine, theirs = slice(None, store.n_own), slice(store.n_own, None)

    def common(of: Sequence[str | None]) -> int:
        known = set(of[mine]) - {None}
        return sum(one in known for one in of[theirs])

    same_key = store.key == outside.key
    same = max(common(store.hashes), common(store.image_ids) if same_key else 0)
    if same:
        raise StudyError(
            f"data: {same} of {len(outside)} cases of test {entry.test!r} "
            f"{_one(same, 'has', 'have')} the pixels of a case of {entry.store!r}, which would "
            f"test what was trained on. Remove them from one of the two."
        )
    if same_key and store.meta.kind == outside.meta.kind and entry.patients is None:
        people = common(store.source_groups)
        if people:
            raise StudyError(
                f"data: {people} of {len(outside)} cases of test {entry.test!r} "
                f"{_one(people, 'is of a patient', 'are of patients')} (or "
                f"{_one(people, 'has a name', 'have names')}) that {entry.store!r} has too. Remove "
                f"them from one of the two; if they are other people of the same names, say so: "
                f"`patients: others` beside `test`."
            )


def _of_outside(entry: DataEntry, store: Store) -> list[str]:
    outside = store.outside
    assert outside is not None
    same_trained = (
        f"Every fold is tested on the same {len(outside)} cases of another data set "
        f"({outside.meta.name}): intervals over folds include the luck of training, not that of "
        f"these cases."
    )
    same_key = store.key == outside.key
    if entry.patients is not None or (same_key and store.meta.kind == outside.meta.kind):
        return [same_trained]
    why, what = (
        ("from other kinds of sources", "pixels") if same_key else ("with other keys", "content")
    )
    unknown_people = (
        f"It is not known whether patients of the test set are in training too: the ids of the two "
        f"were made {why}. No test case has the {what} of a case in training."
    )
    return [same_trained, unknown_people]
