"""Broken input of every kind, made here or taken from pydicom's and nibabel's own test files.

Run as a script in a process of its own (tests/fuzz/test_broken_corpus.py does):

    ARROW_DEFAULT_MEMORY_POOL=system python tests/fuzz/broken_corpus.py FOLDER

(Arrow's own pool sets 1 GiB of addresses aside, which would count here although it is never used.)
It writes the corpus under FOLDER, prepares every source of it as `medopt prepare` does, with 2 GiB
of address space, and prints one JSON line a source: what went in, what came out, with which words.
"""

import argparse
import csv
import faulthandler
import gzip
import io
import json
import os
import pickle
import resource
import shutil
import struct
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import nibabel
import numpy as np
import pydicom
from nibabel.testing import data_path
from PIL import Image
from pydicom.data import get_testdata_file

from loaders.cases import BadSource
from loaders.datasets.table import KINDS
from loaders.phantoms.make import make_lidc
from loaders.store.prepare import prepare
from loaders.store.read import open_store, verify_store

# Its functions are not annotated.
nib: Any = nibabel

LIMIT = 2 << 30
# A source that takes longer hangs: the whole corpus takes a minute on a busy machine (measured).
SECONDS = 60
TENTHS = [tenth / 10 for tenth in range(10)]
SECRET = "Erika Mustermann 4711"
# Stands in the name of every broken file: a name may not be stored.
MARK = "MRN4711_"
RANDOM = np.random.default_rng(0)


@dataclass
class Source:
    """One source: `inputs` broken files went in beside `good` cases.

    `says` are what the words of each refusal have to hold, one of them. `source_refused`: the
    source as a whole is. `any_good`: files of other projects' tests, of which some are read, so
    `good` is the fewest cases.
    """

    kind: str
    path: Path
    inputs: int
    good: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    source_refused: bool = False
    any_good: bool = False


# ---- good files -------------------------------------------------------------------------------


