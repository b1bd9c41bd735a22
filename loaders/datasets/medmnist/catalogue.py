"""The MedMNIST sets: their properties, where their files are published, and the MD5 of each.

From the official package's `INFO`, version 3.0.2 (github.com/MedMNIST/MedMNIST); the files are
those of Zenodo record 10519652.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

BASE = "https://zenodo.org/records/10519652/files"
PAGE = "https://zenodo.org/records/10519652"
# Sides of the images; 3-D sets are published in the first two.
SIZES = (28, 64, 128, 224)

# In the order of SIZES.
MD5: Mapping[str, tuple[str, ...]] = {
    "pathmnist": (
        "a8b06965200029087d5bd730944a56c1",
        "55aa9c1e0525abe5a6b9d8343a507616",
        "ac42d08fb904d92c244187169d1fd1d9",
        "2c51a510bcdc9cf8ddb2af93af1eadec",
    ),
    "chestmnist": (
        "02c8a6516a18b556561a56cbdd36c4a8",
        "9de6cd0b934ebb5b7426cfba5efbae16",
        "db107e5590b27930b62dbaf558aebee3",
        "45bd33e6f06c3e8cdb481c74a89152aa",
    ),
    "dermamnist": (
        "0744692d530f8e62ec473284d019b0c7",
        "b70a2f5635c6199aeaa28c31d7202e1f",
        "2defd784463fa5243564e855ed717de1",
        "8974907d8e169bef5f5b96bc506ae45d",
    ),
    "octmnist": (
        "c68d92d5b585d8d81f7112f81e2d0842",
        "e229e9440236b774d9f0dfef9d07bdaf",
        "0a97e76651ace45c5d943ee3f65b63ae",
        "abc493b6d529d5de7569faaef2773ba3",
    ),
    "pneumoniamnist": (
        "28209eda62fecd6e6a2d98b1501bb15f",
        "8f4eceb4ccffa70c672198ea285246c6",
        "05b46931834c231683c68f40c47b2971",
        "d6a3c71de1b945ea11211b03746c1fe1",
    ),
    "retinamnist": (
        "bd4c0672f1bba3e3a89f0e4e876791e4",
        "afda852cc34dcda56f86ad2b2457dbcc",
        "e48e916a24454daf90583d4e6efb1a18",
        "eae7e3b6f3fcbda4ae613ebdcbe35348",
    ),
    "breastmnist": (
        "750601b1f35ba3300ea97c75c52ff8f6",
        "742edef2a1fd1524b2efff4bd7ba9364",
        "363e4b3f8d712e9b5de15470a2aaadf1",
        "b56378a6eefa9fed602bb16d192d4c8b",
    ),
    "bloodmnist": (
        "7053d0359d879ad8a5505303e11de1dc",
        "2b94928a2ae4916078ca51e05b6b800b",
        "adace1e0ed228fccda1f39692059dd4c",
        "b718ff6835fcbdb22ba9eacccd7b2601",
    ),
    "tissuemnist": (
        "ebe78ee8b05294063de985d821c1c34b",
        "123ece2eba09d0aa5d698fda57103344",
        "61b955355d7425a89687b06cca3ce0c2",
        "b077128c4a949f0a4eb01517f9037b9c",
    ),
    "organamnist": (
        "68e3f8846a6bd62f0c9bf841c0d9eacc",
        "2dcccc29b88e6da5a01161ef20cda288",
        "eeae80d0a227a8d099027e1b3cfd3b60",
        "50747347e05c87dd3aaf92c49f9f3170",
    ),
    "organcmnist": (
        "b9ceb9546e10131b32923c5bbeaea2b1",
        "3ce34a8724ea6f548e6db4744d03b6a9",
        "773c1f009daa3fe5d9a2a201b2a7ed94",
        "050f5e875dc056f6768abf94ec9995d1",
    ),
    "organsmnist": (
        "9ab87b696fb54e2a387ebe992d6ed5f1",
        "53a6d115339d874c25e309a994ff46d3",
        "ded0c5fa01a95dc4978b956f613e9b8e",
        "b354719e553fbbb2513d5533f52a4cb1",
    ),
    "organmnist3d": (
        "a0c5a1ff56af4f155c46d46fbb45a2fe",
        "58a2205adf14a9d0a189cb06dc78bf10",
    ),
    "nodulemnist3d": (
        "8755a7e9e05a4d9ce80a24c3e7a256f3",
        "c47c5b7d457bf6332200d2ea6d64ecd8",
    ),
    "adrenalmnist3d": (
        "bbd3c5a5576322bc4cdfea780653b1ce",
        "17721accfe9fb005146a47d33bc54b2f",
    ),
    "fracturemnist3d": (
        "6aa7b0143a6b42da40027a9dda61302f",
        "f01d7e6316aedf4210da0da5b7437b42",
    ),
    "vesselmnist3d": (
        "b41fd4f7e7e2feedddb201585ecafa1b",
        "6bb274a8846e1097066dcd64e2c4520f",
    ),
    "synapsemnist3d": (
        "1235b78a3cd6280881dd7850a78eadb6",
        "43bd14ebf3af9d3dd072446fedc14d5e",
    ),
}

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
    """One set: `task` in MedMNIST's words; `positive`: which of two classes is the disease.

    `cases` are the numbers in train, val and test, the same in every size.
    """

    dims: Literal[2, 3]
    cases: tuple[int, int, int]
    channels: int
    task: str
    classes: tuple[str, ...]
    positive: int | None = None
    licence: str = "CC BY 4.0"


INFO: dict[str, Info] = {
    "pathmnist": Info(
        dims=2,
        cases=(89_996, 10_004, 7180),
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
        cases=(78_468, 11_219, 22_433),
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
        cases=(7007, 1003, 2005),
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
        cases=(97_477, 10_832, 1000),
        channels=1,
        task="multi-class",
        classes=("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    ),
    "pneumoniamnist": Info(
        dims=2,
        cases=(4708, 524, 624),
        channels=1,
        task="binary-class",
        classes=("normal", "pneumonia"),
        positive=1,
    ),
    "retinamnist": Info(
        dims=2,
        cases=(1080, 120, 400),
        channels=3,
        task="ordinal-regression",
        classes=("grade 0", "grade 1", "grade 2", "grade 3", "grade 4"),
    ),
    # The official package calls class 1 the positive one; the disease is class 0.
    "breastmnist": Info(
        dims=2,
        cases=(546, 78, 156),
        channels=1,
        task="binary-class",
        classes=("malignant", "normal, benign"),
        positive=0,
    ),
    "bloodmnist": Info(
        dims=2,
        cases=(11_959, 1712, 3421),
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
        cases=(165_466, 23_640, 47_280),
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
    "organamnist": Info(
        dims=2, cases=(34_561, 6491, 17_778), channels=1, task="multi-class", classes=_ORGANS
    ),
    "organcmnist": Info(
        dims=2, cases=(12_975, 2392, 8216), channels=1, task="multi-class", classes=_ORGANS
    ),
    "organsmnist": Info(
        dims=2, cases=(13_932, 2452, 8827), channels=1, task="multi-class", classes=_ORGANS
    ),
    # The same organs under other numbers.
    "organmnist3d": Info(
        dims=3,
        cases=(971, 161, 610),
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
        dims=3,
        cases=(1158, 165, 310),
        channels=1,
        task="binary-class",
        classes=("benign", "malignant"),
        positive=1,
    ),
    "adrenalmnist3d": Info(
        dims=3,
        cases=(1188, 98, 298),
        channels=1,
        task="binary-class",
        classes=("normal", "hyperplasia"),
        positive=1,
    ),
    "fracturemnist3d": Info(
        dims=3,
        cases=(1027, 103, 240),
        channels=1,
        task="multi-class",
        classes=(
            "buckle rib fracture",
            "nondisplaced rib fracture",
            "displaced rib fracture",
        ),
    ),
    "vesselmnist3d": Info(
        dims=3,
        cases=(1335, 191, 382),
        channels=1,
        task="binary-class",
        classes=("vessel", "aneurysm"),
        positive=1,
    ),
    # There is no disease: as in the official package, class 1 counts as positive.
    "synapsemnist3d": Info(
        dims=3,
        cases=(1230, 177, 352),
        channels=1,
        task="binary-class",
        classes=("inhibitory synapse", "excitatory synapse"),
        positive=1,
    ),
}


def file_name(name: str, size: int) -> str:
    """Return the name of a set's file; it contains the size unless that is 28."""
    return f"{name}.npz" if size == SIZES[0] else f"{name}_{size}.npz"
