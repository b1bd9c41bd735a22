"""The axes of a study: names of combinations, and runs that are read by the axes they had."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from results.run_folder import Recorded
from results.tables import axes as module
from results.tables.axes import AXES, Axis, axes_of, described, key_of, label, name_of, planned
from results.tables.store import read

RECORDED = Path(__file__).resolve().parents[2] / "golden" / "recorded"
STUDY = {
    "models": ["cnn"],
    "optimizers": ["sgd", {"name": "adam", "params": {"lr": 0.1}}],
    "losses": [{"name": "a/b.py:mine"}],
    "schedules": ["constant", "cosine"],
}


def test_what_a_study_asks_for_is_every_point_of_its_axes():
    names = [name_of(key) for key in planned(STUDY)]
    assert names == [
        "cnn + sgd + mine",
        "cnn + sgd + mine + cosine",
        "cnn + adam(lr=0.1) + mine",
        "cnn + adam(lr=0.1) + mine + cosine",
    ]


def test_rows_and_entries_have_one_name():
    row = {"model": "cnn", "optimizer": "sgd", "loss": "mine", "schedule": "constant"}
    row |= {"regularizer": "none", "pretrained": None, "clinical": None, "labels": None}
    assert key_of(row) == planned(STUDY)[0]
    assert [axis.column_value(axis.plain) for axis in AXES if axis.plain] == [
        "constant",
        "none",
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("adam", "adam"),
        ({"name": "sgd", "params": {"momentum": 0.5, "lr": 0.05}}, "sgd(lr=0.05, momentum=0.5)"),
        ("/home/someone/runs/first/", "first"),
        ({"name": "code/nets.py:Net", "params": {}}, "Net"),
    ],
)
def test_labels(entry, name):
    assert label(entry) == name


def test_a_footer_repeats_the_axes_and_one_without_has_the_first_six():
    assert axes_of({}) == AXES[:6]
    assert axes_of(json.loads(json.dumps({"axes": described()}))) == AXES


def test_combinations_that_have_no_row_are_incomplete_whatever_their_axis(make_run):
    """A study of two schedules of which one has rows is not complete."""
    run = make_run(study={"schedules": ["constant", "cosine"]})
    for found in Recorded(run).verdict["datasets"]:
        states = {row["schedule"]: row["state"] for row in found["combinations"]}
        assert states == {None: "judged", "cosine": "incomplete"}


def test_one_schedule_that_is_not_the_plain_one_makes_no_phantom(make_run):
    run = make_run(study={"schedules": ["cosine"]}, columns={"schedule": "cosine"})
    for found in Recorded(run).verdict["datasets"]:
        assert {row["schedule"] for row in found["combinations"]} == {"cosine"}


def test_an_axis_that_came_later_is_no_part_of_earlier_runs(tmp_path, monkeypatch):
    before = Recorded(RECORDED).verdict
    later = (*AXES, Axis(key="clippings", column="clipping", plain="none"))
    monkeypatch.setattr(module, "AXES", later)
    assert Recorded(RECORDED).verdict == before


def test_degradations_of_older_runs_get_their_own_column(tmp_path):
    """`recorded/` is of version 2: noise stood in the column of lesion sizes."""
    part = next((RECORDED / "metrics").glob("part*.parquet"))
    assert pq.read_schema(part).names[6:] == ["stratum", "value"]
    rows = read(RECORDED, "metrics").to_pylist()
    assert {row["stratum"] for row in rows} <= {"", "small"}
    assert {row["degradation"] for row in rows} == {"", "noise"}
    dices = [r for r in rows if r["metric"] == "dice" and r["headline"]]
    accuracies = [r for r in rows if r["metric"] == "accuracy" and r["headline"]]
    assert {(r["region"], r["convention"], r["unit"]) for r in dices} == {
        ("mean", "skip_empty", "case")
    }
    each = {(r["trial_id"], r["split"], r["degradation"]) for r in accuracies}
    trials = {r["trial_id"] for r in rows}
    assert len(each) == len(accuracies) == 3 * len(trials)  # inner, test, test with noise


def test_compaction_brings_older_files_up_to_date(tmp_path):
    from results.tables.store import compact

    shutil.copytree(RECORDED, tmp_path / "run")
    before = read(tmp_path / "run", "metrics")
    compact(tmp_path / "run")
    for path in (tmp_path / "run" / "metrics").glob("part*.parquet"):
        assert "degradation" in pq.read_schema(path).names
    assert read(tmp_path / "run", "metrics").equals(before)
