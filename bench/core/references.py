"""Names in a study: a row of one of our tables, or an object of the user's own.

A user's own object is written `path/file.py:name` (relative to the study file) or
`package.module:name` (installed). A file is loaded under a private module name, so that neither it
nor its folder can shadow a package of ours.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.core.undisturbed import undisturbed


class StudyError(ValueError):
    """A study cannot be used as written; the message says where, what, and the choices."""


def unknown(what: str, name: str, choices: Iterable[str]) -> str:
    """Return a sentence about an unknown `name`, with the nearest match and all choices."""
    choices = sorted(choices)
    return f"unknown {what} {name!r}.{meant(name, choices)} Choices: {', '.join(choices)}."


def meant(name: str, choices: Iterable[str]) -> str:
    """Return a question about the choice nearest to `name`, with a space before; else nothing."""
    near = difflib.get_close_matches(name, sorted(choices), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def local_path(given: str | Path, what: str) -> Path:
    """Return a path on a disk of this machine; raise StudyError for an address such as s3://.

    A Path has shortened it to `s3:/` already; a single letter is a drive.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]+:/", str(given)):
        kind = str(given).partition(":")[0]
        raise StudyError(
            f"{what} {given}: this must be a folder or file on a disk, and {kind}: is not. Runs "
            f"and stores may also be at s3://BUCKET/PATH or gs://BUCKET/PATH (docs/storage.md)."
        )
    return Path(given)


def is_reference(text: str) -> bool:
    """Whether `text` names an object of the user's own rather than a row of a table."""
    return ":" in text


@lru_cache
def load_reference(text: str, base: Path) -> tuple[Any, str]:
    """Load `path/file.py:name` or `package.module:name`.

    Returns the object and the SHA-256 of the source file that defines it, which is part of the
    identity of every trial that uses it. A process keeps the first version it loaded, so that a
    trial is what its id says even if the file is edited meanwhile.

    Raises StudyError if the object cannot be found or loaded.
    """
    where, _, name = text.rpartition(":")
    if where.endswith(".py"):
        if not os.path.isfile(base / where):  # noqa: PTH113  # False too for what no file can be
            raise StudyError(f"{text!r}: there is no file {where} beside the study file.")
        path = (base / where).resolve()
        try:
            source = path.read_bytes()
        except OSError as error:
            raise StudyError(f"{text!r}: {where} cannot be read ({error.strerror}).") from error
        module = _load_file(path, source)
    else:
        module = _load_module(where, text)
        source = _source_of(module) or where.encode()
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise StudyError(f"{text!r}: {unknown('name', name, public)}")
    return getattr(module, name), hashlib.sha256(source).hexdigest()


def load_callable(text: str, base: Path, *, key: str, wanted: str) -> tuple[Any, str]:
    """Load a reference as `load_reference` does; raises StudyError if it cannot be called.

    `key` is its key in the study, `wanted` describes what it must be.
    """
    found, source = load_reference(text, base)
    if not callable(found):
        raise StudyError(f"{key}: {text} is {said(found)}; expected {wanted}.")
    return found, source


def said(given: object) -> str:
    """Describe an object, for a sentence: `a tensor (2, 3) of float32`, `an int`."""
    shape, kind = getattr(given, "shape", None), type(given).__name__
    if shape is not None and hasattr(given, "dtype"):
        kind = kind.lower() if kind != "ndarray" else "array"
        dtype = str(given.dtype).removeprefix("torch.")
        return f"{_article(kind)} {kind} {tuple(shape)} of {dtype}"
    return "None" if given is None else f"{_article(kind)} {kind}"


def failure(error: BaseException) -> str:
    """Describe an error in one line, for a sentence or a row of results: `TypeError: ...`."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 500 else f"{text[:497]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"


def _load_module(where: str, text: str) -> Any:
    if not all(part.isidentifier() for part in where.split(".")):
        raise StudyError(
            f"{text!r}: {where!r} is not the name of a module. Write path/file.py:name for a "
            f"file, or package.module:name for an installed one."
        )
    try:
        with undisturbed():
            return importlib.import_module(where)
    except (Exception, SystemExit) as error:  # a user's code may raise anything; it is reported
        missing = isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(
            f"{error.name}."
        )
        raise StudyError(
            f"{text!r}: no module {where!r} is installed ({error}). Write path/file.py:name "
            f"for a file, or install the module."
            if missing
            else f"{text!r}: {where} failed while it was imported: {failure(error)}"
        ) from error


def _source_of(module: Any) -> bytes | None:
    """Return the source of a module, None if it has none (a built-in one, for instance)."""
    try:
        file = inspect.getsourcefile(module)
    except TypeError:
        return None
    return Path(file).read_bytes() if file and Path(file).is_file() else None


def _load_file(path: Path, source: bytes) -> Any:
    private = f"_medopt_user_{hashlib.sha256(str(path).encode() + source).hexdigest()[:16]}"
    if private in sys.modules:
        return sys.modules[private]
    spec = importlib.util.spec_from_file_location(private, path)
    if spec is None or spec.loader is None:
        raise StudyError(f"{path.name} cannot be loaded as Python source.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    try:
        with undisturbed():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's code may raise anything; it is reported
        del sys.modules[private]
        raise StudyError(f"{path.name} failed while it was loaded: {failure(error)}") from error
    return module
