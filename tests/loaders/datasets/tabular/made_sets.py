"""Public sets of pictures or loops and tables in miniature, each in its published layout.

Headers are copied to the letter; where from stands beside each. What a set's traps are is in what
is written: several rows a picture, readers, two scales of grey, lesions and patients with several
pictures, packed tables, tables beside the one that counts.
"""

import gzip
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.loaders.phantoms.cine_loops import encode_avi, make_loop

COUNT = 24


@dataclass(frozen=True, kw_only=True)
class Made:
    """A set that was written: how it is read, and what must come of each picture's name.

    `labels` are names of classes, `groups` real ones; None: each picture is its own.
    """

    options: dict[str, str]
    labels: Mapping[str, str]
    groups: Mapping[str, str] | None
    splits: Mapping[str, str] = field(default_factory=dict)
    kind: str = "images"
    rejected: int = 0


def pixels(number: int, sick: bool, shape: tuple[int, ...] = (20, 24)) -> Any:
    """Return noise (8 bits), brighter where sick."""
    noise = np.random.default_rng(number).integers(0, 120, shape)
    return (noise + 90 * sick).astype(np.uint8)


def jpeg(path: Path, number: int, sick: bool, *, colour: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels(number, sick, (20, 24, 3) if colour else (20, 24))
    if colour:
        image[..., 1:] //= 2
    Image.fromarray(image).save(path, quality=95)


def xray(path: Path, stored: Any, *, bits: int, white_is_zero: bool = False) -> None:
    """Write a radiograph as DICOM."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = ComputedRadiographyImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.PatientID = path.stem
    data.Modality = "CR"
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME1" if white_is_zero else "MONOCHROME2"
    data.BitsAllocated = 8 * stored.dtype.itemsize
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, 0
    data.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def packed(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def rsna(root: Path) -> Made:
    """RSNA's pneumonia challenge: kaggle.com/c/rsna-pneumonia-detection-challenge/data."""
    boxes, details, labels = ["patientId,x,y,width,height,Target"], ["patientId,class"], {}
    for number in range(COUNT):
        name, sick = f"{number:08x}-ca0c-4bd9", bool(number % 2)
        xray(root / "stage_2_train_images" / f"{name}.dcm", pixels(number, sick), bits=8)
        for _ in range(1 + sick * (number % 3)):
            boxes.append(f"{name},{'264.0,152.0,213.0,379.0,1' if sick else ',,,,0'}")
            details.append(f"{name},{'Lung Opacity' if sick else 'Normal'}")
        labels[name] = str(int(sick))
    (root / "stage_2_train_labels.csv").write_text("\n".join(boxes))
    (root / "stage_2_detailed_class_info.csv").write_text("\n".join(details))
    options = {"csv": "stage_2_train_labels.csv", "label": "Target", "group": "patientId"}
    return Made(options=options, labels=labels, groups={name: name for name in labels})


def vindr(root: Path) -> Made:
    """VinDr-CXR 1.0.0, physionet.org/content/vindr-cxr: 12 bits, three readers, no patient."""
    lines = ["image_id,rad_id,Aortic enlargement,Cardiomegaly,No finding"]
    boxes, labels = ["image_id,rad_id,class_name,x_min,y_min,x_max,y_max"], {}
    for number in range(COUNT):
        name, sick = f"{number:032x}", bool(number % 2)
        stored = pixels(number, sick).astype(np.uint16) * 16
        inverted = number % 3 == 0
        xray(
            root / "train" / f"{name}.dicom",
            4095 - stored if inverted else stored,
            bits=12,
            white_is_zero=inverted,
        )
        for reader in range(3):
            # One of three readers is of another opinion.
            says = sick ^ (reader == number % 5)
            lines.append(f"{name},R{reader + 1},0,{int(says)},{int(not says)}")
            boxes.append(f"{name},R{reader + 1},{'Cardiomegaly,1,2,3,4' if says else ',,,,'}")
        labels[name] = "Cardiomegaly" if sick else "no Cardiomegaly"
    (root / "annotations").mkdir()
    (root / "annotations" / "image_labels_train.csv").write_text("\n".join(lines))
    (root / "annotations" / "annotations_train.csv").write_text("\n".join(boxes))
    options = {
        "csv": "annotations/image_labels_train.csv",
        "finding": "Cardiomegaly",
        "readers": "majority",
    }
    return Made(options=options, labels=labels, groups=None)


def padchest(root: Path) -> Made:
    """PadChest, bimcv.cipf.es/bimcv-projects/padchest: 16 bits, a list of findings, packed."""
    rows, labels, groups = [], {}, {}
    for number in range(COUNT):
        sick = bool(number % 2)
        name = f"2168408389964_{number:02d}-044-065.png"
        path = root / str(number % 3) / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels(number, sick).astype(np.uint16) * 200).save(path)
        rows.append(
            {
                "ImageID": name,
                "ImageDir": number % 3,
                "StudyID": f"2168{number}",
                "PatientID": f"83899640{number // 2}",
                "Report": 'sin cambios "estable"',
                "Labels": "['cardiomegaly', ' effusion']" if sick else "['normal']",
            }
        )
        labels[path.stem] = "effusion" if sick else "no effusion"
        groups[path.stem] = f"83899640{number // 2}"
    table = io.StringIO()
    pd.DataFrame(rows).to_csv(table)
    packed(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", table.getvalue())
    options = {"label": "Labels", "finding": "effusion", "group": "PatientID"}
    return Made(options=options, labels=labels, groups=groups)


# mimic-cxr-2.0.0-chexpert.csv of MIMIC-CXR-JPG 2.0.0, physionet.org/content/mimic-cxr-jpg.
_MIMIC = """subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,\
Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,\
Pleural Other,Pneumonia,Pneumothorax,Support Devices"""


def mimic(root: Path) -> Made:
    """MIMIC-CXR-JPG: pictures by patient and study, findings by study, parts by picture."""
    parts, studies, views = ["dicom_id,study_id,subject_id,split"], {}, ["dicom_id,ViewPosition"]
    labels, groups, splits = {}, {}, {}
    for number in range(COUNT):
        patient, study = 10000032 + number // 4, 50414267 + number // 2
        sick = bool(number // 2 % 2)
        name = f"{number:08x}-bde0afdd-112c0b34"
        folder = root / "files" / "p10" / f"p{patient}" / f"s{study}"
        jpeg(folder / f"{name}.jpg", number, sick, colour=False)
        splits[name] = ("train", "train", "validate", "test")[number // 4 % 4]
        parts.append(f"{name},{study},{patient},{splits[name]}")
        views.append(f"{name},AP")
        edema = "1.0" if sick else ("0.0", "", "-1.0")[number // 4 % 3]
        studies[study] = f"{patient},{study},,,,{edema},,,,,,,,,,"
        labels[name] = "Edema" if sick else "no Edema"
        groups[name] = str(patient)
    packed(root / "mimic-cxr-2.0.0-split.csv.gz", "\n".join(parts))
    packed(root / "mimic-cxr-2.0.0-chexpert.csv.gz", "\n".join([_MIMIC, *studies.values()]))
    packed(root / "mimic-cxr-2.0.0-metadata.csv.gz", "\n".join(views))
    options = {
        "csv": "mimic-cxr-2.0.0-split.csv.gz",
        "join": "mimic-cxr-2.0.0-chexpert.csv.gz",
        "finding": "Edema",
        "uncertain": "negative",
        "group": "subject_id",
        "split": "split",
    }
    plain = {name: part.removesuffix("idate") for name, part in splits.items()}
    return Made(options=options, labels=labels, groups=groups, splits=plain)


def ham10000(root: Path) -> Made:
    """HAM10000, doi:10.7910/DVN/DBW86T: two folders of pictures, several of a lesion."""
    lines, labels, groups = ["lesion_id,image_id,dx,dx_type,age,sex,localization"], {}, {}
    for number in range(COUNT):
        name, lesion = f"ISIC_{24306 + number:07d}", f"HAM_{number // 2:07d}"
        kind = ("mel", "nv", "bkl")[number // 2 % 3]
        jpeg(root / f"HAM10000_images_part_{1 + number % 2}" / f"{name}.jpg", number, kind == "mel")
        lines.append(f"{lesion},{name},{kind},histo,80.0,male,scalp")
        labels[name], groups[name] = kind, lesion
    (root / "HAM10000_metadata.csv").write_text("\n".join(lines))
    options = {"image": "image_id", "label": "dx", "group": "lesion_id"}
    return Made(options=options, labels=labels, groups=groups)


def _one_hot(root: Path, folder: str, classes: list[str]) -> tuple[list[str], dict[str, str]]:
    lines, labels = [f"image,{','.join(classes)}"], {}
    for number in range(COUNT):
        name, at = f"ISIC_{number:07d}", number // 2 % 3
        jpeg(root / folder / f"{name}.jpg", number, at == 0)
        lines.append(f"{name},{','.join('1.0' if n == at else '0.0' for n in range(len(classes)))}")
        labels[name] = classes[at]
    return lines, labels


def isic2018(root: Path) -> Made:
    """ISIC 2018, task 3, challenge.isic-archive.com/data/#2018: lesions in a table beside."""
    classes = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    lines, labels = _one_hot(root, "ISIC2018_Task3_Training_Input", classes)
    top = root / "ISIC2018_Task3_Training_GroundTruth"
    top.mkdir()
    (top / "ISIC2018_Task3_Training_GroundTruth.csv").write_text("\n".join(lines))
    groups = {name: f"HAM_{number // 2:07d}" for number, name in enumerate(labels)}
    lesions = [f"{name},{lesion},histopathology" for name, lesion in groups.items()]
    (root / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(
        "\n".join(["image,lesion_id,diagnosis confirm type", *lesions])
    )
    (root / "ISIC2018_Task3_Training_Input" / "ATTRIBUTION.txt").write_text("by")
    options = {
        "csv": "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv",
        "join": "ISIC2018_Task3_Training_LesionGroupings.csv",
        "one_hot": ",".join(classes),
        "group": "lesion_id",
    }
    return Made(options=options, labels=labels, groups=groups)


def isic2019(root: Path) -> Made:
    """ISIC 2019, challenge.isic-archive.com/data/#2019: some pictures name no lesion."""
    classes = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    lines, labels = _one_hot(root, "ISIC_2019_Training_Input", classes)
    (root / "ISIC_2019_Training_GroundTruth.csv").write_text("\n".join(lines))
    groups = {name: f"BCN_{number // 2:07d}" for number, name in enumerate(labels)}
    nobody = list(labels)[-1]
    about = [f"{name},55.0,torso,{'' if name == nobody else groups[name]},male" for name in labels]
    (root / "ISIC_2019_Training_Metadata.csv").write_text(
        "\n".join(["image,age_approx,anatom_site_general,lesion_id,sex", *about])
    )
    options = {
        "csv": "ISIC_2019_Training_GroundTruth.csv",
        "join": "ISIC_2019_Training_Metadata.csv",
        "one_hot": ",".join(classes),
        "group": "lesion_id",
    }
    del labels[nobody], groups[nobody]
    return Made(options=options, labels=labels, groups=groups, rejected=1)


def isic2020(root: Path) -> Made:
    """ISIC 2020, challenge.isic-archive.com/data/#2020: many lesions of a patient."""
    lines, labels, groups = [], {}, {}
    for number in range(COUNT):
        name, sick = f"ISIC_{2637011 + number}", number % 3 == 0
        jpeg(root / "ISIC_2020_Training_Input" / f"{name}.jpg", number, sick)
        word = "malignant" if sick else "benign"
        lines.append(f"{name},IP_{number // 2},male,45.0,head/neck,unknown,{word},{int(sick)}")
        labels[name], groups[name] = str(int(sick)), f"IP_{number // 2}"
    head = (
        "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,"
        "benign_malignant,target"
    )
    (root / "ISIC_2020_Training_GroundTruth.csv").write_text("\n".join([head, *lines]))
    options = {"label": "target", "group": "patient_id"}
    return Made(options=options, labels=labels, groups=groups)


def echonet(root: Path) -> Made:
    """EchoNet-Dynamic, echonet.github.io/dynamic: videos, and names without their ending.

    Its ejection fractions have two values here, so that they can be classes.
    """
    lines, labels, splits = [], {}, {}
    (root / "Videos").mkdir()
    for number in range(COUNT):
        name, low = f"0X{number:016X}", bool(number % 2)
        loop = make_loop(np.random.default_rng(number), frames=12, side=32)
        (root / "Videos" / f"{name}.avi").write_bytes(encode_avi(loop[::-1] if low else loop))
        splits[name] = ("TRAIN", "TRAIN", "VAL", "TEST")[number // 2 % 4]
        lines.append(f"{name},{30 if low else 65},40.5,90.1,32,32,50,12,{splits[name]}")
        labels[name] = "30" if low else "65"
    head = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split"
    (root / "FileList.csv").write_text("\n".join([head, *lines]))
    (root / "VolumeTracings.csv").write_text("FileName,X1,Y1,X2,Y2,Frame\n")
    options = {"csv": "FileList.csv", "label": "EF", "positive": "30", "split": "Split"}
    return Made(
        options={**options, "frames": "12"},
        labels=labels,
        groups=None,
        splits={name: part.lower() for name, part in splits.items()},
        kind="cine",
    )


SETS: Mapping[str, Callable[[Path], Made]] = {
    "rsna": rsna,
    "vindr": vindr,
    "padchest": padchest,
    "mimic": mimic,
    "ham10000": ham10000,
    "isic2018": isic2018,
    "isic2019": isic2019,
    "isic2020": isic2020,
    "echonet": echonet,
}
