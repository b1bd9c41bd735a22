"""Preparing what a hospital has against reading it alone: DICOM series with a table, PNG pairs.

As in `test_perf_prepare`: each side has one thread and a process of its own, CPU time is compared
(`ratio` in the extra information, ours over theirs) and the memory of a process is its own peak.
The readers read every file into an array and do nothing else: SimpleITK's of series, PIL's and
SimpleITK's of images and masks. A tenth of each set is looked at by default; whole sets, 2.6 GB of
DICOM once more as a store, are marked slow. SimpleITK is in the extra `perf`.

    pytest tests/perf/loading/test_perf_own_data.py --benchmark-only [-m slow]
"""

import shutil
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.ndimage import gaussian_filter

from loaders.datasets.table import KINDS
from loaders.memory import keep_freed_memory
from loaders.store.prepare import prepare

ROOT = Path(__file__).parents[3]
SIDE = 256
SERIES, SLICES, PAIRS = 200, 100, 2000
# Rounds of a tenth and of all of it, whose median counts: the first holds imports, and memory
# that a machine gives out for the first time (measured: a third of the time of 2.6 GB of DICOM).
ROUNDS = {10: 5, 1: 3}
# What may be asked of a laptop.
MEMORY = 2 * 2**30
# A tenth of each set, and in the slow test all of it.
SIZES = [10, pytest.param(1, marks=pytest.mark.slow)]


# ---- what is made ----


def tissue(seed: int) -> Any:
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 8)
    return (field - field.mean()) / field.std()


def chests(root: Path, count: int) -> None:
    """Write series of a CT, a folder each, and the table of their classes."""
    fields = [tissue(seed) for seed in range(8)]
    noise = np.random.default_rng(8).normal(0, 20, (2 * SIDE, SIDE))
    for number in range(count):
        folder = root / f"case {number:03d}"
        folder.mkdir()
        series, study, frame = (generate_uid(entropy_srcs=[kind, str(number)]) for kind in "abc")
        for z in range(SLICES):
            data = pydicom.Dataset()
            data.SOPClassUID = CTImageStorage
            data.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(z)])
            data.StudyInstanceUID, data.SeriesInstanceUID = study, series
            data.FrameOfReferenceUID = frame
            data.StudyDate, data.Modality, data.Manufacturer = "20200102", "CT", "made"
            data.SeriesDescription, data.PatientName = "thorax 1.0 B30f", "Nobody"
            data.PatientID, data.SliceThickness, data.KVP = f"{number:03d}", 1.0, 120
            data.InstanceNumber = z + 1
            data.ImagePositionPatient = [-180, -180, 1.0 * z]
            data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
            data.Rows = data.Columns = SIDE
            data.PixelSpacing = [0.7, 0.7]
            data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
            data.PixelRepresentation = 0
            data.RescaleIntercept, data.RescaleSlope = -1024, 1
            at = (7 * number + z) % SIDE
            values = 1000 + 150 * np.roll(fields[number % 8], z, 0) + noise[at : at + SIDE]
            data.PixelData = np.clip(values, 0, 4095).astype("<u2").tobytes()
            data.file_meta = FileMetaDataset()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data.file_meta.MediaStorageSOPClassUID = CTImageStorage
            data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
            data.save_as(folder / f"{z:04d}.dcm", enforce_file_format=True)
    lines = [f"case {number:03d},{number % 2}" for number in range(count)]
    (root / "table.csv").write_text("\n".join(["folder,label", *lines]) + "\n")


def pictures(root: Path, count: int) -> None:
    """Write photographs in colour with the noise of a camera, and their masks."""
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    fields = [tissue(seed) for seed in range(8)]
    noise = np.random.default_rng(8).normal(0, 3, (2 * SIDE, SIDE, 3))
    for number in range(count):
        field = np.roll(fields[number % 8], number, 1)
        at = 7 * number % SIDE
        colours = np.stack([170 - 30 * field, 120 - 25 * field, 100 - 20 * field], -1)
        image = np.clip(colours + noise[at : at + SIDE], 0, 255).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{number:04d}.png")
        Image.fromarray(255 * (field > 0.8).astype(np.uint8)).save(
            root / "masks" / f"{number:04d}.png"
        )


# ---- what each side does with a folder; each is run by this file as a script ----


