"""`Collection`: durable points that can be searched while they change."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import (
    ClosedError,
    CollectionExistsError,
    CorruptCollectionError,
    InvalidArgumentError,
    NearhashError,
    ReadOnlyError,
    UnknownCollectionError,
)
from nearhash.index.arguments import as_float32, as_matrix, as_windows, check_count
from nearhash.index.base import Progress
from nearhash.index.predicate_json import parse_predicate
from nearhash.index.predicates import Predicate
from nearhash.index.tune import TunableIndex
from nearhash.index.tuned import check_recall
from nearhash.kernels.threads import resolve_threads
from nearhash.service.engine.commits import GroupCommit, Operation
from nearhash.service.engine.failpoints import reach
from nearhash.service.engine.identifiers import as_point_ids
from nearhash.service.engine.kinds import Workload
from nearhash.service.engine.live import Change, Loaded, OutdatedError, Views, changed, load_views, newer
from nearhash.service.engine.lock import DirectoryLock
from nearhash.service.engine.maintenance import Maintenance
from nearhash.service.engine.parts import Part, Wanted
from nearhash.service.engine.payloads import as_payloads
from nearhash.service.engine.requests import check_request_id
from nearhash.service.engine.results import Deleted, Found, Page, Point, PointId, Written
from nearhash.service.engine.searching import Effort, Neighbours, count_views, exact_views, search_views
from nearhash.service.engine.segments import FOLDER, disk_bytes, index_path
from nearhash.service.engine.settings import Settings
from nearhash.service.engine.snapshots import copy_collection, write_snapshot
from nearhash.service.engine.sqlite_store import sync_folder
from nearhash.service.engine.store import FILE, NewPoints, RowGoneError, Store, StoredPoint, Transaction
from nearhash.service.engine.write_state import WriteState

Filter = Predicate | Mapping[str, Any] | str
Event = Callable[[str, dict[str, Any]], None]
Answer = TypeVar("Answer")

_SETTINGS = ("dim", "metric", "labels", "index", "index_options", "seal_at")
_BUFFER_BYTES = 128 << 20  # of vectors in the buffer at which writes wait for it to be sealed


class Collection:
    """Points with ids, vectors, labels and payloads in a folder, durable when a write returns, searchable at once.

    Parameters
    ----------
    path : path
        The collection's folder.
    dim : int, optional
        Dimension of the vectors: makes the collection where there is none. Where there is one, all settings that are
        given must be its own.
    metric : {"l2", "ip", "cosine"}, optional
        By default "cosine". Distances are those of the indexes.
    labels : sequence of str
        Names of label fields: numbers beside each point, for windows. Indexes are ordered by the first of them.
    index : {"auto", "graph", "ivf", "window", "flat"}
        What sealed segments are. "auto": window where there are labels; graph, for large segments, and ivf otherwise.
    index_options : dict, optional
        Arguments of that index, such as ``{"degree": 64}``.
    seal_at : int, optional
        Points that the buffer, which is searched exactly, holds before it becomes a segment; by default 4 MB of them.
    threads : int, optional
        Threads for building segments, by default half of the cores.
    read_only : bool
        Follow a collection that another process writes to: each read sees all writes acknowledged before it.

    Raises
    ------
    LockedError
        Another process writes to it.
    UnknownCollectionError
        There is none, and `dim` is not given.
    CorruptCollectionError
        It is damaged beyond what can be made again; nothing has been changed.
    VersionError
        It was written by a newer release.

    Notes
    -----
    All methods may be called from many threads. Searches go on during writes and never see half of one. Writes that
    come at the same time are committed together. What was repaired on opening is in ``stats()["recovered"]``.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        dim: int | None = None,
        metric: str | None = None,
        labels: Sequence[str] | None = None,
        index: str | None = None,
        index_options: Mapping[str, Any] | None = None,
        seal_at: int | None = None,
        threads: int | None = None,
        read_only: bool = False,
    ) -> None:
        self._folder = Path(fspath(path)).absolute()
        self._read_only = read_only
        self._build_threads = max(1, resolve_threads(None) // 2) if threads is None else resolve_threads(threads)
        self.on_event: Event | None = None
        given = _given(dim, metric, labels, index, index_options, seal_at)
        self._closed = False
        self._writes = WriteState(self._folder, lambda reason: self._event("stopped", {"reason": reason}))
        if read_only:
            if not (self._folder / FILE).is_file():
                raise UnknownCollectionError(f"{self._folder}: no collection here")
            self._lock = None
        else:
            self._lock = _locked(self._folder, given)
        try:
            self._store = Store(self._folder, read_only)
            try:
                self._settings = self._store.settings
                _check_agree(self._folder, self._settings, given)
                self._open()
            except BaseException:
                self._store.close()
                raise
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise

    def _open(self) -> None:
        loaded = self._loaded(())
        self._views: Views = loaded.views
        self._seen = loaded.position
        self._version = self._store.data_version() if self._read_only else -1
        self._recovered = loaded.recovered
        self._tunings = _read_tunings(self._store.read_meta("tunings"), self._settings.dim)
        self._publishing = threading.Lock()  # held from a commit until searches see it
        self._refreshing = threading.Lock()
        self._files = threading.Lock()  # held while files of segments are removed, or copied
        self._commits = GroupCommit(self._commit)
        self._workload = Workload()
        self._maintenance = Maintenance(self)
        if not self._read_only:
            self._maintenance.start()

    # --- facts ---

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self._folder.name

    @property
    def path(self) -> Path:
        return self._folder

    @property
    def dim(self) -> int:
        return self._settings.dim

    @property
    def metric(self) -> str:
        return self._settings.metric

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._settings.labels

    @property
    def state(self) -> str:
        """ "ok", or why writes are refused."""
        if self._read_only:
            return "read-only"
        return self._writes.state

    def settings(self) -> dict[str, Any]:
        """What the collection was made with, ready for JSON."""
        return self._settings.document()

    def check_settings(self, **given: Any) -> None:
        """Raise InvalidArgumentError unless these settings, where they are not None, are those of the collection."""
        _check_agree(self._folder, self._settings, _given(**{**dict.fromkeys(_SETTINGS), **given}))

    def __len__(self) -> int:
        return sum(view.count for view in self._current())

    def __repr__(self) -> str:
        return f"Collection({str(self._folder)!r})"

    # --- write ---

    def upsert(
        self,
        ids: Any,
        vectors: ArrayLike,
        labels: ArrayLike | Mapping[str, ArrayLike] | None = None,
        payloads: Sequence[Mapping[str, Any] | bytes | str | None] | None = None,
        *,
        request_id: str | None = None,
    ) -> Written:
        """Insert points, and replace those whose ids are there: vector, labels and payload together.

        Parameters
        ----------
        ids : (n,) integers >= 0, texts of 1 to 512 bytes, or both
            Distinct.
        vectors : (n, dim) or (dim,) array of a float or integer dtype
            Stored as float32.
        labels : (n,) numbers, or dict of label name to (n,) numbers, optional
            Without a name those of the first label field. NaN: no label, which no window holds.
        payloads : (n,) of dicts, JSON objects or None, optional
        request_id : str, optional
            At most 128 bytes. A request whose id was carried out before is not carried out again: its answer is given
            once more. The last 10,000 are remembered.

        Returns
        -------
        Written
            When it returns, the points are on the disk and in every later search.

        Raises
        ------
        InvalidArgumentError
            And its subclasses; nothing has been written.
        StorageError
            The disk is full or has failed. If it has failed, it is not known whether this write survives.
        """
        self._check_writable()
        own = as_point_ids(ids)
        rows = as_float32(as_matrix(vectors, self.dim, "vectors"), "vectors")
        if len(rows) != len(own):
            raise InvalidArgumentError(f"ids: expected {len(rows)}, one for each vector, got {len(own)}")
        new = NewPoints(own, self._as_labels(labels, len(own)), as_payloads(payloads, len(own)), rows.copy())
        self._await_room()

        def carry_out(transaction: Transaction) -> tuple[Written, Change | None]:
            known = transaction.answer_of(request_id, "upsert")
            if known is not None:
                return Written(*known), None
            first, dead = transaction.upsert(new)
            answer = Written(len(own), len(dead), transaction.position.sequence)
            transaction.remember(request_id, "upsert", answer)
            return answer, Change(first, new, dead)

        check_request_id(request_id)
        return self._submit(carry_out)

    def delete(self, ids: Any, *, request_id: str | None = None) -> Deleted:
        """Delete points by id; ids that are not there are ignored. Arguments, errors and promise as for `upsert`."""
        self._check_writable()
        own = as_point_ids(ids)
        check_request_id(request_id)

        def carry_out(transaction: Transaction) -> tuple[Deleted, Change | None]:
            known = transaction.answer_of(request_id, "deletion")
            if known is not None:
                return Deleted(*known), None
            dead = transaction.delete(own)
            answer = Deleted(len(dead), transaction.position.sequence)
            transaction.remember(request_id, "deletion", answer)
            return answer, Change(0, None, dead)

        return self._submit(carry_out)

    def _submit(self, carry_out: Callable[[Transaction], tuple[Answer, Change | None]]) -> Answer:
        answer: Answer = self._commits.submit(Operation(carry_out))
        self._maintenance.notify()
        return answer

    def _commit(self, operations: Sequence[Operation[Any]]) -> None:
        """Carry out operations in one transaction and show them to searches."""
        self._check_writable()
        with self._writes.committing() as commit:
            with self._store.write() as transaction:
                changes = []
                for operation in operations:
                    carried_out = operation.run(transaction)
                    if carried_out is not None:
                        operation.answer, change = carried_out
                        if change is not None:
                            changes.append(change)
                with self._publishing:
                    transaction.commit()
                    commit.durable = True
                    self._views = changed(self._views, changes)
            reach("commit.published")

    def _await_room(self) -> None:
        """Hold a write back while the buffer grows faster than segments are built."""
        most = max(4 * self._settings.seal_at, _BUFFER_BYTES // (4 * self.dim))
        while self._unsealed_rows() > most and self._writes.stopped is None and not self._closed:
            if not self._maintenance.busy and self._maintenance.last_error is not None:
                return  # it may never be sealed; the disk has what matters
            time.sleep(0.01)

    def _unsealed_rows(self) -> int:
        return sum(len(view.part) for view in self._views if view.part.entry is None)

    def _as_labels(self, labels: ArrayLike | Mapping[str, ArrayLike] | None, count: int) -> NDArray[np.float64]:
        """(f, n) float64, NaN where there is none."""
        names = self._settings.labels
        matrix = np.full((len(names), count), np.nan)
        if labels is None:
            return matrix
        if not names:
            raise InvalidArgumentError("labels: expected none, as the collection was made without label fields")
        given = labels if isinstance(labels, Mapping) else {names[0]: labels}
        for name, values in given.items():
            if name not in names:
                raise InvalidArgumentError(f"labels: expected {', '.join(names)}, got {name!r:.80}")
            try:
                column = np.asarray(values)
                if column.dtype.kind == "M":
                    column = column.astype("datetime64[us]").astype(np.int64)
                floats = np.atleast_1d(column).astype(np.float64)
            except (TypeError, ValueError) as error:
                raise InvalidArgumentError(f"labels[{name!r}]: expected numbers, got {values!r:.80}") from error
            if column.dtype.kind not in "fiu" or floats.shape != (count,):
                raise InvalidArgumentError(
                    f"labels[{name!r}]: expected {count} numbers, one for each point, got shape {floats.shape} of "
                    f"{column.dtype}"
                )
            if column.dtype.kind in "iu" and (floats.astype(column.dtype) != np.atleast_1d(column)).any():
                raise InvalidArgumentError(f"labels[{name!r}]: expected integers that float64 holds, up to 2**53")
            matrix[names.index(name)] = floats
        return matrix

    # --- read ---

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        filter: Filter | None = None,
        *,
        window_label: str | None = None,
        recall: float | None = None,
        payloads: bool = False,
        vectors: bool = False,
        threads: int | None = None,
        **effort: Any,
    ) -> Found:
        """The k nearest points of each query.

        Parameters
        ----------
        queries : (q, dim) or (dim,) array of a float or integer dtype
        k : int
            Results per query; exactly min(k, matches) are found.
        window : (lo, hi) or (q, 2), optional
            Only points with lo <= label < hi.
        filter : predicate of `nearhash.where`, or its JSON as text or dict, optional
            Only points whose payload satisfies it.
        window_label : str, optional
            Label field that the window speaks of, by default the first.
        recall : float, optional
            Instead of an effort: that which `tune` found for such a recall.
        payloads, vectors : bool
            Whether the answer brings them.
        threads : int, optional
            By default all cores. The result does not depend on it.
        **effort
            As for the indexes: `beam` (graph, window), `probes` (ivf), `rerank`. Kinds that do not know one ignore it.

        Returns
        -------
        Found
            Ids, distances and what else was asked for; ties in the order in which points were written.
        """
        matrix = as_matrix(queries, self.dim, "queries")
        k = check_count(k, "k")
        thoroughness = Effort(effort, recall)
        thoroughness.check()
        predicate = _predicate(filter)
        self._workload.note(len(matrix))

        def answer(views: Views) -> Found:
            found = self._nearest(views, matrix, k, window, window_label, predicate, thoroughness, threads)
            return self._found(views, found, payloads, vectors)

        return self._answered(answer)

    def _nearest(
        self,
        views: Views,
        queries: NDArray[np.float32],
        k: int,
        window: ArrayLike | None,
        window_label: str | None,
        predicate: Predicate | None,
        effort: Effort,
        threads: int | None,
    ) -> Neighbours:
        wanted = Wanted(predicate)
        number = self._label_number(window, window_label)
        if window is None:
            return search_views(views, queries, k, None, wanted, effort, threads)
        windows = as_windows(window, len(queries))
        if number == 0:
            return search_views(views, queries, k, windows, wanted, effort, threads)
        # Indexes know the first label only: for others, one search for each window.
        distinct, which = np.unique(windows, axis=0, return_inverse=True)
        shape = (len(queries), k)
        origins, positions = np.full(shape, -1), np.full(shape, -1)
        distances = np.full(shape, np.inf, np.float32)
        for turn, (lo, hi) in enumerate(distinct.tolist()):
            own = np.flatnonzero(which.reshape(-1) == turn)
            bounded = wanted._replace(bounds=((number, lo, hi),))
            some = search_views(views, queries[own], k, None, bounded, effort, threads)
            origins[own], positions[own], distances[own] = some
        return Neighbours(origins, positions, distances)

    def _label_number(self, window: ArrayLike | None, label: str | None) -> int:
        names = self._settings.labels
        if label is not None and label not in names:
            raise InvalidArgumentError(f"window_label: expected one of {', '.join(names) or 'none'}, got {label!r:.80}")
        if window is not None and not names:
            raise InvalidArgumentError("window: expected none, as the collection was made without label fields")
        return 0 if label is None else names.index(label)

    def _found(self, views: Views, found: Neighbours, payloads: bool, vectors: bool) -> Found:
        positions = found.positions
        if isinstance(found.views, int) and positions.size and positions.min() >= 0 and not (payloads or vectors):
            part = views[found.views].part
            if not len(part.texts):  # what most searches find
                return Found(part.codes[positions], found.distances)
        missing = positions < 0
        codes = np.full(positions.shape, -1, np.int64)
        rows = np.full(positions.shape, -1, np.int64)
        texts: list[tuple[NDArray[np.bool_], Part]] = []
        for number in [found.views] if isinstance(found.views, int) else np.unique(found.views).tolist():
            part = views[number].part
            if not len(part):
                continue
            here = ~missing if isinstance(found.views, int) else (found.views == number) & ~missing
            codes[here] = part.codes[positions[here]]
            if payloads or vectors:
                rows[here] = part.rows[positions[here]]
            if len(part.texts):
                texts.append((here & (codes < -1), part))
        ids: NDArray[Any] = codes
        if any(here.any() for here, _ in texts):
            ids = codes.astype(object)
            ids[missing] = None
            for here, part in texts:
                ids[here] = [part.texts[-2 - code] for code in codes[here].tolist()]
        return Found(
            ids,
            found.distances,
            self._payloads_of(rows) if payloads else None,
            self._vectors_of(rows) if vectors else None,
        )

    def _payloads_of(self, rows: NDArray[np.int64]) -> list[list[dict[str, Any] | None]]:
        distinct = np.unique(rows[rows >= 0])
        texts = self._store.payloads(distinct)
        known = {row: _parsed(text) for row, text in zip(distinct.tolist(), texts, strict=True)}
        return [[known.get(row) for row in own] for own in rows.tolist()]

    def _vectors_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        distinct, which = np.unique(rows[rows >= 0], return_inverse=True)
        result = np.zeros((*rows.shape, self.dim), np.float32)
        with self._store.reader() as connection:
            result[rows >= 0] = self._store.vectors(connection, distinct)[which]
        return result

    def exact(self, queries: ArrayLike, k: int = 10, *, threads: int | None = 1) -> Found:
        """The k nearest points of each query by measuring all: what `search` is compared with.

        Takes as long as reading all vectors does.
        """
        matrix = as_matrix(queries, self.dim, "queries")
        k = check_count(k, "k")
        views = self._current()
        return self._found(views, exact_views(views, matrix, k, threads), False, False)

    def get(self, ids: Any, *, vectors: bool = False, payloads: bool = True) -> list[Point | None]:
        """Points by id, in the order of the ids; None where there is none.

        Vectors are as they were given, in float32.
        """
        self._check_open()
        own = as_point_ids(ids)
        with self._store.reader() as connection:
            rows = self._store.rows_of(connection, own)
            return [self._point(connection, rows[one], vectors, payloads) if one in rows else None for one in own]

    def _point(self, connection: Any, row: int, vectors: bool, payloads: bool) -> Point:
        stored = self._store.point(connection, row)
        if stored is None:
            raise CorruptCollectionError(f"{self._folder}: an id leads to row {row}, which is missing")
        vector = self._store.vectors(connection, np.array([row]))[0] if vectors else None
        return Point(stored.id, self._labels_of(stored), _parsed(stored.payload) if payloads else None, vector)

    def _labels_of(self, stored: StoredPoint) -> dict[str, float]:
        values = zip(self._settings.labels, stored.labels.tolist(), strict=False)
        return {name: value for name, value in values if value == value}

    def count(
        self,
        window: tuple[float, float] | None = None,
        filter: Filter | None = None,
        *,
        window_label: str | None = None,
    ) -> int:
        """How many points match, or how many there are."""
        wanted = Wanted(_predicate(filter))
        number = self._label_number(window, window_label)
        if window is not None:
            (lo, hi) = as_windows(window, 1)[0].tolist()
            wanted = wanted._replace(bounds=((number, lo, hi),))
        return self._answered(lambda views: count_views(views, None, wanted))

    def scroll(
        self,
        filter: Filter | None = None,
        window: tuple[float, float] | None = None,
        *,
        window_label: str | None = None,
        page_size: int = 1000,
        vectors: bool = False,
        payloads: bool = True,
        cursor: str | None = None,
    ) -> Iterator[Page]:
        """All points, or those that match, in pages by id: numbers first, then texts.

        Points that are there from beginning to end come exactly once, whatever is written meanwhile. `cursor`: that of
        the page after which to go on.
        """
        self._check_open()
        page_size = check_count(page_size, "page_size", most=1_000_000)
        predicate, number = _predicate(filter), self._label_number(window, window_label)
        bounds: tuple[tuple[int, float, float], ...] = ()
        if window is not None:
            lo, hi = as_windows(window, 1)[0].tolist()
            bounds = ((number, lo, hi),)
        after = _cursor_id(cursor)
        wanted = Wanted(predicate, bounds)

        def pages() -> Iterator[Page]:
            last = after
            while True:
                points, last, more = self._page(last, page_size, wanted, vectors, payloads)
                if points:
                    yield Page(points, json.dumps(last))
                if not more:
                    return

        return pages()

    def _page(
        self, after: PointId | None, size: int, wanted: Wanted, vectors: bool, payloads: bool
    ) -> tuple[list[Point], PointId | None, bool]:
        """Up to so many points that match after an id, the last id looked at, and whether there may be more."""
        with self._consistent() as (connection, views):
            listed = self._store.page(connection, after, size)
            chosen = listed
            if not wanted.everything:
                rows = np.array([row for _, row in listed], np.int64)
                passing = np.zeros(len(rows), np.bool_)
                for view in views:
                    if view.count and len(rows):
                        order = np.argsort(rows)
                        matches = view.part.rows[: view.size][view.matching(wanted)]
                        passing |= np.isin(rows, matches, assume_unique=True) if len(order) else False
                chosen = [one for one, passes in zip(listed, passing.tolist(), strict=True) if passes]
            points = [self._point(connection, row, vectors, payloads) for _, row in chosen]
        return points, listed[-1][0] if listed else after, len(listed) == size

    # --- search effort ---

    def tune(self, queries: ArrayLike, k: int = 10, recall: float = 0.95, progress: Progress | None = None) -> None:
        """Find, for each segment, the cheapest effort that reaches a recall; ``search(..., recall=...)`` uses it.

        The queries, 1,000 at most, are kept in the collection, so that segments made later are tuned as well.

        Parameters
        ----------
        queries : (q, dim) array
            Typical queries, not vectors of the collection.
        k : int
        recall : float
            Between 0 and 1, both excluded.
        """
        self._check_writable()
        matrix = as_float32(as_matrix(queries, self.dim, "queries"), "queries")
        k, recall = check_count(k, "k"), check_recall(recall)
        if not 1 <= len(matrix) <= 1000:
            raise InvalidArgumentError(f"queries: expected 1 to 1,000, got {len(matrix)}")
        others = [one for one in self._tunings if one[1:] != (k, recall)]
        self._tunings = [*others, (matrix.copy(), k, recall)]
        with self._commits.writing, self._store.write() as transaction:
            transaction.set_meta("tunings", _tunings_text(self._tunings))
        segments = [view.part for view in self._views if isinstance(view.part.index, TunableIndex)]
        for done, part in enumerate(segments):
            assert isinstance(part.index, TunableIndex)
            part.index.tune(matrix, k, recall)
            with self._files:
                if part.entry is not None and index_path(self._folder, part.entry.number).exists():
                    part.index.save(index_path(self._folder, part.entry.number))
            if progress is not None:
                progress(done + 1, len(segments))

    # --- upkeep ---

    def seal(self, progress: Progress | None = None) -> bool:
        """Make a segment of the buffer now, and wait for it; returns whether there was anything in it."""
        self._check_writable()
        return self._maintenance.seal(progress=progress)

    def compact(self, progress: Progress | None = None) -> None:
        """Make one segment of everything, give back the space of what was deleted, and wait for it."""
        self._check_writable()
        self._maintenance.compact(progress)

    def snapshot(self, target: str | PathLike[str]) -> Path:
        """Copy the collection, as it is at one moment, to a new folder, which is itself a collection.

        Reads and writes go on meanwhile. The folder appears whole or not at all.
        """
        folder = Path(fspath(target)).absolute()
        if folder.exists():
            raise CollectionExistsError(f"{folder}: expected a folder that does not exist yet")
        with self._files, self._consistent() as (connection, _):
            write_snapshot(self._folder, self._store, connection, folder)
        return folder

    @staticmethod
    def restore(source: str | PathLike[str], path: str | PathLike[str], **options: Any) -> Collection:
        """Make a collection of a snapshot, which stays as it is, and open it."""
        origin, folder = Path(fspath(source)).absolute(), Path(fspath(path)).absolute()
        if not (origin / FILE).is_file():
            raise UnknownCollectionError(f"{origin}: no snapshot here")
        if folder.exists():
            raise CollectionExistsError(f"{folder}: expected a folder that does not exist yet")
        copy_collection(origin, folder)
        return Collection(folder, **options)

    def stats(self) -> dict[str, Any]:
        """Facts about the collection, ready for JSON."""
        views, maintenance, position = self._current(), self._maintenance, self._store.position
        segments = [
            {
                "number": view.part.entry.number,
                "kind": view.part.kind,
                "size": view.count,
                "deleted": view.dead,
                "nbytes": view.part.nbytes,
            }
            for view in views
            if view.part.entry is not None
        ]
        return {
            "name": self.name,
            **self._settings.document(),
            "size": sum(view.count for view in views),
            "buffer": sum(view.count for view in views if view.part.entry is None),
            "deleted": sum(view.dead for view in views),
            "sequence": self._seen.sequence if self._read_only else position.sequence,
            "state": self.state,
            "segments": segments,
            "nbytes": sum(view.part.nbytes for view in views),
            "disk_bytes": disk_bytes(self._folder),
            "wal_bytes": self._store.log_bytes,
            "pending_writes": self._commits.pending,
            "background": {
                **maintenance.state(),
                "seals": maintenance.seals,
                "merges": maintenance.merges,
                "checkpoints": maintenance.checkpoints,
                "last_error": maintenance.last_error,
            },
            "recovered": list(self._recovered),
        }

    def info(self) -> dict[str, Any]:
        """As that of an index: what is searched."""
        return {"kind": "collection", **self.stats()}

    def close(self) -> None:
        """End background work, wait for reads and writes that are under way, and give the collection to others."""
        if self._closed:
            return
        self._closed = True
        self._maintenance.stop()
        with self._commits.writing:
            self._store.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- what searches see ---

    def _current(self) -> Views:
        """The views of this moment; a follower first takes over what has been written."""
        self._check_open()
        if self._read_only:
            self._refresh()
        return self._views

    def _answered(self, answer: Callable[[Views], Answer]) -> Answer:
        """What the views of this moment answer; anew where rows that they show have left the store meanwhile."""
        while True:
            views = self._current()
            try:
                return answer(views)
            except RowGoneError:
                with self._publishing:  # or what is on the disk already could still be missing from the views
                    if self._current() is views:  # nothing was written: the rows should be there
                        raise

    @contextmanager
    def _consistent(self) -> Iterator[tuple[Any, Views]]:
        """A read transaction of the store and the views that belong to it."""
        with ExitStack() as stack:
            yield self._begun(stack)

    def _begun(self, stack: ExitStack) -> tuple[Any, Views]:
        """The same, until the stack is left."""
        while True:
            self._current()
            with self._refreshing if self._read_only else self._publishing, ExitStack() as attempt:
                connection = attempt.enter_context(self._store.reader())
                position = self._store.read_position(connection)  # what it sees is fixed by its first read
                if not self._read_only or position == self._seen:  # else more has been written since we looked
                    stack.push(attempt.pop_all())
                    return connection, self._views

    def _refresh(self) -> None:
        if self._store.data_version() == self._version:
            return
        with self._refreshing:
            version = self._store.data_version()
            if version == self._version:
                return
            with self._store.reader() as connection:
                position = self._store.read_position(connection)
                if position.generation == self._seen.generation:
                    self._views = changed(self._views, newer(self._store, connection, self._seen))
                    self._seen, self._version = position, version
                    return
            loaded = self._loaded(self._views)
            self._views, self._seen, self._version = loaded.views, loaded.position, version

    def _loaded(self, present: Views) -> Loaded:
        while True:
            try:
                return load_views(self._folder, self._store, self._build_threads, present, self._read_only)
            except OutdatedError:
                continue

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._folder}: the collection was closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._read_only:
            raise ReadOnlyError(f"{self._folder}: opened for reading only")
        self._writes.check()

    def _event(self, kind: str, detail: dict[str, Any]) -> None:
        if self.on_event is not None:
            self.on_event(kind, {"collection": self.name, **detail})


