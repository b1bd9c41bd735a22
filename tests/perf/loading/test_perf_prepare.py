"""Preparing against reading alone: DICOM and .nii.gz to a store, and to arrays by other libraries.

Per core: every side has one thread and a process of its own, as its user would have, and CPU time
is compared (`ratio_*` in the extra information, the medians of the rounds, ours over theirs), since
a store is also waited for until it lies on the disk. Both sides of DICOM look at all headers first:
ours to list the series, SimpleITK's to sort a folder. What others leave undone is in ours: units or
classes, the checks, sums, histograms and boxes of every case, checksums of what is read and what is
written, the writing. nibabel as its quickest users read, by `np.asarray(image.dataobj)`;
`get_fdata()` makes float64 of it. SimpleITK is in the extra `perf`.

    pytest tests/perf/loading/test_perf_prepare.py --benchmark-only
"""

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.pixels.processing import apply_rescale
from pydicom.uid import generate_uid
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.ndimage import gaussian_filter

from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.datasets.table import KINDS
from loaders.formats.dicom.series import list_series, read_series
from loaders.memory import keep_freed_memory
from loaders.phantoms.make import make_lidc
from loaders.store.prepare import prepare
from loaders.store.write import write_store

nib: Any = nibabel
ROOT = Path(__file__).parents[3]
ROUNDS = 5
# As BraTS has them, in which 15 to 20 % of the voxels are brain.
SHAPE = (240, 240, 155)
RADII = (0.58, 0.72, 0.85)
CASES = 2
# LIDC-IDRI has 244527 images in 1018 CT series.
SLICES = 240


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BraTS folder: smooth brains with noise, in air.

    Within the brain deflate shrinks them 2.3-fold, as a crop of a real one (measured).
    """
    root = tmp_path_factory.mktemp("brains")
    random = np.random.default_rng(0)
    places = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    inside = sum((at / radius) ** 2 for at, radius in zip(places, RADII, strict=True)) < 1
    lesion = np.all([abs(at - 0.2) < 0.25 for at in places], axis=0)
    for number in range(CASES):
        case = f"BraTS-GLI-{number:05d}-000"
        (root / case).mkdir()
        tissue = gaussian_filter(random.normal(size=SHAPE), 3)
        for role in ("t1n", "t1c", "t2w", "t2f"):
            voxels = 400 + 3000 * tissue + 20 * random.normal(size=SHAPE)
            save(root / case / f"{case}-{role}.nii.gz", np.where(inside, voxels, 0), "int16")
        tumour = (tissue > 0.05).astype("uint8") + (tissue > 0.1)
        save(root / case / f"{case}-seg.nii.gz", np.where(inside & lesion, tumour, 0), "uint8")
    return root


def save(path: Path, voxels: Any, dtype: str) -> None:
    # BraTS lies with x to the left and y to the back.
    nib.save(nib.Nifti1Image(voxels.astype(dtype), np.diag([-1.0, -1.0, 1.0, 1.0])), path)


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two CT series of phantoms, with no more in their headers than is needed.

    As many slices as in LIDC-IDRI, and as large.
    """
    made = tmp_path_factory.mktemp("phantoms") / "made"
    make_lidc(made, patients=1, seed=0)
    root = tmp_path_factory.mktemp("chests")
    for name, paths in zip("ab", series_of(made), strict=True):
        write_series(root / name, [pydicom.dcmread(path) for path in paths])
    return root


