"""The centroids of a disk index: many small lists of about the same size."""

import numpy as np
from numpy.typing import NDArray

from nearhash.index.partition import Partition, train_centroids


def even_centroids(rows: NDArray[np.float32], lists: int, most: int, seed: int, threads: int) -> NDArray[np.float32]:
    """Centroids of rows (n, dim), about `lists` of them, such that few lists have more than `most` members.

    k-means, and again within each list that came out too long (the hierarchical balanced clustering of SPANN, Chen et
    al., NeurIPS 2021, sec. 3.2.1, with the limit as a rule instead of a penalty). Equal vectors cannot be divided: they
    stay together. Centroids that no row is nearest to are left out. The result does not depend on `threads`.
    """
    centroids = train_centroids(rows, lists, False, seed, threads)
    own = Partition(centroids, "l2").assign(rows, threads)
    sizes = np.bincount(own, minlength=lists)
    long = sizes > most
    if lists > 1 and sizes.max() == len(rows):
        return centroids[sizes > 0]
    parts = [centroids[(sizes > 0) & ~long]]
    target = max(1, len(rows) // lists)
    for number in np.flatnonzero(long):
        share = min(int(sizes[number]), max(2, -(-int(sizes[number]) // target)))
        parts.append(even_centroids(rows[own == number], share, most, seed + 1 + int(number), threads))
    return np.concatenate(parts)
