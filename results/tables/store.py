"""The Parquet data sets of a run: write one trial, read them all, compact many small files.

    runs/<study>/trials/*.parquet   metrics/   epochs/   cases/   .writing/

Each of the four folders is a data set that DuckDB, Polars and pandas read as a directory. So they
may only ever contain finished Parquet files: files are written in the sibling folder `.writing` and
renamed in. A trial's row in `trials/` comes last and is the record that it is finished. Rows of the
other tables without it do not count, nor do trials whose rows some table has lost.

Small files are slow to read (10,000 one-row files take DuckDB 14 s, measured), so trials that come
together are written as one part (`write_trials`), and `compact` merges small files into larger
parts. A part's footer names the files it was made from, with their checksums. They are removed once
the part is in place, and that list identifies those that a crash left behind, so a row is never
lost, and `read` never counts one twice.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from results.tables.axes import AXES, axes_of, described
from results.tables.encoding import write_parquet
from results.tables.order import in_order, places_of, taken
from results.tables.schema import (
    FINAL_STATUSES,
    JSON_COLUMNS,
    NAN_COLUMNS,
    READABLE,
    SCHEMA_VERSION,
    STATUSES,
    TABLES,
)
from results.tables.upgrade import upgrade

_FOOTER_KEY = b"medoptbench"
# Keys of a part's footer: file name -> checksum of the files it was made from, and its trials.
_SOURCES = "compacted_from"
_MEMBERS = "trial_ids"
# Keys of a footer that map names to descriptions: a later call may add others.
_NAMED = ("metrics", "data")
_TRIAL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_PART = re.compile(r"part\.(\d{6})\.[0-9a-f]{16}\.parquet")
# A compaction may remove a file between listing and reading it; a second look finds the part.
# Assumption: no reader meets this many compactions in a row.
_LOOKS = 5

_Result = TypeVar("_Result")


class RowError(ValueError):
    """A row does not fit its table; the message names the table, the column and the choices."""


class RunError(ValueError):
    """A run folder cannot be read; the message names the file inside the run and what is wrong."""


class DamagedError(RunError):
    """A file of a run, `path`, is damaged. The others may be intact."""

    def __init__(self, what: str, path: Path) -> None:
        super().__init__(what)
        self.path = path


class Damage(NamedTuple):
    """The damaged files of a run, and the trials that lack rows in some table because of them."""

    files: frozenset[Path] = frozenset()
    trial_ids: frozenset[str] = frozenset()


class Rows(NamedTuple):
    """What to write for one trial: its row, and its rows in the other data sets."""

    trial: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = ()
    epochs: Sequence[Mapping[str, Any]] = ()
    cases: Sequence[Mapping[str, Any]] = ()


class _Live(NamedTuple):
    """A file that counts, and the trials whose rows in it count."""

    path: Path
    trial_ids: frozenset[str]


def write_trial(
    run: Path,
    *,
    trial: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    epochs: Sequence[Mapping[str, Any]],
    cases: Sequence[Mapping[str, Any]],
    footer: Mapping[str, Any],
) -> None:
    """Write one trial: one file in each of the four data sets, `trials/` last.

    Columns left out of a row are null; NaN is stored as null except in the loss columns; rows may
    omit `trial_id`, which is the trial's. Writing a trial again replaces it. All four files are
    complete and on disk before the first is renamed in.

    Raises RowError for a column that the table does not have, a value of another type, a `trial_id`
    that cannot be a file name or an unknown status; OSError if the disk is full or the folder is
    not writable, and then the run is unchanged.
    """
    trial_id = _check_trial(trial)
    one = Rows(trial, metrics, epochs, cases)
    content = _packed([(trial_id, one)], footer)
    _write_files(run, content, dict.fromkeys(TABLES, f"{trial_id}.parquet"))


def write_trials(run: Path, trials: Sequence[Rows], *, footer: Mapping[str, Any]) -> None:
    """Write several trials as `write_trial` does, as one part per data set.

    A thousand lanes finish more trials per second than a disk can write files. Failed trials, which
    running them again replaces, and trials that already have their own file, which takes precedence
    over parts, get files of their own. Raises as `write_trial`, and then none of the part counts.
    """
    named = [(_check_trial(one.trial), one) for one in trials]
    there = {table: _names(run / table) for table in TABLES}
    known = frozenset().union(*there.values())
    together = [
        (trial_id, one)
        for trial_id, one in named
        if one.trial["status"] in FINAL_STATUSES and f"{trial_id}.parquet" not in known
    ]
    if len(together) < 2 or len({trial_id for trial_id, _ in named}) < len(named):
        together = []
    parted = {trial_id for trial_id, _ in together}
    for trial_id, one in named:
        if trial_id not in parted:
            write_trial(run, **one._asdict(), footer=footer)
    if together:
        about = {**footer, _SOURCES: {}, _MEMBERS: sorted(parted)}
        names = {table: _part_name(there[table], about[_MEMBERS]) for table in TABLES}
        _write_files(run, _packed(together, about), names)


def _packed(trials: Sequence[tuple[str, Rows]], footer: Mapping[str, Any]) -> dict[str, pa.Table]:
    """Return the rows of some trials for each data set, with their footer."""
    about = {"schema_version": SCHEMA_VERSION, "axes": described(), **footer}
    metadata = {_FOOTER_KEY: _to_json(about)}
    rows: dict[str, list[tuple[str, Sequence[Mapping[str, Any]]]]] = {
        "metrics": [(trial_id, one.metrics) for trial_id, one in trials],
        "epochs": [(trial_id, one.epochs) for trial_id, one in trials],
        "cases": [(trial_id, one.cases) for trial_id, one in trials],
        "trials": [(trial_id, [one.trial]) for trial_id, one in trials],
    }
    return {name: _table(name, rows[name]).replace_schema_metadata(metadata) for name in TABLES}


def _write_files(run: Path, content: Mapping[str, pa.Table], names: Mapping[str, str]) -> None:
    """Write one file per data set, by its name there: all of them or none."""
    *others, last = TABLES
    # A disk syncs files that are written together about as fast as one: this waits three times for
    # it, not eight.
    with _scratch(run) as scratch, ThreadPoolExecutor(len(TABLES)) as pool:
        list(pool.map(_write, content.values(), [scratch / table for table in content]))
        new = [t for t in TABLES if not (run / t / names[t]).exists()]
        try:
            for table in others:
                (scratch / table).replace(run / table / names[table])
            list(pool.map(_sync, [run / table for table in others]))
            _move_in(scratch / last, run / last / names[last])
        except OSError:
            # Rows of an unfinished trial: `read` ignores them, but other readers would not.
            for table in new:
                (run / table / names[table]).unlink(missing_ok=True)
            raise


def finished(run: Path) -> dict[str, str]:
    """Return trial_id -> status of every trial in `trials/`; empty if there is none yet."""
    table = read(run, "trials", columns=("trial_id", "status"))
    return dict(
        zip(table.column("trial_id").to_pylist(), table.column("status").to_pylist(), strict=True)
    )


def read(
    run: Path,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    trials: Collection[str] | None = None,
    without: Damage = Damage(),  # noqa: B008  # it is immutable
) -> pa.Table:
    """Return one data set of a run in its fixed schema, sorted by trial_id; empty if not there.

    Each trial counts once, by the file written last, and only if every data set of the run has it
    (see `incomplete`). `columns` selects columns (in that order), `trials` the trials with these
    ids; files without any of them are not opened, nor are the files in `without`, whose trials do
    not count either. Raises DamagedError for a damaged file, RunError for one written by another
    version of the schema, KeyError for an unknown table or column.
    """
    schema = TABLES[table]
    wanted = list(columns) if columns is not None else schema.names
    empty = pa.schema([schema.field(name) for name in {**dict.fromkeys(wanted), "trial_id": 0}])

    def look() -> pa.Table:
        live = _live_tables(run, without.files)
        done = frozenset.intersection(*map(_ids, live.values())) - without.trial_ids
        if trials is not None:
            done &= frozenset(trials)
        parts = [_read_live(run, f, done, wanted) for f in live[table] if f.trial_ids & done]
        return in_order(pa.concat_tables([empty.empty_table(), *parts])).select(wanted)

    return _look_again(look)


class Reading:
    """Reads each data set of a run only once, for many requests of a few trials each.

    What is written later is not seen. Raises as `read`.
    """

    def __init__(self, run: Path, without: Damage) -> None:
        self._run, self._without = run, without
        self._found: dict[str, list[tuple[pa.Table, dict[str, tuple[int, int]]]]] = {}

    def rows(self, table: str, columns: Sequence[str], trials: Collection[str]) -> pa.Table:
        """Return the rows of some trials, as `read` does; `trial_id` is one of the columns."""
        known = self._found.setdefault(table, [])
        found = next((one for one in known if set(columns) <= set(one[0].column_names)), None)
        if found is None:
            whole = read(self._run, table, columns=columns, without=self._without)
            found = whole.combine_chunks(), places_of(whole)
            known.append(found)
        return taken(*found, trials).select(columns)


def incomplete(
    run: Path,
    without: Damage = Damage(),  # noqa: B008  # it is immutable
) -> dict[str, dict[str, Any]]:
    """Return the trials in `trials/` that have lost files: trial_id -> its `dataset` and `tables`.

    `tables` are the data sets without a file of it. Such a trial counts as not run: `read` and
    `finished` ignore it, and running the study again trains it anew. Trials lost to the damaged
    files in `without` are not included. Raises RunError as `read` does.
    """

    def look() -> dict[str, dict[str, Any]]:
        live = _live_tables(run, without.files)
        found = {table: _ids(files) for table, files in live.items()}
        gone = found["trials"] - frozenset.intersection(*found.values()) - without.trial_ids
        rows = [
            row
            for file in live["trials"]
            if file.trial_ids & gone
            for row in _read_live(run, file, gone, ("trial_id", "dataset")).to_pylist()
        ]
        return {
            row["trial_id"]: {
                "dataset": row["dataset"],
                "tables": [table for table in TABLES if row["trial_id"] not in found[table]],
            }
            for row in sorted(rows, key=lambda row: row["trial_id"])
        }

    return _look_again(look)


def footer(
    run: Path,
    without: Damage = Damage(),  # noqa: B008  # it is immutable
) -> dict[str, Any]:
    """Return what the footers of `trials/` say, later files over earlier; {} if there are none.

    `metrics` and `data` are unions over all files, so that a run of several tasks describes every
    metric, and a run that grew every data set.
    """

    def look() -> dict[str, Any]:
        files = _live(run / "trials", without.files)
        return _merged([_read_footer(run, file.path) for file in files])

    return _look_again(look)


def find_damage(run: Path) -> Damage:
    """Read every file of a run, and return the damaged ones with the trials lost to them.

    Only a part itself lists its trials, so those of a damaged part are the trials that other tables
    have and its table does not.
    """

    def look() -> Damage:
        paths = [path for table in TABLES for path in _listing(run / table)]
        files = frozenset(path for path in paths if not _is_whole(run, path))
        known = {
            table: frozenset().union(*(f.trial_ids for f in _live(run / table, files)))
            for table in TABLES
        }
        singles = {path.stem for path in files if not _PART.fullmatch(path.name)}
        every = frozenset(singles).union(*known.values())
        hurt = {path.parent.name for path in files}
        return Damage(files, frozenset().union(*(every - known[table] for table in hurt)))

    return _look_again(look)


def _is_whole(run: Path, path: Path) -> bool:
    try:
        with _opened(run, path) as (file, _):
            file.read(use_threads=False)
    except DamagedError:
        return False
    return True


def compact(run: Path, at_least: int = 256) -> int:
    """Merge small files of finished trials into one part per data set, if there are `at_least`.

    Small files are those of single trials, and parts of fewer than `at_least` trials.

    Files of an older version of the schema are merged however few they are, so that a run begun
    with it has the same columns in every file. Returns the number of files merged into parts.
    Failed trials keep their own files, which running them again replaces. Safe against a crash at
    any step: a part is complete before the files it was made from are removed, and calling
    `compact` again finishes the rest. Raises OSError if the disk is full; the run is then unchanged
    for readers.
    """
    final = {trial_id for trial_id, status in finished(run).items() if status in FINAL_STATUSES}
    old = _of_older_schema(run) & final
    merged = 0
    for table in TABLES:
        folder = run / table
        _remove_merged(folder)
        live = _live(folder)
        small = [
            f
            for f in live
            if f.trial_ids <= final
            and (len(f.trial_ids) < at_least or not _PART.fullmatch(f.path.name))
        ]
        # Other readers would see rows of a part that a later file has replaced, and a file of an
        # older schema has fewer columns than the others: these are merged anew.
        stale = [
            f
            for f in live
            if f.trial_ids & old
            or (_PART.fullmatch(f.path.name) and f.trial_ids != _trial_ids(run, f.path))
        ]
        if len(small) < at_least and not stale:
            continue
        whole = list(dict.fromkeys([*stale, *small]))
        _write_part(run, table, whole)
        _remove_merged(folder)
        merged += len(whole)
    return merged


# ---- rows ------------------------------------------------------------------------------------


def _check_trial(trial: Mapping[str, Any]) -> str:
    """Return the trial's id after checking what every trial must have."""
    trial_id, status = trial.get("trial_id"), trial.get("status")
    if not isinstance(trial_id, str) or not _TRIAL_ID.fullmatch(trial_id):
        raise RowError(
            f"trials.trial_id is {trial_id!r}; it names files, so it must be 1 to 128 letters, "
            "digits, '-' or '_', the first a letter or digit"
        )
    if status not in STATUSES:
        raise RowError(f"trials.status is {status!r}; the choices are {', '.join(STATUSES)}")
    for column in sorted(JSON_COLUMNS):
        text = trial.get(column)
        if text is None:
            continue
        try:
            json.loads(text)
        except (TypeError, ValueError) as error:
            raise RowError(f"trials.{column} must be a JSON text: {error}") from error
    return trial_id


