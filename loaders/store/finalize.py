"""From finished items to a store: one order, one image type, final file names, checksums."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from loaders.cases import IMAGE_TYPES, Array, BadSource, Meta
from loaders.formats.checksum import file_hash, write_hashed
from loaders.formats.npy import array_bytes, npy_header, open_npy
from loaders.store.copies import Conflicts, find_copies
from loaders.store.item_writer import ROLES, read_rows
from loaders.store.layout import (
    CASES,
    CHECKED,
    FORMAT,
    OPTIONAL,
    PACK_CASES,
    REJECTED,
    content_hash,
    files_state,
    meta_to_json,
    sync_folder,
    write_file,
    write_table,
)

# An array of a finished item: the item, its file, and its row there if the file is a pack.
_Place = tuple[str, str, int | None]
# The most files of each role that stay as they are, so that a reader has few to open. Assumption.
_MOST_FILES = 128


@dataclass(frozen=True, kw_only=True)
class Making:
    """What a store is made from, besides its items.

    `fingerprint` is that of source and settings, `key` that of the key that made the ids.
    """

    meta: Meta
    fingerprint: str
    key: str
    conflicts: Conflicts


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """An arranged store; 0 cases: nothing was written.

    `contradicting` are (case id, reason) of images with several answers, which are rejected.
    """

    n_cases: int
    contradicting: list[tuple[str, str]]
    warnings: tuple[str, ...] = ()


def arrange(building: Path, making: Making, rejected: list[tuple[str, str]]) -> Arranged:
    """Give the cases of `building/items` their order, groups, file names and common type.

    `rejected` are (case id, reason). Raises BadSource if two cases have the same identifier,
    OSError if the disk is full.
    """
    meta = making.meta
    found = []
    for folder in (building / "items").iterdir():
        table = read_rows(folder)
        name = pa.array([folder.name] * len(table), pa.string())
        found.append(table.append_column("item", name))
    if not sum(map(len, found)):
        return Arranged(n_cases=0, contradicting=[])
    table = pa.concat_tables(found).sort_by(
        [("content_hash", "ascending"), ("case_id", "ascending")]
    )
    if len(table["case_id"].unique()) < len(table):
        raise BadSource("two cases of the source have the same identifier")
    copies = find_copies(table, making.conflicts)
    table = copies.table
    if not len(table):
        return Arranged(n_cases=0, contradicting=copies.rejected)
    image_type = _common_type(set(table["image_type"].to_pylist()))
    (building / "arrays").mkdir()
    files: dict[str, str] = {}
    for role in ROLES[: 2 if meta.masked else 1]:
        kind = image_type if role == "image" else np.dtype(np.uint8)
        table = _place_arrays(building, table, role, kind, files, packed=_packed(table, meta))
    more = [f.name for f in OPTIONAL if table[f.name].null_count < len(table)]
    table = table.select([*CASES.names, *more])
    refused = sorted([*rejected, *copies.rejected])
    columns = [pa.array([row[i] for row in refused], pa.string()) for i in (0, 1)]
    for name, rows in (
        ("cases.parquet", table),
        ("rejected.parquet", pa.table(columns, schema=REJECTED)),
        ("near_copies.parquet", copies.near),
    ):
        write_table(rows, building / name)
        files[name] = file_hash(building / name)
    groups = table["group_id"].to_pylist()
    description = {
        "format": FORMAT,
        "content_hash": content_hash(meta, table["content_hash"].to_pylist(), groups),
        "fingerprint": making.fingerprint,
        "key": making.key,
        "conflicts": making.conflicts,
        "warnings": copies.warnings,
        "image_type": image_type.name,
        "n_cases": len(table),
        "n_groups": len(set(groups)),
        "n_rejected": len(refused),
        "meta": meta_to_json(meta),
        "files": files,
    }
    sync_folder(building / "arrays")
    draft = building / "store.json.draft"
    write_file(draft, (json.dumps(description, indent=1) + "\n").encode())
    draft.rename(building / "store.json")
    (building / CHECKED).write_text(files_state(building, files), encoding="ascii")
    sync_folder(building)
    return Arranged(
        n_cases=len(table), contradicting=copies.rejected, warnings=tuple(copies.warnings)
    )


def _common_type(names: set[str]) -> np.dtype[Any]:
    # One type per store: DALI refuses batches of mixed types (its numpy reader asserts it).
    return next(kind for kind in IMAGE_TYPES if all(np.can_cast(name, kind) for name in names))


def _packed(table: pa.Table, meta: Meta) -> bool:
    return meta.dims == 2 and len({tuple(shape) for shape in table["shape"].to_pylist()}) == 1


def _place_arrays(
    building: Path,
    table: pa.Table,
    role: str,
    kind: np.dtype[Any],
    files: dict[str, str],
    *,
    packed: bool,
) -> pa.Table:
    """Move one role's arrays to their final names; return the table with these names.

    The checksum of each file is added to `files`, by its name in the store.
    """
    columns = [table[name].to_pylist() for name in ("item", f"{role}_file", f"{role}_row")]
    moving = _Moving(
        building=building,
        role=role,
        kind=kind,
        places=list(zip(*columns, strict=True)),
        files=files,
    )
    found: Iterator[tuple[str, int | None]]
    if not packed:
        found = moving.alone(table[f"{role}_sum"].to_pylist())
    elif moving.are_packs():
        found = moving.as_they_are()
    else:
        found = moving.packed_anew()
    names, rows = zip(*found, strict=True)
    for name, column, type_ in (("file", names, pa.string()), ("row", rows, pa.int64())):
        at = table.schema.get_field_index(f"{role}_{name}")
        table = table.set_column(at, CASES.field(f"{role}_{name}"), pa.array(column, type_))
    return table


class _Moving:
    """The arrays of one role, in the order of the cases, to be moved from items to the store.

    `kind` is their type there; their checksums are added to `files`, by name.
    """

    def __init__(
        self,
        *,
        building: Path,
        role: str,
        kind: np.dtype[Any],
        places: Sequence[_Place],
        files: dict[str, str],
    ) -> None:
        self._building, self._role, self._kind = building, role, kind
        self._places, self._files = places, files
        # As names and plain arrays: paths and slices of memory maps are slow to make.
        self._load = lru_cache(maxsize=64)(
            lambda item, file: np.asarray(open_npy(building / "items" / item / file))
        )

    def alone(self, sums: Sequence[str]) -> Iterator[tuple[str, None]]:
        """Put each array into a file of its own; yield the places."""
        for case, (item, file, row) in enumerate(self._places):
            whole = self._load(item, file)
            name = f"arrays/{case:06d}_{self._role}.npy"
            if row is None and whole.dtype == self._kind:
                self._link(item, file, name)
                self._files[name] = sums[case]
            else:
                array = whole if row is None else whole[row]
                content = array_bytes(array.astype(self._kind, copy=False))
                self._write(name, [npy_header(self._kind, array.shape), content])
            yield name, None

    def are_packs(self) -> bool:
        """Tell whether the items' files hold only these arrays, in their type, and are few."""
        used = Counter((item, file) for item, file, _ in self._places)
        return len(used) <= _MOST_FILES and all(
            self._load(*file).dtype == self._kind and len(self._load(*file)) == count
            for file, count in used.items()
        )

    def as_they_are(self) -> Iterator[tuple[str, int | None]]:
        """Rename the items' files to their final names; yield the places.

        Writing pictures again took a fifth of their whole processing time (measured).
        """
        names: dict[tuple[str, str], str] = {}
        for item, file, row in self._places:
            name = names.setdefault((item, file), self._pack(len(names)))
            if name not in self._files:
                self._link(item, file, name)
                self._files[name] = file_hash(self._building / name)
            yield name, row

    def packed_anew(self) -> Iterator[tuple[str, int]]:
        """Write the arrays as packs in the order of the cases; yield the places."""
        for start in range(0, len(self._places), PACK_CASES):
            part = self._places[start : start + PACK_CASES]
            name = self._pack(start // PACK_CASES)
            arrays = (self._load(item, file)[row] for item, file, row in part)
            self._write(name, _stack(arrays, self._kind, len(part)))
            yield from ((name, row) for row in range(len(part)))

    def _pack(self, number: int) -> str:
        return f"arrays/{self._role}s_{number:05d}.npy"

    def _link(self, item: str, file: str, name: str) -> None:
        _link(self._building / "items" / item / file, self._building / name)

    def _write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        self._files[name] = write_hashed(self._building / name, parts)


def _stack(
    arrays: Iterator[Array], kind: np.dtype[Any], count: int
) -> Iterator[bytes | memoryview]:
    """Yield the parts of an .npy file of a stack of equal arrays."""
    for number, array in enumerate(arrays):
        if not number:
            yield npy_header(kind, (count, *array.shape))
        yield array_bytes(array.astype(kind, copy=False))


def _link(source: Path, target: Path) -> None:
    """Give a finished file its final name; its first name stays until the store is complete."""
    try:
        target.hardlink_to(source)
    except OSError:
        # The file system has no hard links.
        write_file(target, source.read_bytes())
