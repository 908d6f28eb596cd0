"""The file of API keys: its format, and changes to it that no reader sees half made.

``{"keys": [{"name": "app", "hash": "sha256:...", "role": "read", "collections": ["*"], "expires": null}, ...]}``
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nearhash.errors import InvalidArgumentError
from nearhash.service.engine.names import check_collection_name
from nearhash.service.security.access import ROLES, Principal
from nearhash.service.security.secret_files import read_secret

TOKEN_PREFIX = "nhk_"  # tells people, and scanners for leaked secrets, what they have found

_TOKEN_BYTES = 32
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_OTHERS = 0o077
_REQUIRED = {"name", "hash", "role", "collections"}
_KNOWN = _REQUIRED | {"expires"}


@dataclass(frozen=True)
class Entry:
    """One key: whom it stands for, until when, and its SHA-256."""

    principal: Principal
    digest: bytes
    expires: datetime | None = None

    def expired(self, now: datetime | None = None) -> bool:
        return self.expires is not None and (now or datetime.now(timezone.utc)) >= self.expires

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "name": self.principal.name,
            "hash": f"sha256:{self.digest.hex()}",
            "role": self.principal.role,
            "collections": list(self.principal.grants),
            "expires": None if self.expires is None else self.expires.isoformat(),
        }


def digest_of(token: str) -> bytes:
    """What is stored of a key.

    A plain SHA-256 is right here: slow hashes such as scrypt make up for passwords that people chose, of which a
    graphics card tries billions a second. Keys have 256 random bits, which no speed exhausts, and are checked with
    every request.
    """
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def read_keys(path: Path, check_permissions: bool = True) -> tuple[Entry, ...]:
    """The keys of a file.

    Raises
    ------
    InvalidArgumentError
        It cannot be read, others than its owner may read it, or it does not hold keys; the message says where.
    """
    data = read_secret(path, "keys", _OTHERS, check_permissions)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"keys: {path} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.keys() != {"keys"} or not isinstance(document["keys"], list):
        raise InvalidArgumentError(f'keys: expected {{"keys": [...]}} in {path}')
    entries = tuple(_entry(value, f"{path}: keys[{place}]") for place, value in enumerate(document["keys"]))
    for what, values in (("name", [e.principal.name for e in entries]), ("hash", [e.digest for e in entries])):
        if len(set(values)) < len(values):
            raise InvalidArgumentError(f"{path}: keys: two of them have the same {what}")
    return entries


def add_key(
    path: Path, name: str, role: str, collections: Sequence[str] = ("*",), expires: datetime | str | None = None
) -> str:
    """Make a key, and the file if there is none. Servers that use the file know the key within a second.

    Parameters
    ----------
    path
        The file of keys; a new one gets mode 600.
    name
        For whom; appears in the audit log. 1 to 64 letters, digits, '_', '-' and '.', a letter or digit first.
    role
        "read", "write" (and read) or "admin" (everything).
    collections
        Names, prefixes such as "team-*", or "*".
    expires
        From when the key is refused: a date (its beginning in UTC) or a time (UTC unless it says otherwise).

    Returns
    -------
    str
        The key. It is not stored anywhere and cannot be shown again.

    Raises
    ------
    InvalidArgumentError
        An argument is wrong, there is a key of that name, or the file is broken.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
    principal = _checked_principal(name, role, list(collections), "")
    new = Entry(principal, digest_of(token), _checked_time(expires, "expires"))
    if new.expired():
        raise InvalidArgumentError(f"expires: expected a time to come, got {new.expires}")
    with _locked_folder(path):
        entries = read_keys(path) if path.exists() else ()
        if any(entry.principal.name == name for entry in entries):
            raise InvalidArgumentError(f"name: {path} holds a key {name!r} already; remove it, or choose another name")
        _replace(path, (*entries, new))
    return token


def remove_key(path: Path, name: str) -> None:
    """Remove a key. Servers that use the file refuse it within a second.

    Raises
    ------
    InvalidArgumentError
        There is none of that name, or the file is broken.
    """
    with _locked_folder(path):
        entries = read_keys(path)
        kept = tuple(entry for entry in entries if entry.principal.name != name)
        if len(kept) == len(entries):
            known = ", ".join(entry.principal.name for entry in entries) or "none"
            raise InvalidArgumentError(f"name: no key {name!r} in {path}; there are: {known}")
        _replace(path, kept)


def _entry(value: Any, where: str) -> Entry:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{where}: expected an object, got {type(value).__name__}")
    missing, unknown = sorted(_REQUIRED - value.keys()), sorted(value.keys() - _KNOWN)
    if missing or unknown:
        problem = f"{missing[0]} is missing" if missing else f"unknown {unknown[0]!r:.80}"
        raise InvalidArgumentError(f"{where}: {problem}")
    principal = _checked_principal(value["name"], value["role"], value["collections"], f"{where}.")
    digest = _HASH.fullmatch(value["hash"]) if isinstance(value["hash"], str) else None
    if digest is None:  # what came is not shown: it may be a key that somebody put here unhashed
        raise InvalidArgumentError(f"{where}.hash: expected 'sha256:' and 64 hexadecimal digits")
    return Entry(principal, bytes.fromhex(digest[1]), _checked_time(value.get("expires"), f"{where}.expires"))


def _checked_principal(name: Any, role: Any, collections: Any, where: str) -> Principal:
    check_collection_name(name, f"{where}name")
    if role not in ROLES:
        raise InvalidArgumentError(f"{where}role: expected {', '.join(ROLES)}, got {role!r:.80}")
    if not isinstance(collections, list) or not collections:
        raise InvalidArgumentError(f'{where}collections: expected names, or ["*"] for all, got {collections!r:.80}')
    for pattern in collections:
        if pattern != "*":
            check_collection_name(
                pattern[:-1] if isinstance(pattern, str) and pattern.endswith("*") else pattern, f"{where}collections"
            )
    return Principal(name, role, tuple(collections))


def _checked_time(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value))  # Python 3.10 does not know the Z
        time: datetime = value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value
    except (ValueError, AttributeError) as error:
        raise InvalidArgumentError(f"{where}: expected a date such as 2027-01-31, got {value!r:.80}") from error
    return time


@contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    """Hold off other changes. The folder is locked, not the file: a change replaces the file, and with it any lock."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(path: Path, entries: Sequence[Entry]) -> None:
    text = json.dumps({"keys": [entry.document() for entry in entries]}, indent=2) + "\n"
    file, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 600
    try:
        with os.fdopen(file, "w") as opened:
            if path.exists():  # root may change the keys of a server that runs as somebody else
                facts = path.stat()
                os.fchown(file, facts.st_uid, facts.st_gid)
            opened.write(text)
            opened.flush()
            os.fsync(file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
