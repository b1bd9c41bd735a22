"""Two runs side by side: what got better, worse or slower from the first to the second.

A combination that both runs have scored on the same cases in the same folds is compared in pairs:
by the differences of the fold means (over seeds), with the corrected interval of
`results.statistics.intervals` (overlapping training sets) and Bonferroni over the combinations of
the data set. The cases on which the second run is better are counted: by Dice (1 if both masks are
empty, mean over regions), or by the probability of the true class or answer; differences that may
be float32 rounding count as equal. If cases or folds differ, the two means are shown side by side
and nothing is claimed.

Speed is the cost of a sample-gradient alone (`results.prices`). It is compared only if both runs
used the same device, and differences within its noise are called alike.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from results import text
from results.prices import Price, prices, smallest_factor
from results.run_folder import Recorded, made_of
from results.statistics.intervals import corrected_interval
from results.tables.axes import label
from results.tables.store import RunError
from results.tables.tasks import Answer, answer_of
from results.verdict.combinations import Combination, Contest, Fold, fold_of

# Keys of a study that say what was run, rather than how.
_NO_SETTING = ("name", "data", "resolved")
# A difference below this share of the largest score is float32 rounding: a sum in another order
# (other threads, another device) changes the last bit, 1.2e-7 of a number, and N such changes add
# up at random to about sqrt(N) of them. This is N of a million; scores are shown to 5e-4.
_NOISE = 1e3 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One combination in both runs; differences are the second run's minus the first's.

    - `low`, `high`: interval of the difference of the scores; None if unpaired or with one fold.
    - `found`: better, worse, same, alike (cannot be distinguished) or unpaired.
    - `cases`: on how many cases the second is (better, worse, equal); None if unpaired.
    - `cost`: ratio of second to first of the seconds of a sample-gradient alone; `memory`: that of
      the peaks; None: unknown.
    - `speed`: slower, faster, alike or unknown.
    """

    name: str
    scores: tuple[float, float]
    low: float | None
    high: float | None
    found: str
    cases: tuple[int, int, int] | None
    cost: float | None
    speed: str
    memory: float | None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One data set in both runs. `why`: why a combination is not paired, "" if all are.

    `states` and `recommended` are those of the two verdicts; `only` are the combinations that only
    one of the runs has scored.
    """

    dataset: str
    metric: str
    level: float
    why: str
    states: tuple[str, str]
    recommended: tuple[str | None, str | None]
    combinations: tuple[Compared, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs: data sets in both, those in only one, and settings as (key, first, second)."""

    runs: tuple[str, str]
    settings: tuple[tuple[str, str, str], ...]
    sides: tuple[Side, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]


def compare(first: Path, second: Path) -> Comparison:
    """Return how the second run differs from the first.

    Raises RunError if one of the folders has no readable run, or no finished trial. Damaged files
    are left out.
    """
    return made_of(first, lambda a: made_of(second, lambda b: _compared(a, b)))


def _compared(a: Recorded, b: Recorded) -> Comparison:
    for run in (a, b):
        if not run.contests:
            raise RunError(f"{run.path} has no finished trial yet: there is nothing to compare")
    names = [{contest.dataset: contest for contest in run.contests} for run in (a, b)]
    keys = [key for key in {**a.study, **b.study} if key not in _NO_SETTING]
    return Comparison(
        runs=(a.path.name, b.path.name),
        settings=tuple(
            (key, _setting(a.study.get(key)), _setting(b.study.get(key)))
            for key in keys
            if a.study.get(key) != b.study.get(key)
        ),
        sides=tuple(
            _side(a, b, names[0][dataset], names[1][dataset])
            for dataset in names[0]
            if dataset in names[1]
        ),
        only=(
            tuple(name for name in names[0] if name not in names[1]),
            tuple(name for name in names[1] if name not in names[0]),
        ),
    )


def _setting(value: Any) -> str:
    """Return a setting of a study in words; for a list of entries, their labels."""
    if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
        return ", ".join(label(entry) for entry in value)
    return text.setting(value)


