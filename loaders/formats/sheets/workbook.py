"""The first sheet of an Excel workbook (.xlsx) as CSV: ECMA-376, part 1, 18.3 and 18.4.

Cells are read as saved: no formula is computed, no macro run, no link followed, no XML entity
expanded. Numbers have the 15 digits that Excel shows; dates are written as 2026-03-01, whatever the
country; a line of the text is a row of the sheet.
"""

import csv
import io
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import IO, Any
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from loaders.cases import BadSource

log = logging.getLogger(__name__)

# The first bytes of a ZIP archive, and of an old or password-protected workbook (MS-CFB 2.2).
ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
# Bytes of a workbook (assumption).
_MAX_FILE = 2**26
# Bytes that a part of a workbook may unpack to: a sheet of 500 000 rows of ten cells (assumption).
_MAX_PART = 2**28
# Characters of a sheet: a cell may repeat one long text a million times (as a CSV: assumption).
_MAX_TEXT = 2**26
# Rows and columns of a sheet (Excel's specifications and limits).
_MAX_ROWS, _MAX_COLUMNS = 2**20, 2**14
_PLACE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
# Built-in formats of dates and times (18.8.30), including those of East Asia.
_DATES = {*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)}
# The parts of a custom format that are not letters of a date: quoted, bracketed or escaped text.
_NO_LETTER = re.compile(r'"[^"]*"|\[[^\]]*\]|\\.|_.|\*.')


def is_workbook(begin: bytes) -> bool:
    """Tell by its first bytes whether a file is a workbook, or an archive like one."""
    return begin.startswith((ZIP, _OLE))


