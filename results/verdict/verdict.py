"""The verdict of a run: one for each data set, and one across them.

A study states the rule before it runs; `results.verdict.statistics` has the formulas,
`results.verdict.combinations` says what is judged, and `results.verdict.schema` lists the keys.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from results.tables.protocol import DEFAULTS
from results.verdict import statistics
from results.verdict.across_datasets import across
from results.verdict.combinations import Combination, Contest
from results.verdict.doubts import RowsOf, doubts, no_rows
from results.verdict.schema import Chosen, Judged, OfDataset, Price, Seconds, State, Verdict
from results.verdict.sentences import Finding, no_verdict, settings_compared

#: Raised when a key of the verdict changes its meaning.
VERDICT_VERSION = 1

_MEANS = {
    "train_sec": "train_sec",
    "wall_sec": "wall_sec",
    "samples_per_sec": "samples_per_sec",
    "optimizer_step_ms": "optimizer_step_ms_p50",
    "peak_memory_bytes": "peak_memory_bytes",
    "epochs_run": "epochs_run",
    "last_test_score": "last_test_score",
}


def verdict(
    every: Sequence[Contest], study: Mapping[str, Any], rows_of: RowsOf = no_rows
) -> Verdict:
    """Return the verdict of a run from its contests.

    `study` is the content of study.yaml, {} where there is none; its `alpha` and `margin` rule.
    `rows_of(table, trial ids)` gives the rows of other tables, which some warnings need.
    """
    rows = [row for contest in every for row in contest.rows]
    alpha, margin = (float(study.get(key, DEFAULTS[key])) for key in ("alpha", "margin"))
    return {
        "version": VERDICT_VERSION,
        "study": study.get("name") or next((r["study"] for r in rows if r["study"]), None),
        "alpha": alpha,
        "margin": margin,
        "n_trials": len(rows),
        "statuses": dict(sorted(Counter(row["status"] for row in rows).items())),
        "datasets": [_judge(contest, study, alpha, margin, rows_of) for contest in every],
        "across": across(every, alpha) if len(every) > 1 else None,
    }


# ---- one data set ----------------------------------------------------------------------------


def _judge(
    contest: Contest, study: Mapping[str, Any], alpha: float, margin: float, rows_of: RowsOf
) -> OfDataset:
    judged = contest.judged
    scores = contest.sign * contest.matrix("test_score")
    compared = None
    if len(judged) > 1 and scores.shape[1] > 1:
        compared = statistics.hsu_mcb(scores, test_train_ratio=contest.ratio, alpha=alpha)
    tied = [c for c, may in zip(judged, compared.candidate, strict=True) if may] if compared else []
    state = _state(compared, margin)
    recommended, price = _recommended(contest, tied, alpha)
    combinations = _described(contest, compared, alpha)
    return {
        "dataset": contest.dataset,
        "task": contest.task,
        "metric": contest.metric,
        "direction": "max" if contest.sign > 0 else "min",
        "unit": contest.unit,
        "state": state,
        "recommended": recommended.name if recommended else None,
        "reason": _reason(contest, compared, tied, recommended, price, alpha, margin),
        "tied_group": [c.name for c in tied],
        "price": price,
        "settings": settings_compared(_in_order_of(contest, combinations), _points(contest)),
        "selected_by_validation": _by_validation(contest, tied, alpha) if compared else None,
        "folds": len(contest.folds),
        "seeds": len({row["seed"] for row in contest.rows if row["seed"] is not None}),
        "expected": contest.expected,
        "test_train_ratio": contest.ratio,
        "critical_value": compared.critical_value if compared else None,
        "degrees_of_freedom": compared.degrees_of_freedom if compared else None,
        "warnings": doubts(contest, study, recommended, rows_of, alpha),
        "combinations": combinations,
    }


def _state(compared: statistics.Comparison | None, margin: float) -> State:
    if compared is None:
        return "none"
    group = compared.candidate
    if group.sum() == 1:
        return "better"
    inside = (compared.low[group] >= -margin) & (compared.high[group] <= margin)
    return "tie" if inside.all() else "undecided"


def _reason(
    contest: Contest,
    compared: statistics.Comparison | None,
    tied: Sequence[Combination],
    recommended: Combination | None,
    price: Price | None,
    alpha: float,
    margin: float,
) -> str:
    if compared is None or recommended is None:
        return no_verdict([c.state for c in contest.combinations], contest.expected)
    group = compared.candidate
    return Finding(
        state=_state(compared, margin),
        metric=contest.metric,
        judged=len(contest.judged),
        tied=[c.name for c in tied],
        recommended=recommended.name,
        lead=float(compared.estimate.max()),
        reach=float(max(-compared.low[group].min(), compared.high[group].max())),
        price=price,
        alpha=alpha,
        margin=margin,
    ).in_words()


def _recommended(
    contest: Contest, tied: Sequence[Combination], alpha: float
) -> tuple[Combination | None, Price | None]:
    """Return the quickest to train of the tied group, with its price; by score without times.

    Of those whose training time cannot be told from the shortest it is the one with the best score.
    """

    def score(combination: Combination) -> float:
        return contest.sign * (combination.mean("test_score") or 0.0)

    priced = [c for c in tied if c.mean("train_sec") is not None]
    if not priced:
        return max(tied, key=score, default=None), None
    quickest = min(priced, key=lambda c: c.mean("train_sec") or 0.0)
    alike = _alike(contest, tied, quickest, alpha)
    chosen = max((c for c in tied if c.name in alike), key=score)
    times = [c.mean("train_sec") or 0.0 for c in tied if c.name in alike]
    return chosen, {
        "seconds": chosen.mean("train_sec"),
        "wall_seconds": chosen.mean("wall_sec"),
        "alike": alike,
        "alike_seconds": [min(times), max(times)],
    }


def _alike(
    contest: Contest, tied: Sequence[Combination], quickest: Combination, alpha: float
) -> list[str]:
    """Return the names of those whose training time cannot be told from the quickest's, its too."""
    columns = [c.by_fold("train_sec") for c in tied]
    known = [i for i, c in enumerate(columns) if len(c) == len(contest.folds) and min(c.values())]
    own = tied.index(quickest)
    if own not in known:
        return [quickest.name]
    table = [[columns[i][fold] for fold in contest.folds] for i in known]
    same = statistics.same_price(table, known.index(own), alpha=alpha)
    return [tied[i].name for i, alike in zip(known, same, strict=True) if alike]


