"""The influence of a case, against DeLong pair by pair, scikit-learn's weights, and by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from bench.metrics.table import METRICS
from results.statistics.influence import RULES, Cases, by_patient

N_RANDOM = 100


def one_hot(label, n_classes):
    return np.eye(n_classes)[label]


def classified(rng, n_classes=2, n=40, *, ties=False):
    """Return prob (n, C), label (n,): each class is there twice at least."""
    label = np.concatenate([np.repeat(np.arange(n_classes), 2), rng.integers(n_classes, size=n)])
    logits = rng.normal(size=(len(label), n_classes)) + one_hot(label, n_classes)
    if ties:
        logits = np.round(logits)
    prob = np.exp(logits)
    return prob / prob.sum(axis=1, keepdims=True), label


def cases_of(prob, label, positive, patients=None):
    return Cases(
        columns={
            "prob": prob,
            "label": one_hot(label, prob.shape[1]),
            "log_odds": np.log(prob / (1 - prob)),
        },
        patients=np.arange(len(label)) if patients is None else patients,
        positive=positive,
    )


def influences(found):
    """Return (n,) influence of each case, the parts together."""
    return np.nansum(found.parts, axis=0)


def slope(score, n):
    """Return (n,) derivatives of score(weights) at weights of one, by central differences."""
    step = 1e-4
    moved = [step * np.eye(n)[i] for i in range(n)]
    return np.array([(score(1 + w) - score(1 - w)) / (2 * step) for w in moved])


# ---- against scikit-learn: how its scores move with a case's weight -----------------------------

WEIGHTED = {
    "share right": lambda y, p, w: metrics.accuracy_score(y, p.argmax(1), sample_weight=w),
    "mean sensitivity": lambda y, p, w: metrics.balanced_accuracy_score(
        y, p.argmax(1), sample_weight=w
    ),
    "sensitivity": lambda y, p, w: metrics.recall_score(y, p.argmax(1), sample_weight=w),
    "specificity": lambda y, p, w: metrics.recall_score(
        y, p.argmax(1), sample_weight=w, pos_label=0
    ),
    "precision": lambda y, p, w: metrics.precision_score(y, p.argmax(1), sample_weight=w),
    "f1": lambda y, p, w: metrics.f1_score(y, p.argmax(1), sample_weight=w),
    "correlation": lambda y, p, w: metrics.matthews_corrcoef(y, p.argmax(1), sample_weight=w),
    "squared error": lambda y, p, w: metrics.brier_score_loss(y, p[:, 1], sample_weight=w),
    "delong": lambda y, p, w: metrics.roc_auc_score(y, p[:, 1], sample_weight=w),
}


@pytest.mark.parametrize("studies", [12, pytest.param(N_RANDOM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", WEIGHTED)
def test_a_case_moves_a_score_as_its_weight_moves_that_of_scikit_learn(rule, studies):
    rng = np.random.default_rng(0)
    for _ in range(studies):
        prob, label = classified(rng, n=int(rng.integers(6, 12)))
        found = RULES[rule](cases_of(prob, label, 1))
        score = lambda w, prob=prob, label=label: WEIGHTED[rule](label, prob, w)  # noqa: E731  # short
        assert found.score == pytest.approx(score(np.ones(len(label))), abs=1e-12)
        np.testing.assert_allclose(influences(found), slope(score, len(label)), atol=1e-6)


SEVERAL = {
    "mean sensitivity": WEIGHTED["mean sensitivity"],
    "correlation": WEIGHTED["correlation"],
    "share right": WEIGHTED["share right"],
    "f1": lambda y, p, w: metrics.f1_score(y, p.argmax(1), sample_weight=w, average="macro"),
    "squared error": lambda y, p, w: (w * ((p - one_hot(y, 4)) ** 2).sum(1)).sum() / w.sum() / 2,
    "delong": lambda y, p, w: np.mean(
        [metrics.roc_auc_score(y == c, p[:, c], sample_weight=w) for c in range(4)]
    ),
}


@pytest.mark.parametrize("studies", [10, pytest.param(N_RANDOM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", SEVERAL)
def test_several_classes_are_scored_one_against_the_rest(rule, studies):
    rng = np.random.default_rng(1)
    for _ in range(studies):
        prob, label = classified(rng, n_classes=4, n=8)
        found = RULES[rule](cases_of(prob, label, None))
        score = lambda w, prob=prob, label=label: SEVERAL[rule](label, prob, w)  # noqa: E731  # short
        assert found.score == pytest.approx(score(np.ones(len(label))), abs=1e-12)
        np.testing.assert_allclose(influences(found), slope(score, len(label)), atol=1e-6)


# ---- DeLong, from the paper ---------------------------------------------------------------------


def delong_covariance(first, second, label):
    """Return the covariance of two AUCs as DeLong et al. 1988 write it: all pairs, (4) to (7)."""

    def kernel(x, y):
        return 1.0 if y < x else 0.5 if y == x else 0.0

    def components(z):
        x, y = z[label == 1], z[label == 0]
        v10 = [np.mean([kernel(xi, yj) for yj in y]) for xi in x]
        v01 = [np.mean([kernel(xi, yj) for xi in x]) for yj in y]
        return v10, v01

    (a10, a01), (b10, b01) = components(first), components(second)
    s10, s01 = np.cov(a10, b10)[0, 1], np.cov(a01, b01)[0, 1]
    return s10 / len(a10) + s01 / len(a01)


@pytest.mark.parametrize("ties", [False, True])
def test_products_of_influences_are_the_covariance_of_delong(ties):
    rng = np.random.default_rng(2)
    for _ in range(N_RANDOM):
        prob, label = classified(rng, n=30, ties=ties)
        other = prob + rng.dirichlet([1, 1], len(label))
        models = [prob, other / other.sum(axis=1, keepdims=True)]
        n = len(label)
        phi = [by_patient(RULES["delong"](cases_of(p, label, 1)), np.arange(n), n) for p in models]
        z = [cases_of(p, label, 1).columns["log_odds"][:, 1] for p in models]
        for a, b in ((0, 0), (0, 1), (1, 1)):
            expected = delong_covariance(z[a], z[b], label)
            assert phi[a] @ phi[b] == pytest.approx(expected, abs=1e-6 * abs(expected) + 1e-12)


# ---- segmentation -------------------------------------------------------------------------------


def segmented(rng, n=7, regions=2):
    """Return columns (n, regions) of counts and distances; some cases are empty on both sides."""
    tp, fp, fn = (rng.integers(0, 30, (n, regions)) * 1.0 for _ in range(3))
    empty = rng.random((n, regions)) < 0.3
    tp[empty] = fp[empty] = fn[empty] = 0
    whole = 2 * tp + fp + fn
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": 200 - tp - fp - fn,
        "n_ref": tp + fn,
        "n_pred": tp + fp,
        "dice": np.divide(2 * tp, whole, out=np.full_like(tp, np.nan), where=whole > 0),
        "hd95_mm": rng.random((n, regions)) * 20,
        "nsd_2mm": rng.random((n, regions)),
        "assd_mm": rng.random((n, regions)) * 5,
    }


def region_means(columns, w, value):
    """Return the mean over regions of the weighted mean over the cases that have a value."""
    n, regions = columns["tp"].shape
    means = []
    for g in range(regions):
        found = [(w[i], value({k: v[i, g] for k, v in columns.items()})) for i in range(n)]
        found = [(weight, v) for weight, v in found if v is not None]
        if found:
            means.append(sum(a * v for a, v in found) / sum(a for a, _ in found))
    return np.mean(means)


def not_empty(case, value):
    return value if case["n_ref"] or case["n_pred"] else None


OF_CASES = {
    "dice": lambda c: not_empty(c, 2 * c["tp"] / max(2 * c["tp"] + c["fp"] + c["fn"], 1)),
    "iou": lambda c: not_empty(c, c["tp"] / max(c["tp"] + c["fp"] + c["fn"], 1)),
    "hd95": lambda c: not_empty(c, c["hd95_mm"]),
    "nsd": lambda c: not_empty(c, c["nsd_2mm"]),
    "assd": lambda c: not_empty(c, c["assd_mm"]),
    "false alarm": lambda c: None if c["n_ref"] else float(c["n_pred"] > 0),
}


@pytest.mark.parametrize("rule", OF_CASES)
def test_means_over_cases_then_regions(rule):
    rng = np.random.default_rng(3)
    for _ in range(N_RANDOM):
        columns = segmented(rng)
        n = len(columns["tp"])
        found = RULES[rule](Cases(columns=columns, patients=np.arange(n)))
        score = lambda w, columns=columns: region_means(columns, w, OF_CASES[rule])  # noqa: E731  # short
        assert found.score == pytest.approx(score(np.ones(n)), abs=1e-12)
        np.testing.assert_allclose(influences(found), slope(score, n), atol=1e-6)


OF_VOXELS = {
    "share right": lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn),
    "sensitivity": lambda tp, fp, fn, tn: tp / (tp + fn),
    "specificity": lambda tp, fp, fn, tn: tn / (tn + fp),
    "precision": lambda tp, fp, fn, tn: tp / (tp + fp),
    "f1": lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn),
    "correlation": lambda tp, fp, fn, tn: (
        (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    ),
}


@pytest.mark.parametrize("rule", OF_VOXELS)
def test_voxels_of_all_cases_together_move_with_a_case(rule):
    rng = np.random.default_rng(4)
    for _ in range(N_RANDOM):
        columns = segmented(rng)
        n = len(columns["tp"])

        def score(w, columns=columns):
            totals = [w @ columns[name] for name in ("tp", "fp", "fn", "tn")]
            return np.mean([OF_VOXELS[rule](*counts) for counts in zip(*totals, strict=True)])

        found = RULES[rule](Cases(columns=columns, patients=np.arange(n)))
        assert found.score == pytest.approx(score(np.ones(n)), abs=1e-12)
        np.testing.assert_allclose(influences(found), slope(score, n), atol=1e-6)


def test_the_auc_of_images_is_the_mean_over_regions_that_have_both_kinds():
    rng = np.random.default_rng(5)
    label = (rng.random((20, 3)) < 0.5).astype(float)
    label[:, 1] = 1
    odds = rng.normal(size=(20, 3))
    found = RULES["delong"](
        Cases(columns={"label": label, "log_odds": odds}, patients=np.arange(20))
    )
    expected = np.mean([metrics.roc_auc_score(label[:, g], odds[:, g]) for g in (0, 2)])
    assert found.score == pytest.approx(expected)


# ---- patients -----------------------------------------------------------------------------------


def test_cases_of_a_patient_are_summed_and_a_part_knows_its_patients():
    """Mean of 1, 2 (patient 0), 6 (patient 1), 3 (patient 3): by hand, G = 3, mean 3."""
    columns = {"n_ref": np.zeros((5, 1)), "n_pred": np.zeros((5, 1)), "hd95_mm": np.zeros((5, 1))}
    columns["hd95_mm"][:, 0] = [1, 2, 6, 3, np.nan]
    columns["n_ref"][:] = 1
    patients = np.array([0, 0, 1, 3, 2])
    found = RULES["hd95"](Cases(columns=columns, patients=patients))
    phi = by_patient(found, patients, 5)
    expected = np.array([(1 - 3) + (2 - 3), 6 - 3, 0, 0, 0]) / 4 * np.sqrt(3 / 2)
    np.testing.assert_allclose(phi, expected, rtol=1e-12)


def test_one_case_a_patient_gives_the_standard_error_of_a_mean():
    values = np.random.default_rng(6).normal(size=(30, 1))
    columns = {"n_ref": np.ones((30, 1)), "n_pred": np.ones((30, 1)), "assd_mm": values}
    patients = np.arange(30)
    phi = by_patient(RULES["assd"](Cases(columns=columns, patients=patients)), patients, 30)
    assert phi @ phi == pytest.approx(stats.sem(values[:, 0]) ** 2)


def obuchowski(score, label, patients):
    """Return the variance of an AUC of clustered cases as Obuchowski (1997) writes it."""

    def kernel(x, y):
        return 1.0 if y < x else 0.5 if x == y else 0.0

    x, y = score[label == 1], score[label == 0]
    whose_x, whose_y = patients[label == 1], patients[label == 0]
    m, n = len(x), len(y)
    v10 = np.array([np.mean([kernel(xi, yj) for yj in y]) for xi in x])
    v01 = np.array([np.mean([kernel(xi, yj) for xi in x]) for yj in y])
    area = v10.mean()
    clusters = sorted(set(patients))
    count = len(clusters)  # each has positives and negatives
    own_x = [v10[whose_x == c].sum() - (whose_x == c).sum() * area for c in clusters]
    own_y = [v01[whose_y == c].sum() - (whose_y == c).sum() * area for c in clusters]
    s10 = count / ((count - 1) * m) * sum(v**2 for v in own_x)
    s01 = count / ((count - 1) * n) * sum(v**2 for v in own_y)
    s11 = count / (count - 1) * sum(a * b for a, b in zip(own_x, own_y, strict=True))
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def test_the_auc_of_clustered_cases_varies_as_obuchowski_has_it():
    rng = np.random.default_rng(12)
    for _ in range(N_RANDOM):
        n_patients = int(rng.integers(3, 9))
        patients = np.concatenate(
            [np.arange(n_patients).repeat(2), rng.integers(0, n_patients, int(rng.integers(0, 20)))]
        )
        label = rng.integers(0, 2, patients.size)
        label[: 2 * n_patients] = np.tile([0, 1], n_patients)
        z = np.round(rng.normal(label + rng.normal(size=n_patients)[patients], 1), 1)
        prob = 1 / (1 + np.exp(-z))
        found = RULES["delong"](cases_of(np.stack([1 - prob, prob], 1), label, 1, patients))
        phi = by_patient(found, patients, n_patients)
        assert phi @ phi == pytest.approx(obuchowski(prob, label, patients), rel=1e-6)


def test_a_part_of_one_patient_has_no_influence():
    prob, label = classified(np.random.default_rng(7), n=0)
    found = RULES["delong"](cases_of(prob, label, 1))
    assert by_patient(found, np.array([0, 1, 2, 2]), 3) is None
    assert by_patient(found, np.array([0, 1, 2, 0]), 3) is not None


def test_what_a_rule_of_zero_sets_has_no_influence():
    """Nothing is called positive: precision is 0 by a rule, the correlation too."""
    label = np.array([0, 1, 0, 1])
    cases = cases_of(np.tile([0.9, 0.1], (4, 1)), label, 1)
    assert RULES["precision"](cases) is None
    assert RULES["correlation"](cases) is None


# ---- several findings, each by itself -----------------------------------------------------------


def of_findings(rng):
    """Return probabilities and answers (n, 3), some not known, and the weighted mean's parts."""
    n = int(rng.integers(12, 20))
    prob, label = rng.random((n, 3)), (rng.random((n, 3)) < 0.5).astype(float)
    label[:4] = [[0], [1], [0], [1]]
    label[4:][rng.random((n - 4, 3)) < 0.3] = np.nan
    if rng.random() < 0.5:
        label[:, 2] = np.where(np.isfinite(label[:, 2]), 1.0, np.nan)  # all have it
    return prob, label


