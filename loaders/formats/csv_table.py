"""Real-world CSV, line by line: whatever a file holds, the result is a message and not a crash.

Lines are parsed strictly (RFC 4180). If a quotation mark opens a cell and nothing closes it, the
line is read by itself and the mark counts as text; if that cell is in a used column, the line is
rejected. A first line `sep=;` (Excel's) names the separator. Separators at the end of the header or
of a line (NIH's Data_Entry_2017.csv) are ignored. A column without a name, such as the index that
pandas writes, gets the name that pandas would give it: `Unnamed: 0`. A title above the names of the
columns, with one cell per line, is skipped with a warning. The first sheet of a workbook is read
(`loaders.formats.sheets.workbook`).
"""

import codecs
import csv
import logging
import re
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

from loaders.cases import BadCase, BadSource
from loaders.formats.inside import Inside, leads_out
from loaders.formats.sheets.workbook import ZIP, is_workbook, sheet_text

log = logging.getLogger(__name__)

# Assumption: NIH ChestX-ray14's table of 112 120 images has 8 MiB; PadChest's, of 160 000 with
# their reports, many times that.
MAX_TABLE_BYTES = 256 * 2**20
# MIMIC-CXR, the largest set of chest X-rays, has 377 110 images. This many lines of 64 bytes, all
# rejected with their reasons, take 0.9 GiB (measured).
MAX_LINES = 500_000
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)?")
_SEPARATORS = ",;\t"
_SEP = re.compile(r'"?sep=([^\w\s"]|\t)"?', re.IGNORECASE)
# The first bytes of a gzip file (RFC 1952, 2.3.1).
_GZIP = b"\x1f\x8b"
# Lines in which the names of the columns are searched: titles take a few (assumption).
_TITLES = 20
# No name of a column is a number or a date.
_WORD = re.compile(r"[^\W\d_]")
_UNNAMED = re.compile(r"Unnamed: [0-9]+")
# Byte-order marks and their encodings; UTF-32's begins like UTF-16's.
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"", "utf-8-sig"),
)


class _Part(NamedTuple):
    """One file of a table: its text, its separator, its records up to the header.

    `before` is the number of lines in the files before it.
    """

    name: str
    text: str
    separator: str
    header: int
    before: int


# The cells of a line -> one more cell, or several, or the reason why the line cannot be used.
Make: TypeAlias = "Callable[[Sequence[str]], str | BadCase]"
MakeSeveral: TypeAlias = "Callable[[Sequence[str]], Sequence[str] | BadCase]"


class _Made(NamedTuple):
    """Columns that are made from the columns `used` before them."""

    names: Sequence[str]
    make: MakeSeveral
    used: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose header has been read: its name, and the names of its columns.

    It may consist of several files with the same columns, whose lines are numbered consecutively.
    """

    name: str
    columns: Sequence[str]
    _parts: tuple[_Part, ...]
    _made: tuple[_Made, ...] = ()

    def with_column(self, name: str, make: Make, used: Sequence[int]) -> "Table":
        """Return the table with one more column, as `with_columns` does."""

        def alone(cells: Sequence[str]) -> Sequence[str] | BadCase:
            made = make(cells)
            return made if isinstance(made, BadCase) else [made]

        return self.with_columns([name], alone, used)

    def with_columns(self, names: Sequence[str], make: MakeSeveral, used: Sequence[int]) -> "Table":
        """Return the table with more columns, which `make` computes from the cells of a line.

        `used` are the columns (numbers from 0) that `make` uses.
        """
        made = _Made(names=names, make=make, used=used)
        return replace(self, columns=[*self.columns, *names], _made=(*self._made, made))

    def lines(
        self, rejected: list[BadCase], used: Collection[int]
    ) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and the cells of each line that is not empty.

        Lines that do not fit the columns, or whose cells in the `used` columns (numbers from 0)
        cannot be read, are added to `rejected`. Raises BadSource.
        """
        for part in self._parts:
            yield from self._lines_of(part, rejected, used)

    def _lines_of(
        self, part: _Part, rejected: list[BadCase], used: Collection[int]
    ) -> Iterator[tuple[int, list[str]]]:
        wide = len(self.columns) - sum(len(made.names) for made in self._made)
        records = _records(part.text, part.separator, header=part.header, width=wide)
        used = self._looked_at(used)
        try:
            for count, (line, cells, stray) in enumerate(records, start=1):
                number = part.before + line
                if number > MAX_LINES:
                    raise BadSource(f"{self.name} has more than {MAX_LINES} lines")
                if count <= part.header or not any(cell.strip() for cell in cells):
                    continue
                reason = None
                if len(cells) < wide or any(cell.strip() for cell in cells[wide:]):
                    reason = f"the line has {len(cells)} cells but the table {wide} columns"
                elif unclear := [at for at in used if at in stray]:
                    name = self.columns[unclear[0]]
                    reason = f"the line is not CSV: a quotation mark in column {name} is not closed"
                whole = [cell.strip() for cell in cells[:wide]]
                for made in () if reason else self._made:
                    cells_more = made.make(whole)
                    if isinstance(cells_more, BadCase):
                        reason = cells_more.reason
                        break
                    whole += cells_more
                if reason:
                    rejected.append(BadCase(reason, where=self.where(number)))
                    continue
                yield number, whole
        except csv.Error as error:
            raise BadSource(f"{part.name} is not CSV ({error})") from None

    def _looked_at(self, used: Collection[int]) -> Collection[int]:
        """Return the used columns, and those from which they are made."""
        end = len(self.columns)
        for made in reversed(self._made):
            start = end - len(made.names)
            if any(start <= at < end for at in used):
                used = {*used, *made.used}
            end = start
        return used

    def where(self, line: int) -> str:
        """Return the name of a line in messages."""
        part = self._part(line)
        return f"{part.name} line {line - part.before}"

    def file_of(self, line: int) -> str:
        """Return the name of the file that holds a line."""
        return self._part(line).name

    @property
    def files(self) -> Sequence[str]:
        """The names of its files."""
        return [part.name for part in self._parts]

    def _part(self, line: int) -> _Part:
        return next(part for part in reversed(self._parts) if part.before < line)

    def column(self, name: str) -> int | None:
        """Return the number of the column with this name, or None if there is none.

        A column that differs only in case is taken if it is the only one. Raises BadSource if
        several columns share the name.
        """
        fitting = [at for at, column in enumerate(self.columns) if column == name]
        if not fitting:
            plain = name.casefold()
            fitting = [at for at, column in enumerate(self.columns) if column.casefold() == plain]
        if len(fitting) > 1:
            raise BadSource(
                f"{self.name} has {len(fitting)} columns called {name!r}: its first line should "
                "name each used column once"
            )
        return fitting[0] if fitting else None

    @property
    def first_named(self) -> int:
        """The number of the first column that has a name, 0 if none has."""
        names = (at for at, name in enumerate(self.columns) if not _UNNAMED.fullmatch(name))
        return next(names, 0)


