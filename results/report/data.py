"""What a data set is: its cases, patients, classes, sizes and spacing, for the page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from results import text
from results.run_folder import Recorded
from results.tables.tasks import answer_of
from results.verdict.combinations import Contest, Row

_UNITS = {"t": "s"}


def described(run: Recorded, contest: Contest) -> Mapping[str, Any]:
    """Return what the footers say of a data set; {} for a run made before they said anything."""
    found: Mapping[str, Any] = run.footer.get("data", {}).get(contest.dataset, {})
    return found


def about(data: Mapping[str, Any], rows: Sequence[Row], task: str) -> dict[str, Any] | None:
    """Return what is known of a data set, by its footer and the rows of its trials.

    It is {"lines": [(what, value)], "of", "classes", "regions"}; None where nothing is known.
    `classes` are (name, number, share), `of` says of what: cases in classification, voxels where
    masks are the answer. `regions` are (name, its classes, cases that hold it).
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
        else "unknown: the source names none, so each case counts as one"
    )
    lines = [("cases", f"{counted['cases']}{unit}"), ("patients", patients)]
    if parts:
        lines.append(("cases of a fold", _fold(parts)))
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
    several = answer_of(task) == "findings"
    total = counted["cases"] if several else sum(each["number"] for each in classes)
    total = total or 1
    if ignored := data.get("ignored"):
        left_out = text.percent(round(ignored["number"] / (total + ignored["number"]), 4))
        lines.append(("voxels that are ignored", f"{ignored['number']} ({left_out} of all)"))
    return {
        "lines": lines,
        "of": "voxels" if data.get("regions") else "cases",
        "classes": [
            (each["name"], each["number"], text.percent(round(each["number"] / total, 4)))
            for each in classes
        ],
        "regions": [
            (
                region["name"],
                ", ".join(classes[label]["name"] for label in region["labels"]),
                region["cases"],
            )
            for region in data.get("regions", ())
        ],
    }


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
    """Return `64 × 64`, or `24 to 64 × 64 (median 32 × 64)` where cases differ."""
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
