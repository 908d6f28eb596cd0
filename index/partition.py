"""Centroids of a partition index: training them, and which lists a vector belongs to."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from nearhash.index.arrays import aligned_empty
from nearhash.index.coarse import CentroidGraph
from nearhash.index.codecs.lvq8 import LVQ8Codec
from nearhash.kernels.coarse import choose_spill, nearest_centroids, refine_centroids
from nearhash.kernels.codes import estimate_all
from nearhash.kernels.panels import fill_panels, panel_count
from nearhash.kernels.scan import DOT, L2
from nearhash.kernels.select import LARGEST
from nearhash.kernels.simd import PRODUCT_QUERIES, PRODUCT_ROWS
from nearhash.kernels.threads import run_chunks

ROUNDS = 10
SAMPLE = 64  # training vectors for each list; faiss wants at least 39, more changes little
FLAT_LISTS = 4096  # beyond it k-means takes long and is done in two levels
# From so many lists on their centroids get a graph. For 120 of 8,192 lists a walk takes a single query 40 us less than
# a scan, but a batch 50 us a query more; the scan grows with the lists, the walk hardly.
GRAPH_LISTS = 32_768
WALKED = 16  # a walk that is to find more than this share of all centroids does not pay
# From so many dimensions on centroids have codes too, and so many more than are wanted are chosen by them at least.
OUTLINE_DIM, LEAST_SPARE = 256, 16
_CHUNK = 2048  # vectors assigned at once

KEY_SLOT = np.uint64(0xFFFFFFFF)

_NO_WINDOWS: NDArray[np.float64] = np.empty((0, 2))
_NO_BOUNDS: tuple[NDArray[np.float64], NDArray[np.float64]] = (np.empty(0), np.empty(0))


def default_lists(count: int) -> int:
    """Lists for `count` vectors: 2.5 sqrt(n), between the best for word vectors (3) and for images (2)."""
    return max(1, min(count, round(2.5 * math.sqrt(count))))


def draw_sample(count: int, wanted: int, seed: int, stream: int) -> NDArray[np.int64]:
    """`wanted` of `count` rows in random order, or all of them."""
    order: NDArray[np.int64] = np.random.Generator(
        np.random.Philox(key=np.array([seed, stream], np.uint64))
    ).permutation(count)
    return order[:wanted]


@contextmanager
def _faiss_threads(threads: int) -> Iterator[None]:
    """Hold faiss to so many threads; the setting belongs to the calling thread and is put back."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def train_centroids(
    sample: NDArray[np.float32],
    lists: int,
    spherical: bool,
    seed: int,
    threads: int,
    progress: Callable[[], None] | None = None,
) -> NDArray[np.float32]:
    """Centroids (lists, dim) of a sample (n, dim) in random order, n >= lists, by Lloyd's algorithm (faiss).

    Above FLAT_LISTS in two levels: sqrt(lists) cells first, each of which is divided into as many lists as its share
    of the sample asks for, so that the lists come out balanced. The result does not depend on `threads`.
    """
    with _faiss_threads(threads):
        if lists <= FLAT_LISTS:
            return _k_means(sample, lists, spherical, seed)
        cells = round(lists**0.5)
        centres = _k_means(sample, cells, spherical, seed)
        own = Partition(centres, "cosine" if spherical else "l2").assign(sample, threads)
        members = [np.flatnonzero(own == cell) for cell in range(cells)]
        shares = divide(np.array([len(rows) for rows in members]), lists)
        parts = []
        for cell, (rows, share) in enumerate(zip(members, shares, strict=True)):
            if share:
                parts.append(_k_means(sample[rows], int(share), spherical, seed + 1 + cell))
            if progress is not None:
                progress()
        return np.concatenate(parts)


