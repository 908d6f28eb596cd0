"""The keys that a server knows."""

from __future__ import annotations

import hmac
from pathlib import Path

from nearhash.service.security.access import Principal
from nearhash.service.security.key_file import Entry, digest_of, read_keys
from nearhash.service.security.secret_files import Reloading


class KeyRing:
    """The keys of a file, read again when it changes; if the new one is broken, the old keys stay and the log says so.

    Parameters
    ----------
    path
        The file, see `key_file`.
    check_permissions
        False takes a file that others may read, too.

    Raises
    ------
    InvalidArgumentError
        The file cannot be read, others may read it, or it does not hold keys.
    """

    def __init__(self, path: Path | str, *, check_permissions: bool = True) -> None:
        path = Path(path)
        self._keys = Reloading([path], lambda: read_keys(path, check_permissions))

    def find(self, token: str) -> Entry | None:
        """The entry of a key, expired or not.

        Compares with all entries, each in a time that does not depend on where they differ: how long it takes tells
        nothing about what is stored.
        """
        digest = digest_of(token)
        found = None
        for entry in self._keys.get():
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found

    def authenticate(self, token: str) -> Principal | None:
        """Whom a key stands for; None if it is unknown or has expired."""
        entry = self.find(token)
        return None if entry is None or entry.expired() else entry.principal

    def reload(self) -> bool:
        """Read the file now; False if it is broken and the old keys stay."""
        return self._keys.reload()
