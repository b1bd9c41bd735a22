"""The verdict of a run: one for each data set, and one across them.

A study states the rule before it runs. `results.statistics` has the formulas,
`results.verdict.combinations` says what is judged, `results.verdict.evidence` on what evidence, and
`results.verdict.schema` lists the keys.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from scipy import stats

from results import text as words
from results.statistics.intervals import Scale, corrected_interval, interval
from results.statistics.procedure import Comparison, compare, compare_models
from results.statistics.race import look_level
from results.tables.protocol import DEFAULTS
from results.tables.rule import deviations_of, margin_of
from results.verdict.across_datasets import across
from results.verdict.claims import (
    Asked,
    by_other_metrics,
    errors,
    level_that_holds,
    models_unknown,
    of_models,
    of_procedure,
)
from results.verdict.combinations import Combination, Contest
from results.verdict.doubts import RowsOf, doubts, no_rows, rule_changed
from results.verdict.evidence import CasesByTrial, CasesOf, Known, Measure, by_primary, read_cases
from results.verdict.margins import Field, interactions, margins
from results.verdict.next_steps import one_fold, what_next
from results.verdict.race import Race, race
from results.verdict.schema import (
    Chosen,
    Claim,
    Interaction,
    Judged,
    Margin,
    Next,
    OfDataset,
    Price,
    Rule,
    Second,
    Seconds,
    Verdict,
)
from results.verdict.sentences import choice, margin_counted, no_verdict, settings_compared

#: Raised when a key of the verdict changes its meaning. 2: errors are estimated from cases where
#: possible; `lead`, `errors`, `claims`, `margins`, `interactions`, `second`, `next` and `rule` are
#: new; `steady` replaces `error_sd`; `critical_value` and `degrees_of_freedom`, which now differ
#: from pair to pair, are gone.
VERDICT_VERSION = 2

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
    every: Sequence[Contest],
    study: Mapping[str, Any],
    rows_of: RowsOf = no_rows,
    rule: Rule | None = None,
    cases_of: CasesOf | None = None,
) -> Verdict:
    """Return the verdict of a run from its contests.

    `study` is the content of study.yaml, {} if there is none; its `alpha` and `margin` decide, the
    latter as `margin_of` counts it on each data set. `rows_of(table, trial ids)` gives the rows of
    other tables, which pair the cases and lead to some of the warnings. `rule` is what was fixed
    before the first trial. `cases_of` gives the cases, which it may have read before; None reads
    them by `rows_of`.
    """
    cases_of = cases_of or partial(read_cases, rows_of=rows_of)
    rows = [row for contest in every for row in contest.rows]
    alpha, margin = (float(study.get(key, DEFAULTS[key])) for key in ("alpha", "margin"))
    return {
        "version": VERDICT_VERSION,
        "study": study.get("name") or next((r["study"] for r in rows if r["study"]), None),
        "alpha": alpha,
        "margin": margin,
        "rule": rule,
        "n_trials": len(rows),
        "statuses": dict(sorted(Counter(row["status"] for row in rows).items())),
        "datasets": [_judge(contest, study, alpha, rows_of, cases_of, rule) for contest in every],
        "across": across(every, alpha) if len(every) > 1 else None,
    }


# ---- one data set ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    """What was compared: the evidence, the headline comparison, and what follows from it."""

    known: Known
    cases: CasesByTrial | str
    headline: Asked
    claims: Sequence[Claim]
    margins: Sequence[Margin]
    interactions: Sequence[Interaction]
    second: Sequence[Second]
    next: Next


def _judgement(
    contest: Contest,
    alpha: float,
    margin: float,
    rows_of: RowsOf,
    cases_of: CasesOf,
    raced: Race | None,
) -> _Judgement | None:
    """Compare the judged combinations of a contest; None if there is nothing to compare.

    After a race that dropped some, the spread of training is that of the whole field.
    """
    judged = contest.judged
    if len(judged) < 2:
        return None
    cases = cases_of(judged)
    evidence = by_primary(contest, judged, cases)
    names = [c.name for c in judged]
    by_models = None
    if evidence.evidence.influence is not None:
        by_models = _asked(names, compare_models(evidence.evidence, alpha=alpha), contest, margin)
    models = (
        models_unknown(evidence.folds_alone or "") if by_models is None else of_models(by_models)
    )
    if len(contest.folds) < 2:
        if by_models is None:
            return None
        second = by_other_metrics(contest, by_models, cases, rows_of)
        return _Judgement(
            known=evidence,
            cases=cases,
            headline=by_models,
            claims=[models],
            margins=[],
            interactions=[],
            second=second,
            next=one_fold(),
        )
    frozen = raced.of(names) if raced and raced.dropped else None
    compared = compare(evidence.evidence, alpha=alpha, frozen=frozen)
    headline = _asked(names, compared, contest, margin)
    field = Field(
        judged=judged,
        evidence=evidence.evidence,
        metric=contest.metric,
        sign=contest.sign,
        alpha=alpha,
        margin=margin,
    )
    tables = margins(field)
    order = sorted(tables, key=lambda table: table["axis"] != "optimizer")
    return _Judgement(
        known=evidence,
        cases=cases,
        headline=headline,
        claims=[of_procedure(headline), models, *(table["claim"] for table in order)],
        margins=tables,
        interactions=interactions(field),
        second=by_other_metrics(contest, headline, cases, rows_of),
        next=what_next(contest, evidence, headline),
    )


def _asked(names: Sequence[str], found: Comparison, contest: Contest, margin: float) -> Asked:
    return Asked(names=names, found=found, metric=contest.metric, margin=margin)


def _judge(
    contest: Contest,
    study: Mapping[str, Any],
    alpha: float,
    rows_of: RowsOf,
    cases_of: CasesOf,
    rule: Rule | None,
) -> OfDataset:
    margin = margin_of(study, contest.dataset)
    raced = race(contest, study, rows_of)
    if raced:
        alpha -= raced.level
    looks = _looks(study)
    if looks:
        alpha = look_level(alpha, looks)
    found = _judgement(contest, alpha, margin, rows_of, cases_of, raced)
    deviation = deviations_of(study).get(contest.dataset)
    counted = None
    if deviation is not None:
        counted = margin_counted(contest.metric, contest.unit, margin, deviation)
    tied: list[Combination] = []
    if found:
        group = found.headline.found.group
        tied = [c for c, may in zip(contest.judged, group, strict=True) if may]
    recommended, price = _recommended(contest, tied, alpha)
    combinations = _described(contest, found, alpha)
    own = next(
        (row for row in combinations if recommended and row["name"] == recommended.name), None
    )
    return {
        "dataset": contest.dataset,
        "task": contest.task,
        "metric": contest.metric,
        "direction": "max" if contest.sign > 0 else "min",
        "unit": contest.unit,
        "margin": margin,
        "alpha": alpha,
        "state": found.headline.state if found else "none",
        "recommended": recommended.name if recommended else None,
        "reason": _reason(contest, found, recommended, price, counted),
        "tied_group": [c.name for c in tied],
        "price": price,
        "settings": settings_compared(_in_order_of(contest, combinations), _points(contest)),
        "selected_by_validation": _by_validation(contest, found, tied, alpha),
        "folds": len(contest.folds),
        "seeds": len({row["seed"] for row in contest.rows if row["seed"] is not None}),
        "expected": contest.expected,
        "test_train_ratio": contest.ratio,
        "lead": found.headline.lead if found else None,
        "errors": errors(found.known, found.headline.found) if found else None,
        "claims": list(found.claims) if found else [],
        "margins": list(found.margins) if found else [],
        "interactions": list(found.interactions) if found else [],
        "second": list(found.second) if found else [],
        "next": found.next if found else None,
        "warnings": [
            *rule_changed(study, rule),
            *([raced.in_words(alpha)] if raced else []),
            *([_looked(looks, alpha)] if looks else []),
            *(level_that_holds(found.known, found.headline) if found else []),
            *doubts(contest, study, recommended, rows_of, _own_interval(own), alpha),
        ],
        "combinations": combinations,
    }


def _looks(study: Mapping[str, Any]) -> int | None:
    """Return the most looks that a study may take, None if it does not add repeats."""
    rule = study.get("until_decided")
    return None if rule is None else int(rule["looks"])


def _looked(looks: int, alpha: float) -> str:
    return (
        f"Repeats are added to this study until it is decided, in at most {looks} looks, which "
        f"share its level: each of them, including this one, has level {words.percent(alpha)}."
    )


def _own_interval(row: Judged | None) -> tuple[float, float, float] | None:
    if row is None or row["test_score"] is None:
        return None
    if row["test_low"] is None or row["test_high"] is None:
        return None
    return row["test_score"], row["test_low"], row["test_high"]


def _reason(
    contest: Contest,
    found: _Judgement | None,
    recommended: Combination | None,
    price: Price | None,
    counted: str | None,
) -> str:
    if found is None or recommended is None:
        return no_verdict([c.state for c in contest.combinations], contest.expected)
    group = found.headline.group
    said = [found.claims[0]["sentence"], *([counted] if counted else [])]
    said.append(choice(recommended.name, len(group), price))
    if found.headline.state == "undecided":
        said.append(found.next["sentence"])
    return "\n".join(said)


def _recommended(
    contest: Contest, tied: Sequence[Combination], alpha: float
) -> tuple[Combination | None, Price | None]:
    """Return the fastest to train of the tied group, with its price; without times, the best score.

    Of those whose training time cannot be told from the shortest, it is the one that scores best.
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
    """Return the names of those whose training time cannot be told from that of `quickest`."""
    columns = [c.by_fold("train_sec") for c in tied]
    whole = [i for i, c in enumerate(columns) if len(c) == len(contest.folds) and min(c.values())]
    own = tied.index(quickest)
    if own not in whole:
        return [quickest.name]
    table = [[columns[i][fold] for fold in contest.folds] for i in whole]
    same = _same_price(np.array(table), whole.index(own), alpha=alpha)
    return [tied[i].name for i, alike in zip(whole, same, strict=True) if alike]


