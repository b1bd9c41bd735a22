"""What several data sets say together: mean ranks, and a claim where their number allows one."""

from collections.abc import Sequence

import numpy as np

from results import text
from results.statistics.across import best_across, fewest_datasets, mean_ranks
from results.verdict.combinations import Contest
from results.verdict.schema import Across


def across(every: Sequence[Contest], alpha: float) -> Across:
    """Rank recipes (all axes but the model) over data sets; claim a best one if n allows it.

    A recipe's score on a data set is its mean over models, if it was judged with every model that
    any recipe was judged with there. Recipes that lack a data set are not ranked. Returns the value
    of `across` in a verdict.
    """
    tables = [_recipes(contest) for contest in every]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    datasets = [contest.dataset for contest in every]
    if len(names) < 2:
        reason = (
            "Fewer than two pairs of optimizer and loss are complete on every data set, so there "
            "is nothing to rank across them."
        )
        return {
            "datasets": datasets,
            "claim": False,
            "best": None,
            "reason": reason,
            "ranks": [],
        }
    scores = np.array([[table[name] for table in tables] for name in names])
    ranks = mean_ranks(scores)
    best, p = best_across(scores)
    fewest = fewest_datasets(len(names), alpha)
    enough = len(every) >= fewest
    claim = enough and bool((np.delete(p, best) < alpha).all())
    return {
        "datasets": datasets,
        "claim": claim,
        "best": names[best],
        "reason": _reason(names[best], len(every), claim=claim, fewest=fewest, alpha=alpha),
        "ranks": [
            {
                "name": names[i],
                "mean_rank": float(ranks[i]),
                "p_value": float(p[i]) if enough and i != best else None,
            }
            for i in ranks.argsort(kind="stable")
        ],
    }


def _recipes(contest: Contest) -> dict[str, float]:
    """Return recipe -> mean score over models, larger is better."""
    models = {c.entries["model"] for c in contest.judged}
    found: dict[str, list[float]] = {}
    for combination in contest.judged:
        score = combination.mean("test_score")
        assert score is not None, "a judged combination has a score on every fold"
        found.setdefault(combination.recipe, []).append(contest.sign * score)
    return {name: float(np.mean(s)) for name, s in found.items() if len(s) == len(models)}


def _reason(best: str, n: int, *, claim: bool, fewest: int, alpha: float) -> str:
    rule = f"two-sided Wilcoxon, Holm, level {text.percent(alpha)}"
    if n < fewest:
        return (
            f"No claim across data sets: with {n} of them, no difference can be distinguished from "
            f"chance, whatever the scores ({rule}); a claim needs at least {fewest}. The ranks "
            "describe these data sets and no others."
        )
    if claim:
        return f"{best} is better than each of the others over these {n} data sets ({rule})."
    return (
        f"No claim across data sets: {best} has the best mean rank, but over {n} data sets it is "
        f"not shown to be better than each of the others ({rule})."
    )