def _peak_mib() -> int:
    """Return the most memory that this process has held, MiB.

    Not by getrusage, which starts at what the process that started this one held (Linux).
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20  # bytes on macOS
    (line,) = (text for text in status.read_text().splitlines() if text.startswith("VmHWM:"))
    return int(line.split()[1]) >> 10


def nifti(voxels: Any, affine: Any = None, **header: Any) -> bytes:
    image: Any = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    raw = image.to_bytes()
    if not header:
        return bytes(raw)
    edited = np.frombuffer(raw[:348], nib.nifti1.header_dtype).copy()
    for name, value in header.items():
        edited[name] = value
    return edited.tobytes() + bytes(raw[348:])


def brain(dtype: str = "int16") -> Any:
    return RANDOM.integers(1, 250, (12, 11, 10)).astype(dtype)


def mask(dtype: str = "uint8") -> Any:
    return RANDOM.integers(0, 3, (12, 11, 10)).astype(dtype)


def picture(form: str, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    pixels = RANDOM.integers(0, 256, size).astype(np.uint8)
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def video(form: str, codec: str, pixels: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, mode="w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 24, 32, pixels
        for _ in range(12):
            image = RANDOM.integers(0, 256, (24, 32)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    return file.getvalue()


def test_file(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), name
    return Path(path)


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def cuts(data: bytes) -> dict[int, bytes]:
    """Return what is left of a file at every tenth, the empty file among them."""
    return {round(100 * part): data[: int(part * len(data))] for part in TENTHS}


def table(folder: Path, names: Sequence[str], file: str = "labels.csv") -> None:
    """Write a table of two classes in turn, naming a patient in a column that is not asked for."""
    with (folder / file).open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["file", "label", "patient"])
        writer.writerows([name, n % 2, SECRET] for n, name in enumerate(names))


def pictures(folder: Path, bad: dict[str, bytes], **more: Any) -> Source:
    """Return a source of two good pictures and the bad ones."""
    bad = {MARK + name: data for name, data in bad.items()}
    good = {f"good{n}.png": picture("PNG") for n in range(2)}
    for name, data in {**good, **bad}.items():
        put(folder / name, data)
    table(folder, [*good, *bad])
    return Source(kind="images", path=folder, inputs=len(bad), good=2, **more)


def loops(folder: Path, bad: dict[str, bytes], **more: Any) -> Source:
    """Return a source of two good loops and the bad ones."""
    bad = {MARK + name: data for name, data in bad.items()}
    good = {f"good{n}.avi": video("avi", "ffv1", "gray") for n in range(2)}
    for name, data in {**good, **bad}.items():
        put(folder / name, data)
    table(folder, [*good, *bad])
    options = {"frames": 4}
    return Source(kind="cine", path=folder, inputs=len(bad), good=6, options=options, **more)


def volumes(folder: Path, bad: dict[str, tuple[bytes, bytes]], **more: Any) -> Source:
    """Return a Decathlon folder of three good cases and the bad ones.

    Each is an image as it lies on the disk, and a label, which is packed where the name ends in gz.
    """
    bad = {MARK + name: pair for name, pair in bad.items()}
    image = nifti(brain())
    good = {
        "good.nii": (image, nifti(mask())),
        # What a file is packed by is told by its bytes.
        "plain_named_gz.nii.gz": (image, nifti(mask())),
        "packed_named_nii.nii": (gzip.compress(image), nifti(mask())),
    }
    for name, pair in {**good, **bad}.items():
        put(folder / "imagesTr" / name, pair[0])
        put(folder / "labelsTr" / name, gzip.compress(pair[1]) if name.endswith("gz") else pair[1])
    names = {"0": "background", "1": "a", "2": "b"}
    put(folder / "dataset.json", json.dumps({"labels": names, "modality": {"0": "MRI"}}))
    return Source(kind="msd", path=folder, inputs=len(bad), good=len(good), **more)


# ---- NIfTI ------------------------------------------------------------------------------------


def cut_volumes(folder: Path) -> Source:
    image, label = nifti(brain()), nifti(mask())
    bad = {f"plain{n}.nii": (data, label) for n, data in cuts(image).items()}
    packed = cuts(gzip.compress(image))
    bad |= {f"packed{n}.nii.gz": (data, label) for n, data in packed.items()}
    bad |= {f"label{n}.nii": (image, data) for n, data in cuts(label).items()}
    return volumes(folder, bad, says=("truncated", "is not a NIfTI file"))


def strange_volumes(folder: Path) -> Source:
    image, label = nifti(brain()), nifti(mask())
    nan = np.where(mask() == 1, np.nan, brain("float32"))
    huge = np.full((12, 11, 10), 1e300)
    axes = [3, 32767, 32767, 32767, 1, 1, 1, 1]
    rgb = np.zeros((12, 11, 10), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    moved = np.diag([1.0, 1.0, 1.0, 1.0])
    moved[0, 3] = 3.0
    bad = {
        "nan": (nifti(nan), label),
        "infinite": (nifti(np.full((12, 11, 10), np.inf)), label),
        "float64": (nifti(huge), label),
        "complex": (nifti(brain("complex64")), label),
        "rgb": (nifti(rgb), label),
        "binary": (nifti(brain(), datatype=1, bitpix=1), label),
        "no_type": (nifti(brain(), datatype=0), label),
        "strange_type": (nifti(brain(), datatype=77), label),
        "zero": (nifti(brain(), dim=[3, 0, 11, 10, 1, 1, 1, 1]), label),
        "negative": (nifti(brain(), dim=[3, 12, -11, 10, 1, 1, 1, 1]), label),
        "no_axes": (nifti(brain(), dim=[0, 12, 11, 10, 1, 1, 1, 1]), label),
        "two_axes": (nifti(brain()[0]), label),
        "five_axes": (nifti(np.zeros((3, 3, 3, 2, 2), "int16")), label),
        "two_channels": (nifti(np.zeros((12, 11, 10, 2), "int16")), label),
        "enormous": (nifti(brain(), dim=axes), label),
        "enormous_offset": (nifti(brain(), vox_offset=1e30), label),
        "no_offset": (nifti(brain(), vox_offset=np.nan), label),
        "no_affine": (nifti(brain(), srow_x=0, sform_code=1), label),
        "nan_affine": (nifti(brain(), srow_x=np.nan, sform_code=1), label),
        "infinite_shift": (nifti(brain(), scl_slope=1, scl_inter=np.inf), label),
        "other_shape": (nifti(brain()[:, :, :9]), label),
        "moved": (image, nifti(mask(), moved)),
        "half_labels": (image, nifti(mask("float32") + np.float32(0.5))),
        "nan_labels": (image, nifti(np.where(mask() == 1, np.nan, 1.0))),
        "negative_labels": (image, nifti(-mask("int16"))),
        "unknown_label": (image, nifti(mask() + 7)),
        "huge_label": (image, nifti(mask("float64") * 1e300)),
        "complex_label": (image, nifti(mask("complex64"))),
        "text": (b"this is no volume\n" * 100, label),
        "picture": (picture("PNG"), label),
        "random": (RANDOM.bytes(5000), label),
        "zeros": (bytes(5000), label),
    }
    named = {f"{name}.nii": pair for name, pair in bad.items()}
    noise = RANDOM.bytes(6 << 20)
    five_gib = nifti(brain(), dim=[3, 1400, 1400, 1400, 1, 1, 1, 1])
    member = gzip.compress(bytes(64 << 20))
    named |= {
        "claims.nii.gz": (gzip.compress(five_gib + noise, compresslevel=1), five_gib + noise),
        "bomb.nii.gz": (gzip.compress(five_gib) + member * 85, five_gib + noise),
        "longer.nii.gz": (gzip.compress(image) + member * 85, label),
        "plain_cut_named_gz.nii.gz": (image[:-9], label),
        "packed_cut_named_nii.nii": (gzip.compress(image)[:-9], label),
        "gzip_of_text.nii.gz": (gzip.compress(b"text" * 500), label),
        "flipped.nii.gz": (_flipped(gzip.compress(image)), label),
    }
    return volumes(folder, named)


def _flipped(data: bytes) -> bytes:
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def files_that_are_none(folder: Path) -> Source:
    """Lay folders, pipes, loops of links and files of no rights where files should be."""
    source = volumes(folder, {})
    label = nifti(mask())
    images = folder / "imagesTr"
    (images / "folder.nii").mkdir()
    os.mkfifo(images / "pipe.nii")
    (images / "loop.nii").symlink_to("loop.nii")
    (images / "nowhere.nii").symlink_to("gone")
    (images / "endless.nii").symlink_to("/dev/zero")
    names = ["folder", "pipe", "loop", "nowhere", "endless"]
    if os.geteuid():
        put(images / "locked.nii", nifti(brain()))
        (images / "locked.nii").chmod(0)
        names.append("locked")
    for name in names:
        put(folder / "labelsTr" / f"{name}.nii", label)
    source.inputs = len(names)
    source.says = ("is not a file", "cannot be read")
    return source


def brats_that_are_none(folder: Path) -> Source:
    for number in range(4):
        case = f"BraTS-GLI-{number:05d}-000"
        for role in ("t1n", "t1c", "t2w", "t2f", "seg"):
            voxels = mask() if role == "seg" else brain()
            put(folder / case / f"{case}-{role}.nii", nifti(voxels))
    for number, make in enumerate((os.mkfifo, os.mkdir, _loop), start=1):
        case = f"BraTS-GLI-{number:05d}-000"
        path = folder / case / f"{case}-t2w.nii"
        path.unlink()
        make(path)
    (folder / "round").symlink_to(folder)
    says = ("is not a file", "cannot be read", "channel t2w is missing")
    return Source(kind="brats", path=folder, inputs=3, good=1, says=says)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def nibabels_own(folder: Path) -> Source:
    """Every file that nibabel tests itself with, named as if it were a volume."""
    bad = {}
    for path in sorted(Path(str(data_path)).iterdir()):
        if path.is_file():
            name = path.name.removesuffix(".gz").removesuffix(".nii").replace(".", "_")
            ending = ".nii.gz" if path.name.endswith(".gz") else ".nii"
            bad[f"{name}{ending}"] = (path.read_bytes(), nifti(mask()))
    return volumes(folder, bad, any_good=True)


def no_descriptions(folder: Path) -> list[Source]:
    texts: dict[str, str | bytes] = {
        "cut": '{"labels": {"0": "background"',
        "deep": "[" * 200_000,
        "number": '{"labels": {"0": "a", "1": ' + "9" * 9000 + "}}",
        "list": "[]",
        "nan": '{"labels": {"NaN": "a", "0": "b"}}',
        "bytes": b"\xff\xfe\x00",
        "enormous": '{"labels": {"0": "a", "4294967296": "b"}}',
        "fraction": '{"labels": {"0": "a", "1.7": "b"}}',
        "infinite": '{"labels": {"0": "a", "1": Infinity}}',
        "twice": '{"labels": {"0": "a", "1": "b", "1": "c"}}',
        "two_names": '{"labels": {"0": "a", "1": "b", "01": "c"}}',
        "no_name": '{"labels": {"0": "a", "1": ""}}',
        "half": r'{"labels": {"0": "a", "1": "\ud800"}}',
    }
    sources = []
    for name, text in texts.items():
        source = volumes(folder / name, {}, source_refused=True, says=("dataset.json",))
        put(folder / name / "dataset.json", text)
        sources.append(source)
        source.inputs = 1
    return sources


# ---- pictures and loops -----------------------------------------------------------------------


def cut_pictures(folder: Path) -> Source:
    whole = {
        "a.png": picture("PNG"),
        "b.jpg": picture("JPEG"),
        "c.tif": picture("TIFF"),
        "d.dcm": test_file("CT_small.dcm").read_bytes(),
        "e.dcm": test_file("JPEG2000.dcm").read_bytes(),
        "f.dcm": test_file("MR_small_RLE.dcm").read_bytes(),
    }
    bad = {
        f"{n}{name}": data for name, content in whole.items() for n, data in cuts(content).items()
    }
    return pictures(
        folder, bad, says=("cut off", "empty", "cannot be decoded", "missing", "no pixels")
    )


def strange_pictures(folder: Path) -> Source:
    claims = bytearray(picture("PNG"))
    claims[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    file = io.BytesIO()
    Image.new("L", (20_000, 20_000)).save(file, "PNG", compress_level=1)
    dataset = pydicom.dcmread(test_file("CT_small.dcm"))
    dataset.Rows = dataset.Columns = 65535
    wide = io.BytesIO()
    dataset.save_as(wide)
    bad = {
        "claims.png": bytes(claims),
        "bomb.png": file.getvalue(),
        "wide.dcm": wide.getvalue(),
        "text.png": b"this is no picture",
        "zeros.png": bytes(1000),
        "random.jpg": RANDOM.bytes(1000),
        "pickle.png": pickle.dumps(_Canary(folder)),
        "page.jpg": b"<html><body>404</body></html>",
        "archive.tif": _zip({"a.txt": b"x"}),
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "start.jpg": b"\xff\xd8\xff",
        "tiff_to_itself.tif": b"II*\0\x08\0\0\0" + b"\0\0" + struct.pack("<I", 8),
        "preamble.dcm": bytes(128) + b"DICM",
    }
    return pictures(folder, bad)


def claiming_pictures(folder: Path) -> list[Source]:
    """Lay pictures whose headers claim more than there is, or than a machine holds."""
    jpeg = bytearray(picture("JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65535, 65535)
    tiff = bytearray(picture("TIFF"))
    entries = struct.unpack_from("<I", tiff, 4)[0] + 2
    for number in range(struct.unpack_from("<H", tiff, entries - 2)[0]):
        tag = struct.unpack_from("<H", tiff, entries + 12 * number)[0]
        if tag in (256, 257):  # width and length
            struct.pack_into("<HII", tiff, entries + 12 * number + 2, 4, 1, 2**31 - 1)
    small = bytearray(picture("PNG"))
    small[16:24] = struct.pack(">II", 1_000_000, 1)
    raw = test_file("CT_small.dcm").read_bytes()
    element = bytearray(raw)
    place = raw.rindex(b"\xe0\x7f\x10\x00OW") + 8
    element[place : place + 4] = struct.pack("<I", 2**32 - 2)
    samples = pydicom.dcmread(test_file("CT_small.dcm"))
    samples.SamplesPerPixel, samples.PhotometricInterpretation = 60_000, "RGB"
    files = {"samples": samples}
    for name in ("JPEG2000.dcm", "MR_small_RLE.dcm"):
        files[name[:4]] = pydicom.dcmread(test_file(name))
        files[name[:4]].Rows = files[name[:4]].Columns = 60_000
    bad = {
        "frame.jpg": bytes(jpeg),
        "sizes.tif": bytes(tiff),
        "wide.png": bytes(small),
    }
    # What an element claims beyond the end of the file may be none of the picture's bytes.
    scans = {"element.dcm": bytes(element)}
    for name, dataset in files.items():
        file = io.BytesIO()
        dataset.save_as(file)
        scans[f"{name}.dcm"] = file.getvalue()
    sources = [pictures(folder / "stills", bad), pictures(folder / "scans", scans, any_good=True)]
    # Of the same scale as the one that may be read: Hounsfield units.
    for number in range(2):
        dataset = pydicom.dcmread(test_file("CT_small.dcm"))
        dataset.PixelData = RANDOM.integers(0, 1000, 128 * 128).astype(np.int16).tobytes()
        file = io.BytesIO()
        dataset.save_as(file)
        put(folder / "scans" / f"good{number}.png", file.getvalue())
    return sources


def files_that_are_no_pictures(folder: Path) -> Source:
    source = pictures(folder, {})
    outside = folder.parent / "outside.png"
    put(outside, picture("PNG"))
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("gone")
    (folder / "leak.png").symlink_to(outside)
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "round").symlink_to(folder)
    names = [
        *("folder.png", "pipe.png", "loop.png", "nowhere.png", "leak.png", "endless.png"),
        *("../outside.png", "..\\outside.png", str(outside), "C:\\outside.png"),
        *("round/../../outside.png", "round/good0.png", "gone.png", "", "\x01"),
    ]
    table(folder, ["good0.png", "good1.png", *names])
    source.inputs = len(names)
    return source


def no_tables(folder: Path) -> list[Source]:
    texts: dict[str, bytes] = {
        "empty": b"",
        "header": b"file,label\n",
        "nul": b"file,label\ngood0.png,\0\ngood1.png,1\n\0\0\0",
        "long": b'file,label\n"' + b"a" * 1_000_000 + b'",1\n',
        "latin": b"file,label\ngood0.png,M\xfcller\ngood1.png,1\n",
        "columns": b"file,label\n" + b"," * 200_000 + b"\n",
        "twice": b"file,label,label\ngood0.png,0,1\n",
        "one_class": b"file,label\ngood0.png,0\ngood1.png,0\n",
        "none": b"file,other\ngood0.png,0\n",
        "long_header": b"file,label" + b"a" * 200_000 + b"\ngood0.png,0\n",
        "digits": b"file,label\ngood0.png,%b\ngood1.png,1\n" % (b"9" * 5000),
        "findings": b"file,label\ngood0.png,A|B\ngood1.png,A\n",
        "old_mac": b"file,label\rgood0.png,0\rgood1.png\r",
        "formula": b"file,label\n\"=cmd|'/C calc'!A0\",0\n",
        "sheet": _zip({"xl/workbook.xml": b"<x/>"}),
        # Of public bug reports: spreadsheets' words, encodings, marks, lists, readers and boxes.
        "lost_labels": b"file,label\ngood0.png,#N/A\ngood1.png,#REF!\n",
        "nobody": b"file,label\nunknown,0\n#NV,1\n-,0\n",
        "utf16_bare": "file,label\ngood0.png,0\n".encode("utf-16-le"),
        "utf16_cut": "file,label\ngood0.png,0\n".encode("utf-16")[:-1],
        "utf32_cut": "file,label\ngood0.png,0\n".encode("utf-32")[:-2],
        "cp1252": "file,label\ngood0.png,gr\u00f6\u00dfer\n".encode("cp1252"),
        "sep_alone": b"sep=;\r\n",
        "sep_wrong": b"sep=;\nfile,label\ngood0.png,0\ngood1.png,1\n",
        "no_names": b",,,\n,,,\n",
        "index_alone": b",label\n0,0\n1,1\n",
        "open_quotes": b'file,label\n"good0.png,0\n"good1.png,1\n',
        "one_long_quote": b'file,label\n"good0.png,0\n' + b"good1.png,1\n" * 50_000,
        "many_quotes": b"file,label\n" + b'"x""\n' * 50_000,
        "bars": b"file,label\ngood0.png,|\ngood1.png,||\ngood0.png,|||\n",
        "broken_lists": b"file,label\ngood0.png,\"['a'\"\ngood1.png,\"['a' 'b']\"\n",
        "code_in_lists": b"file,label\ngood0.png,\"[__import__('os').abort()]\"\ngood1.png,[]\n",
        "deep_lists": b'file,label\ngood0.png,"' + b"['" * 9_000 + b'"\ngood1.png,0\n',
        "readers": b"file,label\ngood0.png,0\ngood0.png,1\ngood1.png,1\n",
        "boxes": b"file,label,x,y,width,height\n"
        + b"".join(b"good0.png,%b,1,2,3,4\n" % name for name in (b"a", b"b", b"c")),
        "twice_in_other_case": b"file,a,b,LABEL,Label\ngood0.png,,,0,1\n",
    }
    sources = []
    for name, text in texts.items():
        source = pictures(folder / name, {}, source_refused=True)
        put(folder / name / "labels.csv", text)
        source.inputs = 1
        sources.append(source)
    return sources


def pydicoms_own(folder: Path) -> list[Source]:
    """Every file that pydicom tests itself with, as a picture: of 8 bits, and of more."""
    found: dict[str, dict[str, bytes]] = {"8_bits": {}, "more_bits": {}}
    for root, _, names in os.walk(test_file("CT_small.dcm").parent.parent):
        for name in sorted(names):
            path = Path(root, name)
            if "__pycache__" in path.parts or path.suffix == ".py":
                continue
            try:
                header = pydicom.dcmread(path, force=True, stop_before_pixels=True)
                # A palette's colours may have more bits than its indices.
                palette = header.get("PhotometricInterpretation") == "PALETTE COLOR"
                bits = 16 if palette else header.get("BitsAllocated")
            except Exception:  # noqa: BLE001 - some are broken on purpose, in any way
                bits = None
            files = found["8_bits" if bits == 8 else "more_bits"]
            files[f"{len(files)}_{path.stem}.dcm"] = path.read_bytes()
    sources = [pictures(folder / name, files, any_good=True) for name, files in found.items()]
    file = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 65536, (40, 30)).astype(np.uint16)).save(file, "PNG")
    for number in range(2):
        put(folder / "more_bits" / f"good{number}.png", file.getvalue() + bytes(number))
    return sources


def loop_in_dicom(*, rle: bool) -> bytes:
    dataset = pydicom.dcmread(test_file("CT_small.dcm"))
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 24, 32, 12
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    for keyword in ("PixelPaddingValue", "RescaleSlope", "RescaleIntercept"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.PixelData = RANDOM.integers(0, 256, 12 * 24 * 32).astype(np.uint8).tobytes()
    if rle:
        dataset.compress(pydicom.uid.RLELossless)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def cut_loops(folder: Path) -> Source:
    whole = {
        "a.avi": video("avi", "ffv1", "gray"),
        "b.mp4": video("mp4", "mpeg4", "yuv420p"),
        "c.dcm": loop_in_dicom(rle=False),
        "d.dcm": loop_in_dicom(rle=True),
    }
    bad = {
        f"{n}{name}": data for name, content in whole.items() for n, data in cuts(content).items()
    }
    return loops(folder, bad)


def strange_loops(folder: Path) -> Source:
    good = bytearray(video("avi", "ffv1", "gray"))
    frames = bytearray(good)
    frames[48:52] = struct.pack("<I", 2**32 - 1)
    size = bytearray(good)
    place = size.index(b"strf") + 12
    size[place : place + 8] = struct.pack("<ii", 2**30, 2**30)
    dataset = pydicom.dcmread(io.BytesIO(loop_in_dicom(rle=False)))
    dataset.NumberOfFrames = 2**31 - 1
    many = io.BytesIO()
    dataset.save_as(many)
    bad = {
        "size.avi": bytes(size),
        "many.dcm": many.getvalue(),
        "playlist.avi": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
        "concat.mp4": b"ffconcat version 1.0\nfile '/etc/hostname'\n",
        "text.mp4": b"text" * 50,
        "random.avi": RANDOM.bytes(5000),
        "riff.avi": b"RIFF\xff\xff\xff\xffAVI LIST\xff\xff\xff\xffhdrl",
        "still.avi": picture("PNG"),
    }
    return loops(folder, bad)


# ---- LIDC -------------------------------------------------------------------------------------


def _chest(folder: Path) -> tuple[Path, list[Path]]:
    """Return a phantom's read and the slices of its series, under `folder`/good."""
    make_lidc(folder / "good", patients=1, seed=3)
    read, again = sorted((folder / "good").rglob("*.xml"))
    again.unlink()
    slices = sorted((folder / "good").rglob("*.dcm"))
    text = read.read_text()
    for path in slices:
        if path.parent.name not in text:
            path.unlink()
    return read, [path for path in slices if path.exists()]


