"""Tables of labels, damaged as text and as bytes, and what preparing does with them."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from edits import BYTES, File, Random, how_many, pick
from PIL import Image

from loaders.datasets.table import KINDS

NAMES = [f"p{n}.png" for n in range(6)]
# Headers and cells in the shapes of public tables: one label, one column a finding, lists, boxes.
TABLES = (
    "file,label,patient\n" + "".join(f"{name},{n % 2},{n // 2}\n" for n, name in enumerate(NAMES)),
    "\ufeffImage Index;Finding Labels;Patient ID;\r\n"
    + "".join(f"{name};{'A|B' if n % 2 else 'A'};{n};\r\n" for n, name in enumerate(NAMES)),
    ",path,Edema\n" + "".join(f"{n},{name},{n % 2}.0\n" for n, name in enumerate(NAMES)),
    "patientId,x,y,width,height,Target\n"
    + "".join(f"{name},{n}.5,2,3,4,1\n{name},,,,,0\n" for n, name in enumerate(NAMES)),
    "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
    + "".join(f"{name},No finding,14,R{n % 3},,,,\n" for n, name in enumerate(NAMES)),
    "image\tlabel\n" + "".join(f"{name}\t\"['a', 'b']\"\n" for name in NAMES),
)
# The options of each table, in their order, and some that fit none.
OPTIONS: tuple[dict[str, str], ...] = (
    {"group": "patient"},
    {"label": "Finding Labels", "finding": "B", "group": "Patient ID"},
    {"image": "path", "finding": "Edema"},
    {"label": "Target"},
    {"label": "class_name"},
    {"finding": "a"},
    *({}, {"finding": "any"}, {"group_pattern": "(p).*"}, {"csv": "labels.csv"}, {"csv": "../x"}),
)
_CELLS = (
    *(
        "",
        " ",
        '"',
        '""',
        "#N/A",
        "nan",
        "NULL",
        "-1",
        "1e999",
        "9" * 5000,
        "\u0663",
        "\x00",
        "\ud7ff",
    ),
    *(
        "../p0.png",
        "/etc/hostname",
        "C:\\p0.png",
        "p0.png",
        "P0.PNG",
        "~",
        "=1+1",
        "[bold]",
        "a|b|",
    ),
    *("['a'", "['a', 'b']", "[" * 5000, "\r", "\n", ",", ";", "\t", "\u202e", "No Finding", "0.5"),
)
_ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252", "latin-1")


@cache
def pictures() -> list[File]:
    """Return a small picture for each name of the tables."""
    files = []
    random = np.random.default_rng(0)
    for name in NAMES:
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (6, 5)).astype(np.uint8)).save(file, "PNG")
        files.append((name, file.getvalue()))
    return files


def cell(text: str, random: Random) -> str:
    """Put another text into one cell, the header's among them."""
    lines = text.split("\n")
    place = int(random.integers(len(lines)))
    mark = pick((",", ";", "\t"), random)
    cells = lines[place].split(mark)
    cells[int(random.integers(len(cells)))] = pick(_CELLS, random)
    lines[place] = mark.join(cells)
    return "\n".join(lines)


def line(text: str, random: Random) -> str:
    """Drop, double, move or lengthen a line, or end all lines in another way."""
    lines = text.split("\n")
    place = int(random.integers(len(lines)))
    taken = lines.pop(place)
    edit = int(random.integers(5))
    if edit == 0:
        return "\n".join(lines)
    if edit == 1:
        lines[place:place] = [taken] * int(random.choice([2, 3, 2000]))
    elif edit == 2:
        lines.insert(int(random.integers(len(lines) + 1)), taken)
    elif edit == 3:
        lines.insert(place, taken + pick((",", ";", "\t"), random) * int(random.choice([1, 5000])))
    else:
        return pick(("\r", "\r\n", "\n\n", "\u2028"), random).join([*lines, taken])
    return "\n".join(lines)


def make_table(random: Random) -> list[File]:
    """Return pictures, a damaged table and, as a file of its own, the options it is read with."""
    number = int(random.integers(len(TABLES)))
    text = TABLES[number]
    if random.random() < 0.2:
        number = int(random.integers(len(OPTIONS)))
    for _ in range(how_many(random)):
        text = pick((cell, cell, line), random)(text, random)
    data = text.encode(pick(_ENCODINGS, random), errors="replace")
    if random.random() < 0.3:
        data = pick(BYTES, random)(data, random)
    return [("labels.csv", data), ("options", str(number).encode()), *pictures()]


def read_table(paths: Sequence[Path]) -> None:
    """List a source as preparing does, and read its cases; raises what they raise."""
    table, chosen = paths[:2]
    options = OPTIONS[int(chosen.read_text())]
    kind = KINDS["images"]
    known = {name: default for name, (default, _) in kind.options.items()}
    survey = kind.survey(table.parent, known | options)
    for item in survey.items:
        for case in kind.read(item, survey.meta):
            assert isinstance(case, Exception) or case.image.ndim == 3
