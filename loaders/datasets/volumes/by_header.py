"""Rows of a table that identify DICOM series by an element of their headers, not by a file."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from loaders.cases import BadCase, BadSource
from loaders.datasets.dicom_series import images_of, one_series
from loaders.datasets.tabular.table_lines import canonical
from loaders.formats.csv_table import Table
from loaders.formats.dicom.series import Series

# The elements that the column of images may hold, and the field of a series that holds each.
BY: Mapping[str, str] = {
    "PatientID": "patient",
    "StudyInstanceUID": "study",
    "SeriesInstanceUID": "uid",
}


class ByHeader:
    """The series of a source, to be found by an element of their headers."""

    def __init__(self, source: Path, element: str, wanted: str, rejected: list[BadCase]) -> None:
        if element not in BY:
            raise BadSource(f"option by is {element!r}; it must be one of: {', '.join(BY)}")
        self._element, self._wanted = element, wanted
        self._series: dict[str, list[Series]] = defaultdict(list)
        # Numbers without leading zeros, which spreadsheets drop.
        self._numbers: dict[str, set[str]] = defaultdict(set)
        for series in images_of(source, rejected):
            name = getattr(series, BY[element])
            self._series[name].append(series)
            self._numbers[canonical(name)].add(name)
        self.of_path: dict[Path, Series] = {}

    def find(self, name: str, table: Table, line: int) -> Path:
        """Return the first file of the series that a table calls `name`; raises BadCase."""
        where = f"{table.where(line)} ({name})"
        names: Collection[str] = [name] if name in self._series else self._numbers[canonical(name)]
        if not names:
            raise BadCase(f"no series of the source has this {self._element}", where=where)
        if len(names) > 1:
            raise BadCase(
                f"{len(names)} {self._element}s differ only in leading zeros", where=where
            )
        found = one_series(self._series[next(iter(names))], self._wanted, where)
        self.of_path[found.paths[0]] = found
        return found.paths[0]
