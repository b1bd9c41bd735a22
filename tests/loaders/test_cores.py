"""How many cores may be used: as coreutils' nproc counts, and by files as kernels write them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loaders import cores
from loaders.cores import VARIABLES, usable_cores

ROOT = Path(__file__).resolve().parents[2]
CODE = "from loaders.cores import usable_cores; print(usable_cores())"


@pytest.fixture(autouse=True)
def nothing_is_said(monkeypatch):
    """Take out what this machine says; a test says its own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def counted(command: list[str], environment: dict[str, str]) -> int:
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not shutil.which("taskset"), reason="needs taskset and nproc")
@pytest.mark.parametrize("variables", [{}, {"OMP_NUM_THREADS": "1"}, {"OMP_THREAD_LIMIT": "1"}])
@pytest.mark.parametrize("pinned", [False, True])
def test_it_counts_as_nproc_does(variables, pinned):
    core = str(min(os.sched_getaffinity(0)))
    before = ["taskset", "-c", core] if pinned else []
    if list(cores._quotas(Path("/"))):
        pytest.skip("this machine has a quota, of which nproc knows nothing before coreutils 9.8")
    theirs = counted([*before, "nproc"], variables)
    assert counted([*before, sys.executable, "-c", CODE], variables) == theirs


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"SLURM_CPUS_PER_TASK": "3"}, 3),
        ({"SLURM_CPUS_PER_TASK": "3", "OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "4,2,1"}, 4),  # OpenMP 6.0, section 4.1.3: a number a level
        ({"OMP_NUM_THREADS": " 5 "}, 5),
        ({"OMP_NUM_THREADS": "100"}, 16),
        # No number of threads: as if nothing had been said.
        ({"OMP_NUM_THREADS": "0"}, 16),
        ({"OMP_NUM_THREADS": "-1"}, 16),
        ({"OMP_NUM_THREADS": "all"}, 16),
        ({"OMP_NUM_THREADS": ""}, 16),
        ({"SLURM_CPUS_PER_TASK": "2(x3)"}, 16),
    ],
)
def test_variables_limit_what_there_is(monkeypatch, said, found):
    monkeypatch.setattr(cores, "_affinity", lambda: 16)
    monkeypatch.setattr(cores, "_quotas", lambda _root: ())
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert usable_cores() == found


# Files as docs.kernel.org has them (admin-guide/cgroup-v2, scheduler/sched-bwc), of a process whose
# groups /proc/self/cgroup lists; quota and period are microseconds of core time.
V1 = "4:memory:/jobs/a\n3:cpuset:/\n2:cpu,cpuacct:/jobs/a\n0::/\n"
QUOTAS = {
    "none": ("0::/\n", {}, 16),
    "version 2 in a container": ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
    "version 2, no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
    "version 2, less than one core": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "version 2, the group around it": (
        "0::/pod/box\n",
        {"pod/cpu.max": "300000 100000\n", "pod/box/cpu.max": "max 100000\n"},
        3,
    ),
    "version 2, the machine's path in a container": (
        "0::/kubepods/pod7/box\n",
        {"cpu.max": "400000 100000\n"},
        4,
    ),
    "version 1": (
        V1,
        {
            "cpu,cpuacct/jobs/a/cpu.cfs_quota_us": "600000\n",
            "cpu,cpuacct/jobs/a/cpu.cfs_period_us": "100000\n",
        },
        6,
    ),
    "version 1, no limit": (
        V1,
        {
            "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        16,
    ),
    "version 1 in a container, another period": (
        "2:cpuacct,cpu:/docker/5c\n",
        {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"},
        2,
    ),
    "both versions": (
        "1:cpu:/\n0::/user\n",
        {
            "unified/user/cpu.max": "500000 100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
        5,
    ),
    "a group that limits memory alone": (
        "4:memory:/jobs/a\n",
        {"jobs/a/cpu.max": "100000 100000\n"},
        16,
    ),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_quotas_of_cgroups_limit_what_there_is(monkeypatch, tmp_path, case):
    groups, files, found = QUOTAS[case]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    read = cores._quotas
    monkeypatch.setattr(cores, "_affinity", lambda: 16)
    monkeypatch.setattr(cores, "_quotas", lambda _root: read(tmp_path))
    assert usable_cores() == found


def test_without_cgroups_there_is_no_quota(tmp_path):
    assert list(cores._quotas(tmp_path)) == []
