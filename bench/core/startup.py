"""The settings that a training process makes once, when it starts."""

import torch

from bench.core.gpu.repeatable import before_cuda
from bench.core.packages import check_packages
from loaders.memory import keep_freed_memory
from loaders.open_files import allow_many_files


def begin(threads: int | None) -> None:
    """Check the packages, set the threads of a trial (None: one), keep freed memory and files open.

    Call it once per process: a second `torch.set_num_threads` makes steps many times slower
    (measured).
    """
    check_packages()
    before_cuda()
    torch.set_num_threads(threads or 1)
    keep_freed_memory()
    allow_many_files()