def _by_validation(contest: Contest, tied: Sequence[Combination], alpha: float) -> Chosen | None:
    """Return what inner validation alone would have chosen, and the honest estimate of its score.

    The test folds had no part in the choice, so its test score is not the luckiest of many. One
    doubt remains: cases of one test fold were in the inner validation of other folds. `nested` is
    free of it: each fold chooses by its own inner validation.
    """
    judged, folds = contest.judged, contest.folds
    inner, test = contest.matrix("val_score"), contest.matrix("test_score")
    if not np.isfinite(inner).all():
        return None
    best = int((contest.sign * inner).mean(axis=1).argmax())
    anew = (contest.sign * inner).argmax(axis=0)
    mean, low, high = _interval(contest, test[best], alpha)
    nested, nested_low, nested_high = _interval(contest, test[anew, np.arange(len(folds))], alpha)
    return {
        "name": judged[best].name,
        "val_score": float(inner[best].mean()),
        "test_score": mean,
        "low": low,
        "high": high,
        "in_tied_group": judged[best] in tied,
        "nested": {"test_score": nested, "low": nested_low, "high": nested_high},
    }


def _interval(
    contest: Contest, scores: Sequence[float] | np.ndarray, alpha: float
) -> tuple[float, float, float]:
    """Return (mean, low, high) of fold scores; no end lies where the metric has no values."""
    mean, low, high = statistics.corrected_interval(
        scores, test_train_ratio=contest.ratio, alpha=alpha
    )
    return mean, max(low, contest.bounds[0]), min(high, contest.bounds[1])


