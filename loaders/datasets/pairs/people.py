"""The patient and official part of each image, from its path, a pattern or a table."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from loaders.cases import BadCase, BadSource
from loaders.datasets.pairs.matching import Pair
from loaders.datasets.pairs.patterns import PATIENT, stem_of
from loaders.datasets.patient_pattern import patient_in
from loaders.datasets.tabular.labels import PARTS
from loaders.datasets.tabular.table_lines import canonical
from loaders.formats.csv_table import open_table, table_under
from loaders.formats.missing_words import missing

# The part of the images' pattern that names the official part.
SPLIT = "split"


def people_of(
    source: Path, pairs: Sequence[Pair], chosen: Mapping[str, Any]
) -> tuple[list[str], list[str | None], str, list[BadCase]]:
    """Return the group and the official part of each pair, what a group is, and unusable lines.

    Raises BadSource.
    """
    told: dict[str, tuple[str | None, str | None]] = {}
    rejected: list[BadCase] = []
    if chosen["csv"]:
        told, rejected = _table(source, pairs, chosen)
    elif chosen["group"] or chosen["split"]:
        raise BadSource("options group and split name columns of a table: set csv=NAME too")
    if chosen["group"] and chosen["group_pattern"]:
        raise BadSource("options group and group_pattern both name the patient: leave one out")
    groups: list[str] = []
    splits: list[str | None] = []
    by_mask = _shared(pairs)
    for pair in pairs:
        group, split = told.get(pair.key, (None, None))
        if chosen["group_pattern"]:
            group = canonical(patient_in(pair.key, chosen["group_pattern"], "group_pattern"))
        groups.append(group or pair.parts.get(PATIENT) or by_mask.get(pair.key, pair.key))
        splits.append(split or _part(pair.parts.get(SPLIT), "the pattern of the images"))
    lost = [pair.key for pair in pairs if pair.key not in told]
    if chosen["group"] and lost:
        raise BadSource(
            f"{chosen['csv']} has no line for {len(lost)} of {len(pairs)} images, the first "
            f"{lost[0]}, so their patients are unknown"
        )
    known = chosen["group"] or chosen["group_pattern"] or any(PATIENT in p.parts for p in pairs)
    return groups, splits, "patient" if known else "case", rejected


def _shared(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return a common name for images that share a mask, which would leak across a split."""
    images: dict[Path, list[str]] = defaultdict(list)
    for pair in pairs:
        for path in {path for paths in pair.masks.values() for path in paths}:
            images[path].append(pair.key)
    return {key: same[0] for same in images.values() if len(same) > 1 for key in same}


def _part(text: str | None, where: str) -> str | None:
    if text is None:
        return None
    if text.lower() not in PARTS:
        raise BadSource(f"{where}: unknown part {text!r}; it must be one of: train, val, test")
    return PARTS[text.lower()]


def _table(
    source: Path, pairs: Sequence[Pair], chosen: Mapping[str, Any]
) -> tuple[dict[str, tuple[str | None, str | None]], list[BadCase]]:
    table = open_table(table_under(source, chosen["csv"], "csv"))
    column = {"image": table.first_named}
    for role in ("image", "group", "split"):
        if chosen[role]:
            at = table.column(chosen[role])
            if at is None:
                raise BadSource(
                    f"{table.name} has no column {chosen[role]!r} for the {role}; its columns are: "
                    f"{', '.join(table.columns)[:300]}"
                )
            column[role] = at
    named: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        path = PurePosixPath(pair.key)
        for name in {pair.key, path.name, stem_of(pair.key), *pair.parts.values()}:
            named[name.casefold()].append(pair.key)
    found: dict[str, tuple[str | None, str | None]] = {}
    rejected: list[BadCase] = []
    for number, cells in table.lines(rejected, list(column.values())):
        cell = {role: cells[at] for role, at in column.items()}
        if empty := [role for role, text in cell.items() if missing(text)]:
            reason = f"column {table.columns[column[empty[0]]]} has no value"
            rejected.append(BadCase(reason, where=table.where(number)))
            continue
        name = PureWindowsPath(cell["image"]).as_posix()
        images = named.get(name.casefold()) or named.get(PurePosixPath(name).name.casefold(), [])
        group = canonical(cell["group"]) if "group" in cell else None
        split = _part(cell.get("split"), table.where(number))
        for key in images:
            if found.setdefault(key, (group, split)) != (group, split):
                raise BadSource(
                    f"{table.where(number)}: another line gives {key} a different patient or part"
                )
    if not found:
        raise BadSource(
            f"{table.name}: column {table.columns[column['image']]} names none of the images, "
            f"such as {pairs[0].key}: set image=COLUMN"
        )
    return found, rejected
