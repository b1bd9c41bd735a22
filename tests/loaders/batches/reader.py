"""A process that reads a stream of batches, by itself or with others by a shelf.

`begun` starts one; it prints, as JSON, the SHA-256 of each batch and the CPU seconds of loading.
"""

import hashlib
import json
import random
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loaders.batches.shelf import Paths, Shelf
from loaders.batches.table import LOADERS
from loaders.batches.torch_loader import Batch
from loaders.sampling.foreground import Foreground
from loaders.sampling.normalization import normalization
from loaders.sampling.sampler import Recipe, Sampler
from loaders.store.read import Store, open_store

ROOT = Path(__file__).resolve().parents[3]
ANGLES = {2: (15.0,), 3: (15.0, 15.0, 15.0)}


def everything(store: Store, patch: tuple[int, ...], **changes: Any) -> Sampler:
    """Return a sampler of all cases with every augmentation on."""
    cases = np.arange(len(store))
    offset, unit = normalization(store.moments, store.meta.normalize, cases)
    recipe = {
        "patch": patch,
        "flip": (True,) * len(patch),
        "scale": 0.1,
        "shift": 0.1,
        "foreground": 0.5,
        "translate": 0.1,
        "rotate": ANGLES[len(patch)],
        "zoom": 0.1,
        "noise": 0.1,
        "contrast": 0.25,
        "gamma": 0.3,
    }
    given: dict[str, Any] = {
        "cases": cases,
        "shapes": store.shapes,
        "offset": offset,
        "unit": unit,
        "seed": 3,
        "spacing": store.spacing,
        "foreground": Foreground(
            mask=store.mask, boxes=store.boxes, regions=tuple(store.meta.regions.values())
        )
        if store.meta.masked
        else None,
    }
    names = {field.name for field in fields(Recipe)}
    of_recipe = {name: changes.pop(name) for name in list(changes) if name in names}
    return Sampler(recipe=Recipe(**{**recipe, **of_recipe}), **{**given, **changes})


def digest(batch: Batch) -> str:
    """Return a hash of a batch's bits."""
    whole = hashlib.sha256(batch.image.numpy().tobytes())
    whole.update(batch.target.numpy().tobytes())
    return whole.hexdigest()


def begun(
    store: Path, patch: tuple[int, ...], *, batches: int, batch_size: int, **rest: Any
) -> subprocess.Popen[str]:
    """Start a process that reads so many batches.

    `shelf` are the paths of a shelf or None, `pace` the greatest seconds that it works with a
    batch, `seed` decides how long it does with each. With `waits` it says `ready` in a line, and
    begins when it is sent one.
    """
    asked = {"store": str(store), "patch": patch, "batches": batches, "batch_size": batch_size}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.loaders.batches.reader", json.dumps({**asked, **rest})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def main(
    store: str,
    patch: list[int],
    batches: int,
    batch_size: int,
    shelf: Paths | None = None,
    pace: float = 0.0,
    seed: int = 0,
    waits: bool = False,
    chance: float = 0.2,
) -> dict[str, Any]:
    """Read the stream; a step of 1 ms at least, so that others have their turn."""
    opened, paces = open_store(Path(store)), random.Random(seed)
    digests, spent = [], 0.0  # CPU seconds of what is no loading
    stream = LOADERS["torch"].open(
        opened,
        everything(opened, tuple(patch), chance=chance),
        batch_size=batch_size,
        batches=batches,
        threads=1,
        device=torch.device("cpu"),
        shelf=None if shelf is None else Shelf(shelf),
    )
    if waits:
        print("ready", flush=True)
        sys.stdin.readline()
    begun = time.process_time()
    with stream as given:
        for batch in given:
            start = time.thread_time()
            digests.append(digest(batch))
            spent += time.thread_time() - start
            time.sleep(0.001 + pace * paces.random())
    return {"digests": digests, "cpu": time.process_time() - begun - spent}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