def _table(name: str, trials: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> pa.Table:
    """Return the rows of some trials as a table of the fixed schema.

    Raises RowError with the column at fault.
    """
    schema = TABLES[name]
    known = frozenset(schema.names)
    for trial_id, rows in trials:
        for row in rows:
            if not row.keys() <= known:
                raise RowError(
                    f"{name} has no column {', '.join(sorted(set(row) - known))}; its columns are "
                    f"{', '.join(schema.names)}"
                )
            if row.get("trial_id", trial_id) != trial_id:
                raise RowError(
                    f"{name}.trial_id is {row['trial_id']!r} in a row of trial {trial_id!r}"
                )
    every = [row for _, rows in trials for row in rows]
    ids = pa.array([trial_id for trial_id, rows in trials for _ in rows], pa.string())
    fields = [field for field in schema if field.name != "trial_id"]
    columns = {"trial_id": ids, **_columns(name, fields, every)}
    return pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)


def _columns(
    name: str, fields: Sequence[pa.Field], rows: Sequence[Mapping[str, Any]]
) -> dict[str, pa.Array]:
    """Return the columns of some fields of rows; raise RowError with the column at fault."""
    try:
        # All columns at once, in a tenth of the time (measured).
        whole = pa.array(rows, pa.struct(fields)).flatten()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        whole = [_column(name, field, rows) for field in fields]
    return {
        field.name: _without_nan(column) if _has_no_nan(field) else column
        for field, column in zip(fields, whole, strict=True)
    }


