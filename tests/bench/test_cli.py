"""The command as a user meets it: exit status, one clear sentence, and nothing lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import typer
import yaml

from bench import api, cli
from bench.catalogue import TABLES
from bench.execution.stopping import LAST_WORDS, last_words
from results.tables import store as results
from results.text import count
from tests.forks import stand_in

ROOT = Path(__file__).resolve().parents[2]

STUDY = """
name: small
data: [{store}]
models: [plain_cnn]
optimizers: [sgd, adam]
losses: [ce]
folds: 3
epochs: 2
threads: 1
"""


@pytest.fixture
def medopt(monkeypatch, capsys, tmp_path):
    """Run a command line in this process; return its exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr(
        "bench.core.startup.begin", lambda _threads: None
    )  # begun for all tests already
    monkeypatch.setattr(api, "_begun", [])
    # Wide, so that no sentence is broken.
    monkeypatch.setattr(cli, "out", cli.Console(width=400, highlight=False))
    monkeypatch.setattr(cli, "err", cli.Console(width=400, highlight=False, stderr=True))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medopt", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.fixture(scope="session")
def ran(small_store, tmp_path_factory):
    """Return a finished run of STUDY, made once: tests copy it."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "small.yaml").write_text(STUDY.format(store=small_store("classification", 2).path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.core.processes.subprocess", stand_in())
        return api.run(folder / "small.yaml", folder / "run").folder


@pytest.fixture
def study(small_store, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(STUDY.format(store=small_store("classification", 2).path))
    return path


def test_a_run_ends_with_a_verdict_and_a_report_and_resumes(medopt, study, tmp_path):
    status, out, told = medopt("run", study)
    assert status == 0
    run = tmp_path / "runs" / "small"
    assert "fixed before the first trial" in " ".join(told.split())
    assert (run / "report.html").stat().st_size > 10_000
    assert "report:" in out
    assert json.loads((run / "verdict.json").read_text())
    assert len(results.finished(run)) == 6
    before = {p: p.stat().st_mtime_ns for p in (run / "trials").iterdir()}
    status, _, _ = medopt("run", study)
    assert status == 0
    assert before == {p: p.stat().st_mtime_ns for p in (run / "trials").iterdir()}


def trials_in(file: Path) -> int:
    """Return how many trials a file of a table holds: short ones are written several at once."""
    return len(set(pq.read_table(file, columns=["trial_id"])["trial_id"].to_pylist()))


def test_a_report_of_a_run_that_lost_metrics_says_so_and_is_exit_1(medopt, ran, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(ran, run)
    assert medopt("report", run)[0] == 0
    file = min((run / "metrics").iterdir())
    lost = trials_in(file)
    file.unlink()
    status, _, err = medopt("report", run)
    assert status == 1
    said = f"{count(lost, 'finished trial')} lost files in metrics/ and cannot be counted"
    assert said in " ".join(err.split())
    assert said in json.loads((run / "verdict.json").read_text())["datasets"][0]["warnings"][0]
    assert said in " ".join((run / "report.html").read_text().split())


def test_a_report_of_a_run_with_a_damaged_row_says_so_and_is_exit_1(medopt, ran, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(ran, run)
    row = min((run / "trials").iterdir())
    lost = trials_in(row)
    row.write_text("no table")
    status, _, err = medopt("report", run)
    assert status == 1
    left_out = f"{count(lost, 'trial')} of the run {'is' if lost == 1 else 'are'} left out"
    assert f"trials/{row.name} is damaged: {left_out}" in " ".join(err.split())


def test_plan_counts_and_estimates(medopt, study):
    status, out, _ = medopt("plan", study, "--json")
    assert status == 0
    plan = json.loads(out)
    assert len(plan["trials"]) == 6
    assert plan["seconds"] > 0
    (scales,) = plan["gradient_norms"]
    assert scales["model"] == "plain_cnn"
    assert all(norm > 0 for norm in scales["norms"].values())
    assert "gradient norms at the start, " in medopt("plan", study)[1]


def test_a_plan_is_laid_out_over_gpus(medopt, study):
    status, out, _ = medopt(
        "plan", study, "--lanes", 1, "--gpus", 2, "--gpu-kind", "L4", "--price", 0.5, "--json"
    )
    planned = json.loads(out)
    told = planned["schedule"]
    assert (status, told["gpus"], told["gpu_kind"]) == (0, 2, "L4")
    run = told["run"]
    assert 0 < run["seconds"] < planned["seconds"]  # without what is around the trials
    assert run["gpu_hours"] == pytest.approx(2 * run["seconds"] / 3600)
    assert run["cost"] == pytest.approx(0.5 * run["gpu_hours"])
    said = medopt("plan", study, "--gpus", 2)[1]
    assert "on 2 GPUs, one trial on each: " in said
    assert "measured on this CPU (" in said
    status, _, err = medopt("plan", study, "--price", 2)
    assert status == 2
    assert "--gpus" in err


@pytest.mark.slow
def test_a_study_is_tuned_and_its_plan_says_what_that_takes(medopt, study, tmp_path):
    study.write_text(study.read_text().replace("folds: 3", "folds: 2"))
    status, out, _ = medopt("plan", study, "--points", 2, "--json")
    planned = json.loads(out)
    assert (status, planned["points"], len(planned["trials"])) == (0, 8, 8 + 4)
    assert "12 trials, 8 of them search points" in medopt("plan", study, "--points", 2)[1]
    status, out, _ = medopt("tune", study, "--points", 2)
    assert status == 0
    assert "with its defaults and 1 draw from its search space" in out
    assert "a lead belongs to the configuration" in out
    assert "runs/small-tuned/report.html" in out
    status, _, err = medopt("tune", study, "--points", 1)
    assert (status, "tuning.points" in err) == (2, True)


def test_one_trial_by_its_id(medopt, study, tmp_path):
    trial = json.loads(medopt("plan", study, "--json")[1])["trials"][4]["trial_id"]
    assert medopt("run", study, "--trial", trial)[0] == 0
    assert list(results.finished(tmp_path / "runs" / "small")) == [trial]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("adam", "adamm"), "Did you mean 'adam'?"),
        (("epochs:", "epoch:"), "Did you mean 'epochs'?"),
        (("folds: 3", "folds: 30"), "fold"),
        (("plain_cnn", "nets.py:Net"), "no file nets.py"),
    ],
)
def test_a_bad_study_is_exit_2_and_a_sentence(medopt, study, change, said):
    study.write_text(study.read_text().replace(*change))
    status, out, err = medopt("run", study)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nothing.yaml"], "Ready studies: breastmnist, demo"),
        (["prepare", "medmnits", "."], "Did you mean 'medmnist'?"),
        (["prepare", "msd", "nowhere"], "nowhere"),
        (["prepare", "msd", "."], "no"),
        (["prepare", "msd", ".", "--set", "labels"], "NAME=VALUE"),
        (["prepare", "msd", ".", "--set", "colour=red"], "colour"),
        (["prepare", "msd", ".", "--conflicts", "drop"], "Choices: keep, reject"),
        (["verify", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["list", "modles"], "Did you mean 'models'?"),
        (["plan", "demo", "--points", "1"], "--points"),
        (["tune", "demo", "--points", "0"], "--points"),
        (["plan", "breastmist"], "Did you mean 'breastmnist'?"),
        (["run", "demo", "--gpus-per-trial", "2"], "--ray"),
        (
            ["plan", "demo", "--lanes", "100000"],
            "lanes is 100000; it must be a whole number from 1 to",
        ),
        (["prepare", "msd", ".", "--set", "a=1", "--set", "a=2"], "--set a is given twice"),
        (
            ["run", "demo", "--out", "hdfs://host/runs/a"],
            "out hdfs:/host/runs/a: this must be a folder",
        ),
        (["plan", "demo", "--out", "ftp://bucket/a"], "folder or file on a disk, and ftp: is not"),
        (["demo", "--out", "file:///tmp/a"], "Runs and stores may also be at s3://BUCKET/PATH"),
        (
            ["prepare", "msd", ".", "--out", "hdfs://host/store"],
            "out hdfs:/host/store: this must be a folder",
        ),
    ],
)
def test_bad_usage_is_exit_2_and_a_sentence(medopt, words, said, tmp_path):
    extra = ["--out", "store"] if words[0] == "prepare" and "--out" not in words else []
    status, out, err = medopt(*words, *extra)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--out", "store"]])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["raw/nope"], "there is no folder, file or kind called 'raw/nope'"),
        (["imagse"], "Did you mean 'images'?"),
        (["imagse", "."], "unknown kind 'imagse'. Did you mean 'images'?"),
        (["medmnits:bloodmnist"], "Did you mean 'medmnist'?"),
    ],
)
def test_a_kind_that_is_none_is_told_whatever_else_lacks(medopt, words, said, more):
    status, out, err = medopt("prepare", *words, *more)
    assert (status, out) == (2, "")
    assert said in " ".join(err.split())


@pytest.mark.parametrize("words", [["frobnicate"], ["run"], ["run", "demo", "--fast"]])
def test_what_the_parser_does_not_know_is_exit_2(medopt, words):
    assert medopt(*words)[0] == 2


@pytest.mark.parametrize("kind", ["models", "optimizers", "losses", "metrics", "loaders", "data"])
def test_every_table_is_listed_with_a_name_and_a_source_or_summary(medopt, kind):
    status, out, _ = medopt("list", kind, "--json")
    assert status == 0
    rows = json.loads(out)
    assert rows
    for row in rows:
        assert row["name"]
        assert row.get("source") or row["summary"]
    assert medopt("list", kind)[0] == 0


def test_help_teaches_every_command(medopt):
    status, out, _ = medopt("--help")
    assert status == 0
    commands = (
        "demo prepare verify plan run tune status report price export compare recipe claims list "
        "doctor"
    )
    for command in commands.split():
        assert command in out
        assert len(medopt(command, "--help")[1]) > 200


def test_doctor_says_what_works(medopt):
    _, out, _ = medopt("doctor", "--json")
    findings = {f["what"]: f for f in json.loads(out)}
    assert {"GPUs", "loaders", "Ray", "disk"} <= set(findings)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (["run", "s.yaml", "--ray"], ["run", "s.yaml", "--ray", "local"]),
        (["run", "--ray", "s.yaml"], ["run", "--ray", "local", "s.yaml"]),
        (["run", "s", "--ray", "--lanes", "2"], ["run", "s", "--ray", "local", "--lanes", "2"]),
        (["run", "s", "--ray", "auto"], ["run", "s", "--ray", "auto"]),
        (["run", "s", "--ray", "10.0.0.1:6379"], ["run", "s", "--ray", "10.0.0.1:6379"]),
    ],
)
def test_ray_stands_alone_or_with_an_address(given, made):
    assert cli._arguments(given) == made


def test_preparing_rejects_single_cases_and_says_how_many(medopt, tmp_path):
    import nibabel

    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "task" / folder).mkdir(parents=True)
    for n in range(4):
        image = rng.normal(size=(8, 9, 10)).astype(np.float32)
        label = (image > 0.5).astype(np.uint8)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            path = tmp_path / "task" / folder / f"case_{n:03}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    (tmp_path / "task" / "labelsTr" / "case_001.nii.gz").unlink()
    whole = tmp_path / "task" / "imagesTr" / "case_002.nii.gz"
    whole.write_bytes(whole.read_bytes()[:-400])
    status, out, err = medopt("prepare", "msd", "task", "--out", "store", "--workers", 1)
    assert status == 0
    assert "2 cases, 2 rejected" in out
    assert "case_001" in err
    reasons = pq.read_table(tmp_path / "store" / "rejected.parquet").column("reason").to_pylist()
    assert len(reasons) == 2
    assert not any("case_" in reason for reason in reasons)
    assert medopt("verify", "store")[0] == 0
    status, _, err = medopt("prepare", "msd", "task", "--out", "other", "--strict", "--workers", 1)
    assert status == 2
    assert "--strict" in err
    assert not (tmp_path / "other").exists()


def test_verify_finds_a_changed_array(medopt, tmp_path, small_store):
    import shutil

    shutil.copytree(small_store("segmentation", 2).path, tmp_path / "store")
    array = min((tmp_path / "store" / "arrays").glob("*.npy"))
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.chmod(0o600)
    array.write_bytes(content)
    status, _, err = medopt("verify", "store")
    assert status == 1
    assert array.name in err


def test_where_nothing_can_be_written_another_place_is_asked_for(medopt, study, tmp_path):
    (tmp_path / "file").touch()
    status, _, said = medopt("run", study, "--out", tmp_path / "file" / "run")
    assert status == 1
    assert "name another place with --out" in said
    assert "go on" not in said


def test_prices_that_cannot_be_kept_are_not_measured(medopt, study, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bench.training.alone.sample_costs", lambda *_, **__: pytest.fail("measured")
    )
    (tmp_path / "file").touch()
    status, _, said = medopt("price", study, "--out", tmp_path / "file" / "run")
    assert status == 1
    assert "name another place with --out" in said


def test_a_report_that_cannot_be_written_is_printed_and_another_place_asked_for(
    medopt, ran, tmp_path, monkeypatch
):
    from results.report import write

    run = tmp_path / "run"
    shutil.copytree(ran, run)
    own_replace = write.replace_file

    def on_a_read_only_disk(path, content):
        if path.parent == run:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        own_replace(path, content)

    monkeypatch.setattr(write, "replace_file", on_a_read_only_disk)
    status, out, err = medopt("report", run)
    assert status == 1
    assert "sgd" in out
    assert "report:" not in out
    assert "Read-only file system" in err
    assert "name another place with --out" in err
    status, out, _ = medopt("report", run, "--json")
    assert (status, json.loads(out)["n_trials"]) == (1, 6)

    status, out, err = medopt("report", run, "--out", tmp_path / "new" / "place")
    assert (status, err) == (0, "")
    assert out.endswith(f"report: {Path('new', 'place', 'report.html')}\n")
    assert json.loads((tmp_path / "new" / "place" / "verdict.json").read_text())["n_trials"] == 6
    status, _, err = medopt("report", run, run, "--out", "elsewhere")
    assert (status, "the report of one run" in err) == (2, True)


@pytest.mark.slow
def test_a_full_disk_is_exit_1_and_the_run_goes_on_from_there(medopt, study, monkeypatch):
    from bench.execution import trial_queue

    own_write = trial_queue.write_trials

    def full(run, trials, **kwargs):
        # However many are written together, the first of them finds room.
        own_write(run, trials[:1], **kwargs)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial_queue, "write_trials", full)
    status, _, err = medopt("run", study)
    assert status == 1
    assert "No space left" in err
    assert "free some of it. What was finished is on disk" in err
    monkeypatch.setattr(trial_queue, "write_trials", own_write)
    assert medopt("run", study)[0] == 0


def lengthen(study, seeds=6):
    """Make a study of six trials a seed, each long enough to be met in the middle."""
    text = study.read_text().replace("folds: 3", f"folds: 3\nseeds: {list(range(seeds))}")
    study.write_text(text.replace("epochs: 2", "epochs: 12"))


def start(study, *words):
    own = {"OMP_NUM_THREADS": "1", "MEDOPT_KEY": "test", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **own}
    code = "from bench.command import main; main()"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, "run", str(study), *words],
        cwd=study.parent,
        env=environment,
        # A shell that started the tests in the background had them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, run, count):
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if len(list((run / "trials").glob("*.parquet"))) >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"no {count} trials: {process.stderr.read() if process.poll() else 'too slow'}")


@pytest.mark.parametrize(
    ("words", "signals"),
    [
        ((), [signal.SIGINT]),
        pytest.param(("--lanes", "2"), [signal.SIGINT], marks=pytest.mark.slow),
        pytest.param(("--lanes", "2"), [signal.SIGTERM, signal.SIGTERM], marks=pytest.mark.slow),
        pytest.param((), [signal.SIGTERM, signal.SIGTERM], marks=pytest.mark.slow),
        pytest.param((), [signal.SIGHUP], marks=pytest.mark.slow),
        pytest.param((), [signal.SIGINT, signal.SIGINT], marks=pytest.mark.slow),
        *(
            pytest.param(("--ray", "--lanes", "1"), stop, marks=[pytest.mark.slow, pytest.mark.ray])
            for stop in ([signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM])
        ),
    ],
)
def test_a_run_that_is_stopped_says_how_to_go_on_and_does(medopt, study, tmp_path, words, signals):
    seeds = 6 if words else 2  # lanes take longer to stop
    lengthen(study, seeds)
    run = tmp_path / "runs" / "small"
    process = start(study, *words)
    wait_for(process, run, 2)
    children = psutil.Process(process.pid).children(recursive=True)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    words = process.communicate(timeout=120)[1]
    assert words.count("the same command resumes from there") == 1
    assert "Traceback" not in words
    assert process.returncode == 130
    _, left = psutil.wait_procs(children, timeout=30)
    assert [p for p in left if "agent" not in p.name().lower()] == []
    done = set(results.finished(run))
    assert 2 <= len(done) < 6 * seeds
    assert medopt("run", study)[0] == 0
    assert done < set(results.finished(run))


@pytest.mark.slow
def test_the_status_of_a_run_while_it_goes_on_when_it_is_killed_and_when_it_is_done(
    medopt, study, tmp_path
):
    """Killed by kill -9, the driver has said nothing of its end: its process tells."""
    lengthen(study, 1)
    study.write_text(study.read_text().replace("epochs: 12", "epochs: 300\npatience: 300"))
    run = tmp_path / "runs" / "small"
    assert medopt("status", run)[0] == 2
    process = start(study, "--lanes", "2")
    wait_for(process, run, 1)

    def said() -> dict:
        status, out, err = medopt("status", run, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    end = time.monotonic() + 60
    while not (found := said())["running"]:  # it is written every few seconds
        assert time.monotonic() < end
        time.sleep(0.1)
    assert (found["study"], found["total"]) == ("small", 6)
    assert found["driver"]["state"] == "running"
    assert (found["driver"]["process"], found["driver"]["age_seconds"] < 30) == (process.pid, True)
    assert found["hosts"] == [found["driver"]["host"]]
    assert {one["lane"] for one in found["running"]} <= {"process 1", "process 2"}
    assert found["done"] + found["left"] == 6
    in_hand = found["running"][0]
    assert (in_hand["epochs"], in_hand["metric"]) == (300, "auc")
    assert 0 <= in_hand["silent_seconds"] <= in_hand["seconds"]

    process.kill()
    process.communicate()
    found = said()
    assert found["driver"]["state"] == "gone"
    assert found["seconds_left"] is None
    # What was finished in the last seconds, before it could be written down, is counted.
    done = len(results.finished(run))
    assert (found["done"], found["left"]) == (done, 6 - done)
    assert found["samples_per_sec"] > 0
    assert 0 <= found["data_wait_share"] < 1
    words = medopt("status", run)[1]
    assert f"small: {done} of 6 trials done, {6 - done} left" in words
    assert "is gone" in words
    assert "`medopt run` resumes the run" in words

    assert medopt("run", study)[0] == 0
    found = said()
    assert (found["driver"]["state"], found["driver"]["ended"]) == ("ended", "done")
    assert (found["done"], found["left"], found["running"]) == (6, 0, [])
    assert found["statuses"] == {"ok": 6}
    assert "all is done" in medopt("status", run)[1]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_ray_that_goes_is_said_in_a_sentence(study, tmp_path, name):
    lengthen(study)
    (tmp_path / "slow.py").write_text(
        "import time\nfrom torch.nn.functional import cross_entropy\n"
        "def slow(logits, target):\n    time.sleep(0.2)\n    return cross_entropy(logits, target)\n"
    )
    study.write_text(study.read_text().replace("[ce]", "[slow.py:slow]"))
    process = start(study, "--ray", "--lanes", "1")
    wait_for(process, tmp_path / "runs" / "small", 1)
    (part,) = [p for p in psutil.Process(process.pid).children(True) if p.name() == name]
    part.kill()
    words = process.communicate(timeout=150)[1]
    assert process.returncode == 1
    assert "Ray" in words
    assert "repeat the command to resume" in words
    assert "Traceback" not in words


# A program that says when it is about to load what the command needs, and then takes its time.
STARTING = """
import signal, sys, time

