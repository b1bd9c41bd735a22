"""A CSV that gives each image or video its answer: read with care, for nobody checked it before.

Every row is held against the files that really lie under the source. A path that leads out of it,
a value that is missing, a file that is not there or is named twice is a rejected case with its
line; a table that cannot be read at all, or a column that is not there, is a bad source.

A table of several findings an image is asked for one of them. It is a word of the label's cell
(`Effusion|Mass`, as NIH's ChestX-ray14 has it) or has a column of its own with 1, 0, -1 and blanks
(CheXpert, MIMIC-CXR). There -1 is "uncertain": as `uncertain` chooses, such images are left out, or
taken as negative or positive (U-Ignore, U-Zeroes and U-Ones of Irvin et al. 2019, CheXpert, arXiv
1901.07031). A blank is a finding that the report does not mention; it is taken as absent, as is
usual, though not known to be.
"""

import hashlib
import logging
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from loaders.cases import JSON, MAX_CLASSES, BadCase, BadSource
from loaders.datasets.patient_pattern import patient_in
from loaders.datasets.tabular.named_files import Files
from loaders.formats.csv_table import Table, open_table, table_under
from loaders.formats.missing_words import Missing, missing

log = logging.getLogger(__name__)

OPTIONS: Mapping[str, tuple[JSON, str]] = {
    "name": ("", "what the set is called in studies and reports; empty: as its kind"),
    "csv": ("", "the table, by its path under the source; empty: the one .csv or .tsv there"),
    "image": ("", "column that names the files; empty: the first"),
    "label": ("label", "column of the class"),
    "group": ("", "column of the patient or lesion, kept on one side of every split; empty: none"),
    "group_pattern": ("", "instead: regular expression whose first group is the patient in a path"),
    "positive": ("", "of two classes the disease; empty: 1 of 0 and 1"),
    "finding": (
        "",
        "of several findings the one asked for: in label's A|B, or a column of its own",
    ),
    "uncertain": ("exclude", "what -1 in a finding's own column is: exclude, negative or positive"),
    "split": ("", "column of the official part: train, val or test; empty: none"),
}
_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_UNCERTAIN = {"exclude": "", "negative": "0", "positive": "1"}
# Up to 18 digits, as 64 bits hold; what has more is text.
_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(\.0*)?")
# The kinds of loaders.formats.missing_words that are no value: in a name (of a file, a patient, a
# part), in a class, which may be called "none", and in a finding's own column, where a blank is 0.
_NO_NAME: tuple[Missing, ...] = ("blank", "lost", "unnamed")
_NO_CLASS: tuple[Missing, ...] = ("blank", "lost")
_NO_ANSWER: tuple[Missing, ...] = ("lost",)
# A class is named in tables and plots (assumption).
_LONGEST = 100
# Characters of a list of columns or findings that a message shows: CheXpert's fourteen fit.
_SHOWN = 300
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
    """A whole table. `grouped`: it tells the patient; else each file is a group of its own."""

    rows: tuple[Row, ...]
    rejected: tuple[BadCase, ...]
    classes: tuple[str, ...]
    positive: int | None
    grouped: bool


class _Line(NamedTuple):
    """A line of the table: what stands in the columns that are used, and no more (memory)."""

    number: int
    image: str
    label: str
    group: str | None
    split: str | None


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
    if chosen["uncertain"] not in _UNCERTAIN:
        known = ", ".join(_UNCERTAIN)
        raise BadSource(f"option uncertain is {chosen['uncertain']!r}; it is one of: {known}")
    if chosen["uncertain"] != OPTIONS["uncertain"][0] and not chosen["finding"]:
        raise BadSource("option uncertain is for a finding: say --set finding=NAME")
    if chosen["group"] and chosen["group_pattern"]:
        raise BadSource("options group and group_pattern both name the patient: leave one out")
    table = open_table(_table_of(source, chosen["csv"]))
    column = _columns(table, chosen)
    rejected: list[BadCase] = []
    classes: tuple[str, ...]
    positive: int | None
    if chosen["finding"]:
        lines, classes, positive = _finding(table, column, chosen, rejected)
        numbers = {"0": 0, "1": 1}
    else:
        lines = _lines(table, column, rejected)
        classes, numbers = _classes(table.name, column["label"], {line.label for line in lines})
        positive = _positive(classes, chosen["positive"], column["label"])
    _check_groups(table.name, column, lines)
    files = Files(source, suffixes, frames)
    found: list[tuple[int, Row]] = []
    for line in lines:
        try:
            path = files.find(line.image, table, line.number)
        except BadCase as bad:
            rejected.append(bad)
            continue
        key = path.relative_to(source).as_posix()
        row = Row(
            path=path,
            key=key,
            group=_group(line, key, chosen["group_pattern"]),
            label=numbers[line.label],
            split=None if line.split is None else _part(table.name, column["split"], line.split),
        )
        found.append((line.number, row))
    rows, twice = _named_once(table, found)
    rows, contradicted = _consistent(rows)
    return Answers(
        rows=tuple(rows),
        rejected=(*rejected, *twice, *contradicted),
        classes=classes,
        positive=positive,
        grouped="group" in column or bool(chosen["group_pattern"]),
    )


