"""The verdict in words: what was found, how sure it is, and what it costs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from results import text as words


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a verdict with a comparison rests on; differences are in units of the metric.

    `lead`: the best mean over the next; `reach`: the furthest that the simultaneous intervals of
    the tied group go from zero. `seconds`: of the recommended, a trial; `alike`: how many of the
    tied group cost as little as the cheapest of it within noise; the recommended is one of them.
    """

    state: str
    metric: str
    judged: int
    tied: Sequence[str]
    recommended: str
    lead: float
    reach: float
    seconds: float | None
    alike: int
    alpha: float
    margin: float

    def in_words(self) -> str:
        """Return the verdict and the choice it leads to."""
        return f"{_FOUND[self.state](self)} {_choice(self)}"


def _better(f: Finding) -> str:
    whom = "the other" if f.judged == 2 else f"each of the other {f.judged - 1}"
    text = (
        f"{f.tied[0]} is better than {whom} at level {words.percent(f.alpha)}: it is ahead of the "
        f"next by {words.score(f.lead)} {words.metric(f.metric)}, "
        f"and by {words.score(f.reach)} at most."
    )
    if f.reach > f.margin:
        return text
    return (
        f"{text} Real, but inside the margin of {words.score(f.margin)} that matters in practice."
    )


def _tie(f: Finding) -> str:
    return (
        f"{_group(f)} cannot be told from the best, and with {words.percent(1 - f.alpha)} "
        f"confidence none of them is further from it than {words.score(f.margin)} "
        f"{words.metric(f.metric)}: for the score it does not matter which is taken."
    )


def _undecided(f: Finding) -> str:
    return (
        f"{_group(f)} cannot be told from the best, yet may differ from it by up to "
        f"{words.score(f.reach)} {words.metric(f.metric)} with {words.percent(1 - f.alpha)} "
        f"confidence, where {words.score(f.margin)} would matter. More seeds, repeats or data "
        "would narrow this."
    )


_FOUND = {"better": _better, "tie": _tie, "undecided": _undecided}


def _group(f: Finding) -> str:
    if len(f.tied) < f.judged:
        return f"{len(f.tied)} of {f.judged} combinations"
    return "The two combinations" if f.judged == 2 else f"All {f.judged} combinations"


def _choice(f: Finding) -> str:
    if f.seconds is None:
        missing = "Training times were not measured"
        if len(f.tied) == 1:
            return f"{missing}."
        return f"{missing}, so {f.recommended} is taken for its mean score: a choice, no finding."
    cost = f"{words.duration(f.seconds)} of training a trial"
    if len(f.tied) == 1:
        return f"Its price: {cost}."
    if f.alike == len(f.tied):
        why = "all of them cost the same within noise, and it scores best"
    elif f.alike > 1:
        why = f"{f.alike} of them are the cheapest within noise, and of these it scores best"
    else:
        why = "it is the cheapest of them"
    return f"{f.recommended} is recommended ({cost}), since {why}: a choice, not a finding."


def no_verdict(states: Sequence[str], expected: int) -> str:
    """Return why nothing was compared, from the states of all combinations and trials of each."""
    counts = Counter(states)
    others = words.listed(
        [f"{n} {state}" for state, n in sorted(counts.items()) if state != "judged"]
    )
    if counts["judged"] > 1:
        return (
            "No verdict is possible: with a single fold the luck of the split cannot be told from "
            "merit. Use five folds."
        )
    if counts["judged"] == 1:
        rest = f" (besides {others})" if others else ""
        return (
            f"No verdict is possible: only one combination is complete{rest}, so there is nothing "
            "to compare it with."
        )
    return (
        f"No verdict is possible: no combination has all of its {words.count(expected, 'trial')} "
        f"finished and scored ({others})."
    )
