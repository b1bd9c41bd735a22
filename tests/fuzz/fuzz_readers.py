"""Feed damaged NIfTI files and LIDC reads (XML) to their readers, for as long as is asked.

Not a test that pytest collects, but a script:

    python tests/fuzz/fuzz_readers.py --seed 0 --seconds 3600

Each input is a good file, damaged by one to four edits that a seed and the input's number decide:
bits flipped, bytes cut off, doubled, dropped or blanked, header fields set to their extremes, and
edits of the XML's own elements. A finding is whatever is neither a case nor one of the readers' own
refusals: another exception, an input that takes more than ten seconds, memory beyond 2 GiB, the
death of the process. Inputs are read in a child process, so that even the last is counted.
Findings are printed and their inputs kept under --keep; `--only N` reads one again, uncaught.
"""

import argparse
import faulthandler
import gzip
import multiprocessing
import re
import resource
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np

from loaders.cases import BadCase, BadSource, Case, Meta
from loaders.datasets.lidc.xml_reads import list_reads, read_sessions
from loaders.formats.nifti import NiftiError, found_labels, read_case, read_header, read_voxels
from loaders.store.statistics import measure

# Its functions are not annotated.
nib: Any = nibabel

MAX_SECONDS = 10
MAX_BYTES = 2 << 30
# Characters that one edit adds.
MOST_ADDED = 1 << 24
REFUSALS = (BadCase, BadSource, NiftiError)
LABELS = (0, 1, 2)
META = Meta(
    kind="fuzz",
    name="fuzz",
    task="segmentation",
    dims=3,
    channels=("a",),
    classes=("background", "one", "two"),
    regions={"one": (1,), "two": (2,)},
    positive=None,
    normalize="case",
    fill=0.0,
    unit="volume",
    group_source="case",
    source="made here",
    licence="none",
    options={},
)
Random = np.random.Generator
Choice = TypeVar("Choice")


def pick(choices: Sequence[Choice], random: Random) -> Choice:
    return choices[int(random.integers(len(choices)))]


# ---- good files -------------------------------------------------------------------------------


@cache
def good_nifti() -> list[tuple[str, bytes]]:
    """Return files of each version, type and ending, with their names."""
    files = []
    random = np.random.default_rng(0)
    for dtype in ("uint8", "int16", "float32", "float64"):
        version: Any
        order: Any
        for version, order in ((nib.Nifti1Image, "<"), (nib.Nifti2Image, ">")):
            voxels = random.integers(0, 3, (5, 4, 3)).astype(dtype)
            header = version.header_class(endianness=order)
            header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
            affine = np.array([[0, -1.5, 0, 9], [2, 0, 0, -3], [0, 0, 3, 5], [0, 0, 0, 1.0]])
            raw = version(voxels, affine, header).to_bytes()
            files += [("a.nii", raw), ("a.nii.gz", gzip.compress(raw, mtime=0))]
    return files


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


# ---- edits of bytes ---------------------------------------------------------------------------


def flip(data: bytes, random: Random) -> bytes:
    edited = bytearray(data)
    for place in random.integers(0, max(len(data), 1), random.integers(1, 9)):
        if edited:
            edited[place] ^= 1 << random.integers(0, 8)
    return bytes(edited)


def overwrite(data: bytes, random: Random) -> bytes:
    edited = bytearray(data)
    start, length = _span(data, random)
    edited[start : start + length] = random.bytes(length)
    return bytes(edited)


def blank(data: bytes, random: Random) -> bytes:
    start, length = _span(data, random)
    filler = bytes([int(random.choice([0, 32, 255]))])
    return data[:start] + filler * length + data[start + length :]


def cut(data: bytes, random: Random) -> bytes:
    return data[: random.integers(0, len(data) + 1)]


def double(data: bytes, random: Random) -> bytes:
    start, length = _span(data, random)
    times = int(random.choice([1, 1, 1, 2, 50]))
    return data[:start] + data[start : start + length] * times + data[start:]


def drop(data: bytes, random: Random) -> bytes:
    start, length = _span(data, random)
    return data[:start] + data[start + length :]


def insert(data: bytes, random: Random) -> bytes:
    start, length = _span(data, random)
    return data[:start] + random.bytes(length) + data[start:]


def _span(data: bytes, random: Random) -> tuple[int, int]:
    start = int(random.integers(0, len(data) + 1))
    length = int(2 ** random.uniform(0, 10))
    return start, min(length, len(data) - start)


