"""The answers for a folder of images or videos, from a CSV that nobody has checked before.

Every row is matched with a file under the source. A row whose path leads out of the source, with a
missing value or without a file is rejected and reported with its line; a table that cannot be read
at all, or that lacks a column, makes the whole source unusable.

If a table names several findings for an image, the user chooses among them
(`loaders.datasets.tabular.findings`). If a picture has several rows, one for each reader or box,
they become one answer (`loaders.datasets.tabular.readers`).
"""

import hashlib
import logging
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from loaders.cases import JSON, MAX_CLASSES, BadCase, BadSource, Label, most_often
from loaders.datasets.clinical import numbered as clinical_numbers
from loaders.datasets.clinical import refuse_names
from loaders.datasets.patient_pattern import patient_in
from loaders.datasets.tabular.findings import (
    ALL,
    BLANKS,
    EXCLUDE,
    FINDINGS,
    UNCERTAIN,
    answers_told,
    finding_lines,
    several_findings,
    words_of,
)
from loaders.datasets.tabular.joined_tables import with_joined
from loaders.datasets.tabular.named_files import Files, Finder
from loaders.datasets.tabular.numbers import COMMA, POINT, lines_with_numbers
from loaders.datasets.tabular.one_hot import CLASS, one_hot_columns, with_class
from loaders.datasets.tabular.readers import (
    ANSWER,
    OF_NUMBERS,
    ONE_SIDED,
    READER,
    RULES,
    SeveralClasses,
    answers,
    has_boxes,
    one_answer,
)
from loaders.datasets.tabular.table_lines import (
    LABEL,
    WHOLE,
    Line,
    canonical,
    check_groups,
    columns_of,
    lines_of,
    without_dates,
)
from loaders.formats.csv_table import Table, joined, open_table, table_under

log = logging.getLogger(__name__)

