"""The Parquet data sets: what goes in comes out, in every reader, whatever breaks on the way."""

import errno
import json
import os
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.tables import store
from results.tables.axes import described
from results.tables.schema import SCHEMA_VERSION, STATUSES, TABLES
from results.tables.store import (
    Damage,
    Reading,
    RowError,
    Rows,
    RunError,
    compact,
    finished,
    footer,
    read,
    write_trial,
    write_trials,
)

FOOTER = {
    "git_commit": "0" * 40,
    "versions": {"torch": "2.14.1"},
    "device": "CPU",
    "metrics": {"auc": {"direction": "max", "range": [0, 1], "unit": "image"}},
    "protocol": {"folds": 5},
}

# DESIGN.md, "Results", written out once more by hand: the columns are a promise to users.
COLUMNS = {
    "trials": """
study trial_id dataset task model optimizer loss schedule regularizer pretrained clinical labels
loader precision compiled batch_size tuned hparams repeat fold seed status reason attempt
n_train_cases n_val_cases
n_test_cases n_train_groups n_val_groups n_test_groups group_source epochs_run best_epoch
gradient_evaluations sample_gradients primary_metric val_score test_score test_loss target
setup_sec train_sec data_wait_sec eval_sec wall_sec samples_per_sec voxels_per_sec step_ms_p50
step_ms_p95 optimizer_step_ms_p50 infer_ms_per_case optimizer_state_bytes peak_memory_bytes
energy_joules flops_per_sample sec_to_target sample_gradients_to_target device_name device_count
threads lane shared_device started_at finished_at git_commit versions weight_decay_kind
early_stopping last_val_score last_test_score test_score_before_diverging point points
last_train_score parameters looks inference unrepeatable
""",
    "metrics": "trial_id split metric unit region convention stratum degradation headline value",
    "epochs": """
trial_id epoch train_loss val_loss val_score lr sample_gradients gradient_evaluations elapsed_sec
samples_per_sec data_wait_sec step_loss_sd_diff step_norm
""",
    "cases": """
trial_id case_id group_id region label prob tp fp fn tn n_ref n_pred dice hd95_mm
nsd_2mm assd_mm ref_mm lesion_mm lesion_prob false_prob log_odds lesion_log_odds false_log_odds
truth predicted
""",
}


def put(run: Path, name: str = "a", status: str = "ok", score: float | None = 0.9, **more: Any):
    """Write one trial with two metrics, two epochs and a case."""
    write_trial(
        run,
        trial={
            "study": "s",
            "trial_id": name,
            "dataset": "d",
            "status": status,
            "fold": 1,
            "test_score": score,
            "hparams": json.dumps({"lr": 1e-3}),
            "started_at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
            "compiled": False,
        }
        | more,
        metrics=[{"split": "test", "metric": m, "value": score} for m in ("auc", "accuracy")],
        epochs=[{"epoch": e, "train_loss": 1.0 / e, "val_score": score} for e in (1, 2)],
        cases=[{"case_id": "c1", "group_id": "g1", "region": "tumour", "tp": 3, "dice": score}],
        footer=FOOTER,
    )


def everything(run: Path) -> dict[str, list[dict[str, Any]]]:
    return {table: read(run, table).to_pylist() for table in TABLES}


def rows_elsewhere(run: Path, table: str) -> dict[str, int]:
    """Rows of a data set as DuckDB, Polars and pandas count them, each reading the directory."""
    folder = run / table
    counted = duckdb.sql(f"select count(*) from read_parquet('{folder}/*.parquet')").fetchall()
    return {
        "duckdb": counted[0][0],
        "polars": pl.read_parquet(folder).height,
        "pandas": len(pd.read_parquet(folder)),
    }


def test_the_columns_are_those_that_the_design_promises():
    assert {name: schema.names for name, schema in TABLES.items()} == {
        name: text.split() for name, text in COLUMNS.items()
    }
    assert list(TABLES)[-1] == "trials"


