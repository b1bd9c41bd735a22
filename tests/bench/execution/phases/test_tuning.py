"""Tuned runs as they are asked for: what is written, what goes on after a kill, where they run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench import api
from bench.core.references import StudyError
from results.tables.store import finished, footer, read

ROOT = Path(__file__).resolve().parents[4]

STUDY = """
name: small
data: [{store}]
models: [plain_cnn]
optimizers: [sgd, {{adam: {{lr: 0.001}}}}]
losses: [ce]
seeds: [3, 4]
folds: 2
epochs: {epochs}
threads: 1
device: cpu
loader: torch
"""


@pytest.fixture(autouse=True)
def notebook(monkeypatch, tmp_path):
    """Be a fresh process in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    monkeypatch.setattr(api, "_begun", [])


@pytest.fixture
def study(small_store, tmp_path):
    """Return a maker of study files."""

    def make(epochs: int = 2) -> Path:
        path = tmp_path / "small.yaml"
        store = small_store("classification", 2).path
        path.write_text(STUDY.format(store=store, epochs=epochs))
        return path

    return make


def rows(folder: Path, table: str = "trials") -> list[dict[str, object]]:
    return read(folder, table).to_pylist()


# What differs between two runs of the same trial: when, how long, by which lane.
TIMED = (
    "_sec",
    "_at",
    "_ms",
    "ms_",
    "samples_per",
    "voxels_per",
    "lane",
    "shared",
    "peak_",
    "commit",
)


def numbers(folder: Path, table: str) -> list[dict[str, object]]:
    """Return the rows of a table without what no two runs have alike."""
    return [
        {k: v for k, v in row.items() if not any(t in k for t in TIMED)}
        for row in rows(folder, table)
    ]


def test_a_tuned_run_scores_the_chosen_alone_and_goes_on(study, tmp_path):
    heard = []
    ended = api.tune(study(), points=3, defaults=True, changed=heard.append)
    assert ended.folder == tmp_path / "runs" / "small-tuned"
    points, final = rows(ended.folder / "points"), rows(ended.folder)
    # adam's rate is set by the study, which leaves it nothing to search.
    assert {row["optimizer"] for row in points} == {"sgd"}
    assert len(points) == 2 * 3
    assert all(row["test_score"] is None and row["seed"] == 3 for row in points)
    assert not rows(ended.folder / "points", "cases")
    assert len(final) == 2 * 2 * 2
    assert {(row["optimizer"], row["tuned"]) for row in final} == {
        ("sgd", True),
        ("adam(lr=0.001)", False),
    }
    for row in final:
        assert row["test_score"] is not None
        if row["tuned"]:
            mine = [p for p in points if p["fold"] == row["fold"]]
            best = max(sorted(mine, key=lambda p: p["point"]), key=lambda p: p["val_score"])
            assert (row["point"], row["points"]) == (best["point"], 3)
            assert row["hparams"] == best["hparams"]
            if row["seed"] == 3:
                # Trained again with the test fold scored: the same numbers to the bit.
                assert row["val_score"] == best["val_score"]
                assert row["best_epoch"] == best["best_epoch"]
    assert set(footer(ended.folder)["spaces"]["sgd"]) == {"lr", "momentum"}
    total = 6 + 8 + 8
    assert {progress.total for progress in heard} == {total}
    assert [p.done for p in heard] == sorted(p.done for p in heard)
    assert (heard[-1].done, ended.progress.statuses) == (total, {"ok": total})
    (found,) = ended.verdict["datasets"]
    assert found["settings"].startswith("Only plain_cnn + sgd + ce was tuned, and so had")
    plain = rows(ended.folder / "defaults")
    assert len(plain) == 8
    assert not any(row["tuned"] for row in plain)
    assert (ended.folder / "defaults" / "report.html").exists()

    again = api.tune(study(), points=3, defaults=True)
    assert again.progress.reused == total
    assert rows(ended.folder) == final


@pytest.mark.slow
def test_what_is_tuned_and_what_is_not_are_two_runs(study, tmp_path):
    path = study()
    api.tune(path, points=2)
    with pytest.raises(StudyError, match=r"tuning: this run was made with .*'points': 2"):
        api.tune(path, points=3)
    with pytest.raises(StudyError, match="tuning: this run was made with"):
        api.run(path, tmp_path / "runs" / "small-tuned")
    path.write_text(path.read_text() + "tuning: {points: 2}\n")
    with pytest.raises(StudyError, match="use `medopt tune`"):
        api.run(path)
    assert api.tune(path).progress.reused == 2 * 2 + 8


def test_a_plan_counts_the_points(study):
    planned = api.plan(study(), points=4)
    assert planned.points == 2 * 4
    assert len(planned.plan.trials) == 2 * 4 + 8
    assert planned.plan.folder.name == "small-tuned"
    plain = api.plan(study())
    assert (plain.points, len(plain.plan.trials)) == (0, 8)


TUNE = """
import json, sys
from bench import api
api.tune(sys.argv[1], sys.argv[2], points=6, **json.loads(sys.argv[3]))
"""


def killed_in_mid_search(path: Path, folder: Path, **where: object) -> None:
    """Start a tuned run in a process of its own and kill it once two points are there."""
    driver = subprocess.Popen(
        [sys.executable, "-c", TUNE, path, folder, json.dumps(where)],
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    until = time.monotonic() + 200
    while len(finished(folder / "points")) < 2:
        assert driver.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    psutil.wait_procs(children, timeout=60)


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(study, tmp_path):
    path = study(epochs=4)
    killed_in_mid_search(path, tmp_path / "killed")
    before = {row["trial_id"]: row for row in rows(tmp_path / "killed" / "points")}
    assert 2 <= len(before) < 12
    assert not finished(tmp_path / "killed")
    ended = api.tune(path, tmp_path / "killed", points=6)
    after = {row["trial_id"]: row for row in rows(tmp_path / "killed" / "points")}
    assert len(after) == 12
    assert before.items() <= after.items()
    whole = api.tune(path, tmp_path / "whole", points=6)
    assert ended.progress.statuses == whole.progress.statuses == {"ok": 12 + 8}
    for part in (Path(), Path("points")):
        for table in ("trials", "metrics", "epochs"):
            assert [
                {**row, "attempt": 1} for row in numbers(tmp_path / "killed" / part, table)
            ] == [{**row, "attempt": 1} for row in numbers(tmp_path / "whole" / part, table)]


@pytest.mark.ray
@pytest.mark.slow
def test_points_on_lanes_are_those_of_the_process(study, tmp_path):
    path = study()
    killed_in_mid_search(path, tmp_path / "lanes", ray="local", lanes=2)
    lanes = api.tune(path, tmp_path / "lanes", points=6, ray="local", lanes=2)
    assert lanes.progress.statuses == {"ok": 12 + 8}
    api.tune(path, tmp_path / "here", points=6)
    for part in (Path(), Path("points")):
        for table in ("metrics", "epochs"):
            assert numbers(tmp_path / "lanes" / part, table) == numbers(
                tmp_path / "here" / part, table
            )
