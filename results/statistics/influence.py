"""The empirical influence of each case on a score, metric by metric.

The score of a test fold is a function of its cases. To first order each case moves it
independently, so the variance due to the sampling of cases, and the covariance of two models'
scores on the same cases, are sums over cases of products of influences. For the area under the ROC
curve this is DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44; for means and functions of
counts it is the delta method (infinitesimal jackknife).

A rule splits a score into parts, each with the cases that have a value in it: the regions of a mean
over regions, the positives and the negatives of an AUC. Influences are centred and then summed
within a patient, since cases of one patient are not independent samples (Obuchowski 1997,
Biometrics 53). A part with G patients is scaled by sqrt(G / (G - 1)), so that the sum of squares
has no small-sample bias.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The n cases of one test fold as scored by one trained model.

    - `columns`: name -> (n, r), a value for each case and each of r classes or regions, nan if
      there is none; named like the columns of the table `cases`.
    - `patients`: (n,) the number of each case's patient.
    - `positive`: the class whose detection is scored; None for the mean over all classes, each
      against the rest, and for regions.
    - `apart`: each column is a separate question with two answers, such as one of several findings;
      a score is the mean over the columns in which it has a value.
    """

    columns: Mapping[str, Array]
    patients: NDArray[np.int64]
    positive: int | None = None
    apart: bool = False

    def known(self, name: str) -> bool:
        """Return whether a column has any value."""
        return name in self.columns and bool(np.isfinite(self.columns[name]).any())

    def column(self, name: str) -> Array:
        """Return a column, all nan if there is none."""
        some = next(iter(self.columns.values()), np.empty((len(self.patients), 1)))
        return self.columns.get(name, np.full_like(some, np.nan))

    def scored(self, values: Array) -> Array:
        """Return the columns of (n, r) values that the metric uses: all, or that of `positive`."""
        return values if self.positive is None else values[:, [self.positive]]


@dataclass(frozen=True, kw_only=True)
class Influence:
    """A score, and the parts of its error: each (n,), nan for a case that has no value in it.

    The entries of a part sum to 0 over cases; the influence of a case is its sum over the parts.
    `grain` is the smallest step of the score if that is not the weight of a case: for an AUC,
    1 / (positives x negatives).
    """

    score: float
    parts: Sequence[Array]
    grain: float = 0.0


Rule: TypeAlias = Callable[[Cases], Influence | None]


def by_patient(found: Influence, patients: NDArray[np.int64], n_patients: int) -> Array | None:
    """Return (n_patients,) influences, 0 for patients without a case; None if a part is too small.

    `patients` (n,) is the number of each case's patient, 0 to n_patients - 1. A part with a single
    patient shows nothing about how patients differ.
    """
    total = np.zeros(n_patients)
    for part in found.parts:
        there = np.isfinite(part)
        number = len(np.unique(patients[there]))
        if number < 2:
            return None
        summed = np.bincount(patients[there], part[there], n_patients)
        total += summed * np.sqrt(number / (number - 1))
    return total


# ---------------------------------------------------------------- means over cases


def _mean(values: Array) -> Influence | None:
    """Return the mean over cases, then over those of the r columns that have any value."""
    found = [column for column in values.T if np.isfinite(column).any()]
    if not found:
        return None
    means = [float(np.nanmean(column)) for column in found]
    return Influence(
        score=float(np.mean(means)),
        parts=[
            (column - mean) / (np.isfinite(column).sum() * len(found))
            for column, mean in zip(found, means, strict=True)
        ],
    )


def _mean_of(value: Callable[[Cases], Array]) -> Rule:
    return lambda cases: _mean(value(cases))


def _overlap(cases: Cases) -> Array:
    # A case without a voxel in either mask has no value, as in the headline metric.
    return cases.column("dice")


def _jaccard(cases: Cases) -> Array:
    dice = _overlap(cases)
    found: Array = dice / (2 - dice)
    return found


