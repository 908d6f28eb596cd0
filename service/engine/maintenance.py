"""Background work of a collection: the buffer becomes a segment, segments are merged, the log is checkpointed.

All of it happens off the serving path: searches go on over the old parts until the new one takes their place, and
writes wait only while views are exchanged. Sealing does not wait for merging, so that the buffer stays small.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nearhash.errors import InvalidArgumentError, StorageError
from nearhash.index.tune import TunableIndex
from nearhash.service.engine.failpoints import reach
from nearhash.service.engine.kinds import kind_for
from nearhash.service.engine.live import combined, frozen, replaced
from nearhash.service.engine.parts import View
from nearhash.service.engine.segments import as_part, build, remove_files, save
from nearhash.service.engine.store import SegmentEntry

if TYPE_CHECKING:
    from nearhash.service.engine.collection import Collection

log = logging.getLogger("nearhash.engine")

Progress = Callable[[int, int], None]

MERGE_AT = 0.5  # newer segments are merged with an older one when they are together this large, relative to it
IDLE_MERGE_AT = 0.1  # the same while nothing is written
REWRITE_AT = 0.25  # share of dead rows at which a segment is written anew
IDLE_SEAL = 1_000  # rows of the buffer that become a segment while nothing is written
IDLE_SECONDS = 2.0
LOG_BYTES = 64 << 20  # of the log at which it is checkpointed
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0  # seconds after a failure


class Maintenance:
    """The background threads of one collection, and what they do; `seal` and `compact` may be called by others, too."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._sealing = threading.Lock()  # one seal and one merge at a time
        self._merging = threading.Lock()
        self._numbers = threading.Lock()
        self._next_number = 0
        self._stop = threading.Event()
        self._buffer_full, self._segments_changed, self._log_long = (threading.Event() for _ in range(3))
        self._threads: list[threading.Thread] = []
        self._idle_since = time.monotonic()
        self._tasks: dict[str, tuple[int, int]] = {}  # under way: rows done, and in all
        self.last_error: str | None = None
        self.seals = self.merges = self.checkpoints = 0

    def start(self) -> None:
        for name, wake, work in (
            ("seal", self._buffer_full, self._seal_round),
            ("merge", self._segments_changed, self._merge_round),
            ("checkpoint", self._log_long, self._checkpoint_round),
        ):
            thread = threading.Thread(
                target=self._repeat, args=(name, wake, work), name=f"nearhash-{name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End the threads; work that is under way is given up, and files of it removed."""
        self._stop.set()
        for wake in (self._buffer_full, self._segments_changed, self._log_long):
            wake.set()
        for thread in self._threads:
            thread.join()

    def notify(self) -> None:
        """A write has happened."""
        self._idle_since = time.monotonic()
        if len(self._collection._views[-1].part) >= self._collection._settings.seal_at:
            self._buffer_full.set()
        if self._collection._store.log_bytes > LOG_BYTES:
            self._log_long.set()

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    def state(self) -> dict[str, Any]:
        """What is being done: its name, rows done and rows in all."""
        tasks = dict(self._tasks)
        done, total = (sum(column) for column in zip(*tasks.values(), strict=True)) if tasks else (0, 0)
        return {"task": ", ".join(sorted(tasks)) or "idle", "done": done, "total": total}

    # --- what is done ---

    def seal(self, least: int = 1, progress: Progress | None = None) -> bool:
        """Make a segment of what is in the buffer, if that is at least so many rows; whether there was anything."""
        with self._sealing:
            collection = self._collection
            with collection._publishing:
                if sum(len(view.part) for view in _unsealed(collection._views)) < least:
                    return False
                collection._views = frozen(collection._views, collection._settings)
                sources = _unsealed(collection._views)[:-1]
            reach("seal.frozen")
            self._replace(sources, "sealing", progress)
            self.seals += 1
        self._segments_changed.set()
        return True

    def merge(self, share: float, progress: Progress | None = None) -> bool:
        """Merge segments that have become too many, or rewrite one that should be; whether there were any."""
        with self._merging:
            views = _sealed(self._collection._views)
            sources = _to_merge(views, share) or self._of_wrong_kind(views)
            if not sources:
                return False
            self._replace(sources, "merging", progress)
            self.merges += 1
            return True

    def compact(self, progress: Progress | None = None) -> None:
        """One segment out of everything, without dead rows, and the space of what is gone given back."""
        self.seal()
        with self._merging:
            views = _sealed(self._collection._views)
            if len(views) > 1 or any(view.dead for view in views) or self._of_wrong_kind(views):
                self._replace(views, "compacting", progress)
                self.merges += 1
        with self._collection._commits.writing:
            self._collection._store.give_back()
        self._collection._store.checkpoint(truncate=True)

    def _of_wrong_kind(self, views: Sequence[View]) -> list[View]:
        """A segment of lists that should be a graph by now, while nothing is written; never the reverse: it costs."""
        if self._idle:
            for view in views:
                if view.part.kind == "ivf" and self._kind(view.count, labelled=False) == "graph":
                    return [view]
        return []

    def _kind(self, size: int, labelled: bool) -> str:
        collection = self._collection
        return kind_for(collection._settings.index, size, labelled, self._idle, collection._workload)

    def _replace(self, sources: Sequence[View], task: str, progress: Progress | None) -> None:
        """Build a segment of the live rows of `sources`, which are neighbours, and let it take their place."""
        collection, store = self._collection, self._collection._store
        settings, folder = collection._settings, collection._folder
        rows = combined(sources, len(settings.labels))
        size = len(rows.rows)
        number: int | None = None
        with self._under_way(task, size):
            try:
                part = entry = None
                old = [view.part.entry for view in sources if view.part.entry is not None]
                # Rows of the buffer that were dead when it was read are before its first one.
                first = old[0].first_row if old else store.position.sealed_to + 1
                last = max(int(view.part.rows[-1]) for view in sources)
                if size:
                    number = self._new_number()
                    labelled = bool(len(settings.labels)) and not bool(np.isnan(rows.labels[0]).all())
                    kind = self._kind(size, labelled)
                    with store.reader() as connection:
                        vectors = store.vectors(connection, rows.rows)
                    noted = self._noted(task, progress)
                    index = build(settings, kind, rows, vectors, collection._build_threads, noted)
                    del vectors
                    self._tune(index)
                    reach("seal.built")
                    save(folder, number, index, rows)
                    reach("seal.saved")
                    entry = SegmentEntry(number, kind, int(rows.rows[0]), int(rows.rows[-1]), size)
                    part = as_part(index, entry, rows, store.payloads)
                with store.reader() as connection:
                    gone = np.setdiff1d(store.rows_between(connection, first, last), rows.rows, assume_unique=True)
                with collection._commits.writing, store.write() as transaction:
                    transaction.replace_segments(old, entry, last, gone)
                    reach("seal.written")
                    with collection._publishing:
                        transaction.commit()
                        reach("seal.durable")
                        collection._views = replaced(collection._views, sources, part)
                number = None
                reach("seal.published")
                with collection._files:
                    for gone_entry in old:
                        remove_files(folder, gone_entry.number)
                reach("seal.cleaned")
                collection._event(task, {"rows": size, "segment": None if entry is None else entry.number})
            finally:
                if number is not None:  # it has no place in the store
                    remove_files(folder, number)

    def _new_number(self) -> int:
        """A number for a segment; one that was not used for it after all is used by nobody else."""
        with self._numbers:
            number = max(self._next_number, self._collection._store.position.next_segment)
            self._next_number = number + 1
        return number

    @contextmanager
    def _under_way(self, task: str, size: int) -> Iterator[None]:
        self._tasks[task] = (0, size)
        try:
            yield
        finally:
            del self._tasks[task]

    def _noted(self, task: str, progress: Progress | None) -> Progress:
        def note(done: int, total: int) -> None:
            self._tasks[task] = (done, total)
            if self._stop.is_set():
                raise _GivenUpError
            if progress is not None:
                progress(done, total)

        return note

    def _tune(self, index: Any) -> None:
        """Find the efforts of a new segment for the recalls that the collection was tuned for."""
        for queries, k, recall in self._collection._tunings:
            if not isinstance(index, TunableIndex):
                return
            try:
                index.tune(queries, k, recall)
            except InvalidArgumentError as error:
                self._failed("tuning", error)

    # --- threads ---

    @property
    def _idle(self) -> bool:
        return time.monotonic() - self._idle_since >= IDLE_SECONDS

    def _repeat(self, name: str, wake: threading.Event, work: Callable[[], None]) -> None:
        """What a thread does until `stop`: work whenever it is woken, and look from time to time."""
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            wake.wait(timeout=IDLE_SECONDS / 2)
            wake.clear()
            if self._stop.is_set() or self._collection._writes.stopped is not None:
                continue
            try:
                work()
                pause = _FIRST_PAUSE
            except _GivenUpError:
                return
            except BaseException as error:
                self._failed(name, error)
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _seal_round(self) -> None:
        seal_at = self._collection._settings.seal_at
        while not self._stop.is_set() and self.seal(least=min(seal_at, IDLE_SEAL) if self._idle else seal_at):
            pass

    def _merge_round(self) -> None:
        while not self._stop.is_set() and self.merge(IDLE_MERGE_AT if self._idle else MERGE_AT):
            pass

    def _checkpoint_round(self) -> None:
        store = self._collection._store
        if store.log_bytes <= LOG_BYTES:
            return
        try:
            left = store.checkpoint()
            if left > 4 * LOG_BYTES:  # it is only written anew from its beginning when nobody reads its end
                store.checkpoint(truncate=True)
            self.checkpoints += 1
        except StorageError as error:
            if error.reason != "disk full":
                self._collection._writes.stop(f"checkpoint failed: {error}")
            raise

    def _failed(self, what: str, error: BaseException) -> None:
        self.last_error = f"{what}: {type(error).__name__}: {error}"
        log.error("%s: %s failed", self._collection.name, what, exc_info=error)
        self._collection._event("error", {"task": what, "error": str(error)})


class _GivenUpError(Exception):
    """The collection is being closed."""


def _unsealed(views: Sequence[View]) -> list[View]:
    """Parts that are being sealed, and the buffer."""
    return [view for view in views if view.part.entry is None]


def _sealed(views: Sequence[View]) -> list[View]:
    return [view for view in views if view.part.entry is not None]


def _to_merge(views: Sequence[View], share: float) -> list[View]:
    """Neighbours to be merged: the newest, as soon as they come near an older one; else one with many dead rows."""
    sizes = [view.count for view in views]
    for oldest in range(len(views) - 1):
        if sum(sizes[oldest + 1 :]) >= share * sizes[oldest]:
            return list(views[oldest:])
    return next(([view] for view in views if view.dead > REWRITE_AT * view.size), [])
