"""How long a study will take, by one real step and one real evaluation of each kind, measured.

And what it will be able to tell, by a pilot.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import nn

from bench.core.gpu.repeatable import repeat
from bench.core.precision import PRECISIONS
from bench.core.processes import World
from bench.core.references import StudyError
from bench.losses.supervision import as_target, supervised
from bench.losses.table import alone
from bench.optimizers.table import Optimizer
from bench.planning.plan import Plan
from bench.study.components import Combination, Component
from bench.study.dataset import DataSet
from bench.study.trial import Trial
from bench.training.evaluate import Evaluator, whole_sides
from bench.training.networks import CHANNELS_LAST, make_network
from bench.training.train import make_criterion, make_sampler, seeds_of
from loaders.batches.torch_loader import gather
from loaders.batches.upload import uploaded
from results.run_folder import made_of
from results.statistics import predict
from results.verdict.next_steps import Foreseen, foreseen

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

    def train_sec(self, trial: Trial, data: DataSet) -> float:
        """Return the seconds of training of a trial that spends its whole budget."""
        samples = trial.epochs * len(data.split(trial.repeat, trial.fold).train)
        update = self.update_sec.get(trial.choices["optimizer"].label, 0.0)
        gradients = samples / self.batch * self.step_sec
        updates = samples / (trial.batch_size * trial.accumulate)
        return gradients + updates * update

    def eval_sec(self, trial: Trial, data: DataSet) -> float:
        """Return the seconds of evaluation of a trial that spends its whole budget."""
        split = data.split(trial.repeat, trial.fold)
        scored = (trial.looks or trial.epochs) * len(split.inner)
        # The test fold by the chosen weights and by the last, and made worse by the former; and
        # training cases by the last. A point of a search has no test.
        if not trial.inner_only:
            scored += len(split.inner) + (2 + len(trial.degrade)) * len(split.test)
        return scored * self.case_sec


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The seconds that trials take at the longest.

    `trials`: of each, in the plan's order; `eval_sec`: of all, those of evaluation.
    """

    trials: tuple[float, ...]
    eval_sec: float

    @property
    def seconds(self) -> float:
        """Return what they take one after the other."""
        return math.fsum(self.trials)


def estimate(plan: Plan, told: Callable[[int, int], None]) -> Estimate:
    """Return what the trials of a plan take at the longest.

    Measures each data set x model once, with the first loss it is run with, and the update of each
    optimizer on it. Early stopping only shortens.
    """
    kinds: dict[tuple[str, str], dict[str, Trial]] = {}
    for trial in plan.trials:
        of_kind = kinds.setdefault((trial.dataset, trial.choices["model"].label), {})
        of_kind.setdefault(trial.choices["optimizer"].label, trial)
    costs = {}
    for done, (kind, trials) in enumerate(kinds.items()):
        told(done, len(kinds))
        costs[kind] = measure(trials, plan.data(kind[0]), plan.base, plan.study.device)
    told(len(kinds), len(kinds))
    parts = [
        (cost.train_sec(trial, data), cost.eval_sec(trial, data))
        for trial in plan.trials
        for cost in (costs[trial.dataset, trial.choices["model"].label],)
        for data in (plan.data(trial.dataset),)
    ]
    return Estimate(
        trials=tuple(train + scored for train, scored in parts),
        eval_sec=math.fsum(scored for _, scored in parts),
    )


def measure(trials: Mapping[str, Trial], data: DataSet, base: Path, device_kind: str) -> Cost:
    """Time the gradient of a trial on its own first batch, and the evaluation of an inner case.

    Inner cases are evaluated as a trial does, in batches. `trials` are of one model, a trial an
    optimizer: its update is timed on that gradient.
    """
    trial = next(iter(trials.values()))
    device = torch.device(device_kind)
    store, split = data.store, data.split(trial.repeat, trial.fold)
    sampler = make_sampler(trial, data, trial.seed)
    parts = {label: Combination(choices=t.choices, base=base) for label, t in trials.items()}
    first = next(iter(parts.values()))
    if device.type == "cuda":
        repeat(tf32=PRECISIONS[trial.precision].tf32)
    model, forward = make_network(
        trial, first.model, store.path, device, World(), seeds_of(trial)[1]
    )
    row, loss = first.optimizer.row, first.loss.row
    criterion = make_criterion(first.loss, store, sampler)
    batch = min(trial.batch_size * row.batch_multiple, len(split.train))
    pixels, labels = gather(store, sampler.draw(np.arange(batch)))
    image = uploaded(pixels, device)
    if trial.channels_last:
        image = image.contiguous(memory_format=CHANNELS_LAST[len(trial.patch)])
    target = as_target(uploaded(labels, device))
    weights = torch.ones(len(store.meta.classes), device=device) if loss.weighted else None

    values_of = supervised(criterion, weights, alone)

    def step() -> float:
        start = perf_counter()
        model.zero_grad()
        with PRECISIONS[trial.precision].autocast(device):
            given = forward(image)
        values_of(given, target).mean().backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
        if device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - start

    step()
    step_sec = statistics.median(step() for _ in range(STEPS))
    update_sec = {
        label: _update_sec(own.optimizer, model, device)
        for label, own in parts.items()
        if own.optimizer.row.step == "plain"
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
        whole=whole_sides(trial, first.model.row),
    )
    looked_at = split.inner[:batch]
    evaluator.score(looked_at[:1], final=False)  # the first one takes longer
    start = perf_counter()
    evaluator.score(looked_at, final=False)
    case_sec = (perf_counter() - start) / len(looked_at)
    return Cost(batch=batch, step_sec=step_sec, case_sec=case_sec, update_sec=update_sec)


def _update_sec(kind: Component[Optimizer], model: nn.Module, device: torch.device) -> float:
    """Time the second update of an optimizer: the first one makes its state."""
    optimizer = kind.row.build(model.parameters(), **kind.settings)
    optimizer.step()
    start = perf_counter()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start


# ---- what it will be able to tell ------------------------------------------------------------


def foreseen_by(plan: Plan, pilot: Path) -> Iterator[Foreseen]:
    """Yield what a plan will be able to tell of each data set that the run `pilot` has too.

    Raises RunError where the folder holds no run, StudyError where it has none of these data sets.
    """
    run = made_of(pilot, lambda content: content)
    contests = {contest.dataset: contest for contest in run.contests}
    if not contests.keys() & {data.name for data in plan.sets}:
        raise StudyError(
            f"pilot {pilot.name}: it is of {', '.join(contests) or 'no data'}, the study of "
            f"{', '.join(data.name for data in plan.sets)}. A pilot is a run on the same data."
        )
    for data in plan.sets:
        if len(data.splits) < 2:
            raise StudyError(
                f"pilot {pilot.name}: the study tests {data.name!r} in one fold, which cannot "
                f"tell what another training set would change; a pilot tells nothing of it."
            )
        if data.name in contests:
            yield foreseen(
                contests[data.name], _design(plan, data), run.rows, alpha=plan.study.alpha
            )


def _design(plan: Plan, data: DataSet) -> predict.Plan:
    """Return what a verdict on a data set will rest on."""
    own = [trial for trial in plan.trials if trial.dataset == data.name]
    ratios = [len(split.test) / len(split.train) for split in data.splits]
    return predict.Plan(
        folds=len({split.fold for split in data.splits}),
        repeats=plan.study.repeats,
        seeds=len({trial.seed for trial in own}) or len(plan.study.seeds),
        patients=len(set(data.store.groups)),
        test_train_ratio=float(np.mean(ratios)),
    )
