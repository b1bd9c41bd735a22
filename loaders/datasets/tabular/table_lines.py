"""The lines of a table: which column holds what, and the value of each line there."""

import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from loaders.cases import BadCase, BadSource
from loaders.datasets.tabular.readers import READER
from loaders.formats.csv_table import Table
from loaders.formats.missing_words import Missing, missing

LABEL = "label"
# Prefix of the role of each column that is kept beside the cases.
KEPT = "keep "
# Prefix of the role of each clinical column, which may lack a value.
CLINICAL = "clinical "
_SAID = {"keep": "columns to split by", "clinical": "clinical data"}
_ROLES = ("image", "label", "group", "reader", "split")
# Up to 18 digits, which fit 64 bits; longer numbers are text.
WHOLE = re.compile(r"([+-]?[0-9]{1,18})(\.0*)?")
# The kinds of loaders.formats.missing_words that count as missing: for a name (of a file, patient,
# reader or part), for a class, which may be called "none", and for a finding's own column, where a
# blank is 0.
_NO_NAME: tuple[Missing, ...] = ("blank", "lost", "unnamed")
_NO_CLASS: tuple[Missing, ...] = ("blank", "lost")
_NO_ANSWER: tuple[Missing, ...] = ("lost",)
# A date with a year, its month a number or a name; without the year, 1-2 and 3/4 may be grades.
_DATE = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}([ T]\d{1,2}:\d{2}(:\d{2}(\.\d*)?)?)?"
    r"|\d{1,2}([./])\d{1,2}\4(\d{4}|\d{2})|\d{1,2}[-. ][A-Z][a-z]{2,8}[-. ](\d{4}|\d{2})"
)
# The longest name of a class, which tables and plots show (assumption).
_LONGEST = 100
# The longest list of columns or findings in a message: CheXpert's fourteen findings fit.
SHOWN = 300
# A list as Python writes it (PadChest's Labels): texts in single or double quotes, and nan.
_TEXT = r"'((?:[^'\\]|\\['\"\\])*)'|\"((?:[^\"\\]|\\['\"\\])*)\"|nan|None"
_LIST = re.compile(rf"\[\s*(?:(?:{_TEXT})\s*(?:,\s*(?:{_TEXT})\s*)*)?\]")
_ITEM = re.compile(_TEXT)
# Text that looks like such a list, whole or cut off; `[1]` and `[benign]` are bracketed classes.
_BEGINS = re.compile(r"(?s)\[\s*(['\"\[]|(nan|None)?\s*\]|.*['\"].*\]$)")


class Line(NamedTuple):
    """The values of one line in the used columns; others are dropped to save memory."""

    number: int
    image: str
    label: str
    group: str | None
    reader: str | None
    split: str | None
    kept: tuple[str, ...]
    clinical: tuple[str, ...] = ()


def columns_of(table: Table, chosen: Mapping[str, Any]) -> dict[str, int]:
    """Return the column number of each requested role; raises BadSource."""
    named = {role: chosen[role] for role in _ROLES if chosen[role]}
    column = {role: _column(table, role, name) for role, name in named.items() if role != "label"}
    column |= {f"{KEPT}{name}": _column(table, "keep", name) for name in chosen["keep"]}
    column |= {f"{CLINICAL}{name}": _column(table, "clinical", name) for name in chosen["clinical"]}
    column.setdefault("image", table.first_named)
    own = table.column(chosen["finding"]) if chosen["finding"] else None
    if own is not None:
        if chosen["label"] != LABEL and table.column(chosen["label"]) is not None:
            raise BadSource(
                f"{table.name} has a column {chosen['finding']!r}: to use it, leave out "
                "the setting label"
            )
        column["label"] = own
    else:
        column["label"] = _column(table, "label", chosen["label"] or LABEL)
    if "reader" not in column and (reader := table.column(READER)) is not None:
        column["reader"] = reader
    if column["label"] == column["image"]:
        raise BadSource(
            f"{table.name}: column {table.columns[column['image']]!r} cannot be both image and "
            f"label: set image=COLUMN or label=COLUMN; {_shown(table)}"
        )
    return column


