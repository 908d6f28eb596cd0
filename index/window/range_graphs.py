"""Graphs over ranges of the order of labels: what the methods that `WindowIndex` is compared with are made of."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearhash.errors import DimensionError
from nearhash.index.arguments import as_float32, as_labels, as_matrix, as_windows, check_dim, check_metric, for_kernels
from nearhash.index.arrays import Growable
from nearhash.index.codecs import make_codec
from nearhash.index.fine import FineQueries
from nearhash.index.metrics import normalised
from nearhash.index.vamana import Vamana
from nearhash.kernels.fine import FloatRows
from nearhash.kernels.pool import EMPTY_KEY
from nearhash.kernels.scan import DOT, L2, scan_rows, unpack_pools
from nearhash.kernels.threads import resolve_threads, run_chunks

Range = tuple[int, int]  # first rank in the order of labels, and the one behind the last
_NO_MASK: NDArray[np.uint8] = np.empty(0, np.uint8)
_NO_LABELS: NDArray[np.float64] = np.empty(0, np.float64)
_NO_WINDOWS: NDArray[np.float64] = np.empty((0, 2), np.float64)
_NO_FACTORS: NDArray[np.float32] = np.empty(0, np.float32)


class Nearest(NamedTuple):
    """The best so far of each query: ranks (q, k) int32, -1 where there is none, and distances (q, k) float32."""

    ranks: NDArray[np.int32]
    distances: NDArray[np.float32]

    @classmethod
    def nothing(cls, queries: int, k: int) -> "Nearest":
        return cls(np.full((queries, k), -1, np.int32), np.full((queries, k), np.inf, np.float32))

    def offer(self, queries: NDArray[np.int64], ranks: NDArray[np.int32], distances: NDArray[np.float32]) -> None:
        """Merge what was found for some queries, each named once, in ranges not offered before; ties by rank."""
        k = self.ranks.shape[1]
        every = np.concatenate([self.ranks[queries], ranks], axis=1)
        values = np.concatenate([self.distances[queries], distances], axis=1)
        order = np.lexsort((every, values), axis=1)[:, :k]
        self.ranks[queries] = np.take_along_axis(every, order, axis=1)
        self.distances[queries] = np.take_along_axis(values, order, axis=1)


class RangeGraphs:
    """Vectors in the order of their labels, and a graph over each of some ranges of that order.

    Vectors and codes are kept once, whatever the number of graphs: a range is a slice of them.

    Parameters
    ----------
    vectors : (n, dim) float or integer
    labels : (n,) numbers
        Equal ones stay in the order in which they are given.
    metric : {"l2", "cosine"}
    degree, build_beam, seed
        Of each graph, see `GraphIndex`.
    threads : int, optional
        Threads for building, by default all cores. A search runs on the thread that calls it.

    Raises
    ------
    InvalidArgumentError, DtypeError, DimensionError, MetricError
    """

    def __init__(
        self,
        vectors: ArrayLike,
        labels: ArrayLike,
        metric: str = "l2",
        degree: int = 32,
        build_beam: int = 128,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        self.metric = check_metric(metric, ("l2", "cosine"))
        matrix = np.asarray(vectors)
        if matrix.ndim != 2:
            raise DimensionError(f"vectors: expected shape (n, dim), got {matrix.shape}")
        self.dim = check_dim(matrix.shape[1])
        given = as_labels(labels, len(matrix))
        order = np.argsort(given, kind="stable")
        self._ids, self._labels = order.astype(np.int64), given[order]
        self._rows = np.ascontiguousarray(self._floats(matrix, "vectors")[order])
        self._degree, self._build_beam, self._seed = degree, build_beam, seed
        self._threads = resolve_threads(threads)
        self._codec = make_codec("lvq8", self.dim, has_extra=False)
        codes = Growable.empty((self._codec.width,), self._codec.dtype)
        codes.extend(len(self._rows))
        self._codes = codes.view
        if len(self._rows):
            self._codec.train(self._rows)
        run_chunks(self._encode, len(self._rows), self._threads, 8192)
        self._positions = np.arange(len(self._rows), dtype=np.float64)  # the label that a walk filters by is the rank
        self._graphs: dict[Range, Vamana] = {}

    def _floats(self, matrix: ArrayLike, name: str) -> NDArray[np.float32]:
        floats = for_kernels(as_float32(as_matrix(matrix, self.dim, name), name))
        return normalised(floats) if self.metric == "cosine" else floats

    def _encode(self, first: int, last: int) -> None:
        self._codec.encode(self._rows[first:last], np.zeros(last - first, np.float32), self._codes[first:last])

    def __len__(self) -> int:
        return len(self._rows)

    def build(self, ranges: Iterable[Range]) -> None:
        """Build the graphs of those ranges that have none yet."""
        for first, last in ranges:
            if (first, last) not in self._graphs:
                graph = Vamana(self._degree, self._build_beam, self._seed)
                rows = self._rows[first:last]
                middle = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
                entry = int((np.einsum("ij,ij->i", rows, rows) - 2 * (rows @ middle)).argmin())
                graph.grow(self._codec.model, self._codes[first:last], entry, self._threads)
                self._graphs[first, last] = graph

    def nbytes(self, ranges: Iterable[Range]) -> int:
        """Memory of an index with the graphs of these ranges only."""
        once = sum(array.nbytes for array in (self._rows, self._ids, self._labels, self._positions))
        graphs = list(map(self._graphs.__getitem__, ranges))
        return once + (self._codes.nbytes if graphs else 0) + sum(graph.nbytes for graph in graphs)

    # --- search ---

    def queries(self, queries: ArrayLike) -> NDArray[np.float32]:
        """(q, dim) queries as `scan` and `postfilter` take them."""
        return self._floats(queries, "queries")

    def ranks(self, window: ArrayLike, queries: int) -> NDArray[np.int64]:
        """(q, 2) windows of labels [lo, hi) as windows of ranks."""
        return np.searchsorted(self._labels, as_windows(window, queries)).astype(np.int64)

    def ids(self, ranks: NDArray[np.int32]) -> NDArray[np.int64]:
        """Positions of the vectors in what the constructor was given; -1 stays."""
        return np.where(ranks >= 0, self._ids[ranks], -1) if len(self) else ranks.astype(np.int64)

    def scan(
        self, asked: NDArray[np.int64], queries: NDArray[np.float32], windows: NDArray[np.int64], best: Nearest
    ) -> None:
        """Measure all that is in the window (m, 2) of each of the queries `asked` (m,)."""
        k = best.ranks.shape[1]
        pools, sizes = np.full((len(asked), k), EMPTY_KEY), np.zeros(len(asked), np.int64)
        metric, offset = self._scoring
        for number, (query, (first, last)) in enumerate(zip(asked.tolist(), windows.tolist(), strict=True)):
            own = slice(number, number + 1)
            scan_rows(
                queries[query : query + 1], self._rows, first, last, metric, offset, _NO_FACTORS, _NO_MASK, _NO_LABELS,
                _NO_WINDOWS, pools[own], sizes[own],
            )  # fmt: skip
        ranks, distances = np.full((len(asked), k), -1, np.int32), np.full((len(asked), k), np.inf, np.float32)
        unpack_pools(pools, sizes, ranks, distances)
        best.offer(asked, ranks, distances)

    def postfilter(
        self,
        node: Range,
        asked: NDArray[np.int64],
        queries: NDArray[np.float32],
        windows: NDArray[np.int64],
        beam: int,
        best: Nearest,
    ) -> None:
        """Walk the graph of a range that contains the windows (m, 2), with a beam that doubles until it holds enough.

        A beam as wide as the window would measure more than a scan of the window, which is taken then.
        """
        k, counts = best.ranks.shape[1], windows[:, 1] - windows[:, 0]
        pending = np.arange(len(asked))
        while len(pending):
            narrow = counts[pending] <= beam
            if narrow.any():
                few = pending[narrow]
                self.scan(asked[few], queries, windows[few], best)
            pending = pending[~narrow]
            if len(pending):
                ranks, distances, matches = self._walk(node, queries[asked[pending]], windows[pending], k, beam)
                enough = matches >= np.minimum(k, counts[pending])
                best.offer(asked[pending[enough]], ranks[enough], distances[enough])
                pending = pending[~enough]
            beam *= 2

    def _walk(
        self, node: Range, queries: NDArray[np.float32], windows: NDArray[np.int64], k: int, beam: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
        """(ranks (q, k), distances (q, k), matches (q,)) of a walk over the graph of a range."""
        first, last = node
        own, (metric, offset) = slice(first, last), self._scoring
        slots, distances = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
        matches = np.empty(len(queries), np.int64)
        self._graphs[node].search(
            self._codec.model, self._codes[own], queries, np.full(len(queries), min(beam, last - first)),
            max(4 * k, 32), FineQueries(FloatRows(self._rows[own]), queries, metric, np.full(len(queries), offset)),
            np.full(len(queries), k), np.inf, (_NO_MASK, self._positions[own], windows.astype(np.float64)),
            (slots, distances, matches, np.empty_like(matches)), 1,
        )  # fmt: skip
        return np.where(slots >= 0, slots + np.int32(first), np.int32(-1)), distances, matches

    @property
    def _scoring(self) -> tuple[int, np.float32]:
        return (L2 if self.metric == "l2" else DOT), np.float32(self.metric == "cosine")
