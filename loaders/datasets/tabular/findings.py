"""One of the several findings that a table lists, as a word in a cell or in a column of its own.

As a word it is part of the label's cell: `Effusion|Mass` in NIH's ChestX-ray14,
`['effusion', 'mass']` in PadChest. A column of its own holds 1, 0, -1 and blanks (CheXpert,
MIMIC-CXR), or yes and no. -1 means "uncertain": the option `uncertain` leaves such rows out or
counts them as negative or positive (U-Ignore, U-Zeroes and U-Ones of Irvin et al. 2019, CheXpert,
arXiv 1901.07031). A blank means that the report does not mention the finding; as is usual, it
counts as absent, although that is not certain.
"""

import logging
from collections.abc import Mapping
from typing import Any

from loaders.cases import BadCase, BadSource, most_often
from loaders.datasets.tabular.table_lines import SHOWN, Line, lines_of
from loaders.formats.csv_table import Table
from loaders.formats.missing_words import missing

log = logging.getLogger(__name__)

EXCLUDE = "exclude"
# What -1 becomes; empty: the row is left out.
UNCERTAIN = {EXCLUDE: "", "negative": "0", "positive": "1"}
# In lower case; true and false are pandas', yes and no those of the labels that Google's
# radiologists gave ChestX-ray14 in 2019.
_TOLD = {"1": "1", "0": "0", "true": "1", "false": "0", "yes": "1", "no": "0"}


def finding_lines(
    table: Table, column: Mapping[str, int], chosen: Mapping[str, Any], rejected: list[BadCase]
) -> list[Line]:
    """Return the lines, labelled 1 where the finding is present and 0 where it is absent.

    Lines that say neither are added to `rejected`. Raises BadSource.
    """
    finding = chosen["finding"]
    if chosen["positive"] not in ("", finding):
        raise BadSource(
            f"positive is {chosen['positive']!r}: of a finding it is always the finding"
        )
    own = column["label"] == table.column(finding)
    asked = _own_column if own else _among_words
    lines = asked(table, column, chosen, rejected)
    if len({line.label for line in lines}) < 2:
        shown = "all" if lines and lines[0].label == "1" else "none"
        raise BadSource(
            f"{table.name}: of {len(lines)} lines {shown} have the finding {finding!r}"
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
            reason = f"column {name} is none of 1, 0, -1 and blank"
            rejected.append(BadCase(reason, where=table.where(line.number)))
        elif label:
            lines.append(line._replace(label=label))
        else:
            # As was chosen: no fault of the line's, which `strict` would stop at.
            left += 1
    if left:
        log.warning(
            "%d images are left out, since %s is uncertain (-1) in them; uncertain=negative "
            "or uncertain=positive would keep them.",
            left,
            name,
        )
    return lines


def _among_words(
    table: Table, column: Mapping[str, int], chosen: Mapping[str, Any], rejected: list[BadCase]
) -> list[Line]:
    """Read a column of findings separated by bars, or of lists of findings."""
    finding, name = chosen["finding"], table.columns[column["label"]]
    if chosen["uncertain"] != EXCLUDE:
        raise BadSource(f"uncertain is for a finding's own column; {table.name} has no {finding!r}")
    lines, known = [], set()
    for line in lines_of(table, column, rejected):
        words = words_of(line.label)
        known |= words
        lines.append(line._replace(label="1" if finding in words else "0"))
    if finding not in known:
        shown = ", ".join(sorted(known))
        raise BadSource(
            f"{table.name}: there is no finding {finding!r}: set finding=NAME; column "
            f"{name} has: {shown[:SHOWN] or 'none'}{most_often(rejected)}"
        )
    return lines


def words_of(label: str) -> set[str]:
    """Return the findings of a cell `A|B`."""
    return {word.strip() for word in label.split("|")} - {""}
