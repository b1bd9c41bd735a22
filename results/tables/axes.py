"""The axes of a study, of which a combination is one point. One row each, in the order of names.

`bench.study.axes` says what an entry of an axis does, in rows with the same keys. The footer of
every Parquet file repeats these rows, so that a run is read with the axes that it had.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: its key in a study, its column in `trials`, and its plain entry.

    The plain entry is that of a study that does not name the axis; names of combinations leave it
    out. None: there is none, so a study must name the axis. `plain_is_null`: the column is null for
    the plain entry.
    """

    key: str
    column: str
    plain: str | None = None
    plain_is_null: bool = False

    def asked(self, study: Mapping[str, Any]) -> list[str]:
        """Return the labels on this axis of a study (the content of study.yaml), in its order."""
        entries = study.get(self.key)
        if not entries:
            return [self.plain] if self.plain else []
        return [label(entry) for entry in entries]

    def said(self, found: str | None) -> str:
        """Return the part of a name for a value of the column: empty for the plain entry."""
        return "" if found in (None, self.plain) else str(found)

    def column_value(self, name: str) -> str | None:
        """Return the value of the column for the entry labelled `name`."""
        return None if self.plain_is_null and name == self.plain else name


AXES: tuple[Axis, ...] = (
    Axis(key="models", column="model"),
    Axis(key="optimizers", column="optimizer"),
    Axis(key="losses", column="loss"),
    Axis(key="schedules", column="schedule", plain="constant"),
    Axis(key="regularizers", column="regularizer", plain="none"),
    Axis(key="pretrained", column="pretrained", plain="none", plain_is_null=True),
    Axis(key="clinical", column="clinical", plain="none", plain_is_null=True),
    Axis(key="labels", column="labels", plain="as_given", plain_is_null=True),
)
COLUMNS = tuple(axis.column for axis in AXES)
# Library prefixes stay in labels: without them, `timm:resnet18` would look like a row of ours.
LIBRARIES = ("timm:", "torchvision:")
# The number of axes before footers described them.
_FIRST = 6


def described() -> list[dict[str, Any]]:
    """Return the rows in the form of a footer."""
    return [asdict(axis) for axis in AXES]


def axes_of(footer: Mapping[str, Any]) -> tuple[Axis, ...]:
    """Return the axes that a footer describes; without a description, the first six."""
    described = footer.get("axes")
    return tuple(Axis(**row) for row in described) if described else AXES[:_FIRST]


def label(entry: Any) -> str:
    """Return how results name an entry of an axis in study.yaml: `adam`, `sgd(lr=0.05)`.

    For a reference or a path it is the last part alone: a user's folders are private.
    """
    if not isinstance(entry, Mapping):
        return label_of(str(entry), {})
    return label_of(str(entry["name"]), entry.get("params") or {})


def label_of(name: str, settings: Mapping[str, Any]) -> str:
    """Return the label of an entry from its name and settings."""
    short = name.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    short = name if name.startswith(LIBRARIES) else short
    if not settings:
        return short
    return f"{short}({', '.join(f'{k}={v}' for k, v in sorted(settings.items()))})"


def key_of(row: Mapping[str, Any], axes: Sequence[Axis] = AXES) -> Key:
    """Return the key of a row's combination: one name per axis, empty for plain entries."""
    return tuple(axis.said(row.get(axis.column)) for axis in axes)


def name_of(parts: Iterable[str]) -> str:
    """Return the name of a combination, or of a part of one: `resnet18 + adamw + focal`."""
    return " + ".join(part for part in parts if part)


def planned(study: Mapping[str, Any], axes: Sequence[Axis] = AXES) -> list[Key]:
    """Return the key of each combination that a study asks for."""
    return list(product(*([axis.said(name) for name in axis.asked(study)] for axis in axes)))
