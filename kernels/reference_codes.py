"""What the codecs compute, in plain NumPy: their specification, and what tests hold them against."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.kernels.scan import L2

Floats = NDArray[np.float64]


def distances(queries: NDArray[Any], vectors: NDArray[Any], metric: int) -> Floats:
    """(q, n) squared Euclidean distances (L2) or minus inner products (DOT)."""
    left, right = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == L2:
        result: Floats = ((left[:, None] - right[None]) ** 2).sum(axis=-1)
        return result
    return -left @ right.T


def quantise_query(query: NDArray[Any]) -> tuple[NDArray[np.int64], float]:
    """(k (dim,), t): the query is read back as t k."""
    scale = float(np.abs(query).max(initial=0.0)) / 127
    if scale == 0:
        return np.zeros(len(query), np.int64), 0.0
    return np.floor(query / scale + 0.5).astype(np.int64), scale