def test_what_is_written_is_read(tmp_path):
    put(tmp_path, "b", score=0.5)
    put(tmp_path, "a")
    trials = read(tmp_path, "trials")
    assert trials.schema == TABLES["trials"]
    assert trials.column("trial_id").to_pylist() == ["a", "b"]
    row = trials.to_pylist()[0]
    assert row["test_score"] == 0.9
    assert row["energy_joules"] is None
    assert row["started_at"] == datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert read(tmp_path, "cases").to_pylist()[1]["dice"] == 0.5
    assert finished(tmp_path) == {"a": "ok", "b": "ok"}
    assert footer(tmp_path) == FOOTER | {
        "schema_version": SCHEMA_VERSION,
        "axes": described(),
    }


def test_a_run_that_has_not_begun_is_empty(tmp_path):
    for table, schema in TABLES.items():
        assert read(tmp_path, table).schema == schema
        assert read(tmp_path, table).num_rows == 0
    assert finished(tmp_path) == {}
    assert footer(tmp_path) == {}
    assert compact(tmp_path) == 0


def test_columns_can_be_picked(tmp_path):
    put(tmp_path)
    assert read(tmp_path, "epochs", columns=("val_score", "epoch")).column_names == [
        "val_score",
        "epoch",
    ]


@pytest.mark.parametrize("table", TABLES)
def test_duckdb_polars_and_pandas_read_the_directory(tmp_path, table):
    """Also where a column is null throughout one file and not in the next."""
    put(tmp_path, "a", score=None)
    put(tmp_path, "b", score=0.25)
    write_trial(
        tmp_path,
        trial={"trial_id": "c", "status": "skipped", "reason": "no such model for volumes"},
        metrics=[],
        epochs=[],
        cases=[],
        footer=FOOTER,
    )
    expected = read(tmp_path, table).num_rows
    assert set(rows_elsewhere(tmp_path, table).values()) == {expected}
    assert sorted(p.name for p in (tmp_path / table).iterdir()) == [
        "a.parquet",
        "b.parquet",
        "c.parquet",
    ]
    names = TABLES[table].names
    assert (
        duckdb.sql(f"select * from read_parquet('{tmp_path / table}/*.parquet')").columns == names
    )
    assert pl.read_parquet(tmp_path / table).columns == names
    frame = pd.read_parquet(tmp_path / table)
    assert list(frame.columns) == names
    column = {"trials": "test_score", "metrics": "value", "epochs": "val_score", "cases": "dice"}[
        table
    ]
    assert frame[column].dtype == np.float64
    assert pl.read_parquet(tmp_path / table)[column].dtype == pl.Float64
    assert duckdb.sql(
        f"select sum({column}) / count({column}) from read_parquet('{tmp_path / table}/*.parquet')"
    ).fetchall() == [(0.25,)]


def test_numpy_scalars_are_values(tmp_path):
    put(tmp_path, score=np.float32(0.5), fold=np.int32(3), compiled=np.bool_(True))
    row = read(tmp_path, "trials").to_pylist()[0]
    assert (row["test_score"], row["fold"], row["compiled"]) == (0.5, 3, True)


def test_nan_is_null_but_for_losses(tmp_path):
    put(tmp_path, score=float("nan"), test_loss=float("nan"), status="diverged")
    trials = read(tmp_path, "trials")
    assert trials.column("test_score").null_count == 1
    assert np.isnan(trials.column("test_loss")[0].as_py())
    assert read(tmp_path, "metrics").column("value").null_count == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trial_id": "../x"}, "names files"),
        ({"trial_id": None}, "names files"),
        ({"trial_id": "a.b"}, "names files"),
        ({"status": "done"}, ", ".join(STATUSES)),
        ({"test_scores": 1.0}, "trials has no column test_scores; its columns are study"),
        ({"fold": "first"}, "trials.fold must be int64"),
        ({"test_score": "high"}, "trials.test_score must be double"),
        ({"hparams": {"lr": 1}}, "trials.hparams must be a JSON text"),
        ({"versions": "torch 2"}, "trials.versions must be a JSON text"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, change, says):
    with pytest.raises(RowError, match=says):
        put(tmp_path, **change) if "trial_id" not in change else put(
            tmp_path, name=change["trial_id"]
        )
    assert list(tmp_path.rglob("*.parquet")) == []


def test_a_row_of_another_trial_is_refused(tmp_path):
    with pytest.raises(RowError, match=r"epochs\.trial_id is 'b' in a row of trial 'a'"):
        write_trial(
            tmp_path,
            trial={"trial_id": "a", "status": "ok"},
            metrics=[],
            epochs=[{"trial_id": "b", "epoch": 1}],
            cases=[],
            footer=FOOTER,
        )


