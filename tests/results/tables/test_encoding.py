"""A table's file: what its footer says stands there once, and every reader finds each bit."""

import base64
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.sampling.folds import TABLE
from results.tables import alone
from results.tables.encoding import write_parquet
from results.tables.schema import RECURRING, TABLES
from results.tables.store import Rows, compact, finished, footer, read, write_trial, write_trials

MARKER = "the-words-of-this-study-and-no-other"
FOOTER = {"versions": {"torch": "2.14.1"}, "protocol": {"note": MARKER}}

# As many rows as are packed, and fewer.
SIZES = (3, 200)

SCHEMAS = {**TABLES, "alone": alone.SCHEMA, "folds": TABLE}


def trial(name: str, rows: int) -> Rows:
    """Return a trial whose tables have some rows each, none of their floats twice."""
    rng = np.random.default_rng(len(name) + rows)
    lesions: list[Any] = [None, [], [0.5, None, -0.0]]
    return Rows(
        {"study": "s", "trial_id": name, "status": "ok", "test_score": 0.1 + 0.2},
        metrics=[{"metric": f"m{n}", "value": float(rng.random())} for n in range(rows)],
        epochs=[
            {"epoch": n, "train_loss": float("nan") if n % 7 == 0 else rng.normal(), "lr": 1e-3}
            for n in range(rows)
        ],
        cases=[
            {
                "case_id": f"c{n}",
                "prob": None if n % 5 == 0 else float(rng.random()),
                "log_odds": -0.0 if n % 11 == 0 else rng.normal(),
                "lesion_log_odds": lesions[n % 3],
                "false_prob": lesions[n % 3],
            }
            for n in range(rows)
        ],
    )


def bits(table: pa.Table) -> list[tuple[str, list[Any]]]:
    """Return the columns of a table, floats in hexadecimal: -0.0 is not 0.0, and NaN is NaN."""

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(each) for each in value]
        return value.hex() if isinstance(value, float) else value

    return [(name, told(table.column(name).to_pylist())) for name in table.column_names]


def written(table: pa.Table, path: Path) -> Path:
    with path.open("wb") as file:
        write_parquet(table, file)
    return path


def in_base64(text: bytes) -> list[bytes]:
    """Return what any base64 of bytes around a text holds of it, for each of its three places."""
    found = (base64.b64encode(b" " * shift + text) for shift in range(3))
    return [one[4:-4] for one in found]


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("merged", [False, True])
def test_what_a_footer_says_stands_once_in_a_file(tmp_path, rows, merged):
    for name in "abc" if merged else "a":
        write_trial(tmp_path, **trial(name, rows)._asdict(), footer=FOOTER)
    compact(tmp_path, at_least=2)
    for table in TABLES:
        (path,) = (tmp_path / table).iterdir()
        content = path.read_bytes()
        assert content.count(MARKER.encode()) == 1
        assert [content.count(part) for part in in_base64(MARKER.encode())] == [0, 0, 0]
        said = pq.read_metadata(path).metadata
        assert pq.read_schema(path).metadata == said
        assert set(said) == {b"medoptbench"}
        assert json.loads(said[b"medoptbench"])["protocol"] == FOOTER["protocol"]
        assert ds.dataset(path).schema.metadata == said
    assert footer(tmp_path)["protocol"] == FOOTER["protocol"]


def test_the_doubled_footer_of_former_files_is_found_as_such(tmp_path):
    """So that the test above can fail."""
    path = tmp_path / "former.parquet"
    pq.write_table(pa.table({"a": [1.5]}).replace_schema_metadata({"key": MARKER}), path)
    content = path.read_bytes()
    assert content.count(MARKER.encode()) == 1
    assert sum(content.count(part) for part in in_base64(MARKER.encode())) == 1


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("name", SCHEMAS)
def test_the_types_come_back_without_arrows_own_copy_of_the_schema(tmp_path, name, rows):
    schema = SCHEMAS[name]
    some = {pa.string(): "x", pa.int32(): 7}  # what may not be null
    columns = [pa.array([some.get(field.type)] * rows, field.type) for field in schema]
    table = pa.table(columns, schema=schema)
    path = written(table, tmp_path / "table.parquet")
    assert pq.read_schema(path) == schema
    assert pq.read_table(path).equals(table)


@pytest.mark.parametrize("rows", SIZES)
def test_every_reader_finds_each_bit(tmp_path, rows):
    write_trials(tmp_path, [trial("a", rows), trial("b", rows)], footer=FOOTER)
    (path,) = (tmp_path / "cases").iterdir()
    names = ["case_id", "prob", "log_odds", "lesion_log_odds", "false_prob", "dice"]
    expected = bits(read(tmp_path, "cases", columns=names))
    rows_of = [row for name in "ab" for row in trial(name, rows).cases]
    whole = {name: [row.get(name) for row in rows_of] for name in names}
    assert expected == bits(pa.table(whole, pa.schema([TABLES["cases"].field(n) for n in names])))
    chosen = ", ".join(names)
    for found in (
        pq.read_table(path, columns=names),
        ds.dataset(path).to_table(columns=names),
        pl.read_parquet(path, columns=names, use_pyarrow=False).to_arrow(),
        pl.scan_parquet(path).select(names).collect().to_arrow(),
        pa.table(duckdb.sql(f"select {chosen} from read_parquet('{path}')").to_arrow_table()),
        pa.Table.from_pandas(pd.read_parquet(path, columns=names), preserve_index=False),
    ):
        assert bits(found) == expected