def broken_reads(folder: Path) -> Source:
    """Lay broken reads beside a good one; one whose head is whole has a series of its own."""
    read, slices = _chest(folder)
    text = read.read_bytes()
    start = text.index(b"?>") + 2
    names = "abcdefghij"
    lol = "".join(
        f'<!ENTITY {names[n]} "{f"&{names[n - 1]};" * 10}">' for n in range(1, len(names))
    )
    bomb = f'<!DOCTYPE x [<!ENTITY a "lol">{lol}]>'
    secret = folder.parent / "secret.txt"
    put(secret, SECRET)
    outside = f'<!DOCTYPE x [<!ENTITY j SYSTEM "{secret.as_uri()}">]>'
    parameter = f'<!DOCTYPE x [<!ENTITY % p SYSTEM "{secret.as_uri()}"> %p;]>'
    used = text.replace(b"<TaskDescription>", b"<TaskDescription>&j;", 1)
    session, point = b"<readingSession>", b"</xCoord>"
    bad: dict[str, bytes] = {f"cut{n}": data for n, data in cuts(text).items()}
    bad |= {
        "bomb": used[:start] + bomb.encode() + used[start:],
        "outside": used[:start] + outside.encode() + used[start:],
        "parameter": text[:start] + parameter.encode() + text[start:],
        "far": text[:start] + b'<!DOCTYPE x SYSTEM "http://localhost:9/a.dtd">' + text[start:],
        "quadratic": f'<!DOCTYPE x [<!ENTITY j "{"a" * 100_000}">]>'.encode() + b"<x>&j;</x>",
        "deep": b"<a>" * 300_000,
        "deeper": text.replace(session, b"<a>" * 300_000 + session, 1),
        "utf16": text.replace(b"UTF-8", b"UTF-16", 1),
        "klingon": text.replace(b"UTF-8", b"klingon", 1),
        "binary": RANDOM.bytes(5000),
        "page": b"<html><body>404</body></html>",
        "x_ray": b'<IdriReadMessage xmlns="http://www.nih.gov"></IdriReadMessage>',
        "no_series": b'<LidcReadMessage xmlns="http://www.nih.gov"></LidcReadMessage>',
        "attribute": b'<LidcReadMessage a="' + b"a" * 15_000_000 + b'"/>',
        "large": b'<LidcReadMessage a="' + b"a" * 17_000_000 + b'"/>',
        "not_whole": text.replace(point, b".5" + point, 1),
        "long_number": text.replace(point, b"9" * 5000 + point, 1),
        "far_out": text.replace(point, b"999999" + point, 1),
        "no_point": text.replace(b"edgeMap", b"edge", 10**6),
    }
    first = pydicom.dcmread(slices[0])
    uid = str(first.SeriesInstanceUID)
    for number, (name, data) in enumerate(bad.items()):
        own = folder / "bad" / name
        put(own / "read.xml", data.replace(uid.encode(), f"{uid[:50]}.{number}".encode()))
        if uid.encode() in data:
            for path in slices[:2]:
                dataset = pydicom.dcmread(path)
                dataset.SeriesInstanceUID = f"{uid[:50]}.{number}"
                dataset.save_as(own / path.name)
    (folder / "bad" / "round").symlink_to(folder)
    return Source(kind="lidc", path=folder, inputs=len(bad), good=2)


