"""A tuned run: what was tried, what was chosen, what that gained and what it cost."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from markupsafe import Markup

from results import text
from results.report import plots
from results.report.looks import COLOURS, DASHES, legend, looks, sign, stroke
from results.run_folder import Recorded, made_of
from results.tables.axes import key_of, name_of
from results.tables.store import DamagedError, find_damage, read
from results.verdict.combinations import Contest, Fold, Row, fold_of
from results.verdict.schema import OfDataset

# Folders of a tuned run with tables of their own: `bench.planning.points`, and the study untuned.
POINTS, DEFAULTS = "points", "defaults"
# Most combinations in the figure of points: more cannot be distinguished.
_CURVES = 6
# If the chosen setting is in the outer tenth of its space in half of the folds or more, the best
# may lie beyond. By chance a tenth of draws lies there. Assumption.
_OUTER, _OFTEN = 0.1, 0.5

# Combination -> fold -> its points in order.
Tried = dict[str, dict[Fold, list[Row]]]


def tuning(
    run: Recorded, contest: Contest, found: OfDataset, key: str, short: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return what the template shows of the search on one data set; None without a search."""
    tried = tried_points(run, contest.dataset)
    names = [row["name"] for row in found["combinations"] if row["name"] in tried]
    if not names:
        return None
    chosen = {c.name: _chosen(c.trials) for c in contest.combinations if c.name in tried}
    spaces = run.footer.get("spaces", {})
    points = max(
        row["points"] for by_fold in tried.values() for row in next(iter(by_fold.values()))
    )
    metric = text.metric_in(contest.metric, contest.unit)
    return {
        "points": points,
        "lines": [
            {"name": short[name], **_line(contest, name, tried[name], chosen[name])}
            for name in names
        ],
        "settings": [
            {"name": short[name], "folds": _settings(chosen[name], _space(contest, name, spaces))}
            for name in names
            if chosen[name]
        ],
        "ends": [
            f"{short[name]}: {end}"
            for name in names
            for end in _ends(chosen[name], _space(contest, name, spaces))
        ],
        "curve": _best_so_far(contest, key, names, tried, short, points, metric),
        "rates": _rates(key, tried, chosen, metric),
        "search_sec": sum(
            row["wall_sec"] or 0
            for folds in tried.values()
            for rows in folds.values()
            for row in rows
        ),
        "final_sec": sum(row["wall_sec"] or 0 for row in contest.rows),
        "beside": _beside_defaults(run, contest, found, short),
    }


def tried_points(run: Recorded, dataset: str) -> Tried:
    """Return the points of a data set that have a result, by combination and fold."""
    tried: Tried = {}
    for row in all_points(run.path / POINTS):
        if row["dataset"] == dataset and row["status"] in ("ok", "diverged", "dropped"):
            name = name_of(key_of(row, run.axes))
            tried.setdefault(name, {}).setdefault(fold_of(row), []).append(row)
    return tried


def all_points(folder: Path) -> list[Row]:
    """Return the rows of all points in a folder, in order, without damaged files."""
    try:
        rows = read(folder, "trials").to_pylist()
    except DamagedError:
        rows = read(folder, "trials", without=find_damage(folder)).to_pylist()
    return sorted(rows, key=lambda row: row["point"] or 0)


def inner_score(row: Row) -> float | None:
    """Return the score of a point on inner validation, None if it diverged or has none."""
    score = row["val_score"]
    return score if row["status"] == "ok" and score is not None and math.isfinite(score) else None


def _chosen(trials: Sequence[Row]) -> dict[Fold, Row]:
    """Return fold -> a trial with the settings chosen there."""
    return {fold_of(row): row for row in trials if row["tuned"]}


