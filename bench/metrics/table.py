"""The metrics: one row each, from per-case scores or per-case counts, never from batches.

What a value counts stands in the `unit` column of its rows. Classification metrics count cases
("image", "lesion", "volume": the data set says which) and, where patients have several, patients.
Of the segmentation metrics, some are computed for each case and averaged ("case", or for a
patient's counts added up "patient"), some from the counts of all cases' voxels together ("voxel"),
some from the lesions of all scans ("lesion"), some from whether each image holds the region at all
("image"). Voxel specificity and accuracy are near 1 whatever is predicted where the object is
small.

An empty mask leaves overlap and distance without a meaning, and packages disagree on what to put
there. Both conventions are given side by side:

- `skip_empty`: a case in which both masks are empty is left out; nnU-Net's.
- `empty_is_one`, of distances `empty_is_zero`: such a case counts as perfect; that of NVIDIA's
  nnU-Net and of the BraTS challenges.

In both, a case in which one mask alone is empty counts as the worst: an overlap of 0, a distance of
the image's diagonal (BraTS: 373.13 mm). Packages leave such a case out of the mean of distances, so
that a network gains by finding nothing; to compare with what others published, that mean stands
beside as `skip_missed`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.metrics import errors, lesions, rates
from bench.metrics.rates import from_counts, one_vs_rest, ranked, sensitivity_at

# The unit of a distance from a number that is to be predicted: what that number counts.
OF_THE_NUMBER = "unit of the number"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of the table; each of its functions is None where it has no such form.

    - `classification(prob, label, positive)`: of probabilities (n, C) and labels (n,); `positive`
      is the class that counts as positive, None for the mean over classes, one against the rest.
    - `ranks`: whether `classification` looks at the order of cases alone. It is then given their
      log-odds in place of probabilities, which tie near 1.
    - `presence`: whether `classification` is also asked of segmented images: is the region there?
      It is given log-odds in any case, so it looks at order and sign alone.
    - `per_case(case)`: of one row of `confusion`, a value for each convention, "" where there is
      one alone. Cases whose value is None are left out of the mean.
    - `per_patient`: whether `per_case` needs counts alone, so that a patient's may be added up.
    - `pooled(tp, fp, fn, tn)`: of the counts of all cases together.
    - `lesions(scores, false_scores, scans)`: of the lesions and false candidates of all scans.
    - `graded`: as `classification`, of classes that are grades in ascending order.
    - `numbers(predicted, true)`: of numbers (n,) and (n,).
    - `by_size`: whether it says something of small references and lesions alone.
    - `costly`: whether its first form in segmentation needs distances, components or probabilities,
      which are computed in the final scoring, or where it is the primary metric.

    - `influence`: how far one case moves the headline: a rule of results.statistics.influence, by
      which a verdict pairs scores case by case. None where none is smooth (a point of a curve, an
      average over recall, an error in bins): there folds alone tell how far scores vary.

    None as a value means undefined. `range` is the lowest and highest value, None where unbounded.
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
            # Each finding is a class of two.
            "multilabel": self.classification is not None,
            "ordinal": bool(self.classification or self.graded),
            "regression": self.numbers is not None,
            "segmentation": bool(self.per_case or self.pooled or self.lesions or self.presence),
        }
        return tuple(task for task, yes in able.items() if yes)

    @property
    def levels(self) -> tuple[str, ...]:
        """What it can count, as its rows' unit says; a case is named by the data set."""
        forms = {
            "case": bool(self.per_case or self.classification or self.graded or self.numbers),
            "voxel": self.pooled is not None,
            "patient": bool(self.per_patient or self.classification or self.graded or self.numbers),
            "image": self.presence,
            "lesion": self.lesions is not None,
        }
        return tuple(level for level, yes in forms.items() if yes)


# ---------------------------------------------------------------- of one segmented case


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


