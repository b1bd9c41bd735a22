"""Numpy's files opened by several threads, and the bytes of large ones, however written."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from loaders.formats import large_file
from loaders.formats.large_file import write_parts
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


# ---- large files --------------------------------------------------------------------------------

# Around a block, what is written at a time, and what counts as large.
SIZES = [
    0,
    1,
    *(size + beyond for size in (1 << 12, 1 << 20, 1 << 22, 5 << 20) for beyond in (-1, 0, 1)),
]


def parts_of(size):
    """Return parts of so many bytes together: a header, an empty one, and the rest."""
    content = np.random.default_rng(size).bytes(size)
    return [content[:128], b"", memoryview(content[128:])], content


@pytest.mark.parametrize("size", SIZES)
def test_a_file_has_the_bytes_it_was_given(tmp_path, size):
    parts, content = parts_of(size)
    with (tmp_path / "a").open("xb") as file:
        write_parts(file, parts)
    assert (tmp_path / "a").read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="O_DIRECT is Linux's")
@pytest.mark.parametrize("refused", ["asked", "written", "written in part"])
def test_a_system_that_writes_nothing_past_its_cache_writes_by_way_of_it(
    tmp_path, monkeypatch, refused
):
    parts, content = parts_of((5 << 20) + 7)
    asked, write, tried = large_file.fcntl.fcntl, os.write, []

    def ask(number, what, flags=0):
        tried.append(flags)
        if refused == "asked" and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return asked(number, what, flags)

    def refuse(number, view):
        if refused == "written" or len(tried) > 2:
            raise OSError(errno.EINVAL, "no")
        tried.append(0)
        return write(number, view)

    monkeypatch.setattr(large_file.fcntl, "fcntl", ask)
    if refused != "asked":
        monkeypatch.setattr(large_file.os, "write", refuse)
    with (tmp_path / "a").open("xb") as file:
        write_parts(file, parts)
    assert (tmp_path / "a").read_bytes() == content
    assert any(flags & os.O_DIRECT for flags in tried)


def test_a_full_disk_is_told_by_its_number(tmp_path, monkeypatch):
    def full(_number, _view):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(large_file.os, "write", full)
    monkeypatch.setattr(large_file, "_straight", lambda _number, *, on: on)
    with (tmp_path / "a").open("xb") as file, pytest.raises(OSError, match="full") as told:
        write_parts(file, parts_of(5 << 20)[0])
    assert told.value.errno == errno.ENOSPC


@pytest.mark.parametrize("most", [1, 5000, 1 << 30])
def test_what_is_written_in_part_is_gone_on_with(tmp_path, monkeypatch, most):
    """A signal may end a call before all is written; blocks stay whole where they must."""
    parts, content = parts_of((4 << 20) + 4097)
    write = os.write
    monkeypatch.setattr(large_file, "_straight", lambda _number, *, on: on)
    monkeypatch.setattr(large_file, "_AT_ONCE", 1 << 14 if most == 1 else 1 << 20)
    least = 4096 if most == 1 else most
    monkeypatch.setattr(large_file.os, "write", lambda number, view: write(number, view[:least]))
    with (tmp_path / "a").open("xb") as file:
        write_parts(file, parts)
    assert (tmp_path / "a").read_bytes() == content