def _same_price(seconds: np.ndarray, cheapest: int, *, alpha: float) -> np.ndarray:
    """Return (m,) bool: which prices cannot be told from the cheapest, of (m, k) seconds by fold.

    Paired t-tests on log seconds, Bonferroni over the m - 1 comparisons. One fold cannot tell any
    apart, so all are alike then.
    """
    log = np.log(seconds)
    m, k = log.shape
    if k < 2:
        return np.ones(m, bool)
    ratio = log - log[cheapest]
    reach = stats.t.ppf(1 - alpha / (2 * max(m - 1, 1)), k - 1) * ratio.std(axis=1, ddof=1)
    same: np.ndarray = ratio.mean(axis=1) <= reach / np.sqrt(k)
    return same


def _by_validation(
    contest: Contest, found: _Judgement | None, tied: Sequence[Combination], alpha: float
) -> Chosen | None:
    """Return what inner validation alone would have chosen, and the honest estimate of its score.

    The test folds had no part in the choice, so its test score is not the luckiest of many. One
    doubt remains: cases of a test fold were in the inner validation of other folds. `nested` avoids
    this: each fold chooses by its own inner validation.
    """
    judged, folds = contest.judged, contest.folds
    if found is None or len(folds) < 2:
        return None
    inner, test = contest.matrix("val_score"), contest.matrix("test_score")
    if not np.isfinite(inner).all():
        return None
    best = int((contest.sign * inner).mean(axis=1).argmax())
    anew = (contest.sign * inner).argmax(axis=0)
    low, high = _interval(contest, found.known, best, alpha)
    each = test[anew, np.arange(len(folds))]
    nested_low, nested_high = _by_folds(contest, each, alpha)
    return {
        "name": judged[best].name,
        "val_score": float(inner[best].mean()),
        "test_score": float(test[best].mean()),
        "low": low,
        "high": high,
        "in_tied_group": judged[best] in tied,
        "nested": {"test_score": float(each.mean()), "low": nested_low, "high": nested_high},
    }