def _measured(name: str) -> Callable[[Cases], Array]:
    """Return the values of a column for the cases in which either mask has a voxel."""

    def value(cases: Cases) -> Array:
        nothing = (cases.column("n_ref") == 0) & (cases.column("n_pred") == 0)
        return np.where(nothing, np.nan, cases.column(name))

    return value


def _false_alarm(cases: Cases) -> Array:
    alarm = (cases.column("n_pred") > 0).astype(float)
    return np.where(cases.column("n_ref") == 0, alarm, np.nan)


def _squared_error(cases: Cases) -> Array:
    error = cases.column("prob") - cases.column("label")
    found: Array = error**2 if cases.apart else (error**2).sum(axis=1, keepdims=True) / 2
    return found


def _calls(cases: Cases) -> tuple[Array, Array]:
    """Return whether each of r classes is the true one, and the predicted one: (n, r) of 0 and 1.

    With `apart`, both are nan where the truth is not known.
    """
    prob = cases.column("prob")
    if cases.apart:
        truth = cases.column("label")
        return truth, np.where(np.isfinite(truth), (prob > 0.5).astype(float), np.nan)
    called = np.zeros_like(prob)
    called[np.arange(len(prob)), prob.argmax(axis=1)] = 1
    return (cases.column("label") == 1).astype(float), called


def _right(cases: Cases) -> Array:
    truth, called = _calls(cases)
    if cases.apart:
        return np.where(np.isfinite(truth), (truth == called).astype(float), np.nan)
    found: Array = (truth * called).sum(axis=1, keepdims=True)
    return found


# ---------------------------------------------------------------- ranks


def _auc(cases: Cases) -> Influence | None:
    """Return the area under the ROC curve, the mean over classes or regions that have both kinds.

    The structural components of DeLong et al. (1988), from midranks (Sun and Xu 2014, IEEE Signal
    Processing Letters 21): for a positive, the share of negatives below it, ties counting half; for
    a negative, the share of positives above it.
    """
    by = "log_odds" if cases.known("log_odds") else "prob"
    score, label = cases.scored(cases.column(by)), cases.scored(cases.column("label"))
    areas: list[float] = []
    parts: list[Array] = []
    pairs: list[int] = []
    for z, y in zip(score.T, label.T, strict=True):
        positive, negative = y == 1, y == 0
        p, q = int(positive.sum()), int(negative.sum())
        if not p or not q:
            continue
        rank = np.full(len(z), np.nan)
        rank[positive | negative] = stats.rankdata(z[positive | negative])
        above = (rank[positive] - stats.rankdata(z[positive])) / q
        below = 1 - (rank[negative] - stats.rankdata(z[negative])) / p
        areas.append(float(above.mean()))
        pairs.append(p * q)
        for kind, component, number in ((positive, above, p), (negative, below, q)):
            part = np.full(len(z), np.nan)
            part[kind] = (component - areas[-1]) / number
            parts.append(part)
    if not areas:
        return None
    return Influence(
        score=float(np.mean(areas)),
        parts=[part / len(areas) for part in parts],
        grain=1 / (len(areas) * max(pairs)),
    )


# ---------------------------------------------------------------- numbers


def _numbers(cases: Cases) -> tuple[Array, Array]:
    """Return the (n,) predicted and the (n,) true numbers."""
    return cases.column("predicted")[:, 0], cases.column("truth")[:, 0]


def _absolute_error(cases: Cases) -> Array:
    found: Array = np.abs(cases.column("predicted") - cases.column("truth"))
    return found


def _root_mean_square(cases: Cases) -> Influence | None:
    x, y = _numbers(cases)
    square = (x - y) ** 2
    score = float(np.sqrt(square.mean()))
    if not score > 0:
        return None
    return Influence(score=score, parts=[(square - score**2) / (2 * score * len(x))])


def _determination(cases: Cases) -> Influence | None:
    """Return R2 = 1 - errors / spread; a case moves both sums; its effect through the mean is 0."""
    x, y = _numbers(cases)
    square, spread = (x - y) ** 2, (y - y.mean()) ** 2
    if not spread.sum() > 0:
        return None
    score = float(1 - square.sum() / spread.sum())
    return Influence(score=score, parts=[((1 - score) * spread - square) / spread.sum()])


