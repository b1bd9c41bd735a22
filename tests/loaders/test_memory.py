"""Freed memory stays with the process: seen by the faults of the memory that is asked for next."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

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
