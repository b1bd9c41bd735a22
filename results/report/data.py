"""What a data set is: its cases, patients, classes, sizes and spacing, for the page."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from results import text
from results.run_folder import Recorded
from results.tables.tasks import Answer, answer_of
from results.verdict.combinations import Contest, Row

_UNITS = {"t": "s"}


def described(run: Recorded, contest: Contest) -> Mapping[str, Any]:
    """Return what the footers say about a data set; {} for older runs, which say nothing."""
    found: Mapping[str, Any] = run.footer.get("data", {}).get(contest.dataset, {})
    return found


def unknown_answers(run: Recorded, contest: Contest) -> dict[str, int] | None:
    """Return finding -> the number of cases for which it is not known; None if that is unknown.

    Older footers do not say it. There it comes from the table of tested cases, if every case was
    tested.
    """
    data = described(run, contest)
    cases = data.get("cases")
    if answer_of(contest.task) != "findings" or not cases or _not_known(data):
        return None
    for combination in contest.combinations:
        trials = [row["trial_id"] for row in combination.scored]
        columns = ("trial_id", "case_id", "region", "label")
        rows = run.rows("cases", trials, columns)
        if len({row["case_id"] for row in rows}) == cases:
            missing = {(r["region"], r["case_id"]) for r in rows if r["label"] is None}
            return Counter(finding for finding, _ in missing)
    return None


def about(
    data: Mapping[str, Any],
    rows: Sequence[Row],
    task: str,
    unknown: Mapping[str, int] | None = None,
) -> dict[str, Any] | None:
    """Return what is known of a data set, by its footer and the rows of its trials.

    It is {"lines": [(what, value)], "table", "regions"}; None if nothing is known. `table` is
    {"head", "lines"}: the first column is text, the others are numbers; it has no lines if nothing
    is counted. `regions` are (name, its classes, cases that contain it). `unknown` is the number of
    cases without a known answer by finding, None if that is not known.
    """
    parts = [row for row in rows if row["n_train_cases"]]
    if not data and not parts:
        return None
    counted = {
        "cases": data.get("cases") or _sum(parts[0], "cases"),
        "groups": data.get("groups") or _sum(parts[0], "groups"),
    }
    source = data.get("group_source") or parts[0]["group_source"]
    unit = f", each {_one(data['unit'])}" if data.get("unit") else ""
    patients = (
        str(counted["groups"])
        if source == "patient"
        else "unknown: the source does not name them, so each case counts as one"
    )
    lines = [("cases", f"{counted['cases']}{unit}"), ("patients", patients)]
    if parts:
        lines.append(("cases per fold", _fold(parts)))
    if data:
        axes = data["axes"]
        lines += [
            (f"size, {' × '.join(axes)}", _ranges(data["shape"])),
            (f"spacing, {' × '.join(axes)}", _spacing(axes, data["spacing"])),
            ("channels", ", ".join(data["channels"])),
            ("source", data["source"]),
            ("licence", data["licence"]),
        ]
    for name, found in zip(data.get("classes", ()), data.get("numbers", ()), strict=False):
        low, middle, high = found
        lines.append((name["name"], f"{low:.4g} to {high:.4g}, median {middle:.4g}"))
    if tested := data.get("tested_on"):
        people = f"{tested['groups']} patients" if tested["group_source"] == "patient" else ""
        said = [f"{tested['cases']} cases", people, tested["source"]]
        lines.append(("tested on another data set", ", ".join(filter(None, said))))
    classes = data.get("classes", ())
    if ignored := data.get("ignored"):
        every = ignored["number"] + sum(each["number"] for each in classes)
        left_out = _share(ignored["number"], every)
        lines.append(("ignored voxels", f"{ignored['number']} ({left_out} of all)"))
    table_of = _TABLES[answer_of(task) or "class"]
    return {
        "lines": lines,
        "table": table_of(data, counted["cases"], unknown),
        "regions": [
            (
                region["name"],
                ", ".join(classes[label]["name"] for label in region["labels"]),
                region["cases"],
            )
            for region in data.get("regions", ())
        ],
    }


def _of_classes(data: Mapping[str, Any], _cases: int, _unknown: object) -> dict[str, Any]:
    of = "voxels" if data.get("regions") else "cases"
    numbers = [(each["name"], each["number"]) for each in data.get("classes", ())]
    total = sum(number for _, number in numbers) or 1
    lines = [(name, number, _share(number, total)) for name, number in numbers]
    return {"head": ("class", of, "share"), "lines": lines}


def _of_findings(
    data: Mapping[str, Any], cases: int, unknown: Mapping[str, int] | None
) -> dict[str, Any]:
    """Return the cases that have each finding, and their share of those with a known answer.

    If the known ones cannot be counted, it is the share of all cases.
    """
    numbers = [(each["name"], each["number"]) for each in data.get("classes", ())]
    unknown = _not_known(data) or unknown
    if unknown is None:
        lines = [(name, number, _of_cases(number, cases)) for name, number in numbers]
        share = "share of all cases, known or not"
        return {"head": ("finding", "cases that have it", share), "lines": lines}
    counted = [(name, number, unknown.get(name, 0)) for name, number in numbers]
    return {
        "head": ("finding", "cases that have it", "not known", "share of those known"),
        "lines": [
            (*of_one, f"{of_one[1]} of {known}: {_of_cases(of_one[1], known)}")
            for of_one in counted
            for known in (cases - of_one[2],)
        ],
    }


def _not_known(data: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of cases without a known answer by finding; empty if it is not given."""
    classes = data.get("classes", ())
    return {each["name"]: each["unknown"] for each in classes if "unknown" in each}