@pytest.fixture(scope="module")
def real_chests(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Return a folder of two CT series with the pixels and the header of a real slice: 89 elements.

    The scanner's own, so that all who read them have to pass them.
    """
    (path,) = (shared_data / "lidc_idri" / "dicom").glob("*.dcm")
    root = tmp_path_factory.mktemp("real_chests")
    for name in "ab":
        write_series(root / name, [pydicom.dcmread(path)])
    return root


def write_series(folder: Path, datasets: list[Any]) -> None:
    """Write SLICES slices of 512 x 512 of one series: the given ones in turn, shifted a little."""
    folder.mkdir()
    series = generate_uid(entropy_srcs=[folder.name])
    given = [(dataset, dataset.pixel_array) for dataset in datasets]
    for number in range(SLICES):
        dataset, pixels = given[number % len(given)]
        tiled = np.pad(pixels, [(0, 512 - side) for side in pixels.shape], mode="wrap")
        dataset.Rows = dataset.Columns = 512
        dataset.PixelData = np.roll(tiled, number, axis=1).tobytes()
        dataset.SeriesInstanceUID = series
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(number)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.ImagePositionPatient = [-180, -180, 2.5 * number]
        dataset.save_as(folder / f"{number:04d}.dcm")


def series_of(root: Path) -> list[tuple[Path, ...]]:
    """Return the slices of each series: a folder holds one."""
    files = sorted(root.rglob("*.dcm"))
    return [tuple(paths) for _, paths in itertools.groupby(files, key=lambda path: path.parent)]


def whole_series(item: Item, meta: Meta) -> Iterator[Case]:
    """Give a series as one case, so that reading is all there is to it."""
    volume = read_series(item.paths, window=(-1000, 400), where=item.key)
    yield Case(
        key=item.key,
        group=item.key,
        image=volume.array[np.newaxis],
        label=0,
        mask=None,
        spacing=volume.spacing,
    )


def ct_survey(folder: Path) -> tuple[Kind, Survey]:
    files = (path for path in folder.rglob("*") if path.is_file())
    series, rejected = list_series(files, folder)
    meta = Meta(
        kind="ct",
        name="ct",
        task="classification",
        dims=3,
        channels=("CT",),
        classes=("a", "b"),
        regions={},
        positive=None,
        normalize="train",
        fill=-1000.0,
        unit="volume",
        group_source="case",
        source="phantoms",
        licence="none",
        options={},
    )
    items = tuple(Item(key=one.uid, paths=one.paths, extra={}) for one in series)
    kind = replace(KINDS["lidc"], name="ct", read=whole_series)
    return kind, Survey(meta=meta, items=items, rejected=tuple(rejected))


# What each side does with a folder; each is run by this file as a script.


def store_of_brains(folder: Path, out: Path) -> None:
    prepare(KINDS["brats"], folder, out, key=b"key", strict=True)


def store_of_chests(folder: Path, out: Path) -> None:
    kind, survey = ct_survey(folder)
    write_store(kind, survey, out, key=b"key", workers=1, strict=True)


def nibabel_reads(folder: Path, _out: Path) -> None:
    for path in sorted(folder.rglob("*.nii.gz")):
        np.asarray(nib.load(path).dataobj)


def nibabel_reads_floats(folder: Path, _out: Path) -> None:
    for path in sorted(folder.rglob("*.nii.gz")):
        nib.load(path).get_fdata()


def simpleitk_reads(folder: Path, _out: Path) -> None:
    itk = sitk()
    for path in sorted(folder.rglob("*.nii.gz")):
        itk.GetArrayFromImage(itk.ReadImage(str(path)))


def simpleitk_reads_series(folder: Path, _out: Path) -> None:
    itk = sitk()
    for paths in series_of(folder):
        names = itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(paths[0].parent))
        itk.GetArrayFromImage(itk.ReadImage(names))


def pydicom_reads_series(folder: Path, _out: Path) -> None:
    for paths in series_of(folder):
        slices = [pydicom.dcmread(path) for path in paths]
        slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
        np.stack([apply_rescale(one.pixel_array, one) for one in slices])


def sitk() -> Any:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return SimpleITK


SIDES = {
    side.__name__: side
    for side in (
        store_of_brains,
        store_of_chests,
        nibabel_reads,
        nibabel_reads_floats,
        simpleitk_reads,
        simpleitk_reads_series,
        pydicom_reads_series,
    )
}
OURS = ("store_of_brains", "store_of_chests")


def rounds_of(name: str, folder: Path, out: Path) -> list[float]:
    """Return the CPU seconds of each round of one side, after a first that is not counted."""
    if name in OURS:
        keep_freed_memory()
    seconds = []
    for _ in range(1 + ROUNDS):
        start = time.process_time()
        SIDES[name](folder, out)
        seconds.append(time.process_time() - start)
        # A virtual machine has to ask its host for memory that it has not used of late, the page
        # cache's too: more seconds than all the rest (measured). So each round has the last one's.
        shutil.rmtree(out, ignore_errors=True)
    return seconds[1:]


def compare(benchmark: BenchmarkFixture, folder: Path, out: Path, *sides: str) -> None:
    """Note the ratio of the first side's CPU time to each other's."""
    pytest.importorskip("SimpleITK", reason="needs SimpleITK (pip install .[perf])")
    found: dict[str, float] = {}

    def every_side() -> None:
        for side in sides:
            command = [sys.executable, __file__, side, str(folder), str(out / side)]
            told = subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            found[side] = statistics.median(json.loads(told.stdout))

    pedantic: Any = benchmark.pedantic
    pedantic(every_side, rounds=1)
    benchmark.extra_info["ratios"] = {
        side: round(found[sides[0]] / found[side], 3) for side in sides[1:]
    }


def test_nifti_to_store(benchmark: BenchmarkFixture, brains: Path, tmp_path: Path) -> None:
    others = ("nibabel_reads", "nibabel_reads_floats", "simpleitk_reads")
    compare(benchmark, brains, tmp_path, "store_of_brains", *others)


@pytest.mark.parametrize("series", ["chests", "real_chests"])
def test_dicom_to_store(
    benchmark: BenchmarkFixture, request: pytest.FixtureRequest, series: str, tmp_path: Path
) -> None:
    others = ("simpleitk_reads_series", "pydicom_reads_series")
    folder: Path = request.getfixturevalue(series)
    compare(benchmark, folder, tmp_path, "store_of_chests", *others)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_workers_against_one(benchmark: BenchmarkFixture, brains: Path, tmp_path: Path) -> None:
    """Wall time, start of the processes (a second) and all, of 80 cases: each of two many times.

    Stores of 6 GB, one at a time.
    """
    keep_freed_memory()
    kind = KINDS["brats"]
    once = kind.survey(brains, {})
    items = tuple(
        replace(item, key=f"{item.key}/{copy}") for copy in range(40) for item in once.items
    )
    survey = replace(once, items=items)
    out = tmp_path / "store"
    seconds: dict[int, list[float]] = {1: [], 2: []}

    def a_round() -> None:
        for workers, found in seconds.items():
            start = time.perf_counter()
            write_store(kind, survey, out, key=b"key", workers=workers, strict=True)
            found.append(time.perf_counter() - start)
            shutil.rmtree(out)

    pedantic: Any = benchmark.pedantic
    pedantic(a_round, rounds=2)
    ratios = [two / one for one, two in zip(seconds[1], seconds[2], strict=True)]
    benchmark.extra_info["ratios"] = {"one worker": round(statistics.median(ratios), 3)}


if __name__ == "__main__":
    print(json.dumps(rounds_of(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
