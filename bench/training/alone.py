"""Measures the time of an undisturbed sample-gradient of each combination, over two epochs.

Trials that run side by side on one device disturb each other's timing, and a run may have no trial
that ran alone. So each combination is trained once more, one after the other, with the same loop,
loader and threads, and the second epoch is timed: the first one includes one-time work. Each round
goes through all combinations, so that a machine that is busy for a while shows as noise, not as a
difference between two of them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench.core.environment import device_name
from bench.study.dataset import DataSet
from bench.study.trial import Trial
from bench.training.train import run_trial

# Two measurements are the fewest that say how much they vary. Assumption.
ROUNDS = 2
EPOCHS = 2


def sample_costs(
    trials: Iterable[Trial],
    data: Callable[[str], DataSet],
    base: Path,
    *,
    device: str,
    told: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Return rows of `results.tables.alone`, ROUNDS for each combination of these trials.

    The first trial of each combination is trained for EPOCHS epochs; nothing of it is kept. `data`
    returns a data set by its name; `base` is the folder that references in the study are relative
    to. `told` is called with (trainings done, trainings in all). Raises the error of a trial that
    cannot be run.
    """
    first: dict[tuple[str | None, ...], Trial] = {}
    for trial in trials:
        first.setdefault(tuple(trial.combination.values()), trial)
    where = torch.device(device)
    rows = []
    for number in range(ROUNDS):
        for place, trial in enumerate(first.values()):
            told(number * len(first) + place, ROUNDS * len(first))
            short = replace(trial, epochs=EPOCHS, stops=False, degrade=(), keep_weights=False)
            outcome = run_trial(short, data(trial.dataset), base, device=where)
            rows.append(
                {
                    **trial.combination,
                    "sample_sec": 1 / _last_rate(outcome.epochs),
                    "device_name": device_name(where),
                    "threads": trial.threads,
                    "measured_at": datetime.now(UTC),
                }
            )
    told(ROUNDS * len(first), ROUNDS * len(first))
    return rows


def _last_rate(epochs: Iterable[Mapping[str, Any]]) -> float:
    """Return the sample-gradients per second of the last epoch."""
    return float([row["samples_per_sec"] for row in epochs][-1])
