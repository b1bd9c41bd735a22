"""The axes of a study: what a combination is a point of. One row each, in the order of names.

`bench.study.axes` says what an entry of an axis does, in rows of the same keys. The
footer of every Parquet file repeats these rows, so that a run is read by the axes that it had.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: its key in a study, its column in `trials`, and its plain entry.

    The plain entry is what a study has that does not name the axis; it goes without saying in the
    name of a combination. None: there is none, so a study must name the axis. `plain_is_null`: its
    column is null where the entry is the plain one.
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
        """Return how names have what the column holds: empty for the plain entry."""
        return "" if found in (None, self.plain) else str(found)

    def column_value(self, name: str) -> str | None:
        """Return what the column holds for the entry labelled `name`."""
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
# Libraries that networks are named of: without them, `timm:resnet18` would be a row of ours.
LIBRARIES = ("timm:", "torchvision:")
# Axes that there were before footers described them.
_FIRST = 6


def described() -> list[dict[str, Any]]:
    """Return the rows as a footer has them."""
    return [asdict(axis) for axis in AXES]


def axes_of(footer: Mapping[str, Any]) -> tuple[Axis, ...]:
    """Return the axes that a footer describes; one without a description is of the first six."""
    described = footer.get("axes")
    return tuple(Axis(**row) for row in described) if described else AXES[:_FIRST]


def label(entry: Any) -> str:
    """Return how results name an entry of an axis in study.yaml: `adam`, `sgd(lr=0.05)`.

    Of a reference or a path the last part alone: a user's folders are nobody else's business.
    """
    if not isinstance(entry, Mapping):
        return label_of(str(entry), {})
    return label_of(str(entry["name"]), entry.get("params") or {})


def label_of(name: str, settings: Mapping[str, Any]) -> str:
    """Return the label of an entry by its name and what is set for it."""
    short = name.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    short = name if name.startswith(LIBRARIES) else short
    if not settings:
        return short
    return f"{short}({', '.join(f'{k}={v}' for k, v in sorted(settings.items()))})"


def key_of(row: Mapping[str, Any], axes: Sequence[Axis] = AXES) -> Key:
    """Return a row of `trials` as a combination's key: a name an axis, empty for plain ones."""
    return tuple(axis.said(row.get(axis.column)) for axis in axes)


def name_of(parts: Iterable[str]) -> str:
    """Return the name of a combination, or of a part of one: `resnet18 + adamw + focal`."""
    return " + ".join(part for part in parts if part)


def planned(study: Mapping[str, Any], axes: Sequence[Axis] = AXES) -> list[Key]:
    """Return the key of each combination that a study asks for."""
    return list(product(*([axis.said(name) for name in axis.asked(study)] for axis in axes)))
