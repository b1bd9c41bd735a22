"""How a table of a run becomes a Parquet file: one way for all of them.

Readers do not notice: DuckDB, Polars and pandas find the same types, values and key-values.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.tables.schema import RECURRING

# A row of `trials` is read three times as fast if its columns are plain (measured: 0.9 ms against
# 2.9), and is no larger. The number of rows from which packing pays is an assumption.
_WORTH_PACKING = 64


def write_parquet(table: pa.Table, sink: Any) -> None:
    """Write a table with the key-values of its schema as one Parquet file.

    `sink` is a file open for writing, or one of pyarrow's. Types that Parquet does not have (a
    dictionary, large_string, a zone other than UTC) come back as the nearest that it has. Raises
    OSError.
    """
    how: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    if table.num_rows >= _WORTH_PACKING:
        floats = [path for path, kind in _leaves(table.schema) if pa.types.is_floating(kind)]
        how = {
            "compression": "zstd",
            # zstd's own default; pyarrow's is 1, 3 % larger, and 4 to 6 are larger too (measured).
            "compression_level": 3,
            # Measured floats hardly ever recur, so a dictionary of them would be as long as they
            # are. They share sign, exponent and first digits, which zstd finds if the bytes of each
            # place are stored together (measured: the reference's floats -28 %).
            "use_dictionary": [path for path, _ in _leaves(table.schema) if path not in floats],
            "use_byte_stream_split": [p for p in floats if p.split(".")[0] not in RECURRING],
        }
    # Arrow's own copy of the schema would hold the key-values a second time, in base64: most of a
    # small file. The types of our tables are also Parquet's, and are found without it.
    with pq.ParquetWriter(sink, table.schema, store_schema=False, **how) as writer:
        writer.write_table(table)
        if table.schema.metadata:
            writer.add_key_value_metadata(table.schema.metadata)


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Give the columns by their names in Parquet, lists by their elements, with their types."""
    for field in schema:
        if pa.types.is_list(field.type):
            yield f"{field.name}.list.element", field.type.value_type
        else:
            yield field.name, field.type
