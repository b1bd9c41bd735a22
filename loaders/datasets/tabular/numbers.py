"""A column of numbers: an ejection fraction, an age of bones."""

import math
import re
from collections.abc import Mapping

from loaders.cases import BadCase, BadSource, most_often
from loaders.datasets.tabular.table_lines import Line, lines_of
from loaders.formats.csv_table import Table

# Marks of decimals that a column may have; which it is nobody can tell from 1,234.
POINT, COMMA = ".", ","
# 12, -1.5, .5, 1e-3: no comma, which is a decimal mark here and one of thousands there.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def lines_with_numbers(
    table: Table, column: Mapping[str, int], decimal: str, rejected: list[BadCase]
) -> list[Line]:
    """Return the lines whose label is a number; the others are added to `rejected`.

    `decimal` is its mark of decimals; the labels have a point. Raises BadSource where all numbers
    are one, or there is none.
    """
    name = table.columns[column["label"]]
    lines = []
    for line in lines_of(table, column, rejected):
        text = line.label
        if decimal == COMMA:
            # A point is then one of thousands, or a mistake: no number either way.
            text = "" if POINT in text else text.replace(COMMA, POINT)
        if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            lines.append(line._replace(label=text))
        else:
            reason = (
                f"column {name} has {line.label[:40]!r}, which is no number such as 61{decimal}5"
            )
            if COMMA in text and _NUMBER.fullmatch(text.replace(COMMA, POINT)):
                reason += "; decimal=, would take the comma for the mark of decimals"
            rejected.append(BadCase(reason, where=table.where(line.number)))
    different = len({float(line.label) for line in lines})
    if different < 2:
        raise BadSource(
            f"{table.name}: column {name} of option value has {different} different numbers; 2 or "
            f"more can be predicted{most_often(rejected)}"
        )
    return lines
