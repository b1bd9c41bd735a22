"""Opening one unchecked DICOM file: silently, and with a limit on its unpacked size.

Damage is reported as BadCase with the name of an element and never its value, which may identify a
person.
"""

import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from loaders.cases import BadCase
from loaders.formats.dicom.plain_elements import Plain, plain_elements
from loaders.formats.dicom.preamble import ENOUGH, PREAMBLE, begin_of

# What pydicom and its decoders raise on a file that is cut off or damaged; found by cutting and
# overwriting files at every place (tests/loaders/formats/test_dicom.py). An OSError with a number
# is not among them: a disk failure is not a fault of the case. pydicom raises some without one.
DAMAGE = (
    BytesLengthException,
    InvalidDicomError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
# The most bytes of a file, and of an unpacked deflated one, which may be a thousand times as large:
# 1000 slices of 512 x 512 in 16 bits (assumption).
MAX_BYTES = 2**29
# Value representations that mean the same in every character set (PS3.5 6.2).
_CONSTANT = ("CS", "DS", "IS", "UI", "US")
# Those of names and descriptions, whose text is in the file's character set.
_WORDS = "LO"
# Bytes read to find the header, the second number if the first does not suffice; it takes 2 to
# 20 kB (seen in LIDC-IDRI and pydicom's test files).
_HEADS = (2**12, 2**15)
# The group of the file meta information.
_META = 0x0002
# File Meta Information Group Length (0002,0000), a UL of four bytes, which is the first element.
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
# Pixel Data (7FE0,0010).
_PIXELS = b"\xe0\x7f\x10\x00"
# Bytes between an element's tag and its value, at most (PS3.5 7.1.2).
_AFTER_TAG = 8
# The VRs that it may have if they are explicit, with the bytes after them.
_WORDS_OR_BYTES = (b"OW\0\0", b"OB\0\0")
# The length that compressed pixels declare (PS3.5 A.4): they end with a delimiter.
_UNDEFINED = 2**32 - 1
# Transfer syntaxes whose elements are big-endian or deflated.
_OTHERWISE = (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom: its warnings and log lines contain paths and values of headers."""
    logger = logging.getLogger("pydicom")
    was = logger.disabled
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = was


@contextmanager
def damage_told(where: str, what: str = "a DICOM file is damaged or cut off") -> Iterator[None]:
    """Turn pydicom's errors on a damaged file into a BadCase that begins with `what`."""
    try:
        yield
    except BadCase:
        raise
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadCase(f"{what}: {type(error).__name__}", where=where) from error


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """Elements (a whole file's or a sequence item's) and `where`, the file's name for errors."""

    held: Dataset | Plain
    where: str

    @property
    def dataset(self) -> Dataset:
        """The elements as pydicom's data set, the same one each time."""
        return self.held.dataset if isinstance(self.held, Plain) else self.held

    @property
    def meta(self) -> "DicomFile":
        """The elements of the file meta information."""
        plain = isinstance(self.held, Plain) and self.held.meta
        return DicomFile(held=plain or self.dataset.file_meta, where=self.where)

    def value(self, keyword: str) -> Any:
        """Return an element's value, parsed on demand; None if it is absent. Raises BadCase."""
        if isinstance(self.held, Plain):
            return self._plain_value(keyword, self.held)
        element: Any = self.held.get_item(_tag(keyword), keep_deferred=True)
        if not isinstance(element, RawDataElement):
            return None if element is None else element.value
        with damage_told(self.where, f"{keyword} is damaged"):
            vr = element.VR or dictionary_VR(element.tag)
            if vr in _CONSTANT:
                return _converted(int(element.tag), vr, element.value, element.is_little_endian)
            return self.dataset.get(keyword)

    def _plain_value(self, keyword: str, held: Plain) -> Any:
        tag = _tag(keyword)
        found = held.found.get(tag)
        if found is None:
            return None
        try:
            vr = found[0] or dictionary_VR(tag)
            if vr in _CONSTANT:
                return _converted(tag, vr, found[1], True)
            if vr == _WORDS:
                return _converted(tag, vr, found[1], True, held.encodings)
        except (*DAMAGE, OSError):
            # Entered only now: entering it for each value would take longer than parsing the value.
            with damage_told(self.where, f"{keyword} is damaged"):
                raise
        with damage_told(self.where, f"{keyword} is damaged"):
            return held.dataset.get(keyword)

    def text(self, keyword: str) -> str:
        """Return an element as text; raises BadCase if it is missing or empty."""
        if found := str(self.value(keyword) or "").strip():
            return found
        raise BadCase(f"{keyword} is missing", where=self.where)

    def numbers(self, keyword: str, count: int) -> NDArray[np.float64]:
        """Return the `count` finite numbers of an element; raises BadCase."""
        if (found := self.value(keyword)) is None:
            raise BadCase(f"{keyword} is missing", where=self.where)
        try:
            # The slices of a series repeat them, except their positions.
            parse = _parsed if type(found) in _PLAIN_NUMBERS else _as_numbers
            parsed, finite = parse(found)
        except (TypeError, ValueError) as error:
            raise BadCase(f"{keyword} is not a number", where=self.where) from error
        if len(parsed) != count or not finite:
            raise BadCase(f"{keyword} does not have {count} finite numbers", where=self.where)
        return parsed

    def items(self, keyword: str) -> "list[DicomFile]":
        """Return the items of a sequence, an empty list if it is missing; raises BadCase."""
        if isinstance(self.held, Plain) and _tag(keyword) not in self.held.found:
            return []
        with damage_told(self.where):
            return [replace(self, held=item) for item in self.dataset.get(keyword) or ()]


class Start(NamedTuple):
    """A file's header, and the place of its pixels, in bytes.

    `end` is the offset of the pixels' element, `first` and `length` are the offset and length of
    the pixels that it declares, `size` is the file's. The file is little-endian; `implicit` tells
    whether its VRs are.
    """

    file: DicomFile
    end: int
    first: int
    length: int
    size: int
    implicit: bool


def open_start(path: Path, where: str) -> Start | None:
    """Return the header if it fits the first 32 KiB, else None: then call `open_file`.

    No more of the file is read. Raises BadCase if it is DICOM only by its name.
    """
    head = b""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for most in _HEADS:
            head += file.read(most - len(head))
            if head.find(_PIXELS, 0, len(head) - _AFTER_TAG) >= 0:
                break
    if _begin(head, path, where) is None:
        return None
    try:
        return _before_pixels(head, size, where)
    except (*DAMAGE, OSError):
        # The header may extend beyond these bytes; `open_file` reads all of it and reports damage.
        return None


def open_file(
    path: Path, where: str, *, limit: int = MAX_BYTES, **options: Any
) -> DicomFile | None:
    """Return a file's data set, or None if it is not DICOM and is not named `.dcm`.

    A deflated file is unpacked up to `limit` bytes and returned as if it had not been deflated.
    `options` are passed to pydicom's `dcmread`. Raises BadCase.
    """
    with path.open("rb") as file:
        begin = _begin(file.read(ENOUGH), path, where)
    if begin is None:
        return None
    with _Bounded(path) as file, damage_told(where):
        plain = _plain(file, begin, limit, where)
        # pydicom reads a file without a preamble only when it is forced to.
        dataset = pydicom.dcmread(plain, force=begin == 0, **options)
    return _with_syntax(DicomFile(held=dataset, where=where))


def open_header(path: Path, where: str, keywords: Sequence[str]) -> DicomFile | None:
    """Return a data set with these elements of the header; otherwise like `open_file`."""
    if (start := open_start(path, where)) is not None:
        return start.file
    return open_file(path, where, stop_before_pixels=True, specific_tags=list(keywords))


def with_pixels(start: Start, path: Path) -> DicomFile:
    """Return the data set of the whole file, given its header; raises BadCase."""
    with _Bounded(path) as file, damage_told(start.file.where):
        file.seek(start.end)
        start.file.dataset.update(read_dataset(file, start.implicit, True))
    return replace(start.file, held=start.file.dataset)


def check_pixels_whole(file: DicomFile, what: str = "the file") -> None:
    """Raise BadCase, which begins with `what`, if PixelData claims more bytes than there are."""
    pixels: Any = file.dataset.get_item("PixelData", keep_deferred=True)
    if not isinstance(pixels, RawDataElement) or pixels.length == _UNDEFINED:
        return
    if (held := len(pixels.value or b"")) < pixels.length:
        raise BadCase(
            f"{what} is cut off: PixelData claims {pixels.length} bytes, but has {held}",
            where=file.where,
        )


def _begin(start: bytes, path: Path, where: str) -> int | None:
    """Return the offset of the first element, None if this is not a DICOM file.

    Raises BadCase if it is one only by its name.
    """
    begin = begin_of(start[:ENOUGH])
    if begin is None and path.suffix.lower() == ".dcm":
        raise BadCase("the file's name ends in .dcm, but it is not a DICOM file", where=where)
    return begin


# (whether VRs are implicit, whether little-endian) -> the transfer syntax of elements.
_PLAIN_SYNTAX = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


def _with_syntax(file: DicomFile) -> DicomFile:
    """Return a file whose meta information states its transfer syntax; raises BadCase.

    If the file lacks it, the syntax is the one that pydicom inferred from the elements.
    """
    dataset: Any = file.dataset
    if not isinstance(getattr(dataset, "file_meta", None), FileMetaDataset):
        dataset.file_meta = FileMetaDataset()
    if file.meta.value("TransferSyntaxUID"):
        return file
    pixels = dataset.get_item("PixelData", keep_deferred=True)
    raw = isinstance(pixels, RawDataElement)
    if pixels is not None and (pixels.length == _UNDEFINED if raw else pixels.is_undefined_length):
        raise BadCase(
            "TransferSyntaxUID is missing, and the pixels are compressed in an unknown way",
            where=file.where,
        )
    syntax = _PLAIN_SYNTAX.get(dataset.original_encoding)
    if syntax is None:
        raise BadCase("TransferSyntaxUID is missing", where=file.where)
    dataset.file_meta.TransferSyntaxUID = syntax
    return file


def _before_pixels(head: bytes, size: int, where: str) -> Start | None:
    """Parse a file's header; return None unless it is certainly complete.

    It takes 0.4 to 0.6 of the time of `dcmread` (measured), which checks at each element whether to
    stop. `dcmread` would also read the file meta twice, to see whether a file is deflated.
    """
    begin = PREAMBLE + 4
    if len(head) < begin + 12 or head[begin : begin + 8] != _GROUP_LENGTH:
        return None
    data = begin + 12 + int.from_bytes(head[begin + 8 : begin + 12], "little")
    end = head.find(_PIXELS, data, len(head) - _AFTER_TAG)
    if end < 0 or (meta := _meta_elements(head[begin:data])) is None:
        return None
    syntax = DicomFile(held=meta, where=where).value("TransferSyntaxUID")
    if syntax not in AllTransferSyntaxes or syntax in _OTHERWISE:
        return None
    implicit = syntax == ImplicitVRLittleEndian
    held = _elements(head[data:end], implicit=implicit)
    if held is None or _tags(held)[0] >> 16 <= 2:
        return None
    if isinstance(held, Plain):
        held.meta = meta
    else:
        held.file_meta = meta.made(FileMetaDataset) if isinstance(meta, Plain) else meta
    # Tag, VR, two reserved bytes and the length if VRs are explicit, else tag and length.
    if not implicit and head[end + 4 : end + 8] not in _WORDS_OR_BYTES:
        return None
    first = end + (8 if implicit else 12)
    length = int.from_bytes(head[first - 4 : first], "little")
    file = DicomFile(held=held, where=where)
    return Start(file, end, first, length, size, implicit)


def _meta_elements(content: bytes) -> Plain | FileMetaDataset | None:
    """Return the file meta information in these bytes, None unless it fills them exactly.

    Raises ValueError if other elements are among them.
    """
    meta = _elements(content)
    if isinstance(meta, Plain):
        return meta if all(tag >> 16 == _META for tag in meta.found) else None
    return FileMetaDataset(meta) if meta else None


def _elements(content: bytes, *, implicit: bool = False) -> Plain | Dataset | None:
    """Return the elements in these bytes, None unless the last one ends with the bytes."""
    plain = plain_elements(content, implicit=implicit)
    if plain is not None and plain.found:
        return plain
    dataset = read_dataset(BytesIO(content), implicit, True)
    last: Any = dataset.get_item(_tags(dataset)[-1], keep_deferred=True) if len(dataset) else None
    if isinstance(last, RawDataElement) and last.value_tell + last.length == len(content):
        return dataset
    return None


def _tags(held: Plain | Dataset) -> list[int]:
    """Return the tags of elements in the order of the file."""
    return list(held.found if isinstance(held, Plain) else held.keys())


class _Bounded(BufferedReader):
    """A file that is never asked for more bytes than it has left.

    Python allocates as many bytes as are requested, and an element may claim 4 GiB.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, or all that are left."""
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or not 0 <= size <= left else size)


def _plain(file: BinaryIO, begin: int, limit: int, where: str) -> BinaryIO:
    """Return a file that pydicom may read, unpacked if it is deflated; raises BadCase."""
    file.seek(begin)
    meta = _meta(file)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return _inflated(meta, file.read(), limit, where)
    file.seek(0)
    return file


def _meta(file: BinaryIO) -> FileMetaDataset:
    """Read the file meta information to its end, whatever its group length claims."""
    return FileMetaDataset(
        read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2)
    )


