"""What the project asks of an object storage, whichever it is, and where one is: an address.

An address is `s3://bucket/path` or `gs://bucket/path`, and names a run or a store: the objects
whose names begin with `path/`. There is no rename: an object is there whole or not at all, since
storages show what one request put only when all of it has come.
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

# A Path made of an address has one slash where two were.
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(?!/)([^/]*)/*(.*?)/*")
# As every storage has them; what else stands there (a key, a port) is no bucket.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]")
# How long what is asked for first may take to answer, and between two tries. Assumption.
START_SEC = 15.0
_PAUSES_SEC = (0.5, 10.0)

_Result = TypeVar("_Result")


class StorageAway(OSError):  # noqa: N818  # what happened, as the OSErrors of a disk
    """A storage does not answer, or says that it cannot now: the same may work a minute later."""


class StorageError(StudyError):
    """A storage refuses: the sentence says what to do, and until then nothing changes that."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a listing says of an object: bytes, MD5 where the storage tells it, seconds since put.

    The age is by the storage's clock alone.
    """

    size: int
    tag: str
    age: float

    def is_of(self, path: Path) -> bool:
        """Return whether a file is there and has the object's content."""
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

    `put` writes one from an open file, whole or not at all; `create` does from bytes, where none
    of that name is there yet, and returns whether. `get` reads one into an open file and raises
    FileNotFoundError. `listed` gives those whose names begin with a text, `remove` removes
    what is there of some.

    Each raises StorageAway or StorageError, and may be called from several threads at once.
    """

    address: str
    put: Callable[[str, BinaryIO], None]
    create: Callable[[str, bytes], bool]
    get: Callable[[str, BinaryIO], None]
    listed: Callable[[str], dict[str, Entry]]
    remove: Callable[[Collection[str]], None]

    def read(self, name: str) -> bytes:
        """Return an object's content; raises FileNotFoundError, and as the others."""
        content = io.BytesIO()
        self.get(name, content)
        return content.getvalue()


def is_address(given: str | Path) -> bool:
    """Return whether a text, or a Path made of it, is an address of object storage."""
    return _ADDRESS.fullmatch(str(given)) is not None


def address_of(given: str | Path) -> str:
    """Return an address as people write it, with two slashes; raises StorageError."""
    return "{}://{}/{}".format(*_parts(given))


def opened(given: str | Path) -> Objects:
    """Return the objects of an address; raises StorageError where it is none."""
    scheme, bucket, path = _parts(given)
    objects: Objects = import_module(SCHEMES[scheme]).opened(bucket, path)
    return objects


def patiently(call: Callable[[], _Result], seconds: float) -> _Result:
    """Return what a call gives; while the storage is away, ask again for so many seconds."""
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
        raise StorageError(f"{given} is no address; the schemes are {', '.join(SCHEMES)}.")
    scheme, bucket, path = found.groups()
    if not _BUCKET.fullmatch(bucket) or not path:
        raise StorageError(
            f"{scheme}://{bucket}/{path}: an address is {scheme}://BUCKET/PATH, with the name of a "
            f"bucket and a path in it; keys and hosts stand in the environment, never here."
        )
    return scheme, bucket, path
