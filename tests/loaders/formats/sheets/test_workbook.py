"""A workbook that openpyxl wrote, and what nobody should be able to do with one."""

import logging
import zipfile
from pathlib import Path

import pytest

from loaders.cases import BadSource
from loaders.formats.csv_table import open_table
from loaders.formats.sheets.workbook import sheet_text

WRITTEN = Path(__file__).parent / "written" / "openpyxl.xlsx"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


def test_a_workbook_of_openpyxl(caplog: pytest.LogCaptureFixture) -> None:
    table = open_table(WRITTEN)
    assert table.columns == ["file", "label", "age", "seen on", "note, with comma"]
    # Worked out by hand from what was written; rows are numbered as in the sheet.
    assert list(table.lines([], ())) == [
        (2, ["P01", "1", "61.5", "2024-03-01", "größer; 'quoted'"]),
        (4, ["P02", "0", "0.3", "2024-03-01 13:30:00", "two lines"]),
        (5, ["0003", "TRUE", "1234567890123", "", ""]),
        (6, ["P04", "1e-07", "-4", "1900-03-01", "blank"]),
    ]
    assert caplog.messages == ["openpyxl.xlsx has 2 sheets; only the first is read."]
    assert caplog.records[0].levelno == logging.WARNING


def workbook(path: Path, sheet: str, **parts: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "xl/workbook.xml",
            parts.get(
                "book",
                f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets><sheet name="a" sheetId="1" '
                'r:id="rId1"/></sheets></workbook>',
            ),
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{PACKAGE}"><Relationship Id="rId1" Type="t" '
            'Target="worksheets/sheet1.xml"/></Relationships>',
        )
        for name in ("styles", "sharedStrings"):
            if name in parts:
                archive.writestr(f"xl/{name}.xml", parts[name])
        body = f'<worksheet xmlns="{MAIN}"><sheetData>{sheet}</sheetData></worksheet>'
        archive.writestr("xl/worksheets/sheet1.xml", parts.get("whole", body))
    return path


def test_cells_as_other_programs_write_them(tmp_path: Path) -> None:
    """Runs of text, how it is pronounced, cells without a place, formulas, days from 1904."""
    strings = (
        f'<sst xmlns="{MAIN}"><si><r><t>be</t></r><r><t>nign</t></r><rPh sb="0" eb="1"><t>x</t>'
        "</rPh></si></sst>"
    )
    styles = (
        f'<styleSheet xmlns="{MAIN}"><numFmts><numFmt numFmtId="170" formatCode="yyyy&quot;m&quot;"'
        '/><numFmt numFmtId="171" formatCode="0 [$dd]&quot;days&quot;"/></numFmts><cellXfs>'
        '<xf numFmtId="0"/><xf numFmtId="170"/><xf numFmtId="171"/></cellXfs></styleSheet>'
    )
    rows = (
        '<row><c t="inlineStr"><is><t>file</t></is></c><c t="inlineStr"><is><t>b</t></is></c>'
        '<c t="inlineStr"><is><t>c</t></is></c></row><row r="2"><c t="s"><v>0</v></c>'
        '<c s="1"><v>1462</v></c><c s="2"><v>7</v></c></row>'
        '<row r="3"><c t="str"><f>A1&amp;"x"</f><v>filex</v></c><c r="C3" t="e"><v>#N/A</v></c>'
        "</row>"
    )
    book = (
        f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><workbookPr date1904="1"/><sheets><sheet '
        'name="a" sheetId="1" r:id="rId1"/></sheets></workbook>'
    )
    path = workbook(tmp_path / "a.xlsx", rows, styles=styles, sharedStrings=strings, book=book)
    # 1904-01-01 and 1462 days, four years with a leap day and one more: by hand.
    assert sheet_text(path) == "file,b,c\nbenign,1908-01-02,7\nfilex,,#N/A\n"


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    f'<worksheet xmlns="{MAIN}"><sheetData><row><c t="str"><v>&b;</v></c></row></sheetData>'
    "</worksheet>"
)
OUTSIDE = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    f'<worksheet xmlns="{MAIN}"><sheetData><row><c t="str"><v>&a;</v></c></row></sheetData>'
    "</worksheet>"
)
LONG = f'<sst xmlns="{MAIN}"><si><t>{"x" * 2**20}</t></si></sst>'
ROW = '<row r="{0}"><c t="s"><v>{1}</v></c></row>'
BAD: dict[str, tuple[str, dict[str, str], str]] = {
    "entities": ("", {"whole": LAUGHS}, "DTDForbidden"),
    "a file of the machine": ("", {"whole": OUTSIDE}, "DTDForbidden"),
    "no XML": ("", {"whole": "<worksheet"}, "ParseError"),
    "a text that is not there": (ROW.format(1, 7), {}, "IndexError"),
    "rows backwards": (ROW.format(2, "").replace("s", "n") + '<row r="1"/>', {}, "ValueError"),
    "a far row": ('<row r="9999999"/>', {}, "ValueError"),
    "a far column": ('<row><c r="ZZZ1"><v>1</v></c></row>', {}, "ValueError"),
    "no sheet": ("", {"book": f'<workbook xmlns="{MAIN}"/>'}, "has no sheet"),
    "one text a thousand times": (
        "".join(ROW.format(n, 0) for n in range(1, 100)),
        {"sharedStrings": LONG},
        "holds more than 67108864 characters",
    ),
    "nothing": ("", {}, "its first sheet is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_workbook_that_cannot_be_read_says_so(tmp_path: Path, name: str) -> None:
    sheet, parts, why = BAD[name]
    with pytest.raises(BadSource, match=why) as told:
        open_table(workbook(tmp_path / "a.xlsx", sheet, **parts))
    assert "\n" not in str(told.value)
    assert "a.xlsx" in str(told.value)


@pytest.mark.parametrize(
    "raw", [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), b"PK\x03\x04" + bytes(60)]
)
def test_old_locked_and_damaged_ones(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.xlsx").write_bytes(raw)
    with pytest.raises(BadSource, match=r"old workbook \(.xls\), damaged, or password-protected"):
        open_table(tmp_path / "a.xlsx")


def test_a_cut_one(tmp_path: Path) -> None:
    for length in range(40, WRITTEN.stat().st_size, 211):
        (tmp_path / "a.xlsx").write_bytes(WRITTEN.read_bytes()[:length])
        with pytest.raises(BadSource, match="damaged"):
            open_table(tmp_path / "a.xlsx")


def test_flipped_bytes_are_a_table_or_a_sentence(tmp_path: Path) -> None:
    raw = WRITTEN.read_bytes()
    for at in range(0, len(raw), 7):
        broken = bytearray(raw)
        broken[at] ^= 0x55
        (tmp_path / "a.xlsx").write_bytes(bytes(broken))
        try:
            found = len(list(open_table(tmp_path / "a.xlsx").lines([], ())))
        except BadSource:
            continue
        assert found <= 5
