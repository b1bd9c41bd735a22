"""What can stand in a study: every table of the project, as plain rows for `medopt list`."""

from collections.abc import Callable
from typing import Any

import yaml

from bench.core.precision import PRECISIONS
from bench.losses.table import LOSSES
from bench.metrics.degradations import DEGRADATIONS
from bench.metrics.table import METRICS
from bench.optimizers.schedules import SCHEDULES
from bench.optimizers.table import OPTIMIZERS
from bench.study.regularizers import REGULARIZERS
from bench.study.schema import GROWING, STUDIES
from bench.study.tasks import TASKS
from loaders.batches.table import LOADERS
from loaders.datasets.table import KINDS
from models.table import MODELS

Rows = list[dict[str, Any]]


def _fields(table: dict[str, Any], *names: str) -> Callable[[], Rows]:
    return lambda: [{name: getattr(row, name) for name in names} for row in table.values()]


def _data() -> Rows:
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
    rows = []
    for path in sorted(STUDIES.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        about = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
        study = yaml.safe_load(text)
        axes = {axis: len(study[axis]) for axis in GROWING if isinstance(study.get(axis), list)}
        rows.append({"name": path.stem, "summary": about, **axes})
    return rows


def _optimizers() -> Rows:
    rows = _fields(
        OPTIMIZERS, "name", "step", "drives", "decay", "scale_free", "defaults", "summary", "source"
    )()
    # A rule for gradients asks nothing of the task.
    return [{"name": row.pop("name"), "tasks": list(TASKS), **row} for row in rows]


TABLES: dict[str, Callable[[], Rows]] = {
    "models": _fields(MODELS, "name", "tasks", "dims", "options", "weights", "summary", "source"),
    "optimizers": _optimizers,
    "losses": _fields(LOSSES, "name", "tasks", "defaults", "formula", "summary", "source"),
    "metrics": _fields(
        METRICS,
        *("name", "tasks", "levels", "unit", "range", "influence", "empty_rule"),
        *("summary", "source"),
    ),
    "schedules": _fields(SCHEDULES, "name", "defaults", "summary", "source"),
    "regularizers": _fields(REGULARIZERS, "name", "tasks", "defaults", "summary", "source"),
    "degradations": _fields(DEGRADATIONS, "name", "defaults", "summary", "source"),
    "precisions": _fields(PRECISIONS, "name", "summary", "source"),
    "data": _data,
    "loaders": _fields(LOADERS, "name", "summary"),
    "studies": _studies,
}
