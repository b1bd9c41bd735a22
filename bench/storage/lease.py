"""One driver per run: the lease of the process that writes a run in object storage.

Its objects are `.driver/000001.json` and so on. A process that wants the run puts the next number,
on the condition that it does not exist (of two that try, one is refused), puts it again every
RENEW_SEC while it lives, and removes the ones before it. A lease may be taken over if it says that
its driver ended, or if it was not put again for SILENT_SEC by the storage's clock.
"""

import json
import os
import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from bench.core.references import StudyError
from bench.storage.objects import START_SEC, Entry, Objects, patiently

FOLDER = ".driver/"
RENEW_SEC = 30.0
# The same wait as for a driver on another machine (results.status.SILENT).
SILENT_SEC = 120.0

_NAME = re.compile(r"\.driver/(\d{6})\.json")


class LeaseLost(OSError):  # noqa: N818  # what happened, as the OSErrors of a disk
    """Another process has taken the run over: this one must write no more."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The lease of a run that this process drives.

    `token` identifies the driver; `goes_on`: nobody has driven the run since this machine did.
    """

    objects: Objects
    number: int
    token: str
    goes_on: bool

    def renew(self) -> None:
        """Put it again; raises LeaseLost if another process has taken over."""
        if _last(self.objects.listed(FOLDER)) > self.number:
            raise LeaseLost(
                f"{self.objects.address}: another driver has taken this run over, since this one "
                f"was silent for {SILENT_SEC:.0f} s. The run goes on there."
            )
        self._put(ended=False)

    def end(self) -> None:
        """Say that this driver ended, so that another need not wait."""
        self._put(ended=True)

    def _put(self, *, ended: bool) -> None:
        self.objects.put(_name(self.number), BytesIO(_content(self.token, ended=ended)))


def take(objects: Objects, mine: str | None) -> Lease:
    """Take the lease of a run; `mine` is the token in this machine's copy of it.

    Raises StudyError if another driver has it, and the storage's errors.
    """
    found = patiently(lambda: objects.listed(FOLDER), START_SEC)
    last = _last(found)
    before = _read(objects, last) if last else {}
    goes_on = last > 0 and mine is not None and before.get("token") == mine
    if last and not goes_on and not before.get("ended"):
        _check_silent(objects, found[_name(last)], before)
    token = str(mine) if goes_on else secrets.token_hex(8)
    lease = Lease(objects=objects, number=last + 1, token=token, goes_on=goes_on)
    content = _content(token, ended=False)
    # An existing one may be our own, put by a try whose answer was lost.
    ours = objects.create(_name(lease.number), content) or (
        _read(objects, lease.number) == json.loads(content)
    )
    now = objects.listed(FOLDER)
    if not ours or _last(now) > lease.number:
        if ours:
            objects.remove([_name(lease.number)])
        raise StudyError(
            f"{objects.address}: another process has just started to run it. Wait for it, or "
            f"choose another run folder."
        )
    objects.remove([name for name in now if name != _name(lease.number)])
    return lease


def _check_silent(objects: Objects, entry: Entry, before: dict[str, Any]) -> None:
    if entry.age < SILENT_SEC:
        raise StudyError(
            f"{objects.address}: process {before.get('process')} on {before.get('host')} runs it, "
            f"as of {max(entry.age, 0):.0f} s ago. Wait for it, or choose another run folder. If "
            f"it is gone, try again when it has been silent for {SILENT_SEC:.0f} s."
        )


def _read(objects: Objects, number: int) -> dict[str, Any]:
    """Return the content of a lease; {} if it is not a lease, or was taken over this moment."""
    try:
        content = json.loads(objects.read(_name(number)))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _content(token: str, *, ended: bool) -> bytes:
    who = {"host": socket.gethostname(), "process": os.getpid()}
    return json.dumps({"token": token, **who, "ended": ended}).encode()


def _name(number: int) -> str:
    return f"{FOLDER}{number:06d}.json"


def _last(names: Iterable[str]) -> int:
    return max((int(match[1]) for name in names if (match := _NAME.fullmatch(name))), default=0)
