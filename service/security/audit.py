"""The audit log: one line of JSON for every write and every refusal."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import grpc

from nearhash.errors import InvalidArgumentError
from nearhash.service.security.key_file import TOKEN_PREFIX

log = logging.getLogger("nearhash.service.security")

_MODE = 0o600
_LONGEST = 200  # characters of a field that callers fill
_CLOSING = 5.0  # seconds for what is still to be written
_COMPLAINTS = 60.0  # seconds between two log lines about the same failure
_TOKEN = re.compile(re.escape(TOKEN_PREFIX) + r"[A-Za-z0-9_-]{8,}")


class AuditLog:
    """Appends to a file from a thread of its own: callers never wait for the disk.

    Lines that cannot be written, as the disk is full or slower than the requests, are lost; the requests are not. The
    server's log then has an error, and in the file a line ``{"time": ..., "lost": n}`` stands in their place. A line
    is in the file within moments, and on disk when the system writes its cache back or the log is closed. Several
    processes may append to one file.

    Parameters
    ----------
    path
        The file; a new one gets mode 600.
    capacity
        Lines that may wait to be written.

    Raises
    ------
    InvalidArgumentError
        The file cannot be opened.
    """

    def __init__(self, path: Path | str, *, capacity: int = 10_000) -> None:
        self._path = Path(path)
        self._capacity = capacity
        try:
            self._file = self._opened()
        except OSError as error:
            raise InvalidArgumentError(f"audit: cannot open {self._path}: {error.strerror}") from error
        self._changed = threading.Condition()  # guards what follows, never held while the disk works
        self._waiting: list[str] = []
        self._overflown = 0
        self._reopen = False
        self._closing = False
        self._next_complaint = 0.0
        self._missed = 0  # lines that failed to be written; this and the next are the thread's own
        self._torn = False  # whether the file ends within a line
        self._thread = threading.Thread(target=self._run, name="nearhash-audit", daemon=True)
        self._thread.start()

    def record(
        self,
        method: str,
        code: grpc.StatusCode,
        *,
        principal: str = "",
        peer: str = "",
        collection: str = "",
        written: int | None = None,
        deleted: int | None = None,
        request_id: str = "",
        reason: str = "",
        session: str = "",
    ) -> None:
        """Record what came of a call. Never waits, never fails.

        Parameters
        ----------
        method
            In full, ``/package.Service/Method``.
        code
            How it ended.
        principal
            Name of the key.
        peer
            As gRPC gives it.
        collection
            Name of the collection.
        written, deleted
            Points.
        request_id
            As the caller chose it.
        reason
            Why it was refused.
        session
            The beginning of a session's id.
        """
        document = {
            "time": _now(),
            "principal": principal,
            "peer": peer,
            "method": method[:_LONGEST],
            "collection": collection[:_LONGEST],
            "code": code.name,
            "written": written,
            "deleted": deleted,
            "request_id": request_id[:_LONGEST],
            "reason": reason[:_LONGEST],
        }
        if session:
            document["session"] = session[:_LONGEST]
        # JSON escapes what would end a line. No field should hold a key, but callers make mistakes.
        line = _TOKEN.sub(f"{TOKEN_PREFIX}...", json.dumps(document))
        with self._changed:
            kept = len(self._waiting) < self._capacity and not self._closing
            if kept:
                self._waiting.append(line)
            else:
                self._overflown += 1
            self._changed.notify()
        if not kept:
            self._complain("the log is closed, or lines come faster than the disk takes them")

    def reopen(self) -> None:
        """Go on in a new file of that name, once the old one was moved away: for SIGHUP. Does not wait."""
        with self._changed:
            self._reopen = True
            self._changed.notify()

    def close(self) -> None:
        """Write what is waiting, and close the file. What is recorded afterwards is lost."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_CLOSING)
        if self._thread.is_alive():
            log.error("audit: %s does not take its last lines", self._path)

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._overflown or self._reopen or self._closing)
                lines, overflown, reopen, closing = self._waiting, self._overflown, self._reopen, self._closing
                self._waiting, self._overflown, self._reopen = [], 0, False
            if reopen:
                self._exchange()
            self._append(lines, overflown)
        try:
            os.fsync(self._file)
        except OSError as error:
            self._complain(error.strerror)
        finally:
            os.close(self._file)

    def _append(self, lines: list[str], overflown: int) -> None:
        """Write what missed its turn as one line, the lines, and what did not fit among them as another."""
        entries = [(line, 1) for line in lines]
        if self._missed:
            entries.insert(0, (_lost(self._missed), self._missed))
        if overflown:
            entries.append((_lost(overflown), overflown))
        data = "".join(f"{line}\n" for line, _ in entries).encode()
        data = b"\n" + data if self._torn else data
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError as error:
            self._complain(error.strerror)
        whole = data[self._torn : done].count(b"\n")
        self._missed = sum(weight for _, weight in entries[whole:])
        if done:
            self._torn = data[done - 1] != ord("\n")

    def _exchange(self) -> None:
        try:
            fresh = self._opened()
        except OSError as error:  # better lines in the old file than none
            self._complain(f"cannot open it anew: {error.strerror}")
            return
        os.close(self._file)
        self._file, self._torn = fresh, False

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)

    def _complain(self, reason: str | None) -> None:
        """Log an error, but not for every line of a full disk."""
        now = time.monotonic()
        with self._changed:
            due = now >= self._next_complaint
            if due:
                self._next_complaint = now + _COMPLAINTS
        if due:
            log.error("audit: lines of %s may be missing: %s", self._path, reason)


def _lost(count: int) -> str:
    return json.dumps({"time": _now(), "lost": count})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
