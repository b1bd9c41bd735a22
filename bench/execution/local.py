"""The runner in this process: one trial after the other, without Ray."""

import logging
from collections.abc import Callable

import torch

from bench.execution.trial_queue import Progress, Queue, label, reason
from bench.planning.plan import Plan
from bench.training.train import run_trial

log = logging.getLogger("medopt.run")


def run_here(plan: Plan, queue: Queue, changed: Callable[[Progress], None]) -> None:
    """Run every trial of the queue in this process; `changed` hears of each step.

    A trial that breaks is written down as failed and the run goes on. Raises OSError where
    results cannot be written, and KeyboardInterrupt; what is finished is on disk in both cases.
    """
    lane = "process"
    device = torch.device(plan.study.device)
    while lease := queue.take(lane):
        trial = lease.trial
        changed(queue.progress())

        def watch(epoch: int, score: float | None) -> None:
            queue.renew(lane, epoch, score)
            changed(queue.progress())

        try:
            outcome = run_trial(
                trial, plan.data(trial.dataset), plan.base, device=device, watch=watch
            )
        except Exception as error:
            # One broken trial is a row in the results, whatever broke it; the others go on.
            log.exception("trial %s (%s) failed", trial.trial_id, label(trial))
            queue.fail(lane, trial.trial_id, reason(error))
        else:
            queue.finish(lane, trial.trial_id, outcome)
        changed(queue.progress())