def broken_slices(folder: Path) -> Source:
    """Give ten series of three slices one that is cut, and a read to each."""
    read, slices = _chest(folder)
    text = read.read_text()
    uid = pydicom.dcmread(slices[0], stop_before_pixels=True).SeriesInstanceUID
    for number, part in enumerate(TENTHS):
        own = folder / f"bad{number}"
        for path in slices[:3]:
            dataset = pydicom.dcmread(path)
            dataset.SeriesInstanceUID = f"{uid[:50]}.{number}"
            own.mkdir(exist_ok=True)
            dataset.save_as(own / path.name)
        cut = own / slices[1].name
        cut.write_bytes(cut.read_bytes()[: int(part * cut.stat().st_size)])
        put(own / "read.xml", text.replace(uid, f"{uid[:50]}.{number}"))
    return Source(kind="lidc", path=folder, inputs=len(TENTHS), good=2)


def strangers(folder: Path) -> Source:
    """Lay a good series among all of pydicom's files."""
    _chest(folder)
    own = test_file("CT_small.dcm").parent
    shutil.copytree(own, folder / "strangers", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    count = sum(path.is_file() for path in (folder / "strangers").rglob("*"))
    return Source(kind="lidc", path=folder, inputs=count, good=2, any_good=True)


# ---- MedMNIST ---------------------------------------------------------------------------------


class _Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.folder.parent / "canary"), 0o777, True)


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _claim(shape: tuple[int, ...], descr: Any = "|u1") -> bytes:
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(1000)