def _group(line: _Line, key: str, pattern: str) -> str:
    if line.group is not None:
        return line.group
    return _canonical(patient_in(key, pattern, "group_pattern")) if pattern else key


# ---- the table --------------------------------------------------------------------------------


def _table_of(source: Path, name: str) -> Path:
    if name:
        return table_under(source, name, "csv")
    tables = sorted(p for p in source.iterdir() if p.suffix.lower() in (".csv", ".tsv"))
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise BadSource(
            f"{source} should hold one table .csv or .tsv, found: {found}; "
            "say which with --set csv=NAME"
        )
    return table_under(source, tables[0].name, "csv")


def _columns(table: Table, chosen: Mapping[str, Any]) -> dict[str, str]:
    """Return the column of each role that is asked for."""
    column = {role: chosen[role] for role in ("image", "label", "group", "split") if chosen[role]}
    column.setdefault("image", table.columns[0])
    column.setdefault("label", "label")
    if chosen["finding"] in table.columns:
        if chosen["label"] in table.columns and chosen["label"] != OPTIONS["label"][0]:
            raise BadSource(
                f"{table.name} has a column {chosen['finding']!r}: for what it says leave out "
                "--set label"
            )
        column["label"] = chosen["finding"]
    for role, name in column.items():
        if name not in table.columns:
            shown = ", ".join(table.columns)
            raise BadSource(
                f"{table.name} has no column {name!r} for the {role}: say --set {role}=COLUMN; "
                f"its columns are: {shown[:_SHOWN]}"
            )
    if column["label"] == column["image"]:
        raise BadSource(f"{table.name}: column {column['image']!r} cannot be both image and label")
    return column


def _lines(
    table: Table, column: Mapping[str, str], rejected: list[BadCase], *, holes: bool = False
) -> list[_Line]:
    """Return the lines of a table that have a value in each column that is used.

    The others are added to `rejected`; where `holes`, the label may be blank.
    """
    place = {role: table.columns.index(name) for role, name in column.items()}
    no_value = {**dict.fromkeys(column, _NO_NAME), "label": _NO_ANSWER if holes else _NO_CLASS}
    lines = []
    for number, cells in table.lines(rejected):
        cell = {role: cells[at] for role, at in place.items()}
        reason = None
        if empty := [role for role in cell if missing(cell[role]) in no_value[role]]:
            reason = f"column {column[empty[0]]} has no value"
        elif len(cell["label"]) > _LONGEST and "|" not in cell["label"]:
            reason = f"column {column['label']} has a value of {len(cell['label'])} characters"
        if reason:
            rejected.append(BadCase(reason, where=table.where(number)))
            continue
        # Interned, for they come again and again.
        label, group, split = (
            sys.intern(_canonical(cell[role])) if role in cell else None
            for role in ("label", "group", "split")
        )
        assert label is not None
        lines.append(_Line(number, cell["image"], label, group, split))
    return lines


def _check_groups(table: str, column: Mapping[str, str], lines: Sequence[_Line]) -> None:
    """Raise BadSource where two groups look like one patient written in two ways.

    Taken for two, the patient could stand on both sides of a split; taken for one, two patients
    could be thrown together unasked.
    """
    written: dict[str, tuple[str, int]] = {}
    for line in lines:
        if line.group is None:
            return
        plain = "".join(unicodedata.normalize("NFKC", line.group).casefold().split())
        group, number = written.setdefault(plain, (line.group, line.number))
        if group != line.group:
            raise BadSource(
                f"{table}: lines {number} and {line.number} have groups in column "
                f"{column['group']} that differ in upper and lower case or blanks alone: write "
                "them in one way"
            )


