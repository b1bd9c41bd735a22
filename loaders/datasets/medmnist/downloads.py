"""Downloads published files into a cache, where a file is complete or absent.

A file grows under a temporary name and is renamed once its checksum is right. An interrupted
download, even one of an earlier run, continues where it stopped if the server allows it (HTTP
Range, RFC 9110 section 14).
"""

import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from loaders.cases import BadSource

CACHE_VARIABLE = "MEDOPT_CACHE"
_BLOCK_BYTES = 2**18
# A server that is silent for this long will not answer (assumption).
_TIMEOUT_SEC = 30.0
# Pauses before each retry, in seconds (assumption).
_PAUSES = (1.0, 3.0, 6.0)
_PARTIAL, _RANGE_REFUSED = 206, 416

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A published file: its path below `base`, and its MD5 (which archives publish).

    MD5 detects damage in transit; https protects against manipulation.
    """

    base: str
    path: str
    md5: str
    page: str

    @property
    def url(self) -> str:
        """The address of the file."""
        return f"{self.base.rstrip('/')}/{self.path}"

    @property
    def name(self) -> str:
        """The name of the file in the cache: the last part of its path."""
        return self.path.rpartition("/")[2].partition("?")[0]


class _Cut(Exception):  # noqa: N818  # a state of an attempt, caught in this file
    """The connection ended early, or the server is busy: worth another attempt."""


def cache_folder() -> Path:
    """Return the folder of fetched files: MEDOPT_CACHE, else in the platform's cache folder."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "medoptbench"
    # XDG base directory specification: relative paths are ignored.
    known = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (known if known.is_absolute() else Path.home() / ".cache") / "medoptbench"


def fetch(
    remote: Remote,
    folder: Path,
    *,
    progress: Progress | None = None,
    schemes: Sequence[str] = ("https",),
    pauses: Sequence[float] = _PAUSES,
) -> Path:
    """Return a file in a cache folder, downloaded if needed; `progress` gets bytes done and total.

    If two processes ask for it, one downloads and the other waits. Raises BadSource, which suggests
    an alternative, if there is no network, no such file, or a file other than the published one;
    OSError if the disk is full, in which case the bytes that arrived are kept.
    """
    target = folder / remote.name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(f"{target.name}.lock")):
        if target.is_file():
            if _md5(target) == remote.md5:
                return target
            raise BadSource(
                f"{target} is not the published file (its MD5 is not {remote.md5}): remove it"
            )
        part = target.with_name(f"{target.name}.part")
        for again in (True, False):
            # A remainder of an earlier day may be of another file: then start over once.
            resumed = part.exists()
            _download(remote, part, target, progress, schemes, pauses)
            if _md5(part) == remote.md5:
                break
            part.unlink()
            if not (again and resumed):
                raise BadSource(
                    f"{remote.url} is not the published file (its MD5 is not {remote.md5}); "
                    f"the download was deleted. {_instead(remote, target)}"
                )
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(target)
        return target


def _download(
    remote: Remote,
    part: Path,
    target: Path,
    progress: Progress | None,
    schemes: Sequence[str],
    pauses: Sequence[float],
) -> None:
    """Fill `part` up to the server's last byte, in several attempts; raises BadSource, OSError."""
    opener = _opener(schemes)
    for pause in (*pauses, None):
        try:
            _check_scheme(remote.url, schemes)
            _attempt(opener, remote.url, part, progress)
        except _Cut as cut:
            if pause is None:
                had = part.stat().st_size if part.exists() else 0
                raise BadSource(
                    f"{remote.url} cannot be fetched: {cut}. {had} bytes arrived and are kept: the "
                    f"same command continues from there. {_instead(remote, target)}"
                ) from None
            time.sleep(pause)
        except _Refused as refused:
            raise BadSource(
                f"{remote.url} cannot be fetched: {refused}. {_instead(remote, target)}"
            ) from None
        else:
            return


class _Refused(Exception):  # noqa: N818  # as _Cut
    """The server or this machine refuses: another attempt would change nothing."""


def _attempt(
    opener: urllib.request.OpenerDirector, url: str, part: Path, progress: Progress | None
) -> None:
    """Request the missing rest of `part` once, and append it; raises _Cut, _Refused, OSError."""
    had = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(  # noqa: S310  # the opener only allows these schemes
        url, headers={"Range": f"bytes={had}-"} if had else {}
    )
    with _explained():
        answer = opener.open(request, timeout=_TIMEOUT_SEC)
    with answer:
        if answer.status == _RANGE_REFUSED:
            # The server has no more bytes: the file is complete, or `part` is of another one.
            return
        mode = "ab"
        if answer.status != _PARTIAL:
            mode, had = "wb", 0  # a server without Range starts over
        elif not _starts_at(answer.headers, had):
            raise _Refused("it answers with a part of the file that was not requested")
        length = _length(answer.headers)
        total = None if length is None else had + length
        with part.open(mode) as file:
            _copy(answer, file, had, total, progress)


def _copy(
    answer: IO[bytes], file: IO[bytes], had: int, total: int | None, progress: Progress | None
) -> None:
    """Write a response's body up to its declared length; raises _Cut if it ends early."""
    if total is not None and (free := shutil.disk_usage(Path(file.name).parent).free) < total - had:
        raise OSError(errno.ENOSPC, f"{free} bytes are free on the disk; {total - had} are needed")
    while True:
        with _explained():
            block = answer.read(_BLOCK_BYTES)
        if not block:
            break
        file.write(block)
        had += len(block)
        if progress and total:
            progress(had, total)
    if total is not None and had < total:
        raise _Cut(f"the connection ended at byte {had} of {total}")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn network errors into _Cut or _Refused; disk errors pass through."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        busy = error.code in (408, 429) or error.code >= 500  # RFC 9110 section 15
        raise (_Cut if busy else _Refused)(f"the server says {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _Cut(f"the server cannot be reached ({error.reason})") from None
    except (http.client.HTTPException, OSError) as error:
        raise _Cut(f"the connection broke ({type(error).__name__})") from None


def _opener(schemes: Sequence[str]) -> urllib.request.OpenerDirector:
    """Return an opener for these schemes only, even after a redirect; it uses the usual proxies."""

    class Checked(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *request_to_url: Any) -> urllib.request.Request | None:
            _check_scheme(request_to_url[-1], schemes)
            return super().redirect_request(*request_to_url)

    class Whole(urllib.request.BaseHandler):
        def http_error_416(self, request: Any, answer: Any, *_: Any) -> Any:
            del request
            return answer

    handlers: list[Any] = [Checked(), Whole(), urllib.request.ProxyHandler()]
    known: Mapping[str, type[urllib.request.BaseHandler]] = {
        "http": urllib.request.HTTPHandler,
        "https": urllib.request.HTTPSHandler,
    }
    opener = urllib.request.OpenerDirector()
    for handler in (
        *handlers,
        *(known[scheme]() for scheme in schemes),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _check_scheme(url: str, schemes: Sequence[str]) -> None:
    if urllib.parse.urlsplit(url).scheme not in schemes:
        raise _Refused(f"it leads to {url.partition('?')[0]}, which is not {' or '.join(schemes)}")


def _starts_at(headers: Mapping[str, str], wanted: int) -> bool:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == wanted


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _instead(remote: Remote, target: Path) -> str:
    return (
        f"Without a network: download it elsewhere ({remote.page}), and pass the file to medopt "
        f"prepare as SOURCE, or put it at {target}."
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
