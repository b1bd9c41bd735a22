"""The radiologists' reads of LIDC-IDRI (XML), unchanged: no image, no clustering.

Format: the collection's LidcReadMessage schema; Armato et al., Medical Physics 38:915 (2011).
A file holds a session for each reader (up to four; a few files hold eight, four of them for another
series). Readers have no names, and their order means nothing. A file that declares a DTD or an
entity is refused: no file of the collection does, and both can be used to attack a parser.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring, iterparse

from loaders.cases import BadCase

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_NODULES, _FILMS = "LidcReadMessage", "IdriReadMessage"
_NAMESPACE = "{http://www.nih.gov}"
# The largest known read has 0.9 MB (assumption).
_MAX_BYTES = 16 << 20
# The series is named in the first few hundred bytes.
_HEAD_BYTES = 1 << 14
# The nine ratings of an outlined nodule, by their names in the XML, and the highest value of each
# scale, whose lowest is 1: McNitt-Gray et al., Academic Radiology 14:1464 (2007). A small share of
# the reads has lobulation and spiculation on a reversed scale (TCIA's notes on the collection);
# the files do not reveal which.
RATINGS: Mapping[str, int] = {
    "subtlety": 5,
    "internalStructure": 4,
    "calcification": 6,
    "sphericity": 5,
    "margin": 5,
    "lobulation": 5,
    "spiculation": 5,
    "texture": 5,
    "malignancy": 5,
}
# A file in no known text encoding raises LookupError.
_DAMAGE = (ParseError, ValueError, LookupError)


@dataclass(frozen=True, order=True)
class Roi:
    """An outline on one image: its pixels (x, y) are the first ones outside the nodule.

    `image` is a SOP instance UID. If `inclusion` is False, the outline is that of a hole.
    """

    image: str
    inclusion: bool
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True, order=True)
class Annotation:
    """A nodule of 3 mm or more as one reader saw it: its outlines, sorted, and nine ratings.

    `ratings` are in the order of RATINGS; 0 if the reader gave none, or none on the scale.
    """

    outlines: tuple[Roi, ...]
    ratings: tuple[int, ...]


@dataclass(frozen=True, order=True)
class Point:
    """The centre (x, y) on one image of something that its reader did not outline."""

    image: str
    x: int
    y: int


@dataclass(frozen=True)
class Session:
    """The marks of one reader.

    `nodules`: those of 3 mm and more. `small`: nodules below 3 mm, a point each. `non_nodules`:
    other abnormalities of 3 mm and more. All are sorted, so that equal sessions compare equal.
    """

    nodules: tuple[Annotation, ...]
    small: tuple[Point, ...]
    non_nodules: tuple[Point, ...]

    @property
    def images(self) -> set[str]:
        """The images (SOP instance UIDs) that carry a mark."""
        outlined = {roi.image for nodule in self.nodules for roi in nodule.outlines}
        return outlined | {point.image for point in self.small + self.non_nodules}


def list_reads(
    files: Iterable[Path], root: Path
) -> tuple[dict[str, tuple[Path, ...]], list[BadCase]]:
    """Find the reads among XML files: series UID -> its files (copies exist); only heads are read.

    A read of a chest X-ray (IdriReadMessage), another kind of XML and a damaged file are rejected.
    """
    reads: dict[str, tuple[Path, ...]] = {}
    rejected = []
    for path in sorted(files):
        where = str(path.relative_to(root))
        try:
            series = _series_of(path, where)
        except BadCase as error:
            error.key = where
            rejected.append(error)
        else:
            reads[series] = (*reads.get(series, ()), path)
    return reads, rejected


class _InTwo:
    """A document that is read in two pieces: its head and, if that is not enough, all the rest.

    If a token comes in many pieces, the time of Expat before 2.6 grows as the square of its length
    (CVE-2023-52425): 28 seconds for an attribute of 20 MB, read as usual.
    """

    def __init__(self, data: bytes) -> None:
        self._parts = iter((data[:_HEAD_BYTES], data[_HEAD_BYTES:]))

    def read(self, _: int) -> bytes:
        return next(self._parts, b"")


def _document(path: Path, where: str) -> bytes:
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise BadCase(f"the XML has {size >> 20} MiB, too much for a read", where=where)
    return path.read_bytes()


def _series_of(path: Path, where: str) -> str:
    document: Any = _InTwo(_document(path, where))
    try:
        events = iterparse(document, events=("start", "end"), forbid_dtd=True)
        _, root = next(events)
        name = root.tag.rpartition("}")[2]
        if name == _FILMS:
            raise BadCase(f"{_FILMS}: a read of a chest X-ray, not of CT", where=where)
        if name != _NODULES:
            raise BadCase(f"the XML is not a {_NODULES}, as a read is", where=where)
        for event, element in events:
            if event == "end" and element.tag == f"{_NAMESPACE}SeriesInstanceUid":
                if uid := (element.text or "").strip():
                    return uid
                break
    except DefusedXmlException as error:
        raise _refused(where) from error
    except _DAMAGE as error:
        if isinstance(error, BadCase):
            raise
        raise _damaged(error, where) from error
    raise BadCase("the read names no SeriesInstanceUid", where=where)


def read_sessions(paths: Iterable[Path], where: str) -> list[Session]:
    """Return the sessions of one series from all its files, sorted; raises BadCase.

    Files may be copies of each other. Sessions are matched by content: one that is in two files is
    one reader's, but two equal ones in one file (usually without marks) are two readers'.
    """
    merged: Counter[Session] = Counter()
    for path in paths:
        merged |= Counter(_sessions(path, where))
    return sorted(
        merged.elements(), key=lambda session: (session.nodules, session.small, session.non_nodules)
    )


def _sessions(path: Path, where: str) -> list[Session]:
    document = _document(path, where)
    try:
        root = fromstring(document, forbid_dtd=True)
    except DefusedXmlException as error:
        raise _refused(where) from error
    except _DAMAGE as error:
        raise _damaged(error, where) from error
    return [_session(element, where) for element in root.iter(f"{_NAMESPACE}readingSession")]


def _session(element: "Element", where: str) -> Session:
    nodules: list[Annotation] = []
    small: list[Point] = []
    for marked in element.iter(f"{_NAMESPACE}unblindedReadNodule"):
        rois = sorted(_roi(roi, where) for roi in marked.iter(f"{_NAMESPACE}roi"))
        if not rois:
            raise BadCase("unblindedReadNodule: a nodule has no roi", where=where)
        # An outline of one point is the centre of a small nodule; among true outlines it is a
        # slip of the mouse and ignored.
        if outlines := tuple(roi for roi in rois if len(roi.points) > 1):
            nodules.append(Annotation(outlines, _ratings(marked, where)))
        else:
            small.extend(Point(roi.image, *roi.points[0]) for roi in rois)
    others = [
        Point(_field(other, "imageSOP_UID", where), *_point(other, "locus", where))
        for other in element.iter(f"{_NAMESPACE}nonNodule")
    ]
    return Session(tuple(sorted(nodules)), tuple(sorted(small)), tuple(sorted(others)))


def _ratings(element: "Element", where: str) -> tuple[int, ...]:
    given = element.find(f"{_NAMESPACE}characteristics")
    ratings = []
    for name, highest in RATINGS.items():
        # If a reader skipped a scale, its element is missing or empty.
        named = given is not None and (given.findtext(f"{_NAMESPACE}{name}") or "").strip()
        value = _whole(given, name, where) if given is not None and named else 0
        ratings.append(value if 1 <= value <= highest else 0)
    return tuple(ratings)


def _roi(element: "Element", where: str) -> Roi:
    inclusion = _field(element, "inclusion", where).upper()
    if inclusion not in ("TRUE", "FALSE"):
        raise BadCase("inclusion is neither TRUE nor FALSE", where=where)
    points = tuple(
        (_whole(edge, "xCoord", where), _whole(edge, "yCoord", where))
        for edge in element.iter(f"{_NAMESPACE}edgeMap")
    )
    if not points:
        raise BadCase("roi: an outline has no edgeMap", where=where)
    return Roi(_field(element, "imageSOP_UID", where), inclusion == "TRUE", points)


def _point(element: "Element", name: str, where: str) -> tuple[int, int]:
    child = element.find(f"{_NAMESPACE}{name}")
    if child is None:
        raise BadCase(f"{name} is missing", where=where)
    return _whole(child, "xCoord", where), _whole(child, "yCoord", where)


def _whole(element: "Element", name: str, where: str) -> int:
    text = _field(element, name, where)
    try:
        return int(text)
    except ValueError as error:
        raise BadCase(f"{name} is not a whole number", where=where) from error


def _field(element: "Element", name: str, where: str) -> str:
    if text := (element.findtext(f"{_NAMESPACE}{name}") or "").strip():
        return text
    raise BadCase(f"{name} is missing", where=where)


def _refused(where: str) -> BadCase:
    return BadCase("the XML declares a DTD or entities, which are never read", where=where)


def _damaged(error: Exception, where: str) -> BadCase:
    return BadCase(f"the XML is damaged: {type(error).__name__}", where=where)
