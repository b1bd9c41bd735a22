"""Whether a name or a link stays inside a source."""

from pathlib import Path, PureWindowsPath


def leads_out(name: str) -> bool:
    """Tell whether a name is a path that may lead out of a folder, on any system."""
    windows = PureWindowsPath(name)  # takes / and \ alike
    return bool(windows.drive or windows.root or ".." in windows.parts or "\0" in name)


class Inside:
    """What belongs to a source: all below its folder and, in Hugging Face's cache, its blobs.

    That cache keeps `datasets--NAME/snapshots/REVISION/` as links into `datasets--NAME/blobs/`
    ("Manage huggingface_hub cache-system", its documentation).
    """

    def __init__(self, source: Path) -> None:
        self._root = source.resolve()
        places = (self._root, *self._root.parents)
        self._blobs = [at.parent.parent / "blobs" for at in places if at.parent.name == "snapshots"]

    def holds(self, path: Path) -> bool:
        """Tell whether a file lies inside, all links followed.

        Raises OSError or RuntimeError where a link leads nowhere.
        """
        real = path.resolve(strict=True)
        return real.is_relative_to(self._root) or real.parent in self._blobs
