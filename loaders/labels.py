"""A CSV that gives each image or video its answer: read with care, for nobody checked it before.

Every row is held against the files that really lie under the source. A path that leads out of it,
a value that is missing, a file that is not there or is named twice is a rejected case with its
line; a table that cannot be read at all, or a column that is not there, is a bad source.
"""

import csv
import hashlib
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from loaders.cases import JSON, MAX_CLASSES, BadCase, BadSource

OPTIONS: Mapping[str, tuple[JSON, str]] = {
    "name": ("", "what the set is called in studies and reports; empty: as its kind"),
    "csv": ("", "the table, by its path under the source; empty: the one .csv or .tsv there"),
    "image": ("", "column that names the files; empty: the first"),
    "label": ("label", "column of the class"),
    "group": ("", "column of the patient or lesion, kept on one side of every split; empty: none"),
    "positive": ("", "of two classes the disease; empty: 1 of 0 and 1"),
    "split": ("", "column of the official part: train, val or test; empty: none"),
}
# Assumption: NIH ChestX-ray14's table, of 112 120 images, has 8 MiB.
MAX_TABLE_BYTES = 64 * 2**20
# What an empty cell is written as by spreadsheets, R and pandas. "none" may be a class.
_MISSING = frozenset(("", "na", "n/a", "nan", "null"))
_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_WHOLE = re.compile(r"([+-]?[0-9]+)(\.0*)?")
# Of files of one size the ends are compared first: the bytes of two pictures differ there too.
_END_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Row:
    """One usable line: `path` is the file, `key` its path under the source, `label` its class."""

    path: Path
    key: str
    group: str
    label: int
    split: str | None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A whole table. `grouped`: it has a column for the group; else each file is its own."""

    rows: tuple[Row, ...]
    rejected: tuple[BadCase, ...]
    classes: tuple[str, ...]
    positive: int | None
    grouped: bool


@dataclass(frozen=True, kw_only=True)
class _Line:
    where: str
    cells: Mapping[str, str]


def read_labels(
    source: Path,
    chosen: Mapping[str, Any],
    *,
    suffixes: Collection[str],
    frames: Collection[str] = (),
) -> Answers:
    """Read the table of a source by the chosen OPTIONS; raises BadSource.

    A file may stand in the table with its path under the source, with the end of that path, and
    without its suffix where that is one of `suffixes`. `folders`: a folder of such files can be
    named too. Files that contradict each other (the same bytes under two labels) are all rejected:
    one of the labels is wrong, and on two sides of a split they would be a leak. Those with one
    label are kept; folds keep them together.
    """
    if not source.is_dir():
        raise BadSource(f"there is no folder {source}")
    table = _table_of(source, chosen["csv"])
    columns, lines, rejected = _parse(table)
    column = _columns(table.name, columns, chosen)
    used: list[tuple[_Line, dict[str, str]]] = []
    for line in lines:
        try:
            used.append((line, _values(line, column)))
        except BadCase as bad:
            rejected.append(bad)
    classes, numbers = _classes(table.name, column["label"], [cell["label"] for _, cell in used])
    files = _Files(source, suffixes, frames)
    found: list[tuple[str, Row]] = []
    for line, cell in used:
        try:
            path = files.find(cell["image"], line.where)
        except BadCase as bad:
            rejected.append(bad)
            continue
        key = path.relative_to(source).as_posix()
        row = Row(
            path=path,
            key=key,
            group=cell.get("group", key),
            label=numbers[_canonical(cell["label"])],
            split=_part(table.name, column["split"], cell["split"]) if "split" in cell else None,
        )
        found.append((line.where, row))
    rows, twice = _named_once(found)
    rows, contradicted = _consistent(rows)
    return Answers(
        rows=tuple(rows),
        rejected=(*rejected, *twice, *contradicted),
        classes=classes,
        positive=_positive(classes, chosen["positive"], column["label"]),
        grouped="group" in column,
    )


# ---- the table --------------------------------------------------------------------------------


def _table_of(source: Path, name: str) -> Path:
    if name:
        if _leads_out(name):
            raise BadSource(f"csv is {name!r}: give its path under {source}")
        path = source / name
        if not path.is_file() or not path.resolve().is_relative_to(source.resolve()):
            raise BadSource(f"there is no file {name} under {source}")
        return path
    tables = sorted(p for p in source.iterdir() if p.suffix.lower() in (".csv", ".tsv"))
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise BadSource(
            f"{source} should hold one table .csv or .tsv, found: {found}; "
            "say which with --set csv=NAME"
        )
    return _table_of(source, tables[0].name)


def _parse(table: Path) -> tuple[list[str], list[_Line], list[BadCase]]:
    """Return the columns of a table, its lines, and those that do not fit the columns."""
    text = _text(table)
    first = text.partition("\n")[0]
    separator = max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines, rejected = [], []
    try:
        columns = [name.strip() for name in next(reader, [])]
        if len(columns) < 2 or not all(columns) or len(set(columns)) < len(columns):
            shown = ", ".join(columns) or "none"
            raise BadSource(
                f"{table.name}: its first line should name two columns or more, each once, "
                f"separated by comma, semicolon or tab; found: {shown}"
            )
        for cells in reader:
            where = f"{table.name} line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                reason = f"the line has {len(cells)} cells and the table {len(columns)} columns"
                rejected.append(BadCase(reason, where=where))
                continue
            values = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
            lines.append(_Line(where=where, cells=values))
    except csv.Error as error:
        raise BadSource(f"{table.name} line {reader.line_num} is no CSV ({error})") from None
    return columns, lines, rejected


def _text(table: Path) -> str:
    if (size := table.stat().st_size) > MAX_TABLE_BYTES:
        raise BadSource(f"{table.name} has {size} bytes; a table has at most {MAX_TABLE_BYTES}")
    raw = table.read_bytes()
    # Spreadsheets save "Unicode text" with this mark; UTF-8 may have its own, which goes too.
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSource(
            f"{table.name} is no UTF-8 text (byte {error.start}): save it as CSV UTF-8"
        ) from None
    if "\0" in text:
        raise BadSource(f"{table.name} holds zero bytes: it is no text")
    if not text.strip():
        raise BadSource(f"{table.name} is empty")
    return text


def _columns(table: str, columns: Sequence[str], chosen: Mapping[str, Any]) -> dict[str, str]:
    """Return the column of each role that is asked for."""
    column = {role: chosen[role] for role in ("image", "label", "group", "split") if chosen[role]}
    column.setdefault("image", columns[0])
    column.setdefault("label", "label")
    for role, name in column.items():
        if name not in columns:
            raise BadSource(
                f"{table} has no column {name!r} for the {role}: say --set {role}=COLUMN; "
                f"its columns are: {', '.join(columns)}"
            )
    if column["label"] == column["image"]:
        raise BadSource(f"{table}: column {column['image']!r} cannot be both image and label")
    return column


def _values(line: _Line, column: Mapping[str, str]) -> dict[str, str]:
    cell = {role: line.cells[name] for role, name in column.items()}
    for role, text in cell.items():
        if text.lower() in _MISSING:
            raise BadCase(f"column {column[role]} has no value", where=line.where)
    return cell


# ---- labels -----------------------------------------------------------------------------------


def _canonical(label: str) -> str:
    """Return a whole number in one way of writing (1.0 is 1), and other text as it is."""
    whole = _WHOLE.fullmatch(label)
    return str(int(whole[1])) if whole else label


def _classes(
    table: str, column: str, labels: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes, numbers by size and text by the alphabet, and the number of each."""
    names = {_canonical(label) for label in labels}
    if all(_WHOLE.fullmatch(name) for name in names):
        ordered = sorted(names, key=int)
    else:
        ordered = sorted(names)
    if not 2 <= len(ordered) <= MAX_CLASSES:
        shown = ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "")
        raise BadSource(
            f"{table}: column {column} has {len(ordered)} different values ({shown or 'none'}); "
            f"a label has 2 to {MAX_CLASSES}"
        )
    alike = Counter(name.casefold() for name in ordered)
    if clash := [name for name in ordered if alike[name.casefold()] > 1]:
        raise BadSource(
            f"{table}: column {column} has {' and '.join(map(repr, clash[:2]))}, which differ in "
            "upper and lower case alone: write them in one way"
        )
    return tuple(ordered), {name: number for number, name in enumerate(ordered)}