def _line(
    contest: Contest, name: str, tried: Mapping[Fold, Sequence[Row]], chosen: Mapping[Fold, Row]
) -> dict[str, Any]:
    """Return how the points of a combination scored, and how the chosen ones did."""
    rows = [row for of_fold in tried.values() for row in of_fold]
    scores = [score for row in rows if (score := inner_score(row)) is not None]
    ordered = sorted(scores, key=lambda score: contest.sign * score)
    by_point = {
        fold: {row["point"]: inner_score(row) for row in of_fold} for fold, of_fold in tried.items()
    }
    selected = _mean(by_point[f].get(row["point"]) for f, row in chosen.items() if f in by_point)
    test = next(c for c in contest.combinations if c.name == name).mean("test_score")
    diverged = sum(row["status"] == "diverged" for row in rows)
    return {
        "tried": len(rows),
        "diverged": text.percent(round(diverged / len(rows), 2)) if diverged else "none",
        "worst": ordered[0] if ordered else None,
        "median": median(ordered) if ordered else None,
        "defaults": _mean(of_fold.get(0) for of_fold in by_point.values()),
        "selected": selected,
        "test": test,
        "defaults_chosen": sum(row["point"] == 0 for row in chosen.values()),
        "folds": len(chosen),
    }


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# ---- settings --------------------------------------------------------------------------------


def _space(
    contest: Contest, name: str, spaces: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Mapping[str, Any]]:
    """Return the space of a combination's optimizer, as the footer describes it."""
    entries = next(c for c in contest.combinations if c.name == name).entries
    return spaces.get(entries["optimizer"], {})


def _drawn(row: Row, space: Mapping[str, Any]) -> dict[str, float]:
    settings = json.loads(row["hparams"] or "{}", parse_constant=str)
    return {name: settings[name] for name in space if isinstance(settings.get(name), int | float)}