def broken_archives(folder: Path) -> list[Source]:
    good: dict[str, bytes] = {}
    for part in ("train", "val", "test"):
        images = RANDOM.integers(0, 256, (6, 28, 28)).astype(np.uint8)
        good[f"{part}_images.npy"] = _npy(images)
        good[f"{part}_labels.npy"] = _npy(np.arange(6).reshape(6, 1) % 2)
    pickled = np.array([_Canary(folder)] * 6, dtype=object)
    whole = _zip(good)
    changed = {
        "pickled_images": {"train_images.npy": _npy(pickled)},
        "pickled_labels": {"train_labels.npy": _npy(pickled)},
        "pickle_alone": {"train_images.npy": pickle.dumps(_Canary(folder))},
        "claims": {"train_images.npy": _claim((2**40, 28, 28))},
        "claims_many": {"train_labels.npy": _claim((2**62, 2**62))},
        "negative": {"train_images.npy": _claim((-1, 28, 28))},
        "evil_header": {"train_images.npy": _header("__import__('os').mkdir('canary')")},
        "deep_header": {"train_images.npy": _header("(" * 60_000)},
        "nan_labels": {"train_labels.npy": _npy(np.full((6, 1), np.nan))},
        "float_images": {"train_images.npy": _npy(np.zeros((6, 28, 28)))},
        "no_images": {"train_images.npy": _npy(np.zeros((0, 28, 28), np.uint8))},
        "fewer": {"train_labels.npy": _npy(np.zeros((5, 1), np.uint8))},
        "bomb": {"train_images.npy": _claim((10**6, 28, 28)) + bytes(300 << 20)},
    }
    archives = {name: _zip({**good, **members}) for name, members in changed.items()}
    archives |= {f"cut{n}": data for n, data in cuts(whole).items()}
    archives |= {
        "outside": _zip({"../train_images.npy": good["train_images.npy"]}),
        "flipped": _flipped(whole),
        "text": b"this is no archive",
        "array": good["train_images.npy"],
        "locked": _encrypted(whole),
    }
    sources = []
    for name, data in archives.items():
        put(folder / name / "breastmnist.npz", data)
        source = Source(kind="medmnist", path=folder / name, inputs=1, source_refused=True)
        sources.append(source)
    return sources


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) % 65536) + text.encode()


