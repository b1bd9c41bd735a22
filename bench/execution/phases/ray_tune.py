"""Searches by Ray Tune over each optimizer's own space. The only file that imports ray.tune.

One Tuner runs the whole search, so that its actors, whose start takes seconds, are reused for all
points. Each combination in each fold has its own searcher and scheduler, since scores of different
ones say nothing about each other. Actors take trials as lanes do and report look by look; the rows
are written here. A search chooses by the scores that it sees, so it never gives a verdict.
"""

import itertools
import json
import logging
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.core.references import StudyError, failure
from bench.core.undisturbed import undisturbed
from bench.execution.phases.bohb import WITHOUT_MODEL, Tried, proposed
from bench.execution.phases.course import Course
from bench.execution.phases.record import Job, Record
from bench.execution.ray.cluster import LaneSize, check_room, connected, machines_of_cluster
from bench.execution.trial_queue import Progress, opened
from bench.execution.worker import cargo_of, unpacked
from bench.planning.plan import Plan
from bench.planning.points import POINTS, attempt, draws_of, share_of, space_of, value_at
from bench.study.schema import tuning_of
from bench.training.train import Outcome, run_trial
from loaders.cores import usable_cores

# A point goes on past a rung if it is among the best third there: the default of Li et al. 2020
# (arXiv 1810.05934, section 4.1) is 4; with 3, rungs of a few epochs stay distinct. Assumption.
REDUCTION = 3
# The first rung, as a part of the budget.
FIRST_RUNG = 1 / REDUCTION**2


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How a search works, in Tune's terms: a searcher and a scheduler.

    Without a searcher its points are those of `draws_of`; without a scheduler none is stopped.
    """

    searcher: Callable[[Record, Plan], Any] | None
    scheduler: Callable[[Record], Any] | None


def search_by_tune(
    plan: Plan, *, address: str | None, lanes: int, changed: Callable[[Progress], None]
) -> Progress:
    """Run or resume the search that a plan's study names; its rows go into POINTS.

    `lanes` points are tried at once. Raises what `bench.execution.ray.lanes.run_lanes` raises.
    """
    tuning = tuning_of(plan.study)
    cuda = plan.study.device == "cuda"
    size = LaneSize(workers=1, threads=plan.study.threads or 1, cuda=cuda)
    shared = not cuda and lanes > 1
    made = replace(plan, folder=plan.folder / POINTS)
    with opened(replace(made, skips=()), shared_device=shared) as queue:
        record = Record(
            plan=made,
            points=tuning.points,
            search=tuning.search,
            footer=queue.footer,
            shared_device=shared,
            changed=changed,
        )
        if any(record.missing(cell) for cell in record.cells):
            changed(record.progress())  # the start of Ray takes a while
            cores = max(lanes * size.threads, usable_cores())
            gpus = torch.cuda.device_count() if cuda else 0
            with connected(address, cores=cores, gpus=gpus) as storage:
                check_room(machines_of_cluster(), lanes, size)
                _fit(made, record, _WAYS[tuning.search], size, lanes, storage)
        return record.progress()


def _fit(plan: Plan, record: Record, way: _Way, size: LaneSize, lanes: int, storage: Path) -> None:
    from ray import tune

    jobs = _jobs(record, plan)
    space = {"job": tune.grid_search(list(jobs))} if way.searcher is None else {}
    left = sum(len(record.missing(cell)) for cell in record.cells)
    resources: dict[str, float] = {"CPU": size.threads, **({"GPU": 1} if size.cuda else {})}
    trainable: Any = tune.with_parameters(_point_actor(), **cargo_of(plan))
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=way.searcher and way.searcher(record, plan),
            scheduler=way.scheduler and way.scheduler(record),
            num_samples=1 if way.searcher is None else left,
            max_concurrent_trials=lanes,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(storage),
            callbacks=[_listener(record)],
            # A lost point is trained anew: a checkpoint would be large, and its training is short.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    # Failures are recorded in our tables, with their reasons.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner.fit()


def _jobs(record: Record, plan: Plan) -> Iterator[Job]:
    """Yield the points that are drawn beforehand and have no result yet."""
    for cell, trial in record.cells.items():
        found = draws_of(trial, plan)
        for point in record.missing(cell):
            yield {"cell": cell, "point": point, "drawn": dict(found[point])}


# ---- in this process ---------------------------------------------------------------------------


def _listener(record: Record) -> Any:
    """Return Tune's callback for each step, which writes it to disk."""
    from ray import tune

    class Listener(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            del iteration, trials, info
            record.heard(trial.trial_id, trial.config["job"], None)

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            del iteration, trials, info
            job = trial.config["job"]
            if "outcome" in result:
                record.finish(trial.trial_id, job, pickle.loads(result["outcome"]))  # noqa: S301  # of our own actor, by a Ray with a token
            else:
                for epoch in json.loads(result["rows"]):
                    record.heard(trial.trial_id, job, epoch)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            del iteration, trials, info
            job = trial.config["job"]
            if job["point"] not in record.done[job["cell"]]:
                record.drop(trial.trial_id, job)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            del iteration, trials, info
            record.fail(trial.trial_id, trial.config["job"], failure(trial.get_error()))

    return Listener()


def _rungs(record: Record) -> Any:
    """Return a scheduler that stops points at rungs of sample-gradients, each cell on its own."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    class ByCell(FIFOScheduler):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # Ray's
            self._own: dict[str, ASHAScheduler] = {}

        def set_search_properties(self, *given: Any, **more: Any) -> bool:
            del given, more
            return True

        def _of(self, trial: Any) -> ASHAScheduler:
            cell = trial.config["job"]["cell"]
            if cell not in self._own:
                budget = record.budget(cell)
                self._own[cell] = ASHAScheduler(
                    time_attr="sample_gradients",
                    metric="score",
                    mode="max",
                    max_t=budget,
                    grace_period=math.ceil(budget * FIRST_RUNG),
                    reduction_factor=REDUCTION,
                    stop_last_trials=False,  # the last report of a point is of its whole budget
                )
            return self._own[cell]

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            self._of(trial).on_trial_add(tune_controller, trial)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
            # Of a point that has spent its budget nothing is left to stop but its outcome.
            cell = trial.config["job"]["cell"]
            if "outcome" in result or result["epochs"] >= record.cells[cell].epochs:
                return str(self.CONTINUE)
            return str(self._of(trial).on_trial_result(tune_controller, trial, result))

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
            self._of(trial).on_trial_complete(tune_controller, trial, result)

        def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
            self._of(trial).on_trial_remove(tune_controller, trial)

    return ByCell()


def _in_turn(
    record: Record,
    suggest: Callable[[str, int, str], dict[str, Any]],
    ended: Callable[[str, str, dict[str, Any] | None, bool], None],
) -> Any:
    """Return a searcher that gives Tune the missing points, cell after cell in turn.

    `suggest(cell, point, trial_id)` returns the draws of any point except 0, which sets nothing;
    `ended(cell, trial_id, result, error)` is called with its result.
    """
    from ray.tune.search import Searcher

    class InTurn(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="score", mode="max")
            self._left = {cell: record.missing(cell) for cell in record.cells}
            self._turn = itertools.cycle(record.cells)
            self._asked: dict[str, str] = {}

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            for cell in itertools.islice(self._turn, len(self._left)):
                if self._left[cell]:
                    point = self._left[cell].pop(0)
                    found = suggest(cell, point, trial_id)
                    self._asked[trial_id] = cell
                    drawn = {} if point == 0 else found
                    return {"job": {"cell": cell, "point": point, "drawn": drawn}}
            return None

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            ended(self._asked.pop(trial_id), trial_id, result, error)

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()  # a search goes on from its tables, not from this

        def restore(self, checkpoint_path: str) -> None:
            del checkpoint_path

    return InTurn()


def _by_model(record: Record, plan: Plan) -> Any:
    """Return a searcher with BOHB's model for each cell; points without a proposal are drawn."""
    tuning = tuning_of(plan.study)
    number = {cell: at for at, cell in enumerate(record.cells)}

    def suggest(cell: str, point: int, _trial_id: str) -> dict[str, Any]:
        space = space_of(record.cells[cell], plan)
        plain = dict(draws_of(record.cells[cell], plan)[point])
        rng = np.random.default_rng([tuning.seed, number[cell], point])
        if rng.random() < WITHOUT_MODEL:
            return plain
        usual = _usual(record, plan, cell)
        tried = [
            Tried(
                shares=np.array(
                    [share_of({**usual, **drawn}[name], each) for name, each in space.items()]
                ),
                looks=looks,
            )
            for drawn, looks in record.looks[cell].values()
        ]
        levels = [math.ceil(record.budget(cell) / REDUCTION**at) for at in (2, 1, 0)]
        found = proposed(tried, levels, rng)
        if found is None:
            return plain
        return {
            name: value_at(share, each)
            for (name, each), share in zip(space.items(), found.tolist(), strict=True)
        }

    return _in_turn(record, suggest, lambda *_: None)


def _by_optuna(record: Record, plan: Plan) -> Any:
    """Return a searcher with a sampler of Optuna's for each cell."""
    try:
        import optuna
    except ImportError as error:
        raise StudyError(
            "tuning.search: optuna is not installed; run `pip install optuna`, or search by asha."
        ) from error
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuning = tuning_of(plan.study)

    def sampler(number: int, cell: str) -> Any:
        trial = record.cells[cell]
        settings = space_of(trial, plan)
        usual = _usual(record, plan, cell)
        known = record.done[cell] if 0 in record.done[cell] else {}
        tried = [usual if point == 0 else drawn for point, (drawn, _) in known.items()]
        return OptunaSearch(
            space=_as_optuna(settings),
            metric="score",
            mode="max",
            points_to_evaluate=tried or [usual],
            evaluated_rewards=[worth for _, worth in known.values()] or None,
            seed=(tuning.seed + number) % 2**32,
        )

    own = {cell: sampler(n, cell) for n, cell in enumerate(record.cells)}

    def ended(cell: str, trial_id: str, result: dict[str, Any] | None, error: bool) -> None:
        own[cell].on_trial_complete(trial_id, result=result, error=error)

    return _in_turn(record, lambda cell, _, trial_id: own[cell].suggest(trial_id), ended)


def _as_optuna(space: Any) -> dict[str, Any]:
    from ray import tune

    return {
        name: (tune.loguniform if each.log else tune.uniform)(each.low, each.high)
        for name, each in space.items()
    }


def _usual(record: Record, plan: Plan, cell: str) -> dict[str, Any]:
    """Return the values that the searched settings of a cell have without a search."""
    from bench.study.components import Combination

    trial = record.cells[cell]
    settings = Combination(choices=trial.choices, base=plan.base).optimizer.settings
    return {name: settings[name] for name in space_of(trial, plan)}


_WAYS = {
    "asha": _Way(searcher=None, scheduler=_rungs),
    "bohb": _Way(searcher=_by_model, scheduler=_rungs),
    "optuna": _Way(searcher=_by_optuna, scheduler=None),
}


# ---- an actor of the search --------------------------------------------------------------------


def _point_actor() -> Any:
    """Return the class whose actors try points, one after the other, look by look."""
    from ray import tune

    class PointActor(tune.Trainable):
        def setup(self, config: dict[str, Any], **cargo: Any) -> None:
            plan, problem = unpacked(**cargo)
            if plan is None or problem:
                raise StudyError(f"a worker of the search is unfit: {problem}")
            self._plan = plan
            self._begin(config)

        def step(self) -> dict[str, Any]:
            # Epochs that inner validation did not look after go with the next that it did.
            rows: list[dict[str, Any]] = []
            while not isinstance(said := self._course.next(), Outcome):
                rows.append(said)
                if said["val_loss"] is not None:
                    break
            if isinstance(said, Outcome):
                score = said.trial["val_score"] if said.trial["status"] == "ok" else None
                spent = said.trial["sample_gradients"]
                told = self._told(score, spent)
                return {**told, "outcome": pickle.dumps(said), "done": True}
            told = self._told(said["val_score"], said["sample_gradients"])
            # As texts and bytes: Tune takes mappings apart.
            return {**told, "epochs": said["epoch"], "rows": json.dumps(rows)}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._course.stop()
            self._begin(new_config)
            return True

        def cleanup(self) -> None:
            self._course.stop()

        def _begin(self, config: dict[str, Any]) -> None:
            job = config["job"]
            base = next(t for t in self._plan.trials if t.trial_id == job["cell"])
            tuning = self._plan.study.tuning
            assert tuning is not None
            self._trial = attempt(base, job["drawn"], job["point"], tuning.points)
            self._course = Course(partial(_train, self._trial, self._plan))

        def _told(self, score: float | None, spent: int) -> dict[str, Any]:
            from bench.metrics.table import METRICS

            sign = 1 if METRICS[self._trial.primary].higher_is_better else -1
            worth = float("-inf") if score is None else sign * score
            return {"score": worth, "sample_gradients": spent}

    return PointActor


def _train(trial: Any, plan: Plan, checkpoint: Any) -> Outcome:
    device = torch.device(plan.study.device)
    with undisturbed():
        return run_trial(
            trial, plan.data(trial.dataset), plan.base, device=device, checkpoint=checkpoint
        )