def _positive(classes: tuple[str, ...], wanted: str, column: str) -> int | None:
    if len(classes) > 2:
        if wanted:
            raise BadSource(
                f"positive is for two classes; column {column} has {len(classes)}: "
                f"{', '.join(classes)}"
            )
        return None
    if wanted and _canonical(wanted) not in classes:
        raise BadSource(f"positive is {wanted!r}; column {column} has: {', '.join(classes)}")
    if not wanted and classes != ("0", "1"):
        raise BadSource(
            f"column {column} has {classes[0]} and {classes[1]}: say which is the disease, "
            f"--set positive={classes[1]} or --set positive={classes[0]}"
        )
    return classes.index(_canonical(wanted or "1"))


def _part(table: str, column: str, text: str) -> str:
    if text.lower() not in _PARTS:
        raise BadSource(
            f"{table}: column {column} has {text!r}; a part is one of: train, val, test"
        )
    return _PARTS[text.lower()]


# ---- files ------------------------------------------------------------------------------------


def _leads_out(name: str) -> bool:
    """Tell whether a name is a path that may lead out of a folder, on any system."""
    windows = PureWindowsPath(name)  # takes / and \ alike
    return bool(windows.drive or windows.root or ".." in windows.parts or "\0" in name)


class _Files:
    """The files under a source, by the names that a table may give them; links are not walked."""

    def __init__(self, source: Path, suffixes: Collection[str], frames: Collection[str]) -> None:
        self._source = source
        self._root = source.resolve()
        self._linked = 0
        self._exact: set[str] = set()
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for key, is_folder in self._walk(frames):
            self._exact.add(key)
            path = PurePosixPath(key)
            self._by_name[path.name].append(key)
            if not is_folder and path.suffix.lower() in suffixes:
                self._by_name[path.stem].append(key)

    def _walk(self, frames: Collection[str]) -> Iterator[tuple[str, bool]]:
        for folder, inner, names in os.walk(self._source):
            inner.sort()
            self._linked += sum(Path(folder, name).is_symlink() for name in inner)
            place = Path(folder).relative_to(self._source)
            if any(Path(name).suffix.lower() in frames for name in names):
                yield place.as_posix(), True
            for name in sorted(names):
                yield (place / name).as_posix(), False

    def find(self, name: str, where: str) -> Path:
        """Return the one file that a table means by `name`; raises BadCase."""
        where = f"{where} ({name})"
        if _leads_out(name):
            raise BadCase("the table names a path outside the source", where=where)
        text = PureWindowsPath(name).as_posix()
        fitting = [text]
        if text not in self._exact:
            *folders, last = PurePosixPath(text).parts or [""]
            fitting = [key for key in self._by_name[last] if _lies_in(key, folders)]
        if not fitting:
            hint = "; folders that are links are not followed" if self._linked else ""
            raise BadCase(f"the source has no file of that name{hint}", where=where)
        if len(fitting) > 1:
            raise BadCase(
                f"{len(fitting)} files bear that name: the table should give the path", where=where
            )
        path = self._source / fitting[0]
        try:
            inside = path.resolve(strict=True).is_relative_to(self._root)
        except (OSError, RuntimeError):
            raise BadCase("the file is a link that leads nowhere", where=where) from None
        if not inside:
            raise BadCase("the file is a link that leads out of the source", where=where)
        if not path.is_file() and not path.is_dir():
            raise BadCase("the file is a device or a pipe", where=where)
        return path


