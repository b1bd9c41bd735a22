"""Checksums: of what lies on the disk, or of what was read there a moment ago."""

from pathlib import Path

import numpy as np
import pytest

from loaders.formats import checksum
from loaders.formats.checksum import file_hash, npy_hash, read_hashed, source_hash, write_hashed


def test_the_hash_of_an_array_is_that_of_its_file(tmp_path: Path) -> None:
    for array in (np.arange(24, dtype="int16").reshape(2, 3, 4), np.array(1.5), np.zeros((0, 3))):
        np.save(tmp_path / "a.npy", array)
        assert npy_hash(array) == file_hash(tmp_path / "a.npy")


def test_what_is_written_in_parts_has_the_hash_of_the_file(tmp_path: Path) -> None:
    parts = [b"one", memoryview(b"two"), b"", b"three"]
    assert write_hashed(tmp_path / "a", parts) == file_hash(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"onetwothree"
    with pytest.raises(FileExistsError):
        write_hashed(tmp_path / "a", parts)


def test_what_was_read_is_not_read_again_to_be_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    known = file_hash(path)
    assert read_hashed(path) == b"content"
    with monkeypatch.context() as patch:
        patch.setattr(checksum, "file_hash", lambda _: pytest.fail("read again"))
        assert source_hash(path) == known
    # Once: who asks later is told of the file as it is then.
    assert source_hash(path) == known


def test_a_file_that_changed_since_it_was_read_is_hashed_anew(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    read_hashed(path)
    path.write_bytes(b"and after")
    assert source_hash(path) == file_hash(path)


def test_no_more_is_remembered_than_a_series_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksum, "_REMEMBERED", 3)
    for number in range(7):
        path = tmp_path / str(number)
        path.write_bytes(b"x")
        read_hashed(path)
        assert len(checksum._read) <= 3
        assert path in checksum._read
