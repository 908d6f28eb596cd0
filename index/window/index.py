"""Nearest neighbours with a label in a window."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import CorruptIndexError, NotTrainedError
from nearhash.index.arguments import as_labels, as_windows
from nearhash.index.arrays import Growable
from nearhash.index.base import Progress, Slots
from nearhash.index.hits import Hits
from nearhash.index.inverted import InvertedLists
from nearhash.index.ivf_model import Model
from nearhash.index.list_index import Distances, Expected, ListIndex, Plan, Slots32
from nearhash.index.list_scan import Wanted
from nearhash.index.points import NewPoints, SlotMask
from nearhash.index.predicates import Predicate
from nearhash.index.tune import Space
from nearhash.index.tuned import Tuned
from nearhash.index.window.calibration import Calibration
from nearhash.index.window.levels import BEAM, Facts, Levels, Segment
from nearhash.kernels.scan import DOT, L2, pack_pools, scan_rows, scan_spans, unpack_pools
from nearhash.kernels.threads import resolve_threads, run_chunks

# New vectors are measured exactly, one by one, until they are so many bytes: a search takes about 5 us for them.
BUFFER_BYTES, LEAST_BUFFER = 1 << 17, 64
# A segment is merged with the one before it unless that is so many times as large: the number of segments stays
# logarithmic, and each point is moved a logarithmic number of times. Each costs a search a microsecond or two.
RATIO = 16
# From this share of dead points on a segment is written anew without them.
DEAD_SHARE = 1 / 8
# Levels that were learned from few points are learned anew when there are so many times as many.
OUTGROWN, SETTLED = 4, 20_000


class WindowIndex(ListIndex):
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
    _EFFORTS: ClassVar = {"beam": int}

    def __init__(
        self,
        dim: int,
        metric: str = "l2",
        codec: str = "pq4",
        seed: int = 0,
        store: str = "f32",
        threads: int | None = None,
    ) -> None:
        super().__init__(dim, metric, codec, seed, store, threads)
        self._levels: Levels | None = None
        self._segments: tuple[Segment, ...] = ()
        # What `_buffer_order` found, for which (first, last) slots.
        self._ordered: tuple[tuple[int, int], NDArray[np.int32], NDArray[np.float64]] | None = None

    @property
    def _sealed(self) -> int:
        """Slots in segments; those behind them are the buffer."""
        return self._segments[-1].last if self._segments else 0

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
        """Learn partitions and codes anew from the vectors that are in the index now, in one segment, by label."""
        with self._lock.write():
            if not self._points.size:
                raise NotTrainedError("retrain: the index is empty; add vectors first")
            self._compact()
            points, rows = self._points, self._vectors.view
            order = np.arange(len(rows)) if points.labels is None else np.argsort(points.labels, kind="stable")
            facts = Facts.of(points)
            vectors = Growable(np.ascontiguousarray(rows[order]))
            self._rebuild(vectors, facts.take(order), progress)
            points.keep(order)

    def _rebuild(self, vectors: Growable, facts: Facts, progress: Progress | None) -> None:
        """One segment of all vectors, with levels learned from them; nothing changes if it fails."""
        levels, segment = Levels.learn(
            vectors.view, self._for_kernels(vectors.view), facts, self.metric, self.codec, self.seed,
            resolve_threads(self.threads), progress,
        )  # fmt: skip
        self._vectors, self._levels, self._segments, self._tuned = vectors, levels, (segment,), Tuned()
        self._ordered = None

    def _slot_order(self, new: NewPoints) -> NDArray[np.int64] | None:
        """The first vectors by label: what is in a narrow window then lies together in memory."""
        if self._points.slots or new.labels is None or (new.labels[1:] >= new.labels[:-1]).all():
            return None
        return np.argsort(new.labels, kind="stable")

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
        if waiting < max(BUFFER_BYTES // (self.dim * everything.itemsize), LEAST_BUFFER) and not described:
            if progress is not None:
                progress(len(new.ids), len(new.ids))
            return
        facts, levels = Facts.after(self._points, new), self._levels
        trained_on = 0 if levels is None else levels.trained_on
        if levels is None or described or (trained_on < SETTLED and len(everything) >= OUTGROWN * trained_on):
            self._rebuild(self._vectors, facts, progress)
            return
        segments = [*self._segments, levels.segment(everything[self._sealed :], self._sealed, facts, threads, progress)]
        live = np.concatenate([self._points.live, np.ones(len(new.ids), np.uint8)])
        while len(segments) > 1 and segments[-2].entries < RATIO * segments[-1].entries:
            last, before = segments.pop(), segments.pop()
            segments.append(levels.merged(before, last, live, facts))
        self._segments = tuple(segments)

    def _tidy(self) -> None:
        """Write segments anew that hold many dead points."""
        if self._levels is None or not self._points.deleted:
            return
        facts, live = Facts.of(self._points), self._points.live
        segments = []
        for segment in self._segments:
            dead = segment.entries - int(live[segment.first : segment.last].sum())
            segments.append(
                self._levels.swept(segment, live, facts) if dead > DEAD_SHARE * segment.entries else segment
            )
        self._segments = tuple(segments)

    def _keep(self, slots: Slots, progress: Progress | None) -> None:
        places = np.full(self._points.slots, -1, np.int32)
        places[slots] = np.arange(len(slots), dtype=np.int32)
        labels = np.empty(0) if self._points.labels is None else self._points.labels[slots]
        columns = self._points.columns
        facts = Facts(labels, columns[:, slots] if len(columns) else np.empty((0, len(slots)), np.int64))
        kept = [] if self._levels is None else [self._levels.kept(held, places, facts) for held in self._segments]
        vectors = Growable(np.ascontiguousarray(self._vectors.view[slots]))
        self._segments = tuple(segment for segment in kept if segment is not None)
        self._vectors, self._ordered = vectors, None
        if progress is not None:
            progress(len(slots), len(slots))

    # --- search ---

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        window: ArrayLike | None = None,
        allow: ArrayLike | SlotMask | None = None,
        threads: int | None = None,
        *,
        where: Predicate | None = None,
        beam: int = BEAM,
        recall: float | None = None,
    ) -> Hits:
        """The k nearest vectors of each query, approximately; other arguments are those of `VectorIndex.search`.

        Parameters
        ----------
        beam : int
            Effort: how many lists are read, and how many of the best codes measured exactly. Recall and time grow with
            it; at 64 searches for the vectors themselves found 98% of their neighbours when the index was built.
        recall : float, optional
            Instead of an effort: that which `tune` found for such a recall.

        Returns
        -------
        Hits
            Ids and exact distances, each (q, k); ties in the order of `ids`.
        """
        effort = self._search_effort(k, recall, beam=beam)
        return self._search(queries, k, window, allow, threads, where, effort)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the vectors in the index: those of the first `add`, or all at the last `retrain`, by label, then those
        of further ones in the order in which they were added.
        """
        return super().ids

    def count(self, window: ArrayLike) -> NDArray[np.int64]:
        """How many vectors have a label in the window, or in each of windows (q, 2); in logarithmic time."""
        array = np.asarray(window)
        rows = 1 if array.ndim == 1 else len(array)
        with self._lock.read():
            counts = self._points.filter(rows, as_windows(window, rows)).counts
        return counts[0] if array.ndim == 1 else counts

    @property
    def _trained(self) -> bool:
        return self._levels is not None and bool(self._segments)

    def _lists_of(self, number: int) -> tuple[Model, Sequence[InvertedLists]]:
        assert self._levels is not None
        return self._levels.models[number], [segment.lists[number] for segment in self._segments]

    def _plan(self, expected: Expected, k: int, effort: int) -> Plan:
        assert self._levels is not None
        return self._levels.plan(expected, k, effort, self._row_cost)

    def _least_cost(self, k: int, effort: int) -> float:
        assert self._levels is not None
        return self._levels.least_cost(k, self._row_cost)

    def _scan(
        self,
        queries: NDArray[np.float32],
        chosen: NDArray[np.int64],
        plan: Plan,
        wanted: Wanted,
        threads: int,
        slots: Slots32,
        distances: Distances,
    ) -> None:
        super()._scan(queries, chosen, plan, wanted, threads, slots, distances)
        if len(chosen) and self._points.slots > self._sealed:
            self._search_buffer(queries, chosen, wanted, threads, slots, distances)

    def _search_buffer(
        self,
        queries: NDArray[np.float32],
        chosen: NDArray[np.int64],
        wanted: Wanted,
        threads: int,
        slots: Slots32,
        distances: Distances,
    ) -> None:
        """Measure the vectors that are in no segment yet; results are merged."""
        metric, offset, k = (L2 if self.metric == "l2" else DOT), np.float32(self.metric == "cosine"), slots.shape[1]
        filtered = wanted.rows if wanted.program is None else self._points.filter(*wanted.arguments)
        first, rows, nothing = self._sealed, self._rows, np.empty(0, np.float32)
        order, labels = self._buffer_order() if len(filtered.windows) else (None, None)

        def task(start: int, stop: int) -> None:
            part = chosen[start:stop]
            own, asked = filtered.of(part), queries[part]
            pools, sizes = np.empty((len(part), k), np.uint64), np.empty(len(part), np.int64)
            found, measured = slots[part], distances[part]
            pack_pools(found, measured, pools, sizes)
            if order is None or labels is None:
                scan_rows(
                    asked, rows, first, len(rows), metric, offset, nothing, own.mask, own.labels, own.windows, pools,
                    sizes,
                )  # fmt: skip
            else:
                spans = np.searchsorted(labels, own.windows)
                scan_spans(asked, rows, order, spans, metric, offset, nothing, own.mask, pools, sizes)
            unpack_pools(pools, sizes, found, measured)
            slots[part], distances[part] = found, measured

        run_chunks(task, len(chosen), threads, max(1, -(-len(chosen) // threads)))

    def _buffer_order(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Slots of the buffer by label, and their labels, without those that have none."""
        held, state = self._ordered, (self._sealed, self._points.slots)
        if held is None or held[0] != state:
            own = self._points.labels
            labels = np.empty(0) if own is None else own[state[0] :]
            order = np.argsort(labels, kind="stable")[: len(labels) - int(np.isnan(labels).sum())]
            held = self._ordered = state, (order + state[0]).astype(np.int32), labels[order]
        return held[1], held[2]

    # --- effort ---

    def _effort_space(self, k: int) -> Space:
        def work(effort: dict[str, int]) -> float:
            return float(effort["beam"])

        return Space("beam", k, max(k, min(self._points.slots, 1 << 14)), [{}], work)

    def _effort_of(self, effort: dict[str, int]) -> int:
        return effort["beam"]

    # --- facts ---

    def info(self) -> dict[str, Any]:
        """Facts about the index, ready for JSON."""
        lists = [] if self._levels is None else [model.partition.lists for model in self._levels.models]
        segments = [segment.entries for segment in self._segments]
        return {**super().info(), "levels": lists, "segments": segments, "buffered": self._points.slots - self._sealed}

    def _own_nbytes(self) -> int:
        levels = 0 if self._levels is None else self._levels.nbytes
        return self._vectors.nbytes + levels + sum(segment.nbytes for segment in self._segments)

    # --- storage ---

    def _state(self) -> dict[str, Any]:
        levels = [] if self._levels is None else zip(self._levels.models, self._levels.calibrations, strict=True)
        return {
            "models": [{**model.state(), "calibration": found.state()} for model, found in levels],
            "segments": [held.last - held.first for held in self._segments],
        }

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
        self._take_vectors(tensors)
        states, sizes = header.get("models"), header.get("segments")
        if not isinstance(states, list) or not isinstance(sizes, list) or (sizes and not states):
            raise CorruptIndexError("header 'models' and 'segments': expected two lists")
        models, calibrations = [], []
        for number, state in enumerate(states):
            own = _under(tensors, f"level{number}.")
            models.append(Model.restored(self.dim, self.metric, self.codec, state, own))
            calibrations.append(Calibration.restored(state.get("calibration")))
        if models and models[0].partition.lists != 1:
            raise CorruptIndexError("header 'models': expected the first to have a single list")
        self._levels = Levels(models, calibrations) if models else None
        segments, first = [], 0
        for number, size in enumerate(sizes):
            if type(size) is not int or not 1 <= size <= self._points.slots - first:
                raise CorruptIndexError(
                    f"header 'segments': expected numbers of vectors that there are, got {size!r:.80}"
                )
            segments.append(self._restored_segment(tensors, number, first, first + size, models))
            first += size
        self._segments = tuple(segments)

    def _restored_segment(
        self, tensors: dict[str, NDArray[Any]], number: int, first: int, last: int, models: list[Model]
    ) -> Segment:
        """A segment of a file, of the slots [first, last)."""
        points, held = self._points, []
        for level, model in enumerate(models):
            lists = InvertedLists(model.partition.lists, model.layout)
            own = _under(tensors, f"segment{number}.level{level}.")
            lists.restore(own, 1, slice(first, last), points.labels, points.columns, points.live)
            held.append(lists)
        return Segment(first, last, held)


def _under(tensors: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Tensors with a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
