"""Batches by numpy and torch only: just the patch is read, and it is flipped while it is copied.

DALI (loaders/batches/dali_loader.py) gives the same batches bit for bit on a CPU.
"""

import math
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from time import perf_counter
from types import EllipsisType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from loaders.batches.request import Request, fill_of
from loaders.batches.upload import ready_for, sent
from loaders.cores import usable_cores
from loaders.sampling.affine import affine_maps, warp
from loaders.sampling.intensity import alter
from loaders.sampling.sampler import Draws
from loaders.store.read import Store

_Index: TypeAlias = "tuple[slice | EllipsisType, ...]"
# Batches made at once per thread, so that no thread waits long for another; and the most bytes of
# them, since data that leave a core's cache are slower to use (measured).
_AHEAD = 8
_AHEAD_BYTES = 1 << 25
_FLIPS = {False: slice(None), True: slice(None, None, -1)}


class Batch(NamedTuple):
    """Samples on the device, which the caller may keep.

    `image` (B, C, *patch) float32. `target`: the class (B,) int64, the numbers (B, n) float32
    of a set of several findings, nan where one is missing, or the label map (B, *patch) uint8 of a
    segmentation set, 0 outside the image. `derived` (B, ...): values derived from the targets
    (loaders.batches.ahead), else None.
    """

    image: torch.Tensor
    target: torch.Tensor
    derived: torch.Tensor | None = None


def gather(store: Store, draws: Draws) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return the samples of `draws`: image and target as in Batch, in numpy.

    Reads only the patches from the memory maps. Raises ValueError if the store's image type cannot
    hold its fill, StoreError if an array cannot be read.
    """
    n, channels, patch = len(draws), draws.offset.shape[1], draws.patch
    columns = (..., *[None] * len(patch))
    offset, gain = draws.offset[columns], draws.gain[columns]
    warped = draws.warped.tolist()
    maps = affine_maps(draws) if any(warped) else ()
    fill = np.float32(fill_of(store))
    image = np.empty((n, channels, *patch), dtype=np.float32)
    mask = np.zeros((n, *patch), dtype=np.uint8) if store.meta.masked else None
    # The part of each patch that is inside its image.
    low = np.maximum(draws.origin, 0)
    high = np.maximum(np.minimum(draws.origin + patch, store.shapes[draws.case]), low)
    whole = (high - low == patch).all(axis=1)
    rows = zip(
        draws.case.tolist(),
        draws.origin.tolist(),
        low.tolist(),
        high.tolist(),
        draws.flip.tolist(),
        whole.tolist(),
        strict=True,
    )
    for row, (case, origin, start, stop, flip, inside) in enumerate(rows):
        if warped[row]:
            answer = None if mask is None else np.asarray(store.mask(case))
            pixels, labels = warp(
                np.asarray(store.image(case)), answer, maps[row], patch, float(fill)
            )
            np.subtract(pixels, offset[row] - fill, out=image[row])
            if mask is not None and labels is not None:
                mask[row] = labels
            continue
        source: _Index = (..., *(slice(a, b) for a, b in zip(start, stop, strict=True)))
        mirror: _Index = (..., *(_FLIPS[turned] for turned in flip))
        place: _Index = (...,)
        if not inside:
            image[row] = fill - offset[row]
            place = (
                ...,
                *(slice(a - o, b - o) for a, b, o in zip(start, stop, origin, strict=True)),
            )
        # As plain arrays: slices of a memory map are slow to make.
        pixels = np.asarray(store.image(case))
        np.subtract(pixels[source], offset[row], out=image[row][mirror][place])
        if mask is not None:
            mask[row][mirror][place] = np.asarray(store.mask(case))[source]
    image *= gain
    alter(image, draws, lambda values: values)
    return image, store.answers[draws.case] if mask is None else mask


def torch_batches(request: Request) -> Generator[Batch]:
    """Yield the batches of a request.

    If steps run on a GPU or leave cores free, batches are prepared during steps, at most threads +
    1 ahead. If a step uses every core, several are prepared at once when they have run out, between
    steps: in a step each core waits for the slowest, so an additional thread delays them all. 13 ms
    of loading, in CPU time, added 20 ms to each step on two cores, but add 8 ms between steps
    (measured). An error in a batch is raised at that batch. With a shelf, a batch is made by one of
    the processes that share it.
    """
    store, threads, device = request.store, request.threads, request.device
    patch = request.sampler.recipe.patch
    size = 4 * len(request.positions(0)) * len(store.meta.channels) * math.prod(patch)
    beside = device.type != "cpu" or threads < usable_cores()
    most = max(threads, _AHEAD_BYTES // size)
    at_once = min(most, _AHEAD * threads)

    def gathered(batch: int) -> list[NDArray[Any]]:
        return [*gather(store, request.draw(batch))]

    once = None
    if request.shelf is not None:
        from loaders.batches.once import Once  # only Unix has its locks

        once = Once(request.shelf, request, gathered)
    made = once or gathered

    def prepare(batch: int) -> Batch:
        image, target = made(batch)
        return Batch(ready_for(device, image), ready_for(device, target))

    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    tasks = (pool.submit(prepare, batch) for batch in range(request.batches))
    ahead: deque[Future[Batch]] = deque()
    try:
        for batch in range(request.batches):
            if beside:
                ahead.extend(islice(tasks, threads + 1 - len(ahead)))
            elif threads > 1 and not ahead:
                ahead.extend(islice(tasks, at_once))
                wait(ahead)
            # The caller would wait for a single thread, so it does the work itself.
            image, target, _ = ahead.popleft().result() if ahead else prepare(batch)
            given = perf_counter()
            yield Batch(sent(image, device), sent(target, device))
            if once is not None:
                once.stepped(perf_counter() - given)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if once is not None:
            once.close()
