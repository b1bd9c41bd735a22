"""`deploy/aws/spot_notice.sh` beside a page of Amazon's metadata that a server here plays."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import yaml

from tests.deploy.aws import CLUSTER, ROOT

SCRIPT = ROOT / "deploy" / "aws" / "spot_notice.sh"
# So often the page of the notice is not there yet.
LOOKS = 2
# Notes how it was called; the head does not answer the first time.
RAY = """#!/bin/sh
echo "$*" >> "{calls}"
[ "$(wc -l < "{calls}")" -gt 1 ]
"""


@pytest.fixture
def metadata() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of the played metadata, and the requests that came.

    As Amazon documents it (IMDSv2): a token by PUT, every page with it, and the notice's page is
    404 until there is one.
    """
    came: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: str = "") -> None:
            came.append(f"{self.command} {self.path} {status}")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def do_PUT(self) -> None:
            wanted = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            self.answer(200, "a token") if wanted else self.answer(400)

        def do_GET(self) -> None:
            if self.headers.get("X-aws-ec2-metadata-token") != "a token":
                self.answer(401)
            elif sum("404" in each for each in came) < LOOKS:
                self.answer(404)
            else:
                self.answer(200, '{"action": "terminate", "time": "2026-11-27T08:22:00Z"}')

        def log_message(self, *_words: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()


@pytest.mark.skipif(not shutil.which("curl"), reason="the script calls curl, which is not here")
def test_ray_is_told_once_amazon_gives_the_notice(metadata, tmp_path):
    address, came = metadata
    calls, ray = tmp_path / "calls", tmp_path / "ray"
    ray.write_text(RAY.format(calls=calls))
    ray.chmod(0o700)
    played = {"SPOT_METADATA": address, "SPOT_LOOK_SEC": "0.1", "no_proxy": "*"}
    subprocess.run(
        ["sh", SCRIPT, ray, "10.0.0.1:6379"], env={**os.environ, **played}, check=True, timeout=60
    )
    page = "GET /latest/meta-data/spot/instance-action"
    assert [each for each in came if "GET" in each] == [f"{page} 404"] * LOOKS + [f"{page} 200"]
    told = calls.read_text().splitlines()
    assert len(set(told)) == 1
    assert len(told) == 2
    assert told[0].startswith("drain-node --address 10.0.0.1:6379 --reason DRAIN_NODE_REASON_PREEM")


def test_every_worker_of_the_shipped_cluster_watches_for_it():
    """With the token, like all that speaks to Ray, and beyond the ssh that starts it."""
    cluster = yaml.safe_load(CLUSTER.read_text())
    last = cluster["worker_start_ray_commands"][-1]
    assert "deploy/aws/spot_notice.sh ~/venv/bin/ray $RAY_HEAD_IP:6379" in last
    assert last.endswith("&")
    assert "RAY_AUTH_MODE=token" in last
    assert not any("spot_notice" in each for each in cluster["head_start_ray_commands"])
    assert SCRIPT.is_relative_to(ROOT)
    assert not any(SCRIPT.match(f"*{pattern}") for pattern in cluster["rsync_exclude"])
