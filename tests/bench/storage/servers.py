"""S3 as moto serves it on loopback, and a proxy before it that does what networks do."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BUCKET = "medopt-tests"
PASS, CUT, GONE = "pass", "cut", "gone"

# What becomes of a request, by its method and path: PASS; CUT: the server has half of it when the
# connection breaks; GONE: the connection breaks at once; or a status such as 503.
Rule = Callable[[str, str], str | int]


def let_pass(_method: str, _path: str) -> str:
    return PASS


@dataclass
class Proxy:
    """What stands between us and the server: `rule` decides, `seen`: (method, path, decision)."""

    port: int
    upstream: int
    rule: Rule = let_pass
    seen: list[tuple[str, str, str | int]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, method: str, end: str) -> int:
        """Return how many requests passed whose path ends so."""
        return sum(
            (m, d) == (method, PASS) and p.partition("?")[0].endswith(end) for m, p, d in self.seen
        )


class _Handler(BaseHTTPRequestHandler):
    """Does with a request as the proxy's rule says."""

    protocol_version = "HTTP/1.1"
    state: Proxy  # of the proxy, which has a class of its own

    def _serve(self) -> None:
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = self.state.rule(self.command, self.path)
        self.state.seen.append((self.command, self.path, what))
        if what == GONE:
            self._break()
        elif what == CUT:
            self._send_half(body)
            self._break()
        elif what == PASS:
            self._forward(body)
        else:
            self._answer(int(what), [("Content-Type", "application/xml")], b"")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815  # http.server's names

    def _sent_headers(self) -> dict[str, str]:
        return {k: v for k, v in self.headers.items() if k.lower() != "expect"}

    def _forward(self, body: bytes) -> None:
        connection = HTTPConnection("127.0.0.1", self.state.upstream, timeout=30)
        connection.request(self.command, self.path, body, self._sent_headers())
        answer = connection.getresponse()
        self._answer(answer.status, answer.getheaders(), answer.read())
        connection.close()

    def _send_half(self, body: bytes) -> None:
        """Send the server all of the head and half of the body, and break off."""
        lines = [f"{self.command} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self._sent_headers().items()]
        head = "\r\n".join([*lines, "", ""]).encode()
        with socket.create_connection(("127.0.0.1", self.state.upstream)) as there:
            there.sendall(head + body[: len(body) // 2])
            there.shutdown(socket.SHUT_WR)
            while there.recv(65536):  # whatever it makes of it
                pass

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _break(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # a connection that we broke


@contextmanager
def proxy(upstream: int) -> Iterator[Proxy]:
    """Start a proxy before the server at a port of this machine."""
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    state = handler.state = Proxy(port=server.server_port, upstream=upstream)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def amazon() -> Iterator[int]:
    """Start moto's server and return its port."""
    for name in ("flask", "flask_cors"):
        pytest.importorskip(name, reason=f"{name}, which moto's server needs, is not installed")
    servers = pytest.importorskip("moto.server", reason="moto is not installed")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


def empty(port: int) -> None:
    """Take everything out of moto's server but one empty bucket: its content is its process'."""
    import boto3

    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/moto-api/reset")
    connection.getresponse().read()
    client = boto3.session.Session().client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    client.create_bucket(Bucket=BUCKET)


def elsewhere(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Be another machine: one with a cache folder of its own."""
    monkeypatch.setenv("MEDOPT_CACHE", str(folder))