OPTIONS: Mapping[str, tuple[JSON, str]] = {
    "name": ("", "the set's name in studies and reports; empty: that of its kind"),
    "csv": (
        "",
        "paths of tables under the source, with commas; empty: the only one; none: class folders",
    ),
    "join": ("", "path of a second table, joined by the columns that both have"),
    "image": ("", "column that names the files; empty: the first"),
    "label": (LABEL, "column of the class"),
    "group": ("", "column of the patient or lesion, kept on one side of every split; empty: none"),
    "group_pattern": ("", "or a regular expression on paths whose first group is the patient"),
    "positive": ("", "which of two classes is the disease; empty: 1, if they are 0 and 1"),
    "finding": (
        "",
        "a finding listed in label (A|B) or in its own column; A,B or all: multi-label",
    ),
    "grades": ([], "if the label is a grade (ordinal): its values in ascending order"),
    "value": ("", "instead of a class, the column of a number to predict (regression)"),
    "decimal": (POINT, "decimal mark in the column of value: . or ,"),
    "blank": (BLANKS[0], "several findings in their own columns: a blank is negative, or missing"),
    "uncertain": (EXCLUDE, "what -1 in a finding's own column means: exclude, negative, positive"),
    "one_hot": ([], "columns of a table with one column per class, with commas (ISIC 2019)"),
    "readers": (
        "",
        "combine a picture's rows: majority, any, all; values: mean, median; empty: must agree",
    ),
    "reader": ("", f"column of the reader; empty: {READER} if there is one"),
    "split": ("", "column of the official part: train, val or test; empty: none"),
    "keep": (
        [],
        "columns to split by, with commas, such as site or fold: stored as numbers",
    ),
    "clinical": (
        [],
        "columns such as age and sex, with commas, as further inputs of a network",
    ),
}
# Endings of table files, in lower case.
_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".xlsx")
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
# The share of pictures with contradictory rows that may be mistakes (assumption). If it is larger,
# several answers are intended, and rejecting those pictures would leave only the easy ones.
_MISTAKES = 0.01
# More values than this are patients or dates rather than sites or folds (assumption).
_MOST_KEPT = 100
# Files of the same size are compared at their ends first: different pictures differ there too.
_END_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Row:
    """One usable line: `path` is the file, `key` its path under the source, `label` its answer.

    `columns` maps each kept column to the number of its value, `clinical` holds its clinical data,
    and `ratings` each reader's answer under ANSWER; None: there are none.
    """

    path: Path
    key: str
    group: str
    label: Label
    split: str | None
    columns: Mapping[str, int] | None
    clinical: Mapping[str, float] | None = None
    ratings: Mapping[str, Sequence[int]] | None = None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A whole table. `grouped`: it names the patient; otherwise each file is its own group.

    `task` is a row of loaders.targets, `classes` are the classes or findings, and `categories` maps
    each categorical clinical column to its words.
    """

    rows: tuple[Row, ...]
    rejected: tuple[BadCase, ...]
    classes: tuple[str, ...]
    positive: int | None
    grouped: bool
    task: str = "classification"
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)


class _Found(NamedTuple):
    """A line of the table and, once its file is found, the row made from it."""

    line: Line
    row: Row


def read_labels(
    source: Path,
    chosen: Mapping[str, Any],
    *,
    suffixes: Collection[str],
    frames: Collection[str] | None = (),
    files: Finder | None = None,
) -> Answers:
    """Read the table of a source by the chosen OPTIONS; raises BadSource.

    The table names files as described in `loaders.datasets.tabular.named_files`, with or without a
    suffix in `suffixes`; it may also name a folder of files with a suffix in `frames` (None: any
    folder). `files` finds files that are named in another way.
    Files with the same bytes but different labels are all rejected: at least one label is wrong,
    and they would leak across a split. Copies with the same label are kept, and folds keep them
    together.
    """
    if not source.is_dir():
        raise BadSource(f"there is no folder {source}")
    _check(chosen)
    table = joined([open_table(path) for path in _tables_of(source, chosen["csv"], suffixes)])
    if chosen["join"]:
        table = with_joined(table, open_table(table_under(source, chosen["join"], "join")))
    if chosen["one_hot"]:
        table = with_class(table, chosen["one_hot"])
        chosen = {**chosen, "label": CLASS}
    elif chosen["value"]:
        chosen = {**chosen, "label": chosen["value"]}
    elif not chosen["finding"] and table.column(chosen["label"]) is None:
        _suggest_one_hot(table, chosen["label"])
    several = several_findings(table, chosen) if chosen["finding"] else None
    if several is not None:
        table = several[0]
        chosen = {**chosen, "label": FINDINGS, "finding": ""}
    elif chosen["blank"] != BLANKS[0]:
        raise BadSource(
            "option blank is for several findings: set finding=NAME,NAME or finding=all"
        )
    column = columns_of(table, chosen)
    label_column = table.columns[column["label"]]
    rejected: list[BadCase] = []
    classes: tuple[str, ...]
    positive: int | None
    numbers: Callable[[str], Label]
    if chosen["value"]:
        lines = lines_with_numbers(table, column, chosen["decimal"], rejected)
        classes, positive, numbers = (label_column,), None, lambda text: (float(text),)
    elif several is not None:
        lines = lines_of(table, column, rejected)
        classes, positive, numbers = tuple(several[1]), None, lru_cache(answers_told)
    elif finding := chosen["finding"]:
        lines = finding_lines(table, column, chosen, rejected)
        classes, positive, numbers = (f"no {finding}", finding), 1, int
    else:
        lines = without_dates(table, column, lines_of(table, column, rejected), rejected)
        where = f"{table.name}: column {label_column}"
        classes, number_of = classes_of(where, {line.label for line in lines}, rejected)
        if chosen["grades"]:
            classes, positive = _grades(where, chosen["grades"], classes), None
            number_of = {name: number for number, name in enumerate(classes)}
        else:
            positive = positive_of(classes, chosen["positive"], f"column {label_column}")
        numbers = number_of.__getitem__
    tasks = {"regression": chosen["value"], "multilabel": several, "ordinal": chosen["grades"]}
    task = next((task for task, asked in tasks.items() if asked), "classification")
    if (
        positive is None
        and task in ("classification", "ordinal")
        and chosen["readers"] in ONE_SIDED
    ):
        raise BadSource(
            f"readers={chosen['readers']} needs a finding or two classes, but column "
            f"{label_column} has {len(classes)}: set readers=majority"
            + (" or finding=NAME" if task == "classification" else "")
        )
    check_groups(table, column, lines)
    parts = _parts_by_name(table.files) if "split" not in column else {}
    numbered = _numbered(table.name, chosen["keep"], lines)
    told = {
        name: [line.clinical[at] for line in lines] for at, name in enumerate(chosen["clinical"])
    }
    values, categories = clinical_numbers(table.name, told)
    if files is None:
        files = Files(source, suffixes, frames, [line.image for line in lines])
    found: list[_Found] = []
    for at, line in enumerate(lines):
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
            label=numbers(line.label),
            split=parts.get(table.file_of(line.number))
            if line.split is None
            else _part(table.name, table.columns[column["split"]], line.split),
            columns={
                name: numbered[name][value]
                for name, value in zip(chosen["keep"], line.kept, strict=True)
            }
            or None,
            clinical={name: column[at] for name, column in values.items()} or None,
        )
        found.append(_Found(line, row))
    rows, twice = _one_a_picture(table, label_column, found, positive, chosen["readers"])
    rows, contradicted = consistent(rows)
    return Answers(
        rows=tuple(rows),
        rejected=(*rejected, *twice, *contradicted),
        classes=classes,
        positive=positive,
        grouped="group" in column or bool(chosen["group_pattern"]),
        task=task,
        categories=categories,
    )


def _suggest_one_hot(table: Table, label: str) -> None:
    """Raise BadSource if a table without the label's column has one column per class."""
    if names := one_hot_columns(table):
        raise BadSource(
            f"{table.name} has no column {label!r} but seems to have one column per class: set "
            f"one_hot={','.join(names)} or label=COLUMN"
        )


