"""Folders of images and masks in miniature, as public sets have them and as people keep them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.loaders.formats.scans.write import SQUARE, retargeted, write_series

# Its functions are not annotated.
nib: Any = nibabel
SQUARE_PIXELS = {"PixelSpacing": SQUARE["PixelSpacing"]}


def blobs(number: int, shape: tuple[int, ...], levels: int = 1) -> tuple[Any, Any]:
    """Return an image in 8 bits and its mask: 0, and 1 to `levels` ever further inside."""
    rng = np.random.default_rng(number)
    field = gaussian_filter(rng.normal(size=shape), 3, mode="wrap")
    field = (field - field.mean()) / field.std()
    mask = sum((field > 0.4 + 0.7 * level).astype(np.uint8) for level in range(levels))
    image = np.clip(90 + 45 * np.asarray(mask) + rng.normal(0, 10, shape), 0, 255)
    return image.astype(np.uint8), mask


def picture(path: Path, array: Any, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **more)


def volume(path: Path, voxels: Any, spacing: tuple[float, ...] = (1, 1, 2), **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = more.pop("affine", np.diag([*spacing, 1.0]))
    nib.save(nib.Nifti1Image(voxels, affine), path)


def stray(folder: Path) -> None:
    """Leave behind what systems leave in every folder."""
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._a.png", "._a.nii.gz"):
        (folder / name).write_bytes(b"\0\x05\x16\x07stray")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "a.png").write_bytes(b"stray")


def isic(root: Path, count: int = 8) -> None:
    for number in range(count):
        part = "Training" if number < count - 2 else "Validation"
        image, mask = blobs(number, (24, 32))
        inputs = root / f"ISIC2018_Task1-2_{part}_Input"
        picture(inputs / f"ISIC_{number:07d}.jpg", np.stack([image, image // 2, image // 3], -1))
        truth = root / f"ISIC2018_Task1_{part}_GroundTruth"
        picture(truth / f"ISIC_{number:07d}_segmentation.png", mask * 255)
        # Of task 2, and of 2017.
        picture(truth / f"ISIC_{number:07d}_attribute_globules.png", mask * 0)
        picture(inputs / f"ISIC_{number:07d}_superpixels.png", image)
    (inputs / "ATTRIBUTION.txt").write_text("by several hospitals")
    stray(inputs)


def busi(root: Path, count: int = 8) -> None:
    top = root / "Dataset_BUSI_with_GT"
    for number in range(1, count + 1):
        image, mask = blobs(number, (26, 30))
        kind = ("benign", "malignant", "normal")[number % 3]
        name = f"{kind} ({number})"
        picture(top / kind / f"{name}.png", np.stack([image] * 3, -1))
        if kind == "normal":
            mask = mask * 0
        left, right = mask.copy(), mask.copy()
        left[:, 15:] = 0
        right[:, :15] = 0
        picture(top / kind / f"{name}_mask.png", Image.fromarray(left > 0))
        picture(top / kind / f"{name}_mask_1.png", right * 255)
    stray(top)


def kvasir(root: Path, count: int = 8) -> None:
    for number in range(count):
        image, mask = blobs(number, (32, 32))
        top = root / "Kvasir-SEG"
        picture(top / "images" / f"cju{number}.jpg", np.stack([image, image // 2, image // 4], -1))
        picture(top / "masks" / f"cju{number}.jpg", np.stack([mask * 255] * 3, -1), quality=75)
    (top / "kavsir_bboxes.json").write_text("{}")


def drive(root: Path, count: int = 8) -> None:
    for number in range(1, count + 1):
        part = "training" if number > 2 else "test"
        image, mask = blobs(number, (28, 26))
        top = root / "DRIVE" / part
        colour = np.stack([image, image // 2, image // 4], -1)
        picture(top / "images" / f"{number:02d}_{part}.tif", colour)
        picture(top / "mask" / f"{number:02d}_{part}_mask.gif", np.full((28, 26), 255, np.uint8))
        picture(top / "1st_manual" / f"{number:02d}_manual1.gif", mask * 255)
        picture(top / "2nd_manual" / f"{number:02d}_manual2.gif", mask * 0)


def camus(root: Path, count: int = 4) -> None:
    for number in range(1, count + 1):
        top = root / "database_nifti" / f"patient{number:04d}"
        for view in ("2CH", "4CH"):
            for phase in ("ED", "ES"):
                seed = 4 * number + 2 * (view == "2CH") + (phase == "ED")
                image, mask = blobs(seed, (28, 24), 3)
                name = f"patient{number:04d}_{view}_{phase}"
                volume(top / f"{name}.nii.gz", image[..., None], (0.3, 0.15, 1))
                volume(top / f"{name}_gt.nii.gz", mask[..., None], (0.3, 0.15, 1))
            beat = np.zeros((28, 24, 5), np.uint8)
            volume(top / f"patient{number:04d}_{view}_half_sequence.nii.gz", beat)
            volume(top / f"patient{number:04d}_{view}_half_sequence_gt.nii.gz", beat)
        (top / "Info_2CH.cfg").write_text("ED: 1")


def kits(root: Path, count: int = 8) -> None:
    # Slices first, as its files have them, and from the head down.
    affine = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
    for number in range(count):
        image, mask = blobs(number, (8, 24, 20), 3)
        top = root / "dataset" / f"case_{number:05d}"
        scan = image.astype(np.int16) - 1100
        volume(top / "imaging.nii.gz", scan, affine=affine)
        volume(top / "segmentation.nii.gz", mask, affine=affine)
        volume(top / "instances" / "tumor_instance-1_annotation-1.nii.gz", mask, affine=affine)
    (root / "dataset" / "kits23.json").write_text("[]")


def lits(root: Path, count: int = 8) -> None:
    for number in range(count):
        image, mask = blobs(number, (24, 20, 8), 2)
        batch = root / f"Training Batch {1 + number % 2}"
        volume(batch / f"volume-{number}.nii", image.astype(np.int16) - 1024, (0.8, 0.8, 2.5))
        volume(batch / f"segmentation-{number}.nii", mask.astype(np.float32), (0.8, 0.8, 2.5))
    volume(root / "test" / "test-volume-0.nii", image.astype(np.int16))


def totalsegmentator(root: Path, count: int = 8) -> None:
    lines = ["image_id;age;gender;institute;study_type;split"]
    for number in range(count):
        image, mask = blobs(number, (20, 24, 10), 2)
        top = root / f"s{number:04d}"
        volume(top / "ct.nii.gz", image.astype(np.int16) - 1024, (1.5, 1.5, 1.5))
        for name, where in (("liver", mask == 1), ("spleen", mask == 2), ("brain", mask > 9)):
            volume(
                top / "segmentations" / f"{name}.nii.gz", where.astype(np.uint8), (1.5, 1.5, 1.5)
            )
        lines.append(f"s{number:04d};60;m;A;ct thorax;{'test' if number == 0 else 'train'}")
    (root / "meta.csv").write_text("\n".join(lines) + "\n")


def dicom(root: Path, count: int = 8) -> None:
    """Write series with masks on them as TCIA has them: folders by UIDs, files by number."""
    for number in range(count):
        study = root / f"MADE-{number // 2}" / f"1.2.{number // 2}"
        write_series(
            study / f"1.2.{number}.1",
            series=f"7{number}",
            seed=number,
            PatientID=f"MADE-{number // 2}",
            **SQUARE_PIXELS,
        )
        if number % 2:
            retargeted("rt_utils.dcm", study / f"1.2.{number}.3" / "1-1.dcm", series=f"7{number}")
            continue
        path = study / f"1.2.{number}.2" / "1-1.dcm"
        retargeted("highdicom_binary.dcm", path, series=f"7{number}")
        data = pydicom.dcmread(path)
        measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.PixelSpacing = SQUARE_PIXELS["PixelSpacing"]
        data.save_as(path)
    (root / "LICENSE").write_text("made")
    (root / "DICOMDIR").write_bytes(b"no DICOM")


MINIATURES: Mapping[str, Callable[..., None]] = {
    "isic": isic,
    "busi": busi,
    "kvasir": kvasir,
    "drive": drive,
    "camus": camus,
    "kits": kits,
    "lits": lits,
    "totalsegmentator": totalsegmentator,
    "dicom": dicom,
}
