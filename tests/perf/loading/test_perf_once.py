"""What four lanes that load once spend on loading, against four that each load for themselves.

Four processes with one thread each read one stream, every augmentation on, each step of them as
long as chance has it. Rotation, zoom, noise, contrast and gamma are done to every sample, or to a
fifth, as they are by default. At best a quarter and the copies are left; wanted was 0.35. Volumes
of 4 x 96^3 are read in patches of 64^3, batch 2, and small images in batches of 32. Counted are
CPU seconds of loading, the shelf's included: the ratio is theirs over those without one. All
batches are the same bits.

    pytest tests/perf/loading/test_perf_once.py --benchmark-only
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from loaders.batches.shelf import Paths, made_shelf
from loaders.store.read import Store
from tests.loaders.batches.reader import begun
from tests.perf.loading.test_perf_share import store_at

LANES, PACE = 4, 0.02


def read_by_all(store: Path, patch: tuple[int, ...], shelf: Paths | None, **given: Any) -> float:
    """Return the CPU seconds of loading of all lanes."""
    lanes = [
        begun(store, patch, shelf=shelf, pace=PACE, seed=seed, waits=True, **given)
        for seed in range(LANES)
    ]
    for lane in lanes:
        assert lane.stdout is not None
        assert lane.stdout.readline() == "ready\n"
    for lane in lanes:
        assert lane.stdin is not None
        lane.stdin.write("go\n")
        lane.stdin.flush()
    said = [json.loads(lane.communicate()[0]) for lane in lanes]
    assert len({tuple(lane["digests"]) for lane in said}) == 1
    return float(sum(lane["cpu"] for lane in said))


@pytest.mark.parametrize("chance", [1.0, 0.2])
@pytest.mark.parametrize("dims", [2, 3])
def test_cpu_seconds_of_loading_once(
    benchmark: BenchmarkFixture,
    tmp_path: Path,
    small_store: Callable[..., Store],
    dims: int,
    chance: float,
) -> None:
    if dims == 3:
        store_at(tmp_path / "store")
        store, patch, given = tmp_path / "store", (64, 64, 64), {"batch_size": 2, "batches": 60}
    else:
        store, patch = small_store("classification", 2, 64, 200).path, (64, 64)
        given = {"batch_size": 32, "batches": 300}

    def measure() -> None:
        apart = read_by_all(store, patch, None, chance=chance, **given)
        # Soon full, as any is in the long run: fresh memory is what a shelf costs most.
        with made_shelf(LANES << 25) as shelf:
            once = read_by_all(store, patch, shelf, chance=chance, **given)
        benchmark.extra_info.update(apart=apart, once=once, ratios={"separate": once / apart})

    pedantic: Any = benchmark.pedantic
    pedantic(measure, rounds=1)
