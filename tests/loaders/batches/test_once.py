"""Batches that are made once: the same bits by whoever makes them, and no more of them than asked.

The right batches are those of the torch loader without a shelf.
"""

import json
import os
import random
import signal
import time
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loaders.batches import once as module
from loaders.batches import shelf as shelf_module
from loaders.batches.once import Once, about
from loaders.batches.request import Request
from loaders.batches.shelf import Shelf, ShelfError, made_shelf
from loaders.batches.table import LOADERS
from loaders.batches.torch_loader import gather
from tests.loaders.batches.reader import begun, digest, everything
from tests.loaders.batches.shelved import holders

CPU = torch.device("cpu")
ROOM = 1 << 26
# dims, patch: some of it lies outside of the images, which are of 16 and a little more.
SETS = {
    "2-D": ("classification", 2, (16, 12)),
    "3-D": ("segmentation", 3, (12, 8, 20)),
}


@pytest.fixture(autouse=True, params=["copied", "pinned"])
def _taken(request, monkeypatch):
    monkeypatch.setattr(shelf_module, "_PINNED_BYTES", 1 if request.param == "pinned" else ROOM)


@pytest.fixture(params=SETS)
def asked(request, small_store):
    """Return a store, and what is asked of a loader of it."""
    task, dims, patch = SETS[request.param]
    store = small_store(task, dims)
    given = {"batch_size": 6, "batches": 9, "threads": 1, "device": CPU}
    return store, everything(store, patch), given


def a_request(store, sampler, given, **changes) -> Request:
    return Request(store=store, sampler=sampler, **{**given, **changes})


def plain(store, sampler, given) -> list[str]:
    with LOADERS["torch"].open(store, sampler, **given) as stream:
        return [digest(batch) for batch in stream]


@pytest.mark.parametrize("threads", [1, 3])
def test_streams_that_share_a_shelf_have_the_bits_of_separate_ones(asked, threads, caplog):
    store, sampler, given = asked
    caplog.set_level("INFO")
    with made_shelf(ROOM) as path, ExitStack() as opened:
        shelf = Shelf(path)
        more = given | {"threads": threads, "shelf": shelf}
        streams = [
            opened.enter_context(LOADERS["torch"].open(store, sampler, **more)) for _ in "ab"
        ]
        found = [[], []]
        for _ in range(given["batches"]):
            for stream, digests in zip(streams, found, strict=True):
                digests.append(digest(next(stream)))
        opened.close()
    assert found == [plain(store, sampler, given)] * 2
    counts = [record.args for record in caplog.records if record.name == module.log.name]
    # Each was made once, whoever made it; the rest were taken, and those that were made ahead.
    assert sum(made for _, made in counts) == given["batches"]
    assert sum(taken for taken, _ in counts) >= given["batches"]


def test_a_stream_taken_up_in_the_middle_and_another_share_see_their_own(asked):
    """Names are of places in the stream; a rank's share, and another size, have their own."""
    store, sampler, given = asked
    kinds = [{}, {"start": 18, "batches": 6}, {"shard": (1, 2)}, {"batch_size": 4}, {"start": 1}]
    with made_shelf(ROOM) as path:
        shelf = Shelf(path)
        for kind in kinds + kinds:
            want = plain(store, sampler, given | kind)
            assert plain(store, sampler, given | kind | {"shelf": shelf}) == want


def test_the_name_is_of_all_that_decides_a_batch(small_store):
    store = small_store("classification", 2)
    own = small_store("segmentation", 2)
    patch, given = (16, 12), {"batch_size": 6, "batches": 9, "threads": 1, "device": CPU}
    made = partial(everything, store, patch)
    moved = {name: 1.5 * getattr(made(), f"_{name}") for name in ("offset", "unit")}
    spaced = np.tile([2.0, 1.0], (len(store), 1))
    no_foreground = everything(own, patch)
    no_foreground._foreground = None
    other_labels = store.with_answers(1 - store.labels)
    names = {
        about(a_request(store, made(), given)),
        *(about(a_request(store, made(**{k: v}), given)) for k, v in moved.items()),
        about(a_request(store, made(seed=4), given)),
        about(a_request(store, made(cases=np.arange(20)), given)),
        about(a_request(store, made(balance=store.labels), given)),
        about(a_request(store, made(balance=1 - store.labels, cases=np.arange(9)), given)),
        about(a_request(store, made(balance=store.labels, cases=np.arange(9)), given)),
        about(a_request(store, made(spacing=spaced), given)),
        *(about(a_request(store, made(**{k: 0.05}), given)) for k in ("noise", "chance", "zoom")),
        about(a_request(other_labels, made(), given)),
        about(a_request(small_store("classification", 2, 17), made(), given)),
        about(a_request(own, everything(own, patch), given)),
        about(a_request(own, everything(own, patch, foreground=0.4), given)),
        about(a_request(own, no_foreground, given)),
    }
    assert len(names) == 17
    assert about(a_request(store, made(), given)) in names


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    turns=st.lists(st.integers(0, 3), max_size=60),
    kept=st.integers(2, 12),
    deaths=st.sets(st.integers(0, 59), max_size=6),
)
def test_readers_at_any_speed_of_which_some_die(small_store, turns, kept, deaths):
    """Who comes next is drawn; a shelf keeps a few batches; at deaths the reader is another.

    It leaves what it has claimed, and one that begins anew takes its place.
    """
    store = small_store("classification", 2)
    request = a_request(
        store,
        everything(store, (16, 12)),
        {"batch_size": 6, "batches": 20, "threads": 1, "device": CPU},
    )

    def make(batch):
        return [*gather(store, request.draw(batch))]

    with made_shelf(kept * 8192) as path, pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "PATIENCE_SEC", 0.001)
        patched.setattr(module, "PATIENCE", 0)
        shelf = Shelf(path)
        readers = [Once(shelf, request, make) for _ in range(4)]
        places = [0] * 4
        for turn, nth in enumerate(turns):
            reader, place = readers[nth], places[nth]
            if turn in deaths:
                shelf.claim(reader._key(place), 0.001)
                readers[nth], places[nth] = Once(shelf, request, make), 0
                continue
            if place < request.batches:
                assert all(map(np.array_equal, reader(place), make(place)))
                places[nth] += 1


