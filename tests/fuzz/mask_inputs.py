"""Masks of DICOM series, slices and workbooks, damaged, and what reading makes of them."""

import io
import runpy
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
from edits import BYTES, File, Random, how_many, pick
from frame_inputs import VALUES

from loaders.formats.csv_table import open_table
from loaders.formats.scans.masks import Masks, contents_of
from loaders.formats.scans.scan import Scan, read_scan

FORMATS = Path(__file__).parents[1] / "loaders" / "formats"
WRITE = runpy.run_path(str(FORMATS / "scans" / "write.py"))
# Structures of a damaged file that are read.
MOST = 3


@cache
def good_masks() -> list[bytes]:
    """Return the masks that other programs wrote."""
    return [path.read_bytes() for path in sorted((FORMATS / "scans" / "written").glob("*.dcm"))]


@cache
def scans() -> list[Scan]:
    """Return the series that they were drawn on."""
    with tempfile.TemporaryDirectory() as name:
        made = ({}, WRITE["SQUARE"], WRITE["LEVEL"])
        return [
            read_scan(WRITE["write_series"](Path(name, str(n)), **more), "here")
            for n, more in enumerate(made)
        ]


@cache
def slices() -> list[bytes]:
    """Return the slices of a series."""
    with tempfile.TemporaryDirectory() as name:
        return [path.read_bytes() for path in WRITE["write_series"](Path(name))]


def element(data: bytes, random: Random) -> bytes:
    """Set one element, however deep, to an extreme, or take it away; the file is whole again."""
    try:
        dataset: Any = pydicom.dcmread(io.BytesIO(data), force=True)
        while True:
            found = pick(list(dataset), random)
            if found.VR != "SQ" or not found.value or random.random() < 0.05:
                break
            dataset = pick(found.value, random)
        if random.random() < 0.3:
            del dataset[found.tag]
        else:
            found.value = pick(VALUES, random)
        file = io.BytesIO()
        top = dataset
        while top.parent is not None:
            top = top.parent() if callable(top.parent) else top.parent
        top.save_as(file, enforce_file_format=False)
    except Exception:  # noqa: BLE001 - what pydicom will not write is damaged as bytes instead
        return pick(BYTES, random)(data, random)
    return file.getvalue()


def make_mask(random: Random) -> list[File]:
    data = pick(good_masks(), random)
    for _ in range(how_many(random)):
        data = pick((element, element, element, *BYTES), random)(data, random)
    return [("mask.dcm", data)]


def read_masks(paths: Sequence[Path]) -> None:
    names = contents_of(paths[0], "here").names
    refusals = []
    for scan in scans():
        masks = Masks(scan=scan, shift=0.01, threshold=0, where="here")
        for name in names[:MOST]:
            try:
                assert masks.load(paths[0], name, union=True).shape == scan.volume.shape
            except ValueError as refusal:
                refusals.append(refusal)
    if refusals:
        raise refusals[0]


def make_scan(random: Random) -> list[File]:
    files = slices()
    at = int(random.integers(len(files)))
    data = files[at]
    for _ in range(how_many(random)):
        data = pick((element, element, *BYTES), random)(data, random)
    return [(f"{n}", data if n == at else good) for n, good in enumerate(files)]


def read_scans(paths: Sequence[Path]) -> None:
    read_scan(paths, "here").volume.load()


def make_book(random: Random) -> list[File]:
    data = (FORMATS / "sheets" / "written" / "openpyxl.xlsx").read_bytes()
    for _ in range(how_many(random)):
        data = pick(BYTES, random)(data, random)
    return [("book.xlsx", data)]


def read_book(paths: Sequence[Path]) -> None:
    assert list(open_table(paths[0]).lines([], ())) is not None
