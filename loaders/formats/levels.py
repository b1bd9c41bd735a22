"""The scale of a picture's grey levels, and the conversion of several scales to one.

White is 4095 in a picture of 12 bits and 65535 in one of 16. The bit depth is known if the header
or the coded frame declares fewer bits than a number takes in the file (BitsStored 12 of 16, a JPEG
2000 frame of 14 bits). A file that declares 16 of 16 reveals nothing: most writers do so whatever
their detector has. Such a picture is on the set's only scale if that holds its values; otherwise
its scale is unknown, and it is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.cases import Array, BadCase, BadSource

# Usual bit depths of detectors and displays (assumption).
_USUAL = (8, 10, 12, 14, 16)
# The share of examined pictures that may differ from the rest and are rejected when they are read;
# if there are more, the set is on two scales (assumption).
_ODD = 1 / 4


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture (C, Y, X) as stored, and the scale of its values.

    `bits` is the depth of its levels; 0: they are measured values such as Hounsfield units and
    floats. `told` says whether the depth is known; otherwise it is the largest possible one.
    `white_is_zero`: the levels must still be inverted, within their depth.
    """

    array: Array
    bits: int
    told: bool = True
    white_is_zero: bool = False

    @property
    def deep(self) -> bool:
        """Whether its levels have or may have more than 8 bits."""
        return self.bits > 8 or not self.told

    @property
    def needed(self) -> int:
        """The usual depth that holds its largest value."""
        return bits_for(int(self.array.max()))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The scale of a set: its bits (0: measured values), and the known depths, sorted."""

    bits: int
    told: tuple[int, ...]


def bits_for(level: int) -> int:
    """Return the smallest usual depth that holds a level, or its own bits if none does."""
    return next((bits for bits in _USUAL if level < 2**bits), level.bit_length())


def common_scale(pictures: Sequence[Picture]) -> Scale:
    """Return the scale to which pictures are converted, the deepest; raises BadSource.

    Exceptions do not count: they are rejected when they are read. Two mixtures are refused: levels
    of 8 bits beside deeper ones, of which they are usually windowed copies, and levels beside
    measured values.
    """
    pictures = _most(pictures, lambda picture: picture.bits > 0)
    pictures = _most(pictures, lambda picture: picture.deep)
    if len({picture.bits > 0 for picture in pictures}) > 1:
        raise BadSource(
            "some pictures hold grey levels and some measured values (RescaleSlope, Hounsfield "
            "units, floats): convert them to one scale"
        )
    if all(picture.bits == 0 for picture in pictures):
        # If no picture could be read, each is reported when it is read.
        return Scale(bits=0 if pictures else 8, told=() if pictures else (8,))
    if len({picture.deep for picture in pictures}) > 1:
        raise BadSource("some pictures have 8 bits and some more: convert them to one scale")
    told = {picture.bits for picture in pictures if picture.told}
    needed = {picture.needed for picture in pictures if not picture.told}
    return Scale(bits=max(told | needed), told=tuple(sorted(told)))


def _most(pictures: Sequence[Picture], which: Callable[[Picture], bool]) -> Sequence[Picture]:
    """Return the pictures like most of them if the others are exceptions, else all."""
    one, other = ([p for p in pictures if which(p) == is_so] for is_so in (True, False))
    few, most = sorted((one, other), key=len)
    return most if len(few) <= _ODD * len(pictures) else pictures


def on_scale(picture: Picture, scale: Scale, where: str) -> Array:
    """Return a picture (C, Y, X) with its levels on a set's scale; raises BadCase.

    Levels of another depth are stretched, so that black stays 0 and white becomes the set's white.
    """
    if (picture.bits == 0) != (scale.bits == 0):
        measured = "measured values (RescaleSlope, Hounsfield units, floats)"
        held = (measured, "grey levels") if picture.bits == 0 else ("grey levels", measured)
        raise BadCase(f"the picture holds {held[0]}, others {held[1]}: another scale", where=where)
    if picture.bits == 0:
        return picture.array
    if picture.deep != (scale.bits > 8 or not scale.told):
        bits = "more than 8 bits per value, others 8", "8 bits per value, others more"
        raise BadCase(f"the picture has {bits[not picture.deep]}: another scale", where=where)
    depth = picture.bits if picture.told else scale.bits
    if reason := _doubt(picture, scale):
        raise BadCase(reason, where=where)
    levels = picture.array
    if picture.white_is_zero:
        levels = np.subtract(2**depth - 1, levels, dtype=np.uint32).astype(_type_of(depth))
    if depth == scale.bits:
        return levels
    stretched: Array = np.rint(levels * ((2**scale.bits - 1) / (2**depth - 1)))
    return stretched.astype(_type_of(scale.bits))


def _type_of(bits: int) -> np.dtype[Any]:
    return np.dtype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


def _doubt(picture: Picture, scale: Scale) -> str:
    """Return why the scale of a picture is unknown, an empty text if it is known."""
    if picture.told:
        if scale.told:
            return ""
        return f"the picture has {picture.bits} bits, but the depth of the others is unknown"
    if picture.needed > scale.bits and (scale.told or picture.white_is_zero):
        return f"the picture's values take {picture.needed} bits, but the others have {scale.bits}"
    if fitting := [bits for bits in scale.told if picture.needed <= bits < scale.bits]:
        return (
            f"the picture's bit depth is unknown: its values fit {fitting[0]} and "
            f"{scale.bits} bits, and the set has both"
        )
    return ""


def two_levels(values: Array) -> tuple[int, int] | None:
    """Return the only level besides 0 in 8-bit values, and its count; None if there are others.

    Most masks have two levels; this takes a fifth of the time of counting all levels (measured).
    """
    level = int(values.max())
    count = int(np.count_nonzero(values == level))
    return (level, count) if level and count == np.count_nonzero(values != 0) else None


def counts_of_bytes(values: Array) -> NDArray[np.int64]:
    """Return how often each of 256 levels occurs among 8-bit values (n,).

    Pillow takes a quarter of numpy's time (measured), which converts to 64-bit numbers first.
    """
    from PIL import Image

    flat = np.ascontiguousarray(values)
    image = Image.frombuffer("L", (flat.size, 1), flat, "raw", "L", 0, 1)
    return np.array(image.histogram(), dtype=np.int64)
