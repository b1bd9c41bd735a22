"""The processes beside a test, forked from one that has imported what they need.

A process that trains imports for seconds before its first step, and the tests start dozens. The one
that they are forked from is started once, trains nothing and has no threads; each is a child of the
tests' own process, in a session of its own, as if it had been started anew.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
# What takes seconds to import, of those that train or try what a study names.
MODULES = (
    "bench.execution.worker",
    "bench.planning.rehearsal",
    "bench.planning.speed.process",
    "monai.losses",
    "monai.transforms",
    "pandas",
    "pyarrow.dataset",
    "pytorch_optimizer",
    "torch._dynamo",
)
CODE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.forks import serve; serve()"
MOST_BYTES = 1 << 20
# Linux' prctl(2): whether orphans among one's descendants become one's own children.
PR_SET_CHILD_SUBREAPER = 36


def able() -> bool:
    """Return whether processes are forked here: CUDA goes on in no copy of a process that asked."""
    return sys.platform == "linux" and not torch.cuda.is_available()


def stand_in() -> SimpleNamespace:
    """Return what stands in for `subprocess` in `bench.core.processes`."""
    return SimpleNamespace(Popen=Forked if able() else subprocess.Popen, DEVNULL=subprocess.DEVNULL)


class Server:
    """The process that others are forked from, started when the first is asked for."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def fork(self, code: str, files: Sequence[int], environment: dict[str, str]) -> int:
        """Return the number of a process that runs `code`; `files` are its pipe and its output."""
        if self._process is None:
            self._start()
        asked = {"code": code, "folder": os.getcwd(), "environment": environment}  # noqa: PTH109  # as text
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self._ours, [json.dumps(asked).encode()], files)
            number = self._ours.recv(MOST_BYTES)
        except ConnectionError:
            number = b""
        finally:
            prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)  # orphans of others are none of ours
        if not number:
            self._words.seek(0)
            raise RuntimeError(f"what tests fork from has ended: {self._words.read().decode()}")
        return int(number)

    def _start(self) -> None:
        # Not to where a test listens.
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  # it is written to until the tests end
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", CODE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                start_new_session=True,
                # Pools of threads are made when a library is loaded: the copies would be without.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def children(self) -> list[psutil.Process]:
        """Return the children of the tests' process but for this one."""
        mine = self._process.pid if self._process else None
        return [child for child in psutil.Process().children() if child.pid != mine]


SERVER = Server()


class Forked:
    """As much of a `subprocess.Popen` as `bench.core.processes.Beside` asks for."""

    def __init__(
        self, command: Sequence[str], *, stdout: int, env: dict[str, str], **_options: Any
    ) -> None:
        *_, code, pipe = command
        self.returncode: int | None = None
        self.pid = SERVER.fork(code, [int(pipe), stdout], env)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def serve() -> None:
    """Fork a process for each message, until the tests' own process has ended."""
    asked = socket.socket(fileno=int(sys.argv[1]))
    for module in MODULES:
        import_module(module)
    while True:
        message, files, _flags, _sender = socket.recv_fds(asked, MOST_BYTES, 2)
        if not message:
            return
        numbers, told = os.pipe()
        # One between, which ends at once: an orphan goes to the tests' process.
        between = os.fork()
        if not between:
            number = os.fork()
            if not number:
                for mine in (asked.detach(), numbers, told):
                    os.close(mine)
                _be(files, **json.loads(message))
            os.write(told, str(number).encode())
            os._exit(0)
        os.waitpid(between, 0)
        asked.send(os.read(numbers, 20))
        for mine in (*files, numbers, told):
            os.close(mine)


def _be(files: Sequence[int], *, code: str, folder: str, environment: dict[str, str]) -> NoReturn:
    """Be the process that was asked for."""
    os.setsid()
    pipe, output = files
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", str(pipe)]
    status = 1
    try:
        exec(code, {"__name__": "__main__"})
        status = 0
    except SystemExit as ended:  # as Python itself does
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        else:
            status = ended.code or 0
    except BaseException:  # noqa: BLE001  # as Python itself ends: the trace, and status 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
