"""How long a study will take: one real step and one real evaluation of each kind, measured."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from bench.datasets import DataSet
from bench.evaluate import Evaluator
from bench.heads import supervised
from bench.losses import alone
from bench.networks import build_model
from bench.precision import PRECISIONS
from bench.resolve import Plan
from bench.rows import loss_row, optimizer_row
from bench.study import Trial
from bench.train import make_sampler
from bench.world import World
from loaders.host import gather

# Steps timed after one that warms up; the median is taken.
STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one gradient step of `batch` samples, and of evaluating one case."""

    batch: int
    step_sec: float
    case_sec: float

    def trial_sec(self, trial: Trial, data: DataSet) -> float:
        """Return the seconds of a trial that spends its whole budget."""
        split = data.split(trial.repeat, trial.fold)
        steps = trial.epochs * len(split.train) / self.batch
        scored = trial.epochs * len(split.inner) + len(split.test)
        return steps * self.step_sec + scored * self.case_sec


def estimate(plan: Plan, told: Callable[[int, int], None]) -> float:
    """Return the seconds that all trials of a plan take one after the other, at the longest.

    Measures each data set x model once, with the first optimizer and loss it is run with: the
    network's forward and backward are most of a step. Early stopping only shortens.
    """
    kinds: dict[tuple[str, str], Trial] = {}
    for trial in plan.trials:
        kinds.setdefault((trial.dataset, trial.model.label), trial)
    costs = {}
    for done, (kind, trial) in enumerate(kinds.items()):
        told(done, len(kinds))
        costs[kind] = measure(trial, plan.data(trial.dataset), plan.base, plan.study.device)
    told(len(kinds), len(kinds))
    return math.fsum(
        costs[t.dataset, t.model.label].trial_sec(t, plan.data(t.dataset)) for t in plan.trials
    )


def measure(trial: Trial, data: DataSet, base: Path, device_kind: str) -> Cost:
    """Time the steps of a trial on its own first batch, and the evaluation of one inner case."""
    device = torch.device(device_kind)
    store, split = data.store, data.split(trial.repeat, trial.fold)
    sampler = make_sampler(trial, data, trial.seed)
    model = build_model(
        trial.model.name, trial.settings("model"), base, store.path, trial.patch
    ).to(device)
    row = optimizer_row(trial.optimizer.name, trial.optimizer.params, base).row
    loss = loss_row(trial.loss.name, trial.loss.params, base).row
    criterion = loss.bind(trial.settings("loss"))
    batch = min(trial.batch_size * row.batch_multiple, len(split.train))
    pixels, labels = gather(store, sampler.draw(np.arange(batch)))
    image = torch.from_numpy(pixels).to(device)
    target = torch.from_numpy(labels).to(device).long()
    weights = torch.ones(len(store.meta.classes), device=device) if loss.weighted else None

    values_of = supervised(criterion, weights, alone)

    def step() -> float:
        start = perf_counter()
        model.zero_grad()
        with PRECISIONS[trial.precision].autocast(device):
            given = model(image)
        values_of(given, target).mean().backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
        if device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - start

    step()
    step_sec = statistics.median(step() for _ in range(STEPS))
    evaluator = Evaluator(
        trial=trial,
        store=store,
        sampler=sampler,
        model=model,
        criterion=criterion,
        weights=weights,
        device=device,
        world=World(),
    )
    start = perf_counter()
    evaluator.score(split.inner[:1], final=False)
    return Cost(batch=batch, step_sec=step_sec, case_sec=perf_counter() - start)
