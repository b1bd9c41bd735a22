"""A run until it is decided: repeats are added while they can decide, for a few looks at most.

Optional stopping shares the study's level among its looks (`results.statistics.race.look_level`),
so that looking more often does not give more false winners.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.execution.trial_queue import Progress
from bench.planning.plan import Plan, earlier
from bench.study.schema import Study
from results import text
from results.report.write import load_verdicts
from results.statistics.race import look_level
from results.verdict.next_steps import none_added, repeats_decide
from results.verdict.schema import OfDataset

log = logging.getLogger("medopt.run")


def continued(study: Study, folder: Path) -> Study:
    """Return a study with the repeats that the looks of its run in `folder` have added."""
    before = earlier(folder)
    if before is None or before.until_decided is None or study.until_decided is None:
        return study
    if study.repeats != before.until_decided.step:
        return study  # another protocol, which the plan will refuse with its own message
    grown: Study = study.model_copy(
        update={"repeats": before.repeats, "until_decided": before.until_decided}
    )
    return grown


def until_decided(
    plan: Plan,
    run: Callable[[Plan], Progress],
    grown: Callable[[int], Plan],
    say: Callable[[str], None],
) -> Progress:
    """Run a plan, and run it with more repeats while that can decide what is undecided.

    `run(plan)` runs a plan and returns how it ended; `grown(repeats)` plans and saves the study
    with that many repeats; `say` is called after each look that adds repeats, and with the reason
    if something is undecided and none are added. Raises what these raise.
    """
    while True:
        progress = run(plan)
        rule = plan.study.until_decided
        assert rule is not None, "a study with looks has a rule"
        assert rule.step is not None, "a run has fixed its first look"
        look, most = plan.study.repeats // rule.step, rule.looks * rule.step
        found = load_verdicts(plan.folder)["datasets"]
        open_sets = [] if look == rule.looks else to_decide(found, most)
        level = text.percent(look_level(plan.study.alpha, rule.looks))
        looked = f"look {look} of at most {rule.looks}, at level {level}"
        if not open_sets:
            why = none_added(found, repeats=plan.study.repeats, step=rule.step, looks=rule.looks)
            for dataset, reason in why.items():
                log.info("%s: %s: %s", looked, dataset, reason)
                say(f"{looked}: {dataset}: {reason}.")
            return progress
        more = plan.study.repeats + rule.step
        told = (
            f"{looked}: {text.listed(open_sets)} undecided, and up to {most} repeats can decide; "
            f"{more} repeats now"
        )
        log.info(told)
        say(f"{told}.")
        plan = grown(more)


def to_decide(datasets: Sequence[OfDataset], most: int) -> list[str]:
    """Return the data sets that are undecided and that up to `most` repeats can decide."""
    return [found["dataset"] for found in datasets if repeats_decide(found, most)]
