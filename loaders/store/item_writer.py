"""One item of a source to a folder of arrays and rows, in the process that reads it."""

import errno
import os
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from loaders.cases import Array, BadCase, Case, Item, Meta, Read
from loaders.formats.npy import ArrayFile
from loaders.store.layout import CASES, OPTIONAL, PACK_CASES, sync_folder, write_file
from loaders.store.perceptual_hash import perceptual_hash
from loaders.store.pseudonyms import keyed_hash, keyed_id
from loaders.store.statistics import Facts, measure

ROLES = ("image", "mask")
# The file with the rows of a finished item.
ROWS = "cases.arrow"
# The columns of a finished item's rows: those of the store, and those needed to place its arrays
# there and to find copies (which determine the groups).
BUILT = pa.schema(
    [
        *(field for field in CASES if field.name != "source_group_id"),
        pa.field("image_type", pa.string(), nullable=False),
        *(pa.field(f"{role}_sum", pa.string()) for role in ROLES),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("look", pa.binary()),
        *OPTIONAL,
    ]
)


def read_rows(folder: Path) -> pa.Table:
    """Return the rows of a finished item, with the columns of BUILT."""
    with pa.OSFile(str(folder / ROWS)) as file:
        return pa.ipc.open_file(file).read_all()


@dataclass(frozen=True, kw_only=True)
class Built:
    """The outcome of an item: its rejected cases, and the real names of the others by id.

    Only the terminal shows names.
    """

    rejected: list[BadCase]
    names: dict[str, str]


def build_item(kind: str, read: Read, item: Item, meta: Meta, folder: Path, key: bytes) -> Built:
    """Read one item into `folder`, which appears when it is complete.

    Raises OSError if the disk or the memory is full, and whatever a broken reader raises.
    """
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    rejected: list[BadCase] = []
    names: dict[str, str] = {}
    draft.mkdir()
    try:
        with closing(_ItemWriter(draft, kind, meta, key, item.paths)) as writer:
            for case in read(item, meta):
                try:
                    if isinstance(case, BadCase):
                        raise case
                    names[writer.add(case, measure(case, meta))] = case.key
                except BadCase as bad:
                    rejected.append(bad)
            writer.finish()
        if rejected:
            (draft / "rejected").touch()
        sync_folder(draft)
        draft.rename(folder)
    except BadCase as all_of_it:
        rejected = [all_of_it]
    except MemoryError:
        raise OSError(
            errno.ENOMEM,
            "a case does not fit into the memory that is left: run again with fewer workers; "
            "finished items are kept",
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for one in rejected:
        one.key = one.key or item.key
    return Built(rejected=rejected, names=names)


class _ItemWriter:
    """The arrays and rows of one item: one file per volume; equal 2-D images are stacked."""

    def __init__(self, folder: Path, kind: str, meta: Meta, key: bytes, files: tuple[Path, ...]):
        self._folder = folder
        self._kind = kind
        self._stack = meta.dims == 2
        self._labelled = not meta.masked and meta.numbers is None
        self._key = key
        self._files = files
        # The hash of the last files: an item's cases often come from the same files.
        self._hashed: tuple[tuple[Path, ...], str | None] = ((), None)
        self._open: dict[str, ArrayFile] = {}
        self._n_files = 0
        self._rows: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []

    def add(self, case: Case, facts: Facts) -> str:
        """Add a case; return its id."""
        row: dict[str, Any] = {
            "case_id": keyed_id(self._key, self._kind, case.key),
            "group_id": keyed_id(self._key, self._kind, case.group),
            "split": case.split,
            "ratings": case.ratings,
            "columns": case.columns or None,
            "clinical": case.clinical or None,
            "label": case.label if self._labelled else -1,
            "numbers": None if facts.numbers is None else facts.numbers.tolist(),
            "content_hash": facts.content_hash,
            # Without the kind, so that the same image has the same id whatever read it.
            "image_id": None if facts.constant else keyed_id(self._key, "image", facts.image_hash),
            "answer": facts.mask_hash or str(case.label),
            "look": None if facts.constant else perceptual_hash(facts.image),
            "source_hash": self._source_hash(self._files if case.files is None else case.files),
            "shape": facts.image.shape[1:],
            "spacing": case.spacing,
            "image_type": facts.image.dtype.name,
        }
        names = "boxes class_counts count total squares low high histogram"
        row |= {name: getattr(facts, name).ravel().tolist() for name in names.split()}
        arrays = (facts.image, facts.image_hash), (facts.mask, facts.mask_hash)
        for role, (array, digest) in zip(ROLES, arrays, strict=True):
            file, place = (None, None) if array is None else self._place(role, array)
            # A stack is not complete yet; its checksum is computed when the store is arranged.
            row |= {f"{role}_file": file, f"{role}_row": place}
            row[f"{role}_sum"] = None if self._stack else digest
        self._rows.append(row)
        if len(self._rows) == PACK_CASES:
            self._flush()
        return str(row["case_id"])

    def _source_hash(self, files: tuple[Path, ...]) -> str | None:
        if files != self._hashed[0]:
            self._hashed = (files, keyed_hash(self._key, files))
        return self._hashed[1]

    def finish(self) -> None:
        """Sync everything to disk."""
        self.close()
        self._flush()
        table = pa.concat_tables(self._tables)
        # In Arrow's memory format: Parquet takes ten times as long for a few rows (measured).
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
        write_file(self._folder / ROWS, sink.getvalue().to_pybytes())

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _place(self, role: str, array: Array) -> tuple[str, int | None]:
        file = self._open.get(role)
        if file is None or file.rows == PACK_CASES or not file.fits(array):
            if file is not None:
                file.close()
            path = self._folder / f"{self._n_files}.npy"
            file = ArrayFile(path, array.dtype, array.shape, grow=self._stack)
            self._open[role] = file
            self._n_files += 1
        row = file.append(array)
        if self._stack:
            return file.path.name, row
        file.close()
        del self._open[role]
        return file.path.name, None

    def _flush(self) -> None:
        self._tables.append(pa.Table.from_pylist(self._rows, schema=BUILT))
        self._rows.clear()
