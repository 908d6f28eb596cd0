"""A graph over the centroids of a partition of many lists: comparing a query with all of them would take too long."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.graph import GraphIndex

PREFIX = "coarse."  # of tensors in files
# A walk that looks for so many lists more than are wanted misses hardly any of those.
BEAM, LEAST_BEAM = 1.5, 64
BUILD_BEAM = 96

_SIGN = np.uint32(0x80000000)


class CentroidGraph:
    """Finds the nearest centroids of queries by a walk instead of a scan.

    Parameters
    ----------
    graph : GraphIndex
        Over the centroids, ids their numbers.
    """

    def __init__(self, graph: GraphIndex) -> None:
        self._graph = graph

    @classmethod
    def build(cls, centroids: NDArray[np.float32], metric: str, seed: int, threads: int) -> "CentroidGraph":
        """A graph over centroids (c, dim) for queries of a metric."""
        graph = GraphIndex(
            centroids.shape[1], "l2" if metric == "l2" else "ip", build_beam=BUILD_BEAM, seed=seed, threads=threads
        )
        graph.add(centroids)
        return cls(graph)

    def nearest(self, queries: NDArray[np.float32], probes: int) -> NDArray[np.uint64]:
        """Keys (q, probes) of about the nearest centroids, as `kernels.coarse.nearest_centroids` gives them."""
        beam = max(LEAST_BEAM, int(BEAM * probes))
        hits = self._graph.search(queries, probes, threads=1, beam=beam, rerank=beam)
        scores = hits.distances
        if self._graph.metric == "l2":  # scores leave out |q|^2
            scores = scores - np.einsum("ij,ij->i", queries, queries)[:, None]
        bits = scores.view(np.uint32)
        ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
        return (ordered << np.uint64(32)) | (hits.ids.astype(np.uint64) << np.uint64(1))

    @property
    def nbytes(self) -> int:
        return self._graph.nbytes

    def to_file(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Header and tensors, as parts of the file of an index."""
        header, tensors = self._graph._to_file()
        return header, {PREFIX + name: tensor for name, tensor in tensors.items()}

    @classmethod
    def from_file(cls, header: Any, tensors: dict[str, NDArray[Any]], lists: int, metric: str) -> "CentroidGraph":
        """What `to_file` gave; raises CorruptIndexError if it is not a graph of `lists` centroids."""
        if not isinstance(header, dict) or header.get("kind") != "graph":
            raise CorruptIndexError(f"header 'coarse': expected that of a graph, got {header!r:.80}")
        own = {name[len(PREFIX) :]: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        graph = GraphIndex._from_file(header, own)
        fits = graph.metric == ("l2" if metric == "l2" else "ip") and len(graph) == lists
        if not fits or (graph.ids != np.arange(lists)).any():
            raise CorruptIndexError("header 'coarse': expected a graph of the centroids")
        return cls(graph)
