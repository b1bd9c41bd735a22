"""What is asked of object storage, against moto's; and the sentences where it cannot be had."""

import hashlib
import io
from pathlib import Path

import pytest

from bench.storage import objects
from bench.storage.objects import StorageAway, StorageError, address_of, is_address, opened
from tests.bench.storage.servers import BUCKET, CUT


def put(at: objects.Objects, name: str, content: bytes) -> None:
    at.put(name, io.BytesIO(content))


@pytest.mark.parametrize("given", ["s3://one/x", "s3:/one/x", Path("s3://one/x"), "s3://one/x/"])
def test_an_address_is_one_also_as_a_path(given):
    assert is_address(given)
    assert address_of(given) == "s3://one/x"


@pytest.mark.parametrize("given", ["runs/x", "/a/s3:/b", "C:/x", "file.py:name", "http://b/x"])
def test_a_folder_is_no_address(given):
    assert not is_address(given)


@pytest.mark.parametrize("given", ["s3://bucket", "s3://key:secret@bucket/x", "s3://Bucket_/x"])
def test_an_address_wants_a_bucket_and_a_path_and_no_secret(given):
    with pytest.raises(StorageError, match="an address is s3://BUCKET/PATH"):
        opened(given)


def test_what_was_put_is_there_and_alone_below_its_address(storage, address):
    at = opened(address)
    put(at, "a/1", b"one")
    put(at, "b", b"")
    put(opened(f"{address}-beside"), "c", b"other")
    found = at.listed("")
    assert {name: entry.size for name, entry in found.items()} == {"a/1": 3, "b": 0}
    assert found["a/1"].tag == hashlib.md5(b"one").hexdigest()
    assert 0 <= found["a/1"].age < 60
    assert list(at.listed("a/")) == ["a/1"]
    assert at.read("a/1") == b"one"
    put(at, "a/1", b"two")
    assert at.read("a/1") == b"two"
    at.remove(["a/1", "never"])
    assert list(at.listed("")) == ["b"]
    with pytest.raises(FileNotFoundError):
        at.read("a/1")


@pytest.mark.slow
def test_a_thousand_objects_are_listed(storage, address):
    """Amazon gives a thousand names a page."""
    at = opened(address)
    for n in range(1001):
        put(at, f"{n:04d}", b"")
    assert len(at.listed("")) == 1001


def test_one_of_two_who_create_is_refused(storage, address):
    at = opened(address)
    assert at.create("lock", b"first")
    assert not at.create("lock", b"second")
    assert at.read("lock") == b"first"


def test_a_put_that_was_cut_in_its_middle_leaves_what_was_there(storage, address):
    at = opened(address)
    put(at, "rows", b"old")
    storage.rule = lambda method, _path: CUT if method == "PUT" else "pass"
    for name in ("rows", "new"):
        with pytest.raises(StorageAway, match="does not answer"):
            put(at, name, b"x" * 100_000)
    assert at.read("rows") == b"old"
    assert list(at.listed("")) == ["rows"]
    assert [what for method, _, what in storage.seen if method == "PUT"] == ["pass", CUT, CUT]


def test_what_is_read_and_cut_is_no_content(storage, address):
    at = opened(address)
    put(at, "rows", b"x" * 1000)
    storage.rule = lambda *_: 503
    with pytest.raises(StorageAway, match="the storage is unavailable \\(503"):
        at.read("rows")


def test_without_credentials_one_is_told_what_to_set(storage, address, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"no credentials for it .*Set AWS_ACCESS_KEY_ID"):
        opened(address).listed("")


def test_a_bucket_that_is_not_there_is_told(storage):
    with pytest.raises(StorageError, match=r"^s3://nowhere-at-all/x: there is no such bucket\."):
        opened("s3://nowhere-at-all/x").listed("")


def test_an_endpoint_that_does_not_answer_is_told(storage, address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageAway, match=r"does not answer .*AWS_ENDPOINT_URL"):
        opened(address).listed("")


def test_an_endpoint_that_is_none_is_told(storage, address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        opened(address)


def test_what_is_forbidden_is_told_with_the_rights_that_are_needed(storage, address):
    storage.rule = lambda *_: 403
    with pytest.raises(StorageError, match=f"{BUCKET}.*do not allow that.*s3:PutObject"):
        opened(address).listed("")


def test_patience_ends(monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr(objects.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(objects.time, "sleep", lambda sec: now.__setitem__(0, now[0] + sec))

    def away():
        asked.append(now[0])
        if now[0] < 30:
            raise StorageAway("away")
        return "back"

    assert objects.patiently(away, 60) == "back"
    # Half a second, then twice as long each time, ten seconds at most.
    assert asked == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 25.5, 35.5]
    now[0] = 0
    with pytest.raises(StorageAway):
        objects.patiently(away, 20)
