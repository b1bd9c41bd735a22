"""One-hot tables: one column per class, with 1 for an image's class (ISIC 2018 task 3, ISIC 2019).

ISIC_2019_Training_GroundTruth.csv (challenge.isic-archive.com/data): image,MEL,NV,BCC,AK,BKL,DF,
VASC,SCC,UNK with 0.0 and 1.0.
"""

from collections.abc import Sequence

from loaders.cases import BadCase, BadSource
from loaders.datasets.tabular.table_lines import canonical
from loaders.formats.csv_table import Table
from loaders.formats.missing_words import missing

# The name of the class column in messages; no file has such a column.
CLASS = "of the classes (one_hot)"
_YES = {"1", "true", "yes"}
_NO = {"0", "false", "no"}
# Lines examined to find whether a table is one-hot (assumption).
_PROBES = 50


def with_class(table: Table, names: Sequence[str]) -> Table:
    """Return a table with an extra column, the class, made from one column per class.

    Raises BadSource if a column is missing.
    """
    if len(set(names)) < max(2, len(names)):
        raise BadSource(
            f"option one_hot is {','.join(names)!r}; it must be two columns or more, each once"
        )
    at = []
    for name in names:
        if (column := table.column(name)) is None:
            raise BadSource(
                f"{table.name} has no column {name!r} for option one_hot; its columns are: "
                f"{', '.join(table.columns)[:300]}"
            )
        at.append(column)

    def class_of(cells: Sequence[str]) -> str | BadCase:
        chosen = []
        for name, column in zip(names, at, strict=True):
            told = _told(cells[column])
            if told is None:
                return BadCase(f"column {name} is neither 0 nor 1", where="")
            if told:
                chosen.append(name)
        if len(chosen) != 1:
            shown = f"several classes: {', '.join(chosen)}" if chosen else "no class"
            return BadCase(f"the line has {shown}", where="")
        return chosen[0]

    return table.with_column(CLASS, class_of, at)


def _told(cell: str) -> bool | None:
    word = canonical(cell).casefold()
    if word in _YES:
        return True
    return False if word in _NO or missing(cell) == "blank" else None


def one_hot_columns(table: Table) -> list[str]:
    """Return the columns that look one-hot, with a single 1 in each line examined, else none."""
    rows = []
    for _, cells in table.lines([], ()):
        rows.append([_told(cell) if cell else None for cell in cells])
        if len(rows) == _PROBES:
            break
    columns = [
        at for at in range(len(table.columns)) if rows and all(r[at] is not None for r in rows)
    ]
    once = all(sum(bool(row[at]) for at in columns) == 1 for row in rows)
    return [table.columns[at] for at in columns] if once and len(columns) > 1 else []
