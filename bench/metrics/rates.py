"""The functions behind the metrics of classification: of counts, of ranks, of confidence.

Functions of counts take `tp fp fn tn`. Those of predictions take probabilities (n, C), or, if only
the order counts, any scores that rank alike; labels (n,); and `positive`, the class that counts as
positive, None for the mean over classes, one against the rest. None as a value means undefined.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import fmean
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.metrics.errors import concordance

Probabilities: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
Counts: TypeAlias = NDArray[np.int64]

Counted: TypeAlias = Callable[[int, int, int, int], float | None]
# From the truth of one class, its probability and whether it is called, each (n,).
OneClass: TypeAlias = Callable[[Flags, Probabilities, Flags], float | None]
Classified: TypeAlias = Callable[[Probabilities, Labels, int | None], float | None]

# Guo et al. 2017, "On Calibration of Modern Neural Networks", table 1.
CALIBRATION_BINS = 15


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, None if a value is None or if there are no values."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def ratio(part: float, whole: float) -> float | None:
    """Return part / whole, None if whole is 0."""
    return part / whole if whole else None


# ---------------------------------------------------------------- of counts


def sensitivity(tp: int, fp: int, fn: int, tn: int) -> float | None:
    """Return TP / (TP + FN)."""
    del fp, tn
    return ratio(tp, tp + fn)


def specificity(tp: int, fp: int, fn: int, tn: int) -> float | None:
    """Return TN / (TN + FP)."""
    del tp, fn
    return ratio(tn, tn + fp)


def accuracy(tp: int, fp: int, fn: int, tn: int) -> float | None:
    """Return (TP + TN) / all."""
    return ratio(tp + tn, tp + fp + fn + tn)


def precision(tp: int, fp: int, fn: int, tn: int) -> float | None:
    """Return TP / (TP + FP); 0 if nothing is called positive but something is, as in F1."""
    del tn
    return ratio(tp, tp + fp) if tp + fp else ratio(0, fn)


def f1(tp: int, fp: int, fn: int, tn: int) -> float | None:
    """Return 2 TP / (2 TP + FP + FN)."""
    del tn
    return ratio(2 * tp, 2 * tp + fp + fn)


def mcc(tp: int, fp: int, fn: int, tn: int) -> float | None:
    """Return Matthews' correlation of truth and call; 0 if all calls are the same."""
    if not tp + fn or not tn + fp:
        return None
    # Python's integers: the product of four counts of voxels exceeds 2**64.
    spread = sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / spread if spread else 0.0


# ---------------------------------------------------------------- one class against the rest


def one_vs_rest(score: OneClass) -> Classified:
    """Return the metric of predictions that applies `score` class by class."""

    def metric(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
        called = prob.argmax(axis=1)
        wanted = range(prob.shape[1]) if positive is None else (positive,)
        return mean([score(label == c, prob[:, c], called == c) for c in wanted])

    return metric


def from_counts(score: Counted) -> OneClass:
    """Return the metric of one class that applies `score` to its counts."""

    def counted(truth: Flags, prob: Probabilities, called: Flags) -> float | None:
        del prob
        return score(
            int((truth & called).sum()),
            int((~truth & called).sum()),
            int((truth & ~called).sum()),
            int((~truth & ~called).sum()),
        )

    return counted


def ranked(score: Callable[[Counts, Counts], float]) -> OneClass:
    """Return the metric of one class that applies `score` to its ranks; it needs both answers.

    `score` takes the true and the false positives (k,) at each of the k thresholds, the highest
    first; at the last one all cases are called, so it gives the numbers of positives and negatives.
    """

    def ordered(truth: Flags, prob: Probabilities, called: Flags) -> float | None:
        del called
        if not 0 < truth.sum() < len(truth):
            return None
        falling = np.argsort(-prob, kind="stable")
        # Cases of equal probability pass the threshold together.
        score_of = prob[falling]
        last = np.append(np.flatnonzero(score_of[1:] != score_of[:-1]), len(prob) - 1)
        tp = np.cumsum(truth[falling])[last]
        return score(tp, last + 1 - tp)

    return ordered


def auc(tp: Counts, fp: Counts) -> float:
    """Return the area under the ROC curve, by the trapezoidal rule from (0, 0)."""
    widths, heights = np.diff(fp, prepend=0), tp + np.append(0, tp[:-1])
    return float((widths * heights).sum() / (2 * tp[-1] * fp[-1]))


def average_precision(tp: Counts, fp: Counts) -> float:
    """Return the mean of the precision over the steps of recall, without interpolation."""
    return float((np.diff(tp, prepend=0) * tp / (tp + fp)).sum() / tp[-1])


def sensitivity_at(rate: float) -> Callable[[Counts, Counts], float]:
    """Return the metric: the best sensitivity of any threshold with a false-positive rate <= rate.

    It is a point that the cases reach, never interpolated: with fewer than 1 / rate negatives, none
    may be called positive.
    """

    def best(tp: Counts, fp: Counts) -> float:
        return float(tp[fp / fp[-1] <= rate].max(initial=0) / tp[-1])

    return best


# ---------------------------------------------------------------- all classes together


def case_accuracy(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
    """Return the share of cases that are called by their true class."""
    del positive
    return ratio(float((prob.argmax(axis=1) == label).sum()), len(label))


def balanced_accuracy(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
    """Return the mean sensitivity over all classes, whichever is the positive one."""
    del positive
    return one_vs_rest(from_counts(sensitivity))(prob, label, None)


def case_mcc(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
    """Return Matthews' correlation over all classes; 0 if all calls are the same.

    Gorodkin 2004, R_K: the covariance of truth and call, summed over the classes, divided by that
    of each with itself. For two classes it equals `mcc`.
    """
    del positive
    n, n_classes = prob.shape
    called = np.bincount(prob.argmax(axis=1), minlength=n_classes)
    there = np.bincount(label, minlength=n_classes)
    if (there == n).any():
        return None
    right = int((prob.argmax(axis=1) == label).sum())
    spread = sqrt((n**2 - int(called @ called)) * (n**2 - int(there @ there)))
    return (right * n - int(called @ there)) / spread if spread else 0.0


def calibration_error(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
    """Return the expected calibration error of the called class (Guo et al. 2017, section 2).

    It is the gap between the mean confidence and the accuracy in each of 15 equal bins (low, high],
    weighted by the number of cases in it.
    """
    del positive
    if not len(label):
        return None
    confidence, right = prob.max(axis=1), prob.argmax(axis=1) == label
    inner_edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    of_bin = np.searchsorted(inner_edges, confidence)
    gap = np.bincount(of_bin, confidence - right, CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(label))


def brier(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
    """Return half the mean, over cases, of the squared error summed over the classes.

    The half makes 1 the worst value, and makes it the squared error of either of two classes.
    """
    del positive
    if not len(label):
        return None
    error = prob - np.eye(prob.shape[1])[label]
    return float((error**2).sum(axis=1).mean() / 2)


def quadratic_kappa(prob: Probabilities, label: Labels, positive: int | None) -> float | None:
    """Return Cohen's kappa of true and called grade, disagreements weighted by squared distance.

    With such weights the disagreement expected by chance is var + var + shift^2, so kappa is Lin's
    concordance of the two (Fleiss and Cohen 1973, Educational and Psychological Measurement 33).
    """
    del positive
    return concordance(prob.argmax(axis=1).astype(np.float64), label.astype(np.float64))
