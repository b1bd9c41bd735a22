"""The data of a study: a store, opened once per process, and the splits of its cases."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.core.references import StudyError, failure, load_callable, said
from bench.storage.objects import is_address
from bench.storage.store_copy import AWAY_SEC, DESCRIPTION, store_here
from bench.study.pretrained import People
from bench.study.tasks import TASKS
from loaders.cases import BadCase, Case, Item, Kind, Meta, Survey
from loaders.sampling.folds import Split, Strata, make_splits, splits_table
from loaders.store.layout import FORMAT
from loaders.store.pseudonyms import user_key
from loaders.store.read import Store, open_store
from loaders.store.write import write_store
from results.tables.tasks import answer_of

# Largest automatic patch side by dims, in voxels: common practice is 512 and 96 to 128; lowered to
# what a laptop trains on. Assumption.
PATCH_CAP = {2: 256, 3: 64}

open_once = lru_cache(maxsize=None)(open_store)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set of a study: its name in the results, where its store is, and its splits.

    `outside` is the store that it is tested on, None for its own. `notes` are sentences about
    predefined splits that every reader of its scores must know. `address` and `outside_address`
    are where these stores were copied from, None for stores in a folder.
    """

    name: str
    path: Path
    splits: tuple[Split, ...]
    outside: Path | None = None
    notes: tuple[str, ...] = ()
    address: str | None = None
    outside_address: str | None = None

    def here(self) -> "DataSet":
        """Return the set with its stores on this machine's disk, copied there if need be.

        Raises as `bench.storage.store_copy.store_here`.
        """
        return replace(
            self,
            path=_copy_here(self.path, self.address),
            outside=self.outside and _copy_here(self.outside, self.outside_address),
        )

    @property
    def store(self) -> Store:
        """Return the store, with the cases outside, opened at most once in this process."""
        return open_once(self.path, self.outside)

    @property
    def own(self) -> Store:
        """Return the store without the cases outside, opened at most once in this process."""
        return open_once(self.path)

    def split(self, repeat: int, fold: int) -> Split:
        """Return the one split of this repeat and fold."""
        return next(s for s in self.splits if (s.repeat, s.fold) == (repeat, fold))

    def people(self, rows: Sequence[int] | np.ndarray) -> People:
        """Return the patients of these rows of the store; all rows are from one source."""
        store = self.store
        source = store.source_of(int(rows[0]))
        found = [(store.case_ids[i], store.source_groups[i], store.image_ids[i]) for i in rows]
        return People(
            ids=frozenset(one for case, group, _ in found for one in (case, group)),
            images=frozenset(image for *_, image in found if image is not None),
            kind=source.meta.kind,
            key=source.key,
        )

    def folds(self) -> pa.Table:
        """Return the part of each case in each fold, as in `folds.parquet` of a run.

        Beside the columns of `splits_table`: `dataset`, and columns that tell later studies which
        patients a trial has trained on (bench.study.pretrained.People).
        """
        store = self.store
        table = splits_table(self.splits, store.case_ids, store.groups)
        place = {case: row for row, case in enumerate(store.case_ids)}
        rows = [place[case] for case in table["case_id"].to_pylist()]
        columns = {
            "dataset": [self.name] * len(rows),
            "source_group_id": [store.source_groups[row] for row in rows],
            "image_id": [store.image_ids[row] for row in rows],
            "kind": [store.source_of(row).meta.kind for row in rows],
            "key": [store.source_of(row).key for row in rows],
        }
        for name, values in columns.items():
            table = table.append_column(name, pa.array(values, pa.string()))
        return table


def _copy_here(path: Path, address: str | None) -> Path:
    """Return a store's folder on this machine; a copy has the store's hash in its path."""
    if address is None or (path / DESCRIPTION).is_file():
        return path
    return store_here(address, AWAY_SEC)


def locate(entry: str, base: Path, stores: Path) -> Path:
    """Return the folder of the store that a study's data entry names; for an address, of its copy.

    A reference `path/file.py:function` to a data set of the user's own is prepared under `stores`
    first, once for each version of its source. Raises StudyError if there is no such store.
    """
    if _is_own(entry):
        return _prepare_own(entry, base, stores)
    if is_address(entry):
        return store_here(entry)
    return _folder(entry, base)


def check_there(entry: str, base: Path) -> None:
    """Raise StudyError if a data entry names a folder that does not exist."""
    if not (_is_own(entry) or is_address(entry)):
        _folder(entry, base)


def _is_own(entry: str) -> bool:
    return entry.rpartition(":")[0].endswith(".py")


def _folder(entry: str, base: Path) -> Path:
    path = base / entry
    if not os.path.isdir(path):  # noqa: PTH112  # False too for a name that no folder can have
        raise StudyError(
            f"data: there is no store {entry!r} (looked for {path}; paths in `data` are relative "
            "to the study file, those of a ready study to the working folder). Make one with "
            f"`medopt prepare KIND SOURCE --out {shlex.quote(_from_here(path))}`."
        )
    return path.resolve()


def _from_here(path: Path) -> str:
    """Return a path from the working folder if it is inside it, else in full."""
    full = os.path.abspath(path)  # noqa: PTH100  # for what no file can be, without its links
    here = str(Path.cwd())
    return os.path.relpath(full, here) if full.startswith(f"{here}{os.sep}") else full


WANTED = "a function without arguments that returns a Meta and an iterable of Case"


