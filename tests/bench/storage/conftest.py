"""The storage that these tests talk to, by what the environment says."""

import pytest

from bench.storage import run_keeper, s3
from tests.bench.storage.servers import BUCKET, amazon, elsewhere, empty, proxy


@pytest.fixture(scope="session")
def amazon_port():
    """Return the port of moto's server."""
    with amazon() as port:
        yield port


@pytest.fixture
def storage(monkeypatch, tmp_path, amazon_port):
    """Return the proxy before an empty bucket; the environment leads to it, as a user's does."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
    }.items():
        monkeypatch.setenv(name, value)
    elsewhere(monkeypatch, tmp_path / "cache")
    # What is asked is asked once, and files are looked for at once.
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    monkeypatch.setattr(run_keeper, "LOOK_SEC", 0.05)
    empty(amazon_port)
    with proxy(amazon_port) as before:
        monkeypatch.setenv("AWS_ENDPOINT_URL", before.url)
        yield before


@pytest.fixture
def address():
    """Return where a run, or a store, is to be."""
    return f"s3://{BUCKET}/some/place"
