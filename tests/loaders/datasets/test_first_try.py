"""Six folders as strangers have them: what is suggested without a kind, and what it becomes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loaders.datasets.recognize import recognize
from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare
from loaders.store.read import Store, open_store
from tests.loaders.datasets.pairs.made import blobs, picture, stray
from tests.loaders.formats.scans.write import write_series
from tests.loaders.formats.sheets.test_workbook import workbook

ENDINGS = (".PNG", ".jpg", ".jpeg", ".JPG")


def colour(number: int) -> Any:
    image = blobs(number, (20, 24))[0]
    return np.stack([image, image // 2, image // 3], -1)


def class_folders(root: Path) -> None:
    """A folder in the folder that was unpacked, umlauts, blanks, a comma, four endings."""
    top = root / "Hautkrebs Aufnahmen"
    for number in range(8):
        folder = top / ("Bösartig", "Gutartige Nävi")[number % 2]
        picture(folder / f"Müller, Jörg {number}{ENDINGS[number % 4]}", colour(number))
    stray(top)
    stray(top / "Bösartig")
    (root / "Lies mich.txt").write_text("hallo")


def masks_beside(root: Path) -> None:
    for number in range(8):
        name = root / "Export (2)" / f"Läsion {number:02d}"
        picture(Path(f"{name}{ENDINGS[number % 4]}"), colour(number))
        picture(Path(f"{name}_seg.png"), blobs(number, (20, 24))[1] * 255)
    stray(root / "Export (2)")
    (root / "Export (2)" / "Notizen.docx").write_bytes(b"PK")


def sheet_with_a_title(root: Path) -> None:
    """A title above the names of the columns, and decimal commas as text."""
    for number in range(8):
        picture(root / "Bilder" / f"Echo {number}.png", blobs(number, (20, 24))[0])
    stray(root / "Bilder")
    rows: list[tuple[str, ...]] = [("Kardiologie, Station 3",), ("Stand: 12.03.2024",), ()]
    rows.append(("Bild", "Patient", "EF [%]"))
    rows += [(f"Echo {n}", f"P{n // 2}", f"{40 + 2.5 * n:.1f}".replace(".", ",")) for n in range(8)]
    cells = "".join(
        f'<row r="{at}">'
        + "".join(f'<c t="inlineStr"><is><t>{text}</t></is></c>' for text in row)
        + "</row>"
        for at, row in enumerate(rows, start=1)
    )
    workbook(root / "Messwerte Echo.xlsx", cells)


def series_of_patients(root: Path) -> None:
    """A list of patients, whose numbers a spreadsheet has robbed of their zeros."""
    lines = ["Patienten-ID;Alter;Befund"]
    for number in range(8):
        folder = root / "DICOM" / f"IM{number:04d}" / "S0001"
        write_series(folder, series=f"5{number}", seed=number, PatientID=f"{number:05d}")
        lines.append(f"{number};{50 + number};{('nein', 'ja')[number % 2]}")
    (root / "Liste Befunde.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode())
    stray(root)


def findings(root: Path) -> None:
    lines = ["Dateiname;Geschlecht;Erguss;Infiltrat;Pneumothorax"]
    for number in range(8):
        name = f"Thorax {number}{ENDINGS[number % 2]}"
        picture(root / "Röntgen Bilder" / "2024" / name, colour(number))
        bits = ";".join(str(number >> bit & 1) for bit in range(3))
        lines.append(f"{name};{'mw'[number % 2]};{bits}")
    (root / "Befunde.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    stray(root)


def grades(root: Path) -> None:
    lines = ["Bild,Auge,Grad"]
    for number in range(12):
        picture(root / "bilder" / f"{number}.jpeg", colour(number))
        lines.append(f"{number},{'LR'[number % 2]},{number % 4}")
    (root / "grade.csv").write_text("\n".join(lines))


def answers(store: Store) -> list[Any]:
    if store.meta.numbers is not None:
        return sorted(map(tuple, store.numbers.tolist()))
    return sorted(store.meta.classes[label] for label in store.labels)


# Folder -> kind, what is suggested, what the sentence then asks for, cases, answers.
Told = tuple[Callable[[Path], None], str, dict[str, str], dict[str, str], int, Callable[..., Any]]
TRIES: dict[str, Told] = {
    "class folders": (
        class_folders,
        "images",
        {},
        {"positive": "Bösartig"},
        8,
        lambda: ["Bösartig"] * 4 + ["Gutartige Nävi"] * 4,
    ),
    "masks beside": (
        masks_beside,
        "pairs",
        {"images": "**/*{ending:.jpeg|.jpg|.png}", "masks": "{folder}/{stem}_seg.png"},
        {},
        8,
        lambda: None,
    ),
    "sheet with a title": (
        sheet_with_a_title,
        "images",
        {"value": "EF [%]", "decimal": ",", "group": "Patient"},
        {},
        8,
        lambda: [(40 + 2.5 * n,) for n in range(8)],
    ),
    "series of patients": (
        series_of_patients,
        "volumes",
        {"by": "PatientID", "label": "Befund"},
        {"positive": "ja"},
        8,
        lambda: ["ja"] * 4 + ["nein"] * 4,
    ),
    "findings": (
        findings,
        "images",
        {"finding": "all"},
        {},
        8,
        lambda: sorted((float(n & 1), float(n >> 1 & 1), float(n >> 2)) for n in range(8)),
    ),
    "grades": (
        grades,
        "images",
        {"label": "Grad", "grades": "0,1,2,3"},
        {},
        12,
        lambda: sorted("0123" * 3),
    ),
}


@pytest.mark.parametrize("name", TRIES)
def test_what_is_suggested_becomes_the_store(tmp_path: Path, name: str) -> None:
    make, kind, options, asked, cases, wanted = TRIES[name]
    source = tmp_path / "Neuer Ordner (1)"
    make(source)
    seems = next(one for one in recognize(source) if one.options == options)
    assert seems.kind == kind
    # What is still to be said is one word, which the sentence offers.
    assert bool(seems.missing) == bool(asked)
    for option, value in asked.items():
        assert f"{option}={value}" in seems.missing
    given = {**options, **asked}
    report = prepare(KINDS[kind], source, tmp_path / "s", options=given, key=b"k", strict=False)
    assert (report.n_cases, report.rejected) == (cases, ())
    store = open_store(tmp_path / "s")
    if store.meta.masked:
        held = sorted(int(np.asarray(store.mask(n)).sum()) for n in range(cases))
        assert held == sorted(int(blobs(n, (20, 24))[1].sum()) for n in range(cases))
    else:
        assert answers(store) == wanted()


def test_one_answer_of_each_column_is_suggested_and_others_are_not(tmp_path: Path) -> None:
    """A number a picture, names of patients, dates and remarks are no classes."""
    lines = ["file,patient,born,remark,side,stage,size"]
    for number in range(30):
        picture(tmp_path / f"{number}.png", blobs(number, (9, 8))[0])
        more = f"01.02.19{number + 10},note {number},{'LR'[number % 2]},{number % 3},{number * 1.5}"
        lines.append(f"{number},p{number // 3},{more}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = [one.options for one in recognize(tmp_path)]
    assert all(options.pop("group") == "patient" for options in found)
    assert sorted(map(str, found)) == sorted(
        map(
            str,
            [
                {"label": "side"},
                {"label": "stage"},
                {"label": "stage", "grades": "0,1,2"},
                {"value": "size"},
            ],
        )
    )


def test_a_class_may_be_called_none(tmp_path: Path) -> None:
    """The dry run counts it, so it is a value; among numbers the word is a missing one."""
    lines = ["file,stage,size,grade"]
    for number in range(12):
        picture(tmp_path / f"{number}.png", blobs(number, (9, 8))[0])
        stage = ("none", "mild", "moderate", "severe")[number % 4]
        size = "-" if number == 3 else f"{number * 1.5}"
        lines.append(f"{number},{stage},{size},{(1, 2, 'none', 3)[number % 4]}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = {tuple(one.options.items()): one.why.rpartition(", ")[2] for one in recognize(tmp_path)}
    assert found == {
        (("label", "stage"),): "whose column stage has 4 values",
        (("value", "size"),): "whose column size holds numbers",
        (("label", "grade"),): "whose column grade has 4 values",
    }


def test_a_column_a_class_is_suggested_as_such(tmp_path: Path) -> None:
    lines = ["image,MEL,NV,BCC"]
    for number in range(6):
        picture(tmp_path / "in" / f"{number}.png", blobs(number, (9, 8))[0])
        lines.append(f"{number},{','.join(str(float(number % 3 == at)) for at in range(3))}")
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    (seems,) = recognize(tmp_path)
    assert (seems.options, seems.cases, seems.missing) == ({"one_hot": "MEL,NV,BCC"}, 6, "")


@pytest.mark.parametrize(
    ("text", "columns", "first"),
    [
        ("Station 3\n\nStand: heute\nfile;class\na;1\nb;2\n", ["file", "class"], 5),
        ("Export;;\nfile;class;who\na;1;x\n", ["file", "class", "who"], 3),
        # A first line of two names is the header, whatever follows.
        ("file,class\nname,sort\na,b\n", ["file", "class"], 2),
    ],
)
def test_a_title_above_the_names_of_columns_is_passed_by(
    tmp_path: Path, text: str, columns: list[str], first: int, caplog: pytest.LogCaptureFixture
) -> None:
    from loaders.formats.csv_table import open_table

    (tmp_path / "t.csv").write_text(text)
    table = open_table(tmp_path / "t.csv")
    assert table.columns == columns
    assert next(table.lines([], ()))[0] == first
    told = [f"t.csv names its columns in line {first - 1}; the lines above are skipped."]
    assert caplog.messages == (told if first > 2 else [])


@pytest.mark.parametrize("text", ["image\na.png,1\nb.png,0\n", "image\nx\n", "a\n1,2\n3,4\n"])
def test_lines_of_data_are_no_names_of_columns(tmp_path: Path, text: str) -> None:
    from loaders.cases import BadSource
    from loaders.formats.csv_table import open_table

    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadSource, match="its first line should name two or more columns"):
        open_table(tmp_path / "t.csv")
