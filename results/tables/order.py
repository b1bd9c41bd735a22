"""Rows of one table trial by trial: sorting them, and the place of each trial's rows."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def in_order(table: pa.Table) -> pa.Table:
    """Return the rows sorted by `trial_id`, keeping the order of rows within a trial.

    The rows of a trial are mostly adjacent, so runs of them are sorted: a thousandth of the rows.
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
    """Return trial id -> (index of its first row, index after its last row), of sorted rows."""
    ids, lengths = _runs(table)
    ends = np.cumsum(lengths).tolist()
    return {i: (end - n, end) for i, n, end in zip(ids, lengths.tolist(), ends, strict=True)}


def taken(table: pa.Table, places: dict[str, tuple[int, int]], trials: Iterable[str]) -> pa.Table:
    """Return the rows of some trials, sorted, from sorted rows whose `places` are known."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(places[trial] for trial in set(trials) if trial in places):
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return pa.concat_tables([table.slice(0, 0), *(table.slice(a, b - a) for a, b in found)])


def _runs(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Return the trial id of each run of adjacent rows, and the number of its rows."""
    ids = table.column("trial_id").combine_chunks()
    if not len(ids):
        return [], np.array([], int)
    runs = pc.run_end_encode(ids)
    return runs.values.to_pylist(), np.diff(runs.run_ends.to_numpy(), prepend=0)
