"""Trials without a run around them: the least that a run of them can take."""

import pickle
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from time import sleep, time

import psutil

from bench.core.packages import ROOT
from bench.planning.plan import Plan

# Bare trials in a pause.
SLICE = 5
# Until the trials that were under way are through.
CALM_SEC = 2.0

# Trains the trials whose numbers it is told, and says how many seconds each took in the mean.
BARE = """
import pickle, sys
from time import perf_counter
import torch
from bench.training.train import run_trial

torch.set_num_threads(1)
plan = pickle.load(sys.stdin.buffer)
data, device = plan.sets[0], torch.device("cpu")
run_trial(plan.trials[0], data, plan.base, device=device)  # what is made once a process
print("ready", flush=True)
for line in sys.stdin.buffer:
    numbers = [int(word) for word in line.split()]
    start = perf_counter()
    for number in numbers:
        run_trial(plan.trials[number], data, plan.base, device=device)
    print((perf_counter() - start) / len(numbers), flush=True)
"""


class Bare:
    """Processes that train bare trials side by side, each all of them, when they are asked to."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], trials: int) -> None:
        self._processes, self._trials = processes, trials

    @property
    def processes(self) -> set[int]:
        """Return the numbers of its processes."""
        return {process.pid for process in self._processes}

    def seconds(self, trials: int, first: int = 0) -> float:
        """Return the seconds of a trial, over so many spread over the plan, from its `first` on."""
        asked = " ".join(map(str, range(first, self._trials, self._trials // trials)))
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{asked}\n".encode())
            process.stdin.flush()
        return statistics.fmean(float(_said(process)) for process in self._processes)


@contextmanager
def bare_processes(plan: Plan, lanes: int) -> Iterator[Bare]:
    """Start `lanes` processes that train the trials of a plan, with nothing between two."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BARE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(lanes)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(pickle.dumps(plan))
            process.stdin.flush()
        for process in processes:
            assert _said(process) == b"ready\n"
        yield Bare(processes, len(plan.trials))
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _said(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


@contextmanager
def _still(processes: Iterable[psutil.Process], *, but: Collection[int]) -> Iterator[None]:
    stopped = []
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                if process.pid not in but:
                    process.suspend()
                    stopped.append(process)
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


class Pauses:
    """Holds up whoever calls it, each so many trials, while bare ones are trained.

    All other processes that this one started stand still meanwhile: Ray's own take a tenth of a
    core while nothing is trained (measured), and what they take is a part of what a run costs.
    """

    def __init__(self, bare: Bare, *, each: int) -> None:
        self._bare, self._each, self._due = bare, each, each
        self.bare_sec: list[float] = []
        self.times: list[tuple[float, float]] = []

    def __call__(self, done: int) -> None:
        if done < self._due:
            return
        self._due = done + self._each
        begun = time()
        sleep(CALM_SEC)
        with _still(psutil.Process().children(recursive=True), but=self._bare.processes):
            self.bare_sec.append(self._bare.seconds(SLICE, first=len(self.bare_sec)))
        self.times.append((begun, time()))

    def counted(self, begun: Iterable[tuple[str, float]]) -> list[float]:
        """Return the seconds from each trial's start to the next one's in the same lane."""
        starts = defaultdict(list)
        for lane, start in begun:
            starts[lane].append(start)
        return [
            after - before
            for found in starts.values()
            for before, after in pairwise(sorted(found))
            if not any(before < ended and after > paused for paused, ended in self.times)
        ]
