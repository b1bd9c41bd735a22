"""What a reader must know before believing the verdict of one data set: its warnings."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations as pairs_of
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from results import text
from results.tables.rule import deviations_of
from results.tables.schema import TABLES
from results.tables.tasks import Answer, answer_of
from results.verdict.combinations import Combination, Contest, Row, cell_of
from results.verdict.schema import Rule

# A class with this share of all calls counts as nearly all of them. Assumption.
_NEARLY_ALL = 0.95
# With fewer folds than this, their spread is estimated from a single difference at most.
_FEWEST_FOLDS = 3


class RowsOf(Protocol):
    """Gives all rows that a run has of some trials in a table, or only some `columns` of them."""

    def __call__(
        self, table: str, trials: Collection[str], columns: Sequence[str] | None = None, /
    ) -> pa.Table:
        """Return the rows."""
        ...


def no_rows(
    table: str, _trials: Collection[str], _columns: Sequence[str] | None = None, /
) -> pa.Table:
    """Return no rows: for callers that only have the rows of `trials`."""
    return TABLES[table].empty_table()


# The columns that show whether all cases get one answer, and what a guess would score.
_OF_CASES = (
    *("trial_id", "case_id", "region", "label", "prob", "truth", "predicted"),
    *("tp", "fp", "fn", "tn", "n_ref", "n_pred"),
)


def doubts(
    contest: Contest,
    study: Mapping[str, Any],
    recommended: Combination | None,
    rows_of: RowsOf,
    interval: tuple[float, float, float] | None,
    alpha: float,
) -> list[str]:
    """Return the warnings about one data set, a sentence or two each.

    `interval` is the mean test score of the recommended one with its own interval (score, low,
    high), None with one fold.
    """
    found = [*_of_the_run(contest), *_of_the_protocol(study), *_one_under_two_names(contest)]
    if recommended is None:
        return found
    trials = [row["trial_id"] for row in recommended.scored]
    cases = rows_of("cases", trials, _OF_CASES).to_pylist()
    said = [
        _few_folds(contest),
        _no_better_than_chance(contest, recommended, cases, interval, alpha),
        _one_answer(contest, recommended, cases),
        _best_at_the_last(recommended),
    ]
    return [*found, *(sentence for sentence in said if sentence)]


def rule_changed(study: Mapping[str, Any], rule: Rule | None) -> list[str]:
    """Return a sentence for each part of the rule that has changed since before the first trial."""
    if rule is None:
        return []
    study = {**study, "deviations": deviations_of(study)}
    found = []
    for key, before in (
        ("primary", rule["primary"]),
        ("margin", rule["margin"]),
        ("deviations", rule["deviations"]),
        ("alpha", rule["alpha"]),
    ):
        now = study.get(key, before)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            # A later version may know more tasks than that of this run, and a run more data sets.
            now = {name: now.get(name) for name in before}
        if now != before:
            found.append(
                f"{key} was {text.setting(before)} before the first trial, but study.yaml now says "
                f"{text.setting(now)}: a rule that is chosen after the results proves nothing."
            )
    return found


def _of_the_run(contest: Contest) -> list[str]:
    runs = [row for row in contest.rows if row["status"] != "skipped"]
    seen = {
        column: sorted({row[column] for row in runs} - {None})
        for column in ("group_source", "device_name", "precision", "shared_device")
    }
    found = []
    if "case" in seen["group_source"]:
        found.append(
            "The source does not name patients, so every case is its own group. If a patient has "
            "several cases, they may end up on both sides of a split, and all scores would be "
            "too good."
        )
    if True in seen["shared_device"]:
        found.append("Trials shared a device, so their times are not those of a trial alone.")
    if len(seen["device_name"]) > 1:
        found.append(
            f"Trials ran on different devices ({text.listed(seen['device_name'])}), so their "
            "times cannot be compared."
        )
    if len(seen["precision"]) > 1:
        found.append(f"Trials ran at different precisions ({text.listed(seen['precision'])}).")
    return found


def _of_the_protocol(study: Mapping[str, Any]) -> list[str]:
    if study.get("stop_on") != "loss":
        return []
    said = (
        "Training stopped on the inner-validation loss, as in the papers. Different losses are not "
        "comparable, so combinations stop at different points."
    )
    return [said]


# Numbers that two trials share only if they trained alike: another loss would give others.
_NUMBERS = ("val_score", "test_score", "test_loss")


def _one_under_two_names(contest: Contest) -> list[str]:
    """Say which pairs of entries of an axis gave the same numbers wherever both were judged.

    A class-weighted loss does so if all classes are equally frequent: such a tie is no finding.
    """
    found = []
    for axis in contest.judged[0].axes if contest.judged else ():
        cells: dict[tuple[str, ...], dict[str, list[tuple[Any, ...]]]] = {}
        for combination in contest.judged:
            others = combination.entries
            entry = others.pop(axis.column) or axis.plain or "none"
            rows = sorted(combination.scored, key=cell_of)
            numbers = [tuple(row[key] for key in _NUMBERS) for row in rows]
            cells.setdefault(tuple(others.values()), {})[entry] = numbers
        entries = list(dict.fromkeys(entry for own in cells.values() for entry in own))
        for one, other in pairs_of(entries, 2):
            both = [own for own in cells.values() if one in own and other in own]
            if both and all(own[one] == own[other] for own in both):
                trials = text.count(sum(len(own[one]) for own in both), "trial")
                found.append(
                    f"{other} gave the same numbers as {one} in all {trials}: on these data they "
                    "are one method under two names."
                )
    return found


# ---- about the recommended -------------------------------------------------------------------


def _few_folds(contest: Contest) -> str | None:
    count = len(contest.folds)
    if count >= _FEWEST_FOLDS:
        return None
    known = "is not known" if count < 2 else "is known from a single difference"
    return (
        f"The verdict rests on {text.count(count, 'fold')}: how much scores vary from fold to "
        f"fold {known}. Five folds are usual."
    )


def _no_better_than_chance(
    contest: Contest,
    recommended: Combination,
    cases: Sequence[Row],
    interval: tuple[float, float, float] | None,
    alpha: float,
) -> str | None:
    chance = _chance(contest, cases)
    if chance is None or interval is None:
        return None
    value, who = chance
    mean, low, high = interval
    if (low if contest.sign > 0 else -high) > contest.sign * value:
        return None
    return (
        f"{recommended.name} is not shown to be better than chance: its test "
        f"{text.metric(contest.metric)} of {text.scored(mean, low, high, alpha)} is not clearly "
        f"better than {text.score(value)}, the score of {who}."
    )


def _one_answer(contest: Contest, recommended: Combination, cases: Sequence[Row]) -> str | None:
    answer = answer_of(contest.task)
    return _ONE_ANSWER[answer](recommended, cases) if answer else None


def _one_class(recommended: Combination, cases: Sequence[Row]) -> str | None:
    """Say if nearly all cases are called one class, and the others less than half as often as due.

    The second condition avoids a warning if a rare class is found.
    """
    best: dict[tuple[str, str], Row] = {}
    truth: Counter[str] = Counter()
    for row in cases:
        if row["prob"] is None or row["label"] is None:
            continue
        key = row["trial_id"], row["case_id"]
        if key not in best or row["prob"] > best[key]["prob"]:
            best[key] = row
        truth[row["region"]] += row["label"]
    if not best:
        return None
    calls = Counter(row["region"] for row in best.values())
    name, number = calls.most_common(1)[0]
    called, is_one = number / len(best), truth[name] / len(best)
    if called < _NEARLY_ALL or 1 - called >= (1 - is_one) / 2:
        return None
    return (
        f"{recommended.name} calls {text.percent(round(called, 3))} of the test cases {name}; "
        f"{text.percent(round(is_one, 3))} are."
    )


def _says_one_number(recommended: Combination, cases: Sequence[Row]) -> str | None:
    """Say if the predictions hardly differ in half of the trials or more, though the truth does."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in cases:
        if row["truth"] is not None and row["predicted"] is not None:
            found.setdefault(row["trial_id"], []).append((row["truth"], row["predicted"]))
    spreads = [np.array(pairs).std(axis=0) for pairs in found.values()]
    flat = sum(bool(spread[1] < (1 - _NEARLY_ALL) * spread[0]) for spread in spreads)
    if not flat or 2 * flat < len(spreads):
        return None
    return (
        f"{recommended.name} predicts nearly the same number for all test cases in {flat} of "
        f"{text.count(len(spreads), 'trial')}."
    )


