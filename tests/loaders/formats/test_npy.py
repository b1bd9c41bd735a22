"""Numpy's files, opened by several threads."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from loaders.formats.npy import open_npy


def test_one_header_is_parsed_at_a_time(tmp_path, monkeypatch):
    """CPython's parser of before 3.11.9 and 3.12.3 fails where two threads are in it."""
    for n in range(8):
        np.save(tmp_path / f"{n}.npy", np.full((2, 3), n, dtype=np.int16))
    inside, most, own = [], [], np.load

    def load(path, **settings):
        inside.append(path)
        most.append(len(inside))
        time.sleep(0.01)
        inside.remove(path)
        return own(path, **settings)

    monkeypatch.setattr(np, "load", load)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(open_npy, [tmp_path / f"{n}.npy" for n in range(8)]))
    assert max(most) == 1
    assert [int(array[0, 0]) for array in found] == list(range(8))
