"""nnU-Net's `splits_final.json`: its cross-validation folds, as lists of case names.

A list of folds, each `{"train": [names], "val": [names]}` (its documentation, how-to
manual_data_splits.md); a fold is scored on its `val`, and nothing is selected by it.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders.cases import BadSource

# A list of a quarter of a million long names is a tenth of this (assumption).
_MOST_BYTES = 2**28
_SHAPE = '[{"train": [names], "val": [names]}, ...]'


@dataclass(frozen=True, kw_only=True)
class NamedFold:
    """The names of the cases on which a fold trains, and of those on which it is scored."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def read_splits_final(path: Path) -> tuple[NamedFold, ...]:
    """Return the folds of a `splits_final.json`; raises BadSource that names the file and field.

    No part may be empty, and no name may be in a fold twice.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadSource(
                f"{path.name} is larger than {_MOST_BYTES >> 20} MiB, too large for a list of folds"
            )
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BadSource(
            f"{path.name} cannot be read ({error.strerror}): expected at {path}"
        ) from None
    except (ValueError, RecursionError):
        raise BadSource(f"{path.name} is not JSON; expected {_SHAPE}") from None
    if not isinstance(found, list) or not found:
        raise BadSource(f"{path.name} is not a list of folds; expected {_SHAPE}")
    return tuple(_fold(fold, f"{path.name}: fold {number}") for number, fold in enumerate(found))


def _fold(fold: Any, where: str) -> NamedFold:
    if not isinstance(fold, dict):
        raise BadSource(f"{where} is not a mapping; expected {_SHAPE}")
    names = {part: _names(fold, part, where) for part in ("train", "val")}
    if both := set(names["train"]) & set(names["val"]):
        raise BadSource(
            f"{where}: train and val share cases, {len(both)} in all, such as {min(both)!r}"
        )
    return NamedFold(**names)


def _names(fold: dict[Any, Any], part: str, where: str) -> tuple[str, ...]:
    found = fold.get(part)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise BadSource(f"{where}: {part} is not a list of names; expected {_SHAPE}")
    if not found:
        raise BadSource(f"{where}: {part} is empty")
    name, number = Counter(found).most_common(1)[0]
    if number > 1:
        raise BadSource(f"{where}: {part} lists {name!r} {number} times")
    return tuple(found)
