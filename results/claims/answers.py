"""The answers: yes, no or undecided for each claim on each data set, with Holm over all."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict

from results.claims.contrasts import Found, Lacking
from results.claims.kept import Kept
from results.claims.table import CLAIMS, Claim, is_phantom
from results.run_folder import Recorded
from results.tables.rule import margin_of


class Answered(TypedDict):
    """One claim on one data set.

    `estimate`, `low` and `high` are in units of `measure`; the interval is for this claim alone.
    `p_value` is two-sided, adjusted by Holm over all answers. `tuned`: whether all optimizers were.
    """

    claim: str
    paper: str
    sentence: str
    measure: str
    dataset: str
    phantom: bool
    tuned: bool
    compared: str
    answer: Literal["yes", "no", "undecided"]
    estimate: float
    low: float
    high: float
    p_value: float
    folds: int


class Unanswered(TypedDict):
    """A claim that no data set answers: what it needs, and what each data set lacks."""

    claim: str
    paper: str
    sentence: str
    measure: str
    needs: str
    lacking: dict[str, str]


class Claims(TypedDict):
    """What runs show about the papers' claims."""

    version: int
    alpha: float
    answered: list[Answered]
    unanswered: list[Unanswered]


# Raised when a key changes its meaning or is removed.
VERSION = 1


def claims_of(runs: Sequence[Recorded], only: Collection[str] = ()) -> Claims:
    """Answer claims by every data set of some runs, as one family of tests.

    `only`: the ids of the claims to ask, empty for all. The level is that of the first run's study.
    Raises ValueError for an unknown id.
    """
    unknown = [claim for claim in only if claim not in CLAIMS]
    if unknown:
        raise ValueError(f"no claim is called {unknown[0]!r}; choices: {', '.join(CLAIMS)}")
    asked = [claim for claim in CLAIMS.values() if not only or claim.id in only]
    alpha = float(runs[0].study.get("alpha", 0.05)) if runs else 0.05
    found: list[tuple[Claim, Kept, Found]] = []
    lacking: dict[str, dict[str, str]] = {claim: {} for claim in CLAIMS}
    for run in map(Kept, runs):
        for claim in asked:
            for result in claim.ask(run):
                if isinstance(result, Lacking):
                    lacking[claim.id][result.dataset] = result.reason
                else:
                    found.append((claim, run, result))
    raw = [_p_value(claim, run, result) for claim, run, result in found]
    answered = [
        _answer(claim, run, result, p, alpha)
        for (claim, run, result), p in zip(found, holm(raw), strict=True)
    ]
    done = {answer["claim"] for answer in answered}
    return {
        "version": VERSION,
        "alpha": alpha,
        "answered": answered,
        "unanswered": [
            {
                "claim": claim.id,
                "paper": claim.paper,
                "sentence": claim.sentence,
                "measure": claim.measure,
                "needs": claim.needs,
                "lacking": lacking[claim.id],
            }
            for claim in asked
            if claim.id not in done
        ],
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm 1979, Scandinavian Journal of Statistics 6."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        highest = max(highest, min(p_values[i] * (len(p_values) - rank), 1.0))
        adjusted[i] = highest
    return adjusted


def _tails(claim: Claim, run: Kept, result: Found) -> tuple[float, float]:
    """Return the one-sided p-values for the claim and for its opposite."""
    margin = margin_of(run.study, result.dataset) if claim.margin else 0.0
    match claim.says:
        case "above":  # the opposite includes being above by less than the margin
            return result.p_above(0.0), result.p_below(margin)
        case "below":
            return result.p_below(0.0), result.p_above(-margin)
        case "not worse":
            return result.p_above(-margin), result.p_below(-margin)


def _p_value(claim: Claim, run: Kept, result: Found) -> float:
    return min(2 * min(_tails(claim, run, result)), 1.0)


def _answer(claim: Claim, run: Kept, result: Found, p_value: float, alpha: float) -> Answered:
    true, false = _tails(claim, run, result)
    low, high = result.interval(alpha)
    sure: Literal["yes", "no"] = "yes" if true <= false else "no"
    return {
        "claim": claim.id,
        "paper": claim.paper,
        "sentence": claim.sentence,
        "measure": claim.measure,
        "dataset": result.dataset,
        "phantom": any(
            is_phantom(run, contest.dataset)
            for contest in run.contests
            if contest.dataset in result.dataset or result.dataset in contest.dataset
        ),
        "tuned": _all_tuned(run),
        "compared": result.compared,
        "answer": sure if p_value < alpha else "undecided",
        "estimate": result.estimate,
        "low": low,
        "high": high,
        "p_value": p_value,
        "folds": result.folds,
    }


def _all_tuned(run: Kept) -> bool:
    rows: list[Mapping[str, Any]] = [
        row for contest in run.contests for row in contest.rows if row["status"] == "ok"
    ]
    return bool(rows) and all(row["tuned"] for row in rows)
