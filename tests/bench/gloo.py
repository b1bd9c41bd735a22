"""The program of the processes that a test of several needs; `Beside` starts it.

It is told the test's own file. Its `SHARES` lists the sets of processes, each by how many samples
of a batch its processes take, and its `work(rank, shares)` is run in each of them, where
torch.distributed is up on gloo; what it returns is left in SET-RANK.pt in a folder. Modules that it
is told are imported once before and not in every process: they take seconds.
"""

import multiprocessing
import runpy
import sys
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.core.processes import begun_beside

Work = Callable[[int, tuple[int, ...]], Any]


def be_one(work: Work, rank: int, shares: tuple[int, ...], place: Path) -> None:
    """Be one process of a set; `place` is the set's own in the folder."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{place}",
        rank=rank,
        world_size=len(shares),
        timeout=timedelta(seconds=60),
    )
    torch.save(work(rank, shares), f"{place}-{rank}.pt")
    dist.destroy_process_group()


def main() -> None:
    """Run one set of processes after the other."""
    _pipe, cargo = begun_beside()  # it is closed when this process ends
    for module in cargo["modules"]:
        import_module(module)
    own, folder = runpy.run_path(cargo["test"]), Path(cargo["folder"])
    fork = multiprocessing.get_context("fork")
    for number, shares in enumerate(own["SHARES"]):
        processes = [
            fork.Process(target=be_one, args=(own["work"], rank, shares, folder / str(number)))
            for rank in range(len(shares))
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(f"shares {shares}: a process failed")
