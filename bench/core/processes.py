"""Processes: those that share a trial, and a child process beside this one."""

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

# The pipe of a dying process closes a moment before the process has ended.
_MOMENT_SEC = 0.5


@dataclass(frozen=True, kw_only=True)
class World:
    """The number of processes that share a trial, and the rank of this one."""

    rank: int = 0
    size: int = 1

    @property
    def shard(self) -> tuple[int, int]:
        """Return (rank, size), as loaders take it."""
        return self.rank, self.size


def starting(module: str) -> str:
    """Return the code that a child process runs: `main()` of a module of ours."""
    return f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import main; main()"


class Beside:
    """A child process, for code that may end its process, with our end of its pipe."""

    def __init__(
        self,
        code: str,
        cargo: Mapping[str, Any],
        output: int,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start it with `cargo`, in its own session: a signal to its group does not reach ours.

        `output` is the file descriptor that its stdout and stderr go to; `environment` is set for
        it beside our own.
        """
        self._pipe, theirs = Pipe()
        self._cut = False
        with theirs:
            # -P: nothing in the working folder shadows our modules.
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
            self._cut = True  # it died at once, as `ended` and `end` will report

    @property
    def number(self) -> int:
        """Its process id."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor of our end of its pipe, for `multiprocessing.connection.wait`."""
        return self._pipe.fileno()

    def heard(self, seconds: float, made: Callable[..., Message]) -> list[Message]:
        """Return its messages; none if it stays silent for `seconds` or has ended.

        `made` turns the values of a message into what is returned.
        """
        found: list[Message] = []
        until = monotonic() + seconds
        try:
            while not self._cut and self._pipe.poll(0 if found else max(until - monotonic(), 0)):
                found.append(made(*self._pipe.recv()))
        except (EOFError, OSError, pickle.UnpicklingError, TypeError, ValueError):
            # Closed, or written to by code other than ours: it can no longer be talked to.
            self._cut = True
        return found

    def say(self, value: Any) -> None:
        """Answer its question."""
        try:
            self._pipe.send(value)
        except OSError:
            self._cut = True

    def ended(self) -> bool:
        """Return whether it has ended or cannot be talked to, without waiting for it."""
        return self._cut or self._process.returncode is not None or self._over()

    def _over(self) -> bool:
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, look) is not None

    def warn(self) -> None:
        """Warn it by SIGTERM that it will be ended."""
        if not self.ended():
            self._process.terminate()

    def end(self) -> str:
        """Kill it with all processes of its group; return how it had ended."""
        if self._process.returncode is None:
            if self._cut and not self._over():
                sleep(_MOMENT_SEC)
            # It is not reaped yet, so no other process can have its number.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._pipe.close()
        return _how(self._process.returncode)


def begun_beside() -> tuple[Connection, dict[str, Any]]:
    """Return the pipe and the cargo of this process, which `Beside` started.

    The pipe's file descriptor is the first argument.
    """
    pipe = Connection(int(sys.argv[1]))
    cargo: dict[str, Any] = pickle.loads(pipe.recv_bytes())  # noqa: S301  # of the process that started this one
    sys.path[:] = cargo.pop("path")
    return pipe, cargo


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name
    return f"{name}, as when memory runs out" if name == "SIGKILL" else name
