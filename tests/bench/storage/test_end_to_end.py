"""A study whose store and run are at addresses, by the functions and the command for people."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from bench import api
from bench.cli import app
from bench.core.references import StudyError
from bench.storage.objects import opened
from bench.storage.run_copy import readable
from bench.storage.run_keeper import driven
from bench.storage.store_copy import put_store
from results.report.write import load_verdicts
from results.tables.store import RunError, read
from tests.bench.storage.servers import BUCKET, GONE, PASS, elsewhere

STUDY = """
name: small
data: [{store}]
models: [plain_cnn]
optimizers: [sgd, adam]
losses: [ce]
folds: 2
epochs: 2
threads: 1
device: cpu
"""
GOLDEN = Path(__file__).resolve().parents[2] / "golden"


@pytest.fixture(autouse=True)
def notebook(monkeypatch, tmp_path):
    """Be a fresh process in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", lambda _threads: None)
    monkeypatch.setattr(api, "_begun", [])


def scores(folder) -> list[tuple]:
    """Return what a run found: trials with their ids and scores, and the score of every case."""
    wanted = ("trial_id", "status", "val_score", "test_score", "test_loss", "best_epoch")
    trials = read(folder, "trials", columns=wanted).to_pylist()
    cases = read(folder, "cases").to_pylist()
    metrics = read(folder, "metrics").to_pylist()
    return [tuple(row.values()) for row in (*trials, *cases, *metrics)]


def test_a_store_and_a_run_at_addresses_give_what_folders_give(
    storage, small_store, tmp_path, monkeypatch
):
    made = small_store("classification", 2)
    store, run = f"s3://{BUCKET}/stores/small", f"s3://{BUCKET}/runs/small"
    put_store(made.path, store, lambda *_: None)
    study, local = tmp_path / "small.yaml", tmp_path / "local.yaml"
    study.write_text(STUDY.format(store=store))
    local.write_text(STUDY.format(store=made.path))

    planned = api.plan(study, run)
    assert not opened(run).listed("")  # a plan writes nothing
    ended = api.run(study, run)
    assert ended.page == f"{run}/report.html"
    assert ended.progress.statuses == {"ok": 4}
    beside = api.run(local, tmp_path / "beside")
    assert scores(ended.folder) == scores(beside.folder)
    assert {t.trial_id for t in planned.plan.trials} == {
        row["trial_id"] for row in read(beside.folder, "trials").to_pylist()
    }
    # What the run says of its data is where they are, not where this machine has its copy.
    assert f"store: {store}" in opened(run).read("study.yaml").decode()

    elsewhere(monkeypatch, tmp_path / "other")
    assert scores(readable(run)) == scores(beside.folder)
    found = api.status(run)
    assert (found.run, found.done, found.driver.state) == (run, 4, "ended")
    again = api.run(study, run)
    assert again.progress.reused == 4
    assert again.folder != ended.folder
    assert "report.html" in opened(run).listed("")


def test_the_command_takes_addresses(storage, tmp_path, monkeypatch):
    for n in range(8):
        for folder in ("imagesTr", "labelsTr"):
            (tmp_path / "scans" / folder).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(n)
        image = rng.normal(size=(8, 8, 8)).astype(np.float32)
        for folder, values in (("imagesTr", image), ("labelsTr", (image > 0.5).astype(np.uint8))):
            file = tmp_path / "scans" / folder / f"case_{n:02d}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)
    (tmp_path / "scans" / "dataset.json").write_text(
        json.dumps(
            {
                "name": "made",
                "modality": {"0": "MRI"},
                "labels": {"0": "background", "1": "spot"},
                "training": [
                    {
                        "image": f"./imagesTr/case_{n:02d}.nii.gz",
                        "label": f"./labelsTr/case_{n:02d}.nii.gz",
                    }
                    for n in range(8)
                ],
            }
        )
    )
    store = f"s3://{BUCKET}/stores/made"

    def medopt(*words: str):
        return CliRunner().invoke(app, list(words), catch_exceptions=False, standalone_mode=False)

    command = ("prepare", "msd", "scans", "--out", store, "--workers", "1")
    assert medopt(*command).exit_code == 0
    assert medopt(*command).exit_code == 0  # up to date
    assert "store.json" in opened(store).listed("")
    elsewhere(monkeypatch, tmp_path / "other")
    assert "every array is as it was written" in medopt("verify", store).output
    monkeypatch.chdir(tmp_path)
    assert medopt("show", store, "--cases", "1").exit_code == 0
    assert (tmp_path / "made.html").is_file()
    assert (tmp_path / "made.png").is_file()


def test_a_report_goes_where_the_run_is(storage, tmp_path, monkeypatch):
    run = f"s3://{BUCKET}/runs/recorded"
    with driven(run) as kept:
        shutil.copytree(GOLDEN / "recorded", kept.folder, dirs_exist_ok=True)
    elsewhere(monkeypatch, tmp_path / "other")
    shown = CliRunner().invoke(app, ["report", run], catch_exceptions=False)
    assert f"{run}/report.html" in shown.output.replace("\n", "")
    assert json.loads(opened(run).read("verdict.json")) == load_verdicts(GOLDEN / "recorded")
    assert b"</html>" in opened(run).read("report.html")


@pytest.mark.slow
def test_trials_go_on_while_the_storage_is_away(storage, small_store, tmp_path):
    study = tmp_path / "small.yaml"
    study.write_text(STUDY.format(store=small_store("classification", 2).path))
    run = f"s3://{BUCKET}/runs/small"
    done = []

    def changed(progress) -> None:
        done.append(progress.done)
        # From the first result on it is away, until all have one.
        storage.rule = lambda *_: GONE if 0 < progress.done < 4 else PASS

    ended = api.run(study, run, changed=changed)
    assert ended.progress.statuses == {"ok": 4}
    assert any(what == GONE for *_, what in storage.seen)
    assert len(opened(run).listed("trials/")) == 4


def test_what_cannot_be_is_told_in_a_sentence(storage, small_store, tmp_path):
    study = tmp_path / "small.yaml"
    study.write_text(STUDY.format(store=f"s3://{BUCKET}/stores/none"))
    with pytest.raises(StudyError, match=r"stores/none is not a store"):
        api.plan(study)
    with pytest.raises(StudyError, match="there is no such bucket"):
        api.run(study, "s3://nowhere-at-all/run")
    with pytest.raises((StudyError, RunError), match="holds no run"):
        api.status(f"s3://{BUCKET}/runs/none")
