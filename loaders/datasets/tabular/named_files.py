"""The files under a source, found by the names that a table gives them, and none outside of it."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from loaders.cases import BadCase
from loaders.formats.csv_table import Table, leads_out


class Files:
    """The files under a source, by the names that a table may give them; links are not walked."""

    def __init__(self, source: Path, suffixes: Collection[str], frames: Collection[str]) -> None:
        self._source = source
        self._root = source.resolve()
        self._linked = 0
        self._exact: set[str] = set()
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for key, is_folder in self._walk(frames):
            self._exact.add(key)
            path = PurePosixPath(key)
            self._by_name[path.name].append(key)
            if not is_folder and path.suffix.lower() in suffixes:
                self._by_name[path.stem].append(key)

    def _walk(self, frames: Collection[str]) -> Iterator[tuple[str, bool]]:
        for folder, inner, names in os.walk(self._source):
            inner.sort()
            self._linked += sum(Path(folder, name).is_symlink() for name in inner)
            place = Path(folder).relative_to(self._source)
            if any(Path(name).suffix.lower() in frames for name in names):
                yield place.as_posix(), True
            for name in sorted(names):
                yield (place / name).as_posix(), False

    def find(self, name: str, table: Table, line: int) -> Path:
        """Return the one file that a table means by `name`; raises BadCase."""
        where = f"{table.where(line)} ({name})"
        if leads_out(name):
            raise BadCase("the table names a path outside the source", where=where)
        text = PureWindowsPath(name).as_posix()
        fitting = [text]
        if text not in self._exact:
            *folders, last = PurePosixPath(text).parts or [""]
            fitting = [key for key in self._by_name[last] if _lies_in(key, folders)]
        if not fitting:
            hint = "; folders that are links are not followed" if self._linked else ""
            raise BadCase(f"the source has no file of that name{hint}", where=where)
        if len(fitting) > 1:
            raise BadCase(
                f"{len(fitting)} files bear that name: the table should give the path", where=where
            )
        path = self._source / fitting[0]
        try:
            inside = path.resolve(strict=True).is_relative_to(self._root)
        except (OSError, RuntimeError):
            raise BadCase("the file is a link that leads nowhere", where=where) from None
        if not inside:
            raise BadCase("the file is a link that leads out of the source", where=where)
        if not path.is_file() and not path.is_dir():
            raise BadCase("the file is a device or a pipe", where=where)
        return path


def _lies_in(key: str, folders: Sequence[str]) -> bool:
    """Tell whether a file's own folders end with these."""
    own = PurePosixPath(key).parts[:-1]
    return len(own) >= len(folders) and list(own[len(own) - len(folders) :]) == list(folders)