def store_of_volumes(folder: Path, out: Path) -> None:
    prepare(KINDS["volumes"], folder, out, key=b"key", strict=True)


def store_of_pairs(folder: Path, out: Path) -> None:
    options = {"images": "images/*.png", "masks": "masks/{stem}.png"}
    prepare(KINDS["pairs"], folder, out, options=options, key=b"key", strict=True)


def simpleitk_reads(folder: Path, _out: Path) -> None:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    for series in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(names))


def simpleitk_reads_pictures(folder: Path, _out: Path) -> None:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    for path in sorted(folder.rglob("*.png")):
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def pil_reads(folder: Path, _out: Path) -> None:
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            np.asarray(image)


SIDES = {
    side.__name__: side
    for side in (
        store_of_volumes,
        store_of_pairs,
        simpleitk_reads,
        simpleitk_reads_pictures,
        pil_reads,
    )
}


def one_side(name: str, folder: Path, out: Path) -> None:
    """Do it once for each line that comes, and answer with CPU seconds; at the end peak bytes."""
    keep_freed_memory()
    for _ in sys.stdin:
        start = time.process_time()
        SIDES[name](folder, out)
        print(time.process_time() - start, flush=True)
        shutil.rmtree(out, ignore_errors=True)
    (peak,) = (
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    print(1024 * peak)


def compare(
    benchmark: BenchmarkFixture, folder: Path, out: Path, ours: str, theirs: list[str], rounds: int
) -> None:
    """Note the ratios of CPU times, and hold the memory; files lie in the page cache for all.

    Sides take turns, since a machine that others use too is now slower and now faster: a ratio is
    the median of those of the rounds.
    """
    seconds: dict[str, list[float]] = {side: [] for side in (*theirs, ours)}
    peaks: dict[str, int] = {}

    def every() -> None:
        with ExitStack() as stack:
            running = {
                side: stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, __file__, side, str(folder), str(out / side)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                        cwd=ROOT,
                    )
                )
                for side in seconds
            }
            for _, (side, process) in product(range(rounds), running.items()):
                assert process.stdin is not None
                assert process.stdout is not None
                print(file=process.stdin, flush=True)
                seconds[side].append(float(process.stdout.readline()))
            for side, process in running.items():
                told, _ = process.communicate()
                peaks[side] = int(told)

    pedantic: Any = benchmark.pedantic
    pedantic(every, rounds=1)
    ratios = {
        side: [mine / other for mine, other in zip(seconds[ours], seconds[side], strict=True)]
        for side in theirs
    }
    benchmark.extra_info |= {
        "ratios": {side: round(statistics.median(found), 3) for side, found in ratios.items()},
        "rounds": {side: [round(ratio, 2) for ratio in found] for side, found in ratios.items()},
        "seconds": round(statistics.median(seconds[ours]), 2),
        "MiB": round(peaks[ours] / 2**20),
    }
    assert peaks[ours] < MEMORY


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is Linux's word")
@pytest.mark.parametrize("tenth", SIZES)
def test_series_and_a_table(benchmark: BenchmarkFixture, tmp_path: Path, tenth: int) -> None:
    pytest.importorskip("SimpleITK", reason="needs SimpleITK (pip install .[perf])")
    (tmp_path / "set").mkdir()
    chests(tmp_path / "set", SERIES // tenth)
    out = tmp_path / "out"
    try:
        compare(
            benchmark,
            tmp_path / "set",
            out,
            "store_of_volumes",
            ["simpleitk_reads"],
            ROUNDS[tenth],
        )
    finally:
        shutil.rmtree(tmp_path / "set")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is Linux's word")
@pytest.mark.parametrize("tenth", SIZES)
def test_images_and_masks(benchmark: BenchmarkFixture, tmp_path: Path, tenth: int) -> None:
    pytest.importorskip("SimpleITK", reason="needs SimpleITK (pip install .[perf])")
    (tmp_path / "set").mkdir()
    pictures(tmp_path / "set", PAIRS // tenth)
    out = tmp_path / "out"
    try:
        compare(
            benchmark,
            tmp_path / "set",
            out,
            "store_of_pairs",
            ["pil_reads", "simpleitk_reads_pictures"],
            ROUNDS[tenth],
        )
    finally:
        shutil.rmtree(tmp_path / "set")


if __name__ == "__main__":
    name, folder, out = sys.argv[1:]
    one_side(name, Path(folder), Path(out))
