"""How long a study will take, by one real step and one real evaluation of each kind, measured.

And what it will be able to tell, by a pilot.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.core.references import StudyError
from bench.optimizers.table import Optimizer
from bench.planning.cost.timed import Timed, seconds
from bench.planning.plan import Plan
from bench.study.components import Combination, Component
from bench.study.dataset import DataSet
from bench.study.trial import Trial
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
    device = torch.device(device_kind)
    timed = Timed(next(iter(trials.values())), data, base, device)
    timed.gradient()  # the first one takes longer, as does the first evaluation
    step_sec = statistics.median(seconds(timed.gradient, device) for _ in range(STEPS))
    parts = {label: Combination(choices=t.choices, base=base) for label, t in trials.items()}
    update_sec = {
        label: _update_sec(own.optimizer, timed.model, device)
        for label, own in parts.items()
        if own.optimizer.row.step == "plain"
    }
    timed.evaluate(1)
    cases = 0

    def evaluated() -> None:
        nonlocal cases
        cases = timed.evaluate(timed.batch)

    evaluation_sec = seconds(evaluated, device)
    return Cost(
        batch=timed.batch,
        step_sec=step_sec,
        case_sec=evaluation_sec / cases,
        update_sec=update_sec,
    )


def _update_sec(kind: Component[Optimizer], model: nn.Module, device: torch.device) -> float:
    """Time the second update of an optimizer: the first one makes its state."""
    optimizer = kind.row.build(model.parameters(), **kind.settings)
    optimizer.step()
    return seconds(optimizer.step, device)


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
