"""Exact scans of binary codes by Hamming distance.

Codes are rows of uint64 words. 64 rows at a time are transposed into a block, so that each vector instruction counts
bits of eight rows and no sum within a register is needed; a block of some dozen kilobytes serves all queries of a
batch before the next one is read. Candidates are keys ``distance << 32 | slot``: ties go to the lower slot.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.scan import passes
from nearhash.kernels.select import keep_least
from nearhash.kernels.simd import greatest_key, offset, pointer, prefetch
from nearhash.kernels.simd_hamming import (
    ROWS,
    hamming,
    hamming_block,
    hamming_rows,
    hamming_rows4,
    lowest_bit,
    transpose_rows,
)

BLOCK_BYTES = 1 << 15  # of transposed codes: they stay in the first-level cache

_S32, _LOW32, _ONE, _ALL = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
_AHEAD = 8  # random rows are asked for this many before they are measured


def block_words(words: int) -> int:
    """Size in uint64 of the scratch memory of a scan of codes of so many words."""
    groups = max(1, BLOCK_BYTES // (8 * ROWS * words))
    return groups * ROWS * words


def pool_capacity(k: int) -> int:
    """Keys of the pool of a query. Selection costs as much for few as for many; half of a pool is new each time."""
    return k + max(k, ROWS)


@jit_inline
def make_key(distance, slot):
    return (np.uint64(distance) << _S32) | np.uint64(slot)


@jit_inline
def _load_block(rows, words, start, stop, block):
    """Transpose rows `start` to `stop` into groups of (words, ROWS) at the pointer `block`; returns their number."""
    groups = (stop - start + ROWS - 1) // ROWS
    for group in range(groups):
        first = start + group * ROWS
        target = group * ROWS * words
        if first + ROWS <= stop:
            transpose_rows(pointer(rows, first * words), words, pointer(block, target))
        else:  # the caller masks out what is beyond the rows; zeros keep the memory defined
            for i in range(ROWS):
                for word in range(words):
                    value = rows[first + i, word] if first + i < stop else np.uint64(0)
                    block[target + word * ROWS + i] = value
    return groups


@jit_inline
def _valid(first, stop):
    """Mask of the rows of a group from `first` on that come before `stop`."""
    return _ALL if stop - first >= ROWS else (_ONE << np.uint64(stop - first)) - _ONE


@jit
def scan_codes(queries, rows, first, last, k, mask, labels, windows, block, keys, sizes, bounds):
    """Offer rows `first` to `last` to the pools of all queries.

    queries (q, w) and rows (n, w) uint64; mask, labels, windows: filter, see `scan.passes`; block (block_words(w),)
    uint64 scratch. keys (q, pool_capacity(k)) uint64, the first sizes (q,) int64 of each row, and bounds (q,) int64:
    rows at that distance or farther cannot be among the k nearest. Pools may hold only slots below `first`.
    """
    words, capacity = rows.shape[1], keys.shape[1]
    out = np.empty(ROWS, np.uint64)
    distances = pointer(out, 0)
    step = block.shape[0] // words
    # Not worth transposing for one query; and a row of one word is its own transpose.
    as_stored = words == 1 or queries.shape[0] == 1
    for start in range(first, last, step):
        stop = min(start + step, last)
        groups = (stop - start + ROWS - 1) // ROWS
        if not as_stored or stop - start < step:
            _load_block(rows, words, start, stop, block)
        for query in range(queries.shape[0]):
            code, bound, size = pointer(queries, query * words), bounds[query], sizes[query]
            pool = pointer(keys, query * capacity)
            for group in range(groups):
                from_row = start + group * ROWS
                if not as_stored or stop - start < step:
                    near = hamming_block(code, pointer(block, group * ROWS * words), words, bound, distances)
                elif words == 1:
                    near = hamming_block(code, pointer(rows, from_row), words, bound, distances)
                elif words == 4:
                    near = hamming_rows4(code, pointer(rows, from_row * words), bound, distances)
                else:
                    near = hamming_rows(code, pointer(rows, from_row * words), words, bound, distances)
                if near == 0:
                    continue
                near &= _valid(from_row, stop)
                while near != 0:
                    bit = lowest_bit(near)
                    near &= near - _ONE
                    distance, row = np.int64(distances[bit]), from_row + bit
                    if distance < bound and passes(query, row, mask, labels, windows):
                        pool[size] = make_key(distance, row)
                        size += 1
                        if size == capacity:
                            size = keep_least(pool, size, k, k)
                            # Later rows have higher slots, so at the same distance they lose.
                            bound = np.int64(greatest_key(pool, size) >> _S32)
            bounds[query], sizes[query] = bound, size
    return out[0]  # keeps `out` alive while its pointer is in use


@jit_inline
def offer_slots(code, rows, words, slots, first, last, query, mask, labels, windows, k, pool, size, capacity, bound):
    """Offer rows by slot, distinct and in any order, to one pool; code, rows, slots, pool are pointers.

    `bound`, uint64: keys from there on cannot be among the k nearest. Returns (size, bound).
    """
    for i in range(first, last):
        if i + _AHEAD < last:
            prefetch(offset(rows, np.int64(slots[i + _AHEAD]) * words))
        slot = np.int64(slots[i])
        key = make_key(hamming(code, offset(rows, slot * words), words), slot)
        if key < bound and passes(query, slot, mask, labels, windows):
            pool[size] = key
            size += 1
            if size == capacity:
                size = keep_least(pool, size, k, k)
                bound = greatest_key(pool, size)
    return size, bound


@jit
def scan_code_slots(queries, query, rows, slots, k, mask, labels, windows, keys, sizes):
    """Offer the rows named by slots (m,) int32 to the pool of one query, for filters that leave few."""
    words, capacity = rows.shape[1], keys.shape[1]
    sizes[query], _ = offer_slots(
        pointer(queries, query * words), pointer(rows, 0), words, pointer(slots, 0), 0, slots.shape[0],
        query, mask, labels, windows, k, pointer(keys, query * capacity), sizes[query], capacity, _ALL,
    )  # fmt: skip


@jit
def unpack_codes(keys, sizes, slots, distances):
    """The least of the first sizes (q,) keys, in order, as slots (q, k) int32 and distances (q, k) float32.

    -1 and inf where there are fewer than k.
    """
    k = slots.shape[1]
    for query in range(keys.shape[0]):
        best = np.sort(keys[query, : sizes[query]])
        found = min(k, best.shape[0])
        for i in range(found):
            slots[query, i] = np.int32(best[i] & _LOW32)
            distances[query, i] = np.float32(np.int64(best[i] >> _S32))
        for i in range(found, k):
            slots[query, i] = -1
            distances[query, i] = np.inf


@jit
def count_within(queries, rows, bound, mask, labels, windows, block, counts):
    """counts (q, bound) int64, zero on entry: how many rows are at each distance < bound from each query."""
    words = rows.shape[1]
    out = np.empty(ROWS, np.uint64)
    distances = pointer(out, 0)
    step = block.shape[0] // words
    for start in range(0, rows.shape[0], step):
        stop = min(start + step, rows.shape[0])
        groups = _load_block(rows, words, start, stop, block)
        for query in range(queries.shape[0]):
            code = pointer(queries, query * words)
            for group in range(groups):
                near = hamming_block(code, pointer(block, group * ROWS * words), words, bound, distances)
                from_row = start + group * ROWS
                near &= _valid(from_row, stop)
                while near != 0:
                    bit = lowest_bit(near)
                    near &= near - _ONE
                    if passes(query, from_row + bit, mask, labels, windows):
                        counts[query, np.int64(distances[bit])] += 1
    return out[0]


@jit
def place_within(queries, rows, bound, mask, labels, windows, block, places, slots, found):
    """Write what `count_within` counted: slots (total,) int32 and found (total,) float32 distances.

    places (q, bound) int64: where the rows at each distance from each query begin; they are moved on. The order is
    then by query, distance and slot, without any sorting.
    """
    words = rows.shape[1]
    out = np.empty(ROWS, np.uint64)
    distances = pointer(out, 0)
    step = block.shape[0] // words
    for start in range(0, rows.shape[0], step):
        stop = min(start + step, rows.shape[0])
        groups = _load_block(rows, words, start, stop, block)
        for query in range(queries.shape[0]):
            code = pointer(queries, query * words)
            for group in range(groups):
                near = hamming_block(code, pointer(block, group * ROWS * words), words, bound, distances)
                from_row = start + group * ROWS
                near &= _valid(from_row, stop)
                while near != 0:
                    bit = lowest_bit(near)
                    near &= near - _ONE
                    distance, row = np.int64(distances[bit]), from_row + bit
                    if passes(query, row, mask, labels, windows):
                        place = places[query, distance]
                        slots[place] = row
                        found[place] = np.float32(distance)
                        places[query, distance] = place + 1
    return out[0]