def test_writing_a_trial_again_replaces_it(tmp_path):
    put(tmp_path, "a", status="failed", score=None)
    put(tmp_path, "a", score=0.7)
    assert finished(tmp_path) == {"a": "ok"}
    assert read(tmp_path, "metrics").column("value").to_pylist() == [0.7, 0.7]
    assert rows_elsewhere(tmp_path, "trials") == {"duckdb": 1, "polars": 1, "pandas": 1}


def test_rows_without_a_finished_trial_do_not_count(tmp_path):
    put(tmp_path, "a")
    put(tmp_path, "b")
    (tmp_path / "trials" / "b.parquet").unlink()  # killed between the last two renames
    assert set(read(tmp_path, "metrics").column("trial_id").to_pylist()) == {"a"}


@pytest.mark.parametrize("table", ["metrics", "epochs", "cases"])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_trial_that_has_lost_a_table_is_not_finished(tmp_path, table, compacted):
    """Half of the rows of a run is no result; what is left of it would look like one."""
    for name in "abc":
        put(tmp_path, name)
    lost = ["b"]
    if compacted:
        compact(tmp_path, at_least=2)
        lost = ["a", "b", "c"]
    put(tmp_path, "d")
    for path in (tmp_path / table).iterdir():
        if path.name == "b.parquet" or path.name.startswith("part."):
            path.unlink()
    kept = sorted({*"abcd"} - {*lost})
    assert sorted(finished(tmp_path)) == kept
    for name in TABLES:
        assert sorted(set(read(tmp_path, name).column("trial_id").to_pylist())) == kept
    found = store.incomplete(tmp_path)
    assert found == {name: {"dataset": "d", "tables": [table]} for name in lost}
    for name in lost:
        put(tmp_path, name, score=0.4)
    assert store.incomplete(tmp_path) == {}
    compact(tmp_path, at_least=2)
    assert sorted(finished(tmp_path)) == [*"abcd"]
    for name, rows in {"trials": 4, "metrics": 8, "epochs": 8, "cases": 4}.items():
        assert set(rows_elsewhere(tmp_path, name).values()) == {rows}
        assert read(tmp_path, name).num_rows == rows


def test_a_damaged_file_is_named(tmp_path):
    put(tmp_path)
    path = tmp_path / "trials" / "a.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"trials/a\.parquet is damaged") as told:
        read(tmp_path, "trials")
    assert ".. " not in str(told.value)  # what the library says ends with a full stop of its own
    assert ". Move it away" in str(told.value)


def test_another_schema_version_is_named(tmp_path):
    put(tmp_path)
    path = tmp_path / "epochs" / "a.parquet"
    table = pq.read_table(path)
    old = json.dumps({"schema_version": 0}).encode()
    pq.write_table(table.replace_schema_metadata({b"medoptbench": old}), path)
    with pytest.raises(RunError, match=r"epochs/a\.parquet has schema version 0"):
        read(tmp_path, "epochs")


def put_as_version_1(run: Path, name: str) -> None:
    """Write a trial as the program did before `cases` had lesions and surface distances."""
    put(run, name)
    later = ["nsd_2mm", "assd_mm", "ref_mm", "lesion_mm", "lesion_prob", "false_prob"]
    for table in TABLES:
        path = run / table / f"{name}.parquet"
        content = pq.read_table(path, partitioning=None)
        if table == "cases":
            content = content.drop_columns(later)
        known = json.dumps({**FOOTER, "schema_version": 1}).encode()
        pq.write_table(content.replace_schema_metadata({b"medoptbench": known}), path)


def test_a_run_of_the_first_schema_still_reads(tmp_path):
    put_as_version_1(tmp_path, "a")
    (row,) = read(tmp_path, "cases").to_pylist()
    assert (row["tp"], row["dice"]) == (3, 0.9)
    assert (row["nsd_2mm"], row["lesion_prob"]) == (None, None)
    assert read(tmp_path, "cases").schema == TABLES["cases"]
    assert read(tmp_path, "cases", columns=["ref_mm", "tp"]).to_pylist() == [
        {"ref_mm": None, "tp": 3}
    ]
    assert finished(tmp_path) == {"a": "ok"}


