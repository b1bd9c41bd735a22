"""The image series below a folder of a source, and the choice of one of them.

Segmentations, structure sets, reports and other files that are not images are skipped. One of
several series is chosen by its description or its size; only the terminal lists them.
"""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from loaders.cases import BadCase
from loaders.datasets.stray_files import is_stray, is_stray_folder
from loaders.formats.dicom.series import Series, list_series
from loaders.formats.inside import Inside

# The setting of a kind that reads series: its default and description.
SERIES = ("", "which of several DICOM series in a folder: words of its description, or largest")
LARGEST = "largest"
# Values of Modality for objects that are not images (PS3.3 C.7.3.1.1.1).
_NO_IMAGE = {
    *("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "REG", "FID", "DOC"),
    *("PLAN", "AU", "ECG", "EPS", "HD", "SMR", "TEXTUREMAP", "RWV", "STAIN", "ANN"),
}
# The longest list of series in a message, in characters.
_SHOWN = 400


def is_image(series: Series) -> bool:
    """Tell by its modality whether a series holds images."""
    return series.modality not in _NO_IMAGE


def series_below(folder: Path, source: Path) -> list[Series]:
    """Return the image series in a folder and below it, by their headers; raises BadCase."""
    bad: list[BadCase] = []
    found, damaged = list_series(held_files(folder, source, bad), source, nameless=True)
    if bad := [*bad, *damaged]:
        key = folder.relative_to(source).as_posix()
        raise BadCase(bad[0].reason, where=bad[0].where, key=key)
    return list(filter(is_image, found))


def images_of(source: Path, rejected: list[BadCase]) -> list[Series]:
    """Return all image series of a source; files that cannot be used are added to `rejected`."""
    found, bad = list_series(held_files(source, source, rejected), source, nameless=True)
    rejected += bad
    return list(filter(is_image, found))


def held_files(folder: Path, source: Path, rejected: list[BadCase]) -> list[Path]:
    """Return all files below a folder; links out of the source or to nowhere go to `rejected`."""
    inside = Inside(source)
    held = []
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not is_stray_folder(name))
        for path in (Path(place, name) for name in sorted(names) if not is_stray(name)):
            if path.is_symlink() and not (path.exists() and inside.holds(path)):
                where = path.relative_to(source).as_posix()
                reason = "the file is a link that leads out of the source or to nothing"
                rejected.append(BadCase(reason, where=where, key=where))
            else:
                held.append(path)
    return held


def one_series(found: Sequence[Series], wanted: str, where: str) -> Series:
    """Return the series that `wanted` describes, or the only one; raises BadCase."""
    if not found:
        raise BadCase("the folder holds no DICOM series of images", where=where, key=where)
    fitting = list(found)
    if wanted == LARGEST:
        most = max(len(series.paths) for series in found)
        fitting = [series for series in found if len(series.paths) == most]
    elif wanted:
        plain = wanted.casefold()
        same = [series for series in found if series.description.casefold() == plain]
        fitting = same or [one for one in found if plain in one.description.casefold()]
    if len(fitting) == 1:
        return fitting[0]
    shown = f"{where} ({_shown(found)})"
    if not fitting:
        reason = f"no series of the folder has {wanted!r} in its description"
    elif wanted:
        reason = f"{len(fitting)} series of the folder match series={wanted}"
    else:
        reason = (
            f"the folder holds {len(found)} series: set series=WORDS from the description of one, "
            f"or series={LARGEST}"
        )
    raise BadCase(reason, where=shown, key=where)


def _shown(found: Collection[Series]) -> str:
    each = [
        f"{series.modality} {series.description or 'without a description'!r}, "
        f"{len(series.paths)} files"
        for series in found
    ]
    return "; ".join(each)[:_SHOWN]