def _side(a: Recorded, b: Recorded, one: Contest, other: Contest) -> Side:
    scored = [{c.name: c for c in contest.combinations if c.scored} for contest in (one, other)]
    both = [name for name in scored[0] if name in scored[1]]
    alpha = float(b.verdict["alpha"])
    level = alpha / max(len(both), 1)
    why = _unpaired(one, other)
    costs = [
        found.by_name if (found := prices(contest, run.columns_of, alpha, run.alone)) else {}
        for run, contest in ((a, one), (b, other))
    ]
    devices = {
        row["device_name"] for contest in (one, other) for row in contest.rows if row["device_name"]
    }
    for run in (a, b):
        devices |= {row["device_name"] for rows in run.alone.values() for row in rows}
    compared, reasons = [], [why]
    for name in both:
        pair = scored[0][name], scored[1][name]
        values = _case_scores(a, pair[0]), _case_scores(b, pair[1])
        apart = why or _other_cases(*values)
        reasons.append(apart)
        prices_ = costs[0].get(name), costs[1].get(name)
        compared.append(
            _combination(pair, values, prices_, one, level, apart, one_device=len(devices) == 1)
        )
    states = [
        {data["dataset"]: data for data in run.verdict["datasets"]}[one.dataset] for run in (a, b)
    ]
    return Side(
        dataset=one.dataset,
        metric=one.metric,
        level=level,
        why=next(filter(None, reasons), ""),
        states=(states[0]["state"], states[1]["state"]),
        recommended=(states[0]["recommended"], states[1]["recommended"]),
        combinations=tuple(compared),
        only=(
            tuple(name for name in scored[0] if name not in both),
            tuple(name for name in scored[1] if name not in both),
        ),
    )


def _unpaired(one: Contest, other: Contest) -> str:
    if one.metric != other.metric:
        return f"the primary metric was {one.metric} and is now {other.metric}"
    if one.folds != other.folds:
        return f"{text.count(len(one.folds), 'fold')} before, {len(other.folds)} now"
    return ""


# Case -> its score, by (repeat, fold).
_Scores = dict[Fold, dict[str, float]]


def _prob_of_the_true_class(row: Mapping[str, Any]) -> float | None:
    return row["prob"] if row["label"] else None


def _nearness(row: Mapping[str, Any]) -> float | None:
    return -abs(float(row["predicted"]) - float(row["truth"]))


def _prob_of_the_answer(row: Mapping[str, Any]) -> float | None:
    if row["label"] is None:
        return None
    prob = float(row["prob"])
    return prob if row["label"] else 1 - prob


def _dice(row: Mapping[str, Any]) -> float | None:
    return 1.0 if row["dice"] is None else row["dice"]


# Kind of answer -> how well a case went, from its row of the table `cases`; larger is better.
_OF_CASE: Mapping[Answer, Callable[[Mapping[str, Any]], float | None]] = {
    "class": _prob_of_the_true_class,
    "mask": _dice,
    "findings": _prob_of_the_answer,
    "number": _nearness,
}


def _case_scores(run: Recorded, combination: Combination) -> _Scores:
    """Return what each case scores, mean over regions and seeds."""
    trials = {row["trial_id"]: fold_of(row) for row in combination.scored}
    found: dict[Fold, dict[str, list[float]]] = {}
    answers = {row["task"]: answer_of(row["task"]) for row in combination.scored}
    score = _OF_CASE[next(filter(None, answers.values()), "class")]
    for row in run.rows("cases", trials):
        value = score(row)
        if value is not None:
            of_fold = found.setdefault(trials[row["trial_id"]], {})
            of_fold.setdefault(row["case_id"], []).append(value)
    return {
        fold: {case: float(np.mean(values)) for case, values in cases.items()}
        for fold, cases in found.items()
    }


def _other_cases(first: _Scores, second: _Scores) -> str:
    if not first or not second:
        return "no scores of cases were kept"
    folds = [{fold: set(cases) for fold, cases in scores.items()} for scores in (first, second)]
    if folds[0] == folds[1]:
        return ""
    every = [set().union(*found.values()) for found in folds]
    if not every[0] & every[1]:
        return "no cases in common (other data, or ids made with another key)"
    return "different cases" if every[0] != every[1] else "the same cases in other folds"


def _combination(
    pair: tuple[Combination, Combination],
    values: tuple[_Scores, _Scores],
    costs: tuple[Price | None, Price | None],
    contest: Contest,
    level: float,
    apart: str,
    *,
    one_device: bool,
) -> Compared:
    means = tuple(combination.mean("test_score") for combination in pair)
    assert means[0] is not None, "a scored combination has a mean"
    assert means[1] is not None, "a scored combination has a mean"
    low = high = None
    found, cases = "unpaired", None
    folds = [combination.by_fold("test_score") for combination in pair]
    if not apart and folds[0].keys() == folds[1].keys():
        differences = [folds[1][fold] - folds[0][fold] for fold in folds[0]]
        cases = _counted(*values)
        found = "alike"
        if len(differences) > 1:
            _, low, high = corrected_interval(
                differences, test_train_ratio=contest.ratio, alpha=level
            )
            found = _found(low, high, contest.sign)
        every = [abs(score) for of_run in folds for score in of_run.values()]
        if np.abs(differences).max() <= _NOISE * max(every) and cases[:2] == (0, 0):
            found = "same"
    cost, speed = _speed(costs, level) if one_device else (None, "unknown")
    return Compared(
        name=pair[0].name,
        scores=(means[0], means[1]),
        low=low,
        high=high,
        found=found,
        cases=cases,
        cost=cost,
        speed=speed,
        memory=costs[1].memory / costs[0].memory
        if costs[0] and costs[1] and costs[0].memory and costs[1].memory
        else None,
    )


