"""Whether a name or a link stays inside a source."""

import os
from pathlib import Path, PureWindowsPath
from stat import S_ISLNK


def leads_out(name: str) -> bool:
    """Tell whether a name is a path that may lead out of a folder, on any system."""
    windows = PureWindowsPath(name)  # accepts both / and \
    return bool(windows.drive or windows.root or ".." in windows.parts or "\0" in name)


class Inside:
    """The files of a source: those below its folder and, in Hugging Face's cache, its blobs.

    That cache keeps `datasets--NAME/snapshots/REVISION/` as links into `datasets--NAME/blobs/`
    ("Manage huggingface_hub cache-system", its documentation).
    """

    def __init__(self, source: Path) -> None:
        self._root = source.resolve()
        places = (self._root, *self._root.parents)
        self._blobs = [at.parent.parent / "blobs" for at in places if at.parent.name == "snapshots"]
        # Folders that hold files of the source, with all links resolved.
        self._followed: set[str] = set()

    def holds(self, path: Path) -> bool:
        """Tell whether a file is inside, with all links resolved.

        Raises OSError or RuntimeError if a link leads to nothing.
        """
        folder, name = os.path.split(path)
        # A folder is resolved once for all its files, which takes most of the time (measured).
        if folder in self._followed and name != ".." and not S_ISLNK(os.lstat(path).st_mode):
            return True
        real = path.resolve(strict=True)
        held = real.is_relative_to(self._root) or real.parent in self._blobs
        if held and path.parent.resolve().is_relative_to(self._root):
            self._followed.add(folder)
        return held
