"""The elements of a plain header, in a tenth of pydicom's time.

Most headers are a sequence of elements of known lengths. Anything else (an undefined length, an
unknown VR, a switch between implicit and explicit VRs) is left to pydicom, and so is the meaning of
an element: this only finds where each begins and ends.
"""

from functools import cached_property, lru_cache
from struct import Struct
from typing import Any, TypeVar

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import (
    DataElement,
    RawDataElement,
    convert_raw_data_element,
    empty_value_for_VR,
)
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

# PS3.5 7.1.2 and 7.1.3: the tag (its group in the lower half) and the VR with a length of 16 bits,
# or of 32 bits after two reserved bytes; or the tag with a length of 32 bits.
_EXPLICIT, _IMPLICIT, _LENGTH = Struct("<L2sH"), Struct("<LL"), Struct("<L")
_SHORT = {vr.encode(): str(vr) for vr in EXPLICIT_VR_LENGTH_16}
_LONG = {vr.encode(): str(vr) for vr in EXPLICIT_VR_LENGTH_32}
_UNDEFINED = 2**32 - 1
# An element as found: its VR if it is written, its value's bytes, and their offset.
_Found = tuple[str | None, Any, int]
# Specific Character Set (0008,0005), and the group of sequence delimiters.
_CHARACTERS, _DELIMITERS = 0x00080005, 0xFFFE

Made = TypeVar("Made", bound=Dataset)


@lru_cache(maxsize=64)
def _empty(vr: str | None) -> Any:
    return empty_value_for_VR(vr, raw=True)


class Plain:
    """Unparsed little-endian elements by tag; `meta` is the file's, if known.

    Only a dozen elements of a CT slice are used; converting all of them with pydicom would take
    most of a header's time (measured).
    """

    def __init__(self, found: dict[int, _Found], *, implicit: bool) -> None:
        self.found = found
        self.implicit = implicit
        self.meta: Plain | FileMetaDataset | None = None

    @cached_property
    def encodings(self) -> tuple[str, ...]:
        """The character sets of its texts, by Python's names."""
        characters = self.found.get(_CHARACTERS)
        return _encodings(*characters[:2]) if characters else (default_encoding,)

    @cached_property
    def dataset(self) -> Dataset:
        """All elements as pydicom's data set, which is made once."""
        made = self.made(Dataset)
        if self.meta is not None:
            meta = self.meta
            made.file_meta = meta.made(FileMetaDataset) if isinstance(meta, Plain) else meta
        return made

    def made(self, make: type[Made]) -> Made:
        """Return the elements as pydicom's `read_dataset` would, in a data set of type `make`."""
        elements: dict[BaseTag, DataElement | RawDataElement] = {}
        for number, (vr, value, first) in self.found.items():
            tag = BaseTag(number)
            length = len(value or b"")
            elements[tag] = RawDataElement(tag, vr, length, value, first, self.implicit, True)
        dataset = make(elements)
        told: str | list[str] = default_encoding
        if _CHARACTERS in self.found:
            told = list(self.encodings)
        dataset.set_original_encoding(self.implicit, True, told)
        return dataset


def plain_elements(content: bytes, *, implicit: bool) -> Plain | None:
    """Return the elements in these bytes, little endian.

    None unless the bytes are elements of known lengths from first to last.
    """
    # Writers may declare one and write the other; like pydicom, this trusts the first VR.
    if implicit and content[4:6].isalpha():
        return None
    found: dict[int, _Found] = {}
    at, end = 0, len(content)
    vr: str | None = None
    while at < end:
        if end - at < 8:
            return None
        first = at + 8
        if implicit:
            written, length = _IMPLICIT.unpack_from(content, at)
        else:
            written, name, length = _EXPLICIT.unpack_from(content, at)
            vr = _SHORT.get(name)
            if vr is None:
                vr = _LONG.get(name)
                if vr is None or end - first < 4:
                    return None
                (length,) = _LENGTH.unpack_from(content, first)
                first += 4
        at = first + length
        if at > end or length == _UNDEFINED or written & 0xFFFF == _DELIMITERS:
            return None
        value = content[first:at] if length else _empty(vr)
        found[(written & 0xFFFF) << 16 | written >> 16] = vr, value, first
    return Plain(found, implicit=implicit)


@lru_cache(maxsize=64)
def _encodings(vr: str | None, written: Any) -> tuple[str, ...]:
    length = len(written or b"")
    raw = RawDataElement(BaseTag(_CHARACTERS), vr, length, written, 0, vr is None, True)
    return tuple(convert_encodings(convert_raw_data_element(raw).value))