def sheet_text(path: Path) -> str:
    """Return the first sheet of a workbook as CSV with commas; raises BadSource."""
    if (size := path.stat().st_size) > _MAX_FILE:
        raise BadSource(f"{path.name} has {size} bytes; a workbook has at most {_MAX_FILE}")
    # In memory, so that false offsets are not taken for disk errors.
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            name, since = _first_sheet(archive, path)
            shared = list(_shared(archive))
            styles = _date_styles(archive)
            out = io.StringIO()
            writer = csv.writer(out, lineterminator="\n")
            for row in _rows(archive, name, shared, styles, since):
                writer.writerow(row)
                if out.tell() > _MAX_TEXT:
                    raise BadSource(f"{path.name} holds more than {_MAX_TEXT} characters")
            return out.getvalue()
    except (ParseError, DefusedXmlException, LookupError, ValueError, OverflowError) as error:
        if isinstance(error, BadSource):
            raise
        raise BadSource(
            f"{path.name} cannot be read as an Excel workbook ({type(error).__name__}): save it "
            "as CSV UTF-8"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        raise BadSource(
            f"{path.name} is an old workbook (.xls), damaged, or password-protected: save it as "
            "CSV UTF-8"
        ) from None


def _part(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Open a part, which is read only up to its declared size; raises KeyError."""
    entry = archive.getinfo(name)
    if entry.file_size > _MAX_PART:
        raise ValueError(name)
    return archive.open(entry)


def _elements(archive: zipfile.ZipFile, name: str, wanted: str) -> Iterator[Any]:
    """Yield each element with a name in a part, in any namespace; earlier ones are freed."""
    with _part(archive, name) as file:
        for _, element in iterparse(file, forbid_dtd=True):
            if _local(element.tag) == wanted:
                yield element
                element.clear()


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _first_sheet(archive: zipfile.ZipFile, path: Path) -> tuple[str, datetime]:
    """Return the part of the first sheet, and the day from which its dates are counted."""
    sheets, since = [], datetime(1899, 12, 30)  # noqa: DTZ001  # a cell has no time zone
    with _part(archive, "xl/workbook.xml") as file:
        for _, element in iterparse(file, forbid_dtd=True):
            if _local(element.tag) == "sheet":
                sheets.append({_local(key): value for key, value in element.attrib.items()})
            elif _local(element.tag) == "workbookPr" and element.get("date1904") in ("1", "true"):
                since = datetime(1904, 1, 1)  # noqa: DTZ001  # as above
    if not sheets:
        raise BadSource(f"{path.name} has no sheet")
    if len(sheets) > 1:
        log.warning("%s has %d sheets; only the first is read.", path.name, len(sheets))
    for relation in _elements(archive, "xl/_rels/workbook.xml.rels", "Relationship"):
        if relation.get("Id") == sheets[0]["id"]:
            target = PurePosixPath("/xl") / relation.get("Target", "")
            return str(target).lstrip("/"), since
    raise KeyError(sheets[0]["name"])


def _shared(archive: zipfile.ZipFile) -> Iterator[str]:
    if "xl/sharedStrings.xml" in archive.namelist():
        for item in _elements(archive, "xl/sharedStrings.xml", "si"):
            yield _text(item)


def _text(item: Any) -> str:
    """Return the text of a string, plain or in runs, without its pronunciation (rPh)."""
    found = []
    for part in item:
        if _local(part.tag) == "t":
            found.append(part.text or "")
        elif _local(part.tag) == "r":
            found += [run.text or "" for run in part if _local(run.tag) == "t"]
    return "".join(found)


def _date_styles(archive: zipfile.ZipFile) -> list[bool]:
    """Return for each cell style whether it shows a date or a time."""
    if "xl/styles.xml" not in archive.namelist():
        return []
    dates = set(_DATES)
    found: list[bool] = []
    with _part(archive, "xl/styles.xml") as file:
        for _, element in iterparse(file, forbid_dtd=True):
            name = _local(element.tag)
            if name == "numFmt":
                letters = _NO_LETTER.sub("", element.get("formatCode", ""))
                if re.search("[dmyhs]", letters, re.IGNORECASE) and "General" not in letters:
                    dates.add(int(element.get("numFmtId", "0")))
            elif name == "cellXfs":
                found = [int(style.get("numFmtId", "0")) in dates for style in element]
    return found


def _rows(
    archive: zipfile.ZipFile,
    name: str,
    shared: Sequence[str],
    styles: Sequence[bool],
    since: datetime,
) -> Iterator[list[str]]:
    """Yield the cells of each row; missing rows are empty, so that row numbers are kept."""
    given = 0
    for row in _elements(archive, name, "row"):
        number = int(row.get("r", given + 1))
        if not given < number <= _MAX_ROWS:
            raise ValueError(number)
        for _ in range(given + 1, number):
            yield []
        cells: list[str] = []
        for cell in row:
            if _local(cell.tag) != "c":
                continue
            at = _column(cell.get("r"), len(cells))
            cells += [""] * (at + 1 - len(cells))
            cells[at] = " ".join(_shown(cell, shared, styles, since).split())
        yield cells
        given = number


def _column(place: str | None, following: int) -> int:
    if place is None:
        return following
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ValueError(place)
    at = 0
    for letter in match[1]:
        at = 26 * at + ord(letter) - ord("A") + 1
    if at > _MAX_COLUMNS:
        raise ValueError(place)
    return at - 1


def _shown(cell: Any, shared: Sequence[str], styles: Sequence[bool], since: datetime) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return "".join(_text(part) for part in cell if _local(part.tag) == "is")
    value = next((part.text or "" for part in cell if _local(part.tag) == "v"), "")
    if kind == "s" and value:
        return shared[int(value)]
    if kind == "b":
        return {"1": "TRUE", "0": "FALSE"}.get(value, value)
    if kind != "n" or not value:
        return value
    number = float(value)
    style = int(cell.get("s", "0"))
    if style < len(styles) and styles[style]:
        moment = since + timedelta(seconds=round(number * 86400))
        return f"{moment:%Y-%m-%d}" if number == int(number) else f"{moment:%Y-%m-%d %H:%M:%S}"
    return f"{number:.15g}"
