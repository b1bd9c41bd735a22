"""A store in object storage: copied to a machine's disk once, whatever the number of lanes.

A copy is found by the hash of the store's description, `store.json`, which names the checksum of
each of its files: another store at the same address is another copy. What was copied of one that
was cut off is kept, each file that has its checksum.
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

# A storage that is away for so long while a store is copied costs that, and no trial. Assumption.
AWAY_SEC = 300.0
AT_ONCE = 4
DESCRIPTION = "store.json"
# A store that others made says which files it has: none that lies elsewhere.
_FILE = re.compile(r"(arrays/)?[0-9A-Za-z_]+\.(npy|parquet)")


def store_here(given: str | Path, patience: float = START_SEC) -> Path:
    """Return the folder of a store: itself, or this machine's copy of the one at an address.

    The first to ask makes the copy, others wait for it. A storage that is away is asked again for
    `patience` seconds. Raises StorageError where no store is at the address, or one whose files are
    not as it says; StorageAway; OSError where the disk is full: asking again goes on from there.
    """
    if not is_address(given):
        return Path(given)
    objects = opened(given)
    try:
        description = patiently(lambda: objects.read(DESCRIPTION), patience)
    except FileNotFoundError as error:
        raise StorageError(
            f"{objects.address} is no store: there is no {DESCRIPTION}. Make one with "
            f"`medopt prepare KIND SOURCE --out {objects.address}`."
        ) from error
    with _place(description, objects.address) as folder:
        if not folder.exists():
            _copy(objects, description, folder)
    return folder


def made_here(given: str | Path) -> Path:
    """Return the folder where this machine makes the store for an address."""
    address = address_of(given)
    place = hashlib.sha256(address.encode()).hexdigest()[:16]
    return cache_folder() / "made" / place / address.rpartition("/")[2]


def put_store(folder: Path, given: str | Path, told: Callable[[int, int], None]) -> None:
    """Put a store that was made here to an address, `store.json` last: before that it is none.

    Files that are there already are not put again; `told` hears of files done, and of all. It
    becomes this machine's copy of the store there. Raises StorageError where another store is
    there, StorageAway.
    """
    objects, description = opened(given), (folder / DESCRIPTION).read_bytes()
    there = patiently(lambda: objects.listed(""), START_SEC)
    if DESCRIPTION in there and objects.read(DESCRIPTION) != description:
        raise StorageError(
            f"{objects.address} holds another store. Name another place, or remove that one."
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
    """Give the folder of a copy to one process at a time."""
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
    """Copy a store into a folder that is not there yet; raises as `store_here`."""
    files = _files(description, objects.address)
    part = folder.with_name(f"{folder.name}.part")
    (part / "arrays").mkdir(parents=True, exist_ok=True)
    _each(partial(_fetch, objects, part, files), sorted(files), len(files), lambda *_: None)
    write_file(part / DESCRIPTION, description)
    # All has just been read: the first who opens it need not read it whole again.
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
            f"{objects.address}: {name} is not as {DESCRIPTION} says. Put the file back as it was, "
            f"or prepare the store again, at another place."
        )


def _each(
    do: Callable[[str], None], names: list[str], total: int, told: Callable[[int, int], None]
) -> None:
    """Do it for each name, some at once, and tell how many are done."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done, _ in enumerate(pool.map(do, names), start=1):
            told(done, total)


def _files(description: bytes, address: str) -> dict[str, str]:
    """Return the files of a store by name -> checksum; raises StorageError where it is none."""
    try:
        files = dict(json.loads(description)["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{address}: {DESCRIPTION} is damaged.") from error
    if wrong := [name for name in files if not _FILE.fullmatch(name)]:
        raise StorageError(f"{address}: {DESCRIPTION} names {wrong[0]!r}, which is no file of it.")
    return files
