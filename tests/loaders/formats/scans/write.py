"""A small DICOM series of nobody, and masks on it as other programs write them.

What lies in `written/` was made by this file, run by itself where highdicom 0.28, rt-utils 1.2,
SimpleITK 2.5, dcmqi 1.5 and Debian's plastimatch 1.9 are installed (none of them is needed to read
or to test):

    python write.py written

The truth is in `truth()`: what the programs were given, not what this project makes of it.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

# Z, Y, X of the series and its mm; the slices lie askew in the patient.
SHAPE, SPACING = (6, 20, 24), (2.5, 0.7, 0.9)
ACROSS = np.array([0.8, 0.6, 0.0])
DOWN = np.array([0.0, 0.0, -1.0])
NORMAL = np.cross(ACROSS, DOWN)
ORIGIN = np.array([-31.5, 12.25, 40.0])
ROOT = "1.2.826.0.1.3680043.8.498.1"
# The series of the structure set: rt-utils takes the two distances of pixels for each other.
SQUARE: dict[str, Any] = {"series": "2", "PixelSpacing": [0.8, 0.8]}


def positions() -> list[np.ndarray[Any, Any]]:
    return [ORIGIN + n * SPACING[0] * NORMAL for n in range(SHAPE[0])]


def stored(seed: int = 0) -> np.ndarray[Any, Any]:
    """Return the stored values (Z, Y, X): noise in which the ball is bright."""
    noise = np.random.default_rng(seed).integers(0, 3000, SHAPE).astype(np.uint16)
    return np.where(truth()["ball"], noise // 2 + 2000, noise).astype(np.uint16)


def truth() -> dict[str, np.ndarray[Any, Any]]:
    """Return two structures (Z, Y, X) that overlap: a ball, and a ring, a tube with a hole."""
    z, y, x = np.indices(SHAPE)
    ball = ((z - 2.2) / 1.7) ** 2 + ((y - 8.5) / 6) ** 2 + ((x - 9.2) / 7) ** 2 <= 1
    radius = np.hypot((y - 11) / 7, (x - 14) / 8)
    ring = (radius <= 1) & (radius > 0.5) & (z >= 1) & (z <= 4)
    return {"ball": ball, "ring": ring}


# A larger series, not askew, for plastimatch: Z, Y, X, and what its slices say.
WIDE = (5, 100, 110)
LEVEL: dict[str, Any] = {
    "series": "3",
    "wide": True,
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "Rows": WIDE[1],
    "Columns": WIDE[2],
}


def wide_truth() -> dict[str, np.ndarray[Any, Any]]:
    """Return two structures (Z, Y, X): a disc with a hole off its middle, and a star."""
    z, y, x = np.indices(WIDE)
    disc = (np.hypot(y - 50, x - 52) < 40 - z) & (np.hypot(y - 44, x - 60) > 11 + z)
    star = np.hypot(y - 48, x - 50) < 34 + 8 * np.sin(5 * np.arctan2(y - 48, x - 50))
    return {"disc": disc, "star": star & (z > 0) & (z < 4)}


def write_series(
    folder: Path, *, series: str = "1", seed: int = 0, wide: bool = False, **changed: Any
) -> list[Path]:
    """Write the slices, a file each, in an order that is not that of their places."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    values, places = stored(seed), positions()
    if wide:
        values = np.random.default_rng(seed).integers(0, 3000, WIDE).astype(np.uint16)
        places = [np.array([-31.5, 12.25, 40.0 + 2.5 * n]) for n in range(WIDE[0])]
    for n, (pixels, place) in enumerate(zip(values, places, strict=True)):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        uid = f"{ROOT}.{series}.{n + 1}"
        data.file_meta.MediaStorageSOPInstanceUID = uid
        elements = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": uid,
            "StudyInstanceUID": f"{ROOT}.100",
            "SeriesInstanceUID": f"{ROOT}.{series}",
            "FrameOfReferenceUID": f"{ROOT}.200",
            "PatientID": "MADE-7",
            "PatientName": "Nobody^Made",
            "PatientSex": "O",
            "PatientBirthDate": "",
            "StudyDate": "20200102",
            "StudyTime": "030405",
            "StudyID": "1",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "SeriesDescription": "made axial",
            "Manufacturer": "made",
            "SeriesNumber": 1,
            "InstanceNumber": len(values) - n,
            "Modality": "CT",
            "SliceThickness": 3.0,
            "ImagePositionPatient": [round(float(mm), 6) for mm in place],
            "ImageOrientationPatient": [*ACROSS, *DOWN],
            "PixelSpacing": list(SPACING[1:]),
            "Rows": SHAPE[1],
            "Columns": SHAPE[2],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
            "RescaleIntercept": -1024,
            "RescaleSlope": 1,
            "PixelData": pixels.astype("<u2").tobytes(),
            **changed,
        }
        for name, value in elements.items():
            if value is not None:
                setattr(data, name, value)
        path = folder / f"{(len(values) - 1) * n % len(values):03d}.dcm"
        data.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def retargeted(written: str, path: Path, *, series: str) -> None:
    """Write one of the masks in `written/` once more, as drawn on another series."""
    import pydicom

    data = pydicom.dcmread(Path(__file__).parent / "written" / written)
    if "ReferencedSeriesSequence" in data:
        named = data.ReferencedSeriesSequence[0]
    else:
        study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        named = study.RTReferencedSeriesSequence[0]
    named.SeriesInstanceUID = f"{ROOT}.{series}"
    data.SeriesInstanceUID = f"{data.SeriesInstanceUID[:50]}.{series}"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.400.{series}"
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path)


