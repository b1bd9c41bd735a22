"""What the papers' claims measure of a combination in each fold.

For a run and one of its data sets, a measure returns a function of two combinations: the value of
the first minus that of the second in each fold, averaged over seeds. A fold without it is left out.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from results.claims.kept import Kept
from results.verdict.combinations import Combination, Contest, Fold, fold_of, means_by_fold

ByFold = dict[Fold, float]
Values = Callable[[Combination], ByFold]
Difference = Callable[[Combination, Combination], ByFold]
Measure = Callable[[Kept, Contest], Difference]

# Share of the best inner score that counts as reached, as the papers' claims are put here.
# Assumption.
REACHED = 0.9


def _less(values: Values) -> Difference:
    """Return the difference of values; those of each combination are computed once."""
    known: dict[str, ByFold] = {}

    def of(combination: Combination) -> ByFold:
        return known.setdefault(
            combination.name, known.get(combination.name) or values(combination)
        )

    def difference(one: Combination, other: Combination) -> ByFold:
        mine, theirs = of(one), of(other)
        return {fold: mine[fold] - theirs[fold] for fold in mine if fold in theirs}

    return difference


def _by_fold(
    combination: Combination, value: Callable[[Mapping[str, Any]], float | None]
) -> ByFold:
    found = ((fold_of(row), value(row)) for row in combination.scored)
    return means_by_fold((fold, v) for fold, v in found if v is not None and math.isfinite(v))


def values_of(contest: Contest) -> Values:
    """Return the primary test score; larger is better."""
    return lambda combination: {
        fold: contest.sign * score for fold, score in combination.by_fold("test_score").items()
    }


def score(_run: Kept, contest: Contest) -> Difference:
    """Compare primary test scores."""
    return _less(values_of(contest))


def seconds(_run: Kept, _contest: Contest) -> Difference:
    """Compare seconds of training, as powers of 2."""
    return _less(lambda combination: _by_fold(combination, lambda row: _log2(row["train_sec"])))


def parameters(_run: Kept, _contest: Contest) -> Difference:
    """Compare numbers of parameters, as powers of 2."""
    return _less(
        lambda combination: _by_fold(combination, lambda row: _log2(row.get("parameters")))
    )


def overfitting(_run: Kept, contest: Contest) -> Difference:
    """Compare how much better the last weights score on training cases than on inner validation."""

    def gap(row: Mapping[str, Any]) -> float | None:
        seen, unseen = row.get("last_train_score"), row["last_val_score"]
        return None if seen is None or unseen is None else contest.sign * (seen - unseen)

    return _less(lambda combination: _by_fold(combination, gap))


def specificity(run: Kept, contest: Contest) -> Difference:
    """Compare 1 minus the share of false positives among the negative test cases."""
    return _less(_metric(run, contest, "specificity", {}))


def small_dice(run: Kept, contest: Contest) -> Difference:
    """Compare the Dice of small lesions (small references) in the test cases."""
    return _less(_metric(run, contest, "dice", {"stratum": "small"}))


def degraded(run: Kept, contest: Contest) -> Difference:
    """Compare the primary test score on degraded test images, mean over the degradations."""
    return _less(degraded_values(run, contest))


def degraded_values(run: Kept, contest: Contest) -> Values:
    """Return the primary score on degraded test images, mean over them; larger is better."""

    def values(combination: Combination) -> ByFold:
        rows = _test_rows(run, combination)
        found = [
            (fold, contest.sign * row["value"])
            for fold, row in rows
            if row["metric"] == contest.metric and row["headline"] and row["degradation"]
        ]
        return means_by_fold(found)

    return values


def rarest_f1(run: Kept, contest: Contest) -> Difference:
    """Compare F1, which equals Dice, of the rarest class (for masks: of the rarest region)."""
    if regions := _data(run, contest).get("regions"):
        counts = {c["name"]: c["number"] for c in run.footer["data"][contest.dataset]["classes"]}
        names = list(counts)
        rarest = min(regions, key=lambda r: sum(counts[names[label]] for label in r["labels"]))
        return _less(_metric(run, contest, "dice", {"region": rarest["name"]}))

    def f1(true: np.ndarray, called: np.ndarray) -> float:
        wrong = (true & ~called).sum() + (~true & called).sum()
        right = 2 * (true & called).sum()
        return float(right / (right + wrong)) if right + wrong else math.nan

    return _less(_of_rarest_class(run, contest, f1))


def rarest_sensitivity(run: Kept, contest: Contest) -> Difference:
    """Compare the share of test cases of the rarest class that are called so."""
    if _data(run, contest).get("regions"):
        return lambda _one, _other: {}

    def sensitivity(true: np.ndarray, called: np.ndarray) -> float:
        return float(called[true].mean()) if true.any() else math.nan

    return _less(_of_rarest_class(run, contest, sensitivity))


def lowest_loss(run: Kept, _contest: Contest) -> Difference:
    """Compare the lowest training loss of an epoch, as powers of 10."""
    return _less(lambda combination: lowest_loss_values(run, combination))


def lowest_loss_values(run: Kept, combination: Combination) -> ByFold:
    """Return the lowest training loss of an epoch, as a power of 10."""

    def lowest(rows: Sequence[Mapping[str, Any]]) -> float | None:
        losses = [row["train_loss"] for row in rows if _finite(row["train_loss"])]
        return math.log10(min(losses)) if losses and min(losses) > 0 else None

    return _of_epochs(run, combination, lowest)


def step_decay(run: Kept, _contest: Contest) -> Difference:
    """Compare the length of steps in the last epoch over that in the first, as powers of 10."""

    def decay(rows: Sequence[Mapping[str, Any]]) -> float | None:
        lengths = [row["step_norm"] for row in rows if row.get("step_norm")]
        return math.log10(lengths[-1] / lengths[0]) if len(lengths) > 1 else None

    return _less(lambda combination: _of_epochs(run, combination, decay))


def samples_to_score(run: Kept, contest: Contest) -> Difference:
    """Compare the sample-gradients until the inner score is REACHED, as powers of 2.

    The score to reach is REACHED times the best inner score of any combination at that fold and
    seed. A trial that never gets there counts as reaching it with the last sample that any used,
    which is a lower bound. Unknown if a smaller score is better.
    """
    if contest.sign < 0:
        return lambda _one, _other: {}
    cells: dict[tuple[Fold, Any], list[Mapping[str, Any]]] = {
        (fold_of(r), r["seed"]): [] for c in contest.combinations for r in c.scored
    }
    courses: dict[str, Sequence[Mapping[str, Any]]] = {}
    for combination in contest.combinations:
        epochs = _epochs(run, combination)
        for row in combination.scored:
            courses[row["trial_id"]] = epochs.get(row["trial_id"], [])
            cells[fold_of(row), row["seed"]] += courses[row["trial_id"]]
    wanted = {
        cell: REACHED * max((r["val_score"] for r in rows if r["val_score"] is not None), default=0)
        for cell, rows in cells.items()
    }
    most = {
        cell: max((r["sample_gradients"] for r in rows), default=0) for cell, rows in cells.items()
    }

    def samples(row: Mapping[str, Any]) -> float | None:
        cell = fold_of(row), row["seed"]
        reached = (
            epoch["sample_gradients"]
            for epoch in courses[row["trial_id"]]
            if epoch["val_score"] is not None and epoch["val_score"] >= wanted[cell]
        )
        return _log2(next(reached, most[cell]))

    return _less(lambda combination: _by_fold(combination, samples))


def swing(run: Kept, contest: Contest) -> Difference:
    """Compare how the loss swings from step to step at equal loss, as powers of 2.

    For each trial: the standard deviation of the differences between the losses of successive
    steps, by epoch, against that epoch's mean loss, from the first epoch whose inner score is
    REACHED times the trial's best. For two trials of one fold and seed: the mean difference of the
    logarithms over the losses that both passed through, linear between epochs. Unknown if they have
    no loss in common.
    """

    def difference(one: Combination, other: Combination) -> ByFold:
        ours, theirs = _swings(run, contest, one), _swings(run, contest, other)
        found = [
            (cell[0], gap)
            for cell in ours
            if cell in theirs and (gap := _gap(ours[cell], theirs[cell])) is not None
        ]
        return means_by_fold(found)

    return difference


Curve = tuple[np.ndarray, np.ndarray]


def _swings(run: Kept, contest: Contest, combination: Combination) -> dict[tuple[Fold, Any], Curve]:
    """Return (fold, seed) -> (n,) increasing losses, and log2 of the swing at each."""
    curves = {}
    epochs = _epochs(run, combination)
    for trial in combination.scored:
        rows = epochs.get(trial["trial_id"], [])
        scores = [contest.sign * r["val_score"] for r in rows if r["val_score"] is not None]
        if not scores:
            continue
        wanted = max(scores) - (1 - REACHED) * abs(max(scores))
        begun = next(
            i
            for i, r in enumerate(rows)
            if r["val_score"] is not None and contest.sign * r["val_score"] >= wanted
        )
        points = sorted(
            (r["train_loss"], math.log2(r["step_loss_sd_diff"]))
            for r in rows[begun:]
            if _finite(r["train_loss"]) and r.get("step_loss_sd_diff")
        )
        if points:
            losses, swings = np.array(points).T
            curves[fold_of(trial), trial["seed"]] = losses, swings
    return curves


def _gap(one: Curve, other: Curve) -> float | None:
    """Return the mean of one minus the other over their common range; None without one."""
    low = max(one[0][0], other[0][0])
    high = min(one[0][-1], other[0][-1])
    if low > high:
        return None
    grid = np.linspace(low, high, 33)
    return float(np.mean(np.interp(grid, *one) - np.interp(grid, *other)))


# ---- rows of a run ---------------------------------------------------------------------------


def _data(run: Kept, contest: Contest) -> Mapping[str, Any]:
    found: Mapping[str, Any] = run.footer.get("data", {}).get(contest.dataset, {})
    return found


def _epochs(run: Kept, combination: Combination) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return trial id -> its rows of `epochs`, in order."""
    return run.epochs({r["trial_id"] for r in combination.scored})


