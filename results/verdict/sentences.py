"""The verdict in words: the recommendation and its price, what was compared, or why nothing was."""

from collections import Counter
from collections.abc import Sequence

from results import text as words
from results.verdict.schema import Judged, Price


def choice(recommended: str, group: int, price: Price | None) -> str:
    """Return which member of the group of possible best ones is recommended, why, and its price.

    `price` is that of the verdict, None if no time was measured.
    """
    alone = group == 1
    if price is None:
        missing = "Training times were not measured"
        if alone:
            return f"{missing}."
        why = "for its mean score: a choice, not a finding"
        return f"{missing}, so {recommended} is recommended {why}."
    cost = f"One of its trials takes {_seconds(price)}."
    if alone:
        return cost
    alike = len(price["alike"])
    low, high = (words.duration(seconds) for seconds in price["alike_seconds"])
    times = low if low == high else f"{low} to {high}"
    if alike == 1:
        why = "it is the fastest of them to train"
    elif alike == group:
        why = (
            f"it scores best and the folds cannot show which of them trains fastest ({times} per "
            "trial)"
        )
    else:
        why = f"it scores best of the {alike} that may be the fastest to train ({times} per trial)"
    return f"{recommended} is recommended because {why}: a choice, not a finding. {cost}"


def margin_counted(metric: str, unit: str | None, margin: float, deviation: float) -> str:
    """Return the margin in words, for a multiple of the numbers' standard deviation."""
    return (
        f"The margin is {words.score(margin)} {words.metric_in(metric, unit)}: "
        f"{margin / deviation:g} times {deviation:g}, the standard deviation of the true numbers."
    )


def _seconds(price: Price) -> str:
    training = f"{words.duration(price['seconds'])} of training"
    if price["wall_seconds"] is None:
        return training
    return f"{training} ({words.duration(price['wall_seconds'])} with set-up and evaluation)"


# With fewer points the defaults, which are the same in each fold, have too much influence: of two
# equal optimizers, one is called better in 7.2 % of studies with 2 points and in 2.5 % with 5; the
# promised level is 5 % (simulated: tests/bench/planning/test_points_null.py).
ENOUGH_POINTS = 5


def settings_compared(combinations: Sequence[Judged], points: int | None = None) -> str | None:
    """Return which learning rates were compared and whether any was tuned; None before any trial.

    `combinations` are those of a verdict; `points` is the number of settings tried for each.
    """
    run = [row for row in combinations if row["tuned"] is not None]
    if not run:
        return None
    rates: dict[str, list[str]] = {}
    for row in run:
        rate = (row["hparams"] or {}).get("lr")
        found = rates.setdefault(row["optimizer"] or "", [])
        said = "its own rate" if rate is None else f"{rate:g}"
        if said not in found:
            found.append(said)
    compared = words.listed([f"{name} {' / '.join(found)}" for name, found in rates.items()])
    if all(row["tuned"] for row in run) and points:
        tried = f"its defaults and {words.count(points - 1, 'draw')} from its search space"
        said = f"Every optimizer was tuned in each fold by inner validation, with {tried}."
        if points < ENOUGH_POINTS:
            said += " With so few points, a lead belongs to the configuration, not the optimizer."
        return said
    if all(row["tuned"] for row in run):
        return f"Every optimizer was tuned. Learning rates: {compared}."
    if any(row["tuned"] for row in run):
        tuned = list(dict.fromkeys(row["name"] for row in run if row["tuned"]))
        return (
            f"Only {words.listed(tuned)} {'was' if len(tuned) == 1 else 'were'} tuned, and so had "
            f"more tries than the others. Learning rates: {compared}."
        )
    if len(rates) == 1:
        one = all(len(found) == 1 for found in rates.values())
        return (
            "The optimizer was not tuned: it ran with its defaults or the settings that the study "
            f"gives. {'Learning rate' if one else 'Learning rates'}: {compared}. "
            "Other rates may change the ranking."
        )
    return (
        f"No optimizer was tuned: each ran with its defaults or the settings that the study gives. "
        f"Learning rates compared: {compared}. Other rates may change the ranking."
    )


def no_verdict(states: Sequence[str], expected: int) -> str:
    """Return why nothing was compared; `states` has one per combination, `expected` its trials."""
    counts = Counter(states)
    others = words.listed(
        [f"{n} {state}" for state, n in sorted(counts.items()) if state != "judged"]
    )
    if counts["judged"] > 1:
        return (
            "No verdict is possible: a single fold cannot separate merit from the luck of the "
            "split. Use five folds: the split that comes with the data (`folds: official`) allows "
            "a comparison with a published score, but cannot show which combination is best."
        )
    if counts["judged"] == 1:
        rest = f" (besides {others})" if others else ""
        return (
            f"No verdict is possible: only one combination is complete{rest}, so there is nothing "
            "to compare it with."
        )
    return (
        f"No verdict is possible: no combination has all {words.count(expected, 'trial')} finished "
        f"and scored ({others})."
    )
