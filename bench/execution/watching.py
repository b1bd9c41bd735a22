"""Writes a run's progress to `status.json` every few seconds, for those who watch it. No Ray."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench.core.references import failure
from bench.execution.trial_queue import Progress
from results.status import InHand, State, write_state

log = logging.getLogger("medopt.run")

# A driver hears from its lanes at least once a second; a file of some KB this often costs nothing.
EVERY_SEC = 2.0

Changed = Callable[[Progress], None]


@contextmanager
def watched(folder: Path, study: str, changed: Changed) -> Iterator[Changed]:
    """Yield a function to call with a run's progress: it calls `changed` and writes the file.

    At the end of the block, how it ended is written. A file that cannot be written is logged once
    and does not end the run: if the disk is full, writing results will fail.
    """
    watch = _Watch(folder, study)

    def told(now: Progress) -> None:
        watch.heard(now)
        changed(now)

    try:
        yield told
    except KeyboardInterrupt:
        watch.over("it was stopped; the same command resumes from there")
        raise
    except BaseException as error:
        watch.over(failure(error))
        raise
    watch.over("done")


class _Watch:
    def __init__(self, folder: Path, study: str) -> None:
        self._folder, self._study = folder, study
        self._process_started = psutil.Process().create_time()
        self._written = float("-inf")
        self._last: Progress | None = None
        self._failed = False

    def heard(self, progress: Progress) -> None:
        self._last = progress
        if time.monotonic() - self._written >= EVERY_SEC:
            self._write(progress, None)

    def over(self, ended: str) -> None:
        """Write how the run ended, with no trial running; write nothing if it had not begun."""
        if self._last is not None:
            self._write(replace(self._last, running=(), seconds_left=None), ended)

    def _write(self, progress: Progress, ended: str | None) -> None:
        self._written = time.monotonic()
        state = State(
            study=self._study,
            host=socket.gethostname(),
            process=os.getpid(),
            process_started=self._process_started,
            written_at=datetime.now(UTC),
            ended=ended,
            total=progress.total,
            done=progress.done,
            reused=progress.reused,
            statuses=progress.statuses,
            seconds=progress.seconds,
            seconds_left=progress.seconds_left,
            running=tuple(
                InHand(
                    lane=one.lane,
                    host=one.host,
                    trial_id=one.trial_id,
                    label=one.label,
                    epoch=one.epoch,
                    epochs=one.epochs,
                    metric=one.metric,
                    score=one.score,
                    seconds=one.seconds,
                    silent_seconds=one.silent,
                )
                for one in progress.running
            ),
        )
        try:
            write_state(self._folder, state)
        except OSError as error:
            if not self._failed:
                log.warning("the run's progress cannot be written: %s", failure(error))
            self._failed = True