def _calls_alike(recommended: Combination, cases: Sequence[Row]) -> str | None:
    """Say which findings are called in no or in every test case, though only some have them."""
    calls: dict[str, list[bool]] = {}
    truth: dict[str, list[int]] = {}
    for row in cases:
        if row["label"] is not None and row["prob"] is not None:
            calls.setdefault(row["region"], []).append(row["prob"] > 0.5)
            truth.setdefault(row["region"], []).append(row["label"])
    said = [
        f"{name} in {'all' if found[0] else 'none'} of the test cases with a known answer "
        f"({text.percent(round(float(np.mean(truth[name])), 3))} have it)"
        for name, found in calls.items()
        if len(set(found)) == 1 and len(set(truth[name])) > 1
    ]
    return f"{recommended.name} calls {text.listed(said)}." if said else None


def _finds_nothing(recommended: Combination, cases: Sequence[Row]) -> str | None:
    """Say which regions are predicted empty in nearly all cases that contain them."""
    empty: dict[str, list[bool]] = {}
    for row in cases:
        if row["n_ref"]:
            empty.setdefault(row["region"], []).append(not row["n_pred"])
    missed = {name: float(np.mean(found)) for name, found in empty.items()}
    missed = {name: share for name, share in missed.items() if share >= _NEARLY_ALL}
    if not missed:
        return None
    said = [
        f"no {name} in {text.percent(round(share, 3))} of the test cases that contain it"
        for name, share in missed.items()
    ]
    return f"{recommended.name} finds {text.listed(said)}."


