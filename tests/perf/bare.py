"""Trials without a run around them: the least that a run of them can take."""

import pickle
import statistics
import subprocess
import sys
from dataclasses import replace

from bench.core.packages import ROOT
from bench.planning.plan import Plan

# Trains what it is given, once it is told to begin, and says how many seconds a trial took.
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
sys.stdin.buffer.readline()
start = perf_counter()
for trial in plan.trials:
    run_trial(trial, data, plan.base, device=device)
print((perf_counter() - start) / len(plan.trials))
"""


def bare_seconds(plan: Plan, lanes: int, *, every: int = 1) -> float:
    """Return the seconds of a trial where `lanes` processes train `every` so many-th of a plan.

    All at the same time, each all of them, with nothing between two.
    """
    sampled = pickle.dumps(replace(plan, trials=plan.trials[::every]))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BARE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(lanes)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(sampled)
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"begin\n")
        process.stdin.flush()
    return statistics.fmean(float(process.communicate()[0]) for process in processes)
