"""Predicts from a pilot, a run on the same data, what a planned study will be able to tell."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.core.references import StudyError
from bench.planning.plan import Plan
from bench.study.dataset import DataSet
from results.run_folder import made_of
from results.statistics import predict
from results.verdict.combinations import Contest
from results.verdict.next_steps import Foreseen, foreseen


def foreseen_by(plan: Plan, pilot: Path) -> Iterator[Foreseen]:
    """Yield what a plan will be able to tell about each data set that the run `pilot` has too.

    Raises RunError if the folder holds no run, StudyError if it has none of these data sets.
    """
    run = made_of(pilot, lambda content: content)
    contests = {contest.dataset: contest for contest in run.contests}
    if not contests.keys() & {data.name for data in plan.sets}:
        raise StudyError(
            f"pilot {pilot.name}: it ran on {', '.join(contests) or 'no data'}, but the study is "
            f"on {', '.join(data.name for data in plan.sets)}. A pilot must be a run on the same "
            f"data."
        )
    for data in plan.sets:
        if len(data.splits) < 2:
            raise StudyError(
                f"pilot {pilot.name}: the study tests {data.name!r} in only one fold, which cannot "
                f"tell what another training set would change; nor can a pilot."
            )
        if data.name in contests:
            contest = contests[data.name]
            told = foreseen(contest, _design(plan, data), run.columns_of, alpha=plan.study.alpha)
            yield replace(told, note=_note(plan, contest))


def _design(plan: Plan, data: DataSet) -> predict.Plan:
    """Return the numbers on which a verdict about a data set will rest."""
    own = [trial for trial in plan.trials if trial.dataset == data.name]
    ratios = [len(split.test) / len(split.train) for split in data.splits]
    return predict.Plan(
        folds=len({split.fold for split in data.splits}),
        repeats=plan.study.repeats,
        seeds=len({trial.seed for trial in own}) or len(plan.study.seeds),
        patients=len(set(data.store.groups)),
        test_train_ratio=float(np.mean(ratios)),
    )


def _note(plan: Plan, contest: Contest) -> str:
    """Return a note if the pilot differs from the study in a way that is known to matter."""
    rows = [row for combination in contest.combinations for row in combination.scored]
    if plan.study.tuning is None or any(row["tuned"] for row in rows):
        return ""
    return (
        "the pilot was not tuned, but the study is: settings chosen anew in each fold make scores "
        "vary more between folds, so expect a wider interval than this; a pilot by `medopt tune` "
        "would show it"
    )