BYTES = (flip, overwrite, blank, cut, double, drop, insert)

# ---- edits of a NIfTI file --------------------------------------------------------------------


def header_field(data: bytes, random: Random) -> bytes:
    """Set one field of the header, whole or in one of its parts, to an extreme of its type."""
    two = data[4:7] == b"n+2"
    dtype = nib.nifti2.header_dtype if two else nib.nifti1.header_dtype
    if len(data) < dtype.itemsize:
        return flip(data, random)
    order: Any = "<" if data[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else ">"
    header = np.frombuffer(data[: dtype.itemsize], dtype.newbyteorder(order)).copy()
    names: Sequence[str] = dtype.names or ()
    name = pick(names, random)
    field = np.atleast_1d(header[name])
    if field.dtype.kind == "S":
        values: list[Any] = [b"", b"\xff" * field.dtype.itemsize, b"n+1", b"n+2", b"ni1"]
    elif field.dtype.kind == "f":
        values = [0, -1, 1, 1e-40, 1e38, -1e38, np.nan, np.inf, -np.inf, 352, 351.5, 2**31]
    else:
        limits = np.iinfo(field.dtype)
        values = [0, 1, -1, 2, 3, 4, 5, 7, 8, 64, 128, 255, 512, 1024, 2304, 32767, 540]
        values = [v for v in (*values, limits.min, limits.max) if limits.min <= v <= limits.max]
    value = pick(values, random)
    if random.random() < 0.5:
        field[...] = value
    else:
        field.reshape(-1)[random.integers(field.size)] = value
    header[name] = field.reshape(header[name].shape)
    return header.tobytes() + data[dtype.itemsize :]


def voxel(data: bytes, random: Random) -> bytes:
    """Set some numbers behind the header to extremes of a floating type."""
    edited = bytearray(data)
    for _ in range(random.integers(1, 5)):
        kind = random.choice(["<f4", ">f4", "<f8", ">f8"])
        number = np.array(random.choice([np.nan, np.inf, -1, 0.5, 1e30, -1e300]))
        with np.errstate(over="ignore"):
            raw = number.astype(kind).tobytes()
        place = int(random.integers(352, max(len(data), 353)))
        edited[place : place + len(raw)] = raw
    return bytes(edited)


# ---- edits of XML -----------------------------------------------------------------------------

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


# ---- one input --------------------------------------------------------------------------------


def _edits(random: Random) -> int:
    # Mostly one: what several damage is refused by the first.
    return int(random.choice([1, 1, 1, 2, 4]))


def make_nifti(random: Random) -> list[tuple[str, bytes]]:
    """Return an image and a label, one of them damaged, or both."""
    files = []
    good = good_nifti()
    damaged = int(random.integers(1, 4))
    for number in range(2):
        name, data = pick(good, random)
        for _ in range(_edits(random) if damaged >> number & 1 else 0):
            inside = name.endswith(".gz") and random.random() < 0.7
            if inside:
                try:
                    data = gzip.decompress(data)
                except (OSError, EOFError, zlib.error):
                    inside = False
            edits = (*BYTES, header_field, header_field, header_field, voxel, voxel)
            data = pick(edits, random)(data, random)
            if inside:
                data = gzip.compress(data, compresslevel=1, mtime=0)
        files.append((f"{number}{name}", data))
    return files


def make_read(random: Random) -> list[tuple[str, bytes]]:
    """Return a damaged read, and at times the same read undamaged beside it."""
    good = good_reads()
    name, data = good[0 if random.random() < 0.8 else 1]
    whole = data
    for _ in range(_edits(random)):
        if random.random() < 0.3:
            data = pick(BYTES, random)(data, random)
            continue
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        text = data.decode(encoding, errors="replace")
        edit = pick((element, content, content, prologue), random)
        data = edit(text, random).encode(encoding, errors="replace")
    return [(name, data)] + ([("b.xml", whole)] if random.random() < 0.2 else [])


def read_nifti(paths: Sequence[Path]) -> None:
    """Do with an image and a label what preparing does; raises what it raises."""
    found_labels(paths)
    for path in paths:
        header = read_header(path)
        voxels = read_voxels(path, header)
        assert voxels.shape == header.shape
    image, label = paths
    case: Case = read_case([image], label, key="k", group="g", label_values=LABELS)
    facts = measure(case, META)
    assert facts.image.ndim == 4
    assert int(facts.class_counts.sum()) == facts.image[0].size


def read_reads(paths: Sequence[Path]) -> None:
    """Do with reads what preparing does; raises what it raises."""
    reads, rejected = list_reads(paths, paths[0].parent)
    assert len(rejected) + sum(map(len, reads.values())) == len(paths)
    for files in reads.values():
        for session in read_sessions(files, "here"):
            assert all(isinstance(image, str) for image in session.images)
    if rejected:
        raise rejected[0]


@dataclass(frozen=True)
class Target:
    """A reader, and the making of its inputs."""

    make: Callable[[Random], list[tuple[str, bytes]]]
    read: Callable[[Sequence[Path]], None]


TARGETS = {"nifti": Target(make_nifti, read_nifti), "xml": Target(make_read, read_reads)}


def one_input(seed: int, number: int, folder: Path) -> tuple[str, list[Path]]:
    """Write one input; return the name of its target and its files."""
    random = np.random.default_rng([seed, number])
    kind = pick(list(TARGETS), random)
    paths = []
    for old in folder.iterdir():
        old.unlink()
    for name, data in TARGETS[kind].make(random):
        (folder / name).write_bytes(data)
        paths.append(folder / name)
    return kind, paths


# ---- the child that reads, and the parent that counts -----------------------------------------


def child(seed: int, first: int, folder: Path, told: Connection) -> None:
    """Read inputs one after the other; tell of each by (number, target, outcome, detail)."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    warnings.simplefilter("ignore")
    number = first
    while True:
        kind, paths = one_input(seed, number, folder)
        told.send((number, kind, "reading", ""))
        faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
        try:
            TARGETS[kind].read(paths)
            outcome, detail = "read", ""
        except REFUSALS as refusal:
            outcome, detail = "refused", str(refusal)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            outcome, detail = "finding", f"{type(error).__name__}: {error}"
        faulthandler.cancel_dump_traceback_later()
        told.send((number, kind, outcome, detail))
        number += 1


def fuzz(seed: int, seconds: float, keep: Path) -> int:
    """Run until the time is over; print the counts and return the number of findings."""
    counts: Counter[tuple[str, str]] = Counter()
    sentences: Counter[str] = Counter()
    findings = 0
    end = time.monotonic() + seconds
    next_report = time.monotonic()
    number = 0
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while time.monotonic() < end:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=child, args=(seed, number, folder, sender))
            process.start()
            sender.close()
            reading = ("", False)
            while time.monotonic() < end:
                if time.monotonic() >= next_report:
                    print(f"{number} inputs, {findings} findings, {dict(counts)}", flush=True)
                    next_report += 60
                try:
                    number, kind, outcome, detail = receiver.recv()
                except EOFError:
                    break
                reading = (kind, outcome == "reading")
                if reading[1]:
                    continue
                counts[kind, outcome] += 1
                if outcome == "refused":
                    sentences[f"{kind}: {re.sub(r'[0-9][0-9.e+-]*', '#', detail)[:120]}"] += 1
                if outcome == "finding":
                    findings += 1
                    _keep(seed, number, keep, f"{kind} {detail}")
                number += 1
            process.kill()
            process.join()
            if reading[1] and time.monotonic() < end:
                findings += 1
                counts[reading[0], "killed"] += 1
                _keep(seed, number, keep, f"{reading[0]} ended the process or took too long")
                number += 1
    for sentence, count in sentences.most_common():
        print(f"{count:9} {sentence}")
    print(f"seed {seed}: {number} inputs in {seconds:.0f} s, {findings} findings, {dict(counts)}")
    return findings


def _keep(seed: int, number: int, keep: Path, what: str) -> None:
    print(f"FINDING input {number}: {what}", flush=True)
    folder = keep / f"{seed}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    one_input(seed, number, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "fuzz_findings"))
    parser.add_argument("--only", type=int, metavar="N", help="read input N alone, uncaught")
    arguments = parser.parse_args()
    if arguments.only is not None:
        with tempfile.TemporaryDirectory() as name:
            kind, paths = one_input(arguments.seed, arguments.only, Path(name))
            TARGETS[kind].read(paths)
        return
    sys.exit(1 if fuzz(arguments.seed, arguments.seconds, arguments.keep) else 0)


if __name__ == "__main__":
    main()
