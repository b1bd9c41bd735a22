"""Turning a downloaded source into a store: it is surveyed, then read and written."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loaders.cases import Kind
from loaders.store.copies import Conflicts
from loaders.store.write import Report, write_store


def prepare(
    kind: Kind,
    source: Path,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    key: bytes,
    workers: int = 1,
    strict: bool,
    conflicts: Conflicts = "keep",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Prepare the store `out` from a source of this kind, as `medopt prepare` does.

    `options` are the kind's settings, with its defaults if left out; `key` hashes the identifiers
    (loaders.store.pseudonyms); `conflicts` decides about an image with several answers
    (loaders.store.copies); `progress(items done, items in total)` is called. Raises BadSource if
    the source, an option or every case is unusable, and what `write_store` raises.
    """
    survey = kind.survey(source, options or {})
    return write_store(
        kind,
        survey,
        out,
        key=key,
        workers=workers,
        strict=strict,
        conflicts=conflicts,
        progress=progress,
    )
