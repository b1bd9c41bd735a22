"""What a run's rows say of one metric: scores by repeat, fold and seed, and each patient's part.

Patients are told apart by the table `cases`. A score whose cases do not give it again (a convention
that the rule does not know, files of an older version) is not trusted to them: the fold rule stands
then, and why is said.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from results import text
from results.statistics.evidence import Evidence
from results.statistics.influence import RULES, Cases, Influence, Rule, by_patient
from results.tables.tasks import answer_of
from results.verdict.combinations import (
    Combination,
    Contest,
    Row,
    bounds_of,
    cell_of,
    means_by_fold,
)
from results.verdict.doubts import RowsOf

Array = np.ndarray[Any, np.dtype[np.float64]]

# What a rule reads of the table `cases`.
_VALUES = (
    *("label", "prob", "log_odds", "tp", "fp", "fn", "tn", "n_ref", "n_pred"),
    *("dice", "hd95_mm", "nsd_2mm", "assd_mm", "truth", "predicted"),
)
_COLUMNS = ("trial_id", "case_id", "group_id", "region", *_VALUES)

# A score that its cases give again differs from the recorded one by rounding alone. Assumption.
_SAME = 1e-6

# The rules of metrics whose footers were written before they named one.
_BEFORE = {
    **{name: name for name in ("sensitivity", "specificity", "precision", "f1")},
    **{name: name for name in ("dice", "iou", "hd95", "nsd", "assd")},
    "auc": "delong",
    "accuracy": "share right",
    "balanced_accuracy": "mean sensitivity",
    "mcc": "correlation",
    "brier": "squared error",
    "false_alarm": "false alarm",
}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric as the footers describe it: `sign` is -1 where smaller is better."""

    name: str
    unit: str | None
    bounds: tuple[float, float]
    sign: float
    rule: str | None

    @property
    def span(self) -> float:
        """The largest difference that two scores can have."""
        return self.bounds[1] - self.bounds[0]

    @classmethod
    def of(cls, name: str, described: Mapping[str, Any]) -> "Measure":
        """Return the measure of a footer's description; one of no rule is told by folds."""
        return cls(
            name=name,
            unit=described.get("unit"),
            bounds=bounds_of(described.get("range")),
            sign={"max": 1.0, "min": -1.0}[described["direction"]],
            rule=described.get("influence", _BEFORE.get(name)),
        )


@dataclass(frozen=True, kw_only=True)
class Known:
    """The evidence on some combinations, larger is better; `folds_alone` says why no case tells."""

    evidence: Evidence
    folds_alone: str | None


class _Unknown(Exception):  # noqa: N818  # says why cases tell nothing; no error of the run
    """Cases cannot tell how far scores vary; the message says why."""


# ---------------------------------------------------------------- cases


@dataclass(frozen=True, kw_only=True)
class CasesByTrial:
    """The cases that trials were tested on: trial id -> its cases, with ids; `patients` in all."""

    cases: Mapping[str, Cases]
    ids: Mapping[str, frozenset[str]]
    patients: int


def read_cases(combinations: Sequence[Combination], rows_of: RowsOf) -> CasesByTrial | str:
    """Return the cases of all scored trials of some combinations, or why there are none."""
    patients: dict[str, int] = {}
    cases: dict[str, Cases] = {}
    ids: dict[str, frozenset[str]] = {}
    for combination in combinations:
        trials = [row["trial_id"] for row in combination.scored]
        apart = any(answer_of(row["task"]) == "findings" for row in combination.scored)
        by_trial: dict[str, list[Row]] = {}
        for row in rows_of("cases", trials, _COLUMNS):
            by_trial.setdefault(row["trial_id"], []).append(row)
        for trial in trials:
            if trial not in by_trial:
                return "the table of cases is missing, or lacks trials"
            found = _as_arrays(by_trial[trial], patients, apart=apart)
            if found is None:
                return "the table of cases is not whole"
            cases[trial], ids[trial] = found
    return CasesByTrial(cases=cases, ids=ids, patients=len(patients))


def _as_arrays(
    rows: Sequence[Row], patients: dict[str, int], *, apart: bool
) -> tuple[Cases, frozenset[str]] | None:
    """Return the cases of a trial and their ids; `patients` takes up those that are new to it."""
    regions = {name: at for at, name in enumerate(dict.fromkeys(row["region"] for row in rows))}
    groups = {row["case_id"]: row.get("group_id") or row["case_id"] for row in rows}
    ids = {name: at for at, name in enumerate(sorted(groups))}
    if len(rows) != len(ids) * len(regions):
        return None
    at = [ids[row["case_id"]] for row in rows]
    of = [regions[row["region"]] for row in rows]
    columns = {}
    for name in _VALUES:
        found = [np.nan if (value := row.get(name)) is None else value for row in rows]
        if np.isfinite(found).any():
            columns[name] = np.full((len(ids), len(regions)), np.nan)
            columns[name][at, of] = found
    own = [patients.setdefault(groups[name], len(patients)) for name in ids]
    return Cases(columns=columns, patients=np.array(own), apart=apart), frozenset(ids)


