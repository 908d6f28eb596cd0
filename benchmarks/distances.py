"""Distances in float64 between queries and the base vectors found for them."""

import numpy as np
from numpy.typing import NDArray

CHUNK_VALUES = 1 << 24  # of float64 gathered at a time: 128 MiB


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors; a zero vector stays zero. For peers that have an inner product but no cosine."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(norms > 0, norms, 1), np.float32)


def pair_distances(
    base: NDArray[np.float32], queries: NDArray[np.float32], ids: NDArray[np.int64], metric: str
) -> NDArray[np.float64]:
    """Distance of each query to each base vector named in its row of `ids`; inf where the id is -1.

    Squared Euclidean for l2, 1 - cos for cosine (1 with a zero vector), minus the inner product for ip. Both the
    ground truth and the results of every peer are measured by this one function, so equal pairs get equal distances.
    """
    q, k = ids.shape
    distances = np.empty((q, k), np.float64)
    step = max(1, CHUNK_VALUES // max(1, k * base.shape[1]))
    for start in range(0, q, step):
        stop = min(q, start + step)
        rows = base[ids[start:stop].clip(0)].astype(np.float64)
        asked = queries[start:stop].astype(np.float64)
        distances[start:stop] = _distances(rows, asked, metric)
    distances[ids < 0] = np.inf
    return distances


def _distances(rows: NDArray[np.float64], asked: NDArray[np.float64], metric: str) -> NDArray[np.float64]:
    if metric == "l2":
        rows -= asked[:, None]
        squared: NDArray[np.float64] = np.einsum("qkd,qkd->qk", rows, rows)
        return squared
    products: NDArray[np.float64] = np.einsum("qkd,qd->qk", rows, asked)
    if metric == "ip":
        return -products
    norms = np.sqrt(np.einsum("qkd,qkd->qk", rows, rows)) * np.linalg.norm(asked, axis=1)[:, None]
    cosines: NDArray[np.float64] = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return 1 - cosines