def test_a_run_gone_on_with_has_the_same_columns_in_every_file(tmp_path):
    for name in ("a", "b"):
        put_as_version_1(tmp_path, name)
    put(tmp_path, "c")
    before = everything(tmp_path)
    assert compact(tmp_path) == 12  # the three trials, in four tables: too few for their number
    assert everything(tmp_path) == before
    assert footer(tmp_path)["schema_version"] == SCHEMA_VERSION
    for table, schema in TABLES.items():
        assert {tuple(pq.read_schema(f).names) for f in (tmp_path / table).iterdir()} == {
            tuple(schema.names)
        }
    assert set(rows_elsewhere(tmp_path, "cases").values()) == {3}
    assert compact(tmp_path) == 0


def test_lists_of_lesions_come_back_in_every_reader(tmp_path):
    lesions = {"lesion_mm": [4.5, 12.0], "lesion_prob": [None, 0.75], "false_prob": []}
    write_trial(
        tmp_path,
        trial={"trial_id": "a", "status": "ok"},
        metrics=[],
        epochs=[],
        cases=[{"case_id": "c1", **lesions}, {"case_id": "c2"}],
        footer=FOOTER,
    )
    first, second = read(tmp_path, "cases", columns=list(lesions)).to_pylist()
    assert first == lesions
    assert second == dict.fromkeys(lesions)
    folder = tmp_path / "cases"
    found = duckdb.sql(
        f"select lesion_prob from read_parquet('{folder}/*.parquet') where case_id = 'c1'"
    ).fetchall()
    assert found == [([None, 0.75],)]
    assert pl.read_parquet(folder)["lesion_mm"].to_list() == [[4.5, 12.0], None]
    assert list(pd.read_parquet(folder)["lesion_mm"][0]) == [4.5, 12.0]


# ---- faults ----------------------------------------------------------------------------------


