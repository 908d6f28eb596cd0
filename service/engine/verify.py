"""Looks at all of a collection: every checksum, every reference, every segment against the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nearhash.errors import CorruptIndexError, NearhashError, UnknownCollectionError
from nearhash.index.metrics import normalised
from nearhash.service.engine.parts import Part
from nearhash.service.engine.segments import files_of, open_segment
from nearhash.service.engine.store import FILE, SegmentEntry, Store

_ROWS_AT_ONCE = 4096
_MOST_PROBLEMS = 1000

Progress = Callable[[int, int], None]


class Verified(NamedTuple):
    """What `verify` found.

    Attributes
    ----------
    points : int
        Live points that were looked at.
    segments : int
    problems : list of str
        What is wrong; none for an intact collection.
    repairable : bool
        Whether all that is wrong follows from the store and is made again when the collection is opened.
    """

    points: int
    segments: int
    problems: list[str]
    repairable: bool


def verify(path: str | PathLike[str], progress: Progress | None = None) -> Verified:
    """Check a collection that nobody writes to, or a snapshot, and change nothing.

    Parameters
    ----------
    path : path
    progress : callable, optional
        Called with (rows done, rows in all).

    Raises
    ------
    UnknownCollectionError
        There is no collection.
    """
    folder = Path(fspath(path)).absolute()
    if not (folder / FILE).is_file():
        raise UnknownCollectionError(f"{folder}: no collection here")
    try:
        store = Store(folder, read_only=True)
    except NearhashError as error:
        return Verified(0, 0, [str(error)], False)
    try:
        damaged = store_problems(store, progress)
        derived, points, segments = [], 0, 0
        if not damaged:
            with store.reader() as connection:
                points, entries = store.count(connection), store.segments(connection)
                segments = len(entries)
                for entry in entries:
                    derived += _segment_problems(folder, store, connection, entry)
        return Verified(points, segments, (damaged + derived)[:_MOST_PROBLEMS], not damaged)
    finally:
        store.close()


def store_problems(store: Store, progress: Progress | None = None) -> list[str]:
    """What is wrong with the store of a collection."""
    problems: list[str] = []
    try:
        with store.reader() as connection:
            texts = [text for (text,) in connection.execute("PRAGMA integrity_check(100)")]
            problems += [f"database: {text}" for text in texts if text != "ok"]
            store.segments(connection)
            position, deaths = store.read_position(connection), store.deaths(connection)
            problems += _row_problems(store, connection, position.next_row, set(deaths.tolist()), progress)
    except NearhashError as error:
        problems.append(str(error))
    return problems


def _row_problems(
    store: Store, connection: sqlite3.Connection, next_row: int, deaths: set[int], progress: Progress | None
) -> Iterator[str]:
    """Rows, vectors and ids, each against the others."""
    for first in range(1, next_row, _ROWS_AT_ONCE):
        last = min(first + _ROWS_AT_ONCE, next_row) - 1
        try:
            points = list(store.points(connection, first, last))
            rows = np.array([point.row for point in points], np.int64)
            store.vectors(connection, rows)
            present = store.rows_of(connection, [point.id for point in points])
        except NearhashError as error:
            yield str(error)
            continue
        for point in points:
            lives = present.get(point.id) == point.row
            if lives == (point.row in deaths):
                state = "dead, but an id has it" if lives else "alive, but no id has it"
                yield f"row {point.row} of id {point.id!r:.80}: {state}"
        if progress is not None:
            progress(last, next_row - 1)
    query = "SELECT id, row FROM ids WHERE row NOT IN (SELECT row FROM points)"
    for own, row in connection.execute(query):
        yield f"id {own!r:.80}: its row {row} is missing"


def _segment_problems(folder: Path, store: Store, connection: sqlite3.Connection, entry: SegmentEntry) -> list[str]:
    missing = [str(file) for file in files_of(folder, [entry]) if not file.is_file()]
    if missing:
        return [f"{name}: missing" for name in missing]
    try:
        part = open_segment(folder, entry, store.settings, store.payloads)
    except (CorruptIndexError, OSError) as error:
        return [str(error)]
    return list(_differences(part, store, connection))


def _differences(part: Part, store: Store, connection: sqlite3.Connection) -> Iterator[str]:
    """Whether a segment holds what the store says."""
    assert part.entry is not None
    name = f"segment {part.entry.number}"
    for first in range(0, len(part), _ROWS_AT_ONCE):
        rows = part.rows[first : first + _ROWS_AT_ONCE]
        stored = {point.row: point for point in store.points(connection, int(rows[0]), int(rows[-1]))}
        for place, row in enumerate(rows.tolist(), first):
            if row not in stored or stored[row].id != part.id_at(place):
                yield f"{name}: row {row} has another id in the store"
                return
        expected: Any = store.vectors(connection, rows)
        if store.settings.metric == "cosine":
            expected = normalised(expected)
        found = part.index.vectors(np.arange(first, first + len(rows)))
        # float16 keeps eleven bits.
        if not np.allclose(found, expected, rtol=2e-3, atol=1e-3 * max(1e-30, float(np.abs(expected).max()))):
            yield f"{name}: vectors differ from those of the store"
            return
