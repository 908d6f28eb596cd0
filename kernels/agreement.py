"""How much sketches of candidates agree."""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import pointer, prefetch

# A match is a number: query, how many values differ, slot; so that numbers in order are matches in order.
SLOT_BITS, COUNT_BITS = 31, 17
_SLOTS, _COUNT_AT, _QUERY_AT = np.uint64((1 << SLOT_BITS) - 1), np.uint64(SLOT_BITS), np.uint64(SLOT_BITS + COUNT_BITS)
_WORD = np.uint64(32)
_AHEAD = 4  # candidates


@jit_inline
def agreement(x, y, width, packed, fields):
    """How many values of two sketches agree, given as pointers to `width` elements.

    fields: pointer to how many values in a byte of 256 are 0, for values packed into bytes.
    """
    total = np.int32(0)
    if packed:
        for i in range(width):
            total += np.int32(fields[np.int64(x[i] ^ y[i])])
    else:
        for i in range(width):
            total += np.int32(x[i] == y[i])
    return total


@jit
def rank_candidates(entries, first, last, live, queries, sketches, fields, k, least, out):
    """Matches among candidates, in the order of the candidates; returns how many.

    entries (c,) uint64, ascending: ``query << 32 | slot``, of which first to last are looked at and repetitions
    ignored; live (n,) uint8, or empty: slots that may match; queries (q, w) and sketches (n, w), of one dtype: to be
    compared if `least`, the number of values that must agree, is above 0; k: values of a sketch; fields (256,) uint8 or
    empty: see `agreement`; out (c,) uint64: numbers of matches are written from `first` on.
    """
    width, packed = sketches.shape[1], fields.shape[0] > 0
    table, found = pointer(fields, 0), first
    # Values that are none, behind the last one in its byte, are 0 in all sketches.
    padding = np.int32(width * fields[0] - k) if packed else np.int32(0)
    for i in range(first, last):
        entry = entries[i]
        if i > 0 and entries[i - 1] == entry:
            continue
        slot = np.int64(entry & _SLOTS)
        if live.shape[0] > 0 and live[slot] == 0:
            continue
        number = ((entry >> _WORD) << _QUERY_AT) | np.uint64(slot)
        if least > 0:
            if i + _AHEAD < last:
                prefetch(pointer(sketches, np.int64(entries[i + _AHEAD] & _SLOTS) * width))
            query = pointer(queries, np.int64(entry >> _WORD) * width)
            agree = agreement(query, pointer(sketches, slot * width), width, packed, table) - padding
            if agree < least:
                continue
            number |= np.uint64(k - agree) << _COUNT_AT
        out[found] = number
        found += 1
    return found - first


@jit_inline
def _sort(numbers, count):
    """Sort a few numbers, given as a pointer."""
    for i in range(1, count):
        number, j = numbers[i], i
        while j > 0 and numbers[j - 1] > number:
            numbers[j] = numbers[j - 1]
            j -= 1
        numbers[j] = number


@jit
def match_one(entries, size, live, query, sketches, k, least, ids, estimates, out_ids, out_similarities):
    """What `rank_candidates` finds for one query, as ids and similarities; returns how many.

    entries (c,) uint64: up to `size` slots, in any order and repeated, overwritten; live, k and least as there; query
    (1, k) and sketches (n, k) of one dtype, a value in each element; ids (n,) int64 of slots; estimates (k + 1,)
    float64 by the values that differ; out_ids (c,) int64, out_similarities (c,) float32, NaN where least = 0.
    """
    numbers, own = pointer(entries, 0), pointer(query, 0)
    _sort(numbers, size)
    found, before = 0, _SLOTS + np.uint64(1)
    for i in range(size):
        number = numbers[i]
        slot = np.int64(number)
        if number == before or (live.shape[0] > 0 and live[slot] == 0):
            continue
        before = number
        if least > 0:
            agree = agreement(own, pointer(sketches, slot * k), k, False, pointer(live, 0))
            if agree < least:
                continue
            number |= np.uint64(k - agree) << _COUNT_AT
        numbers[found] = number
        found += 1
    if least > 0:
        _sort(numbers, found)
    for i in range(found):
        out_ids[i] = ids[np.int64(numbers[i] & _SLOTS)]
        differ = np.int64(numbers[i] >> _COUNT_AT)
        out_similarities[i] = estimates[differ] if least > 0 else np.nan
    return found


@jit
def count_agreement(sketches, left, right, bands, rows, agreeing, shared):
    """How many values, and how many whole bands, two sketches agree on.

    sketches (n, k) uint16; left, right (p,) int64: rows of sketches to be compared; agreeing, shared (p,) int64: values
    that agree out of k, and bands of the first ``bands * rows`` values.
    """
    width = sketches.shape[1]
    for i in range(left.shape[0]):
        x, y = pointer(sketches, left[i] * width), pointer(sketches, right[i] * width)
        total = np.int32(0)
        for j in range(width):
            total += np.int32(x[j] == y[j])
        whole = 0
        for band in range(bands):
            j, end = band * rows, (band + 1) * rows
            while j < end and x[j] == y[j]:
                j += 1
            whole += j == end
        agreeing[i] = total
        shared[i] = whole
