"""The store of a collection: an SQLite database that is the truth about its points, and the log of its changes.

Every version of a point is a row with a number of its own; numbers rise and are never used again, and what is in a row
never changes. ``ids`` says which row an id has now. A row that an id has lost is dead: ``deaths`` says since which
write. Dead rows stay until no segment and no buffer holds them any more, so that a search which began before sees what
it saw.

Rows carry checksums, as SQLite has none of its own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptCollectionError
from nearhash.service.engine.failpoints import reach
from nearhash.service.engine.results import PointId
from nearhash.service.engine.settings import Settings
from nearhash.service.engine.sqlite_store import Form, SqliteStore, SqliteTransaction, check, checksum, speaking_of

FILE = "collection.db"
FORMAT = 1
_IN_LIST = 500  # ids in one statement

_POINT = "SELECT row, id, labels, payload, crc FROM points"

UPGRADES: dict[int, Callable[[sqlite3.Connection], None]] = {}

_TABLES = """
CREATE TABLE ids (id NOT NULL PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE points (row INTEGER PRIMARY KEY, id NOT NULL, labels BLOB, payload BLOB, crc INTEGER NOT NULL);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, data BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE deaths (row INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX deaths_by_sequence ON deaths (sequence);
CREATE TABLE segments (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, first_row INTEGER NOT NULL, last_row INTEGER NOT NULL,
    size INTEGER NOT NULL, crc INTEGER NOT NULL
);
"""
FORM = Form(FILE, 0x6E656172, FORMAT, _TABLES, UPGRADES)  # "near"


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


# --- the store ---


class RowGoneError(CorruptCollectionError):
    """A row is not in the store: it is damaged, or another view of it shows a row that has died and left since."""


class Store(SqliteStore):
    """The database of one collection.

    Parameters
    ----------
    folder
        Where the database is.
    read_only
        Never write, not even to recover; another process may be writing.
    """

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        super().__init__(folder, FORM, read_only)
        try:
            with speaking_of(self.path):
                self.settings = Settings.from_json(self._meta(self._writer, "settings") or "{}")
                self.position = self.read_position(self._writer)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def create(folder: Path, settings: Settings) -> None:
        """Make the database of a new collection; it appears under its name whole or not at all."""
        SqliteStore.make(folder, FORM, {"settings": settings.to_json(), "position": json.dumps(Position())})

    # --- read ---

    def generation(self) -> int:
        """That of the segments as they are now, whatever a read transaction of this thread sees."""
        with self._guard, speaking_of(self.path):
            return self.read_position(self._writer).generation

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
            check(f"{self.path}: segment {values[0]}", crc, *values)
            entries.append(SegmentEntry(*values))
        return entries

    def deaths(self, connection: sqlite3.Connection, after: int = -1) -> NDArray[np.int64]:
        """(m,) dead rows, ascending; with `after` those that died in later writes."""
        rows = []
        for row, sequence, crc in connection.execute("SELECT * FROM deaths WHERE sequence > ? ORDER BY row", (after,)):
            check(f"{self.path}: death of row {row}", crc, row, sequence)
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
        check(f"{self.path}: row {row}", crc, row, own, labels, payload)
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
            check(f"{self.path}: vector of row {row}", crc, row, data)
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
        """A transaction: durable when it is committed, at the end of the block at the latest; see `changing`."""
        with self.changing() as connection:
            transaction = Transaction(self, connection)
            yield transaction
            if connection.in_transaction:
                transaction.commit()


class Transaction(SqliteTransaction):
    """The changes of one commit."""

    def __init__(self, store: Store, connection: sqlite3.Connection) -> None:
        super().__init__(store, connection)
        self._store = store
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
        super().commit()
        self._store.position = self.position
        reach("commit.durable")
