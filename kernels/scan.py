"""Exact scans: every row of a matrix against a few queries.

Rows are float32, uint8, int8 or uint16 (IEEE half bits), C-contiguous and not padded. A filter is three arrays, see
`passes`; it is looked at only for rows that are close enough to matter.
"""

import numpy as np
from numba import types
from numba.extending import overload

from nearhash.kernels import simd
from nearhash.kernels.jit import INLINE_OPTIONS, jit, jit_inline
from nearhash.kernels.pool import EMPTY_KEY, insert, make_key, unpack
from nearhash.kernels.simd import pointer, prefetch

L2, DOT = 0, 1
# How far ahead of the scan to ask for rows: 1.4x for rows of 400 bytes, of which a few use up the look-ahead of the
# processor; for rows of 3 KB asking costs a tenth instead, and this is less than a row.
_AHEAD_BYTES = 2048
_AHEAD_SLOTS = 8  # of rows in no order: nothing but asking brings them early
_BLOCK_BYTES = 1 << 16  # rows that several queries scan while they are in the first-level cache or close to it


def row_distance(query, row, dim, metric, offset, factor):
    """Distance of a query and a row, both given as pointers.

    L2: squared Euclidean. DOT: ``offset - factor * <q, x>``.
    """
    raise NotImplementedError("compiled by Numba")


@overload(row_distance, jit_options=INLINE_OPTIONS)
def _row_distance(query, row, dim, metric, offset, factor):
    if query.dtype == types.float32:
        l2, dot = simd.squared_l2, simd.dot
    else:
        l2, dot = simd.integer_squared_l2, simd.integer_dot

    def implementation(query, row, dim, metric, offset, factor):
        if metric == L2:
            return np.float32(l2(query, row, dim))
        return offset - factor * np.float32(dot(query, row, dim))

    return implementation


@jit_inline
def passes(query, row, mask, labels, windows):
    """Whether a row may be an answer of a query.

    mask (n,) uint8: zero forbids a row to all queries; labels (n,) and windows (q, 2) float64: a query takes rows
    with ``windows[query, 0] <= label < windows[query, 1]``. An empty mask or empty windows forbid nothing.
    """
    if mask.shape[0] > 0 and mask[row] == 0:
        return False
    if windows.shape[0] > 0:
        label = labels[row]
        return windows[query, 0] <= label and label < windows[query, 1]
    return True


@jit
def offer(pools, sizes, query, distance, row):
    """Put a row into the pool of a query if it is among the best."""
    capacity = pools.shape[1]
    size = sizes[query]
    key = make_key(distance, row)
    if size < capacity:
        insert(pools[query], size, capacity, key)
        sizes[query] = size + 1
    elif key < pools[query, capacity - 1]:
        insert(pools[query], size, capacity, key)


@jit_inline
def _bound(pools, sizes, query):
    """Key below which a row may enter the pool of a query."""
    capacity = pools.shape[1]
    if sizes[query] < capacity:
        return EMPTY_KEY
    return pools[query, capacity - 1]


