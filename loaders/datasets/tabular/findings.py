"""One or more of the findings that a table lists, as words in a cell or in columns of their own.

As a word, a finding is part of the label's cell: `Effusion|Mass` in NIH's ChestX-ray14,
`['effusion', 'mass']` in PadChest. A column of its own holds 1, 0, -1 and blanks (CheXpert,
MIMIC-CXR), or yes and no. -1 means "uncertain": the option `uncertain` leaves such rows out or
counts them as negative or positive (U-Ignore, U-Zeroes and U-Ones of Irvin et al. 2019, CheXpert,
arXiv 1901.07031). A blank means that the report does not mention the finding; as is usual, it
counts as absent, although that is not certain.

Several or all findings are requested by name (multi-label). Then uncertain=exclude makes -1 a
missing value of that finding only, as blank=missing does with a blank.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from loaders.cases import BadCase, BadSource, most_often
from loaders.datasets.tabular.table_lines import LABEL, SHOWN, Line, canonical, lines_of, listed
from loaders.formats.csv_table import Table
from loaders.formats.missing_words import missing

log = logging.getLogger(__name__)

EXCLUDE = "exclude"
# The value that replaces -1; empty: the row is left out.
UNCERTAIN = {EXCLUDE: "", "negative": "0", "positive": "1"}
# In lower case. pandas writes true and false; the labels that Google's radiologists gave
# ChestX-ray14 in 2019 are yes and no.
# The name of the column of several findings in messages; no file has such a column.
FINDINGS = "of the findings (finding)"
ALL = "all"
# The meaning of a blank if several findings are requested.
BLANKS = ("negative", "missing")
# NIH's and CheXpert's word for the absence of all findings, which is not a finding itself.
_NOTHING = "no finding"
_TOLD = {"1": "1", "0": "0", "true": "1", "false": "0", "yes": "1", "no": "0"}


def finding_lines(
    table: Table, column: Mapping[str, int], chosen: Mapping[str, Any], rejected: list[BadCase]
) -> list[Line]:
    """Return the lines, labelled 1 if the finding is present and 0 if it is absent.

    Lines that state neither are added to `rejected`. Raises BadSource.
    """
    finding = chosen["finding"]
    if chosen["positive"] not in ("", finding):
        raise BadSource(
            f"positive is {chosen['positive']!r}; with option finding it is always the finding"
        )
    own = column["label"] == table.column(finding)
    asked = _own_column if own else _among_words
    lines = asked(table, column, chosen, rejected)
    if len({line.label for line in lines}) < 2:
        shown = "all" if lines and lines[0].label == "1" else "none"
        raise BadSource(
            f"{table.name}: {shown} of {len(lines)} lines have the finding {finding!r}"
            f"{most_often(rejected)}"
        )
    return lines


def _own_column(
    table: Table, column: Mapping[str, int], chosen: Mapping[str, Any], rejected: list[BadCase]
) -> list[Line]:
    """Read a column of 1, 0, -1 and blanks."""
    name, lines, left = table.columns[column["label"]], [], 0
    answers = {**_TOLD, "-1": UNCERTAIN[chosen["uncertain"]]}
    for line in lines_of(table, column, rejected, holes=True):
        label = "0" if missing(line.label) == "blank" else answers.get(line.label.casefold())
        if label is None:
            reason = f"column {name} is not 1, 0, -1 or blank"
            rejected.append(BadCase(reason, where=table.where(line.number)))
        elif label:
            lines.append(line._replace(label=label))
        else:
            # Left out by choice; this is no fault of the line, at which `strict` would stop.
            left += 1
    if left:
        log.warning(
            "%d images are left out because %s is uncertain (-1) in them; uncertain=negative "
            "or uncertain=positive would keep them.",
            left,
            name,
        )
    return lines


def _among_words(
    table: Table, column: Mapping[str, int], chosen: Mapping[str, Any], rejected: list[BadCase]
) -> list[Line]:
    """Read a column whose cells list findings, separated by bars or as Python lists."""
    finding, name = chosen["finding"], table.columns[column["label"]]
    if chosen["uncertain"] != EXCLUDE:
        raise BadSource(
            f"uncertain is for a finding's own column; {table.name} has no column {finding!r}"
        )
    lines, known = [], set()
    for line in lines_of(table, column, rejected):
        words = words_of(line.label)
        known |= words
        lines.append(line._replace(label="1" if finding in words else "0"))
    if finding not in known:
        shown = ", ".join(sorted(known))
        raise BadSource(
            f"{table.name} has no finding {finding!r}: set finding=NAME; column "
            f"{name} has: {shown[:SHOWN] or 'none'}{most_often(rejected)}"
        )
    return lines


def words_of(label: str) -> set[str]:
    """Return the findings of a cell `A|B`."""
    return {word.strip() for word in label.split("|")} - {""}


# ---- several ----------------------------------------------------------------------------------


def several_findings(table: Table, chosen: Mapping[str, Any]) -> tuple[Table, list[str]] | None:
    """Return a table with an extra column of the requested findings, and their names.

    `answers_told` reads the column. None if fewer than two findings are requested. Raises BadSource
    if the table lacks a finding.
    """
    asked = str(chosen["finding"])
    if table.column(asked) is not None or (asked != ALL and "," not in asked):
        return None
    names = [] if asked == ALL else [name.strip() for name in asked.split(",") if name.strip()]
    if names and len(set(names)) < max(2, len(names)):
        raise BadSource(f"option finding is {asked!r}; it must be two findings or more, each once")
    if chosen["positive"]:
        raise BadSource(
            f"positive is {chosen['positive']!r}; with option finding it is always the finding"
        )
    words = table.column(chosen["label"] or LABEL)
    if words is not None and not all(table.column(name) is not None for name in names or [""]):
        return _in_words(table, words, names, chosen)
    return _in_columns(table, names or _columns_told(table, chosen), chosen)


def answers_told(cell: str) -> tuple[float | None, ...]:
    """Return 1, 0 or None (missing) for each finding in a cell of such a column."""
    return tuple(None if one == "?" else float(one) for one in cell.split("|"))


def _in_columns(
    table: Table, names: Sequence[str], chosen: Mapping[str, Any]
) -> tuple[Table, list[str]]:
    at = []
    for name in names:
        if (column := table.column(name)) is None:
            raise BadSource(
                f"{table.name} has no column {name!r} for option finding; its columns are: "
                f"{', '.join(table.columns)[:SHOWN]}"
            )
        at.append(column)
    answers = {**_TOLD, "-1": UNCERTAIN[chosen["uncertain"]] or "?"}
    blank = "?" if chosen["blank"] == "missing" else "0"

    def told(cells: Sequence[str]) -> str | BadCase:
        found = []
        for name, column in zip(names, at, strict=True):
            word = missing(cells[column])
            one = {"blank": blank, "lost": "?"}.get(word or "") or answers.get(
                canonical(cells[column]).casefold()
            )
            if one is None:
                return BadCase(f"column {name} is not 1, 0, -1 or blank", where="")
            found.append(one)
        return "|".join(found)

    return table.with_column(FINDINGS, told, at), list(names)


def _columns_told(table: Table, chosen: Mapping[str, Any]) -> list[str]:
    """Return the columns that hold only 1, 0, -1 and blanks; raises BadSource."""
    roles = ("image", "label", "group", "reader", "split")
    others = {table.column(chosen[role]) for role in roles if chosen[role]}
    others |= {table.column(name) for name in (*chosen["keep"], *chosen["clinical"])}
    others |= set() if chosen["image"] else {table.first_named}
    left = [at for at, name in enumerate(table.columns) if name.casefold() != _NOTHING]
    left = [at for at in left if at not in others]
    seen = set()
    for _, cells in table.lines([], ()):
        left = [at for at in left if _is_told(cells[at])]
        seen |= {at for at in left if missing(cells[at]) is None}
    names = [table.columns[at] for at in left if at in seen]
    if len(names) < 2:
        raise BadSource(
            f"{table.name} has no column of findings {chosen['label'] or LABEL!r} and "
            f"{len(names)} columns of only 1, 0, -1 and blanks: set label=COLUMN or "
            f"finding=NAME,NAME; its columns are: {', '.join(table.columns)[:SHOWN]}"
        )
    return names


def _is_told(cell: str) -> bool:
    return canonical(cell).casefold() in (*_TOLD, "-1") or missing(cell) in ("blank", "lost")


def _in_words(
    table: Table, column: int, names: Sequence[str], chosen: Mapping[str, Any]
) -> tuple[Table, list[str]]:
    for option, usual in (("uncertain", EXCLUDE), ("blank", BLANKS[0])):
        if chosen[option] != usual:
            raise BadSource(f"{option} is for findings in columns of their own")
    known: set[str] = set()
    for _, cells in table.lines([], (column,)):
        known |= words_of(listed(cells[column]) or "")
    known = {word for word in known if word.casefold() != _NOTHING and missing(word) is None}
    shown = ", ".join(sorted(known))[:SHOWN] or "none"
    if lost := [name for name in names if name not in known]:
        raise BadSource(
            f"{table.name} has no finding {lost[0]!r}: set finding=NAME,NAME or "
            f"finding={ALL}; column {table.columns[column]} has: {shown}"
        )
    wanted = list(names) or sorted(known)
    if len(wanted) < 2:
        raise BadSource(
            f"{table.name}: column {table.columns[column]} has fewer than two findings: {shown}"
        )

    def told(cells: Sequence[str]) -> str | BadCase:
        text = listed(cells[column])
        if text is None or missing(text) in ("blank", "lost"):
            return BadCase(f"column {table.columns[column]} has no value", where="")
        found = words_of(text)
        return "|".join("1" if name in found else "0" for name in wanted)

    return table.with_column(FINDINGS, told, [column]), wanted
