"""The store of a collection of documents: an SQLite database of their ids and sketches.

Documents have numbers that rise and are never used again: a document that is replaced gets a new one.
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
from nearhash.service.engine.document_settings import DocumentSettings
from nearhash.service.engine.failpoints import reach
from nearhash.service.engine.results import PointId
from nearhash.service.engine.sqlite_store import Form, SqliteStore, SqliteTransaction, check, checksum, speaking_of

FILE = "documents.db"
FORMAT = 1
UPGRADES: dict[int, Callable[[sqlite3.Connection], None]] = {}

_TABLES = """
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id NOT NULL UNIQUE, sketch BLOB NOT NULL, crc INTEGER NOT NULL
);
"""
FORM = Form(FILE, 0x6E68646F, FORMAT, _TABLES, UPGRADES)  # "nhdo"

_IN_LIST = 500  # ids in one statement
_AT_ONCE = 1 << 14  # documents that are read together


class Position(NamedTuple):
    """How far a store has come."""

    sequence: int = 0  # writes so far
    next_number: int = 1
    size: int = 0  # documents: damage to the database's own pages can make some of them vanish without a trace


class Documents(NamedTuple):
    """Some documents by number: numbers (n,); ids; sketches, one behind the other."""

    numbers: NDArray[np.int64]
    ids: list[PointId]
    sketches: bytes


class DocumentStore(SqliteStore):
    """The database of one collection of documents.

    Parameters
    ----------
    folder
        Where the database is.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, FORM)
        try:
            with speaking_of(self.path):
                self.settings = DocumentSettings.from_json(self._meta(self._writer, "settings") or "{}")
                self.position = self._read_position()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def create(folder: Path, settings: DocumentSettings) -> None:
        """Make the database of a new collection; it appears under its name whole or not at all."""
        SqliteStore.make(folder, FORM, {"settings": settings.to_json(), "position": json.dumps(Position())})

    def _read_position(self) -> Position:
        text = self._meta(self._writer, "position")
        try:
            return Position(*map(int, json.loads(text or "")))
        except (ValueError, TypeError) as error:
            raise CorruptCollectionError(f"{self.path}: position: {error}") from error

    def documents(self, width: int) -> Iterator[Documents]:
        """All documents, by number; every checksum is looked at. width: bytes of a sketch."""
        count = 0
        with self.reader() as connection:
            cursor = connection.execute("SELECT number, id, sketch, crc FROM documents ORDER BY number")
            while records := cursor.fetchmany(_AT_ONCE):
                for number, own, sketch, crc in records:
                    check(f"{self.path}: document {number}", crc, number, own, sketch)
                    if len(sketch) != width:
                        raise CorruptCollectionError(
                            f"{self.path}: document {number} has a sketch of {len(sketch)} bytes, expected {width}"
                        )
                count += len(records)
                numbers = np.array([record[0] for record in records], np.int64)
                yield Documents(numbers, [record[1] for record in records], b"".join(one[2] for one in records))
        if count != self.position.size:
            raise CorruptCollectionError(f"{self.path}: {count} documents, expected {self.position.size}")

    @contextmanager
    def write(self) -> Iterator[DocumentTransaction]:
        """A transaction: durable when it is committed; if the block ends before, it is not carried out."""
        with self.changing() as connection:
            yield DocumentTransaction(self, connection)


class DocumentTransaction(SqliteTransaction):
    """The changes of one commit."""

    def __init__(self, store: DocumentStore, connection: sqlite3.Connection) -> None:
        super().__init__(store, connection)
        self._store = store
        self.position = store.position

    def numbers_of(self, ids: Sequence[PointId]) -> dict[PointId, int]:
        """Number of each id that there is."""
        found: dict[PointId, int] = {}
        for first in range(0, len(ids), _IN_LIST):
            part = ids[first : first + _IN_LIST]
            marks = ",".join("?" * len(part))
            found.update(self._connection.execute(f"SELECT id, number FROM documents WHERE id IN ({marks})", part))
        return found

    def sketch_of(self, number: int) -> bytes:
        """The sketch of a document."""
        query = "SELECT id, sketch, crc FROM documents WHERE number = ?"
        own, sketch, crc = self._connection.execute(query, (number,)).fetchone()
        check(f"{self._path}: document {number}", crc, number, own, sketch)
        return bytes(sketch)

    def insert(self, ids: Sequence[PointId], sketches: NDArray[Any]) -> NDArray[np.int64]:
        """Insert documents whose ids are not there; returns their numbers, which are consecutive."""
        first = self.position.next_number
        self.position = self.position._replace(next_number=first + len(ids), size=self.position.size + len(ids))
        rows = [row.tobytes() for row in sketches]
        self._connection.executemany(
            "INSERT INTO documents VALUES (?, ?, ?, ?)",
            [
                (number, own, row, checksum(number, own, row))
                for number, own, row in zip(range(first, first + len(ids)), ids, rows, strict=True)
            ],
        )
        return np.arange(first, first + len(ids))

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete documents by number; all must be there."""
        self.position = self.position._replace(size=self.position.size - len(numbers))
        self._connection.executemany("DELETE FROM documents WHERE number = ?", [(number,) for number in numbers])

    def count_write(self) -> int:
        """The number of one more write."""
        self.position = self.position._replace(sequence=self.position.sequence + 1)
        return self.position.sequence

    def commit(self) -> None:
        """Make the changes durable; nothing may be changed after it."""
        self.set_meta("position", json.dumps(self.position))
        super().commit()
        self._store.position = self.position
        reach("commit.durable")
