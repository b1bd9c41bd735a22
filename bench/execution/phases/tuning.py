"""A tuned run in phases: the points of its search, the chosen points on all seeds, the defaults.

The phases run one after the other, each with its own plan, queue and tables; the same call resumes
a phase that was stopped. To those who watch, it is one run.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from bench.execution.trial_queue import Progress
from bench.planning.plan import Plan
from bench.planning.points import final_plan, point_plan
from results import text

log = logging.getLogger("medopt.run")

# Folder of a run that holds the same study without a search.
DEFAULTS = "defaults"

Changed = Callable[[Progress], None]


def tuned(
    plan: Plan, untuned: Plan | None, run: Callable[[Plan, Changed], Progress], changed: Changed
) -> Progress:
    """Run the points of a plan, then its trials with the best of them, then those of `untuned`.

    `run(plan, changed)` runs a plan and returns how it ended; `changed` is called at each step of
    the whole. Raises what `run` raises.
    """
    tried = point_plan(plan)
    left = len(plan.trials) + (len(untuned.trials) if untuned else 0)
    so_far = run(tried, lambda now: changed(joined(None, now, left)))
    final = final_plan(plan, tried)
    missing = len(plan.trials) - len(final.trials)
    if missing:
        log.warning(
            "not trained, for want of points that failed: %s. The same command tries them again",
            text.count(missing, "trial"),
        )
    left -= len(plan.trials)
    for part in (final, untuned):
        if part is not None:
            before, after = so_far, left if part is final else 0
            ended = run(
                part,
                lambda now, before=before, after=after: changed(joined(before, now, after)),  # type: ignore[misc]  # mypy knows no defaults of lambdas
            )
            so_far = joined(before, ended, after)
    return so_far


def joined(before: Progress | None, now: Progress, after: int) -> Progress:
    """Return the progress of the whole from that of a phase, those before it, and trials after."""
    left = now.seconds_left
    if left is not None and (pending := now.total - now.done):
        left *= (pending + after) / pending
    joined = replace(now, total=now.total + after, seconds_left=left)
    if before is None:
        return joined
    return replace(
        joined,
        total=joined.total + before.done,
        done=now.done + before.done,
        reused=now.reused + before.done,
        statuses=dict(Counter(before.statuses) + Counter(now.statuses)),
        seconds=now.seconds + before.seconds,
    )