class Fault:
    """Lets the file system work until a given call that writes, which raises.

    Nothing is flushed to the disk itself: that is slow, and shows only after a power cut.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException):
        self.error, self.calls, self.at = error, 0, -1
        for owner, name in (
            (os, "fsync"),
            (pq.ParquetWriter, "write_table"),
            (Path, "replace"),
            (Path, "unlink"),
            (store.tempfile, "mkdtemp"),
        ):
            self._wrap(monkeypatch, owner, name)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                raise self.error
            return None if name == "fsync" else real(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    def arm(self, at: int) -> None:
        self.calls, self.at = 0, at

    def disarm(self) -> None:
        self.arm(-1)


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def test_a_full_disk_at_any_step_leaves_the_run_as_it_was(tmp_path, monkeypatch):
    fault = Fault(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    put(tmp_path, "a")
    before = everything(tmp_path)
    fault.disarm()
    put(tmp_path / "count", "b")
    steps = fault.calls
    assert steps >= 13  # 4 tables: written, synced, renamed, and the scratch folder
    for step in range(1, steps + 1):
        fault.arm(step)
        with pytest.raises(OSError, match="No space left"):
            put(tmp_path, "b")
        fault.disarm()
        assert everything(tmp_path) == before
        assert list((tmp_path / ".writing").iterdir()) == []
        last_sync = step == steps  # the row stands already: only its durability is in doubt
        names = {p.name for t in TABLES for p in (tmp_path / t).iterdir()}
        assert names == {"a.parquet"} or last_sync
    put(tmp_path, "b")
    assert finished(tmp_path) == {"a": "ok", "b": "ok"}


def test_a_kill_at_any_step_of_writing_loses_nothing(tmp_path, monkeypatch):
    fault = Fault(monkeypatch, Killed())
    put(tmp_path, "a")
    before = everything(tmp_path)
    fault.disarm()
    put(tmp_path / "count", "b")
    for step in range(1, fault.calls):
        fault.arm(step)
        run = tmp_path / f"killed{step}"
        shutil.copytree(tmp_path / "trials", run / "trials")
        for table in ("metrics", "epochs", "cases"):
            shutil.copytree(tmp_path / table, run / table)
        with pytest.raises(Killed):
            put(run, "b")
        fault.disarm()
        assert everything(run) == before
        for table in TABLES:
            rows_elsewhere(run, table)  # every file in it is whole
        put(run, "b")
        assert finished(run) == {"a": "ok", "b": "ok"}
        fault.arm(-1)


def fill(run: Path) -> None:
    for name in ("a", "b", "c"):
        put(run, name, score=ord(name) / 100)
    put(run, "broken", status="failed", score=None)


def test_compaction_keeps_every_row_and_leaves_failed_trials_alone(tmp_path):
    fill(tmp_path)
    before = everything(tmp_path)
    assert compact(tmp_path, at_least=4) == 0  # the failed trial does not count
    assert compact(tmp_path, at_least=3) == 12
    assert everything(tmp_path) == before
    for table in TABLES:
        names = sorted(p.name for p in (tmp_path / table).iterdir())
        assert len(names) == 2
        assert names[0] == "broken.parquet"
        assert set(rows_elsewhere(tmp_path, table).values()) == {len(before[table])}
    assert footer(tmp_path) == FOOTER | {
        "schema_version": SCHEMA_VERSION,
        "axes": described(),
    }
    assert compact(tmp_path, at_least=1) == 0


def test_parts_add_up(tmp_path):
    fill(tmp_path)
    compact(tmp_path, at_least=3)
    put(tmp_path, "d")
    put(tmp_path, "broken")
    before = everything(tmp_path)
    compact(tmp_path, at_least=2)
    assert everything(tmp_path) == before
    assert len(list((tmp_path / "trials").iterdir())) == 2
    assert set(rows_elsewhere(tmp_path, "trials").values()) == {5}


def test_a_trial_written_after_its_compaction_counts_once(tmp_path):
    fill(tmp_path)
    compact(tmp_path, at_least=3)
    put(tmp_path, "b", score=0.123)
    scores = dict(
        zip(
            read(tmp_path, "trials").column("trial_id").to_pylist(),
            read(tmp_path, "trials").column("test_score").to_pylist(),
            strict=True,
        )
    )
    assert scores == {"a": 0.97, "b": 0.123, "c": 0.99, "broken": None}
    before = everything(tmp_path)
    compact(tmp_path)  # whatever the number: the part has a stale row
    assert everything(tmp_path) == before
    assert set(rows_elsewhere(tmp_path, "metrics").values()) == {8}


def test_a_kill_at_any_step_of_compaction_loses_and_doubles_nothing(tmp_path, monkeypatch):
    original = tmp_path / "original"
    fill(original)
    compact(original, at_least=3)
    put(original, "b", score=0.123)
    put(original, "d")
    before = everything(original)
    fault = Fault(monkeypatch, Killed())
    counting = tmp_path / "counting"
    shutil.copytree(original, counting)
    fault.disarm()
    compact(counting, at_least=1)
    steps = fault.calls
    assert steps >= 24  # a table: scratch folder, write, two syncs, rename, three removals
    for step in range(1, steps + 1):
        run = tmp_path / f"killed{step}"
        shutil.copytree(original, run)
        fault.arm(step)
        with pytest.raises(Killed):
            compact(run, at_least=1)
        fault.disarm()
        assert everything(run) == before
        put(run, "e")  # and the run goes on
        compact(run, at_least=1)
        for table in TABLES:
            assert pl.read_parquet(run / table).height == read(run, table).num_rows
        assert [row for row in read(run, "trials").to_pylist() if row["trial_id"] != "e"] == (
            before["trials"]
        )


def test_a_full_disk_while_compacting_changes_nothing(tmp_path, monkeypatch):
    fill(tmp_path)
    before = everything(tmp_path)
    files = sorted(p for t in TABLES for p in (tmp_path / t).iterdir())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        compact(tmp_path, at_least=1)
    assert everything(tmp_path) == before
    assert sorted(p for t in TABLES for p in (tmp_path / t).iterdir()) == files
    assert list((tmp_path / ".writing").iterdir()) == []


def test_reading_while_another_thread_compacts(tmp_path):
    for number in range(40):
        put(tmp_path, f"t{number:02d}")
    stop, seen = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            try:
                seen.append(len(finished(tmp_path)))
            except Exception as error:  # noqa: BLE001 -- a thread's failure must reach the test
                seen.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    compact(tmp_path, at_least=1)
    stop.set()
    reader.join()
    assert set(seen) == {40}
    assert len(finished(tmp_path)) == 40


def test_the_types_do_not_depend_on_the_values(tmp_path):
    put(tmp_path, "a", score=None)
    for table, schema in TABLES.items():
        stored = pq.read_schema(tmp_path / table / "a.parquet").remove_metadata()
        assert stored == schema
        assert not any(pa.types.is_null(field.type) for field in stored)


def crowd(*names: str, score: float = 0.9, status: str = "ok") -> list[Rows]:
    """Return what `put` writes of several trials."""
    return [
        Rows(
            {"study": "s", "trial_id": name, "status": status, "test_score": score},
            metrics=[{"split": "test", "metric": m, "value": score} for m in ("auc", "accuracy")],
            epochs=[{"epoch": e, "train_loss": float("nan"), "val_score": score} for e in (1, 2)],
            cases=[{"case_id": "c1", "tp": np.int64(3), "prob": np.float64("nan"), "dice": score}],
        )
        for name in names
    ]


def test_trials_written_together_are_those_written_one_by_one(tmp_path):
    """In one file a data set, whatever reads it; but for one that failed, which has its own."""
    one, many = tmp_path / "one", tmp_path / "many"
    three = [*crowd("a", "b"), *crowd("c", status="failed")]
    for rows in three:
        write_trial(one, **rows._asdict(), footer=FOOTER)
    write_trials(many, three, footer=FOOTER)
    told = [str(everything(run)).replace("nan", "'nan'") for run in (one, many)]  # nan is no nan
    assert told[0] == told[1]
    assert footer(many) == footer(one)
    for table in TABLES:
        names = sorted(p.name for p in (many / table).iterdir())
        assert (len(names), names[0]) == (2, "c.parquet")
        assert rows_elsewhere(many, table) == rows_elsewhere(one, table)


def test_a_file_of_a_trial_is_not_left_to_count_before_its_part(tmp_path):
    """Of a trial that failed before, and of one whose writing a crash cut off."""
    write_trials(tmp_path, crowd("a", score=0.1, status="failed"), footer=FOOTER)
    write_trials(tmp_path, crowd("b", score=0.1), footer=FOOTER)
    (tmp_path / "trials" / "b.parquet").unlink()
    write_trials(tmp_path, crowd("a", "b", "c", "d", score=0.7), footer=FOOTER)
    for table in ("trials", "metrics", "cases"):
        column = {"trials": "test_score", "metrics": "value", "cases": "dice"}[table]
        assert set(read(tmp_path, table).column(column).to_pylist()) == {0.7}
    assert finished(tmp_path) == dict.fromkeys("abcd", "ok")


def test_parts_of_few_trials_are_merged_where_they_are_many(tmp_path):
    for first, second in ("ab", "cd", "ef"):
        write_trials(tmp_path, crowd(first, second), footer=FOOTER)
    before = str(everything(tmp_path))
    assert compact(tmp_path, at_least=4) == 0
    assert compact(tmp_path, at_least=3) == 12
    assert str(everything(tmp_path)) == before
    assert len(list((tmp_path / "trials").iterdir())) == 1
    assert compact(tmp_path, at_least=3) == 0  # one of six is not small


def test_what_does_not_fit_is_told_by_its_column_and_nothing_of_the_others_counts(tmp_path):
    rows = crowd("a", "b")
    rows[1].cases[0]["tp"] = "three"
    with pytest.raises(RowError, match=r"cases\.tp must be int64"):
        write_trials(tmp_path, rows, footer=FOOTER)
    assert finished(tmp_path) == {}


def test_rows_asked_a_few_trials_at_a_time_are_those_of_each_reading_of_its_own(tmp_path):
    write_trials(tmp_path, crowd("b", "a"), footer=FOOTER)
    put(tmp_path, "c")
    reading = Reading(tmp_path, Damage())
    for table, columns in {
        "epochs": ("trial_id", "epoch"),
        "metrics": TABLES["metrics"].names,
    }.items():
        for names in ([], ["a"], ["c", "a", "a"], ["b", "unknown"], ["unknown"]):
            own = read(tmp_path, table, columns=columns, trials=names)
            assert reading.rows(table, columns, names).to_pylist() == own.to_pylist()
    empty = Reading(tmp_path / "none", Damage()).rows("epochs", ("trial_id",), ["a"])
    assert empty.to_pylist() == []