def _check(chosen: Mapping[str, Any]) -> None:
    """Raise BadSource if a setting has an unknown value, or two exclude each other."""
    for name, values in (
        ("uncertain", list(UNCERTAIN)),
        ("readers", ["", *OF_NUMBERS] if chosen["value"] else list(RULES)),
        ("blank", list(BLANKS)),
        ("decimal", [POINT, COMMA]),
    ):
        if chosen[name] not in values:
            known = " or ".join(values) if name == "decimal" else ", ".join(filter(None, values))
            of_numbers = " with value" if name == "readers" and chosen["value"] else ""
            raise BadSource(
                f"option {name}{of_numbers} is {chosen[name]!r}; it must be one of: {known}"
            )
    if chosen["uncertain"] != EXCLUDE and not chosen["finding"]:
        raise BadSource("option uncertain is for a finding: set finding=NAME")
    if chosen["one_hot"] and (chosen["finding"] or chosen["label"] != LABEL):
        raise BadSource("option one_hot names the classes: leave out label and finding")
    if chosen["grades"] and (chosen["finding"] or chosen["positive"]):
        raise BadSource("option grades orders a label's classes: leave out finding and positive")
    others = ("finding", "one_hot", "grades", "positive")
    if chosen["value"] and (chosen["label"] != LABEL or any(chosen[name] for name in others)):
        raise BadSource(
            "option value names a column of numbers: leave out label, "
            f"{', '.join(others[:-1])} and {others[-1]}"
        )
    if chosen["decimal"] != POINT and not chosen["value"]:
        raise BadSource("option decimal is for numbers: set value=COLUMN")
    if len(set(chosen["keep"])) < len(chosen["keep"]):
        raise BadSource(f"option keep names a column twice: {', '.join(chosen['keep'])}")
    if len(set(chosen["clinical"])) < len(chosen["clinical"]):
        raise BadSource(f"option clinical names a column twice: {', '.join(chosen['clinical'])}")
    refuse_names(chosen["clinical"])
    if chosen["group"] and chosen["group_pattern"]:
        raise BadSource("options group and group_pattern both name the patient: leave one out")


def _group(line: Line, key: str, pattern: str) -> str:
    if line.group is not None:
        return line.group
    return canonical(patient_in(key, pattern, "group_pattern")) if pattern else key


def is_table(path: Path) -> bool:
    """Tell whether a file is a table by its ending."""
    return path.name.lower().endswith(_TABLES) and not path.name.startswith((".", "~$"))


def _tables_of(source: Path, names: str, suffixes: Collection[str]) -> list[Path]:
    if names and (source / names).is_file():
        return [table_under(source, names, "csv")]
    if names:
        asked = [name.strip() for name in names.split(",")]
        if len(set(asked)) < len(asked):
            raise BadSource(f"option csv names a table twice: {names}")
        return [table_under(source, name, "csv") for name in asked]
    tables = sorted(filter(is_table, source.iterdir()))
    # A workbook or a packed table beside a plain one is usually its source.
    tables = [path for path in tables if path.suffix.lower() in (".csv", ".tsv")] or tables
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        several = ",".join(path.name for path in tables)
        hint = f", or csv={several} for all of them" if tables else ""
        if not tables and ".png" in suffixes:
            hint = ", or put the pictures into one folder per class"
        raise BadSource(
            f"{source} should hold one .csv, .tsv or .xlsx table; found: {found}; "
            f"set csv=NAME{hint}"
        )
    return [table_under(source, tables[0].name, "csv")]