def _of_epochs(
    run: Kept,
    combination: Combination,
    value: Callable[[Sequence[Mapping[str, Any]]], float | None],
) -> ByFold:
    epochs = _epochs(run, combination)
    return _by_fold(combination, lambda row: value(epochs.get(row["trial_id"], [])))


def _test_rows(run: Kept, combination: Combination) -> Iterable[tuple[Fold, Mapping[str, Any]]]:
    trials = {row["trial_id"]: fold_of(row) for row in combination.scored}
    for row in run.metrics(trials):
        if row["split"] == "test" and row["value"] is not None:
            yield trials[row["trial_id"]], row


def _metric(run: Kept, contest: Contest, name: str, where: Mapping[str, str]) -> Values:
    """Return the headline value of a test metric, or the one with the columns that `where` sets."""

    def values(combination: Combination) -> ByFold:
        rows = [(f, r) for f, r in _test_rows(run, combination) if r["metric"] == name]
        heads = [r for _, r in rows if r["headline"] and not r["degradation"]]
        if not heads:
            return {}
        columns = ("unit", "region", "convention", "stratum")
        asked = {c: where.get(c, heads[0][c] or "") for c in columns}
        return means_by_fold(
            (fold, row["value"])
            for fold, row in rows
            if not row["degradation"] and all((row[c] or "") == v for c, v in asked.items())
        )

    del contest
    return values


