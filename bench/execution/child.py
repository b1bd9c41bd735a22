"""The child process of a run without Ray: trains its trials, so that they cannot end the run.

bench.execution.local starts it with one end of a pipe. It receives its cargo, talks as a lane does,
and ends when the other end is closed.
"""

import itertools
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from bench.core.processes import World, begun_beside
from bench.execution.attempts import Attempts
from bench.execution.worker import Worker, take_trials


class Link:
    """The child's end of the pipe: `ask` waits for an answer, `tell` does not."""

    def __init__(self, pipe: Connection, left_alone: Callable[[], None]) -> None:
        """Take the pipe; `left_alone` is called before this process ends with the run."""
        self._pipe, self._left_alone = pipe, left_alone
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, call: str, *values: Any) -> Any:
        """Send a call and wait for its answer; one thread asks at a time."""
        self._send(next(self._numbers), call, values)
        return self._answers.get()

    def tell(self, call: str, *values: Any) -> None:
        """Send a call that needs no answer."""
        self._send(None, call, values)

    def _send(self, number: int | None, call: str, values: tuple[Any, ...]) -> None:
        if os.getpid() != _OWN:
            os._exit(0)  # a fork made by the user's code must not go on with the run
        with self._lock:
            try:
                self._pipe.send((number, call, values))
            except OSError:
                os._exit(1)  # the pipe is closed, by the run or by what a trial did

    def _listen(self) -> None:
        while True:
            try:
                self._answers.put(self._pipe.recv())
            except (EOFError, OSError):
                # The run was killed, or no longer needs this process: not the trial's fault.
                self._left_alone()
                os._exit(1)


# This process, not a fork made by the user's code.
_OWN = os.getpid()


# Set when the run, or its job's scheduler, warns that this process is about to be ended.
_WARNING = threading.Event()


def _not_for_us(number: int, _frame: object) -> None:
    """Ignore a signal sent to the whole job: the run decides, and closes the pipe."""
    if os.getpid() != _OWN:
        os._exit(128 + number)
    if number == signal.SIGTERM:
        _WARNING.set()


def _warned() -> bool:
    """Return whether there was a warning since the last call."""
    warned = _WARNING.is_set()
    _WARNING.clear()
    return warned


def main() -> None:
    """Train what the other end of the pipe hands out."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _not_for_us)
    pipe, cargo = begun_beside()
    # stderr is the run's log: for our messages, and for what the user's code prints.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("medopt").setLevel(logging.INFO)
    attempts = Attempts(Path(cargo.pop("folder")))
    link = Link(pipe, partial(attempts.end, cargo.pop("lane")))
    device = torch.device(cargo.pop("device"))
    take_trials(
        Worker(
            world=World(),
            place=("", os.getpid()),
            ask=link.ask,
            tell=link.tell,
            broadcast=lambda value: value,
            barrier=lambda: None,
            device=lambda: device,
            stopping=_warned,
        ),
        **cargo,
    )
    # Not Python's normal exit, which waits for threads and children of the user's code.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
