"""Fixtures and process settings that every room's tests share."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from scipy.ndimage import gaussian_filter

from bench.losses.table import LOSSES
from bench.planning.rehearsal import rehearse
from bench.planning.speed.process import Trials
from bench.study.choice import Choice
from bench.study.dataset import DataSet, split_store
from bench.study.schema import Augment
from bench.study.tasks import TASKS
from bench.study.trial import Trial
from loaders.cases import Case, Item, Kind, Label, Meta, Survey
from loaders.sampling.folds import Split
from loaders.store.read import Store, open_store
from loaders.store.write import write_store
from loaders.targets import TARGETS
from tests.forks import stand_in
from tests.metas import made_meta
from tests.trials import PLAIN, changed

# Once a process, at its start: a second call made a training step many times slower (measured).
torch.set_num_threads(1)

# Properties are tried on the same examples each time, so that a change fails at once or not at all;
# `--hypothesis-profile=default --hypothesis-seed=N` looks at others.
settings.register_profile("seeded", derandomize=True)
settings.load_profile("seeded")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, saying so, what this machine cannot run."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put all tests that start Ray on one worker of pytest-xdist, at once: two Rays are too many.

    They take longest, so that the other workers take the rest meanwhile.
    """
    for item in items:
        if item.get_closest_marker("ray") or item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("ray"))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def pytest_collection_finish() -> None:
    """Refuse a file of tests that imports Ray at its top, or has it imported."""
    if "ray" in sys.modules:
        raise pytest.UsageError(
            "a file of tests imports Ray when it is collected: Ray reads its settings when it is "
            "imported, and those of bench/execution/ray/cluster.py would come too late"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out the tests of a file together: what they share is made once, by one worker."""
    from xdist.scheduler import LoadGroupScheduling

    class ByFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return super()._split_scope(nodeid).partition("::")[0]  # a group is as it was

    if config.getvalue("dist") != "loadgroup":
        return None
    config.option.loadscopereorder = False  # as they are collected, Ray's first
    return ByFile(config, log)


class InThisProcess:
    """Times the work of trials here: processes side by side take seconds to start."""

    def __init__(self, trials, sets, base, *, device, lanes):
        self._trials = Trials(trials, sets, base, device)
        self._lanes = lanes

    def start(self, threads: int) -> float:
        return 0.0

    def sample_sec(self, kind, way, part, least: float) -> float:
        done, sec = self._trials.timed(kind, way.settings, part, 0.0)
        return sec / done / self._lanes[way.threads]

    def end(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _tried_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a user's own code, and time trials, in this process: one beside takes seconds to start.

    The mark `apart` keeps it, as do the tests that start the command itself.
    """
    if not request.node.get_closest_marker("apart"):
        monkeypatch.setattr("bench.planning.plan.rehearse_apart", rehearse)
        monkeypatch.setattr("bench.planning.cost.estimate.Here", InThisProcess)


@pytest.fixture(autouse=True)
def _forked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes that train from one that has imported what they need (tests.forks).

    The mark `fresh` has each started anew, as the command does.
    """
    if not request.node.get_closest_marker("fresh"):
        monkeypatch.setattr("bench.core.processes.subprocess", stand_in())


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real medical images that stands beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"real images are not here: no folder {'/'.join(SHARED.parts[-2:])}")
    return SHARED


# ---- a small data set of each kind, learnable within seconds ----------------------------------


def small_meta(task: str, dims: int) -> Meta:
    """Return the meta of a small data set: blobs that are bright (classes) or outlined (masks)."""
    segments, numbers = TARGETS[task].masks, TARGETS[task].numbers
    # Findings of a channel each, of which some are not known; else whether a case is bright.
    classes = ("bright", "marked")[: numbers.most] if numbers else ("dark", "bright")
    return made_meta(
        kind="small",
        name=f"small-{task}",
        task=task,
        dims=dims,
        channels=("a", "b"),
        classes=("background", "rim", "core") if segments else classes,
        regions={"whole": (1, 2), "core": (2,)} if segments else {},
        positive=None if segments or numbers else 1,
        unit="volume" if segments else "image",
        group_source="patient",
    )


def small_cases(meta: Meta, count: int, side: int) -> Iterator[Case]:
    """Give cases of two channels, two cases a patient, sides of `side` to `side + 4`."""
    rng = np.random.default_rng(0)
    for n in range(count):
        shape = tuple(int(side + 2 * rng.integers(0, 3)) for _ in range(meta.dims))
        field = gaussian_filter(rng.normal(size=shape), 2.5)
        field /= field.std()
        noise = rng.normal(size=(2, *shape))
        bright = n % 4 < 2
        label: Label | None = int(bright)
        if meta.masked:
            mask = ((field > 0.5).astype(np.uint8) + (field > 1.2)).astype(np.uint8)
            signal, label = np.stack([mask, mask == 2]), None
        elif meta.numbers:
            mask = None
            marked = n % 6 < 3
            given = (float(bright), None if n % 5 == 0 else float(marked))
            label = given[: len(meta.classes)]
            signal = np.stack([np.full(shape, 0.6 * bright), np.full(shape, 0.6 * marked)])
        else:
            mask = None
            signal = np.full((2, *shape), 0.6 * bright)
        image = (100 + 40 * (signal + 0.5 * noise)).clip(0, 255).astype(np.uint8)
        yield Case(
            key=f"case{n}",
            group=f"patient{n // 2}",
            image=image,
            label=label,
            mask=mask,
            spacing=(1.0,) * meta.dims,
        )


def read_small(item: Item, meta: Meta) -> Iterator[Case]:
    yield from small_cases(meta, **item.extra)


SMALL = Kind(
    name="small",
    summary="made by a test",
    source="none",
    survey=lambda _source, _options: pytest.fail("not surveyed"),
    read=read_small,
    options={},
)


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Store]:
    """Return a maker of small stores by (task, dims, side, count), each made once a session."""
    folder = tmp_path_factory.mktemp("stores")

    def make(task: str, dims: int, side: int = 16, count: int = 40) -> Store:
        out = folder / f"{task}-{dims}-{side}-{count}"
        if not out.exists():
            meta = small_meta(task, dims)
            item = Item(key="all", paths=(), extra={"count": count, "side": side})
            survey = Survey(meta=meta, items=(item,), rejected=())
            write_store(SMALL, survey, out, key=b"test", workers=1, strict=True)
        return open_store(out)

    return make


@pytest.fixture(scope="session")
def make_trial(
    small_store: Callable[..., Store],
) -> Callable[..., tuple[Trial, DataSet, Path]]:
    """Return a maker of (trial, data, base) for run_trial; keywords replace fields of the trial."""
    splits: dict[Path, tuple[Split, ...]] = {}

    def make(
        task: str, dims: int = 2, side: int = 16, **changes: object
    ) -> tuple[Trial, DataSet, Path]:
        store = small_store(task, dims, side)
        if store.path not in splits:
            splits[store.path] = split_store(store, folds=4, repeats=1, seed=0, inner_fraction=0.25)
        data = DataSet(name=store.meta.name, path=store.path, splits=splits[store.path])
        served = TASKS[task]
        model = {"classification": "plain_cnn", "segmentation": "unet_small"}[served.networks]
        loss = next(name for name, row in LOSSES.items() if served.served_by in row.tasks)
        fields = {
            "trial_id": "a0",
            "dataset": data.name,
            "task": task,
            "choices": {
                **PLAIN,
                "model": Choice(name=model),
                "optimizer": Choice(name="adam"),
                "loss": Choice(name=loss),
            },
            "start": None,
            "repeat": 0,
            "fold": 0,
            "seed": 0,
            "epochs": 3,
            "batch_size": 4,
            "patch": (side,) * dims,
            "augment": Augment(),
            "decay_norms": True,
            "clip": None,
            "accumulate": 1,
            "ema": None,
            "normalize": "z-score",
            "patience": 10,
            "stop_on": "score",
            "overlap": 0.25,
            "primary": TASKS[task].primary,
            "target": None,
            "stops": True,
            "mixup": 0.0,
            "balance": False,
            "precision": "float32",
            "channels_last": False,
            "compiled": False,
            "keep_weights": False,
            "degrade": (),
            "loader": "torch",
            "threads": 1,
        }
        return changed(Trial(**fields), **changes), data, store.path.parent

    return make
