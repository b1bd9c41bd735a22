"""The work of the command, called from Python: what comes back, what is raised, what is written."""

import copy
import hashlib
import json
import logging
import os
import re
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from bench import api
from bench.core.references import StudyError
from bench.execution import trial_queue
from bench.planning.cost.estimate import ROUNDS
from loaders.cases import BadCase, BadSource
from results.report.write import write_report
from results.run_folder import Recorded
from results.tables.store import RunError, finished, read

STUDY = """
name: small
data: [{store}]
models: [plain_cnn]
optimizers: [sgd, adam]
losses: [{losses}]
folds: 3
epochs: 2
threads: 1
device: cpu
"""


@pytest.fixture(autouse=True)
def notebook(monkeypatch, tmp_path):
    """Be a fresh process in a folder of its own; return the threads it was begun with."""
    begun = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr("bench.core.startup.begin", begun.append)  # begun for all tests already
    monkeypatch.setattr(api, "_begun", [])
    return begun


@pytest.fixture
def study(small_store, tmp_path):
    """Return a maker of study files by their losses."""

    def make(losses: str = "ce"):
        path = tmp_path / "small.yaml"
        path.write_text(STUDY.format(store=small_store("classification", 2).path, losses=losses))
        return path

    return make


class Counted:
    """Notes what is counted, and how far."""

    def __init__(self):
        self.calls = {}

    @contextmanager
    def __call__(self, what):
        yield lambda done, total: self.calls.setdefault(what, []).append((done, total))


