"""Merges the small files of a run in a child process, so that no trial waits for it.

A thread of the driver would take the interpreter from it at each of the many calls that write a
trial. What one process leaves undone (it failed or was ended), the next one does. It ends with the
driver, even if that is killed; the next driver of the run merges too.
"""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from bench.core.processes import starting
from bench.core.references import failure
from results.tables.store import RunError, compact

log = logging.getLogger("medopt.run")


class Compaction:
    """Merges the files of one run, one process at a time."""

    def __init__(self, folder: Path) -> None:
        """Start none yet."""
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Begin to merge the files, unless that is already under way."""
        if self._process is not None and self._process.poll() is None:
            return
        self.wait()
        # -P: nothing in the working folder shadows our modules.
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter, without a shell
            [sys.executable, "-P", "-c", starting(__name__), str(self._folder)],
            stdin=subprocess.PIPE,  # closed whenever this process ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait for the merging, if any; a failure is only logged, since files stay as they were."""
        if self._process is None:
            return
        with self._process as process:
            assert process.stderr is not None
            said = process.stderr.read()  # to its end, while stdin stays open
        if process.returncode:
            log.warning("the files of trials could not be merged: %s", said.strip())
        self._process = None


def main() -> None:
    """Merge the files of the run named in the arguments; on failure, exit with one line."""
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    try:
        compact(Path(sys.argv[1]))
    except (OSError, RunError) as error:
        sys.exit(failure(error))


def _end_with_the_driver() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
