"""What scripts and readers rely on: the rows of `medopt list KIND --json`, the columns of tables.

Rows and columns may be added; those in tables.json stand unchanged. To add:
`python -m tests.golden.test_tables`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.catalogue import TABLES as CATALOGUE
from results.tables.schema import TABLES

KEPT = Path(__file__).parent / "tables.json"


def rows(kind: str) -> list[dict[str, Any]]:
    """Return the rows of a kind as JSON has them."""
    return json.loads(json.dumps(CATALOGUE[kind]()))


def columns(table: str) -> list[str]:
    """Return the columns of a table of results with their types, in order."""
    return [f"{field.name}: {field.type}" for field in TABLES[table]]


def kept() -> dict[str, Any]:
    return json.loads(KEPT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", CATALOGUE)
def test_rows_stand_unchanged(kind):
    now = {row["name"]: row for row in rows(kind)}
    for row in kept()["rows"][kind]:
        assert row.items() <= now[row["name"]].items()


@pytest.mark.parametrize("table", TABLES)
def test_columns_stand_in_their_order(table):
    before = kept()["columns"][table]
    assert [column for column in columns(table) if column in before] == before


def test_no_table_is_gone():
    assert set(kept()["rows"]) <= set(CATALOGUE)
    assert set(kept()["columns"]) == set(TABLES)


if __name__ == "__main__":
    content = {
        "rows": {kind: rows(kind) for kind in CATALOGUE},
        "columns": {table: columns(table) for table in TABLES},
    }
    KEPT.write_text(json.dumps(content, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
