"""How the command is stopped from outside: Ctrl-C, SIGTERM and a closed terminal act the same.

Before work has begun there is nothing to close, so the command ends at once. While it works, the
first signal raises KeyboardInterrupt, which closes what is open (Ray, training processes, the
display). A second one ends the command at once: the files on disk are whole at any time. Imports
only the standard library, because the command starts with it.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

#: The status that shells give a command ended by Ctrl-C.
INTERRUPTED = 130
_GOES_ON = "stopped; what was finished is on disk, and the same command resumes from there."
_BEGINS_ANEW = "stopped; the same command starts again from the beginning."
_WROTE_NOTHING = "stopped; nothing was written."
#: The last words of each command when it is stopped.
LAST_WORDS = {
    "demo": _GOES_ON,
    "prepare": _GOES_ON,
    "run": _GOES_ON,
    "tune": _GOES_ON,
    "show": _BEGINS_ANEW,
    "report": _BEGINS_ANEW,
    "export": _BEGINS_ANEW,
    "price": _BEGINS_ANEW,
    "plan": _WROTE_NOTHING,
    "verify": _WROTE_NOTHING,
    "status": _WROTE_NOTHING,
    "compare": _WROTE_NOTHING,
    "recipe": _WROTE_NOTHING,
    "claims": _WROTE_NOTHING,
    "list": _WROTE_NOTHING,
    "doctor": _WROTE_NOTHING,
}

# SIGHUP is a terminal that was closed; Windows has none.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def last_words(line: Sequence[str]) -> str:
    """Return the last words of a command line when it is stopped, by its first word.

    `medopt prepare` without --out, or with --dry-run, makes no store.
    """
    command = next((word for word in line if not word.startswith("-")), "")
    has_out = any(word.partition("=")[0] == "--out" for word in line)
    if command == "prepare" and (not has_out or "--dry-run" in line):
        return _WROTE_NOTHING
    return LAST_WORDS.get(command, _WROTE_NOTHING)


class Stopping:
    """Whether this command was asked to stop, and what it does when it is."""

    def __init__(self) -> None:
        self.asked = False
        self._threads_left = False
        self._at_once = True
        self._process = os.getpid()

    def listen(self, *, at_once: bool) -> None:
        """Handle the signals from now on, except those that the caller's shell ignores (nohup)."""
        self._at_once = at_once
        self._process = os.getpid()
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._hear)

    def deafen(self) -> None:
        """Ignore the signals: only Python's exit is left, which would drop our handlers."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def leave_threads(self) -> None:
        """Note that threads wait inside a library, which must not be torn down around them."""
        self._threads_left = True

    def end(self, status: int) -> NoReturn:
        """End this command, by Python's normal exit if no thread would be hurt by it."""
        if self._threads_left:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        sys.exit(status)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork of this process prints nothing
            os._exit(128 + number)
        if self._at_once or self.asked:
            # Not print: the signal may have come in the middle of one.
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
            os.write(2, f"{show_cursor}{last_words(sys.argv[1:])}\n".encode())
            os._exit(INTERRUPTED)
        self.asked = True
        raise KeyboardInterrupt


#: The one of this process.
STOPPING = Stopping()
