"""A raced run: the first seed of every combination, one drop, then the rest for those left.

A combination that cannot be the best by the first seed of the first repeat, in all folds together
and at a stated level, is recorded as `dropped` and not trained further. Folds are never cut short:
half a curve does not tell how a trial ends.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from bench.core.references import StudyError
from bench.execution.phases.tuning import Changed, joined
from bench.execution.provenance import footer
from bench.execution.trial_queue import Progress
from bench.planning.plan import Plan
from bench.study.trial import Trial, trial_columns
from results import text
from results.run_folder import made_of
from results.tables.axes import AXES, key_of, name_of
from results.tables.store import finished, write_trial
from results.verdict.race import dropped

log = logging.getLogger("medopt.run")


def raced(plan: Plan, run: Callable[[Plan, Changed], Progress], changed: Changed) -> Progress:
    """Run the first seed of the first repeat, drop what cannot be the best, and run the rest.

    `run(plan, changed)` runs a plan and returns how it ended; `changed` is called at each step of
    the whole. Raises StudyError if there is only one seed and one repeat, and what `run` raises.
    """
    first = first_round(plan)
    left = len(plan.trials) - len(first.trials)
    if not left:
        raise StudyError(
            "race: the study has one seed and one repeat, so nothing comes after the drop. Give it "
            "more `seeds`, or run it without a race."
        )
    run(first, lambda now: changed(joined(None, now, left)))
    _drop(plan)
    return run(plan, changed)


def first_round(plan: Plan) -> Plan:
    """Return the plan of what all combinations run: the first seed of the first repeat."""
    seed = plan.study.seeds[0]
    return replace(plan, trials=tuple(t for t in plan.trials if (t.repeat, t.seed) == (0, seed)))


def _drop(plan: Plan) -> None:
    """Record as dropped all trials without a row of the combinations left behind."""
    level = plan.study.race
    assert level is not None, "a raced study has a level"
    behind = made_of(plan.folder, lambda run: dropped(run.contests, run.study, run.columns_of))
    for dataset, names in behind.items():
        log.info("race: %s dropped on %s: %s", len(names), dataset, ", ".join(names) or "none")
    known, about = finished(plan.folder), footer(plan)
    why = f"behind the best after the first seed (race at level {text.percent(level)})"
    for trial in plan.trials:
        if _name(trial) in behind.get(trial.dataset, ()) and trial.trial_id not in known:
            row = {
                **trial_columns(trial),
                "study": plan.study.name,
                "status": "dropped",
                "reason": why,
            }
            write_trial(plan.folder, trial=row, metrics=[], epochs=[], cases=[], footer=about)


def _name(trial: Trial) -> str:
    return name_of(key_of(trial.combination, AXES))