def _pearson(cases: Cases) -> Influence | None:
    """Return Pearson's correlation: zx zy - r (zx^2 + zy^2) / 2 of each case over n (Devlin 1975).

    None if it is 0 by convention, since all predictions are equal.
    """
    x, y = _numbers(cases)
    if not (x.std() > 0 and y.std() > 0):
        return None
    zx, zy = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    score = float((zx * zy).mean())
    return Influence(score=score, parts=[(zx * zy - score / 2 * (zx**2 + zy**2)) / len(x)])


def _quadratic_kappa(cases: Cases) -> Influence | None:
    """Return Cohen's kappa with quadratic weights: Lin's concordance of true and predicted grade.

    The columns are the grades in ascending order.
    """
    truth, called = _calls(cases)
    return _lin(called.argmax(axis=1).astype(float), truth.argmax(axis=1).astype(float))


def _concordance(cases: Cases) -> Influence | None:
    return _lin(*_numbers(cases))


def _lin(x: Array, y: Array) -> Influence | None:
    """Return Lin's concordance, 2 cov / (var + var + shift^2), by the quotient rule."""
    if not y.std() > 0:
        return None
    dx, dy, shift = x - x.mean(), y - y.mean(), x.mean() - y.mean()
    covariance = (dx * dy).mean()
    whole = x.var() + y.var() + shift**2
    score = float(2 * covariance / whole)
    top = 2 * (dx * dy - covariance)
    bottom = dx**2 - x.var() + dy**2 - y.var() + 2 * shift * (dx - dy)
    return Influence(score=score, parts=[(top - score * bottom) / (whole * len(x))])


# ---------------------------------------------------------------- functions of counts


def _counts(cases: Cases) -> Array:
    """Return (4, n, r) tp, fp, fn and tn: the voxels of a mask, or the calls of each class."""
    if cases.known("tp"):
        return np.stack([cases.column(name) for name in ("tp", "fp", "fn", "tn")])
    truth, called = (cases.scored(found) for found in _calls(cases))
    return np.stack(
        [truth * called, (1 - truth) * called, truth * (1 - called), (1 - truth) * (1 - called)]
    )


def _ratio(top: Sequence[int], bottom: Sequence[int]) -> Rule:
    """Return the rule of (top . counts) / (bottom . counts), the counts of all cases together.

    `top` and `bottom` are weights of tp, fp, fn and tn. The influence of a case is the gradient of
    the ratio, which no common factor of the counts changes, times the case's own counts.
    """

    def rule(cases: Cases) -> Influence | None:
        # Unknown counts of a case count as 0.
        counts = np.nan_to_num(_counts(cases))
        above, below = (np.tensordot(weights, counts, axes=1) for weights in (top, bottom))
        whole = below.sum(axis=0)
        defined = whole > 0
        if not defined.any():
            return None
        above, below, whole = above[:, defined], below[:, defined], whole[defined]
        ratio = above.sum(axis=0) / whole
        part = np.where(below > 0, (above - ratio * below) / (whole * len(whole)), np.nan)
        return Influence(score=float(ratio.mean()), parts=list(part.T))

    return rule


_SENSITIVITY = _ratio((1, 0, 0, 0), (1, 0, 1, 0))
_SPECIFICITY = _ratio((0, 0, 0, 1), (0, 1, 0, 1))


def _mean_sensitivity(cases: Cases) -> Influence | None:
    """Return the mean sensitivity over the classes; with `apart`, over both answers of each column.

    In the latter case only the columns in which both answers occur count.
    """
    if not cases.apart:
        return _SENSITIVITY(replace(cases, positive=None))
    label = cases.column("label")
    both = (label == 1).any(axis=0) & (label == 0).any(axis=0)
    own = replace(cases, columns={name: value[:, both] for name, value in cases.columns.items()})
    found = [rule(own) for rule in (_SENSITIVITY, _SPECIFICITY)] if both.any() else []
    known = [each for each in found if each is not None]
    if len(known) < 2:
        return None
    return Influence(
        score=float(np.mean([each.score for each in known])),
        parts=[part / 2 for each in known for part in each.parts],
    )


