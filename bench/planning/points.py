"""Points of a search: settings from each optimizer's own space, and the trials that try them.

Every combination gets the same number of points in every fold. Point 0 is what it has without a
search; the others are drawn quasi-randomly (a scrambled Sobol sequence) from the space of its
optimizer's row, anew in each fold, so that "this optimizer is better" is a claim about its space
and not about one lucky rate. A point is a trial of the study's first seed that is scored on its
fold's inner validation alone; the best is then trained on every seed and meets the test fold.

What the study itself sets (in an entry, or by a regularizer) stays as it is and is not searched. A
combination that has nothing left to search runs as it is, untuned.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
from scipy.stats import qmc

from bench.core.references import StudyError, is_reference
from bench.core.settings import Setting
from bench.metrics.table import METRICS
from bench.optimizers.spec import Space
from bench.planning.expand import hashed
from bench.planning.plan import Plan, same_ids
from bench.study.components import Combination
from bench.study.schema import tuning_of
from bench.study.trial import Trial
from results.tables.schema import FINAL_STATUSES
from results.tables.store import read

# Folder of a run that holds the tables of its points.
POINTS = "points"
# Digits of a drawn setting: beyond what a result can feel, and short of where the exponentials of
# two machines differ, since the settings are part of a trial's id. Assumption.
DIGITS = 4

Draws = tuple[Mapping[str, Setting], ...]


def draws(space: Mapping[str, Space], points: int, seed: Sequence[int]) -> Draws:
    """Return the settings of `points` points of a space: point 0 sets nothing, the others all.

    More points of the same seed begin with the same ones. `seed` are numbers from 0 on.
    """
    count = points - 1
    if not space or count < 1:
        return ({},)
    sobol = qmc.Sobol(len(space), scramble=True, rng=np.random.default_rng([*seed]))
    # The sequence is balanced in whole powers of 2, of which the first are taken.
    unit = sobol.random_base2(math.ceil(math.log2(count)))[:count]
    return (
        {},
        *(
            {
                name: value_at(share, each)
                for (name, each), share in zip(space.items(), row, strict=True)
            }
            for row in unit.tolist()
        ),
    )


def value_at(share: float, space: Space) -> float:
    """Return the value at a share in 0 to 1 of the way through a space."""
    if space.log:
        low, high = math.log(space.low), math.log(space.high)
        value = math.exp(low + share * (high - low))
    else:
        value = space.low + share * (space.high - space.low)
    return min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high)


def share_of(value: Setting, space: Space) -> float:
    """Return how far through a space a number is, 0 to 1; one outside is at its end."""
    assert isinstance(value, int | float), "a space is of numbers"
    low, high, at = space.low, space.high, float(value)
    if space.log:
        low, high, at = math.log(low), math.log(high), math.log(max(at, low))
    return min(max((at - low) / (high - low), 0.0), 1.0)


def space_of(trial: Trial, plan: Plan) -> dict[str, Space]:
    """Return what a search may set in a trial: its optimizer's space but what the study sets."""
    if is_reference(trial.choices["optimizer"].name):
        return {}  # nobody knows where the settings of a user's own lie
    combination = Combination(choices=trial.choices, base=plan.base)
    given = combination.given("optimizer")
    found = combination.own_optimizer.row.space
    return {name: space for name, space in found.items() if name not in given}


def spaces(plan: Plan) -> dict[str, dict[str, dict[str, float | bool]]]:
    """Return {label of an optimizer: {setting: its low, high and log}} of what a plan searches."""
    found: dict[str, dict[str, dict[str, float | bool]]] = {}
    for trial in plan.trials:
        own = found.setdefault(trial.choices["optimizer"].label, {})
        own |= {name: asdict(space) for name, space in space_of(trial, plan).items()}
    return found


def draws_of(trial: Trial, plan: Plan) -> Draws:
    """Return the points of a trial's combination in its fold: those of its optimizer there.

    The losses and models that an optimizer is run with try the same points.
    """
    tuning = tuning_of(plan.study)
    name = f"{trial.dataset}\n{trial.choices['optimizer'].label}"
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    seed = (tuning.seed, trial.repeat, trial.fold, word)
    return draws(space_of(trial, plan), tuning.points, seed)


