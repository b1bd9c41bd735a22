"""What the project needs from any object storage, and the addresses of objects.

An address is `s3://bucket/path` or `gs://bucket/path`, and names a run or a store: the objects
whose names begin with `path/`. There is no rename: an object exists whole or not at all, since
storages show an upload only when it is complete.
"""

import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, TypeVar

from bench.core.references import StudyError

# Scheme -> the module whose `opened(bucket, path)` gives the objects there.
SCHEMES: Mapping[str, str] = {"s3": "bench.storage.s3", "gs": "bench.storage.gs"}

# A Path made from an address has one slash in place of two.
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(?!/)([^/]*)/*(.*?)/*")
# Bucket names that every storage allows; anything else there (a key, a port) is not a bucket.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]")
# How long to wait for the first answer, and between two tries. Assumption.
START_SEC = 15.0
_PAUSES_SEC = (0.5, 10.0)

_Result = TypeVar("_Result")


class StorageAway(OSError):  # noqa: N818  # what happened, as the OSErrors of a disk
    """A storage does not answer, or is unavailable: the same call may work a minute later."""


class StorageError(StudyError):
    """A storage refuses, and trying again does not help: the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A listed object: its size in bytes, MD5 (if the storage tells it), and age in seconds.

    The age is by the storage's clock alone.
    """

    size: int
    tag: str
    age: float

    def is_of(self, path: Path) -> bool:
        """Return whether a file exists and has the object's content."""
        try:
            with path.open("rb") as file:
                return (
                    os.fstat(file.fileno()).st_size == self.size
                    and hashlib.file_digest(file, "md5").hexdigest() == self.tag
                )
        except FileNotFoundError:
            return False


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of an address, by their names below it.

    `put` writes one from an open file, whole or not at all; `create` writes one from bytes if none
    of that name exists, and returns whether it did. `get` reads one into an open file and raises
    FileNotFoundError. `listed` returns those whose names begin with a text; `remove` removes those
    of some names that exist.

    Each raises StorageAway or StorageError, and may be called from several threads at once.
    """

    address: str
    put: Callable[[str, BinaryIO], None]
    create: Callable[[str, bytes], bool]
    get: Callable[[str, BinaryIO], None]
    listed: Callable[[str], dict[str, Entry]]
    remove: Callable[[Collection[str]], None]

    def read(self, name: str) -> bytes:
        """Return an object's content; raises FileNotFoundError, and the errors above."""
        content = io.BytesIO()
        self.get(name, content)
        return content.getvalue()


def is_address(given: str | Path) -> bool:
    """Return whether a text, or a Path made of it, is an address of object storage."""
    return _ADDRESS.fullmatch(str(given)) is not None


def address_of(given: str | Path) -> str:
    """Return an address in its usual form, with two slashes; raises StorageError."""
    return "{}://{}/{}".format(*_parts(given))


def opened(given: str | Path) -> Objects:
    """Return the objects of an address; raises StorageError if it is not one."""
    scheme, bucket, path = _parts(given)
    objects: Objects = import_module(SCHEMES[scheme]).opened(bucket, path)
    return objects


def patiently(call: Callable[[], _Result], seconds: float) -> _Result:
    """Return the result of a call; while the storage is away, try again for `seconds`."""
    until = time.monotonic() + seconds
    pause, longest = _PAUSES_SEC
    while True:
        try:
            return call()
        except StorageAway:
            if time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _parts(given: str | Path) -> tuple[str, str, str]:
    found = _ADDRESS.fullmatch(str(given))
    if found is None:
        raise StorageError(f"{given} is not an address; the schemes are {', '.join(SCHEMES)}.")
    scheme, bucket, path = found.groups()
    if not _BUCKET.fullmatch(bucket) or not path:
        raise StorageError(
            f"{scheme}://{bucket}/{path}: an address is {scheme}://BUCKET/PATH, with the name of a "
            f"bucket and a path in it; keys and hosts belong in the environment, never here."
        )
    return scheme, bucket, path
