"""Exact scans: every row of a matrix against a few queries, and selection from tiles of a matrix product.

Rows are float32, uint8, int8 or uint16 (IEEE half bits), C-contiguous and not padded. Masks are uint8 with one
entry per row, or empty for "all rows"; they are looked at only for rows that are close enough to matter.
"""

import numpy as np
from numba import types
from numba.extending import overload

from nearhash.kernels import simd
from nearhash.kernels.jit import OVERLOAD_OPTIONS, jit
from nearhash.kernels.pool import EMPTY_KEY, insert, key_distance, make_key
from nearhash.kernels.simd import any_below, pointer

L2, DOT = 0, 1
_BLOCK_BYTES = 1 << 16  # rows that several queries scan while they are in the first-level cache or close to it
GROUP = 64  # scores tested at once by any_below


def row_distance(queries, query, rows, row, metric, offset, factors):
    """Distance of one query and one row.

    L2: squared Euclidean. DOT: ``offset - factors[row] * <q, x>``; empty `factors` stand for ones.
    """
    raise NotImplementedError("compiled by Numba")


@overload(row_distance, jit_options=OVERLOAD_OPTIONS)
def _row_distance(queries, query, rows, row, metric, offset, factors):
    if queries.dtype == types.float32:
        l2, dot = simd.squared_l2, simd.dot
    else:
        l2, dot = simd.integer_squared_l2, simd.integer_dot

    def implementation(queries, query, rows, row, metric, offset, factors):
        dim = queries.shape[1]
        left, right = pointer(queries, query * dim), pointer(rows, row * dim)
        if metric == L2:
            return np.float32(l2(left, right, dim))
        product = np.float32(dot(left, right, dim))
        if factors.shape[0] > 0:
            product *= factors[row]
        return offset - product

    return implementation


@jit
def _offer(pools, sizes, query, distance, row):
    """Put a row into the pool of a query if it is among the best."""
    capacity = pools.shape[1]
    size = sizes[query]
    key = make_key(distance, row)
    if size < capacity:
        insert(pools[query], size, capacity, key)
        sizes[query] = size + 1
    elif key < pools[query, capacity - 1]:
        insert(pools[query], size, capacity, key)


@jit
def _bound(pools, sizes, query):
    """Key below which a row may enter the pool of a query."""
    capacity = pools.shape[1]
    if sizes[query] < capacity:
        return EMPTY_KEY
    return pools[query, capacity - 1]


@jit
def scan_rows(queries, rows, first, last, metric, offset, factors, mask, pools, sizes):
    """Offer rows ``first <= i < last`` to the pools of all queries.

    queries (q, dim) float32, or the dtype of integer rows; rows (n, dim); factors (n,) or (0,) float32;
    mask (n,) or (0,) uint8; pools (q, k) uint64 with sizes (q,) int64, both updated.
    """
    dim = rows.shape[1]
    block = max(1, _BLOCK_BYTES // max(1, dim * rows.itemsize))
    masked = mask.shape[0] > 0
    for start in range(first, last, block):
        stop = min(start + block, last)
        for query in range(queries.shape[0]):
            bound = _bound(pools, sizes, query)
            for row in range(start, stop):
                distance = row_distance(queries, query, rows, row, metric, offset, factors)
                if make_key(distance, row) < bound and not (masked and mask[row] == 0):
                    _offer(pools, sizes, query, distance, row)
                    bound = _bound(pools, sizes, query)


@jit
def scan_slots(queries, rows, slots, metric, offset, factors, pools, sizes):
    """As `scan_rows` for the rows in `slots` (int32, ascending): the path of selective filters."""
    for query in range(queries.shape[0]):
        for i in range(slots.shape[0]):
            row = slots[i]
            distance = row_distance(queries, query, rows, row, metric, offset, factors)
            if make_key(distance, row) < _bound(pools, sizes, query):
                _offer(pools, sizes, query, distance, row)


@jit
def select_from_tile(dots, bias, scale, slots, mask, pools, sizes):
    """Offer a tile of a matrix product to the pools.

    dots (q, t) float32 inner products; score = bias[j] + scale * dots[i, j]; slots (t,) int32 row numbers; mask
    over all rows or empty. `bias` is readable up to the next multiple of 64 beyond t, and so is every row of `dots`:
    its row length is a multiple of 64, of which t columns count.
    """
    count, masked = slots.shape[0], mask.shape[0] > 0
    capacity = pools.shape[1]
    for query in range(dots.shape[0]):
        for start in range(0, count, GROUP):
            if sizes[query] == capacity:
                threshold = key_distance(pools[query, capacity - 1])
                line = pointer(dots, query * dots.shape[1] + start)
                if not any_below(line, pointer(bias, start), scale, threshold):
                    continue
            for j in range(start, min(start + GROUP, count)):
                row = slots[j]
                if not (masked and mask[row] == 0):
                    _offer(pools, sizes, query, bias[j] + scale * dots[query, j], row)


@jit
def rescore(queries, rows, metric, offset, factors, candidates, counts, pools, sizes):
    """Exact distances of candidate slots (q, c), the first counts[i] of each row, into pools (q, k)."""
    for query in range(queries.shape[0]):
        for i in range(counts[query]):
            row = candidates[query, i]
            _offer(pools, sizes, query, row_distance(queries, query, rows, row, metric, offset, factors), row)


@jit
def scan_radius(queries, query, rows, start, metric, offset, factors, mask, radius, slots, distances):
    """Rows from `start` on with distance <= radius, until the outputs are full.

    Returns (next row, count): the scan is over when the next row is the number of rows.
    """
    count, masked = 0, mask.shape[0] > 0
    for row in range(start, rows.shape[0]):
        if masked and mask[row] == 0:
            continue
        distance = row_distance(queries, query, rows, row, metric, offset, factors)
        if distance <= radius:
            if count == slots.shape[0]:
                return row, count
            slots[count] = row
            distances[count] = distance
            count += 1
    return rows.shape[0], count
