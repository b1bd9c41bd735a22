"""Points of a search: settings from each optimizer's own space, and the trials that try them.

Every combination gets the same number of points in every fold. Point 0 has the settings without a
search; the others are drawn quasi-randomly (a scrambled Sobol sequence) from the space of its
optimizer's row, anew in each fold, so that "this optimizer is better" is a claim about its space
and not about one lucky rate. A point is a trial of the study's first seed that is scored only on
its fold's inner validation. The best is then trained on every seed and scored on the test fold.

What the study itself sets (in an entry, or by a regularizer) is not searched. A combination with
nothing left to search runs untuned.
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

# The folder in a run that holds the tables of its points.
POINTS = "points"
# Digits of a drawn setting: more than affect a result, and fewer than those in which exponentials
# of two machines differ, since settings are part of a trial's id. Assumption.
DIGITS = 4

Draws = tuple[Mapping[str, Setting], ...]


def draws(space: Mapping[str, Space], points: int, seed: Sequence[int]) -> Draws:
    """Return the settings of `points` points of a space: point 0 sets nothing, the others all.

    More points of the same seed begin with the same ones. `seed` are non-negative integers.
    """
    count = points - 1
    if not space or count < 1:
        return ({},)
    sobol = qmc.Sobol(len(space), scramble=True, rng=np.random.default_rng([*seed]))
    # The sequence is balanced for powers of 2: draw the next one and take the first points.
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
    """Return the value at a share (0 to 1) of the way through a space."""
    if space.log:
        low, high = math.log(space.low), math.log(space.high)
        value = math.exp(low + share * (high - low))
    else:
        value = space.low + share * (space.high - space.low)
    return min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high)


def share_of(value: Setting, space: Space) -> float:
    """Return how far through a space a number is, 0 to 1; one outside is clipped to its end."""
    assert isinstance(value, int | float), "a space consists of numbers"
    low, high, at = space.low, space.high, float(value)
    if space.log:
        low, high, at = math.log(low), math.log(high), math.log(max(at, low))
    return min(max((at - low) / (high - low), 0.0), 1.0)


def space_of(trial: Trial, plan: Plan) -> dict[str, Space]:
    """Return what a search may set in a trial: its optimizer's space less what the study sets."""
    if is_reference(trial.choices["optimizer"].name):
        return {}  # the space of a user's own optimizer is not known
    combination = Combination(choices=trial.choices, base=plan.base)
    given = combination.given("optimizer")
    found = combination.own_optimizer.row.space
    return {name: space for name, space in found.items() if name not in given}


def spaces(plan: Plan) -> dict[str, dict[str, dict[str, float | bool]]]:
    """Return {label of an optimizer: {setting: its low, high and log}} for a plan's search."""
    found: dict[str, dict[str, dict[str, float | bool]]] = {}
    for trial in plan.trials:
        own = found.setdefault(trial.choices["optimizer"].label, {})
        own |= {name: asdict(space) for name, space in space_of(trial, plan).items()}
    return found


def draws_of(trial: Trial, plan: Plan) -> Draws:
    """Return the points of a trial's combination in its fold, which depend on its optimizer.

    All losses and models that an optimizer is run with try the same points.
    """
    tuning = tuning_of(plan.study)
    name = f"{trial.dataset}\n{trial.choices['optimizer'].label}"
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    seed = (tuning.seed, trial.repeat, trial.fold, word)
    return draws(space_of(trial, plan), tuning.points, seed)


def point_plan(plan: Plan) -> Plan:
    """Return the plan of a search: one trial for each point, in its own folder inside the run.

    Raises StudyError if there is nothing to search, or if finished points in that folder have ids
    of an older version.
    """
    first = plan.study.seeds[0]
    trials: list[Trial] = []
    for trial in plan.trials:
        found = draws_of(trial, plan) if trial.seed == first else ()
        if len(found) > 1:
            trials += [attempt(trial, drawn, p, len(found)) for p, drawn in enumerate(found)]
    if not trials:
        raise StudyError(
            "tuning: nothing is left to search: the study sets everything in its optimizers' "
            "spaces, or they are the user's own. Leave such settings out, or use `medopt run`."
        )
    made = replace(plan, folder=plan.folder / POINTS, trials=tuple(trials), skips=())
    same_ids(made.folder, made.trials)
    return made


def final_plan(plan: Plan, tried: Plan) -> Plan:
    """Return the plan of all seeds, each combination in each fold with its best point's settings.

    `tried` is the `point_plan`. A combination is left out of a fold until all of its points have a
    result there. Raises StudyError as `point_plan` does.
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
    """Return the point with the best score on inner validation; the first of equals.

    None, the worst score, is that of a point that diverged or that the metric has no value for.
    `sign` is 1 if a higher score is better, else -1.
    """
    worth = [-math.inf if score is None else sign * score for score in scores]
    return worth.index(max(worth))


def _cell(trial: Trial) -> Cell:
    """Return the key of a choice of points: a combination in a fold."""
    return (*trial.combination.values(), trial.repeat, trial.fold)


def attempt(trial: Trial, drawn: Mapping[str, Setting], point: int, points: int) -> Trial:
    """Return the trial of one point: scored only on inner validation, its weights not kept."""
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
    """Return a trial with the settings of a point; point 0 keeps the trial's own id."""
    trial_id = trial.trial_id
    if drawn:
        trial_id = hashed({"trial": trial.trial_id, "drawn": dict(drawn)})
    return replace(trial, trial_id=trial_id, drawn=drawn, point=point, points=points)
