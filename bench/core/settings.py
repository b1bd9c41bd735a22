"""The settings of a row: its defaults, or a study's values of the same types."""

import sys
from collections.abc import Mapping
from math import inf, isfinite
from typing import Any

Setting = bool | int | float | str | tuple[float, ...]


def merge(
    owner: str, defaults: Mapping[str, Setting], given: Mapping[str, Any]
) -> dict[str, Setting]:
    """Return every setting: the given value or the default, always of the default's type.

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


def check_bounds(
    owner: str, settings: Mapping[str, Setting], bounds: Mapping[str, tuple[float, float]]
) -> None:
    """Raise ValueError if a number, or one in a tuple, lies outside the bounds of its name.

    `owner` is as in `merge`; texts, and settings without bounds, are not checked.
    """
    what, _, name = owner.partition(" ")
    for field, value in settings.items():
        least, greatest = bounds.get(field, (-inf, inf))
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, int | float) and not least <= n <= greatest for n in numbers):
            raise ValueError(
                f"{what} setting {name}.{field} must lie between {least:g} and {greatest:g}, "
                f"not {value!r}"
            )


def _like(default: Setting, value: object, *, where: str) -> Setting:
    """Return `value` in the type of `default`; raise ValueError if that is not possible."""
    if type(value) is type(default) and value == default:
        return default  # even if infinite: a default of the user's own row may also be given
    match default, value:
        case (bool(), bool(same)) | (str(), str(same)):
            return same
        case (bool() | str(), _) | (_, bool()):
            pass
        case int(), int():
            return value
        case int(), float() if value.is_integer():
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
    """Whether a value is a number that float64 can hold."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, float) and isfinite(value)
