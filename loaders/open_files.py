"""How many files a process may have open, and how many of them are arrays of one store."""

import os
import sys
from contextlib import suppress

# What a training process asks for: macOS allows no more than 10240. Assumption: enough for stores
# of some thousand cases of different shapes.
WANTED = 8192
# Where the system does not tell. Assumption: every system allows four times as many.
FEWEST = 64


def allow_many_files() -> None:
    """Raise this process's limit of open files to WANTED, or as far as the system lets it.

    Call it when a process starts. The limit of a shell is 1024 on Linux and 256 on macOS, of which
    a store of some hundred cases of different shapes takes more if each array stays open; each
    opening takes 0.2 ms (measured).
    """
    if os.name != "posix":
        return
    import resource  # only Unix has it

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, -1) or soft >= WANTED:
        return
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    with suppress(OSError, ValueError):  # some systems have a lower limit that they do not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def files_of_a_store() -> int:
    """Return how many arrays of a store may stay open: a quarter of what this process may open."""
    if os.name != "posix":
        return FEWEST
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    return max(FEWEST, min(limit, WANTED) // 4)
