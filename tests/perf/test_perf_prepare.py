"""Preparing against reading alone: DICOM and .nii.gz to a store, and to arrays by other libraries.

Per core: every side has one thread, and CPU time is compared (`ratio_*` in the extra information,
the median of the rounds, ours over theirs), since a store is also waited for until it lies on the
disk. What others leave undone is in ours: Hounsfield units or classes, the checks, sums, histograms
and boxes of every case, two checksums, the writing. SimpleITK is in the extra `perf`.

    pytest tests/perf/test_perf_prepare.py --benchmark-only
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
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

from loaders import KINDS
from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.dicom import read_series
from loaders.phantom import make_lidc
from loaders.store import write_store

nib: Any = nibabel
ROUNDS = 5
# BraTS has 240 x 240 x 155 voxels and four channels; a quarter of them keeps a round short.
SHAPE = (160, 160, 90)
CASES = 4


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BraTS folder: smooth brains with noise, in air, as compressible as real ones."""
    root = tmp_path_factory.mktemp("brains")
    random = np.random.default_rng(0)
    inside = gaussian_filter(random.normal(size=SHAPE), 20) > 0
    for number in range(CASES):
        case = f"BraTS-GLI-{number:05d}-000"
        (root / case).mkdir()
        tissue = gaussian_filter(random.normal(size=SHAPE), 3)
        for role in ("t1n", "t1c", "t2w", "t2f"):
            voxels = 400 + 3000 * tissue + 20 * random.normal(size=SHAPE)
            save(root / case / f"{case}-{role}.nii.gz", np.where(inside, voxels, 0), "int16")
        tumour = (tissue > 0.05).astype("uint8") + (tissue > 0.1)
        save(root / case / f"{case}-seg.nii.gz", np.where(inside, tumour, 0), "uint8")
    return root


def save(path: Path, voxels: Any, dtype: str) -> None:
    # BraTS lies with x to the left and y to the back.
    nib.save(nib.Nifti1Image(voxels.astype(dtype), np.diag([-1.0, -1.0, 1.0, 1.0])), path)


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, ...]]:
    """Return the slices of two CT series, as many and as large as those of LIDC-IDRI often are."""
    root = tmp_path_factory.mktemp("chests") / "scans"
    make_lidc(root, patients=1, seed=0)
    series = []
    for _, paths in itertools.groupby(sorted(root.rglob("*.dcm")), key=lambda p: p.parent):
        slices: list[Path] = []
        datasets = {path: pydicom.dcmread(path) for path in paths}
        heights = sorted(float(one.ImagePositionPatient[2]) for one in datasets.values())
        height = heights[-1] - heights[0] + heights[1] - heights[0]
        for path, dataset in datasets.items():
            pixels = dataset.pixel_array
            tiled = np.pad(pixels, [(0, 512 - side) for side in pixels.shape], mode="wrap")
            dataset.Rows = dataset.Columns = 512
            dataset.PixelData = tiled.tobytes()
            uid, (x, y, z) = dataset.SOPInstanceUID, dataset.ImagePositionPatient
            for copy in range(4):
                dataset.SOPInstanceUID = generate_uid(entropy_srcs=[uid, str(copy)])
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                dataset.ImagePositionPatient = [x, y, z + copy * height]
                slices.append(path.with_name(f"{path.stem}-{copy}.dcm"))
                dataset.save_as(slices[-1])
            path.unlink()
        series.append(tuple(slices))
    return series


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


def ct_survey(series: list[tuple[Path, ...]]) -> tuple[Kind, Survey]:
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
    items = tuple(Item(key=str(n), paths=paths, extra={}) for n, paths in enumerate(series))
    kind = replace(KINDS["lidc"], name="ct", read=whole_series)
    return kind, Survey(meta=meta, items=items, rejected=())


def sitk() -> Any:
    module = pytest.importorskip("SimpleITK", reason="needs SimpleITK (pip install .[perf])")
    module.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return module


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(
    benchmark: BenchmarkFixture, ours: Callable[[], None], peers: dict[str, Callable[[], object]]
) -> None:
    """Time ours by the benchmark, and note the ratio of CPU time to each peer's, round by round."""
    ratios: dict[str, list[float]] = {name: [] for name in peers}

    def a_round() -> None:
        mine = cpu_seconds(ours)
        for name, peer in peers.items():
            ratios[name].append(mine / cpu_seconds(peer))

    pedantic: Any = benchmark.pedantic
    pedantic(a_round, rounds=ROUNDS, warmup_rounds=1)
    for name, found in ratios.items():
        benchmark.extra_info[f"ratio_{name}"] = round(statistics.median(found[1:]), 2)


def test_nifti_to_store(benchmark: BenchmarkFixture, brains: Path, tmp_path: Path) -> None:
    itk = sitk()
    files = sorted(brains.rglob("*.nii.gz"))
    outs = itertools.count()

    def ours() -> None:
        kind = KINDS["brats"]
        out = tmp_path / str(next(outs))
        write_store(kind, kind.survey(brains, {}), out, key=b"key", workers=1, strict=True)

    compare(
        benchmark,
        ours,
        {
            "nibabel": lambda: [np.asarray(nib.load(path).dataobj) for path in files],
            "simpleitk": lambda: [
                itk.GetArrayFromImage(itk.ReadImage(str(path))) for path in files
            ],
        },
    )


def test_dicom_to_store(
    benchmark: BenchmarkFixture, chests: list[tuple[Path, ...]], tmp_path: Path
) -> None:
    itk = sitk()
    kind, survey = ct_survey(chests)
    outs = itertools.count()

    def ours() -> None:
        out = tmp_path / str(next(outs))
        write_store(kind, survey, out, key=b"key", workers=1, strict=True)

    def by_itk() -> None:
        for paths in chests:
            names = itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(paths[0].parent))
            itk.GetArrayFromImage(itk.ReadImage(names))

    def by_pydicom() -> None:
        for paths in chests:
            slices = [pydicom.dcmread(path) for path in paths]
            slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
            np.stack([apply_rescale(one.pixel_array, one) for one in slices])

    compare(benchmark, ours, {"simpleitk": by_itk, "pydicom": by_pydicom})


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_workers_against_one(benchmark: BenchmarkFixture, brains: Path, tmp_path: Path) -> None:
    """Wall time, start of the processes and all; each case is prepared several times over."""
    kind = KINDS["brats"]
    once = kind.survey(brains, {})
    copies = 4
    items = tuple(
        replace(item, key=f"{item.key}/{copy}") for copy in range(copies) for item in once.items
    )
    survey = replace(once, items=items)
    outs = itertools.count()
    seconds: dict[int, list[float]] = {1: [], 2: []}

    def a_round() -> None:
        for workers, found in seconds.items():
            start = time.perf_counter()
            out = tmp_path / str(next(outs))
            write_store(kind, survey, out, key=b"key", workers=workers, strict=True)
            found.append(time.perf_counter() - start)

    pedantic: Any = benchmark.pedantic
    pedantic(a_round, rounds=3)
    benchmark.extra_info["one_over_two"] = round(
        statistics.median(one / two for one, two in zip(seconds[1], seconds[2], strict=True)), 2
    )
