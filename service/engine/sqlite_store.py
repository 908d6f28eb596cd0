"""An SQLite database that loses nothing it has acknowledged: the common ground of what collections are kept in.

Records carry checksums, as SQLite has none of its own. One thread at a time writes, any number read.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import google_crc32c

from nearhash.errors import ClosedError, CorruptCollectionError, InvalidArgumentError, StorageError, VersionError
from nearhash.service.engine.failpoints import reach
from nearhash.service.engine.wal import lost_commits, recovered_frames

_REMEMBERED = 10_000  # requests whose answers are kept

_COMMON = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE, answer TEXT NOT NULL, crc INTEGER NOT NULL
);
"""


class Form(NamedTuple):
    """What a database is: its file's name, application id, format, tables, and how older formats become newer ones.

    upgrades: by format, a function of a connection that makes the next format of it, within a transaction.
    """

    file: str
    application: int
    format: int
    tables: str
    upgrades: Mapping[int, Callable[[sqlite3.Connection], None]]


# --- checksums ---


def checksum(*parts: bytes | int | str | None) -> int:
    """CRC32C over values and their lengths, so that moving a byte from one to the next changes it."""
    pieces = []
    for part in parts:
        if isinstance(part, int):
            pieces.append(struct.pack("<q", part))
        elif part is None:
            pieces.append(b"\xff")
        else:
            data = part.encode() if isinstance(part, str) else part
            pieces.append(struct.pack("<I", len(data)) + data)
    return int(google_crc32c.value(b"".join(pieces)))


def check(what: str, stored: Any, *parts: bytes | int | str | None) -> None:
    """Raise CorruptCollectionError unless a stored checksum is that of the values."""
    try:
        right = stored == checksum(*parts)
    except (struct.error, TypeError, UnicodeEncodeError):
        right = False
    if not right:
        raise CorruptCollectionError(f"{what}: its checksum does not fit; the database is damaged")