def _settings(chosen: Mapping[Fold, Row], space: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what was chosen in each fold, in words."""
    lines = []
    for (repeat, fold), row in sorted(chosen.items()):
        said = ", ".join(f"{k} {text.setting(v)}" for k, v in _drawn(row, space).items())
        lines.append(
            {
                "fold": f"fold {fold}" + (f" of repeat {repeat}" if repeat else ""),
                "point": "the defaults" if row["point"] == 0 else f"point {row['point']}",
                "said": said or "its own settings",
            }
        )
    return lines


def _ends(chosen: Mapping[Fold, Row], space: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which settings were chosen at an end of their space so often that it seems narrow."""
    found = []
    for name, own in space.items():
        values = [v for row in chosen.values() if (v := _drawn(row, space).get(name)) is not None]
        places = [_place(value, own) for value in values]
        for end, value, count in (
            ("lower", own["low"], sum(place < _OUTER for place in places)),
            ("upper", own["high"], sum(place > 1 - _OUTER for place in places)),
        ):
            if count > 1 and count >= _OFTEN * len(places):
                found.append(
                    f"{name} was chosen at the {end} end of its space ({value:g}) in {count} of "
                    f"{len(places)} folds; a better value may lie beyond it."
                )
    return found


def _place(value: float, space: Mapping[str, Any]) -> float:
    """Return where a value lies in a space, from 0 at its lower end to 1 at its upper."""
    low, high = space["low"], space["high"]
    if space["log"]:
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


# ---- figures ---------------------------------------------------------------------------------


def _best_so_far(
    contest: Contest,
    key: str,
    names: Sequence[str],
    tried: Tried,
    short: Mapping[str, str],
    points: int,
    metric: str,
) -> dict[str, Any] | None:
    """Return the best inner score of the first 1, 2, ... points, by combination."""
    lines, entries = [], []
    for colour, dash, name in zip(COLOURS, DASHES, names[:_CURVES], strict=False):
        found = best_of_first(list(tried[name].values()), points, contest.sign)
        if found is None:
            continue
        x = np.arange(1.0, points + 1)
        lines.append(
            plots.Curve(
                colour=colour,
                dash=dash,
                x=x,
                mean=found.mean(axis=0),
                low=found.min(axis=0),
                high=found.max(axis=0),
            )
        )
        entries.append({"sign": _ours(stroke(colour, dash)), "name": short[name]})
    if not lines:
        return None
    drawn = plots.curves(
        lines,
        name=f"{key}-points",
        x_label="points tried in each fold, the defaults first",
        y_label=f"best {metric} on inner validation",
        alt=f"Best {metric} on inner validation by the number of points: mean and range over folds",
    )
    return {"svg": _ours(drawn), "legend": entries, "of": len(names)}


def best_of_first(folds: Sequence[Sequence[Row]], points: int, sign: float) -> np.ndarray | None:
    """Return (folds, points): the best inner score of the first 1, 2, ... points of each fold.

    A fold counts if all its points have a result and its first has a score; None if none counts.
    """
    curves = []
    for rows in folds:
        scores = [inner_score(row) for row in rows]
        if len(scores) == points and scores[0] is not None:
            worth = [-math.inf if s is None else sign * s for s in scores]
            curves.append(sign * np.maximum.accumulate(worth))
    return np.array(curves) if curves else None


def _rates(
    key: str, tried: Tried, chosen: Mapping[str, Mapping[Fold, Row]], metric: str
) -> dict[str, Any] | None:
    """Return every point's score against its learning rate, with a look for each optimizer."""
    marks: dict[str, list[tuple[float, float, bool]]] = {}
    for name, by_fold in tried.items():
        for fold, rows in by_fold.items():
            best = chosen[name].get(fold) if name in chosen else None
            for row in rows:
                rate, score = _rate(row), inner_score(row)
                if rate and score is not None:
                    ringed = best is not None and best["point"] == row["point"]
                    marks.setdefault(row["optimizer"], []).append((rate, score, ringed))
    # An optimizer whose rate was not searched has nothing to show.
    marks = {name: found for name, found in marks.items() if len({rate for rate, *_ in found}) > 1}
    if not marks:
        return None
    look = looks(sorted(marks))
    drawn = plots.rates(
        [
            plots.TriedRate(rate=rate, score=score, look=look[name], ringed=ringed)
            for name, found in marks.items()
            for rate, score, ringed in found
        ],
        name=f"{key}-rates",
        y_label=f"{metric} on inner validation",
        alt=f"{metric} on inner validation against the learning rate, one mark per point.",
    )
    entries = legend(look, {one: _ours(sign("o", one)) for one in look.values()})
    return {"svg": _ours(drawn), "legend": entries}


def _rate(row: Row) -> float | None:
    rate = json.loads(row["hparams"] or "{}", parse_constant=str).get("lr")
    return float(rate) if isinstance(rate, int | float) else None


def _ours(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 -- drawn by plots and looks, which escape every label


# ---- beside the defaults ---------------------------------------------------------------------


def _beside_defaults(
    run: Recorded, contest: Contest, found: OfDataset, short: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return each combination's rank and test score, untuned and tuned; empty without untuned."""
    folder: Path = run.path / DEFAULTS
    if not (folder / "study.yaml").exists():
        return []
    plain = made_of(folder, lambda whole: whole)
    untuned = next((c for c in plain.contests if c.dataset == contest.dataset), None)
    if untuned is None:
        return []
    before = {c.name: c.mean("test_score") for c in untuned.judged}
    after = {
        row["name"]: row["test_score"] for row in found["combinations"] if row["state"] == "judged"
    }
    both = [name for name in after if name in before]
    ranks = {name: place for place, name in enumerate(_ranked(before, both, contest.sign), 1)}
    return [
        {
            "name": short[name],
            "tuned": after[name],
            "plain": before[name],
            "rank": place,
            "plain_rank": ranks[name],
            "gain": (after[name] or 0.0) - (before[name] or 0.0),
        }
        for place, name in enumerate(_ranked(after, both, contest.sign), 1)
    ]


def _ranked(scores: Mapping[str, float | None], names: Sequence[str], sign: float) -> list[str]:
    return sorted(names, key=lambda name: -sign * (scores[name] or 0.0))
