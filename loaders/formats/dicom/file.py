"""One DICOM file, opened with suspicion: quietly, with a bound on what it unpacks to.

What damages a file is told as BadCase, by the name of an element and never by its value, which may
be a person's.
"""

import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from loaders.cases import BadCase

# What pydicom and its decoders raise on a file that is cut off or damaged; found by cutting and
# overwriting files at every place (tests/loaders/formats/test_dicom.py). An OSError with a number
# is not among them: a disk that fails is no fault of the case. pydicom raises some without one.
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
# Bytes of a file, and of what a deflated one unpacks to, which may be a thousand times more: 1000
# slices of 512 x 512 in 16 bits (assumption).
MAX_BYTES = 2**29
_PREAMBLE = 128
# Value representations that mean the same in every character set (PS3.5 6.2).
_CONSTANT = ("CS", "DS", "IS", "UI", "US")
# Bytes in which the header is looked for; it takes 2 to 20 kB (seen in LIDC-IDRI and pydicom's test
# files).
_HEAD = 2**15
# File Meta Information Group Length (0002,0000), a UL of four bytes, which is the first element.
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
# Pixel Data (7FE0,0010).
_PIXELS = b"\xe0\x7f\x10\x00"
# The VRs that it may have where they are explicit, with what follows them.
_WORDS_OR_BYTES = (b"OW\0\0", b"OB\0\0")
# Transfer syntaxes whose elements are not written little endian, or not plainly.
_OTHERWISE = (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom silent: its warnings and log lines hold values of headers and paths."""
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
    """Turn what pydicom raises on a damaged file into a BadCase, which begins with `what`."""
    try:
        yield
    except BadCase:
        raise
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadCase(f"{what}: {type(error).__name__}", where=where) from error


class Start(NamedTuple):
    """A file's header, and where its pixels lie, in bytes.

    `end` is where their element begins, `first` and `length` are their own as the element says,
    `size` is the file's. The file is written little endian; `implicit` tells of its VRs.
    """

    dataset: Dataset
    end: int
    first: int
    length: int
    size: int
    implicit: bool


def open_start(path: Path, where: str) -> Start | None:
    """Return the header, if it fits the first 32 KiB; None: it takes `open_file`.

    Only those bytes of the file are read. Raises BadCase where its name alone calls it DICOM.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        size = os.fstat(file.fileno()).st_size
    if not _begins(head, path, where):
        return None
    try:
        return _before_pixels(head, size)
    except (*DAMAGE, OSError):
        # Cut here, it may yet be whole in the file: what reads it in the other way will tell.
        return None


def open_file(path: Path, where: str, *, limit: int = MAX_BYTES, **options: Any) -> Dataset | None:
    """Return a file's data set, or None where it is no DICOM file and does not claim to be.

    A deflated file is unpacked up to `limit` bytes and given as if it had been written plainly.
    `options` go to pydicom's `dcmread`. Raises BadCase.
    """
    with path.open("rb") as file:
        if not _begins(file.read(_PREAMBLE + 4), path, where):
            return None
    with damage_told(where):
        if (inflated := _plain(path, limit, where)) is not None:
            return pydicom.dcmread(inflated, **options)
        with _Bounded(path) as file:
            return pydicom.dcmread(file, **options)


def open_header(path: Path, where: str, keywords: Sequence[str]) -> Dataset | None:
    """Return a data set with these elements of the header; as `open_file`."""
    if (start := open_start(path, where)) is not None:
        return start.dataset
    return open_file(path, where, stop_before_pixels=True, specific_tags=list(keywords))


def with_pixels(start: Start, path: Path, where: str) -> Dataset:
    """Return the data set of the whole file, given its header; raises BadCase."""
    with _Bounded(path) as file, damage_told(where):
        file.seek(start.end)
        start.dataset.update(read_dataset(file, start.implicit, True))
    return start.dataset


def _begins(content: bytes, path: Path, where: str) -> bool:
    """Tell whether this is a DICOM file; raises BadCase where its name alone says so."""
    if content[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    if path.suffix.lower() == ".dcm":
        raise BadCase("the file's name ends in .dcm and it is no DICOM file", where=where)
    return False


def _before_pixels(head: bytes, size: int) -> Start | None:
    """Parse a file's header; None where it is not certain to be complete.

    In 0.4 to 0.6 of the time that `dcmread` takes for it (measured), which asks at each element
    whether to stop; and to see whether a file is deflated its file meta would be read twice.
    """
    begin = _PREAMBLE + 4
    if len(head) < begin + 12 or head[begin : begin + 8] != _GROUP_LENGTH:
        return None
    data = begin + 12 + int.from_bytes(head[begin + 8 : begin + 12], "little")
    end = head.find(_PIXELS, data, _HEAD - 12)
    meta = _elements(head[begin:data])
    if end < 0 or meta is None or {tag >> 16 for tag in _tags(meta)} != {2}:
        return None
    syntax = value(meta, "TransferSyntaxUID", "")
    if syntax not in AllTransferSyntaxes or syntax in _OTHERWISE:
        return None
    implicit = syntax == ImplicitVRLittleEndian
    dataset = _elements(head[data:end], implicit=implicit)
    if dataset is None or _tags(dataset)[0] >> 16 <= 2:
        return None
    dataset.file_meta = FileMetaDataset(meta)
    # Tag, VR, two bytes of nothing and the length where VRs are explicit, else tag and length.
    if not implicit and head[end + 4 : end + 8] not in _WORDS_OR_BYTES:
        return None
    first = end + (8 if implicit else 12)
    length = int.from_bytes(head[first - 4 : first], "little")
    return Start(dataset, end, first, length, size, implicit)


def _elements(content: bytes, *, implicit: bool = False) -> Dataset | None:
    """Return elements, if they are whole and end where the bytes do."""
    dataset = read_dataset(BytesIO(content), implicit, True)
    last: Any = dataset.get_item(_tags(dataset)[-1], keep_deferred=True) if len(dataset) else None
    if isinstance(last, RawDataElement) and last.value_tell + last.length == len(content):
        return dataset
    return None


def _tags(dataset: Dataset) -> list[int]:
    """Return the tags of a data set in the order of the file."""
    return list(dataset.keys())


class _Bounded(BufferedReader):
    """A file that is never asked for more than it has.

    pydicom asks for as many bytes as an element claims to have, and Python sets that many aside:
    4 GB for a claim in a file of 40 KB.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _HEAD:
            size = min(size, max(self._size - self.tell(), 0))
        return super().read(size)


def _plain(path: Path, limit: int, where: str) -> BytesIO | None:
    """Return what a deflated file holds, None where it is a plain one; raises BadCase."""
    if read_file_meta_info(path).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return None
    return _inflated(path, limit, where)


def _inflated(path: Path, limit: int, where: str) -> BytesIO:
    """Return a deflated file as an explicit little endian one; raises BadCase and DAMAGE.

    pydicom inflates without a bound. So it is done here, from where the file meta ends (wherever
    its group length may claim that to be), and what pydicom parses is what was bounded.
    """
    with path.open("rb") as file:
        file.seek(_PREAMBLE + 4)
        meta = FileMetaDataset(
            read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2)
        )
        packed = file.read()
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(packed, limit + 1)
    if len(content) > limit:
        raise BadCase(f"the deflated file holds more than {limit} bytes", where=where)
    if not inflater.eof:
        raise EOFError
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = DicomBytesIO()
    head.write(bytes(_PREAMBLE) + b"DICM")
    write_file_meta_info(head, meta, enforce_standard=False)
    return BytesIO(head.getvalue() + content)


def value(dataset: Dataset, keyword: str, where: str) -> Any:
    """Return an element's value, None where there is none; its bytes are parsed only now."""
    element: Any = dataset.get_item(_tag(keyword), keep_deferred=True)
    if not isinstance(element, RawDataElement):
        return None if element is None else element.value
    with damage_told(where, f"{keyword} is damaged"):
        vr = element.VR or dictionary_VR(element.tag)
        if vr in _CONSTANT:
            return _converted(element.tag, vr, element.value, element.is_little_endian)
        return dataset.get(keyword)


@lru_cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


@lru_cache(maxsize=1024)
def _converted(tag: BaseTag, vr: str, written: bytes | None, little_endian: bool) -> Any:
    """Return what pydicom makes of an element; most slices of a series say the same.

    Decimals are plain floats: pydicom's own carry their text along, which takes five times as long
    (measured).
    """
    if vr == "DS" and written and (decimals := _decimals(written)):
        return decimals[0] if len(decimals) == 1 else decimals
    length = len(written or b"")
    return convert_raw_data_element(
        RawDataElement(tag, vr, length, written, 0, False, little_endian)
    ).value


def _decimals(written: bytes) -> tuple[float, ...] | None:
    """Return the numbers of a decimal string (PS3.5 6.2); None where it is not one."""
    try:
        return tuple(map(float, written.decode("ascii").rstrip(" \0").split("\\")))
    except ValueError:
        return None


def text(dataset: Dataset, keyword: str, where: str) -> str:
    """Return an element as text; raises BadCase where it is missing or empty."""
    if found := str(value(dataset, keyword, where) or "").strip():
        return found
    raise BadCase(f"{keyword} is missing", where=where)


def numbers(dataset: Dataset, keyword: str, count: int, where: str) -> NDArray[np.float64]:
    """Return the `count` finite numbers of an element; raises BadCase."""
    if (found := value(dataset, keyword, where)) is None:
        raise BadCase(f"{keyword} is missing", where=where)
    try:
        parsed = np.array(found, np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise BadCase(f"{keyword} holds no number", where=where) from error
    if len(parsed) != count or not np.isfinite(parsed).all():
        raise BadCase(f"{keyword} does not hold {count} finite numbers", where=where)
    return parsed
