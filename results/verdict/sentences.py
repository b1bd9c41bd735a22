"""The verdict in words: what is recommended and its price, what was compared, why nothing was."""

from collections import Counter
from collections.abc import Sequence

from results import text as words
from results.verdict.schema import Judged, Price


def choice(recommended: str, group: int, price: Price | None) -> str:
    """Return what is recommended of a group that nothing tells from the best, why, and its price.

    `price` is as a verdict has it, None where no time was measured.
    """
    alone = group == 1
    if price is None:
        missing = "Training times were not measured"
        if alone:
            return f"{missing}."
        return f"{missing}, so {recommended} is taken for its mean score: a choice, no finding."
    cost = f"One trial of it takes {_seconds(price)}."
    if alone:
        return cost
    alike = len(price["alike"])
    low, high = (words.duration(seconds) for seconds in price["alike_seconds"])
    times = f"training took {low}" if low == high else f"training took {low} to {high} a trial"
    if alike == 1:
        why = "it is the quickest of them to train"
    elif alike == group:
        why = f"{times} and these folds cannot tell which is quickest, and it scores best"
    else:
        why = (
            f"of these, {alike} cannot be told from the quickest to train ({times}), and it scores "
            f"best among them"
        )
    return f"{recommended} is recommended, since {why}: a choice, not a finding. {cost}"


def margin_counted(metric: str, unit: str | None, margin: float, deviation: float) -> str:
    """Return what of a metric matters, where the margin counts standard deviations of numbers."""
    return (
        f"The margin is {words.score(margin)} {words.metric_in(metric, unit)}: "
        f"{margin / deviation:g} times {deviation:g}, the standard deviation of the true numbers."
    )


def _seconds(price: Price) -> str:
    training = f"{words.duration(price['seconds'])} of training"
    if price["wall_seconds"] is None:
        return training
    return f"{training}, {words.duration(price['wall_seconds'])} with set-up and evaluation"


# With fewer points the defaults, which are the same in each fold, decide too much: of two equal
# optimizers one is called better in 7.2 % of studies at 2 points and 2.5 % at 5, where 5 % are
# promised (simulated: tests/bench/planning/test_points_null.py).
ENOUGH_POINTS = 5


def settings_compared(combinations: Sequence[Judged], points: int | None = None) -> str | None:
    """Return which rates were compared and whether any was tuned; None before the first trial.

    `combinations` are those of a verdict; `points` is how many settings each was searched by.
    """
    run = [row for row in combinations if row["tuned"] is not None]
    if not run:
        return None
    rates: dict[str, list[str]] = {}
    for row in run:
        rate = (row["hparams"] or {}).get("lr")
        found = rates.setdefault(row["optimizer"] or "", [])
        said = "rates of its own" if rate is None else f"{rate:g}"
        if said not in found:
            found.append(said)
    compared = words.listed([f"{name} {' / '.join(found)}" for name, found in rates.items()])
    if all(row["tuned"] for row in run) and points:
        tried = f"its defaults and {words.count(points - 1, 'draw')} from its space"
        said = f"Every optimizer was tuned, with {tried} in each fold, by inner validation there."
        if points < ENOUGH_POINTS:
            said += " With so few points a lead is one of this configuration, not of an optimizer."
        return said
    if all(row["tuned"] for row in run):
        return f"Every optimizer was tuned. Learning rates: {compared}."
    if any(row["tuned"] for row in run):
        tuned = words.listed(list(dict.fromkeys(row["name"] for row in run if row["tuned"])))
        return (
            f"Tuned were {tuned}, the others were not: what was tuned had more tries. Learning "
            f"rates: {compared}."
        )
    return (
        f"No optimizer was tuned: each ran at one setting, its default or what the study gives. "
        f"Learning rates compared: {compared}. Other rates may change the order."
    )


def no_verdict(states: Sequence[str], expected: int) -> str:
    """Return why nothing was compared, from the states of all combinations and trials of each."""
    counts = Counter(states)
    others = words.listed(
        [f"{n} {state}" for state, n in sorted(counts.items()) if state != "judged"]
    )
    if counts["judged"] > 1:
        return (
            "No verdict is possible: with a single fold the luck of the split cannot be told from "
            "merit. Use five folds: parts that come with the data (`folds: official`) meet a "
            "published score, and cannot say which is best."
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
