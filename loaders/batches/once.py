"""Each batch is made once: by whoever of a machine's processes wants it first.

All combinations of a fold and seed see the same samples, order and draws, so that trials side by
side want the same batches. One that is on the shelf is copied from there; one that is not is made
and put there. While another process makes the batch that is wanted, this one makes the next that
nobody does. There is no process that makes batches for the others: none to wait for, none to die.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Callable
from statistics import median
from time import sleep, thread_time

import numpy as np

from loaders.batches.request import Request
from loaders.batches.shelf import Arrays, Found, Key, Layout, Shelf, ShelfError, bytes_of

log = logging.getLogger("medopt.loaders")

# After so many batches it is decided whether they are worth sharing, and where making one takes
# less than this share of the step, they are not. Assumption.
SURE, CHEAP = 16, 0.02
# How far ahead of what is wanted one makes batches while another makes that. Assumption.
AHEAD = 8
# A batch is waited for as long as making so many takes, and not for less than this. Assumption: the
# rest of a maker's time is other trials', since cores are shared.
PATIENCE, PATIENCE_SEC = 4, 0.5
# After how long one looks first whether it is there. Assumption.
LOOK_SEC = 1e-3


class Once:
    """The batches of a request, from a shelf or made by `make(batch)`, in numpy.

    The same numbers whoever made them; where the shelf cannot be used, and where sharing is not
    worth it, `make` gives all (`on` says which). `taken` counts the batches that lay there.
    `made` those that were made here, for whom it may be. Called by the threads of a loader.
    """

    def __init__(self, shelf: Shelf, request: Request, make: Callable[[int], Arrays]) -> None:
        self._shelf, self._request, self._make = shelf, request, make
        self._layout = layout_of(request)
        self._about = about(request)
        self._ahead = min(AHEAD, shelf.bytes // (2 * max(bytes_of(self._layout), 1)))
        self.on = self._ahead > 0
        self.taken = self.made = 0
        # Seconds: to make a batch, to copy one there or back, of a step.
        self._making: deque[float] = deque(maxlen=SURE)
        self._copying: deque[float] = deque(maxlen=SURE)
        self._steps: list[float] = []

    def __call__(self, batch: int) -> Arrays:
        """Return a batch; raises what `make` raises."""
        if self.on:
            try:
                return self._found(batch)
            except ShelfError as error:
                log.warning("a trial shares no more batches: the shelf cannot be used: %s", error)
                self.on = False
        self.made += 1
        return self._make(batch)

    def close(self) -> None:
        """Write into the log how many batches others had made: what times of loading mean."""
        log.info("%d batches were made by others, %d here", self.taken, self.made)

    def stepped(self, seconds: float) -> None:
        """Note how long the work with a batch took; decides, once, whether to go on sharing."""
        if not self.on or len(self._steps) == SURE:
            return
        self._steps.append(seconds)
        if len(self._steps) == SURE:
            self.on = self._worth()

    def _worth(self) -> bool:
        return median(self._making) > max(median(self._copying), CHEAP * median(self._steps))

    def _found(self, batch: int) -> Arrays:
        key, pause = self._key(batch), LOOK_SEC
        while True:
            begun = thread_time()
            found = self._shelf.take(key, self._layout)
            if found is not None:
                return self._noted(found, thread_time() - begun)
            if self._shelf.claim(key, self._patience()):
                return self._made(batch, key)
            # Each look costs CPU seconds that the maker may need: the longer, the rarer.
            if pause > LOOK_SEC or not self._meanwhile(batch):
                sleep(pause)
                pause = min(2 * pause, PATIENCE_SEC / 10)

    def _noted(self, found: Found, copying: float) -> Arrays:
        self.taken += 1
        self._making.append(found.seconds)
        self._copying.append(copying)
        return found.arrays

    def _made(self, batch: int, key: Key) -> Arrays:
        self.made += 1
        begun = thread_time()
        arrays = self._make(batch)
        seconds = thread_time() - begun
        self._making.append(seconds)
        begun = thread_time()
        self._shelf.put(key, arrays, seconds)
        self._copying.append(thread_time() - begun)
        return arrays

    def _meanwhile(self, batch: int) -> bool:
        """Make the next batch that nobody makes; return whether there was one."""
        for following in range(batch + 1, min(batch + 1 + self._ahead, self._request.batches)):
            key = self._key(following)
            if self._shelf.claim(key, self._patience()):
                self._made(following, key)
                return True
        return False

    def _patience(self) -> float:
        longest = max(list(self._making), default=0.0)
        return max(PATIENCE * longest, PATIENCE_SEC)

    def _key(self, batch: int) -> Key:
        """Return the name of a batch: of what decides it, and of its places in the stream."""
        said = self._about + self._request.positions(batch).tobytes()
        digest = hashlib.blake2b(said, digest_size=16).digest()
        return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def about(request: Request) -> bytes:
    """Return a hash of all that decides the batches of a request but their positions."""
    store = request.store
    digest = hashlib.sha256(store.content_hash.encode())
    digest.update(request.sampler.digest())
    digest.update(repr((store.meta.fill, str(store.image_type), layout_of(request))).encode())
    if not store.meta.masked:
        digest.update(np.ascontiguousarray(store.answers).tobytes())
    return digest.digest()


def layout_of(request: Request) -> Layout:
    """Return the shapes and types of a batch's image and target in numpy."""
    store, patch = request.store, request.sampler.recipe.patch
    n = len(request.positions(0))
    image = (n, len(store.meta.channels), *patch), np.dtype(np.float32)
    if store.meta.masked:
        return image, ((n, *patch), np.dtype(np.uint8))
    return image, ((n, *store.answers.shape[1:]), store.answers.dtype)
