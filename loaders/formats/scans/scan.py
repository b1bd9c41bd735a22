"""A DICOM series as a volume like those of other formats, and the voxels of a patient's points.

CT is in Hounsfield units, with air the lowest; other modalities keep their values, with slope and
intercept applied if they have them. `loaders.formats.dicom.series` describes how slices are ordered
and what is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loaders.cases import Array, BadCase
from loaders.formats.dicom.file import open_header, quiet
from loaders.formats.dicom.series import read_series
from loaders.formats.nifti import AIR
from loaders.formats.volumes.volume import LPS_TO_RAS, Volume

# The highest value of 16 bits: metal exceeds the 3071 HU of 12 bits.
_WINDOW = (int(AIR), 2**15 - 1)
_IDENTITY = ("Modality", "SeriesInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A series that was read: its volume (X, Y, Z), and the UIDs by which others refer to it.

    `heights` are the positions of its slices along their normal, in mm; `affine` is as in
    `loaders.formats.dicom.series.Volume`.
    """

    volume: Volume
    affine: NDArray[np.float64]
    heights: NDArray[np.float64]
    series: str
    frame: str

    def voxels_of(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (n, 3) of the patient, in mm, as x, y, z in voxels.

        z is interpolated between the slices' own positions, which may be uneven.
        """
        found = (points - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T
        normal = self.affine[:3, 2] / np.linalg.norm(self.affine[:3, 2])
        place = points @ normal
        inside = np.interp(place, self.heights, np.arange(len(self.heights)))
        below, above = self.heights[0], self.heights[-1]
        mean = (above - below) / (len(self.heights) - 1)
        beyond = np.minimum(place - below, 0) + np.maximum(place - above, 0)
        found[:, 2] = inside + beyond / mean
        return found


def modality_in(path: Path) -> str:
    """Return the modality that a file of a series states; raises BadCase."""
    with quiet():
        header = open_header(path, "", list(_IDENTITY))
        return "" if header is None else str(header.value("Modality") or "").strip()


def read_scan(paths: Sequence[Path], where: str) -> Scan:
    """Read the slices of one series; raises BadCase."""
    with quiet():
        header = open_header(paths[0], where, list(_IDENTITY))
        if header is None:
            raise BadCase("a file of the series is no longer a DICOM file", where=where)
        modality, series, frame = (
            str(header.value(keyword) or "").strip() for keyword in _IDENTITY
        )
    found = read_series(paths, window=_WINDOW, where=where, measured=modality == "CT")
    array: Array = found.array.T

    def load() -> Array:
        return array

    volume = Volume(
        shape=array.shape, dtype=array.dtype, affine=LPS_TO_RAS @ found.affine, load=load
    )
    return Scan(
        volume=volume, affine=found.affine, heights=found.heights, series=series, frame=frame
    )
