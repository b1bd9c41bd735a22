"""What the page of a run says, as a plain dictionary for the template."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from results import text
from results.report import figures, plots, protocol
from results.report.data import about, described, unknown_answers
from results.report.examples import examples
from results.report.looks import COLOURS, DARK
from results.report.robustness import worse
from results.report.sections import price
from results.report.sections.bars import bars
from results.report.sections.budgets import budgets
from results.report.sections.claims import claims
from results.report.sections.estimands import answers, leading
from results.report.sections.marginal import margins
from results.report.sections.next_steps import next_steps
from results.report.sections.papers import paper
from results.report.sections.search import search
from results.report.sections.tuning import tuning
from results.run_folder import Recorded
from results.tables.tasks import answer_of
from results.verdict.combinations import Combination, Contest, Fold, fold_of, means_by_fold
from results.verdict.schema import OfDataset


def page(run: Recorded) -> dict[str, Any]:
    """Return everything that `templates/report.html` shows of a run."""
    priced = price.of_run(run)
    sections = [
        _section(run, number, contest, found)
        | {"priced": price.table(costs, text.short_names(found["combinations"]))}
        for number, (contest, found, costs) in enumerate(
            zip(run.contests, run.verdict["datasets"], priced, strict=True), 1
        )
    ]
    rows = [row for contest in run.contests for row in contest.rows]
    started = [row["started_at"] for row in rows if row["started_at"]]
    finished = [row["finished_at"] for row in rows if row["finished_at"]]
    return {
        "verdict": run.verdict,
        "search": search(run),
        "sections": sections,
        "profile": price.of_optimizers(priced),
        "claims": claims(run),
        "counts": [f"{n} {status}" for status, n in run.verdict["statuses"].items()],
        "began": min(started, default=None),
        "ended": max(finished, default=None),
        "seconds": sum(row["wall_sec"] or 0 for row in rows),
        "axes": protocol.compared(run.study, run.axes),
        "settings": protocol.settings(run.study, run.axes),
        "data_settings": protocol.data_settings(run.study),
        "optimizers": protocol.optimizers(rows, run.study),
        "entries": protocol.entries(run.study, run.axes),
        "devices": protocol.devices(rows),
        "versions": run.footer.get("versions", {}),
        "commit": run.footer.get("git_commit"),
        "program": run.footer.get("versions", {}).get("medoptbench") or version("medoptbench"),
        "colours": {"reference": plots.REFERENCE, "prediction": plots.PREDICTION},
        "palette": {"light": COLOURS, "dark": DARK},
    }


def _section(run: Recorded, number: int, contest: Contest, found: OfDataset) -> dict[str, Any]:
    """Return what the template shows of one data set."""
    key = f"d{number}"
    rows = found["combinations"]
    by_name = {combination.name: combination for combination in contest.combinations}
    short = text.short_names(rows)
    data = described(run, contest)
    shown = _shown(found)
    first = next(iter(shown), None)
    metrics = _metrics(run, by_name[first]) if first else []
    return {
        "key": key,
        "found": found,
        "answers": answers(found),
        "leading": [{**claim, "badge": text.STATES[claim["state"]]} for claim in leading(found)],
        "margins": margins(found),
        "next": next_steps(found),
        "state": text.STATES[found["state"]],
        "better_is": "higher" if found["direction"] == "max" else "lower",
        "short": short,
        "recommended": next((r for r in rows if r["name"] == found["recommended"]), None),
        "ranking": _ranking([row for row in rows if row["state"] == "judged"]),
        "others": [row for row in rows if row["state"] not in ("judged", "skipped")],
        "skips": _skips(rows, short),
        "heat": figures.heat_maps(run.study, run.axes, found),
        "curves": figures.learning_curves(run, key, found, by_name, short),
        "price": figures.price_and_score(key, found),
        "seconds": figures.where_seconds_went(found, short),
        "tuning": tuning(run, contest, found, key, short),
        "budgets": budgets(run, contest, found, short),
        "worse": worse(run, contest.metric, _in_ranking(rows, by_name), short),
        "metrics": metrics,
        "metrics_of": first,
        "data": about(data, contest.rows, contest.task, unknown_answers(run, contest)),
        "paper": paper(
            run, contest, data, (first, metrics) if first else None, partial(_metrics, run)
        ),
        "examples": examples(run, shown, by_name, data),
        "answer": answer_of(contest.task),
    }


def _in_ranking(
    rows: Sequence[Mapping[str, Any]], by_name: Mapping[str, Combination]
) -> list[Combination]:
    return [by_name[row["name"]] for row in rows if row["state"] == "judged"]


def _skips(
    rows: Sequence[Mapping[str, Any]], short: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """Return each reason for a skip, with the combinations skipped for it."""
    skips: dict[str, list[str]] = {}
    for row in rows:
        if row["state"] == "skipped":
            skips.setdefault(row["note"], []).append(short[row["name"]])
    return list(skips.items())


def _shown(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the combinations shown in detail -> why: the first, and for contrast the last.

    The first is the recommended one, or if there is none, the best so far.
    """
    scored = [row for row in found["combinations"] if row["test_score"] is not None]
    judged = [row["name"] for row in scored if row["state"] == "judged"]
    shown = {}
    if found["recommended"]:
        shown[found["recommended"]] = "recommended"
    elif scored:
        shown[scored[0]["name"]] = "best so far"
    if judged and judged[-1] not in shown:
        shown[judged[-1]] = "last in the ranking"
    return shown


def _ranking(judged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the judged, best first, with their intervals as bars and in words."""
    ranked = []
    drawn = bars(judged, grouped="in_tied_group")
    for rank, (row, bar) in enumerate(zip(judged, drawn, strict=True), 1):
        rate = (row["hparams"] or {}).get("lr")
        rate = "–" if rate is None else text.setting(rate)
        ranked.append({**row, **bar, "rank": rank, "rate": rate})
    return ranked


def _metrics(run: Recorded, combination: Combination) -> list[dict[str, Any]]:
    """Return every test metric of a combination: mean, lowest and highest over folds.

    `fewer` says of how many folds they are, if some fold has no value.
    """
    trials = {row["trial_id"]: fold_of(row) for row in combination.scored}
    columns = ("metric", "region", "convention", "stratum", "degradation", "unit")
    found: dict[tuple[str, ...], list[tuple[Fold, float]]] = {}
    for row in run.rows("metrics", trials):
        if row["split"] == "test" and row["value"] is not None:
            key = tuple(row[column] or "" for column in columns)
            found.setdefault(key, []).append((trials[row["trial_id"]], row["value"]))
    every = len(set(trials.values()))
    lines = []
    for key, values in found.items():
        folds = list(means_by_fold(values).values())
        line: dict[str, Any] = dict(zip(columns, key, strict=True))
        line |= {"mean": float(np.mean(folds)), "low": min(folds), "high": max(folds)}
        fewer = text.count(len(folds), "fold") if len(folds) < every else ""
        lines.append(line | {"fewer": fewer})
    return lines