def _lies_in(key: str, folders: Sequence[str]) -> bool:
    """Tell whether a file's own folders end with these."""
    own = PurePosixPath(key).parts[:-1]
    return len(own) >= len(folders) and list(own[len(own) - len(folders) :]) == list(folders)


def _named_once(found: Sequence[tuple[str, Row]]) -> tuple[list[Row], list[BadCase]]:
    """Reject the lines that name a file once more, and all of them where they disagree."""
    lines: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    for where, row in found:
        lines[row.key].append((where, row))
    rows, rejected = [], []
    for same in lines.values():
        agree = len({row for _, row in same}) == 1
        if agree:
            rows.append(same[0][1])
        reason = (
            "the table names this file a second time"
            if agree
            else f"the table names this file {len(same)} times, with other answers"
        )
        rejected += [
            BadCase(reason, where=f"{where} ({row.key})", key=row.key)
            for where, row in same[1 if agree else 0 :]
        ]
    return rows, rejected


def _consistent(rows: Sequence[Row]) -> tuple[list[Row], list[BadCase]]:
    """Reject files of the same bytes under different labels; folders are not compared."""
    # What may not be read is told when it is read.
    files = [row for row in rows if row.path.is_file() and os.access(row.path, os.R_OK)]
    suspects = _alike(files, lambda row: _size(row.path))
    suspects = [part for one in suspects for part in _alike(one, lambda row: _end(row.path))]
    suspects = [part for one in suspects for part in _alike(one, lambda row: _whole(row.path))]
    bad = {row.key for same in suspects for row in same}
    reason = "another file with the same bytes has another label"
    rejected = [BadCase(reason, where=row.key, key=row.key) for row in rows if row.key in bad]
    return [row for row in rows if row.key not in bad], rejected


def _alike(rows: Sequence[Row], look: Any) -> list[list[Row]]:
    """Return the sets of rows that look the same and have more than one label."""
    sets: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        sets[look(row)].append(row)
    return [same for same in sets.values() if len({row.label for row in same}) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, _size(path) - _END_BYTES))
        return file.read()


def _whole(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
