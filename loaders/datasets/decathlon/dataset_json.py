"""dataset.json, which describes a set of the Decathlon or nnU-Net; every value is checked."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loaders.cases import BadSource
from loaders.formats.nifti import MAX_LABEL

# A description that lists ten thousand cases takes a few MiB (assumption).
MAX_DESCRIPTION = 16 << 20
# The name of a label or channel is a few words (assumption).
LONGEST_NAME = 200
# The description of a set is a citation or two (assumption).
LONGEST_TEXT = 2000


def read_description(source: Path) -> dict[str, Any]:
    """Return the content of dataset.json, empty if there is no such file; raises BadSource."""
    if not source.is_dir():
        raise BadSource(f"there is no folder {source}")
    path = source / "dataset.json"
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_DESCRIPTION:
        raise BadSource(f"{path} is larger than {MAX_DESCRIPTION >> 20} MiB")
    try:
        about = json.loads(path.read_bytes(), object_pairs_hook=_once)
        # "\\ud800" alone is valid JSON, but text that no file can hold.
        json.dumps(about, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadSource(f"{path} holds half a character (a lone surrogate)") from None
    except (ValueError, RecursionError) as error:
        raise BadSource(f"{path} is not JSON ({error})") from None
    if not isinstance(about, dict):
        raise BadSource(f"{path} is not a JSON object")
    return about


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object; raises ValueError if a name repeats (RFC 8259, section 4)."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:LONGEST_NAME]!r} is listed twice")
        found[name] = value
    return found


def dictionary(about: Mapping[str, Any], name: str, source: Path) -> dict[str, Any]:
    """Return an object of the description; raises BadSource if it is missing or empty."""
    value = about.get(name)
    if not isinstance(value, dict) or not value:
        raise BadSource(f"{source / 'dataset.json'} has no {name!r}, or it is not an object")
    return value


def text_of(about: Mapping[str, Any], name: str) -> str:
    """Return a text about the whole set, shortened; empty if the value is not text."""
    value = about.get(name)
    return value.strip()[:LONGEST_TEXT] if isinstance(value, str) else ""


def number_of(value: Any) -> int:
    """Return a label or channel number of dataset.json, given as text or as a number."""
    # Some write 1.0 for 1; Python takes true for a number.
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
    if not whole and not (isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value)):
        shown = repr(value)[:LONGEST_NAME]
        raise BadSource(f"dataset.json: {shown} is not the number of a label or channel")
    number = int(value)
    if not 0 <= number <= MAX_LABEL:
        raise BadSource(f"dataset.json: number {number} is outside 0 to {MAX_LABEL}")
    return number


def name_of(value: Any) -> str:
    """Return the name of a label or channel in dataset.json; raises BadSource."""
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    if not plain or not 0 < len(name := str(value).strip()) <= LONGEST_NAME:
        shown = repr(value)[:LONGEST_NAME]
        raise BadSource(f"dataset.json: {shown} is not the name of a label or channel")
    return name


def channels_of(names: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the channels in the order of their numbers; raises BadSource."""
    return tuple(name for _, name in sorted(by_number(names).items()))


def by_number(names: Mapping[str, Any]) -> dict[int, str]:
    """Return names by their number; raises BadSource if a number has two names."""
    found: dict[int, str] = {}
    for text, name in names.items():
        if (number := number_of(text)) in found:
            raise BadSource(f"dataset.json: number {number} has two names")
        found[number] = name_of(name)
    return found