# Kind of answer -> the function that says whether nearly all answers are the same.
_ONE_ANSWER: Mapping[Answer, Callable[[Combination, Sequence[Row]], str | None]] = {
    "class": _one_class,
    "mask": _finds_nothing,
    "findings": _calls_alike,
    "number": _says_one_number,
}


def _best_at_the_last(recommended: Combination) -> str | None:
    # A schedule that ends low is meant to be best at its end.
    if recommended.entries.get("schedule"):
        return None
    known = [row for row in recommended.scored if row["best_epoch"] and row["epochs_run"]]
    last = sum(row["best_epoch"] == row["epochs_run"] for row in known)
    if not last or 2 * last < len(known):
        return None
    trials = text.count(len(known), "trial")
    which = f"{last} of {trials}"
    if last == len(known):
        which = "the only trial" if last == 1 else f"all {trials}"
    return (
        f"In {which} of {recommended.name} the last epoch was the best: training was still "
        "improving, and more epochs may change scores and ranking."
    )


# ---- what a guess would score ----------------------------------------------------------------


def _chance(contest: Contest, cases: Sequence[Row]) -> tuple[float, str] | None:
    """Return the score of a guess that looks at no image, and what it does; None if unknown."""
    answer = answer_of(contest.task)
    table = _GUESSES[answer] if answer else {}
    if contest.metric not in table or not cases:
        return None
    value, who = table[contest.metric]
    return value(cases), who


def _shares(cases: Sequence[Row]) -> np.ndarray:
    """Return the share of cases (classes,) that each class has."""
    found: Counter[str] = Counter()
    for row in cases:
        found[row["region"]] += row["label"] or 0
    counts = np.array(list(found.values()), float)
    shares: np.ndarray = counts / max(counts.sum(), 1)
    return shares


def _sizes(cases: Sequence[Row]) -> list[np.ndarray]:
    """Return for each region (cases, 2): the voxels of the reference and of the whole image."""
    found: dict[str, list[tuple[int, int]]] = {}
    for row in cases:
        of_region = row["tp"] + row["fn"]
        found.setdefault(row["region"], []).append((of_region, of_region + row["fp"] + row["tn"]))
    return [np.array(sizes, float) for sizes in found.values()]


