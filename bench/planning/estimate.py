"""How long a study will take: one real step and one real evaluation of each kind, measured."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import nn

from bench.core.precision import PRECISIONS
from bench.core.processes import World
from bench.losses.supervision import supervised
from bench.losses.table import alone
from bench.planning.plan import Plan
from bench.study.components import loss_row, model_row, optimizer_row
from bench.study.dataset import DataSet
from bench.study.schema import Trial
from bench.training.evaluate import Evaluator
from bench.training.networks import build_model
from bench.training.train import make_sampler
from bench.training.transfer import LayerGroups, load_weights
from loaders.batches.torch_loader import gather

# Steps timed after one that warms up; the median is taken.
STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one gradient of `batch` samples, of evaluating one case, of one update.

    `update_sec` is by optimizer; one whose updates lie within its gradients (L-BFGS, SAM) has none.
    """

    batch: int
    step_sec: float
    case_sec: float
    update_sec: Mapping[str, float]

    def trial_sec(self, trial: Trial, data: DataSet) -> float:
        """Return the seconds of a trial that spends its whole budget."""
        split = data.split(trial.repeat, trial.fold)
        samples = trial.epochs * len(split.train)
        scored = trial.epochs * len(split.inner) + len(split.test)
        update = self.update_sec.get(trial.optimizer.label, 0.0)
        gradients = samples / self.batch * self.step_sec
        return gradients + samples / trial.batch_size * update + scored * self.case_sec


def estimate(plan: Plan, told: Callable[[int, int], None]) -> float:
    """Return the seconds that all trials of a plan take one after the other, at the longest.

    Measures each data set x model once, with the first loss it is run with, and the update of each
    optimizer on it. Early stopping only shortens.
    """
    kinds: dict[tuple[str, str], dict[str, Trial]] = {}
    for trial in plan.trials:
        of_kind = kinds.setdefault((trial.dataset, trial.model.label), {})
        of_kind.setdefault(trial.optimizer.label, trial)
    costs = {}
    for done, (kind, trials) in enumerate(kinds.items()):
        told(done, len(kinds))
        costs[kind] = measure(trials, plan.data(kind[0]), plan.base, plan.study.device)
    told(len(kinds), len(kinds))
    return math.fsum(
        costs[t.dataset, t.model.label].trial_sec(t, plan.data(t.dataset)) for t in plan.trials
    )


def measure(trials: Mapping[str, Trial], data: DataSet, base: Path, device_kind: str) -> Cost:
    """Time the gradient of a trial on its own first batch, and the evaluation of one inner case.

    `trials` are of one model, a trial an optimizer: its update is timed on that gradient.
    """
    trial = next(iter(trials.values()))
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
    update_sec = {
        label: _update_sec(own, model, base, device)
        for label, own in trials.items()
        if optimizer_row(own.optimizer.name, own.optimizer.params, base).row.step == "plain"
    }
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
    case_sec = perf_counter() - start
    return Cost(batch=batch, step_sec=step_sec, case_sec=case_sec, update_sec=update_sec)


def _update_sec(trial: Trial, model: nn.Module, base: Path, device: torch.device) -> float:
    """Time the second update of an optimizer: the first one makes its state."""
    row = optimizer_row(trial.optimizer.name, trial.optimizer.params, base).row
    optimizer = row.build(model.parameters(), **row.settings(trial.settings("optimizer")))
    optimizer.step()
    start = perf_counter()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start


def fits(plan: Plan) -> Iterator[str]:
    """Say of each model and its pretrained weights what of them it takes.

    Raises StudyError where they do not fit, or a stage that is to be frozen is none.
    """
    seen: set[tuple[str, str]] = set()
    for trial in plan.trials:
        if trial.start is None or (trial.model.label, trial.start.label) in seen:
            continue
        seen.add((trial.model.label, trial.start.label))
        row = model_row(trial.model.name, trial.model.params, plan.base).row
        store = plan.data(trial.dataset).path
        model = build_model(
            trial.model.name, trial.settings("model"), plan.base, store, trial.patch
        )
        match = load_weights(model, row, trial.start)
        LayerGroups(model, row, trial.start)
        yield f"{trial.model.label} starts from {trial.start.label}: {match}"
