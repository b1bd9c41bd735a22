"""The table of ModalityLUTSequence, which replaces slope and intercept (PS3.3 C.11.1)."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    ExplicitVRBigEndian,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from loaders.cases import BadCase
from loaders.formats.dicom.file import DicomFile

# In angiography and fluoroscopy with one of the relationships below, the table converts displayed
# values back to beam intensity, so it is not applied (PS3.3 C.8.7.1.1.2; dcmtk and dcm4che agree).
# The last class is the retired biplane image.
_BACKWARDS = (
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
    "1.2.840.10008.5.1.4.1.1.12.3",
)
_SHOWN = ("LOG", "DISP")


class ModalityLut(NamedTuple):
    """A table: the stored value of its first entry, its entries (uint16, as bytes), their unit.

    `unit` is ModalityLUTType: HU, OD, US (unspecified), ...
    """

    first: int
    entries: bytes
    unit: str

    @property
    def largest(self) -> int:
        """The largest entry."""
        return int(np.frombuffer(self.entries, np.uint16).max())

    def apply(self, stored: NDArray[Any]) -> NDArray[np.uint16]:
        """Return the entry of each stored value; values beyond the table get its end's entry."""
        entries = np.frombuffer(self.entries, np.uint16)
        return entries[np.clip(stored.astype(np.int64) - self.first, 0, len(entries) - 1)]


def modality_lut(file: DicomFile) -> ModalityLut | None:
    """Return a file's table, or None if there is none to apply; raises BadCase."""
    items = file.items("ModalityLUTSequence")
    if not items:
        return None
    relationship = str(file.value("PixelIntensityRelationship") or "").strip()
    if file.value("SOPClassUID") in _BACKWARDS and relationship in _SHOWN:
        return None
    item = items[0]
    order = ">" if file.meta.value("TransferSyntaxUID") == ExplicitVRBigEndian else "<"
    descriptor = _words(item, "LUTDescriptor", order)
    if len(descriptor) != 3 or not 8 <= descriptor[2] <= 16:
        raise BadCase(
            "LUTDescriptor of ModalityLUTSequence is not three numbers, the last 8 to 16",
            where=file.where,
        )
    # 0 means 65536 entries, a number that 16 bits cannot hold.
    count, first = int(descriptor[0]) or 2**16, int(descriptor[1])
    if file.value("PixelRepresentation") == 1 and first >= 2**15:
        first -= 2**16
    entries = _words(item, "LUTData", order)
    if descriptor[2] == 8 and len(entries) == (count + 1) // 2:
        # Two entries per word, the lower byte first (PS3.3 C.11.1.1.1).
        entries = entries.astype("<u2").view(np.uint8)[:count].astype(np.int64)
    if len(entries) != count:
        raise BadCase(
            f"LUTData of ModalityLUTSequence holds {len(entries)} entries, but LUTDescriptor "
            f"declares {count}",
            where=file.where,
        )
    unit = str(item.value("ModalityLUTType") or "").strip()
    return ModalityLut(first, entries.astype(np.uint16).tobytes(), unit)


def _words(item: DicomFile, keyword: str, order: str) -> NDArray[np.int64]:
    """Return an element's 16-bit numbers, whether written as numbers or as bytes."""
    found = item.value(keyword)
    try:
        if isinstance(found, bytes):
            return np.frombuffer(found, f"{order}u2").astype(np.int64)
        return np.array(found, np.int64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise BadCase(
            f"{keyword} of ModalityLUTSequence does not hold 16-bit numbers", where=item.where
        ) from error