# ---------------------------------------------------------------- evidence


def by_primary(
    contest: Contest, combinations: Sequence[Combination], cases: CasesByTrial | str
) -> Known:
    """Return the evidence on some combinations by the metric that decides, as `known` does."""
    measure = Measure.of(contest.metric, contest.described[contest.metric])
    return known(contest, combinations, measure, cases, lambda row: float(row["test_score"]))


def known(
    contest: Contest,
    combinations: Sequence[Combination],
    measure: Measure,
    cases: CasesByTrial | str,
    score_of: Callable[[Row], float],
) -> Known:
    """Return the evidence on judged combinations, which have the same repeats, folds and seeds.

    `score_of` gives a trial's score by `measure` from its row of `trials`.
    """
    trials = [{cell_of(row): row for row in c.scored} for c in combinations]
    cells = sorted(trials[0])
    repeats, folds, seeds = (sorted({cell[at] for cell in cells}) for at in range(3))
    if len(cells) != len(repeats) * len(folds) * len(seeds):
        by_fold = [
            list(means_by_fold((cell[:2], score_of(own[cell])) for cell in cells).values())
            for own in trials
        ]
        return Known(
            evidence=Evidence(
                scores=measure.sign * np.array(by_fold)[:, None, :, None],
                influence=None,
                test_train_ratio=contest.ratio,
                span=measure.span,
            ),
            folds_alone="repeats, folds and seeds are no full grid",
        )
    grid = [[[[own[r, j, s] for s in seeds] for j in folds] for r in repeats] for own in trials]
    scores = np.array([[[[score_of(t) for t in j] for j in r] for r in c] for c in grid])
    influence, grain, why = None, 0.0, None
    try:
        ids = [[[[t["trial_id"] for t in j] for j in r] for r in c] for c in grid]
        influence, grain = _influences(np.array(ids), scores, measure, cases)
    except _Unknown as reason:
        why = str(reason)
    return Known(
        evidence=Evidence(
            scores=measure.sign * scores,
            influence=None if influence is None else measure.sign * influence,
            test_train_ratio=contest.ratio,
            span=measure.span,
            grain=grain,
        ),
        folds_alone=why,
    )


def _influences(
    trials: np.ndarray, scores: Array, measure: Measure, cases: CasesByTrial | str
) -> tuple[Array, float]:
    """Return (m, R, S, n) influences and the grain, of (m, R, k, S) ids of trials and their scores.

    Raises _Unknown where cases tell nothing.
    """
    if isinstance(cases, str):
        raise _Unknown(cases)
    if measure.rule is None:
        raise _Unknown(f"no smooth influence of a case on the {text.metric(measure.name)} is known")
    if measure.rule not in RULES:
        raise _Unknown(f"the rule {measure.rule!r} is of another version")
    rule = RULES[measure.rule]
    m, repeats, folds, seeds = scores.shape
    influence = np.zeros((m, repeats, seeds, cases.patients))
    grains = []
    positives: Sequence[int | None] | None = None
    for at in np.ndindex(scores.shape):
        i, r, j, s = at
        trial, first = str(trials[at]), str(trials[0, r, j, 0])
        if cases.ids[trial] != cases.ids[first]:
            raise _Unknown("combinations were not tested on the same cases")
        own = cases.cases[trial]
        found, positives = _reproduced(rule, own, positives, float(scores[at]))
        phi = by_patient(found, own.patients, cases.patients)
        if phi is None:
            raise _Unknown("a class or region has a single patient in a fold")
        influence[i, r, s] += phi / folds
        grains.append(found.grain)
    return influence, float(np.mean(grains)) / folds**2


def _reproduced(
    rule: Rule, cases: Cases, positives: Sequence[int | None] | None, score: float
) -> tuple[Influence, Sequence[int | None]]:
    """Return the influence whose score is the recorded one, and which classes are still possible.

    Which class counts as positive stands in no table; the scores of all trials tell it.
    """
    if positives is None:
        whole = cases.known("tp") or cases.known("truth") or cases.apart
        positives = [None] if whole else [None, *range(cases.columns["label"].shape[1])]
    found: Influence | None = None
    left: list[int | None] = []
    for positive in positives:
        tried = rule(replace(cases, positive=positive))
        if tried is not None and abs(tried.score - score) <= _SAME * max(1.0, abs(score)):
            found = found or tried
            left.append(positive)
    if found is None:
        raise _Unknown("the recorded cases do not give the recorded scores again")
    return found, left
