"""Rows of one table trial by trial: in their order, and where those of each trial stand."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def in_order(table: pa.Table) -> pa.Table:
    """Return the rows sorted by `trial_id`, those of one trial in the order that they have.

    Rows of a trial mostly stand together, so runs of them are sorted: a thousandth of the rows.
    """
    ids, lengths = _runs(table)
    order = np.argsort(np.array(ids, dtype=object), kind="stable") if ids else np.array([], int)
    if (order[1:] > order[:-1]).all():
        return table
    starts = np.cumsum(lengths) - lengths
    lengths = lengths[order]
    # Each run's rows count up from its start.
    shift = starts[order] - (np.cumsum(lengths) - lengths)
    return table.take(pa.array(np.repeat(shift, lengths) + np.arange(lengths.sum())))


def places_of(table: pa.Table) -> dict[str, tuple[int, int]]:
    """Return trial id -> the first of its rows, and the first after them, of sorted rows."""
    ids, lengths = _runs(table)
    ends = np.cumsum(lengths).tolist()
    return {i: (end - n, end) for i, n, end in zip(ids, lengths.tolist(), ends, strict=True)}


def taken(table: pa.Table, places: dict[str, tuple[int, int]], trials: Iterable[str]) -> pa.Table:
    """Return the rows of some trials, sorted, of sorted rows whose `places` are known."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(places[trial] for trial in set(trials) if trial in places):
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return pa.concat_tables([table.slice(0, 0), *(table.slice(a, b - a) for a, b in found)])


def _runs(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Return the trial of each run of rows, and how many rows it has."""
    ids = table.column("trial_id").combine_chunks()
    if not len(ids):
        return [], np.array([], int)
    runs = pc.run_end_encode(ids)
    return runs.values.to_pylist(), np.diff(runs.run_ends.to_numpy(), prepend=0)
