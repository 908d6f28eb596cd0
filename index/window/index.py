"""Nearest neighbours with a label in a window."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError, InvalidArgumentError, NotTrainedError
from nearhash.index.arguments import as_labels, as_windows, check_count, check_range
from nearhash.index.arrays import Growable
from nearhash.index.base import Progress, Slots
from nearhash.index.exact import exact_search
from nearhash.index.hits import Hits
from nearhash.index.inverted import InvertedLists
from nearhash.index.ivf_model import Model
from nearhash.index.list_codes import make_list_codes
from nearhash.index.list_scan import ListScanner, Wanted
from nearhash.index.points import Filter, NewPoints
from nearhash.index.predicates import Predicate
from nearhash.index.storage import take_tensor
from nearhash.index.tune import Space, TunableIndex
from nearhash.index.tuned import Tuned
from nearhash.index.window.levels import Facts, Levels, Plan, Segment
from nearhash.kernels.lists import passing_share
from nearhash.kernels.pool import EMPTY_KEY
from nearhash.kernels.rerank import rerank
from nearhash.kernels.scan import DOT, L2, scan_rows, unpack_pools
from nearhash.kernels.threads import resolve_threads, run_chunks

# New points are measured exactly, one by one, until there are so many, or this share of all others.
BUFFER, BUFFER_SHARE = 1024, 1 / 256
# A segment is merged with the one before it unless that is so many times as large: the number of segments stays
# logarithmic, and each point is moved a logarithmic number of times.
RATIO = 4
# Levels that were learned from few points are learned anew when there are so many times as many.
OUTGROWN, SETTLED = 4, 20_000
# Windows of so few floats, and of no more than so many points, are measured: codes would cost more than they save.
FEW_FLOATS, FEW = 12_000, 64
# Where less than this share of what is in a window may answer, those few are measured one by one.
SPARSE = 1 / 64
STORES = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}


class WindowIndex(TunableIndex):
    """Nearest neighbours with a label in a window [lo, hi), fast for windows of every size.

    The points are in several partitions at once, from a single list to one of 2.5 sqrt(n) lists, each of whose lists is
    sorted by label, so that a window is a range of every list. A search takes the partition that suits the number of
    points in its window: the single list where there are few, whose 4-bit codes are scanned one behind the other, finer
    ones the more there are. The best codes are measured exactly.

    Parameters
    ----------
    dim : int
        Dimension of the vectors, 1 to 32,768.
    metric : {"l2", "ip", "cosine"}
        Distance: squared Euclidean; minus the inner product; one minus the cosine.
    codec : {"pq4", "rabitq", "lvq8", ...}
        How vectors are coded in the lists, see `IVFIndex`.
    seed : int
        Of the training. The same data, calls and seed give the same file at any `threads`.
    store : {"f32", "f16"}
        How the vectors themselves are kept, for exact distances.
    threads : int, optional
        Threads for building, by default all cores.

    Notes
    -----
    New vectors are measured exactly, and found, at once; they are put into lists some at a time, as segments that are
    merged when they are of about equal size. Searches may run in several threads at once; changes wait for them and
    have the index alone.
    """

    kind = "window"
    _SETTINGS = ("codec", "seed", "store")
    _EFFORTS = ("beam",)

    def __init__(
        self,
        dim: int,
        metric: str = "l2",
        codec: str = "pq4",
        seed: int = 0,
        store: str = "f32",
        threads: int | None = None,
    ) -> None:
        super().__init__(dim, metric, threads)
        self.codec = make_list_codes(codec, self.dim, self.metric).name
        self.seed = check_count(seed, "seed", least=0, most=2**64 - 1)
        if store not in STORES:
            raise InvalidArgumentError(f"store: expected one of {', '.join(STORES)}, got {store!r}")
        self.store = store
        self._vectors = Growable.empty((self.dim,), STORES[store])
        self._levels: Levels | None = None
        self._segments: tuple[Segment, ...] = ()
        self._sealed = 0  # slots in segments; those behind them are the buffer
        self._scanner = ListScanner(self.metric)

    @property
    def _rows(self) -> NDArray[Any]:
        """Vectors as kernels take them: float16 as its bits."""
        rows = self._vectors.view
        return rows.view(np.uint16) if self.store == "f16" else rows

    def _rows_of(self, matrix: NDArray[Any]) -> NDArray[Any]:
        rows = super()._rows_of(matrix)
        if self.store == "f16":
            check_range(rows, matrix, "vectors", float(np.finfo(np.float16).max))
        return rows

    # --- change ---

    def relabel(self, ids: ArrayLike, labels: ArrayLike) -> None:
        """Give vectors other labels.

        Parameters
        ----------
        ids : (n,) integers
            Distinct ids of the index.
        labels : (n,) numbers

        Raises
        ------
        UnknownIdError, InvalidArgumentError
            Nothing has changed then.
        """
        with self._lock.write():
            slots = self._points.slots_of(ids)
            given = as_labels(labels, len(slots))
            if not len(slots):
                return
            new = NewPoints(self._points.ids[slots], given, self._points.attributes(slots))
            self._points.remove(slots)
            try:
                self._insert(self._vectors.view[slots], new, None)
            except BaseException:
                self._points.revive(slots)
                raise
            self._points.append(new)

    def retrain(self, progress: Progress | None = None) -> None:
        """Learn partitions and codes anew from the vectors that are in the index now, in one segment."""
        with self._lock.write():
            if not self._points.size:
                raise NotTrainedError("retrain: the index is empty; add vectors first")
            self._compact()
            self._rebuild(self._vectors.view, Facts.of(self._points), progress)

    def _rebuild(self, rows: NDArray[Any], facts: Facts, progress: Progress | None) -> None:
        """One segment of all rows, with levels learned from them; nothing changes if it fails."""
        threads = resolve_threads(self.threads)
        levels = Levels.learn(rows, self.metric, self.codec, self.seed, threads)
        segment = levels.segment(rows, 0, facts, threads, progress)
        self._levels, self._segments, self._sealed, self._tuned = levels, (segment,), len(rows), Tuned()

    def _insert(self, rows: NDArray[Any], new: NewPoints, progress: Progress | None) -> None:
        present = self._points.slots
        self._vectors.append(rows)
        try:
            self._seal(new, progress)
        except BaseException:
            self._vectors.truncate(present)
            raise

    def _seal(self, new: NewPoints, progress: Progress | None) -> None:
        """Put the buffer into a segment if it is full; nothing changes if it fails."""
        everything, threads = self._vectors.view, resolve_threads(self.threads)
        waiting = len(everything) - self._sealed
        described = bool(self._segments) and (
            self._segments[0].lists[0].labelled != (self._points.labelled or new.labels is not None)
        )
        if waiting < max(BUFFER, BUFFER_SHARE * self._sealed) and not described:
            if progress is not None:
                progress(len(new.ids), len(new.ids))
            return
        facts, levels = Facts.after(self._points, new), self._levels
        trained_on = 0 if levels is None else levels.trained_on
        if levels is None or described or (trained_on < SETTLED and len(everything) >= OUTGROWN * trained_on):
            self._rebuild(everything, facts, progress)
            return
        segments = [*self._segments, levels.segment(everything[self._sealed :], self._sealed, facts, threads, progress)]
        while len(segments) > 1 and segments[-2].entries < RATIO * segments[-1].entries:
            last, before = segments.pop(), segments.pop()
            segments.append(levels.merged(before, last, everything, facts, threads))
        self._segments, self._sealed = tuple(segments), len(everything)

    def _keep(self, slots: Slots, progress: Progress | None) -> None:
        places = np.full(self._points.slots, -1, np.int32)
        places[slots] = np.arange(len(slots), dtype=np.int32)
        labels = np.empty(0) if self._points.labels is None else self._points.labels[slots]
        columns = self._points.columns
        facts = Facts(labels, columns[:, slots] if len(columns) else np.empty((0, len(slots)), np.int64))
        kept = [] if self._levels is None else [self._levels.kept(held, places, facts) for held in self._segments]
        vectors = Growable(np.ascontiguousarray(self._vectors.view[slots]))
        self._segments = tuple(segment for segment in kept if segment is not None)
        self._sealed = int((slots < self._sealed).sum())
        self._vectors = vectors
        if progress is not None:
            progress(len(slots), len(slots))

    # --- search ---

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | None = None,
        threads: int | None = None,
        *,
        where: Predicate | None = None,
        beam: int = 80,
        recall: float | None = None,
    ) -> Hits:
        """The k nearest vectors of each query, approximately; other arguments are those of `VectorIndex.search`.

        Parameters
        ----------
        beam : int
            Effort: how many of the best codes are measured exactly, and in proportion how many lists are read. Recall
            and time grow with it.
        recall : float, optional
            Instead of an effort: that which `tune` found for such a recall.

        Returns
        -------
        Hits
            Ids and exact distances, each (q, k); ties in the order in which the vectors were added.
        """
        effort = self._search_effort(k, recall, beam=beam)
        return self._search(queries, k, window, allow, threads, where, effort)

    def count(self, window: ArrayLike) -> NDArray[np.int64]:
        """How many vectors have a label in the window, or in each of windows (q, 2); in logarithmic time."""
        array = np.asarray(window)
        rows = 1 if array.ndim == 1 else len(array)
        with self._lock.read():
            counts = self._points.filter(rows, as_windows(window, rows)).counts
        return counts[0] if array.ndim == 1 else counts

    def _filter(
        self, queries: int, window: ArrayLike | None, allow: ArrayLike | None, where: Predicate | None
    ) -> Wanted:
        """Predicates are evaluated in the lists; they become a mask of all vectors only for exact scans."""
        program = None if where is None else self._points.program(where)
        return Wanted(self._points.filter(queries, window, allow), program, (queries, window, allow, where))

    def _nearest(
        self, queries: NDArray[Any], k: int, wanted: Wanted, effort: int, threads: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        slots = np.full((len(queries), k), -1, np.int32)
        distances = np.full((len(queries), k), np.inf, np.float32)
        size, levels = self._points.slots, self._levels
        if not size or not len(queries):
            return slots, distances
        windows = wanted.rows.windows
        share = 1.0 if wanted.program is None else passing_share(*wanted.program, self._points.columns, size)
        inside = [segment.inside(windows, len(queries)) for segment in self._segments]
        # What is in the windows, filters or not; of the buffer about as much as of the rest.
        everywhere = (
            sum(inside, np.zeros(len(queries))) * (size / self._sealed)
            if self._sealed
            else np.full(len(queries), float(size))
        )
        likely = wanted.rows.counts * share
        exactly = (wanted.rows.counts == 0) | (likely < SPARSE * everywhere)
        passing = np.minimum(likely / np.maximum(everywhere, 1), 1.0)
        for segment, points in zip(self._segments, inside, strict=True):
            assert levels is not None
            few = np.zeros(len(queries), np.bool_)
            if len(windows) and not len(wanted.rows.mask) and wanted.program is None:
                few = ~exactly & (points > 0) & (points <= min(FEW, FEW_FLOATS // self.dim))
                self._measure(segment, queries, np.flatnonzero(few), windows, threads, slots, distances)
            plan = levels.plan(segment, points, np.multiply(points, passing), effort)
            asked = ~exactly & ~few & (points > 0)
            self._search_segment(segment, plan, asked, queries, k, wanted, effort, threads, slots, distances)
        if size > self._sealed:
            rows = wanted.rows if wanted.program is None else self._points.filter(*wanted.arguments)
            self._search_buffer(queries, k, rows, ~exactly, threads, slots, distances)
        lacking = exactly | ((slots >= 0).sum(axis=1) < np.minimum(k, wanted.rows.counts))
        rest = np.flatnonzero(lacking & (wanted.rows.counts > 0))
        if len(rest):
            exact = wanted.rows if wanted.program is None else self._points.filter(*wanted.arguments)
            slots[rest], distances[rest] = exact_search(
                queries[rest], self._rows, np.empty(0, np.float32), self.metric, exact.of(rest), k, threads
            )
        return slots, distances

    def _search_segment(
        self,
        segment: Segment,
        plan: Plan,
        asked: NDArray[np.bool_],
        queries: NDArray[np.float32],
        k: int,
        wanted: Wanted,
        beam: int,
        threads: int,
        slots: NDArray[np.int32],
        distances: NDArray[np.float32],
    ) -> None:
        """Search a segment for those queries that are `asked`; results are merged."""
        assert self._levels is not None
        groups = np.where(asked, plan.levels << 32 | plan.probes, -1)
        for group in np.unique(groups[asked]):
            part = np.flatnonzero(groups == group)
            level, probes = int(group >> 32), int(group & 0xFFFFFFFF)
            found = np.full((len(part), k), -1, np.int32)
            measured = np.full((len(part), k), np.inf, np.float32)
            self._scanner.scan(
                self._levels.models[level], segment.lists[level], self._rows, queries[part], wanted.of(part), probes,
                max(beam, k), found, measured, threads,
            )  # fmt: skip
            slots[part], distances[part] = _merged(slots[part], distances[part], found, measured)

    def _measure(
        self,
        segment: Segment,
        queries: NDArray[np.float32],
        chosen: NDArray[np.int64],
        windows: NDArray[np.float64],
        threads: int,
        slots: NDArray[np.int32],
        distances: NDArray[np.float32],
    ) -> None:
        """Measure all points of a segment in the windows of the chosen queries; results are merged."""
        metric, base, k = L2 if self.metric == "l2" else DOT, np.float32(self.metric == "cosine"), slots.shape[1]
        nothing = np.empty(0, np.float32)

        def task(start: int, stop: int) -> None:
            part = chosen[start:stop]
            own, counts = segment.slots(windows[part])
            keys = np.zeros((len(part), own.shape[1] + 16), np.uint64)
            keys[:, : own.shape[1]] = own.astype(np.uint64) << np.uint64(1)  # see pool.py; scores do not matter
            found, measured = np.empty((len(part), k), np.int32), np.empty((len(part), k), np.float32)
            rerank(queries[part], self._rows, metric, base, keys, counts, own.shape[1], False, nothing, found, measured)
            slots[part], distances[part] = _merged(slots[part], distances[part], found, measured)

        run_chunks(task, len(chosen), threads, max(1, -(-len(chosen) // threads)))

    def _search_buffer(
        self,
        queries: NDArray[np.float32],
        k: int,
        wanted: Filter,
        active: NDArray[np.bool_],
        threads: int,
        slots: NDArray[np.int32],
        distances: NDArray[np.float32],
    ) -> None:
        """Measure the vectors that are in no segment yet; results are merged."""
        metric, offset = (L2 if self.metric == "l2" else DOT), np.float32(self.metric == "cosine")
        chosen = np.flatnonzero(active)
        first, rows = self._sealed, self._rows

        def task(start: int, stop: int) -> None:
            part = chosen[start:stop]
            own = wanted.of(part)
            pools, sizes = np.full((len(part), k), EMPTY_KEY), np.zeros(len(part), np.int64)
            scan_rows(
                queries[part], rows, first, len(rows), metric, offset, np.empty(0, np.float32), own.mask, own.labels,
                own.windows, pools, sizes,
            )  # fmt: skip
            found, measured = np.full((len(part), k), -1, np.int32), np.full((len(part), k), np.inf, np.float32)
            unpack_pools(pools, sizes, found, measured)
            slots[part], distances[part] = _merged(slots[part], distances[part], found, measured)

        run_chunks(task, len(chosen), threads, max(1, -(-len(chosen) // threads)))

    # --- effort ---

    def _effort_space(self, k: int) -> Space:
        def work(effort: dict[str, int]) -> float:
            return float(effort["beam"])

        return Space("beam", k, max(k, min(self._points.slots, 1 << 14)), [{}], work)

    def _effort_of(self, effort: dict[str, int]) -> int:
        return effort["beam"]

    def _exact(self, queries: NDArray[Any], k: int, threads: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        everything = self._points.filter(len(queries), None, None)
        return exact_search(queries, self._rows, np.empty(0, np.float32), self.metric, everything, k, threads)

    # --- facts ---

    def info(self) -> dict[str, Any]:
        """Facts about the index, ready for JSON."""
        lists = [] if self._levels is None else [model.partition.lists for model in self._levels.models]
        segments = [segment.entries for segment in self._segments]
        return {**super().info(), "levels": lists, "segments": segments, "buffered": self._points.slots - self._sealed}

    def _own_nbytes(self) -> int:
        levels = 0 if self._levels is None else self._levels.nbytes
        return self._vectors.nbytes + levels + sum(segment.nbytes for segment in self._segments)

    def _stored_vectors(self, slots: Slots) -> NDArray[np.float32]:
        return self._vectors.view[slots].astype(np.float32, copy=False)

    # --- storage ---

    def _state(self) -> dict[str, Any]:
        models = [] if self._levels is None else [model.state() for model in self._levels.models]
        return {"models": models, "segments": [[held.entries, len(held.lists)] for held in self._segments]}

    def _tensors(self) -> dict[str, NDArray[Any]]:
        tensors: dict[str, NDArray[Any]] = {"vectors": self._vectors.view}
        for number, model in enumerate(() if self._levels is None else self._levels.models):
            tensors |= {f"level{number}.{name}": tensor for name, tensor in model.tensors().items()}
        for number, segment in enumerate(self._segments):
            for level, lists in enumerate(segment.lists):
                prefix = f"segment{number}.level{level}."
                tensors |= {prefix + name: tensor for name, tensor in lists.tensors().items()}
        return tensors

    def _restore(self, header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        count = self._points.slots
        self._vectors = Growable(take_tensor(tensors, "vectors", STORES[self.store], (count, self.dim)))
        states, sizes = header.get("models"), header.get("segments")
        if not isinstance(states, list) or not isinstance(sizes, list) or (sizes and not states):
            raise CorruptIndexError("header 'models' and 'segments': expected two lists")
        models = [
            Model.restored(self.dim, self.metric, self.codec, state, _under(tensors, f"level{number}."))
            for number, state in enumerate(states)
        ]
        if models and models[0].partition.lists != 1:
            raise CorruptIndexError("header 'models': expected the first to have a single list")
        self._levels = Levels(models) if models else None
        segments, first = [], 0
        for number, entry in enumerate(sizes):
            entries, depth = _checked_segment(entry, count - first, len(models))
            inside = slice(first, first + entries)
            segments.append(self._restored_segment(tensors, number, inside, models[:depth]))
            first += entries
        self._segments, self._sealed = tuple(segments), first

    def _restored_segment(
        self, tensors: dict[str, NDArray[Any]], number: int, own: slice, models: list[Model]
    ) -> Segment:
        """A segment of a file, of the slots `own`."""
        labels = None if self._points.labels is None else self._points.labels
        held = []
        for level, model in enumerate(models):
            lists = InvertedLists(model.partition.lists, model.layout)
            lists.restore(_under(tensors, f"segment{number}.level{level}."), 1, own, labels, self._points.columns)
            held.append(lists)
        return Segment(held)


def _under(tensors: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Tensors with a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _checked_segment(entry: Any, most: int, levels: int) -> tuple[int, int]:
    """(entries, levels) of a segment as the header of a file has them."""
    if not (isinstance(entry, list) and len(entry) == 2 and all(type(number) is int for number in entry)):
        raise CorruptIndexError(f"header 'segments': expected pairs of numbers, got {entry!r:.80}")
    if not 1 <= entry[0] <= most or not 1 <= entry[1] <= levels:
        raise CorruptIndexError(f"header 'segments': expected at most {most} entries and {levels} levels, got {entry}")
    return entry[0], entry[1]


def _merged(
    slots: NDArray[np.int32], distances: NDArray[np.float32], found: NDArray[np.int32], measured: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The best k of two results (q, k) each; ties by slot."""
    k = slots.shape[1]
    if (slots[:, 0] < 0).all():
        return found, measured
    every, values = np.concatenate([slots, found], axis=1), np.concatenate([distances, measured], axis=1)
    order = np.lexsort((np.where(every < 0, np.iinfo(np.int32).max, every), values), axis=1)[:, :k]
    return np.take_along_axis(every, order, axis=1), np.take_along_axis(values, order, axis=1)
