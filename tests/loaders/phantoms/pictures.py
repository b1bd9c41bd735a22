"""Pictures of nobody with a table, laid out as public sets are: chest X-rays and skin lesions.

A lung field or a patch of skin with noise; what is to be found is a brighter or darker disc.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 48


def make_xray(out: Path, *, pictures: int, seed: int) -> None:
    """Make grey PNGs and Data_Entry.csv as NIH ChestX-ray14 has them; two pictures a patient.

    Every third holds an effusion, a disc, with or without another finding that shows nothing.
    """
    rows = []
    out.mkdir(parents=True)
    for number in range(pictures):
        random = np.random.default_rng([seed, number])
        found = number // 2 % 3 == 0
        image = _field(random) + _disc(random, 0.5 * found)
        name = f"{number // 2:08d}_{number % 2:03d}.png"
        Image.fromarray(_grey(image)).save(out / name)
        findings = ("Effusion" if number % 2 else "Effusion|Mass") if found else "No Finding"
        rows.append((name, findings, number // 2))
    _table(out / "Data_Entry.csv", ("Image Index", "Finding Labels", "Patient ID"), rows)


def make_skin(out: Path, *, pictures: int, seed: int) -> None:
    """Make colour PNGs and a table as the ISIC archive has them; every fourth is a melanoma."""
    rows = []
    out.mkdir(parents=True)
    for number in range(pictures):
        random = np.random.default_rng([seed, number])
        lesion = number % 4 == 0
        colour = np.array([0.8, 0.6, 0.5])[:, None, None] * _field(random)
        mole = _disc(random, -0.3) - _disc(random, 0.3 * lesion)
        Image.fromarray(np.moveaxis(_grey(colour + mole), 0, -1)).save(
            out / f"ISIC_{number:07d}.png"
        )
        what = "melanoma" if lesion else "nevus"
        rows.append((f"ISIC_{number:07d}", what, f"IP_{number:07d}"))
    _table(out / "metadata.csv", ("isic_id", "diagnosis", "patient_id"), rows)


def _field(random: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.08 * random.standard_normal((SIDE, SIDE))


def _disc(random: np.random.Generator, height: float) -> np.ndarray:
    y, x = np.ogrid[:SIDE, :SIDE]
    centre = random.uniform(SIDE / 4, 3 * SIDE / 4, 2)
    return height * (np.hypot(y - centre[0], x - centre[1]) < SIDE / 6)


def _grey(image: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _table(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