def test_while_another_makes_it_the_next_is_made(asked):
    store, sampler, given = asked
    request, calls = a_request(store, sampler, given), []

    def make(batch):
        calls.append(batch)
        return [*gather(store, request.draw(batch))]

    with made_shelf(ROOM) as path:
        shelf = Shelf(path)
        reader = Once(shelf, request, make)
        shelf.claim(reader._key(3), 0.2)  # by somebody who never will
        shelf.claim(reader._key(4), 60)
        begun = time.monotonic()
        reader(3)
        assert time.monotonic() - begun < 5  # not sixty
        # All up to the last but those that others make, and then the one that was wanted.
        assert calls == [5, 6, 7, 8, 3]


def test_what_is_not_worth_sharing_is_not_shared(asked):
    """By seconds measured: of making a batch, of copying one, and of the step."""
    store, sampler, given = asked
    request = a_request(store, sampler, given | {"batches": 100})

    def slow(batch):
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        return [*gather(store, request.draw(batch))]

    def on(make, step: float) -> bool:
        with made_shelf(ROOM) as path:
            shelf = Shelf(path)
            readers = [Once(shelf, request, make) for _ in "ab"]
            for batch in range(module.SURE + 2):
                for reader in readers:
                    reader(batch)
                    reader.stepped(step)
        assert readers[0].on == readers[1].on
        return readers[1].on

    assert on(slow, 0.01)
    assert not on(slow, 10.0)
    held = slow(0)
    assert not on(lambda _batch: held, 0.0)  # copying costs more than making


def test_a_shelf_that_breaks_costs_nothing_but_time(asked, monkeypatch, caplog):
    store, sampler, given = asked
    with made_shelf(ROOM) as path:
        shelf = Shelf(path)

        def breaks(*_):
            raise ShelfError("planted")

        monkeypatch.setattr(shelf, "put", breaks)
        assert plain(store, sampler, given | {"shelf": shelf}) == plain(store, sampler, given)
    assert "the shelf cannot be used: planted" in caplog.text


def test_what_goes_wrong_in_a_batch_is_raised(asked, monkeypatch):
    store, sampler, given = asked
    request = a_request(store, sampler, given)

    def wrong(_batch):
        raise OSError("the disk is gone")

    with made_shelf(ROOM) as path, pytest.raises(OSError, match="the disk is gone"):
        Once(Shelf(path), request, wrong)(0)


def test_a_shelf_too_small_for_batches_is_left_alone(asked):
    store, sampler, given = asked
    with made_shelf(4096) as path:
        assert not Once(Shelf(path), a_request(store, sampler, given), SimpleNamespace()).on


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_processes_of_which_ten_are_killed_at_random(small_store, name):
    """Four lanes, every augmentation on: those that live have the right bits, all of them."""
    task, dims, patch = SETS[name]
    store, drawn = small_store(task, dims), random.Random(0)
    batches = 250
    given = {"batch_size": 6, "batches": batches, "threads": 1, "device": CPU}
    want = plain(store, everything(store, patch), given)
    with made_shelf(ROOM) as path:

        def started(seed: int):
            return begun(
                store.path,
                patch,
                batches=batches,
                batch_size=6,
                shelf=path,
                pace=drawn.choice([0.0, 0.02, 0.05]),
                seed=seed,
            )

        readers = [started(seed) for seed in range(4)]
        for seed in range(10):
            time.sleep(1 + 3 * drawn.random())
            nth = drawn.randrange(4)
            readers[nth].send_signal(signal.SIGKILL)
            readers[nth].communicate()
            readers[nth] = started(4 + seed)
        for reader in readers:
            assert json.loads(reader.communicate()[0])["digests"] == want
        assert holders(path) == {os.getpid()}
