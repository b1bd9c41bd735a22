"""What a table may be used for: columns that look like answers, and the settings for each.

The values only suggest; a kind's own survey then decides whether it fits.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from loaders.cases import BadSource
from loaders.datasets.tabular.findings import ALL
from loaders.datasets.tabular.one_hot import one_hot_columns
from loaders.datasets.tabular.table_lines import LABEL, WHOLE, canonical
from loaders.formats.csv_table import Table, open_table
from loaders.formats.missing_words import missing

# Lines looked at (assumption).
_PROBES = 5000
# Assumptions: the most classes in a column that likely holds classes, and the least lines for each;
# the most grades of a scale; more different whole numbers than this are numbers, not classes.
_CLASSES, _LINES_EACH, _GRADES, _NUMBERS = 20, 2, 10, 20
# Columns for which suggestions are made (assumption).
_SUGGESTED = 4
_TOLD = {"0", "1", "-1", "yes", "no", "true", "false"}
_POINT = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_COMMA = re.compile(r"[+-]?[0-9]+(,[0-9]+)?")
_WHOSE = re.compile(r"pat(ient)?|subject|proband|person", re.IGNORECASE)
# Columns that describe the person or the image, which are seldom the answer.
_ABOUT = re.compile(
    r"(?:patient|pat)?[ _.-]?(?:age|sex|gender|race|ethnicity|bmi|weight|birth|year|date)"
    r"(?:[ _.-](?:approx|years?|at.*|group))?|(?:orig|original|image)?[ _.-]?"
    r"(?:w|h|width|height|rows|columns|cols)",
    re.IGNORECASE,
)
# Words for the positive one of two classes, if the other is none of them.
_DISEASE = {
    *("malignant", "melanoma", "cancer", "carcinoma", "tumor", "tumour", "nodule", "lesion"),
    *("disease", "diseased", "abnormal", "pathological", "positive", "sick", "affected"),
    *("pneumonia", "covid", "covid-19", "tuberculosis", "glaucoma", "fracture", "infected"),
}
# In a setting that is a list, a value may not contain a comma.
_SEPARATOR = ","


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Settings for one answer of a table, and the columns that suggest it, in words."""

    options: Mapping[str, str]
    why: str


def answers_seen(path: Path) -> list[Seen]:
    """Return what a table may be used for; empty if it needs no settings or cannot be read."""
    try:
        table = open_table(path, told=False)
        if table.column(LABEL) is not None:
            return []
        values = _values(table)
        one_hot = one_hot_columns(table)
    except BadSource:
        return []  # reported when the table is read
    group = _group(table, values)
    found = [
        Seen(options={**seen.options, **group}, why=seen.why)
        for seen in _answers(table, values, one_hot)
    ]
    return found[:_SUGGESTED]


def names_files(path: Path, names: Collection[str]) -> bool:
    """Tell whether a table's first column names files or folders among `names`."""
    try:
        table = open_table(path, told=False)
        firsts = _named(_values(table)[table.first_named])
    except BadSource:
        return True
    parts = {part for name in names for part in PurePosixPath(name).parts}
    parts |= {part.partition(".")[0] for part in parts}
    return any(PureWindowsPath(first).name in parts for first in firsts)


def _values(table: Table) -> list[Counter[str]]:
    """Return the count of each value in each column, without values that cannot be a class.

    A class may be called "none" or "unknown", as in `lines_of`.
    """
    values: list[Counter[str]] = [Counter() for _ in table.columns]
    for number, (_, cells) in enumerate(table.lines([], ())):
        if number == _PROBES:
            break
        for counts, cell in zip(values, cells, strict=True):
            if missing(cell) in (None, "unnamed"):
                counts[canonical(cell)] += 1
    return values


def _named(counts: Counter[str]) -> Counter[str]:
    """Return the values without words for missing ones, which are no number, name or finding."""
    return Counter({value: count for value, count in counts.items() if missing(value) is None})


def _is_whose(column: str) -> bool:
    """Tell whether a column's name refers to patients; a patient's age does not count."""
    return bool(_WHOSE.search(column)) and not _ABOUT.fullmatch(column)


def _group(table: Table, values: list[Counter[str]]) -> dict[str, str]:
    """Return the setting for a column that is named after patients and repeats some values."""
    named = [
        name
        for at, name in enumerate(table.columns)
        if at != table.first_named and _is_whose(name) and len(_named(values[at])) > 1
    ]
    return {"group": named[0]} if len(named) == 1 else {}


def _answers(table: Table, values: list[Counter[str]], one_hot: list[str]) -> Iterator[Seen]:
    if one_hot and not any(_SEPARATOR in name for name in one_hot):
        yield Seen(
            options={"one_hot": _SEPARATOR.join(one_hot)}, why="which has a column for each class"
        )
        return
    others = [
        (name, values[at])
        for at, name in enumerate(table.columns)
        if at != table.first_named and _named(values[at]) and not _is_whose(name)
    ]
    # Such columns are only suggested if there is nothing else.
    others = [one for one in others if not _ABOUT.fullmatch(one[0])] or others
    told = [name for name, counts in others if {one.casefold() for one in _named(counts)} <= _TOLD]
    if len(told) > 1:
        yield Seen(options={"finding": ALL}, why=f"which has {len(told)} columns of findings")
    for name, counts in others:
        if name not in told or len(told) == 1:
            yield from _of_column(name, counts)


def _of_column(name: str, counts: Counter[str]) -> Iterator[Seen]:
    lines, named = sum(counts.values()), _named(counts)
    whole = all(map(WHOLE.fullmatch, named))
    if not whole or len(named) > _NUMBERS:
        for pattern, more in ((_POINT, {}), (_COMMA, {"decimal": ","})):
            if len(named) > 2 and all(map(pattern.fullmatch, named)):
                yield Seen(
                    options={"value": name, **more}, why=f"whose column {name} holds numbers"
                )
                return
    if not 2 <= len(counts) <= _CLASSES or lines < _LINES_EACH * len(counts):
        return
    found = [one for one in counts if one.casefold() in _DISEASE]
    positive = {"positive": found[0]} if len(counts) == 2 and len(found) == 1 else {}
    why = f"whose column {name} has {len(counts)} values"
    yield Seen(options={"label": name, **positive}, why=why)
    # Grades are all of the values, in order; a word among numbers would have no place.
    grades = sorted(named, key=int) if whole and len(named) == len(counts) else []
    if 2 < len(grades) <= _GRADES and int(grades[-1]) - int(grades[0]) == len(grades) - 1:
        options = {"label": name, "grades": _SEPARATOR.join(grades)}
        yield Seen(options=options, why=f"whose column {name} may hold grades")
