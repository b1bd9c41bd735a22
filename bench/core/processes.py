"""Processes: those that share a trial, and one that is started beside this one."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any, TypeVar

from bench.core.packages import ROOT

Message = TypeVar("Message")

# A pipe of a process that dies is closed a moment before the process is over.
_MOMENT_SEC = 0.5


@dataclass(frozen=True, kw_only=True)
class World:
    """How many processes share a trial, and which of them this one is."""

    rank: int = 0
    size: int = 1

    @property
    def shard(self) -> tuple[int, int]:
        """Return (rank, size), as loaders take it."""
        return self.rank, self.size


def starting(module: str) -> str:
    """Return what a process beside this one runs: `main()` of a module of ours."""
    return f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import main; main()"


class Beside:
    """A process beside this one, which runs what may end its process; and our end of its pipe."""

    def __init__(
        self,
        code: str,
        cargo: Mapping[str, Any],
        output: int,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start it with `cargo`, in a session of its own: what it does to its group spares ours.

        `output` is the file descriptor that its stdout and stderr go to; `environment` is set for
        it beside our own.
        """
        self._pipe, theirs = Pipe()
        self._cut = False
        with theirs:
            # -P: nothing of the working folder is taken for ours.
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter, without a shell
                [sys.executable, "-P", "-c", code, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        try:
            self._pipe.send_bytes(pickle.dumps({"path": sys.path, **cargo}))
        except OSError:
            self._cut = True  # it died at once: `ended` and `end` tell

    @property
    def number(self) -> int:
        """Its process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor of our end of its pipe, for `multiprocessing.connection.wait`."""
        return self._pipe.fileno()

    def heard(self, seconds: float, made: Callable[..., Message]) -> list[Message]:
        """Return what it said, none if it says nothing for so long or has ended.

        `made` makes a message of the values of one.
        """
        found: list[Message] = []
        until = monotonic() + seconds
        try:
            while not self._cut and self._pipe.poll(0 if found else max(until - monotonic(), 0)):
                found.append(made(*self._pipe.recv()))
        except (EOFError, OSError, pickle.UnpicklingError, TypeError, ValueError):
            # Closed, or written to by others than our own code: there is no more talking to it.
            self._cut = True
        return found

    def say(self, value: Any) -> None:
        """Answer what it asked."""
        try:
            self._pipe.send(value)
        except OSError:
            self._cut = True

    def ended(self) -> bool:
        """Return whether it has ended, or cannot be talked to; it is not waited for yet."""
        return self._cut or self._process.returncode is not None or self._over()

    def _over(self) -> bool:
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, look) is not None

    def warn(self) -> None:
        """Let it know, by SIGTERM, that it will be ended."""
        if not self.ended():
            self._process.terminate()

    def end(self) -> str:
        """End it with every process that it started in its group; return how it had ended."""
        if self._process.returncode is None:
            if self._cut and not self._over():
                sleep(_MOMENT_SEC)
            # It is not reaped yet, so its number cannot be another's.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._pipe.close()
        return _how(self._process.returncode)


def begun_beside() -> tuple[Connection, dict[str, Any]]:
    """Return the pipe and the cargo of the process that `Beside` started: this one.

    Its number is the first argument.
    """
    pipe = Connection(int(sys.argv[1]))
    cargo: dict[str, Any] = pickle.loads(pipe.recv_bytes())  # noqa: S301  # of the process that started this one
    sys.path[:] = cargo.pop("path")
    return pipe, cargo


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name
    return f"{name}, as where memory runs out" if name == "SIGKILL" else name
