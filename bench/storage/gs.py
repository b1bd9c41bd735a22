"""Google Cloud Storage by its JSON API (v1), through google-auth and requests, which Ray brings.

Credentials are Google's application default credentials, as for every program of theirs.
Source of the calls: cloud.google.com/storage/docs/json_api, Objects.
"""

import base64
import binascii
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO
from urllib.parse import quote

from bench.storage.objects import Entry, Objects, StorageAway, StorageError

# The variable, read by Google's own libraries too, that names another server without credentials.
EMULATOR = "STORAGE_EMULATOR_HOST"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_TIMEOUT_SEC = (5.0, 60.0)
ATTEMPTS = 3
# Requests at once, as for S3.
_CONNECTIONS = 16
_BLOCK_BYTES = 1 << 20
_AWAY = (408, 429, 500, 502, 503, 504)
_RIGHTS = (
    "these credentials do not allow that. They need the role Storage Object User "
    "(roles/storage.objectUser) on the bucket"
)


def opened(bucket: str, path: str) -> Objects:
    """Return the objects of `gs://bucket/path`; raises StorageError without credentials."""
    address = f"gs://{bucket}/{path}"
    host = os.environ.get(EMULATOR, "https://storage.googleapis.com").rstrip("/")
    session = _session(address)
    every = f"{host}/storage/v1/b/{bucket}/o"
    upload = f"{host}/upload/storage/v1/b/{bucket}/o"

    def ask(method: str, url: str, **given: Any) -> Any:
        with _told(address):
            answer = session.request(method, url, timeout=_TIMEOUT_SEC, **given)
            _check(address, answer)
            return answer

    def one(name: str) -> str:
        return f"{every}/{quote(f'{path}/{name}', safe='')}"

    def sent(name: str, content: Any, **conditions: int) -> None:
        params = {"uploadType": "media", "name": f"{path}/{name}", **conditions}
        ask("POST", upload, params=params, data=content)

    def put(name: str, file: BinaryIO) -> None:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        sent(name, file if size else b"")

    def create(name: str, content: bytes) -> bool:
        try:
            sent(name, content, ifGenerationMatch=0)
        except FileExistsError:
            return False
        return True

    def get(name: str, file: BinaryIO) -> None:
        with _told(address):
            answer = ask("GET", one(name), params={"alt": "media"}, stream=True)
            file.writelines(answer.iter_content(_BLOCK_BYTES))

    def listed(begin: str) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        params = {"prefix": f"{path}/{begin}"}
        while True:
            try:
                answer = ask("GET", every, params=params)
            except FileNotFoundError as error:
                raise StorageError(
                    f"{address}: there is no such bucket. Create it, or name another."
                ) from error
            now, page = parsedate_to_datetime(answer.headers["date"]), answer.json()
            for item in page.get("items", ()):
                put_at = datetime.fromisoformat(item["updated"])
                found[item["name"][len(path) + 1 :]] = Entry(
                    size=int(item["size"]),
                    tag=_hexadecimal(item.get("md5Hash", "")),
                    age=(now - put_at).total_seconds(),
                )
            if "nextPageToken" not in page:
                return found
            params["pageToken"] = page["nextPageToken"]

    def remove(names: Collection[str]) -> None:
        for name in names:
            try:
                ask("DELETE", one(name))
            except FileNotFoundError:
                continue

    return Objects(address=address, put=put, create=create, get=get, listed=listed, remove=remove)


def _session(address: str) -> Any:
    try:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.auth.exceptions import DefaultCredentialsError
        from google.auth.transport.requests import AuthorizedSession
        from requests.adapters import HTTPAdapter
        from urllib3.util.retry import Retry
    except ImportError as error:
        raise StorageError(
            f"{address}: Google's storage needs google-auth and requests, and one of them is not "
            f"installed: run `pip install google-auth requests`."
        ) from error
    try:
        if EMULATOR in os.environ:
            credentials: Any = AnonymousCredentials()  # type: ignore[no-untyped-call]  # Google's
        else:
            credentials, _ = google.auth.default(scopes=[_SCOPE])
    except DefaultCredentialsError as error:
        raise StorageError(
            f"{address}: there are no credentials for it. Set GOOGLE_APPLICATION_CREDENTIALS, log "
            f"in by `gcloud auth application-default login`, or give the machine a role."
        ) from error
    session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]  # Google's
    retries = Retry(
        total=ATTEMPTS - 1,
        backoff_factor=0.5,
        status_forcelist=_AWAY,
        allowed_methods=None,  # each call may be made twice
        raise_on_status=False,
    )
    adapter = HTTPAdapter(max_retries=retries, pool_maxsize=_CONNECTIONS)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _check(address: str, answer: Any) -> None:
    """Raise the error that an answer's status stands for."""
    status = answer.status_code
    if status < 300:
        return
    if status == 404:
        raise FileNotFoundError(f"{address}: there is no such object, or no such bucket")
    if status == 412:
        raise FileExistsError(f"{address}: the object exists already")
    if status in _AWAY:
        raise StorageAway(f"{address}: the storage is unavailable ({status})")
    what = _RIGHTS if status in (401, 403) else f"the storage refuses ({status} {answer.reason})"
    raise StorageError(f"{address}: {what}.")


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Raise errors of requests and google-auth as this project's own."""
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests import RequestException

    try:
        yield
    except (RequestException, TransportError) as error:
        raise StorageAway(
            f"{address}: the storage does not answer ({type(error).__name__}). Check the network"
        ) from error
    except GoogleAuthError as error:
        raise StorageError(
            f"{address}: the credentials cannot be used ({' '.join(str(error).split())})."
        ) from error


def _hexadecimal(md5: str) -> str:
    """Return an MD5 in hexadecimal; a composed object has none."""
    try:
        return base64.b64decode(md5).hex()
    except binascii.Error:
        return ""
