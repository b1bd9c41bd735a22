"""MedMNIST: eighteen ready sets of small 2-D and 3-D images, each one .npz file.

What the sets are stands in the table; classes, tasks and licences are those of the official
package's `INFO`, version 3.0.2 (github.com/MedMNIST/MedMNIST). An image is its own group: the
files name no patient, although several sets hold more than one image of a patient.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from loaders.cases import Array, BadCase, BadSource, Case, Item, Kind, Meta, Survey, settings

SPLITS = ("train", "val", "test")
# Deflate cannot shrink data further (zlib technical notes, zlib.net/zlib_tech.html).
DEFLATE_LIMIT = 1032
# Assumption: the largest set has 236 386 labels.
MAX_LABELS = 10_000_000

_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)


@dataclass(frozen=True, kw_only=True)
class Info:
    """One set: `task` in MedMNIST's words; `positive` is the class of the disease where two are."""

    dims: Literal[2, 3]
    channels: int
    task: str
    classes: tuple[str, ...]
    positive: int | None = None
    licence: str = "CC BY 4.0"


INFO: dict[str, Info] = {
    "pathmnist": Info(
        dims=2,
        channels=3,
        task="multi-class",
        classes=(
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
    ),
    "chestmnist": Info(
        dims=2,
        channels=1,
        task="multi-label, binary-class",
        classes=(
            "atelectasis",
            "cardiomegaly",
            "effusion",
            "infiltration",
            "mass",
            "nodule",
            "pneumonia",
            "pneumothorax",
            "consolidation",
            "edema",
            "emphysema",
            "fibrosis",
            "pleural",
            "hernia",
        ),
    ),
    "dermamnist": Info(
        dims=2,
        channels=3,
        task="multi-class",
        classes=(
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        licence="CC BY-NC 4.0",
    ),
    "octmnist": Info(
        dims=2,
        channels=1,
        task="multi-class",
        classes=("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    ),
    "pneumoniamnist": Info(
        dims=2, channels=1, task="binary-class", classes=("normal", "pneumonia"), positive=1
    ),
    "retinamnist": Info(
        dims=2,
        channels=3,
        task="ordinal-regression",
        classes=("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
    ),
    # The official package calls class 1 the positive one; the disease is class 0.
    "breastmnist": Info(
        dims=2, channels=1, task="binary-class", classes=("malignant", "normal, benign"), positive=0
    ),
    "bloodmnist": Info(
        dims=2,
        channels=3,
        task="multi-class",
        classes=(
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
    ),
    "tissuemnist": Info(
        dims=2,
        channels=1,
        task="multi-class",
        classes=(
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
    ),
    "organamnist": Info(dims=2, channels=1, task="multi-class", classes=_ORGANS),
    "organcmnist": Info(dims=2, channels=1, task="multi-class", classes=_ORGANS),
    "organsmnist": Info(dims=2, channels=1, task="multi-class", classes=_ORGANS),
    # The same organs under other numbers.
    "organmnist3d": Info(
        dims=3,
        channels=1,
        task="multi-class",
        classes=(
            "liver",
            "kidney-right",
            "kidney-left",
            "femur-right",
            "femur-left",
            "bladder",
            "heart",
            "lung-right",
            "lung-left",
            "spleen",
            "pancreas",
        ),
    ),
    "nodulemnist3d": Info(
        dims=3, channels=1, task="binary-class", classes=("benign", "malignant"), positive=1
    ),
    "adrenalmnist3d": Info(
        dims=3, channels=1, task="binary-class", classes=("normal", "hyperplasia"), positive=1
    ),
    "fracturemnist3d": Info(
        dims=3,
        channels=1,
        task="multi-class",
        classes=(
            "buckle rib fracture",
            "nondisplaced rib fracture",
            "displaced rib fracture",
        ),
    ),
    "vesselmnist3d": Info(
        dims=3, channels=1, task="binary-class", classes=("vessel", "aneurysm"), positive=1
    ),
    # No disease is here: as in the official package, class 1 counts as positive.
    "synapsemnist3d": Info(
        dims=3,
        channels=1,
        task="binary-class",
        classes=("inhibitory synapse", "excitatory synapse"),
        positive=1,
    ),
}
TASKS = ("binary-class", "multi-class", "ordinal-regression")


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """Look into one .npz file, or into a folder that holds NAME.npz; raises BadSource."""
    path, name = _locate(source, settings("medmnist", MEDMNIST.options, options)["name"])
    info = INFO[name]
    if info.task not in TASKS:
        known = ", ".join(TASKS)
        raise BadSource(f"{name} is a {info.task} task, which is not supported; supported: {known}")
    items = []
    for split in SPLITS:
        with _member(path, f"{split}_labels") as found:
            labels = None if found is None else _labels(path, split, *found)
        with _member(path, f"{split}_images") as found:
            if (found is None) != (labels is None):
                part = "labels" if labels is None else "images"
                raise BadSource(f"{path.name} has no {split}_{part}")
            if found is None or labels is None:
                continue
            shape, dtype, _ = found
            _check_images(path, split, shape, dtype, info)
            if len(labels) != shape[0]:
                raise BadSource(
                    f"{path.name} has {shape[0]} {split} images and {len(labels)} labels"
                )
        items.append(Item(key=split, paths=(path,), extra={"labels": labels}))
    if not items:
        raise BadSource(f"{path.name} holds none of the parts {', '.join(SPLITS)}")
    meta = Meta(
        kind="medmnist",
        name=name,
        task="classification",
        dims=info.dims,
        channels=("red", "green", "blue") if info.channels == 3 else ("intensity",),
        classes=info.classes,
        regions={},
        positive=info.positive,
        normalize="train",
        fill=0.0,
        unit="image" if info.dims == 2 else "volume",
        group_source="case",
        source="Yang et al. 2023, MedMNIST v2, 10.1038/s41597-022-01721-8",
        licence=info.licence,
        options={"name": name},
    )
    return Survey(meta=meta, items=tuple(items), rejected=())


def read(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
    """Give the cases of one official part, one image in memory at a time.

    Raises BadSource where the file breaks off, since what is left of such a file is no MedMNIST.
    """
    (path,), split = item.paths, item.key
    with _member(path, f"{split}_images") as found:
        assert found is not None
        shape, dtype, file = found
        size = int(np.prod(shape[1:])) * dtype.itemsize
        for number, label in enumerate(item.extra["labels"]):
            raw = _exactly(file, size, path)
            key = f"{split}/{number}"
            pixels = np.frombuffer(raw, dtype).reshape(shape[1:])
            if label != int(label):
                yield BadCase(f"label {label} is not a whole number", where=key, key=key)
                continue
            yield Case(
                key=key,
                group=key,
                # (Y, X, C) to (C, Y, X); (Y, X) or (Z, Y, X) gains its one channel.
                image=np.moveaxis(pixels, -1, 0) if len(meta.channels) == 3 else pixels[None],
                label=int(label),
                mask=None,
                spacing=(np.nan,) * meta.dims,
                split=split,
            )


def _locate(source: Path, name: str) -> tuple[Path, str]:
    known = ", ".join(INFO)
    if name and name not in INFO:
        raise BadSource(f"there is no MedMNIST set {name!r}; the sets are: {known}")
    if source.is_dir():
        fitting = [
            path
            for path in sorted(source.glob("*.npz"))
            if _set_of(path) in ([name] if name else INFO)
        ]
        if len(fitting) != 1:
            found = ", ".join(path.name for path in fitting) or "none"
            raise BadSource(
                f"{source} should hold one file {name or 'NAME'}.npz, found: {found}; "
                "name a set as medmnist:NAME, or give the file itself"
            )
        return fitting[0], _set_of(fitting[0])
    if not source.is_file():
        raise BadSource(f"there is no file or folder {source}")
    if not name and _set_of(source) not in INFO:
        raise BadSource(f"{source.name} is not named after a MedMNIST set: say medmnist:NAME")
    return source, name or _set_of(source)


def _set_of(path: Path) -> str:
    # Larger images stand in breastmnist_64.npz, _128 and _224.
    return path.stem.partition("_")[0]


def _labels(
    path: Path, split: str, shape: tuple[int, ...], dtype: np.dtype[Any], file: IO[bytes]
) -> Array:
    if len(shape) == 2 and shape[1] == 1:
        shape = shape[:1]
    if len(shape) != 1 or dtype.kind not in "uif":
        raise BadSource(
            f"{path.name}: {split}_labels is {dtype} {shape}, not one number an image, "
            "(N,) or (N, 1)"
        )
    if shape[0] > MAX_LABELS:
        raise BadSource(f"{path.name}: {split}_labels declares {shape[0]} labels")
    labels = np.frombuffer(_exactly(file, shape[0] * dtype.itemsize, path), dtype)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise BadSource(f"{path.name}: {split}_labels holds NaN or infinity")
    return labels


def _check_images(
    path: Path, split: str, shape: tuple[int, ...], dtype: np.dtype[Any], info: Info
) -> None:
    colour = (3,) if info.channels == 3 else ()
    spatial = shape[1 : 1 + info.dims]
    if len(spatial) != info.dims or shape[1 + info.dims :] != colour or dtype != np.uint8:
        axes = "N, " + ", ".join("ZYX"[-info.dims :]) + (", 3" if colour else "")
        raise BadSource(f"{path.name}: {split}_images is {dtype} {shape}, not uint8 ({axes})")
    if min(shape) < 1:
        raise BadSource(f"{path.name}: {split}_images is empty: {shape}")


@contextmanager
def _member(
    path: Path, name: str
) -> Iterator[tuple[tuple[int, ...], np.dtype[Any], IO[bytes]] | None]:
    """Open one array of an .npz at its first number; None where it is not in the file.

    Never unpickles: of the array's header only a type of plain numbers is accepted, and what it
    declares is held against the bytes that the file can hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{name}.npy" not in archive.namelist():
                yield None
                return
            entry = archive.getinfo(f"{name}.npy")
            with archive.open(entry) as file:
                shape, dtype = _npy_header(file, path, name)
                declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
                if not declared <= entry.file_size <= entry.compress_size * DEFLATE_LIMIT:
                    raise BadSource(f"{path.name}: {name} declares more than the file can hold")
                yield shape, dtype, file
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, OSError) as error:
        raise BadSource(f"{path.name} is no whole .npz file ({error})") from None


def _npy_header(file: IO[bytes], path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError) as error:
        raise BadSource(f"{path.name}: {name} is no .npy array ({error})") from None
    if dtype.hasobject or dtype.kind not in "uif" or (fortran and len(shape) > 1):
        order = ", column by column" if fortran else ""
        raise BadSource(f"{path.name}: {name} holds {dtype}{order}, not plain numbers row by row")
    return shape, dtype


def _exactly(file: IO[bytes], size: int, path: Path) -> bytes:
    raw = file.read(size)
    if len(raw) < size:
        raise BadSource(f"{path.name} is truncated")
    return raw


MEDMNIST = Kind(
    name="medmnist",
    summary="one of the MedMNIST sets of small images, 2-D or 3-D, from its .npz file",
    source="Yang et al. 2023, 10.1038/s41597-022-01721-8; https://medmnist.com",
    survey=survey,
    read=read,
    options={"name": ("", "which set; empty: as the file is named")},
)