def test_plan_then_run_then_go_on(study, tmp_path, notebook, capfd):
    path, counted, heard = study(), Counted(), []
    planned = api.plan(str(path), counting=counted)
    assert len(planned.plan.trials) == 6
    assert 0 < planned.low < planned.seconds < planned.high
    told = counted.calls["measuring"]
    # Five parts and two optimizers' updates, warmed up and in rounds.
    assert told == [(number, 7 * (1 + ROUNDS)) for number in range(7 * (1 + ROUNDS) + 1)]
    assert not (tmp_path / "runs").exists()

    said = []
    ended = api.run(str(path), changed=heard.append, say=said.append)
    assert len(said) == 2
    assert ended.folder.resolve() == tmp_path / "runs" / "small"
    assert ended.progress.statuses == {"ok": 6}
    assert heard[-1].done == 6
    assert ended.page == ended.folder / "report.html"
    assert ended.page.stat().st_size > 10_000
    assert ended.verdict == json.loads((ended.folder / "verdict.json").read_text())
    assert ended.verdict["datasets"][0]["reason"]
    assert "test_score" in read(ended.folder, "trials").column_names
    assert (ended.folder / "log.txt").read_text().count(" INFO ok ") == 6

    before = {p: p.stat().st_mtime_ns for p in (ended.folder / "trials").iterdir()}
    again = api.run(path, ended.folder)
    assert (again.progress.reused, again.progress.statuses) == (6, {"ok": 6})
    assert before == {p: p.stat().st_mtime_ns for p in (ended.folder / "trials").iterdir()}
    assert notebook == [1]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_what_a_sample_costs_alone_is_measured_before_a_run_or_after(study, tmp_path):
    path = api.price(study(), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["alone.parquet"]
    rows = pq.read_table(path).to_pylist()
    assert [row["optimizer"] for row in rows] == ["sgd", "adam", "sgd", "adam"]
    assert all(row["sample_sec"] > 0 and row["threads"] == 1 for row in rows)
    ended = api.run(study(), tmp_path / "run")
    assert "of what <span" in ended.page.read_text(encoding="utf-8")
    costs = Recorded(tmp_path / "run").alone["small-classification", "plain_cnn + adam + ce"]
    assert [row["sample_sec"] for row in costs] == [r["sample_sec"] for r in rows[1::2]]
    path.write_bytes(b"cut")
    with pytest.raises(RunError, match=r"alone.parquet is damaged .*`medopt price` measures it"):
        write_report(tmp_path / "run")


def test_the_rule_stands_before_the_first_trial(study, tmp_path):
    """Its hash is of study.yaml as the run fixed it, wherever data lie; a later edit is told."""
    said = []

    def trained(progress):
        said.append(progress.done)

    ended = api.run(study(), changed=trained, say=said.append)
    rule = json.loads((ended.folder / "rule.json").read_text())
    content = yaml.safe_load((ended.folder / "study.yaml").read_text())
    anywhere = copy.deepcopy(content)
    for entry in anywhere["data"]:
        del entry["store"], entry["test"]
    text = json.dumps(anywhere, sort_keys=True, ensure_ascii=False)
    assert rule["hash"] == hashlib.sha256(text.encode()).hexdigest()
    assert (rule["margin"], rule["alpha"]) == (content["margin"], content["alpha"])
    assert rule["primary"] == content["primary"]
    assert said[0].startswith(f"rule: study {rule['hash'][:12]}, judged by ")
    assert re.match(r"\d+ trials? at once, 1 thread each", said[1])
    assert all(isinstance(each, int) for each in said[2:])
    assert ended.verdict["rule"] == rule
    before = ended.verdict["datasets"][0]["warnings"]

    (ended.folder / "study.yaml").write_text(yaml.safe_dump(content | {"margin": 0.3}))
    warning, *others = ended.verdict["datasets"][0]["warnings"]
    assert others == before
    assert warning.startswith("margin was 0.01 before the first trial, but study.yaml now says 0.3")
    # A rule of before deviations is one.
    (ended.folder / "study.yaml").write_text(yaml.safe_dump(content))
    older = {key: value for key, value in rule.items() if key != "deviations"}
    (ended.folder / "rule.json").write_text(json.dumps(older))
    assert ended.verdict["rule"] == rule
    assert ended.verdict["datasets"][0]["warnings"] == before
    # Nor does it help to write another rule: each file of results repeats the first in its footer.
    (ended.folder / "study.yaml").write_text(yaml.safe_dump(content | {"margin": 0.3}))
    for other in (json.dumps(rule | {"margin": 0.3}), "none"):
        (ended.folder / "rule.json").write_text(other)
        assert ended.verdict["datasets"][0]["warnings"][0] == warning
        assert ended.verdict["rule"]["hash"] is None


@pytest.mark.slow
def test_a_pilot_tells_what_a_plan_will_be_able_to_find(study, tmp_path):
    pilot = api.run(study()).folder
    path = study()
    path.write_text(path.read_text().replace("folds: 3", "folds: 5"))
    (told,) = api.plan(path, tmp_path / "more", pilot=pilot).foreseen
    assert (told.folds, told.seeds, told.combinations) == (3, 1, 2)
    p = told.prediction
    assert 0 < p.low < p.half_width < p.high
    assert p.findable > p.half_width
    assert f"to within {p.half_width:.3f} AUC (80 % range {p.low:.3f} to {p.high:.3f})" in str(told)
    assert api.plan(path, tmp_path / "more").foreseen == ()
    text = path.read_text().replace("data: [", "data: [{name: other, store: ")
    path.write_text(text.replace("]\nmodels", "}]\nmodels"))
    with pytest.raises(StudyError, match="A pilot must be a run on the same data"):
        api.plan(path, tmp_path / "more", pilot=pilot)


def test_a_plan_is_for_the_folder_that_is_asked_for(study, tmp_path):
    assert api.plan(study(), tmp_path / "there").plan.folder == tmp_path / "there"


@pytest.mark.slow
def test_one_trial_is_run_and_a_trial_that_breaks_is_counted(study, tmp_path):
    (tmp_path / "own.py").write_text(
        "def breaks(logits, target):\n"
        "    if len(logits) > 3:  # which it is tried with\n"
        "        raise ValueError('planted')\n"
        "    return logits.mean()\n"
    )
    planned = api.plan(study())
    chosen = planned.plan.trials[4].trial_id
    ended = api.run(study(), "one", trial=chosen)
    assert list(finished(ended.folder)) == [chosen]
    with pytest.raises(StudyError, match="no trial 'a0'"):
        api.run(study(), "one", trial="a0")

    ended = api.run(study("ce, own.py:breaks"), "both")
    assert ended.progress.statuses == {"ok": 6, "failed": 6}
    assert "planted" in (ended.folder / "log.txt").read_text()


def test_a_users_file_that_moves_the_process_when_it_is_loaded_splits_no_run(
    study, tmp_path, notebook, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own.py").write_text(
        "import os, signal\nfrom torch.nn.functional import cross_entropy\n"
        "def loss(logits, target):\n    return cross_entropy(logits, target)\n"
        "os.chdir('elsewhere')\nos.environ['MEDOPT_KEY'] = 'other'\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    )
    before = signal.getsignal(signal.SIGINT)
    path = study("own.py:loss")
    ended = api.run(path.name, "runs/one", trial=api.plan(path.name).plan.trials[0].trial_id)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert Path.cwd() == tmp_path
    assert ended.folder == tmp_path / "runs" / "one"
    assert ended.page.exists()
    assert os.environ["MEDOPT_KEY"] == "test"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_users_file_that_exits_when_it_is_loaded_is_a_bad_study(study, tmp_path):
    (tmp_path / "own.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(StudyError, match=r"own\.py failed while it was loaded: SystemExit: 0"):
        api.run(study("own.py:loss"))


def test_what_cannot_be_run_writes_nothing(study, tmp_path):
    with pytest.raises(StudyError, match="need Ray"):
        api.run(study(), gpus_per_trial=2)
    with pytest.raises(StudyError, match="Did you mean 'focal'"):
        api.run(study("focall"))
    with pytest.raises(StudyError, match="Ready studies"):
        api.run("nothing.yaml")
    assert not (tmp_path / "runs").exists()


def test_a_process_measures_with_one_number_of_threads_and_runs_any(study, notebook):
    path = study()
    api.plan(path)
    path.write_text(path.read_text().replace("threads: 1", "threads: 2"))
    with pytest.raises(StudyError, match="trains with 1, but the study needs 2"):
        api.plan(path)
    ended = api.run(path, trial=None)
    assert set(read(ended.folder, "trials")["threads"].to_pylist()) == {2}
    assert notebook == [1]


def test_a_store_that_changes_between_two_calls_is_refused(study, tmp_path, small_store):
    """In one process, as in a notebook: what it has opened before is looked at again."""
    shutil.copytree(small_store("classification", 2).path, tmp_path / "store")
    path = study()
    path.write_text(path.read_text().replace(str(small_store("classification", 2).path), "store"))
    first = api.plan(path).plan.trials[0].trial_id
    api.run(path, trial=first)
    array = min((tmp_path / "store" / "arrays").iterdir())
    whole = array.read_bytes()
    array.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for call in (api.plan, api.run):
        with pytest.raises(StudyError, match=f"{array.name} has changed since it was written"):
            call(path)
    array.write_bytes(whole)
    assert api.run(path).progress.statuses == {"ok": 6}


def test_a_store_that_changes_while_trials_run_fails_them(
    study, tmp_path, small_store, monkeypatch
):
    for name in ("TELLING", "GATHER_SEC"):  # else not every result is written and told by itself
        monkeypatch.setattr(trial_queue, name, 0)
    shutil.copytree(small_store("classification", 2).path, tmp_path / "store")
    path = study()
    path.write_text(path.read_text().replace(str(small_store("classification", 2).path), "store"))
    array = min((tmp_path / "store" / "arrays").iterdir())
    last = array.read_bytes()[-1]

    def changed(progress):
        if progress.done >= 2:
            # In place: a trial has the file mapped, and one cut short under it ends its process.
            with array.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last ^ 1]))

    ended = api.run(path, changed=changed, lanes=1)
    # The next is in hand by then, and may have looked at the store already.
    assert ended.progress.statuses in ({"ok": n, "failed": 6 - n} for n in (2, 3, 4))
    rows = read(ended.folder, "trials").to_pylist()
    reasons = {row["reason"] for row in rows if row["status"] == "failed"}
    assert all(f"{array.name} has changed since it was written" in reason for reason in reasons)