def _column(name: str, field: pa.Field, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    if _has_no_nan(field):
        values = [None if _is_nan(value) else value for value in values]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise RowError(f"{name}.{field.name} must be {field.type}: {error}") from error


def _has_no_nan(field: pa.Field) -> bool:
    return pa.types.is_floating(field.type) and field.name not in NAN_COLUMNS


def _without_nan(column: pa.Array) -> pa.Array:
    if column.null_count == len(column):
        return column
    nan = pc.is_nan(column)
    return pc.if_else(nan, None, column) if pc.any(nan).as_py() else column


def _is_nan(value: object) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


# ---- files -----------------------------------------------------------------------------------


@contextmanager
def _scratch(run: Path) -> Iterator[Path]:
    """Give a new folder under `.writing`, removed at the end, and make the folders of tables."""
    writing = run / ".writing"
    writing.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        (run / table).mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=writing))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(table: pa.Table, path: Path) -> None:
    """Write one Parquet file and sync it to disk."""
    with path.open("wb") as file:
        write_parquet(table, file)
        file.flush()
        os.fsync(file.fileno())


def _move_in(source: Path, target: Path) -> None:
    """Rename a finished file into its data set and sync the name to disk."""
    source.replace(target)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    if hasattr(os, "O_DIRECTORY"):  # POSIX: elsewhere a directory cannot be opened or synced
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_gone_or(path: Path, digest: str) -> bool:
    """Return whether a file has this SHA-256 or was removed since it was listed."""
    try:
        return _digest(path) == digest
    except FileNotFoundError:
        return True


