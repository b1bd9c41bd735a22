"""gs://: what is sent, against a server written from the description of Google's JSON API.

No server of Google's kind is in the registries' reach of these tests: this one knows the five calls
(developers' reference, Objects: insert, get, list, delete; uploadType=media, ifGenerationMatch).
"""

import base64
import hashlib
import io
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from bench.core.references import StudyError
from bench.storage import gs, run_keeper
from bench.storage.objects import StorageAway, StorageError, opened
from bench.storage.run_copy import readable
from bench.storage.run_keeper import driven
from bench.storage.store_copy import put_store, store_here
from loaders.store.read import open_store
from tests.bench.storage.servers import elsewhere
from tests.bench.storage.test_runs import rows, write

ADDRESS = "gs://made-bucket/some/place"
PAGE = 5


class Google(BaseHTTPRequestHandler):
    """One bucket in memory; `failing` is the status that each call gets instead, if any."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, tuple[bytes, datetime]]
    failing: list[int]
    lock = threading.Lock()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with self.lock:
            status, answer = self._answer(url.path, query, body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815  # http.server's names

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if self.failing:
            return self.failing[0], b""
        where, _, name = path.partition("/b/made-bucket/o")
        name = unquote(name.removeprefix("/"))
        if where == path:
            return 404, b""
        match self.command, where, bool(name):
            case "POST", "/upload/storage/v1", False:
                assert query["uploadType"] == "media"
                if "ifGenerationMatch" in query and query["name"] in self.kept:
                    assert query["ifGenerationMatch"] == "0"
                    return 412, b""
                self.kept[query["name"]] = body, datetime.now(UTC)
                return 200, b"{}"
            case "GET", "/storage/v1", False:
                return 200, self._page(query)
            case "GET", "/storage/v1", True if name in self.kept:
                assert query["alt"] == "media"
                return 200, self.kept[name][0]
            case "DELETE", "/storage/v1", True if name in self.kept:
                del self.kept[name]
                return 204, b""
        return 404, b""

    def _page(self, query: dict[str, str]) -> bytes:
        names = sorted(name for name in self.kept if name.startswith(query["prefix"]))
        begin = int(query.get("pageToken", 0))
        page: dict[str, Any] = {
            "items": [
                {
                    "name": name,
                    "size": str(len(self.kept[name][0])),
                    "md5Hash": base64.b64encode(hashlib.md5(self.kept[name][0]).digest()).decode(),
                    "updated": self.kept[name][1].isoformat().replace("+00:00", "Z"),
                }
                for name in names[begin : begin + PAGE]
            ]
        }
        if begin + PAGE < len(names):
            page["nextPageToken"] = str(begin + PAGE)
        return json.dumps(page).encode()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def google(monkeypatch, tmp_path):
    """Return the handler of a server with an empty bucket, which the environment leads to."""
    handler = type("Handler", (Google,), {"kept": {}, "failing": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv(gs.EMULATOR, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(gs, "ATTEMPTS", 1)
    monkeypatch.setattr(run_keeper, "LOOK_SEC", 0.05)
    elsewhere(monkeypatch, tmp_path / "cache")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_was_put_is_there_and_alone_below_its_address(google):
    at = opened(ADDRESS)
    for n in range(PAGE + 2):
        at.put(f"a/{n}", io.BytesIO(b"x" * n))
    opened(f"{ADDRESS}-beside").put("c", io.BytesIO(b"other"))
    found = at.listed("")
    assert {name: entry.size for name, entry in found.items()} == {
        f"a/{n}": n for n in range(PAGE + 2)
    }
    assert found["a/3"].tag == hashlib.md5(b"xxx").hexdigest()
    assert -1 <= found["a/3"].age < 60  # its clock shows seconds in an answer's head
    assert at.read("a/3") == b"xxx"
    assert at.create("lock", b"first")
    assert not at.create("lock", b"second")
    assert at.read("lock") == b"first"
    at.remove(["lock", "never"])
    with pytest.raises(FileNotFoundError):
        at.read("lock")


def test_a_run_and_a_store_are_kept_there(google, small_store, monkeypatch, tmp_path):
    made = small_store("classification", 2)
    put_store(made.path, "gs://made-bucket/store", lambda *_: None)
    with driven(ADDRESS) as run:
        write(run.folder, 0)
        elsewhere(monkeypatch, tmp_path / "other")
        with pytest.raises(StudyError, match="runs it, as of"), driven(ADDRESS):
            pass
    assert rows(readable(ADDRESS)) == rows(run.folder)
    copy = open_store(store_here("gs://made-bucket/store"))
    assert copy.content_hash == made.content_hash
    assert copy.path != made.path


def test_what_cannot_be_is_told_in_a_sentence(google, monkeypatch, tmp_path):
    with pytest.raises(StorageError, match="gs://other-bucket/x: there is no such bucket"):
        opened("gs://other-bucket/x").listed("")
    google.failing.append(503)
    with pytest.raises(StorageAway, match="is unavailable \\(503"):
        opened(ADDRESS).listed("")
    google.failing[0] = 403
    with pytest.raises(StorageError, match="Storage Object User"):
        opened(ADDRESS).listed("")
    monkeypatch.setenv(gs.EMULATOR, "http://127.0.0.1:9")
    with pytest.raises(StorageAway, match="does not answer"):
        opened(ADDRESS).listed("")
    monkeypatch.delenv(gs.EMULATOR)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(StorageError, match="Set GOOGLE_APPLICATION_CREDENTIALS"):
        opened(ADDRESS)