@jit
def scan_rows(queries, rows, first, last, metric, offset, factors, mask, labels, windows, pools, sizes):
    """Offer rows ``first <= i < last`` to the pools of all queries.

    queries (q, dim) float32, or the dtype of integer rows; rows (n, dim); factors (n,) or (0,) float32;
    mask, labels, windows as in `passes`; pools (q, k) uint64 with sizes (q,) int64, both updated.
    """
    dim, scaled = rows.shape[1], factors.shape[0] > 0
    block = max(1, _BLOCK_BYTES // max(1, dim * rows.itemsize))
    ahead, lines = _AHEAD_BYTES // max(1, dim * rows.itemsize), (dim * rows.itemsize + 63) // 64
    step = max(1, 64 // rows.itemsize)
    for start in range(first, last, block):
        stop = min(start + block, last)
        for query in range(queries.shape[0]):
            bound = _bound(pools, sizes, query)
            vector = pointer(queries, query * dim)
            for row in range(start, stop):
                if ahead > 0 and query == 0:
                    for line in range(lines):
                        prefetch(pointer(rows, (row + ahead) * dim + line * step))
                factor = factors[row] if scaled else np.float32(1.0)
                distance = row_distance(vector, pointer(rows, row * dim), dim, metric, offset, factor)
                if make_key(distance, row) < bound and passes(query, row, mask, labels, windows):
                    offer(pools, sizes, query, distance, row)
                    bound = _bound(pools, sizes, query)


@jit
def scan_spans(queries, rows, slots, spans, metric, offset, factors, mask, pools, sizes):
    """Offer to the pool of each query the rows ``slots[spans[query, 0] : spans[query, 1]]`` that the mask allows.

    The path of selective filters: slots (m,) int32 in any order, spans (q, 2) int64; others as in `scan_rows`.
    """
    dim, scaled, masked = rows.shape[1], factors.shape[0] > 0, mask.shape[0] > 0
    lines = (dim * rows.itemsize + 63) // 64
    step = max(1, 64 // rows.itemsize)
    for query in range(queries.shape[0]):
        first, last = spans[query, 0], spans[query, 1]
        vector, bound = pointer(queries, query * dim), _bound(pools, sizes, query)
        for i in range(first, min(first + _AHEAD_SLOTS, last)):
            for line in range(lines):
                prefetch(pointer(rows, slots[i] * dim + line * step))
        for i in range(first, last):
            if i + _AHEAD_SLOTS < last and not (masked and mask[slots[i + _AHEAD_SLOTS]] == 0):
                for line in range(lines):
                    prefetch(pointer(rows, slots[i + _AHEAD_SLOTS] * dim + line * step))
            row = slots[i]
            if masked and mask[row] == 0:
                continue
            factor = factors[row] if scaled else np.float32(1.0)
            distance = row_distance(vector, pointer(rows, row * dim), dim, metric, offset, factor)
            if make_key(distance, row) < bound:
                offer(pools, sizes, query, distance, row)
                bound = _bound(pools, sizes, query)


@jit
def rescore(queries, rows, metric, offset, factors, candidates, counts, pools, sizes):
    """Exact distances of candidate slots (q, c), the first counts[i] of each row, into pools (q, k)."""
    dim, scaled = rows.shape[1], factors.shape[0] > 0
    for query in range(queries.shape[0]):
        for i in range(counts[query]):
            row = candidates[query, i]
            factor = factors[row] if scaled else np.float32(1.0)
            vector = pointer(queries, query * dim)
            offer(pools, sizes, query, row_distance(vector, pointer(rows, row * dim), dim, metric, offset, factor), row)


@jit
def unpack_pools(pools, sizes, slots, distances):
    """Pools (q, c) as slots (q, k) int32 and distances (q, k) float32, k >= c; -1 and inf beyond their sizes."""
    for query in range(pools.shape[0]):
        unpack(pools[query], sizes[query], slots[query], distances[query])


@jit
def pack_pools(slots, distances, pools, sizes):
    """The reverse of `unpack_pools`: pools (q, k) and sizes (q,) of results (q, k), ascending, that end in slots -1."""
    for query in range(slots.shape[0]):
        size = 0
        while size < slots.shape[1] and slots[query, size] >= 0:
            pools[query, size] = make_key(distances[query, size], slots[query, size])
            size += 1
        sizes[query] = size


@jit
def scan_radius(queries, query, rows, start, metric, offset, factors, mask, labels, windows, radius, slots, distances):
    """Rows from `start` on with distance <= radius, until the outputs are full.

    Returns (next row, count): the scan is over when the next row is the number of rows.
    """
    count = 0
    dim, scaled = rows.shape[1], factors.shape[0] > 0
    vector = pointer(queries, query * dim)
    for row in range(start, rows.shape[0]):
        factor = factors[row] if scaled else np.float32(1.0)
        distance = row_distance(vector, pointer(rows, row * dim), dim, metric, offset, factor)
        if distance <= radius and passes(query, row, mask, labels, windows):
            if count == slots.shape[0]:
                return row, count
            slots[count] = row
            distances[count] = distance
            count += 1
    return rows.shape[0], count