def _to_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _look_again(look: Callable[[], _Result]) -> _Result:
    """Return look(), repeated if a compaction removed a file meanwhile."""
    for _ in range(_LOOKS - 1):
        try:
            return look()
        except FileNotFoundError:
            continue
    return look()


@contextmanager
def _opened(run: Path, path: Path) -> Iterator[tuple[pq.ParquetFile, dict[str, Any]]]:
    """Give a file and its footer.

    Raises DamagedError if it is damaged, RunError if it is of another version.
    """
    where = path.relative_to(run)
    try:
        with pq.ParquetFile(path) as file:
            content = json.loads((file.schema_arrow.metadata or {})[_FOOTER_KEY])
            if content["schema_version"] in READABLE:
                yield file, content
                return
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        found = " ".join(str(error).split()).rstrip(".")
        raise DamagedError(
            f"{where} is damaged or was not written by this program: {found}. Move it away, and "
            "`medopt run` trains the lost trials again.",
            path,
        ) from error
    raise RunError(
        f"{where} has schema version {content['schema_version']}; this program reads "
        f"{' and '.join(map(str, sorted(READABLE)))}"
    )


def _read_footer(run: Path, path: Path) -> Mapping[str, Any]:
    # Reading ten thousand trials needs the same hundreds of footers ten times.
    now = path.stat()
    return _footer_as_of(run, path, now.st_ino, now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=1024)
