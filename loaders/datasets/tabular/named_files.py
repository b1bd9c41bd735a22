"""The files under a source, and none outside it, found by the names that a table gives them."""

import os
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from loaders.cases import BadCase
from loaders.formats.csv_table import Table
from loaders.formats.inside import Inside, leads_out


class Finder(Protocol):
    """An object that finds the files that a table names."""

    def find(self, name: str, table: Table, line: int) -> Path:
        """Return the one file that a table calls `name`; raises BadCase."""


class Files:
    """The files under a source, to be found by name; links to folders are not followed.

    A name may be a path under the source or the end of such a path. It may also begin above the
    source: as an absolute path, or with the source's own name (CheXpert's `CheXpert-v1.0-small/`).
    Case and the encoding of accents are ignored if that leaves one file. `names` are all names in
    the table. Folders that hold files with the endings `frames` can be named too; None: all that
    have files in them or below.
    """

    def __init__(
        self,
        source: Path,
        suffixes: Collection[str],
        frames: Collection[str] | None,
        names: Iterable[str],
    ) -> None:
        self._source = source
        self._inside = Inside(source)
        self._above = [PurePosixPath(Path.cwd() / source), PurePosixPath(source.resolve())]
        self._linked = 0
        self._found: dict[str, Path] = {}
        files = list(self._walk(frames))
        # The ends of the source's own path, except those that are also folders below it.
        leads = {above.parts[at:] for above in self._above for at in range(1, len(above.parts))}
        leads = {lead for lead in leads if not self._has(lead)}
        tops = {_parts(name)[:-1][:1] for name in names if not leads_out(name)}
        self._strange = len(tops) == 1 and not any(top in leads or self._has(top) for top in tops)
        # The second index ignores case; it is built only if the first finds nothing.
        self._ways = [cache(partial(_Index, files, suffixes, leads, way)) for way in (str, _plain)]

    def _walk(self, frames: Collection[str] | None) -> Iterator[tuple[str, bool]]:
        above: set[Path] = set()
        for folder, inner, names in os.walk(self._source):
            inner.sort()
            self._linked += sum(Path(folder, name).is_symlink() for name in inner)
            place = Path(folder).relative_to(self._source)
            if frames is None:
                above |= {place, *place.parents} if names else set()
            elif any(Path(name).suffix.lower() in frames for name in names):
                yield place.as_posix(), True
            for name in sorted(names):
                yield (place / name).as_posix(), False
        for place in sorted(above - {Path()}):
            yield place.as_posix(), True

    def _has(self, folders: Sequence[str]) -> bool:
        try:
            return self._source.joinpath(*folders).exists()
        except OSError:  # the name is too long
            return False

    def find(self, name: str, table: Table, line: int) -> Path:
        """Return the one file that a table calls `name`; raises BadCase."""
        if name not in self._found:
            self._found[name] = self._look_for(name, f"{table.where(line)} ({name})")
        return self._found[name]

    def _look_for(self, name: str, where: str) -> Path:
        parts = self._under(name)
        if parts is None:
            raise BadCase("the table names a path outside the source", where=where)
        found = (way().find(parts) for way in self._ways)
        key, count = next((one for one in found if one[1]), ("", 0))
        if not count:
            hint = "; folders that are links are not followed" if self._linked else ""
            if self._strange:
                hint = "; all names in the table begin with a folder that the source does not have"
            raise BadCase(f"the source has no file of that name{hint}", where=where)
        if count > 1:
            raise BadCase(
                f"{count} files have that name: the table should give the path", where=where
            )
        path = self._source / key
        try:
            inside = self._inside.holds(path)
        except (OSError, RuntimeError):
            raise BadCase("the file is a link that leads to nothing", where=where) from None
        if not inside:
            raise BadCase("the file is a link that leads out of the source", where=where)
        if not path.is_file() and not path.is_dir():
            raise BadCase("the file is a device or a pipe", where=where)
        return path

    def _under(self, name: str) -> tuple[str, ...] | None:
        """Return the parts of a path below the source, or None if the name leads out of it."""
        if not leads_out(name):
            return _parts(name)
        path = PurePosixPath(name)
        inside = [path.relative_to(above) for above in self._above if path.is_relative_to(above)]
        return inside[0].parts if inside and not leads_out(str(inside[0])) else None


class _Index:
    """Files sorted by the parts of their paths, last part first, after `written` changed each part.

    Paths with the same ending are then neighbours, so that a lookup need not search them all.
    """

    def __init__(
        self,
        files: Iterable[tuple[str, bool]],
        suffixes: Collection[str],
        leads: Iterable[tuple[str, ...]],
        written: Callable[[str], str],
    ) -> None:
        self._written = written
        self._leads = {tuple(map(written, lead)) for lead in leads}
        self._sorted: list[tuple[str, str]] = []
        # Longer ones first: .nii.gz before .gz.
        endings = tuple(sorted(suffixes, key=len, reverse=True))
        for key, is_folder in files:
            *folders, last = map(written, PurePosixPath(key).parts or ("",))
            self._sorted.append((_backwards((*folders, last)), key))
            if not is_folder and last.lower().endswith(endings):
                ending = next(ending for ending in endings if last.lower().endswith(ending))
                if stem := last[: -len(ending)]:
                    self._sorted.append((_backwards((*folders, stem)), key))
        self._sorted.sort()

    def find(self, parts: Iterable[str]) -> tuple[str, int]:
        """Return a file that matches a name, and how many do; whole paths win over endings."""
        wanted = tuple(map(self._written, parts))
        below = [wanted[at:] for at in range(1, len(wanted)) if wanted[:at] in self._leads]
        for path in (wanted, *below):
            if (whole := self._count(_backwards(path), "\0"))[1]:
                return whole
        return self._count(_backwards(wanted), chr(0x10FFFF))

    def _count(self, first: str, beyond: str) -> tuple[str, int]:
        low, high = (bisect_left(self._sorted, (end, "")) for end in (first, first + beyond))
        return (self._sorted[low][1], high - low) if low < high else ("", 0)


def _backwards(parts: Sequence[str]) -> str:
    return "/".join(reversed(parts)) + "/"


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(PureWindowsPath(name).as_posix()).parts or ("",)


def _plain(part: str) -> str:
    """Return a name without its case, accents composed; macOS writes them decomposed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold())
