"""A published study beside ours: its figures before and after, and how both were made."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from results import text
from results.claims.contrasts import Side, is_of
from results.claims.table import AFTER, BEFORE
from results.report.published import Published, published
from results.run_folder import Recorded
from results.tables.tasks import TASKS
from results.verdict.combinations import Combination, Contest

# Lines of the page's table of test metrics of a combination.
Lines = Sequence[Mapping[str, Any]]


def paper(
    run: Recorded,
    contest: Contest,
    data: Mapping[str, Any],
    shown: tuple[str, Lines] | None,
    lines_of: Callable[[Combination], Lines],
) -> dict[str, Any] | None:
    """Return what the page shows beside a published study; None for data that it does not cover.

    Ours are the combinations that match its recipes, before and after. If the run does not have
    both, it is `shown`: the name and metrics of the combination that the page shows.
    `lines_of(combination)` gives the metrics of a combination.
    """
    study = published(contest.task, data)
    if study is None or shown is None:
        return None
    ours = {
        name: found
        for name, side in (("before", BEFORE), ("after", AFTER))
        if (found := _best(contest, side))
    }
    both = len(ours) == 2
    columns = (
        {name: _values(study, contest.task, lines_of(c)) for name, c in ours.items()}
        if both
        else {"here": _values(study, contest.task, shown[1])}
    )
    first = next(iter(columns.values()))
    if not first:
        return None
    lines = [
        {
            "metric": metric,
            "said": said,
            "ours": [column[key][2] if key in column else None for column in columns.values()],
            "theirs": list(study.figures[metric]),
        }
        for key, (metric, said, _) in first.items()
    ]
    return {
        "dataset": study.dataset,
        "both": both,
        "names": {name: c.name for name, c in ours.items()} if both else {"here": shown[0]},
        "lines": lines,
        "bars": _bars(lines) if both else [],
        "flows": [
            {"title": f"here, {name}", "steps": _steps(run, contest, data, c)}
            for name, c in ours.items()
        ]
        + [{"title": f"Xue, {name}", "steps": list(steps)} for name, steps in study.flows.items()]
        if both
        else [],
        "differ": list(study.differ),
    }


def _best(contest: Contest, side: Side) -> Combination | None:
    """Return the judged combination of a side that inner validation prefers."""
    found = [c for c in contest.judged if is_of(c, side)]
    return max(found, key=lambda c: contest.sign * (c.mean("val_score") or 0.0), default=None)


def _values(study: Published, task: str, lines: Lines) -> dict[str, tuple[str, str, float]]:
    """Return key -> (metric of the paper, name of ours, value) of lines that count the same.

    These are over all regions, all sizes and undegraded images, in units that the paper has too.
    """
    found: dict[str, tuple[str, str, float]] = {}
    for row in lines:
        metric = study.names.get(row["metric"])
        if (
            metric
            and row["region"] in ("", "mean")
            and row["unit"] not in TASKS[task].also_by
            and not (row["stratum"] or row["degradation"])
        ):
            said = text.metric(row["metric"])
            if row["convention"]:
                said += f" ({row['convention'].replace('_', ' ')})"
            found[f"{row['metric']} {row['unit']} {row['convention']}"] = (
                metric,
                said,
                row["mean"],
            )
    return found


def _bars(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return {"label", "value", "width", "after"} of each bar, widths in percent of 1."""
    bars = []
    for line in lines:
        for who, values in (("here", line["ours"]), ("Xue", line["theirs"])):
            for when, value in zip(("before", "after"), values, strict=True):
                if value is not None:
                    bars.append(
                        {
                            "label": f"{line['said']}, {who}, {when}",
                            "value": value,
                            "width": round(100 * min(max(value, 0.0), 1.0), 2),
                            "after": when == "after",
                        }
                    )
    return bars


def _steps(
    run: Recorded, contest: Contest, data: Mapping[str, Any], combination: Combination
) -> list[str]:
    """Return the steps of a recipe as it was run, from scans to metrics."""
    row = combination.trials[0]
    entry = next(
        (
            e
            for e in run.study.get("data", ())
            if isinstance(e, Mapping) and e.get("name") == contest.dataset
        ),
        {},
    )
    patch = entry.get("patch") or run.study.get("patch")
    rate = json.loads(row["hparams"] or "{}").get("lr")
    loss = combination.entries["loss"]
    augmented = combination.entries["regularizer"] or "none"
    stop = run.study.get("stop_on", "score")
    how = f"{combination.entries['optimizer']}{f', rate {rate:g}' if rate else ''}"
    return [
        f"{data.get('cases', row['n_train_cases'])} cases of {contest.dataset}",
        f"patches of {' × '.join(map(str, patch))}" if patch else "patches as large as the cases",
        f"intensities: {entry.get('normalize') or run.study.get('normalize', 'z-score')}",
        f"augmentation: {augmented}",
        combination.entries["model"],
        f"loss: {loss}",
        f"{how}, batch {row['batch_size']}",
        f"stop after {run.study.get('patience', 10)} looks without a better {stop}",
        text.count(len(contest.folds), "fold"),
    ]
