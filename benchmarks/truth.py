"""Exact nearest neighbours, against which recall is computed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache import load_array, save_array
from benchmarks.datasets import Dataset
from benchmarks.distances import normalised, pair_distances

DEPTH = 100


@dataclass(frozen=True)
class Truth:
    """The nearest base vectors of each query: ids (q, k) int64 and distances (q, k) float64, ascending."""

    ids: NDArray[np.int64]
    distances: NDArray[np.float64]


def ground_truth(dataset: Dataset, k: int = DEPTH) -> Truth:
    """The k nearest of each query by exhaustive search, from the cache if it was computed before."""
    k = min(k, len(dataset.base))
    if dataset.neighbors is not None and dataset.neighbors.shape[1] >= k:
        return _ordered(dataset, dataset.neighbors, k)
    if dataset.folder is None:
        return _ordered(dataset, _exhaustive(dataset, k), k)
    path = dataset.folder / f"neighbors-{k}.npy"
    if not path.is_file():
        save_array(path, _exhaustive(dataset, k))
    return _ordered(dataset, load_array(path), k)


def _exhaustive(dataset: Dataset, k: int) -> NDArray[np.int64]:
    """Ids of the nearest, by faiss on all cores. A few more than k: float32 may swap neighbours at the edge."""
    import faiss

    base, queries = dataset.base, dataset.queries
    if dataset.metric == "cosine":
        base, queries = normalised(base), normalised(queries)
    index = faiss.IndexFlatL2(base.shape[1]) if dataset.metric == "l2" else faiss.IndexFlatIP(base.shape[1])
    index.add(base)
    _, ids = index.search(queries, min(k + 16, len(base)))
    ordered: NDArray[np.int64] = _ordered(dataset, ids, k).ids
    return ordered


def _ordered(dataset: Dataset, ids: NDArray[np.int64], k: int) -> Truth:
    """The first k of the given neighbours by distance in float64, ties by id."""
    distances = pair_distances(dataset.base, dataset.queries, ids, dataset.metric)
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    return Truth(np.take_along_axis(ids, order, 1), np.take_along_axis(distances, order, 1))
