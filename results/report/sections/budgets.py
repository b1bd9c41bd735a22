"""The ranking if training had ended at a part of its budget: one that flips says little."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from results.report.sections.tuning import POINTS, tried_points
from results.run_folder import Recorded, made_of
from results.tables.axes import label
from results.tables.store import read
from results.verdict.combinations import Contest, Row, fold_of
from results.verdict.schema import OfDataset

# Parts of the budget, and their names on the page.
PARTS = {0.25: "a quarter", 0.5: "half", 1.0: "the whole"}
# The folder of a run with its study trained at twice the budget, and the name of that part.
DOUBLED, TWICE = "doubled", "twice"


def budgets(
    run: Recorded, contest: Contest, found: OfDataset, short: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the ranking by inner validation at parts of the budget; None for fewer than two.

    It goes by the best look within a part, as early stopping would choose; for a tuned run by the
    best point of each fold, as its search would choose. A combination without a look within the
    smallest part in some fold is left out.
    """
    epochs = _epochs_of(run.study, contest.dataset)
    names = [row["name"] for row in found["combinations"] if row["state"] == "judged"]
    if epochs is None or len(names) < 2:
        return None
    means = _means(contest, names, _looks(run, contest), epochs)
    means |= _means_of_twice(run.path / DOUBLED, contest, names, epochs)
    kept = [name for name in names if all(means[part][name] is not None for part in means)]
    if len(kept) < 2:
        return None
    scores = {name: [means[part][name] for part in means] for name in kept}
    ranks = {
        part: sorted(kept, key=lambda name: -contest.sign * (means[part][name] or 0.0))
        for part in means
    }
    whole = ranks[PARTS[1.0]]
    first = {part: ranked[0] for part, ranked in ranks.items()}
    return {
        "parts": list(means),
        "twice": TWICE in means,
        "lines": [
            {
                "name": short[name],
                "cells": [
                    {"rank": ranks[part].index(name) + 1, "score": scores[name][k]}
                    for k, part in enumerate(means)
                ],
            }
            for name in whole
        ],
        "flips": [
            f"at {part} {short[leader]} leads"
            for part, leader in first.items()
            if leader != whole[0]
        ],
    }


# Name of a part of the budget -> name of a combination -> its mean, None if it has none.
_Means = dict[str, dict[str, float | None]]


def _means(
    contest: Contest,
    names: Sequence[str],
    looks: "tuple[dict[str, list[Row]], Courses]",
    epochs: float,
    parts: Mapping[float, str] = PARTS,
) -> _Means:
    trials, courses = looks
    return {
        called: {
            name: _mean_of_folds(contest, trials.get(name, []), courses, part * epochs)
            for name in names
        }
        for part, called in parts.items()
    }


def _means_of_twice(folder: Path, contest: Contest, names: Sequence[str], epochs: int) -> _Means:
    """Return the means at twice the budget; {} if that was not trained."""
    if not (folder / "study.yaml").exists():
        return {}
    run = made_of(folder, lambda whole: whole)
    doubled = next((c for c in run.contests if c.dataset == contest.dataset), None)
    if doubled is None:
        return {}
    return _means(doubled, names, _looks(run, doubled), epochs, {2.0: TWICE})


def _epochs_of(study: Mapping[str, Any], dataset: str) -> int | None:
    """Return the budget of a data set in epochs, None if the study does not say."""
    entries = [e for e in study.get("data", ()) if isinstance(e, Mapping) and label(e) == dataset]
    own = entries[0].get("epochs") if entries else None
    epochs = own or study.get("epochs")
    return epochs if isinstance(epochs, int) else None


# Trial id -> (epochs spent, score) of each look at inner validation.
Courses = dict[str, list[tuple[float, float]]]


def _looks(run: Recorded, contest: Contest) -> tuple[dict[str, list[Row]], Courses]:
    """Return the trials of each combination by which a budget is judged, and their looks.

    For a tuned combination these are its points.
    """
    tried = tried_points(run, contest.dataset)
    trials = {
        c.name: [row for rows in tried[c.name].values() for row in rows]
        if c.name in tried
        else list(c.scored)
        for c in contest.judged
    }
    by_id = {row["trial_id"]: row for rows in trials.values() for row in rows}
    points = [row["trial_id"] for name in tried for rows in tried[name].values() for row in rows]
    columns = ("trial_id", "sample_gradients", "val_score")
    found = run.columns_of("epochs", by_id, columns)
    if points:
        tried_rows = read(run.path / POINTS, "epochs", columns=columns, trials=points)
        found = pa.concat_tables([found, tried_rows])
    courses: Courses = {}
    for trial_id, samples, score in zip(*found.to_pydict().values(), strict=True):
        trial = by_id.get(trial_id)
        if trial and trial["n_train_cases"] and score is not None:
            courses.setdefault(trial_id, []).append((samples / trial["n_train_cases"], score))
    return trials, courses


def _mean_of_folds(
    contest: Contest, rows: list[Row], courses: Courses, epochs: float
) -> float | None:
    """Return the mean over folds of the best look within `epochs`; None without one.

    Seeds are averaged; of several points the best is taken.
    """
    folds: dict[tuple[tuple[int, int], int], list[float]] = {}
    for row in rows:
        within = [score for spent, score in courses.get(row["trial_id"], ()) if spent <= epochs]
        if within and row["status"] == "ok":
            best = max(within, key=lambda score: contest.sign * score)
            folds.setdefault((fold_of(row), row["seed"] or 0), []).append(best)
    if {fold for fold, _ in folds} != set(contest.folds):
        return None
    best_points = [max(found, key=lambda score: contest.sign * score) for found in folds.values()]
    return float(np.mean(best_points))
