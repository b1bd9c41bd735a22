"""The data of a study: a store, opened once a process, and the splits of its cases."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.core.references import StudyError, load_reference
from bench.study.pretrained import People
from bench.study.tasks import TASKS
from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.sampling.folds import FoldError, Split, make_splits, splits_table
from loaders.store.layout import FORMAT
from loaders.store.read import Store, StoreError, open_store, user_key, write_store

# Largest automatic patch side by dims, in voxels: common practice is 512 and 96 to 128; lowered to
# what a laptop trains on. Assumption.
PATCH_CAP = {2: 256, 3: 64}

open_once = lru_cache(maxsize=None)(open_store)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set of a study: its name in the results, where its store is, and its splits."""

    name: str
    path: Path
    splits: tuple[Split, ...]

    @property
    def store(self) -> Store:
        """Return the store, opened at most once in this process."""
        return open_once(self.path)

    def split(self, repeat: int, fold: int) -> Split:
        """Return the one split of this repeat and fold."""
        return next(s for s in self.splits if (s.repeat, s.fold) == (repeat, fold))

    def people(self, rows: Sequence[int] | np.ndarray) -> People:
        """Return whose cases these rows of the store are."""
        store = self.store
        found = [(store.case_ids[i], store.source_groups[i], store.image_ids[i]) for i in rows]
        return People(
            ids=frozenset(one for case, group, _ in found for one in (case, group)),
            images=frozenset(image for *_, image in found if image is not None),
            kind=store.meta.kind,
            key=store.key,
        )

    def folds(self) -> pa.Table:
        """Return who is in which part of which fold, as `folds.parquet` of a run has it.

        Beside the columns of `splits_table`: `dataset`, and what tells later studies whom a trial
        has trained on (bench.study.pretrained.People).
        """
        store = self.store
        table = splits_table(self.splits, store.case_ids, store.groups)
        place = {case: row for row, case in enumerate(store.case_ids)}
        rows = [place[case] for case in table["case_id"].to_pylist()]
        columns = {
            "dataset": [self.name] * len(rows),
            "source_group_id": [store.source_groups[row] for row in rows],
            "image_id": [store.image_ids[row] for row in rows],
            "kind": [store.meta.kind] * len(rows),
            "key": [store.key] * len(rows),
        }
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, pa.string()))
        return table


def locate(entry: str, base: Path, stores: Path) -> Path:
    """Return the folder of the store that a study's data entry names.

    A reference `path/file.py:function` to a data set of the user's own is prepared under `stores`
    first, once a version of its source. Raises StudyError if there is no such store.
    """
    if entry.rpartition(":")[0].endswith(".py"):
        return _prepare_own(entry, base, stores)
    path = (base / entry).resolve()
    if not path.is_dir():
        raise StudyError(
            f"data: there is no store {entry!r} (looked for {path}). Make one with "
            f"`medopt prepare KIND SOURCE --out {entry}`."
        )
    return path


def _prepare_own(reference: str, base: Path, stores: Path) -> Path:
    function, source = load_reference(reference, base)
    meta: Meta = function()[0]
    # Nobody makes this store by a command, so one of an older format is left and another is made.
    out = stores / f"{meta.name}-{source[:12]}-{FORMAT}"
    item = Item(key=reference, paths=(), extra={"base": str(base)})
    kind = Kind(
        name="own",
        summary="of the user's own",
        source=reference,
        survey=_no_survey,
        read=read_own,
        options={},
    )
    survey = Survey(meta=meta, items=(item,), rejected=())
    write_store(kind, survey, out, key=user_key(), workers=1, strict=True)
    return out


def _no_survey(_source: Path, _options: Mapping[str, Any]) -> Survey:
    raise AssertionError("a data set of the user's own is surveyed by its function")


def read_own(item: Item, _meta: Meta) -> Iterator[Case]:
    """Read the cases that a user's function gives: it returns (Meta, iterable of Case)."""
    function: Callable[[], tuple[Meta, Iterator[Case]]]
    function, _ = load_reference(item.key, Path(item.extra["base"]))
    yield from function()[1]


def split_store(
    store: Store, *, folds: int, repeats: int, seed: int, inner_fraction: float
) -> tuple[Split, ...]:
    """Split the cases of a store; raises StudyError with the reason where that cannot be done."""
    try:
        return tuple(
            make_splits(
                labels=labels_to_stratify(store),
                groups=store.groups,
                hashes=store.hashes,
                classes=store.meta.classes,
                folds=folds,
                repeats=repeats,
                seed=seed,
                inner_fraction=inner_fraction,
            )
        )
    except FoldError as error:
        raise StudyError(f"data {store.meta.name!r}: {error}") from error


def labels_to_stratify(store: Store) -> np.ndarray | None:
    """Return the labels (n,) that folds are stratified by, None where the task has none."""
    return store.labels if TASKS[store.meta.task].stratified else None


def automatic_patch(store: Store) -> tuple[int, ...]:
    """Return a patch for a store: the median shape, brought up to the multiple that its task asks.

    Sides are capped (PATCH_CAP).
    """
    median = np.median(store.shapes, axis=0).astype(int)
    cap, step = PATCH_CAP[store.meta.dims], TASKS[store.meta.task].patch_multiple
    return tuple(int(min(-(-side // step) * step, cap)) for side in median)


__all__ = ["DataSet", "StoreError", "automatic_patch", "locate", "open_once", "split_store"]
