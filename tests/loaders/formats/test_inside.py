"""A file belongs to a source where all links to it end there, in a folder known before too."""

from pathlib import Path

import pytest

from loaders.formats.inside import Inside


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with two files, and beside it a file that does not belong to it."""
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (source / "images" / name).touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "c.png").touch()
    return source


def test_a_link_beside_files_that_are_held_is_followed(source: Path) -> None:
    inside, folder = Inside(source), source / "images"
    (folder / "in.png").symlink_to(folder / "a.png")
    (folder / "out.png").symlink_to(source.parent / "other" / "c.png")
    (folder / "nowhere.png").symlink_to(folder / "none.png")
    held = {name: inside.holds(folder / name) for name in ("a.png", "b.png", "in.png", "out.png")}
    assert held == {"a.png": True, "b.png": True, "in.png": True, "out.png": False}
    for name in ("nowhere.png", "none.png"):
        with pytest.raises(OSError, match=name.replace("nowhere", "none")):
            inside.holds(folder / name)


def test_what_a_linked_folder_holds_is_where_the_link_leads(source: Path) -> None:
    inside = Inside(source)
    (source / "here").symlink_to(source / "images")
    (source / "there").symlink_to(source.parent / "other")
    for name, held in (("here/a.png", True), ("here/b.png", True), ("there/c.png", False)):
        # Asked twice: what is known of a folder changes nothing.
        assert [inside.holds(source / name) for _ in range(2)] == [held, held]
    assert not inside.holds(source / "images" / ".." / ".." / "other" / "c.png")
    assert inside.holds(source / "images" / "..")
    assert not inside.holds(source / "..")


def test_a_cache_of_hugging_face_holds_its_blobs(tmp_path: Path) -> None:
    cache = tmp_path / "datasets--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "1").mkdir(parents=True)
    (cache / "blobs" / "0f").touch()
    (cache / "snapshots" / "1" / "a.png").symlink_to(cache / "blobs" / "0f")
    (cache / "snapshots" / "1" / "b.png").symlink_to(cache / "snapshots")
    inside = Inside(cache / "snapshots" / "1")
    assert inside.holds(cache / "snapshots" / "1" / "a.png")
    assert not inside.holds(cache / "snapshots" / "1" / "b.png")
