"""Simulated radiologists: their marks on a chest phantom, as XML like that of LIDC's readers.

They disagree as LIDC's do: one misses a faint nodule, another draws it larger, the ends differ by a
slice, a small one gets a point or nothing, and some call a scar a nodule.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from loaders.phantoms.chest import Lesion
from loaders.phantoms.random_fields import smooth_field

READERS = 4
# LIDC's readers outlined nodules from this size on; smaller ones got a point.
_OUTLINED_MM = 3.0
# A nodule below this density is faint; readers miss more of these (assumption).
_FAINT_HU = -300.0

Pixels = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A reader's mark in one place: `kind` is "nodule" or "other".

    `outlines` are pairs of a slice and pixels (x, y): a closed chain, or only the centre.
    """

    kind: str
    outlines: tuple[tuple[int, Pixels], ...]
    diameter: float


def read_lesions(
    lesions: Sequence[Lesion], spacing: tuple[float, float, float], random: np.random.Generator
) -> list[list[Mark]]:
    """Return the marks of each of four readers; `spacing` is that of voxels (z, y, x), in mm."""
    readers = []
    for _ in range(READERS):
        # Some draw tight, some wide.
        habit = random.normal(0.0, 0.25)
        kinds = [_judgement(lesion, random) for lesion in lesions]
        readers.append(
            [
                _draw(lesion, kind, spacing, habit, random)
                for lesion, kind in zip(lesions, kinds, strict=True)
                if kind
            ]
        )
    return readers


def _judgement(lesion: Lesion, random: np.random.Generator) -> str:
    """Return a reader's judgement of a lesion: nodule, other or nothing (empty)."""
    if lesion.kind == "scar":
        return str(random.choice(["nodule", "other", ""], p=[0.1, 0.5, 0.4]))
    seen = min(0.6 + 0.12 * (lesion.diameter - _OUTLINED_MM), 0.97)
    if lesion.density < _FAINT_HU:
        seen -= 0.12
    return "nodule" if random.random() < seen else ""


def _draw(
    lesion: Lesion,
    kind: str,
    spacing: tuple[float, float, float],
    habit: float,
    random: np.random.Generator,
) -> Mark:
    """Return a reader's outlines of a lesion, or its centre if it is small or not a nodule."""
    shape = lesion.distance.shape
    axes = [np.arange(n) * mm for n, mm in zip(shape, spacing, strict=True)]
    drawn = lesion.distance - habit + 0.3 * smooth_field(random, axes, 3.0) <= 0
    parts, count = ndimage.label(drawn)
    if count > 1:
        drawn = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    diameter = float(np.cbrt(6 / np.pi * drawn.sum() * np.prod(spacing)))
    if kind == "nodule" and diameter >= _OUTLINED_MM:
        outlines = tuple(
            (lesion.origin[0] + z, _shift(pixels, lesion))
            for z, level in enumerate(drawn)
            for pixels in outlines_of(level)
        )
    else:
        z, y, x = np.unravel_index(lesion.distance.argmin(), shape)
        outlines = ((lesion.origin[0] + int(z), _shift([(int(x), int(y))], lesion)),)
    return Mark(kind=kind, outlines=outlines, diameter=diameter)


def _shift(pixels: Iterable[tuple[int, int]], lesion: Lesion) -> Pixels:
    return tuple((x + lesion.origin[2], y + lesion.origin[1]) for x, y in pixels)


def outlines_of(mask: NDArray[np.bool_]) -> Iterator[list[tuple[int, int]]]:
    """Yield the outline of each part of a mask (y, x): a closed chain of pixels (x, y) around it.

    The pixels are the first ones outside, as LIDC's readers drew them, so at the mask's border they
    have an index of -1 or the mask's size. Holes are filled.
    """
    parts, count = ndimage.label(ndimage.binary_fill_holes(mask))
    for part in range(1, count + 1):
        yield _trace(np.pad(parts == part, 1))


