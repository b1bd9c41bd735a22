"""The rows of the table `metrics`: the value of each metric on the cases of a fold.

Cases are ranked by log-odds (bench.core.odds), since probabilities near 1 tie.

If patients have several cases, metrics are also given by patient: probabilities are averaged over a
patient's cases, counts of voxels are added up. A patient whose cases differ in label belongs to the
positive class if any case does; without a positive class the patient has no label and is left out.

Metrics of images ask whether an image holds the region: its score is the `log_odds` of `confusion`,
and it is called positive above a probability of 0.5.

One row of each metric is its headline, the value that represents it: over all cases and regions, in
the first form that it has (by case, voxel, image, lesion) and by the first convention.

The stratum "small" covers only small references: cases whose reference of a region is smaller than
a sphere (2-D: disc) of 10 mm, and for lesions those lesions, with the false candidates of all
scans. It has rows only if something is small. Stratum "": all.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit

from bench.core.odds import Floats, of_mean
from bench.metrics.lesions import SMALL_MM
from bench.metrics.rates import Classified, Labels, Probabilities, mean
from bench.metrics.table import METRICS, Metric

Row = dict[str, Any]
Cases = Sequence[Mapping[str, Any]]
# {convention: value}, empty if the metric has no such form or nothing was measured.
Values = Mapping[str, float | None]

SMALL = "small"
_COUNTS = ("tp", "fp", "fn", "tn", "n_ref", "n_pred")


def classification_rows(
    prob: Probabilities,
    label: Labels,
    *,
    log_odds: Floats | None = None,
    classes: Sequence[str],
    positive: int | None,
    unit: str,
    groups: Sequence[str] = (),
    group_unit: str = "patient",
    graded: bool = False,
) -> list[Row]:
    """Return rows (see the table `metrics`) for each classification metric.

    `prob` (n, C) are probabilities and `label` (n,) true classes of the same n cases; they are
    ranked by `log_odds` (n, C) (None: by the probabilities). `positive` is the class whose
    detection is scored, None for the mean over the classes, one against the rest. `unit` is the
    kind of a case. The class called is the one of highest probability. `groups` (n,) is the patient
    of each case; if any patient has several cases, rows of unit `group_unit` follow. `graded`: the
    classes are grades in ascending order, and the metrics of grades are added.

    Raises ValueError if shapes, labels or probabilities do not fit.
    """
    n_classes = len(classes)
    if prob.shape != (len(label), n_classes) or label.ndim != 1:
        raise ValueError(
            f"{n_classes} classes need prob (n, {n_classes}) and label (n,), "
            f"not {prob.shape} and {label.shape}"
        )
    if not np.isfinite(prob).all():
        raise ValueError("prob has values that are not finite")
    if len(label) and not 0 <= label.min() <= label.max() < n_classes:
        raise ValueError(f"labels must be in 0..{n_classes - 1}, not {label.min()}..{label.max()}")
    ranks = prob if log_odds is None else log_odds
    if ranks.shape != prob.shape:
        raise ValueError(f"log_odds {ranks.shape} do not fit prob {prob.shape}")
    if groups and len(groups) != len(label):
        raise ValueError(f"{len(groups)} groups do not fit {len(label)} cases")
    levels = [(unit, prob, ranks, label)]
    if len(set(groups)) < len(groups):
        levels.append((group_unit, *_by_group(prob, log_odds, label, groups, positive)))
    return _with_headlines(
        _row(metric.name, unit=level, value=function(r if metric.ranks else p, y, positive))
        for level, p, r, y in levels
        for metric, function in _classifying(graded=graded)
    )


def finding_rows(
    log_odds: Floats,
    label: Floats,
    *,
    findings: Sequence[str],
    unit: str,
    groups: Sequence[str] = (),
    group_unit: str = "patient",
) -> list[Row]:
    """Return rows (see the table `metrics`) for each classification metric, finding by finding.

    `log_odds` (n, k) are a network's for each of the k `findings`; `label` (n, k) is 1 if a finding
    is present, 0 if it is absent, and nan if that is not known, which leaves the case out of that
    finding's row. A finding is called present above a probability of 0.5. The region "mean" is the
    mean over the findings for which a metric is defined. `groups` (n,) are as in
    `classification_rows`; a patient has a finding if any of its cases does. Raises ValueError if
    shapes or labels do not fit.
    """
    if not log_odds.shape == label.shape == (len(label), len(findings)):
        raise ValueError(
            f"{len(findings)} findings need log_odds and label (n, {len(findings)}), "
            f"not {log_odds.shape} and {label.shape}"
        )
    if not np.isin(label[np.isfinite(label)], (0, 1)).all():
        raise ValueError("labels must be 0, 1 or nan")
    several = len(set(groups)) < len(groups)
    of_unit: dict[str, dict[str, tuple[Probabilities, Floats, Labels]]] = {unit: {}}
    for name, z, y in zip(findings, log_odds.T, label.T, strict=True):
        known = np.flatnonzero(np.isfinite(y))
        pair = np.stack([-z, z], axis=1)[known]
        prob, own = expit(pair), y[known].astype(np.int64)
        of_unit[unit][name] = prob, pair, own
        if several:
            whose = [groups[at] for at in known.tolist()]
            of_unit.setdefault(group_unit, {})[name] = _by_group(prob, pair, own, whose, 1)
    return _with_headlines(
        row
        for metric, function in _classifying()
        for level, found in of_unit.items()
        for row in _region_rows(
            {
                name: {"": function(r if metric.ranks else p, y, 1)}
                for name, (p, r, y) in found.items()
            },
            partial(_row, metric.name, unit=level),
        )
    )


def number_rows(
    predicted: Floats,
    true: Floats,
    *,
    unit: str,
    groups: Sequence[str] = (),
    group_unit: str = "patient",
) -> list[Row]:
    """Return rows (see the table `metrics`) for each metric of numbers.

    `predicted` and `true` (n,) are of the same n cases, in the same unit. `groups` (n,) are as in
    `classification_rows`; a patient's numbers are the means over its cases. Raises ValueError if
    shapes do not fit or a number is not finite.
    """
    if predicted.shape != true.shape or true.ndim != 1:
        raise ValueError(f"numbers must be (n,) and (n,), not {predicted.shape} and {true.shape}")
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise ValueError("a number is not finite")
    levels = [(unit, predicted, true)]
    if len(set(groups)) < len(groups):
        whose = np.unique(np.asarray(groups), return_inverse=True)[1]
        size = np.bincount(whose)
        own = [np.bincount(whose, values) / size for values in (predicted, true)]
        levels.append((group_unit, own[0], own[1]))
    return _with_headlines(
        _row(name, unit=level, value=metric.numbers(x, y))
        for level, x, y in levels
        for name, metric in METRICS.items()
        if metric.numbers
    )


def segmentation_rows(
    cases: Cases, regions: Sequence[str], *, group: str | None = None
) -> list[Row]:
    """Return the rows (see the table `metrics`) of each segmentation metric.

    `cases` are rows of `confusion`, one for each case and region. Each metric has a row for each
    region and one for the region "mean", the mean over the regions for which it is defined. With
    `group`, the kind of a group, cases have a `group_id`; if any group has several cases, rows of
    that unit follow.
    """
    of_region = {name: [case for case in cases if case["region"] == name] for name in regions}
    forms: list[tuple[str, str, Callable[[Metric, Cases], Values]]] = [
        ("case", "", _by_case),
        ("voxel", "", _by_voxel),
        ("image", "", _by_image),
        ("lesion", "", _by_lesion),
        ("case", SMALL, partial(_small_cases, _by_case)),
        ("voxel", SMALL, partial(_small_cases, _by_voxel)),
        ("lesion", SMALL, _small_lesions),
    ]
    several = group and any(
        len({case["group_id"] for case in found}) < len(found) for found in of_region.values()
    )
    if group and several:
        forms.append((group, "", _by_patient))
    return _with_headlines(
        row
        for name, metric in METRICS.items()
        for unit, stratum, form in forms
        for row in _region_rows(
            {region: form(metric, found) for region, found in of_region.items()},
            partial(_row, name, unit=unit, stratum=stratum),
        )
    )


def headline(rows: Sequence[Row], metric: str) -> float | None:
    """Return the headline value of `metric`; raises ValueError if there is no such metric."""
    for row in rows:
        if row["metric"] == metric and row["headline"]:
            value: float | None = row["value"]
            return value
    named = ", ".join(dict.fromkeys(row["metric"] for row in rows))
    raise ValueError(f"no metric {metric!r} here; there are {named}")


def _classifying(*, graded: bool = False) -> Iterator[tuple[Metric, Classified]]:
    """Yield each metric of classification with its function; if `graded`, those of grades too."""
    for metric in METRICS.values():
        if function := metric.classification or (metric.graded if graded else None):
            yield metric, function


# ---------------------------------------------------------------- patients


def _by_group(
    prob: Probabilities,
    log_odds: Floats | None,
    label: Labels,
    groups: Sequence[str],
    positive: int | None,
) -> tuple[Probabilities, Floats, Labels]:
    """Return mean probabilities, scores that rank as they do, and the label of each group.

    Groups without a single label are left out.
    """
    of_group: dict[str, list[int]] = {}
    for at, group in enumerate(groups):
        of_group.setdefault(group, []).append(at)
    probs, ranks, labels = [], [], []
    for members in of_group.values():
        found = set(label[members].tolist())
        if len(found) == 1 or positive in found:
            probs.append(prob[members].mean(axis=0))
            ranks.append(probs[-1] if log_odds is None else of_mean(log_odds[members]))
            labels.append(found.pop() if len(found) == 1 else positive)
    shape = len(labels), prob.shape[1]
    return (
        np.array(probs).reshape(shape),
        np.array(ranks).reshape(shape),
        np.array(labels, dtype=np.int64),
    )


def _by_patient(metric: Metric, cases: Cases) -> Values:
    if not (metric.per_patient and metric.per_case):
        return {}
    of_group: dict[str, dict[str, int]] = {}
    for case in cases:
        counts = of_group.setdefault(case["group_id"], dict.fromkeys(_COUNTS, 0))
        for name in _COUNTS:
            counts[name] += case[name]
    return _averaged(metric.per_case, list(of_group.values()))


# ---------------------------------------------------------------- forms of a segmentation metric


def _by_case(metric: Metric, cases: Cases) -> Values:
    return _averaged(metric.per_case, cases) if metric.per_case else {}


def _by_voxel(metric: Metric, cases: Cases) -> Values:
    if not metric.pooled:
        return {}
    tp, fp, fn, tn = (sum(case[count] for case in cases) for count in ("tp", "fp", "fn", "tn"))
    return {"": metric.pooled(tp, fp, fn, tn)}


def _by_image(metric: Metric, cases: Cases) -> Values:
    if not (metric.presence and metric.classification and _measured(cases, "log_odds")):
        return {}
    # Only ranks and signs matter here, so log-odds serve for all metrics.
    there = np.array([case["log_odds"] for case in cases], dtype=np.float64)
    label = np.array([case["label"] for case in cases], dtype=np.int64)
    return {"": metric.classification(np.stack([-there, there], axis=1), label, 1)}


def _by_lesion(metric: Metric, cases: Cases) -> Values:
    if not (metric.lesions and _measured(cases, "lesion_log_odds")):
        return {}
    scores = [score for case in cases for score in case["lesion_log_odds"]]
    false_scores = [score for case in cases for score in case["false_log_odds"]]
    return {"": metric.lesions(scores, false_scores, len(cases))}


def _small_cases(form: Callable[[Metric, Cases], Values], metric: Metric, cases: Cases) -> Values:
    small = [case for case in cases if _is_small(case["ref_mm"])]
    return form(metric, small) if small and metric.by_size else {}


def _small_lesions(metric: Metric, cases: Cases) -> Values:
    if not (metric.by_size and _measured(cases, "lesion_log_odds")):
        return {}
    small = [[_is_small(mm) for mm in case["lesion_mm"]] for case in cases]
    if not any(map(any, small)):
        return {}
    kept = [
        {
            **case,
            "lesion_log_odds": [
                score for score, keep in zip(case["lesion_log_odds"], flags, strict=True) if keep
            ],
        }
        for case, flags in zip(cases, small, strict=True)
    ]
    return _by_lesion(metric, kept)


def _measured(cases: Cases, column: str) -> bool:
    """Return whether a column was measured; the final scoring measures it for all cases."""
    return bool(cases) and all(case[column] is not None for case in cases)


def _is_small(diameter_mm: float | None) -> bool:
    return diameter_mm is not None and diameter_mm < SMALL_MM


def _averaged(per_case: Callable[[Mapping[str, Any]], Values], cases: Cases) -> Values:
    """Return the mean over the cases in which it is defined, for each convention."""
    found = [per_case(case) for case in cases]
    conventions = dict.fromkeys(name for values in found for name in values)
    return {c: mean([v[c] for v in found if v[c] is not None]) for c in conventions}


# ---------------------------------------------------------------- rows


def _with_headlines(rows: Iterable[Row]) -> list[Row]:
    """Mark the headline of each metric: the first of its rows over all cases and regions."""
    marked = list(rows)
    seen: set[str] = set()
    for row in marked:
        overall = row["region"] in ("", "mean") and not row["stratum"]
        row["headline"] = overall and row["metric"] not in seen
        if overall:
            seen.add(row["metric"])
    return marked


def _region_rows(by_region: Mapping[str, Values], row: Callable[..., Row]) -> Iterator[Row]:
    """Yield the rows of one form of a metric, with the mean over the regions."""
    for c in dict.fromkeys(convention for found in by_region.values() for convention in found):
        values = {region: found[c] for region, found in by_region.items() if c in found}
        over_all = mean([value for value in values.values() if value is not None])
        for region, value in {**values, "mean": over_all}.items():
            yield row(region=region, convention=c, value=value)


def _row(
    name: str,
    *,
    unit: str,
    value: float | None,
    region: str = "",
    convention: str = "",
    stratum: str = "",
) -> Row:
    return {
        "metric": name,
        "unit": unit,
        "region": region,
        "convention": convention,
        "stratum": stratum,
        "degradation": "",
        "value": value,
    }
