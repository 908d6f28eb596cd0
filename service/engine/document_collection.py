"""`DocumentCollection`: durable sketches of documents that tell which others are nearly the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from nearhash.errors import ClosedError, InvalidArgumentError, UnknownCollectionError
from nearhash.hashing.banding import check_similarity
from nearhash.hashing.sketches import Sketches
from nearhash.index.arguments import check_count
from nearhash.index.base import Progress
from nearhash.index.locks import ReadWriteLock
from nearhash.kernels.threads import resolve_threads
from nearhash.service.engine.commits import GroupCommit, Operation
from nearhash.service.engine.document_settings import DocumentSettings
from nearhash.service.engine.document_stage import Stage, split
from nearhash.service.engine.document_store import FILE, DocumentStore
from nearhash.service.engine.failpoints import reach
from nearhash.service.engine.identifiers import as_point_ids
from nearhash.service.engine.lock import DirectoryLock
from nearhash.service.engine.requests import check_request_id
from nearhash.service.engine.results import Checked, Deleted, Duplicates, PointId, Written, id_array
from nearhash.service.engine.segments import disk_bytes
from nearhash.service.engine.sqlite_store import sync_folder
from nearhash.service.engine.write_state import WriteState

MAX_LIMIT = 10_000
_LONG_LOG = 16 << 20  # bytes at which the log is merged into the database


class DocumentCollection:
    """Near-duplicates of documents: MinHash sketches by id in a folder, durable when a write returns.

    Parameters
    ----------
    path : path
        The collection's folder.
    threshold : float, optional
        Jaccard similarity from which on documents are duplicates: makes the collection where there is none. Where there
        is one, all settings that are given must be its own.
    k, method, bits, seed, bands, rows, ngram, unit : optional
        See `MinHashLSH`; ``method="affine32"``, which takes no texts, is not among the methods.
    threads : int, optional
        By default all cores; no result depends on it.
    progress : callable, optional
        Called with (documents read, documents in all) while the collection is opened.

    Raises
    ------
    LockedError
        Another process has it open.
    UnknownCollectionError
        There is none, and `threshold` is not given.
    CorruptCollectionError
        It is damaged; nothing has been changed.
    VersionError
        It was written by a newer release.

    Notes
    -----
    The texts themselves are not kept. Sketches and their index are in memory, about ``4 k + 10.5 bands + 150`` bytes a
    document at 32 bits; the index is made anew when the collection is opened. All methods may be called from many
    threads; writes that come at the same time are committed together.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        threshold: float | None = None,
        k: int | None = None,
        method: str | None = None,
        bits: int | None = None,
        seed: int | None = None,
        bands: int | None = None,
        rows: int | None = None,
        ngram: int | None = None,
        unit: str | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._folder = Path(fspath(path)).absolute()
        self._threads = None if threads is None else resolve_threads(threads)
        self.on_event: Callable[[str, dict[str, Any]], None] | None = None
        self._closed = False
        self._writes = WriteState(self._folder, lambda reason: self._event("stopped", {"reason": reason}))
        given = _given(
            threshold=threshold,
            k=k,
            method=method,
            bits=bits,
            seed=seed,
            bands=bands,
            rows=rows,
            ngram=ngram,
            unit=unit,
        )
        self._lock = _locked(self._folder, given)
        try:
            self._store = DocumentStore(self._folder)
            try:
                self._settings = self._store.settings
                self.check_settings(**given)
                self._load(progress)
            except BaseException:
                self._store.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def _load(self, progress: Progress | None) -> None:
        self._form = self._settings.sketch([])
        self._index = self._settings.make_index(self._threads)
        self._names: dict[int, PointId] = {}
        self._publishing = ReadWriteLock()
        self._commits = GroupCommit(self._commit)
        values = self._form.values
        width = values.dtype.itemsize * values.shape[1]
        for some in self._store.documents(width):
            rows = np.frombuffer(some.sketches, values.dtype).reshape(-1, values.shape[1])
            self._index.add(Sketches(rows, self._form.header), some.numbers)
            self._names.update(zip(some.numbers.tolist(), some.ids, strict=True))
            if progress is not None:
                progress(len(self._names), self._store.position.next_number - 1)

    # --- facts ---

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self._folder.name

    @property
    def path(self) -> Path:
        return self._folder

    @property
    def state(self) -> str:
        """ "ok", or why writes are refused."""
        return self._writes.state

    def settings(self) -> dict[str, Any]:
        """What the collection was made with, ready for JSON."""
        return self._settings.document()

    def check_settings(self, **given: Any) -> None:
        """Raise InvalidArgumentError unless these settings, where they are not None, are those of the collection."""
        own = self._settings.document()
        for name, value in _given(**given).items():
            if name not in own:
                raise InvalidArgumentError(f"settings: expected {', '.join(own)}, got {name!r:.80}")
            if own[name] != value:
                raise InvalidArgumentError(
                    f"{name}: the collection in {self._folder} has {own[name]!r}, got {value!r:.80}"
                )

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"DocumentCollection({str(self._folder)!r})"

    def sketch(self, texts: Sequence[str] | Sequence[bytes]) -> Sketches:
        """Sketches of texts as this collection takes them."""
        return self._settings.sketch(texts, self._threads)

    # --- write ---

    def upsert(
        self,
        ids: Any,
        texts: Sequence[str] | Sequence[bytes] | None = None,
        *,
        sketches: Sketches | None = None,
        request_id: str | None = None,
    ) -> Written:
        """Insert documents, and replace those whose ids are there.

        Parameters
        ----------
        ids : (n,) integers >= 0, texts of 1 to 512 bytes, or both
            Distinct.
        texts : (n,) texts, optional
            Either these or sketches.
        sketches : Sketches of n sets, optional
            Made as the collection makes them, see `sketch`.
        request_id : str, optional
            At most 128 bytes. A request whose id was carried out before is not carried out again: its answer is given
            once more. The last 10,000 are remembered.

        Raises
        ------
        InvalidArgumentError
            And its subclasses, SketchMismatchError among them; nothing has been written.
        StorageError
            The disk is full or has failed. If it has failed, it is not known whether this write survives.
        """
        self._check_writable()
        own, rows = self._documents(ids, texts, sketches)

        def carry_out(stage: Stage) -> Written:
            replaced = stage.put(own, rows)
            return Written(len(own), replaced, stage.transaction.count_write())

        return Written(*self._submit("upsert", carry_out, request_id))

    def delete(self, ids: Any, *, request_id: str | None = None) -> Deleted:
        """Delete documents by id; ids that are not there are ignored. Arguments and errors as for `upsert`."""
        self._check_writable()
        own = as_point_ids(ids)

        def carry_out(stage: Stage) -> Deleted:
            return Deleted(stage.drop(own), stage.transaction.count_write())

        return Deleted(*self._submit("deletion", carry_out, request_id))

    def check_and_add(
        self,
        ids: Any,
        texts: Sequence[str] | Sequence[bytes] | None = None,
        *,
        sketches: Sketches | None = None,
        threshold: float | None = None,
        limit: int = 10,
        request_id: str | None = None,
    ) -> Checked:
        """Add those documents that are new: that resemble none in the collection, and none that was added before them.

        No other write comes in between, so that of equal documents which several callers bring at once, one is added.
        A document whose id is there is not added either, whatever it resembles, and that id is among its duplicates.

        Parameters
        ----------
        ids, texts, sketches, request_id
            As for `upsert`.
        threshold : float, optional
            By default that of the collection, see `find`.
        limit : int
            Duplicates to name of each document, at most.

        Raises
        ------
        InvalidArgumentError, StorageError
            As for `upsert`.
        """
        self._check_writable()
        own, rows = self._documents(ids, texts, sketches)
        least, limit = _checked_query(threshold, limit)

        def carry_out(stage: Stage) -> list[Any]:
            verdict = stage.check(own, rows, least, limit)
            return [verdict.added.tolist(), verdict.duplicates, stage.transaction.count_write()]

        added, duplicates, sequence = self._submit("check", carry_out, request_id)
        return Checked(np.array(added, np.bool_), _duplicates(duplicates), sequence)

    def _submit(self, kind: str, carry_out: Callable[[Stage], Sequence[Any]], request_id: str | None) -> Sequence[Any]:
        check_request_id(request_id)

        def once(stage: Stage) -> Sequence[Any]:
            known = stage.transaction.answer_of(request_id, kind)
            if known is not None:
                return known
            answer = carry_out(stage)
            stage.transaction.remember(request_id, kind, answer)
            return answer

        return self._commits.submit(Operation[Sequence[Any]](once))

    def _commit(self, operations: Sequence[Operation[Any]]) -> None:
        """Carry out operations in one transaction and show them to queries."""
        self._check_writable()
        with self._writes.committing() as commit:
            with self._store.write() as transaction:
                stage = Stage(transaction, self._index, self._names, self._settings, self._threads)
                for operation in operations:
                    operation.answer = operation.run(stage)
                transaction.commit()
                commit.durable = True
            with self._publishing.write():
                stage.publish()
            reach("commit.published")
            if self._store.log_bytes > _LONG_LOG:  # at most once in so many bytes: cheaper than a thread for it
                self._store.checkpoint(truncate=True)

    # --- read ---

    def find(
        self,
        texts: Sequence[str] | Sequence[bytes] | None = None,
        *,
        sketches: Sketches | None = None,
        threshold: float | None = None,
        limit: int = 10,
    ) -> Duplicates:
        """Documents of the collection that resemble each of some texts.

        Parameters
        ----------
        texts, sketches
            As for `upsert`.
        threshold : float, optional
            Least similarity, by default that of the collection. One far below it finds little more: the bands of the
            index are made for that of the collection.
        limit : int
            Documents to name for each text, at most; the most similar ones.

        Raises
        ------
        InvalidArgumentError
            And its subclasses.
        """
        self._check_open()
        rows = self._sketches(texts, sketches)
        least, limit = _checked_query(threshold, limit)
        with self._publishing.read():
            return _duplicates(
                [
                    [(self._names[number], similarity) for number, similarity in similar[:limit]]
                    for similar in split(self._index.query(rows, least, threads=self._threads))
                ]
            )

    # --- upkeep ---

    def compact(self) -> None:
        """Give back memory and disk space of what was deleted."""
        self._check_writable()
        with self._commits.writing:
            with self._publishing.write():
                self._index.compact()
            self._store.give_back()
            self._store.checkpoint(truncate=True)

    def stats(self) -> dict[str, Any]:
        """Facts about the collection, ready for JSON."""
        self._check_open()
        return {
            "name": self.name,
            "kind": "documents",
            **self._settings.document(),
            "size": len(self),
            "sequence": self._store.position.sequence,
            "state": self.state,
            "nbytes": self._index.nbytes,
            "disk_bytes": disk_bytes(self._folder),
            "wal_bytes": self._store.log_bytes,
        }

    def close(self) -> None:
        """Wait for reads and writes that are under way, and give the collection to others."""
        if self._closed:
            return
        self._closed = True
        with self._commits.writing:
            self._store.close()
        self._lock.release()

    def __enter__(self) -> DocumentCollection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- arguments ---

    def _documents(self, ids: Any, texts: Any, sketches: Any) -> tuple[list[PointId], Sketches]:
        own, rows = as_point_ids(ids), self._sketches(texts, sketches)
        if len(rows) != len(own):
            raise InvalidArgumentError(f"ids: expected {len(rows)}, one for each document, got {len(own)}")
        return own, rows

    def _sketches(self, texts: Any, sketches: Any) -> Sketches:
        if (texts is None) == (sketches is None):
            raise InvalidArgumentError("texts, sketches: expected one of them")
        if texts is not None:
            given: Any = [texts] if isinstance(texts, str | bytes) else texts
            return self.sketch(given)
        if not isinstance(sketches, Sketches):
            raise InvalidArgumentError(f"sketches: expected nearhash.hashing.Sketches, got {type(sketches).__name__}")
        self._form.check(sketches)
        values, form = np.ascontiguousarray(sketches.values), self._form.values
        if values.dtype != form.dtype or values.ndim != 2 or values.shape[1] != form.shape[1]:
            raise InvalidArgumentError(
                f"sketches: expected {form.dtype} of shape (n, {form.shape[1]}), got {values.dtype} of {values.shape}"
            )
        return Sketches(values, self._form.header)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._folder}: the collection was closed")

    def _check_writable(self) -> None:
        self._check_open()
        self._writes.check()

    def _event(self, kind: str, detail: dict[str, Any]) -> None:
        if self.on_event is not None:
            self.on_event(kind, {"collection": self.name, **detail})


def _given(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _locked(folder: Path, given: dict[str, Any]) -> DirectoryLock:
    """The lock of a collection, which is made if there is none and its threshold is given."""
    if (folder / FILE).is_file():
        return DirectoryLock(folder)
    if "threshold" not in given:
        raise UnknownCollectionError(f"{folder}: no collection of documents here; to make one, give its threshold")
    settings = DocumentSettings.checked(**given)
    folder.mkdir(parents=True, exist_ok=True)
    lock = DirectoryLock(folder)
    try:
        if not (folder / FILE).is_file():
            DocumentStore.create(folder, settings)
            sync_folder(folder.parent)
    except BaseException:
        lock.release()
        raise
    return lock


def _checked_query(threshold: float | None, limit: int) -> tuple[float | None, int]:
    return (
        None if threshold is None else check_similarity(threshold, "threshold"),
        check_count(limit, "limit", most=MAX_LIMIT),
    )


def _duplicates(found: Sequence[Sequence[Sequence[Any]]]) -> Duplicates:
    flat = [one for similar in found for one in similar]
    indptr = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(similar) for similar in found], out=indptr[1:])
    return Duplicates(indptr, id_array([one[0] for one in flat]), np.array([one[1] for one in flat], np.float32))
