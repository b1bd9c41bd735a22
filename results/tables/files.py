"""Writing a file whole or not at all, and checking beforehand that one can be written."""

from pathlib import Path
from tempfile import TemporaryFile


def make_writable(folder: Path) -> None:
    """Make a folder if there is none; raises OSError if no file can be made in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it is complete or unchanged; raises OSError, as on a full disk."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
