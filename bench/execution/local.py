"""The runner without Ray: one trial after the other, in one process beside this one.

This process keeps the queue, the lock and the files; the trials of a study, with whatever code of
the user's own they run, train in a child (bench.execution.child). A trial that ends its process,
or hangs, costs that process: the next one goes on where it was.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from bench.core.packages import ROOT
from bench.execution.dispatcher import STARTS, Dispatcher, LanesLost, Place
from bench.execution.mailbox import Call
from bench.execution.trial_queue import HUNG_MINUTES, Progress, Queue
from bench.execution.worker import cargo_of
from bench.planning.plan import Plan

LANE = "process"
# How often one looks whether the child lives, and the display is told.
LOOK_SEC = 0.5

_CHILD = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.execution.child import main; main()"
)


class Child:
    """The process that trains, and our end of the pipe to it."""

    def __init__(self, cargo: bytes, log: Path) -> None:
        """Start it in a session of its own: what it does to its group is not done to ours."""
        self._pipe, theirs = Pipe()
        self._cut = False
        with theirs, log.open("ab") as output:
            # -P: nothing of the working folder is taken for ours.
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter, without a shell
                [sys.executable, "-P", "-c", _CHILD, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._pipe.send_bytes(cargo)
        except OSError:
            self._cut = True  # it died at once: `ended` and `how` tell

    def heard(self, seconds: float) -> list[Call]:
        """Return what it asked and told, none if it says nothing for so long or has ended."""
        found: list[Call] = []
        until = monotonic() + seconds
        try:
            while not self._cut and self._pipe.poll(0 if found else max(until - monotonic(), 0)):
                number, name, values = self._pipe.recv()
                found.append(Call(number, LANE, name, values))
        except (EOFError, OSError, pickle.UnpicklingError, TypeError, ValueError):
            # Closed, or written to by others than our link: there is no more talking to it.
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

    def end(self) -> str:
        """End it with every process that it started in its group; return how it had ended.

        That is a clause whose subject is the trial that it had in hand.
        """
        if self._process.returncode is None:
            if self._cut and not self._over():
                # A pipe of a process that dies is closed a moment before the process is over.
                sleep(LOOK_SEC)
            # It is not reaped yet, so its number cannot be another's.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._pipe.close()
        return _how(self._process.returncode)


def _how(code: int) -> str:
    if code >= 0:
        return f"it ended its process (exit status {code})"
    name = signal.Signals(-code).name
    memory = ", as where memory runs out" if name == "SIGKILL" else ""
    return f"it ended its process ({name}{memory})"


def run_here(
    plan: Plan,
    queue: Queue,
    changed: Callable[[Progress], None],
    *,
    hung_minutes: float = HUNG_MINUTES,
) -> None:
    """Run every trial of the queue, one at a time; `changed` hears of each step.

    A trial that breaks is written down as failed and the run goes on; so is one that ends its
    process KILLS times, or makes no step for `hung_minutes` as often. Raises OSError where results
    cannot be written, LanesLost where no process can be started that takes a trial, and
    KeyboardInterrupt; what is finished is on disk in each case.
    """
    queue.died_before(LANE)
    changed(queue.progress())
    if not queue.pending():
        return
    cargo = pickle.dumps(
        {
            "path": sys.path,
            "folder": str(queue.folder.absolute()),
            "device": plan.study.device,
            **cargo_of(plan),
        }
    )
    log = queue.folder / "log.txt"
    child, since = Child(cargo, log), monotonic()
    starts = 1

    def say(_number: int, value: Any) -> None:
        nonlocal starts
        if value is not None:
            starts = 0
            queue.attempts.begin(value)
        child.say(value)

    def kill(_places: Sequence[Place]) -> None:
        child.end()

    dispatcher = Dispatcher(
        queue, say, answers=lambda _places: True, kill=kill, hung_minutes=hung_minutes
    )
    try:
        while queue.pending():
            # Whether it has ended is looked up first: what it said before is heard all the same.
            if starts and monotonic() - since > hung_minutes * 60:
                child.end()  # it hangs before it takes a trial
            over = child.ended()
            dispatcher.serve(child.heard(LOOK_SEC))
            if over:
                how = child.end()
                queue.attempts.end()
                dispatcher.died(LANE, how)
                if LANE in dispatcher.ended or starts == STARTS:
                    raise LanesLost(_unfinished(queue, dispatcher, how, log))
                starts += 1
                child, since = Child(cargo, log), monotonic()
            changed(queue.progress())
    finally:
        child.end()
        queue.attempts.end()


def _unfinished(queue: Queue, dispatcher: Dispatcher, how: str, log: Path) -> str:
    why = dispatcher.ended.get(LANE)
    if why is None:
        why = f"the process that trains ended {STARTS} times before it took a trial"
        why += f" {how.removeprefix('it ended its process ')}; see {log}"
    return f"{queue.pending()} trial(s) are unfinished: {why}"
