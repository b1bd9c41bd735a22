"""Each batch is made once, by the first of a machine's processes that needs it.

All combinations of a fold and seed see the same samples, order and draws, so trials side by side
need the same batches. A batch on the shelf is copied from there; any other is made and put there.
While another process makes the batch that is needed, this one makes the next that nobody is making.
No process makes batches only for others, so none must be waited for and none can die.
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

# After this many batches it is decided whether sharing is worthwhile; it is not if making a batch
# takes less than this share of the step (assumptions).
SURE, CHEAP = 16, 0.02
# How far ahead batches are made while another process makes the one needed (assumption).
AHEAD = 8
# A batch is waited for as long as making this many takes, and at least this long (assumptions): the
# rest of its maker's time belongs to other trials, since cores are shared.
PATIENCE, PATIENCE_SEC = 4, 0.5
# The delay before the first look whether it is there (assumption).
LOOK_SEC = 1e-3


class Once:
    """The batches of a request, from a shelf or made by `make(batch)`, in numpy.

    The numbers are the same whoever made them. If the shelf cannot be used, or sharing is not
    worthwhile, `make` makes all batches (then `on` is False). `taken` counts the batches found on
    the shelf, `made` those made here for any process. A loader's threads call it.
    """

    def __init__(self, shelf: Shelf, request: Request, make: Callable[[int], Arrays]) -> None:
        self._shelf, self._request, self._make = shelf, request, make
        self._layout = layout_of(request)
        self._about = about(request)
        self._ahead = min(AHEAD, shelf.bytes // (2 * max(bytes_of(self._layout), 1)))
        self.on = self._ahead > 0
        self.taken = self.made = 0
        # Seconds: to make a batch, to copy one to or from the shelf, of a step.
        self._making: deque[float] = deque(maxlen=SURE)
        self._copying: deque[float] = deque(maxlen=SURE)
        self._steps: list[float] = []

    def __call__(self, batch: int) -> Arrays:
        """Return a batch; raises what `make` raises."""
        if self.on:
            try:
                return self._found(batch)
            except ShelfError as error:
                log.warning("a trial stops sharing batches: the shelf cannot be used: %s", error)
                self.on = False
        self.made += 1
        return self._make(batch)

    def close(self) -> None:
        """Log how many batches others made, which is needed to interpret loading times."""
        log.info("%d batches were made by others, %d here", self.taken, self.made)

    def stepped(self, seconds: float) -> None:
        """Record how long the work with a batch took; decides once whether to continue sharing."""
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
            # Each look costs CPU time that the maker may need: looks become rarer.
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
        """Make the next batch that nobody is making; return whether there was one."""
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
        """Return the key of a batch, made from what decides it and its positions in the stream."""
        said = self._about + self._request.positions(batch).tobytes()
        digest = hashlib.blake2b(said, digest_size=16).digest()
        return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def about(request: Request) -> bytes:
    """Return a hash of everything that decides the batches of a request except their positions."""
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
