"""Reads a run in object storage through an up-to-date copy on this machine's disk."""

import fcntl
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.storage.objects import (
    START_SEC,
    Entry,
    Objects,
    StorageError,
    address_of,
    is_address,
    opened,
    patiently,
)
from loaders.datasets.medmnist.downloads import cache_folder
from results.status import is_free

# Requests at once. Assumption.
AT_ONCE = 8

# Folders that a reader of a run does not need, and files that readers write.
_OF_THE_DRIVER = ("checkpoints", "weights")
_OF_READERS = ("report.html", "verdict.json")
_TRIALS = "trials"
# A listing may lag behind a compaction; the next one does not. Assumption: as results.tables.store.
_LOOKS = 5

# Size and date of a file.
State = tuple[int, int]


def readable(given: str | Path, *, begun: bool = True) -> Path:
    """Return a folder in which a run can be read: itself, or for an address an up-to-date copy.

    If this machine drives the run at the address, it is the folder that it drives. With `begun`,
    raises StorageError if nothing is at the address; raises StorageError and StorageAway anyway if
    the storage refuses or does not answer.
    """
    if not is_address(given):
        return Path(given)
    driving = local_copy(given, "driving")
    if not is_free(lock_of(driving)):
        return driving
    objects, folder = opened(given), local_copy(given, "reading")
    folder.mkdir(parents=True, exist_ok=True)
    with lock_of(folder).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = patiently(partial(pull, objects, folder, _is_of_readers), START_SEC)
    if begun and not found:
        raise StorageError(f"{objects.address} holds no run: it is empty.")
    return folder


def put_report(given: str | Path, folder: Path) -> str | Path:
    """Upload the report of a run at an address; return the place of its page."""
    if not is_address(given):
        return folder / _OF_READERS[0]
    objects = opened(given)
    for name in _OF_READERS:
        with (folder / name).open("rb") as file:
            patiently(partial(objects.put, name, file), START_SEC)
    return f"{objects.address}/{_OF_READERS[0]}"


def local_copy(given: str | Path, use: str) -> Path:
    """Return the folder of this machine's copy of a run; `use` is its purpose."""
    address = address_of(given)
    place = hashlib.sha256(address.encode()).hexdigest()[:16]
    return cache_folder() / "runs" / place / use / address.rpartition("/")[2]


def lock_of(folder: Path) -> Path:
    """Return the file that is locked while a copy is driven or made."""
    return folder.with_name(".lock")


def pull(objects: Objects, folder: Path, wanted: Callable[[str], bool]) -> dict[str, Entry]:
    """Make a folder equal to the wanted objects of the storage; return these."""
    for look in range(_LOOKS):
        # `trials/` first, as in results.tables.store: a trial listed there has its other files.
        trials = {n: e for n, e in objects.listed("").items() if is_trial(n)}
        found = {n: e for n, e in objects.listed("").items() if not is_trial(n)} | trials
        found = {n: e for n, e in found.items() if is_safe(n) and wanted(n)}
        missing = [name for name, entry in found.items() if not entry.is_of(folder / name)]
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(partial(_fetch, objects, folder), missing))
        except FileNotFoundError:  # a compaction came between
            if look == _LOOKS - 1:
                raise
        else:
            break
    for name in files_of(folder):
        if name not in found and wanted(name):
            (folder / name).unlink(missing_ok=True)
    return found


def _fetch(objects: Objects, folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as file:
        objects.get(name, file)
    draft.replace(path)


def files_of(folder: Path) -> dict[str, State]:
    """Return the files of a run in a folder by name, reading `trials/` first.

    A trial listed in `trials/` has its other files already. While a directory is read, a merged
    file may appear behind the reader and its parts vanish ahead of it: two equal readings rule that
    out.
    """
    found: dict[str, State] = {}
    places = []
    for path, below, _ in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        places.append(Path(path))
    for place in sorted(places, key=lambda path: path.name != _TRIALS):
        names, before = _names(place), None
        while names != before:
            names, before = _names(place), names
        for name in names:
            try:
                found[(place / name).relative_to(folder).as_posix()] = state_of(place / name)
            except FileNotFoundError:
                continue  # removed since it was seen
    return found


def state_of(path: Path) -> State:
    """Return a state that changes when the file does; raises FileNotFoundError."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def is_safe(name: str) -> bool:
    """Return whether a name stays inside the folder and names a file of a run."""
    return all(part and not part.startswith(".") for part in name.split("/"))


def is_trial(name: str) -> bool:
    """Return whether an object says that trials are finished."""
    return _TRIALS in name.split("/")[:-1]


def _names(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_file())


def _is_of_readers(name: str) -> bool:
    return name.split("/", maxsplit=1)[0] not in _OF_THE_DRIVER
