"""One trial in its own thread, which waits after each epoch until told to go on. No Ray."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from bench.training.state import Checkpoint, TrainingState
from bench.training.train import Outcome


class _Stopped(BaseException):
    """Ends a trial from inside, past whatever the user's code catches."""


class Course:
    """A trial, epoch by epoch: `next` trains one more and returns its row, or finally the outcome.

    `train(checkpoint)` is the trial; it calls `checkpoint` after each epoch.
    """

    def __init__(self, train: Callable[[Checkpoint], Outcome]) -> None:
        """Start it."""
        self._said: SimpleQueue[dict[str, Any] | Outcome | BaseException] = SimpleQueue()
        self._go: SimpleQueue[bool] = SimpleQueue()
        self._waits = False
        self._thread = threading.Thread(target=self._run, args=(train,), daemon=True)
        self._thread.start()

    def next(self) -> dict[str, Any] | Outcome:
        """Return the row of the next epoch, or the outcome; raises what the trial raises."""
        if self._waits:
            self._go.put(True)
        said = self._said.get()
        self._waits = isinstance(said, dict)
        if isinstance(said, BaseException):
            raise said
        return said

    def stop(self) -> None:
        """End it after its current epoch, and wait for that."""
        self._go.put(False)
        self._thread.join()

    def _run(self, train: Callable[[Checkpoint], Outcome]) -> None:
        try:
            self._said.put(train(self._after_epoch))
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  # raised where it is awaited, by `next`
            self._said.put(error)

    def _after_epoch(self, state: TrainingState) -> None:
        self._said.put(dict(state.epochs[-1]))
        if not self._go.get():
            raise _Stopped