def point_plan(plan: Plan) -> Plan:
    """Return the plan of a search: a trial a point, in a folder of their own inside the run.

    Raises StudyError where there is nothing to search, and where points that are finished there
    have ids of an older version.
    """
    first = plan.study.seeds[0]
    trials: list[Trial] = []
    for trial in plan.trials:
        found = draws_of(trial, plan) if trial.seed == first else ()
        if len(found) > 1:
            trials += [attempt(trial, drawn, p, len(found)) for p, drawn in enumerate(found)]
    if not trials:
        raise StudyError(
            "tuning: nothing is left to search: the study sets what its optimizers' spaces have, "
            "or they are the user's own. Leave such settings out, or ask for `medopt run`."
        )
    made = replace(plan, folder=plan.folder / POINTS, trials=tuple(trials), skips=())
    same_ids(made.folder, made.trials)
    return made


def final_plan(plan: Plan, tried: Plan) -> Plan:
    """Return the plan of all seeds, each combination in each fold with its best point's settings.

    `tried` is the `point_plan`. A combination is left out of a fold where not every point has a
    result: it is incomplete there until the search is. Raises StudyError as `point_plan` does.
    """
    chosen = choose(tried)
    trials: list[Trial] = []
    for trial in plan.trials:
        found = draws_of(trial, plan)
        point = chosen.get(_cell(trial)) if len(found) > 1 else None
        if point is not None:
            trials.append(_as_drawn(trial, found[point], point, len(found)))
        elif len(found) == 1:
            trials.append(trial)
    made = replace(plan, trials=tuple(trials))
    same_ids(made.folder, made.trials)
    return made


Cell = tuple[str | int | None, ...]


def choose(tried: Plan) -> dict[Cell, int]:
    """Return the best point of each combination in each fold whose points all have a result."""
    columns = ("trial_id", "status", "val_score")
    rows = {
        row["trial_id"]: row for row in read(tried.folder, "trials", columns=columns).to_pylist()
    }
    scores: dict[Cell, list[float | None]] = {}
    unfinished: set[Cell] = set()
    signs: dict[Cell, int] = {}
    for trial in tried.trials:
        cell, row = _cell(trial), rows.get(trial.trial_id)
        if row is None or row["status"] not in FINAL_STATUSES:
            unfinished.add(cell)
            continue
        score = row["val_score"] if row["status"] == "ok" else None
        scores.setdefault(cell, []).append(score)
        signs[cell] = 1 if METRICS[trial.primary].higher_is_better else -1
    return {
        cell: best_point(found, signs[cell])
        for cell, found in scores.items()
        if cell not in unfinished
    }


def best_point(scores: Sequence[float | None], sign: int) -> int:
    """Return the point with the best score on inner validation; of equals the first.

    None is the score of one that diverged or that the metric has no value for: the worst. `sign` is
    1 where a higher score is better, else -1.
    """
    worth = [-math.inf if score is None else sign * score for score in scores]
    return worth.index(max(worth))


def _cell(trial: Trial) -> Cell:
    """Return what a choice is made for: a combination in a fold."""
    return (*trial.combination.values(), trial.repeat, trial.fold)


def attempt(trial: Trial, drawn: Mapping[str, Setting], point: int, points: int) -> Trial:
    """Return the trial of one point: seen by inner validation alone, with no weights kept."""
    decides = {"trial": trial.trial_id, "drawn": dict(drawn), "inner_only": True}
    return replace(
        trial,
        trial_id=hashed(decides),
        drawn=drawn,
        point=point,
        points=points,
        inner_only=True,
        keep_weights=False,
    )


def _as_drawn(trial: Trial, drawn: Mapping[str, Setting], point: int, points: int) -> Trial:
    """Return a trial with the settings of a point; with its own settings its id is its own."""
    trial_id = trial.trial_id
    if drawn:
        trial_id = hashed({"trial": trial.trial_id, "drawn": dict(drawn)})
    return replace(trial, trial_id=trial_id, drawn=drawn, point=point, points=points)
