"""The cost of a sample-gradient of each combination alone: `alone.parquet` in a run's folder.

One row per measurement, several per combination: its data set, its entry on each axis as in
`trials`, the seconds of a sample-gradient, and where and when it was measured.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.tables.axes import COLUMNS
from results.tables.encoding import write_parquet
from results.tables.files import replace_file
from results.tables.store import RunError

#: The file, beside the folders of the run's tables.
FILE = "alone.parquet"

SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("dataset", *COLUMNS)),
        pa.field("sample_sec", pa.float64()),
        pa.field("device_name", pa.string()),
        pa.field("threads", pa.int64()),
        pa.field("measured_at", pa.timestamp("us", tz="UTC")),
    ]
)


def write_alone(run: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the measurements of a run in place of earlier ones, whole or not at all."""
    sink = pa.BufferOutputStream()
    write_parquet(pa.Table.from_pylist(list(rows), SCHEMA), sink)
    replace_file(run / FILE, sink.getvalue().to_pybytes())
    return run / FILE


def read_alone(run: Path) -> list[dict[str, Any]]:
    """Return the measurements of a run, none if nothing was measured.

    Raises RunError if the file is damaged.
    """
    path = run / FILE
    if not path.exists():
        return []
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"{FILE} is damaged ({error}). `medopt price` measures it anew.") from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
