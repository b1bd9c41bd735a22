"""Stores whose every byte is decided here, by integers alone: what the golden values stand on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.store.write import write_store
from tests.metas import made_meta

# name -> (task, dims, cases, side)
STORES = {
    "images": ("classification", 2, 24, 16),
    "volumes": ("segmentation", 3, 18, 16),
    "clips": ("classification", 3, 24, 16),
}


def meta_of(name: str) -> Meta:
    """Return what is said of one of STORES."""
    task, dims, _, _ = STORES[name]
    segments = task == "segmentation"
    return made_meta(
        kind="golden",
        name=name,
        task=task,
        dims=dims,
        channels=("a", "b"),
        classes=("background", "rim", "core") if segments else ("dark", "bright"),
        regions={"whole": (1, 2), "core": (2,)} if segments else {},
        positive=None if segments else 1,
        unit={"images": "image", "volumes": "volume", "clips": "clip"}[name],
        group_source="patient",
        axes="tyx" if name == "clips" else "",
    )


def cases(meta: Meta) -> Iterator[Case]:
    """Give the cases of a store, two a patient: noise on a bright ball, with a brighter core."""
    _, dims, count, side = STORES[meta.name]
    rng = np.random.default_rng(0)
    for n in range(count):
        centre = rng.integers(side // 2 - 2, side // 2 + 2, dims)
        grid = np.indices((side,) * dims)
        apart = ((grid - centre.reshape(-1, *[1] * dims)) ** 2).sum(0)
        mask = (apart < (side // 3) ** 2).astype(np.uint8) + (apart < (side // 5) ** 2)
        bright = n % 4 < 2 or meta.task == "segmentation"
        noise = rng.integers(0, 60, (2, *grid.shape[1:]))
        image = (noise + 40 * bright * np.stack([mask, mask == 2])).astype(np.uint8)
        yield Case(
            key=f"case{n}",
            group=f"patient{n // 2}",
            image=image,
            label=None if meta.task == "segmentation" else int(bright),
            mask=mask.astype(np.uint8) if meta.task == "segmentation" else None,
            spacing=(1.0,) * dims,
            # For studies by official parts: each has both classes.
            split=None if meta.task == "segmentation" else ("train", "val", "test")[n // 8],
        )


def _read(_item: Item, meta: Meta) -> Iterator[Case]:
    return cases(meta)


def _never_surveyed(*_: object) -> Survey:
    raise AssertionError("made here, not surveyed")


KIND = Kind(
    name="golden",
    summary="made by a test",
    source="none",
    survey=_never_surveyed,
    read=_read,
    options={},
)


def make_store(name: str, folder: Path) -> Path:
    """Write one of STORES below `folder`, unless it is there; return its path."""
    out = folder / name
    if not out.exists():
        item = Item(key="all", paths=(), extra={})
        survey = Survey(meta=meta_of(name), items=(item,), rejected=())
        write_store(KIND, survey, out, key=b"golden", workers=1, strict=True)
    return out
