"""Keyed ids, which a store holds instead of the real names of patients and cases."""

import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from loaders.cases import BadSource
from loaders.formats.checksum import source_hash

KEY_VARIABLE = "MEDOPT_KEY"
# 64 bits: among a million cases, two ids collide with a chance of 3e-8.
ID_LENGTH = 16


def keyed_id(key: bytes, kind: str, real: str) -> str:
    """Return HMAC-SHA256 of a real identifier as 16 hex digits, meaningless without the key."""
    return hmac.digest(key, f"{kind}\0{real}".encode(), "sha256").hex()[:ID_LENGTH]


def key_fingerprint(key: bytes) -> str:
    """Return 16 hex digits that distinguish keys but do not reveal them."""
    return hmac.digest(key, b"fingerprint", "sha256").hex()[:ID_LENGTH]


def keyed_hash(key: bytes, paths: Iterable[Path]) -> str:
    """Return HMAC-SHA256 of the hashes of files' contents, in their order; raises OSError.

    With a plain hash, anyone who has the files could identify the patient.
    """
    digest = hmac.new(key, digestmod="sha256")
    for path in paths:
        digest.update(source_hash(path).encode())
    return digest.hexdigest()


def user_key() -> bytes:
    """Return the user's key: the text in MEDOPT_KEY, else that of ~/.config/medoptbench/key.

    The file is made at first use, readable only by its owner. Without it, every store can still be
    used, but ids can no longer be matched with patients. A key is any bytes, in any encoding,
    without surrounding white space. Raises BadSource for an empty key, and if the file cannot be
    read or made.
    """
    if KEY_VARIABLE in os.environ:
        key = os.fsencode(os.environ[KEY_VARIABLE].strip())
        return _filled(key, f"the environment variable {KEY_VARIABLE}")
    path = Path.home() / ".config" / "medoptbench" / "key"
    try:
        if not path.exists():
            _make_key_file(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise BadSource(
            f"the key file {path} cannot be read or made ({error.strerror}): set the environment "
            f"variable {KEY_VARIABLE} to any secret text, or repair the file"
        ) from error
    return _filled(key, f"the key file {path}")


def _filled(key: bytes, what: str) -> bytes:
    if not key:
        raise BadSource(f"{what} is empty: set it to any secret text, or remove it")
    return key


def _make_key_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"key.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        # Unlike a rename, a link does not replace the key of a faster process.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
