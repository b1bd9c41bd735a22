"""How many files a process may have open, and how many of them are arrays of one store."""

import os
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
    if _usable(soft) < (wanted := _usable(hard)):
        with suppress(OSError, ValueError):  # some systems have a lower limit than they tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def files_of_a_store() -> int:
    """Return how many arrays of a store may stay open: a quarter of what this process may open."""
    if os.name != "posix":
        return FEWEST
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(FEWEST, _usable(soft) // 4)


def _usable(limit: int) -> int:
    """Return how many files of a limit are of use: all up to WANTED."""
    import resource

    return WANTED if limit == resource.RLIM_INFINITY else min(limit, WANTED)
