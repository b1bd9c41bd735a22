"""name_mapping.csv, which lists the names that one patient has in each year of BraTS.

It is beside the cases (in 2020: columns Grade, BraTS_2017_subject_ID, BraTS_2018_subject_ID,
TCGA_TCIA_subject_ID, BraTS_2019_subject_ID and BraTS_2020_subject_ID); the validation part has
name_mapping_validation_data.csv. A line is a patient, and "NA" (or another word of
`loaders.formats.missing_words`) marks a year without; similarly named columns of other years are
read too.
"""

import re
from pathlib import Path

from loaders.cases import BadCase, BadSource
from loaders.formats.csv_table import open_table, table_under
from loaders.formats.missing_words import missing

_NAMES = re.compile(r"(brats|tcga)", re.IGNORECASE)


def patients_of(source: Path, names: str) -> dict[str, str]:
    """Return, for each name in the tables `names` (comma-separated), its patient's first name.

    Names are in lower case. Lines that share a name are one patient. Raises BadSource.
    """
    parent: dict[str, str] = {}
    for name in names.split(","):
        table = open_table(table_under(source, name.strip(), "mapping"))
        places = [at for at, column in enumerate(table.columns) if _NAMES.match(column)]
        if not any(table.columns[at].lower().startswith("brats") for at in places):
            shown = ", ".join(table.columns[:10])
            raise BadSource(
                f"{table.name} has no column of names like BraTS_2020_subject_ID; its columns are: "
                f"{shown}"
            )
        rejected: list[BadCase] = []
        for _, cells in table.lines(rejected, places):
            same = [cells[at].casefold() for at in places if not missing(cells[at])]
            for one in same:
                _unite(parent, same[0], one)
        if rejected:
            # Without this line, it is unknown which names are one patient.
            raise BadSource(f"{rejected[0].where}: {rejected[0].reason}")
    return {name: _first(parent, name) for name in parent}


def _unite(parent: dict[str, str], one: str, other: str) -> None:
    first, last = sorted((_first(parent, one), _first(parent, other)))
    parent[last] = first


def _first(parent: dict[str, str], name: str) -> str:
    """Return the alphabetically first of the names that belong to the same patient as `name`."""
    while (above := parent.setdefault(name, name)) != name:
        parent[name] = parent[above]
        name = above
    return name