# Rules whose score needs both answers; of a finding that all cases have there is none.
_BOTH = {"mean sensitivity", "correlation", "delong"}
_ABSENT = {"specificity"}


@pytest.mark.parametrize("studies", [4, pytest.param(N_RANDOM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", WEIGHTED)
def test_a_case_moves_the_mean_over_findings_as_its_weight_does(rule, studies):
    """scikit-learn's score of each finding, on the cases that it is known of, and their mean."""
    rng = np.random.default_rng(1)
    for _ in range(studies):
        prob, label = of_findings(rng)
        n = len(prob)

        def score(w, prob=prob, label=label):
            found = []
            for p, y in zip(prob.T, label.T, strict=True):
                at = np.isfinite(y)
                if rule in _BOTH | _ABSENT and len(set(y[at])) < 2:
                    continue
                pair = np.stack([1 - p[at], p[at]], axis=1)
                found.append(WEIGHTED[rule](y[at].astype(int), pair, w[at]))
            return np.mean(found)

        cases = Cases(
            columns={"prob": prob, "label": label, "log_odds": np.log(prob / (1 - prob))},
            patients=np.arange(n),
            apart=True,
        )
        found = RULES[rule](cases)
        assert found.score == pytest.approx(score(np.ones(n)), abs=1e-12)
        np.testing.assert_allclose(influences(found), slope(score, n), atol=1e-6)


# ---- numbers -----------------------------------------------------------------------------------


def weighted_moments(x, y, w):
    """Return means and covariances by numpy's weights."""
    return np.average([x, y], axis=1, weights=w), np.cov(x, y, ddof=0, aweights=w)


def pearson(y, x, w):
    _, c = weighted_moments(x, y, w)
    return c[0, 1] / np.sqrt(c[0, 0] * c[1, 1])


def lin(y, x, w):
    m, c = weighted_moments(x, y, w)
    return 2 * c[0, 1] / (c[0, 0] + c[1, 1] + (m[0] - m[1]) ** 2)


OF_NUMBERS = {
    "absolute error": lambda y, x, w: metrics.mean_absolute_error(y, x, sample_weight=w),
    "root mean square": lambda y, x, w: metrics.root_mean_squared_error(y, x, sample_weight=w),
    "determination": lambda y, x, w: metrics.r2_score(y, x, sample_weight=w),
    "pearson": pearson,
    "concordance": lin,
}


@pytest.mark.parametrize("rule", OF_NUMBERS)
def test_a_case_moves_a_score_of_numbers_as_its_weight_does(rule):
    rng = np.random.default_rng(0)
    for _ in range(N_RANDOM):
        n = int(rng.integers(5, 12))
        y = rng.normal(size=n)
        x = 0.5 * y + rng.normal(size=n)
        cases = Cases(columns={"truth": y[:, None], "predicted": x[:, None]}, patients=np.arange(n))
        found = RULES[rule](cases)
        score = lambda w, x=x, y=y: OF_NUMBERS[rule](y, x, w)  # noqa: E731  # short
        assert found.score == pytest.approx(score(np.ones(n)), abs=1e-12)
        np.testing.assert_allclose(influences(found), slope(score, n), atol=1e-6)


@pytest.mark.slow
def test_a_case_moves_the_kappa_of_grades_as_its_weight_does():
    """scikit-learn's quadratic kappa by the weights of cases, and its jackknife."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        prob, label = classified(rng, n_classes=4, n=60)
        found = RULES["quadratic kappa"](cases_of(prob, label, None))

        def score(w, prob=prob, label=label):
            return metrics.cohen_kappa_score(
                label, prob.argmax(1), weights="quadratic", sample_weight=w
            )

        n = len(label)
        assert found.score == pytest.approx(score(np.ones(n)), abs=1e-12)
        np.testing.assert_allclose(influences(found), slope(score, n), atol=1e-6)
        # Leaving one out moves it by nearly as much.
        left = np.array([score(np.arange(n) != i) for i in range(n)])
        jackknife = (n - 1) / n * (left.mean() - left)
        np.testing.assert_allclose(influences(found), jackknife, atol=0.15 * np.ptp(jackknife))
        variance = (n - 1) / n * np.square(left - left.mean()).sum()
        assert np.square(influences(found)).sum() == pytest.approx(variance, rel=0.15)


def test_every_metric_names_a_rule_or_none():
    named = {row.influence for row in METRICS.values()} - {None}
    assert named == set(RULES)
    without = {row.name for row in METRICS.values() if row.influence is None}
    assert without == {
        "average_precision", "sensitivity_at_5_percent_fpr", "sensitivity_at_10_percent_fpr",
        "calibration_error", "false_positives_per_scan", "froc",
    }  # fmt: skip
