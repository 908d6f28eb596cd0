"""Files that keys and certificates are read from: kept from others, and read again when they change."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from nearhash.errors import InvalidArgumentError

log = logging.getLogger("nearhash.service.security")

Content = TypeVar("Content")
_Signature = tuple[tuple[int, ...] | None, ...]

_RACY = 2.0  # seconds; the clock of a file system may be that coarse


def read_secret(path: Path, argument: str, forbidden: int, check_permissions: bool = True) -> bytes:
    """Read a file that others must not.

    Parameters
    ----------
    path
        The file.
    argument
        What messages call it.
    forbidden
        Bits of the mode that must not be set.
    check_permissions
        False where the file system cannot keep modes.

    Raises
    ------
    InvalidArgumentError
        It cannot be read, or its mode lets others at it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if check_permissions and mode & forbidden:
                raise InvalidArgumentError(
                    f"{argument}: others than its owner may use {path} (mode {mode:03o}); chmod 600 it"
                )
            return file.read()
    except OSError as error:
        raise InvalidArgumentError(f"{argument}: cannot read {path}: {error.strerror}") from error


class Reloading(Generic[Content]):
    """What files hold, read again when they change; while new ones are broken, the last good content stays.

    Parameters
    ----------
    paths
        The files to watch.
    read
        Reads them; raises InvalidArgumentError where they are wrong.
    interval
        Seconds between two looks at the files.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], Content], interval: float = 1.0) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._interval = interval
        self._lock = threading.Lock()
        self._complaint = ""
        self._seen = self._signature()  # before reading: a change in between is then seen by the next look
        self._content = read()
        self._next_look = time.monotonic() + interval

    def get(self) -> Content:
        """The content; looks at the files if the interval is over."""
        if time.monotonic() >= self._next_look and self._lock.acquire(blocking=False):
            try:
                self._next_look = time.monotonic() + self._interval
                signature = self._signature()
                if None in signature or signature != self._seen:
                    self._read_again(signature)
            finally:
                self._lock.release()
        return self._content

    def reload(self) -> bool:
        """Read the files now, changed or not; False if they are broken and the old content stays."""
        with self._lock:
            return self._read_again(self._signature())

    def _read_again(self, signature: _Signature) -> bool:
        names = ", ".join(map(str, self._paths))
        try:
            content = self._read()
        except InvalidArgumentError as error:
            if str(error) != self._complaint:  # once, not at every look
                log.error("%s; what was read before stays in force", error)
            self._complaint = str(error)
            return False
        else:
            if content != self._content:
                log.info("read again: %s", names)
            self._content, self._complaint = content, ""
            return True
        finally:
            self._seen = signature

    def _signature(self) -> _Signature:
        return tuple(_file_signature(path) for path in self._paths)


def _file_signature(path: Path) -> tuple[int, ...] | None:
    """Tells versions of a file apart; None where that is not sure, so that it is read again."""
    try:
        facts = path.stat()
    except OSError:
        return None
    if abs(time.time() - facts.st_mtime) < _RACY:  # another change now might leave the same time and size
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
