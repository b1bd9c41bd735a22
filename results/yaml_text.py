"""Text and YAML of files that people write: decoded by their byte-order mark, and bounded.

In YAML a few lines can stand for billions of values (aliases), a key can appear twice, with the
last one silently winning, and values can be of types that no setting has. A study needs none of
this, so it is refused, with its line.
"""

import codecs
import unicodedata
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

# The longest text, also with its aliases written out: a run of a thousand entries has a tenth of
# that. Assumption.
MOST_CHARACTERS = 1 << 20
# A study has six levels. Assumption; Python's own stack ends at about three hundred.
MOST_LEVELS = 32
# No setting can have a number of more bits: float64 ends at 1024.
MOST_BITS = 1024


class TextError(ValueError):
    """A file that is not text, or text that is not YAML; the message does not name the file."""


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, or UTF-16 if it begins with that byte-order mark.

    Raises TextError if it is longer than MOST_CHARACTERS bytes, is in another encoding, or cannot
    be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_CHARACTERS + 1)
    except OSError as error:
        raise TextError(f"cannot be read ({error.strerror})") from error
    if len(raw) > MOST_CHARACTERS:
        raise TextError(f"is longer than {MOST_CHARACTERS >> 20} MiB, too long for a study")
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TextError(
            f"is not in UTF-8: byte 0x{raw[error.start]:02x} in line {line}. Save it as UTF-8 text"
        ) from error


def load_yaml(text: str) -> Any:
    """Return what a YAML text holds: mappings, lists, texts, numbers, dates, true, false and null.

    Raises TextError with the line if it is not YAML, a key appears twice, a value cannot be read, a
    text has control characters, or it grows beyond MOST_CHARACTERS or MOST_LEVELS.
    """
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            _length(root, {})
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise TextError(f"not valid YAML: {_said(error)}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with bounds. PyYAML can only be extended by inheritance."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._level += 1
        if self._level > MOST_LEVELS:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML's stub
            raise ComposerError(None, None, f"more than {MOST_LEVELS} levels of nesting", mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            # Raised by the conversions of PyYAML, for `2026-13-45`, `!!int x` or 5,000 digits.
            kind = node.tag.rpartition(":")[2]
            raise _fault(
                f"{_short(node.value)} cannot be read as a value ({kind})", node
            ) from error
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise _fault("a number of more than three hundred digits", node)
        return value


def _length(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Return the number of characters of a node with its aliases written out; check each once."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise _fault("an alias is inside its own anchor", node)
        return found
    known[id(node)] = None
    length = 1 + sum(_length(child, known) for child in _children(node))
    if isinstance(node, yaml.ScalarNode):
        length += len(node.value)
        wrong = next((c for c in node.value if unicodedata.category(c) in ("Cc", "Cs")), None)
        if wrong is not None:
            raise _fault(f"a text contains the control character U+{ord(wrong):04X}", node)
    if length > MOST_CHARACTERS:
        raise _fault(f"aliases make more than {MOST_CHARACTERS} characters of it", node)
    known[id(node)] = length
    return length


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    seen: dict[tuple[str, str], yaml.Node] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                line = first.start_mark.line + 1
                raise _fault(f"the key {key.value!r} appears twice, first in line {line}", key)
    return [part for pair in node.value for part in pair]


def _fault(what: str, node: yaml.Node) -> ConstructorError:
    return ConstructorError(None, None, what, node.start_mark)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# What PyYAML says about a tab anywhere between keys and values.
_OF_A_TAB = r"found character '\t' that cannot start any token"


def _said(error: yaml.YAMLError) -> str:
    """Return what PyYAML found in one sentence, the line first."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    if error.problem == _OF_A_TAB:
        return f"{where}a tab is not allowed here in YAML: write spaces instead"
    during = f" ({error.context})" if error.context else ""
    return f"{where}{error.problem}{during}"
