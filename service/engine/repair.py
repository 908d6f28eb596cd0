"""Keeps what is intact of a damaged collection."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from nearhash.errors import CorruptCollectionError, NearhashError, UnknownCollectionError
from nearhash.service.engine.collection import Collection
from nearhash.service.engine.lock import DirectoryLock
from nearhash.service.engine.segments import FOLDER
from nearhash.service.engine.settings import Settings
from nearhash.service.engine.sqlite_store import checksum, sync_folder
from nearhash.service.engine.store import FILE, Position, Store
from nearhash.service.engine.verify import store_problems

_AT_ONCE = 256
_SUFFIXES = ("", "-wal", "-shm")

Progress = Callable[[int, int], None]


class Repaired(NamedTuple):
    """What `repair` did.

    Attributes
    ----------
    kept : int
        Points in the collection now.
    lost : list of int
        Rows whose point or vector was damaged, as far as they are known.
    notes : list of str
        What was found and done.
    damaged : str
        Folder where the old database is; empty where it was intact.
    """

    kept: int
    lost: list[int]
    notes: list[str]
    damaged: str


def repair(path: str | PathLike[str], progress: Progress | None = None) -> Repaired:
    """Bring a collection back to where it can be opened.

    Segments are made again from the store. If the store itself is damaged, every row that is intact goes to a new one,
    and the old one to a folder ``damaged-...`` beside it: nothing is deleted. A point whose newest row is lost does not
    come back with an older one.

    Raises
    ------
    UnknownCollectionError, LockedError
    CorruptCollectionError
        Not even the settings can be read.
    """
    folder = Path(fspath(path)).absolute()
    if not (folder / FILE).is_file():
        raise UnknownCollectionError(f"{folder}: no collection here")
    try:
        with Collection(folder) as collection:
            problems = store_problems(collection._store)
            if not problems:
                return Repaired(len(collection), [], list(collection.stats()["recovered"]), "")
    except CorruptCollectionError as error:
        problems = [str(error)]
    lock = DirectoryLock(folder)
    try:
        lost, damaged = _salvage(folder, progress)
    finally:
        lock.release()
    with Collection(folder) as collection:
        return Repaired(len(collection), lost, [*problems, *collection.stats()["recovered"]], str(damaged))


def _salvage(folder: Path, progress: Progress | None) -> tuple[list[int], Path]:
    """Copy what is intact to a new database and put the old one aside."""
    # One that may write would merge what SQLite takes for the log, and delete the rest of it.
    source = sqlite3.connect(f"file:{quote(str(folder / FILE))}?mode=ro", uri=True, isolation_level=None)
    draft = folder / ".repairing"
    try:
        settings = _settings(source, folder)
        draft.mkdir(exist_ok=True)
        for leftover in draft.iterdir():
            leftover.unlink()
        Store.create(draft, settings)
        target = sqlite3.connect(draft / FILE, isolation_level=None)
        try:
            lost = _copy_rows(source, target, progress)
            target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            target.close()
    finally:
        source.close()
    damaged = folder / time.strftime("damaged-%Y%m%d-%H%M%S")
    damaged.mkdir()
    # The log first: without it the old database is an older one, with it and without the database it is nothing.
    for suffix in reversed(_SUFFIXES):
        if (folder / (FILE + suffix)).exists():
            os.rename(folder / (FILE + suffix), damaged / (FILE + suffix))
    os.rename(draft / FILE, folder / FILE)
    for leftover in draft.iterdir():
        leftover.unlink()
    draft.rmdir()
    (folder / FOLDER).mkdir(exist_ok=True)
    sync_folder(folder)
    return lost, damaged


def _settings(source: sqlite3.Connection, folder: Path) -> Settings:
    try:
        key, value, crc = source.execute("SELECT * FROM meta WHERE key = 'settings'").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise CorruptCollectionError(f"{folder}: its settings cannot be read: {error}") from error
    if crc != checksum(key, value):
        raise CorruptCollectionError(f"{folder}: its settings are damaged")
    return Settings.from_json(value)


def _copy_rows(source: sqlite3.Connection, target: sqlite3.Connection, progress: Progress | None) -> list[int]:
    """Copy intact rows that live, as far as can be told; returns the numbers of those that are lost."""
    deaths = {row for row, sequence, crc in _records(source, "deaths") if crc == checksum(row, sequence)}
    position = _position(source)
    highest = max(position.next_row, _highest(source))
    named = _ids(source)
    lost: set[int] = set()
    newest: dict[Any, int] = {}
    points: dict[int, tuple[Any, ...]] = {}
    for record in _records(source, "points", highest):
        row, own, labels, payload, crc = record
        if row in deaths or (named is not None and row not in named):
            continue
        if _fits(crc, row, own, labels, payload) and (named is None or named[row] == own):
            points[row] = record
            newest[own] = max(row, newest.get(own, 0))
        else:
            lost.add(row)
    lost |= (named or {}).keys() - points.keys()
    target.execute("BEGIN IMMEDIATE")
    for row, data, crc in _records(source, "vectors", highest):
        point = points.get(row)
        if point is None or newest[point[1]] != row:
            continue
        if not _fits(crc, row, data):
            lost.add(row)
            continue
        target.execute("INSERT INTO points VALUES (?, ?, ?, ?, ?)", point)
        target.execute("INSERT INTO vectors VALUES (?, ?, ?)", (row, data, crc))
        target.execute("INSERT INTO ids VALUES (?, ?)", (point[1], row))
        if progress is not None and row % 1000 == 0:
            progress(row, highest)
    kept = {row for (row,) in target.execute("SELECT row FROM points")}
    lost |= {row for own, row in newest.items() if row not in kept}
    text = json.dumps(position._replace(next_row=highest + 1, sealed_to=0, generation=position.generation + 1))
    target.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", ("position", text, checksum("position", text)))
    target.execute("COMMIT")
    return sorted(lost)


def _fits(crc: Any, *parts: Any) -> bool:
    try:
        return bool(crc == checksum(*parts))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False


def _position(source: sqlite3.Connection) -> Position:
    try:
        key, value, crc = source.execute("SELECT * FROM meta WHERE key = 'position'").fetchone()
        if crc == checksum(key, value):
            return Position(*json.loads(value))
    except (sqlite3.Error, TypeError, ValueError):
        pass
    return Position()


def _highest(source: sqlite3.Connection) -> int:
    """The highest row number that can be seen."""
    best = 0
    for table in ("points", "vectors", "deaths"):
        try:
            best = max(best, int(source.execute(f"SELECT coalesce(max(row), 0) FROM {table}").fetchone()[0]))
        except sqlite3.Error:
            continue
    return best


def _ids(source: sqlite3.Connection) -> dict[int, Any] | None:
    """The id that has each row; None if they cannot be read: rows say themselves which id they had."""
    try:
        return {row: own for own, row in source.execute("SELECT id, row FROM ids")}
    except sqlite3.Error:
        return None


def _records(source: sqlite3.Connection, table: str, highest: int | None = None) -> Iterator[tuple[Any, ...]]:
    """Records of a table by row, as many as can be read: damage to a page takes those of the page."""
    if highest is None:
        try:
            yield from source.execute(f"SELECT * FROM {table} ORDER BY row").fetchall()
        except sqlite3.Error:
            highest = _highest(source)
        else:
            return
    for first in range(0, highest + 1, _AT_ONCE):
        query = f"SELECT * FROM {table} WHERE row BETWEEN ? AND ? ORDER BY row"
        try:
            yield from source.execute(query, (first, first + _AT_ONCE - 1)).fetchall()
        except sqlite3.Error:
            for row in range(first, first + _AT_ONCE):
                try:
                    yield from source.execute(f"SELECT * FROM {table} WHERE row = ?", (row,)).fetchall()
                except (sqlite3.Error, NearhashError):
                    continue