# As at a terminal: whoever starts the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Slow:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {name!r}:
            print("now", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow)
sys.argv = ["medopt", "list", "models"]
from bench.command import main
main()
"""


@pytest.mark.parametrize("name", ["typer", "bench.core.packages", "bench.catalogue"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_while_it_starts_is_130(name, number):
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING.format(name=name)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "now\n"
    process.send_signal(number)
    # It is over in a tenth of a second; on a machine under load longer than 30 s.
    _, words = process.communicate(timeout=150)
    assert process.returncode == 130
    assert words.endswith("stopped; nothing was written.\n")
    assert "Traceback" not in words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("plan study.yaml --out run", "nothing was written"),
        ("list losses", "nothing was written"),
        ("price study.yaml", "the same command starts again"),
        ("report runs/small", "the same command starts again"),
        ("run study.yaml", "resumes from there"),
        ("prepare pairs scans --out store", "resumes from there"),
        ("prepare pairs scans --out=store", "resumes from there"),
        ("prepare pairs scans --out store --dry-run", "nothing was written"),
        ("prepare scans", "nothing was written"),
        ("--version", "nothing was written"),
    ],
)
def test_a_stopped_command_says_what_became_of_its_work(line, words):
    assert words in last_words(line.split())


def test_each_command_has_its_last_words():
    assert set(typer.main.get_command(cli.app).commands) == set(LAST_WORDS)


def test_a_plan_that_is_stopped_says_that_it_wrote_nothing(medopt, study, tmp_path, monkeypatch):
    def stopped(*_asked, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "plan", stopped)
    assert medopt("plan", study) == (130, "", "stopped; nothing was written.\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_kill_9_ten_times_and_the_metrics_are_those_of_an_uninterrupted_run(
    medopt, study, tmp_path
):
    lengthen(study)
    assert medopt("run", study, "--out", "whole")[0] == 0
    run = tmp_path / "cut"
    rng = np.random.default_rng(0)
    written: dict[str, int] = {}
    for _ in range(10):
        process = start(study, "--out", str(run))
        wait_for(process, run, min(len(written) + 1, 36))
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        times = {p.name: p.stat().st_mtime_ns for p in (run / "trials").glob("*.parquet")}
        # No finished trial was written a second time.
        assert all(times[name] == when for name, when in written.items())
        written = times
    assert medopt("run", study, "--out", run)[0] == 0
    assert results.read(run, "metrics").equals(results.read(tmp_path / "whole", "metrics"))
    assert results.read(run, "cases").equals(results.read(tmp_path / "whole", "cases"))


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["run", "demo", "--ray", "local"], "--lanes"),
        (["plan", "demo"], "--lanes"),
        (["demo", "--ray", "local"], "--lanes"),
        (["run", "demo", "--ray", "local"], "--gpus-per-trial"),
        (["prepare", "msd", ".", "--out", "s"], "--workers"),
    ],
)
def test_none_or_fewer_at_once_is_exit_2(medopt, words, option, number):
    status, _, err = medopt(*words, option, number)
    assert status == 2
    assert option in err
    assert "Traceback" not in err


def test_the_version_is_said(medopt):
    from importlib.metadata import version

    assert medopt("--version") == (0, f"medoptbench {version('medoptbench')}\n", "")


@pytest.mark.parametrize(
    "words",
    ["report run", "report run --json", "list losses", "compare run run", "recipe run", "--help"],
)
def test_a_reader_who_has_gone_ends_a_command_quietly(ran, tmp_path, words):
    """As `head -1` goes: 141 is what a shell says of any tool that a closed pipe has ended."""
    shutil.copytree(ran, tmp_path / "run")
    read, write = os.pipe()
    os.close(read)
    command = "from bench.command import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", command, *words.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_pipe_of_another_that_breaks_is_told(medopt, monkeypatch):
    def broken(_run):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe", "a lane's")

    monkeypatch.setattr(api, "status", broken)
    status, _, err = medopt("status", "run")
    assert (status, "a lane's" in err) == (1, True)


def test_a_report_of_several_runs_is_one_json_document(medopt, ran):
    for name in ("one", "two"):
        shutil.copytree(ran, name)
    status, out, _ = medopt("report", "one", "two", "--json")
    assert status == 0
    both = json.loads(out)
    alone = [json.loads(medopt("report", name, "--json")[1]) for name in ("one", "two")]
    assert both == alone


# Each is a tag of rich's, which would be eaten; `:bomb:` is one of its emojis.
ODD = "a[red]b[bold]c :bomb: [link=x]d"


@pytest.mark.slow
def test_names_in_brackets_are_printed_as_they_are(medopt, study, tmp_path):
    (tmp_path / ODD).write_text("name: 3\n")
    for words in (["plan", ODD], ["run", f"{ODD}2"], ["report", ODD], ["verify", ODD]):
        status, _, err = medopt(*words)
        assert status == 2
        assert ODD in err
    text = study.read_text()
    store = yaml.safe_load(text)["data"][0]
    study.write_text(text.replace(f"[{store}]", f"[{{store: {store}, name: '{ODD}'}}]"))
    status, out, _ = medopt("plan", study)
    assert status == 0
    assert ODD in out
    status, out, _ = medopt("run", study, "--out", f"runs {ODD}")
    assert status == 0
    assert f"report: runs {ODD}" in out
    assert out.count(ODD) >= 2


def test_names_in_brackets_are_shown_while_a_run_goes_on():
    import io

    from rich.console import Console

    from bench.display import RunDisplay
    from bench.execution.trial_queue import Progress, Running

    shown = io.StringIO()
    console = Console(file=shown, width=200, force_terminal=True, color_system=None)
    lane = Running(lane=ODD, label=ODD, epoch=1, epochs=2, score=0.5, metric="auc")
    with RunDisplay(console).showing() as display:
        display.changed(
            Progress(
                done=0,
                total=1,
                reused=0,
                statuses={},
                running=(lane,),
                seconds=1,
                seconds_left=None,
            )
        )
    assert shown.getvalue().count(ODD) >= 2


@pytest.mark.slow
def test_a_terminal_of_few_letters_is_no_reason_to_end(tmp_path):
    (tmp_path / "größe").write_text("name: x\nname: y\n", encoding="utf-8")
    code = "from bench.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", str(tmp_path / "größe")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"appears twice" in b" ".join(done.stderr.split())
    assert b"Traceback" not in done.stderr


WRONG = [
    (["prepare", "images", "pictures", "--set", "colour=red"], "colour"),
    (["prepare", "images", "pictures", "--set", "label=nowhere"], "nowhere"),
    (["prepare", "images", "pictures", "--set", "csv=none.csv"], "none.csv"),
    (["prepare", "imagse", "pictures"], "Did you mean 'images'?"),
    (["prepare", "images", "pictures", "--workers", "100000"], "workers is 100000"),
    (["run", "demo", "--gpus-per-trial", "2"], "need Ray"),
    (["tune", "demo", "--gpus-per-trial", "2"], "need Ray"),
    (["tune", "demo", "--search", "sobol", "--gpus-per-trial", "2"], "need Ray"),
    (["run", "demo", "--ray", "--lanes", "0"], "--lanes"),
    (["list", "modles"], "Did you mean 'models'?"),
    (["plan", "demo", "--points", "1"], "--points"),
    (["tune", "demo", "--points", "0"], "--points"),
    (["plan", "breastmist"], "Did you mean 'breastmnist'?"),
    (["plan", "pictures"], "pictures is a folder, not a study file.\n"),
    (["run", "begun"], "begun is a folder, not a study file. Its study is begun/study.yaml."),
    (["plan", "empty.yaml"], "empty.yaml: the file is empty."),
    (["plan", "scans.npz"], "scans.npz: not a study file"),
    (["plan", "latin.yaml"], "latin.yaml: is not in UTF-8"),
    (["plan", "above.yaml"], "name: must be letters, digits, '.', '_' and '-', at most 64"),
    (["run", "nothing.yaml"], "Ready studies: breastmnist, demo"),
    (["plan", "nothing.yaml"], "there is no study file 'nothing.yaml'"),
    (["run", "demo", "--out", "hdfs://host/run"], "out hdfs:/host/run: this must be a folder"),
    (
        ["plan", "demo", "--out", "hdfs://host/run"],
        "out hdfs:/host/run: this must be a folder",
    ),
    (["run", "demo", "--out", "s3://bucket"], "an address is s3://BUCKET/PATH"),
    (["plan", "demo", "--lanes", "100000"], "lanes is 100000"),
    (["demo", "--out", "s3://bucket/run"], "out s3:/bucket/run: this must be a folder"),
    (["prepare", "images", "pictures", "--set", "label"], "NAME=VALUE"),
    (["prepare", "images", "pictures", "--conflicts", "drop"], "Choices: keep, reject"),
    (["prepare", "images", "nowhere"], "nowhere"),
    (["verify", "nowhere"], "store nowhere does not exist"),
    (["report", "nowhere"], "nowhere holds no run"),
    (["status", "nowhere"], "nowhere holds no run"),
    *(
        ([command, f"{name}.yaml"], said)
        for command in ("run", "plan", "tune", "price")
        for name, said in (
            ("damaged", "damaged.yaml"),
            ("strange", "Did you mean 'adam'?"),
            ("elsewhere", "there is no store 'stores/none'"),
        )
    ),
    (["doctor", "--fast"], "--fast"),
    (["frobnicate"], "frobnicate"),
]

# Runs the lines of a table in one process: [exit status, what was said, whether torch is there].
CALLS = """
import contextlib, io, json, sys
from bench.cli import main

found = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["medopt", *words]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main()
    except SystemExit as ended:
        found.append([ended.code, said.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""


def test_what_is_wrong_on_the_command_line_is_told_before_torch_is_imported(tmp_path):
    for folder in ("pictures", "begun"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "scans.npz", scan=np.full(9, np.pi))
    (tmp_path / "latin.yaml").write_bytes(b"name: gr\xf6\n")
    (tmp_path / "pictures" / "labels.csv").write_text("file,label\na.png,x\nb.png,y\n")
    right = {"name": "s", "data": ["stores/none"], "models": ["plain_cnn"], "epochs": 1}
    right |= {"optimizers": ["sgd"], "losses": ["ce"]}
    for name, text in (
        ("damaged", "name: [s"),
        ("strange", yaml.safe_dump({**right, "optimizers": ["adamv"]})),
        ("elsewhere", yaml.safe_dump(right)),
        ("above", yaml.safe_dump({**right, "name": "../s"})),
        ("empty", "\n"),
        ("begun/study", yaml.safe_dump(right)),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    lines = [words + ["--out", "store"] * (words[0] == "prepare") for words, _ in WRONG]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(lines)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MEDOPT_KEY": "test", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=True,
    )
    for (words, said), (status, told, torch) in zip(WRONG, json.loads(done.stdout), strict=True):
        assert (status, torch) == (2, False), words
        assert said in told, words


def test_every_table_is_listed_without_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps([["list", kind] for kind in TABLES])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert [(status, torch) for status, _, torch in found] == [(0, False)] * len(TABLES)
    assert [said.split() for _, said, _ in found] == [
        [str(len(rows())), kind] for kind, rows in TABLES.items()
    ]


def test_the_help_of_list_names_every_kind(medopt):
    words = medopt("list", "--help")[1].split()
    assert set(TABLES) <= {word.strip(",.") for word in words}


def test_commands_of_ready_studies_can_be_copied():
    for row in TABLES["studies"]():
        about = row["summary"]
        assert "\\" not in about, row["name"]
        copied = [words for words in about.split("`")[1::2] if words.startswith("medopt prepare")]
        assert about.count("medopt prepare") == len(copied), row["name"]
        assert all(" --out stores/" in words for words in copied), row["name"]


def test_claims_are_answered_from_a_run(medopt, study):
    """What two optimizers on three folds can tell is asked; the rest says what it needs."""
    assert medopt("run", study)[0] == 0
    status, printed, _ = medopt("claims", "runs/small", "--json")
    found = json.loads(printed)
    assert status == 0
    assert {"sgd-fast", "adam-fast", "adam-overfits-less"} <= {
        answer["claim"] for answer in found["answered"]
    }
    assert all(a["answer"] in ("yes", "no", "undecided") for a in found["answered"])
    assert any(u["claim"] == "densenet-exact" for u in found["unanswered"])
    status, printed, _ = medopt("claims", "runs/small")
    assert status == 0
    assert "SGD converges fast." in printed
    assert medopt("claims", "runs/nothing")[0] == 2


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from bench.command import main; sys.argv = ['medopt', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([m for m in ('numpy', 'pyarrow', 'torch', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_show_writes_a_page_and_a_picture(medopt, small_store, tmp_path):
    store = small_store("classification", 2).path
    status, said, _ = medopt("show", store, "--cases", 3, "--out", "a page.html")
    assert (status, said) == (0, "a page.html\na page.png\n")
    assert {path.name for path in tmp_path.iterdir()} >= {"a page.html", "a page.png"}
    status, said, why = medopt("show", tmp_path / "nothing")
    assert (status, said) == (2, "")
    assert why == f"error: store {tmp_path / 'nothing'} does not exist\n"
