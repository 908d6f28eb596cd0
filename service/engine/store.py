"""The store of a collection: an SQLite database that is the truth about its points, and the log of its changes.

Every version of a point is a row with a number of its own; numbers rise and are never used again, and what is in a row
never changes. ``ids`` says which row an id has now. A row that an id has lost is dead: ``deaths`` says since which
write. Dead rows stay until no segment and no buffer holds them any more, so that a search which began before sees what
it saw.

Rows carry checksums, as SQLite has none of its own.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from nearhash.errors import ClosedError, CorruptCollectionError, StorageError, VersionError
from nearhash.service.engine.failpoints import reach
from nearhash.service.engine.results import PointId
from nearhash.service.engine.settings import Settings
from nearhash.service.engine.wal import lost_commits, recovered_frames

FILE = "collection.db"
FORMAT = 1
_APPLICATION = 0x6E656172  # "near"
_IN_LIST = 500  # ids in one statement
_REMEMBERED = 10_000  # requests whose answers are kept

_POINT = "SELECT row, id, labels, payload, crc FROM points"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE ids (id NOT NULL PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE points (row INTEGER PRIMARY KEY, id NOT NULL, labels BLOB, payload BLOB, crc INTEGER NOT NULL);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, data BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE deaths (row INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX deaths_by_sequence ON deaths (sequence);
CREATE TABLE segments (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, first_row INTEGER NOT NULL, last_row INTEGER NOT NULL,
    size INTEGER NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE, answer TEXT NOT NULL, crc INTEGER NOT NULL
);
"""


class NewPoints(NamedTuple):
    """Points of one write, checked: ids; labels (f, n) float64; payloads as JSON; vectors (n, dim) float32."""

    ids: list[PointId]
    labels: NDArray[np.float64]
    payloads: list[bytes | None]
    vectors: NDArray[np.float32]


class StoredPoint(NamedTuple):
    """A row of the store."""

    row: int
    id: PointId
    labels: NDArray[np.float64]  # (f,)
    payload: bytes | None


class SegmentEntry(NamedTuple):
    """A sealed segment: its number names its files; rows from first to last that lived when it was made are in it."""

    number: int
    kind: str
    first_row: int
    last_row: int
    size: int


class Position(NamedTuple):
    """How far a store has come."""

    sequence: int = 0  # writes so far
    next_row: int = 1
    generation: int = 0  # changes of the list of segments
    sealed_to: int = 0  # rows up to this one are in segments
    next_segment: int = 1


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


def _check(what: str, stored: Any, *parts: bytes | int | str | None) -> None:
    try:
        right = stored == checksum(*parts)
    except (struct.error, TypeError, UnicodeEncodeError):
        right = False
    if not right:
        raise CorruptCollectionError(f"{what}: its checksum does not fit; the database is damaged")


