"""What is set in a process that trains, once, at its start."""

import torch

from bench.core.packages import check_packages
from loaders.memory import keep_freed_memory


def begin(threads: int | None) -> None:
    """Check the packages, set the threads of a trial (None: one), and keep memory that is freed.

    Once a process: a second `torch.set_num_threads` makes steps many times slower (measured).
    """
    check_packages()
    torch.set_num_threads(threads or 1)
    keep_freed_memory()
