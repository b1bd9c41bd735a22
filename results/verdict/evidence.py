"""What a run's rows say about one metric: scores by repeat, fold and seed, and by patient.

Each patient's part in a score comes from the table `cases`. If the cases do not reproduce a score
(a convention that the rule does not know, files of an older version), they are not used: errors are
then estimated from the scatter of folds alone, and the reason is given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from results import text
from results.statistics.evidence import Evidence
from results.statistics.influence import RULES, Cases, Influence, Rule, by_patient
from results.tables.order import in_order, places_of
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

# The columns of the table `cases` that rules read.
_VALUES = (
    *("label", "prob", "log_odds", "tp", "fp", "fn", "tn", "n_ref", "n_pred"),
    *("dice", "hd95_mm", "nsd_2mm", "assd_mm", "truth", "predicted"),
)
_COLUMNS = ("trial_id", "case_id", "group_id", "region", *_VALUES)

# A score that its cases reproduce differs from the recorded one by rounding alone. Assumption.
_SAME = 1e-6

# The rules of metrics in older footers, which name none.
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
        """Return the measure that a footer describes; without a rule it is judged by folds."""
        return cls(
            name=name,
            unit=described.get("unit"),
            bounds=bounds_of(described.get("range")),
            sign={"max": 1.0, "min": -1.0}[described["direction"]],
            rule=described.get("influence", _BEFORE.get(name)),
        )


@dataclass(frozen=True, kw_only=True)
class Known:
    """Evidence on some combinations (larger is better); `folds_alone`: why cases are not used."""

    evidence: Evidence
    folds_alone: str | None


class _Unknown(Exception):  # noqa: N818  # a reason for the fallback, not an error of the run
    """Cases cannot show how much scores vary; the message says why."""


# ---------------------------------------------------------------- cases


@dataclass(frozen=True, kw_only=True)
class CasesByTrial:
    """The test cases by trial id, and their ids; `patients` is the number of all patients."""

    cases: Mapping[str, Cases]
    ids: Mapping[str, frozenset[str]]
    patients: int


#: Returns the cases of all scored trials of some combinations, or why there are none.
CasesOf: TypeAlias = Callable[[Sequence[Combination]], CasesByTrial | str]


def read_cases(combinations: Sequence[Combination], rows_of: RowsOf) -> CasesByTrial | str:
    """Return the cases of all scored trials of some combinations, or why there are none."""
    trials = [row["trial_id"] for combination in combinations for row in combination.scored]
    rows = _Rows(rows_of("cases", trials, _COLUMNS))
    cases: dict[str, Cases] = {}
    ids: dict[str, frozenset[str]] = {}
    for combination in combinations:
        apart = any(answer_of(row["task"]) == "findings" for row in combination.scored)
        for trial in (row["trial_id"] for row in combination.scored):
            if trial not in rows.places:
                return "the table of cases is missing, or does not have all trials"
            layout = rows.layout(trial)
            if layout is None:
                return "the table of cases is not complete"
            columns = rows.values(trial, layout)
            cases[trial] = Cases(columns=columns, patients=layout.patients, apart=apart)
            ids[trial] = layout.ids
    return CasesByTrial(cases=cases, ids=ids, patients=len(rows.patients))


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where each row of a trial goes in (n, r): cases sorted by name, regions as they come.

    `patients` (n,) is the number of each case's patient.
    """

    case: NDArray[np.int64]
    region: NDArray[np.int64]
    shape: tuple[int, int]
    patients: NDArray[np.int64]
    ids: frozenset[str]


class _Rows:
    """Rows of `cases` as columns; trials that were tested on the same rows share their layout.

    `places` says where the rows of each trial are; `patients` numbers the patients seen so far.
    """

    def __init__(self, table: pa.Table) -> None:
        table = in_order(table).combine_chunks()
        self.places = places_of(table)
        self.patients: dict[str, int] = {}
        named = pc.fill_null(pc.not_equal(table["group_id"], ""), False)
        groups = pc.if_else(named, table["group_id"], table["case_id"])
        self._named = [_coded(each) for each in (table["case_id"], groups, table["region"])]
        measured = [name for name in _VALUES if table[name].null_count < len(table)]
        self._columns = {name: _numbers(table[name]) for name in measured}
        self._layouts: dict[tuple[bytes, ...], _Layout | None] = {}

    def layout(self, trial: str) -> _Layout | None:
        """Return where the rows of a trial go; None unless each case has each region once."""
        own = slice(*self.places[trial])
        key = tuple(codes[own].tobytes() for codes, _ in self._named)
        if key not in self._layouts:
            self._layouts[key] = self._laid_out(
                *([names[code] for code in codes[own]] for codes, names in self._named)
            )
        return self._layouts[key]

    def values(self, trial: str, layout: _Layout) -> dict[str, Array]:
        """Return column -> (n, r) values, for the columns that have any value in a trial."""
        own = slice(*self.places[trial])
        columns = {}
        for name, values in self._columns.items():
            found = values[own]
            if np.isfinite(found).any():
                columns[name] = np.full(layout.shape, np.nan)
                columns[name][layout.case, layout.region] = found
        return columns

    def _laid_out(
        self, cases: Sequence[str], groups: Sequence[str], regions: Sequence[str]
    ) -> _Layout | None:
        of_case = dict(zip(cases, groups, strict=True))
        ids = {name: at for at, name in enumerate(sorted(of_case))}
        columns = {name: at for at, name in enumerate(dict.fromkeys(regions))}
        if len(cases) != len(ids) * len(columns):
            return None
        whose = [self.patients.setdefault(of_case[name], len(self.patients)) for name in ids]
        return _Layout(
            case=np.array([ids[name] for name in cases]),
            region=np.array([columns[name] for name in regions]),
            shape=(len(ids), len(columns)),
            patients=np.array(whose),
            ids=frozenset(ids),
        )


def _coded(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    """Return (n,) codes of the texts of a column, and the distinct texts."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _numbers(column: pa.ChunkedArray) -> Array:
    """Return (n,) numbers, nan for null."""
    found: Array = column.cast(pa.float64()).to_numpy()
    return found


# ---------------------------------------------------------------- evidence


def by_primary(
    contest: Contest, combinations: Sequence[Combination], cases: CasesByTrial | str
) -> Known:
    """Return the evidence on some combinations by the primary metric, as `known` does."""
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

    `score_of` gives the score of a trial by `measure`, from its row of `trials`.
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
            folds_alone="repeats, folds and seeds do not form a full grid",
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
    """Return (m, R, S, n) influences and the grain, from (m, R, k, S) trial ids and their scores.

    Raises _Unknown if the cases cannot show how much the scores vary.
    """
    if isinstance(cases, str):
        raise _Unknown(cases)
    if measure.rule is None:
        raise _Unknown(f"no smooth influence function of {text.metric(measure.name)} is known")
    if measure.rule not in RULES:
        raise _Unknown(f"the rule {measure.rule!r} is from another version")
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
            raise _Unknown("a class or region has only one patient in a fold")
        influence[i, r, s] += phi / folds
        grains.append(found.grain)
    return influence, float(np.mean(grains)) / folds**2


def _reproduced(
    rule: Rule, cases: Cases, positives: Sequence[int | None] | None, score: float
) -> tuple[Influence, Sequence[int | None]]:
    """Return the influence whose score is the recorded one, and which classes are still possible.

    No table records which class counts as positive; it is inferred from the scores of all trials.
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
        raise _Unknown("the recorded cases do not reproduce the recorded scores")
    return found, left