def _by_case(cases: Sequence[Row], score: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the mean over cases, then regions, of score(share of the image)."""
    return float(np.mean([score(n[:, 0] / n[:, 1]).mean() for n in _sizes(cases)]))


def _by_voxel(cases: Sequence[Row], score: Callable[[float], float]) -> float:
    """Return the mean over regions of score(share of all voxels)."""
    return float(np.mean([score(n[:, 0].sum() / n[:, 1].sum()) for n in _sizes(cases)]))


_COIN = "a coin toss"
_COMMONEST = "always calling the most common class"
_ALL_FOREGROUND = "calling every voxel part of the region"

# Metric -> the score of a guess on some cases, and what that guess does.
_Guesses = Mapping[str, tuple[Callable[[Sequence[Row]], float], str]]

_GUESSES_OF_CLASSES: _Guesses = {
    "quadratic_kappa": (lambda _cases: 0.0, _COMMONEST),
    "auc": (lambda _cases: 0.5, _COIN),
    "accuracy": (lambda cases: float(_shares(cases).max()), _COMMONEST),
    "balanced_accuracy": (lambda cases: 1 / len(_shares(cases)), _COMMONEST),
    "mcc": (lambda _cases: 0.0, _COIN),
    "brier": (
        lambda cases: float((1 - (_shares(cases) ** 2).sum()) / 2),
        "predicting the class frequencies for every case",
    ),
}
_GUESSES_OF_MASKS: _Guesses = {
    "auc": (lambda _cases: 0.5, _COIN),
    "dice": (lambda cases: _by_case(cases, lambda p: 2 * p / (p + 1)), _ALL_FOREGROUND),
    "iou": (lambda cases: _by_case(cases, lambda p: p), _ALL_FOREGROUND),
    "f1": (lambda cases: _by_voxel(cases, lambda p: 2 * p / (p + 1)), _ALL_FOREGROUND),
    "mcc": (lambda _cases: 0.0, _COIN),
    "accuracy": (
        lambda cases: _by_voxel(cases, lambda p: max(p, 1 - p)),
        "calling every voxel region or background, whichever is more common",
    ),
}
_RATE = "predicting each finding's frequency for every case"


def _over_findings(cases: Sequence[Row], score: Callable[[float], float]) -> float:
    """Return the mean over findings of score(share of the cases with known answers)."""
    found: dict[str, list[int]] = {}
    for row in cases:
        if row["label"] is not None:
            found.setdefault(row["region"], []).append(row["label"])
    return float(np.mean([score(float(np.mean(known))) for known in found.values()]))


_GUESSES_OF_FINDINGS: _Guesses = {
    "auc": (lambda _cases: 0.5, _COIN),
    "accuracy": (
        lambda cases: _over_findings(cases, lambda p: max(p, 1 - p)),
        "always giving the more common answer",
    ),
    "balanced_accuracy": (lambda _cases: 0.5, _COIN),
    "mcc": (lambda _cases: 0.0, _COIN),
    "brier": (lambda cases: _over_findings(cases, lambda p: p * (1 - p)), _RATE),
}


def _true(cases: Sequence[Row]) -> np.ndarray:
    """Return the true numbers, one per row of the table."""
    return np.array([row["truth"] for row in cases], float)


_GUESSES_OF_NUMBERS: _Guesses = {
    "mae": (
        lambda cases: float(np.abs(_true(cases) - np.median(_true(cases))).mean()),
        "always predicting the median",
    ),
    "rmse": (lambda cases: float(_true(cases).std()), "always predicting the mean"),
    "r2": (lambda _cases: 0.0, "always predicting the mean"),
    "pearson": (lambda _cases: 0.0, "always predicting one number"),
    "concordance": (lambda _cases: 0.0, "always predicting one number"),
}

# Kind of answer -> the guesses.
_GUESSES: Mapping[Answer, _Guesses] = {
    "class": _GUESSES_OF_CLASSES,
    "mask": _GUESSES_OF_MASKS,
    "findings": _GUESSES_OF_FINDINGS,
    "number": _GUESSES_OF_NUMBERS,
}
