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
