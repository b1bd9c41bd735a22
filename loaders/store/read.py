"""A prepared store, opened: the table of its cases, and its arrays as memory maps."""

import hashlib
import os
import re
from copy import copy
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from loaders.cases import Array, Meta
from loaders.formats.checksum import file_hash
from loaders.formats.npy import open_npy
from loaders.open_files import files_of_a_store
from loaders.store.layout import (
    CASES,
    CHECKED,
    CLINICAL,
    COLUMNS,
    NUMBERS,
    OPTIONAL,
    StoreError,
    content_hash,
    files_state,
    meta_from_json,
    read_description,
    read_table,
)
from loaders.store.statistics import BINS

# Fields that two metas must share for a network trained on one to be tested on the other.
_ALIKE = (
    *("task", "dims", "axes", "channels", "classes"),
    *("regions", "positive", "normalize", "fill"),
)
_ADVICE = "restore it, or remove the store and prepare it again"
_ARRAY_NAME = re.compile(r"arrays/[0-9a-z_]+\.npy")


class Store:
    """A store of n cases; raises StoreError if it is incomplete.

    `table` is cases.parquet. Rows, ids and arrays are in one order, which depends on the content
    only. `content_hash` depends neither on the key nor on the order in which cases were read.
    `key` is the fingerprint of the key that made the ids, `warnings` are those about copies.

    With `outside`, the cases of a second store follow, for testing: rows below `n_own` are from
    this one, all others from `outside`. Meta, path and key are those of the first.
    """

    def __init__(self, path: Path, outside: Path | None = None) -> None:
        self.path = path
        known = read_description(path)
        try:
            self.meta: Meta = meta_from_json(known["meta"])
            self.content_hash: str = known["content_hash"]
            self.files: dict[str, str] = known["files"]
            self.image_type = np.dtype(known["image_type"])
            self.key: str = known["key"]
            self.warnings: list[str] = list(known["warnings"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"store {path}: store.json is damaged ({error})") from None
        self.table: pa.Table = read_table(path / "cases.parquet", CASES, OPTIONAL)
        self.n_own = len(self.table)
        self.outside = None if outside is None else Store(outside)
        if self.outside is not None:
            self._join(self.outside)
        self._checked = ""
        self._load = lru_cache(maxsize=files_of_a_store())(self._open_array)

    def check(self) -> None:
        """Raise StoreError unless every file is as `medopt prepare` wrote it.

        Sizes and dates are compared. If one differs, all checksums are verified (a copied store is
        read entirely, once), and the new sizes and dates are remembered in the store.
        """
        if self.outside is not None:
            self.outside.check()
        memory = self.path / CHECKED
        try:
            state = files_state(self.path, self.files)
        except FileNotFoundError as error:
            name = Path(str(error.filename)).name
            raise StoreError(f"store {self.path}: {name} is missing: {_ADVICE}") from None
        if state == self._checked or (memory.is_file() and memory.read_bytes() == state.encode()):
            return
        if problems := verify_store(self.path):
            raise StoreError(f"store {self.path}: {'; '.join(problems[:3])}: {_ADVICE}")
        self._checked = state
        # If the store is read-only, each process that opens it reads it entirely.
        if os.access(self.path, os.W_OK):
            draft = memory.with_name(f"{CHECKED}.{os.getpid()}")
            draft.write_text(state, encoding="ascii")
            draft.replace(memory)

    def __len__(self) -> int:
        return len(self.table)

    def __reduce__(self) -> tuple[type["Store"], tuple[Path, Path | None]]:
        # Memory maps would be pickled as their content.
        return Store, (self.path, None if self.outside is None else self.outside.path)

    def _join(self, outside: "Store") -> None:
        """Append the cases of another store; raises StoreError if their metas do not match."""
        for name in _ALIKE:
            mine, other = getattr(self.meta, name), getattr(outside.meta, name)
            if mine != other:
                raise StoreError(
                    f"networks trained on store {self.path} cannot be tested on store "
                    f"{outside.path}: its {name} is {other!r}, that of the first {mine!r}"
                )
        self.table = pa.concat_tables([self.table, outside.table], promote_options="default")
        both = f"{self.content_hash} tested on {outside.content_hash}"
        self.content_hash = hashlib.sha256(both.encode()).hexdigest()
        self.warnings = [*self.warnings, *outside.warnings]

    def source_of(self, index: int) -> "Store":
        """Return the store to which a case belongs: this one, or the one outside."""
        return self if self.outside is None or index < self.n_own else self.outside

    @cached_property
    def case_ids(self) -> list[str]:
        """The keyed hash of each case's real identifier."""
        return list(self.table["case_id"].to_pylist())

    @cached_property
    def groups(self) -> list[str]:
        """The keyed hash of each case's group (the patient, see `meta.group_source`).

        Groups of the source that share an image are one.
        """
        return list(self.table["group_id"].to_pylist())

    @cached_property
    def source_groups(self) -> list[str]:
        """The keyed hash of each case's group in the source."""
        return list(self.table["source_group_id"].to_pylist())

    @cached_property
    def image_ids(self) -> list[str | None]:
        """The keyed hash of each image's values alone; None for a constant image."""
        return list(self.table["image_id"].to_pylist())

    @cached_property
    def splits(self) -> list[str | None]:
        """Each case's part in the source's official split, None if it has none."""
        return list(self.table["split"].to_pylist())

    def column(self, name: str) -> list[int | None]:
        """Return the number of each case's value in a kept column of the source."""
        if COLUMNS.name not in self.table.schema.names:
            return [None] * len(self)
        return [dict(kept or ()).get(name) for kept in self.table[COLUMNS.name].to_pylist()]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the kept columns of the source."""
        if COLUMNS.name not in self.table.schema.names:
            return ()
        kept = self.table[COLUMNS.name].to_pylist()
        return tuple(sorted({name for row in kept for name, _ in row or ()}))

    @cached_property
    def clinical(self) -> dict[str, Array]:
        """Clinical columns by name, each (n,) float64, nan if a case lacks it; {}: none kept.

        A category is the index of its word in `categories`.
        """
        if CLINICAL.name not in self.table.schema.names:
            return {}
        rows = [dict(kept or ()) for kept in self.table[CLINICAL.name].to_pylist()]
        names = sorted({name for row in rows for name in row})
        return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """The words of each categorical clinical column."""
        known: Any = self.meta.options.get("categories") or {}
        return {name: tuple(words) for name, words in known.items()}

    @cached_property
    def hashes(self) -> list[str]:
        """The hash of each case's image, answer and spacing."""
        return list(self.table["content_hash"].to_pylist())

    @cached_property
    def labels(self) -> Array:
        """The class of each case (n,) int64; -1 if the answer is a mask or numbers."""
        return np.asarray(self.table["label"].to_numpy())

    @cached_property
    def numbers(self) -> Array:
        """The numbers of each case (n, n_classes) float64, nan where one is missing.

        Raises StoreError for sets whose answers are not numbers.
        """
        if NUMBERS.name not in self.table.schema.names:
            raise StoreError(f"store {self.path}: a case of a {self.meta.task} set has no numbers")
        return self._numbers(NUMBERS.name, len(self.meta.classes))

    @cached_property
    def answers(self) -> Array:
        """The answers that a loader gives without masks: labels (n,), or numbers in float32."""
        return self.labels if self.meta.numbers is None else self.numbers.astype(np.float32)

    def with_answers(self, answers: Array) -> "Store":
        """Return this store with other answers to train on, in memory only.

        `answers` are classes (n,), findings (n, k), or probabilities of each class (n, C), which
        leave the labels unchanged.
        """
        other = copy(self)
        made: dict[str, Array] = {"answers": answers}
        if answers.ndim == 1:
            counts = np.eye(len(self.meta.classes), dtype=np.int64)[answers]
            made |= {"labels": answers, "class_counts": counts}
        elif self.meta.numbers is not None:
            made |= {"numbers": answers.astype(np.float64)}
            made |= {"class_counts": self.meta.numbers.held(answers).astype(np.int64)}
        vars(other).update(made)  # where cached properties keep their values
        return other

    @cached_property
    def shapes(self) -> Array:
        """The spatial shape of each case (n, d) int64."""
        return self._numbers("shape", self.meta.dims)

    @cached_property
    def spacing(self) -> Array:
        """The distance of neighbours along each axis (n, d) float64, nan if unknown.

        In mm along z, y and x, in seconds along t.
        """
        return self._numbers("spacing", self.meta.dims)

    @cached_property
    def boxes(self) -> Array:
        """Half-open foreground boxes (n, n_regions, 2, d) int64; -1 if the region is empty."""
        return self._numbers("boxes", len(self.meta.regions), 2, self.meta.dims)

    @cached_property
    def class_counts(self) -> Array:
        """The number of voxels of each class (n, n_classes) int64; one-hot in classification.

        For several findings, 1 for those that a case shows.
        """
        return self._numbers("class_counts", len(self.meta.classes))

    @cached_property
    def moments(self) -> tuple[Array, Array, Array]:
        """Count, sum and sum of squares of voxels, each (n, C) float64.

        Over non-zero voxels if `meta.normalize` is "case", else over all.
        """
        channels = len(self.meta.channels)
        count, total, squares = (
            self._numbers(name, channels) for name in ("count", "total", "squares")
        )
        return count, total, squares

    @cached_property
    def extremes(self) -> tuple[Array, Array]:
        """Lowest and highest value, each (n, C) float64, over the voxels of `moments`."""
        channels = len(self.meta.channels)
        return self._numbers("low", channels), self._numbers("high", channels)

    @cached_property
    def histograms(self) -> Array:
        """Voxels in each of 64 equal bins between the extremes, (n, C, 64) int32."""
        return self._numbers("histogram", len(self.meta.channels), BINS)

    def image_file(self, index: int) -> tuple[Path, int | None]:
        """Return the file of a case's image, and its row there; None: the file is the image."""
        if self.outside is not None and index >= self.n_own:
            return self.outside.image_file(index - self.n_own)
        name, row = self._place("image", index)
        return self.path / name, row

    def mask_file(self, index: int) -> tuple[Path, int | None]:
        """Return the file of a case's mask, and its row there; None: the file is the mask."""
        if self.outside is not None and index >= self.n_own:
            return self.outside.mask_file(index - self.n_own)
        name, row = self._place("mask", index)
        return self.path / name, row

    def image(self, index: int) -> Array:
        """Return a case's image (C, *spatial), a read-only memory map; raises StoreError."""
        if self.outside is not None and index >= self.n_own:
            return self.outside.image(index - self.n_own)
        return self._array("image", index, (len(self.meta.channels), *self._sizes[index]))

    def mask(self, index: int) -> Array:
        """Return a case's label map (*spatial) uint8, a read-only memory map; raises StoreError."""
        if self.outside is not None and index >= self.n_own:
            return self.outside.mask(index - self.n_own)
        return self._array("mask", index, self._sizes[index])

    @cached_property
    def _sizes(self) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.shapes.tolist()]

    @cached_property
    def _places(self) -> dict[str, tuple[list[str | None], list[int | None]]]:
        return {
            role: (self.table[f"{role}_file"].to_pylist(), self.table[f"{role}_row"].to_pylist())
            for role in ("image", "mask")
        }

    def _place(self, role: str, index: int) -> tuple[str, int | None]:
        names, rows = self._places[role]
        name = names[index]
        if name is None:
            raise StoreError(f"store {self.path}: a case of a {self.meta.task} set has no {role}")
        if not _ARRAY_NAME.fullmatch(name):
            raise StoreError(f"store {self.path}: cases.parquet names a file outside arrays/")
        return name, rows[index]

    def _array(self, role: str, index: int, shape: tuple[int, ...]) -> Array:
        name, row = self._place(role, index)
        whole = self._load(name)
        kind = self.image_type if role == "image" else np.dtype(np.uint8)
        found = whole.shape if row is None else whole.shape[1:]
        if found != shape or whole.dtype != kind or not -1 < (row or 0) < len(whole):
            raise StoreError(
                f"store {self.path}: {name} is {whole.dtype} {whole.shape}, "
                f"but the table declares {kind} {shape} at row {row}: run `medopt verify`"
            )
        return whole if row is None else whole[row]

    def _open_array(self, name: str) -> Array:
        try:
            return open_npy(self.path / name)
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(
                f"store {self.path}: {name} cannot be read ({error}): run `medopt verify`"
            ) from None

    def _numbers(self, name: str, *shape: int) -> Array:
        values = self.table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        try:
            numbers = values.reshape(len(self), *shape)
        except ValueError:
            raise StoreError(
                f"store {self.path}: column {name} of cases.parquet has {values.size} numbers, "
                f"not {len(self)} x {shape}"
            ) from None
        numbers.setflags(write=False)
        return np.asarray(numbers)


def open_store(path: Path, outside: Path | None = None) -> Store:
    """Open an unchanged store, with the cases of another store `outside` to test on.

    Raises StoreError that says what is wrong and what to do.
    """
    store = Store(path, outside)
    store.check()
    return store


def verify_store(path: Path) -> list[str]:
    """Check every file of a store against its checksum; return the problems."""
    try:
        store = Store(path)
    except StoreError as error:
        return [str(error)]
    problems = []
    for name, known in store.files.items():
        file = path / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file_hash(file) != known:
            problems.append(f"{name} has changed since it was written")
    named = {name for role in ("image", "mask") for name in store.table[f"{role}_file"].to_pylist()}
    problems += [
        f"{name} is used by a case but has no checksum"
        for name in sorted(named - {None} - set(store.files))
    ]
    if content_hash(store.meta, store.hashes, store.groups) != store.content_hash:
        problems.append("the content hash in store.json is not that of cases.parquet")
    return problems
