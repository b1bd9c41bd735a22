"""MedMNIST: eighteen ready sets of small 2-D and 3-D images, each in one .npz file.

`loaders.datasets.medmnist.catalogue` lists the sets. Each image is its own group: the files name no
patients, although several sets hold more than one image per patient. ChestMNIST labels each image
with fourteen findings, of which the user chooses one or all (multi-label).
"""

import logging
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from loaders.cases import (
    Array,
    BadCase,
    BadSource,
    Case,
    Item,
    Kind,
    Meta,
    Survey,
    nearest,
    settings,
)
from loaders.datasets.medmnist.catalogue import BASE, INFO, MD5, PAGE, SIZES, Info, file_name
from loaders.datasets.medmnist.downloads import Remote, cache_folder
from loaders.datasets.medmnist.downloads import fetch as fetch_file

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
# Deflate cannot shrink data further (zlib technical notes, zlib.net/zlib_tech.html).
DEFLATE_LIMIT = 1032
# The largest set has 236 386 labels (assumption).
MAX_LABELS = 10_000_000

# MedMNIST's word for the task of a set whose `classes` are findings.
FINDINGS = "multi-label, binary-class"
# Its word for the task of a set whose classes are grades.
GRADES = "ordinal-regression"
ANY = "any"
ALL = "all"


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """Examine one .npz file, or a folder that holds NAME.npz; raises BadSource."""
    chosen = settings("medmnist", MEDMNIST.options, options)
    path, name, size = _locate(source, *_wanted(chosen))
    info, finding = INFO[name], chosen["finding"]
    _check_finding(name, finding)
    if chosen["grades"] and info.task != GRADES:
        graded = ", ".join(known for known, info in INFO.items() if info.task == GRADES)
        raise BadSource(f"{name} has no grades: option grades is for {graded}")
    items = []
    for split in SPLITS:
        with _member(path, f"{split}_labels") as found:
            labels = None if found is None else _labels(path, split, *found, info, finding)
        with _member(path, f"{split}_images") as found:
            if (found is None) != (labels is None):
                part = "labels" if labels is None else "images"
                raise BadSource(f"{path.name} has no {split}_{part}")
            if found is None or labels is None:
                continue
            shape, dtype, _ = found
            _check_images(path, split, shape, dtype, info)
            if size and shape[1] != size:
                raise BadSource(f"{path.name} has images of side {shape[1]}, not of size {size}")
            if len(labels) != shape[0]:
                raise BadSource(
                    f"{path.name} has {shape[0]} {split} images but {len(labels)} labels"
                )
        extra = {"labels": labels}
        items.append(Item(key=split, paths=(path,), extra=extra, cases=len(labels)))
    if not items:
        raise BadSource(f"{path.name} holds none of the parts {', '.join(SPLITS)}")
    _check_set(path, name, items)
    if finding and finding != ALL:
        shown = "finding" if finding == ANY else finding
        info = replace(info, classes=(f"no {shown}", shown), positive=1)
    meta = Meta(
        kind="medmnist",
        name=f"{name}-{finding}" if finding else name,
        task="multilabel"
        if finding == ALL
        else "ordinal"
        if chosen["grades"]
        else "classification",
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
        options={
            "name": name,
            **({"finding": finding} if finding else {}),
            **({"grades": True} if chosen["grades"] else {}),
        },
    )
    return Survey(meta=meta, items=tuple(items), rejected=())


