"""Settings of a row: its defaults, or what a study sets instead, each of its default's type."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

Setting = bool | int | float | str | tuple[float, ...]


def merge(
    owner: str, defaults: Mapping[str, Setting], given: Mapping[str, Any]
) -> dict[str, Setting]:
    """Return every setting: as given, or else its default, and always of the default's type.

    `owner` names the row in errors ("optimizer adam"). Raises ValueError for a name that the row
    does not have and for a value of another type (YAML reads 1e-3 as text).
    """
    merged = dict(defaults)
    for name, value in given.items():
        if name not in defaults:
            settings = ", ".join(defaults)
            raise ValueError(
                f"{owner} has no setting {name!r}; "
                + (f"its settings are {settings}" if settings else "it has none")
            )
        where = f"{owner.rpartition(' ')[2]}.{name}"
        merged[name] = _like(defaults[name], value, where=f"{owner.partition(' ')[0]} {where}")
    return merged


def _like(default: Setting, value: object, *, where: str) -> Setting:
    """Return `value` in the type of `default`; raise ValueError if it is of another kind."""
    match default, value:
        case (bool(), bool(same)) | (str(), str(same)):
            return same
        case (bool() | str(), _) | (_, bool()):
            pass
        case int(), int() | float() if float(value).is_integer():
            return int(value)
        case float(), int() | float() if _finite(value):
            return float(value)
        case tuple(), list() | tuple() if len(value) == len(default) and all(map(_finite, value)):
            return tuple(map(float, value))
    what, _, name = where.partition(" ")
    raise ValueError(
        f"{what} setting {name} must be like {default!r}, not {value!r}"
        + (" (in YAML, write 1.0e-3 and not 1e-3)" if isinstance(value, str) else "")
    )


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
