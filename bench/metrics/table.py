"""The metrics: one row each, from per-case scores or per-case counts, never from batches.

The column `unit` of the rows says what a value counts. Classification metrics count cases ("image",
"lesion", "volume": the data set says which) and, if patients have several, patients. Segmentation
metrics are computed for each case and averaged ("case", or "patient" if a patient's counts are
added up), from the voxel counts of all cases together ("voxel"), from the lesions of all scans
("lesion"), or from whether each image holds the region at all ("image"). For a small object, voxel
specificity and accuracy are near 1 whatever is predicted.

With an empty mask, overlap and distance are undefined, and packages disagree on the value to use.
Both conventions are given side by side:

- `skip_empty`: a case in which both masks are empty is left out, as in nnU-Net.
- `empty_is_one`, for distances `empty_is_zero`: such a case counts as perfect, as in NVIDIA's
  nnU-Net and the BraTS challenges.

In both, a case in which only one mask is empty counts as the worst: an overlap of 0, a distance of
the image's diagonal (BraTS: 373.13 mm). Packages leave such a case out of the mean of distances, so
that a network gains by finding nothing. To compare with published values, that mean is given too,
as `skip_missed`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.metrics import errors, lesions, rates
from bench.metrics.rates import from_counts, one_vs_rest, ranked, sensitivity_at

# The unit of an error in a number to predict: the unit of that number.
OF_THE_NUMBER = "unit of the number"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of the table; each of its functions is None if it has no such form.

    - `classification(prob, label, positive)`: for probabilities (n, C) and labels (n,); `positive`
      is the class that counts as positive, None for the mean over classes, one against the rest.
    - `ranks`: whether `classification` uses only the order of cases. It then gets their log-odds
      instead of probabilities, which tie near 1.
    - `presence`: whether `classification` is also computed for segmented images: is the region
      there? There it always gets log-odds, so it may use only order and sign.
    - `per_case(case)`: for one row of `confusion`, a value for each convention, "" if there is only
      one. Cases whose value is None are left out of the mean.
    - `per_patient`: whether `per_case` needs only counts, so that a patient's may be added up.
    - `pooled(tp, fp, fn, tn)`: for the counts of all cases together.
    - `lesions(scores, false_scores, scans)`: for the lesions and false candidates of all scans.
    - `graded`: like `classification`, for classes that are grades in ascending order.
    - `numbers(predicted, true)`: for numbers (n,) and (n,).
    - `by_size`: whether it is meaningful for small references and lesions alone.
    - `costly`: whether its first form in segmentation needs distances, components or probabilities,
      which are computed only in the final scoring, or if it is the primary metric.
    - `influence`: how far one case moves the headline: a rule of results.statistics.influence, by
      which a verdict pairs scores case by case. None if no rule is smooth (a point of a curve, an
      average over recall, an error in bins): then only folds tell how far scores vary.

    None as a value means undefined. `range` is the lowest and highest value, None if unbounded.
    """

    name: str
    higher_is_better: bool
    range: tuple[float | None, float | None]
    unit: str = "1"  # of the value itself: "1" for a fraction, "mm"
    classification: rates.Classified | None = None
    ranks: bool = False
    presence: bool = False
    per_case: Callable[[Mapping[str, Any]], dict[str, float | None]] | None = None
    per_patient: bool = False
    pooled: rates.Counted | None = None
    lesions: Callable[[Sequence[float | None], Sequence[float], int], float | None] | None = None
    graded: rates.Classified | None = None
    numbers: Callable[[errors.Floats, errors.Floats], float | None] | None = None
    by_size: bool = True
    costly: bool = False
    influence: str | None = None
    empty_rule: str
    summary: str
    source: str

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that this metric has a function for."""
        able = {
            "classification": self.classification is not None,
            # Each finding is classified as present or absent.
            "multilabel": self.classification is not None,
            "ordinal": bool(self.classification or self.graded),
            "regression": self.numbers is not None,
            "segmentation": bool(self.per_case or self.pooled or self.lesions or self.presence),
        }
        return tuple(task for task, yes in able.items() if yes)

    @property
    def levels(self) -> tuple[str, ...]:
        """What it can count, as in its rows' `unit`; the data set has its own word for a case."""
        forms = {
            "case": bool(self.per_case or self.classification or self.graded or self.numbers),
            "voxel": self.pooled is not None,
            "patient": bool(self.per_patient or self.classification or self.graded or self.numbers),
            "image": self.presence,
            "lesion": self.lesions is not None,
        }
        return tuple(level for level, yes in forms.items() if yes)


