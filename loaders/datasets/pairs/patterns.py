"""Patterns of paths, such as `images/{id}.png`, and the files under a source that match them.

`*` matches any text within a name and `**/` any folders. `{id}` is a named part, which is the same
wherever its name recurs; `{view:2CH|4CH}` matches one of a few words. All else is literal, blanks
and brackets too; case is ignored. A pattern of masks may use the named parts of the images'
pattern, `{stem}`, the image's name without its ending, and `{folder}`, its folder.
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
# Parts that a pattern of masks may name although the images' pattern does not.
STRUCTURE = "structure"
# The part of the images' pattern that names the patient.
PATIENT = "patient"
OF_IMAGE = ("stem", "folder")


class Files:
    """The files under a source by relative path, without those that systems leave behind."""

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
        # Sorted by the last part of the path, for lookups by its beginning.
        self._by_last = sorted((PurePosixPath(name).name.casefold(), name) for name in self.names)
        self._by_folder: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_folder[folder_of(name).casefold()].append(name)

    def fitting(self, pattern: str, known: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
        """Return the files that match a pattern, each with its named parts."""
        near = self._near(pattern, known)
        text, whole = _literal(pattern, known)
        if whole and text.isascii() and all(name.isascii() for name in near):
            # Most patterns of one image's masks are literal; compiling them would take far longer.
            return [(name, {}) for name in near if name.lower() == text.lower()]
        regex = compiled(pattern, known)
        return [(name, match.groupdict()) for name in near if (match := regex.fullmatch(name))]

    def folders(self, pattern: str) -> list[tuple[str, dict[str, str]]]:
        """Return the folders with files that match a pattern, as `fitting` does for files."""
        above = {folder_of(name) for name in self.names}
        for name in list(above):
            above |= {parent.as_posix() for parent in PurePosixPath(name).parents}
        regex = compiled(pattern, {})
        fits = ((name, regex.fullmatch(name)) for name in sorted(above - {"", "."}))
        return [(name, match.groupdict()) for name, match in fits if match]

    def _near(self, pattern: str, known: Mapping[str, str]) -> Sequence[str]:
        """Return the files that may match: few if the pattern begins with known text."""
        folders, slash, last = pattern.rpartition("/")
        if begin := _literal(last, known)[0].casefold():
            low, high = (
                bisect_left(self._by_last, (end,)) for end in (begin, begin + "\U0010ffff")
            )
            return [name for _, name in self._by_last[low:high]]
        text, whole = _literal(folders, known)
        return self._by_folder[text.casefold()] if whole and slash else self.names

    def kinds(self, most: int = 5) -> str:
        """Return the endings in each folder, the commonest first, for a message."""
        counts = Counter(f"{folder_of(name) or '.'}/*{ending_of(name)}" for name in self.names)
        shown = [f"{number} x {kind}" for kind, number in counts.most_common(most)]
        more = len(counts) - len(shown)
        return ", ".join(shown) + (f" and {more} more kinds" if more else "") or "no file"


def compiled(pattern: str, known: Mapping[str, str]) -> re.Pattern[str]:
    """Return the regular expression of a pattern, with the values of `known` parts filled in."""
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
    # The folder of an image in the source itself is empty.
    return re.compile(text.removeprefix("/"), re.IGNORECASE)


def _literal(pattern: str, known: Mapping[str, str]) -> tuple[str, bool]:
    """Return the literal beginning of a pattern, and whether it is the whole pattern."""
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
    """Raise BadSource for an invalid pattern; `allowed`: the parts that it may name."""
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
        raise BadSource(f"option {option} is {pattern!r}: it must be a path under the source")
    if allowed is None:
        return
    # A part that is one of a few words varies like an asterisk.
    named = [token for token in _TOKEN.finditer(pattern) if token[1] and not token[2]]
    if unknown := [token[1] for token in named if token[1] not in allowed]:
        raise BadSource(
            f"option {option} is {pattern!r}: unknown part {{{unknown[0]}}}; it may name "
            f"{', '.join(f'{{{name}}}' for name in allowed)} and the parts of the images' pattern"
        )
    if not any(token[1] != STRUCTURE for token in named):
        raise BadSource(
            f"option {option} is {pattern!r}, which is the same for every image: use a part that "
            "differs, such as {stem}, the image's name without its ending: masks/{stem}.*"
        )


def stem_of(name: str) -> str:
    """Return the last part of a path without its ending; .nii.gz counts as one."""
    last = PurePosixPath(name).name
    return volume_stem(last) or PurePosixPath(last).stem


def folder_of(name: str) -> str:
    """Return the folder of a path, empty for a file in the source itself."""
    return name.rpartition("/")[0]


def known_of(image: str, parts: Mapping[str, str]) -> dict[str, str]:
    """Return the parts of an image that a pattern of masks may use."""
    return {**parts, "stem": stem_of(image), "folder": folder_of(image)}


def ending_of(name: str) -> str:
    """Return the ending of a path; .nii.gz counts as one."""
    last = PurePosixPath(name).name
    base = volume_stem(last)
    return last[len(base) :] if base else PurePosixPath(last).suffix