def _found(low: float, high: float, sign: float) -> str:
    if low <= 0 <= high:
        return "alike"
    return "better" if sign * low > 0 else "worse"


def _counted(first: _Scores, second: _Scores) -> tuple[int, int, int]:
    """Return on how many cases the second run is better, worse and equal; larger is better.

    Differences that may be float32 rounding count as equal.
    """
    pairs = np.array(
        [(first[fold][case], second[fold][case]) for fold in first for case in first[fold]]
    )
    differences, noise = pairs[:, 1] - pairs[:, 0], _NOISE * np.abs(pairs).max()
    better, worse = (differences > noise).sum(), (differences < -noise).sum()
    return int(better), int(worse), int(len(differences) - better - worse)


def _speed(costs: Sequence[Price | None], level: float) -> tuple[float | None, str]:
    first, second = costs
    if not first or not second or not first.sample_sec or not second.sample_sec:
        return None, "unknown"
    ratio = second.sample_sec / first.sample_sec
    factor = smallest_factor([first.alone, second.alone], level)
    if factor is None:
        return ratio, "unknown"
    if abs(math.log(ratio)) < math.log(factor) or ratio == 1:
        return ratio, "alike"
    return ratio, "slower" if ratio > 1 else "faster"


# ---- in words --------------------------------------------------------------------------------

_FOUND = {
    "better": "better",
    "worse": "worse",
    "same": "the same, case by case",
    "alike": "not distinguishable",
    "unpaired": "not paired",
}


def in_words(found: Comparison) -> list[str]:
    """Return a comparison as lines of plain text."""
    first, second = found.runs
    lines = [f"From {first} to {second}"]
    if found.settings:
        lines.append("Settings that differ:")
        lines += [f"  {key.replace('_', ' ')}: {a} -> {b}" for key, a, b in found.settings]
    for run, names in zip(found.runs, found.only, strict=True):
        if names:
            lines.append(f"Only {run} has the data sets {text.listed(names)}.")
    if not found.sides:
        lines.append("The runs have no data set in common: there is nothing to compare.")
    for side in found.sides:
        lines += ["", *_side_in_words(side, found.runs)]
    return lines


def _side_in_words(side: Side, runs: tuple[str, str]) -> list[str]:
    counts = {
        key: sum(row.found == key for row in side.combinations)
        for key in ("better", "worse", "same", "alike", "unpaired")
    }
    slower = sum(row.speed == "slower" for row in side.combinations)
    faster = sum(row.speed == "faster" for row in side.combinations)
    said = [f"{n} {_FOUND[key]}" for key, n in counts.items() if n]
    said += [f"{n} {what}" for n, what in ((slower, "slower"), (faster, "faster")) if n]
    lines = [
        f"{side.dataset}, {text.metric(side.metric)}: "
        f"{text.count(len(side.combinations), 'combination')} in both"
        + (f" ({', '.join(said)})" if said else ""),
        "  verdict: " + " -> ".join(text.STATES[state].lower() for state in side.states),
        "  recommended: " + " -> ".join(name or "none" for name in side.recommended),
    ]
    if side.why:
        lines.append(f"  Not paired ({side.why}): the means are shown, and nothing is claimed.")
    if counts["unpaired"] < len(side.combinations):
        lines.append(
            f"  Paired on the same cases and folds; intervals of {text.percent(1 - side.level)} "
            f"each. Cases count as equal within {text.percent(round(_NOISE, 5))} of the largest "
            "score, since float32 rounding may cause that much."
        )
    lines += [f"  {_line(row)}" for row in side.combinations]
    for run, names in zip(runs, side.only, strict=True):
        if names:
            lines.append(f"  only in {run}: {text.listed(names)}")
    return lines


def _line(row: Compared) -> str:
    change = row.scores[1] - row.scores[0]
    said = [f"{text.score(row.scores[0])} -> {text.score(row.scores[1])} ({text.signed(change)}"]
    if row.low is not None and row.high is not None:
        said[0] += f", {text.signed(row.low)} to {text.signed(row.high)}"
    said[0] += f"): {_FOUND[row.found]}"
    if row.cases:
        better, worse, equal = row.cases
        said.append(f"cases better {better}, worse {worse}, equal {equal}")
    if row.cost is not None:
        noise = {"alike": " (within noise)", "unknown": " (noise unknown)"}
        said.append(f"a sample costs {row.cost:.2f} times as much{noise.get(row.speed, '')}")
    if row.memory is not None and abs(row.memory - 1) > 0.05:
        said.append(f"memory {row.memory:.2f} times")
    return f"{row.name}: {'; '.join(said)}"
