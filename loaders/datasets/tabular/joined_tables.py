"""Two tables of one set, joined by the columns that both have.

MIMIC-CXR-JPG has one line per image (its part, study and patient) in one file and the findings of
each study in another. The ISIC challenges of 2018 and 2019 have each image's lesion in one file and
its class in another.
"""

import sys
from collections.abc import Sequence

from loaders.cases import BadCase, BadSource
from loaders.datasets.tabular.table_lines import SHOWN, canonical
from loaders.formats.csv_table import Table


def with_joined(table: Table, other: Table) -> Table:
    """Return a table with the columns of another added, joined by the columns that both have.

    Lines without a match in the other are rejected when they are read. Raises BadSource.
    """
    shared = [name for name in table.columns if name in other.columns and "Unnamed:" not in name]
    if not shared:
        columns = [", ".join(one.columns)[:SHOWN] for one in (table, other)]
        raise BadSource(
            f"{table.name} and {other.name} (option join) have no column in common: {columns[0]} "
            f"and {columns[1]}"
        )
    here, there = ([_at(one, name) for name in shared] for one in (table, other))
    more = [at for at, name in enumerate(other.columns) if name not in shared]
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    for number, cells in other.lines([], there):
        key = tuple(canonical(cells[at]) for at in there)
        # Interned because values repeat often.
        row = tuple(sys.intern(cells[at]) for at in more)
        if known.setdefault(key, row) != row:
            raise BadSource(
                f"{other.where(number)}: an earlier line with the same {', '.join(shared)} "
                f"differs; set csv={other.name} and join={table.name} instead"
            )

    def joined(cells: Sequence[str]) -> Sequence[str] | BadCase:
        row = known.get(tuple(canonical(cells[at]) for at in here))
        return BadCase(f"{other.name} has no matching line", where="") if row is None else row

    return table.with_columns([other.columns[at] for at in more], joined, here)


def _at(table: Table, name: str) -> int:
    at = table.column(name)
    assert at is not None  # it is one of its columns
    return at
