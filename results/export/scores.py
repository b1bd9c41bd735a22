"""Scores case by case as CSV: for your own statistics, and in the format of Claims Reloaded.

For each data set of a run:

- `NAME-cases.csv`: one row per test case x combination (x region, if the answer is masks or several
  findings) x repeat, the mean over seeds. It has every combination with a scored trial; `state`
  says which are complete.
- `NAME-claims-reloaded.csv`: one row per case and one column per judged combination, `alg_01` and
  so on; `NAME-claims-reloaded-key.csv` says which is which, and the number of each class. For
  several findings or numbers neither is written.

Claims Reloaded (claims-reloaded.dkfz.de; Christodoulou et al. 2025, arXiv 2505.04720) estimates how
likely a claim of outperformance is to be false. It takes `case_id`, then `ground_truth` and the
predicted classes as numbers for classification, or Dice from 0 to 1 for segmentation; it has no
format for several findings or numbers.

Ids are the keyed hashes of the run: no patient names are known here.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from results.run_folder import Recorded, made_of
from results.tables.files import replace_file
from results.tables.store import RunError
from results.tables.tasks import Answer, answer_of
from results.verdict.combinations import Combination, Contest, Row

Line = dict[str, Any]

# Columns of the table `cases` that are averaged over seeds, for each region of a case.
_MEASURED = ("tp", "fp", "fn", "tn", "hd95_mm", "nsd_2mm", "assd_mm")

RULES = """\
Scores of test cases, from the run `{run}` of MedOptBench.

Each case is scored by networks that have not seen its group. Ids are keyed hashes.

NAME-cases.csv: one row per case x combination (x region) x repeat; numbers are means over seeds, of
which there are `seeds`. `state` is `judged` if the combination has all of its trials.
  classification: `correct` is 1 if the most probable class is the true one (over several seeds,
  their share); `prob_CLASS` is the probability of each class.
  several findings: one row each (`region`); `truth` is 1, 0, or empty if it is not known; `prob` is
  the probability.
  numbers: `truth` and `predicted`, in the unit of the source.
  segmentation: if reference and prediction of a region are both empty, it has no Dice in
  `dice_skip_empty` and 1 in `dice_empty_is_one`.

{claims}"""

# What README.txt says about the files for Claims Reloaded, if there are any.
CLAIMS = """\
NAME-claims-reloaded.csv: one row per case and one column per judged combination, for
claims-reloaded.dkfz.de; NAME-claims-reloaded-key.csv says which column is which.
  classification: classes as numbers. Predicted classes cannot be averaged: they are those of the
  first seed of the first repeat.
  segmentation: Dice, mean over regions, then over seeds and repeats; 1 if reference and prediction
  are both empty, so that all combinations are scored on the same regions.
