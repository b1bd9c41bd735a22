"""Images that are DICOM series, with the segmentations and structure sets that were drawn on them.

If the pattern of the images matches folders, the series in each is taken. With images=dicom no
pattern is needed: each segmentation and structure set names its series, wherever the files are (at
TCIA they are in folders named by UIDs).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from loaders.cases import BadCase, BadSource
from loaders.datasets.dicom_series import held_files, is_image, one_series, series_below
from loaders.datasets.pairs.patterns import PATIENT, STRUCTURE, Files, known_of
from loaders.formats.dicom.series import Series, list_series
from loaders.formats.missing_words import missing
from loaders.formats.scans.masks import FORMS, Contents, class_of, contents_of
from loaders.formats.volumes.open import volume_stem

# The value of the option images if masks name their series.
BY_REFERENCE = "dicom"
_Parts = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Images by key: the parts of their paths, their masks and their slices."""

    images: dict[str, tuple[_Parts, list[tuple[str, _Parts]]]] = field(default_factory=dict)
    slices: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    rejected: list[BadCase] = field(default_factory=list)


def in_folders(source: Path, files: Files, chosen: Mapping[str, Any]) -> Found:
    """Return the series in the folders that match the pattern of the images, and their masks."""
    found = Found()
    for folder, parts in files.folders(chosen["images"]):
        try:
            series = series_below(source / folder, source)
            known = {**known_of(folder, parts), "stem": PurePosixPath(folder).name}
            masks, named = _masks(source, files.fitting(chosen["masks"], known))
            # Of several series in a folder, the one on which the masks were drawn is meant.
            drawn = [one for one in series if one.uid in named]
            one = one_series(
                drawn if drawn and not chosen["series"] else series, chosen["series"], folder
            )
        except BadCase as bad:
            found.rejected.append(bad)
            continue
        _add(found, folder, one, parts, masks)
    return found


def by_reference(source: Path, chosen: Mapping[str, Any]) -> Found:
    """Return the series that the masks of a source name; raises BadSource."""
    if chosen["masks"] not in FORMS:
        raise BadSource(
            f"option masks is {chosen['masks']!r}; with images={BY_REFERENCE} it must be one of: "
            f"{', '.join(FORMS)} ({BY_REFERENCE} for both)"
        )
    found = Found()
    listed, bad = list_series(held_files(source, source, found.rejected), source, nameless=True)
    found.rejected.extend(bad)
    images = {series.uid: series for series in listed if is_image(series)}
    masks: dict[str, list[tuple[str, _Parts]]] = {}
    wanted = FORMS[chosen["masks"]]
    for path in (path for series in listed if not is_image(series) for path in series.paths):
        name = path.relative_to(source).as_posix()
        try:
            if class_of(path, name) not in wanted:
                continue
            contents = contents_of(path, name)
        except BadCase as bad_mask:
            bad_mask.key = name
            found.rejected.append(bad_mask)
            continue
        if not contents.series & set(images):
            reason = "the series that the mask names is not in the source"
            if not contents.series:
                reason = "the mask names no series: set images=PATTERN to find the images"
            found.rejected.append(BadCase(reason, where=name, key=name))
        for uid in contents.series & set(images):
            masks.setdefault(uid, []).extend(_named(name, {}, contents))
    folders = Counter(_folder(images[uid], source) for uid in masks)
    taken: Counter[str] = Counter()
    for uid in sorted(masks):
        folder = _folder(images[uid], source)
        taken[folder] += 1
        key = folder if folders[folder] == 1 else f"{folder} (series {taken[folder]})"
        _add(found, key, images[uid], {}, masks[uid])
    if not masks:
        raise BadSource(
            f"{source} holds {len(images)} DICOM series of images, and no mask for any"
            + (f": {found.rejected[0].where}: {found.rejected[0].reason}" if found.rejected else "")
        )
    return found


def is_series_mask(path: Path) -> bool:
    """Tell whether a file is a segmentation or a structure set."""
    with suppress(BadCase, OSError):  # reported when it is read
        return class_of(path, "") in FORMS[BY_REFERENCE]
    return False


def _add(
    found: Found,
    key: str,
    series: Series,
    parts: _Parts,
    masks: list[tuple[str, _Parts]],
) -> None:
    whose = {} if PATIENT in parts or missing(series.patient) else {PATIENT: series.patient}
    found.images[key] = ({**parts, **whose}, masks)
    found.slices[key] = series.paths


def _masks(
    source: Path, fitting: Iterable[tuple[str, _Parts]]
) -> tuple[list[tuple[str, _Parts]], set[str]]:
    """Return the masks among files, one per structure, and the series that they name."""
    masks: list[tuple[str, _Parts]] = []
    named: set[str] = set()
    for name, parts in fitting:
        if volume_stem(name):
            masks.append((name, parts))
        elif class_of(source / name, name) in FORMS[BY_REFERENCE]:
            contents = contents_of(source / name, name)
            masks += _named(name, parts, contents)
            named |= contents.series
    return masks, named


def _named(name: str, parts: _Parts, contents: Contents) -> list[tuple[str, _Parts]]:
    # Several structures of one name are reported when the file is read.
    return [(name, {**parts, STRUCTURE: one}) for one in dict.fromkeys(contents.names)]


def _folder(series: Series, source: Path) -> str:
    return series.paths[0].parent.relative_to(source).as_posix()
