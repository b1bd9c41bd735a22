"""How many CPU cores this process may use: one rule for loaders, trials, lanes and Ray."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

# The cores that a scheduler granted (Slurm, `--cpus-per-task`), and OpenMP's limits on threads,
# which `nproc` obeys too. OpenMP accepts a list, one number a level of nesting: the first counts.
VARIABLES = ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT")


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1.

    It is the smallest of: the cores of its affinity (set by cpusets, `taskset` and Slurm), the
    quotas of its cgroup and the enclosing ones (set by containers), and VARIABLES. A variable that
    is not a positive number is ignored.
    """
    said = [_affinity(), *_quotas(Path("/")), *_variables()]
    return max(1, int(min(said)))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _variables() -> Iterator[int]:
    for name in VARIABLES:
        first = os.environ.get(name, "").partition(",")[0].strip()
        if re.fullmatch(r"0*[1-9][0-9]*", first):
            yield int(first)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in cores, of each cgroup around this process; `root` is the file system's.

    A quota of 2.5 cores counts as 2 (as in Ray): with three threads, all would be stopped together
    for a sixth of the time, and each step waits for its slowest thread. Version 2 keeps the limit
    in cpu.max, version 1 in cpu.cfs_quota_us and cpu.cfs_period_us.
    """
    for folder in groups(root, "cpu"):
        yield from _quota(folder)


def groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the cgroup folders around this process that may hold a controller's limits.

    cgroups(7): the groups of a process are `hierarchy:controllers:path` in /proc/self/cgroup,
    version 2 with no controllers. `root` is the file system's.
    """
    listed, mounted = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in listed.read_text(encoding="utf-8").splitlines() if listed.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        names = (controllers, controller) if controllers else ("", "unified")
        # In a container, the mount may begin at its own group, but the path at the machine's root.
        own = Path(path.lstrip("/"))
        yield from {mounted / name / part for name in names for part in (own, *own.parents)}


def _quota(folder: Path) -> Iterator[float]:
    if (both := folder / "cpu.max").exists():
        quota, period = both.read_text(encoding="ascii").split()
    elif (alone := folder / "cpu.cfs_quota_us").exists():
        quota = alone.read_text(encoding="ascii").strip()
        period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    else:
        return
    if quota not in ("max", "-1"):
        yield int(quota) / int(period)
