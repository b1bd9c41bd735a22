"""One driver a run: the lease of the process that writes a run in object storage.

Its objects are `.driver/000001.json` and so on. Whoever wants the run puts the one after the last,
on the condition that there is none (of two that try one is refused), and puts it again every
RENEW_SEC while it lives; what it replaces it removes. A lease that says that its driver ended, or
that was not put again for SILENT_SEC by the storage's clock, may be followed.
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
# As long as others wait for a driver on another machine (results.status.SILENT).
SILENT_SEC = 120.0

_NAME = re.compile(r"\.driver/(\d{6})\.json")


class LeaseLost(OSError):  # noqa: N818  # what happened, as the OSErrors of a disk
    """Another process has taken the run over: this one must write no more."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The lease of a run that this process drives.

    `token` says who; `goes_on` that nobody has driven the run since this machine did.
    """

    objects: Objects
    number: int
    token: str
    goes_on: bool

    def renew(self) -> None:
        """Put it again; raises LeaseLost where another process has followed it."""
        if _last(self.objects.listed(FOLDER)) > self.number:
            raise LeaseLost(
                f"{self.objects.address}: another driver has taken this run over, since nothing "
                f"was heard of this one for {SILENT_SEC:.0f} s. It goes on there."
            )
        self._put(ended=False)

    def end(self) -> None:
        """Say that this driver ended, so that another need not wait."""
        self._put(ended=True)

    def _put(self, *, ended: bool) -> None:
        self.objects.put(_name(self.number), BytesIO(_content(self.token, ended=ended)))


def take(objects: Objects, mine: str | None) -> Lease:
    """Take the lease of a run; `mine` is the token that this machine's copy of it was left with.

    Raises StudyError where another driver has it, and as the storage does.
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
    # One that is there may be our own, put by a try whose answer was lost.
    ours = objects.create(_name(lease.number), content) or (
        _read(objects, lease.number) == json.loads(content)
    )
    now = objects.listed(FOLDER)
    if not ours or _last(now) > lease.number:
        if ours:
            objects.remove([_name(lease.number)])
        raise StudyError(
            f"{objects.address}: another process has just begun to run it. Wait for it, or choose "
            f"another run folder."
        )
    objects.remove([name for name in now if name != _name(lease.number)])
    return lease


def _check_silent(objects: Objects, entry: Entry, before: dict[str, Any]) -> None:
    if entry.age < SILENT_SEC:
        raise StudyError(
            f"{objects.address}: process {before.get('process')} on {before.get('host')} runs it; "
            f"it said so {max(entry.age, 0):.0f} s ago. Wait for it, or choose another run folder. "
            f"If it is gone, ask again when it has been silent for {SILENT_SEC:.0f} s."
        )


def _read(objects: Objects, number: int) -> dict[str, Any]:
    """Return what a lease says; nothing where it is no lease, or was followed this moment."""
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
