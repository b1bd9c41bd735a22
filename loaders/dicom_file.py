"""One DICOM file, opened with suspicion: quietly, with a bound on what it unpacks to.

What damages a file is told as BadCase, by the name of an element and never by its value, which may
be a person's.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset, read_file_meta_info, read_partial
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from loaders.cases import BadCase

# What pydicom and its decoders raise on a file that is cut off or damaged; found by cutting and
# overwriting files at every place (tests/loaders/test_loaders_dicom.py). An OSError with a number
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
# Only a file in which this stands can be one that pydicom would inflate.
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()
# Bytes of a file that are searched for it, and read at once: headers have 2 to 20 kB (seen in
# LIDC-IDRI and pydicom's test files).
_HEAD = 2**15
# Pixel Data, Double Float Pixel Data, Float Pixel Data.
_PIXELS = (0x7FE00010, 0x7FE00009, 0x7FE00008)


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


def open_file(path: Path, where: str, *, limit: int = MAX_BYTES) -> Dataset | None:
    """Return a file's data set, or None where it is no DICOM file and does not claim to be.

    A deflated file is unpacked up to `limit` bytes and given as if it had been written plainly.
    Raises BadCase.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if not _begins(head, path, where):
            return None
        with damage_told(where):
            if found := _before_pixels(head):
                dataset, end = found
                file.seek(end)
                dataset.update(read_dataset(file, *dataset.original_encoding))
                return dataset
            return pydicom.dcmread(_plain(path, limit, where))


def open_header(path: Path, where: str, keywords: Sequence[str]) -> Dataset | None:
    """Return a data set that has those elements which stand before its pixels; as `open_file`.

    Of most files no more than the beginning is read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not _begins(head, path, where):
        return None
    if found := _before_pixels(head):
        return found[0]
    with damage_told(where):
        plain = _plain(path, MAX_BYTES, where)
        return pydicom.dcmread(plain, stop_before_pixels=True, specific_tags=list(keywords))


def _begins(content: bytes, path: Path, where: str) -> bool:
    """Tell whether this is a DICOM file; raises BadCase where its name alone says so."""
    if content[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    if path.suffix.lower() == ".dcm":
        raise BadCase("the file's name ends in .dcm and it is no DICOM file", where=where)
    return False


def _before_pixels(head: bytes) -> tuple[Dataset, int] | None:
    """Return what stands before a file's pixels, and where they are, if that is in its beginning.

    What follows is most of the file, and is not asked for in a survey; and pydicom would have to
    read the file meta twice, the first time to see whether the file is deflated.
    """
    if _DEFLATED in head:
        return None
    stream = BytesIO(head)
    reached = False

    def at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal reached
        reached = tag in _PIXELS
        return reached

    try:
        dataset = read_partial(stream, stop_when=at_pixels)
    except (*DAMAGE, OSError):
        # Cut here, the file may yet be whole: it is read again, all of it, and that tells.
        return None
    return (dataset, stream.tell()) if reached else None


def _plain(path: Path, limit: int, where: str) -> Path | BytesIO:
    """Return what pydicom may read: a file, or what a deflated one holds; raises BadCase."""
    if read_file_meta_info(path).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return path
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
    with damage_told(where, f"{keyword} is damaged"):
        tag = Tag(keyword)
        element: Any = dataset.get_item(tag) if tag in dataset else None
        if isinstance(element, RawDataElement):
            if (element.VR or dictionary_VR(tag)) in _CONSTANT and len(element.value or b"") <= 64:
                return _converted(element._replace(value_tell=0))
            return dataset.get(keyword)
        return None if element is None else element.value


@lru_cache(maxsize=1024)
def _converted(element: RawDataElement) -> Any:
    """Return what pydicom makes of an element; most slices of a series say the same."""
    return convert_raw_data_element(element).value


def text(dataset: Dataset, keyword: str, where: str) -> str:
    """Return an element as text; raises BadCase where it is missing or empty."""
    if found := str(value(dataset, keyword, where) or "").strip():
        return found
    raise BadCase(f"{keyword} is missing", where=where)


def numbers(dataset: Dataset, keyword: str, count: int, where: str) -> NDArray[np.float64]:
    """Return the `count` finite numbers of an element; raises BadCase."""
    element: Any = dataset.get_item(keyword)
    if isinstance(element, RawDataElement) and element.VR == "DS" and element.value is not None:
        # As pydicom reads them, whose own numbers carry their text along: five times as slow
        # (measured), and most slices of a series say the same.
        found: Any = _decimals(element.value)
    else:
        found = None
    if found is None and (found := value(dataset, keyword, where)) is None:
        raise BadCase(f"{keyword} is missing", where=where)
    try:
        parsed = np.array(found, np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise BadCase(f"{keyword} holds no number", where=where) from error
    if len(parsed) != count or not np.isfinite(parsed).all():
        raise BadCase(f"{keyword} does not hold {count} finite numbers", where=where)
    return parsed


@lru_cache(maxsize=1024)
def _decimals(written: bytes) -> tuple[float, ...] | None:
    """Return the numbers of a decimal string (PS3.5 6.2); None where it is not one."""
    try:
        return tuple(map(float, written.decode("ascii").rstrip(" \0").split("\\")))
    except ValueError:
        return None