def open_table(path: Path, *, told: bool = True) -> Table:
    """Read a table's header, and determine its separator; raises BadSource.

    `told`: warn of a title above the header, which is skipped.
    """
    with path.open("rb") as file:
        workbook = is_workbook(file.read(len(ZIP)))
    text = sheet_text(path) if workbook else _text(path)
    starts = [line.rstrip("\r\n") for line in islice(filter(str.strip, _lines(text)), _TITLES)]
    if not starts:
        raise BadSource(f"{path.name}: its first sheet is empty")
    said = None if workbook else _SEP.fullmatch(starts[0])
    marks = said[1] if said else "," if workbook else _SEPARATORS
    heads = starts[1:] if said else starts
    head, titled = _head(heads or [""], marks)
    mark = max(marks, key=lambda mark: len(_literally(head, mark)[0]))
    before = 1 if said else 0
    columns: list[str] = []
    header = 0
    try:
        for record in _records(text, mark):
            header += 1
            if not any(cell.strip() for cell in record.cells):
                continue
            if not before and not (titled and not _are_names(record.cells)):
                columns = [cell.strip() for cell in record.cells]
                break
            before = 0
    except csv.Error as error:
        raise BadSource(f"{path.name} line 1 is not CSV ({error})") from None
    if titled and told:
        where = f"{path.name} names its columns in line {record.number}"
        log.warning("%s; the lines above are skipped.", where)
    while columns and not columns[-1]:
        columns.pop()
    if len([name for name in columns if name]) < 2:
        shown = ", ".join(name for name in columns if name) or "none"
        marks = f"{mark!r} as stated there" if said else "comma, semicolon or tab"
        raise BadSource(
            f"{path.name}: its first line should name two or more columns, separated by {marks}; "
            f"found: {shown[:100]}"
        )
    columns = [name or f"Unnamed: {at}" for at, name in enumerate(columns)]
    part = _Part(name=path.name, text=text, separator=mark, header=header, before=0)
    return Table(name=path.name, columns=columns, _parts=(part,))


def _head(starts: Sequence[str], marks: str) -> tuple[str, bool]:
    """Return the line that names the columns, and whether there is a title above it.

    It is the first line unless that is a title: one cell, with names of columns in a later line.
    """
    for at, line in enumerate(starts):
        for cells in (_literally(line, mark)[0] for mark in marks):
            if _are_names(cells) or (at == 0 and len(list(filter(str.strip, cells))) > 1):
                return line, at > 0
    return starts[0], False


