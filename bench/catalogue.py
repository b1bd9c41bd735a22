"""All that a study can name: every table of the project, as plain rows for `medopt list`.

A table is imported only when its rows are needed, so that a wrong name is reported at once.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from bench.study.ready import READY

Rows = list[dict[str, Any]]


def _fields(table: str, *names: str) -> Callable[[], Rows]:
    """Return a function that makes the rows of `module:TABLE` with these fields."""
    module, _, name = table.partition(":")

    def rows() -> Rows:
        found = getattr(import_module(module), name)
        return [{field: getattr(row, field) for field in names} for row in found.values()]

    return rows


def _data() -> Rows:
    from loaders.datasets.table import KINDS

    return [
        {
            "name": kind.name,
            "summary": kind.summary,
            "source": kind.source,
            "options": {
                name: f"{help_} (default {default})"
                for name, (default, help_) in kind.options.items()
            },
        }
        for kind in KINDS.values()
    ]


def _studies() -> Rows:
    import yaml

    from bench.study.schema import GROWING

    rows = []
    for path in sorted(READY.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        about = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
        study = yaml.safe_load(text)
        axes = {axis: len(study[axis]) for axis in GROWING if isinstance(study.get(axis), list)}
        rows.append({"name": path.stem, "summary": about, **axes})
    return rows


def _optimizers() -> Rows:
    from bench.optimizers.table import OPTIMIZERS
    from bench.study.tasks import TASKS

    rows = _fields(
        "bench.optimizers.table:OPTIMIZERS",
        *("name", "step", "drives", "decay", "scale_free", "defaults", "summary", "source"),
    )()
    # A rule for gradients works for every task.
    return [
        {"name": row["name"], "tasks": list(TASKS), **row, "space": _space(OPTIMIZERS[row["name"]])}
        for row in rows
    ]


def _space(row: Any) -> dict[str, str]:
    """Return the range in which `medopt tune` searches each setting of an optimizer."""
    return {
        name: f"{space.low:g} to {space.high:g}{', on a log scale' if space.log else ''}"
        for name, space in row.space.items()
    }


def _models() -> Rows:
    from bench.study.tasks import TASKS

    rows = _fields(
        "models.table:MODELS",
        *("name", "tasks", "dims", "settings", "weights", "summary", "source"),
    )()
    for row in rows:
        row["tasks"] = [task.name for task in TASKS.values() if task.networks in row["tasks"]]
    # The published output calls settings `options`.
    return [{"options" if k == "settings" else k: v for k, v in row.items()} for row in rows]


TABLES: dict[str, Callable[[], Rows]] = {
    "models": _models,
    "optimizers": _optimizers,
    "losses": _fields(
        "bench.losses.table:LOSSES", "name", "tasks", "defaults", "formula", "summary", "source"
    ),
    "metrics": _fields(
        "bench.metrics.table:METRICS",
        "name",
        "tasks",
        "levels",
        "unit",
        "range",
        "influence",
        "empty_rule",
        "summary",
        "source",
    ),
    "schedules": _fields(
        "bench.optimizers.schedules:SCHEDULES", "name", "defaults", "summary", "source"
    ),
    "regularizers": _fields(
        "bench.study.regularizers:REGULARIZERS", "name", "tasks", "defaults", "summary", "source"
    ),
    "clinical": _fields(
        "bench.study.setters.clinical:CLINICAL", "name", "tasks", "defaults", "summary", "source"
    ),
    "labels": _fields(
        "bench.study.setters.labels:LABELS", "name", "tasks", "defaults", "summary", "source"
    ),
    "degradations": _fields(
        "bench.metrics.degradations:DEGRADATIONS", "name", "defaults", "summary", "source"
    ),
    "precisions": _fields("bench.core.precision:PRECISIONS", "name", "summary", "source"),
    "data": _data,
    "loaders": _fields("loaders.batches.table:LOADERS", "name", "summary"),
    "studies": _studies,
}