# The rule of a metric -> the scale on which its interval is computed; others stay as they are.
_SCALES: dict[str | None, Scale] = {"delong": "logit", "share right": "wilson"}


def _interval(contest: Contest, known: Known, i: int, alpha: float) -> tuple[float, float]:
    """Return the interval of one judged combination's score, by cases where they are known."""
    evidence = known.evidence
    measure = Measure.of(contest.metric, contest.described[contest.metric])
    own = interval(
        contest.sign * evidence.scores[i],
        None if evidence.influence is None else contest.sign * evidence.influence[i],
        test_train_ratio=contest.ratio,
        alpha=alpha,
        scale=_SCALES.get(measure.rule, "raw"),
        grain=evidence.grain,
    )
    return _within(contest, own.low, own.high)


def _by_folds(
    contest: Contest, scores: Sequence[float] | np.ndarray, alpha: float
) -> tuple[float, float]:
    """Return the interval of the mean of at least two fold scores, from their scatter alone."""
    _, low, high = corrected_interval(scores, test_train_ratio=contest.ratio, alpha=alpha)
    return _within(contest, low, high)


def _within(contest: Contest, low: float, high: float) -> tuple[float, float]:
    """Return an interval cut to the range of the metric."""
    return max(low, contest.bounds[0]), min(high, contest.bounds[1])


def _in_order_of(contest: Contest, described: Sequence[Judged]) -> list[Judged]:
    """Return the rows of `_described` in the order of the study."""
    by_name = {row["name"]: row for row in described}
    return [by_name[combination.name] for combination in contest.combinations]


def _hparams(combination: Combination) -> dict[str, Any] | None:
    """Return every setting of the optimizer, None if no trial has any or the trials differ."""
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
    """Return the number of search points if all tuned trials have the same one, else None."""
    found = {row.get("points") for row in contest.rows if row["tuned"]}
    return found.pop() if len(found) == 1 else None


def _described(contest: Contest, found: _Judgement | None, alpha: float) -> list[Judged]:
    """Return one row per combination: the judged, best first, then the others by state and name."""
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
            "steady": None,
            "in_tied_group": False,
            **{key: combination.mean(column) for key, column in _MEANS.items()},
            "seconds": _seconds(combination),
        }
        if found and combination in judged:
            i, compared = judged.index(combination), found.headline.found
            row["in_tied_group"] = bool(compared.group[i])
            row["steady"] = bool(compared.steady[i])
            row["advantage"] = {
                "estimate": float(compared.estimate[i]),
                "low": float(compared.low[i]),
                "high": float(compared.high[i]),
            }
        by_cases = found and found.known.evidence.influence is not None
        if found and combination in judged and (by_cases or len(folds) > 1):
            row["test_low"], row["test_high"] = _interval(
                contest, found.known, judged.index(combination), alpha
            )
        elif len(folds) > 1:
            row["test_low"], row["test_high"] = _by_folds(contest, list(folds.values()), alpha)
        # Built as a plain mapping, since some of its keys are the columns of the table of axes.
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
    """Return where the seconds of a trial went, means over folds; None unless all were measured.

    `train_sec` includes the wait for data. The optimizer's share of the rest is its median step
    over the median of whole steps.
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
