"""LIDC's reads (XML), damaged, and what preparing does with them."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from edits import BYTES, Random, how_many, pick

from loaders.datasets.lidc.xml_reads import list_reads, read_sessions

# Characters that one edit adds.
MOST_ADDED = 1 << 24

_TEXTS = (
    *("", " ", "-1", "0", "1.5", "1e999", "99999999999999999999", "9" * 5000, "1_0", "NaN"),
    *("\u0663", "\u00bd", "TRUE", "<", "&", "&a;", "&#0;", "&#x10FFFF;", "]]>", "\x00", "a" * 9999),
    *("<![CDATA[1]]>", "<!--", "<x/>", "\ud7ff", "\ufffe"),
)
_PROLOGUES = (
    '<!DOCTYPE x [<!ENTITY a "1">]>',
    '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
    '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]>',
    "<!DOCTYPE x [<!ENTITY z 'aa'><!ENTITY y '&z;&z;&z;&z;'><!ENTITY a '&y;&y;&y;&y;'>]>",
    "<?xml-stylesheet href='file:///etc/hostname'?>",
    "<?xml version='1.1'?>",
)
_ENCODINGS = (
    "UTF-8",
    "UTF-16",
    "ISO-8859-1",
    "ASCII",
    "UTF-7",
    "klingon",
    "idna",
    "rot13",
    "cp037",
)


def element(text: str, random: Random) -> str:
    """Drop, double, move or wrap one of the elements that hold no other, or rename any tag."""
    tags = list(re.finditer(r"<(\w+)[^<>]*>[^<>]*</\1>", text))
    if not tags:
        return text
    start, end = pick(tags, random).span()
    here, rest = text[start:end], text[:start] + text[end:]
    other = int(random.integers(len(rest) + 1))
    # Edits come on top of each other: four such would fill the memory before anything is read.
    room = MOST_ADDED // len(here)
    edits: tuple[Callable[[], str], ...] = (
        lambda: rest,
        lambda: text[:end] + here * min(int(random.choice([1, 2, 3000])), room) + text[end:],
        lambda: rest[:other] + here + rest[other:],
        lambda: text[:start] + "<b>" * 20_000 + here + "</b>" * 20_000 + text[end:],
        lambda: text[:start] + here.replace("<", "<x:") + text[end:],
        lambda: text.replace(here[1:5], here[2:6]),
    )
    return pick(edits, random)()


def content(text: str, random: Random) -> str:
    """Put another text between two tags, or an attribute into one."""
    places = [found.start() + 1 for found in re.finditer(r">[^<>]*</", text)]
    if not places:
        return text
    start = pick(places, random)
    end = text.index("<", start)
    if random.random() < 0.1:
        length = 10 ** int(random.integers(0, 7))
        return text[: start - 1] + f' x="{"y" * length}"' + text[start - 1 :]
    return text[:start] + pick(_TEXTS, random) + text[end:]


def prologue(text: str, random: Random) -> str:
    """Declare entities, instructions or another encoding, and use what is declared."""
    if random.random() < 0.3:
        encoding = pick(_ENCODINGS, random)
        return re.sub(r'encoding="[^"]*"', f'encoding="{encoding}"', text, count=1)
    start = text.find("?>") + 2
    declared = pick(_PROLOGUES, random)
    return content(text[:start] + declared + text[start:], random)


@cache
def good_reads() -> list[tuple[str, bytes]]:
    """Return reads as LIDC's radiologists wrote them, down to the odd ones."""
    square = "".join(
        f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>\n"
        for x, y in ((2, 0), (3, 1), (4, 2), (3, 3), (2, 4), (1, 3), (0, 2), (1, 1), (2, 0))
    )
    names = "subtlety internalStructure calcification sphericity margin lobulation spiculation"
    ratings = "".join(
        f"<{name}>{number}</{name}>"
        for number, name in enumerate((*names.split(), "texture", "malignancy"), start=1)
    )
    rois = "".join(
        f"<roi><imageZposition>-{n}.5 </imageZposition><imageSOP_UID>1.2.3.{n}</imageSOP_UID>"
        f"<inclusion>{inclusion}</inclusion>{square}</roi>"
        for n, inclusion in enumerate(("TRUE", "FALSE", "true"))
    )
    point = "<edgeMap><xCoord>7</xCoord><yCoord>8</yCoord></edgeMap>"
    session = (
        "<readingSession><annotationVersion>3.12</annotationVersion>"
        "<servicingRadiologistID>anon</servicingRadiologistID>"
        f"<unblindedReadNodule><noduleID>Nodule 001</noduleID><characteristics>{ratings}"
        f"</characteristics>{rois}</unblindedReadNodule>\n"
        "<unblindedReadNodule><noduleID>2</noduleID><roi><imageSOP_UID>1.2.3.4</imageSOP_UID>"
        f"<inclusion>TRUE</inclusion>{point}</roi></unblindedReadNodule>\n"
        "<nonNodule><nonNoduleID>3</nonNoduleID><imageSOP_UID>1.2.3.5</imageSOP_UID>"
        "<locus><xCoord>9</xCoord><yCoord>1</yCoord></locus></nonNodule>\n"
        "</readingSession>\n"
    )
    files = []
    for name, encoding in (("LidcReadMessage", "utf-8"), ("IdriReadMessage", "utf-16")):
        text = (
            f'<?xml version="1.0" encoding="{encoding.upper()}"?>\n'
            f'<{name} uid="1.3" xmlns="http://www.nih.gov" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
            "<ResponseHeader><Version>1.8.1</Version><SeriesInstanceUid>1.2.3</SeriesInstanceUid>"
            f"</ResponseHeader>\n{session * 2}</{name}>\n"
        )
        files.append(("a.xml", text.encode(encoding)))
    return files


def make_read(random: Random) -> list[tuple[str, bytes]]:
    """Return a damaged read, and at times the same read undamaged beside it."""
    good = good_reads()
    name, data = good[0 if random.random() < 0.8 else 1]
    whole = data
    for _ in range(how_many(random)):
        if random.random() < 0.3:
            data = pick(BYTES, random)(data, random)
            continue
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        text = data.decode(encoding, errors="replace")
        edit = pick((element, content, content, prologue), random)
        data = edit(text, random).encode(encoding, errors="replace")
    return [(name, data)] + ([("b.xml", whole)] if random.random() < 0.2 else [])


def read_reads(paths: Sequence[Path]) -> None:
    """Do with reads what preparing does; raises what it raises."""
    reads, rejected = list_reads(paths, paths[0].parent)
    assert len(rejected) + sum(map(len, reads.values())) == len(paths)
    for files in reads.values():
        for session in read_sessions(files, "here"):
            assert all(isinstance(image, str) for image in session.images)
    if rejected:
        raise rejected[0]
