"""The centroids of a disk index in memory, and which of them are near."""

import numpy as np
from numpy.typing import NDArray

from nearhash.index.graph import GraphIndex

# Up to so many bytes of centroids all are compared: they stay in the cache, and nothing is missed.
EXACT_BYTES = 1 << 22

Near = tuple[NDArray[np.int32], NDArray[np.float32]]


class Centroids:
    """Centroids and the graph over them.

    Parameters
    ----------
    graph : GraphIndex
        Over the centroids, by Euclidean distance and with codec f32; nothing was removed from it.
    """

    def __init__(self, graph: GraphIndex) -> None:
        self.graph = graph
        self._rows = graph._codes.view

    @classmethod
    def over(cls, rows: NDArray[np.float32], seed: int, threads: int) -> "Centroids":
        """Of centroids (c, dim)."""
        graph = GraphIndex(rows.shape[1], "l2", codec="f32", seed=seed, threads=threads)
        graph.add(rows)
        return cls(graph)

    def __len__(self) -> int:
        return len(self.graph)

    @property
    def nbytes(self) -> int:
        return self.graph.nbytes

    def nearest(self, queries: NDArray[np.float32], count: int, threads: int) -> Near:
        """Numbers and squared distances (q, count) of the centroids nearest to queries (q, dim), nearest first.

        By the graph where there are many; `count` is at most the number of centroids.
        """
        if self._rows.nbytes <= EXACT_BYTES:
            return self.nearest_among(queries, slice(0, len(self)), count, threads)
        hits = self.graph.search(queries, count, threads=threads, beam=max(48, 2 * count))
        return hits.ids.astype(np.int32), hits.distances

    def nearest_among(self, queries: NDArray[np.float32], part: slice, count: int, threads: int) -> Near:
        """As `nearest`, but of consecutive centroids only, all of which are compared."""
        wanted = self.graph._points.filter(len(queries))
        numbers, squares = self.graph._fine.scan(self._rows[part], queries, wanted, count, threads)
        return numbers + np.int32(part.start), squares