def _of_numbers(_data: object, _cases: int, _unknown: object) -> dict[str, Any]:
    """Return no lines: the lines above already give the range of the numbers."""
    return {"head": (), "lines": []}


# Kind of answer -> the table of what the cases have.
_TABLES: Mapping[Answer, Callable[..., dict[str, Any]]] = {
    "class": _of_classes,
    "mask": _of_classes,
    "findings": _of_findings,
    "number": _of_numbers,
}


def _share(number: int, of: int, digits: int = 4) -> str:
    return text.percent(round(number / (of or 1), digits))


def _of_cases(number: int, of: int) -> str:
    """Return a share of cases, to a tenth of a percent: there are fewer cases than voxels."""
    return _share(number, of, 3)


def _one(unit: str) -> str:
    return f"{'an' if unit[0] in 'aeiou' else 'a'} {unit}"


def _sum(row: Row, what: str) -> int:
    return sum(row[f"n_{part}_{what}"] or 0 for part in ("train", "val", "test"))


def _fold(rows: Sequence[Row]) -> str:
    said = []
    for part, name in (("train", "training"), ("val", "inner validation"), ("test", "test")):
        counts = [row[f"n_{part}_cases"] for row in rows if row[f"n_{part}_cases"] is not None]
        if counts:
            low, high = min(counts), max(counts)
            said.append(f"{name} {low if low == high else f'{low} to {high}'}")
    return ", ".join(said)


def _ranges(columns: Sequence[Sequence[float] | None]) -> str:
    """Return `64 × 64`, or `24 to 64 × 64 (median 32 × 64)` if cases differ."""
    known = [column for column in columns if column]
    if all(low == high for low, _, high in known):
        return _by_axis(columns, lambda column: f"{column[1]:.4g}")
    spans = _by_axis(columns, lambda column: f"{column[0]:.4g} to {column[2]:.4g}")
    return f"{spans} (median {_by_axis(columns, lambda column: f'{column[1]:.4g}')})"


def _by_axis(
    columns: Sequence[Sequence[float] | None], said: Callable[[Sequence[float]], str]
) -> str:
    alike = [column is not None and column[0] == column[2] for column in columns]
    return " × ".join(
        "?" if column is None else f"{column[1]:.4g}" if same else said(column)
        for column, same in zip(columns, alike, strict=True)
    )


def _spacing(axes: str, columns: Sequence[Sequence[float] | None]) -> str:
    if not any(columns):
        return "unknown"
    units = list(dict.fromkeys(_UNITS.get(axis, "mm") for axis in axes))
    return f"{_ranges(columns)} {' and '.join(units)}"
