"""How many CPU cores this process may use: one rule for loaders, trials, lanes and Ray."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

# What a job's scheduler granted (Slurm, `--cpus-per-task`), and what OpenMP is told to keep to, by
# which `nproc` goes too. OpenMP takes a list, a number for each level of nesting: the first counts.
VARIABLES = ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT")


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1.

    The least of what is said: the cores that it may run on (its affinity, which cpusets, `taskset`
    and Slurm set), the quota of its cgroup and of those around it (which containers set), and
    VARIABLES, of which one that is no positive number says nothing.
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
    """Give the cores that each cgroup around this process may keep busy; `root` is that of files.

    A quota of 2.5 cores counts as 2 (as for Ray): with three threads all would be stopped together
    for a sixth of the time, and each step waits for its slowest thread. The limit of version 2 is
    in cpu.max, that of version 1 in cpu.cfs_quota_us and cpu.cfs_period_us.
    """
    for folder in groups(root, "cpu"):
        yield from _quota(folder)


def groups(root: Path, controller: str) -> Iterator[Path]:
    """Give the folders of the cgroups around this process where a controller's limits may stand.

    cgroups(7): the groups of a process are `hierarchy:controllers:path` in /proc/self/cgroup,
    version 2 with no controllers. `root` is that of files.
    """
    listed, mounted = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in listed.read_text(encoding="utf-8").splitlines() if listed.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        names = (controllers, controller) if controllers else ("", "unified")
        # In a container the mount may begin at its own group, and the path at the machine's.
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
