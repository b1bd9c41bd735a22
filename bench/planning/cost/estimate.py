"""Estimates how long a run will take from the work of its trials, timed side by side as in the run.

Each part of a trial's work is measured once per round, in as many processes at once as in the run.
So the times include what processes take from each other (memory bandwidth, caches, cores), their
start, and other load on the machine. Each round gives its own forecast of the wall time; the spread
of the rounds says how far it can be trusted.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
from scipy.stats import t as student

from bench.core.references import StudyError
from bench.planning.cost.timed import counted
from bench.planning.plan import Plan
from bench.planning.schedule.simulate import played
from bench.planning.speed.choice import Kind, Way
from bench.planning.speed.factors import Part
from bench.planning.speed.side_by_side import Here, Machine, NotMeasuredError
from bench.study.components import Combination
from bench.study.dataset import DataSet
from bench.study.trial import Trial
from bench.training.evaluate import whole_sides
from loaders.cores import usable_cores

# Rounds of measurement after one to warm up, and the least time for a part in each.
ROUNDS = 4
LEAST_SEC = 0.3
# If rounds take long, as with large volumes on a CPU, FEWEST are enough. Assumption.
FEWEST, LONG_SEC = 3, 120.0
# The share of runs whose wall time should be in the range, if the machine's load stays the same.
CONFIDENCE = 0.95
# The final report (measured for studies of 4 and 8 trials on a busy machine: 2.3 and 2.7 s).
REPORT_SEC = 2.5

_PARTS: tuple[Part, ...] = ("setup", "load", "gradient", "evaluation", "test")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of the parts of a model's trials in one lane, from one round.

    `setup` per trial; `load` and `gradient` per sample; `evaluation` and `test` per pass of a patch
    through the network; `update` per step, by optimizer: one whose gradients include its updates
    (L-BFGS, SAM) has none.
    """

    setup: float
    load: float
    gradient: float
    evaluation: float
    test: float
    update: Mapping[str, float]
    # On a GPU, batches are prepared while it computes.
    beside: bool = False

    def train_sec(self, trial: Trial, data: DataSet) -> float:
        """Return the training seconds of a trial that spends its whole budget."""
        samples = trial.epochs * len(data.split(trial.repeat, trial.fold).train)
        update = self.update.get(trial.choices["optimizer"].label, 0.0)
        sample = max(self.load, self.gradient) if self.beside else self.load + self.gradient
        return samples * sample + samples / (trial.batch_size * trial.accumulate) * update

    def look_sec(self, trial: Trial, data: DataSet, passes: np.ndarray) -> float:
        """Return the seconds of all looks at inner validation; cases cost `passes` (n,) each."""
        inner = passes[data.split(trial.repeat, trial.fold).inner].sum()
        return (trial.looks or trial.epochs) * float(inner) * self.evaluation

    def test_sec(
        self, trial: Trial, data: DataSet, passes: np.ndarray, *, last_is_best: bool = False
    ) -> float:
        """Return the seconds of the final scoring; a point of a search has none.

        It scores the test fold with the chosen weights, also on degraded images, and with the last
        weights, unless they are the chosen ones; and training cases with the last weights.
        """
        if trial.inner_only:
            return 0.0
        split = data.split(trial.repeat, trial.fold)
        test = float(passes[split.test].sum())
        seen = len(split.inner) * float(passes[split.train].mean()) + (not last_is_best) * test
        return seen * self.evaluation + (1 + len(trial.degrade)) * test * self.test


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The seconds that a run takes.

    `trials`: seconds of each trial in its lane if it spends its whole budget, in the plan's order;
    `eval_sec`: the seconds of evaluation in all trials. `wall_sec` is the time from the run's
    command to its report, including processes, if no trial ends early. `low` and `high` contain it
    with CONFIDENCE, from the spread of the rounds; `low` also assumes that every trial ends as
    early as it may.
    """

    trials: tuple[float, ...]
    eval_sec: float
    wall_sec: float
    low: float
    high: float


def estimate(
    plan: Plan, told: Callable[[int, int], None], *, lanes: int, begin_sec: float = 0.0
) -> Estimate:
    """Return how long a run of a plan takes on `lanes` lanes.

    Measures each data set x model with the first of its losses, and each optimizer's update on it.
    `begin_sec` is the time to read the study and its data; `told` is called with (measurements
    done, measurements in all). Raises StudyError if a trial cannot be measured.
    """
    threads = plan.study.threads or 1
    cuda = plan.study.device == "cuda"
    # More lanes than cores must be on other machines, which are assumed to be like this one.
    at_once = min(lanes, max(usable_cores() // threads, 1))
    updated = {_kind(trial): trial for trial in reversed(plan.trials)}
    first = {kind[:2]: trial for kind, trial in reversed(updated.items())}
    machine = Here(
        {**updated, **first},
        {data.name: data for data in plan.sets},
        plan.base,
        device=plan.study.device,
        lanes={threads: at_once},
    )
    try:
        start_sec = machine.start(threads)
        # With any other step, the gradients include the optimizer's updates.
        plain = [kind for kind, trial in updated.items() if _is_plain(trial, plan)]
        measured = _measured(machine, list(first), plain, Way(threads=threads), told)
    except NotMeasuredError as error:
        raise StudyError(f"a trial of this study cannot be measured: {error}") from error
    finally:
        machine.end()
    costs = [
        {kind: _cost(of_round, kind, lanes=at_once, beside=cuda) for kind in first}
        for of_round in measured
    ]
    passes = {kind: _passes(trial, plan) for kind, trial in first.items()}
    # The run's own process imports the same modules as theirs.
    around = 2 * start_sec + begin_sec + REPORT_SEC
    rounds = [_round(plan, cost, passes, lanes) for cost in costs]
    walls = [each.wall_sec + around for each in rounds]
    low, _ = interval([each.least_sec + around for each in rounds])
    _, high = interval(walls)
    return Estimate(
        trials=tuple(
            statistics.median(secs) for secs in zip(*(r.trials for r in rounds), strict=True)
        ),
        eval_sec=statistics.median(each.eval_sec for each in rounds),
        wall_sec=statistics.median(walls),
        low=low,
        high=high,
    )


def interval(walls: Sequence[float]) -> tuple[float, float]:
    """Return the interval in which one more round would be, from the spread of some rounds.

    It is Student's t prediction interval on logarithms, since load on a machine multiplies times.
    """
    logs = np.log(walls)
    n = len(logs)
    reach = student.ppf((1 + CONFIDENCE) / 2, n - 1) * logs.std(ddof=1) * math.sqrt(1 + 1 / n)
    return float(np.exp(logs.mean() - reach)), float(np.exp(logs.mean() + reach))


def _kind(trial: Trial) -> Kind:
    return trial.dataset, trial.choices["model"].label, trial.choices["optimizer"].label


def _is_plain(trial: Trial, plan: Plan) -> bool:
    return Combination(choices=trial.choices, base=plan.base).optimizer.row.step == "plain"


def _measured(
    machine: Machine,
    first: Sequence[Kind],
    updated: Sequence[Kind],
    way: Way,
    told: Callable[[int, int], None],
) -> list[dict[tuple[Kind, Part], float]]:
    """Return the seconds of each part on the machine in each round."""
    asked: list[tuple[Kind, Part]] = [
        *((kind, part) for kind in first for part in _PARTS),
        *((kind, "update") for kind in updated),
    ]
    rounds: list[dict[tuple[Kind, Part], float]] = []
    start = monotonic()
    for number in range(1 + ROUNDS):
        if number > FEWEST and monotonic() - start > LONG_SEC:
            break
        least = LEAST_SEC if number else 0.0
        rounds.append({})
        for place, (kind, part) in enumerate(asked):
            told(number * len(asked) + place, (1 + ROUNDS) * len(asked))
            rounds[-1][kind, part] = machine.sample_sec(kind, way, part, least)
    told((1 + ROUNDS) * len(asked), (1 + ROUNDS) * len(asked))
    return rounds[1:]


def _cost(
    of_round: Mapping[tuple[Kind, Part], float], kind: Kind, *, lanes: int, beside: bool
) -> Cost:
    """Return the cost of a model in one lane, which has one of `lanes` shares of the machine."""
    parts: dict[str, float] = {part: lanes * of_round[kind, part] for part in _PARTS}
    update = {
        own[2]: lanes * sec
        for (own, part), sec in of_round.items()
        if part == "update" and own[:2] == kind
    }
    return Cost(**parts, update=update, beside=beside)


def _passes(trial: Trial, plan: Plan) -> np.ndarray:
    row = Combination(choices=trial.choices, base=plan.base).model.row
    whole = whole_sides(trial, row) is not None
    return counted(trial, plan.data(trial.dataset), whole=whole)


@dataclass(frozen=True, kw_only=True)
class _Round:
    """The forecast of one round: seconds of trials, of all evaluation, and wall time of lanes."""

    trials: tuple[float, ...]
    eval_sec: float
    wall_sec: float
    least_sec: float


def _round(
    plan: Plan, costs: Mapping[Kind, Cost], passes: Mapping[Kind, np.ndarray], lanes: int
) -> _Round:
    most, least, evaluated = [], [], []
    for trial in plan.trials:
        kind = _kind(trial)[:2]
        cost, data, counts = costs[kind], plan.data(trial.dataset), passes[kind]
        train, looks = cost.train_sec(trial, data), cost.look_sec(trial, data, counts)
        scored = looks + cost.test_sec(trial, data, counts)
        evaluated.append(scored)
        most.append(cost.setup + train + scored)
        end = cost.test_sec(trial, data, counts, last_is_best=True)
        least.append(cost.setup + earliest(trial) * (train + looks) + end)
    return _Round(
        trials=tuple(most),
        eval_sec=math.fsum(evaluated),
        wall_sec=played(most, lanes).wall_sec,
        least_sec=played(least, lanes).wall_sec,
    )


def earliest(trial: Trial) -> float:
    """Return the least share of its budget that a trial spends: its first look was the best."""
    looks = trial.looks or trial.epochs
    return min((1 + trial.patience) / looks, 1.0) if trial.stops else 1.0
