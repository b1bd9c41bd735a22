"""What loading adds to training a 3-D U-Net: to its steps, and to whole trials.

On two cores, in a process of its own with two threads for torch, as `medopt run` has it: the U-Net
of 16 to 128 channels with two convolutions a level, four channels of 64^3 out of volumes of 96^3 in
int16, batch 2, every augmentation of a study on, each of rotation, zoom, noise, contrast and gamma
with its default chance of 0.2.

The same steps are taken on batches from the loader and on the first of these batches, held in
memory, in turn; the median of the ratios is noted. Of trials it is what `medopt run`
itself has measured: `data_wait_sec` over `wall_sec` less that. The loader that `auto` takes on a
CPU works only while it is waited for, so that this is all there is.

    pytest tests/perf/loading/test_perf_share.py --benchmark-only
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pytest_benchmark.fixture import BenchmarkFixture

from bench.core.startup import begin
from bench.losses.table import LOSSES, alone
from bench.optimizers.table import OPTIMIZERS
from bench.study.schema import Augment
from loaders.batches.table import LOADERS
from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.sampling.normalization import normalization
from loaders.sampling.sampler import Recipe, Sampler
from loaders.store.read import Store, open_store
from loaders.store.write import write_store
from models.table import MODELS

ROOT = Path(__file__).parents[3]
MODEL, PATCH, BATCH, STEPS, ROUNDS = "unet_res", (64, 64, 64), 2, 16, 7
EVERYTHING = Augment(
    flip=True,
    scale=0.1,
    shift=0.1,
    foreground=0.5,
    translate=0.1,
    rotate=15.0,
    zoom=0.1,
    noise=0.1,
    contrast=0.25,
    gamma=0.3,
)
META = Meta(
    kind="made",
    name="made",
    task="segmentation",
    dims=3,
    channels=("a", "b", "c", "d"),
    classes=("background", "one", "two", "three"),
    regions={"one": (1,), "two": (2,), "three": (3,)},
    positive=None,
    normalize="case",
    fill=0.0,
    unit="volume",
    group_source="case",
    source="made here",
    licence="none",
    options={},
)


def volumes(_item: Item, _meta: Meta) -> Iterator[Case]:
    for number in range(16):
        random = np.random.default_rng(number)
        mask = np.zeros((96, 96, 96), np.uint8)
        mask[30:60, 20:70, 40:80] = random.integers(0, 4, (30, 50, 40))
        yield Case(
            key=str(number),
            group=str(number),
            image=random.integers(0, 3000, (4, 96, 96, 96)).astype(np.int16),
            label=None,
            mask=mask,
            spacing=(1.0, 1.0, 1.0),
        )


def store_at(out: Path) -> Store:
    kind = Kind(
        name="made",
        summary="",
        source="",
        survey=lambda *_: None,
        read=volumes,
        options={},  # type: ignore[arg-type,return-value]  # nothing is surveyed
    )
    survey = Survey(meta=META, items=(Item(key="all", paths=(), extra={}),), rejected=())
    write_store(kind, survey, out, key=b"key", workers=1, strict=True)
    return open_store(out)


def ratios(loader: str) -> list[float]:
    """Return the time of steps with the loader over that of steps without, of each round."""
    begin(2)
    torch.manual_seed(0)
    network = MODELS[MODEL].build(in_channels=4, out_channels=4, dims=3, patch=PATCH)
    optimizer = OPTIMIZERS["adam"].build(network.parameters())
    loss = LOSSES["dice_ce"].bind({})

    def steps(batches: Iterator[Any]) -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            image, target = next(batches)
            optimizer.zero_grad(set_to_none=True)
            loss(network(image), target.long(), None, alone).mean().backward()
            optimizer.step()
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        store = store_at(Path(folder) / "store")
        everyone = np.arange(len(store))
        offset, unit = normalization(store.moments, META.normalize, everyone)
        sampler = Sampler(
            cases=everyone,
            shapes=store.shapes,
            offset=offset,
            unit=unit,
            recipe=Recipe(patch=PATCH, **EVERYTHING.along(META.axes)),
            seed=0,
            spacing=store.spacing,
        )
        with LOADERS[loader].open(
            store,
            sampler,
            batch_size=BATCH,
            batches=(ROUNDS + 2) * STEPS,
            threads=2,
            device=torch.device("cpu"),
        ) as stream:
            held = [next(stream) for _ in range(STEPS)]
            steps(iter(held))
            return [steps(stream) / steps(iter(held)) for _ in range(ROUNDS)]


TWO_CORES = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")


@TWO_CORES
@pytest.mark.parametrize("loader", [name for name, row in LOADERS.items() if row.available()])
def test_what_loading_adds_to_steps(benchmark: BenchmarkFixture, loader: str) -> None:
    def measure() -> None:
        command = [sys.executable, __file__, loader]
        told = subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        ratio = statistics.median(json.loads(told.stdout))
        benchmark.extra_info["ratios"] = {"batches in memory": round(ratio, 3)}

    pedantic: Any = benchmark.pedantic
    pedantic(measure, rounds=1)


@TWO_CORES
def test_what_loading_adds_to_trials(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    store_at(tmp_path / "store")
    study = {
        "name": "share",
        "data": ["store"],
        "models": [MODEL],
        "optimizers": ["adam"],
        "losses": ["dice_ce"],
        "folds": 2,
        "epochs": 10,
        "batch_size": BATCH,
        "patch": list(PATCH),
        "augment": EVERYTHING.model_dump(mode="json"),
        "threads": 2,
        "device": "cpu",
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))

    def measure() -> None:
        run = tmp_path / "run"
        medopt = [sys.executable, "-c", "from bench.cli import main; main()"]
        command = [*medopt, "run", str(tmp_path / "study.yaml"), "--out", str(run)]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        trials = pd.read_parquet(run / "trials")
        assert (trials["status"] == "ok").all()
        waited, all_of_it = trials["data_wait_sec"].sum(), trials["wall_sec"].sum()
        steps = trials["train_sec"].sum()
        benchmark.extra_info["ratios"] = {
            "trials without waiting": round(all_of_it / (all_of_it - waited), 3),
            "steps without waiting": round(steps / (steps - waited), 3),
        }

    pedantic: Any = benchmark.pedantic
    pedantic(measure, rounds=1)


if __name__ == "__main__":
    print(json.dumps(ratios(sys.argv[1])))