# The columns that show the class of a case, and the predicted one.
_CALLED = ("trial_id", "case_id", "region", "label", "prob")


def _of_rarest_class(
    run: Kept, contest: Contest, value: Callable[[np.ndarray, np.ndarray], float]
) -> Values:
    """Return `value` of two (cases,) bools: which are of the rarest class, which are called so."""
    classes = _data(run, contest).get("classes", ())
    rarest = min(classes, key=lambda c: c["number"])["name"] if classes else None

    def values(combination: Combination) -> ByFold:
        trials = {r["trial_id"] for r in combination.scored}
        rows = run.cases(trials, _CALLED).to_pydict()
        # Trial -> case -> whether it is of the class; the class it is called, and with what prob.
        true: dict[str, dict[str, bool]] = {}
        called: dict[str, dict[str, tuple[float, str]]] = {}
        for trial, case, region, label, prob in zip(*rows.values(), strict=True):
            is_one = true.setdefault(trial, {})
            is_one[case] = is_one.get(case, False) or bool(label and region == rarest)
            best = called.setdefault(trial, {})
            if case not in best or prob > best[case][0]:
                best[case] = prob, region

        def of(row: Mapping[str, Any]) -> float | None:
            trial = row["trial_id"]
            if trial not in true or rarest is None:
                return None
            calls = [region == rarest for _, region in called[trial].values()]
            return value(np.array(list(true[trial].values())), np.array(calls))

        return _by_fold(combination, of)

    return values


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _log2(value: float | None) -> float | None:
    return math.log2(value) if value else None