@contextmanager
def speaking_of(path: Path) -> Iterator[None]:
    """What SQLite says, as errors of nearhash."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    except (OverflowError, UnicodeDecodeError) as error:  # an integer beyond int64, no text: only damage makes them
        raise CorruptCollectionError(f"{path}: {error}") from error


def _translated(error: sqlite3.Error, path: Path) -> Exception:
    text = str(error)
    if "closed database" in text:
        return ClosedError(f"{path}: the collection was closed")
    if "full" in text:
        return StorageError(f"{path}: the disk is full; the write was not carried out", "disk full")
    if "malformed" in text or "not a database" in text or "no such" in text or "decode" in text:
        return CorruptCollectionError(f"{path}: {text}")
    if isinstance(error, sqlite3.OperationalError):
        return StorageError(f"{path}: {text}", "disk failed")
    return CorruptCollectionError(f"{path}: {text}")


def sync_folder(folder: Path) -> None:
    """Make new and gone names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SqliteStore:
    """A database of some form.

    One thread at a time writes (`changing`), any number read (`reader`), each thread by a connection of its own.

    Parameters
    ----------
    folder
        Where the database is.
    form
        What it is.
    read_only
        Never write, not even to recover; another process may be writing.
    """

    def __init__(self, folder: Path, form: Form, read_only: bool = False) -> None:
        self.path = folder / form.file
        self._form = form
        self._read_only = read_only
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.RLock()
        self._unused = threading.Condition(self._guard)
        self._reading = 0  # read transactions that are open
        self._closed = False
        try:
            with speaking_of(self.path):
                if not read_only:
                    self._check_log()
                self._writer = self._connect()
                self._check_format()
                if not read_only:
                    self._writer.execute("PRAGMA synchronous = FULL")
                    self._writer.execute("PRAGMA wal_autocheckpoint = 0")  # in the background instead
        except BaseException:
            self.close()
            raise

    @staticmethod
    def make(folder: Path, form: Form, texts: Mapping[str, str]) -> None:
        """Make a new database that holds some texts; it appears under its name whole or not at all."""
        path = folder / form.file
        draft = folder / f".creating-{form.file}"
        for leftover in folder.glob(f".creating-{form.file}*"):
            leftover.unlink()
        with speaking_of(path):
            connection = sqlite3.connect(draft, isolation_level=None)
            try:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA application_id = {form.application}")
                connection.executescript(f"BEGIN; {_COMMON} {form.tables} PRAGMA user_version = {form.format}; COMMIT;")
                connection.execute("BEGIN IMMEDIATE")
                for key, value in texts.items():
                    set_meta(connection, key, value)
                connection.execute("COMMIT")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.close()
        os.rename(draft, path)
        sync_folder(folder)

    def _connect(self) -> sqlite3.Connection:
        mode = "ro" if self._read_only else "rw"
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            uri=True,
            timeout=30,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA secure_delete = FAST")
        with self._guard:
            self._connections.append(connection)
        return connection

    def _check_format(self) -> None:
        (application,) = self._writer.execute("PRAGMA application_id").fetchone()
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if application != self._form.application:
            raise CorruptCollectionError(f"{self.path}: not a database of this kind")
        if version > self._form.format:
            raise VersionError(
                f"{self.path}: format {version}, this release reads up to {self._form.format}; use a newer one"
            )
        if version < self._form.format:
            if self._read_only:
                raise VersionError(f"{self.path}: format {version} must be upgraded; open it once for writing")
            upgrade(self._writer, version, self._form)

    def _check_log(self) -> None:
        """Refuse a log that is damaged within; by a connection that only reads, as others merge and delete the log."""
        log, index = self.path.with_name(self._form.file + "-wal"), self.path.with_name(self._form.file + "-shm")
        if not log.exists():
            return
        connection = sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro", uri=True)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # makes SQLite recover
            lost = lost_commits(log, recovered_frames(index))
        finally:
            connection.close()
        if lost:
            raise CorruptCollectionError(
                f"{log}: a damaged frame hides {lost} acknowledged writes behind it; `nearhash repair` keeps what is "
                "before it"
            )

    def close(self) -> None:
        """Close all connections; the log is merged into the database by the last one.

        Waits for read transactions: SQLite does not survive that a connection is closed while it reads.
        """
        with self._guard:
            self._closed = True
            self._unused.wait_for(lambda: not self._reading)
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    # --- read ---

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread within a read transaction: it sees one state throughout.

        Within another one of the same thread it is that one.
        """
        connection = getattr(self._local, "connection", None)
        if connection is not None and self._local.reading:
            with speaking_of(self.path):
                yield connection
            return
        with self._guard:
            if self._closed:
                raise ClosedError(f"{self.path}: the collection was closed")
            self._reading += 1
        try:
            with speaking_of(self.path):
                if connection is None:
                    connection = self._local.connection = self._connect()
                    connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                self._local.reading = True
                try:
                    yield connection
                finally:
                    self._local.reading = False
                    connection.execute("COMMIT")
        finally:
            with self._guard:
                self._reading -= 1
                if not self._reading:
                    self._unused.notify_all()

    def data_version(self) -> int:
        """Changes when another process has committed; for stores that only read."""
        with self._guard, speaking_of(self.path):
            return int(self._writer.execute("PRAGMA data_version").fetchone()[0])

    def _meta(self, connection: sqlite3.Connection, key: str) -> str | None:
        found = connection.execute("SELECT value, crc FROM meta WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        check(f"{self.path}: {key}", found[1], key, found[0])
        return str(found[0])

    def read_meta(self, key: str) -> str | None:
        """A text that was stored by `Transaction.set_meta`."""
        with self.reader() as connection:
            return self._meta(connection, key)

    # --- write ---

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """The connection that writes, within a transaction: if the block ends without `commit`, it is not carried out.

        Raises
        ------
        StorageError
            If the disk is full or has failed. After a failure other than a full disk nothing may be written any more:
            what a failed fsync has left on the disk is not known.
        """
        with speaking_of(self.path):
            connection = self._writer
            connection.execute("BEGIN IMMEDIATE")
            try:
                reach("commit.begun")
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def checkpoint(self, truncate: bool = False) -> int:
        """Merge the log into the database, as far as readers allow, and return its bytes."""
        with speaking_of(self.path):
            connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if truncate else 'PASSIVE'})").fetchone()
            finally:
                connection.close()
        return self.log_bytes

    def give_back(self) -> None:
        """Give the space of what was deleted back to the file system; nobody may be writing."""
        with speaking_of(self.path):
            # By `execute` it would give back one page: it has a step for each, and no rows.
            self._writer.executescript("PRAGMA incremental_vacuum")

    @property
    def log_bytes(self) -> int:
        try:
            return self.path.with_name(self._form.file + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def backup(self, connection: sqlite3.Connection, target: Path) -> None:
        """Copy what a read transaction sees to a new database."""
        with speaking_of(target):
            copy = sqlite3.connect(target, isolation_level=None)
            try:
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode = WAL")
                copy.execute("PRAGMA synchronous = FULL")
                copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                copy.close()


class SqliteTransaction:
    """The changes of one commit, as far as all forms have them."""

    def __init__(self, store: SqliteStore, connection: sqlite3.Connection) -> None:
        self._path = store.path
        self._connection = connection

    def answer_of(self, request_id: str | None, kind: str) -> list[Any] | None:
        """What the request of this id was answered; None if it was not carried out, is forgotten, or has no id.

        Raises
        ------
        InvalidArgumentError
            It was a request of another kind. Nothing has been changed.
        """
        if request_id is None:
            return None
        query = "SELECT answer, crc FROM requests WHERE request_id = ?"
        found = self._connection.execute(query, (request_id,)).fetchone()
        if found is None:
            return None
        check(f"{self._path}: request {request_id}", found[1], request_id, found[0])
        stored: list[Any] = json.loads(found[0])
        known, answer = stored[0], stored[1:]
        if known != kind:
            raise InvalidArgumentError(
                f"request_id: {request_id!r} is that of an earlier {known}, this one is of another kind ({kind})"
            )
        return answer

    def remember(self, request_id: str | None, kind: str, answer: Sequence[Any]) -> None:
        """Keep the answer of a request, if it has an id; the oldest are forgotten."""
        if request_id is None:
            return
        text = json.dumps([kind, *answer])
        cursor = self._connection.execute(
            "INSERT INTO requests (request_id, answer, crc) VALUES (?, ?, ?)",
            (request_id, text, checksum(request_id, text)),
        )
        self._connection.execute("DELETE FROM requests WHERE number <= ?", ((cursor.lastrowid or 0) - _REMEMBERED,))

    def set_meta(self, key: str, value: str) -> None:
        """Store a text."""
        set_meta(self._connection, key, value)

    def commit(self) -> None:
        """Make the changes durable; nothing may be changed after it."""
        reach("commit.written")
        self._connection.execute("COMMIT")


def set_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Store a text under a key."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, checksum(key, value)))


def upgrade(connection: sqlite3.Connection, version: int, form: Form) -> None:
    """Bring a database to the present format, all steps in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        while version < form.format:
            if version not in form.upgrades:
                raise VersionError(f"format {version}: this release cannot upgrade from it")
            form.upgrades[version](connection)
            version += 1
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
