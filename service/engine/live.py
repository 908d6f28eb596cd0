"""What is in memory of a collection: the views that searches see, how writes change them, and how they are loaded."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptCollectionError, CorruptIndexError
from nearhash.service.engine.identifiers import TextTable, encoded_ids
from nearhash.service.engine.kinds import make_index
from nearhash.service.engine.parts import Buffer, Part, View, add_points
from nearhash.service.engine.segments import (
    Rows,
    as_part,
    open_segment,
    read_rows,
    remove_orphans,
    save,
)
from nearhash.service.engine.settings import Settings
from nearhash.service.engine.store import NewPoints, Position, SegmentEntry, Store

_ROWS_AT_ONCE = 4096
_MOST_CHECKED = 2_000_000  # ids that are compared with their rows when a collection is opened: about a second

Views = tuple[View, ...]
"""Sealed segments by their rows, then parts that are being sealed, then the buffer."""


class Change(NamedTuple):
    """What a write did: rows from `first` on were born with `new`, and some died."""

    first: int
    new: NewPoints | None
    died: Sequence[int]


def changed(views: Views, changes: Sequence[Change]) -> Views:
    """The views after writes; appends to the buffer, which is the last."""
    for change in changes:
        if len(change.died):
            died = np.sort(np.array(change.died, np.int64))
            views = tuple(view.without(died) for view in views)
        if change.new is not None:
            buffer = views[-1].part
            assert isinstance(buffer, Buffer)
            buffer.append(np.arange(change.first, change.first + len(change.new.ids)), change.new)
            views = (*views[:-1], views[-1].grown())
    return views


def frozen(views: Views, settings: Settings) -> Views:
    """The views with the buffer as a part to be sealed, and a new, empty one behind it."""
    return (*views, View(Buffer(settings), 0)) if len(views[-1].part) else views


def combined(views: Sequence[View], labels: int) -> Rows:
    """What belongs to the live rows of some views, in order."""
    chosen = [view.live_positions() for view in views]
    parts = [view.part for view in views]
    rows = [part.rows[own] for part, own in zip(parts, chosen, strict=True)]
    marks = [part.labels[:, own] for part, own in zip(parts, chosen, strict=True)]
    texts: list[str] = []
    codes = []
    for part, own in zip(parts, chosen, strict=True):
        some = part.codes[own]
        if (some < 0).any():
            some = encoded_ids([part.id_at(position) for position in own.tolist()], texts)
        codes.append(some)
    return Rows(
        np.concatenate(rows) if rows else np.empty(0, np.int64),
        np.concatenate(codes) if codes else np.empty(0, np.int64),
        TextTable.of(texts),
        np.ascontiguousarray(np.concatenate(marks, axis=1)) if marks else np.empty((labels, 0)),
    )


def replaced(views: Views, old: Sequence[View], part: Part | None) -> Views:
    """The views with a new part, made of what lived in the `old` ones, in their place; what died since stays dead."""
    present = {id(view.part): view for view in views}
    now = [present[id(view.part)] for view in old]
    gone = {id(view.part) for view in old}
    result = []
    for view in views:
        if id(view.part) not in gone:
            result.append(view)
        elif view.part is old[0].part and part is not None:
            alive = [
                np.ones(before.count, np.bool_) if after.live is None else after.live[before.live_positions()]
                for before, after in zip(old, now, strict=True)
            ]
            live = np.concatenate(alive)
            result.append(View(part, len(part), None if live.all() else live))
    return tuple(result)


class Loaded(NamedTuple):
    """A collection as it was found: its views, how far its store had come, and what had to be repaired."""

    views: Views
    position: Position
    recovered: list[str]


class OutdatedError(Exception):
    """The writer has replaced a segment, and removed its files, while a follower was opening it."""


def load_views(folder: Path, store: Store, threads: int, present: Views = (), read_only: bool = False) -> Loaded:
    """Open all segments and read the rest into a buffer.

    Segments that are damaged are made again from the store, and files that belong to none are removed. Parts of
    `present` that are still there are taken from it; it is given when another process has changed the segments.

    Raises
    ------
    CorruptCollectionError
        If the store itself is damaged.
    OutdatedError
        If the collection is only read and has changed meanwhile: try again.
    """
    settings, recovered = store.settings, []
    known = {view.part.entry: view.part for view in present if view.part.entry is not None}
    with store.reader() as connection:
        position = store.read_position(connection)
        entries = store.segments(connection)
        deaths = store.deaths(connection)
        _check_order(entries, position)
        views = []
        for entry in entries:
            part = known.get(entry)
            if part is None:
                try:
                    part = open_segment(folder, entry, settings, store.payloads)
                except (CorruptIndexError, OSError) as error:
                    if read_only and store.generation() != position.generation:
                        raise OutdatedError from error
                    recovered.append(f"segment {entry.number} was made again from the store: {error}")
                    part = rebuilt(folder, store, connection, entry, threads, keep=not read_only)
            views.append(View(part, len(part)).without(_between(deaths, entry.first_row, entry.last_row)))
        views.append(_read_buffer(store, connection, position, deaths))
        _check_ids(store, connection, views)
    if not read_only:
        orphans = remove_orphans(folder, [entry.number for entry in entries])
        recovered += [f"{name}: removed, as it belongs to no segment" for name in orphans]
    return Loaded(tuple(views), position, recovered)


def rebuilt(
    folder: Path, store: Store, connection: sqlite3.Connection, entry: SegmentEntry, threads: int, keep: bool = True
) -> Part:
    """A segment made again from the store; `keep`: its files, too."""
    rows = read_rows(store, connection, entry.first_row, entry.last_row)
    if len(rows.rows) != entry.size:
        raise CorruptCollectionError(
            f"{store.path}: segment {entry.number} has {entry.size} rows, the store has {len(rows.rows)} of them"
        )
    vectors = store.vectors(connection, rows.rows)
    options = store.settings.index_options if entry.kind == store.settings.index else {}
    index = make_index(entry.kind, store.settings.dim, store.settings.metric, options, threads)
    add_points(index, 0, vectors, rows.labels[0] if len(rows.labels) else None)
    if keep:
        save(folder, entry.number, index, rows)
    return as_part(index, entry, rows, store.payloads)


def newer(store: Store, connection: sqlite3.Connection, last: Position) -> list[Change]:
    """What other processes have written since a position, as one change: for stores that only read."""
    position = store.read_position(connection)
    died = store.deaths(connection, last.sequence)
    changes = []
    for first in range(last.next_row, position.next_row, _ROWS_AT_ONCE):
        stop = min(first + _ROWS_AT_ONCE, position.next_row)
        new = _new_points(store, connection, read_rows(store, connection, first, stop - 1))
        changes += [Change(int(row), one, ()) for row, one in new]
    return [*changes, Change(0, None, died.tolist())]


def _read_buffer(store: Store, connection: sqlite3.Connection, position: Position, deaths: NDArray[np.int64]) -> View:
    """A buffer of the rows that no segment holds."""
    views: Views = (View(Buffer(store.settings), 0),)
    for first in range(position.sealed_to + 1, position.next_row, _ROWS_AT_ONCE):
        stop = min(first + _ROWS_AT_ONCE, position.next_row)
        rows = read_rows(store, connection, first, stop - 1)
        alive = np.flatnonzero(~np.isin(rows.rows, deaths))
        for row, new in _new_points(store, connection, rows.take(alive)):
            views = changed(views, [Change(row, new, ())])
    return views[0]


def _new_points(store: Store, connection: sqlite3.Connection, rows: Rows) -> list[tuple[int, NewPoints]]:
    """Rows as points to be appended, in runs of consecutive ones."""
    if not len(rows.rows):
        return []
    vectors = store.vectors(connection, rows.rows)
    payloads = store.payloads_of(connection, rows.rows)
    ids = [code if code >= 0 else rows.texts[-2 - code] for code in rows.codes.tolist()]
    cuts = [0, *(np.flatnonzero(np.diff(rows.rows) > 1) + 1).tolist(), len(ids)]
    return [
        (int(rows.rows[a]), NewPoints(ids[a:b], rows.labels[:, a:b], payloads[a:b], vectors[a:b]))
        for a, b in pairwise(cuts)
    ]


def _between(rows: NDArray[np.int64], first: int, last: int) -> NDArray[np.int64]:
    return rows[np.searchsorted(rows, first) : np.searchsorted(rows, last, side="right")]


def _check_ids(store: Store, connection: sqlite3.Connection, views: Sequence[View]) -> None:
    """Every id leads to the row that has it, and every live row has an id: reads go by ids, searches by rows."""
    expected, found = store.count(connection), sum(view.count for view in views)
    if expected != found:
        raise CorruptCollectionError(f"{store.path}: {expected} ids, but {found} points live in its rows")
    if expected > _MOST_CHECKED:
        return
    listed = dict(connection.execute("SELECT row, id FROM ids"))
    for view in views:
        part, positions = view.part, view.live_positions()
        codes = part.codes[positions].tolist()
        for place, row, code in zip(positions.tolist(), part.rows[positions].tolist(), codes, strict=True):
            if listed.get(row) != (code if code >= 0 else part.id_at(place)):
                raise CorruptCollectionError(f"{store.path}: row {row} does not have the id that leads to it")


def _check_order(entries: Sequence[SegmentEntry], position: Position) -> None:
    before = 0
    for entry in entries:
        if not before < entry.first_row <= entry.last_row <= position.sealed_to:
            raise CorruptCollectionError(f"segment {entry.number}: rows out of order")
        before = entry.last_row