# ---- labels -----------------------------------------------------------------------------------


def _canonical(label: str) -> str:
    """Return a whole number in one way of writing (1.0 is 1), and other text as it is."""
    whole = _WHOLE.fullmatch(label)
    return str(int(whole[1])) if whole else label


def _finding(
    table: Table, column: Mapping[str, str], chosen: Mapping[str, Any], rejected: list[BadCase]
) -> tuple[list[_Line], tuple[str, str], int]:
    """Return the lines with 1 for a label where the finding is there and 0 where not.

    And the classes and the positive one. Lines that do not tell are added to `rejected`.
    """
    finding = chosen["finding"]
    if chosen["positive"] not in ("", finding):
        raise BadSource(
            f"positive is {chosen['positive']!r}: of a finding it is always the finding"
        )
    own = column["label"] == finding
    asked = _own_column if own else _among_words
    lines = asked(table, column, chosen, rejected)
    if len({line.label for line in lines}) < 2:
        shown = "all" if lines and lines[0].label == "1" else "none"
        raise BadSource(f"{table.name}: of {len(lines)} lines {shown} have the finding {finding!r}")
    return lines, (f"no {finding}", finding), 1


def _own_column(
    table: Table, column: Mapping[str, str], chosen: Mapping[str, Any], rejected: list[BadCase]
) -> list[_Line]:
    """Read a column of 1, 0, -1 and blanks."""
    finding, lines, left = chosen["finding"], [], 0
    answers = {"1": "1", "0": "0", "-1": _UNCERTAIN[chosen["uncertain"]]}
    for line in _lines(table, column, rejected, holes=True):
        label = "0" if missing(line.label) == "blank" else answers.get(line.label)
        if label is None:
            reason = f"column {finding} is none of 1, 0, -1 and blank"
            rejected.append(BadCase(reason, where=table.where(line.number)))
        elif label:
            lines.append(line._replace(label=label))
        else:
            # As was chosen: no fault of the line's, which --strict would stop at.
            left += 1
    if left:
        log.warning(
            "%d images are left out, since %s is uncertain (-1) in them; --set uncertain=negative "
            "or positive would keep them.",
            left,
            finding,
        )
    return lines


def _among_words(
    table: Table, column: Mapping[str, str], chosen: Mapping[str, Any], rejected: list[BadCase]
) -> list[_Line]:
    """Read a column of findings with a bar between them."""
    finding = chosen["finding"]
    if chosen["uncertain"] != OPTIONS["uncertain"][0]:
        raise BadSource(f"uncertain is for a finding's own column; {table.name} has no {finding!r}")
    lines, known = [], set()
    for line in _lines(table, column, rejected):
        words = _words(line.label)
        known |= words
        lines.append(line._replace(label="1" if finding in words else "0"))
    if finding not in known:
        shown = ", ".join(sorted(known))
        raise BadSource(
            f"{table.name}: there is no finding {finding!r}: say --set finding=NAME; column "
            f"{column['label']} has: {shown[:_SHOWN]}"
        )
    return lines


def _words(label: str) -> set[str]:
    return {word.strip() for word in label.split("|")} - {""}


def _classes(
    table: str, column: str, names: Collection[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes, numbers by size and text by the alphabet, and the number of each."""
    findings = Counter(word for name in names for word in _words(name))
    if any("|" in name and max(findings[word] for word in _words(name)) > 1 for name in names):
        raise BadSource(
            f"{table}: column {column} has several findings an image: say which is asked for, "
            f"--set finding={max(findings, key=lambda word: (findings[word], word))}"
        )
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


def _named_once(table: Table, found: Sequence[tuple[int, Row]]) -> tuple[list[Row], list[BadCase]]:
    """Reject the lines that name a file once more, and all of them where they disagree."""
    lines: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for line, row in found:
        lines[row.key].append((line, row))
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
            BadCase(reason, where=f"{table.where(line)} ({row.key})", key=row.key)
            for line, row in same[1 if agree else 0 :]
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