def test_a_narrower_study_is_told_what_else_its_run_holds(study):
    said = []
    api.run(study(), say=said.append)
    assert not any("earlier" in line for line in said)
    path = study()
    path.write_text(path.read_text().replace("[sgd, adam]", "[sgd]"))
    ended = api.run(path, say=said.append)
    assert "3 finished trials from an earlier, longer study are in this run: the verdict" in str(
        said
    )
    assert len(ended.verdict["datasets"][0]["combinations"]) == 2


@pytest.mark.slow
def test_a_trial_that_lost_its_metrics_is_run_again(study):
    ended = api.run(study())
    before = read(ended.folder, "metrics")
    lost = min((ended.folder / "metrics").iterdir())
    lost.unlink()
    assert "1 finished trial lost files in metrics/" in ended.verdict["datasets"][0]["warnings"][0]
    again = api.run(study())
    assert (again.progress.reused, again.progress.statuses) == (5, {"ok": 6})
    assert f"trial {lost.stem} has lost its file in metrics/" in (
        (ended.folder / "log.txt").read_text()
    )
    assert read(ended.folder, "metrics") == before
    assert not any("lost" in warning for warning in ended.verdict["datasets"][0]["warnings"])


@pytest.mark.slow
def test_logging_is_left_as_it_was(study):
    ours = logging.getLogger("medopt")
    before = (ours.level, ours.propagate, list(ours.handlers))
    api.run(study(), trial=api.plan(study()).plan.trials[0].trial_id)
    assert (ours.level, ours.propagate, ours.handlers) == before