def _parts_by_name(files: Sequence[str]) -> dict[str, str]:
    """Return the official part that each file's name gives, {} unless all of them give one."""
    if len(files) < 2:
        return {}
    words = {file: set(re.split("[^a-z]+", file.rpartition(".")[0].lower())) for file in files}
    parts = {file: {PARTS[word] for word in mine & set(PARTS)} for file, mine in words.items()}
    if any(len(mine) != 1 for mine in parts.values()):
        return {}
    return {file: part for file, (part,) in parts.items()}


# ---- classes ----------------------------------------------------------------------------------


def classes_of(
    where: str, names: Collection[str], rejected: Collection[BadCase]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes and the index of each; numbers are ordered by value, text alphabetically.

    `where` begins the messages: which column of which table. Raises BadSource.
    """
    findings = Counter(word for name in names for word in words_of(name))
    several = (words_of(name) for name in names if "|" in name)
    if any(findings[word] > 1 for words in several for word in words):
        raise BadSource(
            f"{where} has several findings per image: choose one, such as "
            f"finding={max(findings, key=lambda word: (findings[word], word))}, or finding={ALL}"
        )
    if all(WHOLE.fullmatch(name) for name in names):
        ordered = sorted(names, key=int)
    else:
        ordered = sorted(names)
    if not 2 <= len(ordered) <= MAX_CLASSES:
        shown = ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "")
        raise BadSource(
            f"{where} has {len(ordered)} different values ({shown or 'none'}); "
            f"a label needs 2 to {MAX_CLASSES}{most_often(rejected)}"
        )
    alike: dict[str, list[str]] = defaultdict(list)
    for name in ordered:
        alike[name.casefold()].append(name)
    if clash := next((same for same in alike.values() if len(same) > 1), None):
        raise BadSource(
            f"{where} has {' and '.join(map(repr, clash[:2]))}, which differ only in "
            "upper and lower case: spell them alike"
        )
    return tuple(ordered), {name: number for number, name in enumerate(ordered)}


def positive_of(classes: tuple[str, ...], wanted: str, where: str) -> int | None:
    """Return which of two classes is the disease, None for more classes; raises BadSource.

    `where` names the owner of the classes in messages.
    """
    if len(classes) > 2:
        if wanted:
            raise BadSource(
                f"positive is for two classes; {where} has {len(classes)}: {', '.join(classes)}"
            )
        return None
    if wanted and canonical(wanted) not in classes:
        raise BadSource(f"positive is {wanted!r}; {where} has: {', '.join(classes)}")
    if not wanted and classes != ("0", "1"):
        raise BadSource(
            f"{where} has {classes[0]} and {classes[1]}: choose the disease, "
            f"{shlex.quote(f'positive={classes[1]}')} or {shlex.quote(f'positive={classes[0]}')}"
        )
    return classes.index(canonical(wanted or "1"))


def _grades(where: str, asked: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """Return the grades asked for; raises BadSource unless they are those found."""
    names = tuple(map(canonical, asked))
    if len(set(names)) < len(names) or set(names) != set(found):
        raise BadSource(
            f"option grades is {','.join(asked)!r}, but {where} has {', '.join(found)}: list each "
            "once, in ascending order"
        )
    return names


def _part(table: str, column: str, text: str) -> str:
    if text.lower() not in PARTS:
        raise BadSource(
            f"{table}: column {column} has {text!r}; a part is one of: train, val, test"
        )
    return PARTS[text.lower()]


def _numbered(table: str, names: Sequence[str], lines: Sequence[Line]) -> dict[str, dict[str, int]]:
    """Return the number of each value of each kept column, ordered by value or alphabetically.

    Raises BadSource for so many values that they may be patients or dates.
    """
    found: dict[str, dict[str, int]] = {}
    for at, name in enumerate(names):
        values = {line.kept[at] for line in lines}
        if len(values) > _MOST_KEPT:
            raise BadSource(
                f"{table}: column {name!r} of option keep has {len(values)} different values; a "
                f"column to split by has at most {_MOST_KEPT}, such as sites, scanners or folds"
            )
        whole = all(WHOLE.fullmatch(value) for value in values)
        ordered = sorted(values, key=int) if whole else sorted(values)
        found[name] = {value: number for number, value in enumerate(ordered)}
    return found


# ---- files ------------------------------------------------------------------------------------


def _one_a_picture(
    table: Table, label_column: str, found: Sequence[_Found], positive: int | None, rule: str
) -> tuple[list[Row], list[BadCase]]:
    """Merge the rows that name the same picture into one; reject those that disagree.

    With a rule, each picture keeps its readers' classes as ratings. Raises BadSource if so many
    rows disagree that they must come from several readers, and if one reader gives a picture
    several classes out of more than two.
    """
    pictures: dict[str, list[_Found]] = defaultdict(list)
    for one in found:
        pictures[one.row.key].append(one)
    # Several rows are expected with readers or boxes; otherwise they repeat a file.
    boxes = has_boxes(table.columns)
    rows: list[Row] = []
    rejected: list[BadCase] = []
    disagreed: list[list[_Found]] = []
    again = 0
    for same in pictures.values():
        if len(same) == 1:
            rows.append(replace(same[0].row, ratings=_of_readers(same, [""], positive, rule)))
            continue
        facts = {(one.row.group, one.row.split, one.line.kept, one.line.clinical) for one in same}
        if len(facts) > 1:
            rejected += _twice(table, same, f"{len(same)} times, with different patients or parts")
            continue
        several = boxes or rule or same[0].line.reader is not None
        whose = [one.line.reader or ("" if boxes else str(at)) for at, one in enumerate(same)]
        try:
            label = one_answer(
                list(zip(whose, (one.row.label for one in same), strict=True)), positive, rule
            )
        except SeveralClasses:
            raise BadSource(
                f"{table.name}: column {label_column} gives one picture several findings (lines "
                f"{same[0].line.number} and {same[-1].line.number}): choose one, finding=NAME"
            ) from None
        if label is not None:
            ratings = _of_readers(same, whose, positive, rule)
            rows.append(replace(same[0].row, label=label, ratings=ratings))
            if not several:
                # A name repeated with other letters may have meant another file.
                other = [one for one in same if one.line.image != same[0].line.image]
                rejected += _twice(table, other, "a second time")
                again += len(same) - 1 - len(other)
        elif rule:
            reason = "its readers disagree, and no answer has a majority"
            rejected.append(BadCase(reason, where=same[0].row.key, key=same[0].row.key))
        else:
            disagreed.append(same)
    # Two spellings of one file's name are a mistake; readers' rows use the same spelling.
    unsaid = [same for same in disagreed if len({one.line.image for one in same}) < len(same)]
    if len(unsaid) > _MISTAKES * len(pictures):
        numbers = [one.line.number for one in unsaid[0]]
        answer = unsaid[0][0].row.label
        rules = "majority, any or all"
        if isinstance(answer, tuple):
            rules = "mean or median" if len(answer) == 1 else rules
        elif positive is None:
            rules += ", or choose a finding, finding=NAME"
        raise BadSource(
            f"{table.name}: {len(unsaid)} of {len(pictures)} pictures have several rows that "
            f"disagree in column {label_column} (the first in lines {numbers[0]} to "
            f"{numbers[-1]}): choose how they are combined, readers={rules}"
        )
    if again:
        log.warning("%d lines of %s repeat another line about the same picture.", again, table.name)
    for same in disagreed:
        rejected += _twice(table, same, f"{len(same)} times, with different answers")
    return rows, rejected


def _of_readers(
    same: Sequence[_Found], whose: Sequence[str], positive: int | None, rule: str
) -> dict[str, list[int]] | None:
    """Return the classes that a picture's readers gave; None without a rule for readers."""
    classes = [one.row.label for one in same if isinstance(one.row.label, int)]
    if not rule or len(classes) < len(same):
        return None
    given = answers(list(zip(whose, classes, strict=True)), positive)
    return {ANSWER: [label for label in given if label is not None]}


def _twice(table: Table, same: Sequence[_Found], how: str) -> list[BadCase]:
    return [
        BadCase(
            f"the table names this file {how}",
            where=f"{table.where(one.line.number)} ({one.row.key})",
            key=one.row.key,
        )
        for one in same
    ]


def consistent(rows: Sequence[Row]) -> tuple[list[Row], list[BadCase]]:
    """Reject files with the same bytes but different labels; folders are not compared."""
    # An unreadable file is reported when it is read.
    files = [row for row in rows if row.path.is_file() and os.access(row.path, os.R_OK)]
    suspects = _alike(files, lambda row: _size(row.path))
    suspects = [part for one in suspects for part in _alike(one, lambda row: _end(row.path))]
    suspects = [part for one in suspects for part in _alike(one, lambda row: _whole(row.path))]
    bad = {row.key for same in suspects for row in same}
    reason = "another file with the same bytes has another label"
    rejected = [BadCase(reason, where=row.key, key=row.key) for row in rows if row.key in bad]
    return [row for row in rows if row.key not in bad], rejected


def _alike(rows: Sequence[Row], look: Any) -> list[list[Row]]:
    """Return the sets of rows for which `look` returns the same but whose labels differ."""
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
