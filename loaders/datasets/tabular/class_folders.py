"""Pictures in one folder per class, without a table: NORMAL/*.png, or train/NORMAL/*.png.

Folders named train, val and test, each with the classes inside, are the official parts. Pictures
deeper in a class folder belong to its class: NORMAL/patient7/1.png.
"""

import logging
import os
import shlex
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from loaders.cases import BadCase, BadSource
from loaders.datasets.pairs.suggested import masks_among
from loaders.datasets.patient_pattern import patient_in
from loaders.datasets.stray_files import is_stray, is_stray_folder
from loaders.datasets.tabular.labels import (
    OPTIONS,
    PARTS,
    Answers,
    Row,
    classes_of,
    consistent,
    is_table,
    positive_of,
)
from loaders.datasets.tabular.table_lines import canonical
from loaders.formats.inside import Inside

log = logging.getLogger(__name__)

# The value of csv if there is no table, although there is a .csv beside the folders.
NO_TABLE = "none"
# Settings that apply without a table.
_WITHOUT = ("name", "csv", "positive", "group_pattern")


def has_class_folders(source: Path, chosen: Mapping[str, Any], suffixes: Collection[str]) -> bool:
    """Tell whether a source has class folders: as set, or if there is no table and none is set."""
    if chosen["csv"] == NO_TABLE:
        return True
    asked = [name for name, (default, _) in OPTIONS.items() if chosen[name] != default]
    if not source.is_dir() or set(asked) - set(_WITHOUT) or chosen["csv"]:
        return False
    top = _top(source)
    return not any(map(is_table, source.iterdir())) and any(
        _pictures(folder, suffixes)[0] for folder in _folders(top)
    )


def read_class_folders(
    source: Path, chosen: Mapping[str, Any], suffixes: Collection[str]
) -> Answers:
    """Return the class of each picture by its folder; raises BadSource."""
    if not source.is_dir():
        raise BadSource(f"there is no folder {source}")
    asked = [name for name, (default, _) in OPTIONS.items() if chosen[name] != default]
    if without := [name for name in asked if name not in _WITHOUT]:
        raise BadSource(
            f"option {without[0]} is for a table, but this source has class folders: leave it "
            "out, or set csv=NAME"
        )
    top = _top(source)
    parts = _parts(top)
    if chosen["csv"] != NO_TABLE:
        _refuse_masks(source, parts, suffixes)
    pictures: dict[str, list[tuple[Path, str | None]]] = defaultdict(list)
    rejected: list[BadCase] = []
    inside = Inside(source)
    for place, part in parts.items():
        for folder in _folders(place):
            found, others = _pictures(folder, suffixes)
            if not found:
                log.warning("Folder %s holds no pictures.", folder.relative_to(source).as_posix())
            for path in found:
                if reason := _fault(path, inside):
                    rejected.append(_bad(reason, path, source))
                else:
                    pictures[canonical(folder.name)].append((path, part))
            rejected += [
                _bad("the file's ending is not that of a picture", path, source) for path in others
            ]
    loose = {path for place in {source, top, *parts} for path in place.iterdir() if path.is_file()}
    rejected += [
        _bad("the picture is not in a class folder", path, source)
        for path in sorted(loose)
        if path.suffix.lower() in suffixes and not is_stray(path.name)
    ]
    where = f"{source}, read by class folders,"
    classes, numbers = classes_of(where, pictures.keys(), rejected)
    rows = [
        Row(
            path=path,
            key=(key := path.relative_to(source).as_posix()),
            group=_group(key, chosen["group_pattern"]),
            label=numbers[name],
            split=part,
            columns=None,
        )
        for name, mine in pictures.items()
        for path, part in mine
    ]
    rows, contradicted = consistent(sorted(rows, key=lambda row: row.key))
    return Answers(
        rows=tuple(rows),
        rejected=(*rejected, *contradicted),
        classes=classes,
        positive=positive_of(classes, chosen["positive"], "the source"),
        grouped=bool(chosen["group_pattern"]),
    )


def _top(source: Path) -> Path:
    """Return the first folder that holds several: archives may unpack to nested single folders."""
    top = source
    while len(inner := _folders(top)) == 1 and inner[0].name.lower() not in PARTS:
        if not _folders(inner[0]):
            break
        (top,) = inner
    return top


def _folders(place: Path) -> list[Path]:
    return sorted(
        path
        for path in place.iterdir()
        if path.is_dir() and not path.is_symlink() and not is_stray_folder(path.name)
    )


def _parts(top: Path) -> dict[Path, str | None]:
    """Return the folders that hold the class folders, and the part of each; raises BadSource."""
    folders = _folders(top)
    parts = {folder: PARTS.get(folder.name.lower()) for folder in folders}
    named = [folder.name for folder, part in parts.items() if part]
    if not named:
        return {top: None}
    if others := [folder.name for folder, part in parts.items() if not part]:
        raise BadSource(
            f"{top}: {', '.join(named)} are parts by their names, but {', '.join(others[:5])} "
            "beside them are not: parts are named train, val or test; move the others out"
        )
    return dict(parts)


def _refuse_masks(source: Path, parts: Collection[Path], suffixes: Collection[str]) -> None:
    """Raise BadSource if folders are not classes but images and their masks."""
    for place in parts:
        held = {
            folder.name: [path.name for path in _pictures(folder, suffixes)[0]]
            for folder in _folders(place)
        }
        if both := masks_among(held):
            raise BadSource(
                f"{source}: {both[0]} and {both[1]} hold files of the same names and look like "
                "images with their masks, which kind pairs reads: medopt prepare "
                f"{shlex.quote(str(source))} suggests patterns; if they are classes, set "
                f"csv={NO_TABLE}"
            )


def _pictures(folder: Path, suffixes: Collection[str]) -> tuple[list[Path], list[Path]]:
    """Return the pictures below a folder, and its other files except stray ones."""
    found: list[Path] = []
    others: list[Path] = []
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not is_stray_folder(name))
        for name in sorted(names):
            if not is_stray(name):
                mine = found if Path(name).suffix.lower() in suffixes else others
                mine.append(Path(place, name))
    return found, others


def _fault(path: Path, inside: Inside) -> str | None:
    try:
        held = inside.holds(path)
    except (OSError, RuntimeError):
        return "the file is a link that leads to nothing"
    return None if held else "the file is a link that leads out of the source"


def _bad(reason: str, path: Path, source: Path) -> BadCase:
    name = path.relative_to(source).as_posix()
    return BadCase(reason, where=name, key=name)


def _group(key: str, pattern: str) -> str:
    return canonical(patient_in(key, pattern, "group_pattern")) if pattern else key
