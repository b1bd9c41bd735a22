"""How much scores fall on degraded test images, if a study asks for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from results.report.protocol import asked
from results.run_folder import Recorded
from results.verdict.combinations import Combination, fold_of, means_by_fold


def worse(
    run: Recorded, metric: str, judged: Sequence[Combination], short: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the score of each judged combination on undegraded and on degraded test images.

    Means over folds, averaged over seeds first: {"names": degradations, "lines": [{"name", "plain",
    "scores"}]}, in the order of `judged`. None if nothing was degraded.
    """
    names = asked(run.study, "degrade")
    if not names or not judged:
        return None
    lines = []
    for combination in judged:
        plain, *scores = _scores(run, metric, combination, ["", *names])
        lines.append({"name": short[combination.name], "plain": plain, "scores": scores})
    return {"names": names, "lines": lines}


def _scores(
    run: Recorded, metric: str, combination: Combination, degradations: Sequence[str]
) -> list[float | None]:
    trials = {row["trial_id"]: fold_of(row) for row in combination.scored}
    headlines = {
        (row["trial_id"], row["degradation"] or ""): row["value"]
        for row in run.rows("metrics", trials)
        if (row["split"], row["metric"]) == ("test", metric) and row["headline"]
    }
    means: list[float | None] = []
    for degradation in degradations:
        found = ((fold, headlines.get((trial, degradation))) for trial, fold in trials.items())
        by_fold = means_by_fold((fold, value) for fold, value in found if value is not None)
        means.append(float(np.mean(list(by_fold.values()))) if by_fold else None)
    return means
