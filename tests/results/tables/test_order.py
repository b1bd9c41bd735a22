"""Rows in the order of trials, as pyarrow's stable sort has them."""

import numpy as np
import pyarrow as pa
import pytest

from results.tables.order import in_order, places_of, taken


@pytest.mark.parametrize(
    "ids", ["", "a", "aab", "baab", "bbaacc", "cabcab", "zyxwvu"], ids=lambda ids: ids or "none"
)
def test_rows_are_sorted_by_trial_and_found_there(ids):
    table = pa.table({"trial_id": pa.array(list(ids), pa.string()), "n": np.arange(len(ids))})
    found = in_order(table)
    assert found.equals(table.take(np.argsort(list(ids), kind="stable")) if ids else table)
    places = places_of(found)
    for trials in ([], ["a"], ["c", "a", "a"], ["unknown", "b"]):
        expected = [row for row in found.to_pylist() if row["trial_id"] in trials]
        assert taken(found, places, trials).to_pylist() == expected


def test_many_runs_are_sorted_as_pyarrow_sorts_rows():
    rng = np.random.default_rng(0)
    ids = [f"t{i}" for i in np.repeat(rng.integers(0, 300, 2000), rng.integers(1, 9, 2000))]
    table = pa.table({"trial_id": ids, "n": np.arange(len(ids))})
    assert in_order(table).equals(table.sort_by([("trial_id", "ascending"), ("n", "ascending")]))
