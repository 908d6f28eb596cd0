"""Scan of lists that were read from disk."""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.pool import EMPTY_KEY, insert_at, make_key
from nearhash.kernels.scan import passes, row_distance
from nearhash.kernels.simd import offset, pointer


@jit_inline
def _enter(pool, size, capacity, key):
    """Insert a key that a pool has room for or that is less than its last one, unless it is there; the new size.

    Copies of a vector in several lists have the same distance, bit by bit, and so the same key.
    """
    for i in range(size):
        if pool[i] == key:
            return size
    insert_at(pool, size, capacity, key)
    return min(size + 1, capacity)


@jit
def scan_read(
    queries, which, first, last, indptr, numbers, rows, slots, row_starts, slot_starts, counts, total, metric, base,
    mask, labels, windows, pools, sizes,
):  # fmt: skip
    """Offer the entries of lists to the pools of queries; returns the number of a list with a bad slot, or -1.

    queries (q, dim) float32; which (w,) int64: queries that read something, of which ``first <= i < last`` are meant;
    query ``which[i]`` reads the lists ``numbers[indptr[i]:indptr[i + 1]]``. List j has ``counts[j]`` vectors from
    element ``row_starts[j]`` of rows on, (any,) float32, uint16 (half bits), uint8 or int8, and their slots from
    element ``slot_starts[j]`` of slots on, (any,) int32, to be less than `total`. metric and base as in
    `scan.row_distance`; mask, labels and windows as in `scan.passes`; pools (q, k) uint64 and sizes (q,) int64,
    updated.
    """
    dim, capacity, one = queries.shape[1], pools.shape[1], np.float32(1.0)
    for i in range(first, last):
        query = which[i]
        vector, pool, size = pointer(queries, query * dim), pointer(pools, query * capacity), sizes[query]
        bound = pool[capacity - 1] if size == capacity else EMPTY_KEY
        for j in range(indptr[i], indptr[i + 1]):
            number = numbers[j]
            row, own = pointer(rows, row_starts[number]), pointer(slots, slot_starts[number])
            for entry in range(counts[number]):
                slot = np.int64(own[entry])
                if slot < 0 or slot >= total:
                    sizes[query] = size
                    return number
                key = make_key(row_distance(vector, offset(row, entry * dim), dim, metric, base, one), slot)
                if key < bound and passes(query, slot, mask, labels, windows):
                    size = _enter(pool, size, capacity, key)
                    bound = pool[capacity - 1] if size == capacity else EMPTY_KEY
        sizes[query] = size
    return np.int64(-1)