@contextmanager
def _speaking_of(path: Path) -> Iterator[None]:
    """What SQLite says, as errors of nearhash."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    except OverflowError as error:  # an integer beyond int64, which only damage makes
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


# --- the store ---


class RowGoneError(CorruptCollectionError):
    """A row is not in the store: it is damaged, or another view of it shows a row that has died and left since."""


class Store:
    """The database of one collection.

    One thread at a time writes (`write`), any number read (`reader`); each reading thread has a connection of its own.

    Parameters
    ----------
    folder
        Where the database is.
    read_only
        Never write, not even to recover; another process may be writing.
    """

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        self.path = folder / FILE
        self._read_only = read_only
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.RLock()
        self._unused = threading.Condition(self._guard)
        self._reading = 0  # read transactions that are open
        self._closed = False
        try:
            with _speaking_of(self.path):
                if not read_only:
                    self._check_log()
                self._writer = self._connect()
                self._check_format()
                if not read_only:
                    self._writer.execute("PRAGMA synchronous = FULL")
                    self._writer.execute("PRAGMA wal_autocheckpoint = 0")  # in the background instead
                self.settings = Settings.from_json(self._meta(self._writer, "settings") or "{}")
                self.position = self.read_position(self._writer)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def create(folder: Path, settings: Settings) -> None:
        """Make the database of a new collection; it appears under its name whole or not at all."""
        path = folder / FILE
        draft = folder / f".creating-{FILE}"
        for leftover in folder.glob(f".creating-{FILE}*"):
            leftover.unlink()
        with _speaking_of(path):
            connection = sqlite3.connect(draft, isolation_level=None)
            try:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
                connection.execute("BEGIN IMMEDIATE")
                _set_meta(connection, "settings", settings.to_json())
                _set_meta(connection, "position", json.dumps(Position()))
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
        if application != _APPLICATION:
            raise CorruptCollectionError(f"{self.path}: not the database of a collection")
        if version > FORMAT:
            raise VersionError(f"{self.path}: format {version}, this release reads up to {FORMAT}; use a newer one")
        if version < FORMAT:
            if self._read_only:
                raise VersionError(f"{self.path}: format {version} must be upgraded; open it once for writing")
            upgrade(self._writer, version)

    def _check_log(self) -> None:
        """Refuse a log that is damaged within; by a connection that only reads, as others merge and delete the log."""
        log, index = self.path.with_name(FILE + "-wal"), self.path.with_name(FILE + "-shm")
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
            with _speaking_of(self.path):
                yield connection
            return
        with self._guard:
            if self._closed:
                raise ClosedError(f"{self.path}: the collection was closed")
            self._reading += 1
        try:
            with _speaking_of(self.path):
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
        with self._guard, _speaking_of(self.path):
            return int(self._writer.execute("PRAGMA data_version").fetchone()[0])

    def generation(self) -> int:
        """That of the segments as they are now, whatever a read transaction of this thread sees."""
        with self._guard, _speaking_of(self.path):
            return self.read_position(self._writer).generation

    def _meta(self, connection: sqlite3.Connection, key: str) -> str | None:
        found = connection.execute("SELECT value, crc FROM meta WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        _check(f"{self.path}: {key}", found[1], key, found[0])
        return str(found[0])

    def read_meta(self, key: str) -> str | None:
        """A text that was stored by `Transaction.set_meta`."""
        with self.reader() as connection:
            return self._meta(connection, key)

    def read_position(self, connection: sqlite3.Connection) -> Position:
        text = self._meta(connection, "position")
        try:
            return Position(*map(int, json.loads(text or "")))
        except (ValueError, TypeError) as error:
            raise CorruptCollectionError(f"{self.path}: position: {error}") from error

    def segments(self, connection: sqlite3.Connection) -> list[SegmentEntry]:
        """Sealed segments by the rows in them, oldest first."""
        entries = []
        for *values, crc in connection.execute("SELECT * FROM segments ORDER BY first_row"):
            _check(f"{self.path}: segment {values[0]}", crc, *values)
            entries.append(SegmentEntry(*values))
        return entries

    def deaths(self, connection: sqlite3.Connection, after: int = -1) -> NDArray[np.int64]:
        """(m,) dead rows, ascending; with `after` those that died in later writes."""
        rows = []
        for row, sequence, crc in connection.execute("SELECT * FROM deaths WHERE sequence > ? ORDER BY row", (after,)):
            _check(f"{self.path}: death of row {row}", crc, row, sequence)
            rows.append(row)
        return np.array(rows, np.int64)

    def rows_of(self, connection: sqlite3.Connection, ids: Sequence[PointId]) -> dict[PointId, int]:
        """Present row of each id that there is."""
        found: dict[PointId, int] = {}
        for first in range(0, len(ids), _IN_LIST):
            part = ids[first : first + _IN_LIST]
            marks = ",".join("?" * len(part))
            found.update(connection.execute(f"SELECT id, row FROM ids WHERE id IN ({marks})", part))
        return found

    def points(self, connection: sqlite3.Connection, first: int, last: int) -> Iterator[StoredPoint]:
        """Rows from `first` to `last`, both included, ascending, dead ones too."""
        for record in connection.execute(f"{_POINT} WHERE row BETWEEN ? AND ? ORDER BY row", (first, last)):
            yield self._point(record)

    def point(self, connection: sqlite3.Connection, row: int) -> StoredPoint | None:
        record = connection.execute(f"{_POINT} WHERE row = ?", (row,)).fetchone()
        return None if record is None else self._point(record)

    def _point(self, record: tuple[Any, ...]) -> StoredPoint:
        row, own, labels, payload, crc = record
        _check(f"{self.path}: row {row}", crc, row, own, labels, payload)
        return StoredPoint(row, own, np.frombuffer(labels or b"", "<f8"), payload)

    def payloads(self, rows: NDArray[np.int64]) -> list[bytes | None]:
        """Payloads of ascending rows, None where there is none; RowGoneError where a row is not there."""
        with self.reader() as connection:
            return self.payloads_of(connection, rows)

    def payloads_of(self, connection: sqlite3.Connection, rows: NDArray[np.int64]) -> list[bytes | None]:
        """As `payloads`, within a read transaction."""
        found = {record[0]: self._point(record).payload for record in self._records(connection, _POINT, rows)}
        if len(found) < len(rows):
            missing = next(row for row in rows.tolist() if row not in found)
            raise RowGoneError(f"{self.path}: row {missing} is missing")
        return [found[row] for row in rows.tolist()]

    def _records(
        self, connection: sqlite3.Connection, select: str, rows: NDArray[np.int64]
    ) -> Iterator[tuple[Any, ...]]:
        """Records of ascending rows, those that are there: by one range where they lie close, else one by one."""
        if not len(rows):
            return
        wanted = rows.tolist()
        if wanted[-1] - wanted[0] >= 4 * len(wanted):
            for row in wanted:
                yield from connection.execute(f"{select} WHERE row = ?", (row,))
            return
        whole, chosen = len(wanted) == wanted[-1] - wanted[0] + 1, set(wanted)
        for record in connection.execute(f"{select} WHERE row BETWEEN ? AND ? ORDER BY row", (wanted[0], wanted[-1])):
            if whole or record[0] in chosen:
                yield record

    def vectors(self, connection: sqlite3.Connection, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, dim) float32 vectors of ascending rows, as they were given; all must be there."""
        matrix = np.empty((len(rows), self.settings.dim), np.float32)
        width, found = 4 * self.settings.dim, 0
        for row, data, crc in self._records(connection, "SELECT row, data, crc FROM vectors", rows):
            _check(f"{self.path}: vector of row {row}", crc, row, data)
            if len(data) != width:
                raise CorruptCollectionError(
                    f"{self.path}: vector of row {row} is not of dimension {self.settings.dim}"
                )
            if row != rows[found]:
                break
            matrix[found] = np.frombuffer(data, "<f4")
            found += 1
        if found < len(rows):
            raise RowGoneError(f"{self.path}: vector of row {rows[found]} is missing")
        return matrix

    def rows_between(self, connection: sqlite3.Connection, first: int, last: int) -> NDArray[np.int64]:
        """(m,) all rows from `first` to `last`, both included, ascending, dead ones too."""
        query = "SELECT row FROM points WHERE row BETWEEN ? AND ? ORDER BY row"
        return np.array([row for (row,) in connection.execute(query, (first, last))], np.int64)

    def page(self, connection: sqlite3.Connection, after: PointId | None, limit: int) -> list[tuple[PointId, int]]:
        """The next ids in order, numbers before texts, and their rows."""
        if after is None:
            return connection.execute("SELECT id, row FROM ids ORDER BY id LIMIT ?", (limit,)).fetchall()
        query = "SELECT id, row FROM ids WHERE id > ? ORDER BY id LIMIT ?"
        return connection.execute(query, (after, limit)).fetchall()

    def count(self, connection: sqlite3.Connection) -> int:
        """Number of ids."""
        return int(connection.execute("SELECT count(*) FROM ids").fetchone()[0])

    # --- write ---

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction: durable when it is committed, at the end of the block at the latest; if the block raises
        before, it is not carried out at all.

        Raises
        ------
        StorageError
            If the disk is full or has failed. After a failure other than a full disk nothing may be written any more:
            what a failed fsync has left on the disk is not known.
        """
        with _speaking_of(self.path):
            connection = self._writer
            connection.execute("BEGIN IMMEDIATE")
            try:
                reach("commit.begun")
                transaction = Transaction(self, connection)
                yield transaction
                if connection.in_transaction:
                    transaction.commit()
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def checkpoint(self, truncate: bool = False) -> int:
        """Merge the log into the database, as far as readers allow, and return its bytes."""
        with _speaking_of(self.path):
            connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if truncate else 'PASSIVE'})").fetchone()
            finally:
                connection.close()
        return self.log_bytes

    def give_back(self) -> None:
        """Give the space of what was deleted back to the file system; nobody may be writing."""
        with _speaking_of(self.path):
            for _ in self._writer.execute("PRAGMA incremental_vacuum"):
                pass

    @property
    def log_bytes(self) -> int:
        try:
            return self.path.with_name(FILE + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def backup(self, connection: sqlite3.Connection, target: Path) -> None:
        """Copy what a read transaction sees to a new database."""
        with _speaking_of(target):
            copy = sqlite3.connect(target, isolation_level=None)
            try:
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode = WAL")
                copy.execute("PRAGMA synchronous = FULL")
                copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                copy.close()


class Transaction:
    """The changes of one commit."""

    def __init__(self, store: Store, connection: sqlite3.Connection) -> None:
        self._store = store
        self._connection = connection
        self.position = store.position

    def upsert(self, new: NewPoints) -> tuple[int, list[int]]:
        """Insert points, or replace them; returns the first of their rows, which are consecutive, and the dead rows."""
        connection, first = self._connection, self.position.next_row
        replaced = list(self._store.rows_of(connection, new.ids).values())
        rows = range(first, first + len(new.ids))
        self.position = self.position._replace(sequence=self.position.sequence + 1, next_row=first + len(rows))
        self._bury(replaced)
        labels = np.ascontiguousarray(new.labels.T, "<f8")
        has_labels = ~np.isnan(labels).all(axis=1) if labels.size else np.zeros(len(rows), np.bool_)
        texts = [row.tobytes() if any_label else None for row, any_label in zip(labels, has_labels, strict=True)]
        connection.executemany(
            "INSERT INTO points VALUES (?, ?, ?, ?, ?)",
            [
                (row, own, label, payload, checksum(row, own, label, payload))
                for row, own, label, payload in zip(rows, new.ids, texts, new.payloads, strict=True)
            ],
        )
        data = [vector.tobytes() for vector in new.vectors.astype("<f4", copy=False)]
        connection.executemany(
            "INSERT INTO vectors VALUES (?, ?, ?)",
            [(row, one, checksum(row, one)) for row, one in zip(rows, data, strict=True)],
        )
        connection.executemany("INSERT OR REPLACE INTO ids VALUES (?, ?)", zip(new.ids, rows, strict=True))
        return first, replaced

    def delete(self, ids: Sequence[PointId]) -> list[int]:
        """Delete the points of those ids that there are; returns their rows, now dead."""
        found = self._store.rows_of(self._connection, ids)
        self.position = self.position._replace(sequence=self.position.sequence + 1)
        self._connection.executemany("DELETE FROM ids WHERE id = ?", [(own,) for own in found])
        rows = list(found.values())
        self._bury(rows)
        return rows

    def _bury(self, rows: list[int]) -> None:
        sequence = self.position.sequence
        self._connection.executemany(
            "INSERT INTO deaths VALUES (?, ?, ?)", [(row, sequence, checksum(row, sequence)) for row in rows]
        )

    def answer_of(self, request_id: str) -> Any:
        """What the request of this id was answered, None if it was not carried out or is forgotten."""
        query = "SELECT answer, crc FROM requests WHERE request_id = ?"
        found = self._connection.execute(query, (request_id,)).fetchone()
        if found is None:
            return None
        _check(f"{self._store.path}: request {request_id}", found[1], request_id, found[0])
        return json.loads(found[0])

    def remember(self, request_id: str, answer: Sequence[int]) -> None:
        """Keep the answer of a request; the oldest are forgotten."""
        text = json.dumps(list(answer))
        cursor = self._connection.execute(
            "INSERT INTO requests (request_id, answer, crc) VALUES (?, ?, ?)",
            (request_id, text, checksum(request_id, text)),
        )
        self._connection.execute("DELETE FROM requests WHERE number <= ?", ((cursor.lastrowid or 0) - _REMEMBERED,))

    def set_meta(self, key: str, value: str) -> None:
        """Store a text."""
        _set_meta(self._connection, key, value)

    def replace_segments(
        self, old: Sequence[SegmentEntry], new: SegmentEntry | None, sealed_to: int, gone: NDArray[np.int64]
    ) -> None:
        """Let a segment take the place of others; `gone` are dead rows that nothing holds any more."""
        connection = self._connection
        connection.executemany("DELETE FROM segments WHERE number = ?", [(entry.number,) for entry in old])
        if new is not None:
            connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", (*new, checksum(*new)))
        marks = [(row,) for row in gone.tolist()]
        for table in ("points", "vectors", "deaths"):
            connection.executemany(f"DELETE FROM {table} WHERE row = ?", marks)
        position = self.position
        self.position = position._replace(
            generation=position.generation + 1,
            sealed_to=max(position.sealed_to, sealed_to),
            next_segment=max(position.next_segment, 0 if new is None else new.number + 1),
        )

    def commit(self) -> None:
        """Make the changes durable; nothing may be changed after it."""
        self.set_meta("position", json.dumps(self.position))
        reach("commit.written")
        self._connection.execute("COMMIT")
        self._store.position = self.position
        reach("commit.durable")


def _set_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, checksum(key, value)))


UPGRADES: dict[int, Any] = {}
"""By format: a function of a connection that makes the next format of it, within a transaction."""


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Bring a database to the present format, all steps in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        while version < FORMAT:
            if version not in UPGRADES:
                raise VersionError(f"format {version}: this release cannot upgrade from it")
            UPGRADES[version](connection)
            version += 1
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
