"""Tables of older versions of the schema, converted to today's columns."""

import pyarrow as pa

# The stratum of small references and lesions. Up to version 2, any other was a degradation.
_SMALL = "small"


def upgrade(name: str, table: pa.Table, version: int) -> pa.Table:
    """Return the table `name`, written by `version` of the schema, with today's meaning.

    It has all of today's columns; those that the file lacked are null.
    """
    return _upgrade_metrics(table) if name == "metrics" and version < 3 else table


def _upgrade_metrics(table: pa.Table) -> pa.Table:
    """Give degradations a column of their own, and mark the headlines.

    Up to version 2, the order of rows marked the headline value of a metric: the first of its
    trial, split and degradation over all regions and sizes.
    """
    rows = table.to_pylist()
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        if row["stratum"] not in (None, "", _SMALL):
            row["stratum"], row["degradation"] = "", row["stratum"]
        else:
            row["degradation"] = ""
        whose = row["trial_id"], row["split"], row["metric"], row["degradation"]
        overall = row["region"] in (None, "", "mean") and not row["stratum"]
        row["headline"] = overall and whose not in seen
        if overall:
            seen.add(whose)
    return pa.Table.from_pylist(rows, schema=table.schema)
