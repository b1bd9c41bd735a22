"""A search by Ray Tune: its best points, what it stopped, and that it is not a verdict."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from results import text
from results.report.sections.tuning import POINTS, all_points
from results.run_folder import Recorded
from results.tables.axes import key_of, name_of
from results.tables.store import footer
from results.verdict.combinations import Row, fold_of

# `bench.study.schema.Tuning.search` -> what the page calls it.
NAMES = {
    "optuna": "Optuna's TPE sampler",
    "asha": "asynchronous successive halving (ASHA)",
    "bohb": "BOHB's model over asynchronous successive halving",
}


def search_of(study: Mapping[str, Any]) -> str | None:
    """Return the search by Ray Tune that a study asks for, None if it asks for none."""
    found = (study.get("tuning") or {}).get("search")
    return found if found in NAMES else None


def search(run: Recorded) -> dict[str, Any] | None:
    """Return what the template shows of a search by Ray Tune; None for any other run."""
    found = search_of(run.study)
    if found is None:
        return None
    rows = all_points(run.path / POINTS)
    about = footer(run.path / POINTS)
    statuses = Counter(row["status"] for row in rows)
    return {
        "name": NAMES[found],
        "counts": [f"{number} {status}" for status, number in sorted(statuses.items())],
        "seconds": sum(row["wall_sec"] or 0 for row in rows),
        "spent": sum(row["sample_gradients"] or 0 for row in rows),
        "lines": incumbents(rows, run, about),
    }


def incumbents(
    rows: Sequence[Row], run: Recorded, about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the best point of each combination in each fold by inner validation.

    `about` is a footer. A point that was stopped early counts by the score that it had reached, as
    in the search.
    """
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["dataset"], key_of(row, run.axes), fold_of(row)), []).append(row)
    lines = []
    for (dataset, key, (repeat, fold)), tried in sorted(cells.items(), key=lambda item: item[0]):
        scored = [row for row in tried if row["status"] in ("ok", "dropped")]
        scored = [row for row in scored if row["val_score"] is not None]
        if not scored:
            continue
        metric = scored[0]["primary_metric"]
        sign = -1 if about["metrics"][metric]["direction"] == "min" else 1
        best = max(scored, key=lambda row: sign * row["val_score"])
        settings = json.loads(best["hparams"], parse_constant=str)
        searched = about.get("spaces", {}).get(best["optimizer"], {})
        said = ", ".join(f"{name} {text.setting(settings[name])}" for name in searched)
        lines.append(
            {
                "dataset": dataset,
                "name": name_of(key),
                "fold": f"fold {fold}" + (f" of repeat {repeat}" if repeat else ""),
                "settings": said,
                "metric": metric,
                "score": best["val_score"],
                "tried": len(tried),
                "stopped": sum(row["status"] == "dropped" for row in tried),
                "diverged": sum(row["status"] == "diverged" for row in tried),
            }
        )
    return lines
