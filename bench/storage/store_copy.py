"""A store in object storage: copied to a machine's disk once, whatever the number of lanes.

A copy is found by the hash of the store's description, `store.json`, which has the checksum of each
of its files: another store at the same address is another copy. If copying is cut off, files with
the right checksum are kept.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from loaders.formats.checksum import file_hash
from loaders.store.layout import CHECKED, files_state, write_file

# While a store is copied, wait this long for a storage that is away before a trial fails.
# Assumption.
AWAY_SEC = 300.0
AT_ONCE = 4
DESCRIPTION = "store.json"
# A store made by others lists its files: none may be outside its folder.
_FILE = re.compile(r"(arrays/)?[0-9A-Za-z_]+\.(npy|parquet)")


def store_here(given: str | Path, patience: float = START_SEC) -> Path:
    """Return the folder of a store: itself, or for an address this machine's copy.

    The first caller makes the copy, others wait for it. A storage that is away is tried again for
    `patience` seconds. Raises StorageError if there is no store at the address, or if its files do
    not match its description; StorageAway; OSError if the disk is full: the same call resumes.
    """
    if not is_address(given):
        return Path(given)
    objects = opened(given)
    try:
        description = patiently(lambda: objects.read(DESCRIPTION), patience)
    except FileNotFoundError as error:
        raise StorageError(
            f"{objects.address} is not a store: there is no {DESCRIPTION}. Make one with "
            f"`medopt prepare KIND SOURCE --out {objects.address}`."
        ) from error
    with _place(description, objects.address) as folder:
        if not folder.exists():
            _copy(objects, description, folder)
    return folder


def made_here(given: str | Path) -> Path:
    """Return the folder in which this machine makes the store for an address."""
    address = address_of(given)
    place = hashlib.sha256(address.encode()).hexdigest()[:16]
    return cache_folder() / "made" / place / address.rpartition("/")[2]


def put_store(folder: Path, given: str | Path, told: Callable[[int, int], None]) -> None:
    """Upload a store that was made here, `store.json` last: without that it is not a store.

    Files that are there already are skipped; `told` is called with (files done, all files). The
    folder becomes this machine's copy of the store there. Raises StorageError if another store is
    there, and StorageAway.
    """
    objects, description = opened(given), (folder / DESCRIPTION).read_bytes()
    there = patiently(lambda: objects.listed(""), START_SEC)
    if DESCRIPTION in there and objects.read(DESCRIPTION) != description:
        raise StorageError(
            f"{objects.address} holds another store. Choose another address, or remove that one."
        )
    names = sorted(_files(description, objects.address))
    _each(partial(_put, objects, folder, there), names, len(names) + 1, told)
    _put(objects, folder, there, DESCRIPTION)
    told(len(names) + 1, len(names) + 1)
    with _place(description, objects.address) as copy:
        if not copy.exists():  # the same files under another name
            shutil.copytree(folder, copy, copy_function=os.link)


@contextmanager
def _place(description: bytes, address: str) -> Iterator[Path]:
    """Yield the folder of a copy to one process at a time."""
    key = hashlib.sha256(description).hexdigest()[:32]
    folder = cache_folder() / "stores" / key / address.rpartition("/")[2]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _put(objects: Objects, folder: Path, there: dict[str, Entry], name: str) -> None:
    if name not in there or not there[name].is_of(folder / name):
        with (folder / name).open("rb") as file:
            patiently(partial(objects.put, name, file), AWAY_SEC)


def _copy(objects: Objects, description: bytes, folder: Path) -> None:
    """Copy a store into a folder that does not exist yet; raises as `store_here`."""
    files = _files(description, objects.address)
    part = folder.with_name(f"{folder.name}.part")
    (part / "arrays").mkdir(parents=True, exist_ok=True)
    _each(partial(_fetch, objects, part, files), sorted(files), len(files), lambda *_: None)
    write_file(part / DESCRIPTION, description)
    # All files have just been checked: the first to open the store need not do it again.
    (part / CHECKED).write_text(files_state(part, files), encoding="ascii")
    part.rename(folder)


def _fetch(objects: Objects, part: Path, files: dict[str, str], name: str) -> None:
    path = part / name
    if path.is_file() and file_hash(path) == files[name]:
        return

    def get() -> None:
        with path.open("wb") as file:
            objects.get(name, file)

    try:
        patiently(get, AWAY_SEC)
    except FileNotFoundError as error:
        raise StorageError(f"{objects.address}: {name} is missing. Prepare it again.") from error
    if file_hash(path) != files[name]:
        raise StorageError(
            f"{objects.address}: {name} does not match {DESCRIPTION}. Restore the original file, "
            f"or prepare the store again, at another address."
        )


def _each(
    do: Callable[[str], None], names: list[str], total: int, told: Callable[[int, int], None]
) -> None:
    """Call `do` for each name, some at once, and report how many are done."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done, _ in enumerate(pool.map(do, names), start=1):
            told(done, total)


def _files(description: bytes, address: str) -> dict[str, str]:
    """Return name -> checksum of a store's files; raises StorageError if it is not a store."""
    try:
        files = dict(json.loads(description)["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{address}: {DESCRIPTION} is damaged.") from error
    if wrong := [name for name in files if not _FILE.fullmatch(name)]:
        raise StorageError(
            f"{address}: {DESCRIPTION} names {wrong[0]!r}, which is not a file of a store."
        )
    return files