def _highdicom(out: Path, series: Path) -> None:
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes

    images = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
    images.sort(key=lambda one: -one.InstanceNumber)
    masks = np.stack(list(truth().values()), -1)
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(truth(), start=1)
    ]
    kinds = hd.seg.SegmentationTypeValues
    alone = masks.copy()
    alone[..., 1] &= ~masks[..., 0]
    # What each is given; of levels half and more is inside.
    levels = np.where(masks, 0.75, np.where(np.roll(masks, 2, axis=2), 0.375, 0.0))
    forms = {
        "binary": (kinds.BINARY, masks.astype(np.uint8), {}),
        "fractional": (
            kinds.FRACTIONAL,
            levels,
            {"fractional_type": hd.seg.SegmentationFractionalTypeValues.PROBABILITY},
        ),
        "labelmap": (kinds.LABELMAP, alone.astype(np.uint8), {}),
    }
    for name, (kind, array, more) in forms.items():
        made = hd.seg.Segmentation(
            source_images=images,
            pixel_array=array,
            segmentation_type=kind,
            segment_descriptions=described,
            series_instance_uid=f"{ROOT}.300.{len(name)}",
            series_number=2,
            sop_instance_uid=f"{ROOT}.301.{len(name)}",
            instance_number=1,
            manufacturer="made",
            manufacturer_model_name="made",
            software_versions="1",
            device_serial_number="1",
            **more,
        )
        made.save_as(out / f"highdicom_{name}.dcm")


def _dcmqi(out: Path, series: Path) -> None:
    import json

    import SimpleITK

    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
    scan = SimpleITK.ReadImage(names)
    segments = []
    code = {"CodeValue": "T-D0050", "CodingSchemeDesignator": "SRT", "CodeMeaning": "Tissue"}
    files = []
    for name, mask in truth().items():
        # ITK's slices may run the other way.
        place = np.array(scan.TransformIndexToPhysicalPoint((0, 0, 0)))
        turned = mask if np.allclose(place, ORIGIN, atol=0.01) else mask[::-1]
        image = SimpleITK.GetImageFromArray(turned.astype(np.uint8))
        image.CopyInformation(scan)
        files.append(out / f"{name}.nrrd")
        SimpleITK.WriteImage(image, str(files[-1]))
        segments.append(
            [
                {
                    "labelID": 1,
                    "SegmentLabel": name,
                    "SegmentDescription": name,
                    "SegmentAlgorithmType": "MANUAL",
                    "SegmentedPropertyCategoryCodeSequence": code,
                    "SegmentedPropertyTypeCodeSequence": code,
                }
            ]
        )
    meta = {
        "ContentCreatorName": "made",
        "SeriesDescription": "made",
        "SeriesNumber": "3",
        "InstanceNumber": "1",
        "segmentAttributes": segments,
    }
    (out / "meta.json").write_text(json.dumps(meta))
    subprocess.run(
        [
            Path(sys.executable).parent / "itkimage2segimage",
            "--inputDICOMDirectory",
            series,
            "--inputImageList",
            ",".join(map(str, files)),
            "--inputMetadata",
            out / "meta.json",
            "--outputDICOM",
            out / "dcmqi_binary.dcm",
        ],
        check=True,
    )
    for file in (*files, out / "meta.json"):
        file.unlink()


def _rt_utils(out: Path, series: Path) -> None:
    from rt_utils import RTStructBuilder

    made = RTStructBuilder.create_new(dicom_series_path=str(series))
    # It takes (Y, X, Z), its slices in the order in which it sorts them.
    heights = [one.ImagePositionPatient @ NORMAL for one in made.series_data]
    order = np.argsort(np.argsort(heights))
    for name, mask in truth().items():
        made.add_roi(mask=np.moveaxis(mask[order], 0, -1), name=name)
    made.save(str(out / "rt_utils.dcm"))


def _plastimatch(out: Path, series: Path) -> None:
    """Write its outlines of the wide structures, and what it fills of them itself."""
    import SimpleITK

    scan = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    with tempfile.TemporaryDirectory() as folder:
        bits = sum(mask.astype(np.uint32) << n for n, mask in enumerate(wide_truth().values()))
        image = SimpleITK.GetImageFromArray(bits)
        image.CopyInformation(scan)
        SimpleITK.WriteImage(image, f"{folder}/in.nrrd")
        listed = [f"{n}|255 0 0|{name}" for n, name in enumerate(wide_truth())]
        Path(folder, "in.txt").write_text("\n".join(listed) + "\n")
        ct = ["--referenced-ct", series]
        convert = ["plastimatch", "convert"]
        given = ["--input-ss-img", f"{folder}/in.nrrd", "--input-ss-list", f"{folder}/in.txt"]
        write = [*given, *ct, "--output-dicom", f"{folder}/rt"]
        subprocess.run([*convert, *write], check=True)
        (rtss,) = Path(folder, "rt").glob("*rtss*.dcm")
        shutil.copy(rtss, out / "plastimatch.dcm")
        fill = ["--input", rtss, *ct, "--output-prefix", f"{folder}/out"]
        subprocess.run([*convert, *fill, "--prefix-format", "nrrd"], check=True)
        filled = {
            name: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f"{folder}/out/{name}.nrrd")) > 0
            for name in wide_truth()
        }
        np.savez_compressed(out / "plastimatch.npz", **filled)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder, "1"))
        write_series(Path(folder, "2"), **SQUARE)
        _highdicom(target, Path(folder, "1"))
        _dcmqi(target, Path(folder, "1"))
        _rt_utils(target, Path(folder, "2"))
        write_series(Path(folder, "3"), **LEVEL)
        _plastimatch(target, Path(folder, "3"))
