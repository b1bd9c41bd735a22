"""A store in object storage: put there whole, copied to a machine once, and held to its hash."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.storage.objects import StorageError, opened
from bench.storage.store_copy import put_store, store_here
from bench.study.dataset import DataSet, split_store
from loaders.store.read import open_store, verify_store
from tests.bench.storage.servers import CUT, GONE, PASS, elsewhere


def untold(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def store(storage, address, small_store, monkeypatch, tmp_path):
    """Return a store of 40 cases that is at the address; this machine has no copy of it."""
    made = small_store("classification", 2)
    put_store(made.path, address, untold)
    elsewhere(monkeypatch, tmp_path / "other")
    return made


def test_a_copy_is_the_store(store, address):
    copy = open_store(store_here(address))
    assert copy.path != store.path
    assert copy.content_hash == store.content_hash
    assert copy.case_ids == store.case_ids
    assert (copy.image(3) == store.image(3)).all()
    assert verify_store(copy.path) == []


def test_it_is_copied_once_whatever_the_number_of_lanes(store, storage, address):
    with multiprocessing.get_context("spawn").Pool(2) as lanes:
        copies = set(lanes.map(store_here, [address] * 6))
    with ThreadPoolExecutor(6) as lanes:
        copies |= set(lanes.map(store_here, [address] * 6))
    assert len(copies) == 1
    assert {storage.count("GET", name) for name in store.files} == {1}


def test_where_it_was_made_it_is_not_copied(store, storage, address, monkeypatch, tmp_path):
    elsewhere(monkeypatch, tmp_path / "cache")
    copy = open_store(store_here(address))
    assert copy.content_hash == store.content_hash
    assert {storage.count("GET", name) for name in store.files} == {0}


def test_it_is_put_last_what_makes_it_one(store, storage, address):
    puts = [path.rpartition("/")[2] for method, path, _ in storage.seen if method == "PUT"]
    assert puts[-1] == "store.json"
    assert len(puts) == len(store.files) + 1


def test_a_store_that_was_put_in_part_is_none_and_goes_on(storage, address, small_store):
    made = small_store("classification", 2)
    storage.rule = lambda method, path: 403 if method == "PUT" and "cases" in path else PASS
    with pytest.raises(StorageError, match="do not allow that"):
        put_store(made.path, address, untold)
    with pytest.raises(
        StorageError, match=r"is not a store: .* `medopt prepare KIND SOURCE --out s3"
    ):
        store_here(address)
    storage.rule = lambda *_: PASS
    told = []
    put_store(made.path, address, lambda *done: told.append(done))
    total = len(made.files) + 1
    assert told[-1] == (total, total)
    assert {storage.count("PUT", name) for name in made.files} == {1}


def test_another_store_is_not_put_over_it(store, address, small_store):
    put_store(store.path, address, untold)  # the same again
    with pytest.raises(StorageError, match="holds another store"):
        put_store(small_store("segmentation", 2).path, address, untold)


def test_a_file_that_changed_there_is_refused(store, address):
    at = opened(address)
    array, *_ = at.listed("arrays/")
    content = bytearray(at.read(array))
    content[-1] ^= 1
    at.remove([array])
    at.create(array, bytes(content))
    with pytest.raises(StorageError, match=f"{array} does not match store.json"):
        store_here(address)
    at.remove([array])
    with pytest.raises(StorageError, match=f"{array} is missing"):
        store_here(address)


def test_a_copy_that_was_cut_off_goes_on(store, storage, address, monkeypatch):
    monkeypatch.setattr("bench.storage.store_copy.AWAY_SEC", 0.0)
    storage.rule = lambda method, path: GONE if "arrays/" in path and method == "GET" else PASS
    with pytest.raises(OSError, match="does not answer"):
        store_here(address)
    storage.rule = lambda *_: PASS
    assert verify_store(store_here(address)) == []
    assert storage.count("GET", "cases.parquet") == 1


def test_a_storage_that_is_away_meanwhile_costs_no_copy(store, storage, address):
    left = iter([CUT, 503, GONE, 500])
    storage.rule = lambda _method, path: next(left, PASS) if "arrays/" in path else PASS
    assert verify_store(store_here(address)) == []
    assert next(left, None) is None


def test_a_description_of_others_leads_nowhere_else(storage, address, tmp_path):
    at = opened(address)
    at.create("store.json", b'{"files": {"../../outside.npy": "0"}}')
    with pytest.raises(StorageError, match=r"'../../outside.npy', which is not a file of a store"):
        store_here(address)
    assert not list(tmp_path.rglob("outside.npy"))


def test_a_folder_is_a_folder():
    assert store_here(Path("stores/x")) == Path("stores/x")


def test_a_node_that_has_no_copy_makes_its_own(store, storage, address, tmp_path):
    """As a lane gets a data set: with the path that the driver's machine has."""
    splits = split_store(store, folds=2, repeats=1, seed=0, inner_fraction=0.2)
    far = tmp_path / "of-the-driver" / "stores" / "hash" / "small"
    data = DataSet(name="small", path=far, splits=splits, address=address)
    here = data.here()
    assert here.path != far
    assert here.store.content_hash == store.content_hash
    assert here.here() == here  # no question to the storage: that may be away by now
    storage.rule = lambda *_: GONE
    assert here.here() == here
    local = DataSet(name="small", path=store.path, splits=splits)
    assert local.here() == local