def _in_order_of(contest: Contest, described: Sequence[Judged]) -> list[Judged]:
    """Return the rows of `_described` in the order of the study."""
    by_name = {row["name"]: row for row in described}
    return [by_name[combination.name] for combination in contest.combinations]


def _hparams(combination: Combination) -> dict[str, Any] | None:
    """Return every setting of the optimizer, None where no trial has any or the trials differ."""
    found = {row["hparams"] for row in combination.trials if row["hparams"]}
    settings: dict[str, Any] | None = (
        json.loads(found.pop(), parse_constant=str) if len(found) == 1 else None
    )
    return settings


def _tuned(combination: Combination) -> bool | None:
    """Return whether settings were searched for, None before its first trial."""
    if not combination.trials:
        return None
    return any(row["tuned"] for row in combination.trials)


def _points(contest: Contest) -> int | None:
    """Return the points of a search that all tuned trials have in common, None without."""
    found = {row.get("points") for row in contest.rows if row["tuned"]}
    return found.pop() if len(found) == 1 else None


def _described(
    contest: Contest, compared: statistics.Comparison | None, alpha: float
) -> list[Judged]:
    """Return one row a combination: the judged, best first, then the others by state and name."""
    judged = contest.judged
    rows: list[Judged] = []
    for combination in contest.combinations:
        folds = combination.by_fold("test_score")
        row: dict[str, Any] = {
            "name": combination.name,
            **{column: entry or None for column, entry in combination.entries.items()},
            "tuned": _tuned(combination),
            "hparams": _hparams(combination),
            "state": combination.state,
            "note": combination.note,
            "reasons": _reasons(combination),
            "trials": dict(sorted(Counter(r["status"] for r in combination.trials).items())),
            "val_score": combination.mean("val_score"),
            "test_score": combination.mean("test_score"),
            "test_low": None,
            "test_high": None,
            "fold_scores": list(folds.values()),
            "advantage": None,
            "error_sd": None,
            "in_tied_group": False,
            **{key: combination.mean(column) for key, column in _MEANS.items()},
            "seconds": _seconds(combination),
        }
        if len(folds) > 1:
            _, row["test_low"], row["test_high"] = _interval(contest, list(folds.values()), alpha)
        if compared and combination in judged:
            i = judged.index(combination)
            row["in_tied_group"] = bool(compared.candidate[i])
            row["error_sd"] = float(compared.error_sd[i])
            row["advantage"] = {
                "estimate": float(compared.estimate[i]),
                "low": float(compared.low[i]),
                "high": float(compared.high[i]),
            }
        # Built as a plain mapping: the axes, whose columns are among its keys, are a table's.
        rows.append(cast("Judged", row))
    return sorted(rows, key=lambda row: _place(row, contest.sign))


def _place(row: Judged, sign: float) -> tuple[Any, ...]:
    order = ("judged", "diverged", "dropped", "incomplete", "skipped")
    score = row["test_score"]
    return order.index(row["state"]), math.inf if score is None else -sign * score, row["name"]


def _reasons(combination: Combination) -> list[str]:
    broken = [r for r in combination.trials if r["status"] in ("failed", "diverged", "dropped")]
    return list(dict.fromkeys(r["reason"] for r in broken if r["reason"]))


def _seconds(combination: Combination) -> Seconds | None:
    """Return where the seconds of a trial went, means over folds; None where not all was measured.

    `train_sec` holds the wait for data; the optimizer's share of the rest is that of the median
    optimizer step in the median step.
    """
    names = ("setup_sec", "train_sec", "data_wait_sec", "eval_sec", "step_ms_p50")
    setup, train, wait, evaluation, step = (combination.mean(name) for name in names)
    optimizer = combination.mean("optimizer_step_ms_p50")
    if setup is None or train is None or wait is None or evaluation is None:
        return None
    if optimizer is None or not step:
        return None
    share = min(optimizer / step, 1.0)
    return {
        "setup": setup,
        "data_wait": wait,
        "gradients": (train - wait) * (1 - share),
        "optimizer": (train - wait) * share,
        "evaluation": evaluation,
    }
