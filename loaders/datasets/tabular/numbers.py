"""A column of numbers, such as an ejection fraction or a bone age."""

import math
import re
from collections.abc import Mapping

from loaders.cases import BadCase, BadSource, most_often
from loaders.datasets.tabular.table_lines import Line, lines_of
from loaders.formats.csv_table import Table

# Decimal marks that a column may have; 1,234 does not tell which.
POINT, COMMA = ".", ","
# 12, -1.5, .5, 1e-3. No comma: it may be a decimal mark or separate thousands.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def lines_with_numbers(
    table: Table, column: Mapping[str, int], decimal: str, rejected: list[BadCase]
) -> list[Line]:
    """Return the lines whose label is a number; the others are added to `rejected`.

    `decimal` is the column's decimal mark; the returned labels have a point. Raises BadSource if
    there are no numbers, or if all are equal.
    """
    name = table.columns[column["label"]]
    lines = []
    for line in lines_of(table, column, rejected):
        text = line.label
        if decimal == COMMA:
            # A point then separates thousands or is a mistake: not a number either way.
            text = "" if POINT in text else text.replace(COMMA, POINT)
        if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            lines.append(line._replace(label=text))
        else:
            reason = (
                f"column {name} has {line.label[:40]!r}, which is not a number like 61{decimal}5"
            )
            if COMMA in text and _NUMBER.fullmatch(text.replace(COMMA, POINT)):
                reason += "; decimal=, would read the comma as the decimal mark"
            rejected.append(BadCase(reason, where=table.where(line.number)))
    different = len({float(line.label) for line in lines})
    if different < 2:
        raise BadSource(
            f"{table.name}: column {name} of option value has {different} different numbers; 2 or "
            f"more are needed{most_often(rejected)}"
        )
    return lines
