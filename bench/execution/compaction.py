"""The small files of a run are merged by a process beside it, so that no trial waits for that.

In a thread of the driver it would take the interpreter from it, again and again, at each of the
many calls that writing a trial makes. What it leaves undone, since it broke or was ended, the next
one does. It ends with the driver, also where that is killed: the next driver of the run merges too.
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
        """Let the files be merged, unless they are this moment."""
        if self._process is not None and self._process.poll() is None:
            return
        self.wait()
        # -P: nothing of the working folder is taken for ours.
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter, without a shell
            [sys.executable, "-P", "-c", starting(__name__), str(self._folder)],
            stdin=subprocess.PIPE,  # closed by whatever ends this process
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait for what was begun; that it failed is logged, since the files stay as they were."""
        if self._process is None:
            return
        with self._process as process:
            assert process.stderr is not None
            said = process.stderr.read()  # to its end, while stdin stays open
        if process.returncode:
            log.warning("the files of trials could not be merged: %s", said.strip())
        self._process = None


def main() -> None:
    """Merge the files of the run that is named, and say in a line why that cannot be done."""
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    try:
        compact(Path(sys.argv[1]))
    except (OSError, RunError) as error:
        sys.exit(failure(error))


def _end_with_the_driver() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
