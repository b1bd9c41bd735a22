"""Drives a run in object storage from here: its files are on this disk and uploaded meanwhile.

The driver writes its files as usual; a thread beside it uploads them, so that no trial waits for
that, and a storage that is away for a while costs no more than its absence. The order makes trials
whole: the rows of a trial in `trials/` come after its other files, and the run's progress comes
after both. What the driver removes is removed there, after all that was written before.

If this machine was the run's last driver, its copy goes on as it is and uploads what the storage
lacks; otherwise the copy is made anew from there.
"""

import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.core.references import StudyError
from bench.storage.lease import RENEW_SEC, Lease, LeaseLost, take
from bench.storage.objects import (
    START_SEC,
    Entry,
    Objects,
    StorageAway,
    StorageError,
    opened,
    patiently,
)
from bench.storage.run_copy import (
    AT_ONCE,
    State,
    files_of,
    is_safe,
    is_trial,
    local_copy,
    lock_of,
    pull,
    state_of,
)
from results import text
from results.status import FILE as STATUS
from results.tables.schema import TABLES

log = logging.getLogger("medopt.storage")

# How often to look for files to upload; less and less often while the storage is away. Assumption.
LOOK_SEC = 1.0
_LONGEST_LOOK_SEC = 30.0
# Files that change all the time -> seconds between two uploads, since each upload costs.
PACE_SEC: Mapping[str, float] = {STATUS: 10.0, "log.txt": 60.0}
# How long a run waits for a storage that is away: if it ended, and if it was stopped. Assumption.
CLOSE_SEC = 900.0
STOPPED_SEC = 15.0


@dataclass(frozen=True, kw_only=True)
class Driven:
    """A run at an address that this process drives, and its folder here.

    `check` raises LeaseLost if another process has taken the run over.
    """

    address: str
    folder: Path
    check: Callable[[], None]


@contextmanager
def driven(given: str | Path) -> Iterator[Driven]:
    """Drive the run at an address: its files here are uploaded until the block ends.

    The end waits until the storage has everything, at most CLOSE_SEC if it is away. Raises
    StudyError if another process runs it; StorageError, StorageAway; LeaseLost, and OSError if not
    everything could be uploaded: the same call on this machine uploads the rest.
    """
    objects, folder = opened(given), local_copy(given, "driving")
    folder.mkdir(parents=True, exist_ok=True)
    with lock_of(folder).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StudyError(
                f"{objects.address}: another process on this machine is running it. Wait for it, "
                f"or choose another run folder."
            ) from error
        token = folder.with_name(".token")
        lease = take(objects, token.read_text() if token.exists() else None)
        if not lease.goes_on:
            token.unlink(missing_ok=True)
            shutil.rmtree(folder)
            folder.mkdir()
            patiently(partial(pull, objects, folder, _is_of_drivers), START_SEC)
            # Only now: an incomplete copy must not count as this machine's own.
            token.write_text(lease.token)
        keeper = _Keeper(objects, folder, lease)
        keeper.know(patiently(lambda: objects.listed(""), START_SEC))
        keeper.thread.start()
        try:
            yield Driven(address=objects.address, folder=folder, check=keeper.check)
        except BaseException:
            try:
                keeper.close(STOPPED_SEC)
            except OSError as error:  # the error that ended the run is the one to report
                log.warning("%s", error)
            raise
        keeper.close(CLOSE_SEC)


@dataclass
class _Keeper:
    """Uploads the files of a folder to the storage, in its own thread."""

    objects: Objects
    folder: Path
    lease: Lease
    thread: threading.Thread = field(init=False)
    _known: dict[str, State | None] = field(init=False, default_factory=dict)
    _put_at: dict[str, float] = field(init=False, default_factory=dict)
    _renewed: float = field(init=False, default_factory=time.monotonic)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    _lost: LeaseLost | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._keep, name="storage", daemon=True)

    def know(self, found: Mapping[str, Entry]) -> None:
        """Note what the storage has already; what no longer exists here will be removed there."""
        for name, entry in found.items():
            path = self.folder / name
            if is_safe(name) and entry.is_of(path):
                self._known[name] = state_of(path)
            elif _is_removed_by_drivers(name) and not path.exists():
                self._known[name] = None

    def check(self) -> None:
        """Raise LeaseLost if another process has taken the run over."""
        if self._lost is not None:
            raise self._lost

    def close(self, seconds: float) -> None:
        """Upload what is left and end the lease; raises OSError if that cannot be done in time."""
        self._stop.set()
        self.thread.join()
        self.check()
        try:
            patiently(self._put_all, seconds)
        except (StorageAway, StorageError) as error:
            new, gone = self._left(everything=True)
            raise OSError(
                f"{text.count(len(new) + len(gone), 'file')} of the run did not reach "
                f"{self.objects.address}: {error}. What is missing there is kept in "
                f"{self.folder}: the same command on this machine uploads it."
            ) from error

    def _put_all(self) -> None:
        self.lease.renew()
        while any(self._left(everything=True)):
            self._put(everything=True)
        self.lease.end()

    def _keep(self) -> None:
        look, away = LOOK_SEC, False
        while not self._stop.wait(look):
            try:
                if time.monotonic() - self._renewed > RENEW_SEC:
                    self.lease.renew()
                    self._renewed = time.monotonic()
                self._put(everything=False)
            except LeaseLost as error:
                self._lost = error
                log.error("%s", error)  # noqa: TRY400  # a sentence, no fault of this program
                return
            except (StorageAway, StorageError) as error:
                # Wait also for what a person can mend, such as expired credentials.
                if not away:
                    log.warning("the run goes on; its files wait in %s: %s", self.folder, error)
                look, away = min(2 * look, _LONGEST_LOOK_SEC), True
            else:
                if away:
                    log.info("%s answers again", self.objects.address)
                look, away = LOOK_SEC, False

    def _put(self, *, everything: bool) -> None:
        new, gone = self._left(everything=everything)
        stages: dict[int, list[str]] = {}
        for name in new:
            stages.setdefault(_stage(name), []).append(name)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _, names in sorted(stages.items()):
                if not all(list(pool.map(self._put_one, names))):
                    return  # a compaction has moved rows meanwhile: its files must come first
        for name in gone:
            self.objects.remove([name])
            del self._known[name]

    def _put_one(self, name: str) -> bool:
        """Put one file; return whether it was still there."""
        try:
            with (self.folder / name).open("rb") as file:
                found = os.fstat(file.fileno())
                self.objects.put(name, file)
        except FileNotFoundError:
            return False
        self._known[name] = found.st_size, found.st_mtime_ns
        self._put_at[name] = time.monotonic()
        return True

    def _left(self, *, everything: bool) -> tuple[list[str], list[str]]:
        """Return the files to upload, and those to remove there."""
        here, now = files_of(self.folder), time.monotonic()
        new = [
            name
            for name, state in here.items()
            if self._known.get(name) != state
            and (everything or now - self._put_at.get(name, -1e9) >= PACE_SEC.get(name, 0.0))
        ]
        return new, [name for name in self._known if name not in here]


def _stage(name: str) -> int:
    """Return a file's place in the order: a file that says others are whole comes after them."""
    return 2 if name == STATUS else int(is_trial(name))


def _is_of_drivers(name: str) -> bool:
    return name.split("/", maxsplit=1)[0] != "weights"


def _is_removed_by_drivers(name: str) -> bool:
    """Return whether drivers remove files of this kind."""
    return any(part in (*TABLES, "checkpoints") for part in name.split("/")[:-1])
