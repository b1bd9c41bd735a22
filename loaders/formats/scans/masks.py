"""The masks of a DICOM series: segmentation objects (DICOM-SEG) and RT structure sets, by name.

Its SOP class tells which of the two a file is. A mask belongs to the series that it names or, if it
names none, to the series in its frame of reference; a mask of another series is refused.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from loaders.cases import Array, BadCase
from loaders.formats.dicom.file import (
    MAX_BYTES,
    DicomFile,
    damage_told,
    open_file,
    open_header,
    quiet,
)
from loaders.formats.scans import segmentation, structure_set
from loaders.formats.scans.scan import Scan

# (name, series, shift, threshold) -> the structure as 0 and 1 (X, Y, Z); raises BadCase.
Voxels: TypeAlias = Callable[[str, Scan, float, int], Array]


class _Reader(Protocol):
    """A reader of one of the two kinds of file; each function raises BadCase."""

    def names(self, file: DicomFile, /) -> list[str]:
        """Return the names of its structures."""

    def series_of(self, file: DicomFile, /) -> set[str]:
        """Return the UIDs of the series that it names."""

    def frames_of(self, file: DicomFile, /) -> set[str]:
        """Return the UIDs of its frames of reference."""

    def opened(self, file: DicomFile, /) -> Voxels:
        """Return a function that gives the voxels of a structure."""


SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", segmentation.LABEL_MAP)
STRUCTURE_SETS = ("1.2.840.10008.5.1.4.1.1.481.3",)
# By SOP class (PS3.4 B.5).
_READERS: Mapping[str, _Reader] = {
    **dict.fromkeys(SEGMENTATIONS, segmentation),
    **dict.fromkeys(STRUCTURE_SETS, structure_set),
}
# The names of the two in the settings of a kind.
FORMS = {"seg": SEGMENTATIONS, "rtstruct": STRUCTURE_SETS, "dicom": tuple(_READERS)}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file of masks declares: the names of its structures, and the series that it names."""

    names: tuple[str, ...]
    series: frozenset[str]


def class_of(path: Path, where: str) -> str:
    """Return a file's SOP class, empty if it is not a DICOM file; raises BadCase."""
    with quiet():
        file = open_header(path, where, ["SOPClassUID"])
        return "" if file is None else str(file.value("SOPClassUID") or "").strip()


def contents_of(path: Path, where: str) -> Contents:
    """Return what a file of masks holds; raises BadCase."""
    with quiet(), damage_told(where, "the mask is damaged or cut off"):
        file, reader = _open(path, where, pixels=False)
        return Contents(names=tuple(reader.names(file)), series=frozenset(reader.series_of(file)))


@dataclass(frozen=True, kw_only=True)
class Masks:
    """The masks of one series; each file is parsed once.

    `shift` is how far, in voxels, a segmentation may be from the series' grid; `threshold` is the
    level from which fractional voxels count as inside, 0 for half of the largest.
    """

    scan: Scan
    shift: float
    threshold: int
    where: str
    _known: dict[Path, tuple[Counter[str], Voxels]] = field(default_factory=dict)

    def load(self, path: Path, name: str, *, union: bool) -> Array:
        """Return one structure of a file as 0 and 1 (X, Y, Z); raises BadCase.

        `union`: several structures of that name are united; otherwise they are refused.
        """
        with quiet(), damage_told(self.where, "the mask is damaged or cut off"):
            if path not in self._known:
                file, reader = _open(path, self.where, pixels=True)
                self._check_series(reader.series_of(file), reader.frames_of(file))
                self._known[path] = Counter(reader.names(file)), reader.opened(file)
            names, voxels = self._known[path]
            if not names[name]:
                raise BadCase(f"the mask has no structure {name!r}", where=self.where)
            if names[name] > 1 and not union:
                raise BadCase(
                    f"the mask has {names[name]} structures named {name!r}; several=union "
                    "would unite them",
                    where=self.where,
                )
            return voxels(name, self.scan, self.shift, self.threshold)

    def _check_series(self, series: Collection[str], frames: Collection[str]) -> None:
        strange = series and self.scan.series not in series
        elsewhere = frames and self.scan.frame and self.scan.frame not in frames
        if strange or elsewhere:
            what = "series" if strange else "frame of reference"
            raise BadCase(
                f"the mask is for another {what}: it was not drawn on this image", where=self.where
            )


def _open(path: Path, where: str, *, pixels: bool) -> tuple[DicomFile, _Reader]:
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadCase(f"the mask has {size} bytes; at most {MAX_BYTES} are read", where=where)
    file = open_file(path, where, stop_before_pixels=not pixels)
    found = "" if file is None else str(file.value("SOPClassUID") or "").strip()
    if file is None or found not in _READERS:
        raise BadCase(
            "the mask is neither a DICOM segmentation nor an RT structure set", where=where
        )
    return file, _READERS[found]
