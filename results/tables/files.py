"""Writing a file whole or not at all."""

from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it is complete or as it was before; raises OSError on a full disk."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
