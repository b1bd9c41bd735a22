"""A CSV as people write it, line by line: whatever it holds, a sentence and not a crash."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from loaders.cases import BadCase, BadSource

# Assumption: NIH ChestX-ray14's table, of 112 120 images, has 8 MiB.
MAX_TABLE_BYTES = 64 * 2**20
# MIMIC-CXR, the largest set of chest X-rays, has 377 110 images. So many lines of 64 bytes that are
# all rejected, each with its sentence, take 0.9 GiB (measured).
MAX_LINES = 500_000
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)?")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first line has been read: its name, and the names of its columns."""

    name: str
    columns: Sequence[str]
    _text: str
    _separator: str

    def lines(self, rejected: list[BadCase]) -> Iterator[tuple[int, list[str]]]:
        """Give the number and the cells of each line that is not empty.

        Those that do not fit the columns are added to `rejected`. Raises BadSource.
        """
        reader = _reader(self._text, self._separator)
        try:
            next(reader)
            for cells in reader:
                if reader.line_num > MAX_LINES:
                    raise BadSource(f"{self.name} has more than {MAX_LINES} lines")
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(self.columns):
                    reason = (
                        f"the line has {len(cells)} cells and the table {len(self.columns)} columns"
                    )
                    rejected.append(BadCase(reason, where=self.where(reader.line_num)))
                    continue
                yield reader.line_num, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise BadSource(f"{self.where(reader.line_num)} is no CSV ({error})") from None

    def where(self, line: int) -> str:
        """Return how the terminal names a line."""
        return f"{self.name} line {line}"


def open_table(path: Path) -> Table:
    """Read a table's first line, and find out what separates its cells; raises BadSource."""
    text = _text(path)
    try:
        first = next(_lines(text))
        mark = max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
        columns = [name.strip() for name in next(_reader(text, mark), [])]
    except csv.Error as error:
        raise BadSource(f"{path.name} line 1 is no CSV ({error})") from None
    if len(columns) < 2 or not all(columns) or len(set(columns)) < len(columns):
        shown = ", ".join(columns[:5]) + (", ..." if len(columns) > 5 else "") or "none"
        raise BadSource(
            f"{path.name}: its first line should name two columns or more, each once, "
            f"separated by comma, semicolon or tab; found: {shown[:100]}"
        )
    return Table(name=path.name, columns=columns, _text=text, _separator=mark)


def table_under(source: Path, name: str, option: str) -> Path:
    """Return the table that an option names by its path under the source; raises BadSource."""
    if leads_out(name):
        raise BadSource(f"{option} is {name!r}: give its path under {source}")
    path = source / name
    if not path.is_file() or not path.resolve().is_relative_to(source.resolve()):
        raise BadSource(f"there is no file {name} under {source}")
    return path


def leads_out(name: str) -> bool:
    """Tell whether a name is a path that may lead out of a folder, on any system."""
    windows = PureWindowsPath(name)  # takes / and \ alike
    return bool(windows.drive or windows.root or ".." in windows.parts or "\0" in name)


def _lines(text: str) -> Iterator[str]:
    # Not io.StringIO, which takes four bytes a character.
    return (match[0] for match in _LINE.finditer(text))


def _reader(text: str, separator: str) -> Any:
    return csv.reader(_lines(text), delimiter=separator, strict=True)


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
    if not text or text.isspace():
        raise BadSource(f"{table.name} is empty")
    return text