"""


def export_scores(
    run: Path, out: Path, said: Callable[[str], object] = lambda _: None
) -> list[Path]:
    """Write the files described in this module's docstring, and a README.txt; return their paths.

    `said` is called with a sentence on each data set that has no file for Claims Reloaded, and why.

    Raises RunError if the folder holds no run or one without a scored case, and OSError if a file
    cannot be written; a file is replaced whole or not at all.
    """
    files, missing = made_of(run, _files)
    if not files:
        raise RunError(f"{run} has no scored test case yet: there is nothing to export")
    out.mkdir(parents=True, exist_ok=True)
    there = any(name.endswith("-claims-reloaded.csv") for name in files)
    claims = [CLAIMS] if there else []
    if missing:
        claims.append("".join(f"{sentence}\n" for sentence in missing))
    files["README.txt"] = RULES.format(run=run.name, claims="\n".join(claims))
    for sentence in missing:
        said(sentence)
    for name, text in files.items():
        replace_file(out / name, text.encode())
    return [out / name for name in files]


def _files(run: Recorded) -> tuple[dict[str, str], list[str]]:
    """Return file name -> content, and which files for Claims Reloaded are missing, and why."""
    files: dict[str, str] = {}
    missing: list[str] = []
    for number, contest in enumerate(run.contests, 1):
        rows = {c.name: _cases(run, c) for c in contest.combinations if c.scored}
        lines = [
            line
            for combination in contest.combinations
            if combination.name in rows
            for line in _lines(contest, combination, rows[combination.name])
        ]
        if not lines:
            continue
        # Users choose the names: characters that a file system may refuse are replaced, and the
        # number keeps names distinct.
        safe = re.sub(r"[^\w.-]+", "_", contest.dataset).strip("._") or "data"
        name = safe if safe == contest.dataset else f"{safe}-{number}"
        files[f"{name}-cases.csv"] = _csv(lines)
        table, key = _claims(contest, rows)
        if table:
            files[f"{name}-claims-reloaded.csv"] = _csv(table)
            files[f"{name}-claims-reloaded-key.csv"] = _csv(key)
        else:
            why = _no_claims(contest)
            missing.append(f"{name}-claims-reloaded.csv is not written: {why}.")
    return files, missing


def _cases(run: Recorded, combination: Combination) -> list[Line]:
    """Return the rows of `cases` of a combination, with repeat, fold and seed."""
    trials = {row["trial_id"]: row for row in combination.scored}
    return [
        {**row, "repeat": trial["repeat"] or 0, "fold": trial["fold"], "seed": trial["seed"] or 0}
        for row in run.rows("cases", trials)
        for trial in (trials[row["trial_id"]],)
    ]


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return lines as CSV with the columns of all of them; None is written as empty."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    return text.getvalue()


def _grouped(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# ---- one row per case x combination -----------------------------------------------------------


def _lines(contest: Contest, combination: Combination, rows: Sequence[Row]) -> list[Line]:
    by_region, line_of = _LINES[answer_of(contest.task) or "class"]
    place = ("repeat", "fold", "case_id", "group_id", *(["region"] if by_region else []))
    about = {"dataset": contest.dataset, "combination": combination.name}
    about |= {"state": combination.state}
    return [
        {
            **about,
            **{column: entry or "" for column, entry in combination.entries.items()},
            **dict(zip(place, key, strict=True)),
            "seeds": len({row["seed"] for row in own}),
            **line_of(own),
        }
        for key, own in sorted(_grouped(rows, *place).items())
    ]


def _of_masks(rows: Sequence[Row]) -> Line:
    return {
        "dice_skip_empty": _mean(row["dice"] for row in rows),
        "dice_empty_is_one": _mean(_dice(row) for row in rows),
        **{name: _mean(row[name] for row in rows) for name in _MEASURED},
    }


def _dice(row: Row) -> float:
    """Return the Dice of a region, 1 if reference and prediction are both empty."""
    return 1.0 if row["dice"] is None else float(row["dice"])


def _of_classes(rows: Sequence[Row]) -> Line:
    by_seed = _grouped(rows, "seed").values()
    truth = {row["region"] for row in rows if row["label"]}
    return {
        "truth": next(iter(truth), None),
        "correct": _mean(float(_called(own) in truth) for own in by_seed),
        **{
            f"prob_{region}": _mean(row["prob"] for row in own)
            for (region,), own in _grouped(rows, "region").items()
        },
    }


def _of_findings(rows: Sequence[Row]) -> Line:
    return {"truth": rows[0]["label"], "prob": _mean(row["prob"] for row in rows)}


def _of_numbers(rows: Sequence[Row]) -> Line:
    return {"truth": rows[0]["truth"], "predicted": _mean(row["predicted"] for row in rows)}


# Kind of answer -> whether its regions have a line each, and the function for the scores of a line.
_LINES: Mapping[Answer, tuple[bool, Callable[[Sequence[Row]], Line]]] = {
    "class": (False, _of_classes),
    "mask": (True, _of_masks),
    "findings": (True, _of_findings),
    "number": (True, _of_numbers),
}


def _called(rows: Sequence[Row]) -> Any:
    """Return the most probable class of one case in one trial; the first of equal ones."""
    return max(rows, key=lambda row: row["prob"] if row["log_odds"] is None else row["log_odds"])[
        "region"
    ]


# ---- Claims Reloaded -------------------------------------------------------------------------


def _claims(contest: Contest, rows: Mapping[str, Sequence[Row]]) -> tuple[list[Line], list[Line]]:
    """Return the table and its key, for the cases that every judged combination has scored.

    Both are empty if nothing is judged, or if Claims Reloaded has no format for the task.
    """
    judged, answer = contest.judged, answer_of(contest.task) or "class"
    columns: list[dict[str, Any]] = []
    truth: dict[str, Any] = {}
    classes: dict[str, int] = {}
    for combination in judged:
        own = rows[combination.name]
        if answer in _COLUMNS:
            columns.append(_COLUMNS[answer](own))
        if answer == "class":
            for row in own:
                classes.setdefault(row["region"], len(classes))
                if row["label"]:
                    truth[row["case_id"]] = row["region"]
    if not columns:
        return [], []
    names = {f"alg_{n:0{max(2, len(str(len(judged))))}d}": c.name for n, c in enumerate(judged, 1)}
    shared = sorted(set.intersection(*(set(column) for column in columns)))
    table = []
    for case in shared:
        values = [column[case] for column in columns]
        line: Line = {"case_id": case}
        if truth:
            line["ground_truth"] = classes[truth[case]]
            values = [classes[value] for value in values]
        table.append({**line, **dict(zip(names, values, strict=True))})
    key = [{"column": column, "is": name} for column, name in names.items()]
    key += [{"column": f"class {n}", "is": name} for name, n in classes.items()]
    return table, key


def _no_claims(contest: Contest) -> str:
    """Return why there is no table for Claims Reloaded."""
    if form := _NO_FORM.get(answer_of(contest.task)):
        return f"Claims Reloaded has no format for {form}"
    if not contest.judged:
        return "no combination has all of its trials"
    return "the combinations have no cases in common"


def _dice_by_case(rows: Sequence[Row]) -> dict[str, Any]:
    """Return case -> Dice: mean over regions, then over seeds and repeats."""
    return {
        case: float(np.mean([np.mean([_dice(row) for row in each]) for each in _trials(own)]))
        for (case,), own in _grouped(rows, "case_id").items()
    }


def _calls_by_case(rows: Sequence[Row]) -> dict[str, Any]:
    """Return case -> predicted class, by the first seed of the first repeat."""
    return {case: _called(_trials(own)[0]) for (case,), own in _grouped(rows, "case_id").items()}


# Kind of answer -> the function that gives each case's value in a column of Claims Reloaded.
_COLUMNS: Mapping[Answer, Callable[[Sequence[Row]], dict[str, Any]]] = {
    "class": _calls_by_case,
    "mask": _dice_by_case,
}


# Kind of answer -> what Claims Reloaded has no format for.
_NO_FORM: Mapping[Answer | None, str] = {"findings": "several findings", "number": "numbers"}


def _trials(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows of one case by trial, in the order of repeats and seeds."""
    return [own for _, own in sorted(_grouped(rows, "repeat", "seed").items())]