def _footer_as_of(run: Path, path: Path, *_version: int) -> Mapping[str, Any]:
    with _opened(run, path) as (_, content):
        return MappingProxyType(content)


def _merged(footers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge footers, later over earlier, _NAMED by union, without the keys that describe a part."""
    merged: dict[str, Any] = {}
    for content in footers:
        union = {key: {**merged.get(key, {}), **content[key]} for key in _NAMED if key in content}
        merged |= {**content, **union}
    return {key: value for key, value in merged.items() if key not in (_SOURCES, _MEMBERS)}


def _trial_ids(run: Path, path: Path) -> frozenset[str]:
    """Return the trials of one file: its name, or for a part those it lists."""
    if not _PART.fullmatch(path.name):
        return frozenset({path.stem})
    return frozenset(_read_footer(run, path)[_MEMBERS])


def _listing(folder: Path) -> list[Path]:
    """Return the files of a data set at one moment; empty if it does not exist.

    While a directory is being read, a part may appear where the reading has passed, and the files
    it was made from may vanish where it has not. Two equal readings rule that out.
    """
    files, before = sorted(folder.glob("*.parquet")), None
    while files != before:
        files, before = sorted(folder.glob("*.parquet")), files
    return files


def _sources(
    folder: Path, without: Collection[Path] = ()
) -> tuple[list[Path], dict[Path, Mapping[str, str]]]:
    """Return the files of a data set, parts first in their order, and each part's sources."""
    files = [path for path in _listing(folder) if path not in without]
    parts = [path for path in files if _PART.fullmatch(path.name)]
    singles = [path for path in files if not _PART.fullmatch(path.name)]
    listed = {part: _read_footer(folder.parent, part)[_SOURCES] for part in parts}
    return [*parts, *singles], listed


def _merged_files(files: Sequence[Path], listed: Mapping[Path, Mapping[str, str]]) -> set[Path]:
    """Return the files contained in a part that a crash kept from being removed."""
    by_name = {path.name: path for path in files}
    return {
        by_name[name]
        for part, sources in listed.items()
        for name in by_name.keys() & sources.keys()
        if name != part.name and _is_gone_or(by_name[name], sources[name])
    }


def _live(folder: Path, without: Collection[Path] = ()) -> list[_Live]:
    """Return the files that count, with the trials that count in each; the last file wins."""
    files, listed = _sources(folder, without)
    gone = _merged_files(files, listed)
    taken: set[str] = set()
    live = []
    for path in reversed([path for path in files if path not in gone]):
        mine = _trial_ids(folder.parent, path) - taken
        taken |= mine
        live.append(_Live(path, mine))
    return live[::-1]


def _live_tables(run: Path, without: Collection[Path] = ()) -> dict[str, list[_Live]]:
    """Return the files of each data set that count, as `_live` does.

    `trials/` is read first: a trial that is listed there already has its other files.
    """
    return {table: _live(run / table, without) for table in reversed(TABLES)}


def _ids(files: Iterable[_Live]) -> frozenset[str]:
    return frozenset().union(*(file.trial_ids for file in files))


def _of_older_schema(run: Path) -> frozenset[str]:
    """Return the trials whose files were written by an older version of the schema."""
    return frozenset().union(
        *(
            file.trial_ids
            for file in _live(run / "trials")
            if _is_older(_read_footer(run, file.path))
        )
    )


def _is_older(about: Mapping[str, Any]) -> bool:
    """Return whether the columns of a file may differ from today's, by its footer."""
    return about["schema_version"] != SCHEMA_VERSION or axes_of(about) != AXES


def _remove_merged(folder: Path) -> None:
    """Remove the files that are contained in a part."""
    for path in sorted(_merged_files(*_sources(folder))):
        path.unlink(missing_ok=True)


def _read_live(run: Path, file: _Live, done: frozenset[str], columns: Sequence[str]) -> pa.Table:
    """Return the rows of one file that count, in today's columns, without the footer."""
    names = list(dict.fromkeys([*columns, "trial_id"]))
    name, schema = file.path.parent.name, TABLES[file.path.parent.name]
    with _opened(run, file.path) as (content, about):
        version = about["schema_version"]
        # What an older file lacks may be derived from any of its columns.
        needed = names if version == SCHEMA_VERSION else schema.names
        known = set(content.schema_arrow.names)
        table = content.read(columns=[n for n in needed if n in known], use_threads=False)
    for column in needed:
        if column not in known:
            field = schema.field(column)
            table = table.append_column(field, pa.nulls(len(table), field.type))
    table = table.select(needed).replace_schema_metadata(None)
    table = upgrade(name, table, version).select(names)
    keep = pa.array(sorted(file.trial_ids & done), pa.string())
    return table.filter(pc.is_in(table.column("trial_id"), value_set=keep))


def _write_part(run: Path, table: str, files: Sequence[_Live]) -> None:
    """Write the rows that count in `files` as one new part."""
    sources = {file.path.name: _digest(file.path) for file in files}
    content = _merged([_read_footer(run, file.path) for file in files])
    content |= {
        "schema_version": SCHEMA_VERSION,  # its columns are today's, whatever the files' were
        "axes": described(),
        _SOURCES: sources,
        _MEMBERS: sorted(frozenset().union(*(file.trial_ids for file in files))),
    }
    rows = pa.concat_tables(
        [_read_live(run, file, file.trial_ids, TABLES[table].names) for file in files]
    )
    name = _part_name(_names(run / table), sources)
    with _scratch(run) as scratch:
        _write(rows.replace_schema_metadata({_FOOTER_KEY: _to_json(content)}), scratch / table)
        _move_in(scratch / table, run / table / name)


def _names(folder: Path) -> frozenset[str]:
    """Return the names in a folder, none if it does not exist."""
    if not folder.exists():
        return frozenset()
    return frozenset(os.listdir(folder))  # noqa: PTH208  # names alone: asked at every write


def _part_name(there: Collection[str], content: object) -> str:
    """Return the name of a new part of some content, which takes precedence over existing ones."""
    numbers = [int(match[1]) for name in there if (match := _PART.match(name))]
    # The checksum keeps two that are written at once from taking the same name.
    tag = hashlib.sha256(_to_json(content)).hexdigest()[:16]
    return f"part.{max(numbers, default=0) + 1:06d}.{tag}.parquet"
