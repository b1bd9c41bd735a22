"""nnU-Net's `splits_final.json`: the folds that it trains by, as lists of case names.

A list of folds, each `{"train": [names], "val": [names]}` (its documentation, how-to
manual_data_splits.md); what it calls val is what a fold is scored on, and nothing is chosen by it.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders.cases import BadSource

# A list of a quarter of a million long names is a tenth of this. Assumption.
_MOST_BYTES = 2**28
_SHAPE = '[{"train": [names], "val": [names]}, ...]'


@dataclass(frozen=True, kw_only=True)
class NamedFold:
    """The names of the cases that one fold trains on, and of those that it is scored on."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def read_splits_final(path: Path) -> tuple[NamedFold, ...]:
    """Return the folds of a `splits_final.json`; raises BadSource that names the file and field.

    No part is empty and no name is twice in a fold.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadSource(f"{path.name} is larger than {_MOST_BYTES >> 20} MiB: no list of folds")
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BadSource(
            f"{path.name} cannot be read ({error.strerror}): looked for {path}"
        ) from None
    except (ValueError, RecursionError):
        raise BadSource(f"{path.name} is no JSON; wanted is {_SHAPE}") from None
    if not isinstance(found, list) or not found:
        raise BadSource(f"{path.name} is no list of folds; wanted is {_SHAPE}")
    return tuple(_fold(fold, f"{path.name}: fold {number}") for number, fold in enumerate(found))


def _fold(fold: Any, where: str) -> NamedFold:
    if not isinstance(fold, dict):
        raise BadSource(f"{where} is no mapping; wanted is {_SHAPE}")
    names = {part: _names(fold, part, where) for part in ("train", "val")}
    if both := set(names["train"]) & set(names["val"]):
        raise BadSource(
            f"{where}: {len(both)} case(s) are in train and in val, such as {min(both)!r}"
        )
    return NamedFold(**names)


def _names(fold: dict[Any, Any], part: str, where: str) -> tuple[str, ...]:
    found = fold.get(part)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise BadSource(f"{where}: {part} is no list of names; wanted is {_SHAPE}")
    if not found:
        raise BadSource(f"{where}: {part} is empty")
    name, number = Counter(found).most_common(1)[0]
    if number > 1:
        raise BadSource(f"{where}: {part} names {name!r} {number} times")
    return tuple(found)
