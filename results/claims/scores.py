"""One side's test scores against the other's, on the evidence of folds and patients."""

from collections.abc import Sequence
from math import lcm, sqrt

from results.claims.contrasts import (
    Found,
    Lacking,
    Pair,
    Side,
    compared,
    is_of,
    matched,
    of_folds,
    pairs_of,
)
from results.claims.kept import Kept
from results.claims.measures import score
from results.statistics.procedure import compare
from results.statistics.spread import single_variance
from results.verdict.combinations import Contest


def matched_scores(run: Kept, contest: Contest, one: Side, other: Side) -> Found | Lacking:
    """Compare the primary test scores of one side with the other's, as the verdict compares.

    Means over each place on the other axes, then over the places; their variance is that over
    patients plus what training adds (results.statistics.procedure), or that of folds if the metric
    has no influence of cases.
    """
    difference = score(run, contest)
    pairs = pairs_of(contest, difference, one, other)
    if isinstance(pairs, Lacking) or len(contest.folds) < 2:
        return matched(contest, difference, one, other)
    names, evidence = run.evidence(contest)
    ours, theirs = (_weighted(pairs, side, names) for side in ("one", "other"))
    found = compare(evidence.averaged([ours, theirs]), alpha=0.05)  # its level is not used
    return Found(
        dataset=contest.dataset,
        estimate=float(found.mean[0] - found.mean[1]),
        error=sqrt(float(found.variance[0, 1])),
        df=float(found.df[0, 1]),
        folds=len(contest.folds),
        compared=compared(pairs, one, other),
    )


def _weighted(pairs: Sequence[Pair], side: str, names: Sequence[str]) -> list[int]:
    """Return indices of a side's combinations, repeated so that all places weigh the same."""
    places: dict[tuple[str, ...], dict[str, None]] = {}
    for pair in pairs:
        places.setdefault(pair.place, {})[getattr(pair, side).name] = None
    most = lcm(*(len(own) for own in places.values()))
    return [
        names.index(name)
        for own in places.values()
        for name in own
        for _ in range(most // len(own))
    ]


def above_chance(run: Kept, contest: Contest, side: Side) -> Found | Lacking:
    """Compare the mean AUC of a side with that of chance, 0.5."""
    judged = [c.name for c in contest.judged if is_of(c, side)]
    if not judged or contest.metric != "auc" or len(contest.folds) < 2:
        return Lacking(dataset=contest.dataset, reason="no judged combination of these has an AUC")
    names, evidence = run.evidence(contest)
    mean = evidence.averaged([[names.index(name) for name in judged]])
    scores, error, df = mean.scores[0], 0.0, float(len(contest.folds) - 1)
    if mean.influence is None:
        folds = of_folds(contest, (scores.mean(axis=-1).ravel() - 0.5).tolist(), "")
        assert isinstance(folds, Found)
        error = folds.error
    else:
        variance, df = single_variance(
            scores, mean.influence[0], test_train_ratio=evidence.test_train_ratio
        )
        # No score is known more precisely than its grain.
        error = sqrt(max(variance, evidence.grain**2))
    return Found(
        dataset=contest.dataset,
        estimate=float(scores.mean()) - 0.5,
        error=error,
        df=df,
        folds=len(contest.folds),
        compared=f"{', '.join(judged)} against chance",
    )