def read(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
    """Yield the cases of one official part, one image in memory at a time.

    Raises BadSource if the file is truncated, since part of a set is not MedMNIST.
    """
    (path,), split = item.paths, item.key
    with _member(path, f"{split}_images") as found:
        assert found is not None
        shape, dtype, file = found
        size = int(np.prod(shape[1:])) * dtype.itemsize
        for number, label in enumerate(item.extra["labels"]):
            raw = _exactly(file, size, path)
            # Every size of a set has the same images, and no other set has them.
            key = f"{meta.options['name']}/{split}/{number}"
            pixels = np.frombuffer(raw, dtype).reshape(shape[1:])
            if not isinstance(label, tuple) and label != int(label):
                yield BadCase(f"label {label} is not a whole number", where=key, key=key)
                continue
            yield Case(
                key=key,
                group=key,
                # (Y, X, C) to (C, Y, X); (Y, X) or (Z, Y, X) gains its one channel.
                image=np.moveaxis(pixels, -1, 0) if len(meta.channels) == 3 else pixels[None],
                label=label if isinstance(label, tuple) else int(label),
                mask=None,
                spacing=(np.nan,) * meta.dims,
                split=split,
            )


def fetch(options: Mapping[str, Any], progress: Callable[[int, int], None]) -> Path:
    """Return the official file of the set and size that `options` name; raises BadSource."""
    chosen = settings("medmnist", MEDMNIST.options, options)
    name, size = _wanted(chosen)
    if not name:
        raise BadSource(f"name the set to fetch, medmnist:NAME; the sets are: {', '.join(INFO)}")
    size = size or SIZES[0]
    _check_finding(name, chosen["finding"])
    remote = Remote(
        base=BASE,
        path=f"{file_name(name, size)}?download=1",
        md5=MD5[name][SIZES.index(size)],
        page=PAGE,
    )
    return fetch_file(remote, cache_folder() / "medmnist", progress=progress)


def _wanted(chosen: Mapping[str, Any]) -> tuple[str, int]:
    """Return the requested set and size, "" and 0 if none is named; raises BadSource.

    `breastmnist_64` is breastmnist of size 64, like the name of its file.
    """
    name, _, suffix = chosen["name"].partition("_")
    size = chosen["size"] or (int(suffix) if suffix.isdecimal() else 0)
    if (name and name not in INFO) or (suffix and suffix != str(size)):
        known = ", ".join(INFO)
        near = "" if name in INFO else nearest(name, INFO)
        raise BadSource(f"there is no MedMNIST set {chosen['name']!r}; the sets are: {known}{near}")
    sizes = SIZES[: len(MD5[name])] if name else SIZES
    if size and size not in sizes:
        known = ", ".join(map(str, sizes))
        raise BadSource(f"{name or 'MedMNIST'} has no size {size}; its sizes are: {known}")
    return name, size


def _check_set(path: Path, name: str, items: Sequence[Item]) -> None:
    """Raise BadSource if a file is another set by its name or cases; warn if cases are missing.

    A subset may be intended, and files of other versions hold a few cases more or fewer.
    """
    held = {item.key: item.cases for item in items}
    cases = tuple(held.get(split, 0) for split in SPLITS)
    by_cases = next((known for known, info in INFO.items() if info.cases == cases), name)
    if by_cases != name:
        raise BadSource(
            f"{path.name} is to be read as {name} but holds as many cases as {by_cases} "
            f"({_counted(cases)}; {name} has {_counted(INFO[name].cases)}): use medmnist:{by_cases}"
        )
    called = _set_of(path)
    if called in INFO and called != name:
        raise BadSource(
            f"{path.name} is to be read as {name} but named after {called}: use medmnist:{called}, "
            f"or rename the file if it holds {name}"
        )
    if cases != INFO[name].cases:
        log.warning(
            "%s holds %s cases; %s as published holds %s. It is read as a subset.",
            path.name,
            _counted(cases),
            name,
            _counted(INFO[name].cases),
        )


def _counted(cases: Iterable[int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in zip(SPLITS, cases, strict=True))


def _check_finding(name: str, finding: str) -> None:
    if INFO[name].task != FINDINGS:
        if finding:
            several = ", ".join(known for known, info in INFO.items() if info.task == FINDINGS)
            raise BadSource(f"{name} has one label per image: option finding is for {several}")
        return
    choices = (*INFO[name].classes, ANY, ALL)
    if finding not in choices:
        fault = (
            f"there is no finding {finding!r}"
            if finding
            else f"each image of {name} has {len(choices) - 2} answers"
        )
        known = ", ".join(choices)
        raise BadSource(f"{fault}: set finding=NAME; the findings are: {known}")


def _locate(source: Path, name: str, size: int) -> tuple[Path, str, int]:
    if source.is_dir():
        fitting = [
            path
            for path in sorted(source.glob("*.npz"))
            if _set_of(path) in ([name] if name else INFO) and size in (0, _size_of(path))
        ]
        if len(fitting) != 1:
            found = ", ".join(path.name for path in fitting) or "none"
            raise BadSource(
                f"{source} should hold one file {file_name(name or 'NAME', size or SIZES[0])}; "
                f"found: {found}; name a set as medmnist:NAME and its size as size=64, or "
                "pass the file itself"
            )
        return fitting[0], _set_of(fitting[0]), size
    if not source.is_file():
        raise BadSource(f"there is no file or folder {source}")
    if not name and _set_of(source) not in INFO:
        raise BadSource(f"{source.name} is not named after a MedMNIST set: use medmnist:NAME")
    return source, name or _set_of(source), size


def _set_of(path: Path) -> str:
    return path.stem.partition("_")[0]


def _size_of(path: Path) -> int:
    size = path.stem.partition("_")[2]
    return int(size) if size.isdecimal() else SIZES[0]


def _labels(
    path: Path,
    split: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    file: IO[bytes],
    info: Info,
    finding: str,
) -> Array | list[tuple[float, ...]]:
    """Return one label per image (N,): its class, whether it shows the finding, or all findings."""
    columns = len(info.classes) if finding else 1
    # Files with one label per image have either shape.
    fitting = ((columns,),) if finding else ((), (1,))
    if not shape or shape[1:] not in fitting or dtype.kind not in "uif":
        wanted = f"{columns} numbers" if finding else "one number"
        shapes = f"(N, {columns})" if finding else "(N,) or (N, 1)"
        raise BadSource(
            f"{path.name}: {split}_labels is {dtype} {shape}, not {wanted} per image, {shapes}"
        )
    if shape[0] > MAX_LABELS:
        raise BadSource(f"{path.name}: {split}_labels declares {shape[0]} labels")
    labels = np.frombuffer(_exactly(file, shape[0] * columns * dtype.itemsize, path), dtype)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise BadSource(f"{path.name}: {split}_labels holds NaN or infinity")
    if not finding:
        return labels
    strange = labels[(labels != 0) & (labels != 1)]
    if strange.size:
        raise BadSource(f"{path.name}: {split}_labels holds {strange[0]}; a finding is 0 or 1")
    shown = labels.reshape(-1, columns) == 1
    if finding == ALL:
        return list(map(tuple, shown.astype(np.float64).tolist()))
    if finding != ANY:
        shown = shown[:, [info.classes.index(finding)]]
    answers: Array = shown.any(axis=1).astype(np.uint8)
    return answers


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
    """Open one array of an .npz at its first number; yield None if it is not in the file.

    Nothing is unpickled: the array's header must declare plain numbers, and no more of them than
    the file can hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{name}.npy" not in archive.namelist():
                yield None
                return
            entry = archive.getinfo(f"{name}.npy")
            if entry.flag_bits & 1:
                raise BadSource(f"{path.name}: {name} is protected by a password")
            with archive.open(entry) as file:
                shape, dtype = _npy_header(file, path, name)
                declared = int(np.prod(shape, dtype=object)) * dtype.itemsize
                if not declared <= entry.file_size <= entry.compress_size * DEFLATE_LIMIT:
                    raise BadSource(f"{path.name}: {name} declares more than the file can hold")
                yield shape, dtype, file
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, OSError) as error:
        raise BadSource(f"{path.name} is not a complete .npz file ({error})") from None


def _npy_header(file: IO[bytes], path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError):
        raise BadSource(f"{path.name}: {name} is not an .npy array of plain numbers") from None
    if dtype.hasobject or dtype.kind not in "uif" or (fortran and len(shape) > 1):
        order = ", column by column" if fortran else ""
        raise BadSource(f"{path.name}: {name} holds {dtype}{order}, not plain numbers row by row")
    return shape, dtype


def _exactly(file: IO[bytes], size: int, path: Path) -> bytes:
    raw = file.read(size)
    if len(raw) < size:
        raise BadSource(f"{path.name} is truncated")
    return raw


CHEST = ", ".join(INFO["chestmnist"].classes)

MEDMNIST = Kind(
    name="medmnist",
    summary="one of the MedMNIST sets of small images, 2-D or 3-D, from its .npz file",
    source="Yang et al. 2023, 10.1038/s41597-022-01721-8; https://medmnist.com",
    survey=survey,
    read=read,
    options={
        "name": ("", "which set; empty: the one in the file's name"),
        "size": (0, "side of the images, 28, 64, 128 or 224; 0: the file's, or 28 to fetch"),
        "grades": (False, "for retinamnist: its classes are grades in ascending order (ordinal)"),
        "finding": (
            "",
            f"for chestmnist, where it is required: {CHEST}, {ANY}, or {ALL} (multi-label)",
        ),
    },
    fetch=fetch,
)
