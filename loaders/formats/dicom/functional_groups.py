"""The attributes of one frame, wherever the header keeps them.

In an enhanced file the attributes of a frame are in functional groups, its own or the shared ones
(PS3.3 C.7.6.16); in a plain file they are in the data set itself.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loaders.cases import BadCase
from loaders.formats.dicom.file import DicomFile

# The functional groups that hold the elements of a plain file's data set.
_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
}


@dataclass(frozen=True, kw_only=True)
class FrameHeader:
    """One frame's header: its own functional groups, then the shared ones; () in a plain file."""

    file: DicomFile
    groups: tuple[DicomFile, ...] = ()

    def holder(self, keyword: str) -> DicomFile:
        """Return the item or file that holds an element; raises BadCase."""
        for group in self.groups:
            for item in group.items(_GROUPS.get(keyword, "")):
                if item.value(keyword) is not None:
                    return item
        return self.file

    def numbers(self, keyword: str, count: int) -> NDArray[np.float64]:
        """Return an element's numbers, of the frame or of all frames; raises BadCase."""
        return self.holder(keyword).numbers(keyword, count)


def frame_headers(file: DicomFile, count: int) -> list[FrameHeader]:
    """Return the header of each of a file's `count` frames; raises BadCase."""
    if file.value("PerFrameFunctionalGroupsSequence") is None:
        return [FrameHeader(file=file)] * count
    own = file.items("PerFrameFunctionalGroupsSequence")
    if len(own) != count:
        raise BadCase(
            f"the header claims {count} frames but describes {len(own)}", where=file.where
        )
    shared = file.items("SharedFunctionalGroupsSequence")
    return [FrameHeader(file=file, groups=(group, *shared)) for group in own]