@pytest.mark.slow
def test_trials_run_side_by_side_as_one_after_the_other(study, monkeypatch):
    """By default as many as there is room for: here 3 cores, and memory for two."""
    monkeypatch.setattr("loaders.cores.usable_cores", lambda: 3)
    monkeypatch.setattr("bench.training.room.usable_memory", lambda: int(3.5 * 2**30))
    planned, said = api.plan(study()), []
    assert planned.lanes == 2
    assert planned.room.startswith("2 trials at once, 1 thread each, by the memory: 3 cores")
    two = api.run(study(), "two", say=said.append)
    assert f"{planned.room}." in said
    assert planned.room in (two.folder / "log.txt").read_text()
    one = api.run(study(), "one", lanes=1, say=said.append)
    assert not any("1 trial at once" in line for line in said)  # as it was asked for
    rows = [read(ended.folder, "trials").to_pylist() for ended in (one, two)]
    assert [{row["shared_device"] for row in each} for each in rows] == [{False}, {True}]
    assert {row["lane"] for row in rows[0]} == {"process"}
    assert {row["lane"] for row in rows[1]} <= {"process 1", "process 2"}
    metrics = [sorted(map(str, read(e.folder, "metrics").to_pylist())) for e in (one, two)]
    assert metrics[0] == metrics[1]
    # Seconds of trials side by side are noise: prices come of a measurement of each alone.
    assert "let `medopt price` measure" in two.page.read_text()
    assert "let `medopt price` measure" not in one.page.read_text()


@pytest.mark.ray
@pytest.mark.slow
def test_lanes_of_ray_give_what_the_process_gives(study):
    heard = []
    here = api.run(study(), "here")
    lanes = api.run(study(), "lanes", ray="local", lanes=1, changed=heard.append)
    assert lanes.progress.statuses == {"ok": 6}
    assert heard[0].done == 0
    one, other = (
        sorted(map(str, read(ended.folder, "metrics").to_pylist())) for ended in (here, lanes)
    )
    assert one == other


def scans(folder):
    """Write three scans with masks in the Decathlon's layout, one of them without its mask."""
    rng = np.random.default_rng(0)
    for n in range(3):
        image = rng.normal(size=(8, 9, 10)).astype(np.float32)
        for part, array in (("imagesTr", image), ("labelsTr", (image > 0.5).astype(np.uint8))):
            path = folder / part / f"case_{n:03}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    (folder / "labelsTr" / "case_001.nii.gz").unlink()


def test_prepare_returns_what_became_of_the_source(tmp_path):
    scans(tmp_path / "task")
    counted = Counted()
    report = api.prepare("msd", "task", out="store", workers=1, counting=counted)
    assert (report.n_cases, report.reused) == (2, False)
    assert ["case_001" in bad.where for bad in report.rejected] == [True]
    assert list(counted.calls) == ["reading"]
    assert counted.calls["reading"][-1] == (2, 2)
    assert api.prepare("msd", "task", out="store", workers=1).reused


def test_prepare_says_what_it_cannot_use(tmp_path):
    scans(tmp_path / "task")
    with pytest.raises(BadCase, match="no label") as bad:
        api.prepare("msd", "task", out="store", strict=True, workers=1)
    assert "case_001" in bad.value.where
    with pytest.raises(BadSource, match="Did you mean 'medmnist'"):
        api.prepare("medmnits", "task", out="store")
    with pytest.raises(BadSource, match="msd needs SOURCE"):
        api.prepare("msd", out="store")
    with pytest.raises(BadSource, match="colour"):
        api.prepare("msd", "task", out="store", options={"colour": "red"})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("number", [0, -1, 2.0, True, 10**9])
def test_no_number_of_lanes_or_workers_that_cannot_be(study, number):
    path = study()
    for wrong in (
        lambda: api.plan(path, lanes=number),
        lambda: api.run(path, ray="local", lanes=number),
        lambda: api.run(path, ray="local", gpus_per_trial=number),
        lambda: api.prepare("msd", "task", out="store", workers=number),
    ):
        with pytest.raises((StudyError, BadSource), match="must be a whole number from 1 to"):
            wrong()


@pytest.mark.slow
def test_what_a_notebook_is_told_names_what_a_notebook_has(study):
    with pytest.raises(StudyError, match=r"in Python by `ray=\"local\"`"):
        api.run(study(), gpus_per_trial=2)
    with pytest.raises(StudyError, match="no trial 'a0'") as caught:
        api.run(study(), trial="a0")
    assert "--" not in str(caught.value).replace("`medopt plan --json`", "")
    ended = api.run(study())
    changed = study()
    changed.write_text(changed.read_text().replace("folds: 3", "folds: 2"))
    with pytest.raises(StudyError, match="another run folder") as caught:
        api.run(changed, ended.folder)
    assert "--" not in str(caught.value)