def _encrypted(data: bytes) -> bytes:
    """Set the flag of an encrypted member in every header of an archive."""
    edited = bytearray(data)
    for start, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = edited.find(start)
        while at >= 0:
            edited[at + place] |= 1
            at = edited.find(start, at + 4)
    return bytes(edited)


# ---- preparing --------------------------------------------------------------------------------

MAKERS: tuple[Callable[[Path], Source | list[Source]], ...] = (
    cut_volumes,
    strange_volumes,
    files_that_are_none,
    brats_that_are_none,
    nibabels_own,
    no_descriptions,
    cut_pictures,
    strange_pictures,
    claiming_pictures,
    files_that_are_no_pictures,
    no_tables,
    pydicoms_own,
    cut_loops,
    strange_loops,
    broken_reads,
    broken_slices,
    strangers,
    broken_archives,
)


def prepared(source: Source, out: Path) -> dict[str, Any]:
    """Do what `medopt prepare` does; return what became of the source."""
    kind = KINDS[source.kind]
    try:
        report = prepare(kind, source.path, out, options=source.options, key=b"key", strict=False)
    except BadSource as error:
        return {"cases": 0, "refused": str(error), "rejected": {}}
    assert len(open_store(out)) == report.n_cases
    assert verify_store(out) == []
    rejected: dict[str, list[str]] = {}
    for bad in report.rejected:
        rejected.setdefault(bad.where, []).append(bad.reason)
    return {"cases": report.n_cases, "refused": None, "rejected": rejected}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", help="names of makers; all of them if left out")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for make in MAKERS:
        if arguments.only and make.__name__ not in arguments.only:
            continue
        folder = arguments.folder / "corpus" / make.__name__
        folder.mkdir(parents=True)
        made = make(folder)
        # Only now: what makes the corpus may take what it needs.
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, resource.RLIM_INFINITY))
        for number, source in enumerate(made if isinstance(made, list) else [made]):
            name = make.__name__ + (f"/{source.path.name}" if isinstance(made, list) else "")
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            start = time.monotonic()
            out = arguments.folder / "stores" / f"{make.__name__}_{number}"
            outcome = prepared(source, out)
            faulthandler.cancel_dump_traceback_later()
            line = {**asdict(source), **outcome, "name": name, "store": out}
            line["seconds"] = round(time.monotonic() - start, 2)
            line["peak_mib"] = _peak_mib()
            print(json.dumps(line, default=str), flush=True)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