# --- arguments ---


def _given(
    dim: int | None,
    metric: str | None,
    labels: Sequence[str] | None,
    index: str | None,
    index_options: Mapping[str, Any] | None,
    seal_at: int | None,
) -> dict[str, Any]:
    options = None if index_options is None else dict(index_options)
    given = {
        "dim": dim,
        "metric": metric,
        "labels": labels,
        "index": index,
        "index_options": options,
        "seal_at": seal_at,
    }
    return {name: value for name, value in given.items() if value is not None}


def _locked(folder: Path, given: dict[str, Any]) -> DirectoryLock:
    """The lock of a collection, which is made if there is none and its dimension is given."""
    if not (folder / FILE).is_file():
        if "dim" not in given:
            raise UnknownCollectionError(f"{folder}: no collection here; to make one, give its dim")
        settings = Settings.checked(**given)
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(folder)
        try:
            if not (folder / FILE).is_file():
                Store.create(folder, settings)
                sync_folder(folder.parent)
        except BaseException:
            lock.release()
            raise
        return lock
    (folder / FOLDER).mkdir(exist_ok=True)
    return DirectoryLock(folder)


def _check_agree(folder: Path, settings: Settings, given: dict[str, Any]) -> None:
    """Settings that were given are those of the collection."""
    if "labels" in given:
        given = {**given, "labels": list(given["labels"])}
    own = settings.document()
    for name, value in given.items():
        if own[name] != value:
            raise InvalidArgumentError(f"{name}: the collection in {folder} has {own[name]!r}, got {value!r:.80}")


