"""The job of deploy/slurm/ in a Slurm of this machine's own, and what can be told without one."""

import math
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from results.tables.store import read
from tests.deploy import slurm as own

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "slurm" / "medopt.sbatch"

LOSSES = """
import time
from pathlib import Path

from torch.nn.functional import cross_entropy

HERE = Path(__file__).parent


def paced(logits, target):
    '''Cross-entropy that takes its time while a file `slow` is there: a trial takes seconds.'''
    if len(logits) > 3 and (HERE / "slow").exists():
        time.sleep(0.8)
    return cross_entropy(logits, target)
"""


def options() -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE)
    return dict(found)


def test_the_job_is_warned_in_time_and_may_be_requeued():
    asked = options()
    assert asked["signal"] == "B:TERM@120"
    assert "requeue" in asked
    assert asked["open-mode"] == "append"  # else a requeued job overwrites its log
    assert {"cpus-per-task", "gres", "mem", "time"} <= asked.keys()


def test_the_script_is_bash_that_can_be_read():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


@pytest.fixture(scope="module")
def cluster():
    why = own.missing()
    if why:
        pytest.skip(why)
    with own.slurm() as made:
        yield made


@pytest.fixture
def study(tmp_path, small_store):
    """Return a study of 12 trials of some seconds each, in a folder of its own."""
    (tmp_path / "losses.py").write_text(LOSSES)
    (tmp_path / "slow").touch()
    text = {
        "name": "slurm",
        "data": [str(small_store("classification", 2).path)],
        "models": ["plain_cnn"],
        "optimizers": ["sgd", "adam"],
        "losses": ["losses.py:paced"],
        "seeds": [0, 1, 2],
        "epochs": 2,
        "folds": 2,
        "batch_size": 8,
        "device": "cpu",
        "threads": 1,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(text))
    return tmp_path / "study.yaml"


def undisturbed(cluster: own.Slurm, study: Path) -> list[str]:
    """Run the study without Slurm, in this machine's own time; return its metrics."""
    run = study.with_name("undisturbed")
    cluster.ask("medopt", "run", study, "--out", run, cwd=study.parent)
    return sorted(map(str, read(run, "metrics").to_pylist()))


SMALL = ("--parsable", "--gres=none", "--mem=0", "--cpus-per-task=1")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_at_its_time_limit_is_requeued_and_ends_with_equal_numbers(cluster, study):
    log, run = study.with_name("log.txt"), study.with_name("run")
    job = cluster.ask(
        "sbatch", *SMALL, "--time=9", "--signal=B:TERM@20", f"--output={log}",
        SCRIPT, study, "--out", run, cwd=study.parent,
    )  # fmt: skip
    cluster.wait("the first trial", lambda: any(run.glob("trials/*.parquet")), 150)
    # The limit that is nearest: whole minutes, at which Slurm looks every 30 s.
    ran = time.time() - cluster.begun(job)
    cluster.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={math.ceil((ran + 25) / 60)}")
    cluster.wait("the requeue", lambda: cluster.field(job, "Restarts") == "1", 120)
    assert "medopt ended with status 130" in log.read_text()
    finished = {row["trial_id"] for row in read(run, "trials").to_pylist()}
    assert 0 < len(finished) < 12

    study.with_name("slow").unlink()
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=9")
    cluster.wait("the second start", lambda: cluster.state(job) == "RUNNING", 60)
    cluster.wait("the end", lambda: cluster.state(job) in {"COMPLETED", "FAILED"}, 150)
    assert cluster.state(job) == "COMPLETED", log.read_text()
    assert cluster.field(job, "ExitCode") == "0:0"
    rows = read(run, "trials").to_pylist()
    assert len(rows) == len({row["trial_id"] for row in rows}) == 12
    again = {row["trial_id"] for row in rows if row["attempt"] > 1}
    assert not again & finished
    assert sorted(map(str, read(run, "metrics").to_pylist())) == undisturbed(cluster, study)