def _precision(cases: Cases) -> Influence | None:
    # If nothing is called, precision is 0 by convention, not by counts: no case influences it.
    tp, fp, fn, _ = np.nan_to_num(_counts(cases)).sum(axis=1)
    if ((tp + fp == 0) & (fn > 0)).any():
        return None
    return _ratio((1, 0, 0, 0), (1, 1, 0, 0))(cases)


def _share_right(cases: Cases) -> Influence | None:
    if cases.known("tp"):
        return _ratio((1, 0, 0, 1), (1, 1, 1, 1))(cases)
    return _mean(_right(cases))


def _correlation(cases: Cases) -> Influence | None:
    """Return Matthews' correlation; for regions, the mean over those in which it has a value."""
    if not cases.known("tp") and not cases.apart:
        truth, called = _calls(cases)
        found = [_matthews(truth[:, :, None] * called[:, None, :])]
    else:
        tp, fp, fn, tn = np.nan_to_num(_counts(cases))
        tables = np.stack([np.stack([tp, fn], -1), np.stack([fp, tn], -1)], -2)  # (n, r, 2, 2)
        has_both = [t for t in np.moveaxis(tables, 1, 0) if (t.sum(axis=(0, 2)) > 0).all()]
        found = [_matthews(table) for table in has_both]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found):
        return None
    return Influence(
        score=float(np.mean([each.score for each in known])),
        parts=[part / len(known) for each in known for part in each.parts],
    )


def _matthews(table: Array) -> Influence | None:
    """Return R_K (Gorodkin 2004) of (n, K, K) counts, truth by call; None without spread.

    With the shares p of the calls and q of the truth, R_K = (right - p.q) / sqrt((1 - p.p)
    (1 - q.q)); its derivative with respect to the count of each cell is by the quotient rule.
    """
    whole = table.sum()
    share = table.sum(axis=0) / whole
    q, p = share.sum(axis=1), share.sum(axis=0)
    covariance = np.trace(share) - p @ q
    of_calls, of_truth = 1 - p @ p, 1 - q @ q
    if of_calls <= 0 or of_truth <= 0:
        return None
    spread = np.sqrt(of_calls * of_truth)
    score = covariance / spread
    # The change by one more count with truth t (rows) and call c (columns).
    moved = np.eye(len(q)) - np.trace(share) - (p[:, None] + q[None, :] - 2 * p @ q)
    by_calls, by_truth = -2 * (p - p @ p), -2 * (q - q @ q)
    slope = moved / spread - score / 2 * (
        by_calls[None, :] / of_calls + by_truth[:, None] / of_truth
    )
    return Influence(score=float(score), parts=[(table * slope).sum(axis=(1, 2)) / whole])


#: The name of a rule in a metric's row -> the rule. A metric without one (a point of a curve, an
#: error in bins, an average over recall) has no smooth influence function; its error is estimated
#: from the scatter of folds alone.
RULES: dict[str, Rule] = {
    "delong": _auc,
    "share right": _share_right,
    "mean sensitivity": _mean_sensitivity,
    "sensitivity": _SENSITIVITY,
    "specificity": _SPECIFICITY,
    "precision": _precision,
    "f1": _ratio((2, 0, 0, 0), (2, 1, 1, 0)),
    "correlation": _correlation,
    "squared error": _mean_of(_squared_error),
    "absolute error": _mean_of(_absolute_error),
    "root mean square": _root_mean_square,
    "determination": _determination,
    "pearson": _pearson,
    "concordance": _concordance,
    "quadratic kappa": _quadratic_kappa,
    "dice": _mean_of(_overlap),
    "iou": _mean_of(_jaccard),
    "hd95": _mean_of(_measured("hd95_mm")),
    "nsd": _mean_of(_measured("nsd_2mm")),
    "assd": _mean_of(_measured("assd_mm")),
    "false alarm": _mean_of(_false_alarm),
}
