"""Patterns of paths, `images/{id}.png`, and the files under a source that fit them.

`*` is any text within a name, `**/` any folders, `{id}` a part that is given a name and is the same
wherever the name comes again, `{view:2CH|4CH}` one that is of a few words. All else is meant as it
is written, blanks and brackets too; case makes no difference. A pattern of masks knows what that of
the images named, and `{stem}`, an image's name without its ending, and `{folder}`, its folder.
"""

import os
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from loaders.cases import BadSource
from loaders.datasets.stray_files import is_stray, is_stray_folder
from loaders.formats.inside import leads_out
from loaders.formats.volumes.open import volume_stem

_TOKEN = re.compile(r"\*\*/|\*|\{(\w+)(?::([^{}]*))?\}|[^*{}]+|[{}]")
# Parts that a pattern of masks may name though the images' does not.
STRUCTURE = "structure"
# A part of a pattern of images that says whose each is.
PATIENT = "patient"
OF_IMAGE = ("stem", "folder")


class Files:
    """The files under a source by their paths there, without those that systems leave behind."""

    def __init__(self, source: Path) -> None:
        if not source.is_dir():
            raise BadSource(f"there is no folder {source}")
        self.names: list[str] = []
        for folder, inner, names in os.walk(source):
            inner[:] = sorted(name for name in inner if not is_stray_folder(name))
            place = Path(folder).relative_to(source).as_posix()
            self.names += [
                name if place == "." else f"{place}/{name}"
                for name in sorted(names)
                if not is_stray(name)
            ]
        # By the last part of the path, to be looked up by its beginning.
        self._by_last = sorted((PurePosixPath(name).name.casefold(), name) for name in self.names)
        self._by_folder: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_folder[folder_of(name).casefold()].append(name)

    def fitting(self, pattern: str, known: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
        """Return the files that a pattern fits, each with the parts that it names there."""
        near = self._near(pattern, known)
        text, whole = _literal(pattern, known)
        if whole and text.isascii() and all(name.isascii() for name in near):
            # As most masks of an image: to compile an expression for it takes far longer.
            return [(name, {}) for name in near if name.lower() == text.lower()]
        regex = compiled(pattern, known)
        return [(name, match.groupdict()) for name in near if (match := regex.fullmatch(name))]

    def folders(self, pattern: str) -> list[tuple[str, dict[str, str]]]:
        """Return the folders that hold files and that a pattern fits, as `fitting` does files."""
        above = {folder_of(name) for name in self.names}
        for name in list(above):
            above |= {parent.as_posix() for parent in PurePosixPath(name).parents}
        regex = compiled(pattern, {})
        fits = ((name, regex.fullmatch(name)) for name in sorted(above - {"", "."}))
        return [(name, match.groupdict()) for name, match in fits if match]

    def _near(self, pattern: str, known: Mapping[str, str]) -> Sequence[str]:
        """Return the files that may fit, few where the pattern begins with what is known."""
        folders, slash, last = pattern.rpartition("/")
        if begin := _literal(last, known)[0].casefold():
            low, high = (
                bisect_left(self._by_last, (end,)) for end in (begin, begin + "\U0010ffff")
            )
            return [name for _, name in self._by_last[low:high]]
        text, whole = _literal(folders, known)
        return self._by_folder[text.casefold()] if whole and slash else self.names

    def kinds(self, most: int = 5) -> str:
        """Return which endings lie in which folders, the commonest first, for a message."""
        counts = Counter(f"{folder_of(name) or '.'}/*{ending_of(name)}" for name in self.names)
        shown = [f"{number} x {kind}" for kind, number in counts.most_common(most)]
        more = len(counts) - len(shown)
        return ", ".join(shown) + (f" and {more} kinds more" if more else "") or "no file"


def compiled(pattern: str, known: Mapping[str, str]) -> re.Pattern[str]:
    """Return the regular expression of a pattern, in which `known` parts are as they are known."""
    text = ""
    named: set[str] = set()
    for token in _TOKEN.finditer(pattern):
        name, words = token.groups()
        if name is None:
            text += {"**/": "(?:[^/]+/)*", "*": "[^/]*"}.get(token[0]) or re.escape(token[0])
        elif name in known:
            text += re.escape(known[name])
        elif name in named:
            text += f"(?P={name})"
        else:
            named.add(name)
            one_of = "|".join(map(re.escape, words.split("|"))) if words else "[^/]+?"
            text += f"(?P<{name}>{one_of})"
    # An image beside the source's root has no folder.
    return re.compile(text.removeprefix("/"), re.IGNORECASE)


def _literal(pattern: str, known: Mapping[str, str]) -> tuple[str, bool]:
    """Return the text with which all that fits begins, and whether that is all of it."""
    text = ""
    for token in _TOKEN.finditer(pattern):
        if token[1] in known:
            text += known[token[1]]
        elif token[1] or token[0] in ("*", "**/"):
            return text, False
        else:
            text += token[0]
    return text.removeprefix("/"), True


def parts_of(pattern: str) -> list[str]:
    """Return the names of the parts in a pattern, in order."""
    return [token[1] for token in _TOKEN.finditer(pattern) if token[1]]


def check(option: str, pattern: str, allowed: Collection[str] | None = None) -> None:
    """Raise BadSource where a pattern cannot be meant; `allowed`: the parts that it may name."""
    odd = [
        token[0]
        for token in _TOKEN.finditer(pattern)
        if token[0] in "{}" or (token[1] and token[1][0].isdigit())
    ]
    if odd:
        raise BadSource(
            f"option {option} is {pattern!r}: a part is written {{name}} or {{name:one|other}}"
        )
    if leads_out(pattern):
        raise BadSource(f"option {option} is {pattern!r}: give a path under the source")
    if allowed is None:
        return
    # A part of a few words is as good as an asterisk.
    named = [token for token in _TOKEN.finditer(pattern) if token[1] and not token[2]]
    if unknown := [token[1] for token in named if token[1] not in allowed]:
        raise BadSource(
            f"option {option} is {pattern!r}: what is {{{unknown[0]}}}? it may name "
            f"{', '.join(f'{{{name}}}' for name in allowed)}, and what the images' pattern names"
        )
    if not any(token[1] != STRUCTURE for token in named):
        raise BadSource(
            f"option {option} is {pattern!r}, which is the same for every image: name in it what "
            "tells them apart, as {stem} does, the image's name without its ending: masks/{stem}.*"
        )


def stem_of(name: str) -> str:
    """Return the last part of a path without its ending, .nii.gz being one."""
    last = PurePosixPath(name).name
    return volume_stem(last) or PurePosixPath(last).stem


def folder_of(name: str) -> str:
    """Return the folder of a path, empty where it lies in the source itself."""
    return name.rpartition("/")[0]


def known_of(image: str, parts: Mapping[str, str]) -> dict[str, str]:
    """Return what a pattern of masks knows of an image."""
    return {**parts, "stem": stem_of(image), "folder": folder_of(image)}


def ending_of(name: str) -> str:
    """Return the ending of a path, .nii.gz being one."""
    last = PurePosixPath(name).name
    base = volume_stem(last)
    return last[len(base) :] if base else PurePosixPath(last).suffix