def _trace(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Walk around one part, which does not touch the array's border, along its pixels' edges."""
    y, x = (int(i) for i in np.argwhere(mask)[0])
    out_y, out_x = -1, 0
    start = (y, x, out_y, out_x)
    chain: list[tuple[int, int]] = []
    while not chain or (y, x, out_y, out_x) != start:
        # The array is padded by one.
        outside = (x + out_x - 1, y + out_y - 1)
        if not chain or chain[-1] != outside:
            chain.append(outside)
        ahead_y, ahead_x = out_x, -out_y
        if not mask[y + ahead_y, x + ahead_x]:
            out_y, out_x = ahead_y, ahead_x
        elif not mask[y + ahead_y + out_y, x + ahead_x + out_x]:
            y, x = y + ahead_y, x + ahead_x
        else:
            y, x = y + ahead_y + out_y, x + ahead_x + out_x
            out_y, out_x = -ahead_y, -ahead_x
    if chain[0] != chain[-1]:
        chain.append(chain[0])
    return chain


def to_xml(
    readers: Sequence[Sequence[Mark]],
    *,
    series: str,
    study: str,
    images: Sequence[tuple[str, float]],
    random: np.random.Generator,
) -> str:
    """Return a LidcReadMessage; `images` are each slice's SOP instance UID and z position (mm)."""
    body = "".join(
        "<readingSession><annotationVersion>3.12</annotationVersion>"
        "<servicingRadiologistID>anon</servicingRadiologistID>"
        + "".join(_element(mark, i, images, random) for i, mark in enumerate(marks, start=1))
        + "</readingSession>\n"
        for marks in readers
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<LidcReadMessage uid="1.2.3" xmlns="http://www.nih.gov">\n'
        "<ResponseHeader><Version>1.8.1</Version>"
        "<TaskDescription>Second unblinded read</TaskDescription>"
        f"<SeriesInstanceUid>{escape(series)}</SeriesInstanceUid>"
        f"<StudyInstanceUID>{escape(study)}</StudyInstanceUID></ResponseHeader>\n"
        f"{body}</LidcReadMessage>\n"
    )


def _element(
    mark: Mark, number: int, images: Sequence[tuple[str, float]], random: np.random.Generator
) -> str:
    if mark.kind == "other":
        ((level, ((x, y),)),) = mark.outlines
        return (
            f"<nonNodule><nonNoduleID>{number}</nonNoduleID>{_place(images[level])}"
            f"<locus><xCoord>{x}</xCoord><yCoord>{y}</yCoord></locus></nonNodule>\n"
        )
    rois = "".join(
        f"<roi>{_place(images[level])}<inclusion>TRUE</inclusion>"
        + "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in pixels)
        + "</roi>\n"
        for level, pixels in mark.outlines
    )
    outlined = len(mark.outlines[0][1]) > 1
    ratings = _ratings(mark, random) if outlined else ""
    return (
        f"<unblindedReadNodule><noduleID>{number}</noduleID>{ratings}{rois}</unblindedReadNodule>\n"
    )


def _place(image: tuple[str, float]) -> str:
    uid, z = image
    return f"<imageZposition>{z:.2f}</imageZposition><imageSOP_UID>{uid}</imageSOP_UID>"


def _ratings(mark: Mark, random: np.random.Generator) -> str:
    """Return the nine ratings; larger nodules are rated more malignant."""
    malignancy = np.clip(np.rint(1 + (mark.diameter - 3) / 2.5 + random.normal(0, 0.7)), 1, 5)
    values = {
        "subtlety": random.integers(1, 6),
        "internalStructure": 1,
        "calcification": 6,
        "sphericity": random.integers(2, 6),
        "margin": random.integers(1, 6),
        "lobulation": random.integers(1, 6),
        "spiculation": random.integers(1, 6),
        "texture": random.integers(1, 6),
        "malignancy": int(malignancy),
    }
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    return f"<characteristics>{inner}</characteristics>"
