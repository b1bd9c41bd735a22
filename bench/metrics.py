"""The metrics: one row each, from per-case scores or per-case counts, never from batches.

What a value counts stands in its `unit` column: classification metrics count cases (images,
lesions, volumes: the data set says which); of the segmentation metrics, some are computed for each
case and averaged (unit "case"), the others from the counts of all cases' voxels together (unit
"voxel"). Voxel specificity and accuracy are near 1 whatever is predicted where the object is small.

An empty mask leaves overlap without a meaning, and packages disagree on what to put there. Both
conventions are given side by side:

- `skip_empty`: a case in which both masks are empty is left out; nnU-Net's.
- `empty_is_one`: such a case counts 1; that of NVIDIA's nnU-Net and of the BraTS challenges.

In both, a case in which one mask alone is empty counts 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from sklearn.metrics import average_precision_score, roc_auc_score

Probabilities = NDArray[np.float64]
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]
Masks = NDArray[np.uint8]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of the table; each of its three functions is None where it has no such form.

    - `classification(prob, label, positive)`: of probabilities (n, C) and labels (n,); `positive`
      is the class that counts as positive, None for the mean over classes, one against the rest.
    - `per_case(case)`: of one row of `confusion`, a value for each convention, "" where there is
      one alone. Cases whose value is None are left out of the mean.
    - `pooled(tp, fp, fn, tn)`: of the counts of all cases together.

    None as a value means undefined. `range` is the lowest and highest value, None where unbounded.
    """

    name: str
    higher_is_better: bool
    range: tuple[float, float | None]
    unit: str = "1"  # of the value itself: "1" for a fraction, "mm"
    classification: Callable[[Probabilities, Labels, int | None], float | None] | None = None
    per_case: Callable[[Mapping[str, Any]], dict[str, float | None]] | None = None
    pooled: Callable[[int, int, int, int], float | None] | None = None
    empty_rule: str
    summary: str
    source: str

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that this metric has a function for."""
        able = {
            "classification": self.classification is not None,
            "segmentation": self.per_case is not None or self.pooled is not None,
        }
        return tuple(task for task, yes in able.items() if yes)


# ---------------------------------------------------------------- from counts


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _sensitivity(tp: int, fp: int, fn: int, tn: int) -> float | None:
    del fp, tn
    return _ratio(tp, tp + fn)


def _specificity(tp: int, fp: int, fn: int, tn: int) -> float | None:
    del tp, fn
    return _ratio(tn, tn + fp)


def _accuracy(tp: int, fp: int, fn: int, tn: int) -> float | None:
    return _ratio(tp + tn, tp + fp + fn + tn)


# ---------------------------------------------------------------- classification


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, None where a value is None or there is none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _one_vs_rest(
    score: Callable[[Flags, Probabilities, Flags], float | None],
) -> Callable[[Probabilities, Labels, int | None], float | None]:
    """Return the classification metric made of `score(truth, prob, predicted)`, each (n,)."""

    def metric(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
        predicted = prob.argmax(axis=1)
        wanted = range(prob.shape[1]) if positive is None else (positive,)
        return _mean([score(label == c, prob[:, c], predicted == c) for c in wanted])

    return metric


def _from_counts(
    score: Callable[[int, int, int, int], float | None],
) -> Callable[[Flags, Probabilities, Flags], float | None]:
    def counted(truth: Flags, prob: Probabilities, predicted: Flags) -> float | None:
        del prob
        return score(
            int((truth & predicted).sum()),
            int((~truth & predicted).sum()),
            int((truth & ~predicted).sum()),
            int((~truth & ~predicted).sum()),
        )

    return counted


def _ranked(
    score: Callable[[Flags, Probabilities], float],
) -> Callable[[Flags, Probabilities, Flags], float | None]:
    def ranked(truth: Flags, prob: Probabilities, predicted: Flags) -> float | None:
        del predicted
        return float(score(truth, prob)) if 0 < truth.sum() < len(truth) else None

    return ranked


def _case_accuracy(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
    del positive
    return _ratio(float((prob.argmax(axis=1) == label).sum()), len(label))


def _balanced_accuracy(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
    del positive
    return _one_vs_rest(_from_counts(_sensitivity))(prob, label, None)


# ---------------------------------------------------------------- segmentation


def _both_conventions(overlap: float | None) -> dict[str, float | None]:
    return {"skip_empty": overlap, "empty_is_one": 1.0 if overlap is None else overlap}


def _dice(case: Mapping[str, Any]) -> dict[str, float | None]:
    return _both_conventions(case["dice"])


def _iou(case: Mapping[str, Any]) -> dict[str, float | None]:
    return _both_conventions(_ratio(case["tp"], case["tp"] + case["fp"] + case["fn"]))


def _hd95(case: Mapping[str, Any]) -> dict[str, float | None]:
    return {"": case["hd95_mm"]}


def _false_alarm(case: Mapping[str, Any]) -> dict[str, float | None]:
    return {"": None if case["n_ref"] else float(case["n_pred"] > 0)}


CLASS_RULE = "undefined where the cases lack a class that it needs"
OVERLAP_RULE = "both masks empty: left out (skip_empty) or 1 (empty_is_one); one empty: 0"
POOLED_RULE = "undefined where the counts of all cases together leave nothing to divide by"

METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric(
            name="auc",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=_one_vs_rest(_ranked(roc_auc_score)),
            empty_rule=CLASS_RULE,
            summary="area under the receiver operating characteristic curve",
            source="sklearn.metrics.roc_auc_score",
        ),
        Metric(
            name="accuracy",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=_case_accuracy,
            pooled=_accuracy,
            empty_rule=POOLED_RULE,
            summary="share of cases, or of voxels, that are called right",
            source="(TP + TN) / (TP + TN + FP + FN)",
        ),
        Metric(
            name="balanced_accuracy",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=_balanced_accuracy,
            empty_rule=CLASS_RULE,
            summary="mean over the classes of the share of their cases that is called right",
            source="Brodersen et al. 2010; sklearn.metrics.balanced_accuracy_score",
        ),
        Metric(
            name="sensitivity",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=_one_vs_rest(_from_counts(_sensitivity)),
            pooled=_sensitivity,
            empty_rule=f"{CLASS_RULE}; {POOLED_RULE}",
            summary="share of the positive that is called positive",
            source="TP / (TP + FN)",
        ),
        Metric(
            name="specificity",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=_one_vs_rest(_from_counts(_specificity)),
            pooled=_specificity,
            empty_rule=f"{CLASS_RULE}; {POOLED_RULE}",
            summary="share of the negative that is called negative",
            source="TN / (TN + FP)",
        ),
        Metric(
            name="average_precision",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=_one_vs_rest(_ranked(average_precision_score)),
            empty_rule=CLASS_RULE,
            summary="mean precision over the recall steps, without interpolation",
            source="sklearn.metrics.average_precision_score",
        ),
        Metric(
            name="dice",
            higher_is_better=True,
            range=(0.0, 1.0),
            per_case=_dice,
            empty_rule=OVERLAP_RULE,
            summary="overlap of prediction and reference, 2 TP / (2 TP + FP + FN)",
            source="Dice 1945, Ecology 26",
        ),
        Metric(
            name="iou",
            higher_is_better=True,
            range=(0.0, 1.0),
            per_case=_iou,
            empty_rule=OVERLAP_RULE,
            summary="intersection over union, TP / (TP + FP + FN)",
            source="Jaccard 1912, New Phytologist 11",
        ),
        Metric(
            name="hd95",
            higher_is_better=False,
            range=(0.0, None),
            unit="mm",
            per_case=_hd95,
            empty_rule="a case in which either mask is empty, or the spacing unknown, is left out",
            summary="95th percentile of the distance between the surfaces, the worse direction",
            source="as monai.metrics.compute_hausdorff_distance(percentile=95)",
        ),
        Metric(
            name="false_alarm",
            higher_is_better=False,
            range=(0.0, 1.0),
            per_case=_false_alarm,
            empty_rule="over the cases whose reference is empty; undefined where there is none",
            summary="share of the cases without the object in which some is predicted",
            source="what skip_empty and empty_is_one differ by",
        ),
    )
}

PRIMARY = {"classification": "auc", "segmentation": "dice"}


# ---------------------------------------------------------------- rows


def classification_rows(
    prob: Probabilities,
    label: Labels,
    *,
    classes: Sequence[str],
    positive: int | None,
    unit: str,
) -> list[Row]:
    """Return a row (metric unit region convention stratum value) for each classification metric.

    `prob` (n, C) are probabilities and `label` (n,) true classes of the same n cases; `positive`
    is the class whose detection is scored, None for the mean over the classes, one against the
    rest; `unit` says what a case is. The class called is the one of highest probability.
    Raises ValueError where shapes, labels or probabilities do not fit.
    """
    n_classes = len(classes)
    if prob.shape != (len(label), n_classes) or label.ndim != 1:
        raise ValueError(
            f"{n_classes} classes need prob (n, {n_classes}) and label (n,), "
            f"not {prob.shape} and {label.shape}"
        )
    if not np.isfinite(prob).all():
        raise ValueError("prob holds values that are not finite")
    if len(label) and not 0 <= label.min() <= label.max() < n_classes:
        raise ValueError(f"labels must be in 0..{n_classes - 1}, not {label.min()}..{label.max()}")
    return [
        _row(name, unit=unit, region="", convention="", value=function(prob, label, positive))
        for name, metric in METRICS.items()
        if (function := metric.classification)
    ]


def segmentation_rows(cases: Sequence[Mapping[str, Any]], regions: Sequence[str]) -> list[Row]:
    """Return the rows (metric unit region convention stratum value) of each segmentation metric.

    `cases` are rows of `confusion`, one for each case and region. For each metric there is the row
    of each region and that of the region "mean", the mean over the regions in which it is defined.
    """
    of_region = {name: [case for case in cases if case["region"] == name] for name in regions}
    rows: list[Row] = []
    for name, metric in METRICS.items():
        if metric.per_case:
            values = {r: _averaged(metric.per_case, found) for r, found in of_region.items()}
            rows += _region_rows(name, values, unit="case")
        if metric.pooled:
            values = {r: {"": _pooled(metric.pooled, found)} for r, found in of_region.items()}
            rows += _region_rows(name, values, unit="voxel")
    return rows


def headline(rows: Sequence[Row], metric: str) -> float | None:
    """Return the one value that stands for `metric`: over all regions, by its first convention."""
    for row in rows:
        if row["metric"] == metric and row["region"] in ("", "mean"):
            value: float | None = row["value"]
            return value
    named = ", ".join(dict.fromkeys(row["metric"] for row in rows))
    raise ValueError(f"no metric {metric!r} here; there are {named}")


def _averaged(
    per_case: Callable[[Mapping[str, Any]], dict[str, float | None]],
    cases: Sequence[Mapping[str, Any]],
) -> dict[str, float | None]:
    """Return the mean over the cases in which it is defined, for each convention."""
    found = [per_case(case) for case in cases]
    conventions = dict.fromkeys(name for values in found for name in values)
    return {c: _mean([v[c] for v in found if v[c] is not None]) for c in conventions}


def _pooled(
    pooled: Callable[[int, int, int, int], float | None], cases: Sequence[Mapping[str, Any]]
) -> float | None:
    tp, fp, fn, tn = (sum(case[count] for case in cases) for count in ("tp", "fp", "fn", "tn"))
    return pooled(tp, fp, fn, tn)


def _region_rows(
    name: str, values: Mapping[str, Mapping[str, float | None]], *, unit: str
) -> list[Row]:
    """Return the rows of one metric from {region: {convention: value}}, with the mean's."""
    rows: list[Row] = []
    for c in dict.fromkeys(convention for found in values.values() for convention in found):
        by_region = {region: found.get(c) for region, found in values.items()}
        mean = _mean([value for value in by_region.values() if value is not None])
        rows += [
            _row(name, unit=unit, region=region, convention=c, value=value)
            for region, value in {**by_region, "mean": mean}.items()
        ]
    return rows


