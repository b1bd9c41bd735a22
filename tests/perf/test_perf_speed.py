"""What `speed: auto` gives a study of a 3-D U-Net, and what each factor gives alone.

The U-Net of 16 to 128 channels with two convolutions a level, four channels of 64^3, batch 2, in
float32. Samples a second of the whole machine: one-thread trials side by side on every core, as a
run has them by default, against what `speed: auto` takes, on every core too. It is searched once;
then both sides are measured in rounds of their own, one after the other, every other round in
reverse. `extra_info` has the median of without over with, the gain of each round, and every line of
the table.

    pytest tests/perf/test_perf_speed.py --benchmark-only
"""

import os
import statistics
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.planning.plan import resolve
from bench.planning.speed.choice import Way
from bench.planning.speed.side_by_side import Here
from bench.study.schema import Study
from loaders.cores import usable_cores
from tests.perf.loading.test_perf_share import store_at

ROUNDS, LEAST_SEC = 5, 3.0


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("model", "side", "batch"),
    [("unet_res", 64, 2), pytest.param("unet_small", 16, 1, marks=pytest.mark.slow)],
)
def test_a_3d_unet(
    benchmark: BenchmarkFixture, tmp_path: Path, model: str, side: int, batch: int
) -> None:
    store_at(tmp_path / "store")
    study = Study.model_validate(
        {
            "name": "speed",
            "data": ["store"],
            "models": [model],
            "optimizers": ["adam"],
            "losses": ["dice_ce"],
            "folds": 4,
            "epochs": 2,
            "batch_size": batch,
            "patch": [side] * 3,
            "device": "cpu",
            "speed": "auto",
        }
    )

    def measure() -> None:
        load = os.getloadavg()[0]
        plan = resolve(study, tmp_path, tmp_path / "run", lanes=None)
        assert plan.found is not None
        trial = plan.trials[0]
        kind = (trial.dataset, model)
        settings = tuple(
            (key, value)
            for key, value in plan.found.settings[kind].items()
            if key != "windows_at_once"
        )
        threads = plan.study.threads or 1
        sides = {"plain": Way(threads=1), "auto": Way(threads=threads, settings=settings)}
        plain = Study.model_validate({**study.model_dump(), "speed": None, "threads": 1})
        (first, *_) = resolve(plain, tmp_path, tmp_path / "plain", lanes=None).trials
        cores = usable_cores()
        machine = Here(
            {kind: first},
            {data.name: data for data in plan.sets},
            tmp_path,
            device="cpu",
            lanes={1: cores, threads: max(cores // threads, 1)},
        )
        found: dict[str, list[float]] = {name: [] for name in sides}
        try:
            for number in range(-1, ROUNDS):  # the first warms up
                for name in sides if number % 2 else reversed(sides):
                    sec = machine.sample_sec(kind, sides[name], "gradient", LEAST_SEC)
                    if number >= 0:
                        found[name].append(sec)
        finally:
            machine.end()
        ratios = [a / b for a, b in zip(found["plain"], found["auto"], strict=True)]
        benchmark.extra_info |= {
            "ratios": {"without": round(1 / statistics.median(ratios), 3)},
            "rounds": [round(ratio, 3) for ratio in ratios],
            "samples_per_sec": {
                name: round(1 / statistics.median(secs), 2) for name, secs in found.items()
            },
            "threads": threads,
            "settings": dict(settings),
            "table": plan.found.lines(),
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        }
        for line in (*plan.found.lines(), str(benchmark.extra_info)):
            print(line)

    pedantic: Any = benchmark.pedantic
    pedantic(measure, rounds=1)
