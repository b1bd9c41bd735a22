"""A workbook as openpyxl 3.1 writes it: `python write.py written`, where openpyxl is installed."""

import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any

# A row a list; what comes of each cell stands beside it in test_workbook.py.
ROWS: list[list[Any]] = [
    ["file", "label", "age", "seen on", "note, with comma"],
    ["P01", 1, 61.5, date(2024, 3, 1), "größer; 'quoted'"],
    [],
    [
        "P02",
        0,
        0.1 + 0.2,
        datetime(2024, 3, 1, 13, 30),  # noqa: DTZ001  # a cell has no time zone
        "two\nlines",
    ],
    ["0003", True, 1234567890123, None, '=1+"2"'],
    ["P04", 1e-7, -4, date(1900, 3, 1), " blank "],
]


if __name__ == "__main__":
    import openpyxl

    book = openpyxl.Workbook()
    for at, row in enumerate(ROWS, start=1):
        for column, value in enumerate(row, start=1):
            book.active.cell(at, column, value)
    book.active["C2"].number_format = "0.00 [$mmHg]"
    book.create_sheet("another").append(["x", "y"])
    book.save(Path(sys.argv[1]) / "openpyxl.xlsx")