def _row(name: str, *, unit: str, region: str, convention: str, value: float | None) -> Row:
    return {
        "metric": name,
        "unit": unit,
        "region": region,
        "convention": convention,
        "stratum": "",
        "value": value,
    }


# ---------------------------------------------------------------- one segmented case


def confusion(
    pred: Masks,
    ref: Masks,
    regions: Mapping[str, tuple[int, ...]],
    spacing: Sequence[float],
    *,
    distances: bool,
) -> list[Row]:
    """Return one row a region: region tp fp fn tn n_ref n_pred dice hd95_mm.

    `pred` and `ref` are label maps (*spatial) of one case, 0 its background; a region unites the
    labels given for it. `spacing` is in mm for each axis, nan where unknown. `dice` is None where
    both masks are empty. `hd95_mm` is None where either is empty, where the spacing is unknown,
    and everywhere without `distances`. Raises ValueError where shapes or types do not fit.
    """
    if pred.shape != ref.shape or pred.ndim != len(spacing):
        raise ValueError(
            f"a prediction {pred.shape}, a reference {ref.shape} and a spacing of "
            f"{len(spacing)} axes do not belong together"
        )
    if pred.dtype != np.uint8 or ref.dtype != np.uint8:
        raise ValueError(f"label maps must be uint8, not {pred.dtype} and {ref.dtype}")
    if with_background := [name for name, labels in regions.items() if 0 in labels]:
        raise ValueError(f"regions must not hold the background, label 0: {with_background}")

    # All that is counted and measured lies in the box around what either map labels.
    box = _bounding_box(pred | ref)
    pred, ref, outside = pred[box], ref[box], pred.size - pred[box].size
    # pairs[i, j]: voxels of reference label i and predicted label j
    pairs = np.bincount((ref.astype(np.uint16) * 256 + pred).ravel(), minlength=256 * 256)
    pairs = pairs.reshape(256, 256)
    pairs[0, 0] += outside

    known = distances and bool(np.isfinite(spacing).all())
    rows: list[Row] = []
    for name, labels in regions.items():
        inside = np.zeros(256, dtype=bool)
        inside[list(labels)] = True
        tp = int(pairs[inside][:, inside].sum())
        fp = int(pairs[~inside][:, inside].sum())
        fn = int(pairs[inside][:, ~inside].sum())
        rows.append(
            {
                "region": name,
                "tp": tp,
                "fp": fp,
                "fn": fn,
                "tn": int(pairs[~inside][:, ~inside].sum()),
                "n_ref": tp + fn,
                "n_pred": tp + fp,
                "dice": _ratio(2 * tp, 2 * tp + fp + fn),
                "hd95_mm": hd95(inside[pred], inside[ref], spacing) if known else None,
            }
        )
    return rows


def hd95(pred: Flags, ref: Flags, spacing: Sequence[float]) -> float | None:
    """Return the 95th percentile Hausdorff distance of two masks in mm; None if one is empty.

    The percentile is taken of the distances from each surface voxel to the nearest one of the other
    surface; the larger of the two directions counts. A surface voxel has a face neighbour outside
    the mask or lies at the border of the image.
    """
    if not pred.any() or not ref.any():
        return None
    box = _bounding_box(pred | ref)
    surfaces = [mask[box] & ~binary_erosion(mask[box]) for mask in (pred, ref)]
    return max(
        float(np.percentile(distance_transform_edt(~there, sampling=spacing)[here], 95))
        for here, there in (surfaces, surfaces[::-1])
    )


def _bounding_box(mask: NDArray[Any]) -> tuple[slice, ...]:
    """Return the smallest box that holds all non-zero elements; an empty one if there are none."""
    axes = range(mask.ndim)
    box = []
    for axis in axes:
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0))
    return tuple(box)
