"""The figures of one data set: from a verdict and a run's tables to marks and legends."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from results import text
from results.report import plots
from results.report.looks import (
    COLOURS,
    DASHES,
    INK,
    Look,
    legend,
    looks,
    shapes,
    sign,
    stroke,
)
from results.report.protocol import asked
from results.run_folder import Recorded
from results.tables.axes import Axis, name_of
from results.verdict.combinations import Combination, Fold, fold_of

# Most learning curves in one figure: more cannot be distinguished.
_CURVES = 6

_PARTS = {
    "setup": ("set-up", "#b9c3c9"),
    "data_wait": ("wait for data", "#e08a3c"),
    "gradients": ("forward and backward", "#2f7f8f"),
    "optimizer": ("optimizer", "#7a5aa6"),
    "evaluation": ("evaluation", "#93b8a4"),
}


def _in_order(values: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return the distinct values, those of the study first, in its order."""
    return [v for v in order if v in values] + sorted(set(values) - set(order))


def heat_maps(
    study: Mapping[str, Any], axes: Sequence[Axis], found: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return one optimizer x loss map for each point of the other axes.

    Entries that are always skipped (such as a model for another task) have no map, row or column.
    """
    rows = found["combinations"]
    run = [row for row in rows if row["state"] != "skipped"]
    optimizers = _in_order([row["optimizer"] for row in run], asked(study, "optimizers"))
    losses = _in_order([row["loss"] for row in run], asked(study, "losses"))
    if len(optimizers) * len(losses) < 2:
        return []
    sign = 1 if found["direction"] == "max" else -1
    scores = [sign * row["test_score"] for row in rows if row["state"] == "judged"]
    low, high = (min(scores), max(scores)) if scores else (0.0, 0.0)
    others = [axis.column for axis in axes if axis.column not in ("optimizer", "loss")]
    maps: dict[tuple[str, ...], dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(row[column] or "" for column in others)
        maps.setdefault(key, {})[row["optimizer"], row["loss"]] = row
    return [
        {
            "title": name_of(key),
            "losses": losses,
            "lines": [
                (o, [_cell(cells.get((o, loss)), sign, low, high) for loss in losses])
                for o in optimizers
            ],
        }
        for key, cells in sorted(maps.items())
        if any(row in run for row in cells.values())
    ]


def _cell(row: Mapping[str, Any] | None, sign: int, low: float, high: float) -> dict[str, Any]:
    cell = {"text": "not in the study", "style": "", "kind": "out", "note": None, "so_far": None}
    if row is None:
        return cell
    if row["state"] != "judged":
        return cell | {"text": row["state"], "note": row["note"], "so_far": row["test_score"]}
    share = (sign * row["test_score"] - low) / (high - low) if high > low else 1.0
    return cell | {
        "text": text.score(row["test_score"]),
        "style": f"background:{plots.shade(share)}",
        "kind": "tied" if row["in_tied_group"] else "judged",
    }


def learning_curves(
    run: Recorded,
    key: str,
    found: Mapping[str, Any],
    by_name: Mapping[str, Combination],
    short: Mapping[str, str],
) -> dict[str, Any] | None:
    """Return the learning curves of the best few combinations, the recommended among them."""
    scored = [row["name"] for row in found["combinations"] if row["test_score"] is not None]
    names = scored[:_CURVES]
    if found["recommended"] and found["recommended"] not in names:
        names[-1] = found["recommended"]
    lines, entries = [], []
    for colour, dash, name in zip(COLOURS, DASHES, names, strict=False):
        course = _course(run, by_name[name])
        if course is not None:
            x, folds = course
            mean, low, high = folds.mean(axis=0), folds.min(axis=0), folds.max(axis=0)
            lines.append(plots.Curve(colour=colour, dash=dash, x=x, mean=mean, low=low, high=high))
            entries.append({"sign": _ours(stroke(colour, dash)), "name": short[name]})
    if not lines:
        return None
    metric = text.metric_in(found["metric"], found["unit"])
    drawn = plots.curves(
        lines,
        name=f"{key}-curves",
        x_label="epochs (sample-gradients / training cases)",
        y_label=f"{metric} on inner validation",
        alt=f"Learning curves of {text.listed([entry['name'] for entry in entries])}: {metric} on "
        "inner validation against epochs, mean and range over folds.",
    )
    return {"svg": _ours(drawn), "legend": entries, "of": len(scored)}


def _ours(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 -- drawn by plots and looks, which escape every label


def _course(run: Recorded, combination: Combination) -> tuple[np.ndarray, np.ndarray] | None:
    """Return x (n,) in epochs and scores (folds, n), mean over seeds; None if none were recorded.

    A fold that stopped early keeps its last score, so that the mean is over all folds throughout.
    """
    trials = {row["trial_id"]: row for row in combination.scored if row["n_train_cases"]}
    points: dict[str, list[tuple[float, float]]] = {}
    for row in run.rows("epochs", trials, ("trial_id", "sample_gradients", "val_score")):
        if row["val_score"] is not None and row["sample_gradients"] is not None:
            x = row["sample_gradients"] / trials[row["trial_id"]]["n_train_cases"]
            points.setdefault(row["trial_id"], []).append((x, row["val_score"]))
    if not points:
        return None
    courses = {trial_id: np.array(sorted(pairs)).T for trial_id, pairs in points.items()}
    start = max(x[0] for x, _ in courses.values())
    grid = np.unique(np.concatenate([x for x, _ in courses.values()]))
    grid = grid[grid >= start]
    folds: dict[Fold, list[np.ndarray]] = {}
    for trial_id, (x, scores) in courses.items():
        folds.setdefault(fold_of(trials[trial_id]), []).append(np.interp(grid, x, scores))
    return grid, np.array([np.mean(seeds, axis=0) for seeds in folds.values()])


def price_and_score(key: str, found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the judged in the plane of training time and score; None for fewer than two.

    An optimizer has a colour and a fill, a loss a shape.
    """
    judged = [row for row in found["combinations"] if row["state"] == "judged"]
    priced = [(rank, row) for rank, row in enumerate(judged, 1) if row["train_sec"]]
    if len(priced) < 2:
        return None
    look = looks(sorted({row["optimizer"] for _, row in priced}))
    shape = shapes(sorted({row["loss"] for _, row in priced}))
    metric = text.metric_in(found["metric"], found["unit"])
    drawn = plots.price_and_score(
        [
            plots.Point(
                seconds=row["train_sec"],
                score=row["test_score"],
                look=look[row["optimizer"]],
                shape=shape[row["loss"]],
                rank=str(rank),
                ringed=row["in_tied_group"],
            )
            for rank, row in priced
        ],
        name=f"{key}-price",
        x_label="seconds of training, one trial",
        y_label=f"{metric} on the test folds",
        higher=found["direction"] == "max",
        alt=f"{metric} on the test folds against seconds of training of one trial, {len(priced)} "
        "combinations; the dashed line joins those that no other beats in both.",
    )
    return {
        "svg": _ours(drawn),
        "optimizers": legend(look, {one: _ours(sign("o", one)) for one in look.values()}),
        "losses": legend(
            shape, {one: _ours(sign(one, Look(INK, "full"))) for one in shape.values()}
        ),
    }


def where_seconds_went(found: Mapping[str, Any], short: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the parts of a trial's time by combination, fastest first; None if unmeasured."""
    timed = [row for row in found["combinations"] if row["seconds"]]
    timed.sort(key=lambda row: sum(row["seconds"].values()))
    longest = sum(timed[-1]["seconds"].values()) if timed else 0.0
    if not longest:
        return None
    return {
        "legend": [{"name": name, "colour": colour} for name, colour in _PARTS.values()],
        "lines": [
            {
                "name": short[row["name"]],
                "total": sum(row["seconds"].values()),
                "parts": [
                    {
                        "name": _PARTS[part][0],
                        "colour": _PARTS[part][1],
                        "seconds": seconds,
                        "width": round(100 * seconds / longest, 3),
                    }
                    for part, seconds in row["seconds"].items()
                ],
            }
            for row in timed
        ],
    }
