"""Exact distances of the candidates that a scan of codes left."""

import numpy as np

from nearhash.kernels.jit import jit
from nearhash.kernels.pool import insert_at, key_distance, key_slot, make_key, unpack
from nearhash.kernels.scan import row_distance
from nearhash.kernels.select import keep_least
from nearhash.kernels.simd import offset, pointer, prefetch

_AHEAD = 6  # rows


@jit
def rerank(queries, vectors, metric, base, keys, sizes, want, bounded, margin, slots, distances):
    """The nearest of each query's `want` best candidates by exact distance.

    queries (q, dim) float32; vectors (n, dim) float32 or uint16 half bits; metric and base as in scan.row_distance;
    keys (q, capacity) uint64 with sizes (q,), a slot possibly more than once. If `bounded`, scores of keys plus margin
    (q,) are lower bounds of distances, and a query stops at the first candidate that cannot win any more.
    Results: slots (q, k) int32 and distances (q, k) float32, -1 and inf where there are fewer.
    """
    dim, k = queries.shape[1], slots.shape[1]
    lines, step = (dim * vectors.itemsize + 63) // 64, 64 // vectors.itemsize
    best, rows = np.empty(k, np.uint64), pointer(vectors, 0)
    one = np.float32(1.0)
    for query in range(queries.shape[0]):
        pool, vector = pointer(keys, query * keys.shape[1]), pointer(queries, query * dim)
        chosen = keep_least(pool, sizes[query], want, want)
        if bounded:
            keys[query, :chosen].sort()
        for i in range(min(_AHEAD, chosen)):
            for line in range(lines):
                prefetch(offset(rows, key_slot(pool[i]) * dim + line * step))
        count = 0
        for i in range(chosen):
            if i + _AHEAD < chosen:
                row = key_slot(pool[i + _AHEAD]) * dim
                for line in range(lines):
                    prefetch(offset(rows, row + line * step))
            if bounded and count == k and key_distance(pool[i]) + margin[query] > key_distance(best[k - 1]):
                break
            slot = key_slot(pool[i])
            key = make_key(row_distance(vector, offset(rows, slot * dim), dim, metric, base, one), slot)
            if count < k or key < best[k - 1]:
                # Two copies of a vector in different lists have the same key: only one of them enters.
                twice = False
                for j in range(count):
                    twice |= best[j] == key
                if not twice:
                    insert_at(pointer(best, 0), count, k, key)
                    count += 1 if count < k else 0
        unpack(best, count, slots[query], distances[query])