def divide(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """`total` <= sum of sizes, divided in proportion to sizes (largest remainders), no share above its size."""
    exact = sizes * (total / max(1, sizes.sum()))
    shares: NDArray[np.int64] = np.minimum(np.floor(exact).astype(np.int64), sizes)
    order = np.argsort(-(exact - shares), kind="stable")
    while (missing := total - int(shares.sum())) > 0:
        room = order[shares[order] < sizes[order]]
        shares[room[:missing]] += 1
    return shares


def _k_means(sample: NDArray[np.float32], lists: int, spherical: bool, seed: int) -> NDArray[np.float32]:
    import faiss

    dim = sample.shape[1]
    clustering = faiss.Clustering(dim, lists)
    clustering.niter, clustering.seed, clustering.spherical = ROUNDS, seed % (1 << 30), spherical
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, max(SAMPLE, -(-len(sample) // lists))
    quantiser = faiss.IndexFlatIP(dim) if spherical else faiss.IndexFlatL2(dim)
    clustering.train(np.ascontiguousarray(sample), quantiser)
    return np.array(faiss.vector_to_array(clustering.centroids).reshape(lists, dim))


class _Outline:
    """Centroids as 8-bit codes, for a few queries at a time.

    A batch multiplies each centroid with many queries; a single query would read all of them, which in many dimensions
    takes the cache away from everything else (images: 1.9 MB, and half of the time of a search). Codes are a quarter of
    that. They choose somewhat more centroids than are wanted, among which the exact scores decide.
    """

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        lists = len(centroids)
        self._codec = LVQ8Codec(centroids.shape[1], has_extra=False)
        self._codec.train(centroids)
        self.rows = aligned_empty((lists, self._codec.width), self._codec.dtype)
        self._codec.encode(centroids, np.zeros(lists, np.float32), self.rows)
        self._numbers = np.arange(-(-lists // 16) * 16, dtype=np.int32)

    def estimate(
        self, queries: NDArray[np.float32], metric: str
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.uint64]]:
        """What `refine_centroids` takes: estimated distances, numbers of centroids, scratch for keys."""
        lists = len(self.rows)
        estimates = np.full((len(queries), len(self._numbers)), np.inf, np.float32)
        estimate_all(self._codec.model, queries, L2 if metric == "l2" else DOT, self.rows, 0, lists, estimates)
        np.minimum(estimates[:, :lists], LARGEST, out=estimates[:, :lists])
        return estimates, self._numbers, np.empty(len(self._numbers) + 16, np.uint64)


class Partition:
    """Centroids in the form in which many vectors are compared with them.

    Parameters
    ----------
    centroids : (c, dim) float32
    metric : {"l2", "ip", "cosine"}
        What queries order centroids by. Vectors belong to the list of the nearest centroid: by Euclidean distance,
        for inner product too, or by cosine.
    graph : CentroidGraph, optional
        What finds the nearest centroids of queries, if there are too many to compare with.
    """

    def __init__(self, centroids: NDArray[np.float32], metric: str, graph: CentroidGraph | None = None) -> None:
        self.centroids = centroids
        self.graph = graph
        self.metric = metric
        dim = centroids.shape[1]
        self.panels = aligned_empty((panel_count(len(centroids)), dim, PRODUCT_ROWS), np.float32)
        fill_panels(centroids, self.panels)
        wide = np.einsum("ij,ij->i", centroids, centroids, dtype=np.float64)
        self.squares: NDArray[np.float32] = np.minimum(wide, np.finfo(np.float32).max).astype(np.float32)
        nothing: NDArray[np.float32] = np.zeros(len(centroids), np.float32)
        self.bias = self.squares if metric == "l2" else nothing
        self.factor = np.float32(-2.0 if metric == "l2" else -1.0)
        self._member_bias = nothing if metric == "cosine" else self.squares
        self._member_factor = np.float32(-1.0 if metric == "cosine" else -2.0)
        self._outline = _Outline(centroids) if dim >= OUTLINE_DIM and graph is None else None

    @property
    def lists(self) -> int:
        return len(self.centroids)

    @property
    def nbytes(self) -> int:
        graph = 0 if self.graph is None else self.graph.nbytes
        outline = 0 if self._outline is None else self._outline.rows.nbytes
        return int(self.centroids.nbytes + self.panels.nbytes + self.squares.nbytes + outline) + graph

    def nearest(
        self,
        queries: NDArray[np.float32],
        probes: int,
        windows: NDArray[np.float64] = _NO_WINDOWS,
        bounds: tuple[NDArray[np.float64], NDArray[np.float64]] = _NO_BOUNDS,
    ) -> NDArray[np.uint64]:
        """Keys (q, probes) of the lists to read for queries (q, dim), in no order; see ``kernels.coarse``.

        windows (q, 2), or none: lists whose labels, between bounds, two of (c,), all lie outside are read last.
        """
        if len(windows) and len(bounds[0]) and not _all_overlap(windows, *bounds):
            chosen = np.empty((len(queries), probes), np.uint64)
            nearest_centroids(queries, self.panels, self.bias, self.factor, windows, *bounds, chosen)
            return chosen
        if self.graph is not None and probes <= self.lists // WALKED:
            return self.graph.nearest(queries, probes)
        chosen = np.empty((len(queries), probes), np.uint64)
        candidates = probes + max(LEAST_SPARE, probes // 2)
        if self._outline is not None and len(queries) < PRODUCT_QUERIES and 2 * candidates < self.lists:
            estimates, numbers, keys = self._outline.estimate(queries, self.metric)
            refine_centroids(
                queries, estimates, numbers, self.centroids, self.bias, self.factor, candidates, keys, chosen
            )
        else:
            nearest_centroids(queries, self.panels, self.bias, self.factor, _NO_WINDOWS, *_NO_BOUNDS, chosen)
        return chosen

    def assign(self, vectors: NDArray[np.float32], threads: int) -> NDArray[np.int32]:
        """List (n,) of each vector."""
        return self.assign_twice(vectors, 0.0, threads, spill=False)[0]

    def assign_twice(
        self, vectors: NDArray[np.float32], weight: float, threads: int, spill: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The list of each vector and, if `spill`, a second one for it.

        The second one is to be near when the first one is not found: with r and r' the residuals to both centroids it
        has the least ``|r'|^2 + weight <r', r>^2 / |r|^2`` (SOAR, Sun et al., NeurIPS 2023, eq. 6).
        """
        first, second = np.empty(len(vectors), np.int32), np.empty(len(vectors) if spill else 0, np.int32)

        def task(start: int, stop: int) -> None:
            part = vectors[start:stop]
            keys = np.empty((len(part), 1), np.uint64)
            nearest_centroids(part, self.panels, self._member_bias, self._member_factor, _NO_WINDOWS, *_NO_BOUNDS, keys)
            first[start:stop] = (keys[:, 0] & KEY_SLOT) >> np.uint64(1)
            if spill:
                near = np.empty((len(part), min(_CANDIDATES, self.lists)), np.uint64)
                nearest_centroids(part, self.panels, self.squares, np.float32(-2.0), _NO_WINDOWS, *_NO_BOUNDS, near)
                choose_spill(part, self.centroids, first[start:stop], near, np.float32(weight), second[start:stop])

        run_chunks(task, len(vectors), threads, _CHUNK)
        return first, second


def _all_overlap(windows: NDArray[np.float64], lows: NDArray[np.float64], highs: NDArray[np.float64]) -> bool:
    """Whether every list has labels on both sides of, or in, every window: then its bounds exclude none."""
    return bool((lows.max() < windows[:, 1].min()) and (highs.min() >= windows[:, 0].max()))


_CANDIDATES = 16  # for the second list of a vector
