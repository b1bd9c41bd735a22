"""The layout of a store on disk: its files and the columns of its tables.

store.json           format, content hash, image type, meta, warnings, the fingerprint of the key
                     that made the ids, and every file's checksum
cases.parquet        one row per case, in the order of the content hashes
rejected.parquet     one row per rejected case, with the reason
near_copies.parquet  one row per pair of cases in different groups that look like lossy copies
checked              the state of these files when their checksums were last compared
arrays/*.npy         C-ordered images and masks: one file per case, or packs of equal 2-D images

In cases.parquet, a `group_id` is never split: groups of the source (`source_group_id`) that share
an image are one. `image_id` is equal if the values of images are, and null for a constant image.
Some columns are optional: `columns` if columns of the source were kept, by which a study may split;
`numbers` if the answers are numbers, such as several findings (`label` is then -1, as for masks);
`clinical` if clinical columns were kept.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from loaders.cases import AXES, JSON, Meta

# Increased when the files change, or what a reader makes from the same source: older stores are
# then refused by name, and older unfinished ones are not resumed.
FORMAT = 4
PACK_CASES = 4096
CHECKED = "checked"

CASES = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("source_group_id", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("source_hash", pa.string()),
        pa.field("image_file", pa.string(), nullable=False),
        pa.field("image_row", pa.int64()),
        pa.field("mask_file", pa.string()),
        pa.field("mask_row", pa.int64()),
        *(
            pa.field(name, pa.list_(kind), nullable=False)
            for name, kind in (
                ("shape", pa.int64()),
                ("spacing", pa.float64()),
                ("boxes", pa.int64()),
                ("class_counts", pa.int64()),
                ("count", pa.float64()),
                ("total", pa.float64()),
                ("squares", pa.float64()),
                ("low", pa.float64()),
                ("high", pa.float64()),
                ("histogram", pa.int32()),
            )
        ),
        pa.field("ratings", pa.map_(pa.string(), pa.list_(pa.int64()))),
    ]
)
# Optional: by the name of a column of the source, the number of the case's value there.
COLUMNS = pa.field("columns", pa.map_(pa.string(), pa.int64()))
# In sets whose answers are numbers: one for each name in `classes`, nan if missing.
NUMBERS = pa.field("numbers", pa.list_(pa.float64()))
# Optional: clinical columns by name, a category as the index of its word in the meta's
# `categories`, nan if missing.
CLINICAL = pa.field("clinical", pa.map_(pa.string(), pa.float64()))
OPTIONAL = (COLUMNS, NUMBERS, CLINICAL)
REJECTED = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


# The fields of a store's meta that, besides its arrays, decide the numbers of a trial; axes are
# present only if they are not the default.
_DECISIVE = ("task", "dims", "classes", "regions", "positive", "normalize", "fill", "axes")


class StoreError(ValueError):
    """A store that is missing, unfinished, broken or not the requested one."""


def content_hash(meta: Meta, hashes: list[str], groups: list[str]) -> str:
    """Return the hash of a store's content, independent of its key, ids and order of cases.

    It covers each case's image, answer and spacing, which cases form a group, and the settings of
    `meta` that decide what a trial does with them.
    """
    members: dict[str, list[str]] = {}
    for group, case in zip(groups, hashes, strict=True):
        members.setdefault(group, []).append(case)
    known = meta_to_json(meta)
    text = json.dumps(
        [
            {name: known[name] for name in _DECISIVE if name in known},
            sorted(sorted(cases) for cases in members.values()),
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def meta_to_json(meta: Meta) -> dict[str, Any]:
    """Return a meta for JSON: lists for tuples, and the axes only if they are not the default.

    So hashes and fingerprints of stores that are older than the field `axes` stay valid.
    """
    known: dict[str, Any] = json.loads(json.dumps(asdict(meta), allow_nan=False))
    if meta.axes == AXES[meta.dims][0]:
        del known["axes"]
    return known


def meta_from_json(known: Mapping[str, Any]) -> Meta:
    """Return the meta that `meta_to_json` wrote; raises ValueError, TypeError or KeyError."""
    regions = {name: tuple(labels) for name, labels in known["regions"].items()}
    tuples = {name: tuple(known[name]) for name in ("channels", "classes")}
    return Meta(**{**known, **tuples, "regions": regions})


def read_description(path: Path) -> dict[str, Any]:
    """Return the content of a store's `store.json`; raises StoreError."""
    text = path / "store.json"
    if not text.is_file():
        if building_folder(path).exists():
            raise StoreError(
                f"store {path} is unfinished: run the same `medopt prepare` again to continue"
            )
        if path.exists():
            raise StoreError(f"{path} is not a store: there is no store.json")
        raise StoreError(f"store {path} does not exist")
    try:
        known = json.loads(text.read_bytes())
        found = known["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StoreError(f"store {path}: store.json is damaged") from None
    if found != FORMAT:
        raise StoreError(
            f"store {path} has format {found}; this version reads {FORMAT}. Make it again: "
            f"{prepare_command(path, known)}"
        )
    return dict(known)


# Options that a reader found in the files and wrote beside its settings; nobody can set them.
_FOUND = (
    *("label_values", "lowest", "bits", "depths", "way", "classes_of", "volumes", "categories"),
    "ignore",
)


def prepare_command(path: Path, known: Mapping[str, Any], **more: JSON) -> str:
    """Return the command that makes a store again, with `more` settings, as far as the store knows.

    It knows neither its source nor settings that shaped no array, such as the column of the label.
    `known` is the content of its store.json.
    """
    meta = known.get("meta")
    if not isinstance(meta, dict) or not isinstance(meta.get("options"), dict):
        meta = {"kind": "KIND", "options": {}}
    settings = {k: v for k, v in meta["options"].items() if k not in _FOUND and v is not None}
    settings |= more
    words = ["medopt", "prepare", str(meta.get("kind")), "SOURCE", "--out", str(path)]
    for name, value in sorted(settings.items()):
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += ["--set", f"{name}={text}"]
    return f"rm -r {shlex.quote(str(path))} && {shlex.join(words)}"


def building_folder(out: Path) -> Path:
    """Return the folder in which a store grows until it is complete."""
    return out.with_name(f"{out.name}.building")


def write_file(path: Path, content: bytes) -> None:
    """Write a file and sync it to disk; raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file through memory, so that a full disk is an OSError with an errno."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_file(path, sink.getvalue().to_pybytes())


def read_table(path: Path, schema: pa.Schema, optional: Iterable[pa.Field] = ()) -> pa.Table:
    """Return a table of a store with exactly these columns, then `optional`; raises StoreError."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"store {path.parent}: {path.name} cannot be read ({error})") from None
    for field in optional:
        if field.name in table.schema.names:
            schema = schema.append(field)
    if table.schema.names != schema.names or table.schema.types != schema.types:
        raise StoreError(f"store {path.parent}: {path.name} has other columns than in this version")
    return table


def files_state(path: Path, names: Iterable[str]) -> str:
    """Return a hash of the sizes and dates of a store's files; raises FileNotFoundError.

    It changes with any file; a copy of the store has another hash too.
    """
    digest = hashlib.sha256()
    for name in sorted({*names, "store.json"}):
        found = (path / name).stat()
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