@pytest.mark.parametrize("rows", SIZES)
def test_a_filter_on_a_float_finds_its_rows_in_every_reader(tmp_path, rows):
    write_trials(tmp_path, [trial("a", rows), trial("b", rows)], footer=FOOTER)
    (path,) = (tmp_path / "cases").iterdir()
    probs = [row["prob"] for name in "ab" for row in trial(name, rows).cases]
    level = sorted(prob for prob in probs if prob is not None)[rows // 2]
    expected = [prob for prob in probs if prob is not None and prob >= level]
    assert 0 < len(expected) < len(probs)
    asked = f"select prob from read_parquet('{path}') where prob >= {level!r}::double"
    assert [row[0] for row in duckdb.sql(asked).fetchall()] == expected
    assert pl.scan_parquet(path).filter(pl.col("prob") >= level).collect()["prob"].to_list() == (
        expected
    )
    for found in (
        ds.dataset(path).to_table(filter=ds.field("prob") >= level),
        pq.read_table(path, filters=[("prob", ">=", level)]),
    ):
        assert found.column("prob").to_pylist() == expected
    frame = pd.read_parquet(path, filters=[("prob", ">=", level)])
    assert frame["prob"].to_list() == expected


def former(path: Path) -> None:
    """Write a file anew as the program did before: dictionaries throughout, its footer twice."""
    table = pq.read_table(path, partitioning=None)
    packed = table.num_rows >= 64
    pq.write_table(table, path, compression="zstd" if packed else "none", use_dictionary=packed)


@pytest.mark.parametrize("rows", SIZES)
def test_former_files_are_read_beside_new_ones_and_merged_with_them(tmp_path, rows):
    for name in "abc":
        write_trial(tmp_path, **trial(name, rows)._asdict(), footer=FOOTER)
    before = {table: bits(read(tmp_path, table)) for table in TABLES}
    told = footer(tmp_path)
    for table in TABLES:
        former(tmp_path / table / "b.parquet")
    for table in TABLES:
        assert bits(read(tmp_path, table)) == before[table]
        found = duckdb.sql(f"select count(*) from read_parquet('{tmp_path / table}/*.parquet')")
        counted = (1 if table == "trials" else rows) * 3
        assert found.fetchall() == [(counted,)]
        assert pl.read_parquet(tmp_path / table).height == counted
        assert len(pd.read_parquet(tmp_path / table)) == counted
    assert compact(tmp_path, at_least=3) == 12
    assert finished(tmp_path) == dict.fromkeys("abc", "ok")
    assert {table: bits(read(tmp_path, table)) for table in TABLES} == before
    assert footer(tmp_path) == told


FLOATS = st.one_of(
    st.none(),
    st.floats(),
    st.sampled_from([0.0, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324, 0.1, 0.1, 0.1]),
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(0, 90))
def test_each_bit_of_a_float_comes_back(tmp_path_factory, data, rows):
    """Whole words are compared, so that a NaN keeps its bits too."""
    values = data.draw(st.lists(FLOATS, min_size=rows, max_size=rows))
    few = data.draw(st.lists(FLOATS, min_size=1, max_size=3))
    lists = [None if n % 4 == 0 else values[n : n + n % 4 - 1] for n in range(rows)]
    with np.errstate(over="ignore"):
        narrow = np.array([0.0 if v is None else v for v in values]).astype(np.float32)
    table = pa.table(
        {
            "prob": pa.array(values, pa.float64()),
            "value": pa.array([few[n % len(few)] for n in range(rows)], pa.float64()),
            "lesion_log_odds": pa.array(lists, pa.list_(pa.float64())),
            "lesion_mm": pa.array(lists, pa.list_(pa.float64())),
            "narrow": pa.array(narrow, pa.float32()),
            "name": pa.array([str(v) for v in values], pa.string()),
        }
    ).replace_schema_metadata({"a": "b"})
    path = written(table, tmp_path_factory.mktemp("bits") / "table.parquet")
    found = pq.read_table(path)
    assert (found.schema, found.schema.metadata) == (table.schema, {b"a": b"b"})
    for name in table.column_names:
        one, other = (t.column(name).combine_chunks() for t in (table, found))
        assert one.is_null().equals(other.is_null())
        if pa.types.is_list(one.type):
            assert one.value_lengths().equals(other.value_lengths())
            one, other = one.flatten(), other.flatten()
        if pa.types.is_floating(one.type):
            words = {pa.float32(): np.uint32, pa.float64(): np.uint64}[one.type]
            known = [each.drop_null().to_numpy().view(words) for each in (one, other)]
            assert one.is_null().equals(other.is_null())
            assert np.array_equal(*known)
        else:
            assert one.equals(other)


def test_floats_are_split_into_bytes_where_they_do_not_come_again(tmp_path):
    for rows, packed in zip(SIZES, (False, True), strict=True):
        run = tmp_path / str(rows)
        write_trial(run, **trial("a", rows)._asdict(), footer=FOOTER)
        for table in TABLES:
            if table == "trials":
                continue
            group = pq.read_metadata(run / table / "a.parquet").row_group(0)
            for column in map(group.column, range(group.num_columns)):
                name = column.path_in_schema.split(".")[0]
                floating = column.physical_type in ("FLOAT", "DOUBLE")
                split = packed and floating and name not in RECURRING
                assert ("BYTE_STREAM_SPLIT" in column.encodings) == split, name
                many = packed and not floating and column.physical_type != "BOOLEAN"
                assert ("RLE_DICTIONARY" in column.encodings) == many, name
                assert (column.compression == "ZSTD") == packed


def test_columns_that_recur_are_floats_of_a_table():
    floats = {
        field.name
        for schema in TABLES.values()
        for field in schema
        if pa.types.is_floating(getattr(field.type, "value_type", field.type))
    }
    assert floats >= RECURRING