def _inflated(meta: FileMetaDataset, packed: bytes, limit: int, where: str) -> BytesIO:
    """Return a deflated file as an explicit little endian one; raises BadCase and DAMAGE.

    pydicom inflates without a limit. So it is done here, from the end of the file meta (whatever
    its group length claims), and pydicom parses the limited result.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(packed, limit + 1)
    if len(content) > limit:
        raise BadCase(f"the deflated file holds more than {limit} bytes", where=where)
    if not inflater.eof:
        raise EOFError
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = DicomBytesIO()
    head.write(bytes(PREAMBLE) + b"DICM")
    write_file_meta_info(head, meta, enforce_standard=False)
    return BytesIO(head.getvalue() + content)


@lru_cache
def _tag(keyword: str) -> int:
    # A plain int: comparing pydicom's own type is ten times as slow.
    return int(Tag(keyword))


# The types of values that `_parsed` remembers.
_PLAIN_NUMBERS = (float, int, tuple)


def _as_numbers(found: Any) -> tuple[NDArray[np.float64], bool]:
    """Return numbers (n,), and whether all are finite."""
    numbers = np.array(found, np.float64).reshape(-1)
    return numbers, bool(np.isfinite(numbers).all())


@lru_cache(maxsize=1024)
def _parsed(found: Any) -> tuple[NDArray[np.float64], bool]:
    numbers, finite = _as_numbers(found)
    numbers.setflags(write=False)
    return numbers, finite


@lru_cache(maxsize=1024)
def _converted(
    tag: int,
    vr: str,
    written: bytes | None,
    little_endian: bool,
    encodings: tuple[str, ...] = (),
) -> Any:
    """Return an element as pydicom converts it; cached, since the slices of a series repeat it.

    Decimals are plain floats: pydicom's own also keep their text, which takes five times as long
    (measured).
    """
    if vr == "DS" and written and (decimals := _decimals(written)):
        return decimals[0] if len(decimals) == 1 else decimals
    if vr == "UI" and written and b"\\" not in written:
        # UIDs of slices do not recur, and pydicom takes ten times as long (measured).
        return UID(written.decode("latin-1").rstrip("\0 "))
    length = len(written or b"")
    raw = RawDataElement(BaseTag(tag), vr, length, written, 0, False, little_endian)
    return convert_raw_data_element(raw, encoding=list(encodings) or None).value


def _decimals(written: bytes) -> tuple[float, ...] | None:
    """Return the numbers of a decimal string (PS3.5 6.2); None if it is not one."""
    try:
        return tuple(map(float, written.decode("ascii").rstrip(" \0").split("\\")))
    except ValueError:
        return None