def _are_names(cells: Sequence[str]) -> bool:
    """Tell whether a line can name columns: two or more words, all different, no numbers."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    return len(filled) > 1 and len(set(filled)) == len(filled) and all(map(_WORD.search, filled))


def joined(tables: Sequence[Table]) -> Table:
    """Return several tables with the same columns as one; raises BadSource."""
    first = tables[0]
    parts: list[_Part] = []
    before = 0
    for table in tables:
        if list(table.columns) != list(first.columns):
            odd = sorted(set(table.columns) ^ set(first.columns))
            shown = f": {', '.join(odd)[:200]}" if odd else ", in another order"
            raise BadSource(f"{first.name} and {table.name} do not have the same columns{shown}")
        for part in table._parts:  # noqa: SLF001  # of its own class
            parts.append(part._replace(before=before))
            before += sum(1 for _ in _lines(part.text))
    return replace(first, name=" and ".join(table.name for table in tables), _parts=tuple(parts))


def table_under(source: Path, name: str, option: str) -> Path:
    """Return the table that an option names by its path under the source; raises BadSource."""
    if leads_out(name):
        raise BadSource(f"option {option} is {name!r}; it must be a path under {source}")
    path = source / name
    if not path.is_file() or not Inside(source).holds(path):
        raise BadSource(f"there is no file {name} under {source}")
    return path


# ---- records ----------------------------------------------------------------------------------


class _Record(NamedTuple):
    """A record: the number of its first line, its cells, and which begin with a stray quote."""

    number: int
    cells: list[str]
    stray: Collection[int]


class _Lines:
    """The lines of a text for the csv module; lines that it took in excess can be put back."""

    def __init__(self, text: str) -> None:
        self._rest = _lines(text)
        self._back: deque[str] = deque()
        self.taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._rest)
        self.taken.append(line)
        return line

    def give_back(self) -> str:
        """Put back all lines of a record except the first; return the first."""
        self._back.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]
        return self.taken[0]


def _records(text: str, mark: str, *, header: int = 0, width: int = 0) -> Iterator[_Record]:
    """Yield the records of a text; raises csv.Error.

    After the first `header` records, a record of several lines is attributed to a stray quotation
    mark if one of its later lines has `width` cells, as a record of its own would.
    """
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=mark, strict=True)
    number, count = 1, 0
    while True:
        lines.taken.clear()
        stray: Collection[int] = ()
        try:
            cells = next(reader)
            within = lines.taken[1:] if count >= header else ()
            whole = not any(len(_literally(line, mark)[0]) == width for line in within)
        except StopIteration:
            return
        except csv.Error:
            if '"' not in lines.taken[0]:
                raise
            whole = False
        if not whole:
            cells, stray = _literally(lines.give_back(), mark)
        yield _Record(number, cells, stray)
        number += len(lines.taken)
        count += 1


def _literally(line: str, mark: str) -> tuple[list[str], list[int]]:
    """Return the cells of one line, and which of them begin with an unclosed quotation mark."""
    line = line.rstrip("\r\n")
    cell = re.compile(rf'"((?:[^"]|"")*)"(?={re.escape(mark)}|$)|([^{re.escape(mark)}]*)')
    cells: list[str] = []
    stray = []
    at = 0
    while at <= len(line):
        found = cell.match(line, at)
        assert found is not None  # the second form matches everything
        if found[1] is not None:
            cells.append(found[1].replace('""', '"'))
        else:
            if found[2].startswith('"'):
                stray.append(len(cells))
            cells.append(found[2])
        at = found.end() + 1
    return cells, stray


def _lines(text: str) -> Iterator[str]:
    # Not io.StringIO, which needs four bytes per character.
    return (match[0] for match in _LINE.finditer(text))


# ---- text -------------------------------------------------------------------------------------


def _unpacked(raw: bytes, table: Path) -> bytes:
    """Return the content of a .csv.gz; raises BadSource."""
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = inflater.decompress(raw, MAX_TABLE_BYTES + 1)
    except zlib.error:
        raise BadSource(f"{table.name} is damaged: it cannot be decompressed") from None
    if len(content) > MAX_TABLE_BYTES:
        raise BadSource(f"{table.name} unpacks to more than {MAX_TABLE_BYTES} bytes")
    if not inflater.eof:
        raise BadSource(f"{table.name} is cut off")
    return content


def _text(table: Path) -> str:
    if (size := table.stat().st_size) > MAX_TABLE_BYTES:
        raise BadSource(f"{table.name} has {size} bytes; at most {MAX_TABLE_BYTES} are read")
    raw = table.read_bytes()
    if raw.startswith(_GZIP):
        raw = _unpacked(raw, table)
    # Spreadsheets save "Unicode text" as UTF-16 with a mark; the optional one of UTF-8 is removed.
    encoding = next(name for mark, name in _ENCODINGS if raw.startswith(mark))
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        why = f"line {line} has another encoding, as in a spreadsheet's plain CSV"
        if encoding != "utf-8-sig":
            why = "it begins like one but is damaged or cut off"
        form = encoding.upper().removesuffix("-SIG")
        raise BadSource(
            f"{table.name} is not {form} text (byte {error.start}): save it as CSV UTF-8; {why}"
        ) from None
    if "\0" in text:
        raise BadSource(
            f"{table.name} holds NUL bytes: it is not text, or UTF-16 without its byte-order mark; "
            "save it as CSV UTF-8"
        )
    if not text or text.isspace():
        raise BadSource(f"{table.name} is empty")
    return text
