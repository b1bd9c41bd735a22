"""Freed memory stays with the process: seen by the faults of the memory that is asked for next."""

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from loaders import memory

ROOT = Path(__file__).parents[2]
# The faults of writing to 16 blocks of 24 MiB, one after the other, in threads of their own.
FAULTS = """
import resource, sys, threading
import numpy as np
from loaders.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def work():
    np.zeros(3 << 20).fill(1)

def worked():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

worked()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):
    worked()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt's settings are glibc's")
def test_memory_that_is_freed_is_used_again() -> None:
    faults = {}
    for how in ("keep", "give back"):
        command = [sys.executable, "-c", FAULTS, how]
        # Pages of 4 KiB each, whatever the kernel would join.
        told = subprocess.run(
            command,
            check=True,
            capture_output=True,
            cwd=ROOT,
            env={"PATH": "", "NUMPY_MADVISE_HUGEPAGE": "0"},
        )
        faults[how] = int(told.stdout)
    assert faults["keep"] * 20 < faults["give back"]


# Files as docs.kernel.org has them (admin-guide/cgroup-v2, cgroup-v1/memory), in bytes, of a
# process whose groups /proc/self/cgroup lists; the machine has 1000 bytes left.
GROUPS = {
    "none": ("0::/\n", {}, 1000),
    "version 2 in a container": (
        "0::/\n",
        {"memory.max": "800\n", "memory.current": "500\n", "memory.stat": "anon 300\n"},
        300,
    ),
    "version 2, files that were read can be dropped": (
        "0::/\n",
        {
            "memory.max": "800\n",
            "memory.current": "500\n",
            "memory.stat": "anon 300\nfile 200\ninactive_file 150\nactive_file 50\n",
        },
        450,
    ),
    "version 2, no limit": (
        "0::/\n",
        {"memory.max": "max\n", "memory.current": "500\n", "memory.stat": ""},
        1000,
    ),
    "version 2, the group around it": (
        "0::/pod/box\n",
        {
            "pod/memory.max": "400\n",
            "pod/memory.current": "300\n",
            "pod/memory.stat": "",
            "pod/box/memory.max": "max\n",
            "pod/box/memory.current": "200\n",
            "pod/box/memory.stat": "",
        },
        100,
    ),
    "version 1": (
        "4:memory:/jobs/a\n3:cpu:/\n",
        {
            "memory/jobs/a/memory.limit_in_bytes": "700\n",
            "memory/jobs/a/memory.usage_in_bytes": "600\n",
            "memory/jobs/a/memory.stat": "inactive_file 7\ntotal_inactive_file 50\n",
        },
        150,
    ),
    "version 1, no limit": (
        "4:memory:/\n",
        {
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": "600\n",
            "memory/memory.stat": "",
        },
        1000,
    ),
    "more in use than there may be": (
        "0::/\n",
        {"memory.max": "400\n", "memory.current": "500\n", "memory.stat": ""},
        0,
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_limits_of_cgroups_and_the_machine_say_what_is_free(monkeypatch, tmp_path, case):
    groups, files, free = GROUPS[case]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    left = memory._left
    monkeypatch.setattr(memory, "_left", lambda _root: left(tmp_path))
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert memory.usable_memory() == free


def test_no_more_is_free_than_the_machine_has():
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        pytest.skip("needs Linux")
    total = int(meminfo.read_text().split()[1]) * 1024
    assert 0 < memory.usable_memory() < total