# ---------------------------------------------------------------- for one segmented case


def _both_conventions(overlap: float | None) -> dict[str, float | None]:
    return {"skip_empty": overlap, "empty_is_one": 1.0 if overlap is None else overlap}


def _dice(case: Mapping[str, Any]) -> dict[str, float | None]:
    return _both_conventions(rates.f1(case["tp"], case["fp"], case["fn"], case["tn"]))


def _iou(case: Mapping[str, Any]) -> dict[str, float | None]:
    return _both_conventions(rates.ratio(case["tp"], case["tp"] + case["fp"] + case["fn"]))


def _nsd(case: Mapping[str, Any]) -> dict[str, float | None]:
    value, something = case["nsd_2mm"], case["n_ref"] or case["n_pred"]
    return {"skip_empty": value if something else None, "empty_is_one": value}


def _distance(column: str) -> Callable[[Mapping[str, Any]], dict[str, float | None]]:
    def of_case(case: Mapping[str, Any]) -> dict[str, float | None]:
        value, something = case[column], case["n_ref"] or case["n_pred"]
        return {
            "skip_empty": value if something else None,
            "empty_is_zero": value,
            "skip_missed": value if case["n_ref"] and case["n_pred"] else None,
        }

    return of_case


def _false_alarm(case: Mapping[str, Any]) -> dict[str, float | None]:
    return {"": None if case["n_ref"] else float(case["n_pred"] > 0)}


CLASS_RULE = "undefined if the cases lack a class that it needs"
OVERLAP_RULE = "both masks empty: left out (skip_empty) or 1 (empty_is_one); one empty: 0"
POOLED_RULE = "undefined if the counts of all cases together give a denominator of 0"
DISTANCE_RULE = (
    "both masks empty: left out (skip_empty) or 0 (empty_is_zero); one empty: the image's "
    "diagonal; either empty: left out (skip_missed); spacing unknown: left out"
)
NO_CASE_RULE = "undefined if there is no case"
ONE_NUMBER_RULE = "undefined if all true numbers are equal"
LESION_RULE = "undefined if no scan holds a lesion"

METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric(
            name="auc",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=one_vs_rest(ranked(rates.auc)),
            ranks=True,
            presence=True,
            costly=True,
            influence="delong",
            empty_rule=CLASS_RULE,
            summary="area under the receiver operating characteristic curve",
            source="Hanley and McNeil 1982; as sklearn.metrics.roc_auc_score",
        ),
        Metric(
            name="accuracy",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=rates.case_accuracy,
            pooled=rates.accuracy,
            influence="share right",
            empty_rule=POOLED_RULE,
            summary="share of cases, or of voxels, that are classified correctly",
            source="(TP + TN) / (TP + TN + FP + FN)",
        ),
        Metric(
            name="balanced_accuracy",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=rates.balanced_accuracy,
            influence="mean sensitivity",
            empty_rule=CLASS_RULE,
            summary="share of a class's cases that are classified correctly, mean over classes",
            source="Brodersen et al. 2010; as sklearn.metrics.balanced_accuracy_score",
        ),
        Metric(
            name="sensitivity",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=one_vs_rest(from_counts(rates.sensitivity)),
            presence=True,
            pooled=rates.sensitivity,
            lesions=lesions.sensitivity,
            influence="sensitivity",
            empty_rule=f"{CLASS_RULE}; {POOLED_RULE}",
            summary="share of positives that are called positive; of lesions, those that share a "
            "voxel with the prediction",
            source="TP / (TP + FN)",
        ),
        Metric(
            name="specificity",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=one_vs_rest(from_counts(rates.specificity)),
            presence=True,
            pooled=rates.specificity,
            influence="specificity",
            empty_rule=f"{CLASS_RULE}; {POOLED_RULE}",
            summary="share of negatives that are called negative",
            source="TN / (TN + FP)",
        ),
        Metric(
            name="precision",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=one_vs_rest(from_counts(rates.precision)),
            pooled=rates.precision,
            influence="precision",
            empty_rule="0 if nothing is called positive but something is positive; undefined if "
            "neither is",
            summary="share of the cases or voxels called positive that are positive",
            source="TP / (TP + FP)",
        ),
        Metric(
            name="f1",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=one_vs_rest(from_counts(rates.f1)),
            pooled=rates.f1,
            influence="f1",
            empty_rule="undefined if nothing is positive and nothing is called positive",
            summary="harmonic mean of precision and sensitivity; by voxel, the Dice of the counts "
            "of all cases together",
            source="2 TP / (2 TP + FP + FN); van Rijsbergen 1979",
        ),
        Metric(
            name="mcc",
            higher_is_better=True,
            range=(-1.0, 1.0),
            classification=rates.case_mcc,
            pooled=rates.mcc,
            influence="correlation",
            empty_rule="0 if all calls are one class; undefined if all cases are of one class",
            summary="Matthews' correlation of true and called classes, over all classes",
            source="Matthews 1975; Gorodkin 2004; as sklearn.metrics.matthews_corrcoef",
        ),
        Metric(
            name="average_precision",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=one_vs_rest(ranked(rates.average_precision)),
            ranks=True,
            presence=True,
            costly=True,
            empty_rule=CLASS_RULE,
            summary="mean of the precision over the steps of recall, without interpolation",
            source="as sklearn.metrics.average_precision_score",
        ),
        *(
            Metric(
                name=f"sensitivity_at_{percent}_percent_fpr",
                higher_is_better=True,
                range=(0.0, 1.0),
                classification=one_vs_rest(ranked(sensitivity_at(percent / 100))),
                ranks=True,
                presence=True,
                costly=True,
                empty_rule=CLASS_RULE,
                summary=f"best sensitivity of any threshold with at most {percent} % of the "
                "negatives called positive",
                source="a point on the cases' ROC curve, not interpolated",
            )
            for percent in (5, 10)
        ),
        Metric(
            name="calibration_error",
            higher_is_better=False,
            range=(0.0, 1.0),
            classification=rates.calibration_error,
            empty_rule="undefined where there is no case",
            summary="expected gap between confidence in the called class and accuracy, 15 bins",
            source="Guo et al. 2017, ICML (ECE)",
        ),
        Metric(
            name="brier",
            higher_is_better=False,
            range=(0.0, 1.0),
            classification=rates.brier,
            influence="squared error",
            empty_rule="undefined where there is no case",
            summary="half the mean squared error of the probabilities, summed over the classes",
            source="Brier 1950; as sklearn.metrics.brier_score_loss(scale_by_half=True)",
        ),
        Metric(
            name="dice",
            higher_is_better=True,
            range=(0.0, 1.0),
            per_case=_dice,
            per_patient=True,
            influence="dice",
            empty_rule=OVERLAP_RULE,
            summary="overlap of prediction and reference, 2 TP / (2 TP + FP + FN)",
            source="Dice 1945, Ecology 26",
        ),
        Metric(
            name="iou",
            higher_is_better=True,
            range=(0.0, 1.0),
            per_case=_iou,
            per_patient=True,
            influence="iou",
            empty_rule=OVERLAP_RULE,
            summary="intersection over union, TP / (TP + FP + FN)",
            source="Jaccard 1912, New Phytologist 11",
        ),
        Metric(
            name="hd95",
            higher_is_better=False,
            range=(0.0, None),
            unit="mm",
            per_case=_distance("hd95_mm"),
            costly=True,
            influence="hd95",
            empty_rule=DISTANCE_RULE,
            summary="95th percentile of the distance between the surfaces, the worse direction",
            source="as monai.metrics.compute_hausdorff_distance(percentile=95)",
        ),
        Metric(
            name="nsd",
            higher_is_better=True,
            range=(0.0, 1.0),
            per_case=_nsd,
            costly=True,
            influence="nsd",
            empty_rule=f"{OVERLAP_RULE}; spacing unknown: left out",
            summary="normalised surface Dice: share of both surfaces within 2 mm of the other",
            source="Nikolov et al. 2018, arXiv:1809.04430; as monai.metrics.compute_surface_dice",
        ),
        Metric(
            name="assd",
            higher_is_better=False,
            range=(0.0, None),
            unit="mm",
            per_case=_distance("assd_mm"),
            costly=True,
            influence="assd",
            empty_rule=DISTANCE_RULE,
            summary="average symmetric surface distance, over both surfaces together",
            source="as monai.metrics.compute_average_surface_distance(symmetric=True)",
        ),
        Metric(
            name="false_alarm",
            higher_is_better=False,
            range=(0.0, 1.0),
            per_case=_false_alarm,
            by_size=False,
            influence="false alarm",
            empty_rule="over the cases whose reference is empty; undefined if there are none",
            summary="share of the cases without the object in which some of it is predicted",
            source="the difference between skip_empty and empty_is_one",
        ),
        Metric(
            name="false_positives_per_scan",
            higher_is_better=False,
            range=(0.0, None),
            lesions=lesions.false_positives,
            by_size=False,
            costly=True,
            empty_rule="undefined if there is no scan",
            summary="predicted components that share no voxel with a lesion, mean over all scans",
            source="Setio et al. 2017 (LUNA16), with components for marks",
        ),
        Metric(
            name="froc",
            higher_is_better=True,
            range=(0.0, 1.0),
            lesions=lesions.froc,
            costly=True,
            empty_rule=LESION_RULE,
            summary="mean sensitivity for lesions at 1/8, 1/4, 1/2, 1, 2, 4, 8 false positives per "
            "scan",
            source="Setio et al. 2017 (LUNA16), with components for marks",
        ),
        Metric(
            name="quadratic_kappa",
            higher_is_better=True,
            range=(-1.0, 1.0),
            graded=rates.quadratic_kappa,
            influence="quadratic kappa",
            empty_rule="undefined if all cases have one grade",
            summary="agreement of grades beyond chance, disagreements weighted by their square",
            source="Cohen 1968, Psychological Bulletin 70; as sklearn.metrics.cohen_kappa_score",
        ),
        Metric(
            name="mae",
            higher_is_better=False,
            range=(0.0, None),
            unit=OF_THE_NUMBER,
            numbers=errors.mean_absolute,
            influence="absolute error",
            empty_rule=NO_CASE_RULE,
            summary="mean absolute error, in the unit of the number",
            source="as sklearn.metrics.mean_absolute_error",
        ),
        Metric(
            name="rmse",
            higher_is_better=False,
            range=(0.0, None),
            unit=OF_THE_NUMBER,
            numbers=errors.root_mean_square,
            influence="root mean square",
            empty_rule=NO_CASE_RULE,
            summary="root of the mean squared error, in the unit of the number",
            source="as sklearn.metrics.root_mean_squared_error",
        ),
        Metric(
            name="r2",
            higher_is_better=True,
            range=(None, 1.0),
            numbers=errors.determination,
            influence="determination",
            empty_rule=ONE_NUMBER_RULE,
            summary="share of the variance that is explained; below 0 if the mean predicts better",
            source="as sklearn.metrics.r2_score",
        ),
        Metric(
            name="pearson",
            higher_is_better=True,
            range=(-1.0, 1.0),
            numbers=errors.correlation,
            influence="pearson",
            empty_rule=f"{ONE_NUMBER_RULE}; 0 if all predictions are equal",
            summary="correlation of predicted and true numbers",
            source="as scipy.stats.pearsonr",
        ),
        Metric(
            name="concordance",
            higher_is_better=True,
            range=(-1.0, 1.0),
            numbers=errors.concordance,
            influence="concordance",
            empty_rule=ONE_NUMBER_RULE,
            summary="agreement with the line of identity: correlation less shift and scaling",
            source="Lin 1989, Biometrics 45, equation 2, with moments over n",
        ),
    )
}
