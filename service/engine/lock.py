"""One writer for each collection: a lock that the kernel gives back when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

from nearhash.errors import LockedError

FILE = "lock"


class DirectoryLock:
    """Held from construction to `release`.

    Raises
    ------
    LockedError
        Somebody else holds it; the message says who.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(self._descriptor)
            os.close(self._descriptor)
            raise LockedError(f"{folder}: {holder} writes to this collection; one writer at a time") from None
        # Not synced: it only names the holder to others who run now.
        text = json.dumps(
            {"pid": os.getpid(), "host": socket.gethostname(), "program": Path(sys.argv[0]).name, "since": time.time()}
        )
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


def _holder(descriptor: int) -> str:
    try:
        facts = json.loads(os.pread(descriptor, 4096, 0))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["since"]))
        return f"process {facts['pid']} ({facts['program']}) on {facts['host']}, since {since},"
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"
