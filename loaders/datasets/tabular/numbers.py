"""A column of numbers: an ejection fraction, an age of bones."""

import math
import re
from collections.abc import Mapping

from loaders.cases import BadCase, BadSource, most_often
from loaders.datasets.tabular.table_lines import Line, lines_of
from loaders.formats.csv_table import Table

# 12, -1.5, .5, 1e-3: no comma, which is a decimal mark here and one of thousands there.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def lines_with_numbers(
    table: Table, column: Mapping[str, int], rejected: list[BadCase]
) -> list[Line]:
    """Return the lines whose label is a number; the others are added to `rejected`.

    Raises BadSource where all numbers are one, or there is none.
    """
    name = table.columns[column["label"]]
    lines = []
    for line in lines_of(table, column, rejected):
        if _NUMBER.fullmatch(line.label) and math.isfinite(float(line.label)):
            lines.append(line)
        else:
            reason = f"column {name} has {line.label[:40]!r}, which is no number such as 61.5"
            rejected.append(BadCase(reason, where=table.where(line.number)))
    different = len({float(line.label) for line in lines})
    if different < 2:
        raise BadSource(
            f"{table.name}: column {name} of option value has {different} different numbers; 2 or "
            f"more can be predicted{most_often(rejected)}"
        )
    return lines