def _predicate(filter: Filter | None) -> Predicate | None:
    if filter is None or isinstance(filter, Predicate):
        return filter
    if isinstance(filter, str):
        return parse_predicate(filter)
    if isinstance(filter, Mapping):
        try:
            return parse_predicate(json.dumps(filter))
        except (TypeError, ValueError, RecursionError) as error:
            if isinstance(error, NearhashError):
                raise
            raise InvalidArgumentError(f"filter: expected what JSON can hold: {error}") from error
    raise InvalidArgumentError(f"filter: expected a predicate of nearhash.where or its JSON, got {filter!r:.80}")


def _parsed(payload: bytes | None) -> dict[str, Any] | None:
    return None if payload is None else json.loads(payload)


def _cursor_id(cursor: str | None) -> PointId | None:
    if not cursor:
        return None
    try:
        one = json.loads(cursor)
    except ValueError:
        one = None
    if type(one) not in (int, str):
        raise InvalidArgumentError(f"cursor: expected one that a page had, got {cursor!r:.80}")
    return as_point_ids([one], "cursor")[0]


def _tunings_text(tunings: Iterable[tuple[NDArray[np.float32], int, float]]) -> str:
    return json.dumps(
        [{"queries": queries.tobytes().hex(), "k": k, "recall": recall} for queries, k, recall in tunings]
    )


def _read_tunings(text: str | None, dim: int) -> list[tuple[NDArray[np.float32], int, float]]:
    return [
        (np.frombuffer(bytes.fromhex(one["queries"]), np.float32).reshape(-1, dim).copy(), one["k"], one["recall"])
        for one in json.loads(text or "[]")
    ]
