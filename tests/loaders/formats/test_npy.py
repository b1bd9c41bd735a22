"""Numpy's files, opened by several threads."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from loaders.formats.npy import open_npy


def test_one_header_is_parsed_at_a_time(tmp_path, monkeypatch):
    """CPython's parser of before 3.11.9 and 3.12.3 fails where two threads are in it."""
    for n in range(8):
        np.save(tmp_path / f"{n}.npy", np.full((2, 3 + n), n, dtype=np.int16))
    inside, most, own = [], [], np.lib.format.read_array_header_1_0

    def parse(header):
        inside.append(header)
        most.append(len(inside))
        time.sleep(0.01)
        inside.remove(header)
        return own(header)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", parse)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(open_npy, [tmp_path / f"{n}.npy" for n in range(8)]))
        again = list(pool.map(open_npy, [tmp_path / f"{n}.npy" for n in range(8)]))
    assert most == [1] * 8
    for n, arrays in enumerate(zip(found, again, strict=True)):
        assert all(array.tolist() == [[n] * (3 + n)] * 2 for array in arrays)


@pytest.mark.parametrize("kind", ["u1", "<i2", ">i2", "<f4", "?", "<c8"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_what_numpy_finds(tmp_path, kind, shape, order):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(kind)
    np.save(tmp_path / "a.npy", np.asarray(array, order=order))
    found, wanted = open_npy(tmp_path / "a.npy"), np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(found, wanted)
    assert (found.dtype, found.shape, found.strides) == (wanted.dtype, wanted.shape, wanted.strides)
    assert not found.flags.writeable


def test_a_header_of_version_2_is_read_too(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(6).reshape(2, 3), version=(2, 0))
    assert open_npy(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:60],
        lambda data: data[:-1],
        lambda data: b"PK\x03\x04" + data,
        lambda data: data.replace(b"shape", b"shade"),
        lambda data: data.replace(b"'descr': '<i8'", b"'descr': '|O'"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    np.save(tmp_path / "a.npy", np.arange(6))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(damage(data))
    with pytest.raises((OSError, ValueError, EOFError)):
        open_npy(tmp_path / "b.npy")