def _prepare_own(reference: str, base: Path, stores: Path) -> Path:
    function, source = load_callable(reference, base, key="data", wanted=WANTED)
    meta, _ = _made(function, reference)
    # No user prepares this store by hand, so one of an older format is ignored and made anew.
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
    try:
        write_store(kind, survey, out, key=user_key(), workers=1, strict=True)
    except BadCase as error:
        raise StudyError(f"data: {reference}, case {error.where!r}: {error.reason}") from error
    return out


def _made(function: Any, reference: str) -> tuple[Meta, Iterator[Any]]:
    """Call a user's function; raises StudyError unless it returns a Meta and cases."""
    try:
        made = function()
    except (Exception, SystemExit) as error:  # a user's code may raise anything; it is reported
        raise StudyError(f"data: {reference} failed with {failure(error)}.") from error
    try:
        meta, cases = made
        cases = iter(cases)
    except (TypeError, ValueError) as error:
        raise StudyError(f"data: {reference} gave {said(made)}; expected {WANTED}.") from error
    if not isinstance(meta, Meta):
        raise StudyError(f"data: {reference} gave {said(meta)} first; expected {WANTED}.")
    if not re.fullmatch(r"[^\W_][\w. -]{0,99}", meta.name):
        raise StudyError(
            f"data: {reference} gave a Meta with the name {meta.name!r}. The name is a folder's: "
            f"at most 100 letters, digits, blanks, '.', '-' and '_', the first a letter or digit."
        )
    return meta, cases


def _no_survey(_source: Path, _options: Mapping[str, Any]) -> Survey:
    raise AssertionError("a data set of the user's own is surveyed by its function")


def read_own(item: Item, _meta: Meta) -> Iterator[Case]:
    """Read the cases that a user's function gives: it returns (Meta, iterable of Case)."""
    function, _ = load_callable(item.key, Path(item.extra["base"]), key="data", wanted=WANTED)
    _, cases = _made(function, item.key)
    for number in count(1):
        try:
            case = next(cases)
        except StopIteration:
            return
        except (BadCase, OSError, MemoryError):
            raise
        except Exception as error:  # a user's code may raise anything; it is reported
            raise StudyError(
                f"data: {item.key} failed at its case {number} with {failure(error)}."
            ) from error
        if not isinstance(case, Case):
            raise StudyError(
                f"data: {item.key} gave {said(case)} as its case {number}; expected {WANTED}."
            )
        yield case


def split_store(
    store: Store, *, folds: int, repeats: int, seed: int, inner_fraction: float
) -> tuple[Split, ...]:
    """Split the cases of a store; raises FoldError with the reason if that cannot be done."""
    return tuple(
        make_splits(
            **strata_of(store),
            groups=store.groups,
            hashes=store.hashes,
            classes=store.meta.classes,
            folds=folds,
            repeats=repeats,
            seed=seed,
            inner_fraction=inner_fraction,
        )
    )


def strata_of(store: Store) -> Strata:
    """Return what the folds of a store are stratified by."""
    return TASKS[store.meta.task].strata(store)


def automatic_patch(store: Store) -> tuple[int, ...]:
    """Return a patch for a store: the median shape, rounded up to a multiple that its task needs.

    Sides are capped (PATCH_CAP).
    """
    median = np.median(store.shapes, axis=0).astype(int)
    cap, step = PATCH_CAP[store.meta.dims], TASKS[store.meta.task].patch_multiple
    return tuple(int(min(-(-side // step) * step, cap)) for side in median)


def described(store: Store) -> dict[str, Any]:
    """Return what results say of a data set: plain numbers and names that JSON can hold.

    `classes` are in the order of labels, each with its number of cases (classification) or voxels
    (segmentation); a finding also has the number of cases where it is `unknown`. `regions` have
    their labels and the number of cases that hold them. `shape` and `spacing` are [least, median,
    greatest] along each axis, null where unknown; spacing is in mm along z, y and x, in seconds
    along t. `numbers` are the same for numbers to predict. `ignored` are the label and the number
    of voxels that count nowhere, if there may be some.
    """
    meta = store.meta
    there = (store.boxes >= 0).all(axis=(2, 3)).sum(axis=0).tolist()
    counts = store.class_counts.sum(axis=0).tolist()
    classes = [
        {"name": n, "number": number} for n, number in zip(meta.classes, counts, strict=True)
    ]
    if answer_of(meta.task) == "findings":
        unknown = np.isnan(store.numbers).sum(axis=0).tolist()
        classes = [{**each, "unknown": n} for each, n in zip(classes, unknown, strict=True)]
    return {
        "kind": meta.kind,
        "source": meta.source,
        "licence": meta.licence,
        "unit": meta.unit,
        "cases": len(store),
        "groups": len(set(store.groups)),
        "group_source": meta.group_source,
        "channels": list(meta.channels),
        "classes": classes,
        "regions": [
            {"name": name, "labels": list(labels), "cases": cases}
            for (name, labels), cases in zip(meta.regions.items(), there, strict=True)
        ],
        **({"numbers": _ranges(store.numbers)} if answer_of(meta.task) == "number" else {}),
        **({} if meta.ignored is None else {"ignored": _ignored(store, meta.ignored)}),
        "axes": meta.axes,
        "shape": _ranges(store.shapes),
        "spacing": _ranges(store.spacing),
    }


def _ignored(store: Store, label: int) -> dict[str, int]:
    voxels = int(store.shapes.astype(np.int64).prod(axis=1).sum())
    return {"label": label, "number": voxels - int(store.class_counts.sum())}


def _ranges(values: np.ndarray) -> list[list[float] | None]:
    """Return [least, median, greatest] of each column, None for one without a known value."""
    known = [column[np.isfinite(column)] for column in values.astype(np.float64).T]
    return [np.quantile(column, (0, 0.5, 1)).tolist() if column.size else None for column in known]