def _column(table: Table, role: str, name: str) -> int:
    at = table.column(name)
    if at is None:
        raise BadSource(
            f"{table.name} has no column {name!r} for the {_SAID.get(role, role)}: "
            f"set {role}=COLUMN; {_shown(table)}"
        )
    return at


def _shown(table: Table) -> str:
    return f"its columns are: {', '.join(table.columns)[:SHOWN]}"


def lines_of(
    table: Table, column: Mapping[str, int], rejected: list[BadCase], *, holes: bool = False
) -> list[Line]:
    """Return the lines of a table that have a value in every used column.

    The others are added to `rejected`; if `holes`, the label may be blank.
    """
    no_value = {**dict.fromkeys(column, _NO_NAME), "label": _NO_ANSWER if holes else _NO_CLASS}
    lines = []
    for number, cells in table.lines(rejected, list(column.values())):
        cell = {role: cells[at] for role, at in column.items()}
        name = table.columns[column["label"]]
        label = listed(cell["label"])
        reason = None
        asked = [role for role in cell if not role.startswith(CLINICAL)]
        if empty := [role for role in asked if missing(cell[role]) in no_value[role]]:
            reason = f"column {table.columns[column[empty[0]]]} has no value"
        elif label is None:
            reason = f"column {name} has a list that cannot be read"
        elif missing(label) in no_value["label"]:
            reason = f"column {name} has an empty list"
        elif len(label) > _LONGEST and "|" not in label:
            reason = f"column {name} has a value of {len(label)} characters"
        if reason:
            rejected.append(BadCase(reason, where=table.where(number)))
            continue
        # Interned because values repeat often.
        group, reader, split = (
            sys.intern(canonical(cell[role])) if role in cell else None
            for role in ("group", "reader", "split")
        )
        assert label is not None
        answer = sys.intern(canonical(label))
        kept = tuple(sys.intern(canonical(cell[role])) for role in cell if role.startswith(KEPT))
        clinical = tuple(sys.intern(cell[role]) for role in cell if role.startswith(CLINICAL))
        lines.append(Line(number, cell["image"], answer, group, reader, split, kept, clinical))
    return lines


def without_dates(
    table: Table, column: Mapping[str, int], lines: Sequence[Line], rejected: list[BadCase]
) -> list[Line]:
    """Return the lines whose label is not a date; the others are added to `rejected`."""
    name = table.columns[column["label"]]
    reason = f"column {name} holds a date instead of a class; spreadsheets convert text into dates"
    rejected += [
        BadCase(reason, where=table.where(line.number))
        for line in lines
        if _DATE.fullmatch(line.label)
    ]
    return [line for line in lines if not _DATE.fullmatch(line.label)]


def canonical(label: str) -> str:
    """Return a whole number in its shortest form (1.0 and 01 are 1), other text unchanged."""
    whole = WHOLE.fullmatch(label)
    return str(int(whole[1])) if whole else label


def listed(text: str) -> str | None:
    """Return a list of texts as `A|B`, other text unchanged, and None for an unreadable list.

    Nothing is evaluated: `['cardiomegaly', 'effusion']` is split at its quotes and commas.
    """
    if not _BEGINS.match(text):
        return text
    if not _LIST.fullmatch(text):
        return None
    items = [found[1] or found[2] or "" for found in _ITEM.finditer(text)]
    words = [re.sub(r"\\(.)", r"\1", item).strip() for item in items]
    return None if any("|" in word for word in words) else "|".join(filter(None, words))


def check_groups(table: Table, column: Mapping[str, int], lines: Sequence[Line]) -> None:
    """Raise BadSource if two groups may be one patient, spelled in two ways.

    Counted as two, the patient could be on both sides of a split; counted as one, two different
    patients might be merged.
    """
    written: dict[str, tuple[str, int]] = {}
    for line in lines:
        if line.group is None:
            return
        plain = "".join(unicodedata.normalize("NFKC", line.group).casefold().split())
        group, number = written.setdefault(plain, (line.group, line.number))
        if group != line.group:
            raise BadSource(
                f"{table.name}: lines {number} and {line.number} have groups in column "
                f"{table.columns[column['group']]} that differ only in upper and lower case or "
                "blanks: spell them alike"
            )
