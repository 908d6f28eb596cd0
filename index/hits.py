"""What searches return."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Hits(NamedTuple):
    """The nearest neighbours of a batch of queries.

    Attributes
    ----------
    ids : (q, k) int64
        Ids in order of distance; -1 where fewer than k vectors match.
    distances : (q, k) float32
        Their distances, ascending; inf where the id is -1. l2: squared Euclidean; cosine: 1 - cos; ip: -<q, x>.
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.float32]


class RangeHits(NamedTuple):
    """All neighbours within a radius; those of query i are at ``indptr[i]:indptr[i + 1]``.

    Attributes
    ----------
    indptr : (q + 1,) int64
        Where the hits of each query start.
    ids : (total,) int64
        Ids, for each query in order of distance.
    distances : (total,) float32
        Their distances.
    """

    indptr: NDArray[np.int64]
    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