CLASS_RULE = "undefined where the cases lack a class that it needs"
OVERLAP_RULE = "both masks empty: left out (skip_empty) or 1 (empty_is_one); one empty: 0"
POOLED_RULE = "undefined where the counts of all cases together leave nothing to divide by"
DISTANCE_RULE = (
    "both masks empty: left out (skip_empty) or 0 (empty_is_zero); one empty: the image's "
    "diagonal; either empty: left out (skip_missed); spacing unknown: left out"
)
NO_CASE_RULE = "undefined where there is no case"
ONE_NUMBER_RULE = "undefined where all true numbers are one"
LESION_RULE = "undefined where no scan holds a lesion"

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
            summary="share of cases, or of voxels, that are called right",
            source="(TP + TN) / (TP + TN + FP + FN)",
        ),
        Metric(
            name="balanced_accuracy",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=rates.balanced_accuracy,
            influence="mean sensitivity",
            empty_rule=CLASS_RULE,
            summary="mean over the classes of the share of their cases that is called right",
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
            summary="share of the positive that is called positive; of lesions, that share a voxel "
            "with the prediction",
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
            summary="share of the negative that is called negative",
            source="TN / (TN + FP)",
        ),
        Metric(
            name="precision",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=one_vs_rest(from_counts(rates.precision)),
            pooled=rates.precision,
            influence="precision",
            empty_rule="0 where nothing is called positive but something is; undefined where "
            "nothing is either",
            summary="share of what is called positive that is positive",
            source="TP / (TP + FP)",
        ),
        Metric(
            name="f1",
            higher_is_better=True,
            range=(0.0, 1.0),
            classification=one_vs_rest(from_counts(rates.f1)),
            pooled=rates.f1,
            influence="f1",
            empty_rule="undefined where nothing is positive and nothing is called so",
            summary="harmonic mean of precision and sensitivity; by voxel the Dice of all cases' "
            "counts together",
            source="2 TP / (2 TP + FP + FN); van Rijsbergen 1979",
        ),
        Metric(
            name="mcc",
            higher_is_better=True,
            range=(-1.0, 1.0),
            classification=rates.case_mcc,
            pooled=rates.mcc,
            influence="correlation",
            empty_rule="0 where all is called one class; undefined where all is of one class",
            summary="Matthews' correlation of truth and call, over all classes",
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
            summary="mean precision over the recall steps, without interpolation",
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
                summary=f"best sensitivity of a threshold with at most {percent} % false positives "
                "among the negatives",
                source="a point of the ROC curve that the cases reach, not interpolated",
            )
            for percent in (5, 10)
        ),
        Metric(
            name="calibration_error",
            higher_is_better=False,
            range=(0.0, 1.0),
            classification=rates.calibration_error,
            empty_rule="undefined where there is no case",
            summary="expected gap between confidence and accuracy of the called class, 15 bins",
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
            empty_rule="over the cases whose reference is empty; undefined where there is none",
            summary="share of the cases without the object in which some is predicted",
            source="what skip_empty and empty_is_one differ by",
        ),
        Metric(
            name="false_positives_per_scan",
            higher_is_better=False,
            range=(0.0, None),
            lesions=lesions.false_positives,
            by_size=False,
            costly=True,
            empty_rule="undefined where there is no scan",
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
            summary="mean sensitivity for lesions at 1/8, 1/4, 1/2, 1, 2, 4, 8 false positives a "
            "scan",
            source="Setio et al. 2017 (LUNA16), with components for marks",
        ),
        Metric(
            name="quadratic_kappa",
            higher_is_better=True,
            range=(-1.0, 1.0),
            graded=rates.quadratic_kappa,
            influence="quadratic kappa",
            empty_rule="undefined where all cases have one grade",
            summary="agreement of grades beyond chance, a disagreement weighing its square",
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
            summary="mean absolute error, in the unit of the source",
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
            summary="root of the mean squared error, in the unit of the source",
            source="as sklearn.metrics.root_mean_squared_error",
        ),
        Metric(
            name="r2",
            higher_is_better=True,
            range=(None, 1.0),
            numbers=errors.determination,
            influence="determination",
            empty_rule=ONE_NUMBER_RULE,
            summary="share of the variance that is explained; below 0 where the mean does better",
            source="as sklearn.metrics.r2_score",
        ),
        Metric(
            name="pearson",
            higher_is_better=True,
            range=(-1.0, 1.0),
            numbers=errors.correlation,
            influence="pearson",
            empty_rule=f"{ONE_NUMBER_RULE}; 0 where all predictions are one",
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
            summary="agreement with the line of identity: correlation less shift and stretch",
            source="Lin 1989, Biometrics 45, equation 2, of moments over n",
        ),
    )
}
