"""Synthetic versions of two 3-D data sets in their real formats, for tests without a download.

A folder is made under another name and renamed when it is complete. The same seed makes the same
files; patient n is the same however many there are.
"""

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from loaders.phantoms import brain, chest
from loaders.phantoms.reads import read_lesions, to_xml

# Like `map`: applies a function to each number, in any process; a pool's map works in parallel.
Each: TypeAlias = Callable[[Callable[[int], None], range], Iterable[None]]

_Patient: TypeAlias = Callable[[Path, int, np.random.Generator], None]

# Its functions are not annotated.
nib: Any = nibabel

# Every sixth patient is scanned twice, as some in both collections were.
_RESCANNED_EVERY = 6
# One case in eight, about the share of gliomas in BraTS without an enhancing part (assumption).
_UNENHANCED_EVERY = 8
# RescaleIntercept of nearly all CT, and GE's value outside the field of view.
_INTERCEPT, _PADDING = -1024, -2000


def make_lidc(out: Path, *, patients: int, seed: int, each: Each = map) -> None:
    """Make chest CT series with four readers' XML reads, in TCIA's folder layout.

    About three nodules of 5 to 15 mm per patient; every sixth patient has two series. Raises
    FileExistsError if `out` exists.
    """
    _make(out, patients, seed, _chest_patient, each)


def make_brats(out: Path, *, patients: int, seed: int, each: Each = map) -> None:
    """Make four-channel brain MRI with tumour labels, named as BraTS 2023 names them.

    Every sixth patient has a second, later scan; every eighth tumour does not enhance. Raises
    FileExistsError if `out` exists.
    """
    _make(out, patients, seed, _brain_patient, each)


def _make(out: Path, patients: int, seed: int, patient: _Patient, each: Each) -> None:
    if patients < 1:
        raise ValueError(f"patients is {patients}; it must be 1 or more")
    if out.exists():
        raise FileExistsError(f"{out} exists already")
    building = out.with_name(f"{out.name}.building")
    if building.exists():
        shutil.rmtree(building)
    building.mkdir(parents=True)
    for _ in each(partial(_one, patient, building, seed), range(patients)):
        pass
    building.rename(out)


def _one(patient: _Patient, building: Path, seed: int, number: int) -> None:
    patient(building, number, np.random.default_rng([seed, number]))


def _chest_patient(out: Path, number: int, random: np.random.Generator) -> None:
    patient = f"LIDC-IDRI-9{number:03d}"
    body = chest.make_body(random)
    nodules, scars = int(random.integers(2, 5)), int(random.integers(1, 3))
    lesions = chest.make_lesions(body, random, nodules=nodules, scars=scars)
    for visit in range(2 if number % _RESCANNED_EVERY == 0 else 1):
        entropy = [patient, str(visit), random.bytes(16).hex()]
        study, series = (
            generate_uid(entropy_srcs=[*entropy, what]) for what in ("study", "series")
        )
        folder = out / "LIDC-IDRI" / patient / study / series
        folder.mkdir(parents=True)
        array = chest.scan(body, lesions, random)
        images = _write_series(folder, array, body, patient, study, series, padded=number % 2 == 0)
        marks = read_lesions(lesions, body.spacing, random)
        xml = to_xml(marks, series=series, study=study, images=images, random=random)
        reads = out / "tcia-lidc-xml" / f"{185 + visit}"
        reads.mkdir(parents=True, exist_ok=True)
        (reads / f"{number:03d}.xml").write_text(xml, encoding="utf-8")


def _write_series(
    folder: Path,
    array: NDArray[np.int16],
    body: chest.Body,
    patient: str,
    study: str,
    series: str,
    *,
    padded: bool,
) -> list[tuple[str, float]]:
    """Write one file per slice, and return the SOP instance UID and z position of each.

    As on scanners, the files are numbered from the head down. `padded`: signed pixels, and padding
    outside the round field of view (GE); otherwise unsigned pixels and no padding.
    """
    stored = array.astype(np.int32) - _INTERCEPT
    rows, columns = array.shape[1:]
    if padded:
        y, x = np.ogrid[:rows, :columns]
        outside = np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2) > rows / 2
        stored[:, outside] = _PADDING
    header = _header(body, stored.shape, patient, study, series, padded=padded)
    images = []
    for index, pixels in enumerate(stored):
        image = generate_uid(entropy_srcs=[series, str(index)])
        z = float(body.axes[0][index])
        header.file_meta.MediaStorageSOPInstanceUID = image
        header.SOPInstanceUID = image
        header.InstanceNumber = len(stored) - index
        header.ImagePositionPatient = [float(body.axes[2][0]), float(body.axes[1][0]), z]
        header.PixelData = pixels.astype("<i2" if padded else "<u2").tobytes()
        file = BytesIO()
        header.save_as(file, enforce_file_format=True)
        (folder / f"1-{len(stored) - index:03d}.dcm").write_bytes(file.getvalue())
        images.append((str(image), z))
    return images


def _header(
    body: chest.Body,
    shape: tuple[int, ...],
    patient: str,
    study: str,
    series: str,
    *,
    padded: bool,
) -> Dataset:
    """Return the header elements that the slices of a series share."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = CTImageStorage
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SOPClassUID = CTImageStorage
    header.StudyInstanceUID = study
    header.SeriesInstanceUID = series
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame"])
    header.Modality = "CT"
    header.Manufacturer = "phantom"
    header.PatientName = ""
    header.PatientID = patient
    header.PatientIdentityRemoved = "YES"
    header.QualityControlImage = "YES"
    header.BodyPartExamined = "CHEST"
    # Larger than the distance of slices, from which it must be distinguished.
    header.SliceThickness = "3"
    header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    header.PixelSpacing = list(body.spacing[1:])
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = shape[1:]
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = int(padded)
    if padded:
        header.PixelPaddingValue = _PADDING
    header.RescaleIntercept = str(_INTERCEPT)
    header.RescaleSlope = "1"
    header.RescaleType = "HU"
    return header


def _brain_patient(out: Path, number: int, random: np.random.Generator) -> None:
    enhances = number % _UNENHANCED_EVERY != _UNENHANCED_EVERY - 1
    patient = brain.make_patient(random, enhances=enhances)
    growths = [1.0, random.uniform(0.8, 1.3)][: 2 if number % _RESCANNED_EVERY == 0 else 1]
    # As in BraTS: 1 mm, with both horizontal axes opposite to RAS.
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = brain.SHAPE[1] - 1
    for visit, growth in enumerate(growths):
        case = f"BraTS-GLI-{number:05d}-{visit:03d}"
        (out / case).mkdir()
        images, labels = brain.scan(patient, random, growth=growth)
        for name, values in (*zip(brain.CHANNELS, images, strict=True), ("seg", labels)):
            image = nib.Nifti1Image(values, affine)
            image.header["descrip"] = b"phantom, of no patient"
            image.header.set_xyzt_units("mm", "sec")
            nib.save(image, out / case / f"{case}-{name}.nii.gz")
